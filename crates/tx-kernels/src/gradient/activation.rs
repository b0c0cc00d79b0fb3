//! The derivatives of what goes element by element, and of softmax.

use burn::tensor::Tensor;

use super::{Graph, split};
use crate::Pointwise;
use crate::cpu::{self, backward, floats};

/// See [`Pointwise::forward`].
pub fn pointwise<const D: usize>(x: &Tensor<D>, act: Pointwise) -> Option<Tensor<D>> {
    let (x, of_x) = split(x)?;
    let graph = Graph::of([of_x])?;
    let x = floats(&x)?;
    let result = backward::activated(act, &x);
    Some(graph.record(result, move |gradient| [Some(backward::pointwise(act, &x, gradient))]))
}

/// See [`crate::gated`].
pub fn gated<const D: usize>(act: Pointwise, gate: &Tensor<D>, up: &Tensor<D>) -> Option<Tensor<D>> {
    let (gate, of_gate) = split(gate)?;
    let (up, of_up) = split(up)?;
    let graph = Graph::of([of_gate, of_up])?;
    let result = floats(&cpu::gated(act, &gate, &up)?)?;
    let (gate, up) = (floats(&gate)?, floats(&up)?);
    let [of_gate, of_up] = graph.wanted();
    let derivative = move |gradient| {
        let [gate, up] = backward::gated(act, &gate, &up, gradient);
        [of_gate.then_some(gate), of_up.then_some(up)]
    };
    Some(graph.record(result, derivative))
}

/// See [`crate::softmax`]. Its result is what the derivative needs.
pub fn softmax<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    let (x, of_x) = split(x)?;
    let graph = Graph::of([of_x])?;
    let row = x.dims()[D - 1];
    let result = backward::softmaxed(&floats(&x)?, row);
    let y = result.clone();
    Some(graph.record(result, move |gradient| [Some(backward::softmax(&y, row, gradient))]))
}
