//! The epochs of a training: when it logs, evaluates, saves and ends, and how it goes on from a checkpoint.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tx_core::error::{Error, Result};

use super::load::restore;
use super::scaler::GradScaler;
use super::update::Update;
use super::{Trainer, event, write};
use crate::arguments::{Resume, SaveStrategy, TrainingArguments};
use crate::callback::CONTROL;
use crate::checkpoint::{Checkpoints, Metrics, Resumable, Saved, metric};
use crate::collate::DataLoader;
use crate::data::Cursor;
use crate::distributed::{agree, check_same, check_shared, digest};
use crate::logging::{logs, metric_logs, speed_metrics};
use crate::optimizer::Optimizer;
use crate::parameters::{Gradients, Trainable, untrack};
use crate::schedule::LrScheduler;

/// What a training gave.
#[derive(Debug, Clone)]
pub struct TrainOutput {
    /// The updates made, those before a resumption included.
    pub global_step: u64,
    /// The mean loss of all updates.
    pub training_loss: f64,
    /// HF's `train_runtime`, `train_samples_per_second` and so on.
    pub metrics: Metrics,
    /// Whether it was told to end before its last update. A checkpoint has it then.
    pub interrupted: bool,
}

/// The losses of updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// Since the last log.
    pub loss: f64,
    /// Before it.
    pub total_loss: f64,
    /// The step of the last log.
    pub globalstep_last_logged: u64,
}

/// What one training has besides the model.
pub(super) struct Run {
    pub optimizer: Optimizer,
    pub scheduler: LrScheduler,
    pub gradients: Gradients,
    pub loader: DataLoader,
    pub scaler: Option<GradScaler>,
    /// Only of the rank that writes.
    checkpoints: Option<Checkpoints>,
    /// Where the batches of the next update begin.
    cursor: Cursor,
    /// Whether the last update ended an epoch whose end has not been told yet.
    epoch_ends: bool,
    pub sums: Sums,
    /// The norm of the last gradients, and the rate of the last update.
    pub norm: Option<f64>,
    pub rate: f64,
    /// Examples and tokens of this call.
    pub rows: f64,
    pub tokens: f64,
    max_steps: u64,
    /// Whether somebody wants the training to end.
    interrupted: bool,
    /// The step of the last checkpoint of this call that a run can go on from.
    saved: Option<u64>,
}

impl Run {
    /// An update was made of the batches up to here.
    pub fn moved(&mut self) {
        let cursor = self.loader.cursor();
        self.epoch_ends = cursor.epoch > self.cursor.epoch;
        self.cursor = cursor;
    }

    /// How many epochs are done, with the part of the one that is being done.
    pub fn epochs_done(&self) -> f64 {
        self.cursor.epoch as f64 + self.cursor.batch as f64 / self.loader.batches().max(1) as f64
    }
}

impl Trainer {
    /// Trains until the last update, a callback or an interruption ends it.
    ///
    /// # Errors
    /// [`Error::Input`] without training data, in a folder with the checkpoints of another run, for a loss that is no
    /// number, with the rows of its batch, and for weights that are none; everything that data, callbacks, checkpoints
    /// and other ranks report. The last checkpoint stays as it is. If a row cannot be read, or another rank is gone, the
    /// rank that writes saves one more.
    pub fn train(&mut self) -> Result<TrainOutput> {
        let mut run = self.begin()?;
        let result = self.epochs(&mut run);
        if let Err(Error::Distributed { .. } | Error::Malformed { .. }) = &result
            && run.saved != Some(self.state.global_step)
            && self.state.global_step > 0
            // The others cannot be asked any more.
            && let Err(error) = self.write_checkpoint(&run, true)
        {
            tracing::warn!("no checkpoint of step {} was saved: {error}", self.state.global_step);
        }
        let result = result.and_then(|output| self.end(&run, output));
        untrack(self.source_mut());
        result
    }

    /// Everything that a training needs, from its first update or from a checkpoint on.
    fn begin(&mut self) -> Result<Run> {
        let Some(train) = self.train.clone() else { return Err(Error::input("train", "no data", "a file of rows")) };
        let loader = self.loader(&train, true)?;
        let per_epoch = self.updates(&loader);
        let max_steps = match u64::try_from(self.arguments.max_steps) {
            Ok(steps) if steps > 0 => steps,
            _ => (self.arguments.num_train_epochs * per_epoch as f64).ceil() as u64,
        };
        if self.ranks.size() > 1 {
            let plan = self.plan(&loader, max_steps).to_string();
            check_same(&*self.ranks, "arguments or data", plan.as_bytes())?;
        }
        let opened = self.ranks.is_main().then(|| self.checkpoints()).transpose();
        let checkpoints = agree(&*self.ranks, opened)?;
        if self.ranks.size() > 1 && self.arguments.load_best_model_at_end {
            check_shared(&*self.ranks, &self.arguments.output_dir)?;
        }
        let saved = self.checkpoint_to_go_on_from(checkpoints.as_ref())?;
        let trainable = std::mem::replace(&mut self.trainable, Trainable::all());
        let trainable =
            if self.arguments.bf16 || self.arguments.fp16 { trainable.in_stored_dtype() } else { trainable };
        let tracked = trainable.track(self.source_mut());
        self.trainable = trainable;
        tracked?;
        self.model.set_dtype(match (self.arguments.bf16, self.arguments.fp16) {
            (true, _) => "bfloat16",
            (_, true) => "float16",
            _ => "float32",
        });
        let mut run = Run {
            optimizer: Optimizer::new(&self.arguments),
            scheduler: LrScheduler::new(&self.arguments, max_steps)?,
            gradients: Gradients::new(self.source()),
            loader,
            scaler: self.arguments.fp16.then(GradScaler::default),
            checkpoints,
            cursor: Cursor::default(),
            epoch_ends: false,
            sums: Sums::default(),
            norm: None,
            rate: 0.0,
            rows: 0.0,
            tokens: 0.0,
            max_steps,
            interrupted: false,
            saved: None,
        };
        self.state = Default::default();
        self.control = Default::default();
        if let Some(saved) = saved {
            let restored = self.restore(&mut run, &saved);
            agree(&*self.ranks, restored)?;
        }
        self.recompute();
        if self.ranks.size() > 1 {
            check_same(&*self.ranks, "weights", &digest(self.source()))?;
        }
        self.state.compute_steps(&self.arguments, max_steps);
        self.state.num_train_epochs = max_steps.div_ceil(per_epoch);
        Ok(run)
    }

    /// The updates of an epoch.
    fn updates(&self, loader: &DataLoader) -> u64 {
        loader.batches().div_ceil(self.arguments.gradient_accumulation_steps as u64).max(1)
    }

    /// The checkpoints of this run. Among those of another one, which would be taken for its own, none begins anew.
    fn checkpoints(&self) -> Result<Checkpoints> {
        let TrainingArguments { output_dir, resume_from_checkpoint, .. } = &self.arguments;
        let checkpoints = Checkpoints::open(output_dir)?;
        if *resume_from_checkpoint == Resume::No && !checkpoints.complete()?.is_empty() {
            let found = format_args!("`{}`, a folder with checkpoints of another run", output_dir.display());
            let expected = "another folder, or `--resume` (`resume_from_checkpoint`) to go on with that run";
            return Err(Error::input("output_dir", found, expected));
        }
        Ok(checkpoints)
    }

    /// What ranks must have in common.
    fn plan(&self, loader: &DataLoader, max_steps: u64) -> Value {
        let mut arguments = self.arguments.to_json();
        // A folder may have another path on another machine.
        arguments.remove("output_dir");
        json!({
            "arguments": arguments,
            "eval": self.eval.as_ref().map(|eval| eval.examples.statistics().data()),
            "max_steps": max_steps,
            "order": self.order(loader),
        })
    }

    /// The checkpoint that the arguments name: rank 0 chooses, and the others take the same one.
    fn checkpoint_to_go_on_from(&self, checkpoints: Option<&Checkpoints>) -> Result<Option<Saved>> {
        let from = &self.arguments.resume_from_checkpoint;
        if *from == Resume::No {
            return Ok(None);
        }
        let chosen = checkpoints.map(|checkpoints| checkpoints.resume(from)).transpose().map(Option::flatten);
        let chosen = agree(&*self.ranks, chosen)?;
        if self.ranks.size() == 1 {
            return Ok(chosen);
        }
        let path = chosen.as_ref().map(|saved| saved.path.to_string_lossy().into_owned()).unwrap_or_default();
        let path = self.ranks.broadcast(0, path.into_bytes())?;
        let path = String::from_utf8_lossy(&path).into_owned();
        let opened = if self.ranks.is_main() { Ok(chosen) } else { Saved::from_folder(Path::new(&path)).map(Some) };
        agree(&*self.ranks, opened)
    }

    /// Goes on from a checkpoint.
    fn restore(&mut self, run: &mut Run, saved: &Saved) -> Result<()> {
        match &mut self.adapters {
            Some(adapters) => adapters.load(&saved.path)?,
            None => {
                let weights = self.model.saved_weights(&saved.path)?;
                restore(&mut self.model, &weights)?;
            }
        }
        let (path, mut kept) = saved.rng()?;
        let now = self.order(&run.loader);
        let mut pairs = now.as_object().into_iter().flatten();
        if let Some((key, value)) = pairs.find(|(key, value)| kept.get(*key) != Some(*value)) {
            let before = kept.get(key).unwrap_or(&Value::Null);
            let reason =
                format_args!("{before} in the checkpoint, and {value} now; a run goes on only as it has begun");
            return Err(Error::config(&path, key, reason));
        }
        let malformed = |error: serde_json::Error| Error::malformed(&path, error);
        run.cursor = serde_json::from_value(kept["cursor"].take()).map_err(malformed)?;
        run.sums = serde_json::from_value(kept["sums"].take()).map_err(malformed)?;
        run.epoch_ends = kept["epoch_ends"].as_bool().unwrap_or(false);
        run.norm = kept["norm"].as_f64();
        run.rate = kept["rate"].as_f64().unwrap_or(0.0);
        run.loader.seek(run.cursor)?;
        run.optimizer.load(self.source(), &saved.optimizer()?)?;
        let (path, state) = saved.scheduler()?;
        run.scheduler.load_state(&path, &state)?;
        if let (Some(scaler), Some((path, state))) = (&mut run.scaler, saved.scaler()?) {
            *scaler = GradScaler::from_state(&path, state)?;
        }
        self.state = saved.state.clone();
        // An evaluation that was cut short is made up for, and what comes after it.
        let control = saved.state.stateful_callbacks.get(CONTROL).and_then(|control| control.get("args"));
        let was_to = |key: &str| control.and_then(|control| control.get(key)) == Some(&Value::Bool(true));
        if was_to("should_evaluate") {
            (self.control.should_evaluate, self.control.should_save) = (true, was_to("should_save"));
        }
        match self.arguments.restore_callback_states_from_checkpoint {
            true => self.handler.restore(&saved.state.stateful_callbacks),
            false => Ok(()),
        }
    }

    /// What the batches depend on.
    fn order(&self, loader: &DataLoader) -> Value {
        let arguments = &self.arguments;
        json!({
            "seed": arguments.seed,
            "data_seed": arguments.data_seed.unwrap_or(arguments.seed),
            "train_sampling_strategy": arguments.train_sampling_strategy.name(),
            "dataloader_drop_last": arguments.dataloader_drop_last,
            "batch_size": arguments.per_device_train_batch_size * self.ranks.size(),
            "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
            "examples": loader.examples().len(),
            "data": loader.examples().statistics().data(),
        })
    }

    fn epochs(&mut self, run: &mut Run) -> Result<TrainOutput> {
        let (start, first_step) = (Instant::now(), self.state.global_step);
        event!(self, on_train_begin)?;
        if self.arguments.eval_on_start && first_step == 0 {
            run.interrupted = self.evaluate()?.is_none();
        }
        // A checkpoint may be of a step whose evaluation was cut short, or of the last one of an epoch, before its end
        // was told.
        if self.control.should_evaluate {
            self.log_save_evaluate(run, false)?;
        }
        if run.epoch_ends && !run.interrupted {
            self.end_epoch(run)?;
        }
        'training: while self.state.global_step < run.max_steps
            && !self.control.should_training_stop
            && !run.interrupted
        {
            let epoch = run.cursor.epoch;
            event!(self, on_epoch_begin)?;
            while run.cursor.epoch == epoch {
                if self.update(run)? == Update::Interrupted {
                    run.interrupted = true;
                    break 'training;
                }
                self.log_save_evaluate(run, false)?;
                if run.interrupted {
                    break 'training;
                }
                if self.control.should_epoch_stop || self.control.should_training_stop {
                    break;
                }
            }
            if self.control.should_epoch_stop && run.cursor.epoch == epoch {
                run.cursor = Cursor { epoch: epoch + 1, batch: 0 };
                run.loader.seek(run.cursor)?;
                run.epoch_ends = true;
            }
            self.end_epoch(run)?;
        }
        let interrupted = run.interrupted;
        if interrupted && run.saved != Some(self.state.global_step) {
            // The batches of the update that was not made are still to come.
            run.loader.seek(run.cursor)?;
            self.save(run, true)?;
        }
        let steps = self.state.global_step - first_step;
        let mut metrics = speed_metrics("train", start.elapsed(), Some(run.rows), Some(steps), None);
        if run.tokens > 0.0 {
            metrics.extend(speed_metrics("train", start.elapsed(), None, None, Some(run.tokens as u64)));
        }
        let training_loss = (run.sums.total_loss + run.sums.loss) / self.state.global_step.max(1) as f64;
        metrics.insert("train_loss".to_owned(), training_loss);
        Ok(TrainOutput { global_step: self.state.global_step, training_loss, metrics, interrupted })
    }

    fn end_epoch(&mut self, run: &mut Run) -> Result<()> {
        event!(self, on_epoch_end)?;
        let result = self.log_save_evaluate(run, true);
        if run.epoch_ends {
            // A run that goes on from here tells the end once more, and asks for the same again.
            (self.control.should_evaluate, self.control.should_save) = (false, false);
        }
        result
    }

    /// Logs the end, and takes the best weights if the arguments say so.
    fn end(&mut self, run: &Run, output: TrainOutput) -> Result<TrainOutput> {
        let TrainOutput { mut metrics, interrupted, .. } = output;
        self.log(metric_logs(&metrics))?;
        metrics.insert("epoch".to_owned(), self.state.epoch);
        if !interrupted && self.arguments.load_best_model_at_end {
            let best = self.state.best_checkpoint(&self.arguments.output_dir);
            let loaded = best.map_or(Ok(()), |best| match &mut self.adapters {
                Some(adapters) => adapters.load(&best),
                None => self.model.saved_weights(&best).and_then(|weights| restore(&mut self.model, &weights)),
            });
            agree(&*self.ranks, loaded)?;
        }
        if !interrupted {
            self.check_weights()?;
        }
        if let Some(checkpoints) = run.checkpoints.as_ref().filter(|_| !interrupted) {
            checkpoints.keep_best(self.arguments.save_total_limit, &self.state)?;
        }
        event!(self, on_train_end)?;
        Ok(TrainOutput { metrics, ..output })
    }

    /// Does what the callbacks asked for, after an update or at the end of an epoch.
    fn log_save_evaluate(&mut self, run: &mut Run, epoch_end: bool) -> Result<()> {
        let step = self.state.global_step;
        if self.control.should_log && step > run.sums.globalstep_last_logged {
            let updates = (step - run.sums.globalstep_last_logged) as f64;
            let mut values = vec![("loss", run.sums.loss / updates)];
            values.extend(run.norm.map(|norm| ("grad_norm", norm)));
            values.push(("learning_rate", run.rate));
            run.sums =
                Sums { loss: 0.0, total_loss: run.sums.total_loss + run.sums.loss, globalstep_last_logged: step };
            self.log(logs(values))?;
        }
        if self.control.should_evaluate {
            let Some(metrics) = self.evaluate()? else {
                // A checkpoint of this step does not know yet that an evaluation is due.
                (run.interrupted, run.saved) = (true, None);
                return Ok(());
            };
            if run.scheduler.is_adaptive()
                && let Some(key) = self.arguments.best_metric_key()
            {
                run.scheduler.evaluated(metric(&metrics, &key)?);
            }
            let better = self.state.update_best(&self.arguments, &metrics)?;
            if self.arguments.save_strategy == SaveStrategy::Best {
                self.control.should_save = better;
            }
        }
        // A run that goes on from here need not do again what is done.
        run.epoch_ends &= !epoch_end;
        if self.control.should_save {
            self.save(run, !self.arguments.save_only_model)?;
        }
        Ok(())
    }

    /// Saves a checkpoint, which all ranks then know of.
    fn save(&mut self, run: &mut Run, resumable: bool) -> Result<()> {
        let written = self.write_checkpoint(run, resumable);
        agree(&*self.ranks, written)?;
        if self.ranks.size() > 1 {
            let best = self.state.best_model_checkpoint.as_ref().map(|path| path.to_string_lossy().into_owned());
            let best = self.ranks.broadcast(0, best.unwrap_or_default().into_bytes())?;
            let best = String::from_utf8_lossy(&best).into_owned();
            self.state.best_model_checkpoint = (!best.is_empty()).then(|| best.into());
        }
        if resumable {
            run.saved = Some(self.state.global_step);
        }
        event!(self, on_save)
    }

    /// Writes a checkpoint, on the rank that does so. Weights that are no numbers must not take the place of good ones.
    fn write_checkpoint(&mut self, run: &Run, resumable: bool) -> Result<()> {
        let Some(checkpoints) = &run.checkpoints else { return Ok(()) };
        self.check_weights()?;
        self.state.stateful_callbacks = self.handler.states(&self.control);
        let resumable = resumable.then(|| {
            let mut rng = self.order(&run.loader);
            rng["cursor"] = json!(run.cursor);
            rng["sums"] = json!(run.sums);
            rng["epoch_ends"] = json!(run.epoch_ends);
            rng["norm"] = json!(run.norm);
            rng["rate"] = json!(run.rate);
            Resumable {
                optimizer: run.optimizer.save(),
                scheduler: run.scheduler.state(),
                rng,
                scaler: run.scaler.as_ref().map(GradScaler::state),
            }
        });
        let (model, adapters, companions) = (&self.model, self.adapters.as_deref(), &self.companions);
        let write = |folder: &Path| write(model, adapters, companions, folder);
        checkpoints.save(&self.arguments, &mut self.state, resumable, write).map(drop)
    }
}
