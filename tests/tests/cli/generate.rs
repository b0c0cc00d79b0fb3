//! `tx generate` and `tx chat`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tx_core::weights::synth::Recipe;
use tx_tests::models;

use crate::program::{copy, fails, read_json, succeeds, tx, tx_with};

/// The llama of `tests/data/generation` as a folder.
pub fn language_model() -> TempDir {
    let data = Path::new("data/generation/llama");
    let folder = tempfile::tempdir().unwrap();
    Recipe::from_file(&data.join("weights.json")).unwrap().write(folder.path(), u64::MAX).unwrap();
    for file in ["config.json", "generation_config.json"] {
        fs::copy(data.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn generate_continues_as_python_does() {
    let model = language_model();
    let path = model.path().to_str().unwrap();
    let expected = fs::read(Path::new("data/generation/llama/expected.json")).unwrap();
    let calls: Vec<Value> = serde_json::from_slice(&expected).unwrap();
    let ids = |ids: &Value| -> String {
        let ids: Vec<String> = ids.as_array().unwrap().iter().map(Value::to_string).collect();
        ids.join(",")
    };
    for name in ["greedy", "beams-2"] {
        let call = calls.iter().find(|call| call["name"] == name).unwrap();
        let mut args =
            vec!["generate".to_owned(), "--json".into(), "--model".into(), path.into(), "--no-sample".into()];
        args.extend(["--input-ids".to_owned(), ids(&call["prompts"][0])]);
        for (key, value) in call["arguments"].as_object().unwrap() {
            if key != "do_sample" && !value.is_array() {
                args.extend([format!("--{}", key.replace('_', "-")), value.to_string()]);
            }
            for eos in value.as_array().into_iter().flatten() {
                args.extend(["--eos-token-id".to_owned(), eos.to_string()]);
            }
        }
        let ran = tx(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        let found: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(found["sequences"][0], call["sequences"][0], "{name}");
    }
}

#[test]
fn generate_says_what_does_not_fit() {
    let model = language_model();
    let path = model.path().to_str().unwrap();
    let missing = "/no/such/file";
    let long = vec!["1"; 129].join(",");
    let wrong: [(&[&str], &str); 17] = [
        (&["--input-ids", "1,x"], "token ids"),
        (&["--input-ids", "1,99999999"], "input_ids"),
        (&["--prompt", "text"], "tokenizer"),
        (&["--input-ids", "1", "--num-return-sequences", "3", "--no-sample"], "num_return_sequences"),
        (&["--input-ids", "1", "--min-new-tokens", "9", "--max-new-tokens", "3"], "min_new_tokens"),
        (&["--input-ids", "1", "--temperature=-1", "--sample"], "temperature"),
        (&["--input-ids", "1", "--schema", missing], missing),
        (&["--input-ids", "1", "--num-beams", "2", "--stream"], "--stream"),
        (&["--input-ids", "1", "--stream", "--json"], "--stream: given with --json"),
        (&["--input-ids", "1", "--logprobs", "2"], "--logprobs: given, expected it with --json"),
        (&["--input-ids", "1", "--temperature", "0.5"], "--temperature: given, expected it with --sample"),
        (&["--input-ids", "1", "--length-penalty", "2"], "--length-penalty: given, expected it with --num-beams"),
        (&["--input-ids", "1", "--num-beams", "2", "--assistant-model", path], "--assistant-model: given"),
        (&["--input-ids", "1", "--num-assistant-tokens", "3"], "--num-assistant-tokens: given"),
        (&["--input-ids", "1", "--negative-prompt", "x"], "--negative-prompt: given"),
        (&["--input-ids", "1", "--bad-words", "x"], "tokenizer"),
        // As long as the rotations of the model were made for, which is no limit of theirs.
        (&["--input-ids", long.as_str()], "input_ids: 129 tokens, expected at most 128"),
    ];
    for (extra, word) in wrong {
        let line = fails(&[&["generate", "--model", path], extra].concat());
        assert!(line.contains(word), "{extra:?}: {line}");
    }
    let line = fails(&["chat", "--model", path]);
    assert!(line.contains("tokenizer"), "{line}");
}

#[test]
fn generate_says_why_sequences_end_and_how_probable_they_are() {
    let model = language_model();
    let line = ["generate", "--model", model.path().to_str().unwrap(), "--json", "--input-ids", "1,5,9"];
    let run = |extra: &[&str]| -> Value { serde_json::from_str(&succeeds(&[&line[..], extra].concat())).unwrap() };
    let found = run(&["--max-new-tokens", "4", "--min-new-tokens", "4", "--logprobs", "2"]);
    assert_eq!(found["finish"], json!(["length"]), "{found}");
    let tokens = found["logprobs"][0].as_array().unwrap();
    assert_eq!(tokens.len(), 4);
    for (token, id) in tokens.iter().zip(found["sequences"][0].as_array().unwrap().iter().skip(3)) {
        assert_eq!((&token["token"], token["top"].as_array().unwrap().len()), (id, 2));
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
    let eos = found["sequences"][0][3].to_string();
    let found = run(&["--eos-token-id", eos.as_str()]);
    assert_eq!((&found["finish"], &found["logprobs"]), (&json!(["eos"]), &Value::Null));

    // Where every token is forbidden there is none to take.
    let size = read_json(&model.path().join("config.json"))["vocab_size"].as_u64().unwrap();
    let all: Vec<u64> = (0..size).collect();
    fs::write(model.path().join("generation_config.json"), json!({ "suppress_tokens": all }).to_string()).unwrap();
    for extra in [&[][..], &["--sample"], &["--num-beams", "2"]] {
        let message = fails(&[&line[..], extra].concat());
        assert!(message.starts_with("error: generation settings: no token may follow the 3 so far"), "{message}");
    }
}

/// The stories that ship with tx, which have a tokenizer, and a template that refuses a system.
fn stories() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&models().join("stories"), folder.path());
    let template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}\
                    {{ m.content }}{% endfor %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

#[test]
fn constrained_text_is_whole_or_an_error() {
    let model = stories();
    let line = ["generate", "--model", model.path().to_str().unwrap(), "--prompt", "Once", "--regex", " (yes|no)!"];
    for extra in [&["--json"][..], &["--json", "--num-beams", "3"], &["--json", "--prompt-lookup-num-tokens", "4"]] {
        let found: Value = serde_json::from_str(&succeeds(&[&line[..], extra].concat())).unwrap();
        assert_eq!(found["finish"], json!(["eos"]), "{found}");
        let text = found["text"][0].as_str().unwrap();
        assert!(["Once yes!", "Once no!"].contains(&text), "{text}");
    }
    let message = fails(&[&line[..], &["--max-new-tokens", "1"]].concat());
    assert!(message.starts_with("error: constrained text: cut by the length after 1 tokens, expected"), "{message}");
    assert!(message.contains("--max-new-tokens"), "{message}");
    let message = fails(&[&line[..], &["--min-new-tokens", "30"]].concat());
    assert!(message.starts_with("error: generation settings: no token may follow"), "{message}");
}

#[test]
fn words_may_be_forbidden_and_led_away_from() {
    let model = stories();
    let line = ["generate", "--model", model.path().to_str().unwrap(), "--no-sample", "--max-new-tokens", "12"];
    let run = |extra: &[&str]| succeeds(&[&line[..], &["--prompt", "Once upon a time"], extra].concat());
    let plain = run(&[]);
    assert!(plain.contains(','), "{plain}");
    assert_ne!(run(&["--bad-words", ","]), plain);
    let guided = run(&["--guidance-scale", "3", "--negative-prompt", "The cat was red"]);
    assert_ne!(guided, run(&["--guidance-scale", "3"]));
    assert_eq!(run(&["--prefill-chunk-size", "2"]), plain);
    let line = ["run", "text-generation", "Once", "--model", model.path().to_str().unwrap(), "--do-sample", "false"];
    let message = fails(&[&line[..], &["--temperature", "0.5"]].concat());
    assert_eq!(message, "error: --temperature: given, expected it with --do-sample true\n");
}

#[test]
fn a_chat_goes_on_after_what_it_cannot_answer() {
    let model = stories();
    let line = ["chat", "--model", model.path().to_str().unwrap(), "--no-sample", "--max-new-tokens", "8"];
    let told = b"Once upon \xff a time\n/system be kind\nHello\n/system\nOnce upon a time\n";
    let ran = tx_with(&line, told);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(0), 1), "{ran:?}");
    assert!(ran.err.contains("no system here") && ran.err.contains("/system"), "{ran:?}");
    assert!(ran.out.lines().count() >= 2, "{ran:?}");

    let long = format!("{}\nOnce upon a time\n", "time ".repeat(2000));
    let ran = tx_with(&line, long.as_bytes());
    assert_eq!((ran.code, ran.err.lines().count()), (Some(0), 1), "{ran:?}");
    assert!(ran.err.contains("the context of the model") && ran.err.contains("/reset"), "{ran:?}");
    assert!(!ran.out.trim().is_empty(), "{ran:?}");

    // Of beams too there is one answer, at its end.
    let path = model.path().join("generation_config.json");
    let mut config = read_json(&path);
    (config["num_beams"], config["num_return_sequences"]) = (json!(3), json!(2));
    fs::write(&path, config.to_string()).unwrap();
    let ran = tx_with(&line, b"Once upon a time\n");
    assert!(ran.code == Some(0) && ran.err.is_empty() && ran.out.trim().len() > 3, "{ran:?}");

    let wrong: [(&[&str], &str); 4] = [
        (&["--max-new-tokens", "0"], "max_new_tokens: 0, expected 1 to"),
        (&["--max-new-tokens", "8", "--json"], "--json: given"),
        (&["--max-new-tokens", "8", "--num-return-sequences", "3"], "--num-return-sequences: 3"),
        (&["--max-new-tokens", "8", "--top-p", "0.5", "--no-sample"], "--top-p: given"),
    ];
    for (extra, expected) in wrong {
        let message = fails(&[&line[..3], extra].concat());
        assert!(message.starts_with(&format!("error: {expected}")), "{extra:?}: {message}");
    }
}
