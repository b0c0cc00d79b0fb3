//! Log-mel spectrograms of ten seconds; a longer sound is cut at a random place, or shown as a whole and in three parts.
//!
//! Reference: transformers 5.23, `models/clap/feature_extraction_clap.py`. Python draws the places from numpy's global
//! state. Here they come from splitmix64 with a seed, and are the same for the same call: the n-th draw of a call, taken
//! modulo the number of places there are.

use serde::Deserialize;
use tx_core::error::Result;

use super::spectrogram::{Framing, MelFilters, MelScale, Spectrogram, Wave, hann};
use super::{ConfigFile, FeatureBatch, Features, stack};

/// The lowest energy of a band, before its logarithm.
const FLOOR: f64 = 1e-10;
/// The bands that a whole sound is shrunk to, whatever `feature_size` says.
const FUSION_BANDS: usize = 64;
/// The views of a sound in fusion: the whole, and parts from its front, middle and back.
const VIEWS: usize = 4;

/// What is done to a sound that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Truncation {
    Fusion,
    RandTrunc,
}

/// What is done to a sound that is too short.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Padding {
    /// Repeated as a whole as often as it fits, then padded with zeros.
    RepeatPad,
    /// Repeated, and cut.
    Repeat,
    /// Padded with zeros.
    Pad,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    feature_size: usize,
    sampling_rate: u32,
    hop_length: usize,
    max_length_s: usize,
    fft_window_size: usize,
    frequency_min: f64,
    frequency_max: f64,
    truncation: Truncation,
    padding: Padding,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            feature_size: 64,
            sampling_rate: 48000,
            hop_length: 480,
            max_length_s: 10,
            fft_window_size: 1024,
            frequency_min: 0.0,
            frequency_max: 14000.0,
            truncation: Truncation::Fusion,
            padding: Padding::RepeatPad,
        }
    }
}

/// `ClapFeatureExtractor`
#[derive(Debug, Clone)]
pub struct ClapFeatureExtractor {
    pub(super) sampling_rate: u32,
    seed: u64,
    /// The samples that the model hears at once.
    length: usize,
    hop_length: usize,
    truncation: Truncation,
    padding: Padding,
    spectrogram: Spectrogram,
}

impl ClapFeatureExtractor {
    pub(super) fn new(file: &ConfigFile<'_>) -> Result<Self> {
        let config: Config = file.parse()?;
        file.rate(config.sampling_rate)?;
        file.range("feature_size", config.feature_size, 1, 1024)?;
        file.range("hop_length", config.hop_length, 1, 1 << 16)?;
        file.range("max_length_s", config.max_length_s, 1, 3600)?;
        file.range("fft_window_size", config.fft_window_size, 2, 1 << 16)?;
        file.range("frequency_max", config.frequency_max, 1.0, 1e6)?;
        file.range("frequency_min", config.frequency_min, 0.0, config.frequency_max - 1.0)?;
        if config.truncation == Truncation::Fusion && config.feature_size != FUSION_BANDS {
            let supported = format!("{FUSION_BANDS} with `truncation` `fusion`");
            return Err(file.unsupported("feature_size", config.feature_size.to_string(), &supported));
        }
        // Models with fusion were trained on torchaudio's filters, the others on librosa's.
        let scale = if config.truncation == Truncation::Fusion { MelScale::Htk } else { MelScale::Slaney };
        let filters = MelFilters::new(
            config.fft_window_size / 2 + 1,
            config.feature_size,
            config.frequency_min,
            config.frequency_max,
            config.sampling_rate,
            scale,
        );
        let decibels: fn(f64) -> f64 = |energy| 10.0 * energy.log10();
        let (window, hop) = (hann(config.fft_window_size, true), config.hop_length);
        let fft = config.fft_window_size;
        Ok(Self {
            sampling_rate: config.sampling_rate,
            seed: 0,
            length: config.max_length_s * config.sampling_rate as usize,
            hop_length: hop,
            truncation: config.truncation,
            padding: config.padding,
            spectrogram: Spectrogram::new(window, hop, fft, Framing::Centred, filters, FLOOR, decibels),
        })
    }

    pub(super) fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    pub(super) fn extract(&self, samples: &[f32]) -> Result<Features> {
        let mut features = self.views(samples, &mut Draws::new(self.seed))?;
        // A model with fusion wants a longer sound in every batch.
        features.is_longer |= self.truncation == Truncation::Fusion;
        Ok(features)
    }

    pub(super) fn extract_batch(&self, samples: &[&[f32]]) -> Result<FeatureBatch> {
        let mut draws = Draws::new(self.seed);
        let mut longer = Vec::with_capacity(samples.len());
        let features = samples.iter().map(|samples| {
            let features = self.views(samples, &mut draws)?;
            longer.push(features.is_longer);
            Ok(features)
        });
        let mut batch = stack(features, None)?;
        if self.truncation == Truncation::Fusion && !longer.contains(&true) {
            let place = draws.below(longer.len());
            longer[place] = true;
        }
        batch.is_longer = Some(longer);
        Ok(batch)
    }

    /// `_get_input_mel`
    fn views(&self, samples: &[f32], draws: &mut Draws) -> Result<Features> {
        if samples.len() <= self.length {
            let (repeated, count) = self.repeat(samples);
            let wave = Wave { length: self.length, ..Wave::new(&repeated) };
            let mel = self.mel(wave)?;
            let heard = self.frames_of(count).min(mel.len() / self.spectrogram.bands());
            return Ok(self.features(self.same_views(mel), heard, false));
        }
        if self.truncation == Truncation::RandTrunc {
            let start = draws.below(samples.len() - self.length + 1);
            let mel = self.mel(Wave::new(&samples[start..start + self.length]))?;
            let frames = mel.len() / self.spectrogram.bands();
            return Ok(self.features(mel, frames, true));
        }
        let mel = self.mel(Wave::new(samples))?;
        let (total, frames) = (mel.len() / self.spectrogram.bands(), self.frames_of(self.length));
        if total == frames {
            return Ok(self.features(self.same_views(mel), frames, false));
        }
        Ok(self.features(fuse(&mel, total, frames, draws), frames, true))
    }

    /// A short sound, repeated as the configuration says, and how many of its samples are not padding.
    fn repeat(&self, samples: &[f32]) -> (Vec<f32>, usize) {
        let count = match self.padding {
            Padding::RepeatPad => self.length / samples.len().max(1) * samples.len(),
            Padding::Repeat => self.length,
            Padding::Pad => samples.len(),
        };
        let repeated: Vec<f32> = samples.iter().copied().cycle().take(count).collect();
        (repeated, count)
    }

    /// The spectrogram of a sound.
    ///
    /// # Shapes
    /// Returns `[frames, bands]`.
    fn mel(&self, wave: Wave<'_>) -> Result<Vec<f32>> {
        self.spectrogram.compute(wave, 0..self.spectrogram.frames(wave.length)?)
    }

    /// The frames of a sound whose middle lies in it.
    fn frames_of(&self, length: usize) -> usize {
        length / self.hop_length + 1
    }

    /// The same spectrogram in all views.
    fn same_views(&self, mel: Vec<f32>) -> Vec<f32> {
        if self.truncation == Truncation::Fusion { mel.repeat(VIEWS) } else { mel }
    }

    fn features(&self, values: Vec<f32>, heard: usize, is_longer: bool) -> Features {
        let (views, bands) = (if self.truncation == Truncation::Fusion { VIEWS } else { 1 }, self.spectrogram.bands());
        let shape = vec![views, values.len() / (views * bands), bands];
        Features { values, shape, frames: heard, is_longer }
    }
}

/// `_random_mel_fusion`: the spectrogram shrunk to `frames` of its `total`, and three parts of it.
fn fuse(mel: &[f32], total: usize, frames: usize, draws: &mut Draws) -> Vec<f32> {
    let mut values = shrink(mel, total, frames);
    let places = total - frames + 1;
    let mut first = 0;
    for part in 0..3 {
        // `numpy.array_split`: the first parts get what is left over.
        let count = places / 3 + usize::from(part < places % 3);
        // There is always a place to begin at: the first of all.
        let start = if count == 0 { draws.below(1) } else { first + draws.below(count) };
        values.extend_from_slice(&mel[start * FUSION_BANDS..(start + frames) * FUSION_BANDS]);
        first += count;
    }
    values
}

/// `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` along time, in f32 as PyTorch computes places:
/// the rounding of a place far behind changes the result more than the tolerance allows.
fn shrink(mel: &[f32], total: usize, frames: usize) -> Vec<f32> {
    let scale = total as f32 / frames as f32;
    let row = |place: usize| &mel[place * FUSION_BANDS..][..FUSION_BANDS];
    let mut values = Vec::with_capacity(VIEWS * frames * FUSION_BANDS);
    for frame in 0..frames {
        let place = ((frame as f32 + 0.5) * scale - 0.5).max(0.0);
        let before = (place as usize).min(total - 1);
        let share = place - before as f32;
        let (left, right) = (row(before), row((before + 1).min(total - 1)));
        values.extend(left.iter().zip(right).map(|(left, right)| left * (1.0 - share) + right * share));
    }
    values
}

/// Random numbers of one call: the stream of splitmix64.
struct Draws {
    state: u64,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `count`, which is not zero.
    fn below(&mut self, count: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % count.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_splitmix64() {
        let mut draws = Draws::new(0);
        // The first numbers from seed 0 are 0xe220a8397b1dcdaf and 0x6e789e6aa1b965f4.
        assert_eq!(draws.below(1 << 32), 0x7b1d_cdaf);
        assert_eq!(draws.below(1 << 32), 0xa1b9_65f4);
    }
}
