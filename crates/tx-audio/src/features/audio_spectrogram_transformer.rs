//! Kaldi's log-mel filter bank, of a fixed number of frames.
//!
//! Reference: transformers 5.23, `models/audio_spectrogram_transformer/feature_extraction_audio_spectrogram_transformer.py`,
//! as it computes without torchaudio; with it, it does the same.

use serde::Deserialize;
use tx_core::error::Result;

use super::spectrogram::{Framing, MAX_VALUES, MelFilters, MelScale, Spectrogram, Wave, hann};
use super::{ConfigFile, Features};

/// Samples of a frame, from one to the next, and of its Fourier transform: 25 ms and 10 ms at 16 kHz.
const WINDOW: usize = 400;
const HOP: usize = 160;
const FFT: usize = 512;
/// The lowest frequency, in Hz.
const LOWEST: f64 = 20.0;
/// The lowest energy of a band, before its logarithm: the epsilon of f32.
const FLOOR: f64 = 1.192_092_955_078_125e-7;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    sampling_rate: u32,
    num_mel_bins: usize,
    max_length: usize,
    do_normalize: bool,
    mean: f32,
    std: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sampling_rate: 16000,
            num_mel_bins: 128,
            max_length: 1024,
            do_normalize: true,
            mean: -4.267_739_3,
            std: 4.568_997_4,
        }
    }
}

/// `ASTFeatureExtractor`
#[derive(Debug, Clone)]
pub struct AstFeatureExtractor {
    pub(super) sampling_rate: u32,
    max_length: usize,
    /// What is subtracted, and by what is divided then.
    normalize: Option<(f32, f32)>,
    spectrogram: Spectrogram,
}

impl AstFeatureExtractor {
    pub(super) fn new(file: &ConfigFile<'_>) -> Result<Self> {
        let config: Config = file.parse()?;
        file.rate(config.sampling_rate)?;
        file.range("num_mel_bins", config.num_mel_bins, 1, 1024)?;
        file.range("max_length", config.max_length, 1, MAX_VALUES / config.num_mel_bins)?;
        file.range("mean", config.mean, -1e6, 1e6)?;
        file.range("std", config.std.abs(), 1e-6, 1e6)?;
        let bins = FFT / 2 + 1;
        let highest = f64::from(config.sampling_rate / 2);
        let filters =
            MelFilters::new(bins, config.num_mel_bins, LOWEST, highest, config.sampling_rate, MelScale::Kaldi);
        Ok(Self {
            sampling_rate: config.sampling_rate,
            max_length: config.max_length,
            normalize: config.do_normalize.then_some((config.mean, (config.std * 2.0) as f32)),
            spectrogram: Spectrogram::new(hann(WINDOW, false), HOP, FFT, Framing::Kaldi, filters, FLOOR, f64::ln),
        })
    }

    pub(super) fn extract(&self, samples: &[f32]) -> Result<Features> {
        let wave = Wave::new(samples);
        let frames = self.spectrogram.frames(wave.length)?.min(self.max_length);
        let mut values = self.spectrogram.compute(wave, 0..frames)?; // [frames, bands]
        let bands = self.spectrogram.bands();
        values.resize(self.max_length * bands, 0.0);
        if let Some((mean, scale)) = self.normalize {
            values.iter_mut().for_each(|value| *value = (*value - mean) / scale);
        }
        Ok(Features { values, shape: vec![self.max_length, bands], frames, is_longer: false })
    }
}
