//! The defaults that depend on other arguments, and the values that contradict each other.

use std::path::{Path, PathBuf};

use super::setting::Problem;
use super::{IntervalStrategy, SaveStrategy, TrainingArguments};

impl TrainingArguments {
    /// What HF does after an object is made: derives and checks. Doing it twice changes nothing more.
    pub(super) fn resolve(mut self) -> Result<Self, Problem> {
        self.check_numbers()?;
        self.output_dir = expand_home(&self.output_dir);
        if self.eval_strategy == IntervalStrategy::Steps && self.eval_steps.unwrap_or(0.0) == 0.0 {
            if self.logging_steps == 0.0 {
                return Err(Problem::new("eval_steps", "none, and no `logging_steps`", "a number of steps above 0"));
            }
            self.eval_steps = Some(self.logging_steps);
        }
        if self.metric_for_best_model.is_none() && (self.load_best_model_at_end || self.lr_scheduler_type.is_adaptive())
        {
            self.metric_for_best_model = Some("loss".into());
        }
        if self.greater_is_better.is_none() {
            self.greater_is_better = self.metric_for_best_model.as_ref().map(|name| !name.ends_with("loss"));
        }
        self.check_steps()?;
        self.check_best()?;
        self.check_rest()?;
        Ok(self)
    }

    /// Numbers of updates are whole, unless they are a share of all.
    fn check_steps(&self) -> Result<(), Problem> {
        if self.logging_strategy == IntervalStrategy::Steps && self.logging_steps == 0.0 {
            return Err(Problem::new(
                "logging_steps",
                0,
                "a number of steps above 0 for the `logging_strategy` `steps`",
            ));
        }
        let counted = [
            ("logging_steps", self.logging_strategy == IntervalStrategy::Steps, Some(self.logging_steps)),
            ("eval_steps", self.eval_strategy == IntervalStrategy::Steps, self.eval_steps),
            ("save_steps", self.save_strategy == SaveStrategy::Steps, Some(self.save_steps)),
        ];
        for (key, used, steps) in counted {
            if let Some(steps) = steps
                && used
                && steps > 1.0
                && steps.fract() != 0.0
            {
                return Err(Problem::new(key, steps, "an integer, or a share of all steps below 1"));
            }
        }
        Ok(())
    }

    /// The best model can only be loaded if it was saved, and it is saved only where it is evaluated.
    fn check_best(&self) -> Result<(), Problem> {
        if self.save_strategy == SaveStrategy::Best {
            if self.metric_for_best_model.is_none() {
                let expected = "a `metric_for_best_model` to tell the best by";
                return Err(Problem::new("save_strategy", "best", expected));
            }
            if self.eval_strategy == IntervalStrategy::No {
                return Err(Problem::new("save_strategy", "best", "an `eval_strategy` of steps or epoch beside it"));
            }
            return Ok(());
        }
        if !self.load_best_model_at_end {
            return Ok(());
        }
        const KEY: &str = "load_best_model_at_end";
        if self.eval_strategy.name() != self.save_strategy.name() {
            let found = format!("`eval_strategy` {} and `save_strategy` {}", self.eval_strategy, self.save_strategy);
            return Err(Problem::new(KEY, found, "the same strategy for both, or the `save_strategy` best"));
        }
        if self.eval_strategy != IntervalStrategy::Steps {
            return Ok(());
        }
        let (save, eval) = (self.save_steps, self.eval_steps.unwrap_or(self.logging_steps));
        if save % eval == 0.0 {
            return Ok(());
        }
        let found = format!("`save_steps` {save} and `eval_steps` {eval}");
        match (save < 1.0, eval < 1.0) {
            // As integers, because the remainder of shares is not exact.
            (true, true) if (save * 1e6) % (eval * 1e6) == 0.0 => Ok(()),
            (save_share, eval_share) if save_share != eval_share => {
                Err(Problem::new(KEY, found, "both as numbers of steps, or both as shares of all"))
            }
            _ => Err(Problem::new(KEY, found, "`save_steps` that are a multiple of `eval_steps`")),
        }
    }

    fn check_rest(&self) -> Result<(), Problem> {
        if self.fp16 && self.bf16 {
            return Err(Problem::new("fp16", "true, and so is `bf16`", "at most one of them"));
        }
        let evaluates = self.eval_strategy != IntervalStrategy::No;
        if self.lr_scheduler_type.is_adaptive() && !evaluates {
            let expected = "an `eval_strategy` of steps or epoch, as it follows a metric";
            return Err(Problem::new("lr_scheduler_type", self.lr_scheduler_type, expected));
        }
        if let Some(patience) = self.early_stopping_patience {
            if !evaluates {
                let expected = "an `eval_strategy` of steps or epoch beside it";
                return Err(Problem::new("early_stopping_patience", patience, expected));
            }
            if self.metric_for_best_model.is_none() {
                let expected = "a `metric_for_best_model` beside it";
                return Err(Problem::new("early_stopping_patience", patience, expected));
            }
        }
        Ok(())
    }
}

/// A path with the user's home for a leading `~`.
fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[(&str, &str)]) -> Result<TrainingArguments, String> {
        TrainingArguments::load(None, flags.iter().copied()).map_err(|error| error.to_string())
    }

    #[test]
    fn evaluations_come_with_the_log_if_nothing_else_is_said() {
        let arguments = load(&[("eval_strategy", "steps"), ("logging_steps", "0.1")]).unwrap();
        assert_eq!(arguments.eval_steps, Some(0.1));
        let error = load(&[("eval_strategy", "steps"), ("logging_strategy", "no"), ("logging_steps", "0")]);
        assert!(error.unwrap_err().starts_with("eval_steps: "));
        assert!(load(&[("logging_steps", "0")]).unwrap_err().starts_with("logging_steps: 0"));
        assert!(load(&[("logging_strategy", "no"), ("logging_steps", "0")]).is_ok());
    }

    #[test]
    fn steps_are_whole_or_shares() {
        let error = load(&[("save_steps", "1.5")]).unwrap_err();
        assert_eq!(error, "save_steps: 1.5, expected an integer, or a share of all steps below 1");
        assert!(load(&[("save_steps", "1.5"), ("save_strategy", "epoch")]).is_ok());
        assert!(load(&[("save_steps", "0.5"), ("logging_steps", "2.0")]).is_ok());
    }

    #[test]
    fn the_best_is_saved_where_it_is_evaluated() {
        let best =
            |flags: &[(&'static str, &'static str)]| load(&[&[("load_best_model_at_end", "true")][..], flags].concat());
        assert!(best(&[]).unwrap_err().contains("`eval_strategy` no and `save_strategy` steps"));
        let steps = |save, eval| best(&[("eval_strategy", "steps"), ("save_steps", save), ("eval_steps", eval)]);
        assert!(steps("100", "50").is_ok());
        assert!(steps("100", "30").unwrap_err().contains("multiple"));
        assert!(steps("100", "0.1").unwrap_err().contains("shares"));
        assert!(steps("0.5", "30").unwrap_err().contains("shares"));
        assert!(steps("0.6", "0.2").is_ok());
        assert!(steps("0.5", "0.2").unwrap_err().contains("multiple"));
        assert!(best(&[("eval_strategy", "epoch"), ("save_strategy", "epoch")]).is_ok());
        let arguments = best(&[("eval_strategy", "epoch"), ("save_strategy", "best")]).unwrap();
        assert_eq!(arguments.best_metric_key().as_deref(), Some("eval_loss"));
    }

    #[test]
    fn the_save_strategy_best_needs_a_metric_and_evaluations() {
        assert!(load(&[("save_strategy", "best"), ("eval_strategy", "steps")]).unwrap_err().contains("metric"));
        let error = load(&[("save_strategy", "best"), ("metric_for_best_model", "f1")]).unwrap_err();
        assert!(error.contains("eval_strategy"), "{error}");
        let flags = [("save_strategy", "best"), ("metric_for_best_model", "eval_f1"), ("eval_strategy", "steps")];
        let arguments = load(&flags).unwrap();
        assert_eq!(arguments.greater_is_better, Some(true));
        assert_eq!(arguments.best_metric_key().as_deref(), Some("eval_f1"));
    }

    #[test]
    fn what_follows_a_metric_needs_evaluations() {
        for name in ["reduce_lr_on_plateau", "greedy"] {
            assert!(load(&[("lr_scheduler_type", name)]).unwrap_err().contains("eval_strategy"));
            let arguments = load(&[("lr_scheduler_type", name), ("eval_strategy", "epoch")]).unwrap();
            assert_eq!(arguments.metric_for_best_model.as_deref(), Some("loss"));
        }
        assert!(load(&[("early_stopping_patience", "3")]).unwrap_err().contains("eval_strategy"));
        let flags = [("early_stopping_patience", "3"), ("eval_strategy", "epoch")];
        assert!(load(&flags).unwrap_err().contains("metric_for_best_model"));
    }

    #[test]
    fn one_half_precision_at_most() {
        assert!(load(&[("fp16", "true"), ("bf16", "1")]).unwrap_err().contains("at most one"));
    }

    #[test]
    fn warmup_is_a_number_of_updates_or_a_share() {
        let steps = |flags: &[(&str, &str)], all| load(flags).unwrap().get_warmup_steps(all);
        assert_eq!(steps(&[("warmup_steps", "10")], 1000), 10);
        assert_eq!(steps(&[("warmup_steps", "0.1")], 105), 11);
        assert_eq!(steps(&[("warmup_ratio", "1")], 105), 105);
        assert_eq!(steps(&[("warmup_ratio", "0.1"), ("warmup_steps", "3")], 105), 3);
        assert_eq!(steps(&[], 105), 0);
        assert!(load(&[("warmup_ratio", "1.5")]).is_err() && load(&[("warmup_steps", "-1")]).is_err());
    }

    #[test]
    fn resolving_twice_changes_nothing() {
        let arguments = load(&[("eval_strategy", "steps"), ("lr_scheduler_type", "greedy")]).unwrap();
        assert_eq!(arguments.clone().resolved().unwrap(), arguments);
        let home = TrainingArguments { output_dir: "~/runs".into(), ..Default::default() }.resolved().unwrap();
        assert!(!home.output_dir.starts_with("~") && home.output_dir.ends_with("runs"));
    }
}
