//! Phi: attention and MLP side by side behind one norm, and rotary positions on a half of each head.
//!
//! Paper: Gunasekar et al., 2023 (arXiv:2306.11644); Li et al., 2023 (arXiv:2309.05463).
//! Reference: transformers 5.23.0, `models/phi/modeling_phi.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, Rope,
    RopeParameters, RopeTable, attention, merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

use super::llama::Heads;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct PhiConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// One head of keys and values for each of queries, if `None`.
    num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads`, if `None`.
    head_dim: Option<usize>,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f64,
    /// Whether queries and keys have a norm before they are rotated.
    pub qk_layernorm: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    /// The part of a head that is rotated, where `rope_parameters` does not say.
    partial_rotary_factor: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for PhiConfig {
    fn default() -> Self {
        Self {
            vocab_size: 51_200,
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 24,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::GeluNew,
            max_position_embeddings: 2048,
            layer_norm_eps: 1e-5,
            qk_layernorm: false,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            partial_rotary_factor: 0.5,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl PhiConfig {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        let mut rope = RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0);
        rope.partial_rotary_factor = rope.partial_rotary_factor.or(Some(self.partial_rotary_factor));
        rope
    }
}

impl ModelConfig for PhiConfig {
    type Limits = TextLimits;

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
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for PhiConfig {
    fn head(&self) -> HeadConfig {
        HeadConfig {
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            tie_word_embeddings: self.tie_word_embeddings,
            num_labels: self.num_labels,
            pad_token_id: self.pad_token_id,
            head_bias: true,
        }
    }
}

/// The decoder.
#[derive(Module, Debug)]
pub struct PhiModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    final_layernorm: LayerNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for PhiModel {
    type Config = PhiConfig;

    fn new(config: &PhiConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            final_layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            rope: Rope::from_parameters(&config.rope(), config.heads().dim, config.max_position_embeddings),
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
        let x = self.final_layernorm.forward(x);
        record.hidden_state(&x);
        x
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: LayerNorm,
}

impl DecoderLayer {
    fn new(config: &PhiConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            self_attn: Attention::new(config, device),
            mlp: Mlp {
                fc1: Linear::new(hidden, inner, true, device),
                fc2: Linear::new(inner, hidden, true, device),
                act: config.hidden_act,
            },
            input_layernorm: LayerNorm::new(hidden, config.layer_norm_eps, device),
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
        self.self_attn.forward(normed.clone(), rope, mask, cache, record) + self.mlp.forward(normed) + x
    }
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    dense: Linear,
    /// Over the elements of a head; `None` without `qk_layernorm`, as is `k_layernorm`.
    q_layernorm: Option<LayerNorm>,
    k_layernorm: Option<LayerNorm>,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &PhiConfig, device: &Device) -> Self {
        let (hidden, heads) = (config.hidden_size, config.heads());
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let norm = || config.qk_layernorm.then(|| LayerNorm::new(heads.dim, config.layer_norm_eps, device));
        Self {
            q_proj: Linear::new(hidden, query, true, device),
            k_proj: Linear::new(hidden, key_value, true, device),
            v_proj: Linear::new(hidden, key_value, true, device),
            dense: Linear::new(query, hidden, true, device),
            q_layernorm: norm(),
            k_layernorm: norm(),
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
        let mut q = split_heads(q, self.heads.query);
        let mut k = split_heads(k, self.heads.key_value);
        if let (Some(q_norm), Some(k_norm)) = (&self.q_layernorm, &self.k_layernorm) {
            (q, k) = (q_norm.forward(q), k_norm.forward(k));
        }
        let (k, v) = cache.append(rope.apply(k), split_heads(v, self.heads.key_value));
        self.dense.forward(merge_heads(attention(rope.apply(q), k, v, AttentionOptions::new(mask), record)))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_activated(x, self.act))
    }
}
