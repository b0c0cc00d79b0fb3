//! Where a run stands: HF's `TrainerState`, and `trainer_state.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tx_core::config::{read_json, read_text};
use tx_core::{Error, Result};

use super::{folder_name, step_of};
use crate::arguments::{SaveStrategy, TrainingArguments};

/// The largest `trainer_state.json`, in bytes: a log line for each of some million steps.
const MAX_BYTES: u64 = 1 << 30;

/// The metrics of an evaluation by name, such as `eval_loss`.
pub type Metrics = BTreeMap<String, f64>;

/// What is logged at one step, by name; numbers that JSON does not have are text.
pub type Logs = Map<String, Value>;

/// Where a run stands. A step is an update, of as many batches as gradients are accumulated over.
///
/// The fields are those that HF writes and no others, as Python refuses a file with more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerState {
    /// The step of the best evaluation.
    pub best_global_step: Option<u64>,
    /// The best value of `metric_for_best_model`.
    pub best_metric: Option<f64>,
    /// The checkpoint of that evaluation, if it was saved.
    pub best_model_checkpoint: Option<PathBuf>,
    /// How many epochs are done, with the part of the one that is being done.
    pub epoch: f64,
    /// Steps between evaluations.
    pub eval_steps: u64,
    /// Steps that are done.
    pub global_step: u64,
    /// Always false: nothing here searches.
    pub is_hyper_param_search: bool,
    /// Always true: there is one process.
    pub is_local_process_zero: bool,
    /// Always true: there is one process.
    pub is_world_process_zero: bool,
    /// Everything that was logged, with its `step`.
    pub log_history: Vec<Logs>,
    /// Steps between logs.
    pub logging_steps: u64,
    /// Steps in all.
    pub max_steps: u64,
    /// Tokens that the model has seen, where they are counted.
    pub num_input_tokens_seen: u64,
    /// Epochs in all, the last one perhaps in part.
    pub num_train_epochs: u64,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// What callbacks remember, by their names.
    pub stateful_callbacks: Map<String, Value>,
    /// Floating-point operations so far, where they are counted.
    pub total_flos: f64,
    /// Rows of a training batch.
    pub train_batch_size: Option<usize>,
    /// Always `None`.
    pub trial_name: Option<String>,
    /// Always `None`.
    pub trial_params: Option<Value>,
}

impl Default for TrainerState {
    fn default() -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: 500,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: 500,
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: 500,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: None,
            trial_name: None,
            trial_params: None,
        }
    }
}

impl TrainerState {
    /// Reads `trainer_state.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_BYTES)?;
        // Python writes numbers that JSON does not have, which only the other reader takes.
        if let Ok(state) = serde_json::from_str(&text) {
            return Ok(state);
        }
        serde_json::from_value(read_json(path)?)
            .map_err(|error| Error::malformed(path, format_args!("not the state of a training: {error}")))
    }

    /// Sets the numbers of steps between logs, evaluations and checkpoints, of which shares depend on `max_steps`.
    pub fn compute_steps(&mut self, arguments: &TrainingArguments, max_steps: u64) {
        let absolute = |steps: f64| if steps < 1.0 { (max_steps as f64 * steps).ceil() as u64 } else { steps as u64 };
        self.max_steps = max_steps;
        self.train_batch_size = Some(arguments.per_device_train_batch_size);
        self.logging_steps = absolute(arguments.logging_steps);
        self.save_steps = absolute(arguments.save_steps);
        if let Some(steps) = arguments.eval_steps {
            self.eval_steps = absolute(steps);
        }
    }

    /// Adds a line to the history.
    pub fn log(&mut self, logs: &Logs) {
        let mut line = logs.clone();
        line.insert("step".to_owned(), self.global_step.into());
        self.log_history.push(line);
    }

    /// Notes an evaluation if it is better than all before, and says whether it is.
    ///
    /// Callbacks are told of an evaluation before that: they compare it with the ones before it.
    ///
    /// # Errors
    /// [`Error::Input`] if the evaluation lacks `metric_for_best_model`.
    pub fn update_best(&mut self, arguments: &TrainingArguments, metrics: &Metrics) -> Result<bool> {
        let Some(key) = arguments.best_metric_key() else { return Ok(false) };
        let metric = metric(metrics, &key)?;
        let greater = arguments.greater_is_better.unwrap_or(false);
        let best = self.best_metric.unwrap_or(if greater { f64::NEG_INFINITY } else { f64::INFINITY });
        let better = if greater { metric > best } else { metric < best };
        if better {
            self.best_metric = Some(metric);
            if arguments.save_strategy != SaveStrategy::No {
                self.best_global_step = Some(self.global_step);
            }
        }
        Ok(better)
    }

    /// The step of the best checkpoint. The best evaluation may have been at a later one, which was not saved.
    pub fn best_checkpoint_step(&self) -> Option<u64> {
        step_of(self.best_model_checkpoint.as_ref()?.file_name()?.to_str()?)
    }

    /// The folder of the best checkpoint in `output_dir`, which may have been moved since.
    pub fn best_checkpoint(&self, output_dir: &Path) -> Option<PathBuf> {
        self.best_checkpoint_step().map(|step| output_dir.join(folder_name(step)))
    }
}

/// The metric that decides something, which an evaluation must have.
///
/// # Errors
/// [`Error::Input`] if it has not.
pub(crate) fn metric(metrics: &Metrics, key: &str) -> Result<f64> {
    metrics.get(key).copied().ok_or_else(|| {
        let names: Vec<&str> = metrics.keys().map(String::as_str).collect();
        Error::input("metric_for_best_model", format_args!("`{key}`"), format_args!("one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_keys_are_those_of_hf_in_its_order() {
        let state = serde_json::to_value(TrainerState::default()).unwrap();
        let keys: Vec<&str> = state.as_object().unwrap().keys().map(String::as_str).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!((keys.len(), keys), (20, sorted));
    }

    #[test]
    fn a_state_of_python_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trainer_state.json");
        let text = r#"{"best_global_step": 10, "best_metric": 0.5, "best_model_checkpoint": "out/checkpoint-10",
            "epoch": 1.5, "eval_steps": 10, "global_step": 15, "is_hyper_param_search": false,
            "is_local_process_zero": true, "is_world_process_zero": true, "log_history": [{"loss": NaN, "step": 5}],
            "logging_steps": 5, "max_steps": 30, "num_input_tokens_seen": 0, "num_train_epochs": 3, "save_steps": 10,
            "stateful_callbacks": {"TrainerControl": {"args": {}, "attributes": {}}}, "total_flos": 1e15,
            "train_batch_size": 8, "trial_name": null, "trial_params": null}"#;
        std::fs::write(&path, text).unwrap();
        let state = TrainerState::from_file(&path).unwrap();
        assert_eq!((state.global_step, state.best_metric, state.epoch), (15, Some(0.5), 1.5));
        assert_eq!(state.log_history[0]["loss"], json!("NaN"));
        assert_eq!(state.best_checkpoint(Path::new("moved")), Some("moved/checkpoint-10".into()));
        std::fs::write(&path, r#"{"global_step": -1}"#).unwrap();
        assert!(matches!(TrainerState::from_file(&path), Err(Error::Malformed { .. })));
    }

    #[test]
    fn shares_become_steps() {
        let arguments = TrainingArguments { save_steps: 0.1, eval_steps: Some(20.0), ..Default::default() };
        let mut state = TrainerState::default();
        state.compute_steps(&arguments, 101);
        assert_eq!((state.logging_steps, state.eval_steps, state.save_steps, state.max_steps), (500, 20, 11, 101));
    }

    #[test]
    fn the_best_is_the_first_of_equals() {
        let arguments = TrainingArguments {
            metric_for_best_model: Some("f1".into()),
            greater_is_better: Some(true),
            ..Default::default()
        };
        let mut state = TrainerState::default();
        let mut better = |step, metric| {
            state.global_step = step;
            state.update_best(&arguments, &Metrics::from([("eval_f1".into(), metric)])).unwrap()
        };
        assert!(!better(0, f64::NAN) && better(1, 0.2) && better(2, 0.4) && !better(3, 0.4) && !better(4, f64::NAN));
        assert_eq!((state.best_global_step, state.best_metric), (Some(2), Some(0.4)));
        let error = state.update_best(&arguments, &Metrics::from([("eval_loss".into(), 1.0)])).unwrap_err();
        assert_eq!(error.to_string(), "metric_for_best_model: `eval_f1`, expected one of eval_loss");
        assert!(!state.update_best(&TrainingArguments::default(), &Metrics::new()).unwrap());
    }
}
