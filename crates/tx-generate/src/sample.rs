//! The choice of a token: greedy, or drawn from a distribution with reproducible random numbers.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::scores::{self, Scored};

/// Numbers that are passed over at once, in vectors.
const BLOCK: usize = 256;

/// The token with the largest score: of equal ones the first, and never one whose score is NaN; 0 if there is no other.
pub fn argmax(scores: &[f32]) -> u32 {
    let max = scores::max(scores);
    let block = scores.chunks(BLOCK).position(|block| block.iter().fold(false, |found, &score| found | (score == max)));
    let start = block.unwrap_or(0) * BLOCK;
    scores[start..].iter().position(|&score| score == max).map_or(0, |i| start + i) as u32
}

/// Turns logits into logarithms of probabilities. NaN becomes impossible; without a possible token nothing changes.
pub fn log_softmax(scores: &mut [f32]) {
    let max = scores::max(scores);
    if max == f32::NEG_INFINITY {
        return;
    }
    let log_total = scores::total(scores, max).ln() as f32;
    for score in scores {
        *score = if score.is_nan() { f32::NEG_INFINITY } else { scores::distance(*score, max) - log_total };
    }
}

/// Turns logits into probabilities; all 0 if no token is possible.
pub fn softmax(scores: &mut [f32]) {
    let max = scores::max(scores);
    if max == f32::NEG_INFINITY {
        scores.fill(0.0);
        return;
    }
    let scale = (1.0 / scores::total(scores, max)) as f32;
    for score in scores {
        *score = scores::weight(*score, max) * scale;
    }
}

/// A seed that nobody chose.
pub fn random_seed() -> u64 {
    // The standard library's hash maps have random keys from the operating system.
    RandomState::new().build_hasher().finish()
}

/// SplitMix64: Steele, Lea and Flood, 2014 (doi:10.1145/2660193.2660195). A counter and a hash of it.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// A stream of its own for every seed and number.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self { state: Self::mix(Self::mix(seed).wrapping_add(stream)) }
    }

    fn mix(z: u64) -> u64 {
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        Self::mix(self.state)
    }

    /// A number from 0 to 1 without 1, of which there are 2⁵³.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Draws tokens for one row of a batch.
///
/// The row has a stream of random numbers of its own, and every draw takes one number from it: what a row draws does
/// not depend on the rows beside it.
#[derive(Debug, Clone)]
pub struct Sampler {
    random: Random,
    /// Sums of weights, up to the end of each block.
    sums: Vec<f64>,
    /// Scores with noise, and the largest of them.
    noisy: Vec<f32>,
    top: Vec<Scored>,
}

impl Sampler {
    /// The sampler of a row.
    pub fn new(seed: u64, row: usize) -> Self {
        Self { random: Random::new(seed, row as u64), sums: Vec::new(), noisy: Vec::new(), top: Vec::new() }
    }

    /// Draws a token by the softmax of its logits; the one of [`argmax`] if no token is possible.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let max = scores::max(logits);
        if max == f32::NEG_INFINITY {
            return argmax(logits);
        }
        self.pick(logits, |logit| scores::weight(logit, max))
    }

    /// Draws a token by its weight, which need not sum to 1; weights that are not above 0 count as 0.
    pub fn draw_weights(&mut self, weights: &[f32]) -> u32 {
        self.pick(weights, |weight| if weight > 0.0 { weight } else { 0.0 })
    }

    /// Draws `count` tokens without putting any back, in the order of the draws; fewer if fewer are possible.
    ///
    /// The largest of the logits with Gumbel noise are distributed so: Kool et al., 2019 (arXiv:1903.06059).
    pub fn draw_distinct(&mut self, logits: &[f32], count: usize) -> Vec<u32> {
        let Self { random, noisy, top, .. } = self;
        noisy.clear();
        noisy.extend(logits.iter().map(|&logit| {
            // No number is taken for what cannot be drawn, which filters leave little of.
            if logit.is_nan() || logit == f32::NEG_INFINITY {
                return f32::NEG_INFINITY;
            }
            let uniform = random.uniform().max(f64::MIN_POSITIVE);
            (f64::from(logit) - (-uniform.ln()).ln()) as f32
        }));
        scores::largest(noisy, count, top);
        top.retain(|token| token.score > f32::NEG_INFINITY);
        top.sort_unstable_by(Scored::order);
        top.iter().map(|token| token.id).collect()
    }

    /// A number from 0 to 1 without 1.
    pub fn uniform(&mut self) -> f64 {
        self.random.uniform()
    }

    /// The token in whose part of the sum of all weights a random number lies.
    fn pick(&mut self, values: &[f32], weight: impl Fn(f32) -> f32) -> u32 {
        self.sums.clear();
        let mut total = 0.0;
        for block in values.chunks(BLOCK) {
            total += scores::sum(block, &weight);
            self.sums.push(total);
        }
        let target = self.random.uniform() * total;
        if !total.is_finite() || total <= 0.0 {
            return argmax(values);
        }
        let block = self.sums.partition_point(|&end| end <= target).min(self.sums.len() - 1);
        let mut sum = if block == 0 { 0.0 } else { self.sums[block - 1] };
        let mut picked = None;
        for (id, &value) in values.iter().enumerate().skip(block * BLOCK).take(BLOCK) {
            let weight = f64::from(weight(value));
            if weight > 0.0 {
                // The last one with a weight, if rounding leaves the sum short of the target.
                picked = Some(id as u32);
                sum += weight;
                if sum > target {
                    break;
                }
            }
        }
        picked.unwrap_or_else(|| argmax(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    #[test]
    fn the_first_of_equals_and_never_nan() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, NONE, -2.0]), 2);
        assert_eq!(argmax(&[f32::NAN, NONE]), 1);
        assert_eq!(argmax(&[f32::NAN, 1.0, f32::INFINITY]), 2);
        assert_eq!((argmax(&[]), argmax(&[f32::NAN])), (0, 0));
    }

    #[test]
    fn softmax_and_its_logarithm() {
        let mut scores = [1.0f32.ln(), 2.0f32.ln(), 5.0f32.ln(), NONE, f32::NAN];
        log_softmax(&mut scores);
        for (score, expected) in scores.iter().zip([0.125f32.ln(), 0.25f32.ln(), 0.625f32.ln()]) {
            assert!((score - expected).abs() < 1e-6);
        }
        assert_eq!(scores[3..], [NONE; 2]);
        softmax(&mut scores);
        assert!((scores[0] - 0.125).abs() < 1e-6 && (scores[2] - 0.625).abs() < 1e-6);
        assert_eq!(scores[3..], [0.0; 2]);
        let mut impossible = [NONE; 3];
        log_softmax(&mut impossible);
        assert_eq!(impossible, [NONE; 3]);
    }

    #[test]
    fn splitmix_is_the_published_one() {
        // The first outputs of the reference implementation for the state 1234567.
        let mut random = Random { state: 1_234_567 };
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn seeds_reproduce_and_rows_differ() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.1).sin()).collect();
        let draws = |seed, row| {
            let mut sampler = Sampler::new(seed, row);
            (0..20).map(|_| sampler.draw(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draws(7, 1), draws(7, 1));
        assert_ne!(draws(7, 1), draws(7, 2));
        assert_ne!(draws(7, 1), draws(8, 1));
    }

    #[test]
    fn draws_follow_the_distribution() {
        // Two blocks, and tokens that cannot be drawn between those that can.
        let mut logits = vec![NONE; 400];
        let probabilities = [(3, 0.1), (200, 0.2), (255, 0.3), (399, 0.4)];
        for (id, p) in probabilities {
            logits[id] = (p as f32).ln() + 5.0;
        }
        logits[100] = f32::NAN;
        let mut sampler = Sampler::new(0, 0);
        let mut counts = vec![0u32; 400];
        const DRAWS: u32 = 100_000;
        for _ in 0..DRAWS {
            counts[sampler.draw(&logits) as usize] += 1;
        }
        assert_eq!(probabilities.iter().map(|&(id, _)| counts[id]).sum::<u32>(), DRAWS);
        let chi_square: f64 = probabilities
            .iter()
            .map(|&(id, p)| (f64::from(counts[id]) - p * f64::from(DRAWS)).powi(2) / (p * f64::from(DRAWS)))
            .sum();
        // p = 0.001 for three degrees of freedom.
        assert!(chi_square < 16.27, "{chi_square}");
    }

    #[test]
    fn weights_need_not_be_probabilities() {
        let mut sampler = Sampler::new(1, 0);
        let drawn: Vec<u32> = (0..50).map(|_| sampler.draw_weights(&[0.0, -3.0, 2.0, f32::NAN, 1.0])).collect();
        assert!(drawn.contains(&2) && drawn.contains(&4) && drawn.iter().all(|id| [2, 4].contains(id)));
        assert_eq!(sampler.draw_weights(&[0.0, 0.0]), 0);
        assert_eq!(sampler.draw(&[]), 0);
    }

    #[test]
    fn distinct_draws() {
        let mut sampler = Sampler::new(2, 0);
        let mut first = [0u32; 3];
        for _ in 0..3000 {
            let drawn = sampler.draw_distinct(&[0.5f32.ln(), NONE, 0.5f32.ln(), f32::NAN], 3);
            assert!(drawn == [0, 2] || drawn == [2, 0], "{drawn:?}");
            first[drawn[0] as usize] += 1;
        }
        assert!((1350..1650).contains(&first[0]), "{first:?}");
        assert_eq!(sampler.draw_distinct(&[0.0, 1.0], 0), [0u32; 0]);
    }
}
