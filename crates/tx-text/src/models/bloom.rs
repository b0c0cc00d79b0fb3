//! BLOOM: a pre-norm decoder whose tokens know their order by ALiBi, with a norm behind the embeddings.
//!
//! Paper: BigScience Workshop, 2022 (arXiv:2211.05100). ALiBi: Press et al., 2022 (arXiv:2108.12409).
//! Reference: transformers 5.23.0, `models/bloom/modeling_bloom.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, alibi,
    alibi_slopes, attention, merge_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

use super::gpt_neox::{Mlp, query_key_value};
use super::gpt2::CLASSIFIER;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct BloomConfig {
    pub vocab_size: usize,
    hidden_size: usize,
    /// The older name of `hidden_size`, which wins over it.
    n_embed: Option<usize>,
    #[serde(alias = "num_hidden_layers")]
    pub n_layer: usize,
    #[serde(alias = "num_attention_heads")]
    pub n_head: usize,
    pub layer_norm_epsilon: f64,
    /// Whether what goes past attention and MLP is their normalised input, or the input itself.
    pub apply_residual_connection_post_layernorm: bool,
    /// With `slow_but_exact`: parts in which products were computed when the model was trained.
    pub pretraining_tp: usize,
    pub slow_but_exact: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

impl Default for BloomConfig {
    fn default() -> Self {
        Self {
            vocab_size: 250_880,
            hidden_size: 64,
            n_embed: None,
            n_layer: 2,
            n_head: 8,
            layer_norm_epsilon: 1e-5,
            apply_residual_connection_post_layernorm: false,
            pretraining_tp: 1,
            slow_but_exact: false,
            tie_word_embeddings: true,
            pad_token_id: None,
            num_labels: 2,
        }
    }
}

impl BloomConfig {
    /// Elements of a hidden state, by the older name where a file has it.
    fn hidden_size(&self) -> usize {
        self.n_embed.unwrap_or(self.hidden_size)
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.hidden_size(), self.layer_norm_epsilon, device)
    }
}

impl ModelConfig for BloomConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size()),
            ("n_head", self.n_head),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("n_layer", self.n_layer)?;
        check.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check.divides("hidden_size", self.hidden_size(), "n_head", self.n_head)?;
        // In parts the reference leaves biases out.
        let whole = !self.slow_but_exact || self.pretraining_tp <= 1;
        check.supported("slow_but_exact", whole, self.slow_but_exact, "false")
    }

    fn limits(&self) -> TextLimits {
        // Slopes have no end, and positions come from the mask.
        TextLimits::unlimited(self.vocab_size, None)
    }
}

impl DecoderConfig for BloomConfig {
    fn head(&self) -> HeadConfig {
        HeadConfig {
            hidden_size: self.hidden_size(),
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
pub struct BloomModel {
    word_embeddings: Embedding,
    word_embeddings_layernorm: LayerNorm,
    h: Vec<DecoderLayer>,
    ln_f: LayerNorm,
    /// One for each head.
    #[module(skip)]
    slopes: Vec<f32>,
}

impl Decoder for BloomModel {
    type Config = BloomConfig;
    const PREFIX: &'static str = "transformer";
    const TOKEN_CLASSIFICATION_RENAMES: &'static [Rename] = CLASSIFIER;
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.word_embeddings.weight")];

    fn new(config: &BloomConfig, device: &Device) -> Self {
        Self {
            word_embeddings: Embedding::new(config.vocab_size, config.hidden_size(), device),
            word_embeddings_layernorm: config.norm(device),
            h: (0..config.n_layer).map(|_| DecoderLayer::new(config, device)).collect(),
            ln_f: config.norm(device),
            slopes: alibi_slopes(config.n_head),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.h.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.word_embeddings.forward(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let alibi = alibi(&self.slopes, key_positions(inputs, cache.length()));
        let mask = inputs.causal_mask(None);
        let mut x = self.word_embeddings_layernorm.forward(x);
        for (layer, cache) in self.h.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, &alibi, &mask, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.ln_f.forward(x);
        record.hidden_state(&x);
        x
    }
}

/// How many tokens stand before each of `past` tokens and those of the inputs, padding not counted; 0 for padding.
///
/// # Shapes
/// - output: `[batch or 1, past + seq]`
pub(super) fn key_positions(inputs: &TextInputs, past: usize) -> Tensor<2, Int> {
    match &inputs.attention_mask {
        Some(mask) => (mask.clone().cumsum(1) - 1_i64) * mask.clone(),
        None => {
            let keys = past + inputs.input_ids.dims()[1];
            Tensor::arange(0..keys as i64, &inputs.input_ids.device()).unsqueeze()
        }
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    input_layernorm: LayerNorm,
    self_attention: Attention,
    post_attention_layernorm: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    residual_after_norm: bool,
}

impl DecoderLayer {
    fn new(config: &BloomConfig, device: &Device) -> Self {
        let hidden = config.hidden_size();
        Self {
            input_layernorm: config.norm(device),
            self_attention: Attention::new(config, device),
            post_attention_layernorm: config.norm(device),
            mlp: Mlp::new(hidden, 4 * hidden, true, Activation::GeluNew, device),
            residual_after_norm: config.apply_residual_connection_post_layernorm,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        alibi: &Tensor<4>,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x.clone());
        let residual = if self.residual_after_norm { normed.clone() } else { x };
        let x = residual + self.self_attention.forward(normed, alibi, mask, cache, record);

        let normed = self.post_attention_layernorm.forward(x.clone());
        let residual = if self.residual_after_norm { normed.clone() } else { x };
        residual + self.mlp.forward(normed)
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
    fn new(config: &BloomConfig, device: &Device) -> Self {
        let hidden = config.hidden_size();
        Self {
            query_key_value: Linear::new(hidden, 3 * hidden, true, device),
            dense: Linear::new(hidden, hidden, true, device),
            heads: config.n_head,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        alibi: &Tensor<4>,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let [q, k, v] = query_key_value(self.query_key_value.forward(x), self.heads);
        let (k, v) = cache.append(k, v);
        let options = AttentionOptions { bias: Some(alibi.clone()), ..AttentionOptions::new(mask) };
        self.dense.forward(merge_heads(attention(q, k, v, options, record)))
    }
}
