//! Gemma: a pre-norm decoder with rotary positions, embeddings scaled by their width, GELU gates, and norms whose
//! weights count from one.
//!
//! Paper: Gemma team, 2024 (arXiv:2403.08295).
//! Reference: transformers 5.23.0, `models/gemma/modeling_gemma.py`.

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

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct GemmaConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    use_bidirectional_attention: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for GemmaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 256_000,
            hidden_size: 3072,
            intermediate_size: 24_576,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            head_dim: 256,
            hidden_act: Activation::GeluNew,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            use_bidirectional_attention: false,
            tie_word_embeddings: true,
            pad_token_id: Some(0),
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl GemmaConfig {
    /// The activation of the gates: the first files say `gelu` and mean its approximation, as HF takes it.
    pub fn hidden_act(&self) -> Activation {
        match self.hidden_act {
            Activation::Gelu => Activation::GeluNew,
            act => act,
        }
    }

    fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0)
    }
}

impl ModelConfig for GemmaConfig {
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
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        let bidirectional = self.use_bidirectional_attention;
        check.supported("use_bidirectional_attention", !bidirectional, bidirectional, "false")?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.head_dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for GemmaConfig {
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
pub struct GemmaModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// `√hidden`, which multiplies the embeddings.
    #[module(skip)]
    embed_scale: f64,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for GemmaModel {
    type Config = GemmaConfig;

    fn new(config: &GemmaConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm: RmsNorm::with_offset(config.hidden_size, config.rms_norm_eps, device),
            embed_scale: (config.hidden_size as f64).sqrt(),
            rope: Rope::from_parameters(&config.rope(), config.head_dim, config.max_position_embeddings),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.layers.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(input_ids) * self.embed_scale
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
    fn new(config: &GemmaConfig, device: &Device) -> Self {
        let norm = || RmsNorm::with_offset(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(config.hidden_size, config.intermediate_size, false, config.hidden_act(), device),
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
    fn new(config: &GemmaConfig, device: &Device) -> Self {
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
