//! What processors and samplers share: sums and selections over the scores of a vocabulary.
//!
//! Scores are logits or logarithms of probabilities. Everything here passes over them once, in lanes that the compiler
//! can put into vector registers, and sorts only what it selects. A score that is NaN counts as one that cannot be
//! chosen; if one is infinite, all others have no probability.

use std::cmp::Ordering;

/// Accumulators per sum, enough to hide the latency of an addition.
const LANES: usize = 16;

/// `exp(x)` for `x ≤ 0`, within two units in the last place; 0 for NaN and below -87, where an f32 would be subnormal.
///
/// `x = n·ln 2 + r` gives `2ⁿ·exp(r)`. The polynomial is that of Cephes' `expf` (Moshier, 1992). There is no branch and
/// no call, so that loops over it use vectors.
pub(crate) fn exp(x: f32) -> f32 {
    /// Added to a number of small magnitude, it leaves the nearest integer in the low bits: 1.5 · 2²³.
    const ROUND: f32 = 12_582_912.0;
    /// The head of ln 2, whose products with `n` are exact, and the rest.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let mut y = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        y = y * r + c;
    }
    let y = y * r * r + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x >= -87.0 { y * scale } else { 0.0 }
}

/// The probability of a score as a share of the largest one's.
pub(crate) fn weight(score: f32, max: f32) -> f32 {
    // Also where both are infinite.
    if score == max { 1.0 } else { exp(score - max) }
}

/// A score as its distance from the largest one.
pub(crate) fn distance(score: f32, max: f32) -> f32 {
    if score == max { 0.0 } else { score - max }
}

/// The largest score; negative infinity if there is none that could be chosen.
pub(crate) fn max(scores: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, score);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &score| larger(max, score))
}

/// The sum of a function of the scores.
pub(crate) fn sum(scores: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut lanes = [0.0f64; LANES];
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(term(score));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&score| f64::from(term(score))).sum::<f64>()
}

/// The sum of all weights, by which they become probabilities.
pub(crate) fn total(scores: &[f32], max: f32) -> f64 {
    sum(scores, |score| weight(score, max))
}

/// The score of a probability, where `max` is the largest score and `total` the sum of all weights.
pub(crate) fn of_probability(probability: f64, max: f32, total: f64) -> f32 {
    (f64::from(max) + (probability * total).ln()) as f32
}

/// The entropy of the distribution, in nats.
pub(crate) fn entropy(scores: &[f32], max: f32, total: f64) -> f64 {
    let term = |score: f32| {
        let weight = weight(score, max);
        if weight > 0.0 { weight * distance(score, max) } else { 0.0 }
    };
    total.ln() - sum(scores, term) / total
}

/// A token and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    pub(crate) score: f32,
    pub(crate) id: u32,
}

impl Scored {
    /// Larger scores first, and of equal ones the first token.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

/// Puts the `count` largest scores into `top`, in no order; fewer if fewer are numbers.
///
/// Nearly all scores cost one comparison, with the smallest of those that are in the lead.
pub(crate) fn largest(scores: &[f32], count: usize, top: &mut Vec<Scored>) {
    top.clear();
    if count == 0 {
        return;
    }
    let room = count.saturating_mul(2).max(64);
    let cut = |top: &mut Vec<Scored>| {
        top.select_nth_unstable_by(count - 1, Scored::order);
        top.truncate(count);
    };
    let mut least = None;
    for (id, &score) in scores.iter().enumerate() {
        // Of equal scores the first tokens lead.
        let leads = least.map_or(!score.is_nan(), |least| score > least);
        if leads {
            top.push(Scored { score, id: id as u32 });
            if top.len() == room {
                cut(top);
                least = top.last().map(|last| last.score);
            }
        }
    }
    if top.len() > count {
        cut(top);
    }
}

/// Makes all tokens impossible that have a smaller score, and those whose score is NaN.
pub(crate) fn cut_below(scores: &mut [f32], bound: f32) {
    for score in scores {
        if *score < bound || score.is_nan() {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Makes all tokens impossible but `kept`, which have the scores that are there.
pub(crate) fn keep(scores: &mut [f32], kept: impl IntoIterator<Item = Scored>) {
    scores.fill(f32::NEG_INFINITY);
    for token in kept {
        if let Some(score) = scores.get_mut(token.id as usize) {
            *score = token.score;
        }
    }
}

/// A token on the way to a sum: what it is ordered by, and what it adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summand {
    pub(crate) key: f32,
    pub(crate) weight: f32,
    pub(crate) id: u32,
}

impl Summand {
    /// Smaller keys first, and of equal ones the first token.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(self.id.cmp(&other.id))
    }
}

/// Where, in the order of the keys, the sum of the weights begins to be `enough`; the length if it never is.
///
/// The summands before that position come earlier in the order and those after it later, but they are not sorted: every
/// step halves what is left, so that all of them together pass over the summands about twice.
pub(crate) fn position(summands: &mut [Summand], before: f64, enough: impl Fn(f64) -> bool) -> usize {
    let (mut low, mut high, mut sum) = (0, summands.len(), before);
    while low < high {
        let middle = low + (high - low) / 2;
        summands[low..high].select_nth_unstable_by(middle - low, Summand::order);
        let half: f64 = summands[low..=middle].iter().map(|summand| f64::from(summand.weight)).sum();
        if enough(sum + half) {
            high = middle;
        } else {
            sum += half;
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_enough() {
        assert_eq!(exp(0.0), 1.0);
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!([exp(-87.5), exp(-1e30), exp(f32::NEG_INFINITY), exp(f32::NAN)], [0.0; 4]);
    }

    #[test]
    fn sums_are_those_of_a_softmax() {
        let scores: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37).sin()).collect();
        let max = max(&scores);
        let exact: f64 = scores.iter().map(|&s| f64::from(s - max).exp()).sum();
        assert!((total(&scores, max) - exact).abs() < 1e-5);
        let entropy_exact: f64 = scores.iter().map(|&s| f64::from(s - max).exp() / exact).map(|p| -p * p.ln()).sum();
        assert!((entropy(&scores, max, total(&scores, max)) - entropy_exact).abs() < 1e-5);
        assert!((of_probability(0.25, 3.0, 4.0) - 3.0).abs() < 1e-6);
    }

    #[test]
    fn infinite_and_missing_numbers() {
        let scores = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY];
        let max = max(&scores);
        assert_eq!(scores.map(|score| weight(score, max)), [0.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!((total(&scores, max), entropy(&scores, max, 2.0)), (2.0, 2.0f64.ln()));
        assert_eq!(super::max(&[]), f32::NEG_INFINITY);
        assert_eq!(super::max(&[f32::NAN]), f32::NEG_INFINITY);
    }

    #[test]
    fn the_largest_scores() {
        let scores: Vec<f32> = (0..500).map(|i| ((i * 7919) % 499) as f32).collect();
        for count in [1, 3, 40, 499, 500, 900] {
            let mut top = Vec::new();
            largest(&scores, count, &mut top);
            top.sort_unstable_by(Scored::order);
            let mut sorted: Vec<Scored> =
                scores.iter().enumerate().map(|(id, &score)| Scored { score, id: id as u32 }).collect();
            sorted.sort_by(Scored::order);
            sorted.truncate(count);
            assert_eq!(top, sorted);
        }
        let mut top = Vec::new();
        largest(&[f32::NAN, 1.0, 1.0, f32::NEG_INFINITY], 2, &mut top);
        top.sort_unstable_by(Scored::order);
        assert_eq!(top.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_position_of_a_sum() {
        for enough in [0.0, 1.0, 4.5, 27.9, 28.0, 28.1] {
            let mut summands: Vec<Summand> =
                [5, 2, 7, 1, 6, 3, 4].map(|k| Summand { key: k as f32, weight: k as f32, id: k }).to_vec();
            // Sums in order: 1, 3, 6, 10, 15, 21, 28.
            let expected = [1.0, 3.0, 6.0, 10.0, 15.0, 21.0, 28.0].iter().filter(|&&sum| sum < enough).count();
            let found = position(&mut summands, 0.0, |sum| sum >= enough);
            assert_eq!(found, expected);
            assert!(summands[..found].iter().all(|s| s.key <= found as f32));
            assert!(summands[found..].iter().all(|s| s.key > found as f32));
        }
    }
}
