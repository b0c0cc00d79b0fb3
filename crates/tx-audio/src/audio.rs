//! Sound from files: decoded, mixed to one channel and resampled, at once or as it is read.
//!
//! Formats are found by content: wav, flac, mp3, ogg with vorbis, m4a with aac or alac. The channels' mean is taken, as
//! `librosa.load` does. Encoder delay is cut off where the file tells it, so that times are those of the recording.
//!
//! # Limits
//!
//! Files may come from anywhere. A sampling rate is 1 to 384 kHz; there are at most 64 channels; 16 MiB of a file may
//! be read before its sound begins, and as much between two pieces of sound; [`Audio`] holds at most 2²⁸ samples
//! (1 GiB, 4.6 hours at 16 kHz), whatever the file's size. [`AudioReader`] has no limit on length, and its memory does
//! not grow with it. What is not a number is refused, and so is a file that ends before its header says.

mod decode;
mod edits;
mod resample;
mod source;
mod vorbis;

use std::fmt;
use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use tx_core::error::{Error, Result};

use decode::Decoder;
use resample::{Resample, resampled_length};
use source::Source;

/// The lowest and the highest sampling rate, in Hz.
pub(crate) const MIN_RATE: u32 = 1000;
pub(crate) const MAX_RATE: u32 = 384_000;
/// The most channels.
const MAX_CHANNELS: usize = 64;
/// How many bytes of a file may be read before its sound begins.
const MAX_HEADER: u64 = 16 << 20;
/// How many bytes of a file may be read for one packet of sound.
const MAX_PACKET: u64 = 16 << 20;
/// The most samples that an [`Audio`] read from a file holds.
const MAX_SAMPLES: usize = 1 << 28;
/// The shortest piece that an [`AudioReader`] gives, unless it is the last, in samples.
const PIECE: usize = 8192;

/// Mono sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Audio {
    /// Its samples, most of them between -1 and 1.
    pub samples: Vec<f32>,
    /// Samples in a second, in Hz.
    pub sampling_rate: u32,
}

impl Audio {
    /// Sound that is in memory already.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no samples, if one is not a finite number, or for an impossible rate.
    pub fn new(samples: Vec<f32>, sampling_rate: u32) -> Result<Self> {
        let audio = Self { samples, sampling_rate };
        audio.check()?;
        Ok(audio)
    }

    /// What [`Audio::new`] checks, of a sound that may have been made or changed without it.
    pub(crate) fn check(&self) -> Result<()> {
        check_rate(self.sampling_rate)?;
        if self.samples.is_empty() {
            return Err(Error::input("audio", "no samples", "at least one"));
        }
        match self.samples.iter().position(|sample| !sample.is_finite()) {
            Some(place) => {
                let found = format_args!("{} at {place}", self.samples[place]);
                Err(Error::input("audio", found, "finite numbers"))
            }
            None => Ok(()),
        }
    }

    /// Reads a file, at `sampling_rate` in Hz.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for what is no sound, or beyond the limits; [`Error::Unsupported`] for a codec
    /// that is not known; [`Error::Input`] for an impossible rate.
    pub fn open(path: &Path, sampling_rate: u32) -> Result<Self> {
        Self::collect(AudioReader::open(path, sampling_rate)?, path)
    }

    /// Reads a file that is in memory; `what` names it in messages.
    ///
    /// # Errors
    /// Those of [`Audio::open`].
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static, what: &str, sampling_rate: u32) -> Result<Self> {
        Self::collect(AudioReader::from_bytes(bytes, what, sampling_rate)?, Path::new(what))
    }

    fn collect(reader: AudioReader, path: &Path) -> Result<Self> {
        let (mut samples, sampling_rate) = (Vec::new(), reader.sampling_rate);
        for piece in reader {
            let piece = piece?;
            if samples.len() + piece.len() > MAX_SAMPLES {
                let reason = format!("more than {MAX_SAMPLES} samples at {sampling_rate} Hz; read it in pieces");
                return Err(Error::malformed(path, reason));
            }
            samples.extend_from_slice(&piece);
        }
        Ok(Self { samples, sampling_rate })
    }

    /// How long it is.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sampling_rate)
    }

    /// The same sound at another rate in Hz.
    ///
    /// # Errors
    /// [`Error::Input`] for an impossible rate, and for a sound that would be too long.
    pub fn resample(self, sampling_rate: u32) -> Result<Self> {
        for rate in [self.sampling_rate, sampling_rate] {
            check_rate(rate)?;
        }
        if sampling_rate == self.sampling_rate {
            return Ok(self);
        }
        let length = resampled_length(self.samples.len() as u64, self.sampling_rate, sampling_rate);
        if length > MAX_SAMPLES as u64 {
            let found = format_args!("{length} samples at {sampling_rate} Hz");
            return Err(Error::input("audio", found, format_args!("at most {MAX_SAMPLES}")));
        }
        let (mut resample, mut samples) = (Resample::new(self.sampling_rate, sampling_rate)?, Vec::new());
        resample.push(&self.samples, &mut samples)?;
        resample.finish(&mut samples)?;
        Ok(Self { samples, sampling_rate })
    }
}

/// A file that is decoded, mixed and resampled as it is read: its memory does not grow with the file's length.
///
/// The pieces have some thousand samples each; after an error there are no more.
pub struct AudioReader {
    decoder: Decoder,
    sampling_rate: u32,
    /// `None` where the file has the rate that is asked for.
    resample: Option<Resample>,
    mono: Vec<f32>,
    ready: Vec<f32>,
    given: bool,
    ended: bool,
}

impl AudioReader {
    /// Opens a file, to be read at `sampling_rate` in Hz.
    ///
    /// # Errors
    /// Those of [`Audio::open`].
    pub fn open(path: &Path, sampling_rate: u32) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::io(path))?;
        // To open a pipe would wait for its other end.
        if !metadata.is_file() {
            return Err(Error::malformed(path, "not a regular file, expected a file of sound"));
        }
        let file = File::open(path).map_err(Error::io(path))?;
        let source = Source::new(Box::new(file), metadata.len(), MAX_HEADER).map_err(Error::io(path))?;
        Self::new(source, path, sampling_rate)
    }

    /// Opens a file that is in memory; `what` names it in messages.
    ///
    /// # Errors
    /// Those of [`Audio::open`].
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static, what: &str, sampling_rate: u32) -> Result<Self> {
        let (path, length) = (Path::new(what), bytes.as_ref().len() as u64);
        let source = Source::new(Box::new(Cursor::new(bytes)), length, MAX_HEADER).map_err(Error::io(path))?;
        Self::new(source, path, sampling_rate)
    }

    fn new(source: Source, path: &Path, sampling_rate: u32) -> Result<Self> {
        check_rate(sampling_rate)?;
        let decoder = Decoder::new(source, path)?;
        let resample = match decoder.rate() {
            rate if rate == sampling_rate => None,
            rate => Some(Resample::new(rate, sampling_rate)?),
        };
        let (mono, ready) = (Vec::new(), Vec::new());
        Ok(Self { decoder, sampling_rate, resample, mono, ready, given: false, ended: false })
    }

    /// How long the file says that it is, in seconds, if it does.
    pub fn duration(&self) -> Option<f64> {
        self.decoder.seconds()
    }

    /// Samples in a second, in Hz.
    pub fn sampling_rate(&self) -> u32 {
        self.sampling_rate
    }

    /// Reads until a piece is ready or the file ends.
    fn fill(&mut self) -> Result<()> {
        while !self.ended && self.ready.len() < PIECE {
            self.ended = !self.decoder.read(&mut self.mono)?;
            match &mut self.resample {
                Some(resample) => {
                    resample.push(&self.mono, &mut self.ready)?;
                    if self.ended {
                        resample.finish(&mut self.ready)?;
                    }
                }
                None => self.ready.extend_from_slice(&self.mono),
            }
        }
        if self.ready.is_empty() && !self.given {
            return Err(self.decoder.silent());
        }
        Ok(())
    }
}

impl Iterator for AudioReader {
    type Item = Result<Vec<f32>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended && self.ready.is_empty() {
            return None;
        }
        if let Err(error) = self.fill() {
            self.ended = true;
            self.ready.clear();
            return Some(Err(error));
        }
        let piece = std::mem::take(&mut self.ready);
        self.given = true;
        (!piece.is_empty()).then_some(Ok(piece))
    }
}

impl fmt::Debug for AudioReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("AudioReader");
        fields.field("sampling_rate", &self.sampling_rate).field("duration", &self.duration()).finish_non_exhaustive()
    }
}

/// Refuses rates that no sound has.
fn check_rate(rate: u32) -> Result<()> {
    if (MIN_RATE..=MAX_RATE).contains(&rate) {
        return Ok(());
    }
    Err(Error::input("sampling_rate", format_args!("{rate} Hz"), format_args!("{MIN_RATE} to {MAX_RATE} Hz")))
}
