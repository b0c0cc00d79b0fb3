//! LLaMA: a pre-norm decoder with rotary positions, root-mean-square norms and a gated MLP.
//!
//! Paper: Touvron et al., 2023 (arXiv:2302.13971). Grouped queries: Ainslie et al., 2023 (arXiv:2305.13245).
//! Reference: transformers 5.23.0, `models/llama/modeling_llama.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, Linear, Mask, RmsNorm, Rope, RopeParameters,
    RopeTable, attention, merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct LlamaConfig {
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
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for LlamaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl LlamaConfig {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0)
    }
}

impl ModelConfig for LlamaConfig {
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
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for LlamaConfig {
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

/// How many heads there are, and how wide each is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) query: usize,
    pub(super) key_value: usize,
    pub(super) dim: usize,
}

impl Heads {
    pub(super) fn validate(self, check: &Check<'_>) -> Result<()> {
        let Self { query, key_value, dim } = self;
        check.sizes([("num_attention_heads", query), ("num_key_value_heads", key_value), ("head_dim", dim)])?;
        check.divides("num_attention_heads", query, "num_key_value_heads", key_value)?;
        check.size("num_attention_heads · head_dim", query.saturating_mul(dim))
    }
}

/// The decoder.
#[derive(Module, Debug)]
pub struct LlamaModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for LlamaModel {
    type Config = LlamaConfig;
    const QUESTION_ANSWERING_PREFIX: &'static str = "transformer";

    fn new(config: &LlamaConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, device),
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
        let x = self.norm.forward(x);
        record.hidden_state(&x);
        x
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(config: &LlamaConfig, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(config.hidden_size, config.intermediate_size, config.mlp_bias, config.hidden_act, device),
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
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), rope, mask, cache, record);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &LlamaConfig, device: &Device) -> Self {
        let heads = config.heads();
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        Self {
            q_proj: Linear::new(hidden, query, bias, device),
            k_proj: Linear::new(hidden, key_value, bias, device),
            v_proj: Linear::new(hidden, key_value, bias, device),
            o_proj: Linear::new(query, hidden, bias, device),
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
        let q = rope.apply(split_heads(q, self.heads.query));
        let k = rope.apply(split_heads(k, self.heads.key_value));
        let (k, v) = cache.append(k, split_heads(v, self.heads.key_value));
        self.o_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}

/// `down(act(gate(x)) · up(x))`. Shazeer, 2020 (arXiv:2002.05202).
#[derive(Module, Debug)]
pub(super) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    pub(super) fn new(hidden: usize, intermediate: usize, bias: bool, act: Activation, device: &Device) -> Self {
        Self {
            gate_proj: Linear::new(hidden, intermediate, bias, device),
            up_proj: Linear::new(hidden, intermediate, bias, device),
            down_proj: Linear::new(intermediate, hidden, bias, device),
            act,
        }
    }

    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [gate, up] = project(x, [&self.gate_proj, &self.up_proj]);
        self.down_proj.forward(self.act.gate(gate, up))
    }
}
