//! SynthID-Text's watermark: tokens that a hash of the last ones gives more ones win a tournament against the others.
//!
//! Dathathri et al., 2024 (doi:10.1038/s41586-024-08025-4). Reference: transformers 5.23.0,
//! `SynthIDTextWatermarkLogitsProcessor` in `generation/logits_process.py`. Its table is the one that Python draws on a
//! CPU. Python keeps the contexts of a row of the batch, whichever beam that is; here they are those of the sequence.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::LogitsProcessor;
use super::twister::Mt19937;
use crate::config::SynthIdTextWatermarkingConfig;
use crate::sample::softmax;
use crate::scores;

/// PyTorch's `randint(0, 2, [size])` for a seed, of which its generator takes the low half.
#[derive(Debug, PartialEq)]
struct SamplingTable {
    seed: u64,
    entries: Vec<u8>,
}

impl SamplingTable {
    /// Rows of one call share one table: it is kept as long as one of them has it.
    fn shared(seed: u64, size: usize) -> Arc<Self> {
        static LAST: Mutex<Weak<SamplingTable>> = Mutex::new(Weak::new());
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.upgrade().filter(|table| table.seed == seed && table.entries.len() == size);
        known.unwrap_or_else(|| {
            let mut random = Mt19937::new(seed as u32);
            let entries = (0..size).map(|_| (random.next() % 2) as u8).collect();
            let table = Arc::new(Self { seed, entries });
            *last = Arc::downgrade(&table);
            table
        })
    }
}

/// The hash of what has this hash and one number more: a step of musl's generator, in 64 bits that overflow.
fn accumulate(hash: i64, number: i64) -> i64 {
    hash.wrapping_add(number).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)
}

/// The hash of the tokens before a new one.
fn hash(context: &[u32]) -> i64 {
    context.iter().fold(1, |hash, &id| accumulate(hash, i64::from(id)))
}

/// A token that is possible.
struct Candidate {
    id: u32,
    /// Of the context and the token.
    hash: i64,
    probability: f32,
    /// What the round gives it: 0 or 1.
    g: f32,
}

/// HF's `SynthIDTextWatermarkLogitsProcessor`.
pub(super) struct SynthIdText {
    config: SynthIdTextWatermarkingConfig,
    table: Arc<SamplingTable>,
    /// Zeros as many as a context has tokens, and the new tokens after them.
    tokens: Vec<u32>,
    candidates: Vec<Candidate>,
}

impl SynthIdText {
    pub(super) fn new(config: SynthIdTextWatermarkingConfig) -> Self {
        let table = SamplingTable::shared(config.sampling_table_seed, config.sampling_table_size);
        Self { config, table, tokens: Vec::new(), candidates: Vec::new() }
    }

    /// The tokens of a context.
    fn width(&self) -> usize {
        self.config.ngram_len.saturating_sub(1)
    }

    /// The hash of the context of the token after so many new ones.
    fn context(&self, new: usize) -> i64 {
        hash(&self.tokens[new..][..self.width()])
    }

    /// Whether the context of the token after `new` new ones marked one before. The first marks come after `first`.
    fn is_repeated(&self, context: i64, first: usize, new: usize) -> bool {
        let history = self.config.context_history_size;
        let known = (first..new).rev().take(history).any(|earlier| self.context(earlier) == context);
        // HF's history is full of zeros at the beginning.
        known || context == 0 && new - first < history
    }

    /// Zero or one for a hash.
    fn g(&self, hash: i64) -> f32 {
        let size = self.table.entries.len().max(1);
        // The usual size is a power of two, and a division would take most of the time.
        let place =
            if size.is_power_of_two() { hash as usize & (size - 1) } else { hash.rem_euclid(size as i64) as usize };
        self.table.entries.get(place).map_or(0.0, |&g| f32::from(g))
    }

    /// Turns the candidates' probabilities into those of who wins all rounds.
    fn hold_tournament(&mut self) {
        let mut candidates = std::mem::take(&mut self.candidates);
        for &key in &self.config.keys {
            let mut mass = 0.0;
            for candidate in &mut candidates {
                candidate.g = self.g(accumulate(candidate.hash, key));
                mass += f64::from(candidate.g * candidate.probability);
            }
            for candidate in &mut candidates {
                candidate.probability *= 1.0 + candidate.g - mass as f32;
            }
        }
        self.candidates = candidates;
    }
}

impl LogitsProcessor for SynthIdText {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        let width = self.width();
        let new = ids.get(prompt..).unwrap_or_default();
        if self.config.debug_mode {
            scores.fill(1.0);
        }
        let first = if self.config.skip_first_ngram_calls { width } else { 0 };
        // Where no token is possible, none is marked.
        if new.len() < first || scores::max(scores) == f32::NEG_INFINITY {
            return;
        }
        self.tokens.clear();
        self.tokens.resize(width, 0);
        self.tokens.extend_from_slice(new);
        let context = self.context(new.len());
        if self.is_repeated(context, first, new.len()) {
            return;
        }
        softmax(scores);
        self.candidates.clear();
        let possible = scores.iter().zip(0u32..).filter(|(probability, _)| **probability != 0.0);
        self.candidates.extend(possible.map(|(&probability, id)| {
            let hash = accumulate(context, i64::from(id));
            Candidate { id, hash, probability, g: 0.0 }
        }));
        self.hold_tournament();
        // HF writes the lowest number in place of negative infinity.
        scores.fill(f32::MIN);
        for &Candidate { id, probability, .. } in &self.candidates {
            let score = probability.ln();
            if score.is_finite() {
                scores[id as usize] = score;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ngram_len: usize) -> SynthIdTextWatermarkingConfig {
        SynthIdTextWatermarkingConfig::new(ngram_len, vec![654, 400, 836])
    }

    /// Whether the token after `ids` is marked.
    fn marked(config: &SynthIdTextWatermarkingConfig, ids: &[u32], prompt: usize) -> bool {
        let before: Vec<f32> = (0..9).map(|i| i as f32 * 0.3).collect();
        let mut scores = before.clone();
        SynthIdText::new(config.clone()).process(ids, prompt, &mut scores);
        scores != before
    }

    #[test]
    fn tables_are_those_of_pytorch() {
        // `torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed))`: the sum of the entries, and
        // that of each times its place, counted from 1.
        for (seed, size, ones, places) in [
            (0, 65_536, 32_743, 1_069_335_378),
            (42, 1000, 510, 253_756),
            (u64::MAX, 65_536, 32_736, 1_074_292_952),
            (123_456_789_012_345, 5003, 2504, 6_277_658),
        ] {
            let table = SamplingTable::shared(seed, size);
            assert_eq!(table.entries.iter().map(|&g| usize::from(g)).sum::<usize>(), ones);
            assert_eq!(table.entries.iter().zip(1..).map(|(&g, place)| usize::from(g) * place).sum::<usize>(), places);
        }
        assert_eq!(SamplingTable::shared(0, 16).entries, [0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn rows_share_a_table() {
        // Of a size that no other test has; another thread may still ask for a table in between.
        let shared = (0..100).any(|_| {
            let (a, b) = (SamplingTable::shared(7, 77), SamplingTable::shared(7, 77));
            assert_eq!(a, b);
            Arc::ptr_eq(&a, &b)
        });
        assert!(shared);
    }

    #[test]
    fn repeated_contexts_are_not_marked() {
        let config = config(3);
        // The prompt is no context: before the first new token there are zeros.
        assert!(marked(&config, &[5, 6], 2) && marked(&config, &[5, 6, 5], 2));
        assert!(marked(&config, &[5, 6, 5, 6], 2) && marked(&config, &[5, 6, 5, 6, 5], 2));
        assert!(!marked(&config, &[5, 6, 5, 6, 5, 6], 2));
        let short = SynthIdTextWatermarkingConfig { context_history_size: 1, ..config.clone() };
        assert!(marked(&short, &[5, 6, 5, 6, 5, 6], 2) && !marked(&short, &[5, 6, 5, 5, 5], 2));
        let none = SynthIdTextWatermarkingConfig { context_history_size: 0, ..config.clone() };
        assert!(marked(&none, &[5, 6, 5, 5, 5], 2));
        let skips = SynthIdTextWatermarkingConfig { skip_first_ngram_calls: true, ..config };
        assert!(!marked(&skips, &[5, 6, 5], 2) && marked(&skips, &[5, 6, 5, 6], 2));
        // Without a context, all are the same.
        let single = SynthIdTextWatermarkingConfig { ngram_len: 1, ..skips };
        assert!(marked(&single, &[5, 6], 2) && !marked(&single, &[5, 6, 5], 2));
    }

    #[test]
    fn tournaments_keep_the_sum_of_probabilities() {
        let config = SynthIdTextWatermarkingConfig { sampling_table_size: 1001, ..config(5) };
        let mut scores: Vec<f32> = (0..500u32).map(|i| (i * 37 % 97) as f32 * 0.05).collect();
        scores[3] = f32::NEG_INFINITY;
        SynthIdText::new(config).process(&[1, 2, 3], 1, &mut scores);
        assert_eq!(scores[3], f32::MIN);
        let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
}
