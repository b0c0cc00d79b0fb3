//! The rules for tokens that say when something was said.

use tx_generate::LogitsProcessor;

/// HF's `WhisperTimeStampLogitsProcessor`: a time begins the text and does not go back; times stand in pairs, the end of
/// one segment and the start of the next; and where all times together are more probable than any word, one is chosen.
#[derive(Debug, Clone)]
pub struct WhisperTimestampLogitsProcessor {
    /// The token for text without times; tokens of time follow it.
    pub no_timestamps_token_id: u32,
    /// The token that ends a text; those before it are words.
    pub eos_token_id: u32,
    /// The latest time of a first token, in steps.
    pub max_initial_timestamp_index: Option<usize>,
}

impl LogitsProcessor for WhisperTimestampLogitsProcessor {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        const NEVER: f32 = f32::NEG_INFINITY;
        let begin = (self.no_timestamps_token_id as usize + 1).min(scores.len());
        if let Some(score) = scores.get_mut(self.no_timestamps_token_id as usize) {
            *score = NEVER;
        }
        let new = ids.get(prompt..).unwrap_or_default();
        let is_time = |id: u32| id as usize >= begin;
        let last = new.last().is_some_and(|&id| is_time(id));
        let paired = new.len() < 2 || is_time(new[new.len() - 2]);
        if last && paired {
            scores[begin..].fill(NEVER);
        } else if last {
            let words = (self.eos_token_id as usize).min(scores.len());
            scores[..words].fill(NEVER);
        }
        if let Some(&latest) = new.iter().rev().find(|&&id| is_time(id)) {
            // The end of a segment may be the start of the next one; otherwise no time comes twice.
            let earliest = latest as usize + usize::from(!last || paired);
            let end = earliest.clamp(begin, scores.len());
            scores[begin..end].fill(NEVER);
        }
        if new.is_empty() {
            scores[..begin].fill(NEVER);
            if let Some(latest) = self.max_initial_timestamp_index {
                let end = begin.saturating_add(latest).saturating_add(1).min(scores.len());
                scores[end..].fill(NEVER);
            }
        }
        let (words, times) = scores.split_at_mut(begin);
        let best = words.iter().copied().fold(NEVER, f32::max);
        if log_sum_exp(times) > f64::from(best) {
            words.fill(NEVER);
        }
    }
}

/// The score of one token that is as probable as all of these.
fn log_sum_exp(scores: &[f32]) -> f64 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let sum: f64 = scores.iter().map(|&score| f64::from(score - max).exp()).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    /// Words 0 to 3, the end 4, no times 5, and times from 6.
    fn apply(new: &[u32], scores: [f32; 10]) -> Vec<f32> {
        let mut processor = WhisperTimestampLogitsProcessor {
            no_timestamps_token_id: 5,
            eos_token_id: 4,
            max_initial_timestamp_index: Some(1),
        };
        let (ids, mut scores) = ([&[9, 9][..], new].concat(), scores.to_vec());
        processor.process(&ids, 2, &mut scores);
        scores
    }

    #[test]
    fn a_time_begins_and_is_not_late() {
        assert_eq!(apply(&[], [0.0; 10]), [NONE, NONE, NONE, NONE, NONE, NONE, 0.0, 0.0, NONE, NONE]);
    }

    #[test]
    fn times_stand_in_pairs_and_go_on() {
        let words = [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0];
        // After a start come words.
        assert_eq!(apply(&[7], words)[4..], [5.0, NONE, NONE, NONE, NONE, NONE]);
        // After an end comes a start, or the end of the text.
        assert_eq!(apply(&[6, 1, 8], words), [NONE, NONE, NONE, NONE, 5.0, NONE, NONE, NONE, 0.0, 0.0]);
        assert_eq!(apply(&[6, 1, 8, 8], words)[4..], [5.0, NONE, NONE, NONE, NONE, NONE]);
        // A segment does not end where it starts.
        assert_eq!(apply(&[7, 1], words)[4..], [5.0, NONE, NONE, NONE, 0.0, 0.0]);
    }

    #[test]
    fn probable_times_win_over_each_word() {
        // Three times of 1 are as probable as one of 2.1.
        let scores = [2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(apply(&[6, 1], scores), [NONE, NONE, NONE, NONE, NONE, NONE, NONE, 1.0, 1.0, 1.0]);
        let scores = [2.2, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(apply(&[6, 1], scores)[..2], [2.2, 1.0]);
    }

    #[test]
    fn no_input_makes_it_panic() {
        let mut processor = WhisperTimestampLogitsProcessor {
            no_timestamps_token_id: u32::MAX,
            eos_token_id: u32::MAX,
            max_initial_timestamp_index: Some(usize::MAX),
        };
        for (ids, prompt) in [(vec![], 0), (vec![u32::MAX; 3], 1), (vec![1], 9)] {
            for mut scores in [vec![], vec![f32::NAN; 4], vec![NONE; 4]] {
                processor.process(&ids, prompt, &mut scores);
            }
        }
    }
}
