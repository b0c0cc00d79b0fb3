//! What training makes smaller.

use burn::tensor::{Int, Tensor};

pub use tx_kernels::IGNORED;

/// The mean cross entropy of the rows that count, as `torch.nn.CrossEntropyLoss` has it: NaN if there are none.
///
/// # Shapes
/// - logits: `[rows, classes]`
/// - labels: `[rows]`, each a class or [`IGNORED`]
/// - output: `[1]`
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, label_smoothing: f64) -> Tensor<1> {
    let labels: Vec<i64> = labels.into_data().iter::<i64>().collect();
    let (sum, count) = tx_kernels::cross_entropy(logits, &labels, label_smoothing);
    sum / count as f64
}
