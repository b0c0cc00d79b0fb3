//! What decides how a model is trained: HF's `TrainingArguments`.
//!
//! Reference: transformers 5.23.0, `training_args.py`. Names and defaults are HF's, but for the default of
//! `restore_callback_states_from_checkpoint`: a run that goes on is the one that was stopped. The order of precedence is:
//! defaults, then a JSON or TOML file, then flags ([`TrainingArguments::load`]). A key that nobody knows is an error,
//! and so are values that contradict each other, as they are in HF.

pub(crate) mod read;
pub(crate) mod setting;
mod validate;

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::schedule::SchedulerType;
use setting::{AMOUNT, ANY, COUNT, PART, Problem, SIZE, STEPS, Setting, UNIT, choices};

choices! {
    /// When something is done again and again.
    IntervalStrategy {
        /// Never.
        No = "no",
        /// Every so many updates.
        Steps = "steps",
        /// At the end of every epoch.
        Epoch = "epoch",
    }
}

choices! {
    /// When a checkpoint is saved.
    SaveStrategy {
        /// Never.
        No = "no",
        /// Every so many updates.
        Steps = "steps",
        /// At the end of every epoch.
        Epoch = "epoch",
        /// When an evaluation is better than all before it.
        Best = "best",
    }
}

choices! {
    /// The order in which rows are trained on.
    SamplingStrategy {
        /// Another order in every epoch.
        Random = "random",
        /// As they come.
        Sequential = "sequential",
        /// Random, but rows of like length share a batch.
        GroupByLength = "group_by_length",
    }
}

choices! {
    /// The rule by which gradients change parameters. HF has two names for one rule.
    OptimizerNames {
        /// Adam with weight decay apart from the gradient: Loshchilov and Hutter, 2017 (arXiv:1711.05101).
        AdamwTorch = "adamw_torch",
        /// The same.
        AdamwTorchFused = "adamw_torch_fused",
    }
}

choices! {
    /// Who else is told what is logged.
    Reporter {
        /// Event files for TensorBoard.
        TensorBoard = "tensorboard",
    }
}

/// Where a run begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resume {
    /// At its first step.
    #[default]
    No,
    /// At the newest complete checkpoint in `output_dir`: `true`.
    Latest,
    /// At this checkpoint.
    Folder(PathBuf),
}

impl Setting for Resume {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(false) => Ok(Self::No),
            Value::Bool(true) => Ok(Self::Latest),
            Value::String(path) if !path.is_empty() => Ok(Self::Folder(path.into())),
            _ => Err("true, false or the path of a checkpoint".into()),
        }
    }

    fn null() -> Option<Self> {
        Some(Self::No)
    }

    fn from_text(text: &str) -> Value {
        setting::truth(text).map_or_else(|| Value::from(text), Value::Bool)
    }

    fn write(&self) -> Value {
        match self {
            Self::No => Value::Null,
            Self::Latest => Value::Bool(true),
            Self::Folder(path) => path.write(),
        }
    }
}

/// One name or several; `none` for nobody, `all` for all there are.
impl Setting for Vec<Reporter> {
    fn read(value: &Value) -> Result<Self, String> {
        let one = std::slice::from_ref(value);
        let names = value.as_array().map_or(one, Vec::as_slice);
        let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
        let reporters = match names.as_deref() {
            Some(["none"] | []) => Some(Vec::new()),
            Some(["all"]) => Some(vec![Reporter::TensorBoard]),
            Some(names) => names.iter().map(|name| Reporter::from_name(name)).collect(),
            None => None,
        };
        reporters.ok_or_else(|| format!("none, all, or a list of {}", Reporter::NAMES.join(", ")))
    }

    fn null() -> Option<Self> {
        Some(Vec::new())
    }

    fn from_text(text: &str) -> Value {
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Value::from).collect()
    }

    fn write(&self) -> Value {
        self.iter().map(|reporter| Value::from(reporter.name())).collect()
    }
}

/// One row per argument: its name, its type, its default, and the numbers that it may have.
macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $range:expr;)*) => {
        /// How a model is trained. [`TrainingArguments::resolved`] checks one that is made in Rust.
        #[derive(Debug, Clone, PartialEq)]
        pub struct TrainingArguments {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for TrainingArguments {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl TrainingArguments {
            /// The name of every argument.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Sets an argument; `None` if there is none of this name.
            fn set(&mut self, key: &str, value: &Value) -> Option<Result<(), Problem>> {
                $(if key == stringify!($name) {
                    return Some(setting::read(key, value, $range, &mut self.$name));
                })*
                None
            }

            /// The JSON that the text of a flag stands for; `None` if there is no argument of this name.
            fn from_text(key: &str, text: &str) -> Option<Value> {
                $(if key == stringify!($name) {
                    return Some(<$type as Setting>::from_text(text));
                })*
                None
            }

            /// Checks every number, wherever it came from.
            fn check_numbers(&self) -> Result<(), Problem> {
                $(setting::check(stringify!($name), &self.$name, $range)?;)*
                Ok(())
            }

            /// Every argument by name, as [`TrainingArguments::from_file`] reads them again.
            pub fn to_json(&self) -> Map<String, Value> {
                let mut keys = Map::new();
                $(keys.insert(stringify!($name).to_owned(), Setting::write(&self.$name));)*
                keys
            }
        }
    };
}

arguments! {
    /// Where checkpoints and logs go.
    output_dir: PathBuf = PathBuf::from("trainer_output"), ANY;

    /// How many rows a training batch has.
    per_device_train_batch_size: usize = 8, SIZE;
    /// How many rows a batch of an evaluation has.
    per_device_eval_batch_size: usize = 8, SIZE;
    /// How often all rows are trained on; it may have a fraction.
    num_train_epochs: f64 = 3.0, AMOUNT;
    /// How many updates are made; it wins over `num_train_epochs` unless it is -1.
    max_steps: i64 = -1, STEPS;
    /// How many batches one update is made of.
    gradient_accumulation_steps: usize = 1, SIZE;

    /// The rate that the schedule begins with or rises to.
    learning_rate: f64 = 5e-5, AMOUNT;
    /// How the rate changes from update to update.
    lr_scheduler_type: SchedulerType = SchedulerType::Linear, ANY;
    /// The parameters of that schedule.
    lr_scheduler_kwargs: Map<String, Value> = Map::new(), ANY;
    /// The updates until the rate is reached: a number of them, or below 1 a share of all.
    warmup_steps: f64 = 0.0, AMOUNT;
    /// That share under its older name; it holds where `warmup_steps` is 0.
    warmup_ratio: f64 = 0.0, UNIT;

    /// The rule by which gradients change parameters.
    optim: OptimizerNames = OptimizerNames::AdamwTorchFused, ANY;
    /// What parameters lose at a rate of 1, but for biases and those of norms.
    weight_decay: f64 = 0.0, AMOUNT;
    /// How much of the mean of gradients stays at each update.
    adam_beta1: f64 = 0.9, PART;
    /// How much of the mean of their squares stays at each update.
    adam_beta2: f64 = 0.999, PART;
    /// What keeps Adam's divisor above 0.
    adam_epsilon: f64 = 1e-8, AMOUNT;
    /// The norm that gradients are scaled down to; 0 for any.
    max_grad_norm: f64 = 1.0, AMOUNT;
    /// The share of the target that goes to all labels alike.
    label_smoothing_factor: f64 = 0.0, UNIT;

    /// Computes in bf16 what bears it.
    bf16: bool = false, ANY;
    /// Computes in f16 what bears it, with a scaled loss.
    fp16: bool = false, ANY;
    /// Computes activations a second time instead of keeping them. HF's older name, `gradient_checkpointing`, is read
    /// too.
    activation_checkpointing: bool = false, ANY;

    /// When the loss is logged.
    logging_strategy: IntervalStrategy = IntervalStrategy::Steps, ANY;
    /// Every so many updates; below 1 it is a share of all.
    logging_steps: f64 = 500.0, AMOUNT;
    /// The first update is logged as well.
    logging_first_step: bool = false, ANY;
    /// Who else is told what is logged.
    report_to: Vec<Reporter> = Vec::new(), ANY;
    /// No progress bars.
    disable_tqdm: bool = false, ANY;

    /// When the model is evaluated.
    eval_strategy: IntervalStrategy = IntervalStrategy::No, ANY;
    /// Every so many updates, or below 1 every such share of all; `logging_steps` if `None`.
    eval_steps: Option<f64> = None, AMOUNT;
    /// The updates, or epochs if that is the strategy, before the first evaluation.
    eval_delay: f64 = 0.0, AMOUNT;
    /// An evaluation before the first update.
    eval_on_start: bool = false, ANY;

    /// When a checkpoint is saved.
    save_strategy: SaveStrategy = SaveStrategy::Steps, ANY;
    /// Every so many updates; below 1 it is a share of all.
    save_steps: f64 = 500.0, AMOUNT;
    /// How many checkpoints are kept; 0 and `None` for all.
    save_total_limit: Option<usize> = None, COUNT;
    /// A checkpoint is the model alone, and no run can go on from it.
    save_only_model: bool = false, ANY;
    /// The best checkpoint is what the run ends with.
    load_best_model_at_end: bool = false, ANY;
    /// What makes an evaluation better than another one, with or without `eval_` before its name.
    metric_for_best_model: Option<String> = None, ANY;
    /// Whether more of it is better.
    greater_is_better: Option<bool> = None, ANY;
    /// Where the run begins.
    resume_from_checkpoint: Resume = Resume::No, ANY;
    /// Callbacks, such as early stopping, go on with what the checkpoint kept of them.
    restore_callback_states_from_checkpoint: bool = true, ANY;

    /// The run ends after so many evaluations in a row that are not better.
    early_stopping_patience: Option<usize> = None, SIZE;
    /// By how much one must be better to count.
    early_stopping_threshold: f64 = 0.0, AMOUNT;

    /// The order in which rows are trained on.
    train_sampling_strategy: SamplingStrategy = SamplingStrategy::Random, ANY;
    /// Rows that do not fill the last batch of an epoch are left out.
    dataloader_drop_last: bool = false, ANY;
    /// What random numbers depend on.
    seed: u64 = 42, ANY;
    /// What the order of rows depends on; `seed` if `None`.
    data_seed: Option<u64> = None, ANY;

    /// The seconds that a process waits for the others before it gives up.
    ddp_timeout: u64 = 1800, SIZE;
}

impl TrainingArguments {
    /// The updates until the rate is reached, of so many in all.
    pub fn get_warmup_steps(&self, num_training_steps: u64) -> u64 {
        let share = |share: f64| (num_training_steps as f64 * share).ceil() as u64;
        if self.warmup_steps >= 1.0 {
            self.warmup_steps as u64
        } else {
            share(if self.warmup_steps > 0.0 { self.warmup_steps } else { self.warmup_ratio })
        }
    }

    /// The name that `metric_for_best_model` has among the metrics of an evaluation.
    pub fn best_metric_key(&self) -> Option<String> {
        let name = self.metric_for_best_model.as_deref()?;
        Some(if name.starts_with("eval_") { name.to_owned() } else { format!("eval_{name}") })
    }
}
