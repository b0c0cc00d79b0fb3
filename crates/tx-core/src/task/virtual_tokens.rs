//! Tokens that stand before a text without being of it, and what else is attached to a loaded model.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

use super::{
    AudioLimits, AudioTextLimits, ImageLimits, ImageTextLimits, Limits, SpeechDecoderLimits, SpeechToTextLimits,
    TextLimits,
};

/// Tokens before those of every text, which no vocabulary has: what they are was learned.
pub trait VirtualTokens: Debug + Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// What they are now.
    fn values(&self) -> VirtualValues;

    /// The id of the first one of a prompt, for models that look it up as those of other tokens; the others follow. A
    /// prefix has none.
    fn first_id(&self) -> Option<usize>;

    /// Is told after a pass how many layers have got them; a prompt gets into all of them at once and counts as one.
    fn passed(&self, layers: usize);
}

/// What virtual tokens are.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one lives at a time, for one pass")]
pub enum VirtualValues {
    /// Embeddings, `[tokens, hidden]`.
    Prompt(Tensor<2>),
    /// Keys and values of each layer, `[tokens, groups, head_dim]`.
    Prefix(Vec<[Tensor<3>; 2]>),
}

/// What is attached to a loaded model from outside.
#[derive(Debug, Default)]
pub struct Attached {
    virtual_tokens: Option<Arc<dyn VirtualTokens>>,
    kept: Vec<Box<dyn Debug + Send + Sync>>,
}

impl Attached {
    /// The tokens before those of every text.
    pub fn virtual_tokens(&self) -> Option<&dyn VirtualTokens> {
        self.virtual_tokens.as_deref()
    }

    /// How many these are.
    pub fn count(&self) -> usize {
        self.virtual_tokens.as_ref().map_or(0, |tokens| tokens.count())
    }

    /// Replaces these; returns those from before.
    pub(crate) fn replace(&mut self, tokens: Option<Arc<dyn VirtualTokens>>) -> Option<Arc<dyn VirtualTokens>> {
        std::mem::replace(&mut self.virtual_tokens, tokens)
    }

    /// Keeps a value as long as there is the model.
    pub(crate) fn keep(&mut self, value: Box<dyn Debug + Send + Sync>) {
        self.kept.push(value);
    }
}

/// Limits, of which some are those of a text that virtual tokens can stand before.
pub trait TextRoom {
    /// The limits of the text.
    fn text_mut(&mut self) -> Option<&mut TextLimits> {
        None
    }
}

impl TextRoom for TextLimits {
    fn text_mut(&mut self) -> Option<&mut TextLimits> {
        Some(self)
    }
}

impl TextRoom for ImageLimits {}
impl TextRoom for AudioLimits {}
impl TextRoom for SpeechDecoderLimits {}
impl TextRoom for SpeechToTextLimits {}
impl TextRoom for ImageTextLimits {}
impl TextRoom for AudioTextLimits {}
impl TextRoom for Limits {}
