//! Qwen2 and Qwen2.5: LLaMA's decoder with biases on queries, keys and values, and windows in some layers.
//!
//! Paper: Qwen team, 2024 (arXiv:2407.10671); 2.5: arXiv:2412.15115.
//! Reference: transformers 5.23.0, `models/qwen2/modeling_qwen2.py`.
//! Differs from `llama` in: the three biases, which no key turns off, and `layer_types`.

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
pub struct Qwen2Config {
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
    /// Without it `sliding_window` means nothing.
    use_sliding_window: bool,
    /// How many tokens a query of a sliding layer sees, itself counted.
    sliding_window: Option<usize>,
    /// The kind of each layer; older files have `max_window_layers` in its place: the first that slides.
    layer_types: Option<Vec<LayerType>>,
    max_window_layers: usize,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for Qwen2Config {
    fn default() -> Self {
        Self {
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 22_016,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-6,
            use_sliding_window: false,
            sliding_window: Some(4096),
            layer_types: None,
            max_window_layers: 28,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

/// What a layer sees: all that came before, or what is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LayerType {
    FullAttention,
    SlidingAttention,
}

impl LayerType {
    /// The window of a layer of this kind, if sliding layers have this one.
    pub(super) fn window(self, sliding: Option<usize>) -> Option<usize> {
        sliding.filter(|_| self == Self::SlidingAttention)
    }

    /// Rejects a list of another length than the model has layers, and layers that slide without a window.
    pub(super) fn validate(
        types: Option<&[Self]>,
        layers: usize,
        window: Option<usize>,
        check: &Check<'_>,
    ) -> Result<()> {
        window.map_or(Ok(()), |window| check.size("sliding_window", window))?;
        let Some(types) = types else { return Ok(()) };
        if types.len() != layers {
            let found = types.len();
            return Err(check.error("layer_types", format_args!("{found} layers, but `num_hidden_layers` = {layers}")));
        }
        if window.is_none() && types.contains(&Self::SlidingAttention) {
            return Err(check.error("sliding_window", "null or not used, but a layer of `layer_types` needs it"));
        }
        Ok(())
    }
}

impl Qwen2Config {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    fn rope(&self) -> RopeParameters {
        let (new, scaling) = (self.rope_parameters.as_ref(), self.rope_scaling.as_ref());
        RopeParameters::resolve(new, scaling, self.rope_theta, 10_000.0)
    }

    /// The window of the layers that slide.
    fn window(&self) -> Option<usize> {
        self.sliding_window.filter(|_| self.use_sliding_window)
    }

    /// How many tokens a query sees in each layer, itself counted; all before it, if `None`.
    fn windows(&self) -> Vec<Option<usize>> {
        let window = self.window();
        match &self.layer_types {
            Some(types) => types.iter().map(|layer_type| layer_type.window(window)).collect(),
            None => (0..self.num_hidden_layers).map(|i| window.filter(|_| i >= self.max_window_layers)).collect(),
        }
    }
}

impl ModelConfig for Qwen2Config {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["num_key_value_heads", "sliding_window"];

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
        LayerType::validate(self.layer_types.as_deref(), self.num_hidden_layers, self.window(), check)?;
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for Qwen2Config {
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
pub struct Qwen2Model {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for Qwen2Model {
    type Config = Qwen2Config;
    const QUESTION_ANSWERING_PREFIX: &'static str = "transformer";

    fn new(config: &Qwen2Config, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: config.windows().into_iter().map(|window| DecoderLayer::new(config, window, device)).collect(),
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
            let mask = if layer.window.is_some() { &sliding } else { &full };
            x = layer.forward(x, &rope, mask, cache, record);
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
    window: Option<usize>,
}

impl DecoderLayer {
    fn new(config: &Qwen2Config, window: Option<usize>, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(config.hidden_size, config.intermediate_size, false, config.hidden_act, device),
            window,
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
    fn new(config: &Qwen2Config, device: &Device) -> Self {
        let (hidden, heads) = (config.hidden_size, config.heads());
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        Self {
            q_proj: Linear::new(hidden, query, true, device),
            k_proj: Linear::new(hidden, key_value, true, device),
            v_proj: Linear::new(hidden, key_value, true, device),
            o_proj: Linear::new(query, hidden, false, device),
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
