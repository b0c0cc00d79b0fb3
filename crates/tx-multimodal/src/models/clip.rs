//! CLIP: texts and pictures as vectors of one space, near each other where they fit.
//!
//! Paper: Radford et al., 2021 (arXiv:2103.00020).
//! Reference: transformers 5.23.0, `models/clip/modeling_clip.py`.

mod config;
mod encoder;
mod text;
mod vision;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tx_core::nn::{Linear, constant};
use tx_core::task::{
    BaseModelOutput, ImageClassifier, ImageClassifierOutput, ImageEmbedder, ImageInputs, ImageTextModel, Record,
    TextEmbedder, TextEmbedding, TextInputs, VisionEmbedding,
};
use tx_core::weights::load::{Parts, Pretrained};

pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig};
pub(super) use encoder::{Encoder, EncoderConfig, Mlp};
pub use text::ClipTextModel;
pub(super) use text::Embeddings;
pub use vision::ClipVisionModel;
pub(super) use vision::{output, positions};

/// The logarithm of what a new model's cosines are multiplied with.
pub(super) const LOGIT_SCALE: f64 = 2.6592;

/// Both towers, each with a projection to the common space.
#[derive(Module, Debug)]
pub struct ClipModel {
    text_model: ClipTextModel,
    vision_model: ClipVisionModel,
    visual_projection: Linear,
    text_projection: Linear,
    logit_scale: Param<Tensor<1>>,
}

impl Pretrained for ClipModel {
    type Config = ClipConfig;
    const PREFIX: &'static str = "clip";
    const SCALARS: &'static [&'static str] = &["logit_scale"];

    fn init(config: &ClipConfig, _: &Parts, device: &Device) -> Self {
        let (text, vision) = (config.text(), config.vision());
        let projection = |hidden| Linear::new(hidden, config.projection_dim, false, device);
        Self {
            text_model: ClipTextModel::new(text, device),
            vision_model: ClipVisionModel::new(vision, device),
            visual_projection: projection(vision.hidden_size),
            text_projection: projection(text.hidden_size),
            logit_scale: constant([1], LOGIT_SCALE, device),
        }
    }
}

impl TextEmbedder for ClipModel {
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        let (x, pooled) = self.text_model.encode(inputs, record);
        let embeds = self.text_projection.forward(pooled);
        // Within the whole model the reference calls the projection the pooler's output.
        let output = BaseModelOutput { last_hidden_state: x, pooler_output: Some(embeds.clone()) };
        TextEmbedding { embeds, output }
    }
}

impl ImageEmbedder for ClipModel {
    fn embed_image(&self, inputs: &ImageInputs, record: &mut Record) -> VisionEmbedding {
        let x = self.vision_model.encode(inputs, record);
        let embeds = self.visual_projection.forward(self.vision_model.pool(&x));
        VisionEmbedding { output: output(x, embeds.clone()), embeds }
    }
}

impl ImageTextModel for ClipModel {
    fn is_pairwise(&self) -> bool {
        false
    }

    fn logits_per_image(&self, image_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2> {
        products(image_embeds, text_embeds, &self.logit_scale)
    }
}

/// The products of all pairs, times a factor of which `scale` is the logarithm.
///
/// # Shapes
/// - a: `[n, dim]`, b: `[m, dim]`
/// - scale: `[1]`
/// - output: `[n, m]`
pub(super) fn products(a: Tensor<2>, b: Tensor<2>, scale: &Param<Tensor<1>>) -> Tensor<2> {
    a.matmul(b.transpose()) * scale.val().exp().reshape([1, 1])
}

/// The text tower with its projection to the common space.
#[derive(Module, Debug)]
pub struct ClipTextModelWithProjection {
    text_model: ClipTextModel,
    text_projection: Linear,
}

impl Pretrained for ClipTextModelWithProjection {
    type Config = ClipTextConfig;
    const PREFIX: &'static str = "text_model";

    fn init(config: &ClipTextConfig, _: &Parts, device: &Device) -> Self {
        let config = config.tower();
        let text_projection = Linear::new(config.hidden_size, config.projection_dim, false, device);
        Self { text_model: ClipTextModel::new(config, device), text_projection }
    }
}

impl TextEmbedder for ClipTextModelWithProjection {
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        let (x, pooled) = self.text_model.encode(inputs, record);
        let output = BaseModelOutput { last_hidden_state: x, pooler_output: Some(pooled.clone()) };
        TextEmbedding { embeds: self.text_projection.forward(pooled), output }
    }
}

/// The vision tower with its projection to the common space.
#[derive(Module, Debug)]
pub struct ClipVisionModelWithProjection {
    vision_model: ClipVisionModel,
    visual_projection: Linear,
}

impl Pretrained for ClipVisionModelWithProjection {
    type Config = ClipVisionConfig;
    const PREFIX: &'static str = "vision_model";

    fn init(config: &ClipVisionConfig, _: &Parts, device: &Device) -> Self {
        let config = config.tower();
        let visual_projection = Linear::new(config.hidden_size, config.projection_dim, false, device);
        Self { vision_model: ClipVisionModel::new(config, device), visual_projection }
    }
}

impl ImageEmbedder for ClipVisionModelWithProjection {
    fn embed_image(&self, inputs: &ImageInputs, record: &mut Record) -> VisionEmbedding {
        let x = self.vision_model.encode(inputs, record);
        let pooled = self.vision_model.pool(&x);
        VisionEmbedding { output: output(x, pooled.clone()), embeds: self.visual_projection.forward(pooled) }
    }
}

/// The vision tower with a classifier on the mean of the patches, which have not gone through the last norm.
#[derive(Module, Debug)]
pub struct ClipForImageClassification {
    vision_model: ClipVisionModel,
    classifier: Linear,
}

impl Pretrained for ClipForImageClassification {
    type Config = ClipVisionConfig;
    const PREFIX: &'static str = "vision_model";

    fn init(config: &ClipVisionConfig, _: &Parts, device: &Device) -> Self {
        let tower = config.tower();
        let classifier = Linear::new(tower.hidden_size, config.num_labels, true, device);
        Self { vision_model: ClipVisionModel::new(tower, device), classifier }
    }
}

impl ImageClassifier for ClipForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        let x = self.vision_model.encode(inputs, record);
        let patches = x.dims()[1] - 1;
        let mean = x.narrow(1, 1, patches).mean_dim(1).squeeze_dim::<2>(1);
        self.classifier.forward(mean).into()
    }
}
