//! `object-detection`: a picture to objects and where they are.
//!
//! Reference: transformers 5.23.0, `pipelines/object_detection.py`.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::Serialize;
use tx_core::error::Result;
use tx_core::pipeline::Pipeline;
use tx_core::task::{DetectionOutput, ObjectDetector, Record};

use super::{ImageSource, ProcessedModel};
use crate::postprocess::{Detection, DetectionScores, post_process_object_detection};
use crate::processor::Processed;

/// The arguments of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectDetectionOptions {
    /// Objects must be more probable than this.
    pub threshold: f64,
}

impl Default for ObjectDetectionOptions {
    fn default() -> Self {
        Self { threshold: 0.5 }
    }
}

/// An object and where it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DetectedObject {
    /// Its probability.
    pub score: f32,
    /// What it is.
    pub label: String,
    /// Where it is.
    #[serde(rename = "box")]
    pub bounding_box: BoundingBox,
}

/// A rectangle of the picture, in its pixels; it may reach beyond the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BoundingBox {
    /// The left side.
    pub xmin: i32,
    /// The upper side.
    pub ymin: i32,
    /// The right side.
    pub xmax: i32,
    /// The lower side.
    pub ymax: i32,
}

impl From<[f32; 4]> for BoundingBox {
    /// Cuts off what is behind the point, as Python does.
    fn from(corners: [f32; 4]) -> Self {
        let [xmin, ymin, xmax, ymax] = corners.map(|side| side as i32);
        Self { xmin, ymin, xmax, ymax }
    }
}

/// A picture to objects, in the order of the model's queries.
#[derive(Debug, Clone)]
pub struct ObjectDetectionPipeline {
    model: Arc<ProcessedModel<dyn ObjectDetector>>,
    labels: Arc<[String]>,
    options: ObjectDetectionOptions,
}

impl ObjectDetectionPipeline {
    /// A pipeline of a detector.
    ///
    /// # Errors
    /// `Error::Config` if the model's labels cannot be used.
    pub fn new(model: ProcessedModel<dyn ObjectDetector>, options: ObjectDetectionOptions) -> Result<Self> {
        let labels: Arc<[String]> = model.model.config.labels()?.into();
        Ok(Self { model: Arc::new(model), labels, options })
    }

    /// A pipeline with other options that shares the model.
    pub fn with_options(&self, options: ObjectDetectionOptions) -> Self {
        Self { options, ..self.clone() }
    }
}

impl Pipeline for ObjectDetectionPipeline {
    type Input = ImageSource;
    type Unit = Processed;
    type Scores = DetectionScores;
    type Output = Vec<DetectedObject>;

    fn preprocess(&self, source: &ImageSource) -> Result<Vec<Processed>> {
        Ok(vec![self.model.process(source)?])
    }

    fn length(&self, unit: &Processed) -> usize {
        self.model.length(unit)
    }

    fn forward(&self, units: &[&Processed]) -> Result<Vec<DetectionScores>> {
        self.model.forward(units, |inputs| {
            let output = self.model.model.forward(inputs, &mut Record::none());
            detection_scores(output, |values| self.model.read(values))
        })
    }

    fn postprocess(&self, _: &ImageSource, units: Vec<(Processed, DetectionScores)>) -> Result<Vec<DetectedObject>> {
        let Some((picture, scores)) = units.into_iter().next() else { return Ok(Vec::new()) };
        self.model.check_labels(&self.labels, scores.classes.saturating_sub(1))?;
        let objects = post_process_object_detection(&scores, self.options.threshold, Some(picture.original));
        let named = |Detection { label, score, corners }: Detection| {
            let label = self.labels[label].clone();
            DetectedObject { score, label, bounding_box: corners.into() }
        };
        Ok(objects.into_iter().map(named).collect())
    }
}

/// What a model says about each picture of a batch; `read` gives the elements of a tensor.
pub(super) fn detection_scores(
    output: DetectionOutput,
    read: impl Fn(Tensor<3>) -> Result<Vec<f32>>,
) -> Result<Vec<DetectionScores>> {
    let [_, queries, classes] = output.logits.dims();
    let (logits, boxes) = (read(output.logits)?, read(output.pred_boxes)?);
    let rows = logits.chunks_exact((queries * classes).max(1)).zip(boxes.chunks_exact((4 * queries).max(1)));
    let scores =
        rows.map(|(logits, boxes)| DetectionScores { classes, logits: logits.to_vec(), boxes: boxes.to_vec() });
    Ok(scores.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_serialize_as_in_python() {
        let object =
            DetectedObject { score: 0.5, label: "cat".into(), bounding_box: [-0.02, 1.99, 639.73, 1e20].into() };
        let json = serde_json::to_string(&[object]).unwrap();
        let expected = r#"[{"score":0.5,"label":"cat","box":{"xmin":0,"ymin":1,"xmax":639,"ymax":2147483647}}]"#;
        assert_eq!(json, expected);
    }
}
