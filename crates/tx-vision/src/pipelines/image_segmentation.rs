//! `image-segmentation`: a picture to segments, each with its pixels.
//!
//! Reference: transformers 5.23.0, `pipelines/image_segmentation.py`.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::registry::LoadOptions;
use tx_core::task::{ImageSegmenter, Record, SemanticSegmenter};

use super::object_detection::detection_scores;
use super::segment_mask::{SegmentMap, SegmentMask};
use super::{ImageSource, ProcessedModel};
use crate::models::{IMAGE_SEGMENTATION, SEMANTIC_SEGMENTATION};
use crate::postprocess::{
    ScoreMaps, SegmentOptions, Segmentation, SegmentationScores, post_process_instance_segmentation,
    post_process_panoptic_segmentation, post_process_queries_semantic_segmentation, post_process_semantic_segmentation,
};
use crate::processor::Processed;

/// The arguments of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageSegmentationOptions {
    /// What segments are; if `None`, the first of [`Subtask`] that the model can do.
    pub subtask: Option<Subtask>,
    /// Objects must be more probable than this.
    pub threshold: f64,
    /// A pixel belongs to an object from this probability on, times the object's.
    pub mask_threshold: f64,
    /// The part of an object that no other covers must be larger than this.
    pub overlap_mask_area_threshold: f64,
}

impl Default for ImageSegmentationOptions {
    fn default() -> Self {
        Self { subtask: None, threshold: 0.9, mask_threshold: 0.5, overlap_mask_area_threshold: 0.5 }
    }
}

/// What segments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subtask {
    /// Objects, and what lies around them.
    Panoptic,
    /// Objects.
    Instance,
    /// All pixels of one label.
    Semantic,
}

impl FromStr for Subtask {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "panoptic" => Self::Panoptic,
            "instance" => Self::Instance,
            "semantic" => Self::Semantic,
            _ => return Err(Error::input("subtask", format_args!("`{s}`"), "panoptic, instance or semantic")),
        })
    }
}

/// A model that can do it.
#[derive(Debug, Clone)]
pub enum SegmentationModel {
    /// Of objects and their shapes.
    Objects(Arc<ProcessedModel<dyn ImageSegmenter>>),
    /// Of labels of pixels.
    Semantic(Arc<ProcessedModel<dyn SemanticSegmenter>>),
}

impl SegmentationModel {
    /// Loads the model of a folder, of whichever kind its architecture is.
    ///
    /// # Errors
    /// As [`ProcessedModel::from_folder`].
    pub fn from_folder(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let config = Config::from_folder(folder)?;
        let model_type = config.model_type()?;
        if IMAGE_SEGMENTATION.iter().any(|entry| entry.model_type == model_type) {
            return Ok(ProcessedModel::from_folder(IMAGE_SEGMENTATION, folder, options)?.into());
        }
        Ok(ProcessedModel::from_folder(SEMANTIC_SEGMENTATION, folder, options)?.into())
    }

    fn config(&self) -> &Config {
        match self {
            Self::Objects(model) => &model.model.config,
            Self::Semantic(model) => &model.model.config,
        }
    }

    fn check_labels(&self, labels: &[String], outputs: usize) -> Result<()> {
        match self {
            Self::Objects(model) => model.check_labels(labels, outputs),
            Self::Semantic(model) => model.check_labels(labels, outputs),
        }
    }
}

impl From<ProcessedModel<dyn ImageSegmenter>> for SegmentationModel {
    fn from(model: ProcessedModel<dyn ImageSegmenter>) -> Self {
        Self::Objects(Arc::new(model))
    }
}

impl From<ProcessedModel<dyn SemanticSegmenter>> for SegmentationModel {
    fn from(model: ProcessedModel<dyn SemanticSegmenter>) -> Self {
        Self::Semantic(Arc::new(model))
    }
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Segment {
    /// The probability of its label; a label of pixels has none.
    pub score: Option<f64>,
    /// What it is.
    pub label: String,
    /// Its pixels.
    pub mask: SegmentMask,
}

/// What a model says about a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum PictureScores {
    /// Objects and their shapes.
    Objects(SegmentationScores),
    /// A map for each label.
    Semantic(ScoreMaps),
}

/// A picture to segments.
#[derive(Debug, Clone)]
pub struct ImageSegmentationPipeline {
    model: SegmentationModel,
    labels: Arc<[String]>,
    options: ImageSegmentationOptions,
}

impl ImageSegmentationPipeline {
    /// A pipeline of a model of either kind.
    ///
    /// # Errors
    /// [`Error::Config`] if the model's labels cannot be used; [`Error::Input`] for a subtask that it cannot do.
    pub fn new(model: impl Into<SegmentationModel>, options: ImageSegmentationOptions) -> Result<Self> {
        let model = model.into();
        let labels: Arc<[String]> = model.config().labels()?.into();
        Self { model, labels, options }.checked()
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`] for a subtask that the model cannot do.
    pub fn with_options(&self, options: ImageSegmentationOptions) -> Result<Self> {
        Self { options, ..self.clone() }.checked()
    }

    fn checked(self) -> Result<Self> {
        match (&self.model, self.options.subtask) {
            (SegmentationModel::Semantic(model), Some(subtask @ (Subtask::Panoptic | Subtask::Instance))) => {
                let found = format!("{subtask:?}").to_lowercase();
                Err(Error::input("subtask", found, format_args!("semantic, all that {} can do", model.model.class)))
            }
            _ => Ok(self),
        }
    }

    /// A segment for each label of pixels.
    fn label_segments(&self, labels: Vec<u32>, [height, width]: [usize; 2]) -> Vec<Segment> {
        let mut found = vec![false; self.labels.len()];
        labels.iter().for_each(|&label| found[label as usize] = true);
        let segments = labels.into_iter().map(|label| label as i32).collect();
        let map = Arc::new(SegmentMap { width, height, segments });
        let segment = |(number, label): (usize, &String)| Segment {
            score: None,
            label: label.clone(),
            mask: SegmentMask::new(map.clone(), number as i32),
        };
        self.labels.iter().enumerate().filter(|&(number, _)| found[number]).map(segment).collect()
    }

    /// A segment for each object.
    fn object_segments(&self, segmentation: Segmentation) -> Vec<Segment> {
        let Segmentation { size: [height, width], segmentation: segments, segments_info } = segmentation;
        let map = Arc::new(SegmentMap { width, height, segments });
        let infos = segments_info.into_iter();
        let segment = infos.map(|info| Segment {
            score: Some(info.score),
            label: self.labels[info.label_id].clone(),
            mask: SegmentMask::new(map.clone(), info.id),
        });
        segment.collect()
    }
}

impl Pipeline for ImageSegmentationPipeline {
    type Input = ImageSource;
    type Unit = Processed;
    type Scores = PictureScores;
    type Output = Vec<Segment>;

    fn preprocess(&self, source: &ImageSource) -> Result<Vec<Processed>> {
        let picture = match &self.model {
            SegmentationModel::Objects(model) => model.process(source)?,
            SegmentationModel::Semantic(model) => model.process(source)?,
        };
        Ok(vec![picture])
    }

    fn length(&self, unit: &Processed) -> usize {
        match &self.model {
            SegmentationModel::Objects(model) => model.length(unit),
            SegmentationModel::Semantic(model) => model.length(unit),
        }
    }

    fn forward(&self, units: &[&Processed]) -> Result<Vec<PictureScores>> {
        match &self.model {
            SegmentationModel::Objects(model) => model.forward(units, |inputs| {
                let output = model.model.forward(inputs, &mut Record::none());
                let [_, queries, height, width] = output.pred_masks.dims();
                let masks = model.read(output.pred_masks)?;
                let masks = masks.chunks_exact((queries * height * width).max(1));
                let detections = detection_scores(output.detection, |values| model.read(values))?;
                let scores = detections.into_iter().zip(masks).map(|(detection, masks)| {
                    let masks = ScoreMaps { size: [height, width], values: masks.to_vec() };
                    PictureScores::Objects(SegmentationScores { detection, masks })
                });
                Ok(scores.collect())
            }),
            SegmentationModel::Semantic(model) => model.forward(units, |inputs| {
                let logits = model.model.forward(inputs, &mut Record::none());
                let [_, labels, height, width] = logits.dims();
                let values = model.read(logits)?;
                let maps = values.chunks_exact((labels * height * width).max(1));
                let scores = maps
                    .map(|maps| PictureScores::Semantic(ScoreMaps { size: [height, width], values: maps.to_vec() }));
                Ok(scores.collect())
            }),
        }
    }

    fn postprocess(&self, _: &ImageSource, units: Vec<(Processed, PictureScores)>) -> Result<Vec<Segment>> {
        let Some((picture, scores)) = units.into_iter().next() else { return Ok(Vec::new()) };
        let size = picture.original;
        let ImageSegmentationOptions { subtask, threshold, mask_threshold, overlap_mask_area_threshold } = self.options;
        let options = SegmentOptions { threshold, mask_threshold, overlap_mask_area_threshold };
        match scores {
            PictureScores::Semantic(maps) => {
                let places = maps.size[0] * maps.size[1];
                self.model.check_labels(&self.labels, maps.values.len() / places.max(1))?;
                Ok(self.label_segments(post_process_semantic_segmentation(&maps, Some(size)), size))
            }
            PictureScores::Objects(scores) => {
                self.model.check_labels(&self.labels, scores.detection.classes.saturating_sub(1))?;
                Ok(match subtask {
                    // As in the reference, no label's segments are fused.
                    None | Some(Subtask::Panoptic) => {
                        self.object_segments(post_process_panoptic_segmentation(&scores, &options, &[], Some(size)))
                    }
                    Some(Subtask::Instance) => {
                        self.object_segments(post_process_instance_segmentation(&scores, &options, Some(size)))
                    }
                    Some(Subtask::Semantic) => {
                        self.label_segments(post_process_queries_semantic_segmentation(&scores, Some(size)), size)
                    }
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtasks_are_found_by_name() {
        assert_eq!("instance".parse::<Subtask>().unwrap(), Subtask::Instance);
        let message = "objects".parse::<Subtask>().unwrap_err().to_string();
        assert_eq!(message, "subtask: `objects`, expected panoptic, instance or semantic");
    }

    #[test]
    fn segments_serialize_as_in_python() {
        let map = Arc::new(SegmentMap { width: 1, height: 1, segments: vec![1] });
        let segment = Segment { score: None, label: "sky".into(), mask: SegmentMask::new(map, 1) };
        let json = serde_json::to_string(&segment).unwrap();
        assert!(json.starts_with(r#"{"score":null,"label":"sky","mask":"iVBORw0KGgo"#), "{json}");
    }
}
