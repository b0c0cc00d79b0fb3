//! GPT-J: attention and MLP side by side behind one norm, and rotary positions on neighbours in each head.
//!
//! Source: Wang and Komatsuzaki, 2021, "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model"
//! (github.com/kingoflolz/mesh-transformer-jax). Rotary positions: Su et al., 2021 (arXiv:2104.09864).
//! Reference: transformers 5.23.0, `models/gptj/modeling_gptj.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, Pairs, Rope,
    RopeTable, attention, merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

use super::gpt2::add_token_types;

/// The base of the frequencies; the config has no key for it.
const ROPE_THETA: f64 = 10_000.0;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct GptjConfig {
    pub vocab_size: usize,
    #[serde(alias = "max_position_embeddings")]
    pub n_positions: usize,
    #[serde(alias = "hidden_size")]
    pub n_embd: usize,
    #[serde(alias = "num_hidden_layers")]
    pub n_layer: usize,
    #[serde(alias = "num_attention_heads")]
    pub n_head: usize,
    /// Elements of a head that are rotated: the first ones.
    pub rotary_dim: usize,
    /// `4 · n_embd`, if `None`.
    n_inner: Option<usize>,
    pub activation_function: Activation,
    pub layer_norm_epsilon: f64,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

impl Default for GptjConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_400,
            n_positions: 2048,
            n_embd: 4096,
            n_layer: 28,
            n_head: 16,
            rotary_dim: 64,
            n_inner: None,
            activation_function: Activation::GeluNew,
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
        }
    }
}

impl GptjConfig {
    fn n_inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.n_embd, self.layer_norm_epsilon, device)
    }
}

impl ModelConfig for GptjConfig {
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
        // The frequencies of the rotation are computed before any weight is compared.
        check.range("rotary_dim", self.rotary_dim, 2, (self.n_embd / self.n_head).min(1 << 16))?;
        if !self.rotary_dim.is_multiple_of(2) {
            let reason = format_args!("{} elements, expected an even number of them", self.rotary_dim);
            return Err(check.error("rotary_dim", reason));
        }
        Ok(())
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            // The reference computes the angles of as many positions.
            max_length: Some(self.n_positions),
            context: None,
            positions: self.n_positions,
            // Types are looked up in the table of words.
            type_vocab_size: self.vocab_size,
        }
    }
}

impl DecoderConfig for GptjConfig {
    fn head(&self) -> HeadConfig {
        HeadConfig {
            hidden_size: self.n_embd,
            vocab_size: self.vocab_size,
            tie_word_embeddings: self.tie_word_embeddings,
            num_labels: self.num_labels,
            pad_token_id: self.pad_token_id,
            head_bias: true,
        }
    }
}

/// The decoder.
#[derive(Module, Debug)]
pub struct GptjModel {
    wte: Embedding,
    h: Vec<DecoderLayer>,
    ln_f: LayerNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for GptjModel {
    type Config = GptjConfig;
    const PREFIX: &'static str = "transformer";
    const IGNORED: &'static [&'static str] = &["attn.bias"];
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.wte.weight")];

    fn new(config: &GptjConfig, device: &Device) -> Self {
        Self {
            wte: Embedding::new(config.vocab_size, config.n_embd, device),
            h: (0..config.n_layer).map(|_| DecoderLayer::new(config, device)).collect(),
            ln_f: config.norm(device),
            rope: Rope::new(config.rotary_dim, ROPE_THETA).with_pairs(Pairs::Neighbours),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.h.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.wte.forward(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let length = cache.length() + x.dims()[1];
        let rope = self.rope.table(inputs.position_ids_from(cache.length()), length);
        let mask = inputs.causal_mask(None);
        let mut x = add_token_types(x, &self.wte, inputs);
        for (layer, cache) in self.h.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, &rope, &mask, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.ln_f.forward(x);
        record.hidden_state(&x);
        x
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    ln_1: LayerNorm,
    attn: Attention,
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(config: &GptjConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.n_embd, config.n_inner());
        Self {
            ln_1: config.norm(device),
            attn: Attention::new(config, device),
            mlp: Mlp {
                fc_in: Linear::new(hidden, inner, true, device),
                fc_out: Linear::new(inner, hidden, true, device),
                act: config.activation_function,
            },
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
        let normed = self.ln_1.forward(x.clone());
        self.attn.forward(normed.clone(), rope, mask, cache, record) + self.mlp.forward(normed) + x
    }
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &GptjConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.n_embd, config.n_embd, false, device);
        Self { q_proj: linear(), k_proj: linear(), v_proj: linear(), out_proj: linear(), heads: config.n_head }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rope: &RopeTable,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let qkv = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let [q, k, v] = qkv.map(|x| split_heads(x, self.heads));
        let (k, v) = cache.append(rope.apply(k), v);
        self.out_proj.forward(merge_heads(attention(rope.apply(q), k, v, AttentionOptions::new(mask), record)))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    fc_in: Linear,
    fc_out: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc_out.forward(self.fc_in.forward_activated(x, self.act))
    }
}
