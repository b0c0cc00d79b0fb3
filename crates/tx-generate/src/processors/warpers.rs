//! The filters of sampling, which HF calls warpers: they leave the tokens that may be drawn.
//!
//! Python sorts the whole vocabulary for several of them. Here a token that is cut costs a comparison: what is left is
//! found by selection, and probabilities are compared as scores where that is the same.

use super::LogitsProcessor;
use crate::sample::{Random, log_softmax};
use crate::scores::{self, Scored, Summand};

/// HF's `TemperatureLogitsWarper`.
pub(super) struct Temperature {
    temperature: f32,
}

impl Temperature {
    pub(super) fn new(temperature: f64) -> Self {
        Self { temperature: temperature as f32 }
    }
}

impl LogitsProcessor for Temperature {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        for score in scores {
            *score /= self.temperature;
        }
    }
}

/// HF's `TopKLogitsWarper`; tokens as probable as the last one that is kept are kept as well.
pub(super) struct TopK {
    count: usize,
    top: Vec<Scored>,
}

impl TopK {
    pub(super) fn new(count: usize) -> Self {
        Self { count, top: Vec::new() }
    }
}

/// The score of the last of the `count` largest; `max` is the largest.
fn last_of_largest(scores: &[f32], count: usize, max: f32, top: &mut Vec<Scored>) -> f32 {
    if count <= 1 {
        return max;
    }
    scores::largest(scores, count, top);
    top.iter().fold(max, |least, token| least.min(token.score))
}

impl LogitsProcessor for TopK {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        if self.count < scores.len() {
            let max = scores::max(scores);
            let bound = last_of_largest(scores, self.count, max, &mut self.top);
            scores::cut_below(scores, bound);
        }
    }
}

/// HF's `TopHLogitsWarper`: Baghaei Potraghloo et al., 2025 (arXiv:2509.02510).
///
/// Keeps the most probable tokens as long as their terms of the entropy sum to at most a share of it; among the first
/// hundred, as in HF.
pub(super) struct TopH {
    share: f64,
    top: Vec<Scored>,
}

impl TopH {
    /// The tokens that are looked at.
    const COUNT: usize = 100;

    pub(super) fn new(share: f64) -> Self {
        Self { share, top: Vec::new() }
    }
}

impl LogitsProcessor for TopH {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        scores::largest(scores, Self::COUNT, &mut self.top);
        self.top.sort_unstable_by(Scored::order);
        let Some(max) = self.top.first().map(|token| token.score).filter(|&max| max > f32::NEG_INFINITY) else {
            return;
        };
        let weight = |token: &Scored| f64::from(scores::weight(token.score, max));
        let total: f64 = self.top.iter().map(weight).sum();
        let term = |token: &Scored| {
            let p = weight(token) / total;
            if p > 0.0 { -p * p.ln() } else { f64::INFINITY }
        };
        let entropy: f64 = self.top.iter().map(term).filter(|term| term.is_finite()).sum();
        let mut sum = 0.0;
        let kept = self.top.iter().take_while(|token| {
            sum += term(token);
            sum <= entropy * self.share
        });
        let kept = kept.count().max(1);
        scores::keep(scores, self.top[..kept].iter().copied());
    }
}

/// HF's `TopPLogitsWarper`: nucleus sampling, Holtzman et al., 2020 (arXiv:1904.09751).
///
/// In ascending order, tokens are cut while their probabilities sum to at most `1 - top_p`.
pub(super) struct TopP {
    rest: f64,
    keep: usize,
    summands: Vec<Summand>,
    top: Vec<Scored>,
}

impl TopP {
    pub(super) fn new(top_p: f64, keep: usize) -> Self {
        Self { rest: 1.0 - top_p, keep, summands: Vec::new(), top: Vec::new() }
    }
}

impl LogitsProcessor for TopP {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        let max = scores::max(scores);
        if max == f32::NEG_INFINITY {
            return;
        }
        let total = scores::total(scores, max);
        // All tokens below this together are at most half of what is cut.
        let floor = scores::of_probability(self.rest / (2.0 * scores.len() as f64), max, total);
        self.summands.clear();
        self.summands.extend(
            scores.iter().enumerate().filter(|&(_, &score)| score >= floor).map(|(id, &score)| Summand {
                key: score,
                weight: scores::weight(score, max),
                id: id as u32,
            }),
        );
        let above: f64 = self.summands.iter().map(|summand| f64::from(summand.weight)).sum();
        // Compared in f32, as Python does.
        let rest = self.rest as f32;
        let enough = |sum: f64| (sum / total) as f32 > rest;
        let cut = scores::position(&mut self.summands, (total - above).max(0.0), enough);
        let kept = self.summands.get(cut..).unwrap_or_default();
        if kept.len() < self.keep {
            scores::largest(scores, self.keep, &mut self.top);
            scores::keep(scores, self.top.iter().copied());
        } else {
            scores::keep(scores, kept.iter().map(|kept| Scored { score: kept.key, id: kept.id }));
        }
    }
}

/// HF's `MinPLogitsWarper`: Nguyen et al., 2024 (arXiv:2407.01082).
pub(super) struct MinP {
    /// The logarithm of the share, negative infinity for 0.
    log_share: f32,
    keep: usize,
    top: Vec<Scored>,
}

impl MinP {
    pub(super) fn new(share: f64, keep: usize) -> Self {
        Self { log_share: share.ln() as f32, keep, top: Vec::new() }
    }
}

impl LogitsProcessor for MinP {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        let max = scores::max(scores);
        // The largest is not cut.
        if self.keep > 1 {
            scores::largest(scores, self.keep, &mut self.top);
        }
        scores::cut_below(scores, max + self.log_share);
        for token in &self.top {
            if let Some(score) = scores.get_mut(token.id as usize) {
                *score = token.score;
            }
        }
    }
}

/// HF's `TypicalLogitsWarper`: Meister et al., 2022 (arXiv:2202.00666).
///
/// Tokens are taken by how near `-log p` is to the entropy, until their probabilities sum to `mass`.
pub(super) struct Typical {
    mass: f32,
    keep: usize,
    summands: Vec<Summand>,
}

impl Typical {
    pub(super) fn new(mass: f64, keep: usize) -> Self {
        Self { mass: mass as f32, keep, summands: Vec::new() }
    }
}

impl LogitsProcessor for Typical {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        let max = scores::max(scores);
        if max == f32::NEG_INFINITY {
            return;
        }
        let total = scores::total(scores, max);
        let entropy = scores::entropy(scores, max, total) as f32;
        let log_total = total.ln() as f32;
        self.summands.clear();
        for (id, score) in scores.iter_mut().enumerate() {
            let log_p = scores::distance(*score, max) - log_total;
            if log_p > f32::NEG_INFINITY {
                let weight = scores::weight(*score, max);
                self.summands.push(Summand { key: (-log_p - entropy).abs(), weight, id: id as u32 });
            } else {
                *score = f32::NEG_INFINITY;
            }
        }
        let enough = |sum: f64| (sum / total) as f32 >= self.mass;
        let last = scores::position(&mut self.summands, 0.0, enough).min(self.summands.len() - 1);
        let bound = self.summands[last].key;
        let keep = self.keep.min(self.summands.len());
        if keep > last + 1 {
            self.summands[last + 1..].select_nth_unstable_by(keep - last - 2, Summand::order);
        }
        for summand in &self.summands[keep.max(last + 1)..] {
            if summand.key > bound
                && let Some(score) = scores.get_mut(summand.id as usize)
            {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// HF's `EpsilonLogitsWarper`: Hewitt et al., 2022 (arXiv:2210.15191).
pub(super) struct Epsilon {
    epsilon: f64,
    keep: usize,
    top: Vec<Scored>,
}

impl Epsilon {
    pub(super) fn new(epsilon: f64, keep: usize) -> Self {
        Self { epsilon, keep, top: Vec::new() }
    }
}

impl LogitsProcessor for Epsilon {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        let max = scores::max(scores);
        let bound = scores::of_probability(self.epsilon, max, scores::total(scores, max));
        let least = last_of_largest(scores, self.keep, max, &mut self.top);
        scores::cut_below(scores, bound.min(least));
    }
}

/// HF's `EtaLogitsWarper`: the cutoff is `min(ε, √ε·exp(-H))` for the entropy `H` (arXiv:2210.15191).
pub(super) struct Eta {
    epsilon: f64,
    keep: usize,
    top: Vec<Scored>,
}

impl Eta {
    pub(super) fn new(epsilon: f64, keep: usize) -> Self {
        Self { epsilon, keep, top: Vec::new() }
    }
}

impl LogitsProcessor for Eta {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        let max = scores::max(scores);
        let total = scores::total(scores, max);
        let eta = self.epsilon.min(self.epsilon.sqrt() * (-scores::entropy(scores, max, total)).exp());
        let bound = scores::of_probability(eta, max, total);
        let least = last_of_largest(scores, self.keep, max, &mut self.top);
        scores::cut_below(scores, bound.min(least));
    }
}

/// Exclude Top Choices: sometimes, of the tokens that are probable enough, leaves only the least probable one.
///
/// By P. E. Weidmann, 2024 (oobabooga/text-generation-webui, pull request 6335).
pub(super) struct Xtc {
    probability: f64,
    threshold: f64,
    keep: usize,
    seed: u64,
    row: u64,
}

impl Xtc {
    pub(super) fn new(probability: f64, threshold: f64, keep: usize, seed: u64, row: usize) -> Self {
        // Another sequence than the sampler's.
        Self { probability, threshold, keep, seed: seed ^ 0x5874_6343_5874_6343, row: row as u64 }
    }
}

impl LogitsProcessor for Xtc {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        // By the number of the step, so that a step that is computed again comes out the same.
        let step = ids.len().saturating_sub(prompt) as u64;
        if Random::new(self.seed.wrapping_add(step), self.row).uniform() >= self.probability {
            return;
        }
        let max = scores::max(scores);
        let bound = scores::of_probability(self.threshold, max, scores::total(scores, max));
        let (mut possible, mut choices, mut least) = (0, 0, None);
        for (id, &score) in scores.iter().enumerate() {
            if score > f32::NEG_INFINITY {
                possible += 1;
                if score >= bound {
                    choices += 1;
                    if least.is_none_or(|(_, smallest)| score <= smallest) {
                        least = Some((id, score));
                    }
                }
            }
        }
        let Some((least, _)) = least else { return };
        if choices < 2 || possible + 1 - choices < self.keep {
            return;
        }
        for (id, score) in scores.iter_mut().enumerate() {
            if *score >= bound && id != least {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// HF's `LogitNormalization`.
pub(super) struct Normalize;

impl LogitsProcessor for Normalize {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        log_softmax(scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    /// The tokens that are left.
    fn kept(mut processor: impl LogitsProcessor, scores: &[f32]) -> Vec<usize> {
        let mut processed = scores.to_vec();
        // Twice, because buffers are used again.
        processor.process(&[], 0, &mut processed);
        let mut again = scores.to_vec();
        processor.process(&[], 0, &mut again);
        assert_eq!(processed, again);
        for (score, before) in processed.iter().zip(scores) {
            assert!(*score == NONE || score == before);
        }
        (0..scores.len()).filter(|&id| processed[id] > NONE).collect()
    }

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 2.0).collect()
    }

    #[test]
    fn temperature_divides() {
        let mut scores = [1.0, -3.0, NONE];
        Temperature::new(0.5).process(&[], 0, &mut scores);
        assert_eq!(scores, [2.0, -6.0, NONE]);
    }

    #[test]
    fn top_k_keeps_ties() {
        let scores = [1.0, 4.0, 2.0, 2.0, NONE, 3.0];
        assert_eq!(kept(TopK::new(1), &scores), [1]);
        assert_eq!(kept(TopK::new(3), &scores), [1, 2, 3, 5]);
        assert_eq!(kept(TopK::new(9), &scores), [0, 1, 2, 3, 5]);
    }

    #[test]
    fn top_p_cuts_from_below() {
        // The cases of HF's own test.
        assert_eq!(kept(TopP::new(0.79, 1), &logits(&[0.3, 0.1, 0.1, 0.5])), [0, 3]);
        assert_eq!(kept(TopP::new(0.79, 1), &logits(&[0.15, 0.3, 0.3, 0.25])), [1, 2, 3]);
        assert_eq!(kept(TopP::new(0.0, 1), &logits(&[0.15, 0.45, 0.4])), [1]);
        assert_eq!(kept(TopP::new(0.1, 2), &logits(&[0.15, 0.45, 0.4])), [1, 2]);
        assert_eq!(kept(TopP::new(0.5, 1), &[NONE; 3]), [0usize; 0]);
    }

    #[test]
    fn top_p_is_that_of_a_sort() {
        for p in [0.05, 0.3, 0.7, 0.9, 0.99] {
            for spread in [0.001, 0.05, 0.4] {
                let scores: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 997) as f32 * 0.01 * spread * 10.0).collect();
                let mut order: Vec<usize> = (0..scores.len()).collect();
                order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                let max = scores[order[999]];
                let total: f64 = scores.iter().map(|&score| f64::from(score - max).exp()).sum();
                let mut sum = 0.0;
                order.retain(|&id| {
                    sum += f64::from(scores[id] - max).exp() / total;
                    sum > 1.0 - p
                });
                order.sort_unstable();
                let found = kept(TopP::new(p, 1), &scores);
                // A token at the edge may differ by rounding.
                assert!(found.len().abs_diff(order.len()) <= 1, "{p} {spread}: {} {}", found.len(), order.len());
            }
        }
    }

    #[test]
    fn min_p_is_a_share_of_the_largest() {
        let scores = logits(&[0.9, 0.0274, 0.047, 0.0274]);
        assert_eq!(kept(MinP::new(0.05, 1), &scores), [0, 2]);
        assert_eq!(kept(MinP::new(0.3, 1), &scores), [0]);
        assert_eq!(kept(MinP::new(0.3, 2), &scores), [0, 2]);
        assert_eq!(kept(MinP::new(0.0, 1), &scores), [0, 1, 2, 3]);
    }

    #[test]
    fn typical_tokens_are_near_the_entropy() {
        // HF's own tests.
        assert_eq!(kept(Typical::new(0.5, 1), &logits(&[0.97, 0.01, 0.01, 0.01])), [0]);
        assert_eq!(kept(Typical::new(0.5, 1), &logits(&[0.4, 0.2, 0.2, 0.2])), [1, 2, 3]);
        assert_eq!(kept(Typical::new(0.999, 1), &logits(&[0.7, 0.3])), [0, 1]);
        assert_eq!(kept(Typical::new(0.1, 3), &logits(&[0.6, 0.3, 0.05, 0.05])).len(), 3);
        assert_eq!(kept(Typical::new(0.5, 1), &[NONE, 0.0, NONE]), [1]);
    }

    #[test]
    fn epsilon_and_eta() {
        let scores = logits(&[0.87, 0.099, 0.001, 0.03]);
        assert_eq!(kept(Epsilon::new(0.1, 1), &scores), [0]);
        assert_eq!(kept(Epsilon::new(0.1, 2), &scores), [0, 1]);
        assert_eq!(kept(Epsilon::new(0.02, 1), &scores), [0, 1, 3]);
        // The entropy is 0.4622: the cutoff is min(0.01, 0.1 · 0.630).
        assert_eq!(kept(Eta::new(0.01, 1), &scores), [0, 1, 3]);
        // Four equal ones: the cutoff is min(0.3, 0.548 · 0.25) = 0.137.
        assert_eq!(kept(Eta::new(0.3, 1), &logits(&[0.25; 4])), [0, 1, 2, 3]);
        assert_eq!(kept(Epsilon::new(0.3, 1), &logits(&[0.25; 4])), [0, 1, 2, 3]);
    }

    #[test]
    fn top_h_shares_the_entropy() {
        let scores = logits(&[0.0625, 0.5, 0.125, 0.25, 0.0625]);
        // The terms in order: 0.3466, 0.3466, 0.2599, 0.1733, 0.1733; their sum is 1.2997.
        assert_eq!(kept(TopH::new(0.5), &scores), [1]);
        assert_eq!(kept(TopH::new(0.6), &scores), [1, 3]);
        assert_eq!(kept(TopH::new(0.8), &scores), [1, 2, 3]);
        assert_eq!(kept(TopH::new(0.01), &scores), [1]);
        assert_eq!(kept(TopH::new(1.0), &[NONE, 0.0, NONE]), [1]);
    }

    #[test]
    fn xtc_leaves_the_least_of_the_probable() {
        let scores = logits(&[0.4, 0.05, 0.3, 0.25]);
        assert_eq!(kept(Xtc::new(1.0, 0.1, 1, 0, 0), &scores), [1, 3]);
        assert_eq!(kept(Xtc::new(1.0, 0.35, 1, 0, 0), &scores), [0, 1, 2, 3]);
        assert_eq!(kept(Xtc::new(1.0, 0.1, 3, 0, 0), &scores), [0, 1, 2, 3]);
        let mut xtc = Xtc::new(0.3, 0.1, 1, 7, 0);
        let applied = (0..1000).filter(|&step| {
            let mut processed = scores.clone();
            xtc.process(&vec![0; step], 0, &mut processed);
            processed != scores
        });
        assert!((230..370).contains(&applied.count()));
    }

    #[test]
    fn normalized_scores_are_logarithms_of_probabilities() {
        let mut scores = logits(&[0.2, 0.8]);
        Normalize.process(&[], 0, &mut scores);
        assert!((scores[0] - 0.2f32.ln()).abs() < 1e-6 && (scores[1] - 0.8f32.ln()).abs() < 1e-6);
    }
}
