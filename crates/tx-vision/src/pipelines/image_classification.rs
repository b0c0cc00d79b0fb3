//! `image-classification`: a picture to labels.
//!
//! Reference: transformers 5.23.0, `pipelines/image_classification.py`.

use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use tx_core::config::ProblemType;
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
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

/// What turns logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionToApply {
    /// Each label by itself.
    Sigmoid,
    /// The labels exclude each other.
    Softmax,
    /// The logits as they are.
    None,
}

impl FromStr for FunctionToApply {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "sigmoid" => Self::Sigmoid,
            "softmax" => Self::Softmax,
            "none" => Self::None,
            _ => return Err(Error::input("function_to_apply", format_args!("`{s}`"), "sigmoid, softmax or none")),
        })
    }
}

impl FunctionToApply {
    fn forward(self, logits: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Sigmoid => logits.into_iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Self::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exp: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
                let sum = exp.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
                exp.into_iter().map(|x| x / sum).collect()
            }
            Self::None => logits,
        }
    }
}

/// A label with its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    /// The label.
    pub label: String,
    /// Its score.
    pub score: f32,
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
    /// [`Error::Config`] and [`Error::Unsupported`] if the model's labels or problem type cannot be used.
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
        let scores = self.options.function_to_apply.unwrap_or(self.function).forward(logits);
        let mut labels: Vec<Label> =
            self.labels.iter().zip(scores).map(|(label, score)| Label { label: label.clone(), score }).collect();
        // Stable: of equal scores the first label comes first, as in the reference.
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels.truncate(self.options.top_k);
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_name() {
        assert_eq!("softmax".parse::<FunctionToApply>().unwrap(), FunctionToApply::Softmax);
        let message = "tanh".parse::<FunctionToApply>().unwrap_err().to_string();
        assert_eq!(message, "function_to_apply: `tanh`, expected sigmoid, softmax or none");
    }

    #[test]
    fn scores_are_stable() {
        let scores = FunctionToApply::Softmax.forward(vec![1000.0, 1001.0, f32::NEG_INFINITY]);
        assert!((scores[0] - 0.268_941_43).abs() < 1e-6 && (scores[1] - 0.731_058_6).abs() < 1e-6 && scores[2] == 0.0);
        assert_eq!(FunctionToApply::Sigmoid.forward(vec![0.0, -200.0]), [0.5, 0.0]);
        assert_eq!(FunctionToApply::None.forward(vec![3.0]), [3.0]);
    }

    #[test]
    fn labels_serialize_as_in_python() {
        let labels = vec![Label { label: "macaw".into(), score: 0.5 }];
        assert_eq!(serde_json::to_string(&labels).unwrap(), r#"[{"label":"macaw","score":0.5}]"#);
    }
}
