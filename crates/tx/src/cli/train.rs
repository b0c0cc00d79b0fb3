//! `tx train`: trains a model as a configuration file says; `tx eval`: judges one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Map, Value, json};
use tx_core::device;
use tx_core::error::{Error, Result};
use tx_core::registry::LoadOptions;
use tx_core::weights::save::write_atomically;
use tx_train::arguments::TrainingArguments;
use tx_train::checkpoint::Metrics;
use tx_train::data::PrepareOptions;
use tx_train::distributed::{self, Communicator, Options};
use tx_train::logging::metric_logs;
use tx_train::trainer::{
    Companions, DataOptions, ModelOptions, Part, Setting, TrainConfig, TrainOutput, Trainer, TrainingModel,
    TrainingTask,
};

use super::Common;
use super::output::{print_json, print_table};

/// The exit code of a program that was interrupted, as shells have it.
const INTERRUPTED_CODE: u8 = 130;
/// The metrics of a training and of its last evaluation, in `output_dir`.
const RESULTS: &str = "all_results.json";

/// The arguments of `tx train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A TOML or JSON file with `model`, `task`, `[data]` and `[training]`
    pub config: PathBuf,
    /// A key that goes before the file: `model=…`, `data.train=…`, `learning_rate=3e-5`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Goes on from the newest complete checkpoint in `output_dir`
    #[arg(long, conflicts_with = "resume_from_checkpoint")]
    pub resume: bool,
    /// Trains on the first N devices of the kind of `--device`, each of which takes its part of every batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub devices: usize,
    #[command(flatten)]
    pub training: TrainingFlags,
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

/// Every argument of a training as a flag.
#[derive(Debug, Clone, Default)]
pub struct TrainingFlags(Vec<(&'static str, String)>);

/// The names of the flags, in the order of the arguments.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| TrainingArguments::NAMES.iter().map(|name| name.replace('_', "-")).collect());

impl Args for TrainingFlags {
    fn augment_args(command: Command) -> Command {
        let defaults = TrainingArguments::default().to_json();
        TrainingArguments::NAMES.iter().zip(FLAGS.iter()).fold(command, |command, (&name, flag)| {
            let arg = Arg::new(name)
                .long(flag.as_str())
                .value_name("VALUE")
                .allow_negative_numbers(true)
                .help_heading("Arguments of training, as in [training]");
            // HF's name is good, too.
            let arg = if name.contains('_') { arg.alias(name) } else { arg };
            command.arg(match defaults.get(name) {
                Some(Value::Bool(_)) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg,
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for TrainingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name: &&'static str| Some((*name, matches.get_one::<String>(name)?.clone()));
        Ok(Self(TrainingArguments::NAMES.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Whether somebody pressed Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
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
pub fn train(args: &TrainArgs, common: &Common) -> Result<ExitCode> {
    let mut flags = pairs(&args.set)?;
    flags.extend(args.training.0.iter().map(|(name, text)| (*name, text.as_str())));
    if args.resume {
        flags.push(("resume_from_checkpoint", "true"));
    }
    let config = TrainConfig::load(&args.config, flags)?;
    let handler = ctrlc::set_handler(|| {
        // Twice is meant for the program: a checkpoint may take its time.
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED_CODE));
        }
        tracing::warn!("stopping with a checkpoint before the next update; press Ctrl-C again to quit at once");
    });
    if let Err(error) = handler {
        tracing::warn!("Ctrl-C ends the program without a checkpoint: {error}");
    }
    let folder = common.folder(&config.model)?;
    let load = common.load_options()?;
    let setting = |load| Setting { folder: folder.clone(), load, scratch: std::env::temp_dir(), progress: true };
    let (metrics, is_main) = if args.devices > 1 {
        if distributed::processes() > 1 {
            return Err(Error::input("--devices", args.devices, "1 in each of several processes"));
        }
        let devices = device::first(&common.device, args.devices)?;
        let mut all = distributed::on_devices(&devices, |device, ranks| {
            train_rank(&config, setting(LoadOptions { device: device.clone(), ..load.clone() }), ranks)
        })?;
        (all.swap_remove(0), true)
    } else {
        let timeout = Duration::from_secs(config.arguments.ddp_timeout);
        let ranks = distributed::connect(Options { timeout, interrupted })?;
        let is_main = ranks.is_main();
        (train_rank(&config, setting(load), ranks)?, is_main)
    };
    match metrics {
        Some(metrics) if is_main => print_metrics(&metrics, common)?,
        Some(_) => {}
        None => return Ok(ExitCode::from(INTERRUPTED_CODE)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What one rank of a training does; `None` if it was interrupted.
fn train_rank(config: &TrainConfig, setting: Setting, ranks: Box<dyn Communicator>) -> Result<Option<Metrics>> {
    let is_main = ranks.is_main();
    let setting = Setting { progress: is_main, ..setting };
    let prepared = distributed::agree(&*ranks, config.trainer(&setting))?;
    let mut trainer = prepared.with_ranks(ranks).until(interrupted);
    let output = trainer.train()?;
    if output.interrupted {
        if is_main {
            let folder = config.arguments.output_dir.display();
            tracing::warn!("stopped after step {}; `tx train --resume` goes on from `{folder}`", output.global_step);
        }
        trainer.finish()?;
        return Ok(None);
    }
    let evaluation = config.eval.is_some() || config.validation_split_percentage.is_some_and(|part| part > 0.0);
    let metrics = finish(&mut trainer, output, evaluation, is_main)?;
    trainer.finish()?;
    Ok(metrics)
}

/// Saves what was trained, and judges it; `None` if that was cut short.
fn finish(trainer: &mut Trainer, output: TrainOutput, evaluation: bool, is_main: bool) -> Result<Option<Metrics>> {
    let mut metrics = output.metrics;
    let folder = trainer.arguments().output_dir.clone();
    if is_main {
        trainer.save_model(&folder)?;
    }
    if evaluation {
        let Some(judged) = trainer.evaluate()? else { return Ok(None) };
        metrics.extend(judged);
    }
    if is_main {
        let text = format!("{:#}\n", json!(metric_logs(&metrics)));
        write_atomically(&folder.join(RESULTS), |file| file.write_all(text.as_bytes()))?;
    }
    Ok(Some(metrics))
}

/// Runs `tx eval`.
///
/// # Errors
/// Everything that the data and the model can report.
pub fn eval(args: &EvalArgs, common: &Common) -> Result<()> {
    let task = TrainingTask::from_name(&args.task)?;
    let mut keys = Map::new();
    for (key, text) in pairs(&args.set)? {
        keys.insert(key.replace('-', "_"), serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
    }
    let options = DataOptions::read(task, &keys, None)?;
    let arguments = TrainingArguments { per_device_eval_batch_size: args.batch_size, ..TrainingArguments::default() };
    let folder = common.folder(&args.model)?;
    let load = common.load_options()?;
    let companions = Companions::from_folder(&folder, task, &load)?;
    let model = TrainingModel::from_folder(&folder, task, &ModelOptions::from(load))?;
    let prepare = PrepareOptions { folder: std::env::temp_dir(), progress: true };
    let data = options.prepare(&args.data, Part::All, true, None, &model, &companions, arguments.seed, &prepare)?;
    // Nothing cuts it short.
    let metrics = Trainer::new(model, arguments, None, Some(data))?.evaluate()?.unwrap_or_default();
    print_metrics(&metrics, common)
}

fn print_metrics(metrics: &Metrics, common: &Common) -> Result<()> {
    if common.json {
        return print_json(&metric_logs(metrics));
    }
    let rows: Vec<Vec<String>> =
        metrics.iter().map(|(name, value)| vec![name.clone(), format!("{value:.6}")]).collect();
    print_table(&["metric", "value"], &rows)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TrainArgs,
    }

    #[test]
    fn arguments_of_training_are_flags_by_both_names() {
        let parse = |line: &[&str]| Line::try_parse_from(["tx"].iter().chain(line)).map(|line| line.args.training.0);
        let flags = parse(&["a.toml", "--learning-rate", "5e-5", "--max_steps", "-1", "--logging-first-step"]).unwrap();
        let expected = [("max_steps", "-1"), ("learning_rate", "5e-5"), ("logging_first_step", "true")];
        assert!(flags.iter().map(|(name, text)| (*name, text.as_str())).eq(expected), "{flags:?}");
        assert_eq!(parse(&["--logging-first-step", "a.toml", "--bf16=false"]).unwrap().len(), 2);
        assert!(parse(&["a.toml", "--learning-rat", "1"]).is_err());
        assert!(parse(&["a.toml", "--resume"]).is_ok() && parse(&["a.toml", "--resume-from-checkpoint", "a"]).is_ok());
        assert!(parse(&["a.toml", "--resume", "--resume-from-checkpoint", "a"]).is_err());
    }
}
