//! CLAP: texts and sounds as vectors of one space, near each other where they fit.
//!
//! Paper: Wu et al., 2022 (arXiv:2211.06687).
//! Reference: transformers 5.23.0, `models/clap/modeling_clap.py`.

mod audio;
mod config;
mod patches;
mod windows;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tx_core::nn::{Activation, Linear, constant};
use tx_core::task::{
    AudioEmbedder, AudioTextModel, BaseModelOutput, Record, SpectrogramInputs, SpectrogramModel, TextEmbedder,
    TextEmbedding, TextInputs, TextModel, VisionEmbedding, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::chinese_clip::{Embeddings, Encoder, Pooler};
use super::clip::products;
use audio::AudioEncoder;
pub use config::{ClapAudioConfig, ClapConfig, ClapTextConfig};

/// The logarithm of 1 / 0.07, which a new model's cosines are multiplied with.
const LOGIT_SCALE: f64 = 2.659_260_036_932_778;

/// Both towers, each with a projection to the common space.
#[derive(Module, Debug)]
pub struct ClapModel {
    logit_scale_a: Param<Tensor<1>>,
    logit_scale_t: Param<Tensor<1>>,
    text_model: ClapTextModel,
    text_projection: Projection,
    audio_model: ClapAudioModel,
    audio_projection: Projection,
}

impl Pretrained for ClapModel {
    type Config = ClapConfig;
    const PREFIX: &'static str = "clap";
    const RENAMES: &'static [Rename] = RENAMES;
    const SCALARS: &'static [&'static str] = &["logit_scale_a", "logit_scale_t"];

    fn init(config: &ClapConfig, _: &Parts, device: &Device) -> Self {
        let (text, audio) = (&config.text(), &config.audio());
        Self {
            logit_scale_a: constant([1], LOGIT_SCALE, device),
            logit_scale_t: constant([1], LOGIT_SCALE, device),
            text_model: ClapTextModel::new(text, device),
            text_projection: Projection::of_text(text, device),
            audio_model: ClapAudioModel::new(audio, device),
            audio_projection: Projection::of_audio(audio, device),
        }
    }
}

impl TextEmbedder for ClapModel {
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        self.text_projection.text(&self.text_model, inputs, record)
    }
}

impl AudioEmbedder for ClapModel {
    fn embed_audio(&self, inputs: &SpectrogramInputs, record: &mut Record) -> VisionEmbedding {
        self.audio_projection.audio(&self.audio_model, inputs, record)
    }
}

impl AudioTextModel for ClapModel {
    fn logits_per_audio(&self, audio_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2> {
        products(audio_embeds, text_embeds, &self.logit_scale_a)
    }

    fn logits_per_text(&self, text_embeds: Tensor<2>, audio_embeds: Tensor<2>) -> Tensor<2> {
        products(text_embeds, audio_embeds, &self.logit_scale_t)
    }
}

/// The text tower with its projection to the common space.
#[derive(Module, Debug)]
pub struct ClapTextModelWithProjection {
    text_model: ClapTextModel,
    text_projection: Projection,
}

impl Pretrained for ClapTextModelWithProjection {
    type Config = ClapTextConfig;
    const PREFIX: &'static str = "text_model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ClapTextConfig, _: &Parts, device: &Device) -> Self {
        let config = &config.tower();
        Self { text_model: ClapTextModel::new(config, device), text_projection: Projection::of_text(config, device) }
    }
}

impl TextEmbedder for ClapTextModelWithProjection {
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        self.text_projection.text(&self.text_model, inputs, record)
    }
}

/// The audio tower with its projection to the common space.
#[derive(Module, Debug)]
pub struct ClapAudioModelWithProjection {
    audio_model: ClapAudioModel,
    audio_projection: Projection,
}

impl Pretrained for ClapAudioModelWithProjection {
    type Config = ClapAudioConfig;
    const PREFIX: &'static str = "audio_model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ClapAudioConfig, _: &Parts, device: &Device) -> Self {
        let config = &config.tower();
        Self {
            audio_model: ClapAudioModel::new(config, device),
            audio_projection: Projection::of_audio(config, device),
        }
    }
}

impl AudioEmbedder for ClapAudioModelWithProjection {
    fn embed_audio(&self, inputs: &SpectrogramInputs, record: &mut Record) -> VisionEmbedding {
        self.audio_projection.audio(&self.audio_model, inputs, record)
    }
}

/// `linear2(act(linear1(x)))` of what stands for a text or a sound.
#[derive(Module, Debug)]
struct Projection {
    linear1: Linear,
    linear2: Linear,
    #[module(skip)]
    act: Activation,
}

impl Projection {
    fn new(hidden: usize, dim: usize, act: Activation, device: &Device) -> Self {
        Self { linear1: Linear::new(hidden, dim, true, device), linear2: Linear::new(dim, dim, true, device), act }
    }

    fn of_text(config: &ClapTextConfig, device: &Device) -> Self {
        Self::new(config.hidden_size, config.projection_dim, config.projection_hidden_act, device)
    }

    fn of_audio(config: &ClapAudioConfig, device: &Device) -> Self {
        let channels = config.channels(config.last_stage());
        Self::new(channels, config.projection_dim, config.projection_hidden_act, device)
    }

    /// # Shapes
    /// - x: `[batch, hidden]`
    /// - output: `[batch, dim]`
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear2.forward(self.linear1.forward_activated(x, self.act))
    }

    fn text(&self, model: &ClapTextModel, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        let (x, pooled) = model.encode(inputs, record);
        let output = BaseModelOutput { last_hidden_state: x, pooler_output: Some(pooled.clone()) };
        TextEmbedding { embeds: self.forward(pooled), output }
    }

    fn audio(&self, model: &ClapAudioModel, inputs: &SpectrogramInputs, record: &mut Record) -> VisionEmbedding {
        let (map, pooled) = model.audio_encoder.forward(inputs, record);
        VisionEmbedding { output: output(map, pooled.clone()), embeds: self.forward(pooled) }
    }
}

/// The last map of a sound, and what stands for it as a whole.
///
/// # Shapes
/// - map: `[batch, channels, bands, time]`
/// - pooled: `[batch, channels]`
fn output(map: Tensor<4>, pooled: Tensor<2>) -> VisionModelOutput {
    VisionModelOutput {
        last_hidden_state: map.into(),
        pooler_output: Some(pooled.into()),
        encoder_last_hidden_state: None,
    }
}

/// The text tower: a RoBERTa.
#[derive(Module, Debug)]
pub struct ClapTextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Pooler,
    #[module(skip)]
    pad_token_id: usize,
}

impl ClapTextModel {
    /// `config` is that of the tower.
    fn new(config: &ClapTextConfig, device: &Device) -> Self {
        let bert = &config.bert();
        Self {
            embeddings: Embeddings::new(bert, device),
            encoder: Encoder::new(bert, device),
            pooler: Pooler::new(bert, device),
            pad_token_id: config.pad_token_id,
        }
    }

    /// Every token, and what the pooler makes of the first.
    ///
    /// # Shapes
    /// - output: `[batch, seq, hidden]`, `[batch, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> (Tensor<3>, Tensor<2>) {
        let position_ids = inputs.position_ids_or_skip_padding(self.pad_token_id);
        let x = self.encoder.forward(self.embeddings.forward(inputs, position_ids), &inputs.mask(), record);
        let pooled = self.pooler.forward(&x);
        (x, pooled)
    }
}

impl Pretrained for ClapTextModel {
    type Config = ClapTextConfig;
    const PREFIX: &'static str = "text_model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ClapTextConfig, _: &Parts, device: &Device) -> Self {
        Self::new(&config.tower(), device)
    }
}

impl TextModel for ClapTextModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let (x, pooled) = self.encode(inputs, record);
        BaseModelOutput { last_hidden_state: x, pooler_output: Some(pooled) }
    }
}

/// The audio tower.
#[derive(Module, Debug)]
pub struct ClapAudioModel {
    audio_encoder: AudioEncoder,
}

impl ClapAudioModel {
    /// `config` is that of the tower.
    fn new(config: &ClapAudioConfig, device: &Device) -> Self {
        Self { audio_encoder: AudioEncoder::new(config, device) }
    }
}

impl Pretrained for ClapAudioModel {
    type Config = ClapAudioConfig;
    const PREFIX: &'static str = "audio_model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ClapAudioConfig, _: &Parts, device: &Device) -> Self {
        Self::new(&config.tower(), device)
    }
}

impl SpectrogramModel for ClapAudioModel {
    fn forward(&self, inputs: &SpectrogramInputs, record: &mut Record) -> VisionModelOutput {
        let (map, pooled) = self.audio_encoder.forward(inputs, record);
        output(map, pooled)
    }
}

/// Names in files: BERT's, those of a table that is none in PyTorch, and numbers in place of names.
const RENAMES: &[Rename] = &[
    Rename { module: "self_", file: &["self"] },
    Rename { module: "layer_norm", file: &["LayerNorm"] },
    Rename { module: "relative_position_bias_table.weight", file: &["relative_position_bias_table"] },
    Rename { module: "local_att.conv1", file: &["local_att.0"] },
    Rename { module: "local_att.norm1", file: &["local_att.1"] },
    Rename { module: "local_att.conv2", file: &["local_att.3"] },
    Rename { module: "local_att.norm2", file: &["local_att.4"] },
    Rename { module: "global_att.conv1", file: &["global_att.1"] },
    Rename { module: "global_att.norm1", file: &["global_att.2"] },
    Rename { module: "global_att.conv2", file: &["global_att.4"] },
    Rename { module: "global_att.norm2", file: &["global_att.5"] },
];
