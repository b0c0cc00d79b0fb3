//! What is done to a sound before a model takes it: HF's feature extractors.
//!
//! Reference: transformers 5.23, `feature_extraction_sequence_utils.py` and the `feature_extraction_*.py` of the models.
//! Values agree with Python's to 1e-4.

mod audio_spectrogram_transformer;
mod clap;
mod spectrogram;
mod wav2vec2;
mod whisper;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tx_core::config::{kind, read_json};
use tx_core::error::{Error, Result};

pub use audio_spectrogram_transformer::AstFeatureExtractor;
pub use clap::ClapFeatureExtractor;
pub use wav2vec2::Wav2Vec2FeatureExtractor;
pub use whisper::WhisperFeatureExtractor;

use crate::audio::{Audio, MAX_RATE, MIN_RATE};
use spectrogram::MAX_VALUES;

/// The class names that `feature_extractor_type` may have.
const TYPES: [&str; 4] =
    ["ASTFeatureExtractor", "ClapFeatureExtractor", "Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor"];

/// The class of architectures whose older checkpoints do not name one.
#[rustfmt::skip]
const BY_MODEL_TYPE: [(&str, &str); 14] = [
    ("audio-spectrogram-transformer", "ASTFeatureExtractor"),
    ("clap", "ClapFeatureExtractor"),
    ("data2vec-audio", "Wav2Vec2FeatureExtractor"),
    ("hubert", "Wav2Vec2FeatureExtractor"),
    ("moonshine", "Wav2Vec2FeatureExtractor"),
    ("sew", "Wav2Vec2FeatureExtractor"),
    ("sew-d", "Wav2Vec2FeatureExtractor"),
    ("unispeech", "Wav2Vec2FeatureExtractor"),
    ("unispeech-sat", "Wav2Vec2FeatureExtractor"),
    ("wav2vec2", "Wav2Vec2FeatureExtractor"),
    ("wav2vec2-bert", "Wav2Vec2FeatureExtractor"),
    ("wav2vec2-conformer", "Wav2Vec2FeatureExtractor"),
    ("wavlm", "Wav2Vec2FeatureExtractor"),
    ("whisper", "WhisperFeatureExtractor"),
];

/// What `preprocessor_config.json` says is done to a sound.
#[derive(Debug, Clone)]
pub enum FeatureExtractor {
    /// Kaldi's log-mel filter bank of a fixed number of frames.
    Ast(AstFeatureExtractor),
    /// Log-mel spectrograms of a fixed length, of parts of longer sounds.
    Clap(ClapFeatureExtractor),
    /// The samples themselves, normalised.
    Wav2Vec2(Wav2Vec2FeatureExtractor),
    /// Log-mel spectrograms of 30 seconds.
    Whisper(WhisperFeatureExtractor),
}

/// One sound as a model takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// The numbers, row-major.
    pub values: Vec<f32>,
    /// `[samples]` for Wav2Vec2, `[bands, frames]` for Whisper, `[frames, bands]` for AST, `[views, frames, bands]` for
    /// CLAP.
    pub shape: Vec<usize>,
    /// The frames, or samples, that are not padding.
    pub frames: usize,
    /// CLAP's `is_longer`: whether the views are parts of a longer sound.
    pub is_longer: bool,
}

/// Several sounds as a model takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureBatch {
    /// The numbers, row-major.
    pub values: Vec<f32>,
    /// That of [`Features`], with the number of sounds before it.
    pub shape: Vec<usize>,
    /// 1 for what is sound and 0 for padding, `[batch, samples]` or `[batch, frames]`.
    pub mask: Option<Vec<i64>>,
    /// CLAP's `is_longer` of every sound.
    pub is_longer: Option<Vec<bool>>,
}

impl FeatureExtractor {
    /// Reads `processor_config.json`, where it holds a feature extractor, else `preprocessor_config.json`. Keys that are
    /// missing take the defaults of the class.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Io`], [`Error::Malformed`]; [`Error::Config`] for an impossible value;
    /// [`Error::Unsupported`] for another class.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let (path, keys) = read_keys(folder)?;
        let class = class_of(folder, &path, &keys)?;
        let file = ConfigFile { path: &path, keys: &keys };
        match class.as_str() {
            "ASTFeatureExtractor" => AstFeatureExtractor::new(&file).map(Self::Ast),
            "ClapFeatureExtractor" => ClapFeatureExtractor::new(&file).map(Self::Clap),
            "Wav2Vec2FeatureExtractor" => Wav2Vec2FeatureExtractor::new(&file).map(Self::Wav2Vec2),
            "WhisperFeatureExtractor" => WhisperFeatureExtractor::new(&file).map(Self::Whisper),
            _ => Err(file.unsupported("feature_extractor_type", class, &TYPES.join(", "))),
        }
    }

    /// Replaces the seed of the places at which CLAP cuts sounds that are too long; 0 if it is not called. Nothing else
    /// is random, and one seed always cuts at the same places.
    pub fn with_seed(mut self, seed: u64) -> Self {
        if let Self::Clap(clap) = &mut self {
            clap.set_seed(seed);
        }
        self
    }

    /// The rate in Hz that sounds must have.
    pub fn sampling_rate(&self) -> u32 {
        match self {
            Self::Ast(extractor) => extractor.sampling_rate,
            Self::Clap(extractor) => extractor.sampling_rate,
            Self::Wav2Vec2(extractor) => extractor.sampling_rate,
            Self::Whisper(extractor) => extractor.sampling_rate,
        }
    }

    /// One sound, as Python's `feature_extractor(audio)`: Whisper, AST and CLAP pad and cut to their length.
    ///
    /// # Errors
    /// [`Error::Input`] for a sound of another rate, without samples, or too short for a single frame.
    pub fn extract(&self, audio: &Audio) -> Result<Features> {
        self.check(audio)?;
        match self {
            Self::Ast(extractor) => extractor.extract(&audio.samples),
            Self::Clap(extractor) => extractor.extract(&audio.samples),
            Self::Wav2Vec2(extractor) => Ok(extractor.extract(&audio.samples)),
            Self::Whisper(extractor) => extractor.extract(&audio.samples),
        }
    }

    /// The whole of a sound, neither padded nor cut: Whisper's `truncation=False, padding="longest"`, which its decoding
    /// of long sounds starts from. The other classes do what [`Self::extract`] does.
    ///
    /// # Errors
    /// Those of [`Self::extract`].
    pub fn extract_long(&self, audio: &Audio) -> Result<Features> {
        match self {
            Self::Whisper(extractor) => {
                self.check(audio)?;
                extractor.extract_long(&audio.samples, audio.samples.len())
            }
            _ => self.extract(audio),
        }
    }

    /// Several sounds, as Python's `feature_extractor(audios, padding=True, return_attention_mask=…)`. `None` asks for a
    /// mask where the configuration does; AST and CLAP have none.
    ///
    /// Without a mask, Wav2Vec2 takes the padding into the mean and the variance, as Python does; to avoid that, extract
    /// sounds one by one and [`pad`](Self::pad) them.
    ///
    /// # Errors
    /// Those of [`Self::extract`]; [`Error::Input`] for no sounds, and if the batch is too large.
    pub fn extract_batch(&self, audios: &[Audio], return_attention_mask: Option<bool>) -> Result<FeatureBatch> {
        let samples = self.check_all(audios)?;
        match self {
            Self::Ast(extractor) => stack(samples.iter().map(|samples| extractor.extract(samples)), None),
            Self::Clap(extractor) => extractor.extract_batch(&samples),
            Self::Wav2Vec2(extractor) => extractor.extract_batch(&samples, return_attention_mask),
            Self::Whisper(extractor) => {
                let features = samples.iter().map(|samples| extractor.extract(samples));
                stack(features, Some(return_attention_mask.unwrap_or(extractor.return_attention_mask)))
            }
        }
    }

    /// The whole of several sounds, padded to the longest: see [`Self::extract_long`].
    ///
    /// # Errors
    /// Those of [`Self::extract_batch`].
    pub fn extract_long_batch(&self, audios: &[Audio], return_attention_mask: Option<bool>) -> Result<FeatureBatch> {
        let Self::Whisper(extractor) = self else { return self.extract_batch(audios, return_attention_mask) };
        let samples = self.check_all(audios)?;
        let longest = samples.iter().map(|samples| samples.len()).max().unwrap_or(0);
        let features = samples.iter().map(|samples| extractor.extract_long(samples, longest));
        stack(features, Some(return_attention_mask.unwrap_or(extractor.return_attention_mask)))
    }

    /// Pads sounds that were extracted one by one, as Python's pipelines do: samples to the longest, with the padding
    /// value and a mask. Spectrograms must have the same size.
    ///
    /// # Errors
    /// [`Error::Input`] for no features, for sizes that cannot be padded, and if the batch is too large.
    pub fn pad(&self, features: &[Features]) -> Result<FeatureBatch> {
        if let Self::Wav2Vec2(extractor) = self {
            let rows: Vec<&[f32]> = features.iter().map(|features| features.values.as_slice()).collect();
            return pad_rows(&rows, extractor.padding_value, true);
        }
        let mut batch = stack(features.iter().cloned().map(Ok), None)?;
        if matches!(self, Self::Clap(_)) {
            batch.is_longer = Some(features.iter().map(|features| features.is_longer).collect());
        }
        Ok(batch)
    }

    /// Checks one sound.
    fn check(&self, audio: &Audio) -> Result<()> {
        let rate = self.sampling_rate();
        if audio.sampling_rate != rate {
            let found = format_args!("{} Hz", audio.sampling_rate);
            return Err(Error::input("audio", found, format_args!("{rate} Hz; resample it")));
        }
        if audio.samples.is_empty() {
            return Err(Error::input("audio", "no samples", "at least one"));
        }
        Ok(())
    }

    /// Checks all sounds of a batch.
    fn check_all<'a>(&self, audios: &'a [Audio]) -> Result<Vec<&'a [f32]>> {
        if audios.is_empty() {
            return Err(Error::input("audio", "no sounds", "at least one"));
        }
        audios.iter().map(|audio| self.check(audio).map(|()| audio.samples.as_slice())).collect()
    }
}

/// Features of the same size as a batch; `mask` says whether their last axis, which counts frames, gets a mask.
fn stack(features: impl Iterator<Item = Result<Features>>, mask: Option<bool>) -> Result<FeatureBatch> {
    let (mut values, mut ones) = (Vec::new(), Vec::new());
    let mut shape: Option<Vec<usize>> = None;
    for features in features {
        let features = features?;
        let expected = shape.get_or_insert_with(|| features.shape.clone());
        if features.shape != *expected {
            let found = format_args!("{:?}", features.shape);
            return Err(Error::input("features", found, format_args!("{expected:?}, as the first")));
        }
        check_size(values.len() + features.values.len())?;
        values.extend_from_slice(&features.values);
        ones.push(features.frames);
    }
    let Some(mut shape) = shape else { return Err(Error::input("features", "none", "at least one")) };
    let width = shape.last().copied().unwrap_or(0);
    let mask = (mask == Some(true)).then(|| mask_of(&ones, width));
    shape.insert(0, ones.len());
    Ok(FeatureBatch { values, shape, mask, is_longer: None })
}

/// Rows of samples, padded to the longest.
fn pad_rows(rows: &[&[f32]], padding: f32, mask: bool) -> Result<FeatureBatch> {
    let width =
        rows.iter().map(|row| row.len()).max().ok_or_else(|| Error::input("features", "none", "at least one"))?;
    check_size(rows.len().saturating_mul(width))?;
    let mut values = Vec::with_capacity(rows.len() * width);
    for row in rows {
        values.extend_from_slice(row);
        values.resize(values.len() + width - row.len(), padding);
    }
    let ones: Vec<usize> = rows.iter().map(|row| row.len()).collect();
    let mask = mask.then(|| mask_of(&ones, width));
    Ok(FeatureBatch { values, shape: vec![rows.len(), width], mask, is_longer: None })
}

/// A mask of rows that begin with so many ones.
fn mask_of(ones: &[usize], width: usize) -> Vec<i64> {
    ones.iter().flat_map(|&ones| (0..width).map(move |place| i64::from(place < ones))).collect()
}

/// Bounds the numbers of a batch.
fn check_size(count: usize) -> Result<()> {
    if count <= MAX_VALUES {
        return Ok(());
    }
    Err(Error::input("features", format_args!("{count} numbers"), format_args!("at most {MAX_VALUES}")))
}

/// The keys of a feature extractor, and the file that holds them.
fn read_keys(folder: &Path) -> Result<(PathBuf, Map<String, Value>)> {
    let processor = folder.join("processor_config.json");
    if processor.is_file() {
        let mut keys = object(&processor, read_json(&processor)?)?;
        let nested = keys.remove("feature_extractor").or_else(|| keys.remove("audio_processor"));
        if let Some(nested) = nested.filter(|nested| !nested.is_null()) {
            let keys = object(&processor, nested)?;
            return Ok((processor, keys));
        }
    }
    let path = folder.join("preprocessor_config.json");
    if !path.is_file() {
        return Err(Error::MissingFile {
            folder: folder.to_path_buf(),
            expected: "`preprocessor_config.json`".into(),
            remedy: "name a folder that holds a model of sound as it lies on the Hub".into(),
        });
    }
    let keys = object(&path, read_json(&path)?)?;
    Ok((path, keys))
}

/// The class: by its name, or by the architecture.
fn class_of(folder: &Path, path: &Path, keys: &Map<String, Value>) -> Result<String> {
    let named = |keys: &Map<String, Value>| {
        keys.get("feature_extractor_type")
            .and_then(Value::as_str)
            .map(|class| class.chars().take(80).collect::<String>())
    };
    if let Some(class) = named(keys) {
        return Ok(class);
    }
    let config = folder.join("config.json");
    let config = if config.is_file() { object(&config, read_json(&config)?)? } else { Map::new() };
    let model_type = config.get("model_type").and_then(Value::as_str);
    let by_model_type = || BY_MODEL_TYPE.iter().find(|(name, _)| Some(*name) == model_type);
    let class = named(&config).or_else(|| by_model_type().map(|&(_, class)| class.to_owned()));
    class.ok_or_else(|| {
        Error::config(path, "feature_extractor_type", format_args!("missing, expected one of {}", TYPES.join(", ")))
    })
}

fn object(path: &Path, value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(Error::malformed(path, format_args!("expected a JSON object, found {}", kind(&other)))),
    }
}

/// The configuration of a feature extractor, and checks of its values.
struct ConfigFile<'a> {
    path: &'a Path,
    keys: &'a Map<String, Value>,
}

impl ConfigFile<'_> {
    /// The keys that a class needs; null stands for the default.
    fn parse<C: DeserializeOwned>(&self) -> Result<C> {
        let keys = self.keys.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone()));
        serde_path_to_error::deserialize(Value::Object(keys.collect())).map_err(|e| {
            let key = e.path().to_string();
            let reason = e.into_inner().to_string();
            match reason.split_once(", expected ") {
                Some((value, supported)) if value.starts_with("unknown variant") => self.unsupported(
                    &key,
                    value.trim_start_matches("unknown variant ").trim_matches('`').to_owned(),
                    &supported.trim_start_matches("one of ").replace('`', ""),
                ),
                _ => Error::config(self.path, key, reason),
            }
        })
    }

    /// `low ≤ value ≤ high`.
    fn range<T: PartialOrd + std::fmt::Display>(&self, key: &str, value: T, low: T, high: T) -> Result<()> {
        if low <= value && value <= high {
            return Ok(());
        }
        Err(Error::config(self.path, key, format_args!("{value} is out of range, expected {low} to {high}")))
    }

    /// A rate that sounds have.
    fn rate(&self, rate: u32) -> Result<()> {
        self.range("sampling_rate", rate, MIN_RATE, MAX_RATE)
    }

    /// Padding is put behind a sound by all published models, and only there by this program.
    fn padding_side(&self) -> Result<()> {
        match self.keys.get("padding_side") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(side)) if side == "right" => Ok(()),
            Some(other) => Err(self.unsupported("padding_side", other.to_string(), "right")),
        }
    }

    fn unsupported(&self, key: &str, value: String, supported: &str) -> Error {
        Error::Unsupported {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            value,
            supported: supported.to_owned(),
        }
    }
}
