//! The text of a sound, from the tokens of its parts, which may overlap: HF's `_decode_asr`.

use serde::Serialize;
use tx_core::error::Result;

use super::WhisperTokens;
use super::words::Word;
use crate::generation::language_name;

/// Tokens of time in what the model hears at once, as the reference counts them.
const SEGMENT_SIZE: f64 = 1500.0;

/// What was generated for one part of a sound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AsrOutput {
    /// The tokens of all segments.
    pub tokens: Vec<u32>,
    /// When each of them was said, in seconds.
    pub token_timestamps: Option<Vec<f32>>,
    /// How long the part is, and how much of its beginning and of its end other parts have as well, in seconds.
    pub stride: Option<[f64; 3]>,
}

/// What is made of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AsrOptions {
    /// Whether there are parts with their times.
    pub return_timestamps: bool,
    /// Whether these are words; segments otherwise.
    pub words: bool,
    /// Whether they name the language.
    pub return_language: bool,
    /// Seconds from one token of time to the next.
    pub time_precision: f64,
}

/// A part of a text.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Chunk {
    /// The name of its language, if that was asked for, and if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Option<String>>,
    /// Where it starts and ends, in seconds, if that was asked for, and as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<(Option<f64>, Option<f64>)>,
    /// The text.
    pub text: String,
}

impl WhisperTokens {
    /// The text of a sound, and its parts, if these were asked for.
    ///
    /// # Errors
    /// [`tx_core::Error::Tokenizer`] if tokens cannot be decoded.
    pub fn decode_asr(&self, outputs: &[AsrOutput], options: &AsrOptions) -> Result<(String, Option<Vec<Chunk>>)> {
        let mut text = Transcript::new(self, options);
        outputs.iter().try_for_each(|output| text.push(output))?;
        if !text.previous.is_empty() {
            text.close()?;
        }
        let full: String = text.closed.iter().map(|open| open.text.as_str()).collect();
        if !options.return_timestamps && !options.return_language {
            return Ok((full, None));
        }
        let name = |language: Option<&str>| options.return_language.then(|| language.map(str::to_owned));
        let chunks = text.closed.into_iter().flat_map(|open| {
            let Open { language, timestamp: [start, end], text, words } = open;
            if options.return_timestamps && options.words {
                return words;
            }
            let timestamp = options.return_timestamps.then_some((start, end));
            vec![Chunk { language: name(language), timestamp, text }]
        });
        Ok((full, Some(chunks.collect())))
    }
}

/// A part whose end has not come.
#[derive(Debug, Default)]
struct Open {
    language: Option<&'static str>,
    timestamp: [Option<f64>; 2],
    text: String,
    words: Vec<Chunk>,
}

/// Start and end of a token, in seconds.
type Times = (f64, f64);

/// A text that grows part by part.
struct Transcript<'t> {
    tokens: &'t WhisperTokens,
    options: &'t AsrOptions,
    closed: Vec<Open>,
    open: Open,
    /// The tokens of the open part; each list but the last ends where another part of the sound begins.
    previous: Vec<Vec<u32>>,
    /// Their times, if there are words.
    previous_times: Vec<Vec<Times>>,
    language: Option<&'static str>,
    /// Seconds before the part of the sound.
    offset: f64,
    /// The next token of time belongs to one that does not count.
    skip: bool,
}

/// Which tokens of time count in one part of a sound.
struct Borders {
    /// They come from here on, as a number of a token.
    first: f64,
    /// They come before this token.
    last: Option<u32>,
}

impl<'t> Transcript<'t> {
    fn new(tokens: &'t WhisperTokens, options: &'t AsrOptions) -> Self {
        Self {
            tokens,
            options,
            closed: Vec::new(),
            open: Open::default(),
            previous: Vec::new(),
            previous_times: Vec::new(),
            language: None,
            offset: 0.0,
            skip: false,
        }
    }

    /// Adds a part of the sound.
    fn push(&mut self, output: &AsrOutput) -> Result<()> {
        let ids = self.tokens.without_prompt(&output.tokens);
        let begin = self.tokens.timestamp_begin;
        let borders = self.borders(ids, output.stride);
        let times = output.token_timestamps.as_deref().unwrap_or_default();
        let mut current: Vec<u32> = Vec::new();
        let mut current_times: Vec<Times> = Vec::new();
        // Segments of a long sound, whose times begin anew.
        let (mut latest, mut before, mut segments) = (0.0, 0.0, 0.0);
        for (i, &id) in ids.iter().enumerate() {
            if self.tokens.special.contains(&id) {
                self.push_special(id, &mut current)?;
            } else if id >= begin {
                let time = f64::from(id - begin) * self.options.time_precision;
                if time < latest {
                    let single = i >= 2 && !(ids[i - 1] >= begin && ids[i - 2] >= begin);
                    if single {
                        segments += self.options.time_precision * SEGMENT_SIZE;
                    } else {
                        latest = before;
                        segments += before;
                    }
                }
                (before, latest) = (latest, time);
                let time = round(time + self.offset + segments);
                if borders.last.is_some_and(|last| id >= last) {
                    // Times come in pairs, so the next one does not count either.
                    self.skip = true;
                } else if self.skip || (!self.previous.is_empty() && f64::from(id) < borders.first) {
                    self.skip = false;
                } else if self.open.timestamp[0].is_none() {
                    self.open.timestamp[0] = Some(time);
                } else if self.open.timestamp[0] != Some(time) {
                    self.open.timestamp[1] = Some(time);
                    self.previous.push(std::mem::take(&mut current));
                    self.previous_times.push(std::mem::take(&mut current_times));
                    self.close()?;
                }
            } else {
                current.push(id);
                let at = |i: usize| times.get(i).copied().map_or(0.0, f64::from);
                let start = if i == 0 { 0.0 } else { at(i - 1) };
                current_times.push((round(start + self.offset), round(at(i) + self.offset)));
            }
        }
        if let Some([length, _, right]) = output.stride {
            self.offset += length - right;
        }
        if !current.is_empty() {
            self.previous.push(current);
            self.previous_times.push(current_times);
        } else if self.previous.iter().all(Vec::is_empty) {
            self.reopen();
        }
        Ok(())
    }

    /// Begins a part of the sound; tells which tokens of time count in it.
    fn borders(&mut self, ids: &[u32], stride: Option<[f64; 3]>) -> Borders {
        let begin = self.tokens.timestamp_begin;
        let mut borders = Borders { first: f64::from(begin), last: None };
        let Some([length, left, right]) = stride else { return borders };
        self.offset -= left;
        if left != 0.0 {
            borders.first = left / self.options.time_precision + f64::from(begin);
        }
        if right != 0.0 {
            for &id in ids.iter().rev().filter(|&&id| id >= begin) {
                // Of the times in the overlap the first, and at least the last of all.
                let inside = f64::from(id - begin) * self.options.time_precision < length - right;
                if borders.last.is_some() && inside {
                    break;
                }
                borders.last = Some(id);
            }
        }
        borders
    }

    /// A token that is no text: the name of a language, or nothing.
    fn push_special(&mut self, id: u32, current: &mut Vec<u32>) -> Result<()> {
        let token = self.tokens.decode(&[id])?;
        let code = token.strip_prefix("<|").and_then(|token| token.strip_suffix("|>"));
        let Some(language) = code.and_then(language_name) else { return Ok(()) };
        let changes = self.language.is_some_and(|last| last != language);
        if changes && !self.options.return_timestamps {
            self.previous.push(std::mem::take(current));
            self.close()?;
        }
        self.open.language = Some(language);
        self.language = Some(language);
        Ok(())
    }

    /// Ends the open part with the tokens so far.
    fn close(&mut self) -> Result<()> {
        let words = self.options.return_timestamps && self.options.words;
        let times: &[Vec<Times>] = if words { &self.previous_times } else { &[] };
        let (ids, times) = longest_common_sequence(&self.previous, times);
        self.open.text = self.tokens.decode(&ids)?;
        if words {
            let name = self.options.return_language.then(|| self.language.map(str::to_owned));
            let chunk = |word: Word| {
                let (start, end) = (times.get(word.first).map(|t| t.0), times.get(word.last).map(|t| t.1));
                Chunk { language: name.clone(), timestamp: Some((start, end)), text: word.text }
            };
            self.open.words = self.tokens.words(&ids, self.language)?.into_iter().map(chunk).collect();
        }
        self.closed.push(std::mem::take(&mut self.open));
        self.reopen();
        Ok(())
    }

    /// Forgets the open part.
    fn reopen(&mut self) {
        self.open = Open { language: self.language, ..Open::default() };
        self.previous.clear();
        self.previous_times.clear();
    }
}

/// To hundredths.
fn round(seconds: f64) -> f64 {
    // As Python rounds: the decimal number nearest to the exact value.
    format!("{seconds:.2}").parse().unwrap_or(seconds)
}

/// Sequences that overlap as one: each is cut in the middle of where it is most like the next.
///
/// `times` are those of all tokens, or there are none.
fn longest_common_sequence(sequences: &[Vec<u32>], times: &[Vec<Times>]) -> (Vec<u32>, Vec<Times>) {
    let timed = !times.is_empty();
    let times_of = |sequence: usize| times.get(sequence).map_or(&[][..], Vec::as_slice);
    let (mut total, mut total_times) = (Vec::new(), Vec::new());
    let mut left = sequences.first().map_or(&[][..], Vec::as_slice);
    let mut left_times = times_of(0);
    for (number, right) in sequences.iter().enumerate().skip(1) {
        let right_times = times_of(number);
        let mut best = 0.0;
        let mut middle = (left.len(), 0);
        for i in 1..left.len() + right.len() {
            // The last `i` of one against the first `i` of the other, as far as both have so many.
            let (left_start, left_stop) = (left.len().saturating_sub(i), left.len().min(left.len() + right.len() - i));
            let (right_start, right_stop) = (i.saturating_sub(left.len()), right.len().min(i));
            let matches = (left_start..left_stop)
                .zip(right_start..right_stop)
                .filter(|&(l, r)| left[l] == right[r] && (!timed || left_times.get(l) <= right_times.get(r)));
            let matches = matches.count();
            // Long matches win over short ones.
            let likeness = matches as f64 / i as f64 + i as f64 / 10_000.0;
            if matches > 1 && likeness > best {
                best = likeness;
                middle = ((left_start + left_stop) / 2, (right_start + right_stop) / 2);
            }
        }
        total.extend_from_slice(&left[..middle.0]);
        total_times.extend_from_slice(&left_times[..middle.0.min(left_times.len())]);
        left = &right[middle.1..];
        left_times = &right_times[middle.1.min(right_times.len())..];
    }
    total.extend_from_slice(left);
    total_times.extend_from_slice(left_times);
    (total, total_times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found() {
        let join = |sequences: &[&[u32]]| {
            let sequences: Vec<Vec<u32>> = sequences.iter().map(|sequence| sequence.to_vec()).collect();
            longest_common_sequence(&sequences, &[]).0
        };
        assert_eq!(join(&[&[1, 2, 3, 4], &[3, 4, 5]]), [1, 2, 3, 4, 5]);
        // One token in common is chance.
        assert_eq!(join(&[&[1, 2, 3, 4], &[4, 5, 6]]), [1, 2, 3, 4, 4, 5, 6]);
        // An error within the overlap, or at its end.
        assert_eq!(join(&[&[1, 2, 3, 9, 5], &[2, 3, 4, 5, 6]]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(join(&[&[1, 2, 3, 9], &[1, 2, 3, 4]]), [1, 2, 3, 4]);
        assert_eq!(join(&[&[1, 2], &[], &[1, 2, 3, 4], &[3, 4, 5]]), [1, 2, 1, 2, 3, 4, 5]);
        assert!(join(&[]).is_empty() && join(&[&[]]).is_empty());
    }

    #[test]
    fn matches_do_not_go_back_in_time() {
        let sequences = [vec![1, 2, 3], vec![2, 3, 4]];
        let times = |start: f64| (0..3).map(|i| (start + f64::from(i), start + f64::from(i + 1))).collect::<Vec<_>>();
        let (ids, joined) = longest_common_sequence(&sequences, &[times(0.0), times(1.0)]);
        assert_eq!(ids, [1, 2, 3, 4]);
        assert_eq!(joined, [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]);
        let (ids, _) = longest_common_sequence(&sequences, &[times(5.0), times(1.0)]);
        assert_eq!(ids, [1, 2, 3, 2, 3, 4]);
    }

    #[test]
    fn times_are_rounded_as_in_python() {
        assert_eq!([0.125, 2.675, 0.285, 1.005].map(round), [0.12, 2.67, 0.28, 1.0]);
    }
}
