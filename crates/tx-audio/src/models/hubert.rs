//! HuBERT: wav2vec 2.0's encoder, trained to name the cluster of masked frames.
//!
//! Paper: Hsu et al., 2021 (arXiv:2106.07447).
//! Reference: transformers 5.23.0, `models/hubert/modeling_hubert.py`.
//! Differs from `wav2vec2` in: no adapter behind the encoder; features may be projected without a norm, and positions
//! come from a convolution behind a batch norm, where the config says so.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::task::{AudioInputs, AudioLimits, AudioModel, AudioModelOutput, Record};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::wav2vec2::{
    Encoder, FeatureExtractor, FeatureProjection, HeadConfig, MASK, MAX_FRAMES, RENAMES, Strides, Wav2Vec2Config,
    WaveformConfig, WaveformModel, mask_vector, padding,
};

/// wav2vec 2.0's keys of `config.json`, whose defaults are HuBERT's as well.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct HubertConfig(Wav2Vec2Config);

impl ModelConfig for HubertConfig {
    type Limits = AudioLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.0.validate(check)
    }

    fn limits(&self) -> AudioLimits {
        self.0.waveform_limits(false, MAX_FRAMES)
    }
}

impl WaveformConfig for HubertConfig {
    fn head(&self, _: bool) -> HeadConfig {
        self.0.head_config(false)
    }

    fn keys(&self) -> &Wav2Vec2Config {
        &self.0
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct HubertModel {
    feature_extractor: FeatureExtractor,
    feature_projection: FeatureProjection,
    /// What masked frames are replaced by in training.
    masked_spec_embed: Option<Param<Tensor<1>>>,
    encoder: Encoder,
    #[module(skip)]
    strides: Strides,
}

impl Pretrained for HubertModel {
    type Config = HubertConfig;
    const PREFIX: &'static str = "hubert";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = MASK;
    const IGNORED: &'static [&'static str] = MASK;

    fn init(config: &HubertConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts, false, device)
    }
}

impl AudioModel for HubertModel {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> AudioModelOutput {
        let last_hidden_state = self.encode(inputs, record);
        AudioModelOutput { last_hidden_state, extract_features: None, pooler_output: None }
    }
}

impl WaveformModel for HubertModel {
    fn new(config: &HubertConfig, parts: &Parts, _: bool, device: &Device) -> Self {
        let config = &config.0;
        Self {
            feature_extractor: FeatureExtractor::new(config, device),
            feature_projection: FeatureProjection::new(config, device),
            masked_spec_embed: mask_vector(config, parts, device),
            encoder: Encoder::new(config, device),
            strides: config.strides(false),
        }
    }

    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3> {
        let (x, _) = self.feature_projection.forward(self.feature_extractor.forward(inputs));
        self.encoder.forward(x, self.padding(inputs), record)
    }

    fn frames(&self, samples: usize) -> usize {
        self.strides.frames(samples)
    }

    fn padding(&self, inputs: &AudioInputs) -> Option<Tensor<2, Bool>> {
        padding(&self.strides, inputs)
    }
}
