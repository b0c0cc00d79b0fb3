//! Gemma 2: Gemma with norms on both sides of each sublayer, scores and logits kept within soft caps, and layers that
//! see all and layers that see a window in turn.
//!
//! Paper: Gemma team, 2024 (arXiv:2408.00118). Soft caps: Bello et al., 2016 (arXiv:1611.09940).
//! Reference: transformers 5.23.0, `models/gemma2/modeling_gemma2.py`.

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

use super::llama::{Heads, Mlp};
use super::qwen2::LayerType::{self, FullAttention, SlidingAttention};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Gemma2Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub hidden_activation: Activation,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    use_bidirectional_attention: bool,
    /// Scores are divided by its root, where others have `head_dim`.
    pub query_pre_attn_scalar: f64,
    /// Tokens that a sliding layer sees, the query itself counted.
    pub sliding_window: usize,
    /// The kind of each layer; sliding and full ones in turn, if `None`.
    layer_types: Option<Vec<LayerType>>,
    /// Null turns the cap off.
    pub attn_logit_softcapping: Option<f64>,
    /// Null turns the cap off.
    pub final_logit_softcapping: Option<f64>,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for Gemma2Config {
    fn default() -> Self {
        Self {
            vocab_size: 256_000,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 256,
            hidden_activation: Activation::GeluNew,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            use_bidirectional_attention: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: 4096,
            layer_types: None,
            attn_logit_softcapping: Some(50.0),
            final_logit_softcapping: Some(30.0),
            tie_word_embeddings: true,
            pad_token_id: Some(0),
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl Gemma2Config {
    fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
    }

    fn layer_types(&self) -> Vec<LayerType> {
        let layer_type = |i: usize| if i.is_multiple_of(2) { SlidingAttention } else { FullAttention };
        self.layer_types.clone().unwrap_or_else(|| (0..self.num_hidden_layers).map(layer_type).collect())
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0)
    }
}

impl ModelConfig for Gemma2Config {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["attn_logit_softcapping", "final_logit_softcapping", "pad_token_id"];

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
        positive(check, "query_pre_attn_scalar", Some(self.query_pre_attn_scalar))?;
        positive(check, "attn_logit_softcapping", self.attn_logit_softcapping)?;
        positive(check, "final_logit_softcapping", self.final_logit_softcapping)?;
        let bidirectional = self.use_bidirectional_attention;
        check.supported("use_bidirectional_attention", !bidirectional, bidirectional, "false")?;
        LayerType::validate(self.layer_types.as_deref(), self.num_hidden_layers, Some(self.sliding_window), check)?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.head_dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

/// Rejects what is there and not a positive number.
pub(super) fn positive(check: &Check<'_>, key: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(value) if !(value.is_finite() && value > 0.0) => {
            Err(check.error(key, format_args!("{value}, expected a positive number")))
        }
        _ => Ok(()),
    }
}

impl DecoderConfig for Gemma2Config {
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
pub struct Gemma2Model {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// `√hidden`, which multiplies the embeddings.
    #[module(skip)]
    embed_scale: f64,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    window: usize,
    #[module(skip)]
    logit_cap: Option<f64>,
}

impl Decoder for Gemma2Model {
    type Config = Gemma2Config;

    fn new(config: &Gemma2Config, device: &Device) -> Self {
        let layers = config.layer_types().into_iter();
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: layers.map(|layer_type| DecoderLayer::new(layer_type, config, device)).collect(),
            norm: RmsNorm::with_offset(config.hidden_size, config.rms_norm_eps, device),
            embed_scale: (config.hidden_size as f64).sqrt(),
            rope: Rope::from_parameters(&config.rope(), config.head_dim, config.max_position_embeddings),
            window: config.sliding_window,
            logit_cap: config.final_logit_softcapping,
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        let windows = self.layers.iter().map(|layer| layer.layer_type.window(Some(self.window)));
        windows.map(|window| window.map_or(CacheKind::Full, CacheKind::Sliding)).collect()
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(input_ids) * self.embed_scale
    }

    fn decode(&self, mut x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let length = cache.length() + x.dims()[1];
        let rope = self.rope.table(inputs.position_ids_from(cache.length()), length);
        let (full, sliding) = (inputs.causal_mask(None), inputs.causal_mask(Some(self.window)));
        for (layer, cache) in self.layers.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            let mask = match layer.layer_type {
                FullAttention => &full,
                SlidingAttention => &sliding,
            };
            x = layer.forward(x, &rope, mask, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.norm.forward(x);
        record.hidden_state(&x);
        x
    }

    fn logits(&self, logits: Tensor<3>) -> Tensor<3> {
        soft_cap(logits, self.logit_cap)
    }
}

/// `cap · tanh(x / cap)`, or `x` without a cap. Section 2 of the paper.
pub(super) fn soft_cap(x: Tensor<3>, cap: Option<f64>) -> Tensor<3> {
    match cap {
        Some(cap) => (x / cap).tanh() * cap,
        None => x,
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    mlp: Mlp,
    post_feedforward_layernorm: RmsNorm,
    #[module(skip)]
    layer_type: LayerType,
}

impl DecoderLayer {
    fn new(layer_type: LayerType, config: &Gemma2Config, device: &Device) -> Self {
        let norm = || RmsNorm::with_offset(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            pre_feedforward_layernorm: norm(),
            mlp: Mlp::new(config.hidden_size, config.intermediate_size, false, config.hidden_activation, device),
            post_feedforward_layernorm: norm(),
            layer_type,
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
        let attended = self.self_attn.forward(self.input_layernorm.forward(x.clone()), rope, mask, cache, record);
        let x = x + self.post_attention_layernorm.forward(attended);
        let gated = self.mlp.forward(self.pre_feedforward_layernorm.forward(x.clone()));
        x + self.post_feedforward_layernorm.forward(gated)
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
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    score_cap: Option<f64>,
}

impl Attention {
    fn new(config: &Gemma2Config, device: &Device) -> Self {
        let heads = config.heads();
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        Self {
            q_proj: Linear::new(hidden, query, bias, device),
            k_proj: Linear::new(hidden, key_value, bias, device),
            v_proj: Linear::new(hidden, key_value, bias, device),
            o_proj: Linear::new(query, hidden, bias, device),
            heads,
            scale: 1.0 / config.query_pre_attn_scalar.sqrt(),
            score_cap: config.attn_logit_softcapping,
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
        let options =
            AttentionOptions { scale: Some(self.scale), softcap: self.score_cap, ..AttentionOptions::new(mask) };
        self.o_proj.forward(merge_heads(attention(q, k, v, options, record)))
    }
}
