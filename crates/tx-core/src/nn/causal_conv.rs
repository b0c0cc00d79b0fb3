//! Convolutions that see the past alone.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::adapter::value;
use super::{Activation, INITIALIZER_RANGE, constant, normal};

/// `act(Σₖ weight[k] · x[t − (kernel − 1) + k] + bias)` for each channel by itself.
#[derive(Module, Debug)]
pub struct CausalConv1d {
    /// `[channels, 1, kernel]`
    pub weight: Param<Tensor<3>>,
    /// `[channels]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    act: Activation,
}

impl CausalConv1d {
    /// A convolution over the last `kernel` tokens, at least two.
    pub fn new(channels: usize, kernel: usize, bias: bool, act: Activation, device: &Device) -> Self {
        Self {
            weight: normal([channels, 1, kernel], INITIALIZER_RANGE, device),
            bias: bias.then(|| constant([channels], 0.0, device)),
            act,
        }
    }

    /// The tokens follow those in `state`, which keeps the last of them: [`States::conv`](super::States::conv).
    ///
    /// # Shapes
    /// - x, output: `[batch, channels, seq]`
    /// - state: `[batch, channels, kernel - 1]`
    pub fn forward(&self, x: Tensor<3>, state: &mut Option<Tensor<3>>) -> Tensor<3> {
        let weight = value(&self.weight).squeeze_dim::<2>(1);
        let bias = self.bias.as_ref().map(value);
        let pointwise = self.act.pointwise();
        let (y, last) = tx_kernels::causal_conv1d(x, state.take(), weight, bias, pointwise);
        *state = Some(last);
        if pointwise.is_some() { y } else { self.act.forward(y) }
    }
}
