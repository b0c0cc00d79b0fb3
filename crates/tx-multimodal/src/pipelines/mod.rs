//! Pipelines of models that join modalities, with the arguments and the JSON of Python's `pipeline()`.
//!
//! Each pipeline is made of the model, the tokenizer and the image processor or feature extractor of one folder, and is
//! called through [`tx_core::pipeline::Pipeline`]: with one picture or sound, with a list, or with anything that gives
//! them one by one.
//!
//! ```no_run
//! use tx_core::pipeline::Pipeline;
//! use tx_core::registry::LoadOptions;
//! use tx_multimodal::pipelines::{ZeroShotClassificationOptions, ZeroShotImageClassificationPipeline};
//!
//! let options = ZeroShotClassificationOptions::of_images(["a cat", "a dog"]);
//! let pipeline =
//!     ZeroShotImageClassificationPipeline::from_folder("clip".as_ref(), &LoadOptions::default(), options)?;
//! let labels = pipeline.call("cat.jpg")?;
//! # Ok::<(), tx_core::Error>(())
//! ```

mod joint_embedding;
mod pictures;
mod sounds;
mod texts;
mod zero_shot;
mod zero_shot_audio_classification;
mod zero_shot_image_classification;

use std::str::FromStr;

use burn::tensor::{Device, Tensor};
use tx_core::device;
use tx_core::error::{Error, Result};

pub use joint_embedding::{Embeddable, EmbeddingUnit, JointEmbeddingPipeline};
pub use tx_core::pipeline::{ScoredLabel, TaskEntry};
pub use zero_shot::ZeroShotClassificationOptions;
pub use zero_shot_audio_classification::ZeroShotAudioClassificationPipeline;
pub use zero_shot_image_classification::ZeroShotImageClassificationPipeline;

/// The tasks that have a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultimodalTask {
    /// [`ZeroShotAudioClassificationPipeline`]
    ZeroShotAudioClassification,
    /// [`ZeroShotImageClassificationPipeline`]
    ZeroShotImageClassification,
}

/// Every task, sorted by name. The examples are HF's default models, or those of its documentation.
pub static TASKS: &[TaskEntry<MultimodalTask>] = &[
    TaskEntry::new(
        MultimodalTask::ZeroShotAudioClassification,
        "zero-shot-audio-classification",
        "laion/clap-htsat-unfused",
    ),
    TaskEntry::new(
        MultimodalTask::ZeroShotImageClassification,
        "zero-shot-image-classification",
        "openai/clip-vit-base-patch32",
    ),
];

impl MultimodalTask {
    /// The task's line of the table.
    pub fn entry(self) -> &'static TaskEntry<Self> {
        // Every task is in the table, as a test makes sure.
        TASKS.iter().find(|entry| entry.task == self).unwrap_or(&TASKS[0])
    }
}

impl FromStr for MultimodalTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        TaskEntry::find(TASKS, name)
    }
}

/// The rows of a tensor `[batch, n]`.
fn read_rows(tensor: Tensor<2>, device: &Device) -> Result<Vec<Vec<f32>>> {
    let [_, n] = tensor.dims();
    let values = tensor.try_into_vec_as::<f32>().map_err(|e| Error::Device {
        device: format!("{device:?}"),
        reason: format!("the result cannot be read: {e}"),
        available: device::available().join(", "),
    })?;
    Ok(values.chunks_exact(n.max(1)).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_complete_and_found_by_name() {
        assert!(TASKS.is_sorted_by(|a, b| a.name < b.name));
        for entry in TASKS {
            assert_eq!(entry.task.entry().name, entry.name);
            assert_eq!(entry.name.parse::<MultimodalTask>().unwrap(), entry.task);
        }
        let message = "zero-shot-image-clasification".parse::<MultimodalTask>().unwrap_err().to_string();
        assert!(message.contains("did you mean `zero-shot-image-classification`?"), "{message}");
    }
}
