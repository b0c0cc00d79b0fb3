//! What training makes smaller.

use burn::tensor::{Int, Tensor, TensorData, activation};

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::gradient;

/// The target of rows that do not count, as PyTorch has it.
pub const IGNORED: i64 = -100;

/// The cross entropy of a softmax, summed over the rows that count, and how many these are.
///
/// The target of a row is its class; or `1 − label_smoothing` of it, and the rest shared by all classes. Szegedy et al.,
/// 2016 (arXiv:1512.00567).
///
/// # Shapes
/// - logits: `[rows, classes]`
/// - targets: the class of each row, or [`IGNORED`]
/// - output: `[1]`
///
/// # Panics
/// If there are not as many targets as rows, or one is not below the number of classes.
pub fn cross_entropy(logits: Tensor<2>, targets: &[i64], label_smoothing: f64) -> (Tensor<1>, usize) {
    let [rows, classes] = logits.dims();
    assert_eq!(targets.len(), rows, "cross_entropy: targets and rows");
    let class = |&target: &i64| (target != IGNORED).then(|| usize::try_from(target).unwrap_or(usize::MAX));
    let of_rows: Vec<Option<usize>> = targets.iter().map(class).collect();
    assert!(
        of_rows.iter().flatten().all(|&class| class < classes),
        "cross_entropy: a target is not below {classes}, the number of classes"
    );
    let count = of_rows.iter().flatten().count();
    #[cfg(feature = "flex")]
    if let Some(logits) = cpu::floats(&logits) {
        let (sum, _) = cpu::loss::cross_entropy(&logits, of_rows, label_smoothing as f32);
        return (Tensor::from_primitive::<burn::backend::Flex>(cpu::loss::scalar(sum)), count);
    }
    #[cfg(feature = "flex")]
    if let Some(sum) = gradient::cross_entropy(&logits, of_rows, label_smoothing as f32) {
        return (sum, count);
    }
    (composed(logits, targets, label_smoothing), count)
}

fn composed(logits: Tensor<2>, targets: &[i64], label_smoothing: f64) -> Tensor<1> {
    let device = logits.device();
    let dtype = logits.dtype();
    let column = |values: Vec<i64>| {
        let values = TensorData::new(values, [targets.len(), 1]);
        Tensor::<2, Int>::from_data(values, &device)
    };
    // A row that does not count has some class, and no weight.
    let classes = column(targets.iter().map(|&target| target.max(0)).collect());
    let weights = column(targets.iter().map(|&target| i64::from(target != IGNORED)).collect());
    let logs = activation::log_softmax(logits, 1); // [rows, classes]
    let of_class = logs.clone().gather(1, classes); // [rows, 1]
    let of_all = logs.mean_dim(1);
    let losses = of_class * (label_smoothing - 1.0) - of_all * label_smoothing;
    (losses * weights.float().cast(dtype)).sum()
}
