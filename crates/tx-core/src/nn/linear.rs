//! The matrix product that all models go through.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::{Activation, INITIALIZER_RANGE, constant, normal};

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
        let (weight, bias) = self.parameters();
        tx_kernels::linear(x, weight, bias, None)
    }

    /// `act(forward(x))`, in one pass.
    ///
    /// # Shapes
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward_activated<const D: usize>(&self, x: Tensor<D>, act: Activation) -> Tensor<D> {
        let Some(pointwise) = act.pointwise() else { return act.forward(self.forward(x)) };
        let (weight, bias) = self.parameters();
        tx_kernels::linear(x, weight, bias, Some(pointwise))
    }

    fn parameters(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}

/// Several projections of one input, which is read once.
///
/// # Shapes
/// - x: `[.., in]`
/// - output: `[.., out]` of each layer
pub fn project<const D: usize, const N: usize>(x: Tensor<D>, layers: [&Linear; N]) -> [Tensor<D>; N] {
    tx_kernels::linears(x, layers.map(Linear::parameters), None)
}
