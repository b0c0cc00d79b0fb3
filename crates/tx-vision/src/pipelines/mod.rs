//! Vision pipelines: from pictures to finished results, with the arguments and the JSON of Python's `pipeline()`.
//!
//! Each pipeline is made of a model and its image processor, takes its arguments as a struct, and is called through
//! [`tx_core::pipeline::Pipeline`]: with one picture, with a list, or with anything that gives pictures one by one.
//!
//! ```no_run
//! use tx_core::pipeline::{Batching, Pipeline};
//! use tx_core::registry::LoadOptions;
//! use tx_vision::models::IMAGE_CLASSIFICATION;
//! use tx_vision::pipelines::{ImageClassificationOptions, ImageClassificationPipeline, ProcessedModel};
//!
//! let model = ProcessedModel::from_folder(IMAGE_CLASSIFICATION, "vit".as_ref(), &LoadOptions::default())?;
//! let pipeline = ImageClassificationPipeline::new(model, ImageClassificationOptions::default())?;
//! let labels = pipeline.call("cat.jpg")?;
//! let all = pipeline.call_all(["cat.jpg", "dog.png"], &Batching::default())?;
//! # Ok::<(), tx_core::Error>(())
//! ```

mod image_classification;
mod image_feature_extraction;
mod image_segmentation;
mod object_detection;
mod processed;
mod segment_mask;

use std::str::FromStr;

use tx_core::error::{Error, Result};

pub use tx_core::pipeline::{FunctionToApply, Label, TaskEntry};

pub use image_classification::{ImageClassificationOptions, ImageClassificationPipeline};
pub use image_feature_extraction::{ImageFeatureExtractionOptions, ImageFeatureExtractionPipeline, ImageFeatures};
pub use image_segmentation::{
    ImageSegmentationOptions, ImageSegmentationPipeline, PictureScores, Segment, SegmentationModel, Subtask,
};
pub use object_detection::{BoundingBox, DetectedObject, ObjectDetectionOptions, ObjectDetectionPipeline};
pub use processed::{ImageSource, ProcessedModel};
pub use segment_mask::SegmentMask;

/// The tasks that have a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionTask {
    /// [`ImageClassificationPipeline`]
    ImageClassification,
    /// [`ImageFeatureExtractionPipeline`]
    ImageFeatureExtraction,
    /// [`ImageSegmentationPipeline`]
    ImageSegmentation,
    /// [`ObjectDetectionPipeline`]
    ObjectDetection,
}

/// Every task, sorted by name. The examples are HF's default models.
pub static TASKS: &[TaskEntry<VisionTask>] = &[
    TaskEntry::new(VisionTask::ImageClassification, "image-classification", "google/vit-base-patch16-224"),
    TaskEntry::new(VisionTask::ImageFeatureExtraction, "image-feature-extraction", "google/vit-base-patch16-224"),
    TaskEntry::new(VisionTask::ImageSegmentation, "image-segmentation", "facebook/detr-resnet-50-panoptic"),
    TaskEntry::new(VisionTask::ObjectDetection, "object-detection", "facebook/detr-resnet-50"),
];

impl VisionTask {
    /// The task's line of the table.
    pub fn entry(self) -> &'static TaskEntry<Self> {
        // Every task is in the table, as a test makes sure.
        TASKS.iter().find(|entry| entry.task == self).unwrap_or(&TASKS[0])
    }
}

impl FromStr for VisionTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        TaskEntry::find(TASKS, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_complete_and_found_by_name() {
        assert!(TASKS.is_sorted_by(|a, b| a.name < b.name));
        for entry in TASKS {
            assert_eq!(entry.task.entry().name, entry.name);
            assert_eq!(entry.name.parse::<VisionTask>().unwrap(), entry.task);
        }
        let message = "image-clasification".parse::<VisionTask>().unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown task `image-clasification`; did you mean `image-classification`?; see `tx models`"
        );
    }
}
