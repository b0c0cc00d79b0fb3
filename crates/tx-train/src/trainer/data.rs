//! From files to the examples of a task, for one model: what must be known before the model, and what after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::NaiveTime;
use serde_json::Value;
use tx_core::config::{Config, ProblemType, read_json};
use tx_core::error::{Error, Result};
use tx_core::registry::LoadOptions;
use tx_core::task::TextLimits;
use tx_core::tokenizer::{Side, Tokenizer};
use tx_text::chat::ChatTemplate;

use super::model::TrainingModel;
use super::options::{DataOptions, TaskOptions};
use super::sentences::Sentences;
use super::task::TrainingTask;
use crate::collate::{Collator, CollatorOptions, Masking};
use crate::data::{
    ChatTuning, ClassLabels, Columns, Contrastive, Dataset, Example, Examples, ImageClassification, LanguageModeling,
    Packing, Preparation, PrepareOptions, QuestionAnswering, Random, Row, SequenceClassification, Targets,
    TokenClassification, find_classes,
};

/// The stream of random numbers that is for splits.
const STREAM: u64 = 0x73_706c_6974;
/// The tokens of a language model's examples, where the model and the tokenizer allow so many: HF's scripts and TRL's.
const MAX_LENGTH: usize = 1024;

/// Examples, and what makes batches of them.
#[derive(Debug, Clone)]
pub struct TrainingData {
    /// The examples.
    pub examples: Arc<Examples>,
    /// What makes batches.
    pub collator: Collator,
}

/// What belongs to a model besides its weights.
#[derive(Debug)]
pub struct Companions {
    folder: PathBuf,
    task: TrainingTask,
    /// For tasks with texts.
    pub tokenizer: Option<Tokenizer>,
    /// For conversations.
    pub template: Option<ChatTemplate>,
}

/// Files of a model's folder that go with its weights.
const FILES: [&str; 18] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];
/// Belongs to models that generate.
const GENERATION: &str = "generation_config.json";
/// The most files of a module of sentence-transformers.
const MAX_MODULE_FILES: usize = 100;

impl Companions {
    /// Reads what the task needs of a folder.
    ///
    /// # Errors
    /// Those of [`Tokenizer::from_folder`] and [`ChatTemplate::from_folder`].
    pub fn from_folder(folder: &Path, task: TrainingTask, options: &LoadOptions) -> Result<Self> {
        let text_folder = match task {
            TrainingTask::SentenceEmbedding => folder.join(Sentences::from_folder(folder, &options.device)?.encoder),
            _ => folder.to_path_buf(),
        };
        let tokenizer = if task.has_texts() { Some(Tokenizer::from_folder(&text_folder)?) } else { None };
        let template = match (&tokenizer, task) {
            (Some(tokenizer), TrainingTask::Chat) => Some(ChatTemplate::from_folder(folder, tokenizer.special())?),
            _ => None,
        };
        Ok(Self { folder: folder.to_path_buf(), task, tokenizer, template })
    }

    /// Copies the files of the folder that go with the weights into another one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, to: &Path) -> Result<()> {
        let generation = self.task.generates().then_some(GENERATION);
        for name in FILES.into_iter().chain(generation) {
            copy(&self.folder.join(name), &to.join(name))?;
        }
        // Modules of sentence-transformers have folders of their own, also that of the encoder.
        let modules = self.folder.join("modules.json");
        let modules = if modules.is_file() { read_json(&modules)? } else { Value::Null };
        for module in modules.as_array().into_iter().flatten() {
            let name = module.get("path").and_then(Value::as_str).unwrap_or_default();
            let (from, to) = (self.folder.join(name), to.join(name));
            if name.is_empty() || !from.is_dir() {
                continue;
            }
            fs::create_dir_all(&to).map_err(Error::io(&to))?;
            let files = fs::read_dir(&from).map_err(Error::io(&from))?.take(MAX_MODULE_FILES);
            for file in files {
                let file = file.map_err(Error::io(&from))?;
                let name = file.file_name();
                // The encoder's weights and config are those that were trained.
                let weights = name.to_string_lossy();
                let trained = weights.starts_with("model") || weights.starts_with("pytorch_model");
                if !trained && !to.join(&name).exists() {
                    copy(&file.path(), &to.join(&name))?;
                }
            }
        }
        Ok(())
    }
}

/// Copies a file if it is there, and is not the same one.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_file() || fs::canonicalize(to).is_ok_and(|to| fs::canonicalize(from).is_ok_and(|from| from == to)) {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(Error::io(to))
}

/// Which rows of a file are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    /// All of them.
    All,
    /// Those that are not held out for evaluation.
    Training {
        /// The part of the rows that is held out.
        held_out: f64,
        /// Chooses them.
        seed: u64,
    },
    /// Those that are.
    HeldOut {
        /// The part of the rows that is held out.
        held_out: f64,
        /// Chooses them.
        seed: u64,
    },
}

impl Part {
    fn has(self, row: &Row) -> bool {
        let (Self::Training { held_out, seed } | Self::HeldOut { held_out, seed }) = self else { return true };
        let origin = row.origin();
        let file = origin.file.as_os_str().as_encoded_bytes();
        let file = file.iter().fold(0u64, |hash, &byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let out = Random::new(&[STREAM, seed, file, origin.place.row, origin.place.line]).uniform() < held_out;
        out == matches!(self, Self::HeldOut { .. })
    }
}

/// The rows of a part, and their tokens made sure to be in the model's vocabulary.
struct Checked<'c> {
    task: &'c dyn Preparation,
    part: Part,
    max_rows: Option<u64>,
    vocab_size: usize,
}

impl Preparation for Checked<'_> {
    fn columns(&self) -> Columns {
        self.task.columns()
    }

    fn takes(&self, row: &Row) -> bool {
        self.part.has(row)
    }

    fn max_rows(&self) -> Option<u64> {
        self.max_rows
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let examples = self.task.examples(row)?;
        let ids = examples.iter().flat_map(|example| &example.texts).flat_map(|text| &text.ids);
        let largest = ids.max().copied().unwrap_or(0);
        if largest as usize >= self.vocab_size {
            let expected = self.vocab_size;
            let reason =
                format_args!("token {largest} of the tokenizer, expected ids below {expected}, those of the model");
            return Err(row.origin().error(reason));
        }
        Ok(examples)
    }

    fn packing(&self) -> Packing {
        self.task.packing()
    }
}

impl DataOptions {
    /// What a model must learn to say about data: the classes, or how many numbers; `None` for tasks that have neither.
    /// All rows are read. The classes are those of `labels`, or else those of the model if it knows all that are in the
    /// data by name, or has as many as there are numbers in the data, or else those that are in the data.
    ///
    /// # Errors
    /// Those of reading the data; [`Error::Malformed`] for labels of different kinds.
    pub fn targets(&self, path: &str, config: &Config) -> Result<Option<Targets>> {
        let open = || Dataset::open(path, &self.dataset);
        Ok(match &self.examples {
            TaskOptions::TextClassification(options) => {
                Some(self.targets_of_texts(&open()?, &options.label_column, config)?)
            }
            TaskOptions::TokenClassification(options) => {
                Some(Targets::Classes(self.classes(config, || find_classes(&open()?, &options.label_column))?))
            }
            TaskOptions::ImageClassification(options) => {
                Some(Targets::Classes(self.classes(config, || find_classes(&open()?, &options.label_column))?))
            }
            _ => None,
        })
    }

    fn targets_of_texts(&self, dataset: &Dataset, column: &str, config: &Config) -> Result<Targets> {
        if self.problem_type == Some(ProblemType::Regression) {
            let first = dataset.rows(&Columns::new(&[column], &[])).next().transpose()?;
            let width = match first {
                Some(row) => row.get(column)?.as_array().map_or(1, Vec::len),
                None => 1,
            };
            return Ok(Targets::Regression(width.max(1)));
        }
        let found = match (&self.labels, self.problem_type) {
            // Nothing is left to be found.
            (Some(labels), Some(ProblemType::MultiLabelClassification)) => {
                return Ok(Targets::MultiLabel(ClassLabels::new(labels.clone())?));
            }
            (Some(labels), Some(_)) => return Ok(Targets::Classes(ClassLabels::new(labels.clone())?)),
            (_, Some(_)) => Targets::Classes(find_classes(dataset, column)?),
            (_, None) => Targets::find(dataset, column)?,
        };
        Ok(match (found, self.problem_type) {
            (Targets::Classes(classes), Some(ProblemType::MultiLabelClassification))
            | (Targets::MultiLabel(classes), _) => Targets::MultiLabel(self.classes(config, || Ok(classes))?),
            (Targets::Classes(classes), _) => Targets::Classes(self.classes(config, || Ok(classes))?),
            (regression, _) => regression,
        })
    }

    /// The classes of a model, where those that were found are not others.
    fn classes(&self, config: &Config, find: impl FnOnce() -> Result<ClassLabels>) -> Result<ClassLabels> {
        if let Some(labels) = &self.labels {
            return ClassLabels::new(labels.clone());
        }
        let found = find()?;
        if config.get("id2label").is_none() {
            return Ok(found);
        }
        let own = config.labels()?;
        if found.are_some_of(own.len()) {
            return ClassLabels::new(own);
        }
        let known: BTreeSet<&String> = own.iter().collect();
        if found.names().iter().all(|name| known.contains(name)) { ClassLabels::new(own) } else { Ok(found) }
    }

    /// The examples of files for a model, kept in files without a name in `scratch`, and what makes batches of them:
    /// of `max_samples` rows of a part, the first ones, or pictures of all classes. `judged` keeps what an evaluation
    /// needs besides.
    ///
    /// # Errors
    /// Everything that reading and preparing the data reports, which names file, line and column; [`Error::Input`] for
    /// options that do not fit the model.
    #[allow(clippy::too_many_arguments, reason = "each says another thing, and there is one caller")]
    pub fn prepare(
        &self,
        path: &str,
        part: Part,
        judged: bool,
        max_samples: Option<u64>,
        model: &TrainingModel,
        companions: &Companions,
        seed: u64,
        prepare: &PrepareOptions,
    ) -> Result<TrainingData> {
        let dataset = Dataset::open(path, &self.dataset)?;
        let dataset = if max_samples.is_some() { dataset.shuffled(seed) } else { dataset };
        let limits = model.text_limits();
        let task = self.preparation(model, companions, limits, judged)?;
        let vocab_size = limits.map_or(usize::MAX, |limits| limits.vocab_size);
        let checked = Checked { task: &*task, part, max_rows: max_samples, vocab_size };
        let examples = Arc::new(Examples::prepare(&dataset, &checked, prepare)?);
        Ok(TrainingData { examples, collator: self.collator(model, companions, vocab_size, seed)? })
    }

    fn collator(
        &self,
        model: &TrainingModel,
        companions: &Companions,
        vocab_size: usize,
        seed: u64,
    ) -> Result<Collator> {
        let Some(tokenizer) = &companions.tokenizer else { return Ok(Collator::images()) };
        // What learns the next token, or looks at the last one, counts positions from the left.
        let right = self.task.generates() || self.task == TrainingTask::SentenceEmbedding;
        let options = CollatorOptions {
            pad_to_multiple_of: self.pad_to_multiple_of,
            // What the model takes for padding is padding, whatever the tokenizer has for it.
            pad_token_id: model.pad_token_id(),
            padding_side: right.then_some(Side::Right),
            ..CollatorOptions::default()
        };
        let collator = Collator::new(tokenizer, options)?;
        if self.task != TrainingTask::MaskedLm {
            return Ok(collator);
        }
        // Any token may come in the place of a hidden one.
        if tokenizer.vocab_size() > vocab_size {
            let expected = format_args!("at most {vocab_size}, those of the model");
            return Err(Error::input("tokenizer", format_args!("{} tokens", tokenizer.vocab_size()), expected));
        }
        Ok(collator.with_masking(Masking::new(tokenizer, self.masking, seed)?))
    }

    fn preparation<'p>(
        &self,
        model: &TrainingModel,
        companions: &'p Companions,
        limits: Option<TextLimits>,
        judged: bool,
    ) -> Result<Box<dyn Preparation + 'p>> {
        let config = model.config();
        if let TaskOptions::ImageClassification(options) = &self.examples {
            let classes = ClassLabels::new(config.labels()?)?;
            return Ok(Box::new(ImageClassification::new(options.clone(), classes)));
        }
        let missing = |what: &str| Error::input("model", format_args!("no {what}"), "one that has it");
        let tokenizer = companions.tokenizer.as_ref().ok_or_else(|| missing("tokenizer"))?;
        let limit = limits.and_then(|limits| limits.max_length).into_iter().chain(tokenizer.model_max_length()).min();
        // The given length, or the longest that tokenizer and model take, and no more than a default where there is
        // one.
        let within = |key: &str, given: Option<usize>, default: Option<usize>| match (given, limit) {
            (Some(given), Some(limit)) if given > limit => {
                Err(Error::input(key, given, format_args!("at most {limit}, the limit of the model and its tokenizer")))
            }
            (Some(given), _) => Ok(Some(given)),
            (None, limit) => Ok(limit.into_iter().chain(default).min()),
        };
        Ok(match &self.examples {
            TaskOptions::TextClassification(options) => {
                let mut options = options.clone();
                options.max_length = within("max_length", options.max_length, None)?;
                Box::new(SequenceClassification::new(tokenizer, options, targets_of(config)?))
            }
            TaskOptions::TokenClassification(options) => {
                let mut options = options.clone();
                options.max_length = within("max_length", options.max_length, None)?;
                Box::new(TokenClassification::new(tokenizer, options, ClassLabels::new(config.labels()?)?))
            }
            TaskOptions::QuestionAnswering(options) => {
                let mut options = options.clone();
                let length = within("max_seq_length", None, Some(options.max_seq_length))?;
                options.max_seq_length = length.unwrap_or(options.max_seq_length);
                options.doc_stride = options.doc_stride.min(options.max_seq_length / 2);
                Box::new(QuestionAnswering::new(tokenizer, options, judged)?)
            }
            TaskOptions::Language(options) => {
                let mut options = options.clone();
                options.block_size = within("block_size", options.block_size, Some(MAX_LENGTH))?;
                match self.task {
                    TrainingTask::MaskedLm => Box::new(LanguageModeling::masked(tokenizer, options)?),
                    _ => Box::new(LanguageModeling::causal(tokenizer, options)?),
                }
            }
            TaskOptions::Chat(options) => {
                let mut options = options.clone();
                options.max_length = within("max_length", options.max_length, Some(MAX_LENGTH))?;
                let template = companions.template.as_ref().ok_or_else(|| missing("chat template"))?;
                Box::new(ChatTuning::new(tokenizer, template, options, self.date.and_time(NaiveTime::MIN))?)
            }
            TaskOptions::SentenceEmbedding(options) => {
                let mut options = options.clone();
                options.max_length = within("max_length", options.max_length, None)?;
                Box::new(Contrastive::new(tokenizer, options)?)
            }
            TaskOptions::ImageClassification(_) => return Err(missing("texts")),
        })
    }
}

/// What a config says that the outputs mean.
fn targets_of(config: &Config) -> Result<Targets> {
    let names = config.labels()?;
    Ok(match config.problem_type()? {
        Some(ProblemType::Regression) => Targets::Regression(names.len()),
        None if names.len() == 1 => Targets::Regression(1),
        Some(ProblemType::MultiLabelClassification) => Targets::MultiLabel(ClassLabels::new(names)?),
        _ => Targets::Classes(ClassLabels::new(names)?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::data::{Origin, Place};

    fn row(line: u64) -> Row {
        Row::new(Origin { file: Path::new("a.jsonl").into(), place: Place { row: 0, line } }, Map::new())
    }

    #[test]
    fn every_row_is_in_one_part_and_the_parts_have_their_sizes() {
        let (held_out, seed) = (0.2, 7);
        let (training, other) = (Part::Training { held_out, seed }, Part::HeldOut { held_out, seed });
        let out = (0..10_000).filter(|&line| other.has(&row(line))).count();
        assert!((1_800..2_200).contains(&out), "{out}");
        assert!((0..1_000).all(|line| training.has(&row(line)) != other.has(&row(line)) && Part::All.has(&row(line))));
        let another = Part::HeldOut { held_out, seed: 8 };
        assert!((0..1_000).any(|line| another.has(&row(line)) != other.has(&row(line))));
    }

    fn targets(keys: Value, rows: &str, config: Value) -> Targets {
        let folder = tempfile::tempdir().unwrap();
        let (data, file) = (folder.path().join("a.jsonl"), folder.path().join("config.json"));
        fs::write(&data, rows).unwrap();
        fs::write(&file, config.to_string()).unwrap();
        let Value::Object(keys) = keys else { panic!("an object") };
        let options = DataOptions::read(TrainingTask::TextClassification, &keys, None).unwrap();
        options.targets(data.to_str().unwrap(), &Config::from_file(&file).unwrap()).unwrap().unwrap()
    }

    fn classes(names: &[&str]) -> Targets {
        Targets::Classes(ClassLabels::new(names.iter().map(|&name| name.to_owned()).collect()).unwrap())
    }

    #[test]
    fn classes_are_those_asked_for_or_of_the_model_or_of_the_data() {
        let rows = "{\"label\": \"no\"}\n{\"label\": \"yes\"}\n";
        let trained = json!({"id2label": {"0": "yes", "1": "maybe", "2": "no"}});
        assert_eq!(targets(json!({}), rows, json!({})), classes(&["no", "yes"]));
        assert_eq!(targets(json!({}), rows, trained.clone()), classes(&["yes", "maybe", "no"]));
        assert_eq!(targets(json!({}), rows, json!({"id2label": {"0": "cat", "1": "dog"}})), classes(&["no", "yes"]));
        assert_eq!(targets(json!({"labels": ["yes", "no"]}), rows, trained), classes(&["yes", "no"]));
        // Numbers are those of the model's classes, as far as it has so many.
        let few = "{\"label\": 1}\n{\"label\": 0}\n";
        let polar = json!({"id2label": {"0": "neg", "1": "pos", "2": "mixed"}});
        assert_eq!(targets(json!({}), few, polar.clone()), classes(&["neg", "pos", "mixed"]));
        assert_eq!(targets(json!({"labels": ["a", "b"]}), few, polar.clone()), classes(&["a", "b"]));
        let several = |rows: &str| targets(json!({}), rows, polar.clone());
        let own = ["neg", "pos", "mixed"].map(str::to_owned).to_vec();
        let own = Targets::MultiLabel(ClassLabels::new(own).unwrap());
        assert_eq!((several("{\"label\": [0, 1]}\n"), several("{\"label\": [0.0, 1.0, 1.0]}\n")), (own.clone(), own));
        let two = Targets::MultiLabel(ClassLabels::numbered(2).unwrap());
        assert_eq!(several("{\"label\": [0.0, 1.0]}\n"), two);
        let many = Targets::Classes(ClassLabels::numbered(4).unwrap());
        assert_eq!(targets(json!({}), "{\"label\": 3}\n", polar), many);
        assert_eq!(targets(json!({}), "{\"label\": 3}\n", json!({})), many);
        let numbers = "{\"label\": 3}\n{\"label\": 0}\n";
        assert_eq!(targets(json!({"problem_type": "regression"}), numbers, json!({})), Targets::Regression(1));
    }
}
