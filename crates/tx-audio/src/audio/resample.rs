//! Samples at one rate to samples at another, block by block: `rubato`'s resampler by Fourier transforms.
//!
//! The filter's delay is cut off, so that what is heard at a time is heard at that time afterwards, and the length is
//! that of the sound, rounded to a sample.

use std::fmt;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};
use tx_core::error::{Error, Result};

/// The shortest block on either side, in samples: the longer it is, the steeper is the filter.
const SHORTEST_BLOCK: u32 = 1024;

/// A resampler in the middle of a sound.
pub(super) struct Resample {
    fft: Fft<f32>,
    /// Samples that do not fill a block yet.
    waiting: Vec<f32>,
    /// A block at the new rate.
    block: Vec<f32>,
    /// Samples at the new rate that are still to be left out.
    delay: usize,
    from: u32,
    to: u32,
    read: u64,
    written: u64,
}

impl Resample {
    /// A resampler between two rates in Hz, which are not zero.
    ///
    /// # Errors
    /// [`Error::Input`] if the library refuses them.
    pub fn new(from: u32, to: u32) -> Result<Self> {
        let divisor = greatest_common_divisor(from, to).max(1);
        let (input, output) = (from / divisor, to / divisor);
        // Blocks of an even length have their middle, and so the delay, at a whole sample on both sides.
        let blocks = SHORTEST_BLOCK.div_ceil(input.min(output).max(1)).next_multiple_of(2);
        let fft = Fft::<f32>::new_custom(
            from as usize,
            to as usize,
            blocks as usize * input as usize,
            1,
            1,
            WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        )
        .map_err(failed)?;
        let (block, delay) = (vec![0.0; fft.output_frames_next()], fft.output_delay());
        Ok(Self { fft, waiting: Vec::new(), block, delay, from, to, read: 0, written: 0 })
    }

    /// Takes samples, and appends to `out` what is ready at the new rate.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<()> {
        self.read += samples.len() as u64;
        self.waiting.extend_from_slice(samples);
        let size = self.fft.input_frames_next();
        let mut start = 0;
        while self.waiting.len() - start >= size {
            self.convert(start, size, out)?;
            start += size;
        }
        self.waiting.drain(..start);
        Ok(())
    }

    /// Appends the rest.
    pub fn finish(&mut self, out: &mut Vec<f32>) -> Result<()> {
        let wanted = resampled_length(self.read, self.from, self.to);
        let size = self.fft.input_frames_next();
        while self.written < wanted {
            self.waiting.resize(size, 0.0);
            self.convert(0, size, out)?;
            self.waiting.clear();
        }
        let surplus = (self.written - wanted) as usize;
        out.truncate(out.len().saturating_sub(surplus));
        self.written = wanted;
        Ok(())
    }

    /// Converts the block of `size` waiting samples from `start` on.
    fn convert(&mut self, start: usize, size: usize, out: &mut Vec<f32>) -> Result<()> {
        let input = InterleavedSlice::new(&self.waiting[start..start + size], 1, size).map_err(failed)?;
        let length = self.block.len();
        let mut output = InterleavedSlice::new_mut(self.block.as_mut_slice(), 1, length).map_err(failed)?;
        let (_, count) = self.fft.process_into_buffer(&input, &mut output, None).map_err(failed)?;
        let late = self.delay.min(count);
        self.delay -= late;
        self.written += (count - late) as u64;
        out.extend_from_slice(&self.block[late..count]);
        Ok(())
    }
}

/// How many samples there are at another rate.
pub(super) fn resampled_length(samples: u64, from: u32, to: u32) -> u64 {
    let (from, to) = (u128::from(from.max(1)), u128::from(to));
    u64::try_from((u128::from(samples) * to + from / 2) / from).unwrap_or(u64::MAX)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn failed(reason: impl fmt::Display) -> Error {
    Error::input("resampling", reason, "another sampling rate")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `samples` in pieces of `piece`.
    fn resample(samples: &[f32], from: u32, to: u32, piece: usize) -> Vec<f32> {
        let (mut resampler, mut out) = (Resample::new(from, to).unwrap(), Vec::new());
        for piece in samples.chunks(piece) {
            resampler.push(piece, &mut out).unwrap();
        }
        resampler.finish(&mut out).unwrap();
        out
    }

    fn sine(rate: u32, samples: usize, frequency: f64) -> Vec<f32> {
        let step = std::f64::consts::TAU * frequency / f64::from(rate);
        (0..samples).map(|i| (i as f64 * step).sin() as f32).collect()
    }

    #[test]
    fn sines_stay_in_place_and_what_the_new_rate_cannot_hold_is_gone() {
        for (from, to) in
            [(44100, 16000), (48000, 16000), (8000, 16000), (192_000, 16000), (22050, 24000), (11025, 16000)]
        {
            let heard = f64::from(from.min(to)) * 0.2;
            let out = resample(&sine(from, from as usize, heard), from, to, 1777);
            assert_eq!(out.len(), to as usize, "{from} to {to}");
            let expected = sine(to, to as usize, heard);
            let middle = out.len() / 4..out.len() * 3 / 4;
            let worst = middle.clone().map(|i| (out[i] - expected[i]).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-4, "{from} to {to}: {worst}");
            if from > to {
                let out = resample(&sine(from, from as usize, f64::from(to) * 0.55), from, to, 500);
                let loudest = middle.map(|i| out[i].abs()).fold(0.0, f32::max);
                assert!(loudest < 1e-4, "{from} to {to}: {loudest}");
            }
        }
    }

    #[test]
    fn lengths_are_rounded_and_pieces_do_not_matter() {
        for samples in [1, 2, 3, 160, 441, 5000] {
            let sound = sine(44100, samples, 300.0);
            let whole = resample(&sound, 44100, 16000, samples);
            assert_eq!(whole.len() as u64, resampled_length(samples as u64, 44100, 16000), "{samples}");
            assert_eq!(whole, resample(&sound, 44100, 16000, 1 + samples / 3));
        }
    }
}
