//! DeepSeek-V3 and R1: a decoder whose keys and values come from one small latent vector, with many experts in most
//! layers, chosen among the best groups.
//!
//! Paper: DeepSeek-AI, 2024 (arXiv:2412.19437). Latent attention: DeepSeek-AI, 2024 (arXiv:2405.04434).
//! Reference: transformers 5.23.0, `models/deepseek_v3/modeling_deepseek_v3.py`.

mod attention;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, Cache, CacheKind, Embedding, LayerCache, Mask, Pairs, RmsNorm, Rope, RopeParameters, RopeTable,
    RopeType, Router, Routing, constant,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

use self::attention::{Attention, LatentHeads};
use super::llama::Mlp;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DeepseekV3Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub moe_intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Elements of the vector that keys and values are made of.
    pub kv_lora_rank: usize,
    /// Elements of the vector that queries are made of; they are made of the hidden state, if `None`.
    pub q_lora_rank: Option<usize>,
    /// Elements of a query or key that are not rotated.
    pub qk_nope_head_dim: usize,
    /// Elements that are rotated; those of a key are the same in all heads.
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    /// Layers without experts: the first ones.
    pub first_k_dense_replace: usize,
    pub n_routed_experts: usize,
    pub n_shared_experts: usize,
    pub num_experts_per_tok: usize,
    /// Groups of experts, and how many of them the experts of a token come from.
    pub n_group: usize,
    pub topk_group: usize,
    /// Whether the weights of a token's experts are made to sum to one.
    pub norm_topk_prob: bool,
    /// What these weights are multiplied by then.
    pub routed_scaling_factor: f64,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    /// Whether neighbours are rotated together, or the two halves.
    pub rope_interleave: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for DeepseekV3Config {
    fn default() -> Self {
        Self {
            vocab_size: 129_280,
            hidden_size: 7168,
            intermediate_size: 18_432,
            moe_intermediate_size: 2048,
            num_hidden_layers: 61,
            num_attention_heads: 128,
            kv_lora_rank: 512,
            q_lora_rank: Some(1536),
            qk_nope_head_dim: 128,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
            hidden_act: Activation::Silu,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            first_k_dense_replace: 3,
            n_routed_experts: 256,
            n_shared_experts: 1,
            num_experts_per_tok: 8,
            n_group: 8,
            topk_group: 4,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            rope_interleave: true,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl DeepseekV3Config {
    fn heads(&self) -> LatentHeads {
        LatentHeads {
            count: self.num_attention_heads,
            latent: self.kv_lora_rank,
            plain: self.qk_nope_head_dim,
            rotated: self.qk_rope_head_dim,
            value: self.v_head_dim,
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0)
    }

    /// The factor of the scores: `1/√head_dim`, and the temperature of a model that was made to reach further.
    fn scale(&self) -> f64 {
        let rope = self.rope();
        let (factor, all) = (rope.factor.unwrap_or(1.0), rope.mscale_all_dim.unwrap_or(0.0));
        let stretched = rope.rope_type() != RopeType::Default && factor > 1.0;
        let temperature = if stretched { 0.1 * all * factor.ln() + 1.0 } else { 1.0 };
        temperature * temperature / ((self.qk_nope_head_dim + self.qk_rope_head_dim) as f64).sqrt()
    }
}

impl ModelConfig for DeepseekV3Config {
    type Limits = TextLimits;

    // Null where the class says 1536, in Moonlight for one.
    const NULLABLE: &'static [&'static str] = &["q_lora_rank"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("n_shared_experts", self.n_shared_experts),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_labels", self.num_labels),
        ])?;
        let shared = self.moe_intermediate_size.saturating_mul(self.n_shared_experts);
        check.size("moe_intermediate_size · n_shared_experts", shared)?;
        let (layers, experts, per_token) = (self.num_hidden_layers, self.n_routed_experts, self.num_experts_per_tok);
        check.layers("num_hidden_layers", layers)?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        Routing::validate(check, "n_routed_experts", experts, per_token, layers)?;
        // The two best experts of a group tell how good it is.
        check.range("n_group", self.n_group, 1, (experts / 2).max(1))?;
        check.divides("n_routed_experts", experts, "n_group", self.n_group)?;
        check.range("topk_group", self.topk_group, 1, self.n_group)?;
        check.range("num_experts_per_tok", per_token, 1, self.topk_group * (experts / self.n_group))?;
        self.q_lora_rank.map_or(Ok(()), |rank| check.size("q_lora_rank", rank))?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.qk_rope_head_dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for DeepseekV3Config {
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
pub struct DeepseekV3Model {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for DeepseekV3Model {
    type Config = DeepseekV3Config;
    const RENAMES: &'static [Rename] = RENAMES;
    // A layer that predicts the token after the next one, as HF ignores it.
    const IGNORED: &'static [&'static str] = &["layers.61"];

    fn new(config: &DeepseekV3Config, device: &Device) -> Self {
        let rope = Rope::from_parameters(&config.rope(), config.qk_rope_head_dim, config.max_position_embeddings);
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|i| DecoderLayer::new(i, config, device)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, device),
            rope: rope.with_pairs(if config.rope_interleave { Pairs::Neighbours } else { Pairs::Halves }),
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
    mlp: FeedForward,
}

impl DecoderLayer {
    fn new(i: usize, config: &DeepseekV3Config, device: &Device) -> Self {
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

/// What follows the attention of a layer: one MLP, or experts.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each layer, beside tensors that are far larger")]
enum FeedForward {
    Dense(Mlp),
    Sparse(SparseMoe),
}

impl FeedForward {
    fn new(i: usize, config: &DeepseekV3Config, device: &Device) -> Self {
        if i >= config.first_k_dense_replace {
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

/// Experts by the sigmoid of their scores, and those that all tokens share as one MLP.
#[derive(Module, Debug)]
struct SparseMoe {
    gate: Router,
    /// `[experts]`: what balances the load. It helps an expert to be chosen, and leaves its weight alone.
    e_score_correction_bias: Param<Tensor<1>>,
    experts: Vec<Mlp>,
    shared_experts: Mlp,
    #[module(skip)]
    per_token: usize,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    kept_groups: usize,
    #[module(skip)]
    normalize: bool,
    #[module(skip)]
    factor: f64,
}

impl SparseMoe {
    fn new(config: &DeepseekV3Config, device: &Device) -> Self {
        let (hidden, experts, width) = (config.hidden_size, config.n_routed_experts, config.moe_intermediate_size);
        let mlp = |intermediate| Mlp::new(hidden, intermediate, false, config.hidden_act, device);
        Self {
            gate: Router::new(hidden, experts, false, device),
            e_score_correction_bias: constant([experts], 0.0, device),
            experts: (0..experts).map(|_| mlp(width)).collect(),
            shared_experts: mlp(width * config.n_shared_experts),
            per_token: config.num_experts_per_tok,
            groups: config.n_group,
            kept_groups: config.topk_group,
            normalize: config.norm_topk_prob,
            factor: config.routed_scaling_factor,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        let x = x.reshape([batch * seq, hidden]);
        let scores = Activation::Sigmoid.forward(self.gate.forward(x.clone()));
        let priorities = scores.clone() + self.e_score_correction_bias.val().unsqueeze::<2>();
        let routing = Routing::top_k_of_groups(scores, priorities, self.per_token, self.groups, self.kept_groups);
        let routing = if self.normalize { routing.normalized() } else { routing };
        let shared = self.shared_experts.forward(x.clone());
        let routed = routing.scaled(self.factor).dispatch(x, |expert, x| self.experts[expert].forward(x));
        (routed + shared).reshape([batch, seq, hidden])
    }
}

/// Files have no names for the kinds of queries and layers, and the correction lies beside the scores' weight.
const RENAMES: &[Rename] = &[
    Rename { module: "queries.Direct", file: &["q_proj"] },
    Rename { module: "queries.Latent.q_a_proj", file: &["q_a_proj"] },
    Rename { module: "queries.Latent.q_a_layernorm", file: &["q_a_layernorm"] },
    Rename { module: "queries.Latent.q_b_proj", file: &["q_b_proj"] },
    Rename { module: "mlp.Sparse.e_score_correction_bias", file: &["mlp.gate.e_score_correction_bias"] },
    Rename { module: "mlp.Dense", file: &["mlp"] },
    Rename { module: "mlp.Sparse", file: &["mlp"] },
];
