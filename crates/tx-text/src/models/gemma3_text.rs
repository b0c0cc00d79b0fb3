//! Gemma 3, its text part: Gemma 2 with norms on queries and keys in place of soft caps on scores, and a rotation for
//! each kind of layer.
//!
//! Paper: Gemma team, 2025 (arXiv:2503.19786). Norms on queries and keys: Dehghani et al., 2023 (arXiv:2302.05442).
//! Reference: transformers 5.23.0, `models/gemma3/modeling_gemma3.py`.

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

use super::gemma2::{positive, soft_cap};
use super::llama::{Heads, Mlp};
use super::qwen2::LayerType::{self, FullAttention, SlidingAttention};

/// The keys of `config.json` that decide the graph. `attn_logit_softcapping` is none of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Gemma3TextConfig {
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
    /// Whether tokens see what follows them, as in EmbeddingGemma.
    pub use_bidirectional_attention: bool,
    /// Scores are divided by its root, where others have `head_dim`.
    pub query_pre_attn_scalar: f64,
    sliding_window: usize,
    /// The kind of each layer; every `sliding_window_pattern`-th one is full, if `None`.
    layer_types: Option<Vec<LayerType>>,
    sliding_window_pattern: usize,
    /// Null turns the cap off.
    pub final_logit_softcapping: Option<f64>,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    /// The rotation of each kind of layer; older files have the three keys below in its place.
    rope_parameters: RopeByLayerType,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_local_base_freq: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RopeByLayerType {
    full_attention: Option<RopeParameters>,
    sliding_attention: Option<RopeParameters>,
}

impl Default for Gemma3TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 262_208,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 256,
            hidden_activation: Activation::GeluNew,
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            use_bidirectional_attention: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: 4096,
            layer_types: None,
            sliding_window_pattern: 6,
            final_logit_softcapping: None,
            tie_word_embeddings: true,
            pad_token_id: Some(0),
            num_labels: 2,
            rope_parameters: RopeByLayerType::default(),
            rope_theta: None,
            rope_scaling: None,
            rope_local_base_freq: None,
        }
    }
}

impl Gemma3TextConfig {
    fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
    }

    /// Tokens that a sliding layer sees on one side, the query itself counted. The file's number is of both sides where
    /// attention is bidirectional.
    fn window(&self) -> usize {
        if self.use_bidirectional_attention { self.sliding_window / 2 + 1 } else { self.sliding_window }
    }

    fn layer_types(&self) -> Vec<LayerType> {
        let full = |i: usize| (i + 1).is_multiple_of(self.sliding_window_pattern);
        let layer_type = |i: usize| if full(i) { FullAttention } else { SlidingAttention };
        self.layer_types.clone().unwrap_or_else(|| (0..self.num_hidden_layers).map(layer_type).collect())
    }

    fn rope(&self, layer_type: LayerType) -> RopeParameters {
        let RopeByLayerType { full_attention, sliding_attention } = &self.rope_parameters;
        let (new, scaling, theta, default) = match layer_type {
            FullAttention => (full_attention, self.rope_scaling.as_ref(), self.rope_theta, 1_000_000.0),
            // What stretches the positions of full layers leaves those of the others as they are.
            SlidingAttention => (sliding_attention, None, self.rope_local_base_freq, 10_000.0),
        };
        RopeParameters::resolve(new.as_ref(), scaling, theta, default)
    }
}

impl ModelConfig for Gemma3TextConfig {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["pad_token_id"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("sliding_window_pattern", self.sliding_window_pattern),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        positive(check, "query_pre_attn_scalar", Some(self.query_pre_attn_scalar))?;
        positive(check, "final_logit_softcapping", self.final_logit_softcapping)?;
        LayerType::validate(self.layer_types.as_deref(), self.num_hidden_layers, Some(self.sliding_window), check)?;
        self.heads().validate(check)?;
        self.rope(FullAttention).validate(check, self.head_dim)?;
        self.rope(SlidingAttention).validate(check, self.head_dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.max_position_embeddings))
    }
}

impl DecoderConfig for Gemma3TextConfig {
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
pub struct Gemma3TextModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// `√hidden`, which multiplies the embeddings.
    #[module(skip)]
    embed_scale: f64,
    #[module(skip)]
    full_rope: Rope,
    #[module(skip)]
    sliding_rope: Rope,
    #[module(skip)]
    window: usize,
    #[module(skip)]
    bidirectional: bool,
    #[module(skip)]
    logit_cap: Option<f64>,
}

/// What the layers of one kind share: the rotation and the tokens that are seen.
struct View {
    rope: RopeTable,
    mask: Mask,
}

impl Decoder for Gemma3TextModel {
    type Config = Gemma3TextConfig;

    fn new(config: &Gemma3TextConfig, device: &Device) -> Self {
        let layers = config.layer_types().into_iter();
        let rope = |layer_type| {
            Rope::from_parameters(&config.rope(layer_type), config.head_dim, config.max_position_embeddings)
        };
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: layers.map(|layer_type| DecoderLayer::new(layer_type, config, device)).collect(),
            norm: RmsNorm::with_offset(config.hidden_size, config.rms_norm_eps, device),
            embed_scale: (config.hidden_size as f64).sqrt(),
            full_rope: rope(FullAttention),
            sliding_rope: rope(SlidingAttention),
            window: config.window(),
            bidirectional: config.use_bidirectional_attention,
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
        let position_ids = inputs.position_ids_from(cache.length());
        let (seen, near) = if self.bidirectional {
            (inputs.mask(), inputs.mask().within(self.window - 1))
        } else {
            (inputs.causal_mask(None), inputs.causal_mask(Some(self.window)))
        };
        let full = View { rope: self.full_rope.table(position_ids.clone(), length), mask: seen };
        let sliding = View { rope: self.sliding_rope.table(position_ids, length), mask: near };
        for (layer, cache) in self.layers.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            let view = match layer.layer_type {
                FullAttention => &full,
                SlidingAttention => &sliding,
            };
            x = layer.forward(x, view, cache, record);
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
    fn new(layer_type: LayerType, config: &Gemma3TextConfig, device: &Device) -> Self {
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

    fn forward(&self, x: Tensor<3>, view: &View, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let attended = self.self_attn.forward(self.input_layernorm.forward(x.clone()), view, cache, record);
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
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    #[module(skip)]
    heads: Heads,
    #[module(skip)]
    scale: f64,
}

impl Attention {
    fn new(config: &Gemma3TextConfig, device: &Device) -> Self {
        let heads = config.heads();
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let norm = || RmsNorm::with_offset(heads.dim, config.rms_norm_eps, device);
        Self {
            q_proj: Linear::new(hidden, query, bias, device),
            k_proj: Linear::new(hidden, key_value, bias, device),
            v_proj: Linear::new(hidden, key_value, bias, device),
            o_proj: Linear::new(query, hidden, bias, device),
            q_norm: norm(),
            k_norm: norm(),
            heads,
            scale: 1.0 / config.query_pre_attn_scalar.sqrt(),
        }
    }

    fn forward(&self, x: Tensor<3>, view: &View, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        // Each head is normalised, then rotated.
        let q = view.rope.apply(self.q_norm.forward(split_heads(q, self.heads.query)));
        let k = view.rope.apply(self.k_norm.forward(split_heads(k, self.heads.key_value)));
        let (k, v) = cache.append(k, split_heads(v, self.heads.key_value));
        let options = AttentionOptions { scale: Some(self.scale), ..AttentionOptions::new(&view.mask) };
        self.o_proj.forward(merge_heads(attention(q, k, v, options, record)))
    }
}
