//! Patches of a spectrogram, into which parts of a longer sound are mixed: attentional feature fusion.
//!
//! Dai et al., 2021 (arXiv:2009.14082).

use burn::module::Module;
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Int, Tensor, activation};
use tx_core::nn::{Activation, BatchNorm2d, Conv2d, LayerNorm};

use super::config::ClapAudioConfig;

/// The epsilon of norms that have no key.
pub(super) const EPS: f64 = 1e-5;

/// Patches of the whole sound, and where it was longer, of parts of it.
#[derive(Module, Debug)]
pub(super) struct PatchEmbed {
    proj: Conv2d,
    norm: Option<LayerNorm>,
    fusion_model: Option<AffBlock>,
    mel_conv2d: Option<Conv2d>,
    /// Whether patches neither overlap nor leave anything out.
    #[module(skip)]
    is_plain: bool,
}

impl PatchEmbed {
    pub(super) fn new(config: &ClapAudioConfig, device: &Device) -> Self {
        let (channels, [height, width]) = (config.patch_embeds_hidden_size, config.patch_size);
        let [rows, columns] = config.patch_stride;
        let padding = config.padding().map(|zeros| [zeros, zeros]);
        let conv = |kernel, strides| {
            Conv2d::new(1, channels, kernel, device).with_bias(true).with_strides(strides).with_paddings(padding)
        };
        let fusion = config.enable_fusion;
        Self {
            proj: conv([height, width], [rows, columns]),
            norm: config.enable_patch_layer_norm.then(|| LayerNorm::new(channels, EPS, device)),
            fusion_model: fusion.then(|| AffBlock::new(channels, config.aff_block_r, device)),
            mel_conv2d: fusion.then(|| conv([height, 3 * width], [rows, 3 * columns])),
            is_plain: config.patch_size == config.patch_stride,
        }
    }

    /// # Shapes
    /// - x: `[batch, views, height, width]`
    /// - is_longer: `[batch, 1]`
    /// - output: `[batch, rows · columns, channels]`
    pub(super) fn forward(&self, x: Tensor<4>, is_longer: Option<&Tensor<2, Int>>) -> Tensor<3> {
        let [batch, views, _, _] = x.dims();
        let whole = x.clone().narrow(1, 0, 1);
        let y = match (&self.fusion_model, &self.mel_conv2d, is_longer) {
            (Some(fusion), Some(conv), Some(is_longer)) => {
                let y = self.proj.forward(whole);
                let shape = y.dims();
                // A longer sound without parts is mixed with silence, as in the reference.
                let parts = if views > 1 { parts(conv, x.narrow(1, 1, views - 1), shape[3]) } else { y.zeros_like() };
                let fused = fusion.forward(y.clone(), parts);
                let longer = is_longer.clone().bool().reshape([batch, 1, 1, 1]).expand(shape);
                sequence(y.mask_where(longer, fused))
            }
            _ if self.is_plain => self.proj.forward_patches(whole),
            _ => sequence(self.proj.forward(whole)),
        };
        match &self.norm {
            Some(norm) => norm.forward(y),
            None => y,
        }
    }
}

/// Patches of the parts beside each other, three times as wide, with zeros behind them.
///
/// # Shapes
/// - x: `[batch, views, height, width]`
/// - output: `[batch, channels, rows, columns]`
fn parts(conv: &Conv2d, x: Tensor<4>, columns: usize) -> Tensor<4> {
    let [batch, views, height, width] = x.dims();
    let x = conv.forward(x.reshape([batch * views, 1, height, width]));
    let [_, channels, rows, each] = x.dims();
    let x = x.reshape([batch, views, channels, rows, each]).permute([0, 2, 3, 1, 4]);
    let x = x.reshape([batch, channels, rows, views * each]);
    x.pad([(0, columns - views * each)], PadMode::Constant(0.0))
}

/// # Shapes
/// - x: `[batch, channels, rows, columns]`
/// - output: `[batch, rows · columns, channels]`
fn sequence(x: Tensor<4>) -> Tensor<3> {
    x.flatten::<3>(2, 3).swap_dims(1, 2)
}

/// A mean of two maps whose weights depend on both.
#[derive(Module, Debug)]
struct AffBlock {
    local_att: Bottleneck,
    global_att: Bottleneck,
}

impl AffBlock {
    fn new(channels: usize, reduction: usize, device: &Device) -> Self {
        let bottleneck = || Bottleneck::new(channels, channels / reduction, device);
        Self { local_att: bottleneck(), global_att: bottleneck() }
    }

    /// # Shapes
    /// - x, y, output: `[batch, channels, rows, columns]`
    fn forward(&self, x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
        let sum = x.clone() + y.clone();
        let global = self.global_att.forward(sum.clone().mean_dims(&[2, 3]));
        let weight = activation::sigmoid(self.local_att.forward(sum) + global);
        (y.clone() + (x - y) * weight) * 2.0
    }
}

/// Two products over channels, each with a norm.
#[derive(Module, Debug)]
struct Bottleneck {
    conv1: Conv2d,
    norm1: BatchNorm2d,
    conv2: Conv2d,
    norm2: BatchNorm2d,
}

impl Bottleneck {
    fn new(channels: usize, inner: usize, device: &Device) -> Self {
        let conv = |from, to| Conv2d::new(from, to, [1, 1], device).with_bias(true);
        Self {
            conv1: conv(channels, inner),
            norm1: BatchNorm2d::new(inner, EPS, device),
            conv2: conv(inner, channels),
            norm2: BatchNorm2d::new(channels, EPS, device),
        }
    }

    /// # Shapes
    /// - x, output: `[batch, channels, rows, columns]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.conv1.forward_normed(x, &self.norm1, None, Activation::Relu);
        self.conv2.forward_normed(x, &self.norm2, None, Activation::Linear)
    }
}
