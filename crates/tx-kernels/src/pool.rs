//! Pooling of pictures.

use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Tensor, module};

#[cfg(feature = "flex")]
use crate::cpu;

/// The largest of what each pixel of the result sees of its channel. What lies outside is not seen; NaN stays.
///
/// # Shapes
/// - x: `[batch, channels, height, width]`
/// - output: `[batch, channels, height', width']`
pub fn max_pool2d(x: Tensor<4>, options: MaxPoolOptions<2>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::max_pool2d(&x, &options) {
        return y;
    }
    module::max_pool2d(x, options)
}
