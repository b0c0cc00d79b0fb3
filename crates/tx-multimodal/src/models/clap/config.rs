//! `config.json` of CLAP, and of a tower of it alone.
//!
//! A tower's keys are at the top of its own file. In a file of both towers they are in a part; what the file says of the
//! projections to the common space holds for both parts then.

use serde::{Deserialize, Deserializer};
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::Activation;
use tx_core::task::{AudioLayout, AudioLimits, AudioTextLimits, TextLimits};

use crate::models::chinese_clip::BertConfig;
use crate::parts::PartCheck;

/// The longest side of the square that a spectrogram is folded to; sixteen times the published one.
const MAX_SIDE: usize = 4096;
/// The most frames: stretching fewer to them takes a matrix of their square at most.
const MAX_FRAMES: usize = 8192;
/// Each stage doubles the channels, which no network does more often.
const MAX_STAGES: usize = 16;
/// Scores grow with the fourth power of a window's side; this is four times the published one.
const MAX_WINDOW: usize = 32;
/// Parts of a longer sound that are mixed in: from its front, its middle and its back.
const PARTS: usize = 3;

/// The keys of both towers, and of what joins them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClapConfig {
    text_config: ClapTextConfig,
    audio_config: ClapAudioConfig,
    pub projection_dim: usize,
    pub projection_hidden_act: Activation,
}

impl Default for ClapConfig {
    fn default() -> Self {
        Self {
            text_config: ClapTextConfig::default(),
            audio_config: ClapAudioConfig::default(),
            projection_dim: 512,
            projection_hidden_act: Activation::Relu,
        }
    }
}

impl ClapConfig {
    pub(super) fn text(&self) -> ClapTextConfig {
        let (projection_dim, projection_hidden_act) = (self.projection_dim, self.projection_hidden_act);
        ClapTextConfig { projection_dim, projection_hidden_act, ..self.text_config.clone() }
    }

    pub(super) fn audio(&self) -> ClapAudioConfig {
        let (projection_dim, projection_hidden_act) = (self.projection_dim, self.projection_hidden_act);
        ClapAudioConfig { projection_dim, projection_hidden_act, ..self.audio_config.clone() }
    }
}

impl ModelConfig for ClapConfig {
    type Limits = AudioTextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.size("projection_dim", self.projection_dim)?;
        self.text().check(&PartCheck::new(check, "text_config"))?;
        self.audio().check(&PartCheck::new(check, "audio_config"))
    }

    fn limits(&self) -> AudioTextLimits {
        AudioTextLimits { audio: self.audio_config.tower_limits(), text: self.text_config.tower_limits() }
    }
}

/// The keys of the text tower, in a file of its own or of both.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClapTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pub pad_token_id: usize,
    pub projection_dim: usize,
    pub projection_hidden_act: Activation,
    text_config: Option<Box<ClapTextConfig>>,
}

impl Default for ClapTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50265,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 514,
            type_vocab_size: 1,
            layer_norm_eps: 1e-12,
            pad_token_id: 1,
            projection_dim: 512,
            projection_hidden_act: Activation::Relu,
            text_config: None,
        }
    }
}

impl ClapTextConfig {
    /// The tower's keys, wherever they are.
    pub(super) fn tower(&self) -> Self {
        let Some(part) = &self.text_config else { return self.clone() };
        let (projection_dim, projection_hidden_act) = (self.projection_dim, self.projection_hidden_act);
        Self { projection_dim, projection_hidden_act, ..(**part).clone() }
    }

    pub(super) fn bert(&self) -> BertConfig {
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

    /// Positions start above the one of padding, which is `pad_token_id`.
    fn max_length(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.pad_token_id).saturating_sub(1)
    }

    fn tower_limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_length()),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
        }
    }

    fn check(&self, check: &PartCheck<'_>) -> Result<()> {
        check.sizes([("projection_dim", self.projection_dim)])?;
        self.bert().check(check)?;
        if self.max_length() == 0 {
            let (positions, padding) = (self.max_position_embeddings, self.pad_token_id);
            let reason = format_args!("{positions} leaves no position above `pad_token_id` = {padding}");
            return Err(check.error("max_position_embeddings", reason));
        }
        Ok(())
    }
}

impl ModelConfig for ClapTextConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let is_part = self.text_config.is_some();
        self.tower().check(&PartCheck::new(check, if is_part { "text_config" } else { "" }))
    }

    fn limits(&self) -> TextLimits {
        self.tower().tower_limits()
    }
}

/// The keys of the audio tower, in a file of its own or of both.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClapAudioConfig {
    pub window_size: usize,
    pub num_mel_bins: usize,
    /// Height and width of the square that a spectrogram is folded to.
    pub spec_size: usize,
    #[serde(deserialize_with = "sides")]
    pub patch_size: [usize; 2],
    #[serde(deserialize_with = "sides")]
    pub patch_stride: [usize; 2],
    pub patch_embed_input_channels: usize,
    pub patch_embeds_hidden_size: usize,
    pub enable_patch_layer_norm: bool,
    pub flatten_patch_embeds: bool,
    pub depths: Vec<usize>,
    pub num_attention_heads: Vec<usize>,
    pub mlp_ratio: f64,
    pub qkv_bias: bool,
    pub hidden_act: Activation,
    /// Of the norms of layers.
    pub layer_norm_eps: f64,
    pub enable_fusion: bool,
    pub fusion_type: Option<String>,
    pub aff_block_r: usize,
    pub projection_dim: usize,
    pub projection_hidden_act: Activation,
    audio_config: Option<Box<ClapAudioConfig>>,
}

impl Default for ClapAudioConfig {
    fn default() -> Self {
        Self {
            window_size: 8,
            num_mel_bins: 64,
            spec_size: 256,
            patch_size: [4, 4],
            patch_stride: [4, 4],
            patch_embed_input_channels: 1,
            patch_embeds_hidden_size: 96,
            enable_patch_layer_norm: true,
            flatten_patch_embeds: true,
            depths: vec![2, 2, 6, 2],
            num_attention_heads: vec![4, 8, 16, 32],
            mlp_ratio: 4.0,
            qkv_bias: true,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
            enable_fusion: false,
            fusion_type: None,
            aff_block_r: 4,
            projection_dim: 512,
            projection_hidden_act: Activation::Relu,
            audio_config: None,
        }
    }
}

/// Height and width: one number in `config.json` where they are equal.
fn sides<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[usize; 2], D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number, or a height and a width")]
    enum Sides {
        Equal(usize),
        Each([usize; 2]),
    }
    Ok(match Sides::deserialize(deserializer)? {
        Sides::Equal(side) => [side, side],
        Sides::Each(sides) => sides,
    })
}

impl ClapAudioConfig {
    /// The tower's keys, wherever they are.
    pub(super) fn tower(&self) -> Self {
        let Some(part) = &self.audio_config else { return self.clone() };
        let (projection_dim, projection_hidden_act) = (self.projection_dim, self.projection_hidden_act);
        Self { projection_dim, projection_hidden_act, ..(**part).clone() }
    }

    /// How many pieces of a spectrogram lie above each other in the square.
    pub(super) fn ratio(&self) -> usize {
        self.spec_size / self.num_mel_bins
    }

    /// The frames of a spectrogram that fills the square.
    pub(super) fn frames(&self) -> usize {
        self.spec_size * self.ratio()
    }

    /// Zeros on each side, so that patches that overlap begin and end as far outside as they reach into the next.
    pub(super) fn padding(&self) -> [usize; 2] {
        [0, 1].map(|axis| (self.patch_size[axis] - self.patch_stride[axis]) / 2)
    }

    /// Rows and columns of a stage's map.
    pub(super) fn map(&self, stage: usize) -> [usize; 2] {
        self.patch_stride.map(|stride| (self.spec_size / stride) >> stage)
    }

    pub(super) fn channels(&self, stage: usize) -> usize {
        self.patch_embeds_hidden_size << stage
    }

    pub(super) fn last_stage(&self) -> usize {
        self.depths.len() - 1
    }

    pub(super) fn intermediate_size(&self, stage: usize) -> usize {
        (self.mlp_ratio * self.channels(stage) as f64) as usize
    }

    fn tower_limits(&self) -> AudioLimits {
        let parts = if self.enable_fusion { PARTS } else { 0 };
        let layout = AudioLayout::Views { parts, mel: self.num_mel_bins, frames: self.frames() };
        AudioLimits { name: "input_features", layout }
    }

    fn check(&self, check: &PartCheck<'_>) -> Result<()> {
        check.sizes([
            ("num_mel_bins", self.num_mel_bins),
            ("patch_embeds_hidden_size", self.patch_embeds_hidden_size),
            ("projection_dim", self.projection_dim),
        ])?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        let channels = self.patch_embed_input_channels;
        check.supported("patch_embed_input_channels", channels == 1, channels, "1")?;
        check.supported("flatten_patch_embeds", self.flatten_patch_embeds, self.flatten_patch_embeds, "true")?;
        self.check_square(check)?;
        self.check_stages(check)?;
        if self.enable_fusion { self.check_fusion(check) } else { Ok(()) }
    }

    /// The square, and the patches that it is cut into.
    fn check_square(&self, check: &PartCheck<'_>) -> Result<()> {
        check.range("spec_size", self.spec_size, 1, MAX_SIDE)?;
        check.divides("spec_size", self.spec_size, "num_mel_bins", self.num_mel_bins)?;
        if self.frames() > MAX_FRAMES {
            let (frames, bands) = (self.frames(), self.num_mel_bins);
            let reason = format_args!("{frames} frames of {bands} bands, expected at most {MAX_FRAMES}");
            return Err(check.error("spec_size", reason));
        }
        for (patch, stride) in self.patch_size.into_iter().zip(self.patch_stride) {
            check.range("patch_size", patch, 1, self.spec_size)?;
            check.range("patch_stride", stride, 1, patch)?;
            // Patches that overlap by an odd number cannot reach out of the square as far on both sides.
            let places = (self.spec_size + (patch - stride) / 2 * 2 - patch) / stride + 1;
            if places != self.spec_size / stride {
                let expected = self.spec_size / stride;
                let reason = format_args!("{patch} makes {places} patches on a side, expected {expected}");
                return Err(check.error("patch_size", reason));
            }
        }
        Ok(())
    }

    fn check_stages(&self, check: &PartCheck<'_>) -> Result<()> {
        check.range("depths", self.depths.len(), 1, MAX_STAGES)?;
        if self.num_attention_heads.len() != self.depths.len() {
            let [heads, depths] = [self.num_attention_heads.len(), self.depths.len()];
            return Err(check.error("num_attention_heads", format_args!("{heads} stages, but {depths} `depths`")));
        }
        for (stage, (&heads, &depth)) in self.num_attention_heads.iter().zip(&self.depths).enumerate() {
            check.layers("depths", depth)?;
            check.sizes([
                ("patch_embeds_hidden_size", self.channels(stage)),
                ("num_attention_heads", heads),
                ("mlp_ratio", self.intermediate_size(stage)),
            ])?;
            check.divides("patch_embeds_hidden_size", self.channels(stage), "num_attention_heads", heads)?;
        }
        let [rows, columns] = self.map(self.last_stage());
        if [rows, columns].map(|side| side << self.last_stage()) != self.map(0) {
            let [rows, columns] = self.map(0);
            let reason =
                format_args!("a map of {rows} x {columns} patches cannot be halved {} times", self.last_stage());
            return Err(check.error("depths", reason));
        }
        check.range("window_size", self.window_size, 1, MAX_WINDOW.min(rows).min(columns))?;
        let bands = rows / self.ratio();
        if bands == 0 || !rows.is_multiple_of(bands) {
            let ratio = self.ratio();
            let reason = format_args!("the last map has {rows} rows, which are not {ratio} pieces above each other");
            return Err(check.error("num_mel_bins", reason));
        }
        Ok(())
    }

    fn check_fusion(&self, check: &PartCheck<'_>) -> Result<()> {
        let kind = self.fusion_type.as_deref().unwrap_or("null");
        check.supported("fusion_type", kind != "channel_map", kind, "aff_2d")?;
        check.range("aff_block_r", self.aff_block_r, 1, self.patch_embeds_hidden_size)?;
        let (width, patch) = (self.spec_size + 2 * self.padding()[1], self.patch_size[1]);
        if width < 3 * patch {
            let reason = format_args!("{patch}, but a part of a sound is read in patches of three times that width");
            return Err(check.error("patch_size", reason));
        }
        Ok(())
    }
}

impl ModelConfig for ClapAudioConfig {
    type Limits = AudioLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let is_part = self.audio_config.is_some();
        self.tower().check(&PartCheck::new(check, if is_part { "audio_config" } else { "" }))
    }

    fn limits(&self) -> AudioLimits {
        self.tower().tower_limits()
    }
}
