//! GPT-NeoX: attention and MLP side by side, and rotary positions on a part of each head.
//!
//! Paper: Black et al., 2022 (arXiv:2204.06745).
//! Reference: transformers 5.23.0, `models/gpt_neox/modeling_gpt_neox.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, Rope,
    RopeParameters, RopeTable, attention, merge_heads, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

use super::gpt2::CLASSIFIER;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct GptNeoxConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f64,
    /// Whether the MLP reads what the attention reads, or what it leaves.
    pub use_parallel_residual: bool,
    pub attention_bias: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    /// The part of a head that is rotated, and the base of the frequencies, where `rope_parameters` does not say.
    rotary_pct: f64,
    rotary_emb_base: f64,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for GptNeoxConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_432,
            hidden_size: 6144,
            num_hidden_layers: 44,
            num_attention_heads: 64,
            intermediate_size: 24_576,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 2048,
            layer_norm_eps: 1e-5,
            use_parallel_residual: true,
            attention_bias: true,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            rotary_pct: 0.25,
            rotary_emb_base: 10_000.0,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl GptNeoxConfig {
    fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        let mut rope = RopeParameters::resolve(new, scaling, None, self.rotary_emb_base);
        rope.partial_rotary_factor = rope.partial_rotary_factor.or(Some(self.rotary_pct));
        rope
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.hidden_size, self.layer_norm_eps, device)
    }
}

impl ModelConfig for GptNeoxConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        self.rope().validate(check, self.head_dim())
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for GptNeoxConfig {
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
pub struct GptNeoxModel {
    embed_in: Embedding,
    layers: Vec<DecoderLayer>,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for GptNeoxModel {
    type Config = GptNeoxConfig;
    const PREFIX: &'static str = "gpt_neox";
    const RENAMES: &'static [Rename] = RENAMES;
    const TOKEN_CLASSIFICATION_RENAMES: &'static [Rename] = CLASSIFIER;
    const IGNORED: &'static [&'static str] = &["attention.bias"];
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.embed_in.weight")];

    fn new(config: &GptNeoxConfig, device: &Device) -> Self {
        Self {
            embed_in: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            final_layer_norm: config.norm(device),
            rope: Rope::from_parameters(&config.rope(), config.head_dim(), config.max_position_embeddings),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.layers.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_in.forward(input_ids)
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
        let x = self.final_layer_norm.forward(x);
        record.hidden_state(&x);
        x
    }
}

/// Side by side: `x + attention(norm₁(x)) + mlp(norm₂(x))`; one after the other: the MLP reads the sum of the first
/// two.
#[derive(Module, Debug)]
struct DecoderLayer {
    input_layernorm: LayerNorm,
    attention: Attention,
    post_attention_layernorm: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    parallel: bool,
}

impl DecoderLayer {
    fn new(config: &GptNeoxConfig, device: &Device) -> Self {
        Self {
            input_layernorm: config.norm(device),
            attention: Attention::new(config, device),
            post_attention_layernorm: config.norm(device),
            mlp: Mlp::new(config.hidden_size, config.intermediate_size, true, config.hidden_act, device),
            parallel: config.use_parallel_residual,
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
        let attended = self.attention.forward(self.input_layernorm.forward(x.clone()), rope, mask, cache, record);
        if self.parallel {
            self.mlp.forward(self.post_attention_layernorm.forward(x.clone())) + attended + x
        } else {
            let x = attended + x;
            self.mlp.forward(self.post_attention_layernorm.forward(x.clone())) + x
        }
    }
}

#[derive(Module, Debug)]
struct Attention {
    query_key_value: Linear,
    dense: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &GptNeoxConfig, device: &Device) -> Self {
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        Self {
            query_key_value: Linear::new(hidden, 3 * hidden, bias, device),
            dense: Linear::new(hidden, hidden, bias, device),
            heads: config.num_attention_heads,
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
        let [q, k, v] = query_key_value(self.query_key_value.forward(x), self.heads);
        let (k, v) = cache.append(rope.apply(k), v);
        self.dense.forward(merge_heads(attention(rope.apply(q), k, v, AttentionOptions::new(mask), record)))
    }
}

/// Queries, keys and values that lie beside each other in every head.
///
/// # Shapes
/// - x: `[batch, seq, heads · 3 · head_dim]`
/// - output: `[batch, seq, heads, head_dim]` of each
pub(super) fn query_key_value(x: Tensor<3>, heads: usize) -> [Tensor<4>; 3] {
    let x = split_heads(x, heads);
    let head_dim = x.dims()[3] / 3;
    [0, 1, 2].map(|i| x.clone().narrow(3, i * head_dim, head_dim))
}

/// `down(act(up(x)))`, with the names of Megatron.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    dense_h_to_4h: Linear,
    dense_4h_to_h: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    pub(super) fn new(hidden: usize, intermediate: usize, bias: bool, act: Activation, device: &Device) -> Self {
        Self {
            dense_h_to_4h: Linear::new(hidden, intermediate, bias, device),
            dense_4h_to_h: Linear::new(intermediate, hidden, bias, device),
            act,
        }
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.dense_4h_to_h.forward(self.dense_h_to_4h.forward_activated(x, self.act))
    }
}

const RENAMES: &[Rename] = &[Rename { module: "lm_head", file: &["embed_out"] }];
