//! StableLM: LLaMA with layer norms and rotary positions on a part of each head.
//!
//! Paper: Bellagente et al., 2024 (arXiv:2402.17834). Norms of heads: Dehghani et al., 2023 (arXiv:2302.05442).
//! Reference: transformers 5.23.0, `models/stablelm/modeling_stablelm.py`.

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

use super::llama::{Heads, Mlp};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct StableLmConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f64,
    pub use_qkv_bias: bool,
    /// Whether queries and keys are normalised, each head for itself.
    pub qk_layernorm: bool,
    /// Whether attention and MLP stand side by side behind one norm.
    pub use_parallel_residual: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    partial_rotary_factor: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for StableLmConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_304,
            hidden_size: 2560,
            intermediate_size: 6912,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            hidden_act: Activation::Silu,
            max_position_embeddings: 4096,
            layer_norm_eps: 1e-5,
            use_qkv_bias: false,
            qk_layernorm: false,
            use_parallel_residual: false,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            partial_rotary_factor: 0.25,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl StableLmConfig {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads,
            dim: self.hidden_size / self.num_attention_heads.max(1),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        let rope = RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0);
        let partial = rope.partial_rotary_factor.unwrap_or(self.partial_rotary_factor);
        RopeParameters { partial_rotary_factor: Some(partial), ..rope }
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.hidden_size, self.layer_norm_eps, device)
    }
}

impl ModelConfig for StableLmConfig {
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
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        self.heads().validate(check)?;
        // Norms of heads are Rust values, so their number is bounded before any is made.
        check.range("num_attention_heads", self.num_attention_heads, 1, 1 << 16)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for StableLmConfig {
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
pub struct StableLmModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: LayerNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for StableLmModel {
    type Config = StableLmConfig;

    fn new(config: &StableLmConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm: config.norm(device),
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
    input_layernorm: LayerNorm,
    self_attn: Attention,
    /// `None` where the MLP reads what attention reads.
    post_attention_layernorm: Option<LayerNorm>,
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(config: &StableLmConfig, device: &Device) -> Self {
        Self {
            input_layernorm: config.norm(device),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: (!config.use_parallel_residual).then(|| config.norm(device)),
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
        let x = x + self.self_attn.forward(normed.clone(), rope, mask, cache, record);
        let normed = match &self.post_attention_layernorm {
            Some(norm) => norm.forward(x.clone()),
            None => normed,
        };
        x + self.mlp.forward(normed)
    }
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_layernorm: Option<HeadNorms>,
    k_layernorm: Option<HeadNorms>,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &StableLmConfig, device: &Device) -> Self {
        let heads = config.heads();
        let (hidden, bias) = (config.hidden_size, config.use_qkv_bias);
        let key_value = heads.key_value * heads.dim;
        let eps = config.layer_norm_eps;
        let norms = |count| config.qk_layernorm.then(|| HeadNorms::new(count, heads.dim, eps, device));
        Self {
            q_proj: Linear::new(hidden, hidden, bias, device),
            k_proj: Linear::new(hidden, key_value, bias, device),
            v_proj: Linear::new(hidden, key_value, bias, device),
            o_proj: Linear::new(hidden, hidden, false, device),
            q_layernorm: norms(heads.query),
            k_layernorm: norms(heads.key_value),
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
        let q = normed(split_heads(q, self.heads.query), self.q_layernorm.as_ref());
        let k = normed(split_heads(k, self.heads.key_value), self.k_layernorm.as_ref());
        let (k, v) = cache.append(rope.apply(k), split_heads(v, self.heads.key_value));
        let options = AttentionOptions::new(mask);
        self.o_proj.forward(merge_heads(attention(rope.apply(q), k, v, options, record)))
    }
}

fn normed(x: Tensor<4>, norms: Option<&HeadNorms>) -> Tensor<4> {
    match norms {
        Some(norms) => norms.forward(x),
        None => x,
    }
}

/// A norm without bias for each head.
#[derive(Module, Debug)]
struct HeadNorms {
    norms: Vec<LayerNorm>,
}

impl HeadNorms {
    fn new(heads: usize, head_dim: usize, eps: f64, device: &Device) -> Self {
        Self { norms: (0..heads).map(|_| LayerNorm::with_bias(head_dim, eps, false, device)).collect() }
    }

    /// # Shapes
    /// - x, output: `[batch, seq, heads, head_dim]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let heads = self.norms.iter().enumerate().map(|(i, norm)| norm.forward(x.clone().narrow(2, i, 1)));
        Tensor::cat(heads.collect(), 2)
    }
}
