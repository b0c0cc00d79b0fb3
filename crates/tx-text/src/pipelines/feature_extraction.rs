//! `feature-extraction`: a text to the hidden states of its tokens.
//!
//! Reference: transformers 5.23.0, `pipelines/feature_extraction.py`.

use std::sync::Arc;

use serde::{Serialize, Serializer};
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

/// The hidden states of a text's tokens; they serialize to HF's `[1][tokens][hidden]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    values: Vec<f32>,
    hidden: usize,
}

impl Features {
    /// The state of each token.
    pub fn tokens(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.hidden.max(1))
    }

    /// All numbers, token by token.
    pub fn into_vec(self) -> Vec<f32> {
        self.values
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.tokens().collect::<Vec<_>>()].serialize(serializer)
    }
}

/// A text to the hidden states of its tokens.
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
    type Scores = Features;
    type Output = Features;

    fn preprocess(&self, text: &Text) -> Result<Vec<Encoding>> {
        Ok(vec![self.model.encode(text, self.options.truncation, self.options.max_length)?])
    }

    fn length(&self, unit: &Encoding) -> usize {
        unit.len()
    }

    fn forward(&self, units: &[&Encoding]) -> Result<Vec<Features>> {
        let batch = self.model.batch(units.iter().copied())?;
        let states = self.model.model.forward(&batch.inputs, &mut Record::none()).last_hidden_state;
        let features = |states: &[f32], hidden: usize| Features { values: states.to_vec(), hidden };
        self.model.read_tokens(states, units, &batch.starts, features)
    }

    fn postprocess(&self, _: &Text, units: Vec<(Encoding, Features)>) -> Result<Features> {
        Ok(units.into_iter().next().map(|(_, features)| features).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_serialize_as_in_python() {
        let features = Features { values: vec![1.0, 2.0, 3.0, 4.5, 5.0, 6.0], hidden: 3 };
        assert_eq!(serde_json::to_string(&features).unwrap(), "[[[1.0,2.0,3.0],[4.5,5.0,6.0]]]");
        assert_eq!(features.tokens().len(), 2);
        assert_eq!(serde_json::to_string(&Features::default()).unwrap(), "[[]]");
    }
}
