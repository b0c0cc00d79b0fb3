//! Element-wise activations and softmax.

use burn::backend::Dispatch;
use burn::tensor::{Tensor, activation};

use crate::backend::{Kernels, unary};
use crate::reference;

/// `x · Φ(x)` with the error function. Hendrycks & Gimpel, 2016 (arXiv:1606.08415).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if reference() { activation::gelu(x) } else { unary(x, Dispatch::tx_gelu) }
}

/// `½x · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`, the approximation of GELU.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if reference() { activation::gelu_approximate(x) } else { unary(x, Dispatch::tx_gelu_tanh) }
}

/// `eˣ / Σ eˣ` over the last axis.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if reference() { activation::softmax(x, D - 1) } else { unary(x, Dispatch::tx_softmax) }
}
