//! Normalisation layers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::constant;

/// `(x − mean) / √(variance + eps) · weight + bias` over the last axis. Ba et al., 2016 (arXiv:1607.06450).
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[hidden]`
    pub weight: Param<Tensor<1>>,
    /// `[hidden]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// With weight and bias, as most models have it.
    pub fn new(hidden: usize, eps: f64, device: &Device) -> Self {
        Self { weight: constant([hidden], 1.0, device), bias: Some(constant([hidden], 0.0, device)), eps }
    }

    /// With a weight alone unless `bias`.
    pub fn with_bias(hidden: usize, eps: f64, bias: bool, device: &Device) -> Self {
        let norm = Self::new(hidden, eps, device);
        if bias { norm } else { Self { bias: None, ..norm } }
    }

    /// # Shapes
    /// - x, output: `[.., hidden]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.norm(x, None)
    }

    /// `forward(x + residual)`, in one pass.
    ///
    /// # Shapes
    /// - x, residual, output: `[.., hidden]`
    pub fn forward_residual<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        self.norm(x, Some(residual))
    }

    fn norm<const D: usize>(&self, x: Tensor<D>, residual: Option<Tensor<D>>) -> Tensor<D> {
        tx_kernels::layer_norm(x, residual, self.weight.val(), self.bias.as_ref().map(Param::val), self.eps)
    }
}

/// `x / √(mean(x²) + eps) · weight` over the last axis. Zhang & Sennrich, 2019 (arXiv:1910.07467).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden]`
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl RmsNorm {
    /// A norm over `hidden` elements.
    pub fn new(hidden: usize, eps: f64, device: &Device) -> Self {
        Self { weight: constant([hidden], 1.0, device), eps }
    }

    /// # Shapes
    /// - x, output: `[.., hidden]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        tx_kernels::rms_norm(x, None, self.weight.val(), self.eps)
    }
}
