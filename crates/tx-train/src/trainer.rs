//! The loop: HF's `Trainer`.
//!
//! Reference: transformers 5.23.0, `trainer.py`. An update is made of `gradient_accumulation_steps` batches. Its loss is the
//! mean over all that they count together, on all ranks (HF's `num_items_in_batch`), whichever batch they are in; so are
//! its gradients. Models have no dropout: a run depends on its seed through the order of rows and the tokens that are
//! hidden alone, which follow from the place in the data, so that a resumed run goes on bit for bit.
//!
//! | file | holds |
//! |---|---|
//! | `model.rs` | a model of a task, from a batch to its loss |
//! | `task.rs` | what models are trained for, and how data become examples for it |
//! | `config.rs` | the file that `tx train` reads |
//! | `head.rs` | a head for other classes |
//! | `judge.rs` | the metrics of an evaluation |

mod config;
mod head;
mod judge;
mod model;
mod task;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use tx_core::error::{Error, Result};

pub use self::config::TrainConfig;
pub use self::head::Head;
use self::judge::Judge;
pub use self::model::{Forward, TrainingModel};
pub use self::task::{DataPreparation, TrainingTask, find_head, head_of};
use crate::arguments::{Resume, SamplingStrategy, SaveStrategy, TrainingArguments};
use crate::callback::{Callback, CallbackHandler, Context, TrainerControl};
use crate::checkpoint::{Checkpoints, Metrics, Resumable, Saved, TrainerState};
use crate::collate::{Batch, Collator, DataLoader};
use crate::data::{Cursor, Examples, Order, SamplerOptions};
use crate::distributed::{Communicator, agree, all_reduce_gradients, check_same, digest};
use crate::logging::{add_loggers, logs, metric_logs, speed_metrics};
use crate::optimizer::Optimizer;
use crate::parameters::{Gradients, Trainable, untrack};
use crate::schedule::LrScheduler;

/// Tells the callbacks of an event.
macro_rules! event {
    ($trainer:ident, $event:ident $(, $argument:expr)*) => {{
        let context = Context { arguments: &$trainer.arguments, state: &$trainer.state };
        $trainer.handler.$event(context, &mut $trainer.control $(, $argument)*)
    }};
}

/// What a training gave.
#[derive(Debug, Clone)]
pub struct TrainOutput {
    /// The updates made, those before a resumption included.
    pub global_step: u64,
    /// The mean loss of this run's updates.
    pub training_loss: f64,
    /// HF's `train_runtime`, `train_samples_per_second` and so on.
    pub metrics: Metrics,
    /// Whether it was told to end before its last update.
    pub interrupted: bool,
}

/// What writes files into a folder.
type Companions = dyn Fn(&Path) -> Result<()>;

/// The data of a split.
type Split = (std::sync::Arc<Examples>, Collator);

/// Trains a model.
pub struct Trainer {
    model: TrainingModel,
    arguments: TrainingArguments,
    train: Option<Split>,
    eval: Option<Split>,
    handler: CallbackHandler,
    ranks: Box<dyn Communicator>,
    /// Writes what belongs to the model besides its weights, such as the tokenizer, into a folder.
    companions: Box<Companions>,
    interrupted: fn() -> bool,
    state: TrainerState,
    control: TrainerControl,
}

impl fmt::Debug for Trainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("model", &self.model)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

impl Trainer {
    /// A trainer of a model, with data that [`DataPreparation::prepare`] made.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for precisions that no device here computes gradients in.
    pub fn new(
        model: TrainingModel,
        arguments: TrainingArguments,
        train: Option<Split>,
        eval: Option<Split>,
        ranks: Box<dyn Communicator>,
    ) -> Result<Self> {
        for (key, wanted) in [
            ("bf16", arguments.bf16),
            ("fp16", arguments.fp16),
            ("activation_checkpointing", arguments.activation_checkpointing),
        ] {
            if wanted {
                return Err(Error::input(key, true, "false: gradients are computed in f32, and activations are kept"));
            }
        }
        let mut handler = CallbackHandler::new(&arguments);
        if ranks.is_main() {
            add_loggers(&mut handler, &arguments);
        }
        Ok(Self {
            model,
            arguments,
            train,
            eval,
            handler,
            ranks,
            companions: Box::new(|_| Ok(())),
            interrupted: || false,
            state: TrainerState::default(),
            control: TrainerControl::default(),
        })
    }

    /// Calls `callback` too.
    #[must_use]
    pub fn with_callback(mut self, callback: Box<dyn Callback>) -> Self {
        self.handler.add(callback);
        self
    }

    /// Writes what belongs to the model besides its weights into every folder that the model is saved to.
    #[must_use]
    pub fn with_companions(self, companions: impl Fn(&Path) -> Result<()> + 'static) -> Self {
        Self { companions: Box::new(companions), ..self }
    }

    /// Saves a checkpoint and ends after the update in which `interrupted` begins to say yes.
    #[must_use]
    pub fn until(self, interrupted: fn() -> bool) -> Self {
        Self { interrupted, ..self }
    }

    /// The model.
    pub fn model(&self) -> &TrainingModel {
        &self.model
    }

    /// Where the training stands, with everything that was logged.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// Takes leave of the other ranks. It belongs after all else, on every rank.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    pub fn finish(&self) -> Result<()> {
        self.ranks.finish()
    }

    /// Writes the model, and what belongs to it, into a folder that Python opens too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_model(&self, folder: &Path) -> Result<()> {
        self.model.save(folder)?;
        (self.companions)(folder)
    }

    fn loader(&self, split: &Split, training: bool) -> Result<DataLoader> {
        let arguments = &self.arguments;
        let order = match arguments.train_sampling_strategy {
            _ if !training => Order::Sequential,
            SamplingStrategy::Random => Order::Random,
            SamplingStrategy::Sequential => Order::Sequential,
            SamplingStrategy::GroupByLength => Order::GroupByLength,
        };
        let batch_size =
            if training { arguments.per_device_train_batch_size } else { arguments.per_device_eval_batch_size };
        let options = SamplerOptions {
            order,
            seed: arguments.data_seed.unwrap_or(arguments.seed),
            batch_size,
            world_size: self.ranks.size(),
            rank: self.ranks.rank(),
            drop_last: training && arguments.dataloader_drop_last,
        };
        DataLoader::new(split.0.clone(), split.1.clone(), options)
    }

    /// Trains until the last update, a callback or an interruption ends it.
    ///
    /// # Errors
    /// [`Error::Input`] without training data; [`Error::Malformed`] for a loss that is no number, with the rows of its
    /// batch; everything that data, callbacks, checkpoints and other ranks report. The last checkpoint stays as it is.
    pub fn train(&mut self) -> Result<TrainOutput> {
        let Some(train) = self.train.clone() else { return Err(Error::input("train", "no data", "a file of rows")) };
        let mut loader = self.loader(&train, true)?;
        let (batches, accumulation) = (loader.batches(), self.arguments.gradient_accumulation_steps as u64);
        let per_epoch = batches.div_ceil(accumulation).max(1);
        let epochs = self.arguments.num_train_epochs;
        let max_steps = match u64::try_from(self.arguments.max_steps) {
            Ok(steps) if steps > 0 => steps,
            _ => (epochs * per_epoch as f64).ceil() as u64,
        };
        let checkpoints =
            if self.ranks.is_main() { Some(Checkpoints::open(&self.arguments.output_dir)?) } else { None };
        let resumed = self.resume(checkpoints.as_ref())?;

        let mut scheduler = LrScheduler::new(&self.arguments, max_steps)?;
        let mut optimizer = Optimizer::new(&self.arguments);
        Trainable::all().track(&mut self.model)?;
        if let Some(saved) = &resumed {
            self.state = saved.state.clone();
            self.handler.restore(&saved.state.stateful_callbacks)?;
            optimizer.load(&self.model, &saved.optimizer()?)?;
            let (path, state) = saved.scheduler()?;
            scheduler.load_state(&path, &state)?;
            let (path, cursor) = saved.rng()?;
            let cursor: Cursor =
                serde_json::from_value(cursor["cursor"].clone()).map_err(|error| Error::malformed(&path, error))?;
            loader.seek(cursor)?;
        }
        check_same(&*self.ranks, "weights", &digest(&self.model))?;
        self.state.compute_steps(&self.arguments, max_steps);
        self.state.num_train_epochs = max_steps.div_ceil(per_epoch);
        let mut run = Run {
            gradients: Gradients::new(&self.model),
            optimizer,
            scheduler,
            checkpoints,
            loader,
            logged: (0.0, self.state.global_step),
            norm: None,
            rate: 0.0,
            told_to_end: false,
        };
        let result = self.run(&mut run, max_steps, per_epoch);
        if matches!(result, Err(Error::Distributed { .. })) && self.state.global_step > 0 {
            // The others cannot be waited for any more. What the last update left is whole.
            match self.write(&mut run) {
                Ok(path) if self.ranks.is_main() => tracing::warn!("the last update is kept in {}", path.display()),
                Ok(_) => {}
                Err(error) => tracing::error!("the last update could not be saved: {error}"),
            }
        }
        untrack(&mut self.model);
        let mut output = result?;
        if self.arguments.load_best_model_at_end && !output.interrupted {
            self.load_best(run.checkpoints.as_ref())?;
        }
        let metrics = std::mem::take(&mut output.metrics);
        self.log(&metrics)?;
        event!(self, on_train_end)?;
        Ok(TrainOutput { metrics, ..output })
    }

    /// The checkpoint to go on from, with its weights in the model.
    fn resume(&mut self, checkpoints: Option<&Checkpoints>) -> Result<Option<Saved>> {
        let from = &self.arguments.resume_from_checkpoint;
        if *from == Resume::No {
            return Ok(None);
        }
        // Rank 0 chooses, the others take the same one.
        let chosen = agree(&*self.ranks, checkpoints.map(|checkpoints| checkpoints.resume(from)).transpose())?;
        let path = chosen.iter().flatten().next().map(|saved| saved.path.to_string_lossy().into_owned());
        let path = self.ranks.broadcast(0, path.unwrap_or_default().into_bytes())?;
        let saved = match chosen {
            Some(saved) => saved,
            None if path.is_empty() => None,
            None => Some(Saved::from_folder(Path::new(&*String::from_utf8_lossy(&path)))?),
        };
        if let Some(saved) = &saved {
            self.model.load(&saved.path)?;
        }
        Ok(saved)
    }

    fn load_best(&mut self, checkpoints: Option<&Checkpoints>) -> Result<()> {
        if let Some(best) = self.state.best_checkpoint(&self.arguments.output_dir) {
            self.model.load(&best)?;
        }
        if let Some(checkpoints) = checkpoints {
            checkpoints.keep_best(self.arguments.save_total_limit, &self.state)?;
        }
        Ok(())
    }

    fn run(&mut self, run: &mut Run, max_steps: u64, per_epoch: u64) -> Result<TrainOutput> {
        let (start, first_step) = (Instant::now(), self.state.global_step);
        let (mut total, mut samples, mut interrupted) = (0.0, 0, false);
        event!(self, on_train_begin)?;
        if self.arguments.eval_on_start && first_step == 0 {
            self.evaluate_in(run)?;
        }
        while self.state.global_step < max_steps && !self.control.should_training_stop && !interrupted {
            let epoch = run.loader.cursor().epoch;
            event!(self, on_epoch_begin)?;
            while run.loader.cursor().epoch == epoch && self.state.global_step < max_steps {
                event!(self, on_step_begin)?;
                let (loss, rows) = self.update(run)?;
                total += loss;
                samples += rows;
                run.logged.0 += loss;
                self.state.global_step += 1;
                let at = run.loader.cursor();
                self.state.epoch = at.epoch as f64
                    + (at.batch.div_ceil(self.arguments.gradient_accumulation_steps as u64)) as f64 / per_epoch as f64;
                event!(self, on_step_end)?;
                interrupted = run.told_to_end;
                self.after_step(run, interrupted)?;
                if interrupted || self.control.should_epoch_stop || self.control.should_training_stop {
                    break;
                }
            }
            if !interrupted {
                event!(self, on_epoch_end)?;
                self.after_step(run, false)?;
            }
        }
        let steps = self.state.global_step - first_step;
        let mut metrics = speed_metrics("train", start.elapsed(), Some(samples as f64), Some(steps), None);
        let training_loss = total / steps.max(1) as f64;
        metrics.insert("train_loss".to_owned(), training_loss);
        metrics.insert("epoch".to_owned(), self.state.epoch);
        Ok(TrainOutput { global_step: self.state.global_step, training_loss, metrics, interrupted })
    }

    /// One update: its mean loss, and how many rows it was made of. Without one, the next batches are those of before.
    fn update(&mut self, run: &mut Run) -> Result<(f64, usize)> {
        let before = run.loader.cursor();
        let result = self.learn(run);
        if result.is_err() {
            run.loader.seek(before)?;
        }
        result
    }

    /// The batches of one update.
    fn parts(&self, loader: &mut DataLoader) -> Result<Vec<Batch>> {
        let epoch = loader.cursor().epoch;
        let mut parts = Vec::new();
        while parts.len() < self.arguments.gradient_accumulation_steps && loader.cursor().epoch == epoch {
            parts.push(loader.next_batch()?.1);
        }
        Ok(parts)
    }

    /// Adds up the gradients of the batches of this rank, and gives their part of the mean over `items`.
    fn backward(&self, gradients: &mut Gradients, parts: &[Batch], items: f64) -> Result<f64> {
        let mut loss = 0.0;
        gradients.zero();
        for batch in parts.iter().filter(|batch| self.model.items(batch) > 0) {
            // Without the scores, whose memory the gradients take.
            let part = self.model.forward(batch, self.arguments.label_smoothing_factor)?.loss.part(items);
            let value = f64::from(part.clone().without_autodiff().into_scalar::<f32>());
            if !value.is_finite() {
                return Err(self.no_number(value, batch));
            }
            loss += value;
            gradients.add(&self.model, &mut part.backward());
        }
        Ok(loss)
    }

    fn learn(&mut self, run: &mut Run) -> Result<(f64, usize)> {
        let parts = agree(&*self.ranks, self.parts(&mut run.loader))?;
        let mut counts = [
            parts.iter().map(|batch| self.model.items(batch) as f64).sum::<f64>(),
            parts.iter().map(|batch| batch.len() as f64).sum(),
            parts.iter().map(|batch| batch.tokens as f64).sum(),
        ];
        self.ranks.sum(&mut counts)?;
        let [items, rows, tokens] = counts;
        let loss = agree(&*self.ranks, self.backward(&mut run.gradients, &parts, items))?;
        all_reduce_gradients(&*self.ranks, &mut run.gradients)?;
        // A signal may reach one rank before the other: all end after the same update.
        let mut losses = [loss, f64::from(u8::from((self.interrupted)()))];
        self.ranks.sum(&mut losses)?;
        run.told_to_end = losses[1] > 0.0;
        let norm = run.gradients.clip(self.arguments.max_grad_norm);
        if !norm.is_finite()
            && let Some(batch) = parts.first()
        {
            return Err(self.no_number(norm, batch));
        }
        run.norm = Some(norm);
        event!(self, on_pre_optimizer_step)?;
        run.optimizer.step(&mut self.model, &mut run.gradients, run.scheduler.lr());
        run.rate = run.scheduler.lr();
        run.scheduler.step();
        event!(self, on_optimizer_step)?;
        self.state.num_input_tokens_seen += tokens as u64;
        Ok((losses[0], rows as usize))
    }

    /// The error for a loss or gradients that are no numbers: the step, and the rows that it was made of.
    fn no_number(&self, found: f64, batch: &Batch) -> Error {
        let step = self.state.global_step + 1;
        let rows: Vec<String> = batch.origins.iter().take(4).map(ToString::to_string).collect();
        let more = if batch.origins.len() > 4 { ", …" } else { "" };
        let kept = self.arguments.output_dir.display();
        Error::input(
            format!("step {step}"),
            format_args!("a loss or gradients of {found}, with {}{more}", rows.join(", ")),
            format_args!("numbers; the checkpoints in `{kept}` are as they were: a lower learning rate, or other rows"),
        )
    }

    /// Logs, evaluates and saves, as the callbacks asked for.
    fn after_step(&mut self, run: &mut Run, interrupted: bool) -> Result<()> {
        let step = self.state.global_step;
        if self.control.should_log && step > run.logged.1 {
            let mean = run.logged.0 / (step - run.logged.1) as f64;
            run.logged = (0.0, step);
            let mut metrics = Metrics::from([
                ("loss".to_owned(), mean),
                ("learning_rate".to_owned(), run.rate),
                ("epoch".to_owned(), self.state.epoch),
            ]);
            if let Some(norm) = run.norm {
                metrics.insert("grad_norm".to_owned(), norm);
            }
            self.log(&metrics)?;
        }
        let mut better = false;
        if self.control.should_evaluate {
            better = self.evaluate_in(run)?;
        }
        let best = self.arguments.save_strategy == SaveStrategy::Best;
        if (self.control.should_save && !best) || (best && better) || interrupted {
            self.save(run)?;
        }
        Ok(())
    }

    /// Evaluates, and says whether nothing before was better.
    fn evaluate_in(&mut self, run: &mut Run) -> Result<bool> {
        let metrics = self.evaluate()?;
        event!(self, on_evaluate, &metrics)?;
        if let Some(metric) = self.arguments.best_metric_key().and_then(|key| metrics.get(&key)) {
            run.scheduler.evaluated(*metric);
        }
        self.state.update_best(&self.arguments, &metrics)
    }

    /// The metrics of the evaluation data, whose names begin with `eval_`.
    ///
    /// # Errors
    /// [`Error::Input`] without such data; everything that data and model report.
    pub fn evaluate(&mut self) -> Result<Metrics> {
        let Some(eval) = self.eval.clone() else { return Err(Error::input("eval", "no data", "a file of rows")) };
        let mut loader = self.loader(&eval, false)?;
        let start = Instant::now();
        let judged = self.judge(&mut loader);
        let judge = agree(&*self.ranks, judged)?;
        let mut rows = [judge.rows() as f64];
        self.ranks.sum(&mut rows)?;
        let mut metrics = judge.metrics(&*self.ranks)?;
        metrics.extend(speed_metrics("eval", start.elapsed(), Some(rows[0]), Some(loader.batches()), None));
        metrics.insert("epoch".to_owned(), self.state.epoch);
        self.log(&metrics)?;
        Ok(metrics)
    }

    /// What this rank's part of the evaluation data gives.
    fn judge(&mut self, loader: &mut DataLoader) -> Result<Judge> {
        let mut judge = Judge::new(&self.model)?;
        for _ in 0..loader.batches() {
            let (_, batch) = loader.next_batch()?;
            if !batch.is_empty() {
                let forward = self.model.forward(&batch, 0.0)?;
                judge.add(&self.model, &batch, forward)?;
            }
            event!(self, on_prediction_step)?;
        }
        Ok(judge)
    }

    fn log(&mut self, metrics: &Metrics) -> Result<()> {
        let logs = if metrics.is_empty() { logs([]) } else { metric_logs(metrics) };
        self.state.log(&logs);
        event!(self, on_log, &logs)
    }

    fn save(&mut self, run: &mut Run) -> Result<PathBuf> {
        // Nobody goes on before it is written.
        let written = self.write(run);
        let path = agree(&*self.ranks, written)?;
        event!(self, on_save)?;
        Ok(path)
    }

    /// Writes a checkpoint, if this is the rank that writes, and waits for nobody.
    fn write(&mut self, run: &mut Run) -> Result<PathBuf> {
        self.state.stateful_callbacks = self.handler.states(&self.control);
        let mut path = PathBuf::new();
        if let Some(checkpoints) = &run.checkpoints {
            let resumable = (!self.arguments.save_only_model).then(|| Resumable {
                optimizer: run.optimizer.save(),
                scheduler: run.scheduler.state(),
                rng: json!({ "cursor": run.loader.cursor() }),
                scaler: None,
            });
            let (model, companions) = (&self.model, &self.companions);
            path = checkpoints.save(&self.arguments, &mut self.state, resumable, |folder| {
                model.save(folder)?;
                companions(folder)
            })?;
        }
        Ok(path)
    }
}

/// What one training has beside the model.
struct Run {
    gradients: Gradients,
    optimizer: Optimizer,
    scheduler: LrScheduler,
    checkpoints: Option<Checkpoints>,
    loader: DataLoader,
    /// The losses since the last log, and the step that it was at.
    logged: (f64, u64),
    /// The norm of the last gradients.
    norm: Option<f64>,
    /// The rate of the last update.
    rate: f64,
    /// Whether a rank has been told to end.
    told_to_end: bool,
}
