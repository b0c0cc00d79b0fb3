//! `tx adapter`: adapters in the weights of a model, and what an adapter is.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::registry::{LoadOptions, find_class};
use tx_core::weights::Checkpoint;
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_train::peft::{PeftConfig, summary};

use super::Common;
use super::output::{bytes, count, print_json, print_line, print_table};

/// The arguments of `tx adapter`.
#[derive(Debug, Args)]
pub struct AdapterArgs {
    #[command(subcommand)]
    command: AdapterCommand,
}

#[derive(Debug, Subcommand)]
enum AdapterCommand {
    /// Says what an adapter is
    Info(InfoArgs),
    /// Writes a model with adapters in its weights, which `--adapter` names
    Merge(MergeArgs),
}

/// The arguments of `tx adapter info`.
#[derive(Debug, Args)]
struct InfoArgs {
    /// The folder of an adapter
    folder: PathBuf,
}

/// The arguments of `tx adapter merge`.
#[derive(Debug, Args)]
struct MergeArgs {
    /// The model that the adapters are for: a folder, or a model on the Hub: `owner/name[@revision]`
    #[arg(long, short)]
    model: String,
    /// The folder to write
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// HF's name of the class [default: the first of `architectures` in config.json]
    #[arg(long)]
    class: Option<String>,
}

/// The keys that are shown, if they have a value.
const SHOWN: [&str; 17] = [
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "bias",
    "target_modules",
    "feedforward_modules",
    "exclude_modules",
    "modules_to_save",
    "rank_pattern",
    "num_virtual_tokens",
    "token_dim",
    "num_layers",
];

/// Files of a model's folder that are written anew, or belong to its weights in another form.
const NOT_COPIED: [&str; 8] = [".safetensors", ".bin", ".pt", ".pth", ".bpk", ".h5", ".msgpack", ".index.json"];
/// The largest file that is copied, in bytes: tokenizers, templates and configs are smaller.
const MAX_COPIED: u64 = 256 << 20;

/// Runs the command.
///
/// # Errors
/// [`Error::Input`] without an adapter to merge; everything that loading, merging and writing can report.
pub fn run(args: &AdapterArgs, common: &Common) -> Result<()> {
    match &args.command {
        AdapterCommand::Info(args) => info(&args.folder, common),
        AdapterCommand::Merge(args) => merge(args, common),
    }
}

fn info(folder: &Path, common: &Common) -> Result<()> {
    let config = PeftConfig::from_folder(folder)?;
    let [tensors, parameters, size] = summary(folder)?;
    if common.json {
        let config: Value = serde_json::from_str(&config.to_json()).unwrap_or_default();
        let weights = json!({ "tensors": tensors, "parameters": parameters, "bytes": size });
        return print_json(&json!({ "folder": folder.to_string_lossy(), "config": config, "weights": weights }));
    }
    let shown = |key: &str| {
        let text = match config.get(key)? {
            Value::Bool(false) => return None,
            Value::String(text) => text.clone(),
            Value::Array(list) if list.is_empty() => return None,
            Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
            Value::Object(keys) if keys.is_empty() => return None,
            other => other.to_string(),
        };
        Some(vec![key.to_owned(), text])
    };
    let mut rows: Vec<Vec<String>> = SHOWN.into_iter().filter_map(shown).collect();
    rows.push(vec!["tensors".into(), tensors.to_string()]);
    rows.push(vec!["parameters".into(), count(parameters)]);
    rows.push(vec!["size".into(), bytes(size)]);
    print_table(&[], &rows)
}

/// A value without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn merge(args: &MergeArgs, common: &Common) -> Result<()> {
    if common.adapter.is_empty() {
        return Err(Error::input("--adapter", "none", "the folder of at least one adapter"));
    }
    let folder = common.folder(&args.model)?;
    if args.output.exists() && same(&folder, &args.output) {
        let found = format_args!("`{}`, the folder of the model", args.output.display());
        return Err(Error::input("--output", found, "another folder"));
    }
    let config = Config::from_folder(&folder)?;
    let classes = tx::classes();
    let class = find_class(&classes, &config, args.class.as_deref())?;
    let options = LoadOptions { attach: Some(common.adapters(true)), ..common.load_options()? };
    let model = class.load_named(config, &Checkpoint::from_folder(&folder)?, &options)?;
    model.save_pretrained(&args.output, MAX_SHARD_SIZE)?;
    copy_companions(&folder, &args.output)?;
    if common.json {
        return print_json(&json!({ "class": model.class, "output": args.output.to_string_lossy() }));
    }
    print_line(&args.output.display().to_string())
}

/// Whether two paths are of one folder.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Copies the tokenizer and whatever else belongs to a model, but for its weights and its config.
fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io(from))? {
        let entry = entry.map_err(Error::io(from))?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_weights = NOT_COPIED.iter().any(|end| name.ends_with(end));
        // What a link leads to: models in the cache of the Hub are links.
        let size = fs::metadata(&path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
        if name.starts_with('.') || name == "config.json" || is_weights || size.is_none_or(|size| size > MAX_COPIED) {
            continue;
        }
        let target = to.join(&name);
        fs::copy(&path, &target).map_err(Error::io(&target))?;
    }
    Ok(())
}
