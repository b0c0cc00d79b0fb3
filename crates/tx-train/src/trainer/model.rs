//! A model with the task that it is trained for: from a batch to its loss.

use std::fmt;
use std::path::Path;

use burn::tensor::{Tensor, TensorData, activation};
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::nn::Cache;
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{
    AnyTensor, CausalLm, ImageArguments, ImageClassifier, ImageInputs, MaskedLm, Parameter, Record,
    SequenceClassifier, TextInputs, TextLimits, TokenClassifier,
};
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_text::models::{CAUSAL_LM, MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION};
use tx_vision::image::Image;
use tx_vision::models::IMAGE_CLASSIFICATION;
use tx_vision::processor::ImageProcessor;

use super::task::TrainingTask;
use crate::collate::{Batch, BatchLabels};
use crate::data::IGNORED;
use crate::parameters::Parameters;

/// A model of a task that can be trained.
pub enum TrainingModel {
    /// Scores for the classes of a text, or numbers.
    SequenceClassification(Auto<dyn SequenceClassifier>),
    /// Scores for the classes of every token.
    TokenClassification(Auto<dyn TokenClassifier>),
    /// Scores for hidden tokens.
    MaskedLm(Auto<dyn MaskedLm>),
    /// Scores for the next token.
    CausalLm(Auto<dyn CausalLm>),
    /// Scores for the classes of a picture, with what makes its pixels of files.
    ImageClassification(Auto<dyn ImageClassifier>, ImageProcessor),
}

/// The same expression for a model of any task.
macro_rules! each {
    ($self:ident, $model:ident => $expression:expr) => {
        match $self {
            TrainingModel::SequenceClassification($model) => $expression,
            TrainingModel::TokenClassification($model) => $expression,
            TrainingModel::MaskedLm($model) => $expression,
            TrainingModel::CausalLm($model) => $expression,
            TrainingModel::ImageClassification($model, _) => $expression,
        }
    };
}

/// What a forward pass of a batch gives.
#[derive(Debug)]
pub struct Loss {
    /// The sum over all that the loss counts, `[1]`.
    pub sum: Tensor<1>,
    /// How many these are.
    pub items: usize,
    /// The scores of each: `[items or more, classes]`.
    pub scores: Tensor<2>,
    /// The right class of each row of the scores; empty where they are numbers.
    pub classes: Vec<i64>,
    /// The right numbers, row by row of the scores, where they are numbers.
    pub values: Vec<f32>,
}

impl fmt::Debug for TrainingModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrainingModel").field(&self.class()).finish()
    }
}

impl Parameters for TrainingModel {
    fn visit(&self, f: &mut dyn FnMut(Parameter)) {
        each!(self, model => model.model.visit_parameters(f));
    }

    fn map(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        each!(self, model => model.model.map_parameters(f));
    }
}

impl TrainingModel {
    /// Loads the model of a folder for a task.
    ///
    /// # Errors
    /// Those of loading; [`Error::Input`] for 8-bit weights, which cannot be trained.
    pub fn from_folder(folder: &Path, task: TrainingTask, options: &LoadOptions) -> Result<Self> {
        if options.quantize.is_some() {
            return Err(Error::input("--quantize", "8-bit weights", "weights that can be trained"));
        }
        let classes = tx_text::models::classes();
        Ok(match task {
            TrainingTask::TextClassification => {
                Self::SequenceClassification(from_folder(SEQUENCE_CLASSIFICATION, &classes, folder, options)?)
            }
            TrainingTask::TokenClassification => {
                Self::TokenClassification(from_folder(TOKEN_CLASSIFICATION, &classes, folder, options)?)
            }
            TrainingTask::MaskedLm => Self::MaskedLm(from_folder(MASKED_LM, &classes, folder, options)?),
            TrainingTask::CausalLm | TrainingTask::Chat => {
                Self::CausalLm(from_folder(CAUSAL_LM, &classes, folder, options)?)
            }
            TrainingTask::ImageClassification => {
                let processor = ImageProcessor::from_folder(folder)?;
                let classes = tx_vision::models::classes();
                Self::ImageClassification(from_folder(IMAGE_CLASSIFICATION, &classes, folder, options)?, processor)
            }
        })
    }

    /// Takes the weights of another folder of the same model.
    ///
    /// # Errors
    /// As [`TrainingModel::from_folder`].
    pub fn load(&mut self, folder: &Path) -> Result<()> {
        let task = match self {
            Self::SequenceClassification(_) => TrainingTask::TextClassification,
            Self::TokenClassification(_) => TrainingTask::TokenClassification,
            Self::MaskedLm(_) => TrainingTask::MaskedLm,
            Self::CausalLm(_) => TrainingTask::CausalLm,
            Self::ImageClassification(..) => TrainingTask::ImageClassification,
        };
        let device = each!(self, model => model.device.clone());
        *self = Self::from_folder(folder, task, &LoadOptions { device, ..LoadOptions::default() })?;
        Ok(())
    }

    /// HF's name of the class.
    pub fn class(&self) -> &'static str {
        each!(self, model => model.class)
    }

    /// Its `config.json`.
    pub fn config(&self) -> &Config {
        each!(self, model => &model.config)
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        each!(self, model => model.save_pretrained(folder, MAX_SHARD_SIZE))
    }

    /// How many items the loss of a batch counts: what the sums of an update are divided by.
    pub fn items(&self, batch: &Batch) -> usize {
        let counted = |labels: &[i64]| labels.iter().filter(|&&label| label != IGNORED).count();
        match (&batch.labels, self) {
            (BatchLabels::None, _) => 0,
            (BatchLabels::Classes(classes), _) => counted(classes),
            (BatchLabels::Values { values, .. }, _) => values.len(),
            (BatchLabels::Tokens(rows), Self::CausalLm(_)) => {
                rows.values.chunks(rows.seq.max(1)).map(|row| counted(&row[1..])).sum()
            }
            (BatchLabels::Tokens(rows), _) => counted(&rows.values),
            (BatchLabels::Spans { starts, ends }, _) => counted(starts) + counted(ends),
        }
    }

    /// The loss of a batch. `label_smoothing` is the share of the target that goes to all classes alike.
    ///
    /// # Errors
    /// [`Error::Input`] for inputs that the model cannot take; [`Error::Malformed`] for a label out of range, with its row.
    pub fn loss(&self, batch: &Batch, label_smoothing: f64) -> Result<Loss> {
        let record = &mut Record::none();
        let scores: Tensor<2> = match self {
            Self::SequenceClassification(model) => model.model.forward(&text(batch, model, &model.limits)?, record),
            Self::TokenClassification(model) => rows(model.model.forward(&text(batch, model, &model.limits)?, record)),
            Self::MaskedLm(model) => rows(model.model.forward(&text(batch, model, &model.limits)?, record)),
            Self::CausalLm(model) => {
                let mut cache = Cache::off(model.cache_kinds().len());
                rows(model.model.forward(&text(batch, model, &model.limits)?, &mut cache, record))
            }
            Self::ImageClassification(model, processor) => {
                let pictures = batch.images.iter().map(|path| processor.process(&Image::open(path)?));
                let pixels = processor.batch(pictures.collect::<Result<_>>()?)?;
                let pixel_values = TensorData::new(pixels.values, pixels.shape);
                let arguments = ImageArguments { pixel_values, pixel_mask: None, bool_masked_pos: None };
                model.model.forward(&ImageInputs::new(&arguments, &model.limits, &model.device)?, record).logits
            }
        };
        match &batch.labels {
            BatchLabels::Values { columns, values } => self.of_values(scores, *columns, values),
            BatchLabels::Classes(classes) => of_classes(batch, scores, classes.clone(), 1, label_smoothing),
            BatchLabels::Tokens(labels) => {
                let mut targets = labels.values.clone();
                if matches!(self, Self::CausalLm(_)) {
                    // The scores of a token are for the one after it.
                    targets.rotate_left(1);
                    targets.iter_mut().skip(labels.seq - 1).step_by(labels.seq).for_each(|label| *label = IGNORED);
                }
                of_classes(batch, scores, targets, labels.seq, label_smoothing)
            }
            BatchLabels::None | BatchLabels::Spans { .. } => {
                Err(Error::input("labels", "none that this task learns", "those of its own data"))
            }
        }
    }

    /// Numbers, or whether each class holds.
    fn of_values(&self, scores: Tensor<2>, columns: usize, values: &[f32]) -> Result<Loss> {
        let [count, outputs] = scores.dims();
        if outputs != columns {
            let expected = format_args!("{outputs}, the outputs of the model");
            return Err(Error::input("labels", format_args!("{columns} numbers for each row"), expected));
        }
        let targets = TensorData::new(values.to_vec(), [count, columns]);
        let targets = Tensor::<2>::from_data(targets, &scores.clone().without_autodiff().device());
        let multi_label = self.config().get("problem_type").is_some_and(|p| p == "multi_label_classification");
        let losses = if multi_label {
            // −t·log σ(x) − (1 − t)·log σ(−x), without overflow.
            activation::softplus(scores.clone(), 1.0) - scores.clone() * targets
        } else {
            let difference = scores.clone() - targets;
            difference.clone() * difference
        };
        Ok(Loss { sum: losses.sum(), items: values.len(), scores, classes: Vec::new(), values: values.to_vec() })
    }
}

fn of_classes(batch: &Batch, scores: Tensor<2>, classes: Vec<i64>, each: usize, smoothing: f64) -> Result<Loss> {
    let [_, count] = scores.dims();
    let fits = |&class: &i64| class == IGNORED || usize::try_from(class).is_ok_and(|class| class < count);
    if let Some(row) = classes.iter().position(|class| !fits(class)) {
        let reason = format_args!("label {}, and the model has {count}", classes[row]);
        return Err(batch.origins[row / each].error(reason));
    }
    let (sum, items) = tx_kernels::cross_entropy(scores.clone(), &classes, smoothing);
    Ok(Loss { sum, items, scores, classes, values: Vec::new() })
}

fn text<T: ?Sized + tx_core::registry::Task>(
    batch: &Batch,
    model: &Auto<T>,
    limits: &TextLimits,
) -> Result<TextInputs> {
    match batch.texts.as_slice() {
        [text] => TextInputs::new(text, limits, &model.device),
        texts => Err(Error::input("texts", format_args!("{} for each example", texts.len()), "one")),
    }
}

/// Scores `[batch, seq, classes]`, a row for each token.
fn rows(scores: Tensor<3>) -> Tensor<2> {
    let [batch, seq, classes] = scores.dims();
    scores.reshape([batch * seq, classes])
}
