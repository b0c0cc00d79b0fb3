//! OPT: a decoder with learned positions that skip padding, and embeddings that may be narrower than the layers.
//!
//! Paper: Zhang et al., 2022 (arXiv:2205.01068).
//! Reference: transformers 5.23.0, `models/opt/modeling_opt.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, attention,
    merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

/// The reference fixes the epsilon of every norm; the config has no key for it.
const LAYER_NORM_EPS: f64 = 1e-5;

/// The first position has this row of the table; padding has the row before.
const POSITION_OFFSET: usize = 2;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct OptConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub ffn_dim: usize,
    pub max_position_embeddings: usize,
    /// Whether norms stand before attention and MLP, or after the sum with what went in.
    pub do_layer_norm_before: bool,
    #[serde(rename = "_remove_final_layer_norm")]
    pub remove_final_layer_norm: bool,
    /// Elements of an embedding; `hidden_size`, if `None`.
    word_embed_proj_dim: Option<usize>,
    pub num_attention_heads: usize,
    pub activation_function: Activation,
    pub enable_bias: bool,
    /// Whether norms have weights and biases.
    pub layer_norm_elementwise_affine: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

impl Default for OptConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_272,
            hidden_size: 768,
            num_hidden_layers: 12,
            ffn_dim: 3072,
            max_position_embeddings: 2048,
            do_layer_norm_before: true,
            remove_final_layer_norm: false,
            word_embed_proj_dim: None,
            num_attention_heads: 12,
            activation_function: Activation::Relu,
            enable_bias: true,
            layer_norm_elementwise_affine: true,
            tie_word_embeddings: true,
            pad_token_id: Some(1),
            num_labels: 2,
        }
    }
}

impl OptConfig {
    fn word_embed_proj_dim(&self) -> usize {
        self.word_embed_proj_dim.unwrap_or(self.hidden_size)
    }

    fn has_final_norm(&self) -> bool {
        self.do_layer_norm_before && !self.remove_final_layer_norm
    }

    fn norm(&self, device: &Device) -> Option<LayerNorm> {
        self.layer_norm_elementwise_affine.then(|| LayerNorm::new(self.hidden_size, LAYER_NORM_EPS, device))
    }
}

impl ModelConfig for OptConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("ffn_dim", self.ffn_dim),
            ("max_position_embeddings", self.max_position_embeddings),
            ("word_embed_proj_dim", self.word_embed_proj_dim()),
            ("num_attention_heads", self.num_attention_heads),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_position_embeddings),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: 0,
        }
    }
}

impl DecoderConfig for OptConfig {
    fn head(&self) -> HeadConfig {
        HeadConfig {
            hidden_size: self.word_embed_proj_dim(),
            vocab_size: self.vocab_size,
            tie_word_embeddings: self.tie_word_embeddings,
            num_labels: self.num_labels,
            pad_token_id: self.pad_token_id,
            head_bias: false,
        }
    }
}

/// The decoder, with one more level of names.
#[derive(Module, Debug)]
pub struct OptModel {
    decoder: OptDecoder,
}

impl Decoder for OptModel {
    type Config = OptConfig;
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.decoder.embed_tokens.weight")];

    fn new(config: &OptConfig, device: &Device) -> Self {
        Self { decoder: OptDecoder::new(config, device) }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.decoder.layers.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.decoder.embed_tokens.forward(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        self.decoder.forward(x, inputs, cache, record)
    }
}

#[derive(Module, Debug)]
struct OptDecoder {
    embed_tokens: Embedding,
    embed_positions: Embedding,
    /// `None` where embeddings are as wide as the layers, as is `project_out`.
    project_in: Option<Linear>,
    project_out: Option<Linear>,
    /// `None` where there is no such norm, or it has neither weight nor bias.
    final_layer_norm: Option<LayerNorm>,
    layers: Vec<DecoderLayer>,
    #[module(skip)]
    has_final_norm: bool,
}

impl OptDecoder {
    fn new(config: &OptConfig, device: &Device) -> Self {
        let (width, hidden) = (config.word_embed_proj_dim(), config.hidden_size);
        let projection = |input, output| (width != hidden).then(|| Linear::new(input, output, false, device));
        Self {
            embed_tokens: Embedding::new(config.vocab_size, width, device),
            embed_positions: Embedding::new(config.max_position_embeddings + POSITION_OFFSET, hidden, device),
            project_in: projection(width, hidden),
            project_out: projection(hidden, width),
            final_layer_norm: if config.has_final_norm() { config.norm(device) } else { None },
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            has_final_norm: config.has_final_norm(),
        }
    }

    /// # Shapes
    /// - x, output: `[batch, seq, width]`, as wide as an embedding
    fn forward(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let x = match &self.project_in {
            Some(project_in) => project_in.forward(x),
            None => x,
        };
        let mut x = x + self.embed_positions.forward(position_ids(inputs, cache.length()) + POSITION_OFFSET as i64);
        let mask = inputs.causal_mask(None);
        for (layer, cache) in self.layers.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, &mask, cache, record);
        }
        if self.has_final_norm {
            x = normalize(&self.final_layer_norm, x);
        }
        let x = match &self.project_out {
            Some(project_out) => project_out.forward(x),
            None => x,
        };
        // The last layer's output is recorded as it leaves the model.
        record.hidden_state(&x);
        x
    }
}

/// `position_ids`, or the number of tokens before each, padding not counted; −1 for padding.
fn position_ids(inputs: &TextInputs, past: usize) -> Tensor<2, Int> {
    match (&inputs.position_ids, &inputs.attention_mask) {
        (None, Some(mask)) => {
            let seq = inputs.input_ids.dims()[1];
            (mask.clone().cumsum(1) * mask.clone() - 1_i64).narrow(1, past, seq)
        }
        _ => inputs.position_ids_from(past),
    }
}

/// `(x − mean) / √(variance + eps)`, and the norm's weight and bias, if it has any.
fn normalize(norm: &Option<LayerNorm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => {
            let x = x.clone() - x.mean_dim(2);
            let variance = (x.clone() * x.clone()).mean_dim(2);
            x / (variance + LAYER_NORM_EPS).sqrt()
        }
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    self_attn: Attention,
    self_attn_layer_norm: Option<LayerNorm>,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: Option<LayerNorm>,
    #[module(skip)]
    act: Activation,
    #[module(skip)]
    norm_before: bool,
}

impl DecoderLayer {
    fn new(config: &OptConfig, device: &Device) -> Self {
        let (hidden, inner, bias) = (config.hidden_size, config.ffn_dim, config.enable_bias);
        Self {
            self_attn: Attention::new(config, device),
            self_attn_layer_norm: config.norm(device),
            fc1: Linear::new(hidden, inner, bias, device),
            fc2: Linear::new(inner, hidden, bias, device),
            final_layer_norm: config.norm(device),
            act: config.activation_function,
            norm_before: config.do_layer_norm_before,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let (attn_norm, mlp_norm) = (&self.self_attn_layer_norm, &self.final_layer_norm);
        if self.norm_before {
            let x = x.clone() + self.self_attn.forward(normalize(attn_norm, x), mask, cache, record);
            x.clone() + self.mlp(normalize(mlp_norm, x))
        } else {
            let x = normalize(attn_norm, x.clone() + self.self_attn.forward(x, mask, cache, record));
            normalize(mlp_norm, x.clone() + self.mlp(x))
        }
    }

    fn mlp(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_activated(x, self.act))
    }
}

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
    fn new(config: &OptConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, config.enable_bias, device);
        let heads = config.num_attention_heads;
        Self { k_proj: linear(), v_proj: linear(), q_proj: linear(), out_proj: linear(), heads }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let qkv = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let [q, k, v] = qkv.map(|x| split_heads(x, self.heads));
        let (k, v) = cache.append(k, v);
        self.out_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}
