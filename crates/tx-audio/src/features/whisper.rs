//! Log-mel spectrograms of 30 seconds, or of a whole sound.
//!
//! Reference: transformers 5.23, `models/whisper/feature_extraction_whisper.py`. Python computes in f32 where PyTorch is
//! installed, and in f64 where it is not; here it is f64, and both agree to 1e-4.

use std::ops::Range;

use serde::Deserialize;
use tx_core::error::{Error, Result};

use super::spectrogram::{Framing, MelFilters, MelScale, Spectrogram, Wave, hann};
use super::{ConfigFile, Features};

/// The highest frequency, in Hz.
const HIGHEST: f64 = 8000.0;
/// The lowest energy of a band, before its logarithm.
const FLOOR: f64 = 1e-10;
/// How far below its loudest value a spectrogram goes, in powers of ten.
const RANGE: f32 = 8.0;
/// The most frames whose samples are held at a time, and the most samples: half a minute.
const BLOCK: usize = 3000;
const BLOCK_SAMPLES: usize = 480_000;
/// The most numbers of the features of a sound: 1 GiB, or nine hours of 80 bands.
const MAX_FEATURES: usize = 1 << 28;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    feature_size: usize,
    sampling_rate: u32,
    hop_length: usize,
    chunk_length: usize,
    n_fft: usize,
    padding_value: f32,
    dither: f64,
    return_attention_mask: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            feature_size: 80,
            sampling_rate: 16000,
            hop_length: 160,
            chunk_length: 30,
            n_fft: 400,
            padding_value: 0.0,
            dither: 0.0,
            return_attention_mask: false,
        }
    }
}

/// `WhisperFeatureExtractor`
#[derive(Debug, Clone)]
pub struct WhisperFeatureExtractor {
    pub(super) sampling_rate: u32,
    pub(super) return_attention_mask: bool,
    chunk_length: usize,
    hop_length: usize,
    padding_value: f32,
    spectrogram: Spectrogram,
}

impl WhisperFeatureExtractor {
    pub(super) fn new(file: &ConfigFile<'_>) -> Result<Self> {
        let config: Config = file.parse()?;
        file.rate(config.sampling_rate)?;
        file.padding_side()?;
        file.range("feature_size", config.feature_size, 1, 1024)?;
        file.range("hop_length", config.hop_length, 1, 1 << 16)?;
        file.range("chunk_length", config.chunk_length, 1, 3600)?;
        file.range("n_fft", config.n_fft, 2, 1 << 16)?;
        if config.dither != 0.0 {
            return Err(file.unsupported("dither", config.dither.to_string(), "0"));
        }
        let bins = 1 + config.n_fft / 2;
        let filters = MelFilters::new(bins, config.feature_size, 0.0, HIGHEST, config.sampling_rate, MelScale::Slaney);
        let (window, hop) = (hann(config.n_fft, true), config.hop_length);
        let framing = Framing::Centred;
        Ok(Self {
            sampling_rate: config.sampling_rate,
            return_attention_mask: config.return_attention_mask,
            chunk_length: config.chunk_length,
            hop_length: hop,
            padding_value: config.padding_value,
            spectrogram: Spectrogram::new(window, hop, config.n_fft, framing, filters, FLOOR, f64::log10),
        })
    }

    /// How many samples the model hears at once: 30 seconds of them.
    pub fn n_samples(&self) -> usize {
        self.chunk_length * self.sampling_rate as usize
    }

    /// How many frames the model hears at once.
    pub fn nb_max_frames(&self) -> usize {
        self.n_samples() / self.hop_length
    }

    /// Samples from one frame to the next.
    pub fn hop_length(&self) -> usize {
        self.hop_length
    }

    pub(super) fn extract(&self, samples: &[f32]) -> Result<Features> {
        let length = self.n_samples();
        self.extract_long(&samples[..samples.len().min(length)], length)
    }

    /// The whole of a sound, padded to `length` samples.
    pub(super) fn extract_long(&self, samples: &[f32], length: usize) -> Result<Features> {
        self.features(length, samples.len(), |range, out| {
            let end = range.end.min(samples.len());
            out.extend_from_slice(&samples[range.start.min(end)..end]);
            Ok(())
        })
    }

    /// The whole of a sound of `length` samples, of which no more than half a minute is held; `read` appends those of a
    /// range.
    pub(crate) fn extract_read(
        &self,
        length: usize,
        read: impl FnMut(Range<usize>, &mut Vec<f32>) -> Result<()>,
    ) -> Result<Features> {
        self.features(length, length, read)
    }

    /// The features of `heard` samples with padding behind them up to `length`; `read` appends the samples that there are
    /// in a range.
    fn features(
        &self,
        length: usize,
        heard: usize,
        mut read: impl FnMut(Range<usize>, &mut Vec<f32>) -> Result<()>,
    ) -> Result<Features> {
        // The last frame, most of which is mirrored, is left out.
        let (bands, frames) = (self.spectrogram.bands(), self.spectrogram.frames(length)? - 1);
        if frames == 0 {
            let expected = format_args!("at least {}", self.hop_length);
            return Err(Error::input("audio", format_args!("{length} samples"), expected));
        }
        let count = frames.checked_mul(bands).filter(|&count| count <= MAX_FEATURES);
        let count = count.ok_or_else(|| {
            let found = format_args!("{frames} frames of {bands} bands");
            Error::input("audio", found, format_args!("at most {MAX_FEATURES} numbers; hear it in pieces"))
        })?;
        let mut values = vec![0.0; count]; // [bands, frames]
        let (mut samples, mut highest) = (Vec::new(), f32::NEG_INFINITY);
        let step = (BLOCK_SAMPLES / self.hop_length).clamp(1, BLOCK);
        for first in (0..frames).step_by(step) {
            let block = first..(first + step).min(frames);
            let range = self.spectrogram.samples(&block, length);
            samples.clear();
            read(range.clone(), &mut samples)?;
            let wave = Wave { samples: &samples, start: range.start, length, padding: self.padding_value };
            let rows = self.spectrogram.compute(wave, block.clone())?;
            for (frame, row) in block.zip(rows.chunks_exact(bands)) {
                for (band, &value) in row.iter().enumerate() {
                    values[band * frames + frame] = value;
                    highest = highest.max(value);
                }
            }
        }
        // The loudest value is that of the whole sound, as in Python.
        let lowest = highest - RANGE;
        values.iter_mut().for_each(|value| *value = (value.max(lowest) + 4.0) / 4.0);
        let heard = heard.div_ceil(self.hop_length).min(frames);
        Ok(Features { values, shape: vec![bands, frames], frames: heard, is_longer: false })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Map, Value, json};

    use super::*;

    #[test]
    fn blocks_are_the_parts_of_the_whole() {
        // Blocks that overlap by little, and by more than a block.
        for (hop_length, n_fft, seconds) in [(160, 400, 70), (160, 401, 65), (1, 8192, 1)] {
            let keys = json!({ "hop_length": hop_length, "n_fft": n_fft, "feature_size": 8 });
            let Value::Object(keys) = keys else { panic!("no object") };
            let file = ConfigFile { path: Path::new("x"), keys: &keys };
            let extractor = WhisperFeatureExtractor::new(&file).unwrap();
            let length = 16_000 * seconds - 37usize;
            let samples: Vec<f32> = (0..length).map(|i| ((i * i % 7919) as f32 * 1e-3).sin()).collect();
            let found = extractor.extract_long(&samples, length).unwrap();
            let frames = found.shape[1];
            assert!(frames > 2 * BLOCK);
            let rows = extractor.spectrogram.compute(Wave::new(&samples), 0..frames).unwrap();
            let lowest = rows.iter().copied().fold(f32::NEG_INFINITY, f32::max) - RANGE;
            for (frame, row) in rows.chunks_exact(8).enumerate() {
                for (band, value) in row.iter().enumerate() {
                    assert_eq!(found.values[band * frames + frame], (value.max(lowest) + 4.0) / 4.0, "{frame} {band}");
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let extractor = WhisperFeatureExtractor::new(&ConfigFile { path: Path::new("x"), keys: &Map::new() }).unwrap();
        let error = extractor.extract_read(1 << 31, |_, _| unreachable!()).unwrap_err().to_string();
        assert!(error.contains("13421772 frames of 80 bands"), "{error}");
    }
}
