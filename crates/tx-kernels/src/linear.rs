//! The matrix product of every model.

use burn::tensor::Tensor;

/// `x · Wᵀ + b`, with the weight as it lies in a checkpoint.
///
/// The weight may have another dtype than `x` (16-bit weights under f32 activations); the result has that of `x`.
///
/// # Shapes
/// - x: `[.., in]`
/// - weight: `[out, in]`
/// - bias: `[out]`
/// - output: `[.., out]`
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let [out, input] = weight.dims();
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product::<usize>();
    let dtype = x.dtype();
    let weight = if weight.dtype() == dtype { weight } else { weight.cast(dtype) };
    let y = x.reshape([rows, input]).matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    shape[D - 1] = out;
    y.reshape(shape)
}
