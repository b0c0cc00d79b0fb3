//! What lies between two tokens of time.

/// From one token of time to the next, in seconds.
const TIME_PRECISION: f64 = 0.02;
/// From one frame of a spectrogram to the next, in seconds, rounded as Python's tensors have it.
const TIME_PRECISION_FEATURES: f32 = 0.01;
/// Frames from one token of time to the next.
const FRAMES: usize = 2;

/// A part of what is said.
#[derive(Debug, Clone, PartialEq)]
pub struct WhisperSegment {
    /// Where it starts, in seconds.
    pub start: f64,
    /// Where it ends, in seconds.
    pub end: f64,
    /// Its tokens, those of time included.
    pub tokens: Vec<u32>,
    /// When each of them was said, in seconds, if that was asked for.
    pub token_timestamps: Option<Vec<f32>>,
}

/// What was decoded in one part of a sound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    /// The tokens, without the one that ends them.
    pub tokens: &'a [u32],
    /// When each of them was said, from the beginning of the part.
    pub times: Option<&'a [f32]>,
    /// Frames before the part.
    pub seek: usize,
    /// Frames of the part.
    pub frames: usize,
    /// The first token of time; no token is one if `None`.
    pub timestamp_begin: Option<u32>,
}

impl Part<'_> {
    /// The segments of the part, and how many of its frames are done with then: at least one.
    ///
    /// A part that ends within a sentence is done with up to its last pair of times; what follows is heard again.
    pub(super) fn segments(&self) -> (Vec<WhisperSegment>, usize) {
        let begin = self.timestamp_begin.map_or(i64::MAX, i64::from);
        let is_time = |i: usize| i64::from(self.tokens[i]) >= begin;
        let position = |i: usize| (i64::from(self.tokens[i]) - begin) as f64;
        let (count, offset) = (self.tokens.len(), self.offset());
        let single_ending = count >= 2 && !is_time(count - 2) && is_time(count - 1);
        // Where the second of two times in a row stands.
        let mut ends: Vec<usize> = (1..count).filter(|&i| is_time(i - 1) && is_time(i)).collect();
        let Some(last) = ends.last_mut() else {
            let last_time = (0..count).rev().find(|&i| is_time(i)).map(position).filter(|&time| time != 0.0);
            let whole = (self.frames as f32 * TIME_PRECISION_FEATURES / TIME_PRECISION as f32).trunc();
            let end = offset + last_time.unwrap_or(f64::from(whole)) * TIME_PRECISION;
            return (vec![self.segment(0..count, offset, end)], self.frames.max(1));
        };
        if single_ending {
            ends.push(count);
        } else {
            // The pair stays together, to tell this from a single time at the end.
            *last += 1;
        }
        let mut segments = Vec::with_capacity(ends.len());
        let mut start = 0;
        for (i, &end) in ends.iter().enumerate() {
            let in_pair = i + 1 == ends.len() && !single_ending;
            let (from, to) = (position(start), position(end - 1 - usize::from(in_pair)));
            segments.push(self.segment(start..end, offset + from * TIME_PRECISION, offset + to * TIME_PRECISION));
            start = end;
        }
        // Nothing is said after a single time.
        let done = if single_ending { self.frames } else { position(start - 2) as usize * FRAMES };
        // Without the rules for times, a part could end where it starts.
        (segments, if done == 0 { self.frames.max(1) } else { done })
    }

    /// Seconds before the part.
    fn offset(&self) -> f64 {
        self.seek as f64 * TIME_PRECISION / FRAMES as f64
    }

    fn segment(&self, range: std::ops::Range<usize>, start: f64, end: f64) -> WhisperSegment {
        let offset = self.offset() as f32;
        let times = self.times.and_then(|times| times.get(range.clone()));
        WhisperSegment {
            start,
            end,
            tokens: self.tokens[range].to_vec(),
            token_timestamps: times.map(|times| times.iter().map(|time| time + offset).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of time begin at 100.
    fn part(tokens: &[u32]) -> Part<'_> {
        Part { tokens, times: None, seek: 200, frames: 3000, timestamp_begin: Some(100) }
    }

    fn summary(tokens: &[u32]) -> (Vec<(f64, f64, usize)>, usize) {
        let (segments, done) = part(tokens).segments();
        let round = |x: f64| (x * 100.0).round() / 100.0;
        (segments.iter().map(|s| (round(s.start), round(s.end), s.tokens.len())).collect(), done)
    }

    #[test]
    fn pairs_of_times_part_the_text() {
        // The last sentence has a start and no end: it is heard again.
        assert_eq!(summary(&[100, 1, 2, 150, 150, 3, 200, 200, 4]), (vec![(2.0, 3.0, 4), (3.0, 4.0, 4)], 200));
        assert_eq!(summary(&[100, 1, 150, 150]), (vec![(2.0, 3.0, 4)], 100));
        // A single time at the end: nothing follows.
        assert_eq!(summary(&[100, 1, 150, 150, 2, 250]), (vec![(2.0, 3.0, 3), (3.0, 5.0, 3)], 3000));
    }

    #[test]
    fn without_pairs_all_is_one_segment() {
        assert_eq!(summary(&[100, 1, 150]), (vec![(2.0, 3.0, 3)], 3000));
        assert_eq!(summary(&[100, 1, 2]), (vec![(2.0, 32.0, 3)], 3000));
        assert_eq!(summary(&[1, 2]), (vec![(2.0, 32.0, 2)], 3000));
        assert_eq!(summary(&[]), (vec![(2.0, 32.0, 0)], 3000));
    }

    #[test]
    fn every_part_moves_on() {
        assert_eq!(summary(&[100, 100]).1, 3000);
        let plain = Part { timestamp_begin: None, frames: 0, ..part(&[100, 150, 150]) };
        assert_eq!(plain.segments().1, 1);
    }

    #[test]
    fn times_of_tokens_are_those_of_the_sound() {
        let times = [0.0, 0.5, 0.75, 1.0, 1.0, 1.5];
        let part = Part { times: Some(&times), ..part(&[100, 1, 150, 150, 2, 250]) };
        let (segments, _) = part.segments();
        assert_eq!(segments[0].token_timestamps.as_deref(), Some(&[2.0, 2.5, 2.75][..]));
        assert_eq!(segments[1].token_timestamps.as_deref(), Some(&[3.0, 3.0, 3.5][..]));
    }
}
