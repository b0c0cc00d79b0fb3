//! WavLM: wav2vec 2.0 with relative positions in attention, gated by what is heard, trained on mixed voices and noise.
//!
//! Paper: Chen et al., 2021 (arXiv:2110.13900).
//! Reference: transformers 5.23.0, `models/wavlm/modeling_wavlm.py`.
//! Differs from `wav2vec2` in: attention.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{
    AttentionOptions, Embedding, LayerNorm, Linear, Mask, attention, constant, merge_heads, project,
    relative_position_bucket, split_heads,
};
use tx_core::task::{AudioInputs, AudioLimits, AudioModel, AudioModelOutput, Features, Record, most_places};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::wav2vec2::{
    Adapter, FeatureExtractor, FeatureProjection, FeedForward, HeadConfig, MASK, MAX_FRAMES, PositionalConvEmbedding,
    RENAMES, Strides, Wav2Vec2Config, WaveformConfig, WaveformModel, mask_padding, mask_vector, padding,
};

/// Outputs of the gate's projection: four for each of two gates, which are summed.
const GATES: [usize; 2] = [2, 4];

/// wav2vec 2.0's keys of `config.json`, whose defaults are WavLM's as well.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct WavLmConfig(Wav2Vec2Config);

impl ModelConfig for WavLmConfig {
    type Limits = AudioLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.0.validate(check)
    }

    fn limits(&self) -> AudioLimits {
        self.0.waveform_limits(true, most_places(self.0.num_attention_heads).min(MAX_FRAMES))
    }
}

impl WaveformConfig for WavLmConfig {
    fn head(&self, adapted: bool) -> HeadConfig {
        self.0.head_config(adapted)
    }

    fn keys(&self) -> &Wav2Vec2Config {
        &self.0
    }
}

/// The encoder, and the adapter behind it where there is one.
#[derive(Module, Debug)]
pub struct WavLmModel {
    feature_extractor: FeatureExtractor,
    feature_projection: FeatureProjection,
    /// What masked frames are replaced by in training.
    masked_spec_embed: Option<Param<Tensor<1>>>,
    encoder: Encoder,
    adapter: Option<Adapter>,
    #[module(skip)]
    stem: Strides,
    #[module(skip)]
    strides: Strides,
}

impl WavLmModel {
    fn forward_all(&self, inputs: &AudioInputs, record: &mut Record) -> AudioModelOutput {
        let (x, extract_features) = self.feature_projection.forward(self.feature_extractor.forward(inputs));
        let x = self.encoder.forward(x, padding(&self.stem, inputs), record);
        let x = match &self.adapter {
            Some(adapter) => adapter.forward(x),
            None => x,
        };
        AudioModelOutput { last_hidden_state: x, extract_features: Some(extract_features), pooler_output: None }
    }
}

impl Pretrained for WavLmModel {
    type Config = WavLmConfig;
    const PREFIX: &'static str = "wavlm";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = MASK;
    const IGNORED: &'static [&'static str] = MASK;

    fn init(config: &WavLmConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts, true, device)
    }
}

impl AudioModel for WavLmModel {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> AudioModelOutput {
        self.forward_all(inputs, record)
    }
}

impl WaveformModel for WavLmModel {
    fn new(config: &WavLmConfig, parts: &Parts, adapted: bool, device: &Device) -> Self {
        let config = &config.0;
        Self {
            feature_extractor: FeatureExtractor::new(config, device),
            feature_projection: FeatureProjection::new(config, device),
            masked_spec_embed: mask_vector(config, parts, device),
            encoder: Encoder::new(config, device),
            adapter: (adapted && config.add_adapter).then(|| Adapter::new(config, device)),
            stem: config.strides(false),
            strides: config.strides(adapted),
        }
    }

    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3> {
        self.forward_all(inputs, record).last_hidden_state
    }

    fn frames(&self, samples: usize) -> usize {
        self.strides.frames(samples)
    }

    fn padding(&self, inputs: &AudioInputs) -> Option<Tensor<2, Bool>> {
        padding(&self.strides, inputs)
    }
}

/// Positions and a stack of layers, which share the first one's table of relative positions.
#[derive(Module, Debug)]
struct Encoder {
    pos_conv_embed: PositionalConvEmbedding,
    layer_norm: LayerNorm,
    layers: Vec<Layer>,
    /// Norms come before the sublayers.
    #[module(skip)]
    stable: bool,
    #[module(skip)]
    max_distance: usize,
}

impl Encoder {
    fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        Self {
            pos_conv_embed: PositionalConvEmbedding::new(config, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            layers: (0..config.num_hidden_layers).map(|i| Layer::new(config, i, device)).collect(),
            stable: config.do_stable_layer_norm,
            max_distance: config.max_bucket_distance,
        }
    }

    /// # Shapes
    /// - x, output: `[batch, frames, hidden]`
    /// - padding: `[batch, frames]`
    fn forward(&self, x: Tensor<3>, padding: Option<Tensor<2, Bool>>, record: &mut Record) -> Tensor<3> {
        let x = match &padding {
            Some(padding) => mask_padding(x, padding),
            None => x,
        };
        let mask = Mask { padding, ..Mask::default() };
        let positions = self.pos_conv_embed.forward(x.clone());
        let mut x = if self.stable { x + positions } else { self.layer_norm.forward_residual(x, positions) };
        let table = self.layers.first().and_then(|layer| layer.attention.rel_attn_embed.as_ref());
        let bias = table.map(|table| position_bias(table, &x, self.max_distance));
        record.hidden_state(&x);
        for layer in &self.layers {
            x = layer.forward(x, &mask, bias.as_ref(), record);
            record.hidden_state(&x);
        }
        if self.stable { self.layer_norm.forward(x) } else { x }
    }
}

/// What each head adds to a score for the distance from query to key, before it is gated.
///
/// # Shapes
/// - x: `[batch, frames, hidden]`
/// - output: `[1, heads, frames, frames]`
fn position_bias(table: &Embedding, x: &Tensor<3>, max_distance: usize) -> Tensor<4> {
    let [buckets, heads] = table.weight.lazy_shape().dims();
    let frames = x.dims()[1];
    let bucket = |distance| relative_position_bucket(distance, true, buckets, max_distance) as i64;
    let by_distance: Vec<i64> = (1 - frames as i64..frames as i64).map(bucket).collect();
    // The distances of query q run from -q to frames - 1 - q.
    let rows: Vec<i64> = (0..frames).flat_map(|q| &by_distance[frames - 1 - q..][..frames]).copied().collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [frames * frames]), &x.device());
    table.rows(rows).reshape([1, frames, frames, heads]).permute([0, 3, 1, 2])
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    layer_norm: LayerNorm,
    feed_forward: FeedForward,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    stable: bool,
}

impl Layer {
    fn new(config: &Wav2Vec2Config, i: usize, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, config.layer_norm_eps, device);
        Self {
            attention: Attention::new(config, i, device),
            layer_norm: norm(),
            feed_forward: FeedForward::new(config, device),
            final_layer_norm: norm(),
            stable: config.do_stable_layer_norm,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, bias: Option<&Tensor<4>>, record: &mut Record) -> Tensor<3> {
        if self.stable {
            let x = x.clone() + self.attention.forward(self.layer_norm.forward(x), mask, bias, record);
            return x.clone() + self.feed_forward.forward(self.final_layer_norm.forward(x));
        }
        let x = self.layer_norm.forward_residual(self.attention.forward(x.clone(), mask, bias, record), x);
        self.final_layer_norm.forward_residual(self.feed_forward.forward(x.clone()), x)
    }
}

/// Attention with a bias for the distance, which each query gates for itself. Chen et al., 2021, section 3.2.
#[derive(Module, Debug)]
struct Attention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    /// `[1, heads, 1, 1]`
    gru_rel_pos_const: Param<Tensor<4>>,
    gru_rel_pos_linear: Linear,
    /// Of the first layer.
    rel_attn_embed: Option<Embedding>,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &Wav2Vec2Config, i: usize, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        let heads = config.num_attention_heads;
        let [gates, summands] = GATES;
        Self {
            k_proj: linear(),
            v_proj: linear(),
            q_proj: linear(),
            out_proj: linear(),
            gru_rel_pos_const: constant([1, heads, 1, 1], 1.0, device),
            gru_rel_pos_linear: Linear::new(config.hidden_size / heads, gates * summands, true, device),
            rel_attn_embed: (i == 0).then(|| Embedding::new(config.num_buckets, heads, device)),
            heads,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, bias: Option<&Tensor<4>>, record: &mut Record) -> Tensor<3> {
        let bias = bias.map(|bias| self.gate(&x) * bias.clone());
        let qkv = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let [q, k, v] = qkv.map(|x| split_heads(x, self.heads));
        let mut own = Record::new(false, record.wants_attentions());
        let x = attention(q, k, v, AttentionOptions { bias, ..AttentionOptions::new(mask) }, &mut own);
        for weights in own.kept("attentions") {
            // The reference gives the mean of all heads, once for each.
            if let Features::Map(weights) = weights {
                record.attention(weights.clone().mean_dim(1).expand(weights.dims()));
            }
        }
        self.out_proj.forward(merge_heads(x))
    }

    /// How much of the bias each query of each head takes.
    ///
    /// # Shapes
    /// - x: `[batch, frames, hidden]`
    /// - output: `[batch, heads, frames, 1]`
    fn gate(&self, x: &Tensor<3>) -> Tensor<4> {
        let [gates, summands] = GATES;
        let x = self.gru_rel_pos_linear.forward(split_heads(x.clone(), self.heads));
        let [batch, frames, heads, _] = x.dims();
        let x = x.reshape([batch, frames, heads, gates, summands]).sum_dim(4).squeeze_dim::<4>(4);
        let x = activation::sigmoid(x.swap_dims(1, 2));
        let [a, b] = [0, 1].map(|i| x.clone().narrow(3, i, 1));
        a * (b * self.gru_rel_pos_const.val() - 1.0) + 2.0
    }
}
