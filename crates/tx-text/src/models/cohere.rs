//! Cohere, Command R: a decoder with attention and MLP side by side behind one norm without bias, and a scale on its
//! logits.
//!
//! Paper: Aryabumi et al., 2024 (arXiv:2405.15032), whose Aya 23 has this architecture.
//! Reference: transformers 5.23.0, `models/cohere/modeling_cohere.py`.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, Pairs, Rope,
    RopeParameters, RopeTable, attention, merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

use super::llama::{Heads, Mlp};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct CohereConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// Multiplies the logits.
    pub logit_scale: f64,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// One head of keys and values for each of queries, if `None`.
    num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads`, if `None`.
    head_dim: Option<usize>,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f64,
    pub attention_bias: bool,
    /// Whether queries and keys are normalised, as in Command R+.
    pub use_qk_norm: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for CohereConfig {
    fn default() -> Self {
        Self {
            vocab_size: 256_000,
            hidden_size: 8192,
            intermediate_size: 22_528,
            logit_scale: 0.0625,
            num_hidden_layers: 40,
            num_attention_heads: 64,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 8192,
            layer_norm_eps: 1e-5,
            attention_bias: false,
            use_qk_norm: false,
            tie_word_embeddings: true,
            pad_token_id: Some(0),
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl CohereConfig {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 500_000.0)
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::with_bias(self.hidden_size, self.layer_norm_eps, false, device)
    }
}

impl ModelConfig for CohereConfig {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["pad_token_id"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        if !self.logit_scale.is_finite() {
            return Err(check.error("logit_scale", format_args!("{}, expected a number", self.logit_scale)));
        }
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for CohereConfig {
    fn head(&self) -> HeadConfig {
        HeadConfig {
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            tie_word_embeddings: self.tie_word_embeddings,
            num_labels: self.num_labels,
            pad_token_id: self.pad_token_id,
            head_bias: false,
        }
    }
}

/// The decoder.
#[derive(Module, Debug)]
pub struct CohereModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: LayerNorm,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    logit_scale: f64,
}

impl Decoder for CohereModel {
    type Config = CohereConfig;

    fn new(config: &CohereConfig, device: &Device) -> Self {
        let rope = Rope::from_parameters(&config.rope(), config.heads().dim, config.max_position_embeddings);
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm: config.norm(device),
            rope: rope.with_pairs(Pairs::Neighbours),
            logit_scale: config.logit_scale,
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.layers.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(input_ids)
    }

    fn decode(&self, mut x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let length = cache.length() + x.dims()[1];
        let rope = self.rope.table(inputs.position_ids_from(cache.length()), length);
        let mask = inputs.causal_mask(None);
        for (layer, cache) in self.layers.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, &rope, &mask, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.norm.forward(x);
        record.hidden_state(&x);
        x
    }

    fn logits(&self, logits: Tensor<3>) -> Tensor<3> {
        logits * self.logit_scale
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    input_layernorm: LayerNorm,
    self_attn: Attention,
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(config: &CohereConfig, device: &Device) -> Self {
        Self {
            input_layernorm: config.norm(device),
            self_attn: Attention::new(config, device),
            mlp: Mlp::new(config.hidden_size, config.intermediate_size, false, config.hidden_act, device),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rope: &RopeTable,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x.clone());
        x + self.self_attn.forward(normed.clone(), rope, mask, cache, record) + self.mlp.forward(normed)
    }
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<HeadNorm>,
    k_norm: Option<HeadNorm>,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &CohereConfig, device: &Device) -> Self {
        let heads = config.heads();
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let norm = |count| config.use_qk_norm.then(|| HeadNorm::new(count, heads.dim, config.layer_norm_eps, device));
        Self {
            q_proj: Linear::new(hidden, query, bias, device),
            k_proj: Linear::new(hidden, key_value, bias, device),
            v_proj: Linear::new(hidden, key_value, bias, device),
            o_proj: Linear::new(query, hidden, bias, device),
            q_norm: norm(heads.query),
            k_norm: norm(heads.key_value),
            heads,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rope: &RopeTable,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let q = normed(split_heads(q, self.heads.query), self.q_norm.as_ref());
        let k = normed(split_heads(k, self.heads.key_value), self.k_norm.as_ref());
        let (k, v) = cache.append(rope.apply(k), split_heads(v, self.heads.key_value));
        let options = AttentionOptions::new(mask);
        self.o_proj.forward(merge_heads(attention(rope.apply(q), k, v, options, record)))
    }
}

fn normed(x: Tensor<4>, norm: Option<&HeadNorm>) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

/// `(x − mean) / √(variance + eps) · weight` over each head, with a weight of its own for each.
#[derive(Module, Debug)]
struct HeadNorm {
    /// `[heads, head_dim]`
    weight: Param<Tensor<2>>,
    #[module(skip)]
    eps: f64,
}

impl HeadNorm {
    fn new(heads: usize, head_dim: usize, eps: f64, device: &Device) -> Self {
        let shape = [heads, head_dim];
        let ones = move |device: &Device, grad: bool| Tensor::<2>::ones(shape, device).set_require_grad(grad);
        Self { weight: Param::uninitialized(ParamId::new(), ones, device.clone(), true, shape.into()), eps }
    }

    /// # Shapes
    /// - x, output: `[batch, seq, heads, head_dim]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = x.clone() - x.mean_dim(3);
        let variance = (x.clone() * x.clone()).mean_dim(3);
        // A matrix keeps the dtype of the file.
        let weight = self.weight.val().cast(x.dtype()).unsqueeze::<4>();
        x / (variance + self.eps).sqrt() * weight
    }
}
