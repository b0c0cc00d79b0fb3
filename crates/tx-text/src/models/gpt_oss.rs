//! gpt-oss: a decoder with experts in every layer, windows in every other one, and a sink in each head of attention.
//!
//! Paper: OpenAI, 2025 (arXiv:2508.10925). Sinks: Xiao et al., 2023 (arXiv:2309.17453).
//! Reference: transformers 5.23.0, `models/gpt_oss/modeling_gpt_oss.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, activation};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    AttentionOptions, Cache, CacheKind, Embedding, LayerCache, Linear, Mask, RmsNorm, Rope, RopeParameters, RopeTable,
    RopeType, Router, Routing, attention, constant, linear_transposed, merge_heads, normal, project, split_heads,
};
use tx_core::task::{Record, TextInputs, TextLimits};

use super::llama::Heads;
use super::qwen2::LayerType;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct GptOssConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// One head of keys and values for each of queries, if `None`.
    num_key_value_heads: Option<usize>,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    /// How many tokens a query of a sliding layer sees, itself counted.
    pub sliding_window: usize,
    /// The kind of each layer; every other one slides, from the first on, if `None`.
    layer_types: Option<Vec<LayerType>>,
    pub num_local_experts: usize,
    pub num_experts_per_tok: usize,
    /// The slope of the gate's sigmoid.
    pub swiglu_alpha: f64,
    /// Where the gate and what it multiplies end.
    pub swiglu_limit: f64,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for GptOssConfig {
    fn default() -> Self {
        Self {
            vocab_size: 201_088,
            hidden_size: 2880,
            intermediate_size: 2880,
            num_hidden_layers: 36,
            num_attention_heads: 64,
            num_key_value_heads: Some(8),
            head_dim: 64,
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            attention_bias: true,
            sliding_window: 128,
            layer_types: None,
            num_local_experts: 128,
            num_experts_per_tok: 4,
            swiglu_alpha: 1.702,
            swiglu_limit: 7.0,
            tie_word_embeddings: false,
            pad_token_id: None,
            num_labels: 2,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

impl GptOssConfig {
    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            key_value: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            dim: self.head_dim,
        }
    }

    fn rope(&self) -> RopeParameters {
        let published = RopeParameters {
            rope_type: Some(RopeType::Yarn),
            factor: Some(32.0),
            beta_fast: Some(32.0),
            beta_slow: Some(1.0),
            truncate: Some(false),
            original_max_position_embeddings: Some(4096),
            ..RopeParameters::default()
        };
        let given = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        RopeParameters::resolve(given.or(Some(&published)), None, self.rope_theta, 150_000.0)
    }

    /// How many tokens a query of layer `i` sees, itself counted; all before it, if `None`.
    fn window_of(&self, i: usize) -> Option<usize> {
        let window = Some(self.sliding_window);
        match &self.layer_types {
            Some(types) => types.get(i).and_then(|layer_type| layer_type.window(window)),
            None => window.filter(|_| i.is_multiple_of(2)),
        }
    }
}

impl ModelConfig for GptOssConfig {
    type Limits = TextLimits;

    const NULLABLE: &'static [&'static str] = &["num_key_value_heads"];

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_labels", self.num_labels),
        ])?;
        let (layers, experts) = (self.num_hidden_layers, self.num_local_experts);
        check.layers("num_hidden_layers", layers)?;
        check.epsilon("rms_norm_eps", self.rms_norm_eps)?;
        Routing::validate(check, "num_local_experts", experts, self.num_experts_per_tok, layers)?;
        LayerType::validate(self.layer_types.as_deref(), layers, Some(self.sliding_window), check)?;
        if !(self.swiglu_limit.is_finite() && self.swiglu_limit >= 0.0) {
            let reason = format_args!("{}, expected a number that is not negative", self.swiglu_limit);
            return Err(check.error("swiglu_limit", reason));
        }
        self.heads().validate(check)?;
        self.rope().validate(check, self.heads().dim)
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, Some(self.rope().reach(self.max_position_embeddings)))
    }
}

impl DecoderConfig for GptOssConfig {
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
pub struct GptOssModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
}

impl Decoder for GptOssModel {
    type Config = GptOssConfig;

    fn new(config: &GptOssConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|i| DecoderLayer::new(i, config, device)).collect(),
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
    mlp: SparseMoe,
    #[module(skip)]
    window: Option<usize>,
}

impl DecoderLayer {
    fn new(i: usize, config: &GptOssConfig, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: SparseMoe::new(config, device),
            window: config.window_of(i),
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
    /// `[heads]`: one more score for each head, which has no value.
    sinks: Param<Tensor<1>>,
    #[module(skip)]
    heads: Heads,
}

impl Attention {
    fn new(config: &GptOssConfig, device: &Device) -> Self {
        let heads = config.heads();
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        Self {
            q_proj: Linear::new(hidden, query, bias, device),
            k_proj: Linear::new(hidden, key_value, bias, device),
            v_proj: Linear::new(hidden, key_value, bias, device),
            o_proj: Linear::new(query, hidden, bias, device),
            sinks: normal([heads.query], INITIALIZER_RANGE, device),
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
        let options = AttentionOptions { sinks: Some(self.sinks.val()), ..AttentionOptions::new(mask) };
        self.o_proj.forward(merge_heads(attention(q, k, v, options, record)))
    }
}

/// The experts with the highest scores, weighted by the softmax of these alone.
#[derive(Module, Debug)]
struct SparseMoe {
    router: Router,
    experts: Experts,
    #[module(skip)]
    per_token: usize,
}

impl SparseMoe {
    fn new(config: &GptOssConfig, device: &Device) -> Self {
        Self {
            router: Router::new(config.hidden_size, config.num_local_experts, true, device),
            experts: Experts::new(config, device),
            per_token: config.num_experts_per_tok,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        let x = x.reshape([batch * seq, hidden]);
        let routing = Routing::top_k(self.router.forward(x.clone()), self.per_token).softmax();
        routing.dispatch(x, |expert, x| self.experts.forward(expert, x)).reshape([batch, seq, hidden])
    }
}

/// All experts in one tensor: `down((up(x) + 1) · gate(x) · σ(alpha · gate(x)))`, the gate and what it multiplies kept
/// within a limit.
#[derive(Module, Debug)]
struct Experts {
    /// `[experts, hidden, 2 · intermediate]`: columns of the gate at even places, of what it multiplies at odd ones.
    gate_up_proj: Param<Tensor<3>>,
    /// `[experts, 2 · intermediate]`
    gate_up_proj_bias: Param<Tensor<2>>,
    /// `[experts, intermediate, hidden]`
    down_proj: Param<Tensor<3>>,
    /// `[experts, hidden]`
    down_proj_bias: Param<Tensor<2>>,
    #[module(skip)]
    alpha: f64,
    #[module(skip)]
    limit: f64,
}

impl Experts {
    fn new(config: &GptOssConfig, device: &Device) -> Self {
        let (experts, hidden, intermediate) = (config.num_local_experts, config.hidden_size, config.intermediate_size);
        Self {
            gate_up_proj: normal([experts, hidden, 2 * intermediate], INITIALIZER_RANGE, device),
            gate_up_proj_bias: constant([experts, 2 * intermediate], 0.0, device),
            down_proj: normal([experts, intermediate, hidden], INITIALIZER_RANGE, device),
            down_proj_bias: constant([experts, hidden], 0.0, device),
            alpha: config.swiglu_alpha,
            limit: config.swiglu_limit,
        }
    }

    /// # Shapes
    /// - x, output: `[tokens, hidden]`
    fn forward(&self, expert: usize, x: Tensor<2>) -> Tensor<2> {
        let gate_up = linear_of(&self.gate_up_proj, &self.gate_up_proj_bias, expert, x);
        let [tokens, columns] = gate_up.dims();
        let pairs = gate_up.reshape([tokens, columns / 2, 2]);
        let [gate, up] = [0, 1].map(|i| pairs.clone().narrow(2, i, 1).squeeze_dim::<2>(2)); // [tokens, intermediate]
        let gate = gate.clamp_max(self.limit);
        let up = up.clamp(-self.limit, self.limit);
        let gated = (up + 1.0) * gate.clone() * activation::sigmoid(gate * self.alpha);
        linear_of(&self.down_proj, &self.down_proj_bias, expert, gated)
    }
}

/// `x · W + b` with one expert's part of `weight` and `bias`.
///
/// # Shapes
/// - weight: `[experts, in, out]`
/// - bias: `[experts, out]`
/// - x: `[tokens, in]`
/// - output: `[tokens, out]`
fn linear_of(weight: &Param<Tensor<3>>, bias: &Param<Tensor<2>>, expert: usize, x: Tensor<2>) -> Tensor<2> {
    let weight = weight.val().narrow(0, expert, 1).squeeze_dim::<2>(0);
    // Files may have it in 16 bits: it is a matrix, if only of biases.
    let bias = bias.val().narrow(0, expert, 1).squeeze_dim::<1>(0).cast(x.dtype());
    linear_transposed(x, weight, Some(bias), None)
}

/// The deviation of new weights: HF's `initializer_range`.
const INITIALIZER_RANGE: f64 = 0.02;
