//! `audio-classification`: the labels of sounds.

use std::path::Path;
use std::sync::Arc;

use tx_core::config::ProblemType;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{FunctionToApply, Pipeline, ScoredLabel};
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

/// The labels of a sound, the best first.
pub type AudioClassification = Vec<ScoredLabel>;

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
        let scores = self.options.function_to_apply.unwrap_or(self.function).scores(logits);
        let label = |(label, score): (&String, f32)| ScoredLabel { score, label: label.clone() };
        let mut labels: Vec<ScoredLabel> = self.labels.iter().zip(scores).map(label).collect();
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels.truncate(self.options.top_k.unwrap_or(labels.len()));
        Ok(labels)
    }
}
