//! Phi-3: LLaMA with one projection for queries, keys and values, one for both halves of the MLP, and rotations that
//! change with the length of the sequence.
//!
//! Paper: Abdin et al., 2024 (arXiv:2404.14219). Long rotations: Ding et al., 2024 (arXiv:2402.13753).
//! Reference: transformers 5.23.0, `models/phi3/modeling_phi3.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, Linear, Mask, RmsNorm, Rope, RopeParameters,
    RopeTable, RopeType, attention, merge_heads, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

use super::llama::Heads;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Phi3Config {
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
    /// From here on, in tokens, the long rotation's frequencies are the other ones.
    pub original_max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    /// Tokens that a query sees, itself counted; all if `None`.
    pub sliding_window: Option<usize>,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    partial_rotary_factor: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for Phi3Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_064,
            hidden_size: 3072,
            intermediate_size: 8192,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 4096,
            original_max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            sliding_window: None,
            tie_word_embeddings: false,
            pad_token_id: Some(32_000),
            num_labels: 2,
            partial_rotary_factor: None,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl Phi3Config {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        let rope = RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0);
        let rope_type = rope.rope_type();
        RopeParameters {
            // Early files call it so.
            rope_type: Some(if rope_type == RopeType::Yarn { RopeType::LongRope } else { rope_type }),
            partial_rotary_factor: rope.partial_rotary_factor.or(self.partial_rotary_factor),
            // What stands beside the parameters wins over what stands among them.
            original_max_position_embeddings: Some(self.original_max_position_embeddings),
            ..rope
        }
    }
}

impl ModelConfig for Phi3Config {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["pad_token_id"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("original_max_position_embeddings", self.original_max_position_embeddings),
            ("sliding_window", self.sliding_window.unwrap_or(1)),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        self.heads().validate(check)?;
        let rope = self.rope();
        let supported = matches!(rope.rope_type(), RopeType::Default | RopeType::LongRope);
        check.supported(
            "rope_type",
            supported,
            format!("{:?}", rope.rope_type()).to_lowercase(),
            "default, longrope",
        )?;
        rope.validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for Phi3Config {
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
pub struct Phi3Model {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    window: Option<usize>,
}

impl Decoder for Phi3Model {
    type Config = Phi3Config;

    fn new(config: &Phi3Config, device: &Device) -> Self {
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

    // Keys that were rotated by the short sequence's frequencies are of no use to queries that have the long one's.
    fn restarts_at(&self) -> Option<usize> {
        self.rope.switches_at()
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
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(config: &Phi3Config, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(config, device),
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
    qkv_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &Phi3Config, device: &Device) -> Self {
        let heads = config.heads();
        let all = heads.query + 2 * heads.key_value;
        Self {
            qkv_proj: Linear::new(config.hidden_size, all * heads.dim, false, device),
            o_proj: Linear::new(heads.query * heads.dim, config.hidden_size, false, device),
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
        let Heads { query, key_value, .. } = self.heads;
        // [batch, seq, all heads, head_dim]: those of queries, then of keys, then of values.
        let qkv = split_heads(self.qkv_proj.forward(x), query + 2 * key_value);
        let q = rope.apply(qkv.clone().narrow(2, 0, query));
        let k = rope.apply(qkv.clone().narrow(2, query, key_value));
        let (k, v) = cache.append(k, qkv.narrow(2, query + key_value, key_value));
        self.o_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}

/// `down(act(gate) · up)`, where one product gives the gates and then what they open. Shazeer, 2020 (arXiv:2002.05202).
#[derive(Module, Debug)]
struct Mlp {
    gate_up_proj: Linear,
    down_proj: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    fn new(config: &Phi3Config, device: &Device) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            gate_up_proj: Linear::new(hidden, 2 * inner, false, device),
            down_proj: Linear::new(inner, hidden, false, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.gate_up_proj.forward(x);
        let inner = x.dims()[2] / 2;
        let [gate, up] = [0, inner].map(|start| x.clone().narrow(2, start, inner));
        self.down_proj.forward(self.act.gate(gate, up))
    }
}
