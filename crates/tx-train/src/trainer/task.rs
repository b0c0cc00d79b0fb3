//! What models are trained for, and how data become examples for it.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::tokenizer::Tokenizer;
use tx_text::chat::ChatTemplate;

use super::head::Head;
use crate::collate::{Collator, CollatorOptions, Masking, MaskingOptions};
use crate::data::{
    ChatTuning, ClassLabels, Contrastive, Dataset, DatasetOptions, Examples, ImageClassification, LanguageModeling,
    Preparation, PrepareOptions, QuestionAnswering, SequenceClassification, Targets, TokenClassification, find_classes,
};

/// What a model is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingTask {
    /// The class, classes or numbers of a text.
    TextClassification,
    /// The class of every word.
    TokenClassification,
    /// Where in a text the answer to a question is.
    QuestionAnswering,
    /// Hidden tokens.
    MaskedLm,
    /// The next token.
    CausalLm,
    /// What an assistant says.
    Chat,
    /// Vectors that are near each other for texts that mean the same.
    SentenceEmbedding,
    /// The class of a picture.
    ImageClassification,
}

impl TrainingTask {
    /// Every task with its name.
    pub const ALL: [(&'static str, Self); 8] = [
        ("causal-lm", Self::CausalLm),
        ("chat", Self::Chat),
        ("image-classification", Self::ImageClassification),
        ("masked-lm", Self::MaskedLm),
        ("question-answering", Self::QuestionAnswering),
        ("sentence-embedding", Self::SentenceEmbedding),
        ("text-classification", Self::TextClassification),
        ("token-classification", Self::TokenClassification),
    ];

    /// The task of a name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the nearest name.
    pub fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, task)| *task).ok_or_else(|| Error::unknown("task", name, Self::ALL.map(|(known, _)| known)))
    }
}

/// What makes examples of files, and batches of examples, for one model.
#[derive(Debug)]
pub struct DataPreparation<'m> {
    /// The task.
    pub task: TrainingTask,
    /// What the outputs of the model mean, where it classifies.
    pub head: Option<&'m Head>,
    /// Its tokenizer; none for pictures.
    pub tokenizer: Option<&'m Tokenizer>,
    /// Its chat template, if it has one.
    pub template: Option<&'m ChatTemplate>,
    /// The options of the data set, of the task and of masking, by their names, as a configuration file has them.
    pub options: Map<String, Value>,
    /// What hidden tokens depend on.
    pub seed: u64,
    /// Whether bars are shown.
    pub progress: bool,
}

/// Options that somebody took, the others are left.
fn take<T: for<'d> Deserialize<'d> + Default + serde::Serialize>(options: &mut Map<String, Value>) -> Result<T> {
    let known = match serde_json::to_value(T::default()) {
        Ok(Value::Object(known)) => known,
        _ => Map::new(),
    };
    let own: Map<String, Value> =
        known.keys().filter_map(|key| options.remove(key).map(|value| (key.clone(), value))).collect();
    serde_json::from_value(Value::Object(own))
        .map_err(|error| Error::input("[data]", error, "values of the right type"))
}

/// What the outputs of a model for these data mean, for tasks that have classes: all rows are read.
///
/// # Errors
/// Those of reading the data; [`Error::Malformed`] for labels of different kinds.
pub fn find_head(task: TrainingTask, path: &str, options: &Map<String, Value>, seed: u64) -> Result<Option<Head>> {
    let mut options = options.clone();
    let dataset = Dataset::open(path, &take::<DatasetOptions>(&mut options)?)?;
    let column = |default: &str| match options.get("label_column") {
        Some(Value::String(column)) => column.clone(),
        _ => default.to_owned(),
    };
    let (labels, problem_type) = match task {
        TrainingTask::TextClassification => match Targets::find(&dataset, &column("label"))? {
            Targets::Classes(classes) => (Ok(classes.names().to_vec()), "single_label_classification"),
            Targets::MultiLabel(classes) => (Ok(classes.names().to_vec()), "multi_label_classification"),
            Targets::Regression(count) => (Err(count), "regression"),
        },
        TrainingTask::TokenClassification => {
            let classes = find_classes(&dataset, &column("ner_tags"))?;
            return Ok(Some(Head { labels: Ok(classes.names().to_vec()), problem_type: None, seed }));
        }
        TrainingTask::ImageClassification => {
            let classes = match dataset.classes()? {
                Some(names) => names,
                None => find_classes(&dataset, &column("label"))?.names().to_vec(),
            };
            return Ok(Some(Head { labels: Ok(classes), problem_type: None, seed }));
        }
        TrainingTask::QuestionAnswering => {
            // Two outputs, which have no names of their own.
            return Ok(Some(Head { labels: Err(2), problem_type: None, seed }));
        }
        _ => return Ok(None),
    };
    Ok(Some(Head { labels, problem_type: Some(problem_type), seed }))
}

/// What the outputs of a trained model mean.
///
/// # Errors
/// As [`Config::labels`].
pub fn head_of(task: TrainingTask, config: &Config) -> Result<Option<Head>> {
    let problem_type = config.get("problem_type").and_then(Value::as_str);
    let kinds = ["regression", "multi_label_classification", "single_label_classification"];
    let problem_type = kinds.into_iter().find(|kind| Some(*kind) == problem_type);
    let names = config.labels()?;
    let labels = if problem_type == Some("regression") { Err(names.len()) } else { Ok(names) };
    let classifies = matches!(
        task,
        TrainingTask::TextClassification | TrainingTask::TokenClassification | TrainingTask::ImageClassification
    );
    Ok(classifies.then_some(Head { labels, problem_type, seed: 0 }))
}

impl DataPreparation<'_> {
    /// The examples of files, in files of their own in `scratch`, and what makes batches of them.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an option that nobody knows; everything that reading and preparing the data reports, which
    /// names file, line and column.
    pub fn prepare(&self, path: &str, scratch: &Path) -> Result<(Arc<Examples>, Collator)> {
        let mut options = self.options.clone();
        let dataset = Dataset::open(path, &take::<DatasetOptions>(&mut options)?)?;
        let masking: MaskingOptions = take(&mut options)?;
        let task = self.task(&mut options)?;
        if let Some(key) = options.keys().next() {
            let mut known = Vec::new();
            for defaults in [serde_json::to_value(DatasetOptions::default()), serde_json::to_value(masking)] {
                if let Ok(Value::Object(defaults)) = defaults {
                    known.extend(defaults.keys().cloned());
                }
            }
            known
                .extend(["train", "eval", "text_column", "label_column", "max_length", "block_size"].map(String::from));
            return Err(Error::unknown("key of [data]", key, known.iter().map(String::as_str)));
        }
        let prepare = PrepareOptions { folder: scratch.to_path_buf(), progress: self.progress };
        let examples = Arc::new(Examples::prepare(&dataset, &*task, &prepare)?);
        let collator = match (self.task, self.tokenizer) {
            (TrainingTask::MaskedLm, Some(tokenizer)) => {
                let masking = Masking::new(tokenizer, masking, self.seed)?;
                Collator::new(tokenizer, CollatorOptions::default())?.with_masking(masking)
            }
            (TrainingTask::CausalLm | TrainingTask::Chat, Some(tokenizer)) => {
                let padding_side = Some(tx_core::tokenizer::Side::Right);
                Collator::new(tokenizer, CollatorOptions { padding_side, ..CollatorOptions::default() })?
            }
            (_, Some(tokenizer)) => Collator::new(tokenizer, CollatorOptions::default())?,
            (_, None) => Collator::images(),
        };
        Ok((examples, collator))
    }

    fn task<'s>(&'s self, options: &mut Map<String, Value>) -> Result<Box<dyn Preparation + 's>> {
        if self.task == TrainingTask::ImageClassification {
            return Ok(Box::new(ImageClassification::new(take(options)?, self.classes()?)));
        }
        let missing = |what: &str| Error::input("model", format_args!("no {what}"), "a model that has one");
        let tokenizer = self.tokenizer.ok_or_else(|| missing("tokenizer"))?;
        Ok(match self.task {
            TrainingTask::TextClassification => {
                let options: crate::data::SequenceClassificationOptions = take(options)?;
                let targets = match self.head {
                    Some(Head { labels: Err(count), .. }) => Targets::Regression(*count),
                    Some(Head { problem_type: Some("multi_label_classification"), .. }) => {
                        Targets::MultiLabel(self.classes()?)
                    }
                    _ => Targets::Classes(self.classes()?),
                };
                Box::new(SequenceClassification::new(tokenizer, options, targets))
            }
            TrainingTask::TokenClassification => {
                Box::new(TokenClassification::new(tokenizer, take(options)?, self.classes()?))
            }
            TrainingTask::QuestionAnswering => Box::new(QuestionAnswering::new(tokenizer, take(options)?, false)?),
            TrainingTask::SentenceEmbedding => Box::new(Contrastive::new(tokenizer, take(options)?)?),
            TrainingTask::MaskedLm => Box::new(LanguageModeling::masked(tokenizer, take(options)?)?),
            TrainingTask::Chat => {
                let template = self.template.ok_or_else(|| missing("chat template"))?;
                // Templates may ask for the date.
                let today = chrono::Local::now().date_naive().and_time(chrono::NaiveTime::MIN);
                Box::new(ChatTuning::new(tokenizer, template, take(options)?, today)?)
            }
            _ => Box::new(LanguageModeling::causal(tokenizer, take(options)?)?),
        })
    }

    /// The classes of the model.
    fn classes(&self) -> Result<ClassLabels> {
        match self.head {
            Some(Head { labels: Ok(names), .. }) => ClassLabels::new(names.clone()),
            _ => Err(Error::input("labels", "numbers", "the classes of a model")),
        }
    }
}
