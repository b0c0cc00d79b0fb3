//! Mixtures of experts: which experts each token goes to, and each expert for its own tokens alone. Shazeer et al.,
//! 2017 (arXiv:1701.06538).

use burn::module::{Module, Param};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor};

use super::{INITIALIZER_RANGE, constant, normal};
use crate::config::Check;
use crate::error::Result;

/// The most experts that the layers of a model have together: each may be a Rust value.
const MAX_EXPERTS: usize = 1 << 17;

/// The layer that scores the experts for each token.
///
/// Its weights stay as they are where those of a [`Linear`](super::Linear) become 8-bit: a choice between experts has
/// no small error.
#[derive(Module, Debug)]
pub struct Router {
    /// `[experts, hidden]`
    pub weight: Param<Tensor<2>>,
    /// `[experts]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Router {
    /// Scores of `experts` experts for tokens of `hidden` elements.
    pub fn new(hidden: usize, experts: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: normal([experts, hidden], INITIALIZER_RANGE, device),
            bias: bias.then(|| constant([experts], 0.0, device)),
        }
    }

    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: `[tokens, experts]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        tx_kernels::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val), None)
    }

    /// `softmax(forward(x))` over all experts.
    ///
    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: `[tokens, experts]`
    pub fn probabilities(&self, x: Tensor<2>) -> Tensor<2> {
        tx_kernels::softmax(self.forward(x))
    }
}

/// The experts of each token, and how much the result of each counts.
#[derive(Debug, Clone)]
pub struct Routing {
    /// `tokens · k` numbers: those of one token after those of another, in ascending order.
    experts: Vec<usize>,
    /// `[tokens, k]`, in the same order.
    weights: Tensor<2>,
}

impl Routing {
    /// Rejects numbers that nothing can be routed by. `key` names the number of experts.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config).
    pub fn validate(check: &Check<'_>, key: &str, experts: usize, per_token: usize, layers: usize) -> Result<()> {
        check.range(key, experts, 1, MAX_EXPERTS / layers.max(1))?;
        check.range("num_experts_per_tok", per_token, 1, experts)
    }

    /// The `k` experts with the highest scores, weighted by these scores.
    ///
    /// # Shapes
    /// - scores: `[tokens, experts]`, where `k` is at most `experts`
    pub fn top_k(scores: Tensor<2>, k: usize) -> Self {
        Self::choose(scores.clone(), scores, k, |row, among| among.extend(0..row.len()))
    }

    /// The `k` experts with the highest priorities among those of the `kept` best groups, weighted by their scores.
    ///
    /// Experts that follow one another are a group, and the sum of the two highest priorities in it tells how good it
    /// is: DeepSeek-AI, 2024 (arXiv:2412.19437), section 2.1.2.
    ///
    /// # Shapes
    /// - scores, priorities: `[tokens, experts]`, where `groups` divides `experts`, and `k` is at most the number of
    ///   experts in `kept` groups
    pub fn top_k_of_groups(scores: Tensor<2>, priorities: Tensor<2>, k: usize, groups: usize, kept: usize) -> Self {
        let each = (priorities.dims()[1] / groups.max(1)).max(1);
        Self::choose(scores, priorities, k, |row, among| {
            let sums: Vec<f32> = row.chunks(each).map(two_highest).collect();
            let mut best = (0..sums.len()).collect();
            keep_highest(&sums, kept, &mut best);
            among.extend(best.into_iter().flat_map(|group| group * each..(group + 1) * each));
        })
    }

    /// Chooses on the host, where the numbers are needed to group tokens: they are read back here, once.
    fn choose(
        scores: Tensor<2>,
        priorities: Tensor<2>,
        k: usize,
        candidates: impl Fn(&[f32], &mut Vec<usize>),
    ) -> Self {
        let [tokens, count] = priorities.dims();
        let device = scores.device();
        let priorities: Vec<f32> = priorities.into_data().iter::<f32>().collect();
        let mut experts = Vec::with_capacity(tokens * k);
        let mut among = Vec::with_capacity(count);
        for row in priorities.chunks(count.max(1)) {
            among.clear();
            candidates(row, &mut among);
            keep_highest(row, k, &mut among);
            experts.extend_from_slice(&among);
        }
        let numbers = integers(experts.iter().copied(), &device).reshape([tokens, k]);
        Self { experts, weights: scores.gather(1, numbers) }
    }

    /// The weights of each token divided by their sum.
    pub fn normalized(self) -> Self {
        // So little that it only keeps the quotient of zeros from being none.
        let sum = self.weights.clone().sum_dim(1) + 1e-20;
        Self { weights: self.weights / sum, ..self }
    }

    /// The softmax of the weights of each token.
    pub fn softmax(self) -> Self {
        Self { weights: tx_kernels::softmax(self.weights), ..self }
    }

    /// All weights multiplied by one factor.
    pub fn scaled(self, factor: f64) -> Self {
        Self { weights: self.weights * factor, ..self }
    }

    /// `Σ weight · expert(x)` over the experts of each token.
    ///
    /// `expert` is called with a number and the rows of the tokens that go there, in ascending order of the numbers,
    /// and not at all for an expert without tokens. Results are added in that order: the other tokens of a batch change
    /// no sum but by the rounding of the products.
    ///
    /// # Shapes
    /// - x, output: `[tokens, hidden]`
    pub fn dispatch(&self, x: Tensor<2>, expert: impl Fn(usize, Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let [tokens, k] = self.weights.dims();
        let device = x.device();
        let number = |slot: &usize| self.experts[*slot];
        // Stable, so that the tokens of an expert stay in order.
        let mut slots: Vec<usize> = (0..self.experts.len()).collect();
        slots.sort_by_key(number);
        let weights = self.weights.clone().reshape([tokens * k, 1]);
        // Those of a single token are in order already.
        let weights = if tokens == 1 { weights } else { weights.select(0, integers(slots.iter().copied(), &device)) };
        let mut sum = x.zeros_like();
        let mut start = 0;
        for group in slots.chunk_by(|a, b| number(a) == number(b)) {
            let Some(index) = group.first().map(number) else { continue };
            let weight = weights.clone().narrow(0, start, group.len());
            start += group.len();
            sum = if group.len() == tokens {
                // All tokens go there, as a single one does everywhere: there is nothing to gather.
                sum + expert(index, x.clone()) * weight
            } else {
                let rows = integers(group.iter().map(|slot| slot / k), &device);
                let y = expert(index, x.clone().select(0, rows.clone())) * weight;
                sum.select_assign(0, rows, y, IndexingUpdateOp::Add)
            };
        }
        sum
    }
}

/// Reduces `among` to the `k` numbers whose scores are highest, the lower ones where scores are equal, in ascending
/// order.
fn keep_highest(scores: &[f32], k: usize, among: &mut Vec<usize>) {
    if k < among.len() {
        among.select_nth_unstable_by(k, |&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        among.truncate(k);
    }
    among.sort_unstable();
}

/// The sum of the two highest scores.
fn two_highest(scores: &[f32]) -> f32 {
    let lowest = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    let (first, second) =
        scores.iter().fold(
            lowest,
            |(first, second), &score| {
                if score > first { (score, first) } else { (first, second.max(score)) }
            },
        );
    first + second
}

fn integers(values: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.map(|value| value as i64).collect();
    Tensor::from_data(values.as_slice(), device)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn tensor<const N: usize, const M: usize>(rows: [[f32; M]; N]) -> Tensor<2> {
        Tensor::from_floats(rows, &Device::default())
    }

    fn assert_close(found: Tensor<2>, expected: &[f32]) {
        let found: Vec<f32> = found.into_data().iter::<f32>().collect();
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn the_highest_are_chosen_in_ascending_order() {
        let routing = Routing::top_k(tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.3, 0.3, 0.3]]), 2);
        assert_eq!(routing.experts, [1, 2, 0, 2, 0, 1]);
        assert_close(routing.weights.clone(), &[0.7, 0.2, 0.5, 0.4, 0.3, 0.3]);
        assert_close(routing.clone().normalized().weights, &[7. / 9., 2. / 9., 5. / 9., 4. / 9., 0.5, 0.5]);
        assert_close(routing.clone().scaled(2.0).weights, &[1.4, 0.4, 1.0, 0.8, 0.6, 0.6]);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let softmax = [sigmoid(0.5), sigmoid(-0.5), sigmoid(0.1), sigmoid(-0.1), 0.5, 0.5];
        assert_close(routing.softmax().weights, &softmax);
    }

    #[test]
    fn numbers_that_are_none_choose_something() {
        let routing = Routing::top_k(tensor([[f32::NAN; 3], [f32::NEG_INFINITY; 3]]), 2);
        assert_eq!(routing.experts, [0, 1, 0, 1]);
    }

    #[test]
    fn groups_are_chosen_by_their_two_highest() {
        // The highest of all is in the first group, but two of the second are higher together.
        let priorities = tensor([[0.9, 0.0, 0.0, 0.6, 0.5, 0.1]]);
        let scores = tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]);
        let routing = Routing::top_k_of_groups(scores, priorities, 2, 2, 1);
        assert_eq!(routing.experts, [3, 4]);
        assert_close(routing.weights, &[4.0, 5.0]);
    }

    #[test]
    fn each_expert_computes_its_tokens_alone() {
        let routing = Routing::top_k(tensor([[0.1, 0.7, 0.2, 0.0], [0.5, 0.1, 0.4, 0.0]]), 2);
        let calls = RefCell::new(Vec::new());
        let y = routing.dispatch(tensor([[1.0, 0.0], [0.0, 2.0]]), |expert, x| {
            calls.borrow_mut().push((expert, x.dims()[0]));
            x * (expert as f64 + 1.0)
        });
        assert_close(y, &[0.7 * 2.0 + 0.2 * 3.0, 0.0, 0.0, 2.0 * (0.5 * 1.0 + 0.4 * 3.0)]);
        assert_eq!(calls.into_inner(), [(0, 1), (1, 1), (2, 2)]);
    }

    #[test]
    fn a_token_alone_and_in_a_batch_is_the_same() {
        let scores = [[0.3, 0.1, 0.4, 0.2], [0.2, 0.5, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]];
        let x = [[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]];
        let expert = |expert: usize, x: Tensor<2>| (x + expert as f64).square();
        let batch = Routing::top_k(tensor(scores), 3).dispatch(tensor(x), expert);
        for (i, (scores, x)) in scores.into_iter().zip(x).enumerate() {
            let row: Vec<f32> = batch.clone().narrow(0, i, 1).into_data().iter::<f32>().collect();
            assert_close(Routing::top_k(tensor([scores]), 3).dispatch(tensor([x]), expert), &row);
        }
    }
}
