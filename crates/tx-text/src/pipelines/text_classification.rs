//! `text-classification` (`sentiment-analysis`): a text, or two, to labels.
//!
//! Reference: transformers 5.23.0, `pipelines/text_classification.py`.

use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use tx_core::config::ProblemType;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{FunctionToApply, Label, Pipeline};
use tx_core::registry::Auto;
use tx_core::task::{Record, SequenceClassifier};
use tx_core::tokenizer::{Encoding, Text, Tokenizer};

use super::TokenizedModel;
use super::tokenized::argmax;

/// The arguments of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextClassificationOptions {
    /// How many labels to return.
    pub top_k: TopK,
    /// What turns logits into scores; by the model's problem type if `None`.
    pub function_to_apply: Option<FunctionToApply>,
    /// Whether to cut texts that are too long for the model.
    pub truncation: bool,
    /// Cuts texts to this many tokens.
    pub max_length: Option<usize>,
}

/// How many labels to return.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TopK {
    /// The best one, as a single result: HF's behaviour without `top_k`.
    #[default]
    Best,
    /// A list of the best.
    First(usize),
    /// A list of all: HF's `top_k=None`.
    All,
}

impl FromStr for TopK {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "all" | "none" => Ok(Self::All),
            _ => s
                .parse()
                .map(Self::First)
                .map_err(|_| Error::input("top_k", format_args!("`{s}`"), "a number or `all`")),
        }
    }
}

/// The labels of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TextClassification {
    /// Without `top_k`: the best label.
    Best(Label),
    /// With `top_k`: the best labels, best first.
    Ranked(Vec<Label>),
}

impl TextClassification {
    /// The labels, best first.
    pub fn labels(&self) -> &[Label] {
        match self {
            Self::Best(label) => std::slice::from_ref(label),
            Self::Ranked(labels) => labels,
        }
    }
}

/// A text, or two, to labels.
#[derive(Debug, Clone)]
pub struct TextClassificationPipeline {
    model: Arc<TokenizedModel<dyn SequenceClassifier>>,
    labels: Arc<[String]>,
    function: FunctionToApply,
    options: TextClassificationOptions,
}

impl TextClassificationPipeline {
    /// A pipeline of a sequence classifier.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] if the model's labels or problem type cannot be used.
    pub fn new(
        model: Auto<dyn SequenceClassifier>,
        tokenizer: Tokenizer,
        options: TextClassificationOptions,
    ) -> Result<Self> {
        let labels: Arc<[String]> = model.config.labels()?.into();
        let function = match model.config.problem_type()? {
            Some(ProblemType::Regression) => FunctionToApply::None,
            Some(ProblemType::MultiLabelClassification) => FunctionToApply::Sigmoid,
            _ if labels.len() == 1 => FunctionToApply::Sigmoid,
            _ => FunctionToApply::Softmax,
        };
        Ok(Self { model: Arc::new(TokenizedModel { model, tokenizer }), labels, function, options })
    }

    /// A pipeline with other options that shares the model.
    pub fn with_options(&self, options: TextClassificationOptions) -> Self {
        Self { options, ..self.clone() }
    }
}

impl Pipeline for TextClassificationPipeline {
    type Input = Text;
    type Unit = Encoding;
    type Scores = Vec<f32>;
    type Output = TextClassification;

    fn preprocess(&self, text: &Text) -> Result<Vec<Encoding>> {
        Ok(vec![self.model.encode(text, self.options.truncation, self.options.max_length)?])
    }

    fn length(&self, unit: &Encoding) -> usize {
        unit.len()
    }

    fn forward(&self, units: &[&Encoding]) -> Result<Vec<Vec<f32>>> {
        let batch = self.model.batch(units.iter().copied())?;
        self.model.read_rows(self.model.model.forward(&batch.inputs, &mut Record::none()))
    }

    fn postprocess(&self, _: &Text, units: Vec<(Encoding, Vec<f32>)>) -> Result<TextClassification> {
        let logits = units.into_iter().next().map(|(_, logits)| logits).unwrap_or_default();
        self.model.check_labels(&self.labels, logits.len())?;
        let scores = self.options.function_to_apply.unwrap_or(self.function).scores(logits);
        let best = argmax(&scores);
        let mut labels: Vec<Label> =
            self.labels.iter().zip(scores).map(|(label, score)| Label { label: label.clone(), score }).collect();
        let count = match self.options.top_k {
            TopK::Best => return Ok(TextClassification::Best(labels.swap_remove(best))),
            TopK::First(count) => count,
            TopK::All => labels.len(),
        };
        // Stable: of equal scores the first label comes first, as in the reference.
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels.truncate(count);
        Ok(TextClassification::Ranked(labels))
    }
}
