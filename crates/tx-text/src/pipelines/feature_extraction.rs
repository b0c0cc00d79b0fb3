//! `feature-extraction`: a text to the hidden states of its tokens.
//!
//! Reference: transformers 5.23.0, `pipelines/feature_extraction.py`.

use std::sync::Arc;

use tx_core::error::Result;
use tx_core::pipeline::Pipeline;
use tx_core::registry::Auto;
use tx_core::task::{Record, TextModel};
use tx_core::tokenizer::{Encoding, Text, Tokenizer};

use super::TokenizedModel;

/// The arguments of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeatureExtractionOptions {
    /// Whether to cut texts that are too long for the model.
    pub truncation: bool,
    /// Cuts texts to this many tokens.
    pub max_length: Option<usize>,
}

/// A text to the hidden states of its tokens, `[1][tokens][hidden]`.
#[derive(Debug, Clone)]
pub struct FeatureExtractionPipeline {
    model: Arc<TokenizedModel<dyn TextModel>>,
    options: FeatureExtractionOptions,
}

impl FeatureExtractionPipeline {
    /// A pipeline of a base model.
    pub fn new(model: Auto<dyn TextModel>, tokenizer: Tokenizer, options: FeatureExtractionOptions) -> Self {
        Self { model: Arc::new(TokenizedModel { model, tokenizer }), options }
    }

    /// A pipeline with other options that shares the model.
    pub fn with_options(&self, options: FeatureExtractionOptions) -> Self {
        Self { model: self.model.clone(), options }
    }
}

impl Pipeline for FeatureExtractionPipeline {
    type Input = Text;
    type Unit = Encoding;
    type Scores = Vec<Vec<f32>>;
    type Output = Vec<Vec<Vec<f32>>>;

    fn preprocess(&self, text: &Text) -> Result<Vec<Encoding>> {
        Ok(vec![self.model.encode(text, self.options.truncation, self.options.max_length)?])
    }

    fn length(&self, unit: &Encoding) -> usize {
        unit.len()
    }

    fn forward(&self, units: &[&Encoding]) -> Result<Vec<Self::Scores>> {
        let batch = self.model.batch(units.iter().copied())?;
        let states = self.model.model.forward(&batch.inputs, &mut Record::none()).last_hidden_state;
        self.model.read_tokens(states, units, &batch.starts)
    }

    fn postprocess(&self, _: &Text, units: Vec<(Encoding, Self::Scores)>) -> Result<Self::Output> {
        Ok(units.into_iter().map(|(_, states)| states).collect())
    }
}
