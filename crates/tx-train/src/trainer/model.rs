//! A model with the task that it is trained for: from a batch to its loss.

use std::fmt;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::nn::Cache;
use tx_core::registry::{Auto, LoadOptions, Task};
use tx_core::task::{
    AnyTensor, CausalLm, ImageArguments, ImageClassifier, ImageInputs, MaskedLm, Parameter, QuestionAnswerer, Record,
    SequenceClassifier, TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_text::models::{
    CAUSAL_LM, MASKED_LM, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TEXT_MODEL, TOKEN_CLASSIFICATION,
};
use tx_vision::image::Image;
use tx_vision::models::IMAGE_CLASSIFICATION;
use tx_vision::processor::ImageProcessor;

use super::head::{Head, open};
use super::task::TrainingTask;
use crate::collate::{Batch, BatchLabels};
use crate::loss::{self, Loss};
use crate::parameters::Parameters;

/// What the cosines of sentence embeddings are multiplied with: the default of sentence-transformers.
const RANKING_SCALE: f64 = 20.0;

/// A model of a task that can be trained.
pub enum TrainingModel {
    /// Scores for the classes of a text, or numbers.
    SequenceClassification(Auto<dyn SequenceClassifier>),
    /// Scores for the classes of every token.
    TokenClassification(Auto<dyn TokenClassifier>),
    /// Scores for where an answer starts and ends.
    QuestionAnswering(Auto<dyn QuestionAnswerer>),
    /// Scores for hidden tokens.
    MaskedLm(Auto<dyn MaskedLm>),
    /// Scores for the next token.
    CausalLm(Auto<dyn CausalLm>),
    /// Embeddings of texts: the means of their tokens.
    SentenceEmbedding(Auto<dyn TextModel>),
    /// Scores for the classes of a picture, with what makes its pixels of files.
    ImageClassification(Auto<dyn ImageClassifier>, ImageProcessor),
}

/// The same expression for a model of any task.
macro_rules! each {
    ($self:ident, $model:ident => $expression:expr) => {
        match $self {
            TrainingModel::SequenceClassification($model) => $expression,
            TrainingModel::TokenClassification($model) => $expression,
            TrainingModel::QuestionAnswering($model) => $expression,
            TrainingModel::MaskedLm($model) => $expression,
            TrainingModel::CausalLm($model) => $expression,
            TrainingModel::SentenceEmbedding($model) => $expression,
            TrainingModel::ImageClassification($model, _) => $expression,
        }
    };
}

/// What a forward pass of a batch gives.
#[derive(Debug)]
pub struct Forward {
    /// What training makes smaller.
    pub loss: Loss,
    /// The scores of each row or token, `[rows, classes]`, where the task is judged by them.
    pub scores: Option<Tensor<2>>,
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
    /// Loads the model of a folder for a task, with a head for other classes if `head` names them.
    ///
    /// # Errors
    /// Those of loading; [`Error::Input`] for 8-bit weights, which cannot be trained.
    pub fn from_folder(folder: &Path, task: TrainingTask, options: &LoadOptions, head: Option<&Head>) -> Result<Self> {
        if options.quantize.is_some() {
            return Err(Error::input("--quantize", "8-bit weights", "weights that can be trained"));
        }
        let of_text = tx_text::models::classes();
        Ok(match task {
            TrainingTask::TextClassification => {
                Self::SequenceClassification(open(SEQUENCE_CLASSIFICATION, &of_text, folder, options, head)?)
            }
            TrainingTask::TokenClassification => {
                Self::TokenClassification(open(TOKEN_CLASSIFICATION, &of_text, folder, options, head)?)
            }
            TrainingTask::QuestionAnswering => {
                Self::QuestionAnswering(open(QUESTION_ANSWERING, &of_text, folder, options, head)?)
            }
            TrainingTask::MaskedLm => Self::MaskedLm(open(MASKED_LM, &of_text, folder, options, head)?),
            TrainingTask::CausalLm | TrainingTask::Chat => {
                Self::CausalLm(open(CAUSAL_LM, &of_text, folder, options, head)?)
            }
            TrainingTask::SentenceEmbedding => {
                Self::SentenceEmbedding(open(TEXT_MODEL, &of_text, folder, options, head)?)
            }
            TrainingTask::ImageClassification => {
                let processor = ImageProcessor::from_folder(folder)?;
                let classes = tx_vision::models::classes();
                Self::ImageClassification(open(IMAGE_CLASSIFICATION, &classes, folder, options, head)?, processor)
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
            Self::QuestionAnswering(_) => TrainingTask::QuestionAnswering,
            Self::MaskedLm(_) => TrainingTask::MaskedLm,
            Self::CausalLm(_) => TrainingTask::CausalLm,
            Self::SentenceEmbedding(_) => TrainingTask::SentenceEmbedding,
            Self::ImageClassification(..) => TrainingTask::ImageClassification,
        };
        let device = each!(self, model => model.device.clone());
        *self = Self::from_folder(folder, task, &LoadOptions { device, ..LoadOptions::default() }, None)?;
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
        match (&batch.labels, self) {
            (BatchLabels::None, Self::SentenceEmbedding(_)) => batch.len(),
            (BatchLabels::None, _) => 0,
            (BatchLabels::Classes(classes), _) => loss::count(classes),
            (BatchLabels::Values { values, .. }, _) => values.len(),
            (BatchLabels::Tokens(rows), Self::CausalLm(_)) => loss::count(&loss::next_tokens(&rows.values, rows.seq)),
            (BatchLabels::Tokens(rows), _) => loss::count(&rows.values),
            (BatchLabels::Spans { starts, ends }, _) => loss::count(starts) + loss::count(ends),
        }
    }

    /// The right class of each row of the scores.
    pub fn classes(&self, batch: &Batch) -> Vec<i64> {
        match (&batch.labels, self) {
            (BatchLabels::Classes(classes), _) => classes.clone(),
            (BatchLabels::Tokens(rows), Self::CausalLm(_)) => loss::next_tokens(&rows.values, rows.seq),
            (BatchLabels::Tokens(rows), _) => rows.values.clone(),
            _ => Vec::new(),
        }
    }

    /// The loss of a batch. `label_smoothing` is the share of the target that goes to all classes alike.
    ///
    /// # Errors
    /// [`Error::Input`] for inputs that the model cannot take, and labels that the task does not have;
    /// [`Error::Malformed`] for a label out of range, with its row.
    pub fn forward(&self, batch: &Batch, label_smoothing: f64) -> Result<Forward> {
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
            Self::QuestionAnswering(model) => {
                let scores = model.model.forward(&text(batch, model, &model.limits)?, record);
                let BatchLabels::Spans { starts, ends } = &batch.labels else { return Err(other_labels()) };
                let loss = loss::answers(scores.start_logits, scores.end_logits, starts, ends);
                return Ok(Forward { loss, scores: None });
            }
            Self::SentenceEmbedding(model) => return embeddings(batch, model),
        };
        let loss = match &batch.labels {
            BatchLabels::Values { columns, values } => self.of_values(scores.clone(), *columns, values)?,
            BatchLabels::Classes(_) | BatchLabels::Tokens(_) => {
                let classes = self.classes(batch);
                let each = classes.len() / batch.len().max(1);
                if let Err(error) = loss::check_labels(&classes, scores.dims()[1]) {
                    let of_row = |row: &&[i64]| loss::check_labels(row, scores.dims()[1]).is_err();
                    let row = classes.chunks(each.max(1)).position(|row| of_row(&row)).unwrap_or(0);
                    return Err(batch.origins[row].error(error));
                }
                loss::classes(scores.clone(), &classes, label_smoothing)
            }
            BatchLabels::None | BatchLabels::Spans { .. } => return Err(other_labels()),
        };
        Ok(Forward { loss, scores: Some(scores) })
    }

    /// Numbers, or whether each class holds.
    fn of_values(&self, scores: Tensor<2>, columns: usize, values: &[f32]) -> Result<Loss> {
        let [_, outputs] = scores.dims();
        if outputs != columns {
            let expected = format_args!("{outputs}, the outputs of the model");
            return Err(Error::input("labels", format_args!("{columns} numbers for each row"), expected));
        }
        let several = self.config().get("problem_type").is_some_and(|kind| kind == "multi_label_classification");
        Ok(if several { loss::several_classes(scores, values) } else { loss::regression(scores, values) })
    }
}

fn other_labels() -> Error {
    Error::input("labels", "none that this task learns", "those of its own data")
}

/// The embeddings of texts that belong together: by which of all texts is the second of a row, or by how alike two are.
fn embeddings(batch: &Batch, model: &Auto<dyn TextModel>) -> Result<Forward> {
    let mut embeddings = Vec::new();
    for arguments in &batch.texts {
        let inputs = TextInputs::new(arguments, &model.limits, &model.device)?;
        let states = model.model.forward(&inputs, &mut Record::none()).last_hidden_state; // [rows, seq, hidden]
        let [rows, seq, _] = states.dims();
        let mask = match &arguments.attention_mask {
            Some(mask) => mask.values.iter().map(|&seen| seen as f32).collect(),
            None => vec![1.0; rows * seq],
        };
        let mask = Tensor::<2>::from_data(TensorData::new(mask, [rows, seq]), &model.device).unsqueeze_dim::<3>(2);
        let count = mask.clone().sum_dim(1).clamp_min(1.0); // [rows, 1, 1]
        embeddings.push(((states * mask).sum_dim(1) / count).squeeze_dim::<2>(1));
    }
    let loss = match (&batch.labels, embeddings.as_slice()) {
        (BatchLabels::None, [_, _, ..]) => loss::ranking(embeddings, RANKING_SCALE),
        (BatchLabels::Values { columns: 1, values }, [a, b]) => loss::similarity(a.clone(), b.clone(), values),
        _ => return Err(other_labels()),
    };
    Ok(Forward { loss, scores: None })
}

fn text<T: ?Sized + Task>(batch: &Batch, model: &Auto<T>, limits: &TextLimits) -> Result<TextInputs> {
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
