//! Mixtral: LLaMA's decoder with a mixture of experts in place of each MLP, of which a token sees a few.
//!
//! Paper: Jiang et al., 2024 (arXiv:2401.04088).
//! Reference: transformers 5.23.0, `models/mixtral/modeling_mixtral.py`.
//! Differs from `llama` in: the mixture of experts, a window if the config has one, and nothing has a bias.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, Linear, Mask, RmsNorm, Rope, RopeParameters,
    RopeTable, Router, Routing, attention, merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

use super::llama::Heads;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct MixtralConfig {
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
    /// How many tokens a query sees, itself counted; all before it, if `None`.
    pub sliding_window: Option<usize>,
    pub num_local_experts: usize,
    pub num_experts_per_tok: usize,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for MixtralConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(8),
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 4096 * 32,
            rms_norm_eps: 1e-5,
            sliding_window: None,
            num_local_experts: 8,
            num_experts_per_tok: 2,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl MixtralConfig {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 1_000_000.0)
    }
}

impl ModelConfig for MixtralConfig {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["num_key_value_heads"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_labels", self.num_labels),
        ])?;
        let (layers, experts) = (self.num_hidden_layers, self.num_local_experts);
        check.layers("num_hidden_layers", layers)?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        Routing::validate(check, "num_local_experts", experts, self.num_experts_per_tok, layers)?;
        self.sliding_window.map_or(Ok(()), |window| check.size("sliding_window", window))?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for MixtralConfig {
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
pub struct MixtralModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    window: Option<usize>,
}

impl Decoder for MixtralModel {
    type Config = MixtralConfig;

    fn new(config: &MixtralConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, device),
            rope: Rope::from_parameters(&config.rope(), config.heads().dim, config.max_position_embeddings),
            window: config.sliding_window,
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![self.window.map_or(CacheKind::Full, CacheKind::Sliding); self.layers.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(input_ids)
    }

    fn decode(&self, mut x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let length = cache.length() + x.dims()[1];
        let rope = self.rope.table(inputs.position_ids_from(cache.length()), length);
        let mask = inputs.causal_mask(self.window);
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
    block_sparse_moe: SparseMoe,
}

impl DecoderLayer {
    fn new(config: &MixtralConfig, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            block_sparse_moe: SparseMoe::new(config, device),
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
        x.clone() + self.block_sparse_moe.forward(self.post_attention_layernorm.forward(x))
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
    fn new(config: &MixtralConfig, device: &Device) -> Self {
        let (hidden, heads) = (config.hidden_size, config.heads());
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        Self {
            q_proj: Linear::new(hidden, query, false, device),
            k_proj: Linear::new(hidden, key_value, false, device),
            v_proj: Linear::new(hidden, key_value, false, device),
            o_proj: Linear::new(query, hidden, false, device),
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

/// The experts with the highest probabilities, which are made to sum to one.
#[derive(Module, Debug)]
struct SparseMoe {
    gate: Router,
    experts: Vec<Expert>,
    #[module(skip)]
    per_token: usize,
}

impl SparseMoe {
    fn new(config: &MixtralConfig, device: &Device) -> Self {
        Self {
            gate: Router::new(config.hidden_size, config.num_local_experts, false, device),
            experts: (0..config.num_local_experts).map(|_| Expert::new(config, device)).collect(),
            per_token: config.num_experts_per_tok,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        let x = x.reshape([batch * seq, hidden]);
        let routing = Routing::top_k(self.gate.probabilities(x.clone()), self.per_token).normalized();
        routing.dispatch(x, |expert, x| self.experts[expert].forward(x)).reshape([batch, seq, hidden])
    }
}

/// `w2(act(w1(x)) · w3(x))`.
#[derive(Module, Debug)]
struct Expert {
    w1: Linear,
    w3: Linear,
    w2: Linear,
    #[module(skip)]
    act: Activation,
}

impl Expert {
    fn new(config: &MixtralConfig, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Self {
            w1: Linear::new(hidden, intermediate, false, device),
            w3: Linear::new(hidden, intermediate, false, device),
            w2: Linear::new(intermediate, hidden, false, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [gate, up] = project(x, [&self.w1, &self.w3]);
        self.w2.forward(self.act.gate(gate, up))
    }
}
