//! `image-classification`: a picture to labels.
//!
//! Reference: transformers 5.23.0, `pipelines/image_classification.py`.

use std::sync::Arc;

use tx_core::config::ProblemType;
use tx_core::error::Result;
use tx_core::pipeline::{FunctionToApply, Label, Pipeline};
use tx_core::task::{ImageClassifier, Record};

use super::{ImageSource, ProcessedModel};
use crate::processor::Processed;

/// The arguments of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageClassificationOptions {
    /// How many labels to return; all, if there are fewer.
    pub top_k: usize,
    /// What turns logits into scores; by the model's problem type if `None`.
    pub function_to_apply: Option<FunctionToApply>,
}

impl Default for ImageClassificationOptions {
    fn default() -> Self {
        Self { top_k: 5, function_to_apply: None }
    }
}

/// A picture to labels, best first.
#[derive(Debug, Clone)]
pub struct ImageClassificationPipeline {
    model: Arc<ProcessedModel<dyn ImageClassifier>>,
    labels: Arc<[String]>,
    function: FunctionToApply,
    options: ImageClassificationOptions,
}

impl ImageClassificationPipeline {
    /// A pipeline of a classifier of pictures.
    ///
    /// # Errors
    /// [`tx_core::Error::Config`] and [`tx_core::Error::Unsupported`] if the model's labels or problem type cannot be
    /// used.
    pub fn new(model: ProcessedModel<dyn ImageClassifier>, options: ImageClassificationOptions) -> Result<Self> {
        let labels: Arc<[String]> = model.model.config.labels()?.into();
        let function = match model.model.config.problem_type()? {
            Some(ProblemType::Regression) => FunctionToApply::None,
            Some(ProblemType::MultiLabelClassification) => FunctionToApply::Sigmoid,
            _ if labels.len() == 1 => FunctionToApply::Sigmoid,
            _ => FunctionToApply::Softmax,
        };
        Ok(Self { model: Arc::new(model), labels, function, options })
    }

    /// A pipeline with other options that shares the model.
    pub fn with_options(&self, options: ImageClassificationOptions) -> Self {
        Self { options, ..self.clone() }
    }
}

impl Pipeline for ImageClassificationPipeline {
    type Input = ImageSource;
    type Unit = Processed;
    type Scores = Vec<f32>;
    type Output = Vec<Label>;

    fn preprocess(&self, source: &ImageSource) -> Result<Vec<Processed>> {
        Ok(vec![self.model.process(source)?])
    }

    fn length(&self, unit: &Processed) -> usize {
        self.model.length(unit)
    }

    fn forward(&self, units: &[&Processed]) -> Result<Vec<Vec<f32>>> {
        self.model.forward(units, |inputs| {
            let logits = self.model.model.forward(inputs, &mut Record::none()).logits;
            let [_, labels] = logits.dims();
            Ok(self.model.read(logits)?.chunks_exact(labels.max(1)).map(<[f32]>::to_vec).collect())
        })
    }

    fn postprocess(&self, _: &ImageSource, units: Vec<(Processed, Vec<f32>)>) -> Result<Vec<Label>> {
        let logits = units.into_iter().next().map(|(_, logits)| logits).unwrap_or_default();
        self.model.check_labels(&self.labels, logits.len())?;
        let scores = self.options.function_to_apply.unwrap_or(self.function).scores(logits);
        let mut labels: Vec<Label> =
            self.labels.iter().zip(scores).map(|(label, score)| Label { label: label.clone(), score }).collect();
        // Stable: of equal scores the first label comes first, as in the reference.
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels.truncate(self.options.top_k);
        Ok(labels)
    }
}
