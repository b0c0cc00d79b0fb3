//! The matrix product that all models go through.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::{INITIALIZER_RANGE, constant, normal};

/// `y = x · Wᵀ + b`, with the weight in the checkpoint's layout and dtype.
///
/// Nothing is transposed, copied or converted when it is loaded; 16-bit weights stay 16-bit under f32 activations.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `input` features to `output` features.
    pub fn new(input: usize, output: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: normal([output, input], INITIALIZER_RANGE, device),
            bias: bias.then(|| constant([output], 0.0, device)),
        }
    }

    /// # Shapes
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        tx_kernels::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}
