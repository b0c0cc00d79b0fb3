//! A model with the task that it is trained for: from a batch to scores, and to their loss.

use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use serde_json::{Map, Value};
use tx_core::config::{Config, ProblemType};
use tx_core::error::{Error, Result};
use tx_core::nn::Cache;
use tx_core::registry::{Adaptable, Auto};
use tx_core::task::{
    AnyTensor, Attached, CausalLm, ImageArguments, ImageClassifier, ImageInputs, IntRows, MaskedLm, Parameter,
    QuestionAnswerer, Record, SequenceClassifier, TextArguments, TextInputs, TextLimits, TextModel, TokenClassifier,
    VirtualTokens,
};
use tx_core::weights::Checkpoint;
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_vision::image::Image;
use tx_vision::processor::ImageProcessor;

use super::load::{ModelOptions, load};
use super::sentences::Sentences;
use super::task::TrainingTask;
use crate::collate::{Batch, BatchLabels};
use crate::data::{IGNORED, Origin};
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
    /// Scores for the classes of a picture, with what makes its pixels of files.
    ImageClassification(Auto<dyn ImageClassifier>, ImageProcessor),
    /// Embeddings of texts, with what makes one vector of the states of a text.
    SentenceEmbedding(Auto<dyn TextModel>, Sentences),
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
            TrainingModel::ImageClassification($model, _) => $expression,
            TrainingModel::SentenceEmbedding($model, _) => $expression,
        }
    };
}

/// What a forward pass of a batch gives.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one lives at a time, for one pass")]
pub enum Scores {
    /// `[batch, classes]`: of each example.
    Rows(Tensor<2>),
    /// Of tokens: of all of them, or of those that have a label.
    Tokens {
        /// `[tokens, classes]`
        logits: Tensor<2>,
        /// The class of each.
        labels: Vec<i64>,
    },
    /// Of the first and the last token of an answer.
    Spans {
        /// `[batch, seq]`
        starts: Tensor<2>,
        /// `[batch, seq]`
        ends: Tensor<2>,
    },
    /// `[batch, hidden]` for each of the texts of an example.
    Embeddings(Vec<Tensor<2>>),
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
    /// What the checkpoint has no head for begins with random numbers, as in Python, and a warning names it.
    ///
    /// # Errors
    /// Those of loading; [`Error::Input`] for a head of other sizes.
    pub fn from_folder(folder: &Path, task: TrainingTask, options: &ModelOptions) -> Result<Self> {
        load(folder, task, options)
    }

    /// HF's name of the class.
    pub fn class(&self) -> &'static str {
        each!(self, model => model.class)
    }

    /// The model as one that adapters can be put on.
    pub fn adaptable(&mut self) -> &mut dyn Adaptable {
        each!(self, model => model)
    }

    /// Its `config.json`.
    pub fn config(&self) -> &Config {
        each!(self, model => &model.config)
    }

    /// Where its tensors live.
    pub fn device(&self) -> &Device {
        each!(self, model => &model.device)
    }

    /// What texts it can take; `None` for a model of pictures.
    pub fn text_limits(&self) -> Option<TextLimits> {
        match self {
            Self::SequenceClassification(model) => Some(model.limits),
            Self::TokenClassification(model) => Some(model.limits),
            Self::QuestionAnswering(model) => Some(model.limits),
            Self::MaskedLm(model) => Some(model.limits),
            Self::CausalLm(model) => Some(model.limits),
            Self::ImageClassification(..) => None,
            Self::SentenceEmbedding(model, sentences) => {
                let max_length = model.limits.max_length.into_iter().chain(sentences.max_seq_length).min();
                Some(TextLimits { max_length, ..model.limits })
            }
        }
    }

    /// What its config takes for padding, if that is a token.
    pub fn pad_token_id(&self) -> Option<u32> {
        let id = self.config().get("pad_token_id").and_then(Value::as_u64)?;
        self.text_limits().filter(|limits| id < limits.vocab_size as u64)?;
        u32::try_from(id).ok()
    }

    /// The folder of its weights, in a folder that it was saved to.
    fn weights_folder(&self, folder: &Path) -> PathBuf {
        match self {
            Self::SentenceEmbedding(_, sentences) => folder.join(&sentences.encoder),
            _ => folder.to_path_buf(),
        }
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        let folder = self.weights_folder(folder);
        each!(self, model => model.save_pretrained(&folder, MAX_SHARD_SIZE))
    }

    /// The weights in a folder that it was saved to.
    ///
    /// # Errors
    /// Those of [`Checkpoint::from_folder`].
    pub fn saved_weights(&self, folder: &Path) -> Result<Checkpoint> {
        Checkpoint::from_folder(&self.weights_folder(folder))
    }

    /// Notes in the config the dtype that the weights are saved in.
    pub fn set_dtype(&mut self, name: &str) {
        let config = each!(self, model => &mut model.config);
        // The older of its two names, where a file has that.
        if config.get("torch_dtype").is_some() {
            config.set("torch_dtype", name);
        }
        config.set("dtype", name);
    }

    /// Whether each class holds or does not, apart from the others.
    ///
    /// # Errors
    /// As [`Config::problem_type`] and [`Config::labels`].
    pub fn has_several_classes(&self) -> Result<bool> {
        Ok(match self.config().problem_type()? {
            Some(problem) => problem == ProblemType::MultiLabelClassification,
            None => self.config().labels()?.len() > 1,
        })
    }

    /// How many items the loss of a batch is over, known before it is computed.
    pub fn items(&self, batch: &Batch) -> usize {
        match &batch.labels {
            BatchLabels::None => batch.len(),
            BatchLabels::Classes(classes) => loss::count(classes),
            BatchLabels::Values { values, .. } => values.len(),
            BatchLabels::Tokens(rows) => match self {
                Self::CausalLm(model) => loss::count(&next_tokens(rows, prompt_length(model))),
                _ => loss::count(&rows.values),
            },
            BatchLabels::Spans { starts, .. } => 2 * starts.len(),
        }
    }

    /// The scores of a batch that has one item at least.
    ///
    /// # Errors
    /// [`Error::Input`] for inputs that the model cannot take, and for labels that its task does not have;
    /// [`Error::Io`] and [`Error::Malformed`] for pictures that cannot be read.
    pub fn forward(&self, batch: &Batch) -> Result<Scores> {
        let record = &mut Record::none();
        Ok(match self {
            Self::SequenceClassification(model) => {
                Scores::Rows(model.model.forward(&text(batch, &model.limits, &model.device)?, record))
            }
            Self::TokenClassification(model) => {
                tokens(model.model.forward(&text(batch, &model.limits, &model.device)?, record), batch)?
            }
            Self::MaskedLm(model) => {
                tokens(model.model.forward(&text(batch, &model.limits, &model.device)?, record), batch)?
            }
            Self::QuestionAnswering(model) => {
                let output = model.model.forward(&text(batch, &model.limits, &model.device)?, record);
                Scores::Spans { starts: output.start_logits, ends: output.end_logits }
            }
            Self::CausalLm(model) => next(model, &text(batch, &model.limits, &model.device)?, batch)?,
            Self::ImageClassification(model, processor) => {
                let inputs = pictures(batch, processor)?;
                let inputs = ImageInputs::new(&inputs, &model.limits, &model.device)?;
                Scores::Rows(model.model.forward(&inputs, record).logits)
            }
            Self::SentenceEmbedding(model, sentences) => {
                let embed = |arguments: &TextArguments| -> Result<Tensor<2>> {
                    let inputs = TextInputs::new(arguments, &model.limits, &model.device)?;
                    let states = model.model.forward(&inputs, &mut Record::none()).last_hidden_state;
                    Ok(sentences.pool(states, arguments))
                };
                Scores::Embeddings(batch.texts.iter().map(embed).collect::<Result<_>>()?)
            }
        })
    }

    /// The loss of scores.
    ///
    /// # Errors
    /// [`Error::Malformed`], which names the row, for a label that the model has no output for; [`Error::Input`] for
    /// labels of another kind, and for smoothed labels where there are no classes.
    pub fn loss(&self, batch: &Batch, scores: Scores, label_smoothing: f64) -> Result<Loss> {
        if label_smoothing > 0.0 && !matches!(&batch.labels, BatchLabels::Classes(_) | BatchLabels::Tokens(_)) {
            return Err(Error::input(
                "label_smoothing_factor",
                label_smoothing,
                "0: this task has no classes to smooth",
            ));
        }
        match (scores, &batch.labels) {
            (Scores::Rows(logits), BatchLabels::Classes(classes)) => {
                let [_, count] = logits.dims();
                check(batch, classes, 1, count)?;
                Ok(loss::classes(logits, classes, label_smoothing))
            }
            (Scores::Rows(logits), BatchLabels::Values { columns, values }) => {
                let [_, outputs] = logits.dims();
                if outputs != *columns {
                    let expected = format_args!("{outputs}, the outputs of the model");
                    return Err(Error::input("labels", format_args!("{columns} numbers for each row"), expected));
                }
                match self.has_several_classes()? {
                    true => Ok(loss::several_classes(logits, values)),
                    false => Ok(loss::regression(logits, values)),
                }
            }
            (Scores::Tokens { logits, labels }, BatchLabels::Tokens(rows)) => {
                let [_, count] = logits.dims();
                check(batch, &rows.values, rows.seq, count)?;
                Ok(loss::classes(logits, &labels, label_smoothing))
            }
            (Scores::Spans { starts, ends }, BatchLabels::Spans { starts: first, ends: last }) => {
                Ok(loss::answers(starts, ends, first, last))
            }
            (Scores::Embeddings(embeddings), BatchLabels::None) if embeddings.len() > 1 => {
                Ok(loss::ranking(embeddings, RANKING_SCALE))
            }
            (Scores::Embeddings(embeddings), BatchLabels::Values { columns: 1, values }) => {
                match <[Tensor<2>; 2]>::try_from(embeddings) {
                    Ok([a, b]) => Ok(loss::similarity(a, b, values)),
                    Err(other) => {
                        let found = format_args!("{} texts with a score", other.len());
                        Err(Error::input("text_columns", found, "two; leave `score_column` out for more"))
                    }
                }
            }
            _ => Err(other_labels()),
        }
    }
}

fn other_labels() -> Error {
    Error::input("labels", "some of another kind", "those that this task learns")
}

/// Makes sure that labels are classes of the model; `each` of them belong to an example.
fn check(batch: &Batch, labels: &[i64], each: usize, classes: usize) -> Result<()> {
    let outside = |label: &i64| *label != IGNORED && !(0..classes as i64).contains(label);
    let Some(place) = labels.iter().position(outside) else { return Ok(()) };
    let reason = format_args!("label {}, expected 0 to {}", labels[place], classes.saturating_sub(1));
    Err(batch.origins.get(place / each.max(1)).map_or_else(other_labels, |origin| origin.error(reason)))
}

/// The text of each example.
fn text(batch: &Batch, limits: &TextLimits, device: &Device) -> Result<TextInputs> {
    match batch.texts.as_slice() {
        [text] => TextInputs::new(text, limits, device),
        texts => Err(Error::input("texts", format_args!("{} for each example", texts.len()), "one")),
    }
}

/// Scores `[batch, seq, classes]` of all tokens.
fn tokens(logits: Tensor<3>, batch: &Batch) -> Result<Scores> {
    let BatchLabels::Tokens(rows) = &batch.labels else { return Err(other_labels()) };
    let [batch, seq, classes] = logits.dims();
    Ok(Scores::Tokens { logits: logits.reshape([batch * seq, classes]), labels: rows.values.clone() })
}

/// How many tokens of a learned prompt come before those of a text.
fn prompt_length(model: &Auto<dyn CausalLm>) -> usize {
    let tokens = model.model.attached().and_then(Attached::virtual_tokens);
    tokens.filter(|tokens| tokens.first_id().is_some()).map_or(0, VirtualTokens::count)
}

/// The token that follows each, behind `prompt` tokens that were learned, of which the last one foretells the first.
fn next_tokens(rows: &IntRows, prompt: usize) -> Vec<i64> {
    if prompt == 0 {
        return loss::next_tokens(&rows.values, rows.seq);
    }
    let behind = |row: &[i64]| std::iter::repeat_n(IGNORED, prompt).chain(row.iter().copied()).collect::<Vec<_>>();
    let values: Vec<i64> = rows.values.chunks(rows.seq.max(1)).flat_map(behind).collect();
    loss::next_tokens(&values, prompt + rows.seq)
}

/// The scores of the tokens that a language model is to foretell. If many are not, such as a question, the head, which
/// is wide, does without their states.
fn next(model: &Auto<dyn CausalLm>, inputs: &TextInputs, batch: &Batch) -> Result<Scores> {
    let BatchLabels::Tokens(rows) = &batch.labels else { return Err(other_labels()) };
    let prompt = prompt_length(model);
    let mut labels = next_tokens(rows, prompt);
    let model = &*model.model;
    let mut cache = Cache::off(model.cache_kinds().len());
    if prompt > 0 {
        let logits = model.forward(inputs, &mut cache, &mut Record::none());
        let [batch, seq, vocab] = logits.dims();
        return Ok(Scores::Tokens { logits: logits.reshape([batch * seq, vocab]), labels });
    }
    let x = model.decode(model.embed(inputs.input_ids.clone()), inputs, &mut cache, &mut Record::none());
    let [batch, seq, hidden] = x.dims();
    let mut x = x.reshape([1, batch * seq, hidden]);
    let learned = loss::count(&labels);
    if learned > 0 && learned * 8 < labels.len() * 7 {
        let places: Vec<i64> =
            (0..).zip(&labels).filter(|(_, label)| **label != IGNORED).map(|(place, _)| place).collect();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [learned]), &inputs.input_ids.device());
        x = x.select(1, places);
        labels.retain(|label| *label != IGNORED);
    }
    let logits = model.head(x);
    let [_, count, vocab] = logits.dims();
    Ok(Scores::Tokens { logits: logits.reshape([count, vocab]), labels })
}

/// The pixels of the pictures of a batch.
fn pictures(batch: &Batch, processor: &ImageProcessor) -> Result<ImageArguments> {
    let process = |(path, origin): (&PathBuf, &Origin)| {
        let picture = Image::open(path).and_then(|image| processor.process(&image));
        picture.map_err(|error| origin.error(error))
    };
    let processed: Result<Vec<_>> = batch.images.par_iter().zip(&batch.origins).map(process).collect();
    let pixels = processor.batch(processed?)?;
    let [count, _, height, width] = pixels.shape;
    Ok(ImageArguments {
        pixel_values: TensorData::new(pixels.values, pixels.shape),
        pixel_mask: pixels.mask.map(|mask| TensorData::new(mask, [count, height, width])),
        bool_masked_pos: None,
    })
}

/// `id2label`, `label2id` and what else of a config says what the outputs mean.
pub(super) fn name_outputs(config: &mut Config, names: &[String], problem_type: Option<&str>) {
    let ids = names.iter().enumerate();
    let id2label = ids.clone().map(|(id, name)| (id.to_string(), Value::from(name.as_str())));
    let label2id = ids.map(|(id, name)| (name.clone(), Value::from(id)));
    config.set("id2label", id2label.collect::<Map<_, _>>());
    config.set("label2id", label2id.collect::<Map<_, _>>());
    if config.get("num_labels").is_some() {
        config.set("num_labels", names.len());
    }
    if let Some(problem_type) = problem_type {
        config.set("problem_type", problem_type);
    }
}
