//! Writing into a part of a tensor.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use crate::cpu;

/// `buffer` with `x` in place of its rows from `at` on; without a copy if nothing else holds the buffer.
///
/// # Shapes
/// - buffer, output: `[batch, rows, heads, dim]`
/// - x: `[batch, new, heads, dim]`, where `at + new` is at most `rows`
pub fn write_rows(buffer: Tensor<4>, at: usize, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    let buffer = match cpu::write_rows(buffer, at, &x) {
        Ok(written) => return written,
        Err(buffer) => buffer,
    };
    let [batch, new, heads, dim] = x.dims();
    buffer.slice_assign([0..batch, at..at + new, 0..heads, 0..dim], x)
}
