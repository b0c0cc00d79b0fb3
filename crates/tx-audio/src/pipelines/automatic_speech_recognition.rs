//! `automatic-speech-recognition`: what is said in sounds.
//!
//! Reference: transformers 5.23.0, `pipelines/automatic_speech_recognition.py`. There are two kinds of models: those
//! that name the token of every frame (CTC), and Whisper. Long sounds may be heard in chunks that overlap; Whisper hears
//! them from sentence to sentence if no chunk length is given.
//!
//! Of files of more than 2²⁴ samples, which are 17 minutes at 16 kHz, only the samples that are heard are held: such a
//! file is decoded twice, once to find its length. Whisper from sentence to sentence holds the spectrogram of the whole,
//! whose loudest value Python looks for before anything is heard: 115 MB for an hour with 80 bands, at most 1 GiB.

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{AudioLayout, AudioLimits, CtcModel, Record};

use super::recording::Recording;
use super::sound::{Sound, forward_equal, tokens, unreadable};
use crate::audio::Audio;
use crate::ctc::{CtcDecodeOptions, Wav2Vec2CtcTokenizer};
use crate::features::{FeatureExtractor, Features};
use crate::generation::{WhisperGenerator, WhisperOptions};
use crate::models;
use crate::tokens::{AsrOptions, AsrOutput, Chunk, WhisperTokens};

/// The longest piece of a sound.
const MAX_SECONDS: f64 = 3600.0;
/// The most pieces that a sound is heard in.
const MAX_PIECES: usize = 1 << 20;
/// What HF generates where neither a call nor the model's files set a length, in tokens.
const MAX_NEW_TOKENS: usize = 256;
/// HF's beams, after OpenAI's implementation.
const NUM_BEAMS: usize = 5;

/// The arguments of [`AutomaticSpeechRecognitionPipeline`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AutomaticSpeechRecognitionOptions {
    /// How long the pieces are in which a sound is heard, in seconds; the whole sound at once if `None`.
    pub chunk_length_s: Option<f64>,
    /// How much a piece shares with the one before and the one after it, in seconds; a sixth of its length each if
    /// `None`. It needs a `chunk_length_s`: a whole sound shares nothing.
    pub stride_length_s: Option<[f64; 2]>,
    /// Which parts of the text get their times.
    pub return_timestamps: Option<ReturnTimestamps>,
    /// Whether parts of the text name their language; of Whisper.
    pub return_language: bool,
    /// What Whisper is told: language, task, thresholds.
    pub generate: WhisperOptions,
    /// Whether a terminal shows a bar while a long sound is heard; for one sound at a time.
    pub progress: bool,
}

impl AutomaticSpeechRecognitionOptions {
    /// The length of pieces in seconds, if a sound is heard in any: HF's 0 stands for the whole.
    fn piece_length(&self) -> Option<f64> {
        self.chunk_length_s.filter(|&seconds| seconds != 0.0)
    }
}

/// Parts of a text that get their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnTimestamps {
    /// What Whisper says in one go: HF's `True`.
    Segment,
    /// Words.
    Word,
    /// Characters; of CTC models.
    Char,
}

impl FromStr for ReturnTimestamps {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "true" | "segment" => Ok(Self::Segment),
            "word" => Ok(Self::Word),
            "char" => Ok(Self::Char),
            _ => {
                let shown: String = name.chars().take(40).collect();
                let found = format_args!("`{}`", shown.escape_debug());
                Err(Error::input("return_timestamps", found, "true, word or char"))
            }
        }
    }
}

/// What is said in a sound.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Transcription {
    /// All of it.
    pub text: String,
    /// Its parts, if times or languages were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Vec<Chunk>>,
}

/// A part of a sound.
#[derive(Debug, Clone)]
pub struct Piece {
    recording: Arc<Recording>,
    range: Range<usize>,
    /// How many samples it has, and how many of its beginning and of its end other pieces have as well.
    stride: Option<[usize; 3]>,
}

impl Piece {
    fn audio(&self) -> Result<Audio> {
        let mut samples = Vec::with_capacity(self.range.len());
        self.recording.read(self.range.clone(), &mut samples)?;
        Ok(Audio { samples, sampling_rate: self.recording.sampling_rate() })
    }
}

/// What a model hears in a piece.
#[derive(Debug, Clone)]
pub enum Heard {
    /// The token of every frame.
    Frames(Vec<u32>),
    /// What Whisper wrote.
    Text(AsrOutput),
}

/// A sound to text.
#[derive(Debug, Clone)]
pub struct AutomaticSpeechRecognitionPipeline {
    recognizer: Recognizer,
    extractor: Arc<FeatureExtractor>,
    options: AutomaticSpeechRecognitionOptions,
}

/// The two kinds of models.
#[derive(Debug, Clone)]
enum Recognizer {
    Ctc {
        model: Arc<Auto<dyn CtcModel>>,
        tokenizer: Arc<Wav2Vec2CtcTokenizer>,
        /// Samples of a frame.
        align_to: usize,
    },
    Whisper {
        generator: Arc<WhisperGenerator>,
        tokens: Arc<WhisperTokens>,
        /// Samples that the model hears at once.
        samples: usize,
    },
}

impl AutomaticSpeechRecognitionPipeline {
    /// A pipeline of the model in a folder.
    ///
    /// # Errors
    /// Those of the parts that are loaded; [`Error::Input`] for options that do not fit the model.
    pub fn from_folder(folder: &Path, load: &LoadOptions, options: AutomaticSpeechRecognitionOptions) -> Result<Self> {
        // The small files first: if they cannot be used, no weights have been read for nothing.
        let config = Config::from_folder(folder)?;
        let extractor = FeatureExtractor::from_folder(folder)?;
        let model_type = config.model_type()?;
        if models::SPEECH_TO_TEXT.iter().any(|entry| entry.model_type == model_type) {
            let tokens = WhisperTokens::from_folder(folder)?;
            return Self::whisper(WhisperGenerator::from_folder(folder, load)?, tokens, extractor, options);
        }
        let tokenizer = Wav2Vec2CtcTokenizer::from_folder(folder, None)?;
        let model = from_folder(models::CTC, &models::classes(), folder, load)?;
        Self::ctc(model, tokenizer, extractor, options)
    }

    /// A pipeline of a CTC model.
    ///
    /// # Errors
    /// [`Error::Config`] if the model's strides cannot be used; [`Error::Input`] for options that do not fit it.
    pub fn ctc(
        model: Auto<dyn CtcModel>,
        tokenizer: Wav2Vec2CtcTokenizer,
        extractor: FeatureExtractor,
        options: AutomaticSpeechRecognitionOptions,
    ) -> Result<Self> {
        let align_to = samples_of_a_frame(&model.config)?;
        let recognizer = Recognizer::Ctc { model: Arc::new(model), tokenizer: Arc::new(tokenizer), align_to };
        Self { recognizer, extractor: Arc::new(extractor), options: Default::default() }.with_options(options)
    }

    /// A pipeline of a Whisper model.
    ///
    /// # Errors
    /// [`Error::Input`] for the feature extractor of another model, and for options that do not fit this one.
    pub fn whisper(
        generator: WhisperGenerator,
        tokens: WhisperTokens,
        extractor: FeatureExtractor,
        options: AutomaticSpeechRecognitionOptions,
    ) -> Result<Self> {
        let FeatureExtractor::Whisper(of_whisper) = &extractor else {
            return Err(Error::input("feature_extractor", "that of another model", "`WhisperFeatureExtractor`"));
        };
        let samples = of_whisper.n_samples();
        let recognizer = Recognizer::Whisper { generator: Arc::new(generator), tokens: Arc::new(tokens), samples };
        Self { recognizer, extractor: Arc::new(extractor), options: Default::default() }.with_options(options)
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`] for options that do not fit the model or each other.
    pub fn with_options(&self, mut options: AutomaticSpeechRecognitionOptions) -> Result<Self> {
        if options.stride_length_s.is_some() && options.piece_length().is_none() {
            return Err(Error::input("stride_length_s", "given without `chunk_length_s`", "both"));
        }
        let wrong = |found: &str, expected: &str| Err(Error::input("return_timestamps", found, expected));
        match (&self.recognizer, options.return_timestamps) {
            (Recognizer::Ctc { .. }, Some(ReturnTimestamps::Segment)) => {
                return wrong("segments of a CTC model", "word or char");
            }
            (Recognizer::Whisper { .. }, Some(ReturnTimestamps::Char)) => {
                return wrong("characters of Whisper", "true or word");
            }
            (Recognizer::Ctc { .. }, _) if options.return_language => {
                return Err(Error::input("return_language", "a CTC model", "Whisper"));
            }
            (Recognizer::Whisper { generator, .. }, asked) => {
                let always = generator.config().keys.return_timestamps == Some(true);
                options.return_timestamps = asked.or(always.then_some(ReturnTimestamps::Segment));
                complete(&mut options, generator);
            }
            _ => {}
        }
        Ok(Self { options, ..self.clone() })
    }

    /// What the model can hear at once; Whisper goes through a sound of any length.
    fn most_samples(&self) -> usize {
        match &self.recognizer {
            Recognizer::Ctc { model, .. } => match model.limits.layout {
                AudioLayout::Waveform { max_samples, .. } => max_samples,
                _ => AudioLimits::MAX_SAMPLES,
            },
            Recognizer::Whisper { .. } => usize::MAX,
        }
    }

    /// Length and overlaps of pieces, in samples.
    fn strides(&self, chunk_length_s: f64) -> Result<[usize; 3]> {
        let [before, after] = self.options.stride_length_s.unwrap_or([chunk_length_s / 6.0; 2]);
        let all = [("chunk_length_s", chunk_length_s), ("stride_length_s", before), ("stride_length_s", after)];
        if let Some((what, seconds)) = all.into_iter().find(|(_, seconds)| !(0.0..=MAX_SECONDS).contains(seconds)) {
            return Err(Error::input(what, format_args!("{seconds} s"), format_args!("0 to {MAX_SECONDS} s")));
        }
        let align_to = match self.recognizer {
            Recognizer::Ctc { align_to, .. } => align_to,
            Recognizer::Whisper { .. } => 1,
        };
        let samples = |seconds: f64| {
            let units = seconds * f64::from(self.extractor.sampling_rate()) / align_to as f64;
            units.round_ties_even() as usize * align_to
        };
        let [length, left, right] = [chunk_length_s, before, after].map(samples);
        if length <= left + right {
            let found = format_args!("{length} samples with {left} and {right} in other pieces");
            return Err(Error::input("chunk_length_s", found, "more samples; raise it or lower `stride_length_s`"));
        }
        Ok([length, left, right])
    }

    /// The text of the frames of all pieces.
    fn read_frames(
        &self,
        tokenizer: &Wav2Vec2CtcTokenizer,
        align_to: usize,
        units: Vec<(Piece, Heard)>,
    ) -> Result<Transcription> {
        let mut ids = Vec::new();
        for (piece, heard) in units {
            let Heard::Frames(frames) = heard else { continue };
            let range = match piece.stride {
                Some(stride) => kept_frames(stride, align_to),
                None => 0..frames.len(),
            };
            let end = range.end.min(frames.len());
            ids.extend_from_slice(&frames[range.start.min(end)..end]);
        }
        let options = CtcDecodeOptions {
            output_char_offsets: self.options.return_timestamps == Some(ReturnTimestamps::Char),
            output_word_offsets: self.options.return_timestamps == Some(ReturnTimestamps::Word),
            ..CtcDecodeOptions::default()
        };
        let output = tokenizer.decode(&ids, &options)?;
        let rate = f64::from(self.extractor.sampling_rate());
        let chunk = |text: String, start: usize, end: usize| {
            let seconds = |frame: usize| Some((frame * align_to) as f64 / rate);
            Chunk { language: None, timestamp: Some((seconds(start), seconds(end))), text }
        };
        let chars = output.char_offsets.filter(|_| options.output_char_offsets).map(|offsets| {
            offsets.into_iter().map(|o| chunk(o.char, o.start_offset, o.end_offset)).collect::<Vec<_>>()
        });
        let words = output.word_offsets.filter(|_| options.output_word_offsets).map(|offsets| {
            offsets.into_iter().map(|o| chunk(o.word, o.start_offset, o.end_offset)).collect::<Vec<_>>()
        });
        Ok(Transcription { text: output.text, chunks: chars.or(words) })
    }

    /// The text that Whisper wrote for all pieces.
    fn read_text(
        &self,
        generator: &WhisperGenerator,
        tokens: &WhisperTokens,
        samples: usize,
        units: Vec<(Piece, Heard)>,
    ) -> Result<Transcription> {
        let texts = units.into_iter().filter_map(|(_, heard)| match heard {
            Heard::Text(output) => Some(output),
            Heard::Frames(_) => None,
        });
        let seconds = samples as f64 / f64::from(self.extractor.sampling_rate());
        let options = AsrOptions {
            return_timestamps: self.options.return_timestamps.is_some(),
            words: self.options.return_timestamps == Some(ReturnTimestamps::Word),
            return_language: self.options.return_language,
            // Two frames for each place of the encoder, and a token of time for each place.
            time_precision: seconds / (generator.frames() / 2).max(1) as f64,
        };
        let (text, chunks) = tokens.decode_asr(&texts.collect::<Vec<_>>(), &options)?;
        Ok(Transcription { text, chunks })
    }

    /// What Whisper writes for a piece.
    fn write_text(&self, generator: &WhisperGenerator, samples: usize, piece: &Piece) -> Result<AsrOutput> {
        let (start, length) = (piece.range.start, piece.range.len());
        let features = match &*self.extractor {
            FeatureExtractor::Whisper(extractor) if length > samples => extractor
                .extract_read(length, |part, out| piece.recording.read(start + part.start..start + part.end, out))?,
            extractor => extractor.extract(&piece.audio()?)?,
        };
        let output = generator.generate_monitored(&features, &self.options.generate, |frame, frames| {
            let part = frame as f64 / frames.max(1) as f64;
            piece.recording.heard(start + (part * length as f64) as usize);
        })?;
        piece.recording.heard(piece.range.end);
        let (mut tokens, mut times) = (output.tokens(), output.token_timestamps());
        if let Some(language) = output.language_id.filter(|_| self.options.return_language) {
            tokens.insert(0, language);
            times.iter_mut().for_each(|times| times.insert(0, 0.0));
        }
        let rate = f64::from(piece.recording.sampling_rate());
        let stride = piece.stride.map(|stride| stride.map(|samples| samples as f64 / rate));
        Ok(AsrOutput { tokens, token_timestamps: times, stride })
    }
}

impl Pipeline for AutomaticSpeechRecognitionPipeline {
    type Input = Sound;
    type Unit = Piece;
    type Scores = Heard;
    type Output = Transcription;

    fn preprocess(&self, sound: &Sound) -> Result<Vec<Piece>> {
        let recording = Recording::open(sound, self.extractor.sampling_rate(), self.options.progress)?;
        let (samples, recording) = (recording.len(), Arc::new(recording));
        match self.options.piece_length() {
            Some(seconds) => {
                let pieces = pieces(samples, self.strides(seconds)?)?;
                let piece = |(range, stride)| Piece { recording: recording.clone(), range, stride: Some(stride) };
                Ok(pieces.into_iter().map(piece).collect())
            }
            None if samples > self.most_samples() => {
                let expected = format!("at most {} at once; set `chunk_length_s`", self.most_samples());
                Err(Error::input("audio", format_args!("{samples} samples"), expected))
            }
            None => Ok(vec![Piece { range: 0..samples, recording, stride: None }]),
        }
    }

    fn length(&self, unit: &Piece) -> usize {
        tokens(&[unit.range.len()])
    }

    fn forward(&self, units: &[&Piece]) -> Result<Vec<Heard>> {
        match &self.recognizer {
            Recognizer::Ctc { model, .. } => {
                let features: Vec<Features> =
                    units.iter().map(|unit| self.extractor.extract(&unit.audio()?)).collect::<Result<_>>()?;
                let Auto { model, limits, device, .. } = &**model;
                let heard = forward_equal(&features, limits, device, |inputs| {
                    let best = model.forward(inputs, &mut Record::none()).argmax(2);
                    let frames = best.dims()[1];
                    let ids = best.try_into_vec_as::<i64>().map_err(|e| unreadable(device, e))?;
                    let row = |ids: &[i64]| Heard::Frames(ids.iter().map(|&id| id as u32).collect());
                    Ok(ids.chunks_exact(frames.max(1)).map(row).collect())
                })?;
                units.iter().for_each(|unit| unit.recording.heard(unit.range.end));
                Ok(heard)
            }
            Recognizer::Whisper { generator, samples, .. } => {
                units.iter().map(|unit| self.write_text(generator, *samples, unit).map(Heard::Text)).collect()
            }
        }
    }

    fn postprocess(&self, _: &Sound, units: Vec<(Piece, Heard)>) -> Result<Transcription> {
        match &self.recognizer {
            Recognizer::Ctc { tokenizer, align_to, .. } => self.read_frames(tokenizer, *align_to, units),
            Recognizer::Whisper { generator, tokens, samples } => self.read_text(generator, tokens, *samples, units),
        }
    }
}

/// What Whisper is told besides what the caller says.
fn complete(options: &mut AutomaticSpeechRecognitionOptions, generator: &WhisperGenerator) {
    let generate = &mut options.generate;
    if let Some(parts) = options.return_timestamps {
        generate.return_timestamps = Some(true);
        generate.return_token_timestamps |= parts == ReturnTimestamps::Word;
    }
    let (config, own) = (generator.config(), &mut generate.generation);
    let base = &config.base;
    let lengths = [base.max_length, base.max_new_tokens, own.max_length, own.max_new_tokens];
    if lengths.iter().all(Option::is_none) {
        own.max_new_tokens = Some(MAX_NEW_TOKENS);
    }
    if own.num_beams.is_none() && config.keys.num_beams.is_none() {
        own.num_beams = Some(NUM_BEAMS);
    }
}

/// HF's `inputs_to_logits_ratio`.
fn samples_of_a_frame(config: &Config) -> Result<usize> {
    /// wav2vec 2.0's strides together.
    const DEFAULT: usize = 320;
    let Some(strides) = config.get("conv_stride") else { return Ok(DEFAULT) };
    let strides = strides.as_array().into_iter().flatten();
    let product = strides.map(|stride| stride.as_u64()).try_fold(1u64, |product, stride| product.checked_mul(stride?));
    let samples = product.and_then(|samples| usize::try_from(samples).ok()).filter(|&samples| samples > 0);
    samples.filter(|&samples| samples <= 1 << 24).ok_or_else(|| {
        Error::config(config.path(), "conv_stride", "expected strides of fewer than 2²⁴ samples together")
    })
}

/// The pieces of a sound, and how much of each others have as well: HF's `chunk_iter`.
fn pieces(samples: usize, [length, left, right]: [usize; 3]) -> Result<Vec<(Range<usize>, [usize; 3])>> {
    let step = length.saturating_sub(left + right).max(1);
    if samples / step > MAX_PIECES {
        let found = format_args!("{} pieces", samples / step);
        return Err(Error::input("chunk_length_s", found, format_args!("at most {MAX_PIECES}; raise it")));
    }
    let mut pieces = Vec::new();
    for start in (0..samples).step_by(step) {
        let end = (start + length).min(samples);
        let last = start + length >= samples;
        let (left, right) = (if start == 0 { 0 } else { left }, if last { 0 } else { right });
        if end - start > left {
            pieces.push((start..end, [end - start, left, right]));
        }
        if last {
            break;
        }
    }
    Ok(pieces)
}

/// The frames of a piece that no other has: HF's `rescale_stride`.
fn kept_frames([samples, left, right]: [usize; 3], align_to: usize) -> Range<usize> {
    let round = |x: f64| x.round_ties_even() as usize;
    let frames = round(samples as f64 * (1.0 / align_to as f64));
    let part = |part: usize| round(part as f64 / samples as f64 * frames as f64);
    part(left)..frames.saturating_sub(part(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_zero_makes_no_pieces() {
        let of = |chunk_length_s| AutomaticSpeechRecognitionOptions { chunk_length_s, ..Default::default() };
        assert_eq!([None, Some(0.0), Some(2.5)].map(|length| of(length).piece_length()), [None, None, Some(2.5)]);
    }

    #[test]
    fn pieces_overlap_and_cover_the_sound() {
        let found = pieces(1000, [400, 100, 100]).unwrap();
        let expected = [(0..400, [400, 0, 100]), (200..600, [400, 100, 100]), (400..800, [400, 100, 100])];
        assert_eq!(found[..3], expected);
        assert_eq!(found[3..], [(600..1000, [400, 100, 0])]);
        assert_eq!(pieces(300, [400, 100, 100]).unwrap(), [(0..300, [300, 0, 0])]);
        assert_eq!(pieces(1001, [400, 100, 100]).unwrap()[4], (800..1001, [201, 100, 0]));
        assert!(pieces(usize::MAX, [3, 1, 1]).is_err());
    }

    #[test]
    fn frames_that_others_have_are_left_out() {
        assert_eq!(kept_frames([160_000, 16_000, 16_000], 320), 50..450);
        assert_eq!(kept_frames([160_000, 0, 26_560], 320), 0..417);
        assert_eq!(kept_frames([100, 0, 0], 320), 0..0);
    }
}
