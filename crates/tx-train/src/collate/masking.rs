//! What a masked language model is to guess: Devlin et al., 2019 (arXiv:1810.04805).
//!
//! Which tokens are hidden depends on the seed, the epoch and the number of the example alone: not on the batch that it
//! is in, nor on the rank that reads it, and a run that goes on hides what it would have hidden.
//! Reference: transformers 5.23, `DataCollatorForLanguageModeling`.

use serde::{Deserialize, Serialize};
use tx_core::error::{Error, Result};
use tx_core::tokenizer::Tokenizer;

use crate::data::{IGNORED, Random, Tokens};

/// The stream of random numbers that is for masks.
const STREAM: u64 = 0x6d_6173_6b73;

/// How much is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskingOptions {
    /// The probability that a token, or a word, is to be guessed.
    pub mlm_probability: f64,
    /// The probability that what is to be guessed is hidden behind the mask token.
    pub mask_replace_prob: f64,
    /// The probability that a random token stands in its place. The rest stays as it is.
    pub random_replace_prob: f64,
    /// Whether words are guessed as wholes; all of their tokens are then hidden, as in the reference.
    pub whole_word_mask: bool,
}

impl Default for MaskingOptions {
    fn default() -> Self {
        Self { mlm_probability: 0.15, mask_replace_prob: 0.8, random_replace_prob: 0.1, whole_word_mask: false }
    }
}

/// Hides tokens.
#[derive(Debug, Clone, Copy)]
pub struct Masking {
    options: MaskingOptions,
    seed: u64,
    mask: u32,
    vocab_size: u64,
}

impl Masking {
    /// Masks of a tokenizer; `seed` chooses them.
    ///
    /// # Errors
    /// [`Error::Input`] for a tokenizer without a mask token, and for numbers that are no probabilities.
    pub fn new(tokenizer: &Tokenizer, options: MaskingOptions, seed: u64) -> Result<Self> {
        let Some(mask) = &tokenizer.special().mask else {
            let expected = "one that has it; a model without it learns by causal language modelling";
            return Err(Error::input("masked language modelling", "a tokenizer without a mask token", expected));
        };
        let MaskingOptions { mlm_probability, mask_replace_prob, random_replace_prob, .. } = options;
        for (name, value) in [
            ("mlm_probability", mlm_probability),
            ("mask_replace_prob", mask_replace_prob),
            ("random_replace_prob", random_replace_prob),
            ("mask_replace_prob + random_replace_prob", mask_replace_prob + random_replace_prob),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::input(name, value, "a number from 0 to 1"));
            }
        }
        Ok(Self { options, seed, mask: mask.id, vocab_size: tokenizer.vocab_size() as u64 })
    }

    /// Hides some tokens of an example; the labels of all.
    pub fn hide(&self, tokens: &mut Tokens, epoch: u64, number: u64) -> Vec<i64> {
        let mut random = Random::new(&[STREAM, self.seed, epoch, number]);
        let chosen = self.choose(tokens, &mut random);
        let MaskingOptions { mask_replace_prob, random_replace_prob, whole_word_mask, .. } = self.options;
        let mut labels = vec![IGNORED; tokens.len()];
        for ((id, label), chosen) in tokens.ids.iter_mut().zip(&mut labels).zip(chosen) {
            if !chosen {
                continue;
            }
            *label = i64::from(*id);
            let fate = random.uniform();
            if whole_word_mask || fate < mask_replace_prob {
                *id = self.mask;
            } else if fate < mask_replace_prob + random_replace_prob {
                *id = random.below(self.vocab_size) as u32;
            }
        }
        labels
    }

    /// Which tokens are to be guessed: never special ones.
    fn choose(&self, tokens: &Tokens, random: &mut Random) -> Vec<bool> {
        let mark = |i: usize| tokens.marks.get(i).copied().unwrap_or(0);
        let special = |i: usize| mark(i) & Tokens::SPECIAL != 0;
        let mut chosen: Vec<bool> = Vec::with_capacity(tokens.len());
        for i in 0..tokens.len() {
            let starts = i == 0 || special(i - 1) || mark(i) & Tokens::WORD != 0;
            let before = chosen.last().copied().unwrap_or(false);
            chosen.push(match () {
                () if special(i) => false,
                () if self.options.whole_word_mask && !starts => before,
                () => random.uniform() < self.options.mlm_probability,
            });
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u32 = 3;
    const LEN: usize = 40_000;

    fn masking(options: MaskingOptions) -> Masking {
        Masking { options, seed: 7, mask: MASK, vocab_size: 1000 }
    }

    /// Tokens 10 … 999; every tenth is special, and words have three tokens.
    fn tokens() -> Tokens {
        let ids = (0..LEN).map(|i| 10 + (i * 31 % 990) as u32).collect();
        let mark = |i: usize| match i % 10 {
            0 => Tokens::SPECIAL,
            1 | 4 | 7 => Tokens::WORD,
            _ => 0,
        };
        Tokens { ids, marks: (0..LEN).map(mark).collect(), ..Tokens::default() }
    }

    #[test]
    fn as_many_are_hidden_as_should_be() {
        let before = tokens();
        let mut after = before.clone();
        let labels = masking(MaskingOptions::default()).hide(&mut after, 1, 2);
        let (mut guessed, mut masked, mut kept) = (0, 0, 0);
        for (i, (&label, (&before, &after))) in labels.iter().zip(before.ids.iter().zip(&after.ids)).enumerate() {
            if label == IGNORED {
                assert_eq!(after, before);
                continue;
            }
            assert!(label == i64::from(before) && i % 10 != 0);
            guessed += 1;
            masked += usize::from(after == MASK);
            kept += usize::from(after == before);
        }
        // Shares of 36 000 tokens, within five standard deviations.
        assert!((5_060..5_740).contains(&guessed), "{guessed}");
        assert!((masked as f64 / guessed as f64 - 0.8).abs() < 0.03, "{masked} of {guessed}");
        assert!((kept as f64 / guessed as f64 - 0.1).abs() < 0.02, "{kept} of {guessed}");
    }

    #[test]
    fn words_are_hidden_as_wholes() {
        let before = tokens();
        let mut after = before.clone();
        let options = MaskingOptions { whole_word_mask: true, ..MaskingOptions::default() };
        let labels = masking(options).hide(&mut after, 1, 2);
        let mut words = 0;
        for (ids, labels) in after.ids.chunks(10).zip(labels.chunks(10)) {
            assert_eq!(labels[0], IGNORED);
            for (ids, labels) in ids[1..].chunks(3).zip(labels[1..].chunks(3)) {
                let hidden = labels[0] != IGNORED;
                words += usize::from(hidden);
                assert!(ids.iter().zip(labels).all(|(&id, &label)| (id == MASK, label != IGNORED) == (hidden, hidden)));
            }
        }
        assert!((1_600..2_000).contains(&words), "{words} of 12 000");
    }

    #[test]
    fn masks_change_with_epoch_and_example_alone() {
        let hide = |seed: u64, epoch: u64, number: u64| {
            let mut tokens = tokens();
            let labels = Masking { seed, ..masking(MaskingOptions::default()) }.hide(&mut tokens, epoch, number);
            (tokens.ids, labels)
        };
        assert_eq!(hide(7, 1, 2), hide(7, 1, 2));
        assert!(hide(7, 1, 2) != hide(8, 1, 2) && hide(7, 1, 2) != hide(7, 2, 2) && hide(7, 1, 2) != hide(7, 1, 3));
        let nothing = MaskingOptions { mlm_probability: 0.0, ..MaskingOptions::default() };
        assert!(masking(nothing).hide(&mut tokens(), 0, 0).iter().all(|&label| label == IGNORED));
    }
}
