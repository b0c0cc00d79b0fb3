//! MPT: a pre-norm decoder without any bias, whose tokens know their order by ALiBi.
//!
//! Source: MosaicML NLP Team, 2023, "Introducing MPT-7B: A New Standard for Open-Source, Commercially Usable LLMs"
//! (www.mosaicml.com/blog/mpt-7b). ALiBi: Press et al., 2022 (arXiv:2108.12409).
//! Reference: transformers 5.23.0, `models/mpt/modeling_mpt.py`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Cache, CacheKind, Embedding, LayerCache, LayerNorm, Linear, Mask, alibi,
    alibi_slopes, attention, merge_heads, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

/// The width of the MLP in widths of the model: the reference does not look at `expansion_ratio`.
const EXPANSION_RATIO: usize = 4;

/// The keys of `config.json` that decide the graph.
///
/// The reference reads no others: it has neither biases nor learned positions, and the slopes of eight heads end at
/// 2⁻⁸, whatever the keys for that say.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct MptConfig {
    pub vocab_size: usize,
    #[serde(alias = "hidden_size")]
    pub d_model: usize,
    #[serde(alias = "num_attention_heads")]
    pub n_heads: usize,
    #[serde(alias = "num_hidden_layers")]
    pub n_layers: usize,
    pub layer_norm_epsilon: f64,
    attn_config: AttentionConfig,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

/// The keys of `attn_config` that decide the graph.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct AttentionConfig {
    /// Queries, keys and values are kept within ± this; 0 is no limit, as is `None`.
    clip_qkv: Option<f64>,
    /// The factor of the scores; `1/√head_dim`, if `None`.
    softmax_scale: Option<f64>,
}

impl Default for MptConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_368,
            d_model: 2048,
            n_heads: 16,
            n_layers: 24,
            layer_norm_epsilon: 1e-5,
            attn_config: AttentionConfig::default(),
            tie_word_embeddings: true,
            pad_token_id: None,
            num_labels: 2,
        }
    }
}

impl MptConfig {
    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::with_bias(self.d_model, self.layer_norm_epsilon, false, device)
    }
}

impl ModelConfig for MptConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("n_heads", self.n_heads),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("n_layers", self.n_layers)?;
        check.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check.divides("d_model", self.d_model, "n_heads", self.n_heads)?;
        if let Some(clip) = self.attn_config.clip_qkv.filter(|clip| !(clip.is_finite() && *clip >= 0.0)) {
            return Err(check.error("attn_config.clip_qkv", format_args!("{clip}, expected a positive number")));
        }
        if let Some(scale) = self.attn_config.softmax_scale.filter(|scale| !scale.is_finite()) {
            return Err(check.error("attn_config.softmax_scale", format_args!("{scale}, expected a number")));
        }
        Ok(())
    }

    fn limits(&self) -> TextLimits {
        // Slopes have no end: `max_seq_len` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, None)
    }
}

impl DecoderConfig for MptConfig {
    fn head(&self) -> HeadConfig {
        HeadConfig {
            hidden_size: self.d_model,
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
pub struct MptModel {
    wte: Embedding,
    blocks: Vec<DecoderLayer>,
    norm_f: LayerNorm,
    /// One for each head.
    #[module(skip)]
    slopes: Vec<f32>,
}

impl Decoder for MptModel {
    type Config = MptConfig;
    const PREFIX: &'static str = "transformer";
    const RENAMES: &'static [Rename] = &[WQKV];
    const TOKEN_CLASSIFICATION_RENAMES: &'static [Rename] = &[WQKV, CLASSIFIER];
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.wte.weight")];

    fn new(config: &MptConfig, device: &Device) -> Self {
        Self {
            wte: Embedding::new(config.vocab_size, config.d_model, device),
            blocks: (0..config.n_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm_f: config.norm(device),
            slopes: alibi_slopes(config.n_heads),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::Full; self.blocks.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.wte.forward(input_ids)
    }

    fn decode(&self, mut x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        // Counted back from the last key, padding included.
        let keys = (cache.length() + x.dims()[1]) as i64;
        let positions = Tensor::<1, Int>::arange(1 - keys..1, &x.device()).unsqueeze();
        let alibi = alibi(&self.slopes, positions);
        let mask = inputs.causal_mask(None);
        for (layer, cache) in self.blocks.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, &alibi, &mask, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.norm_f.forward(x);
        record.hidden_state(&x);
        x
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    norm_1: LayerNorm,
    attn: Attention,
    norm_2: LayerNorm,
    ffn: Mlp,
}

impl DecoderLayer {
    fn new(config: &MptConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.d_model, EXPANSION_RATIO * config.d_model);
        Self {
            norm_1: config.norm(device),
            attn: Attention::new(config, device),
            norm_2: config.norm(device),
            ffn: Mlp {
                up_proj: Linear::new(hidden, inner, false, device),
                down_proj: Linear::new(inner, hidden, false, device),
            },
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
        let x = x.clone() + self.attn.forward(self.norm_1.forward(x), alibi, mask, cache, record);
        x.clone() + self.ffn.forward(self.norm_2.forward(x))
    }
}

#[derive(Module, Debug)]
struct Attention {
    wqkv: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    clip: Option<f64>,
    #[module(skip)]
    scale: Option<f64>,
}

impl Attention {
    fn new(config: &MptConfig, device: &Device) -> Self {
        Self {
            wqkv: Linear::new(config.d_model, 3 * config.d_model, false, device),
            out_proj: Linear::new(config.d_model, config.d_model, false, device),
            heads: config.n_heads,
            clip: config.attn_config.clip_qkv.filter(|&clip| clip != 0.0),
            scale: config.attn_config.softmax_scale,
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
        let qkv = self.wqkv.forward(x);
        let qkv = match self.clip {
            Some(clip) => qkv.clamp(-clip, clip),
            None => qkv,
        };
        // All queries, then all keys, then all values.
        let qkv = split_heads(qkv, 3 * self.heads);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(2, i * self.heads, self.heads));
        let (k, v) = cache.append(k, v);
        let options = AttentionOptions { scale: self.scale, bias: Some(alibi.clone()), ..AttentionOptions::new(mask) };
        self.out_proj.forward(merge_heads(attention(q, k, v, options, record)))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.down_proj.forward(self.up_proj.forward_activated(x, Activation::Gelu))
    }
}

const WQKV: Rename = Rename { module: "wqkv", file: &["Wqkv"] };
const CLASSIFIER: Rename = Rename { module: "score", file: &["classifier"] };
