//! `config.json` of CLIP, and of a tower of it alone.
//!
//! A tower's keys are at the top of its own file. In a file of both towers they are in a part, and files of the first
//! versions have each part twice: the one named `…_dict` counts then.

use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::Activation;
use tx_core::task::{ImageLimits, ImageTextLimits, TextLimits};

use super::encoder::EncoderConfig;
use crate::parts::PartCheck;

/// The keys of both towers, and of what joins them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipConfig {
    text_config: ClipTextConfig,
    text_config_dict: Option<ClipTextConfig>,
    vision_config: ClipVisionConfig,
    vision_config_dict: Option<ClipVisionConfig>,
    pub projection_dim: usize,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            text_config: ClipTextConfig::default(),
            text_config_dict: None,
            vision_config: ClipVisionConfig::default(),
            vision_config_dict: None,
            projection_dim: 512,
        }
    }
}

impl ClipConfig {
    pub(super) fn text(&self) -> &ClipTextConfig {
        self.text_config_dict.as_ref().unwrap_or(&self.text_config)
    }

    pub(super) fn vision(&self) -> &ClipVisionConfig {
        self.vision_config_dict.as_ref().unwrap_or(&self.vision_config)
    }
}

impl ModelConfig for ClipConfig {
    type Limits = ImageTextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.size("projection_dim", self.projection_dim)?;
        self.text().check(&PartCheck::new(check, "text_config"))?;
        self.vision().check(&PartCheck::new(check, "vision_config"))
    }

    fn limits(&self) -> ImageTextLimits {
        ImageTextLimits { image: self.vision().tower_limits(), text: self.text().tower_limits() }
    }
}

/// The keys of the text tower, in a file of its own or of both.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub projection_dim: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    pub eos_token_id: i64,
    text_config: Option<Box<ClipTextConfig>>,
    text_config_dict: Option<Box<ClipTextConfig>>,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            text_config: None,
            text_config_dict: None,
        }
    }
}

impl ClipTextConfig {
    /// The tower's keys, wherever they are.
    pub(super) fn tower(&self) -> &Self {
        self.text_config_dict.as_deref().or(self.text_config.as_deref()).unwrap_or(self)
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
            ("projection_dim", self.projection_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        self.encoder().check(check)
    }
}

impl ModelConfig for ClipTextConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let is_part = self.text_config.is_some() || self.text_config_dict.is_some();
        self.tower().check(&PartCheck::new(check, if is_part { "text_config" } else { "" }))
    }

    fn limits(&self) -> TextLimits {
        self.tower().tower_limits()
    }
}

/// The keys of the vision tower, in a file of its own or of both; Chinese CLIP has the same.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub projection_dim: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// Height and width that the table of positions is made for.
    pub image_size: usize,
    /// Height and width.
    pub patch_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    /// Of the file, and not of its part.
    pub num_labels: usize,
    vision_config: Option<Box<ClipVisionConfig>>,
    vision_config_dict: Option<Box<ClipVisionConfig>>,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            num_labels: 2,
            vision_config: None,
            vision_config_dict: None,
        }
    }
}

impl ClipVisionConfig {
    /// The tower's keys, wherever they are.
    pub(super) fn tower(&self) -> &Self {
        self.vision_config_dict.as_deref().or(self.vision_config.as_deref()).unwrap_or(self)
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

    pub(in crate::models) fn tower_limits(&self) -> ImageLimits {
        ImageLimits::new(self.num_channels, [self.patch_size; 2]).with_patches(ImageLimits::MAX_PATCHES)
    }

    pub(in crate::models) fn check(&self, check: &PartCheck<'_>) -> Result<()> {
        check.sizes([
            ("projection_dim", self.projection_dim),
            ("num_channels", self.num_channels),
            ("image_size", self.image_size),
        ])?;
        check.range("patch_size", self.patch_size, 1, self.image_size)?;
        check.sizes([("image_size", (self.image_size / self.patch_size).pow(2))])?;
        self.encoder().check(check)
    }
}

impl ModelConfig for ClipVisionConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.size("num_labels", self.num_labels)?;
        let is_part = self.vision_config.is_some() || self.vision_config_dict.is_some();
        self.tower().check(&PartCheck::new(check, if is_part { "vision_config" } else { "" }))
    }

    fn limits(&self) -> ImageLimits {
        self.tower().tower_limits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> ClipTextConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_towers_keys_are_found_wherever_they_are() {
        assert_eq!(text(r#"{"hidden_size": 8}"#).tower().hidden_size, 8);
        let both = text(r#"{"projection_dim": 3, "text_config": {"hidden_size": 8}, "vision_config": {}}"#);
        assert_eq!((both.tower().hidden_size, both.tower().projection_dim), (8, 512));
        let twice = text(r#"{"text_config": {"hidden_size": 8, "layer_norm_eps": 0.1}, "text_config_dict": {}}"#);
        assert_eq!((twice.tower().hidden_size, twice.tower().layer_norm_eps), (512, 1e-5));
        assert_eq!(twice.limits().max_length, Some(77));
    }
}
