//! The real `stories260k`, a LLaMA of 260 thousand parameters, through the real program and the library.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tx::registry::{LoadOptions, from_folder};
use tx::task::CausalLm;
use tx::tokenizer::{EncodeOptions, Text};
use tx::{Auto, AutoTokenizer, GenerationConfig, Generator};
use tx_generate::Hooks;

/// `TX_STORIES` is the model's folder.
fn folder() -> Result<PathBuf> {
    Ok(PathBuf::from(std::env::var_os("TX_STORIES").context("TX_STORIES is not set")?))
}

fn generate(args: &[&str]) -> Result<String> {
    let output = Command::new(tx_tests::tx()?).arg("generate").arg("--model").arg(folder()?).args(args).output()?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What Python's `generate` continues greedily.
const STORY: &str = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, \
    she saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the \
    park.\" Lily was sad and didn't know what to do. She said, \"I want to play with your ball, but I can't find it.\"";

#[test]
#[ignore = "needs TX_STORIES, the folder of stories260k"]
fn the_greedy_continuation_is_that_of_python() -> Result<()> {
    let prompt = "Once upon a time, there was a little girl";
    for stream in [&[][..], &["--stream"]] {
        let args = ["--prompt", prompt, "--no-sample", "--max-new-tokens", "130"];
        let text = generate(&[&args[..], stream].concat())?;
        ensure!(text.starts_with(STORY), "{text}");
    }
    Ok(())
}

#[test]
#[ignore = "needs TX_STORIES, the folder of stories260k"]
fn the_pipeline_gives_the_json_of_python() -> Result<()> {
    let run = |args: &[&str]| -> Result<Value> {
        let mut command = Command::new(tx_tests::tx()?);
        let output =
            command.args(["run", "text-generation", "--json", "--model"]).arg(folder()?).args(args).output()?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let one = run(&["Once upon a time", "--max-new-tokens", "20", "--do-sample", "false"])?;
    let story = "Once upon a time, there was a little girl named Lily. She loved to play outsid";
    ensure!(one == json!([{ "generated_text": story }]), "{one}");
    let beams = ["--max-new-tokens", "10", "--num-beams", "2", "--return-full-text", "false"];
    let two = run(&[&["Once upon a time", "The cat"], &beams[..]].concat())?;
    let expected = json!([
        [{ "generated_text": ", there was a little girl named Lily" }],
        [{ "generated_text": " and a little boy were playing" }],
    ]);
    ensure!(two == expected, "{two}");
    Ok(())
}

#[test]
#[ignore = "needs TX_STORIES, the folder of stories260k"]
fn a_chat_goes_on_and_heeds_stop_strings() -> Result<()> {
    let model = tempfile::tempdir()?;
    for entry in std::fs::read_dir(folder()?)? {
        let path = entry?.path();
        std::fs::write(model.path().join(path.file_name().context("a name")?), std::fs::read(&path)?)?;
    }
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    std::fs::write(model.path().join("chat_template.jinja"), template)?;
    let chat = |lines: &str, more: &[&str]| -> Result<String> {
        let mut command = Command::new(tx_tests::tx()?);
        command.args(["chat", "--no-sample", "--max-new-tokens", "40", "--model"]).arg(model.path()).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("stdin")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let prompt = "Once upon a time, there was a little girl";
    let whole = chat(&format!("{prompt}\n/reset\n{prompt}\n"), &[])?;
    let answers: Vec<&str> = whole.lines().collect();
    ensure!(answers.len() == 2 && answers[0] == answers[1] && answers[0].contains("Lily. She loved"), "{whole}");
    let stopped = chat(&format!("{prompt}\n"), &["--stop", "Lily"])?;
    ensure!(stopped.trim_end().ends_with("Lily"), "{stopped}");
    Ok(())
}

#[test]
#[ignore = "needs TX_STORIES, the folder of stories260k"]
fn what_a_schema_constrains_always_parses() -> Result<()> {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "age": { "type": "integer", "minimum": 0, "maximum": 99 },
            "friends": { "type": "array", "items": { "enum": ["Tim", "Lily"] }, "maxItems": 2 },
        },
        "required": ["name", "age", "friends"],
        "additionalProperties": false,
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), schema.to_string())?;
    let path = file.path().to_str().context("a path")?;
    for seed in 0..25 {
        let seed = seed.to_string();
        let ways: [&[&str]; 2] = [&["--sample", "--seed", &seed, "--temperature", "1.5"], &["--num-beams", "3"]];
        for way in ways {
            let args = ["--prompt", "Tim", "--schema", path, "--max-new-tokens", "400"];
            let text = generate(&[&args[..], way].concat())?;
            let value: Value = serde_json::from_str(text.trim_start_matches("Tim")).with_context(|| text.clone())?;
            ensure!(value["name"].is_string() && value["age"].as_u64().is_some_and(|age| age < 100), "{text}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs TX_STORIES, the folder of stories260k"]
fn a_type_is_generated() -> Result<()> {
    let folder = folder()?;
    let model: Auto<dyn CausalLm> =
        from_folder(tx::models::CAUSAL_LM, &tx::classes(), &folder, &LoadOptions::default())?;
    let tokenizer = AutoTokenizer::from_pretrained(folder.to_str().context("a path")?)?;
    let prompt = tokenizer.encode(&Text::from("Tim"), &EncodeOptions::default())?.remove(0).ids;
    for seed in 0..20 {
        let mut config = GenerationConfig::from_folder(&folder)?;
        (config.do_sample, config.seed, config.max_new_tokens) = (true, Some(seed), Some(200));
        let (_, number, word): (bool, u8, Option<char>) =
            Generator::from_auto(&model).generate_as(&tokenizer, &prompt, &config)?;
        // That they are there at all is what their types say.
        ensure!(u32::from(number) < 256 && word.is_none_or(|c| c.len_utf8() > 0));
    }
    Ok(())
}

#[test]
#[ignore = "needs TX_STORIES, the folder of stories260k"]
fn five_hundred_drawn_continuations() -> Result<()> {
    let folder = folder()?;
    let options = LoadOptions::default();
    let model: Auto<dyn CausalLm> = from_folder(tx::models::CAUSAL_LM, &tx::classes(), &folder, &options)?;
    let tokenizer = AutoTokenizer::from_pretrained(folder.to_str().context("a path")?)?;
    let prompt = tokenizer.encode(&Text::from("One day"), &EncodeOptions::default())?.remove(0).ids;
    let generator = Generator::from_auto(&model);
    for seed in 0..500 {
        let config = GenerationConfig {
            do_sample: true,
            seed: Some(seed),
            max_new_tokens: Some(1 + seed as usize % 40),
            temperature: 0.2 + seed as f64 * 0.01,
            top_k: seed as usize % 60,
            top_p: 0.5 + 0.5 * (seed % 2) as f64,
            repetition_penalty: 1.0 + (seed % 3) as f64 * 0.2,
            ..GenerationConfig::default()
        };
        let generated = generator.generate(std::slice::from_ref(&prompt), &config, &mut Hooks::default())?;
        let again = generator.generate(std::slice::from_ref(&prompt), &config, &mut Hooks::default())?;
        ensure!(generated.sequences == again.sequences, "seed {seed} draws differently the second time");
        tokenizer.decode(&generated.sequences[0].ids, true)?;
    }
    Ok(())
}
