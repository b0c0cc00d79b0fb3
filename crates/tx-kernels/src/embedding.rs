//! Rows of a table by number.

use burn::tensor::{Int, Tensor};

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::gradient;

/// Rows of a table of any float dtype, in the dtype that the device computes with.
///
/// # Shapes
/// - table: `[rows, hidden]`
/// - ids: `[n]`, each below `rows`
/// - output: `[n, hidden]`
pub fn embedding(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::embedding(&table, &ids).or_else(|| gradient::embedding(&table, &ids)) {
        return y;
    }
    let dtype = ids.device().settings().float_dtype;
    table.select(0, ids).cast(dtype)
}
