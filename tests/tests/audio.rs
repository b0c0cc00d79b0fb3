//! Sounds, features and CTC decoding against Python's: the rows of `data/audio`, which `xtask reference` records, and
//! files that are broken.

#![allow(clippy::unwrap_used)]

use std::f64::consts::TAU;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tx_audio::ctc::{CtcDecodeOptions, CtcOutput};
use tx_audio::{Audio, AudioReader, FeatureExtractor, Wav2Vec2CtcTokenizer};
use tx_core::error::Error;
use tx_core::weights::safetensors;
use tx_tests::{Array, Tolerance, compare, float_wav, folders};

/// What the extractors promise: every number, not their norm, since a spectrogram's loud parts would hide the quiet ones.
const FEATURES: Tolerance = Tolerance { relative: 0.0, absolute: 1e-4 };
/// How many samples longer or shorter a sound may be after a codec with loss, which works in blocks.
const BLOCK: usize = 1200;

fn data(name: &str) -> PathBuf {
    Path::new("data/audio").join(name)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Fails with all that failed, and not only the first.
fn assert_all(results: impl IntoIterator<Item = (String, Result<()>)>) {
    let failed = results.into_iter().filter_map(|(name, result)| Some(format!("{name}: {:#}", result.err()?)));
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// The sound of `made` in `goldens_audio.py`.
fn made(rate: u32, seconds: f64, channel: u32) -> Vec<f64> {
    let sample = |i: u64| {
        let t = i as f64 / f64::from(rate);
        let since = t % 0.25;
        let chirp = 0.3 * (TAU * (300.0 * t + 100.0 * t * t)).sin();
        let partial = 0.2 * (TAU * f64::from(1200 + 250 * channel) * t).sin();
        let click = 0.2 * (-400.0 * since).exp() * (TAU * 3000.0 * since).sin();
        let noise = 0.02 * ((splitmix(u64::from(channel), i) >> 40) as f64 / 8_388_608.0 - 1.0);
        chirp + partial + click + noise
    };
    (0..(f64::from(rate) * seconds).round() as u64).map(sample).collect()
}

/// An element of splitmix64's stream.
fn splitmix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The mean of the channels of `made`.
fn mixed(rate: u32, seconds: f64, channels: u32) -> Vec<f64> {
    let channels: Vec<Vec<f64>> = (0..channels).map(|channel| made(rate, seconds, channel)).collect();
    (0..channels[0].len()).map(|i| channels.iter().map(|c| c[i]).sum::<f64>() / channels.len() as f64).collect()
}

fn correlation(found: &[f32], expected: &[f64]) -> f64 {
    let pairs = || found.iter().zip(expected).map(|(&x, &y)| (f64::from(x), y));
    let count = pairs().count() as f64;
    let (mean_x, mean_y) = (pairs().map(|(x, _)| x).sum::<f64>() / count, pairs().map(|(_, y)| y).sum::<f64>() / count);
    let moments = pairs().fold((0.0, 0.0, 0.0), |(xx, xy, yy), (x, y)| {
        let (x, y) = (x - mean_x, y - mean_y);
        (xx + x * x, xy + x * y, yy + y * y)
    });
    moments.1 / (moments.0 * moments.2).sqrt()
}

/// A row of `sounds.json`.
#[derive(Deserialize)]
struct Sound {
    file: String,
    rate: u32,
    channels: u32,
    seconds: f64,
    /// The largest difference that a sample may have.
    difference: Option<f64>,
    /// The lowest correlation, for codecs with loss.
    correlation: Option<f64>,
}

impl Sound {
    fn all() -> Vec<Self> {
        read(&data("sounds.json")).unwrap()
    }

    fn path(&self) -> PathBuf {
        data("sounds").join(&self.file)
    }
}

#[test]
fn files_hold_what_was_put_into_them() {
    let check = |sound: &Sound| {
        let audio = Audio::open(&sound.path(), sound.rate)?;
        let expected = mixed(sound.rate, sound.seconds, sound.channels);
        if let Some(limit) = sound.difference {
            ensure!(audio.samples.len() == expected.len(), "{} samples", audio.samples.len());
            let differences = audio.samples.iter().zip(&expected).map(|(&x, y)| (f64::from(x) - y).abs());
            let worst = differences.fold(0.0, f64::max);
            ensure!(worst <= limit, "differs by {worst}");
        }
        if let Some(limit) = sound.correlation {
            let found = correlation(&audio.samples, &expected);
            ensure!(audio.samples.len().abs_diff(expected.len()) < BLOCK, "{} samples", audio.samples.len());
            ensure!(found >= limit, "correlates with {found}, {} samples", audio.samples.len());
        }
        let duration = AudioReader::open(&sound.path(), sound.rate)?.duration().context("no duration")?;
        ensure!((duration - sound.seconds).abs() < 0.06, "says that it is {duration} s long");
        Ok(())
    };
    assert_all(Sound::all().iter().map(|sound| (sound.file.clone(), check(sound))));
}

#[test]
fn files_at_another_rate_keep_their_times() {
    let check = |sound: &Sound| {
        let audio = Audio::open(&sound.path(), 16000)?;
        let native = Audio::open(&sound.path(), sound.rate)?;
        let length = (native.samples.len() as f64 * 16000.0 / f64::from(sound.rate)).round() as usize;
        ensure!(audio.samples.len() == length, "{} samples, expected {length}", audio.samples.len());
        // The noise is another one at each rate.
        let found = correlation(&audio.samples, &mixed(16000, sound.seconds, sound.channels));
        ensure!(found > 0.99, "correlates with {found}");
        ensure!(audio == native.resample(16000)?, "a file and its samples are resampled differently");
        let pieces: Result<Vec<Vec<f32>>, Error> = AudioReader::open(&sound.path(), 16000)?.collect();
        ensure!(pieces?.concat() == audio.samples, "pieces differ from the whole");
        Ok(())
    };
    assert_all(Sound::all().iter().map(|sound| (sound.file.clone(), check(sound))));
}

/// A row of `features/*/golden.json`; `golden.safetensors` has its values.
#[derive(Deserialize)]
struct Extracted {
    sounds: Vec<Given>,
    batch: bool,
    long: bool,
    /// Every how many values one is recorded.
    stride: usize,
    return_attention_mask: Option<bool>,
    shape: Vec<usize>,
    mask: Option<Ones>,
    longer: Option<Vec<bool>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    File { file: String },
    Made { rate: u32, seconds: f64, channel: u32 },
}

/// A mask whose rows are ones, then zeros.
#[derive(Deserialize)]
struct Ones {
    width: usize,
    ones: Vec<usize>,
}

impl Given {
    fn audio(&self, rate: u32) -> Result<Audio> {
        match self {
            Self::File { file } => Ok(Audio::open(&data("sounds").join(file), rate)?),
            Self::Made { rate, seconds, channel } => {
                Ok(Audio::new(made(*rate, *seconds, *channel).iter().map(|&x| x as f32).collect(), *rate)?)
            }
        }
    }
}

fn check_features(extractor: &FeatureExtractor, row: &Extracted, expected: &Array) -> Result<()> {
    let audios: Result<Vec<Audio>> = row.sounds.iter().map(|sound| sound.audio(extractor.sampling_rate())).collect();
    let audios = audios?;
    let (values, shape, mask, longer) = if row.batch {
        let batch = if row.long {
            extractor.extract_long_batch(&audios, row.return_attention_mask)?
        } else {
            extractor.extract_batch(&audios, row.return_attention_mask)?
        };
        (batch.values, batch.shape, batch.mask, batch.is_longer)
    } else {
        let audio = &audios[0];
        let features = if row.long { extractor.extract_long(audio)? } else { extractor.extract(audio)? };
        let longer = matches!(extractor, FeatureExtractor::Clap(_)).then(|| vec![features.is_longer]);
        (features.values, features.shape, None, longer)
    };
    ensure!(shape == row.shape, "shape {shape:?}, expected {:?}", row.shape);
    let values: Vec<f32> = values.into_iter().step_by(row.stride).collect();
    let found = Array { shape: vec![values.len()], values };
    compare("values", &found, expected, FEATURES, |_| true)?;
    let expected = row.mask.as_ref().map(|Ones { width, ones }| {
        ones.iter().flat_map(|&ones| (0..*width).map(move |i| i64::from(i < ones))).collect::<Vec<_>>()
    });
    ensure!(mask == expected, "mask {mask:?}, expected {expected:?}");
    ensure!(longer == row.longer, "is_longer {longer:?}, expected {:?}", row.longer);
    Ok(())
}

#[test]
fn features_are_those_of_python() {
    let mut results = Vec::new();
    for folder in folders(&data("features")).unwrap() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let extractor = FeatureExtractor::from_folder(&folder).unwrap_or_else(|e| panic!("{name}: {e}"));
        let rows: Vec<Extracted> = read(&folder.join("golden.json")).unwrap();
        let tensors = safetensors::read(&folder.join("golden.safetensors")).unwrap();
        assert_eq!(rows.len(), tensors.len(), "{name}: record the goldens again");
        for (i, row) in rows.iter().enumerate() {
            let expected = Array::new(&tensors[&i.to_string()].to_data()).unwrap();
            results.push((format!("{name}, call {i}"), check_features(&extractor, row, &expected)));
        }
    }
    assert!(results.len() >= 30, "only {} calls", results.len());
    assert_all(results);
}

#[test]
fn sounds_that_were_extracted_alone_are_padded() {
    let extractor = FeatureExtractor::from_folder(&data("features/wav2vec2-mask")).unwrap();
    let audios: Vec<Audio> =
        [0.05, 0.01].map(|seconds| Given::Made { rate: 16000, seconds, channel: 0 }.audio(16000).unwrap()).into();
    let alone: Vec<_> = audios.iter().map(|audio| extractor.extract(audio).unwrap()).collect();
    let (padded, batch) = (extractor.pad(&alone).unwrap(), extractor.extract_batch(&audios, Some(true)).unwrap());
    assert_eq!(padded, batch);
    assert_eq!(padded.values[800 + 160..], [1.5; 640]);
}

#[test]
fn cuts_depend_on_the_seed_alone() {
    let extractor = FeatureExtractor::from_folder(&data("features/clap")).unwrap();
    let audio = Given::Made { rate: 48000, seconds: 1.5, channel: 0 }.audio(48000).unwrap();
    let first = extractor.extract(&audio).unwrap();
    assert_eq!(first, extractor.extract(&audio).unwrap());
    assert_ne!(first, extractor.with_seed(7).extract(&audio).unwrap());
}

/// A row of `ctc/*/golden.json`.
#[derive(Deserialize)]
struct Decoded {
    language: Option<String>,
    ids: Vec<u32>,
    options: CtcDecodeOptions,
    #[serde(flatten)]
    output: CtcOutput,
}

#[test]
fn ids_are_decoded_as_in_python() {
    for folder in folders(&data("ctc")).unwrap() {
        let mut tokenizer = Wav2Vec2CtcTokenizer::from_folder(&folder, None).unwrap();
        let rows: Vec<Decoded> = read(&folder.join("golden.json")).unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            if let Some(language) = &row.language {
                tokenizer.set_target_lang(language).unwrap();
            }
            let what = format!("{}: {:?} {:?}", folder.display(), row.ids, row.options);
            assert_eq!(tokenizer.decode(&row.ids, &row.options).unwrap(), row.output, "{what}");
        }
    }
    let nested = data("ctc/nested");
    let french = Wav2Vec2CtcTokenizer::from_folder(&nested, Some("fra")).unwrap();
    assert_eq!((french.target_lang(), french.languages().collect::<Vec<_>>()), (Some("fra"), vec!["eng", "fra"]));
    let error = Wav2Vec2CtcTokenizer::from_folder(&nested, Some("tlh")).unwrap_err().to_string();
    assert!(error.contains("`tlh`") && error.contains("eng, fra"), "{error}");
    assert!(Wav2Vec2CtcTokenizer::from_folder(&data("ctc/base"), Some("eng")).is_err());
}

#[test]
fn broken_files_are_refused_with_a_reason() {
    let mono = fs::read(data("sounds/mono.wav")).unwrap();
    let flac = fs::read(data("sounds/stereo.flac")).unwrap();
    let m4a = fs::read(data("sounds/stereo.m4a")).unwrap();
    let mut endless = b"RIFF\xff\xff\xff\xffWAVELIST\xff\xff\xff\x7fINFOINAM\xf0\xff\xff\x7f".to_vec();
    endless.resize(40 << 20, b' ');
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "empty"),
        ("one byte", vec![0x52], "no sound"),
        ("text", b"The quick brown fox. ".repeat(100), "no sound"),
        ("zeros", vec![0; 3 << 20], "no sound"),
        ("header only", mono[..44].to_vec(), "truncated"),
        ("half a header", mono[..30].to_vec(), ""),
        ("endless header", endless, "limit"),
        ("truncated wav", mono[..20000].to_vec(), "holds 9978 of 16000 samples"),
        ("truncated flac", flac[..flac.len() / 2].to_vec(), "truncated"),
        ("truncated m4a", m4a[..m4a.len() / 2].to_vec(), ""),
        ("no samples", float_wav(16000, 1, &[], None), "no samples"),
        ("not a number", float_wav(16000, 1, &[0.5, f32::NAN, 0.5], None), "NaN"),
        ("infinite", float_wav(16000, 2, &[0.5, f32::INFINITY], None), "inf"),
        ("infinite sum", float_wav(16000, 2, &[f32::MAX, f32::MAX], None), "inf"),
        ("no channels", float_wav(16000, 0, &[0.5; 8], None), ""),
        ("many channels", float_wav(16000, 16000, &[0.5; 16000], None), "channel"),
        ("no rate", float_wav(0, 1, &[0.5; 8], None), "0 Hz"),
        ("high rate", float_wav(4_000_000_000, 1, &[0.5; 8], None), "4000000000 Hz"),
        ("opus", fs::read(data("sounds/opus.ogg")).unwrap(), "`codec` is `opus`"),
    ];
    for (name, bytes, reason) in rows {
        let Err(error) = Audio::from_bytes(bytes, name, 16000) else { panic!("{name} is accepted") };
        let message = error.to_string();
        assert!(message.starts_with(name) && message.contains(reason), "{name}: {message}");
        assert!(!message.contains('\n') && message.len() < 400, "{name}: {message}");
    }
}

#[test]
fn odd_files_are_read() {
    let samples: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.1).sin()).collect();
    // A program that writes to a pipe does not know the length.
    for stated in [u32::MAX, 0x7fff_ffff] {
        let bytes = float_wav(16000, 1, &samples, Some(stated));
        assert_eq!(Audio::from_bytes(bytes, "pipe", 16000).unwrap().samples, samples, "{stated:#x}");
    }
    // A tag that is longer than what is searched for a sound.
    let mut tagged = b"ID3\x04\0\0\x02\x40\0\0".to_vec();
    tagged.resize(10 + (5 << 20), b'x');
    tagged.extend(fs::read(data("sounds/stereo.mp3")).unwrap());
    let plain = Audio::open(&data("sounds/stereo.mp3"), 44100).unwrap();
    assert_eq!(Audio::from_bytes(tagged, "tagged", 44100).unwrap(), plain);
    let one = Audio::from_bytes(float_wav(48000, 8, &[0.25; 8], None), "one", 48000).unwrap();
    assert_eq!(one.samples, [0.25]);
}

/// Whatever is changed in a file, it is read or refused, and neither takes long.
#[test]
fn damaged_files_do_no_harm() {
    for entry in fs::read_dir(data("sounds")).unwrap() {
        let path = entry.unwrap().path();
        let (name, whole) = (path.display().to_string(), fs::read(&path).unwrap());
        for attempt in 0..40 {
            let mut bytes = whole.clone();
            for change in 0..1 + attempt % 4 {
                // Most of what a file says about itself is at its start or its end.
                let random = splitmix(attempt, change) as usize;
                let place = match random % 4 {
                    0 => random / 4 % bytes.len(),
                    1 => bytes.len() - 1 - random / 4 % bytes.len().min(1000),
                    _ => random / 4 % bytes.len().min(200),
                };
                bytes[place] = (random >> 32) as u8;
            }
            drop(Audio::from_bytes(bytes, &name, 16000));
        }
        for part in 1..20 {
            drop(Audio::from_bytes(whole[..whole.len() * part / 20].to_vec(), &name, 16000));
        }
    }
}

#[test]
fn what_is_no_file_of_sound_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Audio::open(&folder.path().join("none.wav"), 16000), Err(Error::Io { .. })));
    let error = Audio::open(folder.path(), 16000).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let huge = folder.path().join("huge.wav");
    File::create(&huge).unwrap().set_len(8 << 30).unwrap();
    assert!(Audio::open(&huge, 16000).unwrap_err().to_string().contains("no sound"));
    for rate in [0, 999, 400_000] {
        let error = Audio::open(&data("sounds/mono.wav"), rate).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
    }
    for samples in [vec![], vec![0.0, f32::NAN], vec![f32::NEG_INFINITY]] {
        // Made without `new`, it is looked at when it is read.
        let unchecked = tx_audio::pipelines::Sound::from(Audio { samples: samples.clone(), sampling_rate: 16000 });
        assert!(matches!(unchecked.read(16000), Err(Error::Input { .. })));
        assert!(matches!(Audio::new(samples, 16000), Err(Error::Input { .. })));
    }
}

/// An hour of sound, resampled, in pieces that stay small.
#[test]
fn long_files_are_read_in_pieces() {
    const SECONDS: u32 = 3600;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hour.wav");
    let mut header = fs::read(data("sounds/bytes.wav")).unwrap()[..44].to_vec();
    header[4..8].copy_from_slice(&(36 + 8000 * SECONDS).to_le_bytes());
    header[40..].copy_from_slice(&(8000 * SECONDS).to_le_bytes());
    fs::write(&path, &header).unwrap();
    // A hole in the file: zeros, which are the lowest value of unsigned bytes.
    File::options().write(true).open(&path).unwrap().set_len(44 + u64::from(8000 * SECONDS)).unwrap();
    let reader = AudioReader::open(&path, 16000).unwrap();
    assert_eq!(reader.duration(), Some(f64::from(SECONDS)));
    let mut samples = 0;
    for piece in reader {
        let piece = piece.unwrap();
        assert!(piece.len() < 16384 && piece.capacity() < 65536, "{} samples in a piece", piece.len());
        samples += piece.len();
    }
    assert_eq!(samples, 16000 * SECONDS as usize);
}

#[test]
fn features_of_what_does_not_fit_are_refused() {
    let extractor = |name: &str| FeatureExtractor::from_folder(&data("features").join(name)).unwrap();
    let audio = |samples, rate| Audio::new(vec![0.1; samples], rate).unwrap();
    let refused = |result: Result<_, Error>, reason: &str| {
        let Err(error) = result else { panic!("{reason} is accepted") };
        assert!(matches!(error, Error::Input { .. }) && error.to_string().contains(reason), "{error}");
    };
    refused(extractor("whisper").extract(&audio(16000, 44100)).map(drop), "44100 Hz");
    refused(extractor("wav2vec2").extract(&Audio { samples: vec![], sampling_rate: 16000 }).map(drop), "no samples");
    refused(extractor("ast").extract(&audio(399, 16000)).map(drop), "at least 400");
    refused(extractor("whisper").extract_long(&audio(200, 16000)).map(drop), "at least 201");
    refused(extractor("whisper").extract_batch(&[], None).map(drop), "no sounds");
    // Short sounds are padded.
    assert_eq!(extractor("whisper").extract(&audio(1, 16000)).unwrap().frames, 1);
    assert_eq!(extractor("clap").extract(&audio(1, 48000)).unwrap().shape, [1, 101, 64]);
    assert_eq!(extractor("wav2vec2").extract(&audio(1, 16000)).unwrap().values, [0.0]);
}

#[test]
fn configurations_are_checked() {
    let rows = [
        (r#"{"feature_extractor_type": "WhisperFeatureExtractor", "hop_length": 0}"#, "`hop_length`"),
        (r#"{"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": 99999999}"#, "`n_fft`"),
        (r#"{"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": "many"}"#, "`feature_size`"),
        (r#"{"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 10}"#, "`sampling_rate`"),
        (r#"{"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}"#, "`dither`"),
        (r#"{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "padding_side": "left"}"#, "`padding_side`"),
        (r#"{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 2}"#, "`feature_size`"),
        (r#"{"feature_extractor_type": "ASTFeatureExtractor", "std": 0}"#, "`std`"),
        (r#"{"feature_extractor_type": "ASTFeatureExtractor", "max_length": 4000000000}"#, "`max_length`"),
        (r#"{"feature_extractor_type": "ClapFeatureExtractor", "truncation": "none"}"#, "fusion or rand_trunc"),
        (r#"{"feature_extractor_type": "ClapFeatureExtractor", "feature_size": 32}"#, "`feature_size`"),
        (r#"{"feature_extractor_type": "EncodecFeatureExtractor"}"#, "WhisperFeatureExtractor"),
        ("{}", "`feature_extractor_type`"),
        ("[]", "a list"),
    ];
    for (json, reason) in rows {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("preprocessor_config.json"), json).unwrap();
        let error = FeatureExtractor::from_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{json}: {error}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(FeatureExtractor::from_folder(empty.path()), Err(Error::MissingFile { .. })));
}
