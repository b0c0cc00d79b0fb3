//! GPT-2: a pre-norm decoder with learned positions and biases, whose products keep their weights transposed.
//!
//! Paper: Radford et al., 2019, "Language Models are Unsupervised Multitask Learners".
//! Reference: transformers 5.23.0, `models/gpt2/modeling_gpt2.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Conv1dLinear, Embedding, LayerCache, LayerNorm, Mask, attention,
    merge_heads, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Gpt2Config {
    pub vocab_size: usize,
    #[serde(alias = "max_position_embeddings")]
    pub n_positions: usize,
    #[serde(alias = "hidden_size")]
    pub n_embd: usize,
    #[serde(alias = "num_hidden_layers")]
    pub n_layer: usize,
    #[serde(alias = "num_attention_heads")]
    pub n_head: usize,
    /// `4 · n_embd`, if `None`.
    n_inner: Option<usize>,
    pub activation_function: Activation,
    pub layer_norm_epsilon: f64,
    /// Whether scores are divided by the root of the head's width.
    pub scale_attn_weights: bool,
    /// Whether scores are divided by the number of their layer, counted from one.
    pub scale_attn_by_inverse_layer_idx: bool,
    pub add_cross_attention: bool,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluNew,
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            tie_word_embeddings: true,
            pad_token_id: None,
            num_labels: 2,
        }
    }
}

impl Gpt2Config {
    fn n_inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.n_embd, self.layer_norm_epsilon, device)
    }
}

impl ModelConfig for Gpt2Config {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_inner", self.n_inner()),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("n_layer", self.n_layer)?;
        check.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check.divides("n_embd", self.n_embd, "n_head", self.n_head)?;
        check.supported("add_cross_attention", !self.add_cross_attention, self.add_cross_attention, "false")
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.n_positions),
            context: None,
            positions: self.n_positions,
            // Types are looked up in the table of words.
            type_vocab_size: self.vocab_size,
        }
    }
}

impl DecoderConfig for Gpt2Config {
    fn head(&self) -> HeadConfig {
        HeadConfig {
            hidden_size: self.n_embd,
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
pub struct Gpt2Model {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<DecoderLayer>,
    ln_f: LayerNorm,
}

impl Decoder for Gpt2Model {
    type Config = Gpt2Config;
    const PREFIX: &'static str = "transformer";
    const TOKEN_CLASSIFICATION_RENAMES: &'static [Rename] = CLASSIFIER;
    const IGNORED: &'static [&'static str] = &["attn.bias"];
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.wte.weight")];

    fn new(config: &Gpt2Config, device: &Device) -> Self {
        Self {
            wte: Embedding::new(config.vocab_size, config.n_embd, device),
            wpe: Embedding::new(config.n_positions, config.n_embd, device),
            h: (0..config.n_layer).map(|i| DecoderLayer::new(i, config, device)).collect(),
            ln_f: config.norm(device),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.h.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.wte.forward(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let x = x + self.wpe.forward(inputs.position_ids_from(cache.length()));
        let mut x = add_token_types(x, &self.wte, inputs);
        let mask = inputs.causal_mask(None);
        for (layer, cache) in self.h.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, &mask, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.ln_f.forward(x);
        record.hidden_state(&x);
        x
    }
}

/// `x` and the types of its tokens, if they are given: words, for there is no table of types.
pub(super) fn add_token_types(x: Tensor<3>, words: &Embedding, inputs: &TextInputs) -> Tensor<3> {
    match &inputs.token_type_ids {
        Some(types) => x + words.forward(types.clone()),
        None => x,
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    ln_1: LayerNorm,
    attn: Attention,
    ln_2: LayerNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(i: usize, config: &Gpt2Config, device: &Device) -> Self {
        let (hidden, inner) = (config.n_embd, config.n_inner());
        Self {
            ln_1: config.norm(device),
            attn: Attention::new(i, config, device),
            ln_2: config.norm(device),
            mlp: Mlp {
                c_fc: Conv1dLinear::new(hidden, inner, device),
                c_proj: Conv1dLinear::new(inner, hidden, device),
                act: config.activation_function,
            },
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x), mask, cache, record);
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }
}

#[derive(Module, Debug)]
struct Attention {
    c_attn: Conv1dLinear,
    c_proj: Conv1dLinear,
    #[module(skip)]
    heads: usize,
    /// The factor of the scores.
    #[module(skip)]
    scale: f64,
}

impl Attention {
    fn new(i: usize, config: &Gpt2Config, device: &Device) -> Self {
        let (hidden, heads) = (config.n_embd, config.n_head);
        let width = if config.scale_attn_weights { (hidden / heads) as f64 } else { 1.0 };
        let layer = if config.scale_attn_by_inverse_layer_idx { (i + 1) as f64 } else { 1.0 };
        Self {
            c_attn: Conv1dLinear::new(hidden, 3 * hidden, device),
            c_proj: Conv1dLinear::new(hidden, hidden, device),
            heads,
            scale: 1.0 / (width.sqrt() * layer),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        // All queries, then all keys, then all values.
        let qkv = split_heads(self.c_attn.forward(x), 3 * self.heads);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(2, i * self.heads, self.heads));
        let (k, v) = cache.append(k, v);
        let options = AttentionOptions { scale: Some(self.scale), ..AttentionOptions::new(mask) };
        self.c_proj.forward(merge_heads(attention(q, k, v, options, record)))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    c_fc: Conv1dLinear,
    c_proj: Conv1dLinear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.c_proj.forward(self.c_fc.forward_activated(x, self.act))
    }
}

/// The head for token classification has another name in the families of this time.
pub(super) const CLASSIFIER: &[Rename] = &[Rename { module: "score", file: &["classifier"] }];
