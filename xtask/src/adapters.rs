//! Adapters that tx trains, and what models compute with them, for Python's peft to open.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tx::burn::tensor::TensorData;
use tx_core::config::Config;
use tx_core::registry::{LoadOptions, find_class};
use tx_core::task::{NamedTensors, Record};
use tx_core::weights::Checkpoint;
use tx_core::weights::save::{MAX_SHARD_SIZE, write_file};
use tx_core::weights::synth::Recipe;
use tx_train::peft::{AdapterFolder, AttachAdapters};
use tx_train::trainer::{Setting, TrainConfig};

use crate::root;

/// The texts of the input, and the tokens of each.
const ROWS: usize = 2;
const TOKENS: usize = 7;
/// Rows to train on.
const EXAMPLES: usize = 32;
/// Updates, and a rate so high that they change something.
const UPDATES: usize = 8;
const RATE: f64 = 0.05;
/// The files of a model besides its weights.
const FILES: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];

/// A model to put adapters on: where it is described, what it does, and the tokens of its second text that are padding.
struct Base {
    name: &'static str,
    source: &'static str,
    task: &'static str,
    padding: usize,
}

const BASES: [Base; 2] = [
    // Scores of padding have no meaning, and need not be the same.
    Base { name: "llama", source: "models/stories", task: "causal-lm", padding: 0 },
    Base { name: "bert", source: "tests/data/pipelines/text-classification", task: "text-classification", padding: 2 },
];

/// A table `[peft]` for each method, by a name.
fn methods() -> [(&'static str, Value); 7] {
    let prompt = json!({ "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4 });
    let prefix = json!({ "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4 });
    let with = |table: &Value, keys: Value| {
        let tables = [table, &keys].into_iter().filter_map(Value::as_object);
        Value::Object(tables.flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
    };
    let text = json!({ "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "the film was great" });
    [
        ("lora", json!({ "peft_type": "LORA", "r": 4 })),
        ("dora", json!({ "peft_type": "LORA", "r": 4, "use_dora": true })),
        ("ia3", json!({ "peft_type": "IA3" })),
        ("prompt-tuning", prompt.clone()),
        ("prompt-tuning-text", with(&prompt, text)),
        ("prefix-tuning", prefix.clone()),
        ("prefix-tuning-projection", with(&prefix, json!({ "prefix_projection": true }))),
    ]
}

/// Trains an adapter of each method on each model. The folders in `out` that it returns are what
/// `peft_adapters.py check` takes.
pub fn train(out: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for base in &BASES {
        let model = out.join(base.name);
        let source = root().join(base.source);
        fs::create_dir_all(&model)?;
        for name in FILES {
            let file = source.join(name);
            fs::copy(&file, model.join(name)).with_context(|| file.display().to_string())?;
        }
        Recipe::from_file(&source.join("weights.json"))?.write(&model, MAX_SHARD_SIZE)?;
        for (method, peft) in methods() {
            let folder = out.join(format!("{}-{method}", base.name));
            adapter(base, &model, &peft, &folder).with_context(|| format!("{method} on {}", base.name))?;
            outputs(base, &model, &folder).with_context(|| folder.display().to_string())?;
            folders.push(folder);
        }
    }
    Ok(folders)
}

/// Trains one as `tx train` does.
fn adapter(base: &Base, model: &Path, peft: &Value, folder: &Path) -> Result<()> {
    let (rows, file) = (folder.with_extension("jsonl"), folder.with_extension("json"));
    let words = ["the film", "was", "a great", "day", "in", "london", "and", "nobody", "cried"];
    let mut lines = String::new();
    for row in 0..EXAMPLES {
        let text: Vec<&str> = (0..2 + row * 5 % 11).map(|i| words[(row + i * i) % words.len()]).collect();
        let label = ["anger", "joy", "fear", "surprise"][row % 4];
        writeln!(lines, "{}", json!({ "text": text.join(" "), "label": label }))?;
    }
    fs::write(&rows, lines)?;
    let mut data = json!({ "train": rows });
    if base.task == "causal-lm" {
        data["grouping"] = "lines".into();
    }
    let keys = json!({
        "model": model,
        "task": base.task,
        "data": data,
        "peft": peft,
        "training": {
            "output_dir": folder,
            "max_steps": UPDATES,
            "learning_rate": RATE,
            "per_device_train_batch_size": 4,
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": true,
        },
    });
    fs::write(&file, keys.to_string())?;
    let setting = Setting {
        folder: model.to_path_buf(),
        load: LoadOptions::default(),
        scratch: std::env::temp_dir(),
        progress: false,
    };
    let mut trainer = TrainConfig::load(&file, iter::empty())?.trainer(&setting)?;
    trainer.train()?;
    trainer.save_model(folder)?;
    Ok(())
}

/// Writes what the model computes with the adapter of a folder into that folder, and of what.
fn outputs(base: &Base, model: &Path, folder: &Path) -> Result<()> {
    let config = Config::from_folder(model)?;
    let vocabulary = config.get("vocab_size").and_then(Value::as_i64).context("vocab_size")?;
    // The first tokens are special ones.
    let ids = (0..(ROWS * TOKENS) as i64).map(|place| 5 + place * 37 % (vocabulary - 5)).collect();
    let mut mask = vec![1i64; ROWS * TOKENS];
    mask[ROWS * TOKENS - base.padding..].fill(0);
    let rows = |values: Vec<i64>| TensorData::new(values, [ROWS, TOKENS]);
    let inputs = NamedTensors::from([("input_ids".into(), rows(ids)), ("attention_mask".into(), rows(mask))]);

    let folders = vec![AdapterFolder { folder: folder.to_path_buf(), weight: None }];
    let attach = AttachAdapters { folders, merge: false };
    let options = LoadOptions { attach: Some(Arc::new(attach)), ..LoadOptions::default() };
    let class = find_class(&tx::classes(), &config, None)?;
    let adapted = class.load_named(config, &Checkpoint::from_folder(model)?, &options)?;
    let outputs = adapted.forward_named(&inputs, Record::none())?;
    let named = |part: &str, tensors: NamedTensors| -> BTreeMap<String, TensorData> {
        tensors.into_iter().map(|(name, data)| (format!("{part}.{name}"), data)).collect()
    };
    let mut arrays = named("inputs", inputs);
    arrays.extend(named("outputs", outputs));
    write_file(&folder.join("outputs.safetensors"), arrays)?;
    Ok(())
}
