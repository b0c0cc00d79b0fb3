//! Mel spectrograms: the logarithm of a sound's energy, over time and over bands of frequency.
//!
//! Reference: transformers 5.23, `audio_utils.py`: `mel_filter_bank`, `window_function`, `spectrogram`. As there, frames
//! are transformed in f64, their spectra rounded to f32, and energies summed in f64.

use std::f64::consts::TAU;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use realfft::num_complex::Complex;
use realfft::{FftError, RealFftPlanner, RealToComplex};
use tx_core::error::{Error, Result};

/// The most numbers that the features of one call have.
pub(super) const MAX_VALUES: usize = 1 << 30;
/// Frames that one thread computes in a row.
const FRAMES_IN_A_ROW: usize = 32;

/// A sound with padding behind it, or what is needed of one.
#[derive(Clone, Copy)]
pub(super) struct Wave<'a> {
    pub samples: &'a [f32],
    /// Where in the sound these begin.
    pub start: usize,
    /// How long the sound is with the padding, in samples; not less than what is there of it.
    pub length: usize,
    /// The value of the padding.
    pub padding: f32,
}

impl<'a> Wave<'a> {
    /// A sound without padding.
    pub fn new(samples: &'a [f32]) -> Self {
        Self { samples, start: 0, length: samples.len(), padding: 0.0 }
    }

    fn at(&self, place: usize) -> f64 {
        let sample = place.checked_sub(self.start).and_then(|place| self.samples.get(place));
        f64::from(sample.copied().unwrap_or(self.padding))
    }
}

/// How hertz become mels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum MelScale {
    /// `2595 log10(1 + f / 700)`
    Htk,
    /// `1127 ln(1 + f / 700)`, with filters that are triangles over mels, and not over hertz.
    Kaldi,
    /// Linear up to 1 kHz, logarithmic above; filters have the same area.
    Slaney,
}

impl MelScale {
    /// `hertz_to_mel`
    fn mel(self, hertz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
            Self::Kaldi => 1127.0 * (1.0 + hertz / 700.0).ln(),
            Self::Slaney if hertz >= 1000.0 => 15.0 + (hertz / 1000.0).ln() * (27.0 / 6.4_f64.ln()),
            Self::Slaney => 3.0 * hertz / 200.0,
        }
    }

    /// `mel_to_hertz`
    fn hertz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10.0_f64.powf(mel / 2595.0) - 1.0),
            Self::Kaldi => 700.0 * ((mel / 1127.0).exp() - 1.0),
            Self::Slaney if mel >= 15.0 => 1000.0 * ((6.4_f64.ln() / 27.0) * (mel - 15.0)).exp(),
            Self::Slaney => 200.0 * mel / 3.0,
        }
    }
}

/// Triangular filters that overlap, from the bins of a spectrum to bands.
#[derive(Debug, Clone)]
pub(super) struct MelFilters {
    /// The first bin of each band, and the weights from there on: most are zero and not kept.
    bands: Vec<(usize, Vec<f64>)>,
}

impl MelFilters {
    /// `mel_filter_bank`: `bands` filters from `lowest` to `highest` hertz over `bins` bins, at least two.
    pub fn new(bins: usize, bands: usize, lowest: f64, highest: f64, rate: u32, scale: MelScale) -> Self {
        let mels = linspace(scale.mel(lowest), scale.mel(highest), bands + 2);
        let (corners, centres): (Vec<f64>, Vec<f64>) = if scale == MelScale::Kaldi {
            let width = f64::from(rate) / ((bins - 1) * 2) as f64;
            (mels, (0..bins).map(|bin| scale.mel(width * bin as f64)).collect())
        } else {
            let centres = linspace(0.0, f64::from(rate / 2), bins);
            (mels.into_iter().map(|mel| scale.hertz(mel)).collect(), centres)
        };
        let filter = |corners: &[f64]| {
            let [left, top, right] = [corners[0], corners[1], corners[2]];
            let area = if scale == MelScale::Slaney { 2.0 / (right - left) } else { 1.0 };
            let weight = |&centre: &f64| {
                let (up, down) = ((centre - left) / (top - left), (right - centre) / (right - top));
                up.min(down).max(0.0) * area
            };
            let weights: Vec<f64> = centres.iter().map(weight).collect();
            let first = weights.iter().position(|&weight| weight > 0.0).unwrap_or(0);
            let behind = weights.iter().rposition(|&weight| weight > 0.0).map_or(0, |last| last + 1);
            (first, weights[first..behind].to_vec())
        };
        Self { bands: corners.windows(3).map(filter).collect() }
    }
}

/// `numpy.linspace`
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    values[count - 1] = stop;
    values
}

/// `window_function("hann")`; periodic, or symmetric.
pub(super) fn hann(length: usize, periodic: bool) -> Vec<f64> {
    let period = if periodic { length } else { length - 1 };
    (0..length).map(|i| 0.5 - 0.5 * (TAU * i as f64 / period as f64).cos()).collect()
}

/// What is done to a frame before its window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Framing {
    /// Frame `t` has its middle at sample `t · hop`; at both ends the sound is mirrored.
    Centred,
    /// Frame `t` begins at sample `t · hop`; its mean is subtracted, and from each sample `0.97` of the one before.
    Kaldi,
}

/// The share of the sample before that is subtracted from a sample.
const PREEMPHASIS: f64 = 0.97;

/// A way to compute mel spectrograms.
#[derive(Clone)]
pub(super) struct Spectrogram {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    hop: usize,
    framing: Framing,
    filters: MelFilters,
    /// The lowest energy of a band.
    floor: f64,
    log: fn(f64) -> f64,
}

impl fmt::Debug for Spectrogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Spectrogram");
        fields.field("window", &self.window.len()).field("hop", &self.hop).field("framing", &self.framing);
        fields.field("bands", &self.filters.bands.len()).finish_non_exhaustive()
    }
}

/// What a thread needs to compute frames.
struct Scratch {
    frame: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    fft: Vec<Complex<f64>>,
    power: Vec<f64>,
}

impl Spectrogram {
    /// Frames under `window`, `hop` samples apart, transformed with zeros behind them to `fft_length`; bands of energy of
    /// at least `floor`, of which `log` is taken.
    pub fn new(
        window: Vec<f64>,
        hop: usize,
        fft_length: usize,
        framing: Framing,
        filters: MelFilters,
        floor: f64,
        log: fn(f64) -> f64,
    ) -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(fft_length);
        Self { fft, window, hop, framing, filters, floor, log }
    }

    /// The number of bands.
    pub fn bands(&self) -> usize {
        self.filters.bands.len()
    }

    /// How many frames a sound of `length` samples has.
    ///
    /// # Errors
    /// [`Error::Input`] for a sound that is too short for one frame.
    pub fn frames(&self, length: usize) -> Result<usize> {
        let (window, margin) = (self.window.len(), self.margin());
        let shortest = if margin > 0 { margin + 1 } else { window };
        if length < shortest {
            let expected = format_args!("at least {shortest} samples");
            return Err(Error::input("audio", format_args!("{length} samples"), expected));
        }
        Ok(1 + (length + 2 * margin - window) / self.hop)
    }

    /// The samples that are mirrored at both ends.
    fn margin(&self) -> usize {
        if self.framing == Framing::Centred { self.window.len() / 2 } else { 0 }
    }

    /// Where the samples lie that some frames are made of, in a sound of `length` samples.
    pub fn samples(&self, frames: &Range<usize>, length: usize) -> Range<usize> {
        let start = (frames.start * self.hop).saturating_sub(self.margin()).min(length);
        // What is mirrored lies in the frame itself, or one sample behind it.
        let end = frames.end.saturating_sub(1) * self.hop + self.window.len();
        start..end.clamp(start, length)
    }

    /// Some frames of a sound, of which the wave has at least [`Self::samples`].
    ///
    /// # Shapes
    /// Returns `[frames, bands]`.
    ///
    /// # Errors
    /// [`Error::Input`] if these are too many numbers.
    pub fn compute(&self, wave: Wave<'_>, frames: Range<usize>) -> Result<Vec<f32>> {
        let bands = self.bands();
        let count = frames.len().checked_mul(bands).filter(|&count| count <= MAX_VALUES);
        let count = count.ok_or_else(|| {
            let found = format_args!("{} frames of {bands} bands", frames.len());
            Error::input("audio", found, format_args!("at most {MAX_VALUES} numbers"))
        })?;
        let mut values = vec![0.0; count];
        let rows = values.par_chunks_mut(bands).enumerate().with_min_len(FRAMES_IN_A_ROW);
        let computed = rows.try_for_each_init(
            || Scratch {
                frame: self.fft.make_input_vec(),
                spectrum: self.fft.make_output_vec(),
                fft: self.fft.make_scratch_vec(),
                power: vec![0.0; self.fft.len() / 2 + 1],
            },
            |scratch, (frame, row)| self.frame(wave, frames.start + frame, scratch, row),
        );
        computed.map_err(|e: FftError| Error::input("audio", e, "another length of the Fourier transform"))?;
        Ok(values)
    }

    /// One frame: a row of energies.
    fn frame(&self, wave: Wave<'_>, frame: usize, scratch: &mut Scratch, row: &mut [f32]) -> Result<(), FftError> {
        let Scratch { frame: x, spectrum, fft, power } = scratch;
        let (length, start) = (self.window.len(), frame * self.hop);
        self.cut(wave, start, &mut x[..length]);
        x[length..].fill(0.0);
        // Silence is common: it is what short sounds are padded with.
        if x.iter().all(|&sample| sample == 0.0) {
            row.fill((self.log)(self.floor) as f32);
            return Ok(());
        }
        if self.framing == Framing::Kaldi {
            let mean = x[..length].iter().sum::<f64>() / length as f64;
            x[..length].iter_mut().for_each(|sample| *sample -= mean);
            for i in (1..length).rev() {
                x[i] -= PREEMPHASIS * x[i - 1];
            }
            x[0] *= 1.0 - PREEMPHASIS;
        }
        x.iter_mut().zip(&self.window).for_each(|(sample, weight)| *sample *= weight);
        self.fft.process_with_scratch(x, spectrum, fft)?;
        for (power, bin) in power.iter_mut().zip(spectrum.iter()) {
            let (re, im) = (f64::from(bin.re as f32), f64::from(bin.im as f32));
            *power = re * re + im * im;
        }
        for (value, (first, weights)) in row.iter_mut().zip(&self.filters.bands) {
            let energy: f64 = power[*first..].iter().zip(weights).map(|(power, weight)| power * weight).sum();
            *value = (self.log)(energy.max(self.floor)) as f32;
        }
        Ok(())
    }

    /// The samples of a frame; `start` counts from the mirrored ones before the sound.
    fn cut(&self, wave: Wave<'_>, start: usize, x: &mut [f64]) {
        let margin = self.margin();
        let place = start.checked_sub(margin).and_then(|place| place.checked_sub(wave.start));
        if let Some(samples) = place.and_then(|place| wave.samples.get(place..place + x.len())) {
            x.iter_mut().zip(samples).for_each(|(x, &sample)| *x = f64::from(sample));
            return;
        }
        for (i, x) in x.iter_mut().enumerate() {
            let place = (start + i).abs_diff(margin);
            // Behind the end, the last sample is the mirror.
            let place = if place >= wave.length { 2 * (wave.length - 1) - place } else { place };
            *x = wave.at(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_their_inverses() {
        for scale in [MelScale::Htk, MelScale::Kaldi, MelScale::Slaney] {
            for hertz in [0.0, 20.0, 999.0, 1000.0, 4321.0] {
                assert!((scale.hertz(scale.mel(hertz)) - hertz).abs() < 1e-9, "{scale:?} {hertz}");
            }
        }
        assert!((MelScale::Htk.mel(1000.0) - 999.985_537).abs() < 1e-5);
        assert!((MelScale::Slaney.mel(1000.0) - 15.0).abs() < 1e-12);
    }

    #[test]
    fn filters_are_triangles() {
        // Corners at 0, 2, 4, 6 and 8 Hz, bins at every hertz.
        let filters = MelFilters::new(9, 3, 0.0, 8.0, 16, MelScale::Slaney);
        let rows = filters.bands.iter().map(|(first, weights)| {
            let mut row = [0.0; 9];
            row[*first..first + weights.len()].copy_from_slice(weights);
            row
        });
        for (band, row) in rows.enumerate() {
            for (bin, weight) in row.into_iter().enumerate() {
                let expected = match bin.abs_diff(2 * band + 2) {
                    0 => 0.5,
                    1 => 0.25,
                    _ => 0.0,
                };
                assert!((weight - expected).abs() < 1e-9, "band {band}, bin {bin}: {weight}");
            }
        }
    }

    #[test]
    fn the_ends_are_mirrored() {
        let filters = MelFilters::new(3, 1, 0.0, 8.0, 16, MelScale::Htk);
        let spectrogram = Spectrogram::new(hann(4, true), 2, 4, Framing::Centred, filters, 1e-10, f64::ln);
        let samples = [1.0, 2.0, 3.0, 4.0, 5.0];
        let cut = |start| {
            let mut x = [0.0; 4];
            spectrogram.cut(Wave::new(&samples), start, &mut x);
            x
        };
        assert_eq!(spectrogram.frames(5).unwrap(), 3);
        assert_eq!(cut(0), [3.0, 2.0, 1.0, 2.0]);
        assert_eq!(cut(2), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(cut(4), [3.0, 4.0, 5.0, 4.0]);
        assert_eq!(cut(5), [4.0, 5.0, 4.0, 3.0]);
        assert!(spectrogram.frames(2).is_err());
    }
}
