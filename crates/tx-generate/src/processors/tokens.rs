//! Processors that forbid, force or favour certain tokens.

use std::collections::BTreeMap;

use super::repetition::Seen;
use super::{LogitsProcessor, PrefixAllowedTokens};
use crate::config::GenerationConfig;

/// Makes tokens impossible.
fn forbid(tokens: &[u32], scores: &mut [f32]) {
    for &id in tokens {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Makes all others impossible. Nothing happens if none of them is in the vocabulary.
fn force(tokens: &[u32], scores: &mut [f32]) {
    if tokens.iter().all(|&id| id as usize >= scores.len()) {
        return;
    }
    scores.fill(f32::NEG_INFINITY);
    for &id in tokens {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = 0.0;
        }
    }
}

/// HF's `SequenceBiasLogitsProcessor`: adds to the score of the token that completes a sequence.
///
/// With a bias of negative infinity it is HF's `NoBadWordsLogitsProcessor`.
pub(super) struct SequenceBias {
    biases: BTreeMap<Vec<u32>, f32>,
}

impl SequenceBias {
    pub(super) fn new(biases: impl IntoIterator<Item = (Vec<u32>, f32)>) -> Self {
        Self { biases: biases.into_iter().collect() }
    }
}

impl LogitsProcessor for SequenceBias {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        for (sequence, &bias) in &self.biases {
            if let Some((&last, first)) = sequence.split_last()
                && ids.ends_with(first)
                && let Some(score) = scores.get_mut(last as usize)
            {
                // An infinite score and its ban would make NaN.
                *score = if bias == f32::NEG_INFINITY { bias } else { *score + bias };
            }
        }
    }
}

/// HF's `MinLengthLogitsProcessor`.
pub(super) struct MinLength {
    length: usize,
    eos: Vec<u32>,
}

impl MinLength {
    pub(super) fn new(length: usize, eos: &[u32]) -> Self {
        Self { length, eos: eos.to_vec() }
    }
}

impl LogitsProcessor for MinLength {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        if ids.len() < self.length {
            forbid(&self.eos, scores);
        }
    }
}

/// HF's `MinNewTokensLengthLogitsProcessor`.
pub(super) struct MinNewTokens {
    tokens: usize,
    eos: Vec<u32>,
}

impl MinNewTokens {
    pub(super) fn new(tokens: usize, eos: &[u32]) -> Self {
        Self { tokens, eos: eos.to_vec() }
    }
}

impl LogitsProcessor for MinNewTokens {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        if ids.len().saturating_sub(prompt) < self.tokens {
            forbid(&self.eos, scores);
        }
    }
}

/// HF's `PrefixConstrainedLogitsProcessor`: De Cao et al., 2021 (arXiv:2010.00904).
///
/// If all allowed tokens are impossible already, they get the score 0, unless there are beams: HF does so if that is
/// true of every beam, which one row cannot know.
pub(super) struct PrefixConstrained {
    allowed: PrefixAllowedTokens,
    beams: bool,
    seen: Seen,
}

impl PrefixConstrained {
    pub(super) fn new(allowed: PrefixAllowedTokens, beams: bool) -> Self {
        Self { allowed, beams, seen: Seen::default() }
    }
}

impl LogitsProcessor for PrefixConstrained {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        self.seen.clear(scores.len());
        let mut possible = self.beams;
        for id in (self.allowed)(ids) {
            self.seen.insert(id);
            possible |= scores.get(id as usize).is_some_and(|&score| score > f32::NEG_INFINITY);
        }
        for (id, score) in scores.iter_mut().enumerate() {
            if !self.seen.contains(id) {
                *score = f32::NEG_INFINITY;
            } else if !possible {
                *score = 0.0;
            }
        }
    }
}

/// HF's `ForcedBOSTokenLogitsProcessor`.
pub(super) struct ForcedBos {
    bos: u32,
}

impl ForcedBos {
    pub(super) fn new(bos: u32) -> Self {
        Self { bos }
    }
}

impl LogitsProcessor for ForcedBos {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        if ids.len() == 1 {
            force(&[self.bos], scores);
        }
    }
}

/// HF's `ForcedEOSTokenLogitsProcessor`.
pub(super) struct ForcedEos {
    config: GenerationConfig,
}

impl ForcedEos {
    pub(super) fn new(config: &GenerationConfig) -> Self {
        Self { config: config.clone() }
    }
}

impl LogitsProcessor for ForcedEos {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        if ids.len() + 1 == self.config.max_length_for(prompt) {
            force(&self.config.forced_eos_token_id, scores);
        }
    }
}

/// HF's `InfNanRemoveLogitsProcessor`.
pub(super) struct InfNanRemove;

impl LogitsProcessor for InfNanRemove {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        for score in scores {
            *score = if score.is_nan() { 0.0 } else { score.clamp(f32::MIN, f32::MAX) };
        }
    }
}

/// HF's `ExponentialDecayLengthPenalty`: adds `|score|·(factor^n - 1)` to the end's score, `n` tokens after `start`.
pub(super) struct ExponentialDecay {
    start: usize,
    factor: f64,
    eos: Vec<u32>,
}

impl ExponentialDecay {
    pub(super) fn new(start: usize, factor: f64, eos: &[u32]) -> Self {
        Self { start, factor, eos: eos.to_vec() }
    }
}

impl LogitsProcessor for ExponentialDecay {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        let start = self.start.saturating_add(prompt);
        if ids.len() <= start {
            return;
        }
        let power = i32::try_from(ids.len() - start).unwrap_or(i32::MAX);
        let growth = (self.factor.powi(power) - 1.0) as f32;
        for &id in &self.eos {
            if let Some(score) = scores.get_mut(id as usize)
                && score.is_finite()
            {
                // Where the growth overflows, 0 still stays 0.
                let penalty = if *score == 0.0 { 0.0 } else { score.abs() * growth };
                *score = (*score + penalty).min(f32::MAX);
            }
        }
    }
}

/// HF's `SuppressTokensLogitsProcessor`.
pub(super) struct Suppress {
    tokens: Vec<u32>,
}

impl Suppress {
    pub(super) fn new(tokens: &[u32]) -> Self {
        Self { tokens: tokens.to_vec() }
    }
}

impl LogitsProcessor for Suppress {
    fn process(&mut self, _: &[u32], _: usize, scores: &mut [f32]) {
        forbid(&self.tokens, scores);
    }
}

/// HF's `SuppressTokensAtBeginLogitsProcessor`.
pub(super) struct BeginSuppress {
    tokens: Vec<u32>,
    /// The first token is forced if the prompt has one token, and the next one is the first that is free.
    after_bos: bool,
}

impl BeginSuppress {
    pub(super) fn new(tokens: &[u32], after_bos: bool) -> Self {
        Self { tokens: tokens.to_vec(), after_bos }
    }
}

impl LogitsProcessor for BeginSuppress {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        let begin = if self.after_bos && prompt <= 1 { prompt + 1 } else { prompt };
        if ids.len() == begin {
            forbid(&self.tokens, scores);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    fn apply(mut processor: impl LogitsProcessor, ids: &[u32], prompt: usize, scores: &[f32]) -> Vec<f32> {
        let mut scores = scores.to_vec();
        processor.process(ids, prompt, &mut scores);
        scores
    }

    #[test]
    fn biases_wait_for_the_rest_of_the_sequence() {
        let biases = || SequenceBias::new([(vec![0], 1.0), (vec![5, 1], 2.0), (vec![4, 5, 1], 4.0), (vec![], 9.0)]);
        assert_eq!(apply(biases(), &[], 0, &[0.0; 2]), [1.0, 0.0]);
        assert_eq!(apply(biases(), &[3, 5], 0, &[0.0; 2]), [1.0, 2.0]);
        assert_eq!(apply(biases(), &[4, 5], 0, &[0.0; 2]), [1.0, 6.0]);
        let words = SequenceBias::new([(vec![1, 0], NONE)]);
        assert_eq!(apply(words, &[1], 0, &[f32::INFINITY, 0.0]), [NONE, 0.0]);
    }

    #[test]
    fn lengths() {
        let scores = [0.5; 3];
        assert_eq!(apply(MinLength::new(3, &[1, 9]), &[0, 0], 2, &scores), [0.5, NONE, 0.5]);
        assert_eq!(apply(MinLength::new(3, &[1]), &[0, 0, 0], 2, &scores), scores);
        assert_eq!(apply(MinNewTokens::new(1, &[1]), &[0, 0], 2, &scores), [0.5, NONE, 0.5]);
        assert_eq!(apply(MinNewTokens::new(1, &[1]), &[0, 0, 0], 2, &scores), scores);
    }

    #[test]
    fn a_function_of_the_prefix() {
        let allowed = |ids: &[u32]| if ids.last() == Some(&1) { vec![2, 99] } else { vec![0, 1] };
        let scores = [1.0, 2.0, 3.0];
        let constrained = |beams| PrefixConstrained::new(Box::new(allowed), beams);
        assert_eq!(apply(constrained(false), &[0], 0, &scores), [1.0, 2.0, NONE]);
        assert_eq!(apply(constrained(false), &[1], 0, &scores), [NONE, NONE, 3.0]);
        // The only allowed token was impossible.
        assert_eq!(apply(constrained(false), &[1], 0, &[1.0, 2.0, NONE]), [NONE, NONE, 0.0]);
        assert_eq!(apply(constrained(true), &[1], 0, &[1.0, 2.0, NONE]), [NONE; 3]);
    }

    #[test]
    fn forced_tokens() {
        let scores = [1.0, 2.0, 3.0];
        assert_eq!(apply(ForcedBos::new(1), &[7], 1, &scores), [NONE, 0.0, NONE]);
        assert_eq!(apply(ForcedBos::new(1), &[7, 7], 1, &scores), scores);
        assert_eq!(apply(ForcedBos::new(8), &[7], 1, &scores), scores);
        let eos = || {
            ForcedEos::new(&GenerationConfig {
                max_new_tokens: Some(2),
                forced_eos_token_id: vec![0, 2],
                ..GenerationConfig::default()
            })
        };
        assert_eq!(apply(eos(), &[7, 7, 7], 2, &scores), [0.0, NONE, 0.0]);
        assert_eq!(apply(eos(), &[7, 7], 2, &scores), scores);
    }

    #[test]
    fn invalid_values() {
        let scores = [f32::NAN, f32::INFINITY, NONE, 1.0];
        assert_eq!(apply(InfNanRemove, &[], 0, &scores), [0.0, f32::MAX, f32::MIN, 1.0]);
    }

    #[test]
    fn the_end_grows() {
        // Two tokens after the start: 1.5² - 1 = 1.25.
        let scores = [2.0, -2.0, NONE, 1.0];
        let decay = || ExponentialDecay::new(1, 1.5, &[0, 1, 2]);
        assert_eq!(apply(decay(), &[0; 6], 3, &scores), [4.5, 0.5, NONE, 1.0]);
        assert_eq!(apply(decay(), &[0; 4], 3, &scores), scores);
        let far = apply(decay(), &[0; 5000], 3, &[1.0, 0.0, NONE, 1.0]);
        assert_eq!(far, [f32::MAX, 0.0, NONE, 1.0]);
    }

    #[test]
    fn suppressed_tokens() {
        let scores = [1.0; 3];
        assert_eq!(apply(Suppress::new(&[0, 7]), &[], 0, &scores), [NONE, 1.0, 1.0]);
        assert_eq!(apply(BeginSuppress::new(&[0], false), &[5, 5], 2, &scores), [NONE, 1.0, 1.0]);
        assert_eq!(apply(BeginSuppress::new(&[0], false), &[5, 5, 5], 2, &scores), scores);
        // A forced token comes first, if the prompt is the start token alone.
        assert_eq!(apply(BeginSuppress::new(&[0], true), &[5], 1, &scores), scores);
        assert_eq!(apply(BeginSuppress::new(&[0], true), &[5, 5], 1, &scores), [NONE, 1.0, 1.0]);
        assert_eq!(apply(BeginSuppress::new(&[0], true), &[5, 5], 2, &scores), [NONE, 1.0, 1.0]);
    }
}
