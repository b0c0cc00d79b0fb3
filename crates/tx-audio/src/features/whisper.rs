//! Log-mel spectrograms of 30 seconds, or of a whole sound.
//!
//! Reference: transformers 5.23, `models/whisper/feature_extraction_whisper.py`. Python computes in f32 where PyTorch is
//! installed, and in f64 where it is not; here it is f64, and both agree to 1e-4.

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
        self.features(Wave { samples: &samples[..samples.len().min(length)], length, padding: self.padding_value })
    }

    /// The whole of a sound, padded to `length` samples.
    pub(super) fn extract_long(&self, samples: &[f32], length: usize) -> Result<Features> {
        self.features(Wave { samples, length, padding: self.padding_value })
    }

    fn features(&self, wave: Wave<'_>) -> Result<Features> {
        // The last frame, most of which is mirrored, is left out.
        let frames = self.spectrogram.frames(wave.length)? - 1;
        if frames == 0 {
            let expected = format_args!("at least {}", self.hop_length);
            return Err(Error::input("audio", format_args!("{} samples", wave.length), expected));
        }
        let rows = self.spectrogram.compute(wave, frames)?;
        let lowest = rows.iter().copied().fold(f32::NEG_INFINITY, f32::max) - RANGE;
        let bands = self.spectrogram.bands();
        let mut values = vec![0.0; rows.len()]; // [bands, frames]
        for (frame, row) in rows.chunks_exact(bands).enumerate() {
            for (band, &value) in row.iter().enumerate() {
                values[band * frames + frame] = (value.max(lowest) + 4.0) / 4.0;
            }
        }
        let heard = wave.samples.len().div_ceil(self.hop_length).min(frames);
        Ok(Features { values, shape: vec![bands, frames], frames: heard, is_longer: false })
    }
}
