//! The derivative of rows of a table.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Int, Tensor};

use super::{Graph, split};
use crate::cpu::{self, backward, floats};

/// See [`crate::embedding`].
pub fn embedding(table: &Tensor<2>, ids: &Tensor<1, Int>) -> Option<Tensor<2>> {
    let (table, of_table) = split(table)?;
    let (ids, _) = split(ids)?;
    let graph = Graph::of([of_table])?;
    let result = floats(&cpu::embedding(&table, &ids)?)?;
    let (ids, dims, dtype) = (cpu::numbers(&ids)?, table.dims(), table.dtype());
    let derivative = move |gradient: FlexTensor| {
        let gradient = gradient.to_contiguous();
        [Some(backward::cast(backward::embedding(&ids, dims, &gradient), dtype))]
    };
    Some(graph.record(result, derivative))
}
