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
pub use text_classification::{TextClassification, TextClassificationOptions, TextClassificationPipeline, TopK};
pub use token_classification::{
    AggregationStrategy, EntityGroup, TokenClassification, TokenClassificationInput, TokenClassificationOptions,
    TokenClassificationPipeline, TokenEntity,
};
pub use tokenized::TokenizedModel;
pub use tx_core::pipeline::{FunctionToApply, Label, TaskEntry};
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

/// Every task, sorted by name. The examples are HF's default models where their architecture is one of ours.
pub static TASKS: &[TaskEntry<TextTask>] = &[
    TaskEntry::new(TextTask::FeatureExtraction, "feature-extraction", "distilbert/distilbert-base-cased"),
    TaskEntry::new(TextTask::FillMask, "fill-mask", "distilbert/distilroberta-base"),
    TaskEntry::new(
        TextTask::QuestionAnswering,
        "question-answering",
        "distilbert/distilbert-base-cased-distilled-squad",
    ),
    TaskEntry::new(TextTask::SentenceSimilarity, "sentence-similarity", "sentence-transformers/all-MiniLM-L6-v2"),
    TaskEntry::new(
        TextTask::TextClassification,
        "text-classification",
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    )
    .with_alias("sentiment-analysis"),
    TaskEntry::new(TextTask::TextGeneration, "text-generation", "HuggingFaceTB/SmolLM2-135M"),
    TaskEntry::new(
        TextTask::TokenClassification,
        "token-classification",
        "dbmdz/bert-large-cased-finetuned-conll03-english",
    )
    .with_alias("ner"),
    TaskEntry::new(TextTask::ZeroShotClassification, "zero-shot-classification", "cross-encoder/nli-deberta-v3-base"),
];

impl TextTask {
    /// The task's line of the table.
    pub fn entry(self) -> &'static TaskEntry<Self> {
        // Every task is in the table, as a test makes sure.
        TASKS.iter().find(|entry| entry.task == self).unwrap_or(&TASKS[0])
    }
}

impl FromStr for TextTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        TaskEntry::find(TASKS, name)
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
