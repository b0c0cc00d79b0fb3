//! An evaluation: the loss and the metrics of data that are not trained on.

use std::collections::BTreeSet;
use std::time::Instant;

use tx_core::error::{Error, Result};

use super::judge::Judge;
use super::{Trainer, event};
use crate::arguments::setting::number;
use crate::checkpoint::{Logs, Metrics};
use crate::distributed::agree;
use crate::logging::{metric_logs, speed_metrics};

impl Trainer {
    /// The metrics of the evaluation data, whose names begin with `eval_`. Callbacks are told, and the log gets them.
    /// `None` if it was cut short by what [`Trainer::until`] names.
    ///
    /// # Errors
    /// [`Error::Input`] without such data; everything that data, model and other ranks report.
    pub fn evaluate(&mut self) -> Result<Option<Metrics>> {
        let Some(mut metrics) = self.without_gradients(Self::judge)? else { return Ok(None) };
        self.log(metric_logs(&metrics))?;
        metrics.insert("epoch".to_owned(), self.state.epoch);
        event!(self, on_evaluate, &metrics)?;
        Ok(Some(metrics))
    }

    fn judge(&mut self) -> Result<Option<Metrics>> {
        let Some(eval) = self.eval.clone() else { return Err(Error::input("eval", "no data", "a file of rows")) };
        let mut loader = self.loader(&eval, false)?;
        let (start, mut judge) = (Instant::now(), Judge::default());
        // All ranks have as many batches.
        for _ in 0..loader.batches() {
            let mut interrupted = [f64::from(u8::from((self.interrupted)()))];
            self.ranks.sum(&mut interrupted)?;
            if interrupted[0] > 0.0 {
                return Ok(None);
            }
            let judged = loader.next_batch().and_then(|(_, batch)| match self.model.items(&batch) {
                0 => Ok(()),
                _ => judge.add(&self.model, &batch, self.model.forward(&batch)?, self.arguments.label_smoothing_factor),
            });
            agree(&*self.ranks, judged)?;
            event!(self, on_prediction_step)?;
        }
        let (mut metrics, examples) = judge.metrics(&self.model, &*self.ranks)?;
        metrics.extend(speed_metrics("eval", start.elapsed(), Some(examples), Some(loader.batches()), None));
        Ok(Some(metrics))
    }

    /// Does something while no parameter is part of a graph, so that no pass keeps what a backward pass would need.
    fn without_gradients<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mut tracked = BTreeSet::new();
        self.source_mut().map(&mut |parameter| {
            if parameter.tensor.is_tracked() {
                tracked.insert(parameter.name);
            }
            parameter.tensor.untrack()
        });
        if let Some(adapters) = &mut self.adapters {
            adapters.begin(None);
        }
        let result = f(self);
        self.source_mut().map(&mut |parameter| match tracked.contains(&parameter.name) {
            true => parameter.tensor.track(),
            false => parameter.tensor,
        });
        self.recompute();
        result
    }

    /// Lets the graph keep less, if the arguments ask for it. Parameters must be told so whenever they are new.
    pub(super) fn recompute(&mut self) {
        if self.arguments.activation_checkpointing {
            self.source_mut().map(&mut |parameter| match parameter.tensor.is_tracked() {
                true => parameter.tensor.recomputing(),
                false => parameter.tensor,
            });
        }
    }

    /// Adds a line to the history and tells the callbacks.
    pub(super) fn log(&mut self, mut logs: Logs) -> Result<()> {
        logs.insert("epoch".to_owned(), number(self.state.epoch));
        self.state.log(&logs);
        event!(self, on_log, &logs)
    }
}
