//! Decoding one part of a sound, again with higher temperatures while the text repeats itself or is improbable.
//!
//! Radford et al., 2022, section 4.5.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use tx_core::error::{Error, Result};
use tx_core::nn::Cache;
use tx_core::task::{Encoded, Record};
use tx_generate::{
    Conditioned, Extras, GenerationConfig, Generator, Hooks, LogitsProcessorList, log_softmax, processors,
    processors_with, softmax,
};

use super::WhisperTimestampLogitsProcessor;
use super::whisper::WhisperGenerator;

/// Tokens whose scores are looked at together.
const ROWS: usize = 32;

/// What decides whether a text is good enough.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Thresholds {
    /// What is tried in turn.
    pub temperatures: Vec<f64>,
    pub compression_ratio: Option<f64>,
    pub logprob: Option<f64>,
    pub no_speech: Option<NoSpeech>,
}

/// What decides whether something is said at all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NoSpeech {
    pub threshold: f64,
    /// The token for nothing being said.
    pub token: u32,
    /// The call asks for beams, whose scores are logarithms of probabilities.
    pub beams: bool,
}

/// A text for a part of a sound, and what decided whether it is good enough.
#[derive(Debug, Clone, PartialEq)]
pub struct WhisperAttempt {
    /// What its tokens were drawn with; 0 for the most probable ones.
    pub temperature: f64,
    /// By how much its token ids compress, where that has a threshold.
    pub compression_ratio: Option<f64>,
    /// The mean log-probability of its tokens, where that has a threshold.
    pub avg_logprob: Option<f64>,
    /// How probable it is that nothing is said, where that has a threshold.
    pub no_speech_prob: Option<f64>,
    /// It is not good enough: the next temperature is tried, if there is one.
    pub needs_fallback: bool,
    /// Nothing is said: the text is left out.
    pub should_skip: bool,
}

/// A part that was decoded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    /// The prompt, and what follows, its last token included.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens at the end that end the text.
    pub ending: usize,
    /// The temperature of the last attempt.
    pub temperature: f64,
    /// Nothing is said here.
    pub skip: bool,
    /// All that was tried, this text the last.
    pub attempts: Vec<WhisperAttempt>,
}

impl Decoded {
    /// The tokens of the text.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.ids[self.prompt..self.ids.len() - self.ending]
    }
}

impl WhisperGenerator {
    /// Continues a prompt, with each temperature in turn until the text is good enough. `prompt` ends with `init` tokens
    /// that begin with the start of the text. After a temperature above 0, `config` has no beams any more.
    pub(super) fn decode_part(
        &self,
        encoded: &Encoded,
        prompt: &[u32],
        init: usize,
        config: &mut GenerationConfig,
        times: Option<&WhisperTimestampLogitsProcessor>,
        thresholds: &Thresholds,
    ) -> Result<Decoded> {
        let conditioned = Conditioned { model: self.conditional(), encoded: encoded.clone() };
        let generator = Generator::new(&conditioned, self.limits(), self.device());
        let mut attempts = Vec::new();
        let mut temperatures = thresholds.temperatures.iter().copied().peekable();
        loop {
            let temperature = temperatures.next().unwrap_or(0.0);
            config.do_sample = temperature > 0.0;
            config.temperature = if config.do_sample { temperature } else { 1.0 };
            if config.do_sample {
                config.num_beams = 1;
            }
            let mut hooks = Hooks { extras: Some(Box::new(|_| extras(times))), ..Hooks::default() };
            let generated = generator.generate(&[prompt.to_vec()], config, &mut hooks)?;
            let ids = generated.sequences.into_iter().next().map(|sequence| sequence.ids).unwrap_or_default();
            let given = prompt.len().min(ids.len());
            let ending = usize::from(ids.len() > given && ids.last().is_some_and(|&id| config.is_eos(id)));

            let (mut repeats, mut improbable, mut silent) = (false, false, false);
            let (mut ratio, mut logprob, mut silence) = (None, None, None);
            if let Some(threshold) = thresholds.compression_ratio {
                let found = compression_ratio(&ids[given..], self.limits().vocab_size);
                (ratio, repeats) = (Some(found), found > threshold);
            }
            if let Some(threshold) = thresholds.logprob {
                let found = self.mean_logprob(encoded, &ids, given, config, times)?;
                (logprob, improbable) = (Some(found), found < threshold);
            }
            if let Some(no_speech) = &thresholds.no_speech {
                let found = self.no_speech_prob(encoded, prompt, init, config, no_speech)?;
                (silence, silent) = (Some(found), found > no_speech.threshold);
            }
            let skip = improbable && silent;
            let needs_fallback = (repeats || improbable) && !skip;
            attempts.push(WhisperAttempt {
                temperature,
                compression_ratio: ratio,
                avg_logprob: logprob,
                no_speech_prob: silence,
                needs_fallback,
                should_skip: skip,
            });
            if !needs_fallback || temperatures.peek().is_none() {
                return Ok(Decoded { ids, prompt: given, ending, temperature, skip, attempts });
            }
        }
    }

    /// How probable it is that nothing is said: what the model says after the first of the last `init` tokens, which is
    /// the start of the text.
    fn no_speech_prob(
        &self,
        encoded: &Encoded,
        prompt: &[u32],
        init: usize,
        config: &GenerationConfig,
        no_speech: &NoSpeech,
    ) -> Result<f64> {
        let start = prompt.len().saturating_sub(init);
        let mut scores = self.scores_after(encoded, &prompt[..=start])?;
        let mut are_logprobs = false;
        if init == 1 {
            // The text follows at once. The reference takes the scores that its first token is chosen by, as they are
            // before the rules that are Whisper's own; and in a call with beams it takes them for logarithms of
            // probabilities, which they no longer are where a temperature left no beams.
            are_logprobs = no_speech.beams;
            if config.num_beams > 1 {
                log_softmax(&mut scores);
            }
            let common = GenerationConfig {
                suppress_tokens: Vec::new(),
                begin_suppress_tokens: Vec::new(),
                watermarking_config: None,
                renormalize_logits: false,
                ..config.clone()
            };
            for processor in &mut processors(&common, false) {
                processor.process(prompt, prompt.len(), &mut scores);
            }
        }
        if !are_logprobs {
            softmax(&mut scores);
        }
        let score = scores.get(no_speech.token as usize).copied().map(f64::from);
        Ok(score.map_or(0.0, |score| if are_logprobs { score.exp() } else { score }))
    }

    /// The mean log-probability of what follows the prompt, by the scores that it was chosen from.
    fn mean_logprob(
        &self,
        encoded: &Encoded,
        ids: &[u32],
        prompt: usize,
        config: &GenerationConfig,
        times: Option<&WhisperTimestampLogitsProcessor>,
    ) -> Result<f64> {
        let (Some(first), count) = (prompt.checked_sub(1), ids.len() - prompt) else { return Ok(0.0) };
        let mut processors = processors_with(config, config.do_sample, extras(times));
        // What temperature divided by is not part of the model's opinion.
        let scale = if config.do_sample { config.temperature as f32 } else { 1.0 };
        let mut cache = Cache::new(&self.conditional().cache_kinds(), ids.len());
        if first > 0 {
            self.decode(encoded, &ids[..first], &mut cache, &mut Record::none())?;
        }
        let (mut sum, mut place) = (0.0, prompt);
        for seen in ids[first..ids.len() - 1].chunks(ROWS) {
            let x = self.decode(encoded, seen, &mut cache, &mut Record::none())?;
            let mut scores = self.scores(x)?;
            let vocab = scores.len() / seen.len();
            for scores in scores.chunks_exact_mut(vocab.max(1)) {
                if config.num_beams > 1 {
                    // Beams are processed as logarithms of probabilities.
                    log_softmax(scores);
                }
                for processor in &mut processors {
                    processor.process(&ids[..place], prompt, scores);
                }
                scores.iter_mut().for_each(|score| *score *= scale);
                log_softmax(scores);
                sum += scores.get(ids[place] as usize).copied().map_or(f64::NEG_INFINITY, f64::from);
                place += 1;
            }
        }
        Ok(sum / count.max(1) as f64)
    }
}

impl Thresholds {
    /// Checks them against each other.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub(super) fn validate(&self) -> Result<()> {
        if let Some(wrong) = self.temperatures.iter().find(|t| !t.is_finite() || **t < 0.0) {
            return Err(Error::input("temperature", wrong, "a number of at least 0"));
        }
        if self.no_speech.is_some() && self.logprob.is_none() {
            let expected = "one with it: only improbable text is taken for silence";
            return Err(Error::input("no_speech_threshold", "no `logprob_threshold`", expected));
        }
        Ok(())
    }
}

/// The rules for times, if there are any.
fn extras(times: Option<&WhisperTimestampLogitsProcessor>) -> Extras {
    let mut processors = LogitsProcessorList::new();
    if let Some(times) = times {
        processors.push(Box::new(times.clone()));
    }
    Extras { processors, ..Extras::default() }
}

/// By how much token ids compress: the more, the more they repeat each other.
fn compression_ratio(tokens: &[u32], vocab_size: usize) -> f64 {
    let width = ((vocab_size.max(1) as f64).log2() / 8.0) as usize + 1;
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|token| u64::from(*token).to_le_bytes().into_iter().take(width)).collect();
    // Only the last level of zlib-rs finds repetitions of three bytes, as Python's zlib does at its default level. The
    // others' ratios of short texts are up to 14 % lower.
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    // Writing into memory does not fail; if it did, nothing would be compressed.
    let compressed = encoder.write_all(&bytes).and_then(|()| encoder.finish()).map_or(bytes.len(), |out| out.len());
    bytes.len() as f64 / compressed.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_tokens_compress() {
        // Two bytes for each of 51865 ids: 400 bytes, of which Python makes 15 and 411.
        let same = compression_ratio(&[1234; 200], 51_865);
        assert!(same > 15.0, "{same}");
        let different: Vec<u32> = (0..200).map(|i| (i * 7919 + 13 * i * i) % 50_000).collect();
        let ratio = compression_ratio(&different, 51_865);
        assert!(ratio > 0.9 && ratio < 1.1, "{ratio}");
        assert!(compression_ratio(&[], 51_865) < 0.1);
        assert!(compression_ratio(&[1], 1).is_finite());
    }

    #[test]
    fn thresholds_fit_each_other() {
        let thresholds =
            Thresholds { temperatures: vec![0.0, 0.2], compression_ratio: None, logprob: None, no_speech: None };
        assert!(thresholds.validate().is_ok());
        assert!(Thresholds { temperatures: vec![f64::NAN], ..thresholds.clone() }.validate().is_err());
        let no_speech = Some(NoSpeech { threshold: 0.6, token: 1, beams: false });
        assert!(Thresholds { no_speech, ..thresholds }.validate().is_err());
    }
}
