//! Who is told what a training logs: a file of JSON lines, TensorBoard, and a bar on the terminal.
//!
//! A log that cannot be opened ends the training before its first step. One that cannot be written any more does not:
//! it is not worth a run, so that a warning says it once, and the training goes on without. The checkpoints have
//! everything in `log_history` besides.

mod progress;
mod tensorboard;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tx_core::{Error, Result};

use crate::arguments::setting::number;
use crate::arguments::{Reporter, TrainingArguments};
use crate::callback::{Callback, CallbackHandler, Context, TrainerControl};
use crate::checkpoint::{Logs, Metrics};
pub use progress::ProgressCallback;
pub use tensorboard::TensorBoardCallback;

/// The name of the log in `output_dir`.
pub const LOG_FILE: &str = "log.jsonl";

/// Adds the logs that the arguments ask for.
pub fn add_loggers(handler: &mut CallbackHandler, arguments: &TrainingArguments) {
    handler.add(Box::new(JsonLinesCallback::default()));
    if arguments.report_to.contains(&Reporter::TensorBoard) {
        handler.add(Box::new(TensorBoardCallback::default()));
    }
    if !arguments.disable_tqdm {
        handler.add(Box::new(ProgressCallback::default()));
    }
}

/// Numbers as they are logged: those that JSON does not have are text.
pub fn logs<'a>(values: impl IntoIterator<Item = (&'a str, f64)>) -> Logs {
    values.into_iter().map(|(name, value)| (name.to_owned(), number(value))).collect()
}

/// The metrics of an evaluation as they are logged.
pub fn metric_logs(metrics: &Metrics) -> Logs {
    logs(metrics.iter().map(|(name, value)| (name.as_str(), *value)))
}

/// A number that was logged, also one that JSON does not have.
pub(crate) fn logged_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// How fast something was, by HF's names: `train_runtime`, `train_samples_per_second` and so on.
pub fn speed_metrics(
    split: &str,
    runtime: Duration,
    samples: Option<f64>,
    steps: Option<u64>,
    tokens: Option<u64>,
) -> Metrics {
    let seconds = runtime.as_secs_f64();
    let rounded = |value: f64, digits: f64| (value * digits).round() / digits;
    let mut metrics = Metrics::from([(format!("{split}_runtime"), rounded(seconds, 1e4))]);
    if seconds > 0.0 {
        let counts = [("samples", samples), ("steps", steps.map(|n| n as f64)), ("tokens", tokens.map(|n| n as f64))];
        for (what, count) in counts {
            if let Some(count) = count {
                metrics.insert(format!("{split}_{what}_per_second"), rounded(count / seconds, 1e3));
            }
        }
    }
    metrics
}

/// Writes every log as a line of JSON, with its `step`, to `log.jsonl` in `output_dir`.
///
/// Lines are only ever added: a run that goes on from a checkpoint logs the steps since then a second time, and the
/// last line of a step holds.
#[derive(Debug, Default)]
pub struct JsonLinesCallback {
    file: Option<(PathBuf, File)>,
}

impl JsonLinesCallback {
    fn write(&mut self, line: &str) {
        let Some((path, file)) = &mut self.file else { return };
        // One write, so that a killed run leaves half a line at most.
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!("{}: {error}; the training goes on without this log", path.display());
            self.file = None;
        }
    }
}

/// Opens a file to add lines to it; half a line at its end is ended.
fn open(path: &Path) -> Result<File> {
    let mut file = File::options().create(true).append(true).read(true).open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(size - 1)).and_then(|_| file.read_exact(&mut last)).map_err(Error::io(path))?;
        if last != *b"\n" {
            file.write_all(b"\n").map_err(Error::io(path))?;
        }
    }
    Ok(file)
}

impl Callback for JsonLinesCallback {
    fn name(&self) -> &'static str {
        "JsonLinesCallback"
    }

    fn on_train_begin(&mut self, context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        let folder = &context.arguments.output_dir;
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(LOG_FILE);
        let file = open(&path)?;
        self.file = Some((path, file));
        Ok(())
    }

    fn on_log(&mut self, context: Context<'_>, _control: &mut TrainerControl, logs: &Logs) -> Result<()> {
        let mut line = logs.clone();
        line.insert("step".to_owned(), context.state.global_step.into());
        self.write(&format!("{}\n", Value::Object(line)));
        Ok(())
    }

    fn on_train_end(&mut self, _context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        self.file = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checkpoint::TrainerState;

    fn log(callback: &mut JsonLinesCallback, folder: &Path, values: &[(u64, f64)]) {
        let arguments = TrainingArguments { output_dir: folder.to_path_buf(), ..TrainingArguments::default() };
        let mut control = TrainerControl::default();
        let mut state = TrainerState::default();
        callback.on_train_begin(Context { arguments: &arguments, state: &state }, &mut control).unwrap();
        for (step, loss) in values {
            state.global_step = *step;
            let context = Context { arguments: &arguments, state: &state };
            callback.on_log(context, &mut control, &logs([("loss", *loss), ("epoch", 0.5)])).unwrap();
        }
        callback.on_train_end(Context { arguments: &arguments, state: &state }, &mut control).unwrap();
    }

    fn lines(folder: &Path) -> Vec<Value> {
        let text = fs::read_to_string(folder.join(LOG_FILE)).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[test]
    fn every_log_is_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        log(&mut JsonLinesCallback::default(), &out, &[(5, 2.5), (10, f64::NAN)]);
        let expected =
            [json!({ "loss": 2.5, "epoch": 0.5, "step": 5 }), json!({ "loss": "NaN", "epoch": 0.5, "step": 10 })];
        assert_eq!(lines(&out), expected);
        assert!(logged_number(&expected[1]["loss"]).unwrap().is_nan());
        assert_eq!((logged_number(&json!(3)), logged_number(&json!("x"))), (Some(3.0), None));
    }

    #[test]
    fn half_a_line_of_a_killed_run_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        log(&mut JsonLinesCallback::default(), folder.path(), &[(1, 1.0)]);
        let path = folder.path().join(LOG_FILE);
        let text = fs::read_to_string(&path).unwrap() + r#"{"loss": 0.9, "ep"#;
        fs::write(&path, text).unwrap();
        log(&mut JsonLinesCallback::default(), folder.path(), &[(2, 0.5)]);
        let steps: Vec<_> = lines(folder.path()).iter().map(|line| line["step"].clone()).collect();
        assert_eq!(steps, [1, 2]);
    }

    #[test]
    fn a_log_that_cannot_be_opened_ends_the_training_before_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(LOG_FILE)).unwrap();
        let arguments = TrainingArguments { output_dir: folder.path().to_path_buf(), ..TrainingArguments::default() };
        let state = TrainerState::default();
        let context = Context { arguments: &arguments, state: &state };
        let result = JsonLinesCallback::default().on_train_begin(context, &mut TrainerControl::default());
        assert!(matches!(result, Err(Error::Io { .. })));
    }

    #[test]
    fn speeds_have_hfs_names() {
        let speeds = speed_metrics("train", Duration::from_millis(2500), Some(100.0), Some(7), None);
        let expected = [("train_runtime", 2.5), ("train_samples_per_second", 40.0), ("train_steps_per_second", 2.8)];
        assert_eq!(speeds, Metrics::from(expected.map(|(name, value)| (name.to_owned(), value))));
        assert_eq!(speed_metrics("eval", Duration::ZERO, Some(1.0), None, Some(3)).len(), 1);
    }

    #[test]
    fn the_arguments_say_who_is_told() {
        let mut handler = CallbackHandler::default();
        let arguments = TrainingArguments { report_to: vec![Reporter::TensorBoard], ..TrainingArguments::default() };
        add_loggers(&mut handler, &arguments);
        assert_eq!(format!("{handler:?}"), r#"["JsonLinesCallback", "TensorBoardCallback", "ProgressCallback"]"#);
        let mut handler = CallbackHandler::default();
        add_loggers(&mut handler, &TrainingArguments { disable_tqdm: true, ..TrainingArguments::default() });
        assert_eq!(format!("{handler:?}"), r#"["JsonLinesCallback"]"#);
    }
}
