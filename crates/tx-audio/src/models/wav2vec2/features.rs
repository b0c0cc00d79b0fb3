//! From the waveform to what the layers read: convolutions, a projection, and positions by another convolution.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor};
use tx_core::nn::{Activation, BatchNorm2d, Conv1d, GroupNorm, LayerNorm, Linear, constant, conv1d, normal};
use tx_core::task::AudioInputs;

use super::{FeatExtractNorm, Strides, Wav2Vec2Config};

/// What the reference leaves at torch's default: the config has no key for the norms around convolutions.
const TORCH_EPS: f64 = 1e-5;
/// Deviation of the weight that a new convolution over positions is drawn with.
const POSITIONS_STD: f64 = 0.02;

/// Convolutions over the waveform. Baevski et al., 2020, section 2.
#[derive(Module, Debug)]
pub(in crate::models) struct FeatureExtractor {
    conv_layers: Vec<ConvLayer>,
}

impl FeatureExtractor {
    pub(in crate::models) fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        let layer = |i| ConvLayer::new(config, i, device);
        Self { conv_layers: (0..config.conv_dim.len()).map(layer).collect() }
    }

    /// # Shapes
    /// - output: `[batch, frames, channels]`
    pub(in crate::models) fn forward(&self, inputs: &AudioInputs) -> Tensor<3> {
        let x = self.conv_layers.iter().fold(inputs.values.clone(), |x, layer| layer.forward(x));
        x.swap_dims(1, 2)
    }
}

/// `act(norm(conv(x)))`
#[derive(Module, Debug)]
struct ConvLayer {
    conv: Conv1d,
    layer_norm: Option<LayerNorm>,
    group_norm: Option<GroupNorm>,
    #[module(skip)]
    act: Activation,
}

impl ConvLayer {
    fn new(config: &Wav2Vec2Config, i: usize, device: &Device) -> Self {
        let channels = config.conv_dim[i];
        let input = if i == 0 { 1 } else { config.conv_dim[i - 1] };
        let conv = Conv1d::new(input, channels, config.conv_kernel[i], device);
        let over_channels = config.feat_extract_norm == FeatExtractNorm::Layer;
        let over_time = config.feat_extract_norm == FeatExtractNorm::Group && i == 0;
        Self {
            conv: conv.with_bias(config.conv_bias).with_stride(config.conv_stride[i]),
            layer_norm: over_channels.then(|| LayerNorm::new(channels, TORCH_EPS, device)),
            group_norm: over_time.then(|| GroupNorm::new(channels, channels, TORCH_EPS, device)),
            act: config.feat_extract_activation,
        }
    }

    /// # Shapes
    /// - x: `[batch, channels, samples]`
    /// - output: `[batch, channels', frames]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        if let Some(norm) = &self.layer_norm {
            let x = norm.forward(self.conv.forward(x).swap_dims(1, 2));
            return self.act.forward(x).swap_dims(1, 2);
        }
        match &self.group_norm {
            Some(norm) => self.act.forward(norm.forward(self.conv.forward(x))),
            None => self.conv.forward_activated(x, self.act),
        }
    }
}

/// `projection(norm(x))`
#[derive(Module, Debug)]
pub(in crate::models) struct FeatureProjection {
    /// `None` in a HuBERT that projects without it.
    layer_norm: Option<LayerNorm>,
    projection: Linear,
}

impl FeatureProjection {
    pub(in crate::models) fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        let channels = config.channels();
        let norm = || LayerNorm::new(channels, config.layer_norm_eps, device);
        Self {
            layer_norm: config.feat_proj_layer_norm.then(norm),
            projection: Linear::new(channels, config.hidden_size, true, device),
        }
    }

    /// The projected features, and the normalised ones that they are made of.
    ///
    /// # Shapes
    /// - x: `[batch, frames, channels]`
    /// - output: `[batch, frames, hidden]`, `[batch, frames, channels]`
    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let x = match &self.layer_norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        (self.projection.forward(x.clone()), x)
    }
}

/// Positions by what lies around a frame. Mohamed et al., 2019 (arXiv:1904.11660).
#[derive(Module, Debug)]
pub(in crate::models) struct PositionalConvEmbedding {
    /// One of the two is there.
    conv: Option<PositionalConv>,
    /// `conv` in files as well, behind a norm and with a weight of its own; of HuBERT.
    plain: Option<PositionalConv>,
    batch_norm: Option<BatchNorm2d>,
    #[module(skip)]
    act: Activation,
}

impl PositionalConvEmbedding {
    pub(in crate::models) fn new(config: &Wav2Vec2Config, device: &Device) -> Self {
        let behind_norm = config.conv_pos_batch_norm;
        let conv = |weight_norm| PositionalConv::new(config, weight_norm, device);
        Self {
            conv: (!behind_norm).then(|| conv(true)),
            plain: behind_norm.then(|| conv(false)),
            batch_norm: behind_norm.then(|| BatchNorm2d::new(config.hidden_size, TORCH_EPS, device)),
            act: config.feat_extract_activation,
        }
    }

    /// # Shapes
    /// - x, output: `[batch, frames, hidden]`
    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let frames = x.dims()[1];
        let x = x.swap_dims(1, 2);
        let x = match &self.batch_norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let y = self.conv.iter().chain(&self.plain).fold(x, |x, conv| conv.forward(x));
        // A kernel of even size makes one frame too many.
        self.act.forward(y.narrow(2, 0, frames)).swap_dims(1, 2)
    }
}

/// A convolution with the weight `g · v / ‖v‖`, where `g` has one length for each place of the kernel; or with `v`.
/// Salimans & Kingma, 2016 (arXiv:1602.07868).
#[derive(Module, Debug)]
struct PositionalConv {
    /// `[1, 1, kernel]`
    weight_g: Option<Param<Tensor<3>>>,
    /// `[out, in / groups, kernel]`
    weight_v: Param<Tensor<3>>,
    /// `[out]`
    bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
}

impl PositionalConv {
    fn new(config: &Wav2Vec2Config, weight_norm: bool, device: &Device) -> Self {
        let (hidden, kernel) = (config.hidden_size, config.num_conv_pos_embeddings);
        let groups = config.num_conv_pos_embedding_groups;
        Self {
            weight_g: weight_norm.then(|| constant([1, 1, kernel], 1.0, device)),
            weight_v: normal([hidden, hidden / groups, kernel], POSITIONS_STD, device),
            bias: constant([hidden], 0.0, device),
            groups,
        }
    }

    /// # Shapes
    /// - x: `[batch, hidden, frames]`
    /// - output: `[batch, hidden, frames or frames + 1]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = self.weight_v.val();
        let kernel = weight.dims()[2];
        let weight = match &self.weight_g {
            Some(length) => {
                let norm = (weight.clone() * weight.clone()).sum_dim(0).sum_dim(1).sqrt();
                weight * (length.val() / norm)
            }
            None => weight,
        };
        conv1d(x, weight, Some(self.bias.val()), 1, kernel / 2, self.groups, None)
    }
}

/// Which frames are padding by the mask over samples.
///
/// # Shapes
/// - output: `[batch, frames]`
pub(in crate::models) fn padding(strides: &Strides, inputs: &AudioInputs) -> Option<Tensor<2, Bool>> {
    let mask = inputs.attention_mask.clone()?;
    let frames = strides.frames(mask.dims()[1]) as i64;
    let position = Tensor::<1, Int>::arange(0..frames, &mask.device()).unsqueeze::<2>();
    let lengths = strides.lengths(mask.sum_dim(1)); // [batch, 1]
    Some((position - lengths).greater_equal_elem(0))
}

/// Zeros in place of padding.
///
/// # Shapes
/// - x, output: `[batch, frames, hidden]`
/// - padding: `[batch, frames]`
pub(in crate::models) fn mask_padding(x: Tensor<3>, padding: &Tensor<2, Bool>) -> Tensor<3> {
    let shape = x.shape();
    x.mask_fill(padding.clone().unsqueeze_dim::<3>(2).expand(shape), 0.0)
}
