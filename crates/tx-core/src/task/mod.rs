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
//! | `parameter.rs` | the parameters of a model one by one |
//! | `virtual_tokens.rs` | tokens before a text that were learned |

mod audio;
mod multimodal;
mod named;
mod parameter;
mod record;
mod text;
mod virtual_tokens;
mod vision;

pub use audio::*;
pub use multimodal::*;
pub use named::*;
pub use parameter::*;
pub use record::*;
pub use text::*;
pub use virtual_tokens::*;
pub use vision::*;

use crate::weights::StoredTensor;

/// A filled model, whatever it computes.
pub trait PretrainedModel: Send + Sync + std::fmt::Debug {
    /// The tensors by their names on the Hub, in the model's order, each tied one once.
    fn tensors(&self) -> Vec<(String, StoredTensor)>;

    /// The number of elements of all tensors, each tied one once.
    fn num_parameters(&self) -> usize;

    /// Calls `f` with every parameter in the model's order, each tied one once, under the name that
    /// [`PretrainedModel::tensors`] has for it. Running statistics and other buffers are none.
    ///
    /// A quantized weight is a parameter of its own, even where it has the identity of a dense one that it is tied to.
    fn visit_parameters(&self, f: &mut dyn FnMut(Parameter));

    /// Replaces every parameter by what `f` makes of it, a tensor with as many axes; the parameters are those of
    /// [`PretrainedModel::visit_parameters`], and what is tied stays tied.
    ///
    /// What `f` is given is the only handle that the model has: if nobody else has one, it can be changed in place. A
    /// panic in `f` ends the process, for a model without one of its tensors is none.
    fn map_parameters(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor);

    /// Calls `f` as [`PretrainedModel::visit_parameters`] does, and with tied parameters in every place that they have.
    fn visit_places(&self, f: &mut dyn FnMut(Parameter)) {
        self.visit_parameters(f);
    }

    /// What is attached to the model from outside, if it takes anything.
    fn attached(&self) -> Option<&Attached> {
        None
    }

    /// See [`PretrainedModel::attached`].
    fn attached_mut(&mut self) -> Option<&mut Attached> {
        None
    }
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

impl From<SpeechDecoderLimits> for Limits {
    fn from(limits: SpeechDecoderLimits) -> Self {
        limits.text.into()
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
