//! A bar on the terminal: how far a training is, how fast, and its last loss.

use tx_core::Result;
use tx_core::progress::Progress;

use super::logged_number;
use crate::callback::{Callback, Context, TrainerControl};
use crate::checkpoint::{Logs, Metrics};

/// Shows a bar of all steps, with the steps per second and the time that is left.
#[derive(Debug, Default)]
pub struct ProgressCallback {
    bar: Option<Progress>,
    /// What the bar says while no evaluation is on.
    text: String,
    /// Batches of the evaluation that is on.
    batches: u64,
}

impl ProgressCallback {
    fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.message(text);
        }
    }

    fn evaluated(&mut self) {
        self.batches = 0;
        self.say(&self.text);
    }
}

/// The last loss, or what else was logged that has one, and the rate.
fn summary(logs: &Logs) -> Option<String> {
    let value = |name: &str| logs.get(name).and_then(logged_number);
    let losses = [("loss", "loss"), ("eval_loss", "eval loss")];
    let (label, loss) = losses.into_iter().find_map(|(name, label)| Some((label, value(name)?)))?;
    let rate = value("learning_rate").map(|rate| format!(", rate {rate:.2e}")).unwrap_or_default();
    Some(format!("{label} {loss:.4}{rate}"))
}

impl Callback for ProgressCallback {
    fn name(&self) -> &'static str {
        "ProgressCallback"
    }

    fn on_train_begin(&mut self, context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        self.text = "training".to_owned();
        let bar = Progress::items(&self.text, context.state.max_steps, !context.arguments.disable_tqdm);
        bar.set(context.state.global_step);
        self.bar = Some(bar);
        Ok(())
    }

    fn on_step_end(&mut self, context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        if let Some(bar) = &self.bar {
            bar.set(context.state.global_step);
        }
        Ok(())
    }

    fn on_prediction_step(&mut self, _context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        self.batches += 1;
        self.say(&format!("{}, evaluating batch {}", self.text, self.batches));
        Ok(())
    }

    fn on_evaluate(&mut self, _context: Context<'_>, _control: &mut TrainerControl, _metrics: &Metrics) -> Result<()> {
        self.evaluated();
        Ok(())
    }

    fn on_log(&mut self, _context: Context<'_>, _control: &mut TrainerControl, logs: &Logs) -> Result<()> {
        if let Some(text) = summary(logs) {
            self.text = text;
            self.say(&self.text);
        }
        Ok(())
    }

    fn on_train_end(&mut self, _context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        self.bar = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::logs;
    use super::*;

    #[test]
    fn the_last_loss_is_shown() {
        let text = |values: &[(&str, f64)]| summary(&logs(values.iter().copied()));
        assert_eq!(text(&[("loss", 2.0), ("learning_rate", 5e-5)]).as_deref(), Some("loss 2.0000, rate 5.00e-5"));
        assert_eq!(text(&[("eval_loss", f64::NAN)]).as_deref(), Some("eval loss NaN"));
        assert_eq!(text(&[("train_runtime", 1.0)]), None);
    }
}
