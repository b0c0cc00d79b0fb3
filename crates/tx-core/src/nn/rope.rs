//! Rotary position embeddings. Su et al., 2021 (arXiv:2104.09864).

use burn::tensor::{Device, Int, Tensor};

/// The frequencies of a rotation.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Radians per position, one for each pair of elements.
    inv_freq: Vec<f32>,
}

/// Cosine and sine for the positions of one batch.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Tensor<4>, // [batch or 1, seq, 1, head_dim]
    sin: Tensor<4>,
}

impl Rope {
    /// `theta^(-2i/head_dim)` radians per position.
    pub fn new(head_dim: usize, theta: f64) -> Self {
        // In f32, as the reference computes it.
        let inv_freq = |i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32);
        Self { inv_freq: (0..head_dim / 2).map(inv_freq).collect() }
    }

    /// # Shapes
    /// - position_ids: `[batch or 1, seq]`
    pub fn table(&self, position_ids: Tensor<2, Int>) -> RopeTable {
        let device: Device = position_ids.device();
        let [batch, seq] = position_ids.dims();
        let half = self.inv_freq.len();
        let inv_freq = Tensor::<1>::from_floats(self.inv_freq.as_slice(), &device).reshape([1, 1, 1, half]);
        let angles = position_ids.float().reshape([batch, seq, 1, 1]) * inv_freq;
        let angles = Tensor::cat(vec![angles.clone(), angles], 3);
        RopeTable { cos: angles.clone().cos(), sin: angles.sin() }
    }
}

impl RopeTable {
    /// Rotates each pair `(x[i], x[i + head_dim/2])` by its position's angle.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, heads, head_dim]`
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        tx_kernels::rotary(x, self.cos.clone(), self.sin.clone())
    }
}
