//! One trait per head: what a model of that kind computes.
//!
//! The traits are object-safe, because burn's tensors carry no backend type: a table of boxed models serves every
//! architecture. `forward` is infallible; the inputs' `new` checks what comes from outside. Hidden states and attention
//! maps are kept in a [`Record`] when they are asked for, and nothing is computed for them otherwise.
//!
//! | file | holds |
//! |---|---|
//! | `text.rs` | text: inputs, limits and heads |
//! | `vision.rs` | pictures |
//! | `audio.rs` | sounds, and what turns them into text |
//! | `multimodal.rs` | models of two modalities |
//! | `record.rs` | what a forward pass keeps besides its result |
//! | `named.rs` | a model of any task, called with tensors by name |

mod audio;
mod multimodal;
mod named;
mod record;
mod text;
mod vision;

pub use audio::*;
pub use multimodal::*;
pub use named::*;
pub use record::*;
pub use text::*;
pub use vision::*;

use crate::weights::StoredTensor;

/// A filled model, whatever it computes.
pub trait PretrainedModel: Send + Sync + std::fmt::Debug {
    /// The tensors by their names on the Hub, in the model's order, each tied one once.
    fn tensors(&self) -> Vec<(String, StoredTensor)>;

    /// The number of elements of all tensors, each tied one once.
    fn num_parameters(&self) -> usize;
}

/// The most places of a picture or a sound that a model can have a bias for each pair of, in every head: together these
/// take 2 GiB.
pub fn most_places(heads: usize) -> usize {
    const BIASES: usize = 1 << 29;
    (BIASES / heads.max(1)).isqrt()
}

/// What a model of any modality can take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of its text, if it takes any.
    pub text: Option<TextLimits>,
    /// Of its pictures.
    pub image: Option<ImageLimits>,
    /// Of its sounds.
    pub audio: Option<AudioLimits>,
}

impl From<TextLimits> for Limits {
    fn from(text: TextLimits) -> Self {
        Self { text: Some(text), ..Self::default() }
    }
}

impl From<ImageLimits> for Limits {
    fn from(image: ImageLimits) -> Self {
        Self { image: Some(image), ..Self::default() }
    }
}

impl From<AudioLimits> for Limits {
    fn from(audio: AudioLimits) -> Self {
        Self { audio: Some(audio), ..Self::default() }
    }
}

impl From<SpeechToTextLimits> for Limits {
    fn from(limits: SpeechToTextLimits) -> Self {
        Self { text: Some(limits.text), audio: Some(limits.audio), image: None }
    }
}

impl From<ImageTextLimits> for Limits {
    fn from(limits: ImageTextLimits) -> Self {
        Self { text: Some(limits.text), image: Some(limits.image), audio: None }
    }
}

impl From<AudioTextLimits> for Limits {
    fn from(limits: AudioTextLimits) -> Self {
        Self { text: Some(limits.text), audio: Some(limits.audio), image: None }
    }
}
