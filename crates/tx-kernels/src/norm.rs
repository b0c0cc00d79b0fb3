//! Normalisation over the last axis, and over groups of channels.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::gradient;

/// `(x − mean) / √(variance + eps) · weight + bias` over the last axis, of `x` or of its sum with a residual. Ba et al.,
/// 2016 (arXiv:1607.06450).
///
/// # Shapes
/// - x, residual, output: `[.., hidden]`
/// - weight, bias: `[hidden]`
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    residual: Option<Tensor<D>>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    eps: f64,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = fast(&x, residual.as_ref(), &weight, bias.as_ref(), eps, true) {
        return y;
    }
    burn::tensor::module::layer_norm(sum(x, residual), weight, bias, eps)
}

/// `x / √(mean(x²) + eps) · weight` over the last axis, of `x` or of its sum with a residual. Zhang & Sennrich, 2019
/// (arXiv:1910.07467).
///
/// # Shapes
/// - x, residual, output: `[.., hidden]`
/// - weight: `[hidden]`
pub fn rms_norm<const D: usize>(x: Tensor<D>, residual: Option<Tensor<D>>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = fast(&x, residual.as_ref(), &weight, None, eps, false) {
        return y;
    }
    let x = sum(x, residual);
    let mean = (x.clone() * x.clone()).mean_dim(D - 1);
    x / (mean + eps).sqrt() * weight.unsqueeze()
}

/// Either norm on the fast body, with its own derivative if autodiff asks for one.
#[cfg(feature = "flex")]
fn fast<const D: usize>(
    x: &Tensor<D>,
    residual: Option<&Tensor<D>>,
    weight: &Tensor<1>,
    bias: Option<&Tensor<1>>,
    eps: f64,
    centred: bool,
) -> Option<Tensor<D>> {
    let norm = cpu::norm(x, residual, weight, bias, eps, centred);
    norm.or_else(|| gradient::norm(x, residual, weight, bias, eps, centred))
}

/// `(x − mean) / √(variance + eps) · weight + bias`, with the statistics of each of `groups` groups of channels over all
/// places. Wu & He, 2018 (arXiv:1803.08494).
///
/// # Shapes
/// - x, output: `[batch, channels, ..]`
/// - weight, bias: `[channels]`
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::group_norm(&x, groups, &weight, &bias, eps) {
        return y;
    }
    let shape = x.dims();
    let rows = x.reshape([shape[0], groups, shape[1..].iter().product::<usize>() / groups]);
    let centred = rows.clone() - rows.mean_dim(2);
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let normed = (centred / (variance + eps).sqrt()).reshape(shape);
    let mut channels = [1; D];
    channels[1] = shape[1];
    normed * weight.reshape(channels) + bias.reshape(channels)
}

fn sum<const D: usize>(x: Tensor<D>, residual: Option<Tensor<D>>) -> Tensor<D> {
    match residual {
        Some(residual) => x + residual,
        None => x,
    }
}
