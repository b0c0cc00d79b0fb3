//! Normalisation over the last axis.

use burn::tensor::Tensor;

/// `(x − mean) / √(variance + eps) · weight + bias` over the last axis. Ba et al., 2016 (arXiv:1607.06450).
///
/// # Shapes
/// - x, output: `[.., hidden]`
/// - weight, bias: `[hidden]`
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Option<Tensor<1>>, eps: f64) -> Tensor<D> {
    burn::tensor::module::layer_norm(x, weight, bias, eps)
}

/// `x / √(mean(x²) + eps) · weight` over the last axis. Zhang & Sennrich, 2019 (arXiv:1910.07467).
///
/// # Shapes
/// - x, output: `[.., hidden]`
/// - weight: `[hidden]`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let mean = (x.clone() * x.clone()).mean_dim(D - 1);
    x / (mean + eps).sqrt() * weight.unsqueeze()
}
