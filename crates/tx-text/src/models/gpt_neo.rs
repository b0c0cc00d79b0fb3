//! GPT-Neo: GPT-2 with separate projections, unscaled scores, and a window over every other layer.
//!
//! Source: Black et al., 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow"
//! (doi:10.5281/zenodo.5297715). Windows: Child et al., 2019 (arXiv:1904.10509).
//! Reference: transformers 5.23.0, `models/gpt_neo/modeling_gpt_neo.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, attention,
    merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

use super::gpt2::{CLASSIFIER, add_token_types};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct GptNeoConfig {
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub hidden_size: usize,
    #[serde(alias = "num_hidden_layers")]
    pub num_layers: usize,
    #[serde(alias = "num_attention_heads")]
    pub num_heads: usize,
    /// `4 · hidden_size`, if `None`.
    intermediate_size: Option<usize>,
    /// Kinds of layers that follow one another, and how often they do.
    attention_types: Vec<(Vec<AttentionType>, usize)>,
    /// How many tokens a local layer sees, the query itself counted.
    pub window_size: usize,
    pub activation_function: Activation,
    pub layer_norm_epsilon: f64,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

/// What a layer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AttentionType {
    /// Everything before the query.
    Global,
    /// A window before the query.
    Local,
}

impl Default for GptNeoConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            max_position_embeddings: 2048,
            hidden_size: 2048,
            num_layers: 24,
            num_heads: 16,
            intermediate_size: None,
            attention_types: vec![(vec![AttentionType::Global, AttentionType::Local], 12)],
            window_size: 256,
            activation_function: Activation::GeluNew,
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: true,
            pad_token_id: None,
            num_labels: 2,
        }
    }
}

impl GptNeoConfig {
    fn intermediate_size(&self) -> usize {
        self.intermediate_size.unwrap_or(self.hidden_size.saturating_mul(4))
    }

    /// The kind of each layer, as many as `validate` has counted.
    fn attention_layers(&self) -> impl Iterator<Item = AttentionType> {
        self.attention_types.iter().flat_map(|(kinds, times)| kinds.iter().cycle().take(kinds.len() * times)).copied()
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.hidden_size, self.layer_norm_epsilon, device)
    }
}

impl ModelConfig for GptNeoConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("hidden_size", self.hidden_size),
            ("num_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size()),
            ("window_size", self.window_size),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_layers", self.num_layers)?;
        check.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check.divides("hidden_size", self.hidden_size, "num_heads", self.num_heads)?;
        let counts = self.attention_types.iter().map(|(kinds, times)| kinds.len().saturating_mul(*times));
        let layers = counts.fold(0, usize::saturating_add);
        if layers != self.num_layers {
            let reason = format_args!("{layers} layers, but `num_layers` = {}", self.num_layers);
            return Err(check.error("attention_types", reason));
        }
        Ok(())
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_position_embeddings),
            context: None,
            positions: self.max_position_embeddings,
            // Types are looked up in the table of words.
            type_vocab_size: self.vocab_size,
        }
    }
}

impl DecoderConfig for GptNeoConfig {
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
pub struct GptNeoModel {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<DecoderLayer>,
    ln_f: LayerNorm,
    #[module(skip)]
    window: usize,
}

impl Decoder for GptNeoModel {
    type Config = GptNeoConfig;
    const PREFIX: &'static str = "transformer";
    const TOKEN_CLASSIFICATION_RENAMES: &'static [Rename] = CLASSIFIER;
    const IGNORED: &'static [&'static str] = &["attn.attention.bias"];
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.wte.weight")];

    fn new(config: &GptNeoConfig, device: &Device) -> Self {
        Self {
            wte: Embedding::new(config.vocab_size, config.hidden_size, device),
            wpe: Embedding::new(config.max_position_embeddings, config.hidden_size, device),
            h: config.attention_layers().map(|kind| DecoderLayer::new(kind, config, device)).collect(),
            ln_f: config.norm(device),
            window: config.window_size,
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        let kind = |layer: &DecoderLayer| match layer.kind {
            AttentionType::Global => CacheKind::Full,
            AttentionType::Local => CacheKind::Sliding(self.window),
        };
        self.h.iter().map(kind).collect()
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.wte.forward(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let x = x + self.wpe.forward(inputs.position_ids_from(cache.length()));
        let mut x = add_token_types(x, &self.wte, inputs);
        let (global, local) = (inputs.causal_mask(None), inputs.causal_mask(Some(self.window)));
        for (layer, cache) in self.h.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            let mask = match layer.kind {
                AttentionType::Global => &global,
                AttentionType::Local => &local,
            };
            x = layer.forward(x, mask, cache, record);
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
    ln_2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    kind: AttentionType,
}

impl DecoderLayer {
    fn new(kind: AttentionType, config: &GptNeoConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size());
        Self {
            ln_1: config.norm(device),
            attn: Attention { attention: SelfAttention::new(config, device) },
            ln_2: config.norm(device),
            mlp: Mlp {
                c_fc: Linear::new(hidden, inner, true, device),
                c_proj: Linear::new(inner, hidden, true, device),
                act: config.activation_function,
            },
            kind,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let x = x.clone() + self.attn.attention.forward(self.ln_1.forward(x), mask, cache, record);
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }
}

/// One more level of names.
#[derive(Module, Debug)]
struct Attention {
    attention: SelfAttention,
}

#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl SelfAttention {
    fn new(config: &GptNeoConfig, device: &Device) -> Self {
        let linear = |bias| Linear::new(config.hidden_size, config.hidden_size, bias, device);
        Self {
            q_proj: linear(false),
            k_proj: linear(false),
            v_proj: linear(false),
            out_proj: linear(true),
            heads: config.num_heads,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, cache: &mut LayerCache, record: &mut Record) -> Tensor<3> {
        let qkv = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let [q, k, v] = qkv.map(|x| split_heads(x, self.heads));
        let (k, v) = cache.append(k, v);
        // The scores are not scaled: the weights were trained so.
        let options = AttentionOptions { scale: Some(1.0), ..AttentionOptions::new(mask) };
        self.out_proj.forward(merge_heads(attention(q, k, v, options, record)))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.c_proj.forward(self.c_fc.forward_activated(x, self.act))
    }
}
