//! Mamba: a decoder whose layers see the past through a state of fixed size, which the tokens themselves let decay.
//!
//! Paper: Gu & Dao, 2023 (arXiv:2312.00752).
//! Reference: transformers 5.23.0, `models/mamba/modeling_mamba.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use serde_json::Value;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::decoder::{Decoder, DecoderConfig, HeadConfig};
use tx_core::nn::{
    Activation, Cache, CacheKind, CausalConv1d, Embedding, LayerCache, Linear, RmsNorm, States, constant,
    selective_scan,
};
use tx_core::task::{Record, TextInputs, TextLimits};
use tx_core::weights::load::Rename;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct MambaConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub state_size: usize,
    pub num_hidden_layers: usize,
    /// `intermediate_size / hidden_size`, where that is not given.
    pub expand: usize,
    intermediate_size: Option<usize>,
    pub conv_kernel: usize,
    pub use_bias: bool,
    pub use_conv_bias: bool,
    /// The activation of the convolution; that of the gate is SiLU.
    pub hidden_act: Activation,
    pub layer_norm_epsilon: f64,
    /// A number, or "auto".
    time_step_rank: Value,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<i64>,
    pub num_labels: usize,
}

impl Default for MambaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_280,
            hidden_size: 768,
            state_size: 16,
            num_hidden_layers: 32,
            expand: 2,
            intermediate_size: None,
            conv_kernel: 4,
            use_bias: false,
            use_conv_bias: true,
            hidden_act: Activation::Silu,
            layer_norm_epsilon: 1e-5,
            time_step_rank: "auto".into(),
            tie_word_embeddings: true,
            pad_token_id: Some(0),
            num_labels: 2,
        }
    }
}

impl MambaConfig {
    /// Channels of a layer.
    fn channels(&self) -> usize {
        self.intermediate_size.unwrap_or_else(|| self.expand.saturating_mul(self.hidden_size))
    }

    /// Elements that the time steps of all channels are made of.
    fn time_step_rank(&self) -> usize {
        self.time_step_rank.as_u64().map_or_else(|| self.hidden_size.div_ceil(16), |rank| rank as usize)
    }
}

impl ModelConfig for MambaConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("state_size", self.state_size),
            ("intermediate_size", self.channels()),
            ("2 · intermediate_size", self.channels().saturating_mul(2)),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.range("conv_kernel", self.conv_kernel, 2, MAX_KERNEL)?;
        check.epsilon("layer_norm_epsilon", self.layer_norm_epsilon)?;
        if !(self.time_step_rank.is_u64() || self.time_step_rank == "auto") {
            let found = &self.time_step_rank;
            return Err(check.error("time_step_rank", format_args!("{found}, expected a number or \"auto\"")));
        }
        check.size("time_step_rank", self.time_step_rank())
    }

    fn limits(&self) -> TextLimits {
        // There are no positions.
        TextLimits::unlimited(self.vocab_size, None)
    }
}

impl DecoderConfig for MambaConfig {
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

/// The longest convolution, in tokens; every layer keeps as many.
pub(super) const MAX_KERNEL: usize = 64;

/// The decoder.
#[derive(Module, Debug)]
pub struct MambaModel {
    embeddings: Embedding,
    layers: Vec<DecoderLayer>,
    norm_f: RmsNorm,
}

impl Decoder for MambaModel {
    type Config = MambaConfig;
    const PREFIX: &'static str = "backbone";
    const RENAMES: &'static [Rename] = RENAMES;
    const TIED: &'static [(&'static str, &'static str)] = TIED;

    fn new(config: &MambaConfig, device: &Device) -> Self {
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

/// Which tokens are padding: states must not change at these.
#[derive(Debug, Clone)]
pub(super) struct Padding {
    /// `[batch, seq, 1]`: one for tokens, zero for padding; `None` if there is none.
    tokens: Option<Tensor<3>>,
}

impl Padding {
    /// The padding among the last `seq` tokens.
    pub(super) fn new(inputs: &TextInputs, seq: usize) -> Self {
        let last = |mask: &Tensor<2, Int>| mask.clone().narrow(1, mask.dims()[1] - seq, seq);
        Self { tokens: inputs.attention_mask.as_ref().map(|mask| last(mask).float().unsqueeze_dim(2)) }
    }

    /// Zeros for padding.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    pub(super) fn hide(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.tokens {
            Some(tokens) => x * tokens.clone(),
            None => x,
        }
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    norm: RmsNorm,
    mixer: Mixer,
}

impl DecoderLayer {
    fn new(config: &MambaConfig, device: &Device) -> Self {
        Self {
            norm: RmsNorm::new(config.hidden_size, config.layer_norm_epsilon, device),
            mixer: Mixer::new(config, device),
        }
    }

    fn forward(&self, x: Tensor<3>, padding: &Padding, cache: &mut LayerCache) -> Tensor<3> {
        x.clone() + self.mixer.forward(self.norm.forward(x), padding, cache)
    }
}

/// A gated state space whose time steps, inputs and outputs are made of the tokens. Gu & Dao, 2023, section 3.4.
#[derive(Module, Debug)]
struct Mixer {
    in_proj: Linear,
    conv1d: CausalConv1d,
    x_proj: Linear,
    dt_proj: Linear,
    /// `[channels, state]`: logarithms of the rates of decay.
    a_log: Param<Tensor<2>>,
    /// `[channels]`: how much of the input goes to the output as it is.
    d: Param<Tensor<1>>,
    out_proj: Linear,
    #[module(skip)]
    time_step_rank: usize,
}

impl Mixer {
    fn new(config: &MambaConfig, device: &Device) -> Self {
        let (hidden, channels, size) = (config.hidden_size, config.channels(), config.state_size);
        let rank = config.time_step_rank();
        Self {
            in_proj: Linear::new(hidden, 2 * channels, config.use_bias, device),
            conv1d: CausalConv1d::new(channels, config.conv_kernel, config.use_conv_bias, config.hidden_act, device),
            x_proj: Linear::new(channels, rank + 2 * size, false, device),
            dt_proj: Linear::new(rank, channels, true, device),
            a_log: constant([channels, size], 0.0, device),
            d: constant([channels], 1.0, device),
            out_proj: Linear::new(channels, hidden, config.use_bias, device),
            time_step_rank: rank,
        }
    }

    fn forward(&self, x: Tensor<3>, padding: &Padding, cache: &mut LayerCache) -> Tensor<3> {
        let mut unkept = States::default();
        let states = cache.states().unwrap_or(&mut unkept);
        let projected = self.in_proj.forward(padding.hide(x)); // [batch, seq, 2 · channels]
        let channels = projected.dims()[2] / 2;
        let gate = projected.clone().narrow(2, channels, channels);
        let x = projected.narrow(2, 0, channels).swap_dims(1, 2);
        let x = padding.hide(self.conv1d.forward(x, &mut states.conv).swap_dims(1, 2));

        let a_log = self.a_log.val();
        let (rank, size) = (self.time_step_rank, a_log.dims()[1]);
        let projected = self.x_proj.forward(x.clone()); // [batch, seq, rank + 2 · state]
        let dt = self.dt_proj.forward(projected.clone().narrow(2, 0, rank));
        let [b, c] = [rank, rank + size].map(|start| projected.clone().narrow(2, start, size));
        let (y, state) = selective_scan(x, dt, b, c, a_log, self.d.val(), states.recurrent.take());
        states.recurrent = Some(state);
        self.out_proj.forward(Activation::Silu.gate(gate, y))
    }
}

/// The head's weight and the embedding's.
pub(super) const TIED: &[(&str, &str)] = &[("lm_head.weight", "model.embeddings.weight")];

/// Names that are not in snake case, and the embedding's in the first checkpoints.
pub(super) const RENAMES: &[Rename] = &[
    Rename { module: "mixer.a_log", file: &["mixer.A_log"] },
    Rename { module: "mixer.d", file: &["mixer.D"] },
    Rename { module: "embeddings", file: &["embeddings", "embedding"] },
];
