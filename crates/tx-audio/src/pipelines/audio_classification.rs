//! `audio-classification`: the labels of sounds.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use tx_core::config::ProblemType;
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{AudioClassifier, Record};

use super::sound::{Sound, forward_equal, read, tokens};
use crate::features::{FeatureExtractor, Features};
use crate::models;

/// HF's number of labels.
const TOP_K: usize = 5;

/// The arguments of [`AudioClassificationPipeline`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AudioClassificationOptions {
    /// How many labels to return at most; all if `None`.
    pub top_k: Option<usize>,
    /// What turns logits into scores; by the model's `problem_type` if `None`.
    pub function_to_apply: Option<FunctionToApply>,
}

impl Default for AudioClassificationOptions {
    fn default() -> Self {
        Self { top_k: Some(TOP_K), function_to_apply: None }
    }
}

/// What turns logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionToApply {
    /// The labels exclude each other.
    Softmax,
    /// Each label by itself.
    Sigmoid,
    /// The logits as they are.
    None,
}

impl FromStr for FunctionToApply {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "softmax" => Ok(Self::Softmax),
            "sigmoid" => Ok(Self::Sigmoid),
            "none" => Ok(Self::None),
            _ => {
                let shown: String = name.chars().take(40).collect();
                let found = format_args!("`{}`", shown.escape_debug());
                Err(Error::input("function_to_apply", found, "softmax, sigmoid or none"))
            }
        }
    }
}

/// A label with its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    /// Its score.
    pub score: f32,
    /// The label.
    pub label: String,
}

/// The labels of a sound, the best first.
pub type AudioClassification = Vec<Label>;

/// A sound to labels.
#[derive(Debug, Clone)]
pub struct AudioClassificationPipeline {
    model: Arc<Auto<dyn AudioClassifier>>,
    extractor: Arc<FeatureExtractor>,
    labels: Arc<[String]>,
    function: FunctionToApply,
    options: AudioClassificationOptions,
}

impl AudioClassificationPipeline {
    /// A pipeline of the model in a folder.
    ///
    /// # Errors
    /// As [`FeatureExtractor::from_folder`], [`tx_core::registry::from_folder`] and [`AudioClassificationPipeline::new`].
    pub fn from_folder(folder: &Path, load: &LoadOptions, options: AudioClassificationOptions) -> Result<Self> {
        // The small files first: if they cannot be used, no weights have been read for nothing.
        let extractor = FeatureExtractor::from_folder(folder)?;
        let model = from_folder(models::AUDIO_CLASSIFICATION, &models::classes(), folder, load)?;
        Self::new(model, extractor, options)
    }

    /// A pipeline of a classifier.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] if the model's labels or problem type cannot be used.
    pub fn new(
        model: Auto<dyn AudioClassifier>,
        extractor: FeatureExtractor,
        options: AudioClassificationOptions,
    ) -> Result<Self> {
        let labels: Arc<[String]> = model.config.labels()?.into();
        let function = match model.config.problem_type()? {
            Some(ProblemType::Regression) => FunctionToApply::None,
            Some(ProblemType::MultiLabelClassification) => FunctionToApply::Sigmoid,
            _ => FunctionToApply::Softmax,
        };
        Ok(Self { model: Arc::new(model), extractor: Arc::new(extractor), labels, function, options })
    }

    /// A pipeline with other options that shares the model.
    pub fn with_options(&self, options: AudioClassificationOptions) -> Self {
        Self { options, ..self.clone() }
    }
}

impl Pipeline for AudioClassificationPipeline {
    type Input = Sound;
    type Unit = Features;
    type Scores = Vec<f32>;
    type Output = AudioClassification;

    fn preprocess(&self, sound: &Sound) -> Result<Vec<Features>> {
        Ok(vec![self.extractor.extract(&sound.read(self.extractor.sampling_rate())?)?])
    }

    fn length(&self, unit: &Features) -> usize {
        tokens(&unit.shape)
    }

    fn forward(&self, units: &[&Features]) -> Result<Vec<Vec<f32>>> {
        let Auto { model, limits, device, .. } = &*self.model;
        let units: Vec<Features> = units.iter().map(|&unit| unit.clone()).collect();
        forward_equal(&units, limits, device, |inputs| {
            let logits = model.forward(inputs, &mut Record::none());
            let labels = logits.dims()[1];
            Ok(read(logits, device)?.chunks_exact(labels.max(1)).map(<[f32]>::to_vec).collect())
        })
    }

    fn postprocess(&self, _: &Sound, units: Vec<(Features, Vec<f32>)>) -> Result<AudioClassification> {
        let logits = units.into_iter().next().map(|(_, logits)| logits).unwrap_or_default();
        if logits.len() != self.labels.len() {
            let reason = format_args!("{} labels, but the model has {} outputs", self.labels.len(), logits.len());
            return Err(Error::config(self.model.config.path(), "id2label", reason));
        }
        let scores: Vec<f32> = match self.options.function_to_apply.unwrap_or(self.function) {
            FunctionToApply::Softmax => softmax(&logits),
            FunctionToApply::Sigmoid => logits.into_iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            FunctionToApply::None => logits,
        };
        let label = |(label, score): (&String, f32)| Label { score, label: label.clone() };
        let mut labels: Vec<Label> = self.labels.iter().zip(scores).map(label).collect();
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels.truncate(self.options.top_k.unwrap_or(labels.len()));
        Ok(labels)
    }
}

/// `eˣ / Σ eˣ`, with the largest element taken off first.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
    let total = weights.iter().copied().map(f64::from).sum::<f64>() as f32;
    weights.into_iter().map(|weight| weight / total).collect()
}
