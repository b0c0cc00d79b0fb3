//! `tx train`: fine-tunes a model; `tx eval`: judges one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::{Map, Value};
use tx_core::error::{Error, Result};
use tx_core::tokenizer::Tokenizer;
use tx_text::chat::ChatTemplate;
use tx_train::arguments::TrainingArguments;
use tx_train::checkpoint::Metrics;
use tx_train::distributed::{self, Options};
use tx_train::trainer::{DataPreparation, Head, TrainConfig, Trainer, TrainingModel, TrainingTask, find_head, head_of};

use super::Common;
use super::output::{print_json, print_line, print_table};

/// The files of a model's folder that belong to it besides its weights and its config.
const COMPANIONS: [&str; 16] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// The arguments of `tx train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A TOML or JSON file with `model`, `task`, `[data]` and `[training]`
    pub config: PathBuf,
    /// A training argument that goes before the file: `learning_rate=3e-5`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Goes on from the newest complete checkpoint in `output_dir`
    #[arg(long)]
    pub resume: bool,
}

/// The arguments of `tx eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// A folder, or a model on the Hub: `owner/name[@revision]`
    pub model: String,
    /// What the model does: causal-lm, chat, image-classification, masked-lm, question-answering, sentence-embedding,
    /// text-classification or token-classification
    #[arg(long)]
    pub task: String,
    /// The files of rows, as `[data]` of a training has them
    #[arg(long, value_name = "PATH")]
    pub data: String,
    /// An option of the data: `text_column=review`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// How many rows a batch has
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub batch_size: usize,
}

/// Whether somebody pressed Ctrl-C, or the system asked to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A model with what its data need.
struct Loaded {
    model: TrainingModel,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    head: Option<Head>,
    folder: PathBuf,
}

impl Loaded {
    /// The model of a folder; `head` says what its outputs are to mean, if that is not as its config says.
    fn new(folder: PathBuf, task: TrainingTask, common: &Common, head: Option<Head>) -> Result<Self> {
        let tokenizer = match task {
            TrainingTask::ImageClassification => None,
            _ => Some(Tokenizer::from_folder(&folder)?),
        };
        let template = match (&tokenizer, task) {
            (Some(tokenizer), TrainingTask::Chat) => Some(ChatTemplate::from_folder(&folder, tokenizer.special())?),
            _ => None,
        };
        let model = TrainingModel::from_folder(&folder, task, &common.load_options()?, head.as_ref())?;
        let head = match head {
            Some(head) => Some(head),
            None => head_of(task, model.config())?,
        };
        Ok(Self { model, tokenizer, template, head, folder })
    }

    fn data(&self, task: TrainingTask, options: &Map<String, Value>, seed: u64) -> DataPreparation<'_> {
        DataPreparation {
            task,
            head: self.head.as_ref(),
            tokenizer: self.tokenizer.as_ref(),
            template: self.template.as_ref(),
            options: options.clone(),
            seed,
            progress: true,
        }
    }
}

/// `KEY=VALUE`, taken apart.
fn pairs(set: &[String]) -> Result<Vec<(&str, &str)>> {
    let missing = |text: &str| Error::input("--set", format_args!("`{text}`"), "KEY=VALUE");
    set.iter().map(|text| text.split_once('=').ok_or_else(|| missing(text))).collect()
}

/// Runs `tx train`.
///
/// # Errors
/// Everything that the file, the data, the model and the training can report.
pub fn train(args: &TrainArgs, common: &Common) -> Result<()> {
    let mut flags = pairs(&args.set)?;
    if args.resume {
        flags.push(("resume_from_checkpoint", "true"));
    }
    let config = TrainConfig::load(&args.config, flags)?;
    let output = config.arguments.output_dir.clone();
    let seed = config.arguments.seed;
    // A second handler could only be one of this process.
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
    let ranks = distributed::connect(Options { interrupted, ..Options::default() })?;
    let is_main = ranks.is_main();
    let head = find_head(config.task, &config.train, &config.data, seed)?;
    let loaded = Loaded::new(common.folder(&config.model)?, config.task, common, head)?;
    let scratch = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    let data = loaded.data(config.task, &config.data, seed);
    let train = data.prepare(&config.train, scratch.path())?;
    let eval = config.eval.as_ref().map(|eval| data.prepare(eval, scratch.path())).transpose()?;
    let folder = loaded.folder;
    let mut trainer = Trainer::new(loaded.model, config.arguments, Some(train), eval, ranks)?
        .with_companions(move |to| companions(&folder, to))
        .until(interrupted);
    let result = trainer.train()?;
    if result.interrupted {
        trainer.finish()?;
        let step = result.global_step;
        let text = format!("stopped after step {step}; `tx train --resume` goes on from `{}`", output.display());
        return if is_main { print_line(&text) } else { Ok(()) };
    }
    if is_main {
        trainer.save_model(&output)?;
    }
    let mut metrics = result.metrics;
    if config.eval.is_some() {
        metrics.extend(trainer.evaluate()?);
    }
    trainer.finish()?;
    if is_main { print_metrics(&metrics, common) } else { Ok(()) }
}

/// Copies what belongs to a model besides its weights.
fn companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let (from, to) = (from.join(name), to.join(name));
        if from.is_file() && !to.exists() {
            fs::copy(&from, &to).map_err(Error::io(&to))?;
        }
    }
    Ok(())
}

/// Runs `tx eval`.
///
/// # Errors
/// Everything that the data and the model can report.
pub fn eval(args: &EvalArgs, common: &Common) -> Result<()> {
    let task = TrainingTask::from_name(&args.task)?;
    let mut options = Map::new();
    for (key, text) in pairs(&args.set)? {
        options.insert(key.to_owned(), serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
    }
    let loaded = Loaded::new(common.folder(&args.model)?, task, common, None)?;
    let scratch = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    let arguments = TrainingArguments {
        per_device_eval_batch_size: args.batch_size,
        disable_tqdm: true,
        ..TrainingArguments::default()
    };
    let data = loaded.data(task, &options, arguments.seed).prepare(&args.data, scratch.path())?;
    let ranks = Box::new(distributed::Single);
    let metrics = Trainer::new(loaded.model, arguments.resolved()?, None, Some(data), ranks)?.evaluate()?;
    print_metrics(&metrics, common)
}

fn print_metrics(metrics: &Metrics, common: &Common) -> Result<()> {
    if common.json {
        return print_json(metrics);
    }
    let rows: Vec<Vec<String>> =
        metrics.iter().map(|(name, value)| vec![name.clone(), format!("{value:.6}")]).collect();
    print_table(&["metric", "value"], &rows)
}
