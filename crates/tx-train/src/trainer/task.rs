//! What models are trained for, and how data become examples for it.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use tx_core::error::{Error, Result};
use tx_core::tokenizer::Tokenizer;
use tx_text::chat::ChatTemplate;

use super::model::TrainingModel;
use crate::collate::{Collator, CollatorOptions, Masking, MaskingOptions};
use crate::data::{
    ChatTuning, ClassLabels, Dataset, DatasetOptions, Examples, ImageClassification, LanguageModeling, Preparation,
    PrepareOptions, SequenceClassification, Targets, TokenClassification,
};

/// What a model is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingTask {
    /// The class, classes or numbers of a text.
    TextClassification,
    /// The class of every word.
    TokenClassification,
    /// Hidden tokens.
    MaskedLm,
    /// The next token.
    CausalLm,
    /// What an assistant says.
    Chat,
    /// The class of a picture.
    ImageClassification,
}

impl TrainingTask {
    /// Every task with its name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("causal-lm", Self::CausalLm),
        ("chat", Self::Chat),
        ("image-classification", Self::ImageClassification),
        ("masked-lm", Self::MaskedLm),
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
    /// The model that learns.
    pub model: &'m TrainingModel,
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
        let task = self.task(&dataset, &mut options)?;
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

    fn task<'s>(&'s self, dataset: &Dataset, options: &mut Map<String, Value>) -> Result<Box<dyn Preparation + 's>> {
        if self.task == TrainingTask::ImageClassification {
            return Ok(Box::new(ImageClassification::new(take(options)?, self.classes()?)));
        }
        let missing = |what: &str| Error::input("model", format_args!("no {what}"), "a model that has one");
        let tokenizer = self.tokenizer.ok_or_else(|| missing("tokenizer"))?;
        Ok(match self.task {
            TrainingTask::TextClassification => {
                let options: crate::data::SequenceClassificationOptions = take(options)?;
                let targets = match Targets::find(dataset, &options.label_column)? {
                    Targets::Classes(_) => Targets::Classes(self.classes()?),
                    Targets::MultiLabel(_) => Targets::MultiLabel(self.classes()?),
                    regression => regression,
                };
                Box::new(SequenceClassification::new(tokenizer, options, targets))
            }
            TrainingTask::TokenClassification => {
                Box::new(TokenClassification::new(tokenizer, take(options)?, self.classes()?))
            }
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
        ClassLabels::new(self.model.config().labels()?)
    }
}
