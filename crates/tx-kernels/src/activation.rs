//! Element-wise activations and softmax.

use burn::tensor::{Tensor, activation};

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::gradient;

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
        #[cfg(feature = "flex")]
        if let Some(y) = gradient::pointwise(&x, self) {
            return y;
        }
        self.reference(x)
    }

    fn reference<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
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

/// `act(gate) · up`, the heart of a gated MLP. Shazeer, 2020 (arXiv:2002.05202).
pub fn gated<const D: usize>(act: Pointwise, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::gated(act, &gate, &up).or_else(|| gradient::gated(act, &gate, &up)) {
        return y;
    }
    act.reference(gate) * up
}

/// [`gated`] by [`silu`].
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(Pointwise::Silu, gate, up)
}

/// `eˣ / Σ eˣ` over the last axis.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    let x = match cpu::softmax(x) {
        Ok(y) => return y,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    if let Some(y) = gradient::softmax(&x) {
        return y;
    }
    activation::softmax(x, D - 1)
}
