//! Element-wise activations and softmax.

use burn::tensor::{Tensor, activation};

#[cfg(feature = "flex")]
use crate::cpu;

/// The activations that a product can apply to its result while that is in the nearest cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// See [`gelu`].
    Gelu,
    /// See [`gelu_tanh`].
    GeluTanh,
    /// See [`silu`].
    Silu,
    /// `max(x, 0)`.
    Relu,
}

impl Pointwise {
    /// Element by element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "flex")]
        let x = match cpu::pointwise(x, self) {
            Ok(y) => return y,
            Err(x) => x,
        };
        match self {
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::Silu => activation::silu(x),
            Self::Relu => activation::relu(x),
        }
    }
}

/// `x · Φ(x)` with the error function. Hendrycks & Gimpel, 2016 (arXiv:1606.08415).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Pointwise::Gelu.forward(x)
}

/// `½x · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`, the approximation of GELU.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Pointwise::GeluTanh.forward(x)
}

/// `x · σ(x)`. Elfwing et al., 2017 (arXiv:1702.03118).
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Pointwise::Silu.forward(x)
}

/// `silu(gate) · up`, the heart of a gated MLP. Shazeer, 2020 (arXiv:2002.05202).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::swiglu(&gate, &up) {
        return y;
    }
    activation::silu(gate) * up
}

/// `eˣ / Σ eˣ` over the last axis.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    let x = match cpu::softmax(x) {
        Ok(y) => return y,
        Err(x) => x,
    };
    activation::softmax(x, D - 1)
}
