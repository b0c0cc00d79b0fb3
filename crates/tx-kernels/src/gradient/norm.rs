//! The derivatives of norms over the last axis.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::{Graph, split, split_given};
use crate::cpu::backward::Norm;
use crate::cpu::{self, floats};

/// See [`crate::layer_norm`], and [`crate::rms_norm`] if not `centred`. The step keeps the input, which it norms again.
pub fn norm<const D: usize>(
    x: &Tensor<D>,
    residual: Option<&Tensor<D>>,
    weight: &Tensor<1>,
    bias: Option<&Tensor<1>>,
    eps: f64,
    centred: bool,
) -> Option<Tensor<D>> {
    let (x, of_x) = split(x)?;
    let (residual, of_residual) = split_given(residual)?;
    let (weight, of_weight) = split(weight)?;
    let (bias, of_bias) = split_given(bias)?;
    let graph = Graph::of([of_x, of_residual, of_weight, of_bias])?;
    let result = cpu::norm(&x, residual.as_ref(), &weight, bias.as_ref(), eps, centred)?;
    let result = floats(&result)?;
    let residual = match &residual {
        Some(residual) => Some(floats(residual)?),
        None => None,
    };
    let norm = Norm { x: floats(&x)?, residual, weight: floats(&weight)?, eps: eps as f32, centred };
    let [of_x, of_residual, of_weight, of_bias] = graph.wanted();
    let derivative = move |gradient: FlexTensor| {
        let [x, weight, bias] = norm.backward(&gradient.to_contiguous());
        // Both parts of a sum have its gradient.
        let residual = of_residual.then(|| x.clone());
        [of_x.then_some(x), residual, of_weight.then_some(weight), of_bias.then_some(bias)]
    };
    Some(graph.record(result, derivative))
}
