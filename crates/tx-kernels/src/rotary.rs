//! Rotary position embeddings.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use crate::cpu;

/// Rotates each pair `(x[i], x[i + head_dim/2])` by the angle of its position. Su et al., 2021 (arXiv:2104.09864), with
/// the halves of GPT-NeoX.
///
/// # Shapes
/// - x, output: `[batch, seq, heads, head_dim]`
/// - cos, sin: `[batch or 1, seq, 1, head_dim]`
pub fn rotary(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::rotary(&x, &cos, &sin) {
        return y;
    }
    let half = x.dims()[3] / 2;
    let (left, right) = (x.clone().narrow(3, 0, half), x.clone().narrow(3, half, half));
    let rotated = Tensor::cat(vec![-right, left], 3);
    x * cos + rotated * sin
}
