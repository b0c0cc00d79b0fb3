//! The way through a sound of any length.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use tx_core::device;
use tx_core::error::{Error, Result};
use tx_core::nn::Cache;
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{
    AudioArguments, AudioInputs, AudioLayout, ConditionalLm, Encoded, Features as Recorded, IntRows, Record,
    SpeechToText, TextArguments, TextInputs, TextLimits,
};
use tx_generate::GenerationConfig;

use super::alignment::{Maps, check_heads};
use super::config::{PromptConditionType, WhisperGenerationConfig, WhisperOptions};
use super::fallback::{Decoded, NoSpeech, Thresholds, WhisperAttempt};
use super::prompt::{History, init_tokens};
use super::segments::{Part, WhisperSegment};
use super::timestamps::WhisperTimestampLogitsProcessor;
use crate::features::Features;
use crate::models;

/// Numbers of attention maps that are held at a time: 64 MiB.
const MAX_MAP: usize = 1 << 24;
/// The temperature from which on what was said no longer tells what will be said.
const UNRELIABLE: f64 = 0.5;
/// What a text has at most besides its prompt, if neither a call nor the model's files set a length, in tokens.
const DEFAULT_LENGTH: usize = 20;

/// A Whisper model that writes down what is said: HF's `WhisperForConditionalGeneration.generate`.
#[derive(Debug)]
pub struct WhisperGenerator {
    model: Auto<dyn SpeechToText>,
    config: WhisperGenerationConfig,
    /// Bands of frequencies, and frames that the model hears at once.
    mel: usize,
    frames: usize,
}

/// What is said in a sound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WhisperOutput {
    /// Its parts, one after another.
    pub segments: Vec<WhisperSegment>,
    /// The token of the language, if the model has any.
    pub language_id: Option<u32>,
    /// How it was heard, also where nothing is said.
    pub parts: Vec<WhisperPart>,
}

/// What the model heard at once.
#[derive(Debug, Clone, PartialEq)]
pub struct WhisperPart {
    /// Where it begins, in frames.
    pub seek: usize,
    /// The texts for it; the last one counts.
    pub attempts: Vec<WhisperAttempt>,
}

impl WhisperOutput {
    /// The tokens of all segments.
    pub fn tokens(&self) -> Vec<u32> {
        self.segments.iter().flat_map(|segment| &segment.tokens).copied().collect()
    }

    /// When each of them was said, in seconds, if that was asked for.
    pub fn token_timestamps(&self) -> Option<Vec<f32>> {
        let times: Option<Vec<&Vec<f32>>> = self.segments.iter().map(|s| s.token_timestamps.as_ref()).collect();
        times.map(|times| times.into_iter().flatten().copied().collect())
    }
}

/// A call whose options fit the model.
struct Call {
    base: GenerationConfig,
    times: Option<WhisperTimestampLogitsProcessor>,
    heads: Option<Vec<[usize; 2]>>,
    thresholds: Thresholds,
    condition: bool,
}

impl WhisperGenerator {
    /// Loads a model and its settings from a folder.
    ///
    /// # Errors
    /// As [`tx_core::registry::from_folder`], [`WhisperGenerationConfig::from_folder`] and [`WhisperGenerator::new`].
    pub fn from_folder(folder: &Path, options: &LoadOptions) -> Result<Self> {
        // The settings first: if they cannot be used, no weights have been read for nothing.
        let config = WhisperGenerationConfig::from_folder(folder)?;
        Self::new(from_folder(models::SPEECH_TO_TEXT, &models::classes(), folder, options)?, config)
    }

    /// A generator for a loaded model.
    ///
    /// # Errors
    /// [`Error::Input`] for a model that does not hear spectrograms of a fixed size; [`Error::Config`] for settings with
    /// tokens that it does not have.
    pub fn new(model: Auto<dyn SpeechToText>, config: WhisperGenerationConfig) -> Result<Self> {
        config.validate_ids(model.limits.text.vocab_size)?;
        match model.limits.audio.layout {
            AudioLayout::Bands { mel, frames } => Ok(Self { model, config, mel, frames }),
            other => Err(Error::input("model", format_args!("{other:?}"), "one that takes [mel, frames]")),
        }
    }

    /// What the model's files say.
    pub fn config(&self) -> &WhisperGenerationConfig {
        &self.config
    }

    /// The model.
    pub fn model(&self) -> &Auto<dyn SpeechToText> {
        &self.model
    }

    /// Frames of a spectrogram that the model hears at once.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Writes down what is said in a sound of any length, as a spectrogram `[mel, frames]`.
    ///
    /// # Errors
    /// [`Error::Input`] for a spectrogram of another size, and for options that do not fit the model or each other;
    /// [`Error::Config`] if its files do not say what they need; [`Error::Device`] if the device fails.
    pub fn generate(&self, features: &Features, options: &WhisperOptions) -> Result<WhisperOutput> {
        self.generate_monitored(features, options, |_, _| {})
    }

    /// The same; `monitor_progress` is told how many frames are done, and of how many, before each part.
    ///
    /// # Errors
    /// As [`WhisperGenerator::generate`].
    pub fn generate_monitored(
        &self,
        features: &Features,
        options: &WhisperOptions,
        mut monitor_progress: impl FnMut(usize, usize),
    ) -> Result<WhisperOutput> {
        let total = match features.shape[..] {
            [mel, frames] if mel == self.mel && frames > 0 && features.values.len() == mel * frames => frames,
            _ => {
                let (found, expected) = (format!("shape {:?}", features.shape), format!("[{}, frames]", self.mel));
                return Err(Error::input("input_features", found, expected));
            }
        };
        let mut call = self.check(options, total > self.frames)?;
        let positions = self.limits().max_length.unwrap_or(usize::MAX);
        let mut output = WhisperOutput::default();
        let mut history = History::new(&self.config, options);
        let mut init: Vec<u32> = Vec::new();
        // The first part, which at most knows a prompt, is asked for it by the call alone.
        let mut conditioned = options.condition_on_prev_tokens == Some(true);
        let mut max_length = call.base.max_length.unwrap_or(DEFAULT_LENGTH);
        let mut seek = 0;
        while seek < total {
            monitor_progress(seek, total);
            let frames = (total - seek).min(self.frames);
            let encoded = self.encode(features, seek, frames)?;
            if init.is_empty() {
                let there: Vec<usize> = encoded.keys_values.iter().map(|[k, _]| k.dims()[2]).collect();
                check_heads(call.heads.as_deref().unwrap_or_default(), &there)
                    .map_err(|reason| Error::config(&self.config.path, "alignment_heads", reason))?;
                let detect = |ids| self.detect_language(&encoded, ids);
                init = init_tokens(&self.config, options, call.times.is_some(), detect)?;
                let languages = self.config.keys.lang_to_id.iter().flatten();
                let is_language = |token: &&u32| languages.clone().any(|(_, id)| id == *token);
                output.language_id = init.iter().find(is_language).copied();
            }
            let suppressed = &call.base.suppress_tokens;
            let prompt = history.prompt(&self.config, options, suppressed, &init, conditioned, positions);
            let mut config = call.base.clone();
            config.max_new_tokens = Some(room(&config, &mut max_length, prompt.len(), positions)?);
            let mut decoded =
                self.decode_part(&encoded, &prompt, init.len(), &mut config, call.times.as_ref(), &call.thresholds)?;
            call.base.num_beams = config.num_beams;
            conditioned = call.condition && decoded.temperature < UNRELIABLE;
            output.parts.push(WhisperPart { seek, attempts: std::mem::take(&mut decoded.attempts) });
            if decoded.skip {
                seek += frames;
                continue;
            }
            // Less than none where what is heard is padding alone.
            let heard = features.frames as i64 - seek as i64;
            let times = match &call.heads {
                Some(heads) => Some(self.token_times(&encoded, &decoded, heads, heard)?),
                None => None,
            };
            let timestamp_begin = self.config.timestamp_begin();
            let part = Part { tokens: decoded.tokens(), times: times.as_deref(), seek, frames, timestamp_begin };
            let (segments, done) = part.segments();
            segments.iter().for_each(|segment| history.push(&segment.tokens));
            output.segments.extend(segments);
            seek += done;
        }
        Ok(output)
    }

    /// The language that is most probably spoken in the beginning of a sound, among those with these tokens.
    fn detect_language(&self, encoded: &Encoded, ids: Vec<u32>) -> Result<u32> {
        let scores = self.scores_after(encoded, &[self.config.decoder_start_token_id])?;
        let score = |id: &u32| scores.get(*id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        // Of equal ones the first token.
        let best = ids.iter().copied().reduce(|best, id| match score(&id).total_cmp(&score(&best)) {
            std::cmp::Ordering::Greater => id,
            std::cmp::Ordering::Equal => best.min(id),
            std::cmp::Ordering::Less => best,
        });
        best.ok_or_else(|| self.config.missing("lang_to_id", "language detection"))
    }

    /// Checks the options of a call against the model and each other; a sound that is `long` needs times.
    fn check(&self, options: &WhisperOptions, long: bool) -> Result<Call> {
        let keys = &self.config.keys;
        if long && options.return_timestamps == Some(false) {
            let found = format_args!("off for a sound of more than {} frames", self.frames);
            return Err(Error::input("return_timestamps", found, "on: the model hears no more at once"));
        }
        let return_timestamps = long || options.return_timestamps.or(keys.return_timestamps).unwrap_or(false);
        let mut base = self.config.base.clone();
        base.overrides(options.generation.clone());
        base.num_return_sequences = 1;
        // Whether tokens are drawn is decided by the temperature of each attempt.
        base.do_sample = false;
        base.validate()?;
        let times = match (return_timestamps, keys.no_timestamps_token_id) {
            (false, _) => None,
            (true, None) => return Err(self.config.missing("no_timestamps_token_id", "`return_timestamps`")),
            (true, Some(no_timestamps_token_id)) => {
                let eos = base.eos_token_id.first().copied().or(base.bos_token_id);
                let eos_token_id = eos.ok_or_else(|| self.config.missing("eos_token_id", "`return_timestamps`"))?;
                let max_initial_timestamp_index = keys.max_initial_timestamp_index;
                Some(WhisperTimestampLogitsProcessor {
                    no_timestamps_token_id,
                    eos_token_id,
                    max_initial_timestamp_index,
                })
            }
        };
        let heads = match (options.return_token_timestamps, &keys.alignment_heads) {
            (false, _) => None,
            (true, Some(heads)) if !heads.is_empty() => Some(heads.clone()),
            _ => return Err(self.config.missing("alignment_heads", "`return_token_timestamps`")),
        };
        let no_speech = match options.no_speech_threshold.or(keys.no_speech_threshold) {
            None => None,
            Some(threshold) => {
                let id = keys.no_timestamps_token_id.and_then(|id| id.checked_sub(1));
                let token = id.ok_or_else(|| self.config.missing("no_timestamps_token_id", "a threshold"))?;
                Some(NoSpeech { threshold, token, beams: base.num_beams > 1 })
            }
        };
        let temperatures = if options.temperature.is_empty() { vec![0.0] } else { options.temperature.clone() };
        let thresholds = Thresholds {
            temperatures,
            compression_ratio: options.compression_ratio_threshold.or(keys.compression_ratio_threshold),
            logprob: options.logprob_threshold.or(keys.logprob_threshold),
            no_speech,
        };
        thresholds.validate()?;
        let condition = options.condition_on_prev_tokens.or(keys.condition_on_prev_tokens).unwrap_or(false);
        if options.prompt_condition_type == PromptConditionType::AllSegments && !condition {
            let found = "all-segments without `condition_on_prev_tokens`";
            return Err(Error::input("prompt_condition_type", found, "both"));
        }
        Ok(Call { base, times, heads, thresholds, condition })
    }

    /// What the encoder makes of some frames, padded with zeros to what the model hears at once.
    fn encode(&self, features: &Features, seek: usize, frames: usize) -> Result<Encoded> {
        let total = features.values.len() / self.mel;
        let mut values = vec![0.0; self.mel * self.frames];
        for (padded, row) in values.chunks_exact_mut(self.frames).zip(features.values.chunks_exact(total)) {
            padded[..frames].copy_from_slice(&row[seek..seek + frames]);
        }
        let values = TensorData::new(values, [1, self.mel, self.frames]);
        let arguments = AudioArguments { values, attention_mask: None };
        let inputs = AudioInputs::new(&arguments, &self.model.limits.audio, self.device())?;
        Ok(self.model.encode(&inputs, &mut Record::none()))
    }

    /// When each token of a text was said, from the beginning of the part, the token that ends it included.
    fn token_times(&self, encoded: &Encoded, decoded: &Decoded, heads: &[[usize; 2]], frames: i64) -> Result<Vec<f32>> {
        // The last token looks at nothing any more; it gets the time of the one before it.
        let seen = &decoded.ids[..decoded.ids.len().saturating_sub(1).max(decoded.prompt)];
        let maps = self.attention_maps(encoded, seen, decoded.prompt, heads)?;
        let mut times = maps.times(Some(frames), self.config.median_filter_width);
        times.push(times.last().copied().unwrap_or(0.0));
        Ok(times)
    }

    /// The attention of some heads to the sound, by the tokens behind the prompt.
    fn attention_maps(&self, encoded: &Encoded, ids: &[u32], prompt: usize, heads: &[[usize; 2]]) -> Result<Maps> {
        let mut cache = Cache::new(&self.model.cache_kinds(), ids.len());
        self.decode(encoded, &ids[..prompt], &mut cache, &mut Record::none())?;
        let per_token: usize = encoded.keys_values.iter().map(|[k, _]| k.dims()[1] * k.dims()[2]).sum();
        let mut maps = Maps { heads: vec![Vec::new(); heads.len()], rows: ids.len() - prompt, columns: 0 };
        for rows in ids[prompt..].chunks((MAX_MAP / per_token.max(1)).max(1)) {
            let mut record = Record::new(false, true);
            self.decode(encoded, rows, &mut cache, &mut record)?;
            let kept = record.kept("cross_attentions");
            for (map, &[layer, head]) in maps.heads.iter_mut().zip(heads) {
                let weights = match kept.get(layer) {
                    Some(Recorded::Map(weights)) if head < weights.dims()[1] => weights.clone(),
                    _ => {
                        let reason = format_args!("no head {head} in layer {layer}");
                        return Err(Error::config(&self.config.path, "alignment_heads", reason));
                    }
                };
                maps.columns = weights.dims()[3];
                map.extend(self.read(weights.narrow(1, head, 1))?);
            }
        }
        Ok(maps)
    }

    /// The model as a decoder with an encoder.
    pub(super) fn conditional(&self) -> &dyn ConditionalLm {
        &*self.model.model
    }

    /// What the decoder can take.
    pub(super) fn limits(&self) -> TextLimits {
        self.model.limits.text
    }

    pub(super) fn device(&self) -> &Device {
        &self.model.device
    }

    /// The decoder's hidden states for tokens that follow those in the cache.
    ///
    /// # Shapes
    /// - output: `[1, tokens, hidden]`
    pub(super) fn decode(
        &self,
        encoded: &Encoded,
        ids: &[u32],
        cache: &mut Cache,
        record: &mut Record,
    ) -> Result<Tensor<3>> {
        let input_ids = IntRows { batch: 1, seq: ids.len(), values: ids.iter().map(|&id| i64::from(id)).collect() };
        let arguments = TextArguments { input_ids, ..TextArguments::default() };
        let inputs = TextInputs::new(&arguments, &self.limits(), self.device())?;
        let x = self.model.embed(inputs.input_ids.clone());
        Ok(self.model.decode(x, &inputs, encoded, cache, record))
    }

    /// The scores of what follows each token, row-major.
    ///
    /// # Shapes
    /// - x: `[1, tokens, hidden]`
    pub(super) fn scores(&self, x: Tensor<3>) -> Result<Vec<f32>> {
        self.read(self.model.head(x))
    }

    /// The scores of what follows these tokens.
    pub(super) fn scores_after(&self, encoded: &Encoded, ids: &[u32]) -> Result<Vec<f32>> {
        let mut cache = Cache::off(self.model.cache_kinds().len());
        let x = self.decode(encoded, ids, &mut cache, &mut Record::none())?;
        let last = x.dims()[1] - 1;
        self.scores(x.narrow(1, last, 1))
    }

    /// The elements of a tensor, row-major.
    fn read<const D: usize>(&self, tensor: Tensor<D>) -> Result<Vec<f32>> {
        tensor.try_into_vec_as::<f32>().map_err(|e| Error::Device {
            device: format!("{:?}", self.device()),
            reason: format!("the result cannot be read: {e}"),
            available: device::available().join(", "),
        })
    }
}

/// How many tokens may follow a prompt. `max_length` grows with each part, as it does in the reference.
fn room(config: &GenerationConfig, max_length: &mut usize, prompt: usize, positions: usize) -> Result<usize> {
    let length = match config.max_new_tokens {
        Some(new) => prompt.saturating_add(new).min(positions),
        None => {
            *max_length = max_length.saturating_add(prompt.min((positions / 2).saturating_sub(1))).min(positions);
            *max_length
        }
    };
    length.checked_sub(prompt).filter(|&room| room > 0).ok_or_else(|| {
        let found = format_args!("{prompt} tokens before the text");
        Error::input("prompt_ids", found, format_args!("fewer than {length}, the most that a text has with them"))
    })
}
