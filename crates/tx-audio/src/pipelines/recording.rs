//! A sound whose samples are read as they are needed: an hour of a file takes no more memory than some minutes of it.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tx_core::error::{Error, Result};
use tx_core::progress::Progress;

use super::sound::Sound;
use crate::audio::AudioReader;

/// The most samples that are held; a longer sound is decoded again as it is heard. 64 MiB.
const MAX_HELD: usize = 1 << 24;
/// The most samples of a sound: 37 hours at 16 kHz.
const MAX_SAMPLES: usize = 1 << 31;
/// How long a sound is at least for a bar, in seconds.
const LONG: u64 = 30;

/// A sound of a known length.
#[derive(Debug)]
pub(super) struct Recording {
    sampling_rate: u32,
    length: usize,
    samples: Samples,
    bar: Progress,
}

/// Where the samples of a sound are.
#[derive(Debug)]
enum Samples {
    Held(Vec<f32>),
    Read(Mutex<Reading>),
}

/// A sound in the middle of its decoding.
#[derive(Debug)]
struct Reading {
    sound: Sound,
    reader: Option<Box<AudioReader>>,
    /// Where in the sound `samples` begin.
    start: usize,
    samples: Vec<f32>,
}

impl Recording {
    /// Reads a sound from its beginning to its end: so its length is known, and what is wrong with it found, before any of
    /// it is heard. With `progress`, a long one gets a bar.
    ///
    /// # Errors
    /// As [`Sound::read`]; [`Error::Input`] for a sound of more than [`MAX_SAMPLES`].
    pub fn open(sound: &Sound, sampling_rate: u32, progress: bool) -> Result<Self> {
        Self::held_up_to(MAX_HELD, sound, sampling_rate, progress)
    }

    fn held_up_to(max_held: usize, sound: &Sound, sampling_rate: u32, progress: bool) -> Result<Self> {
        let (mut length, mut held) = (0, Vec::new());
        match sound.reader(sampling_rate)? {
            Some(reader) => {
                for piece in reader {
                    let piece = piece?;
                    length += piece.len();
                    if length > MAX_SAMPLES {
                        let found = format_args!("more than {MAX_SAMPLES} samples");
                        return Err(Error::input("audio", found, "parts of it"));
                    }
                    if length > max_held {
                        held = Vec::new();
                    } else {
                        held.extend_from_slice(&piece);
                    }
                }
            }
            None => {
                held = sound.read(sampling_rate)?.samples;
                length = held.len();
            }
        }
        let samples = if held.len() == length {
            Samples::Held(held)
        } else {
            Samples::Read(Mutex::new(Reading { sound: sound.clone(), reader: None, start: 0, samples: held }))
        };
        let seconds = length as u64 / u64::from(sampling_rate.max(1));
        let bar = Progress::items("seconds", seconds, progress && seconds >= LONG);
        Ok(Self { sampling_rate, length, samples, bar })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Samples in a second, in Hz.
    pub fn sampling_rate(&self) -> u32 {
        self.sampling_rate
    }

    /// Appends the samples of a range. Ranges in their order are read in one pass; to go back takes another.
    ///
    /// # Errors
    /// Those of [`Recording::open`], if the sound has changed since.
    pub fn read(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        match &self.samples {
            Samples::Held(samples) => {
                out.extend_from_slice(&samples[range]);
                Ok(())
            }
            Samples::Read(reading) => {
                reading.lock().unwrap_or_else(PoisonError::into_inner).read(range, self.sampling_rate, out)
            }
        }
    }

    /// Moves the bar to a sample: those before it are heard.
    pub fn heard(&self, place: usize) {
        self.bar.set(place as u64 / u64::from(self.sampling_rate.max(1)));
    }
}

impl Reading {
    fn read(&mut self, range: Range<usize>, sampling_rate: u32, out: &mut Vec<f32>) -> Result<()> {
        if self.reader.is_none() || range.start < self.start {
            self.reader = self.sound.reader(sampling_rate)?.map(Box::new);
            self.start = 0;
            self.samples.clear();
        }
        loop {
            let before = (range.start - self.start).min(self.samples.len());
            self.samples.drain(..before);
            self.start += before;
            if self.start + self.samples.len() >= range.end {
                break;
            }
            match self.reader.as_mut().and_then(Iterator::next) {
                Some(piece) => self.samples.extend_from_slice(&piece?),
                None => {
                    let found = format_args!("an end after {} samples", self.start + self.samples.len());
                    return Err(Error::input("audio", found, "a file that stays as it is while it is heard"));
                }
            }
        }
        out.extend_from_slice(&self.samples[..range.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Audio;

    /// A WAV file of bytes at 8 kHz.
    fn wav(samples: u32) -> Vec<u8> {
        let mut bytes = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        bytes.extend([8000u32.to_le_bytes(), 8000u32.to_le_bytes()].concat());
        bytes.extend(b"\x01\0\x08\0data");
        bytes.extend(samples.to_le_bytes());
        bytes.extend((0..samples).map(|i| (i.wrapping_mul(i) % 251) as u8));
        bytes
    }

    #[test]
    fn what_is_read_again_is_what_was_held() {
        let bytes = wav(60_000);
        let whole = Audio::from_bytes(bytes.clone(), "sound", 16000).unwrap().samples;
        assert_eq!(whole.len(), 120_000);
        let sound = Sound::from(bytes);
        for max_held in [0, 119_999, 120_000] {
            let recording = Recording::held_up_to(max_held, &sound, 16000, true).unwrap();
            assert_eq!(recording.len(), whole.len());
            assert_eq!(matches!(recording.samples, Samples::Held(_)), max_held == 120_000);
            // In their order with overlaps, then back and far ahead, none, and all.
            let steps = (0..12).map(|i| 9_000 * i..(9_000 * i + 15_000).min(120_000));
            for range in steps.chain([500..700, 100_000..120_000, 0..1, 120_000..120_000, 7..7, 0..120_000]) {
                let mut found = vec![0.5];
                recording.read(range.clone(), &mut found).unwrap();
                assert_eq!(found[1..], whole[range.clone()], "{range:?}");
            }
            recording.heard(40_000);
        }
    }

    #[test]
    fn little_of_a_long_sound_is_held() {
        let recording = Recording::held_up_to(1000, &Sound::from(wav(200_000)), 16000, false).unwrap();
        let Samples::Read(reading) = &recording.samples else { panic!("all is held") };
        let mut found = Vec::new();
        for start in (0..400_000).step_by(20_000) {
            recording.read(start..start + 20_000, &mut found).unwrap();
            assert!(reading.lock().unwrap().samples.capacity() < 1 << 17);
        }
        assert_eq!(found.len(), 400_000);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sound.wav");
        std::fs::write(&path, wav(50_000)).unwrap();
        let recording = Recording::held_up_to(0, &Sound::from(path.as_path()), 8000, false).unwrap();
        std::fs::write(&path, wav(20_000)).unwrap();
        let error = recording.read(30_000..40_000, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("an end after 20000 samples"), "{error}");
    }
}
