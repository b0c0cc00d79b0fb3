//! Activation functions by their HF names.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};
use tx_kernels::{Pointwise, gated, gelu, gelu_tanh, silu};

/// HF's `ACT2FN`: every name that `hidden_act` and its like may have.
///
/// `prelu` and `xielu` are not here: they have weights, so they are layers and come with the models that use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · Φ(x)` with the error function.
    #[serde(alias = "gelu_python")]
    Gelu,
    /// [`Activation::Gelu`] clipped to ±10.
    #[serde(rename = "gelu_10")]
    Gelu10,
    /// GELU by tanh.
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_accurate", alias = "gelu_python_tanh", alias = "gelu_fast")]
    GeluNew,
    /// `x · σ(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    #[serde(alias = "relu_squared")]
    Relu2,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` above zero, `0.01 x` below.
    LeakyRelu,
    /// `x` above zero, `eˣ − 1` below.
    Elu,
    /// `x · σ(x)`.
    #[serde(alias = "swish")]
    Silu,
    /// `x · tanh(ln(1 + eˣ))`.
    Mish,
    /// `x · clip(x/6 + ½, 0, 1)`.
    #[serde(rename = "hardswish", alias = "hard_swish")]
    HardSwish,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `√ln(1 + eˣ)`.
    #[serde(rename = "sqrtsoftplus")]
    SqrtSoftplus,
    /// Hyperbolic tangent.
    Tanh,
    /// `½ + ½ · erf((x − μ) / (σ√2))`. Ma et al., 2022 (arXiv:2209.10655).
    Laplace,
    /// `x`.
    Linear,
}

impl Activation {
    /// The same for a product or a gate to apply in its own pass, for those that they know.
    pub(super) fn pointwise(self) -> Option<Pointwise> {
        match self {
            Self::Gelu => Some(Pointwise::Gelu),
            Self::GeluNew => Some(Pointwise::GeluTanh),
            Self::Silu => Some(Pointwise::Silu),
            Self::Relu => Some(Pointwise::Relu),
            _ => None,
        }
    }

    /// `act(gate) · up`. Shazeer, 2020 (arXiv:2002.05202).
    pub fn gate<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        match self.pointwise() {
            Some(act) => gated(act, gate, up),
            None => self.forward(gate) * up,
        }
    }

    /// Element by element.
    #[expect(clippy::approx_constant, reason = "Laplace's constants are rounded in HF, and so they are here")]
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::Gelu10 => gelu(x).clamp(-10.0, 10.0),
            Self::GeluNew => gelu_tanh(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Relu => activation::relu(x),
            Self::Relu2 => {
                let x = activation::relu(x);
                x.clone() * x
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::LeakyRelu => activation::leaky_relu(x, 0.01),
            Self::Elu => activation::elu(x, 1.0),
            Self::Silu => silu(x),
            Self::Mish => activation::mish(x),
            Self::HardSwish => x.clone() * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Sigmoid => activation::sigmoid(x),
            Self::Softplus => activation::softplus(x, 1.0),
            Self::SqrtSoftplus => activation::softplus(x, 1.0).sqrt(),
            Self::Tanh => activation::tanh(x),
            // μ = √½ and σ = √(1/4π), rounded.
            Self::Laplace => ((x - 0.707_107) / (0.282_095 * std::f64::consts::SQRT_2)).erf() * 0.5 + 0.5,
            Self::Linear => x,
        }
    }
}
