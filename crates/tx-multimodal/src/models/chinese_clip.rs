//! Chinese CLIP: CLIP for Chinese, with a BERT for the texts.
//!
//! Paper: Yang et al., 2022 (arXiv:2211.01335).
//! Reference: transformers 5.23.0, `models/chinese_clip/modeling_chinese_clip.py`.
//! Differs from `clip` in: the text tower. The vision tower is CLIP's own.

mod text;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, Linear, constant};
use tx_core::task::{
    BaseModelOutput, ImageEmbedder, ImageInputs, ImageTextLimits, ImageTextModel, Record, TextEmbedder, TextEmbedding,
    TextInputs, TextLimits, TextModel, VisionEmbedding,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::clip::{ClipVisionConfig, ClipVisionModel, LOGIT_SCALE, output, products};
use crate::parts::PartCheck;
pub(super) use text::{BertConfig, Embeddings, Encoder, Pooler, RENAMES, first_token};

/// The keys of both towers, and of what joins them; of a part that is there twice, the one named `…_dict` counts.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ChineseClipConfig {
    text_config: ChineseClipTextConfig,
    text_config_dict: Option<ChineseClipTextConfig>,
    vision_config: ClipVisionConfig,
    vision_config_dict: Option<ClipVisionConfig>,
    pub projection_dim: usize,
}

impl Default for ChineseClipConfig {
    fn default() -> Self {
        Self {
            text_config: ChineseClipTextConfig::default(),
            text_config_dict: None,
            vision_config: ClipVisionConfig::default(),
            vision_config_dict: None,
            projection_dim: 512,
        }
    }
}

impl ChineseClipConfig {
    fn text(&self) -> &ChineseClipTextConfig {
        self.text_config_dict.as_ref().unwrap_or(&self.text_config)
    }

    fn vision(&self) -> &ClipVisionConfig {
        self.vision_config_dict.as_ref().unwrap_or(&self.vision_config)
    }
}

impl ModelConfig for ChineseClipConfig {
    type Limits = ImageTextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.size("projection_dim", self.projection_dim)?;
        self.text().bert().check(&PartCheck::new(check, "text_config"))?;
        self.vision().check(&PartCheck::new(check, "vision_config"))
    }

    fn limits(&self) -> ImageTextLimits {
        ImageTextLimits { image: self.vision().tower_limits(), text: self.text().tower_limits() }
    }
}

/// The keys of the text tower, in a file of its own or of both.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ChineseClipTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    text_config: Option<Box<ChineseClipTextConfig>>,
    text_config_dict: Option<Box<ChineseClipTextConfig>>,
}

impl Default for ChineseClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            text_config: None,
            text_config_dict: None,
        }
    }
}

impl ChineseClipTextConfig {
    /// The tower's keys, wherever they are.
    fn tower(&self) -> &Self {
        self.text_config_dict.as_deref().or(self.text_config.as_deref()).unwrap_or(self)
    }

    fn tower_limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_position_embeddings),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
        }
    }

    fn bert(&self) -> BertConfig {
        BertConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.hidden_act,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
            layer_norm_eps: self.layer_norm_eps,
        }
    }
}

impl ModelConfig for ChineseClipTextConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let is_part = self.text_config.is_some() || self.text_config_dict.is_some();
        self.tower().bert().check(&PartCheck::new(check, if is_part { "text_config" } else { "" }))
    }

    fn limits(&self) -> TextLimits {
        self.tower().tower_limits()
    }
}

/// Both towers, each with a projection to the common space; a text's first token stands for it.
#[derive(Module, Debug)]
pub struct ChineseClipModel {
    text_model: ChineseClipTextModel,
    vision_model: ClipVisionModel,
    visual_projection: Linear,
    text_projection: Linear,
    logit_scale: Param<Tensor<1>>,
}

impl Pretrained for ChineseClipModel {
    type Config = ChineseClipConfig;
    const PREFIX: &'static str = "chinese_clip";
    const RENAMES: &'static [Rename] = RENAMES;
    const SCALARS: &'static [&'static str] = &["logit_scale"];

    fn init(config: &ChineseClipConfig, _: &Parts, device: &Device) -> Self {
        let (text, vision) = (config.text(), config.vision());
        let projection = |hidden| Linear::new(hidden, config.projection_dim, false, device);
        Self {
            text_model: ChineseClipTextModel::new(text, false, device),
            vision_model: ClipVisionModel::new(vision, device),
            visual_projection: projection(vision.hidden_size),
            text_projection: projection(text.hidden_size),
            logit_scale: constant([1], LOGIT_SCALE, device),
        }
    }
}

impl TextEmbedder for ChineseClipModel {
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        let x = self.text_model.encode(inputs, record);
        let embeds = self.text_projection.forward(first_token(&x));
        // Within the whole model the reference calls the projection the pooler's output.
        let output = BaseModelOutput { last_hidden_state: x, pooler_output: Some(embeds.clone()) };
        TextEmbedding { embeds, output }
    }
}

impl ImageEmbedder for ChineseClipModel {
    fn embed_image(&self, inputs: &ImageInputs, record: &mut Record) -> VisionEmbedding {
        let x = self.vision_model.encode(inputs, record);
        let embeds = self.visual_projection.forward(self.vision_model.pool(&x));
        VisionEmbedding { output: output(x, embeds.clone()), embeds }
    }
}

impl ImageTextModel for ChineseClipModel {
    fn is_pairwise(&self) -> bool {
        false
    }

    fn logits_per_image(&self, image_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2> {
        products(image_embeds, text_embeds, &self.logit_scale)
    }
}

/// The text tower, with a pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct ChineseClipTextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Option<Pooler>,
}

impl ChineseClipTextModel {
    /// `config` is that of the tower.
    fn new(config: &ChineseClipTextConfig, pooler: bool, device: &Device) -> Self {
        let config = &config.bert();
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            pooler: pooler.then(|| Pooler::new(config, device)),
        }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let x = self.embeddings.forward(inputs, inputs.position_ids_or_range());
        self.encoder.forward(x, &inputs.mask(), record)
    }
}

impl Pretrained for ChineseClipTextModel {
    type Config = ChineseClipTextConfig;
    const PREFIX: &'static str = "text_model";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler"];

    fn init(config: &ChineseClipTextConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config.tower(), parts.has("pooler"), device)
    }
}

impl TextModel for ChineseClipTextModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(&x));
        BaseModelOutput { last_hidden_state: x, pooler_output }
    }
}
