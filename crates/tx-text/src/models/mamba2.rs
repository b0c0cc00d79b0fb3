//! Mamba-2: Mamba's state space with heads, each with one rate of decay, so that it is a form of attention as well.
//!
//! Paper: Dao & Gu, 2024 (arXiv:2405.21060).
//! Reference: transformers 5.23.0, `models/mamba2/modeling_mamba2.py`.
//! Differs from `mamba` in: heads, groups of inputs and outputs, one projection for all, a norm behind the gate, and
//! limits for the time steps.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use serde_json::Value;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, Cache, CacheKind, CausalConv1d, Embedding, LayerCache, Linear, RmsNorm, SsdParameters, States,
    constant, merge_heads, split_heads, ssd_scan,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

use super::mamba::{MAX_KERNEL, Padding, RENAMES, TIED};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Mamba2Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub state_size: usize,
    pub num_hidden_layers: usize,
    pub num_heads: usize,
    pub head_dim: usize,
    /// Heads that follow one another share what goes into their states and what comes out: so many times.
    pub n_groups: usize,
    pub expand: usize,
    pub conv_kernel: usize,
    pub use_bias: bool,
    pub use_conv_bias: bool,
    /// The activation of the convolution; that of the gate is SiLU.
    pub hidden_act: Activation,
    pub layer_norm_epsilon: f64,
    /// The lowest and the highest time step.
    time_step_limit: [Bound; 2],
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

impl Default for Mamba2Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_768,
            hidden_size: 4096,
            state_size: 128,
            num_hidden_layers: 64,
            num_heads: 128,
            head_dim: 64,
            n_groups: 8,
            expand: 2,
            conv_kernel: 4,
            use_bias: false,
            use_conv_bias: true,
            hidden_act: Activation::Silu,
            layer_norm_epsilon: 1e-5,
            time_step_limit: [Bound(0.0), Bound(f64::INFINITY)],
            tie_word_embeddings: false,
            pad_token_id: Some(1),
            num_labels: 2,
        }
    }
}

/// A number that may be infinite. JSON has no word for that: files say `Infinity`, or `{"__float__": "Infinity"}`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
struct Bound(f64);

impl TryFrom<Value> for Bound {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        let word = |word: &str| match word {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        };
        let number = match &value {
            Value::String(text) => word(text),
            Value::Object(map) => map.get("__float__").and_then(Value::as_str).and_then(word),
            other => other.as_f64(),
        };
        number.map(Self).ok_or_else(|| format!("expected a number or Infinity, found {value}"))
    }
}

impl Mamba2Config {
    fn sizes(&self) -> Sizes {
        Sizes { heads: self.num_heads, head_dim: self.head_dim, groups: self.n_groups, state: self.state_size }
    }
}

impl ModelConfig for Mamba2Config {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("state_size", self.state_size),
            ("num_heads", self.num_heads),
            ("head_dim", self.head_dim),
            ("n_groups", self.n_groups),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.range("conv_kernel", self.conv_kernel, 2, MAX_KERNEL)?;
        check.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        check.divides("num_heads", self.num_heads, "n_groups", self.n_groups)?;
        // No product of two sizes overflows.
        let (heads, channels) = (self.num_heads * self.head_dim, self.expand.saturating_mul(self.hidden_size));
        if heads != channels {
            let reason = format_args!("{heads} with `head_dim`, but `expand` · `hidden_size` = {channels}");
            return Err(check.error("num_heads", reason));
        }
        check.size("n_groups · state_size", self.n_groups * self.state_size)?;
        check.size("channels of `in_proj`", self.sizes().projected())?;
        let [low, high] = self.time_step_limit;
        if low.0 > high.0 {
            let reason = format_args!("{} to {}, expected the lowest first", low.0, high.0);
            return Err(check.error("time_step_limit", reason));
        }
        Ok(())
    }

    fn limits(&self) -> TextLimits {
        // There are no positions.
        TextLimits::unlimited(self.vocab_size, None)
    }
}

impl DecoderConfig for Mamba2Config {
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

/// How a layer's channels are made up.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    heads: usize,
    head_dim: usize,
    groups: usize,
    state: usize,
}

impl Sizes {
    /// Channels of all heads.
    fn inner(self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of the convolution: those of the heads, and of what goes into the states and comes out.
    fn convolved(self) -> usize {
        self.inner() + 2 * self.groups * self.state
    }

    /// Channels that a token is projected to: gate, convolution, time steps.
    fn projected(self) -> usize {
        self.inner() + self.convolved() + self.heads
    }
}

/// The decoder.
#[derive(Module, Debug)]
pub struct Mamba2Model {
    embeddings: Embedding,
    layers: Vec<DecoderLayer>,
    norm_f: RmsNorm,
}

impl Decoder for Mamba2Model {
    type Config = Mamba2Config;
    const PREFIX: &'static str = "backbone";
    const RENAMES: &'static [Rename] = RENAMES;
    const TIED: &'static [(&'static str, &'static str)] = TIED;

    fn new(config: &Mamba2Config, device: &Device) -> Self {
        Self {
            embeddings: Embedding::new(config.vocab_size, config.hidden_size, device),
            layers: (0..config.num_hidden_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            norm_f: RmsNorm::new(config.hidden_size, config.layer_norm_epsilon, device),
        }
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![CacheKind::State; self.layers.len()]
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embeddings.forward(input_ids)
    }

    fn decode(&self, mut x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let padding = Padding::new(inputs, x.dims()[1]);
        for (layer, cache) in self.layers.iter().zip(cache.layers()) {
            x = layer.forward(x, &padding, cache);
            // The reference leaves out the embeddings, and has the last layer's output before and after the norm.
            record.hidden_state(&x);
        }
        let x = self.norm_f.forward(x);
        record.hidden_state(&x);
        x
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    norm: RmsNorm,
    mixer: Mixer,
}

impl DecoderLayer {
    fn new(config: &Mamba2Config, device: &Device) -> Self {
        Self {
            norm: RmsNorm::new(config.hidden_size, config.layer_norm_epsilon, device),
            mixer: Mixer::new(config, device),
        }
    }

    fn forward(&self, x: Tensor<3>, padding: &Padding, cache: &mut LayerCache) -> Tensor<3> {
        x.clone() + self.mixer.forward(self.norm.forward(x), padding, cache)
    }
}

/// A gated state space with heads. Dao & Gu, 2024, section 7.
#[derive(Module, Debug)]
struct Mixer {
    in_proj: Linear,
    conv1d: CausalConv1d,
    /// `[heads]`: added to the time steps.
    dt_bias: Param<Tensor<1>>,
    /// `[heads]`: logarithms of the rates of decay.
    a_log: Param<Tensor<1>>,
    /// `[heads]`: how much of the input goes to the output as it is.
    d: Param<Tensor<1>>,
    norm: RmsNorm,
    out_proj: Linear,
    #[module(skip)]
    sizes: Sizes,
    #[module(skip)]
    dt_limit: (f64, f64),
    #[module(skip)]
    eps: f64,
}

impl Mixer {
    fn new(config: &Mamba2Config, device: &Device) -> Self {
        let (hidden, sizes) = (config.hidden_size, config.sizes());
        let (kernel, act) = (config.conv_kernel, config.hidden_act);
        let [low, high] = config.time_step_limit;
        Self {
            in_proj: Linear::new(hidden, sizes.projected(), config.use_bias, device),
            conv1d: CausalConv1d::new(sizes.convolved(), kernel, config.use_conv_bias, act, device),
            dt_bias: constant([sizes.heads], 0.0, device),
            a_log: constant([sizes.heads], 0.0, device),
            d: constant([sizes.heads], 1.0, device),
            norm: RmsNorm::new(sizes.inner(), config.layer_norm_epsilon, device),
            out_proj: Linear::new(sizes.inner(), hidden, config.use_bias, device),
            sizes,
            dt_limit: (low.0, high.0),
            eps: config.layer_norm_epsilon,
        }
    }

    fn forward(&self, x: Tensor<3>, padding: &Padding, cache: &mut LayerCache) -> Tensor<3> {
        let mut unkept = States::default();
        let states = cache.states().unwrap_or(&mut unkept);
        let Sizes { heads, groups, state: size, .. } = self.sizes;
        let (inner, convolved) = (self.sizes.inner(), self.sizes.convolved());
        let projected = self.in_proj.forward(padding.hide(x)); // [batch, seq, inner + convolved + heads]
        let gate = projected.clone().narrow(2, 0, inner);
        let dt = projected.clone().narrow(2, inner + convolved, heads);
        let x = projected.narrow(2, inner, convolved).swap_dims(1, 2);
        let x = padding.hide(self.conv1d.forward(x, &mut states.conv).swap_dims(1, 2));

        let part = |start: usize| split_heads(x.clone().narrow(2, start, groups * size), groups);
        let (b, c) = (part(inner), part(inner + groups * size));
        let x = split_heads(x.narrow(2, 0, inner), heads);
        let parameters = SsdParameters {
            a_log: self.a_log.val(),
            d: self.d.val(),
            dt_bias: self.dt_bias.val(),
            dt_limit: self.dt_limit,
        };
        let (y, state) = ssd_scan(x, dt, b, c, &parameters, states.recurrent.take());
        states.recurrent = Some(state);
        self.out_proj.forward(self.normalise(Activation::Silu.gate(gate, merge_heads(y))))
    }

    /// The norm of the channels of each group by themselves.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, inner]`
    fn normalise(&self, x: Tensor<3>) -> Tensor<3> {
        let groups = self.sizes.groups;
        if groups == 1 {
            return self.norm.forward(x);
        }
        let x = split_heads(x, groups); // [batch, seq, groups, inner / groups]
        let mean = (x.clone() * x.clone()).mean_dim(3);
        merge_heads(x / (mean + self.eps).sqrt()) * self.norm.weight.val().unsqueeze::<3>()
    }
}
