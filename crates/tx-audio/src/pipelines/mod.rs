//! Audio pipelines: from sound to finished results, with the arguments and the JSON of Python's `pipeline()`.
//!
//! Each pipeline is made of a model and the feature extractor of its folder, takes its arguments as a struct, and is
//! called through [`tx_core::pipeline::Pipeline`]: with one sound, with a list, or with anything that gives sounds one by
//! one.
//!
//! ```no_run
//! use tx_audio::pipelines::{AutomaticSpeechRecognitionOptions, AutomaticSpeechRecognitionPipeline};
//! use tx_core::pipeline::Pipeline;
//! use tx_core::registry::LoadOptions;
//!
//! let options = AutomaticSpeechRecognitionOptions::default();
//! let pipeline =
//!     AutomaticSpeechRecognitionPipeline::from_folder("whisper-tiny".as_ref(), &LoadOptions::default(), options)?;
//! println!("{}", pipeline.call("speech.flac")?.text);
//! # Ok::<(), tx_core::Error>(())
//! ```

mod audio_classification;
mod automatic_speech_recognition;
mod recording;
mod sound;
mod subtitles;

use std::str::FromStr;

use tx_core::error::{Error, Result};

pub use tx_core::pipeline::{FunctionToApply, ScoredLabel, TaskEntry};

pub use crate::tokens::Chunk;
pub use audio_classification::{AudioClassification, AudioClassificationOptions, AudioClassificationPipeline};
pub use automatic_speech_recognition::{
    AutomaticSpeechRecognitionOptions, AutomaticSpeechRecognitionPipeline, Heard, Piece, ReturnTimestamps,
    Transcription,
};
pub use sound::Sound;
pub use subtitles::TranscriptionFormat;

/// The tasks that have a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioTask {
    /// [`AudioClassificationPipeline`]
    AudioClassification,
    /// [`AutomaticSpeechRecognitionPipeline`]
    AutomaticSpeechRecognition,
}

/// Every task, sorted by name. The examples are HF's default models.
pub static TASKS: &[TaskEntry<AudioTask>] = &[
    TaskEntry::new(AudioTask::AudioClassification, "audio-classification", "superb/wav2vec2-base-superb-ks"),
    TaskEntry::new(
        AudioTask::AutomaticSpeechRecognition,
        "automatic-speech-recognition",
        "facebook/wav2vec2-base-960h",
    ),
];

impl FromStr for AudioTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        TaskEntry::find(TASKS, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found_by_name() {
        assert!(TASKS.is_sorted_by(|a, b| a.name < b.name));
        for entry in TASKS {
            assert_eq!(entry.name.parse::<AudioTask>().unwrap(), entry.task);
        }
        assert!("audio-clasification".parse::<AudioTask>().unwrap_err().to_string().contains("audio-classification"));
    }
}
