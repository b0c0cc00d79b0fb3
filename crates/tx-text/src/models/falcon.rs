//! Falcon: few heads of keys and values beside many of queries, attention and MLP side by side, hardly any biases.
//!
//! Paper: Almazrouei et al., 2023 (arXiv:2311.16867). One head of keys for all queries: Shazeer, 2019
//! (arXiv:1911.02150). ALiBi: Press et al., 2022 (arXiv:2108.12409).
//! Reference: transformers 5.23.0, `models/falcon/modeling_falcon.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, Rope,
    RopeParameters, RopeTable, alibi_slopes, attention, merge_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

use super::bloom::key_positions;
use super::gpt_neox::Mlp;
use super::gpt2::CLASSIFIER;
use super::llama::Heads;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct FalconConfig {
    pub vocab_size: usize,
    hidden_size: usize,
    /// The older name of `hidden_size`, which wins over it.
    n_embed: Option<usize>,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of keys and values, for `new_decoder_architecture`; as many as of queries, if `None`.
    num_kv_heads: Option<usize>,
    /// Norms before the attention and the MLP of a layer, for `new_decoder_architecture`; two, if `None`.
    num_ln_in_parallel_attn: Option<usize>,
    pub layer_norm_epsilon: f64,
    /// Positions by biases of scores in place of rotations.
    pub alibi: bool,
    /// Grouped heads of keys and values, and attention beside the MLP.
    pub new_decoder_architecture: bool,
    /// Otherwise: one head of keys and values.
    pub multi_query: bool,
    /// Otherwise: attention beside the MLP, or before it.
    pub parallel_attn: bool,
    pub bias: bool,
    pub max_position_embeddings: usize,
    /// `4 · hidden_size`, if `None`.
    ffn_hidden_size: Option<usize>,
    pub activation: Activation,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for FalconConfig {
    fn default() -> Self {
        Self {
            vocab_size: 65_024,
            hidden_size: 4544,
            n_embed: None,
            num_hidden_layers: 32,
            num_attention_heads: 71,
            num_kv_heads: None,
            num_ln_in_parallel_attn: None,
            layer_norm_epsilon: 1e-5,
            alibi: false,
            new_decoder_architecture: false,
            multi_query: true,
            parallel_attn: true,
            bias: false,
            max_position_embeddings: 2048,
            ffn_hidden_size: None,
            activation: Activation::Gelu,
            tie_word_embeddings: true,
            pad_token_id: None,
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl FalconConfig {
    /// Elements of a hidden state, by the older name where a file has it.
    fn hidden_size(&self) -> usize {
        self.n_embed.unwrap_or(self.hidden_size)
    }

    fn heads(&self) -> Heads {
        let query = self.num_attention_heads;
        let key_value = match (self.new_decoder_architecture, self.multi_query) {
            (true, _) => self.num_kv_heads.unwrap_or(query),
            (false, true) => 1,
            (false, false) => query,
        };
        Heads { query, key_value, dim: self.hidden_size() / query.max(1) }
    }

    fn ffn_hidden_size(&self) -> usize {
        self.ffn_hidden_size.unwrap_or(self.hidden_size().saturating_mul(4))
    }

    /// Whether the attention and the MLP beside it have a norm each.
    fn two_norms(&self) -> bool {
        self.new_decoder_architecture && self.num_ln_in_parallel_attn != Some(1)
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0)
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.hidden_size(), self.layer_norm_epsilon, device)
    }
}

impl ModelConfig for FalconConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let heads = self.heads();
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size()),
            ("num_attention_heads", heads.query),
            ("num_kv_heads", heads.key_value),
            ("max_position_embeddings", self.max_position_embeddings),
            ("ffn_hidden_size", self.ffn_hidden_size()),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check.divides("hidden_size", self.hidden_size(), "num_attention_heads", heads.query)?;
        check.divides("num_attention_heads", heads.query, "num_kv_heads", heads.key_value)?;
        if let Some(norms) = self.num_ln_in_parallel_attn {
            let (supported, which) = match (self.new_decoder_architecture, self.parallel_attn) {
                (true, _) => ([1, 2].contains(&norms), "1, 2"),
                (false, true) => (norms != 2, "1, or 2 with `new_decoder_architecture`"),
                (false, false) => (true, ""),
            };
            check.supported("num_ln_in_parallel_attn", supported, norms, which)?;
        }
        if self.new_decoder_architecture {
            check.supported("parallel_attn", self.parallel_attn, self.parallel_attn, "true")?;
        } else if !self.multi_query {
            let found = self.num_kv_heads.unwrap_or(heads.query);
            check.supported("num_kv_heads", found == heads.query, found, "`num_attention_heads`")?;
        }
        if self.alibi { Ok(()) } else { self.rope().validate(check, heads.dim) }
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, (!self.alibi).then(|| self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for FalconConfig {
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
pub struct FalconModel {
    word_embeddings: Embedding,
    h: Vec<DecoderLayer>,
    ln_f: LayerNorm,
    #[module(skip)]
    heads: Heads,
    /// `None` where scores have biases.
    #[module(skip)]
    rope: Option<Rope>,
}

impl Decoder for FalconModel {
    type Config = FalconConfig;
    const PREFIX: &'static str = "transformer";
    const TOKEN_CLASSIFICATION_RENAMES: &'static [Rename] = CLASSIFIER;
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.word_embeddings.weight")];

    fn new(config: &FalconConfig, device: &Device) -> Self {
        let (heads, reach) = (config.heads(), config.max_position_embeddings);
        Self {
            word_embeddings: Embedding::new(config.vocab_size, config.hidden_size(), device),
            h: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            ln_f: config.norm(device),
            heads,
            rope: (!config.alibi).then(|| Rope::from_parameters(&config.rope(), heads.dim, reach)),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.h.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.word_embeddings.forward(input_ids)
    }

    fn decode(&self, mut x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let (past, seq) = (cache.length(), x.dims()[1]);
        let positions = Positions {
            rope: self.rope.as_ref().map(|rope| rope.table(inputs.position_ids_from(past), past + seq)),
            alibi: self.rope.is_none().then(|| rounded_alibi(self.heads, key_positions(inputs, past))),
        };
        let mask = inputs.causal_mask(None);
        for (layer, cache) in self.h.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, &positions, &mask, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.ln_f.forward(x);
        record.hidden_state(&x);
        x
    }
}

/// How tokens know their order: by one of these.
struct Positions {
    rope: Option<RopeTable>,
    /// What is added to the scaled scores.
    alibi: Option<Tensor<4>>,
}

/// ALiBi as the reference computes it: slopes, positions and their products are rounded to bfloat16, and then scaled as
/// the scores are.
///
/// # Shapes
/// - positions: `[batch or 1, keys]`, each below `keys`
/// - output: `[batch or 1, heads, 1, keys]`
fn rounded_alibi(heads: Heads, positions: Tensor<2, Int>) -> Tensor<4> {
    let [batch, keys] = positions.dims();
    let scale = (heads.dim as f32).sqrt();
    let mut table = Vec::with_capacity(heads.query * keys);
    for slope in alibi_slopes(heads.query) {
        table.extend((0..keys).map(|position| bf16(bf16(slope) * bf16(position as f32)) / scale));
    }
    let table = Tensor::<1>::from_floats(table.as_slice(), &positions.device());
    let table = table.reshape([1, heads.query, 1, keys]).expand([batch, heads.query, 1, keys]);
    let positions = positions.reshape([batch, 1, 1, keys]).expand([batch, heads.query, 1, keys]);
    table.gather(3, positions)
}

/// `x` with the eight significant bits of a bfloat16, to nearest even.
fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

/// Side by side: `x + attention(norm₁(x)) + mlp(norm₂(x))`, where one norm may serve both; one after the other: the MLP
/// reads the sum of the first two behind a norm of its own.
#[derive(Module, Debug)]
struct DecoderLayer {
    /// `None` with two norms side by side, which are the next two.
    input_layernorm: Option<LayerNorm>,
    ln_attn: Option<LayerNorm>,
    ln_mlp: Option<LayerNorm>,
    self_attention: Attention,
    /// `None` side by side.
    post_attention_layernorm: Option<LayerNorm>,
    mlp: Mlp,
}

impl DecoderLayer {
    fn new(config: &FalconConfig, device: &Device) -> Self {
        let (hidden, two) = (config.hidden_size(), config.two_norms());
        let norm = |there: bool| there.then(|| config.norm(device));
        Self {
            input_layernorm: norm(!two),
            ln_attn: norm(two),
            ln_mlp: norm(two),
            self_attention: Attention::new(config, device),
            post_attention_layernorm: norm(!config.parallel_attn),
            mlp: Mlp::new(hidden, config.ffn_hidden_size(), config.bias, config.activation, device),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        positions: &Positions,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let normed = match self.ln_attn.as_ref().or(self.input_layernorm.as_ref()) {
            Some(norm) => norm.forward(x.clone()),
            None => x.clone(),
        };
        let attended = self.self_attention.forward(normed.clone(), positions, mask, cache, record);
        if let Some(norm) = &self.post_attention_layernorm {
            let x = x + attended;
            return x.clone() + self.mlp.forward(norm.forward(x));
        }
        let mlp_input = match &self.ln_mlp {
            Some(norm) => norm.forward(x.clone()),
            None => normed,
        };
        x + (self.mlp.forward(mlp_input) + attended)
    }
}

#[derive(Module, Debug)]
struct Attention {
    query_key_value: Linear,
    dense: Linear,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &FalconConfig, device: &Device) -> Self {
        let (hidden, heads) = (config.hidden_size(), config.heads());
        Self {
            query_key_value: Linear::new(hidden, (heads.query + 2 * heads.key_value) * heads.dim, config.bias, device),
            dense: Linear::new(hidden, hidden, config.bias, device),
            heads,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        positions: &Positions,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let Heads { query, key_value, dim } = self.heads;
        // The queries that share a head of keys and values, then that head: with one such head, with some, with as many
        // as of queries.
        let shared = query / key_value;
        let qkv = self.query_key_value.forward(x).reshape([batch, seq, key_value, shared + 2, dim]);
        let q = qkv.clone().narrow(3, 0, shared).reshape([batch, seq, query, dim]);
        let k = qkv.clone().narrow(3, shared, 1).squeeze_dim::<4>(3);
        let v = qkv.narrow(3, shared + 1, 1).squeeze_dim::<4>(3);
        let (q, k) = match &positions.rope {
            Some(rope) => (rope.apply(q), rope.apply(k)),
            None => (q, k),
        };
        let (k, v) = cache.append(k, v);
        let options = AttentionOptions { bias: positions.alibi.clone(), ..AttentionOptions::new(mask) };
        self.dense.forward(merge_heads(attention(q, k, v, options, record)))
    }
}
