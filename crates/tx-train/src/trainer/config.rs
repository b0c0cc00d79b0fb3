//! The file that `tx train` reads: a model, a task, data and arguments.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tx_core::error::{Error, Result};

use super::task::TrainingTask;
use crate::arguments::TrainingArguments;
use crate::arguments::read::read_keys;

/// The tables and keys of the file.
const KEYS: [&str; 4] = ["data", "model", "task", "training"];

/// What is trained, for what, on what and how: a TOML or JSON file.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// The file.
    pub path: PathBuf,
    /// A folder, or a model on the Hub.
    pub model: String,
    /// What it is trained for.
    pub task: TrainingTask,
    /// The files to train on.
    pub train: String,
    /// The files to evaluate on.
    pub eval: Option<String>,
    /// The other keys of `[data]`.
    pub data: Map<String, Value>,
    /// `[training]`, with the flags.
    pub arguments: TrainingArguments,
}

impl TrainConfig {
    /// Reads a file; `flags` are training arguments, which win.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`]; [`Error::Config`] and [`Error::Unknown`] for keys that are missing, of the wrong
    /// type or unknown; those of [`TrainingArguments::load`].
    pub fn load<'a>(path: &Path, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut keys = read_keys(path)?;
        let mut table = |key: &str| match keys.remove(key) {
            None => Ok(Map::new()),
            Some(Value::Object(table)) => Ok(table),
            Some(other) => Err(Error::config(path, key, format_args!("found {other}, expected a table"))),
        };
        let (mut data, training) = (table("data")?, table("training")?);
        let text = |keys: &mut Map<String, Value>, key: &str| match keys.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Error::config(path, key, format_args!("found {other}, expected a text"))),
        };
        let missing =
            |key: &str, expected: &str| Error::config(path, key, format_args!("missing, expected {expected}"));
        let model = text(&mut keys, "model")?.ok_or_else(|| missing("model", "a folder or a model on the Hub"))?;
        let task = text(&mut keys, "task")?.ok_or_else(|| missing("task", "what the model is trained for"))?;
        let train = text(&mut data, "train")?.ok_or_else(|| missing("data.train", "files of rows"))?;
        let eval = text(&mut data, "eval")?;
        if let Some(key) = keys.keys().next() {
            return Err(Error::unknown("key", key, KEYS));
        }
        Ok(Self {
            path: path.to_path_buf(),
            model,
            task: TrainingTask::from_name(&task)?,
            train,
            eval,
            data,
            arguments: TrainingArguments::from_keys(Some(path), training, flags)?,
        })
    }
}
