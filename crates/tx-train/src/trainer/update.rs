//! One update: gradients of some batches, added up over all ranks, and what the optimizer does with them.

use tx_core::error::{Error, Result};

use super::run::Run;
use super::{Trainer, event};
use crate::collate::Batch;
use crate::data::Random;
use crate::distributed::{agree, all_reduce_gradients};
use crate::logging::logs;

/// The most rows that a message names.
const MAX_ROWS: usize = 16;
/// The stream of random numbers that is for passes that learn.
const STREAM: u64 = 0x64_726f_706f_7574;

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Update {
    /// It was made.
    Done,
    /// Somebody wants the training to end, and it was not begun.
    Interrupted,
}

impl Trainer {
    /// Makes one update of the batches that come next, of one epoch.
    ///
    /// # Errors
    /// [`Error::Input`] for a loss or gradients that are no numbers, with the step and the rows; everything that data,
    /// model and other ranks report. The parameters are then those of the update before.
    pub(super) fn update(&mut self, run: &mut Run) -> Result<Update> {
        let batches = agree(&*self.ranks, self.batches(run))?;
        let total = |of: &dyn Fn(&Batch) -> usize| batches.iter().map(|batch| of(batch) as f64).sum::<f64>();
        let interrupted = f64::from(u8::from((self.interrupted)()));
        let items = total(&|batch| self.model.items(batch));
        let mut sums = [items, total(&Batch::len), total(&|batch| batch.tokens), interrupted];
        self.ranks.sum(&mut sums)?;
        let [items, rows, tokens, interrupted] = sums;
        if interrupted > 0.0 {
            return Ok(Update::Interrupted);
        }
        event!(self, on_step_begin)?;
        run.gradients.zero();
        let mut loss = 0.0;
        for (number, batch) in batches.iter().enumerate() {
            let part = self.gradients(run, batch, number, items);
            loss += agree(&*self.ranks, part)?;
            if number + 1 < batches.len() {
                event!(self, on_substep_end)?;
            }
        }
        all_reduce_gradients(&*self.ranks, &mut run.gradients)?;
        let mut losses = [loss];
        self.ranks.sum(&mut losses)?;
        if let Some(scaler) = &run.scaler {
            run.gradients.scale(1.0 / scaler.scale());
        }
        let norm = run.gradients.clip(self.arguments.max_grad_norm);
        let made = match &mut run.scaler {
            Some(scaler) => scaler.update(norm.is_finite())?,
            None if norm.is_finite() => true,
            None => return Err(self.no_number("the norm of the gradients", norm, &batches)),
        };
        event!(self, on_pre_optimizer_step)?;
        run.rate = run.scheduler.lr();
        if made {
            let rate = run.rate;
            run.optimizer.step(self.source_mut(), &mut run.gradients, rate);
            run.scheduler.step();
            self.recompute();
        }
        event!(self, on_optimizer_step)?;
        run.norm = Some(norm);
        run.sums.loss += losses[0];
        run.rows += rows;
        run.tokens += tokens;
        self.state.num_input_tokens_seen += tokens as u64;
        self.state.global_step += 1;
        run.moved();
        self.state.epoch = run.epochs_done();
        event!(self, on_step_end)?;
        Ok(Update::Done)
    }

    /// The batches of the next update: fewer at the end of an epoch.
    fn batches(&self, run: &mut Run) -> Result<Vec<Batch>> {
        let epoch = run.loader.cursor().epoch;
        let mut batches = Vec::new();
        while batches.len() < self.arguments.gradient_accumulation_steps && run.loader.cursor().epoch == epoch {
            batches.push(run.loader.next_batch()?.1);
        }
        Ok(batches)
    }

    /// Adds the gradients of a batch to those of the update; its part of the loss.
    fn gradients(&mut self, run: &mut Run, batch: &Batch, number: usize, items: f64) -> Result<f64> {
        if self.model.items(batch) == 0 {
            return Ok(0.0);
        }
        let place = [STREAM, self.arguments.seed, self.state.global_step, number as u64, self.ranks.rank() as u64];
        let seed = Random::new(&place).bits();
        self.model.device().seed(seed);
        if let Some(adapters) = &mut self.adapters {
            adapters.begin(Some(seed));
        }
        let scores = self.model.forward(batch)?;
        let loss = self.model.loss(batch, scores, self.arguments.label_smoothing_factor)?.part(items);
        let value = f64::from(loss.clone().without_autodiff().into_scalar::<f32>());
        if !value.is_finite() {
            let logged = self.log(logs([("loss", value)]));
            return Err(logged.err().unwrap_or_else(|| self.no_number("the loss", value, std::slice::from_ref(batch))));
        }
        let loss = match &run.scaler {
            Some(scaler) => loss * scaler.scale(),
            None => loss,
        };
        // No trained parameter may take part in what the model says about this batch.
        if loss.is_tracked() {
            run.gradients.add(self.source(), &mut loss.backward());
        }
        Ok(value)
    }

    /// The error for something that is no number: the step, the rows, and a weight that is none either, if there is
    /// one.
    fn no_number(&self, what: &str, found: f64, batches: &[Batch]) -> Error {
        let mut rows: Vec<String> =
            batches.iter().flat_map(|batch| &batch.origins).take(MAX_ROWS + 1).map(ToString::to_string).collect();
        if rows.len() > MAX_ROWS {
            rows[MAX_ROWS] = "…".to_owned();
        }
        let broken = self.broken().map(|name| format!(", as is `{name}`")).unwrap_or_default();
        let step = self.state.global_step + 1;
        let found = format!("{what} is {found}{broken}, for {}", rows.join(", "));
        let folder = self.arguments.output_dir.display();
        let expected = format!(
            "numbers; lower `learning_rate` or look at these rows, and go on from the last checkpoint in `{folder}`"
        );
        Error::input(format!("step {step}"), found, expected)
    }

    /// Makes sure that all weights that are trained are numbers: an update that breaks them shows in the next loss only.
    ///
    /// # Errors
    /// [`Error::Input`] with the step and the first weight that is none.
    pub(super) fn check_weights(&self) -> Result<()> {
        let Some(name) = self.broken() else { return Ok(()) };
        let step = self.state.global_step;
        let found = format!("`{name}` has values that are no numbers, so that nothing of this step was saved");
        let folder = self.arguments.output_dir.display();
        let expected =
            format!("numbers; lower `learning_rate`, and go on from a checkpoint in `{folder}` or begin anew");
        Err(Error::input(format!("step {step}"), found, expected))
    }

    /// A weight that is trained and has values that are no numbers.
    fn broken(&self) -> Option<String> {
        let mut broken = None;
        self.source().visit(&mut |parameter| {
            let finite = || parameter.tensor.clone().untrack().flatten().into_data().iter::<f32>().all(f32::is_finite);
            if broken.is_none() && parameter.tensor.is_tracked() && !finite() {
                broken = Some(parameter.name.clone());
            }
        });
        broken
    }
}
