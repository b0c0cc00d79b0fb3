//! The matrix product of every model.

use burn::tensor::{DType, Tensor};

use crate::Pointwise;
#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::gradient;
use crate::quantize::dequantize;

/// `act(x · Wᵀ + b)`, with the weight as it lies in a checkpoint.
///
/// The weight may have another dtype than `x`: 16-bit weights under f32 activations, or a quantized one (see
/// [`quantize_int8`](crate::quantize_int8)). The result has the dtype of `x`. Processors that multiply bf16 (AVX512-BF16)
/// round `x` to bf16 for bf16 weights, as PyTorch rounds all activations of such a model; the sums are f32.
///
/// # Shapes
/// - x: `[.., in]`
/// - weight: `[out, in]`
/// - bias: `[out]`
/// - output: `[.., out]`
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Option<Pointwise>,
) -> Tensor<D> {
    let [y] = linears(x, [(weight, bias)], act);
    y
}

/// [`linear`] with several weights and one input, which is read once.
///
/// # Shapes
/// - x: `[.., in]`
/// - layers: weights `[out, in]` and biases `[out]`; each may have another `out`
/// - output: `[.., out]` of each
pub fn linears<const D: usize, const N: usize>(
    x: Tensor<D>,
    layers: [(Tensor<2>, Option<Tensor<1>>); N],
    act: Option<Pointwise>,
) -> [Tensor<D>; N] {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::linears(&x, &layers, act).or_else(|| gradient::linears(&x, &layers, act)) {
        return y;
    }
    layers.map(|(weight, bias)| composed(x.clone(), weight, bias, act))
}

/// [`linear`] with a weight that lies the other way round, as GPT-2's `Conv1D` has it.
///
/// # Shapes
/// - x: `[.., in]`
/// - weight: `[in, out]`; `[out, in]` if it is quantized, as all quantized weights are
/// - bias: `[out]`
/// - output: `[.., out]`
pub fn linear_transposed<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Option<Pointwise>,
) -> Tensor<D> {
    if matches!(weight.dtype(), DType::QFloat(_)) {
        return linear(x, weight, bias, act);
    }
    #[cfg(feature = "flex")]
    {
        let fast = cpu::linear_transposed(&x, &weight, bias.as_ref(), act);
        if let Some(y) = fast.or_else(|| gradient::linear_transposed(&x, &weight, bias.as_ref(), act)) {
            return y;
        }
    }
    composed(x, weight.transpose(), bias, act)
}

fn composed<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Option<Pointwise>,
) -> Tensor<D> {
    let [out, input] = weight.dims();
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product::<usize>();
    let dtype = x.dtype();
    let weight = match weight.dtype() {
        DType::QFloat(_) => dequantize(weight),
        _ => weight,
    };
    let weight = if weight.dtype() == dtype { weight } else { weight.cast(dtype) };
    let y = x.reshape([rows, input]).matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    let y = match act {
        Some(act) => act.forward(y),
        None => y,
    };
    shape[D - 1] = out;
    y.reshape(shape)
}
