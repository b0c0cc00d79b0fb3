//! Normalisation layers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::adapter::value;
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
        tx_kernels::layer_norm(x, residual, value(&self.weight), self.bias.as_ref().map(value), self.eps)
    }
}

/// `x / √(mean(x²) + eps) · weight` over the last axis. Zhang & Sennrich, 2019 (arXiv:1910.07467).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden]`
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
    /// Added to the weight.
    #[module(skip)]
    offset: f64,
}

impl RmsNorm {
    /// A norm over `hidden` elements.
    pub fn new(hidden: usize, eps: f64, device: &Device) -> Self {
        Self { weight: constant([hidden], 1.0, device), eps, offset: 0.0 }
    }

    /// A norm that multiplies by `1 + weight`: a weight of zeros changes nothing.
    pub fn with_offset(hidden: usize, eps: f64, device: &Device) -> Self {
        Self { weight: constant([hidden], 0.0, device), eps, offset: 1.0 }
    }

    /// # Shapes
    /// - x, output: `[.., hidden]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = value(&self.weight);
        let weight = if self.offset == 0.0 { weight } else { weight + self.offset };
        tx_kernels::rms_norm(x, None, weight, self.eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_norm_changes_nothing_but_the_scale() {
        let device = Device::default();
        // The mean square is one half of 9 + 16.
        let expected = [3.0 / 12.5_f32.sqrt(), 4.0 / 12.5_f32.sqrt()];
        for norm in [RmsNorm::new(2, 0.0, &device), RmsNorm::with_offset(2, 0.0, &device)] {
            let y = norm.forward(Tensor::<2>::from_floats([[3.0, 4.0]], &device));
            for (found, expected) in y.into_data().iter::<f32>().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
            }
        }
    }
}
