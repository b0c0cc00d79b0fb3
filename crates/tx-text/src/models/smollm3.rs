//! SmolLM3: LLaMA's decoder, in which every fourth layer has no positions.
//!
//! Paper: Yang et al., 2025 (arXiv:2501.18795), on layers without positions among others; SmolLM3 itself has none.
//! Reference: transformers 5.23.0, `models/smollm3/modeling_smollm3.py`.
//! Differs from `llama` in: `no_rope_layers`, and the windows that layers without positions may have.

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
use super::qwen2::LayerType;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SmolLm3Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// One head of keys and values for each of queries, if `None`.
    num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads`, if `None`.
    head_dim: Option<usize>,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    /// Despite the name, 1 for a layer that rotates and 0 for one that does not; without it `no_rope_layer_interval`
    /// counts.
    no_rope_layers: Option<Vec<u8>>,
    /// Every such layer does not rotate.
    no_rope_layer_interval: usize,
    /// Whether layers that do not rotate slide, where `layer_types` does not say.
    use_sliding_window: bool,
    /// How many tokens a query of a sliding layer sees, itself counted.
    sliding_window: Option<usize>,
    layer_types: Option<Vec<LayerType>>,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for SmolLm3Config {
    fn default() -> Self {
        Self {
            vocab_size: 128_256,
            hidden_size: 2048,
            intermediate_size: 11_008,
            num_hidden_layers: 36,
            num_attention_heads: 16,
            num_key_value_heads: Some(4),
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            mlp_bias: false,
            no_rope_layers: None,
            no_rope_layer_interval: 4,
            use_sliding_window: false,
            sliding_window: None,
            layer_types: None,
            tie_word_embeddings: true,
            pad_token_id: Some(128_004),
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl SmolLm3Config {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 2_000_000.0)
    }

    /// Whether each layer rotates queries and keys.
    fn rotates(&self) -> Vec<bool> {
        match &self.no_rope_layers {
            // The list may be longer than there are layers.
            Some(list) => list.iter().take(self.num_hidden_layers).map(|&rotates| rotates != 0).collect(),
            None => (1..=self.num_hidden_layers).map(|i| !i.is_multiple_of(self.no_rope_layer_interval)).collect(),
        }
    }

    /// How many tokens a query sees in each layer, itself counted; all before it, if `None`.
    fn windows(&self) -> Vec<Option<usize>> {
        let window = self.sliding_window;
        let slides = |rotates: bool| self.use_sliding_window && !rotates;
        match &self.layer_types {
            Some(types) => types.iter().map(|layer_type| layer_type.window(window)).collect(),
            None => self.rotates().into_iter().map(|rotates| window.filter(|_| slides(rotates))).collect(),
        }
    }
}

impl ModelConfig for SmolLm3Config {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["num_key_value_heads", "pad_token_id"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("no_rope_layer_interval", self.no_rope_layer_interval),
            ("num_labels", self.num_labels),
        ])?;
        let layers = self.num_hidden_layers;
        check.layers("num_hidden_layers", layers)?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        if let Some(list) = self.no_rope_layers.as_ref().filter(|list| list.len() < layers) {
            let found = list.len();
            let reason = format_args!("{found} layers, but `num_hidden_layers` = {layers}");
            return Err(check.error("no_rope_layers", reason));
        }
        LayerType::validate(self.layer_types.as_deref(), layers, self.sliding_window, check)?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for SmolLm3Config {
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
pub struct SmolLm3Model {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for SmolLm3Model {
    type Config = SmolLm3Config;
    const QUESTION_ANSWERING_PREFIX: &'static str = "transformer";

    fn new(config: &SmolLm3Config, device: &Device) -> Self {
        let layers = config.rotates().into_iter().zip(config.windows());
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: layers.map(|(rotates, window)| DecoderLayer::new(config, rotates, window, device)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, device),
            rope: Rope::from_parameters(&config.rope(), config.heads().dim, config.max_position_embeddings),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.layers.iter().map(|layer| layer.window.map_or(CacheKind::Full, CacheKind::Sliding)).collect()
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(input_ids)
    }

    fn decode(&self, mut x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let length = cache.length() + x.dims()[1];
        let rope = self.rope.table(inputs.position_ids_from(cache.length()), length);
        // All layers that slide have the same window.
        let window = self.layers.iter().find_map(|layer| layer.window);
        let (full, sliding) = (inputs.causal_mask(None), inputs.causal_mask(window));
        for (layer, cache) in self.layers.iter().zip(cache.layers()) {
            record.hidden_state(&x);
            let rope = layer.rotates.then_some(&rope);
            let mask = if layer.window.is_some() { &sliding } else { &full };
            x = layer.forward(x, rope, mask, cache, record);
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
    #[module(skip)]
    rotates: bool,
    #[module(skip)]
    window: Option<usize>,
}

impl DecoderLayer {
    fn new(config: &SmolLm3Config, rotates: bool, window: Option<usize>, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(config.hidden_size, config.intermediate_size, config.mlp_bias, config.hidden_act, device),
            rotates,
            window,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rope: Option<&RopeTable>,
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
    fn new(config: &SmolLm3Config, device: &Device) -> Self {
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

    /// `rope` is `None` in a layer without positions.
    fn forward(
        &self,
        x: Tensor<3>,
        rope: Option<&RopeTable>,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let rotated = |x: Tensor<4>| match rope {
            Some(rope) => rope.apply(x),
            None => x,
        };
        let q = rotated(split_heads(q, self.heads.query));
        let k = rotated(split_heads(k, self.heads.key_value));
        let (k, v) = cache.append(k, split_heads(v, self.heads.key_value));
        self.o_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}
