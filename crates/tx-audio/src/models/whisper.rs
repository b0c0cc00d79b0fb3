//! Whisper: an encoder for half a minute of sound and a decoder that writes what is said, in which language, and when.
//!
//! Paper: Radford et al., 2022 (arXiv:2212.04356).
//! Reference: transformers 5.23.0, `models/whisper/modeling_whisper.py`.

mod decoder;
mod encoder;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, LayerCache, Linear, Mask, attention, merge_heads, project,
    split_heads,
};
use tx_core::task::{
    AudioClassifier, AudioInputs, AudioLayout, AudioLimits, ConditionalLm, Encoded, Features, Record,
    Seq2SeqModelOutput, SpeechDecoder, SpeechDecoderLimits, SpeechSeq2SeqModel, SpeechToText, SpeechToTextLimits,
    TextInputs, TextLimits,
};
use tx_core::weights::load::{Parts, Pretrained};

use self::decoder::Decoder;
use self::encoder::Encoder;
use super::wav2vec2::{layer_weights, weighted_sum};

/// The reference leaves the epsilon of every norm at torch's default.
const LAYER_NORM_EPS: f64 = 1e-5;
/// What shares a tensor where the config ties the words.
const TIED: &[(&str, &str)] = &[("proj_out.weight", "model.decoder.embed_tokens.weight")];
/// Frames of the spectrogram for each position of the encoder: the stride of its second convolution.
const FRAMES: usize = 2;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct WhisperConfig {
    pub vocab_size: usize,
    pub num_mel_bins: usize,
    pub encoder_layers: usize,
    pub encoder_attention_heads: usize,
    pub decoder_layers: usize,
    pub decoder_attention_heads: usize,
    pub decoder_ffn_dim: usize,
    pub encoder_ffn_dim: usize,
    pub activation_function: Activation,
    pub d_model: usize,
    pub max_source_positions: usize,
    pub max_target_positions: usize,
    pub use_weighted_layer_sum: bool,
    pub classifier_proj_size: usize,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
}

impl Default for WhisperConfig {
    fn default() -> Self {
        Self {
            vocab_size: 51_865,
            num_mel_bins: 80,
            encoder_layers: 4,
            encoder_attention_heads: 6,
            decoder_layers: 4,
            decoder_attention_heads: 6,
            decoder_ffn_dim: 1536,
            encoder_ffn_dim: 1536,
            activation_function: Activation::Gelu,
            d_model: 384,
            max_source_positions: 1500,
            max_target_positions: 448,
            use_weighted_layer_sum: false,
            classifier_proj_size: 256,
            tie_word_embeddings: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for WhisperConfig {
    type Limits = SpeechToTextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("d_model", self.d_model),
            ("max_target_positions", self.max_target_positions),
            ("classifier_proj_size", self.classifier_proj_size),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("encoder_layers", self.encoder_layers)?;
        check.layers("decoder_layers", self.decoder_layers)?;
        check.range("num_mel_bins", self.num_mel_bins, 1, 1 << 16)?;
        check.range("max_source_positions", self.max_source_positions, 1, 1 << 20)?;
        check.divides("d_model", self.d_model, "encoder_attention_heads", self.encoder_attention_heads)?;
        check.divides("d_model", self.d_model, "decoder_attention_heads", self.decoder_attention_heads)
    }

    fn limits(&self) -> SpeechToTextLimits {
        let layout = AudioLayout::Bands { mel: self.num_mel_bins, frames: FRAMES * self.max_source_positions };
        SpeechToTextLimits {
            audio: AudioLimits { name: "input_features", layout },
            text: TextLimits {
                vocab_size: self.vocab_size,
                max_length: Some(self.max_target_positions),
                context: None,
                positions: self.max_target_positions,
                type_vocab_size: 0,
            },
        }
    }
}

/// The same keys for a model that takes sound alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct WhisperEncoderConfig(WhisperConfig);

impl ModelConfig for WhisperEncoderConfig {
    type Limits = AudioLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.0.validate(check)
    }

    fn limits(&self) -> AudioLimits {
        self.0.limits().audio
    }
}

/// The same keys for a decoder alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct WhisperDecoderConfig(WhisperConfig);

impl ModelConfig for WhisperDecoderConfig {
    type Limits = SpeechDecoderLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.0.validate(check)
    }

    fn limits(&self) -> SpeechDecoderLimits {
        let (positions, hidden_size) = (self.0.max_source_positions, self.0.d_model);
        SpeechDecoderLimits { text: self.0.limits().text, positions, hidden_size }
    }
}

/// Encoder and decoder.
#[derive(Module, Debug)]
pub struct WhisperModel {
    encoder: Encoder,
    decoder: Decoder,
}

impl WhisperModel {
    fn new(config: &WhisperConfig, device: &Device) -> Self {
        Self { encoder: Encoder::new(config, device), decoder: Decoder::new(config, device) }
    }

    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Encoded {
        self.decoder.attend(self.encoder.forward(inputs, record))
    }
}

impl Pretrained for WhisperModel {
    type Config = WhisperConfig;
    const PREFIX: &'static str = "model";

    fn init(config: &WhisperConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl SpeechSeq2SeqModel for WhisperModel {
    fn forward(&self, audio: &AudioInputs, text: &TextInputs, record: &mut Record) -> Seq2SeqModelOutput {
        let encoded = record.within("encoder_", |record| self.encode(audio, record));
        let x = self.decoder.embed(text.input_ids.clone());
        let mut cache = Cache::off(self.decoder.layers());
        let x = record.within("decoder_", |record| self.decoder.forward(x, text, &encoded, &mut cache, record));
        Seq2SeqModelOutput { last_hidden_state: x, encoder_last_hidden_state: encoded.last_hidden_state }
    }
}

/// Whisper with scores for the next token of what is said.
#[derive(Module, Debug)]
pub struct WhisperForConditionalGeneration {
    model: WhisperModel,
    proj_out: Linear,
}

impl Pretrained for WhisperForConditionalGeneration {
    type Config = WhisperConfig;
    const PREFIX: &'static str = "model";

    fn tied(config: &WhisperConfig) -> &'static [(&'static str, &'static str)] {
        if config.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &WhisperConfig, _: &Parts, device: &Device) -> Self {
        let proj_out = Linear::new(config.d_model, config.vocab_size, false, device);
        Self { model: WhisperModel::new(config, device), proj_out }
    }
}

impl ConditionalLm for WhisperForConditionalGeneration {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.model.decoder.layers()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.decoder.embed(input_ids)
    }

    fn decode(
        &self,
        x: Tensor<3>,
        inputs: &TextInputs,
        encoded: &Encoded,
        cache: &mut Cache,
        record: &mut Record,
    ) -> Tensor<3> {
        let x = self.model.decoder.forward(x, inputs, encoded, cache, record);
        cache.advance(x.dims()[1]);
        x
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        self.proj_out.forward(x)
    }
}

impl SpeechToText for WhisperForConditionalGeneration {
    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Encoded {
        self.model.encode(inputs, record)
    }
}

/// Whisper's decoder alone, with scores for the next token: it looks at what the encoder of a larger Whisper heard, and
/// drafts for that one.
#[derive(Module, Debug)]
pub struct WhisperForCausalLm {
    model: DecoderWrapper,
    proj_out: Linear,
}

/// The base model without its encoder.
#[derive(Module, Debug)]
struct DecoderWrapper {
    decoder: Decoder,
}

impl Pretrained for WhisperForCausalLm {
    type Config = WhisperDecoderConfig;
    const PREFIX: &'static str = "model";
    // Drafts come as whole models.
    const IGNORED: &'static [&'static str] = &["encoder"];

    fn tied(config: &WhisperDecoderConfig) -> &'static [(&'static str, &'static str)] {
        if config.0.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &WhisperDecoderConfig, _: &Parts, device: &Device) -> Self {
        let config = &config.0;
        let proj_out = Linear::new(config.d_model, config.vocab_size, false, device);
        Self { model: DecoderWrapper { decoder: Decoder::new(config, device) }, proj_out }
    }
}

impl ConditionalLm for WhisperForCausalLm {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.model.decoder.layers()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.decoder.embed(input_ids)
    }

    fn decode(
        &self,
        x: Tensor<3>,
        inputs: &TextInputs,
        encoded: &Encoded,
        cache: &mut Cache,
        record: &mut Record,
    ) -> Tensor<3> {
        let x = self.model.decoder.forward(x, inputs, encoded, cache, record);
        cache.advance(x.dims()[1]);
        x
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        self.proj_out.forward(x)
    }
}

impl SpeechDecoder for WhisperForCausalLm {
    fn attend(&self, encoder_outputs: Tensor<3>) -> Encoded {
        self.model.decoder.attend(encoder_outputs)
    }
}

/// Whisper's encoder with a classifier on the mean of its positions.
#[derive(Module, Debug)]
pub struct WhisperForAudioClassification {
    encoder: Encoder,
    layer_weights: Option<Param<Tensor<1>>>,
    projector: Linear,
    classifier: Linear,
}

impl Pretrained for WhisperForAudioClassification {
    type Config = WhisperEncoderConfig;
    const PREFIX: &'static str = "model";

    fn init(config: &WhisperEncoderConfig, _: &Parts, device: &Device) -> Self {
        let config = &config.0;
        Self {
            encoder: Encoder::new(config, device),
            layer_weights: config.use_weighted_layer_sum.then(|| layer_weights(config.encoder_layers + 1, device)),
            projector: Linear::new(config.d_model, config.classifier_proj_size, true, device),
            classifier: Linear::new(config.classifier_proj_size, config.num_labels, true, device),
        }
    }
}

impl AudioClassifier for WhisperForAudioClassification {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<2> {
        let encode = |record: &mut Record| self.encoder.forward(inputs, record);
        let x = weighted_sum(self.layer_weights.as_ref(), record, encode);
        let pooled = self.projector.forward(x).mean_dim(1).squeeze_dim(1);
        self.classifier.forward(pooled)
    }
}

/// The attention of all layers: keys have no bias.
#[derive(Module, Debug)]
struct Attention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(hidden: usize, heads: usize, device: &Device) -> Self {
        let linear = |bias| Linear::new(hidden, hidden, bias, device);
        Self { k_proj: linear(false), v_proj: linear(true), q_proj: linear(true), out_proj: linear(true), heads }
    }

    /// Over the tokens themselves, and those in the cache.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    fn forward(&self, x: Tensor<3>, mask: &Mask, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let qkv = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let [q, k, v] = qkv.map(|x| split_heads(x, self.heads));
        let (k, v) = cache.append(k, v);
        self.out_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }

    /// What [`Attention::forward_cross`] needs of the encoder.
    ///
    /// # Shapes
    /// - x: `[sounds, positions, hidden]`
    /// - output: `[sounds, positions, heads, head_dim]` each
    fn keys_values(&self, x: Tensor<3>) -> [Tensor<4>; 2] {
        project(x, [&self.k_proj, &self.v_proj]).map(|x| split_heads(x, self.heads))
    }

    /// Over what the encoder heard. Each sound may have several rows, one after another.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`, where the number of sounds divides `batch`
    /// - k, v: `[sounds, positions, heads, head_dim]`
    fn forward_cross(&self, x: Tensor<3>, [k, v]: [Tensor<4>; 2], mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        let [sounds, positions, heads, _] = k.dims();
        let rows = batch / sounds;
        // Queries do not see each other, so that those of all rows may share a sound's keys.
        let q = self.q_proj.forward(x).reshape([sounds, rows * seq, hidden]);
        let mut own = Record::new(false, record.wants_attentions());
        let x = attention(split_heads(q, heads), k, v, AttentionOptions::new(mask), &mut own);
        for weights in own.kept("attentions") {
            if let Features::Map(weights) = weights {
                let weights = weights.clone().reshape([sounds, heads, rows, seq, positions]).swap_dims(1, 2);
                record.attention(weights.reshape([batch, heads, seq, positions]));
            }
        }
        self.out_proj.forward(merge_heads(x).reshape([batch, seq, hidden]))
    }
}
