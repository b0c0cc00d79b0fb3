//! Models of two modalities that agree in one space of vectors.

use burn::tensor::Tensor;

use super::{
    AudioLimits, BaseModelOutput, ImageInputs, ImageLimits, PretrainedModel, Record, SpectrogramInputs, TextInputs,
    TextLimits, VisionModelOutput,
};

/// What a model of pictures and texts can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageTextLimits {
    /// Its pictures.
    pub image: ImageLimits,
    /// Its texts.
    pub text: TextLimits,
}

/// What a model of sounds and texts can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioTextLimits {
    /// Its sounds.
    pub audio: AudioLimits,
    /// Its texts.
    pub text: TextLimits,
}

/// A text as a vector.
#[derive(Debug, Clone)]
pub struct TextEmbedding {
    /// `[batch, dim]`, of any length.
    pub embeds: Tensor<2>,
    /// What it was made of.
    pub output: BaseModelOutput,
}

/// A picture, or a sound, as a vector.
#[derive(Debug, Clone)]
pub struct VisionEmbedding {
    /// `[batch, dim]`, of any length.
    pub embeds: Tensor<2>,
    /// What it was made of.
    pub output: VisionModelOutput,
}

/// Texts to vectors of the common space.
pub trait TextEmbedder: PretrainedModel {
    /// One vector per text.
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding;
}

/// Pictures to vectors of the common space.
pub trait ImageEmbedder: PretrainedModel {
    /// One vector per picture.
    fn embed_image(&self, inputs: &ImageInputs, record: &mut Record) -> VisionEmbedding;
}

/// Sounds to hidden states, by pictures of their frequencies.
pub trait SpectrogramModel: PretrainedModel {
    /// The encoder, and its pooler.
    fn forward(&self, inputs: &SpectrogramInputs, record: &mut Record) -> VisionModelOutput;
}

/// Sounds to vectors of the common space.
pub trait AudioEmbedder: PretrainedModel {
    /// One vector per sound.
    fn embed_audio(&self, inputs: &SpectrogramInputs, record: &mut Record) -> VisionEmbedding;
}

/// How well pictures and texts fit: HF's `AutoModelForZeroShotImageClassification`.
pub trait ImageTextModel: TextEmbedder + ImageEmbedder {
    /// Whether a score is the logarithm of the odds that a pair fits, and not one among many.
    fn is_pairwise(&self) -> bool;

    /// # Shapes
    /// - image_embeds: `[images, dim]`, text_embeds: `[texts, dim]`, both of length one
    /// - output: `[images, texts]`
    fn logits_per_image(&self, image_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2>;
}

/// How well sounds and texts fit.
pub trait AudioTextModel: TextEmbedder + AudioEmbedder {
    /// # Shapes
    /// - audio_embeds: `[sounds, dim]`, text_embeds: `[texts, dim]`, both of length one
    /// - output: `[sounds, texts]`
    fn logits_per_audio(&self, audio_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2>;

    /// # Shapes
    /// - text_embeds: `[texts, dim]`, audio_embeds: `[sounds, dim]`, both of length one
    /// - output: `[texts, sounds]`
    fn logits_per_text(&self, text_embeds: Tensor<2>, audio_embeds: Tensor<2>) -> Tensor<2>;
}

/// Vectors of length one.
///
/// # Shapes
/// - x, output: `[batch, dim]`
pub fn normalize(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt();
    x / length
}
