//! SigLIP: CLIP trained on each pair by itself, so that a score says how likely a text fits a picture.
//!
//! Paper: Zhai et al., 2023 (arXiv:2303.15343).
//! Reference: transformers 5.23.0, `models/siglip/modeling_siglip.py`.
//! Differs from `clip` in: the text sees itself in both directions and its last token stands for it, padding or not;
//! the picture has no token of its own; no projections; a bias of the scores.

mod config;
mod vision;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tx_core::nn::{LayerNorm, Linear, constant};
use tx_core::task::{
    BaseModelOutput, ImageClassifier, ImageClassifierOutput, ImageEmbedder, ImageInputs, ImageTextModel, Record,
    TextEmbedder, TextEmbedding, TextInputs, TextModel, VisionEmbedding,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::clip::{Embeddings, Encoder, output, products};
pub use config::{SiglipConfig, SiglipTextConfig, SiglipVisionConfig};
pub use vision::{PoolingHead, SiglipVisionModel, VisionTower};

/// Both towers.
#[derive(Module, Debug)]
pub struct SiglipModel {
    text_model: SiglipTextModel,
    vision_model: VisionTower<PoolingHead>,
    logit_scale: Param<Tensor<1>>,
    logit_bias: Param<Tensor<1>>,
}

impl Pretrained for SiglipModel {
    type Config = SiglipConfig;
    const PREFIX: &'static str = "siglip";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &SiglipConfig, _: &Parts, device: &Device) -> Self {
        let (text, vision) = (&config.text_config, &config.vision_config);
        Self {
            text_model: SiglipTextModel::new(text, device),
            vision_model: VisionTower::new(vision, PoolingHead::new(vision, device), device),
            logit_scale: constant([1], 0.0, device),
            logit_bias: constant([1], 0.0, device),
        }
    }
}

impl TextEmbedder for SiglipModel {
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        let (x, embeds) = self.text_model.encode(inputs, record);
        let output = BaseModelOutput { last_hidden_state: x, pooler_output: Some(embeds.clone()) };
        TextEmbedding { embeds, output }
    }
}

impl ImageEmbedder for SiglipModel {
    fn embed_image(&self, inputs: &ImageInputs, record: &mut Record) -> VisionEmbedding {
        let x = self.vision_model.encode(inputs, record);
        let embeds = self.vision_model.head.forward(x.clone());
        VisionEmbedding { output: output(x, embeds.clone()), embeds }
    }
}

impl ImageTextModel for SiglipModel {
    fn is_pairwise(&self) -> bool {
        true
    }

    fn logits_per_image(&self, image_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2> {
        products(image_embeds, text_embeds, &self.logit_scale) + self.logit_bias.val().reshape([1, 1])
    }
}

/// The text tower.
#[derive(Module, Debug)]
pub struct SiglipTextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    head: Linear,
}

impl SiglipTextModel {
    /// `config` is that of the tower.
    fn new(config: &SiglipTextConfig, device: &Device) -> Self {
        let (hidden, positions) = (config.hidden_size, config.max_position_embeddings);
        Self {
            embeddings: Embeddings::new(config.vocab_size, positions, hidden, device),
            encoder: Encoder::new(&config.encoder(), device),
            final_layer_norm: LayerNorm::new(hidden, config.layer_norm_eps, device),
            head: Linear::new(hidden, config.projection_size(), true, device),
        }
    }

    /// Every token, and what the head makes of the last one.
    ///
    /// # Shapes
    /// - output: `[batch, seq, hidden]`, `[batch, projection]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> (Tensor<3>, Tensor<2>) {
        let x = self.encoder.forward(self.embeddings.forward(inputs), &inputs.mask(), record);
        let x = self.final_layer_norm.forward(x);
        let last = x.clone().narrow(1, x.dims()[1] - 1, 1).squeeze_dim::<2>(1);
        (x, self.head.forward(last))
    }
}

impl Pretrained for SiglipTextModel {
    type Config = SiglipTextConfig;
    const PREFIX: &'static str = "text_model";

    fn init(config: &SiglipTextConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config.tower(), device)
    }
}

impl TextModel for SiglipTextModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let (x, pooled) = self.encode(inputs, record);
        BaseModelOutput { last_hidden_state: x, pooler_output: Some(pooled) }
    }
}

/// The vision tower with a classifier on the mean of the patches. Its head is not used, but comes with the weights.
#[derive(Module, Debug)]
pub struct SiglipForImageClassification {
    vision_model: SiglipVisionModel,
    classifier: Linear,
}

impl Pretrained for SiglipForImageClassification {
    type Config = SiglipVisionConfig;
    const PREFIX: &'static str = "vision_model";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["head"];

    fn init(config: &SiglipVisionConfig, parts: &Parts, device: &Device) -> Self {
        let tower = config.tower();
        Self {
            vision_model: SiglipVisionModel::with_parts(tower, parts, device),
            classifier: Linear::new(tower.hidden_size, config.num_labels, true, device),
        }
    }
}

impl ImageClassifier for SiglipForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        let x = self.vision_model.encode(inputs, record);
        self.classifier.forward(x.mean_dim(1).squeeze_dim::<2>(1)).into()
    }
}

/// PyTorch's names of a projection that gives queries, keys and values.
const RENAMES: &[Rename] = &[
    Rename { module: "in_proj.weight", file: &["in_proj_weight"] },
    Rename { module: "in_proj.bias", file: &["in_proj_bias"] },
];
