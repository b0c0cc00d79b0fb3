//! Text pipelines: from raw text to finished results, with the arguments and the JSON of Python's `pipeline()`.
//!
//! Each pipeline is made of a model and its tokenizer, takes its arguments as a struct, and is called through
//! [`tx_core::pipeline::Pipeline`]: with one input, with a list, or with anything that gives inputs one by one.
//!
//! ```no_run
//! use tx_core::pipeline::{Batching, Pipeline};
//! use tx_core::registry::LoadOptions;
//! use tx_text::models::MASKED_LM;
//! use tx_text::pipelines::{FillMaskOptions, FillMaskPipeline, TokenizedModel};
//!
//! let TokenizedModel { model, tokenizer } =
//!     TokenizedModel::from_folder(MASKED_LM, "bert-base-uncased".as_ref(), &LoadOptions::default())?;
//! let pipeline = FillMaskPipeline::new(model, tokenizer, FillMaskOptions::default())?;
//! let best = pipeline.call("Paris is the [MASK] of France.")?;
//! let all = pipeline.call_all(["A [MASK] day.", "Good [MASK]!"], &Batching::default())?;
//! # Ok::<(), tx_core::Error>(())
//! ```

mod feature_extraction;
mod fill_mask;
mod question_answering;
mod sentence_embedding;
mod sentence_modules;
mod sentence_similarity;
mod text_classification;
mod token_classification;
mod tokenized;
mod words;
mod zero_shot_classification;

use std::str::FromStr;

use tx_core::error::{Error, Result};

pub use feature_extraction::{FeatureExtractionOptions, FeatureExtractionPipeline, Features};
pub use fill_mask::{FillMask, FillMaskOptions, FillMaskPipeline, FilledMask, MaskedText};
pub use question_answering::{
    Answer, QuestionAnswering, QuestionAnsweringInput, QuestionAnsweringOptions, QuestionAnsweringPipeline, Window,
};
pub use sentence_embedding::{SentenceEmbeddingOptions, SentenceEmbeddingPipeline};
pub use sentence_modules::{Pooling, PoolingMode, SentenceModules};
pub use sentence_similarity::{SentenceSimilarityInput, SentenceSimilarityPipeline, cosine_similarity};
pub use text_classification::{
    FunctionToApply, Label, TextClassification, TextClassificationOptions, TextClassificationPipeline, TopK,
};
pub use token_classification::{
    AggregationStrategy, EntityGroup, TokenClassification, TokenClassificationInput, TokenClassificationOptions,
    TokenClassificationPipeline, TokenEntity,
};
pub use tokenized::TokenizedModel;
pub use zero_shot_classification::{
    ZeroShotClassification, ZeroShotClassificationOptions, ZeroShotClassificationPipeline,
};

/// The tasks that have a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextTask {
    /// [`FeatureExtractionPipeline`]
    FeatureExtraction,
    /// [`FillMaskPipeline`]
    FillMask,
    /// [`QuestionAnsweringPipeline`]
    QuestionAnswering,
    /// [`SentenceSimilarityPipeline`]
    SentenceSimilarity,
    /// [`TextClassificationPipeline`]
    TextClassification,
    /// `tx_generate::Generator`, which is no pipeline: its results grow token by token.
    TextGeneration,
    /// [`TokenClassificationPipeline`]
    TokenClassification,
    /// [`ZeroShotClassificationPipeline`]
    ZeroShotClassification,
}

/// A task's names and a model for it.
#[derive(Debug, Clone, Copy)]
pub struct TaskEntry {
    /// The task.
    pub task: TextTask,
    /// HF's name.
    pub name: &'static str,
    /// HF's other name.
    pub alias: Option<&'static str>,
    /// A model on the Hub that does it.
    pub example: &'static str,
}

/// Every task, sorted by name. The examples are HF's default models where their architecture is one of ours.
pub static TASKS: &[TaskEntry] = &[
    TaskEntry {
        task: TextTask::FeatureExtraction,
        name: "feature-extraction",
        alias: None,
        example: "distilbert/distilbert-base-cased",
    },
    TaskEntry { task: TextTask::FillMask, name: "fill-mask", alias: None, example: "distilbert/distilroberta-base" },
    TaskEntry {
        task: TextTask::QuestionAnswering,
        name: "question-answering",
        alias: None,
        example: "distilbert/distilbert-base-cased-distilled-squad",
    },
    TaskEntry {
        task: TextTask::SentenceSimilarity,
        name: "sentence-similarity",
        alias: None,
        example: "sentence-transformers/all-MiniLM-L6-v2",
    },
    TaskEntry {
        task: TextTask::TextClassification,
        name: "text-classification",
        alias: Some("sentiment-analysis"),
        example: "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    },
    TaskEntry {
        task: TextTask::TextGeneration,
        name: "text-generation",
        alias: None,
        example: "HuggingFaceTB/SmolLM2-135M",
    },
    TaskEntry {
        task: TextTask::TokenClassification,
        name: "token-classification",
        alias: Some("ner"),
        example: "dbmdz/bert-large-cased-finetuned-conll03-english",
    },
    TaskEntry {
        task: TextTask::ZeroShotClassification,
        name: "zero-shot-classification",
        alias: None,
        example: "cross-encoder/nli-deberta-v3-base",
    },
];

impl TextTask {
    /// The task's line of the table.
    pub fn entry(self) -> &'static TaskEntry {
        // Every task is in the table, as a test makes sure.
        TASKS.iter().find(|entry| entry.task == self).unwrap_or(&TASKS[0])
    }
}

impl FromStr for TextTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = TASKS.iter().find(|entry| entry.name == name || entry.alias == Some(name));
        let known = || TASKS.iter().flat_map(|entry| std::iter::once(entry.name).chain(entry.alias));
        found.map(|entry| entry.task).ok_or_else(|| Error::unknown("task", name, known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_complete_and_found_by_all_names() {
        assert!(TASKS.is_sorted_by(|a, b| a.name < b.name));
        for entry in TASKS {
            assert_eq!(entry.task.entry().name, entry.name);
            assert_eq!(entry.name.parse::<TextTask>().unwrap(), entry.task);
        }
        assert_eq!("ner".parse::<TextTask>().unwrap(), TextTask::TokenClassification);
        let message = "text-clasification".parse::<TextTask>().unwrap_err().to_string();
        assert_eq!(message, "unknown task `text-clasification`; did you mean `text-classification`?; see `tx models`");
    }
}
