//! Writing into a part of a tensor.

use burn::tensor::Tensor;
use burn::tensor::kind::Basic;

#[cfg(feature = "flex")]
use crate::cpu;

/// `buffer` with `x` in place of its rows from `at` on; without a copy if nothing else holds the buffer.
///
/// # Shapes
/// - buffer, output: `[batch, rows, heads, dim]`
/// - x: `[batch, new, heads, dim]`, where `at + new` is at most `rows`
pub fn write_rows<K: Basic>(buffer: Tensor<4, K>, at: usize, x: Tensor<4, K>) -> Tensor<4, K> {
    #[cfg(feature = "flex")]
    let buffer = match cpu::kv::write_rows(buffer, at, &x) {
        Ok(written) => return written,
        Err(buffer) => buffer,
    };
    let [batch, new, heads, dim] = x.dims();
    buffer.slice_assign([0..batch, at..at + new, 0..heads, 0..dim], x)
}
