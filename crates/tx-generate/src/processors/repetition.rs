//! Processors that look at what is in the sequence already.

use std::sync::Arc;

use super::LogitsProcessor;
use crate::config::GenerationConfig;

/// A set of token ids of a vocabulary, emptied in constant time.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// A token is in the set if its mark is the stamp.
    marks: Vec<u32>,
    stamp: u32,
}

impl Seen {
    /// Empties the set for a vocabulary of this size.
    pub(super) fn clear(&mut self, vocab_size: usize) {
        self.marks.resize(vocab_size, 0);
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.marks.fill(0);
            self.stamp = 1;
        }
    }

    /// Puts a token in; whether it was not there before, and is of the vocabulary.
    pub(super) fn insert(&mut self, id: u32) -> bool {
        match self.marks.get_mut(id as usize) {
            Some(mark) if *mark != self.stamp => {
                *mark = self.stamp;
                true
            }
            _ => false,
        }
    }

    /// Whether a token is in it.
    pub(super) fn contains(&self, id: usize) -> bool {
        self.marks.get(id) == Some(&self.stamp)
    }
}

/// Divides positive scores of `tokens` by the penalty and multiplies negative ones, once for each token.
fn penalize(tokens: &[u32], penalty: f32, seen: &mut Seen, scores: &mut [f32]) {
    seen.clear(scores.len());
    for &id in tokens {
        if seen.insert(id)
            && let Some(score) = scores.get_mut(id as usize)
        {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// HF's `RepetitionPenaltyLogitsProcessor`: Keskar et al., 2019 (arXiv:1909.05858).
pub(super) struct RepetitionPenalty {
    penalty: f32,
    seen: Seen,
}

impl RepetitionPenalty {
    pub(super) fn new(penalty: f64) -> Self {
        Self { penalty: penalty as f32, seen: Seen::default() }
    }
}

impl LogitsProcessor for RepetitionPenalty {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        penalize(ids, self.penalty, &mut self.seen, scores);
    }
}

/// The encoder's tokens, or the prompt.
fn source<'a>(encoder: Option<&'a [u32]>, ids: &'a [u32], prompt: usize) -> &'a [u32] {
    encoder.unwrap_or(&ids[..prompt.min(ids.len())])
}

/// HF's `EncoderRepetitionPenaltyLogitsProcessor`: a penalty above 1 raises what is in the input.
pub(super) struct EncoderRepetitionPenalty {
    penalty: f32,
    encoder: Option<Arc<[u32]>>,
    seen: Seen,
}

impl EncoderRepetitionPenalty {
    pub(super) fn new(penalty: f64, encoder: Option<Arc<[u32]>>) -> Self {
        Self { penalty: (1.0 / penalty) as f32, encoder, seen: Seen::default() }
    }
}

impl LogitsProcessor for EncoderRepetitionPenalty {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        penalize(source(self.encoder.as_deref(), ids, prompt), self.penalty, &mut self.seen, scores);
    }
}

/// OpenAI's `frequency_penalty` and `presence_penalty`, which count generated tokens and not the prompt's.
pub(super) struct CountPenalty {
    frequency: f32,
    presence: f32,
    /// All 0 between calls.
    counts: Vec<u32>,
}

impl CountPenalty {
    pub(super) fn new(frequency: f64, presence: f64) -> Self {
        Self { frequency: frequency as f32, presence: presence as f32, counts: Vec::new() }
    }
}

impl LogitsProcessor for CountPenalty {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        self.counts.resize(scores.len(), 0);
        let generated = ids.get(prompt..).unwrap_or_default();
        for &id in generated {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        for &id in generated {
            if let (Some(count), Some(score)) = (self.counts.get_mut(id as usize), scores.get_mut(id as usize))
                && *count > 0
            {
                *score -= *count as f32 * self.frequency + self.presence;
                *count = 0;
            }
        }
    }
}

/// Don't Repeat Yourself: a token that would continue a repetition loses `multiplier · base^(length - allowed_length)`,
/// where `length` is how many of the last tokens came before it earlier.
///
/// By P. E. Weidmann, 2024 (oobabooga/text-generation-webui, pull request 5677).
pub(super) struct Dry {
    multiplier: f64,
    base: f64,
    allowed_length: usize,
    last_n: Option<usize>,
    /// Sorted.
    breakers: Vec<u32>,
    /// The tokens from the last to the first.
    reversed: Vec<u32>,
    /// How many of the last tokens each token is the last of.
    lengths: Vec<usize>,
    /// Tokens that continue a repetition, and its length.
    matches: Vec<(u32, usize)>,
}

impl Dry {
    pub(super) fn new(config: &GenerationConfig) -> Self {
        let mut breakers = config.dry_sequence_breakers.clone();
        breakers.sort_unstable();
        Self {
            multiplier: config.dry_multiplier,
            base: config.dry_base,
            allowed_length: config.dry_allowed_length.max(1),
            last_n: config.dry_penalty_last_n,
            breakers,
            reversed: Vec::new(),
            lengths: Vec::new(),
            matches: Vec::new(),
        }
    }

    fn breaks(&self, id: u32) -> bool {
        self.breakers.binary_search(&id).is_ok()
    }
}

impl LogitsProcessor for Dry {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        let start = self.last_n.map_or(0, |n| ids.len().saturating_sub(n));
        self.reversed.clear();
        self.reversed.extend(ids[start..].iter().rev());
        let unbroken = self.reversed.iter().take_while(|&&id| !self.breaks(id)).count();
        if unbroken == 0 {
            return;
        }
        common_prefixes(&self.reversed, &mut self.lengths);
        self.matches.clear();
        for (position, &length) in self.lengths.iter().enumerate().skip(1) {
            let (length, next) = (length.min(unbroken), self.reversed[position - 1]);
            if length >= self.allowed_length && self.breakers.binary_search(&next).is_err() {
                self.matches.push((next, length));
            }
        }
        self.matches.sort_unstable();
        for (i, &(id, length)) in self.matches.iter().enumerate() {
            // The last of a token's matches is the longest.
            if self.matches.get(i + 1).is_some_and(|&(next, _)| next == id) {
                continue;
            }
            let power = i32::try_from(length - self.allowed_length).unwrap_or(i32::MAX);
            // Bounded, so that a token never becomes impossible.
            let penalty = (self.multiplier * self.base.powi(power)).min(1e30);
            if let Some(score) = scores.get_mut(id as usize) {
                *score -= penalty as f32;
            }
        }
    }
}

/// For each position, how many tokens from there are the same as from the beginning: the Z-function, in linear time.
fn common_prefixes(text: &[u32], lengths: &mut Vec<usize>) {
    lengths.clear();
    lengths.resize(text.len(), 0);
    // The known stretch that reaches furthest.
    let (mut left, mut right) = (0, 0);
    for i in 1..text.len() {
        let mut length = if i < right { lengths[i - left].min(right - i) } else { 0 };
        while i + length < text.len() && text[length] == text[i + length] {
            length += 1;
        }
        if i + length > right {
            (left, right) = (i, i + length);
        }
        lengths[i] = length;
    }
}

/// Makes tokens impossible that would complete an n-gram of `source`.
fn ban_ngrams(source: &[u32], size: usize, ids: &[u32], scores: &mut [f32]) {
    let Some(start) = (ids.len() + 1).checked_sub(size.max(1)) else { return };
    let last = &ids[start..];
    for ngram in source.windows(size.max(1)) {
        if let Some((&next, first)) = ngram.split_last()
            && first == last
            && let Some(score) = scores.get_mut(next as usize)
        {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// HF's `NoRepeatNGramLogitsProcessor`.
pub(super) struct NoRepeatNgram {
    size: usize,
}

impl NoRepeatNgram {
    pub(super) fn new(size: usize) -> Self {
        Self { size }
    }
}

impl LogitsProcessor for NoRepeatNgram {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        ban_ngrams(ids, self.size, ids, scores);
    }
}

/// HF's `EncoderNoRepeatNGramLogitsProcessor`.
pub(super) struct EncoderNoRepeatNgram {
    size: usize,
    encoder: Option<Arc<[u32]>>,
}

impl EncoderNoRepeatNgram {
    pub(super) fn new(size: usize, encoder: Option<Arc<[u32]>>) -> Self {
        Self { size, encoder }
    }
}

impl LogitsProcessor for EncoderNoRepeatNgram {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        ban_ngrams(source(self.encoder.as_deref(), ids, prompt), self.size, ids, scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    fn apply(mut processor: impl LogitsProcessor, ids: &[u32], prompt: usize, scores: &[f32]) -> Vec<f32> {
        let mut first = scores.to_vec();
        processor.process(ids, prompt, &mut first);
        let mut second = scores.to_vec();
        processor.process(ids, prompt, &mut second);
        assert_eq!(first, second);
        first
    }

    #[test]
    fn repetition_counts_a_token_once() {
        let scores = [4.0, -4.0, 1.0, 0.0];
        assert_eq!(apply(RepetitionPenalty::new(2.0), &[0, 1, 0, 99], 2, &scores), [2.0, -8.0, 1.0, 0.0]);
        assert_eq!(apply(EncoderRepetitionPenalty::new(2.0, None), &[0, 1, 2], 2, &scores), [8.0, -2.0, 1.0, 0.0]);
        let encoder = Some(Arc::from([2u32].as_slice()));
        assert_eq!(apply(EncoderRepetitionPenalty::new(2.0, encoder), &[0], 1, &scores), [4.0, -4.0, 2.0, 0.0]);
    }

    #[test]
    fn counts_are_of_generated_tokens() {
        let processor = CountPenalty::new(0.5, 1.0);
        assert_eq!(apply(processor, &[3, 0, 0, 1, 77], 1, &[0.0; 4]), [-2.0, -1.5, 0.0, 0.0]);
    }

    #[test]
    fn prefixes() {
        let mut lengths = Vec::new();
        common_prefixes(&[1, 2, 1, 2, 1, 3, 1], &mut lengths);
        assert_eq!(lengths, [0, 0, 3, 0, 1, 0, 1]);
    }

    fn dry(breakers: &[u32], last_n: Option<usize>) -> Dry {
        Dry::new(&GenerationConfig {
            dry_multiplier: 1.0,
            dry_base: 2.0,
            dry_allowed_length: 2,
            dry_sequence_breakers: breakers.to_vec(),
            dry_penalty_last_n: last_n,
            ..GenerationConfig::default()
        })
    }

    #[test]
    fn dry_punishes_the_continuation_of_a_repetition() {
        // The last three tokens, 1 2 3, were followed by 4; 2 3 by 5; 3 alone by 0.
        let ids = [1, 2, 3, 4, 0, 2, 3, 5, 3, 0, 1, 2, 3];
        assert_eq!(apply(dry(&[], None), &ids, 0, &[0.0; 6]), [0.0, 0.0, 0.0, 0.0, -2.0, -1.0]);
        // A breaker ends the match, and none is made with one.
        assert_eq!(apply(dry(&[1], None), &ids, 0, &[0.0; 6]), [0.0, 0.0, 0.0, 0.0, -1.0, -1.0]);
        assert_eq!(apply(dry(&[3], None), &ids, 0, &[0.0; 6]), [0.0; 6]);
        assert_eq!(apply(dry(&[4], None), &ids, 0, &[0.0; 6]), [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
        assert_eq!(apply(dry(&[], Some(8)), &ids, 0, &[0.0; 6]), [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
        assert_eq!(apply(dry(&[], None), &[], 0, &[0.0; 6]), [0.0; 6]);
    }

    #[test]
    fn dry_stays_finite() {
        let scores = apply(dry(&[], None), &[3; 5000], 0, &[0.0; 6]);
        assert!(scores[3] < -1e29 && scores[3].is_finite());
    }

    #[test]
    fn ngrams_occur_once() {
        let scores = [0.0; 5];
        // 1 2 was followed by 3, and by 4.
        let ids = [1, 2, 3, 1, 2, 4, 1, 2];
        assert_eq!(apply(NoRepeatNgram::new(3), &ids, 0, &scores), [0.0, 0.0, 0.0, NONE, NONE]);
        assert_eq!(apply(NoRepeatNgram::new(1), &[1, 3], 0, &scores), [0.0, NONE, 0.0, NONE, 0.0]);
        assert_eq!(apply(NoRepeatNgram::new(3), &[1, 1], 0, &scores), scores);
        // The prompt has 1 2 and 2 3.
        assert_eq!(apply(EncoderNoRepeatNgram::new(2, None), &[1, 2, 3, 2], 3, &scores), [0.0, 0.0, 0.0, NONE, 0.0]);
        assert_eq!(apply(EncoderNoRepeatNgram::new(4, None), &[1, 2, 3, 2], 2, &scores), scores);
    }

    #[test]
    fn a_set_is_emptied() {
        let mut seen = Seen { marks: vec![u32::MAX; 3], stamp: u32::MAX };
        assert!(seen.contains(1));
        seen.clear(3);
        assert!(!seen.contains(1) && seen.insert(1) && !seen.insert(1) && !seen.insert(3) && seen.contains(1));
    }
}
