//! The derivative of the cross entropy.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::{Graph, split};
use crate::cpu::{self, floats, slice};

/// See [`crate::cross_entropy`]. The step keeps the logits, and turns them into their gradient.
pub fn cross_entropy(logits: &Tensor<2>, classes: Vec<Option<usize>>, smoothing: f32) -> Option<Tensor<1>> {
    let (logits, of_logits) = split(logits)?;
    let graph = Graph::of([of_logits])?;
    let logits = floats(&logits)?;
    let (sum, targets) = cpu::loss::cross_entropy(&logits, classes, smoothing);
    let derivative = move |gradient: FlexTensor| {
        let gradient = gradient.to_contiguous();
        let factor = slice(&gradient).first().copied().unwrap_or(0.0);
        [Some(cpu::loss::cross_entropy_backward(logits, &targets, factor))]
    };
    Some(graph.record(cpu::loss::scalar(sum), derivative))
}
