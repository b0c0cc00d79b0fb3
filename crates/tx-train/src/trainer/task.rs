//! What models are trained for.

use tx_core::error::{Error, Result};

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
    /// The class of a picture.
    ImageClassification,
    /// Vectors that are near each other for texts that mean the same.
    SentenceEmbedding,
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

    /// Whether it has texts; pictures otherwise.
    pub fn has_texts(self) -> bool {
        self != Self::ImageClassification
    }

    /// Whether its outputs have a meaning that the data may give them: classes, or numbers.
    pub fn has_classes(self) -> bool {
        matches!(self, Self::TextClassification | Self::TokenClassification | Self::ImageClassification)
    }

    /// What Python's `peft` calls it, if it has a name for it.
    pub fn peft_task_type(self) -> Option<&'static str> {
        match self {
            Self::TextClassification => Some("SEQ_CLS"),
            Self::TokenClassification => Some("TOKEN_CLS"),
            Self::QuestionAnswering => Some("QUESTION_ANS"),
            Self::CausalLm | Self::Chat => Some("CAUSAL_LM"),
            Self::SentenceEmbedding => Some("FEATURE_EXTRACTION"),
            Self::MaskedLm | Self::ImageClassification => None,
        }
    }

    /// Whether the model generates texts, so that `generation_config.json` belongs to it.
    pub fn generates(self) -> bool {
        matches!(self, Self::CausalLm | Self::Chat)
    }
}
