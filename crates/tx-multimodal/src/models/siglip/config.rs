//! `config.json` of SigLIP, and of a tower of it alone.
//!
//! A tower's keys are at the top of its own file, and in a part of a file of both towers.

use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::Activation;
use tx_core::task::{ImageLimits, ImageTextLimits, TextLimits};

use crate::models::clip::EncoderConfig;
use crate::parts::PartCheck;

/// The keys of both towers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SiglipConfig {
    pub text_config: SiglipTextConfig,
    pub vision_config: SiglipVisionConfig,
}

impl ModelConfig for SiglipConfig {
    type Limits = ImageTextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        text.check(&PartCheck::new(check, "text_config"))?;
        let part = PartCheck::new(check, "vision_config");
        vision.check(&part)?;
        part.supported("vision_use_head", vision.vision_use_head, vision.vision_use_head, "true beside a text tower")?;
        if text.projection_size() != vision.hidden_size {
            let (found, expected) = (text.projection_size(), vision.hidden_size);
            let reason = format_args!("{found}, expected {expected}: `vision_config.hidden_size`");
            return Err(check.error("text_config.projection_size", reason));
        }
        Ok(())
    }

    fn limits(&self) -> ImageTextLimits {
        ImageTextLimits { image: self.vision_config.tower_limits(), text: self.text_config.tower_limits() }
    }
}

/// The keys of the text tower, in a file of its own or of both.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SiglipTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    /// `hidden_size` if `None`.
    projection_size: Option<usize>,
    text_config: Option<Box<SiglipTextConfig>>,
}

impl Default for SiglipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32000,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 64,
            hidden_act: Activation::GeluNew,
            layer_norm_eps: 1e-6,
            projection_size: None,
            text_config: None,
        }
    }
}

impl SiglipTextConfig {
    /// The tower's keys, wherever they are.
    pub(super) fn tower(&self) -> &Self {
        self.text_config.as_deref().unwrap_or(self)
    }

    pub(super) fn projection_size(&self) -> usize {
        self.projection_size.unwrap_or(self.hidden_size)
    }

    pub(super) fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
        }
    }

    fn tower_limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_position_embeddings),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: 0,
        }
    }

    fn check(&self, check: &PartCheck<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("projection_size", self.projection_size()),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        self.encoder().check(check)
    }
}

impl ModelConfig for SiglipTextConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let is_part = self.text_config.is_some();
        self.tower().check(&PartCheck::new(check, if is_part { "text_config" } else { "" }))
    }

    fn limits(&self) -> TextLimits {
        self.tower().tower_limits()
    }
}

/// The keys of the vision tower, in a file of its own or of both.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SiglipVisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// Height and width that the table of positions is made for.
    pub image_size: usize,
    /// Height and width.
    pub patch_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    pub vision_use_head: bool,
    /// Of the file, and not of its part.
    pub num_labels: usize,
    vision_config: Option<Box<SiglipVisionConfig>>,
}

impl Default for SiglipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            hidden_act: Activation::GeluNew,
            layer_norm_eps: 1e-6,
            vision_use_head: true,
            num_labels: 2,
            vision_config: None,
        }
    }
}

impl SiglipVisionConfig {
    /// The tower's keys, wherever they are.
    pub(super) fn tower(&self) -> &Self {
        self.vision_config.as_deref().unwrap_or(self)
    }

    pub(super) fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
        }
    }

    fn tower_limits(&self) -> ImageLimits {
        ImageLimits::new(self.num_channels, [self.patch_size; 2]).with_patches(ImageLimits::MAX_PATCHES)
    }

    fn check(&self, check: &PartCheck<'_>) -> Result<()> {
        check.sizes([("num_channels", self.num_channels), ("image_size", self.image_size)])?;
        check.range("patch_size", self.patch_size, 1, self.image_size)?;
        check.sizes([("image_size", (self.image_size / self.patch_size).pow(2))])?;
        self.encoder().check(check)
    }
}

impl ModelConfig for SiglipVisionConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.size("num_labels", self.num_labels)?;
        let is_part = self.vision_config.is_some();
        self.tower().check(&PartCheck::new(check, if is_part { "vision_config" } else { "" }))
    }

    fn limits(&self) -> ImageLimits {
        self.tower().tower_limits()
    }
}
