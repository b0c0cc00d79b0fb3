//! Rotary position embeddings.

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::gradient;

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pairs {
    /// `(x[i], x[i + n/2])`: GPT-NeoX and most that came after.
    #[default]
    Halves,
    /// `(x[2i], x[2i + 1])`: the paper, GPT-J.
    Neighbours,
}

/// Rotates each pair of the first `rotated` elements by the angle of its position; the others stay. Su et al., 2021
/// (arXiv:2104.09864).
///
/// # Shapes
/// - x, output: `[batch, seq, heads, head_dim]`
/// - cos, sin: `[batch or 1, seq, 1, rotated]`, each angle at both elements of its pair
pub fn rotary(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>, pairs: Pairs) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::rotary(&x, &cos, &sin, pairs).or_else(|| gradient::rotary(&x, &cos, &sin, pairs)) {
        return y;
    }
    let [batch, seq, heads, head_dim] = x.dims();
    let rotated = cos.dims()[3];
    let half = rotated / 2;
    let part = x.clone().narrow(3, 0, rotated);
    let turned = match pairs {
        Pairs::Halves => {
            let (left, right) = (part.clone().narrow(3, 0, half), part.clone().narrow(3, half, half));
            Tensor::cat(vec![-right, left], 3)
        }
        Pairs::Neighbours => {
            let split = part.clone().reshape([batch, seq, heads, half, 2]);
            let (left, right) = (split.clone().narrow(4, 0, 1), split.narrow(4, 1, 1));
            Tensor::cat(vec![-right, left], 4).reshape([batch, seq, heads, rotated])
        }
    };
    let y = part * cos + turned * sin;
    if rotated == head_dim { y } else { Tensor::cat(vec![y, x.narrow(3, rotated, head_dim - rotated)], 3) }
}
