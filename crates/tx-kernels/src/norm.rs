//! Normalisation over the last axis.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use crate::cpu;

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
    if let Some(y) = cpu::norm(&x, residual.as_ref(), &weight, bias.as_ref(), eps, true) {
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
    if let Some(y) = cpu::norm(&x, residual.as_ref(), &weight, None, eps, false) {
        return y;
    }
    let x = sum(x, residual);
    let mean = (x.clone() * x.clone()).mean_dim(D - 1);
    x / (mean + eps).sqrt() * weight.unsqueeze()
}

fn sum<const D: usize>(x: Tensor<D>, residual: Option<Tensor<D>>) -> Tensor<D> {
    match residual {
        Some(residual) => x + residual,
        None => x,
    }
}
