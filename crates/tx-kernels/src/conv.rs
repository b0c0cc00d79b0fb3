//! Convolutions over pictures and sounds, with what usually follows them.

use burn::tensor::module;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor};

use crate::Pointwise;
#[cfg(feature = "flex")]
use crate::cpu;

/// What is done to the result of a convolution while it is at hand: `act(y · scale + shift + residual)`.
#[derive(Debug, Clone, Default)]
pub struct Epilogue {
    /// `[out]`: a normalisation by fixed statistics.
    pub scale: Option<Tensor<1>>,
    /// `[out]`: the bias, or what a normalisation adds.
    pub shift: Option<Tensor<1>>,
    /// `[batch, out, height, width]`
    pub residual: Option<Tensor<4>>,
    /// Element by element.
    pub act: Option<Pointwise>,
}

/// A convolution, and its [`Epilogue`].
///
/// # Shapes
/// - x: `[batch, in, height, width]`
/// - weight: `[out, in / groups, kernel_height, kernel_width]`, of any float dtype
/// - output: `[batch, out, height', width']`
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, options: &ConvOptions<2>, epilogue: Epilogue) -> Tensor<4> {
    let dtype = x.dtype();
    let weight = if weight.dtype() == dtype { weight } else { weight.cast(dtype) };
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::conv2d(&x, &weight, options, &epilogue) {
        return y;
    }
    let per_channel = |x: Tensor<1>| {
        let channels = x.dims()[0];
        x.reshape([1, channels, 1, 1])
    };
    let mut y = module::conv2d(x, weight, None, options.clone());
    if let Some(scale) = epilogue.scale {
        y = y * per_channel(widened(scale, dtype));
    }
    if let Some(shift) = epilogue.shift {
        y = y + per_channel(widened(shift, dtype));
    }
    if let Some(residual) = epilogue.residual {
        y = y + residual;
    }
    match epilogue.act {
        Some(act) => act.forward(y),
        None => y,
    }
}

fn widened(x: Tensor<1>, dtype: DType) -> Tensor<1> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
