//! What Python's `generate` made of tiny models, and its processors of scores: `tests/data/generation`.
//!
//! `cargo test -p tx-tests --test generation -- llama/beams` runs what matches. The sequences have to be equal token by
//! token; and where decoding is greedy, other ways to the same tokens are tried as well.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tx_core::config::Config;
use tx_core::registry::{Auto, LoadOptions};
use tx_core::task::CausalLm;
use tx_core::weights::synth::Recipe;
use tx_generate::{Finish, Generated, GenerationConfig, Generator, Hooks, processors};
use tx_tests::folders;

fn main() {
    let mut arguments = Arguments::from_args();
    // Each call runs burn's own threads.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, trials().unwrap_or_else(|e| vec![Trial::test("calls", move || Err(e.into()))]))
        .exit();
}

/// One call of `generate`, and what came out.
#[derive(Debug, Clone, Deserialize)]
struct Call {
    name: String,
    prompts: Vec<Vec<u32>>,
    negative_prompts: Option<Vec<Vec<u32>>>,
    arguments: Map<String, Value>,
    /// Without padding.
    sequences: Vec<Vec<u32>>,
    /// Of beams.
    scores: Option<Vec<f64>>,
    /// Of new tokens, by the model's own scores.
    logprobs: Option<Vec<Vec<f64>>>,
}

/// What the processors of a config made of scores.
#[derive(Debug, Deserialize)]
struct Processed {
    config: Map<String, Value>,
    ids: Vec<u32>,
    prompt: usize,
    scores: Vec<Value>,
    expected: Vec<Value>,
}

fn data() -> PathBuf {
    PathBuf::from("data/generation")
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for folder in folders(&data())? {
        let model = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in ["expected.json", "expected-groups.json"] {
            let path = folder.join(file);
            if !path.is_file() {
                continue;
            }
            for call in read::<Vec<Call>>(&path)? {
                let name = format!("{model}/{}", call.name);
                let folder = folder.clone();
                trials.push(Trial::test(name, move || recorded(&folder, &call).map_err(failed)));
            }
        }
    }
    for (number, entry) in read::<Vec<Processed>>(&data().join("processors.json"))?.into_iter().enumerate() {
        let common = ["eos_token_id", "pad_token_id", "max_new_tokens"];
        let keys: Vec<&str> = entry.config.keys().map(String::as_str).filter(|key| !common.contains(key)).collect();
        let name = format!("processors/{number}/{}", keys.join("+"));
        trials.push(Trial::test(name, move || processed(&entry).map_err(failed)));
    }
    Ok(trials)
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

fn load(folder: &Path) -> Result<Auto<dyn CausalLm>> {
    let config = Config::from_folder(folder)?;
    let model_type = config.model_type()?.to_owned();
    let entry = tx_text::models::CAUSAL_LM.iter().find(|entry| entry.model_type == model_type);
    let entry = entry.with_context(|| format!("`{model_type}` is in no table"))?;
    let path = folder.join("weights.json");
    let checkpoint = Recipe::from_file(&path)?.checkpoint(&path)?;
    Ok(entry.load(config, &checkpoint, &LoadOptions::default())?)
}

/// A config with these keys.
fn settings(keys: &Map<String, Value>) -> Result<GenerationConfig> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("generation_config.json");
    std::fs::write(&path, serde_json::to_string(keys)?)?;
    let config = GenerationConfig::from_file(&path)?;
    config.validate()?;
    Ok(config)
}

fn ids(generated: &Generated) -> Vec<Vec<u32>> {
    generated.sequences.iter().map(|sequence| sequence.ids.clone()).collect()
}

fn same(what: &str, found: &[Vec<u32>], expected: &[Vec<u32>]) -> Result<()> {
    ensure!(found.len() == expected.len(), "{what}: {} sequences, expected {}", found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        let first = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
        ensure!(found == expected, "{what}, sequence {row}, from token {first}: {found:?}, expected {expected:?}");
    }
    Ok(())
}

fn close(what: &str, found: f64, expected: f64, tolerance: f64) -> Result<()> {
    let equal = found == expected || (found - expected).abs() <= tolerance * (1.0 + expected.abs());
    ensure!(equal, "{what}: {found}, expected {expected}");
    Ok(())
}

fn recorded(folder: &Path, call: &Call) -> Result<()> {
    let model = load(folder)?;
    let generator = Generator::from_auto(&model);
    let mut keys: Map<String, Value> = read(&folder.join("generation_config.json"))?;
    keys.extend(call.arguments.clone());
    let config = settings(&keys)?;
    let hooks = || Hooks { negative_prompts: call.negative_prompts.clone(), logprobs: Some(2), ..Hooks::default() };

    let generated = generator.generate(&call.prompts, &config, &mut hooks())?;
    same("all prompts", &ids(&generated), &call.sequences)?;
    for (sequence, expected) in generated.sequences.iter().zip(&call.sequences) {
        let ends = expected.last().is_some_and(|id| config.eos_token_id.contains(id));
        let finish = if ends { Finish::Eos } else { Finish::Length };
        ensure!(sequence.finish == finish, "ended by {:?}, expected {finish:?}", sequence.finish);
    }
    for (sequence, &expected) in generated.sequences.iter().zip(call.scores.iter().flatten()) {
        let score = sequence.score.context("a sequence has no score")?;
        close("score", f64::from(score), expected, 1e-5)?;
    }
    for (sequence, expected) in generated.sequences.iter().zip(call.logprobs.iter().flatten()) {
        ensure!(sequence.logprobs.len() == expected.len(), "{} log-probabilities", sequence.logprobs.len());
        for (logprob, &expected) in sequence.logprobs.iter().zip(expected) {
            close("log-probability", f64::from(logprob.logprob), expected, 5e-5)?;
        }
    }

    let each = config.num_return_sequences;
    if call.prompts.len() > 1 && call.negative_prompts.is_none() {
        for (prompt, expected) in call.prompts.iter().zip(call.sequences.chunks(each)) {
            let alone = generator.generate(std::slice::from_ref(prompt), &config, &mut hooks())?;
            same("a prompt alone", &ids(&alone), expected)?;
        }
    }
    let chunks = GenerationConfig { prefill_chunk_size: Some(3), ..config.clone() };
    same("prompts in pieces", &ids(&generator.generate(&call.prompts, &chunks, &mut hooks())?), &call.sequences)?;
    if config.num_beams > 1 || call.arguments.contains_key("guidance_scale") {
        return Ok(());
    }
    let lookup = GenerationConfig { prompt_lookup_num_tokens: Some(4), ..config.clone() };
    same("prompt lookup", &ids(&generator.generate(&call.prompts, &lookup, &mut hooks())?), &call.sequences)?;
    let assisted = Generator::from_auto(&model).with_assistant(model.model.as_ref(), model.limits)?;
    same("an assistant", &ids(&assisted.generate(&call.prompts, &config, &mut hooks())?), &call.sequences)?;
    let mut session = generator.session();
    for (prompt, expected) in call.prompts.iter().zip(&call.sequences) {
        // The second time the prompt is known.
        for what in ["a session", "a session again"] {
            let generated = session.generate(prompt, &config, &mut hooks())?;
            same(what, &ids(&generated), std::slice::from_ref(expected))?;
        }
    }
    Ok(())
}

/// A number, or the name of one that JSON does not have.
fn number(value: &Value) -> Result<f32> {
    match value {
        Value::String(name) => name.parse().with_context(|| format!("`{name}` is no number")),
        value => value.as_f64().map(|value| value as f32).with_context(|| format!("`{value}` is no number")),
    }
}

fn processed(entry: &Processed) -> Result<()> {
    let config = settings(&entry.config)?;
    let mut scores: Vec<f32> = entry.scores.iter().map(number).collect::<Result<_>>()?;
    let expected: Vec<f32> = entry.expected.iter().map(number).collect::<Result<_>>()?;
    for processor in &mut processors(&config, config.do_sample) {
        processor.process(&entry.ids, entry.prompt, &mut scores);
    }
    ensure!(scores.len() == expected.len(), "{} scores, expected {}", scores.len(), expected.len());
    for (token, (&found, &expected)) in scores.iter().zip(&expected).enumerate() {
        close(&format!("token {token}"), f64::from(found), f64::from(expected), 1e-5)?;
    }
    Ok(())
}
