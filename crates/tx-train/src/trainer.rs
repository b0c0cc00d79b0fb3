//! The loop: HF's `Trainer`.
//!
//! Reference: transformers 5.23.0, `trainer.py`. An update is made of `gradient_accumulation_steps` batches. Its loss
//! is the mean over all that they count together, on all ranks (HF's `num_items_in_batch`), whichever batch they are
//! in; so are its gradients.
//!
//! Models have no dropout. A run depends on its seed through the first weights, the order of rows and the tokens that
//! are hidden, which follow from the place in the data, and through what adapters draw, which is seeded for every batch
//! by its place. So nothing random has a state, and a resumed run goes on bit for bit.
//!
//! | file | holds |
//! |---|---|
//! | `run.rs` | the epochs: when to log, evaluate, save and end; going on from a checkpoint |
//! | `update.rs` | one update |
//! | `evaluate.rs` | an evaluation, without gradients |
//! | `judge.rs`, `answers.rs` | its metrics |
//! | `scaler.rs` | the scale of the loss in f16 |
//! | `model.rs`, `sentences.rs` | a model of a task, from a batch to its loss |
//! | `load.rs`, `initial.rs` | models with new heads, or from a config alone |
//! | `task.rs` | what models are trained for |
//! | `options.rs`, `data.rs` | `[data]`: from files to examples |
//! | `config.rs` | the file that `tx train` reads |

mod answers;
mod config;
mod data;
mod evaluate;
mod initial;
mod judge;
mod load;
mod model;
mod options;
mod run;
mod scaler;
mod sentences;
mod task;
mod update;

use std::fmt;
use std::path::Path;

use burn::tensor::DType;
use tx_core::device;
use tx_core::error::{Error, Result};

pub use self::config::{Setting, TrainConfig};
pub use self::data::{Companions, Part, TrainingData};
pub use self::load::ModelOptions;
pub use self::model::{Scores, TrainingModel};
pub use self::options::{DataOptions, TaskOptions};
pub use self::run::TrainOutput;
pub use self::sentences::Sentences;
pub use self::task::TrainingTask;
use crate::arguments::{SamplingStrategy, TrainingArguments};
use crate::callback::{Callback, CallbackHandler, TrainerControl};
use crate::checkpoint::TrainerState;
use crate::collate::DataLoader;
use crate::data::{Order, SamplerOptions};
use crate::distributed::{Communicator, Single};
use crate::logging::add_loggers;
use crate::parameters::{Parameters, Trainable};

/// Tells the callbacks of an event.
macro_rules! event {
    ($trainer:ident, $event:ident $(, $argument:expr)*) => {{
        let context = $crate::callback::Context { arguments: &$trainer.arguments, state: &$trainer.state };
        $trainer.handler.$event(context, &mut $trainer.control $(, $argument)*)
    }};
}
pub(crate) use event;

/// What is trained in place of a model's own parameters: adapters on it.
pub trait TrainableAdapters: Parameters + fmt::Debug {
    /// A pass that learns begins, with random numbers of this seed; or with `None` one that does not.
    fn begin(&mut self, seed: Option<u64>);

    /// Writes the adapters into a folder, as Python's `peft` has them.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn save(&self, folder: &Path) -> Result<()>;

    /// Takes the values that [`TrainableAdapters::save`] wrote.
    ///
    /// # Errors
    /// Those of reading the file.
    fn load(&mut self, folder: &Path) -> Result<()>;
}

/// Writes what belongs to a model besides its weights into a folder.
type SaveCompanions = Box<dyn Fn(&Path) -> Result<()>>;

/// Trains a model.
pub struct Trainer {
    model: TrainingModel,
    adapters: Option<Box<dyn TrainableAdapters>>,
    trainable: Trainable,
    arguments: TrainingArguments,
    train: Option<TrainingData>,
    eval: Option<TrainingData>,
    handler: CallbackHandler,
    ranks: Box<dyn Communicator>,
    companions: SaveCompanions,
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
    /// A trainer of a model, with data that [`DataOptions::prepare`] made.
    ///
    /// # Errors
    /// [`Error::Input`] for arguments that contradict each other; [`Error::Device`] for 16 bits where the device does
    /// not compute gradients in them.
    pub fn new(
        model: TrainingModel,
        arguments: TrainingArguments,
        train: Option<TrainingData>,
        eval: Option<TrainingData>,
    ) -> Result<Self> {
        let arguments = arguments.resolved()?;
        for (key, wanted, dtype) in [("bf16", arguments.bf16, DType::BF16), ("fp16", arguments.fp16, DType::F16)] {
            let device = model.device();
            if wanted && (device::is_cpu(device) || !device.supports_dtype(dtype)) {
                let reason = match device::is_cpu(device) {
                    true => format!("`{key}` needs a GPU: on the processor gradients are computed in f32"),
                    false => format!("it cannot compute in the dtype of `{key}`"),
                };
                return Err(Error::Device {
                    device: if device::is_cpu(device) { "cpu".into() } else { format!("{device:?}") },
                    reason,
                    available: device::available().join(", "),
                });
            }
        }
        let mut handler = CallbackHandler::new(&arguments);
        add_loggers(&mut handler, &arguments);
        Ok(Self {
            model,
            adapters: None,
            trainable: Trainable::all(),
            arguments,
            train,
            eval,
            handler,
            ranks: Box::new(Single),
            companions: Box::new(|_| Ok(())),
            interrupted: || false,
            state: TrainerState::default(),
            control: TrainerControl::default(),
        })
    }

    /// Trains together with other processes, of which rank 0 alone logs and saves.
    #[must_use]
    pub fn with_ranks(mut self, ranks: Box<dyn Communicator>) -> Self {
        if !ranks.is_main() {
            for name in ["JsonLinesCallback", "TensorBoardCallback", "ProgressCallback"] {
                self.handler.remove(name);
            }
        }
        Self { ranks, ..self }
    }

    /// Trains these parameters of the model, and leaves the others as they are; all of them if nothing is said.
    #[must_use]
    pub fn with_trainable(self, trainable: Trainable) -> Self {
        Self { trainable, ..self }
    }

    /// Trains adapters in place of the model. They alone are saved.
    #[must_use]
    pub fn with_adapters(self, adapters: Box<dyn TrainableAdapters>) -> Self {
        Self { adapters: Some(adapters), trainable: Trainable::all(), ..self }
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

    /// Saves a checkpoint and ends before the next update when `interrupted` says yes.
    #[must_use]
    pub fn until(self, interrupted: fn() -> bool) -> Self {
        Self { interrupted, ..self }
    }

    /// The model.
    pub fn model(&self) -> &TrainingModel {
        &self.model
    }

    /// How it is trained.
    pub fn arguments(&self) -> &TrainingArguments {
        &self.arguments
    }

    /// Where the training stands, with everything that was logged.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// Writes the model, or its adapters, and what belongs to it into a folder that Python opens too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_model(&self, folder: &Path) -> Result<()> {
        write(&self.model, self.adapters.as_deref(), &self.companions, folder)
    }

    /// Takes leave of the other processes, when all went well.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    pub fn finish(&self) -> Result<()> {
        self.ranks.finish()
    }

    /// What is trained.
    fn source(&self) -> &dyn Parameters {
        match &self.adapters {
            Some(adapters) => &**adapters,
            None => &self.model,
        }
    }

    /// What is trained.
    fn source_mut(&mut self) -> &mut dyn Parameters {
        match &mut self.adapters {
            Some(adapters) => &mut **adapters,
            None => &mut self.model,
        }
    }

    /// The batches of a split: shuffled as the arguments say, or for an evaluation one after the other.
    fn loader(&self, data: &TrainingData, training: bool) -> Result<DataLoader> {
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
        DataLoader::new(data.examples.clone(), data.collator.clone(), options)
    }
}

/// Writes what a run is for into a folder.
fn write(
    model: &TrainingModel,
    adapters: Option<&dyn TrainableAdapters>,
    companions: &dyn Fn(&Path) -> Result<()>,
    folder: &Path,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    match adapters {
        Some(adapters) => adapters.save(folder)?,
        None => model.save(folder)?,
    }
    companions(folder)
}
