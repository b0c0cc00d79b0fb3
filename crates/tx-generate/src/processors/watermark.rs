//! The green-list watermark: a secret part of the vocabulary, chosen by the last tokens, is favoured at each step.
//!
//! Kirchenbauer et al., 2023 (arXiv:2306.04634). Reference: transformers 5.23.0, `WatermarkLogitsProcessor` in
//! `generation/logits_process.py` and `WatermarkDetector` in `generation/watermarking.py`. The green tokens are those
//! that Python draws on a CPU, so that each side finds the other's marks; hence PyTorch's random numbers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tx_core::{Error, Result};

use super::LogitsProcessor;
use super::twister::Mt19937;
use crate::config::{SeedingScheme, WatermarkingConfig};
use crate::scores::{self, Scored};

/// Puts the first `count` elements of PyTorch's `randperm(size)` at the beginning of `order`.
fn permute(random: &mut Mt19937, size: usize, count: usize, order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..size as u32);
    for i in 0..count.min(size.saturating_sub(1)) {
        order.swap(i, i + random.next() as usize % (size - i));
    }
}

/// Random numbers for the ids of a context: a permutation for a seed, of which PyTorch's generator takes the low half.
struct Table {
    seed: u32,
    entries: Vec<u32>,
}

impl Table {
    /// The size of the table, a prime.
    const SIZE: usize = 1_000_003;

    /// Rows of one call share one table: it is kept as long as one of them has it.
    fn shared(seed: u32) -> Arc<Self> {
        static LAST: Mutex<Weak<Table>> = Mutex::new(Weak::new());
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.upgrade().filter(|table| table.seed == seed);
        known.unwrap_or_else(|| {
            let mut entries = Vec::new();
            permute(&mut Mt19937::new(seed), Self::SIZE, Self::SIZE, &mut entries);
            let table = Arc::new(Self { seed, entries });
            *last = Arc::downgrade(&table);
            table
        })
    }

    /// The number of an id.
    fn number(&self, id: u32) -> i64 {
        self.entries.get(id as usize % Self::SIZE).map_or(1, |&n| i64::from(n) + 1)
    }
}

/// Which tokens are green.
struct GreenList {
    config: WatermarkingConfig,
    /// `None` for a scheme without it.
    table: Option<Arc<Table>>,
    order: Vec<u32>,
}

impl GreenList {
    fn new(config: WatermarkingConfig) -> Self {
        let of_itself = config.seeding_scheme == SeedingScheme::SelfHash;
        let table = of_itself.then(|| Table::shared(config.hashing_key as u32));
        Self { config, table, order: Vec::new() }
    }

    /// The seed that the end of a context gives, of which PyTorch's generator takes the low half.
    fn seed(&self, context: &[u32]) -> u32 {
        /// PyTorch takes seeds by this modulus.
        const MODULUS: u64 = u64::MAX;
        let Some(&last) = context.last() else { return 0 };
        let key = self.config.hashing_key;
        match self.config.seeding_scheme {
            SeedingScheme::LeftHash => (u128::from(key) * u128::from(last) % u128::from(MODULUS)) as u32,
            SeedingScheme::SelfHash => {
                let number = |id: u32| self.table.as_ref().map_or(1, |table| table.number(id));
                let start = context.len().saturating_sub(self.config.context_width);
                // 64 bits with a sign that overflow, as tensors do.
                let seed = |&id: &u32| (key as i64).wrapping_mul(number(id)).wrapping_mul(number(last));
                let seeds = context[start..].iter().map(seed);
                i128::from(seeds.min().unwrap_or_default()).rem_euclid(i128::from(MODULUS)) as u32
            }
        }
    }

    /// The green tokens of a vocabulary after a context.
    fn green(&mut self, context: &[u32], vocab_size: usize) -> &[u32] {
        let count = (vocab_size as f64 * self.config.greenlist_ratio) as usize;
        permute(&mut Mt19937::new(self.seed(context)), vocab_size, count, &mut self.order);
        self.order.get(..count).unwrap_or_default()
    }
}

/// HF's `WatermarkLogitsProcessor`.
pub(super) struct Watermark {
    list: GreenList,
    top: Vec<Scored>,
    context: Vec<u32>,
}

impl Watermark {
    /// How many of the most probable tokens [`SeedingScheme::SelfHash`] tries.
    const CANDIDATES: usize = 40;

    pub(super) fn new(config: WatermarkingConfig) -> Self {
        Self { list: GreenList::new(config), top: Vec::new(), context: Vec::new() }
    }
}

impl LogitsProcessor for Watermark {
    fn process(&mut self, ids: &[u32], _: usize, scores: &mut [f32]) {
        let WatermarkingConfig { bias, seeding_scheme, context_width, .. } = self.list.config;
        let (bias, vocab_size) = (bias as f32, scores.len());
        // Where there is too little to choose by, nothing is marked.
        if ids.len() < context_width {
            return;
        }
        match seeding_scheme {
            SeedingScheme::LeftHash => {
                for &id in self.list.green(ids, vocab_size) {
                    if let Some(score) = scores.get_mut(id as usize) {
                        *score += bias;
                    }
                }
            }
            SeedingScheme::SelfHash => {
                scores::largest(scores, Self::CANDIDATES, &mut self.top);
                self.context.clear();
                self.context.extend_from_slice(&ids[ids.len() - context_width..]);
                for candidate in &self.top {
                    self.context.push(candidate.id);
                    if self.list.green(&self.context, vocab_size).contains(&candidate.id)
                        && let Some(score) = scores.get_mut(candidate.id as usize)
                    {
                        *score += bias;
                    }
                    self.context.pop();
                }
            }
        }
    }
}

/// What a detector finds in a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Tokens that could have been marked.
    pub num_tokens_scored: usize,
    /// Those of them that are green.
    pub num_green_tokens: usize,
    /// Their share.
    pub green_fraction: f64,
    /// How far that is above what a text without a mark has, in standard deviations.
    pub z_score: f64,
    /// Whether the text is marked.
    pub prediction: bool,
}

/// HF's `WatermarkDetector`: tells whether a text has the watermark of a config.
pub struct WatermarkDetector {
    list: GreenList,
    vocab_size: usize,
    bos: Option<u32>,
    ignore_repeated_ngrams: bool,
}

impl WatermarkDetector {
    /// A detector for the config and the vocabulary that the text was generated with.
    ///
    /// `bos` is not counted where a text begins with it. With `ignore_repeated_ngrams`, what occurs several times
    /// counts once.
    ///
    /// # Errors
    /// [`Error::Input`] for a config that no text can be generated with.
    pub fn new(
        config: WatermarkingConfig,
        vocab_size: usize,
        bos: Option<u32>,
        ignore_repeated_ngrams: bool,
    ) -> Result<Self> {
        match config.problem() {
            Some(expected) => Err(Error::input("watermarking_config", "another value", expected)),
            None => Ok(Self { list: GreenList::new(config), vocab_size, bos, ignore_repeated_ngrams }),
        }
    }

    /// Looks for the watermark in the tokens of a text, best without its prompt. HF's `z_threshold` is 3.
    ///
    /// # Errors
    /// [`Error::Input`] for a text that is too short to be marked.
    pub fn detect(&mut self, ids: &[u32], z_threshold: f64) -> Result<Detection> {
        let ids = match ids.split_first() {
            Some((first, rest)) if Some(*first) == self.bos => rest,
            _ => ids,
        };
        let width = self.list.config.context_width;
        if ids.len() <= width {
            return Err(Error::input("text", format_args!("{} tokens", ids.len()), format_args!("more than {width}")));
        }
        // A token that chooses its own list is part of the context.
        let of_itself = self.list.config.seeding_scheme == SeedingScheme::SelfHash;
        let mut counts: HashMap<&[u32], usize> = HashMap::new();
        for ngram in ids.windows(width + 1 - usize::from(of_itself)) {
            *counts.entry(ngram).or_default() += 1;
        }
        let (mut scored, mut green) = (0, 0);
        for (ngram, count) in counts {
            let count = if self.ignore_repeated_ngrams { 1 } else { count };
            scored += count;
            if let Some((last, before)) = ngram.split_last() {
                let context = if of_itself { ngram } else { before };
                green += if self.list.green(context, self.vocab_size).contains(last) { count } else { 0 };
            }
        }
        let (ratio, n) = (self.list.config.greenlist_ratio, scored as f64);
        let z_score = (green as f64 - ratio * n) / (n * ratio * (1.0 - ratio)).sqrt();
        Ok(Detection {
            num_tokens_scored: scored,
            num_green_tokens: green,
            green_fraction: green as f64 / n,
            z_score,
            prediction: z_score > z_threshold,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sampler;

    #[test]
    fn permutations_are_those_of_pytorch() {
        let mut order = Vec::new();
        // `torch.manual_seed(42); torch.randperm(10)`
        permute(&mut Mt19937::new(42), 10, 10, &mut order);
        assert_eq!(order, [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
        permute(&mut Mt19937::new(42), 10, 3, &mut order);
        assert_eq!(order[..3], [2, 6, 1]);
        permute(&mut Mt19937::new(42), 0, 3, &mut order);
        assert!(order.is_empty());
    }

    #[test]
    fn the_last_token_chooses() {
        // The seed is 15485863 · 7 = 108401041.
        let mut list = GreenList::new(WatermarkingConfig::default());
        assert_eq!(list.seed(&[3, 7]), 108_401_041);
        assert_eq!(list.green(&[3, 7], 12), [9, 1, 8]);
        let mut scores = [0.0; 12];
        Watermark::new(WatermarkingConfig::default()).process(&[3, 7], 1, &mut scores);
        let green: Vec<usize> = (0..12).filter(|&id| scores[id] == 2.0).collect();
        assert_eq!(green, [1, 8, 9]);
        let wide = WatermarkingConfig { context_width: 3, ..WatermarkingConfig::default() };
        let mut scores = [0.0; 12];
        Watermark::new(wide).process(&[3, 7], 1, &mut scores);
        assert_eq!(scores, [0.0; 12]);
    }

    #[test]
    fn rows_share_a_table() {
        // Of a key that no other test has; another thread may still ask for a table in between.
        let shared = (0..100).any(|_| {
            let (a, b) = (Table::shared(7), Table::shared(7));
            assert_eq!(a.entries, b.entries);
            Arc::ptr_eq(&a, &b)
        });
        assert!(shared);
    }

    #[test]
    fn marks_are_found() {
        for seeding_scheme in [SeedingScheme::LeftHash, SeedingScheme::SelfHash] {
            let config = WatermarkingConfig { seeding_scheme, bias: 4.0, ..WatermarkingConfig::default() };
            let mut detector = WatermarkDetector::new(config, 50, Some(0), false).unwrap();
            let mut watermark = Watermark::new(config);
            let (mut marked, mut plain) = (vec![0u32, 1], vec![0u32, 1]);
            let mut sampler = Sampler::new(5, 0);
            for step in 0..60u32 {
                let mut scores: Vec<f32> = (0..50u32).map(|i| ((i * 37 + step * 101) % 97) as f32 * 0.02).collect();
                plain.push(sampler.draw(&scores));
                watermark.process(&marked, 1, &mut scores);
                marked.push(sampler.draw(&scores));
            }
            let found = detector.detect(&marked, 3.0).unwrap();
            assert!(found.prediction, "{found:?}");
            let found = detector.detect(&plain, 3.0).unwrap();
            assert!(!found.prediction, "{found:?}");
            assert!(detector.detect(&[0, 1], 3.0).is_err());
        }
    }
}
