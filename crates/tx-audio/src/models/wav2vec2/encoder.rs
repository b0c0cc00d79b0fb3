//! The layers of wav2vec 2.0, with norms after or before their sublayers, and the adapter behind them.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor, activation};
use tx_core::nn::{
    Activation, AttentionOptions, Conv1d, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::Record;

use super::{PositionalConvEmbedding, Wav2Vec2Config, mask_padding};

/// Zeros on each side of the adapter's convolutions, whatever their kernel.
pub(super) const ADAPTER_PADDING: usize = 1;
/// What the reference leaves at torch's default: the config has no key for the norms of adapters.
const ADAPTER_EPS: f64 = 1e-5;

/// Positions and a stack of layers.
#[derive(Module, Debug)]
pub(in crate::models) struct Encoder {
    pos_conv_embed: PositionalConvEmbedding,
    layer_norm: LayerNorm,
    layers: Vec<Layer>,
    /// Norms come before the sublayers.
    #[module(skip)]
    stable: bool,
}

impl Encoder {
    pub(in crate::models) fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        Self {
            pos_conv_embed: PositionalConvEmbedding::new(config, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            layers: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect(),
            stable: config.do_stable_layer_norm,
        }
    }

    /// # Shapes
    /// - x, output: `[batch, frames, hidden]`
    /// - padding: `[batch, frames]`
    pub(in crate::models) fn forward(
        &self,
        x: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        record: &mut Record,
    ) -> Tensor<3> {
        // The convolution would carry padding into what lies beside it.
        let x = match &padding {
            Some(padding) => mask_padding(x, padding),
            None => x,
        };
        let mask = Mask { padding, ..Mask::default() };
        let positions = self.pos_conv_embed.forward(x.clone());
        let mut x = if self.stable { x + positions } else { self.layer_norm.forward_residual(x, positions) };
        record.hidden_state(&x);
        for layer in &self.layers {
            x = layer.forward(x, &mask, record);
            record.hidden_state(&x);
        }
        if self.stable { self.layer_norm.forward(x) } else { x }
    }
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    layer_norm: LayerNorm,
    feed_forward: FeedForward,
    final_layer_norm: LayerNorm,
    adapter_layer: Option<AttnAdapter>,
    #[module(skip)]
    stable: bool,
}

impl Layer {
    fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, config.layer_norm_eps, device);
        let stable = config.do_stable_layer_norm;
        let adapter_size = config.adapter_attn_dim.filter(|_| stable);
        Self {
            attention: Attention::new(config, device),
            layer_norm: norm(),
            feed_forward: FeedForward::new(config, device),
            final_layer_norm: norm(),
            adapter_layer: adapter_size.map(|size| AttnAdapter::new(config.hidden_size, size, device)),
            stable,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        if !self.stable {
            let x = self.layer_norm.forward_residual(self.attention.forward(x.clone(), mask, record), x);
            return self.final_layer_norm.forward_residual(self.feed_forward.forward(x.clone()), x);
        }
        let x = x.clone() + self.attention.forward(self.layer_norm.forward(x), mask, record);
        let x = x.clone() + self.feed_forward.forward(self.final_layer_norm.forward(x));
        match &self.adapter_layer {
            Some(adapter) => x.clone() + adapter.forward(x),
            None => x,
        }
    }
}

#[derive(Module, Debug)]
struct Attention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        let heads = config.num_attention_heads;
        Self { k_proj: linear(), v_proj: linear(), q_proj: linear(), out_proj: linear(), heads }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let qkv = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]);
        let [q, k, v] = qkv.map(|x| split_heads(x, self.heads));
        self.out_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}

/// `output_dense(act(intermediate_dense(x)))`
#[derive(Module, Debug)]
pub(in crate::models) struct FeedForward {
    intermediate_dense: Linear,
    output_dense: Linear,
    #[module(skip)]
    act: Activation,
}

impl FeedForward {
    pub(in crate::models) fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        Self {
            intermediate_dense: Linear::new(config.hidden_size, config.intermediate_size, true, device),
            output_dense: Linear::new(config.intermediate_size, config.hidden_size, true, device),
            act: config.hidden_act,
        }
    }

    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.output_dense.forward(self.intermediate_dense.forward_activated(x, self.act))
    }
}

/// What a language adds to a layer. Pratap et al., 2023 (arXiv:2305.13516).
#[derive(Module, Debug)]
struct AttnAdapter {
    norm: LayerNorm,
    linear_1: Linear,
    linear_2: Linear,
}

impl AttnAdapter {
    fn new(hidden: usize, size: usize, device: &Device) -> Self {
        Self {
            norm: LayerNorm::new(hidden, ADAPTER_EPS, device),
            linear_1: Linear::new(hidden, size, true, device),
            linear_2: Linear::new(size, hidden, true, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.linear_2.forward(self.linear_1.forward_activated(self.norm.forward(x), Activation::Relu))
    }
}

/// Convolutions behind the layers, which make the frames fewer.
#[derive(Module, Debug)]
pub(in crate::models) struct Adapter {
    /// `None` where hidden states keep their size, as is the norm.
    proj: Option<Linear>,
    proj_layer_norm: Option<LayerNorm>,
    layers: Vec<AdapterLayer>,
}

impl Adapter {
    pub(in crate::models) fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        let (hidden, output) = (config.hidden_size, config.output_hidden_size());
        let projects = hidden != output;
        Self {
            proj: projects.then(|| Linear::new(hidden, output, true, device)),
            proj_layer_norm: projects.then(|| LayerNorm::new(output, ADAPTER_EPS, device)),
            layers: (0..config.num_adapter_layers).map(|_| AdapterLayer::new(config, device)).collect(),
        }
    }

    /// # Shapes
    /// - x: `[batch, frames, hidden]`
    /// - output: `[batch, frames', output_hidden]`
    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = match &self.proj {
            Some(proj) => proj.forward(x),
            None => x,
        };
        let x = match &self.proj_layer_norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        self.layers.iter().fold(x.swap_dims(1, 2), |x, layer| layer.forward(x)).swap_dims(1, 2)
    }
}

/// A convolution, one half of which gates the other.
#[derive(Module, Debug)]
struct AdapterLayer {
    conv: Conv1d,
}

impl AdapterLayer {
    fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        let size = config.output_hidden_size();
        let conv = Conv1d::new(size, 2 * size, config.adapter_kernel_size, device).with_bias(true);
        Self { conv: conv.with_stride(config.adapter_stride).with_padding(ADAPTER_PADDING) }
    }

    /// # Shapes
    /// - x: `[batch, hidden, frames]`
    /// - output: `[batch, hidden, frames']`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        activation::glu(self.conv.forward(x), 1)
    }
}
