//! Files of sound to mono samples, packet by packet, by `symphonia`.

use std::io::{ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_ALAC, CODEC_ID_FLAC, CODEC_ID_OPUS, CODEC_ID_PCM_MULAW, CODEC_ID_PCM_S32LE, CODEC_ID_VORBIS,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as DecodeError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::well_known::{FORMAT_ID_ISOMP4, FORMAT_ID_WAVE};
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use tx_core::error::{Error, Result};
use tx_core::guard::decoding;

use super::edits::{Edit, edits};
use super::source::{Budget, Source};
use super::{MAX_CHANNELS, MAX_HEADER, MAX_PACKET, MAX_RATE, MIN_RATE, vorbis};

/// What can be decoded, for messages.
const CODECS: &str = "wav, flac, mp3, ogg with vorbis, m4a with aac (lc) or alac";
/// Programs that write to a pipe state about this many bytes, because they cannot know better.
const UNKNOWN_LENGTH: u64 = 0x7fff_0000;

/// A file in the middle of its decoding.
pub(super) struct Decoder {
    path: PathBuf,
    budget: Budget,
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// Samples a second and channel, in Hz.
    rate: u32,
    /// The decoded samples of each channel that there must be, where the file says so and a codec without loss gives them.
    expected: Option<u64>,
    /// Whether the file is read by tables that tell where its packets are.
    indexed: bool,
    /// The samples of each channel that were decoded.
    decoded: u64,
    /// Samples that are still to be left out.
    skip: u64,
    /// Samples that are still to be given.
    left: u64,
    seconds: Option<f64>,
    interleaved: Vec<f32>,
}

impl Decoder {
    /// Reads the head of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`]; [`Error::Unsupported`] for a codec that is not known.
    pub fn new(mut source: Source, path: &Path) -> Result<Self> {
        let length = source.length();
        if length == 0 {
            return Err(Error::malformed(path, "an empty file, expected sound"));
        }
        let edits = edits(&mut source, length);
        source.seek(SeekFrom::Start(0)).map_err(Error::io(path))?;
        let budget = source.budget();
        budget.refill(MAX_HEADER);
        let stream = MediaSourceStream::new(Box::new(source), Default::default());
        let format = decoding(path, || {
            let (formats, metadata) = (FormatOptions::default(), MetadataOptions::default());
            symphonia::default::get_probe().probe(&Hint::new(), stream, formats, metadata)
        })?;
        let format = format.map_err(|error| match error {
            DecodeError::Unsupported(reason) if !budget.is_spent() => {
                Error::malformed(path, format_args!("no sound in a known format ({reason}); known: {CODECS}"))
            }
            error => failed(path, &budget, MAX_HEADER, error),
        })?;
        let (track, params) = sound(format.as_ref(), path)?;
        let decoder = decoder(path, params)?;
        let rate = decoder.codec_params().sample_rate.or(params.sample_rate).unwrap_or(0);
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return Err(Error::malformed(path, format_args!("{rate} Hz, expected {MIN_RATE} to {MAX_RATE} Hz")));
        }
        let (expected, kind) = (expected(track, params, format.as_ref()), format.format_info().format);
        let frames = track.num_frames.or_else(|| {
            let base = track.time_base?;
            let ticks = u128::from(track.duration?.get()) * u128::from(base.numer.get()) * u128::from(rate);
            u64::try_from(ticks / u128::from(base.denom.get())).ok()
        });
        let (skip, left) = heard(&edits, track.id, rate);
        let seconds = frames.map(|frames| frames.saturating_sub(skip).min(left) as f64 / f64::from(rate));
        Ok(Self {
            path: path.to_path_buf(),
            budget,
            track: track.id,
            rate,
            expected,
            indexed: kind == FORMAT_ID_ISOMP4,
            decoded: 0,
            skip,
            left,
            seconds,
            interleaved: Vec::new(),
            decoder,
            format,
        })
    }

    /// Samples in a second, in Hz.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// How long the file says that it is, in seconds.
    pub fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// The error for a file without a single sample.
    pub fn silent(&self) -> Error {
        Error::malformed(&self.path, "no samples, expected sound")
    }

    /// The next samples, of all channels the mean, into `mono`; false at the end of the file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a file that is broken, ends too early, or holds what is no number.
    pub fn read(&mut self, mono: &mut Vec<f32>) -> Result<bool> {
        mono.clear();
        while mono.is_empty() {
            if self.left == 0 {
                return Ok(false);
            }
            self.budget.refill(MAX_PACKET);
            let packet = match decoding(&self.path, || self.format.next_packet())? {
                Ok(Some(packet)) => packet,
                Ok(None) => return self.end(false),
                Err(DecodeError::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                    return self.end(true);
                }
                Err(DecodeError::ResetRequired) => {
                    self.restart()?;
                    continue;
                }
                Err(error) => return Err(failed(&self.path, &self.budget, MAX_PACKET, error)),
            };
            if packet.track_id != self.track {
                continue;
            }
            let decoded = decoding(&self.path, || {
                self.decoder.decode(&packet).map(|sound| {
                    sound.copy_to_vec_interleaved(&mut self.interleaved);
                    (sound.spec().rate(), sound.spec().channels().count())
                })
            })?;
            let (rate, channels) = match decoded {
                Ok(spec) => spec,
                // What was cut out of a longer stream may begin with packets that need the ones before them.
                Err(DecodeError::DecodeError(_)) if self.decoded == 0 => continue,
                Err(error) => {
                    let at = self.decoded as f64 / f64::from(self.rate);
                    return Err(Error::malformed(&self.path, format_args!("cannot be decoded at {at:.2} s: {error}")));
                }
            };
            if !self.interleaved.is_empty() {
                self.mix(rate, channels, mono)?;
            }
        }
        Ok(true)
    }

    /// Checks decoded samples, and writes the mean of their channels to `mono`.
    fn mix(&mut self, rate: u32, channels: usize, mono: &mut Vec<f32>) -> Result<()> {
        if rate != self.rate {
            let reason = format!("its sampling rate changes from {} to {rate} Hz", self.rate);
            return Err(Error::malformed(&self.path, reason));
        }
        check_channels(&self.path, channels)?;
        let scale = 1.0 / channels as f32;
        let frames = self.interleaved.chunks_exact(channels);
        mono.extend(frames.map(|frame| if channels == 1 { frame[0] } else { frame.iter().sum::<f32>() * scale }));
        if let Some(place) = mono.iter().position(|sample| !sample.is_finite()) {
            let at = (self.decoded + place as u64) as f64 / f64::from(self.rate);
            return Err(Error::malformed(&self.path, format_args!("the sample at {at:.4} s is {}", mono[place])));
        }
        let count = mono.len() as u64;
        self.decoded += count;
        let skip = self.skip.min(count);
        let kept = self.left.min(count - skip);
        self.skip -= skip;
        self.left -= kept;
        mono.truncate((skip + kept) as usize);
        mono.drain(..skip as usize);
        Ok(())
    }

    /// The end of the packets, by the file's own account or because there are no more bytes.
    fn end(&self, cut: bool) -> Result<bool> {
        if let Some(expected) = self.expected.filter(|&expected| self.decoded < expected) {
            let reason = format!("holds {} of {expected} samples; it is truncated or damaged", self.decoded);
            return Err(Error::malformed(&self.path, reason));
        }
        if cut && self.indexed {
            return Err(Error::malformed(&self.path, "ends in the middle of its sound; it is truncated"));
        }
        Ok(false)
    }

    /// Goes on with the next of several streams in a row.
    fn restart(&mut self) -> Result<()> {
        let (track, params) = sound(self.format.as_ref(), &self.path)?;
        (self.track, self.decoder) = (track.id, decoder(&self.path, params)?);
        self.expected = None;
        Ok(())
    }
}

/// The track to decode.
fn sound<'a>(format: &'a dyn FormatReader, path: &Path) -> Result<(&'a Track, &'a AudioCodecParameters)> {
    let track = format.default_track(TrackType::Audio);
    let found = track.and_then(|track| match &track.codec_params {
        Some(CodecParameters::Audio(params)) => Some((track, params)),
        _ => None,
    });
    found.ok_or_else(|| Error::malformed(path, format_args!("no track of sound in a known codec; known: {CODECS}")))
}

/// A decoder, after checks of what it would allocate.
fn decoder(path: &Path, params: &AudioCodecParameters) -> Result<Box<dyn AudioDecoder>> {
    if let Some(channels) = &params.channels {
        check_channels(path, channels.count())?;
    }
    if let (CODEC_ID_VORBIS, Some(headers)) = (params.codec, &params.extra_data) {
        vorbis::check(headers).map_err(|reason| Error::malformed(path, reason))?;
    }
    let made = decoding(path, || {
        symphonia::default::get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default())
    })?;
    made.map_err(|error| match error {
        DecodeError::Unsupported(reason) => Error::Unsupported {
            path: path.to_path_buf(),
            key: "codec".into(),
            value: if params.codec == CODEC_ID_OPUS { "opus".into() } else { reason.into() },
            supported: CODECS.into(),
        },
        error => Error::malformed(path, error),
    })
}

fn check_channels(path: &Path, channels: usize) -> Result<()> {
    if (1..=MAX_CHANNELS).contains(&channels) {
        return Ok(());
    }
    Err(Error::malformed(path, format_args!("{channels} channels, expected 1 to {MAX_CHANNELS}")))
}

/// The samples of each channel that must come out of a codec without loss.
fn expected(track: &Track, params: &AudioCodecParameters, format: &dyn FormatReader) -> Option<u64> {
    let frames = track.num_frames?;
    if format.format_info().format == FORMAT_ID_WAVE {
        let width = u64::from(params.bits_per_sample.unwrap_or(32)).div_ceil(8);
        let channels = params.channels.as_ref().map_or(1, |channels| channels.count() as u64);
        if frames.saturating_mul(width).saturating_mul(channels) >= UNKNOWN_LENGTH {
            return None;
        }
    }
    is_exact(params.codec).then_some(frames)
}

/// Whether a codec gives every sample back.
fn is_exact(codec: AudioCodecId) -> bool {
    (CODEC_ID_PCM_S32LE..=CODEC_ID_PCM_MULAW).contains(&codec) || codec == CODEC_ID_FLAC || codec == CODEC_ID_ALAC
}

/// How many samples of a track are left out at its start, and how many are heard.
fn heard(edits: &[Edit], track: u32, rate: u32) -> (u64, u64) {
    let Some(edit) = edits.iter().find(|edit| edit.track == track) else { return (0, u64::MAX) };
    let samples = |ticks: u64| {
        let timescale = u128::from(edit.timescale);
        let samples = (u128::from(ticks) * u128::from(rate) + timescale / 2).checked_div(timescale);
        samples.and_then(|samples| u64::try_from(samples).ok())
    };
    (samples(edit.start).unwrap_or(0), edit.length.and_then(samples).unwrap_or(u64::MAX))
}

/// An error of the library, or the limit that made it fail.
fn failed(path: &Path, budget: &Budget, limit: u64, error: DecodeError) -> Error {
    if budget.is_spent() {
        return Error::malformed(path, format_args!("{limit} bytes without sound, which is the limit"));
    }
    match error {
        DecodeError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
            Error::malformed(path, "ends in the middle of its header; it is truncated")
        }
        DecodeError::IoError(source) => Error::Io { path: path.to_path_buf(), source },
        error => Error::malformed(path, error),
    }
}
