//! `image-feature-extraction`: a picture to the hidden states of a base model.
//!
//! Reference: transformers 5.23.0, `pipelines/image_feature_extraction.py`.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::task::{Features, Record, VisionModel};

use super::{ImageSource, ProcessedModel};
use crate::processor::Processed;

/// The arguments of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFeatureExtractionOptions {
    /// Whether to return what the model's pooler makes of the hidden states, instead of all of them.
    pub pool: bool,
}

/// The features of a picture: `[tokens, hidden]`, or `[channels, height, width]` of a convolutional model, or
/// `[hidden]` where they are pooled. They serialize to HF's nested lists, which begin with a batch of one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageFeatures {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl ImageFeatures {
    /// The size of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All numbers, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All numbers, row-major.
    pub fn into_vec(self) -> Vec<f32> {
        self.values
    }
}

impl Serialize for ImageFeatures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [Nested { shape: &self.shape, values: &self.values }].serialize(serializer)
    }
}

/// Numbers as lists of lists.
struct Nested<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.shape.len() < 2 {
            return self.values.serialize(serializer);
        }
        let shape = &self.shape[1..];
        let size = shape.iter().product::<usize>().max(1);
        serializer.collect_seq(self.values.chunks_exact(size).map(|values| Nested { shape, values }))
    }
}

/// A picture to the hidden states of a base model.
#[derive(Debug, Clone)]
pub struct ImageFeatureExtractionPipeline {
    model: Arc<ProcessedModel<dyn VisionModel>>,
    options: ImageFeatureExtractionOptions,
}

impl ImageFeatureExtractionPipeline {
    /// A pipeline of a base model.
    pub fn new(model: ProcessedModel<dyn VisionModel>, options: ImageFeatureExtractionOptions) -> Self {
        Self { model: Arc::new(model), options }
    }

    /// A pipeline with other options that shares the model.
    pub fn with_options(&self, options: ImageFeatureExtractionOptions) -> Self {
        Self { model: self.model.clone(), options }
    }

    /// The features of each picture of a batch.
    fn read(&self, features: Features) -> Result<Vec<ImageFeatures>> {
        let (shape, values) = match features {
            Features::Vector(x) => (x.dims()[1..].to_vec(), self.model.read(x)?),
            Features::Sequence(x) => (x.dims()[1..].to_vec(), self.model.read(x)?),
            Features::Map(x) => (x.dims()[1..].to_vec(), self.model.read(x)?),
        };
        let rows = values.chunks_exact(shape.iter().product::<usize>().max(1));
        Ok(rows.map(|row| ImageFeatures { shape: shape.clone(), values: row.to_vec() }).collect())
    }
}

impl Pipeline for ImageFeatureExtractionPipeline {
    type Input = ImageSource;
    type Unit = Processed;
    type Scores = ImageFeatures;
    type Output = ImageFeatures;

    fn preprocess(&self, source: &ImageSource) -> Result<Vec<Processed>> {
        Ok(vec![self.model.process(source)?])
    }

    fn length(&self, unit: &Processed) -> usize {
        self.model.length(unit)
    }

    fn forward(&self, units: &[&Processed]) -> Result<Vec<ImageFeatures>> {
        self.model.forward(units, |inputs| {
            let output = self.model.model.forward(inputs, &mut Record::none());
            if !self.options.pool {
                return self.read(output.last_hidden_state);
            }
            let found = format_args!("true, but this {} has no pooler", self.model.model.class);
            self.read(output.pooler_output.ok_or_else(|| Error::input("pool", found, "false"))?)
        })
    }

    fn postprocess(&self, _: &ImageSource, units: Vec<(Processed, ImageFeatures)>) -> Result<ImageFeatures> {
        Ok(units.into_iter().next().map(|(_, features)| features).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_serialize_as_in_python() {
        let json = |shape: &[usize], values: &[f32]| {
            serde_json::to_string(&ImageFeatures { shape: shape.to_vec(), values: values.to_vec() }).unwrap()
        };
        assert_eq!(json(&[2, 3], &[1.0, 2.0, 3.0, 4.5, 5.0, 6.0]), "[[[1.0,2.0,3.0],[4.5,5.0,6.0]]]");
        assert_eq!(json(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]), "[[[[1.0,2.0]],[[3.0,4.0]]]]");
        assert_eq!(json(&[2], &[1.0, 2.0]), "[[1.0,2.0]]");
        assert_eq!(json(&[], &[]), "[[]]");
    }
}
