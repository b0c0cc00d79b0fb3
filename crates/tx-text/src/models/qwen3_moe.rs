//! Qwen3-MoE: Qwen3's decoder with many small experts in some or all layers.
//!
//! Paper: Qwen team, 2025 (arXiv:2505.09388).
//! Reference: transformers 5.23.0, `models/qwen3_moe/modeling_qwen3_moe.py`.
//! Differs from `qwen3` in: the mixture of experts, and a window is one of all layers.

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
use tx_core::weights::load::Rename;

use super::llama::{Heads, Mlp};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Qwen3MoeConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// `hidden_size / num_attention_heads`, if `None`.
    head_dim: Option<usize>,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    /// Without it `sliding_window` means nothing.
    use_sliding_window: bool,
    /// How many tokens a query sees, itself counted; all before it, if `None`.
    sliding_window: Option<usize>,
    num_experts: usize,
    /// What newer files have in place of `num_experts`.
    num_local_experts: Option<usize>,
    pub num_experts_per_tok: usize,
    pub moe_intermediate_size: usize,
    /// Whether the weights of a token's experts are made to sum to one.
    pub norm_topk_prob: bool,
    /// Every so many layers one has experts, the last of them.
    pub decoder_sparse_step: usize,
    /// Layers that have none all the same.
    pub mlp_only_layers: Vec<usize>,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for Qwen3MoeConfig {
    fn default() -> Self {
        Self {
            vocab_size: 151_936,
            hidden_size: 2048,
            intermediate_size: 6144,
            num_hidden_layers: 24,
            num_attention_heads: 32,
            num_key_value_heads: 4,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            use_sliding_window: false,
            sliding_window: Some(4096),
            num_experts: 128,
            num_local_experts: None,
            num_experts_per_tok: 8,
            moe_intermediate_size: 768,
            norm_topk_prob: false,
            decoder_sparse_step: 1,
            mlp_only_layers: Vec::new(),
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl Qwen3MoeConfig {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads,
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0)
    }

    fn window(&self) -> Option<usize> {
        self.sliding_window.filter(|_| self.use_sliding_window)
    }

    /// How many experts a layer that has any has.
    fn experts(&self) -> usize {
        self.num_local_experts.unwrap_or(self.num_experts)
    }

    fn has_experts(&self, i: usize) -> bool {
        self.experts() > 0 && !self.mlp_only_layers.contains(&i) && (i + 1).is_multiple_of(self.decoder_sparse_step)
    }
}

impl ModelConfig for Qwen3MoeConfig {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["sliding_window"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("decoder_sparse_step", self.decoder_sparse_step),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_labels", self.num_labels),
        ])?;
        let (layers, experts) = (self.num_hidden_layers, self.experts());
        check.layers("num_hidden_layers", layers)?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        if experts > 0 {
            Routing::validate(check, "num_experts", experts, self.num_experts_per_tok, layers)?;
        }
        self.window().map_or(Ok(()), |window| check.size("sliding_window", window))?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for Qwen3MoeConfig {
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
pub struct Qwen3MoeModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    window: Option<usize>,
}

impl Decoder for Qwen3MoeModel {
    type Config = Qwen3MoeConfig;
    const QUESTION_ANSWERING_PREFIX: &'static str = "transformer";
    const RENAMES: &'static [Rename] = RENAMES;

    fn new(config: &Qwen3MoeConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|i| DecoderLayer::new(i, config, device)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, device),
            rope: Rope::from_parameters(&config.rope(), config.heads().dim, config.max_position_embeddings),
            window: config.window(),
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
    mlp: FeedForward,
}

impl DecoderLayer {
    fn new(i: usize, config: &Qwen3MoeConfig, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: FeedForward::new(i, config, device),
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
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &Qwen3MoeConfig, device: &Device) -> Self {
        let heads = config.heads();
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let norm = || RmsNorm::new(heads.dim, config.rms_norm_eps, device);
        Self {
            q_proj: Linear::new(hidden, query, bias, device),
            k_proj: Linear::new(hidden, key_value, bias, device),
            v_proj: Linear::new(hidden, key_value, bias, device),
            o_proj: Linear::new(query, hidden, bias, device),
            q_norm: norm(),
            k_norm: norm(),
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
        let q = rope.apply(self.q_norm.forward(split_heads(q, self.heads.query)));
        let k = rope.apply(self.k_norm.forward(split_heads(k, self.heads.key_value)));
        let (k, v) = cache.append(k, split_heads(v, self.heads.key_value));
        self.o_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}

/// What follows the attention of a layer: one MLP, or experts.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each layer, beside tensors that are far larger")]
enum FeedForward {
    Dense(Mlp),
    Sparse(SparseMoe),
}

impl FeedForward {
    fn new(i: usize, config: &Qwen3MoeConfig, device: &Device) -> Self {
        if config.has_experts(i) {
            return Self::Sparse(SparseMoe::new(config, device));
        }
        Self::Dense(Mlp::new(config.hidden_size, config.intermediate_size, false, config.hidden_act, device))
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Sparse(moe) => moe.forward(x),
        }
    }
}

/// The experts with the highest probabilities.
#[derive(Module, Debug)]
struct SparseMoe {
    gate: Router,
    experts: Vec<Mlp>,
    #[module(skip)]
    per_token: usize,
    #[module(skip)]
    normalize: bool,
}

impl SparseMoe {
    fn new(config: &Qwen3MoeConfig, device: &Device) -> Self {
        let (hidden, experts) = (config.hidden_size, config.experts());
        let mlp = || Mlp::new(hidden, config.moe_intermediate_size, false, config.hidden_act, device);
        Self {
            gate: Router::new(hidden, experts, false, device),
            experts: (0..experts).map(|_| mlp()).collect(),
            per_token: config.num_experts_per_tok,
            normalize: config.norm_topk_prob,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        let x = x.reshape([batch * seq, hidden]);
        let routing = Routing::top_k(self.gate.probabilities(x.clone()), self.per_token);
        let routing = if self.normalize { routing.normalized() } else { routing };
        routing.dispatch(x, |expert, x| self.experts[expert].forward(x)).reshape([batch, seq, hidden])
    }
}

/// A layer's MLP and its experts have one name in files.
const RENAMES: &[Rename] =
    &[Rename { module: "mlp.Dense", file: &["mlp"] }, Rename { module: "mlp.Sparse", file: &["mlp"] }];
