//! The derivative of rotary position embeddings.

use burn::tensor::Tensor;

use super::{Graph, split};
use crate::Pairs;
use crate::cpu::{self, backward, floats};

/// See [`crate::rotary`], of angles that are constants.
pub fn rotary(x: &Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>, pairs: Pairs) -> Option<Tensor<4>> {
    let (x, of_x) = split(x)?;
    let ((cos, of_cos), (sin, of_sin)) = (split(cos)?, split(sin)?);
    let graph = Graph::of([of_x, of_cos, of_sin])?;
    if graph.wanted()[1..].contains(&true) {
        return None;
    }
    let result = floats(&cpu::rotary(&x, &cos, &sin, pairs)?)?;
    let (shape, angles) = (x.dims(), cos.dims());
    let (cos, sin) = (floats(&cos)?, floats(&sin)?);
    let derivative = move |gradient| [backward::rotary(gradient, shape, [&cos, &sin], angles, pairs), None, None];
    Some(graph.record(result, derivative))
}
