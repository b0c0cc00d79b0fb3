//! What training makes smaller, for each task.
//!
//! A [`Loss`] is a sum, and the number of items that it is over: labels, numbers, or texts. The losses of several batches,
//! and of several processes, are added up and divided once, by the number of all their items, as HF does with
//! `num_items_in_batch`: so it makes no difference how an update is cut into batches.
//!
//! Labels are on the host, for they decide which rows count at all. Whoever has the scores makes sure that they are
//! classes.
//!
//! Reference: transformers 5.23.0, `loss/loss_utils.py`; sentence-transformers, `MultipleNegativesRankingLoss` and
//! `CosineSimilarityLoss`.

use burn::tensor::{DType, Int, Tensor, TensorData, activation};

pub use tx_kernels::IGNORED;

/// The square of the least length that a vector is divided by: that of PyTorch's `normalize`.
const LEAST_SQUARE: f32 = 1e-24;

/// A sum of losses.
#[derive(Debug, Clone)]
pub struct Loss {
    /// `[1]`, in f32.
    pub sum: Tensor<1>,
    /// How many items it is over.
    pub items: usize,
}

impl Loss {
    /// The mean over its own items: NaN if there are none.
    ///
    /// # Shapes
    /// - output: `[1]`
    pub fn mean(self) -> Tensor<1> {
        self.sum / self.items as f64
    }

    /// Its part of the mean over all items of an update; zero for an update that has none.
    ///
    /// # Shapes
    /// - output: `[1]`
    pub fn part(self, num_items_in_batch: f64) -> Tensor<1> {
        self.sum / num_items_in_batch.max(1.0)
    }
}

/// How many labels count.
pub fn count(labels: &[i64]) -> usize {
    labels.iter().filter(|&&label| label != IGNORED).count()
}

/// The mean cross entropy of the rows that count, as `torch.nn.CrossEntropyLoss` has it: NaN if there are none.
///
/// # Shapes
/// - logits: `[rows, classes]`
/// - labels: `[rows]`, each a class or [`IGNORED`]
/// - output: `[1]`
///
/// # Panics
/// If a label is something else.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, label_smoothing: f64) -> Tensor<1> {
    let labels: Vec<i64> = labels.into_data().iter::<i64>().collect();
    classes(logits, &labels, label_smoothing).mean()
}

/// The cross entropy of one class for each row.
///
/// # Shapes
/// - logits: `[rows, classes]`
/// - labels: `rows`, each a class or [`IGNORED`]
///
/// # Panics
/// If a label is something else.
pub fn classes(logits: Tensor<2>, labels: &[i64], label_smoothing: f64) -> Loss {
    let (sum, items) = tx_kernels::cross_entropy(in_f32(logits), labels, label_smoothing);
    Loss { sum, items }
}

/// The cross entropy of one class for each token: of token classification, and of masked language modelling.
///
/// # Shapes
/// - logits: `[batch, seq, classes]`
/// - labels: `batch · seq`, each a class or [`IGNORED`]
///
/// # Panics
/// If a label is something else.
pub fn tokens(logits: Tensor<3>, labels: &[i64], label_smoothing: f64) -> Loss {
    let [batch, seq, count] = logits.dims();
    classes(logits.reshape([batch * seq, count]), labels, label_smoothing)
}

/// The labels of causal language modelling: for each token the next one, and [`IGNORED`] for the last of a row.
pub fn next_tokens(labels: &[i64], seq: usize) -> Vec<i64> {
    let rows = labels.chunks(seq.max(1));
    rows.flat_map(|row| row.iter().skip(1).copied().chain(std::iter::once(IGNORED))).collect()
}

/// The cross entropy of the first and of the last token of each answer; a place outside of the row does not count.
///
/// # Shapes
/// - start_logits, end_logits: `[batch, seq]`
/// - starts, ends: `batch`
pub fn answers(start_logits: Tensor<2>, end_logits: Tensor<2>, starts: &[i64], ends: &[i64]) -> Loss {
    let seq = start_logits.dims()[1] as i64;
    let inside = |places: &[i64]| -> Vec<i64> {
        places.iter().map(|&place| if place < seq { place.max(0) } else { IGNORED }).collect()
    };
    let start = classes(start_logits, &inside(starts), 0.0);
    let end = classes(end_logits, &inside(ends), 0.0);
    Loss { sum: start.sum + end.sum, items: start.items + end.items }
}

/// The squares of the differences from real numbers.
///
/// # Shapes
/// - predictions: `[rows, columns]`
/// - targets: `rows · columns`, row-major
pub fn regression(predictions: Tensor<2>, targets: &[f32]) -> Loss {
    let targets = like(&predictions, targets);
    let difference = in_f32(predictions) - targets;
    let items = difference.shape().num_elements();
    Loss { sum: (difference.clone() * difference).sum(), items }
}

/// The cross entropy of several classes for each row, each of which holds or does not.
///
/// # Shapes
/// - logits: `[rows, classes]`
/// - targets: `rows · classes`, row-major, from 0 to 1
pub fn several_classes(logits: Tensor<2>, targets: &[f32]) -> Loss {
    let targets = like(&logits, targets);
    let logits = in_f32(logits);
    let items = logits.shape().num_elements();
    // The sigmoid of −x is 1 less that of x.
    let negative = logits.clone() * (targets.neg() + 1.0);
    Loss { sum: (negative - activation::log_sigmoid(logits)).sum(), items }
}

/// The cross entropy of finding, for each first text, the second one of its row among the second and all further texts of
/// all rows, by the cosine of their embeddings times `scale`.
///
/// Henderson et al., 2017 (arXiv:1705.00652).
///
/// # Shapes
/// - embeddings: two or more of `[rows, hidden]`
pub fn ranking(embeddings: Vec<Tensor<2>>, scale: f64) -> Loss {
    let labels: Vec<i64> = (0..).take(embeddings.first().map_or(0, |first| first.dims()[0])).collect();
    classes(similarities(embeddings) * scale, &labels, 0.0)
}

/// The cosines of every first text with the second and all further texts of all rows, role by role.
///
/// # Shapes
/// - embeddings: two or more of `[rows, hidden]`
/// - output: `[rows, rows · (roles − 1)]`
///
/// # Panics
/// If there are fewer than two.
pub fn similarities(embeddings: Vec<Tensor<2>>) -> Tensor<2> {
    let mut unit: Vec<Tensor<2>> = embeddings.into_iter().map(|x| normalize(in_f32(x))).collect();
    let others = unit.split_off(1);
    let anchors = unit.remove(0);
    anchors.matmul(Tensor::cat(others, 0).transpose())
}

/// The squares of the differences between the cosines of two texts and what they should be.
///
/// # Shapes
/// - a, b: `[rows, hidden]`
/// - scores: `rows`
pub fn similarity(a: Tensor<2>, b: Tensor<2>, scores: &[f32]) -> Loss {
    regression(cosines(a, b), scores)
}

/// The cosines of the texts of each row.
///
/// # Shapes
/// - a, b: `[rows, hidden]`
/// - output: `[rows, 1]`
pub fn cosines(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    (normalize(in_f32(a)) * normalize(in_f32(b))).sum_dim(1)
}

/// Vectors of length one.
///
/// # Shapes
/// - x, output: `[rows, hidden]`
fn normalize(x: Tensor<2>) -> Tensor<2> {
    // Bounded before the root, whose derivative at zero is infinite.
    let length = (x.clone() * x.clone()).sum_dim(1).clamp_min(LEAST_SQUARE).sqrt();
    x / length
}

/// Sums over many rows need more than 16 bits.
fn in_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) }
}

/// Numbers of the host as a constant of the shape and on the device of a tensor.
///
/// # Shapes
/// - x, output: `[rows, columns]`
fn like(x: &Tensor<2>, values: &[f32]) -> Tensor<2> {
    let device = x.device().without_autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), x.dims()), (&device, DType::F32))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn matrix<const R: usize, const C: usize>(rows: [[f32; C]; R]) -> Tensor<2> {
        Tensor::from_floats(rows, &Device::default())
    }

    const X: [[f32; 3]; 2] = [[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]];
    const Y: [f32; 6] = [1.0, 0.0, 1.0, 0.0, 0.25, 1.0];

    #[track_caller]
    fn assert_near(found: Tensor<1>, expected: f64) {
        let found = f64::from(found.into_scalar::<f32>());
        assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found}, expected {expected}");
    }

    /// The numbers are PyTorch's.
    #[test]
    fn losses_are_those_of_python() {
        assert_near(classes(matrix(X), &[2, 1], 0.0).mean(), 0.14814826846122742);
        assert_near(classes(matrix(X), &[2, 1], 0.1).mean(), 0.3564816117286682);
        assert_near(regression(matrix(X), &Y).mean(), 3.1354167461395264);
        assert_near(several_classes(matrix(X), &Y).mean(), 1.0054882764816284);
        let end = || matrix([[1.0, 0.0, 1.0], [0.0, 0.25, 1.0]]);
        assert_near(answers(matrix(X), end(), &[2, 1], &[1, 2]).mean(), 0.692047655582428);
        // What lies outside does not count.
        assert_near(answers(matrix(X), end(), &[2, 9], &[1, 7]).mean(), 1.0516530275344849);
        let (a, p) = (matrix([[1.0, 2.0], [3.0, -1.0]]), matrix([[2.0, 1.0], [1.0, 0.5]]));
        let n = matrix([[0.0, 1.0], [-1.0, 1.0]]);
        assert_near(ranking(vec![a.clone(), p.clone(), n], 20.0).mean(), 1.4230246543884277);
        assert_near(similarity(a, p, &[0.5, 1.0]).mean(), 0.08789322525262833);
    }

    #[test]
    fn gradients_of_several_classes_are_those_of_python_also_at_zero() {
        let x = matrix(X).autodiff().require_grad();
        let gradients = several_classes(x.clone(), &Y).mean().backward();
        let found: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        let expected = [-0.06292344, 0.04482357, -0.01986716, 0.08333334, 0.11709569, -0.14679952];
        assert!(found.iter().zip(expected).all(|(x, y): (&f32, f32)| (x - y).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn parts_of_an_update_add_up_whatever_their_sizes() {
        let logits = matrix(X).reshape([1, 2, 3]);
        let whole = tokens(logits.clone(), &[2, 1], 0.1);
        assert_eq!(whole.items, 2);
        let part = |labels: &[i64]| tokens(logits.clone(), labels, 0.1).part(2.0);
        let sum = part(&[2, IGNORED]) + part(&[IGNORED, 1]) + part(&[IGNORED, IGNORED]);
        assert_near(sum, 0.3564816117286682);
        assert_near(tokens(logits.clone(), &[IGNORED, IGNORED], 0.0).part(0.0), 0.0);
        assert!(tokens(logits, &[IGNORED, IGNORED], 0.0).mean().into_scalar::<f32>().is_nan());
    }

    #[test]
    fn the_next_token_of_the_last_one_is_nothing() {
        assert_eq!(next_tokens(&[1, 2, 3, 4, 5, 6], 3), [2, 3, IGNORED, 5, 6, IGNORED]);
        assert_eq!(next_tokens(&[7, 8], 1), [IGNORED; 2]);
        assert!(next_tokens(&[], 0).is_empty());
    }

    #[test]
    fn a_vector_of_zeros_has_a_finite_gradient() {
        let zero = matrix([[0.0, 0.0]]).autodiff().require_grad();
        let gradients = similarity(zero.clone(), matrix([[1.0, 0.0]]), &[1.0]).mean().backward();
        let found: Vec<f32> = zero.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        assert!(found.iter().all(|x| x.is_finite()), "{found:?}");
    }

    #[test]
    fn labels_that_are_left_out_do_not_count() {
        assert_eq!(count(&[0, IGNORED, 5]), 2);
    }
}
