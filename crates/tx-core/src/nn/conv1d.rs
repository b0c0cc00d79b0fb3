//! The matrix product whose weight lies the other way round.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::adapter::{self, LinearBase};
use super::{Activation, INITIALIZER_RANGE, constant, normal};

/// `y = x · W + b`, with the weight as HF's `Conv1D` keeps it: transposed against a [`Linear`](super::Linear).
///
/// Nothing is transposed, copied or converted when it is loaded; 16-bit weights stay 16-bit under f32 activations. A weight
/// that is quantized on the way lies as that of a [`Linear`](super::Linear): `[out, in]`.
#[derive(Module, Debug)]
pub struct Conv1dLinear {
    /// `[in, out]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
}

impl Conv1dLinear {
    /// `input` features to `output` features.
    pub fn new(input: usize, output: usize, device: &Device) -> Self {
        Self { weight: normal([input, output], INITIALIZER_RANGE, device), bias: constant([output], 0.0, device) }
    }

    /// # Shapes
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), Some(adapter::value(&self.bias)));
        match adapter::of_linear(self.weight.id) {
            Some(adapter) => adapter::apply(&*adapter, x, LinearBase::new(weight, bias, true)),
            None => tx_kernels::linear_transposed(x, weight, bias, None),
        }
    }

    /// `act(forward(x))`, in one pass.
    ///
    /// # Shapes
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward_activated<const D: usize>(&self, x: Tensor<D>, act: Activation) -> Tensor<D> {
        let pointwise = act.pointwise().filter(|_| adapter::of_linear(self.weight.id).is_none());
        let Some(pointwise) = pointwise else { return act.forward(self.forward(x)) };
        tx_kernels::linear_transposed(x, self.weight.val(), Some(adapter::value(&self.bias)), Some(pointwise))
    }
}
