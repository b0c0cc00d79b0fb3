//! `[data]`: how rows become examples and batches.

use std::path::Path;

use chrono::NaiveDate;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tx_core::config::ProblemType;
use tx_core::error::{Error, Result, nearest};

use super::task::TrainingTask;
use crate::collate::MaskingOptions;
use crate::data::{
    ChatTuningOptions, ContrastiveOptions, DatasetOptions, ImageClassificationOptions, LanguageModelingOptions,
    QuestionAnsweringOptions, SequenceClassificationOptions, TokenClassificationOptions,
};

/// The date that chat templates are told which ask for it, if nothing else is said: a training must not depend on the
/// day.
const DATE: &str = "2024-07-26";

/// How rows become examples of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskOptions {
    /// Texts with labels.
    TextClassification(SequenceClassificationOptions),
    /// Words with labels.
    TokenClassification(TokenClassificationOptions),
    /// Questions with answers.
    QuestionAnswering(QuestionAnsweringOptions),
    /// Texts alone.
    Language(LanguageModelingOptions),
    /// Conversations.
    Chat(ChatTuningOptions),
    /// Pictures with labels.
    ImageClassification(ImageClassificationOptions),
    /// Texts that belong together.
    SentenceEmbedding(ContrastiveOptions),
}

/// How rows become examples and batches.
#[derive(Debug, Clone, PartialEq)]
pub struct DataOptions {
    /// What it is all for.
    pub task: TrainingTask,
    /// How files are read.
    pub dataset: DatasetOptions,
    /// What is made of their rows.
    pub examples: TaskOptions,
    /// What a masked language model is to guess.
    pub masking: MaskingOptions,
    /// Rounds the length of padded texts up to a multiple.
    pub pad_to_multiple_of: Option<usize>,
    /// The names of the classes, in the order of the model's outputs; found in the data if `None`.
    pub labels: Option<Vec<String>>,
    /// What the labels of texts are; by what they look like if `None`.
    pub problem_type: Option<ProblemType>,
    /// The date for chat templates that ask for it.
    pub date: NaiveDate,
}

impl DataOptions {
    /// The options that `keys` names; `file` is where they are from, for messages.
    ///
    /// # Errors
    /// [`Error::Config`], or [`Error::Input`] without a file, for a key that nobody knows, with the nearest one, and
    /// for a value of the wrong type.
    pub fn read(task: TrainingTask, keys: &Map<String, Value>, file: Option<&Path>) -> Result<Self> {
        let mut reader = Reader { keys: keys.clone(), known: Vec::new(), file };
        let examples = match task {
            TrainingTask::TextClassification => TaskOptions::TextClassification(reader.take()?),
            TrainingTask::TokenClassification => TaskOptions::TokenClassification(reader.take()?),
            TrainingTask::QuestionAnswering => TaskOptions::QuestionAnswering(reader.take()?),
            TrainingTask::MaskedLm | TrainingTask::CausalLm => TaskOptions::Language(reader.take()?),
            TrainingTask::Chat => TaskOptions::Chat(reader.take()?),
            TrainingTask::ImageClassification => TaskOptions::ImageClassification(reader.take()?),
            TrainingTask::SentenceEmbedding => TaskOptions::SentenceEmbedding(reader.take()?),
        };
        let dataset = reader.take()?;
        let masking = match task {
            TrainingTask::MaskedLm => reader.take()?,
            _ => MaskingOptions::default(),
        };
        let of_texts = task == TrainingTask::TextClassification;
        let classifies =
            of_texts || matches!(task, TrainingTask::TokenClassification | TrainingTask::ImageClassification);
        let pad_to_multiple_of = reader.take_one("pad_to_multiple_of", task.has_texts())?;
        let labels = reader.take_one("labels", classifies)?;
        let problem_type = reader.take_one("problem_type", of_texts)?;
        let date: Option<String> = reader.take_one("date", task == TrainingTask::Chat)?;
        let date = NaiveDate::parse_from_str(date.as_deref().unwrap_or(DATE), "%Y-%m-%d")
            .map_err(|error| reader.wrong("date", error, "a date such as 2024-07-26"))?;
        reader.finish()?;
        Ok(Self { task, dataset, examples, masking, pad_to_multiple_of, labels, problem_type, date })
    }
}

/// Takes keys out of a table.
struct Reader<'r> {
    keys: Map<String, Value>,
    known: Vec<String>,
    file: Option<&'r Path>,
}

impl Reader<'_> {
    /// The options of one struct, each read alone so that an error names it.
    fn take<T: Default + Serialize + DeserializeOwned>(&mut self) -> Result<T> {
        let Ok(Value::Object(defaults)) = serde_json::to_value(T::default()) else { return Ok(T::default()) };
        let mut all = Map::new();
        for key in defaults.keys() {
            if let Some(value) = self.keys.remove(key) {
                let one = Map::from_iter([(key.clone(), value.clone())]);
                if let Err(error) = serde_json::from_value::<T>(Value::Object(one)) {
                    return Err(self.wrong(key, error, "a value of another type"));
                }
                all.insert(key.clone(), value);
            }
        }
        self.known.extend(defaults.into_iter().map(|(key, _)| key));
        serde_json::from_value(Value::Object(all)).map_err(|error| self.wrong("data", error, "values that go together"))
    }

    /// The value of a key that belongs to no struct. Where nothing uses it, nobody knows it.
    fn take_one<T: DeserializeOwned>(&mut self, key: &str, used: bool) -> Result<Option<T>> {
        if !used {
            return Ok(None);
        }
        self.known.push(key.to_owned());
        let value = self.keys.remove(key).unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| self.wrong(key, error, "a value of another type"))
    }

    /// Nothing may be left.
    fn finish(self) -> Result<()> {
        let Some(key) = self.keys.keys().next() else { return Ok(()) };
        let known = || self.known.iter().map(String::as_str);
        let expected = match nearest(key, known()) {
            Some(name) => format!("an option of the data; did you mean `{name}`?"),
            None => format!("one of {}", known().collect::<Vec<_>>().join(", ")),
        };
        Err(self.wrong(key, "an unknown name", expected))
    }

    fn wrong(&self, key: &str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
        match self.file {
            Some(path) => Error::config(path, format!("data.{key}"), format_args!("{found}, expected {expected}")),
            None => Error::input(key, found, expected),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(task: TrainingTask, keys: Value) -> Result<DataOptions, String> {
        let Value::Object(keys) = keys else { panic!("an object") };
        DataOptions::read(task, &keys, Some("a.toml".as_ref())).map_err(|error| error.to_string())
    }

    #[test]
    fn one_table_has_the_options_of_files_task_and_batches() {
        let keys = json!({"text_column": "story", "block_size": 64, "mlm_probability": 0.3, "format": "jsonlines",
            "pad_to_multiple_of": 8});
        let options = read(TrainingTask::MaskedLm, keys).unwrap();
        let TaskOptions::Language(examples) = &options.examples else { panic!("{options:?}") };
        assert_eq!((examples.text_column.as_str(), examples.block_size), ("story", Some(64)));
        assert_eq!((options.masking.mlm_probability, options.pad_to_multiple_of), (0.3, Some(8)));
        assert_eq!((options.date.to_string(), options.labels), ("2024-07-26".to_owned(), None));
    }

    #[test]
    fn what_is_unknown_or_of_another_type_is_named() {
        let unknown = read(TrainingTask::TextClassification, json!({"text_colum": "a"})).unwrap_err();
        let expected =
            "a.toml: `data.text_colum`: an unknown name, expected an option of the data; did you mean `text_column`?";
        assert_eq!(unknown, expected);
        let wrong = read(TrainingTask::CausalLm, json!({"block_size": "long"})).unwrap_err();
        assert!(wrong.starts_with("a.toml: `data.block_size`: invalid type"), "{wrong}");
        // An option of another task.
        assert!(read(TrainingTask::CausalLm, json!({"mlm_probability": 0.3})).unwrap_err().contains("mlm_probability"));
        let other = [
            (TrainingTask::TokenClassification, json!({"problem_type": "regression"})),
            (TrainingTask::QuestionAnswering, json!({"labels": ["a", "b"]})),
            (TrainingTask::SentenceEmbedding, json!({"labels": ["a", "b"]})),
            (TrainingTask::CausalLm, json!({"date": "2024-07-26"})),
            (TrainingTask::ImageClassification, json!({"pad_to_multiple_of": 8})),
        ];
        for (task, keys) in other {
            let error = read(task, keys.clone()).unwrap_err();
            assert!(error.contains("an unknown name"), "{keys}: {error}");
        }
        assert!(read(TrainingTask::Chat, json!({"date": "yesterday"})).unwrap_err().contains("`data.date`"));
        let wrong = read(TrainingTask::TextClassification, json!({"labels": 3})).unwrap_err();
        assert!(wrong.starts_with("a.toml: `data.labels`: invalid type"), "{wrong}");
    }
}
