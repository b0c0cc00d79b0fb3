//! Pipelines of pictures and sounds against what Python's answer: every file of `data/media`.
//!
//! A file names a recorded case of `models/`, says what its folder holds besides, and has calls with their results.
//! Scores and features agree to 2e-5, segments but for a few pixels at their borders, and all else exactly, whatever the
//! batches.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tx_audio::Audio;
use tx_audio::pipelines::{
    AudioClassificationOptions, AudioClassificationPipeline, AutomaticSpeechRecognitionOptions,
    AutomaticSpeechRecognitionPipeline,
};
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Batching, Pipeline};
use tx_core::registry::LoadOptions;
use tx_core::weights::synth::Recipe;
use tx_multimodal::pipelines::{
    ZeroShotAudioClassificationPipeline, ZeroShotClassificationOptions, ZeroShotImageClassificationPipeline,
};
use tx_tests::{float_wav, models};
use tx_vision::models::{IMAGE_CLASSIFICATION, OBJECT_DETECTION, VISION_MODEL};
use tx_vision::pipelines::{
    ImageClassificationOptions, ImageClassificationPipeline, ImageFeatureExtractionOptions,
    ImageFeatureExtractionPipeline, ImageSegmentationOptions, ImageSegmentationPipeline, ObjectDetectionOptions,
    ObjectDetectionPipeline, ProcessedModel, Segment, SegmentMask, SegmentationModel,
};

/// Of a number to that of Python, relative to it where it is larger than one.
const TOLERANCE: f64 = 2e-5;
/// The part of a picture's pixels that may be on the other side of a border.
const BORDER: f64 = 2e-3;

/// A file of `data/media`.
#[derive(Deserialize)]
struct Golden {
    task: String,
    case: String,
    files: Map<String, Value>,
    inputs: Vec<String>,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    arguments: Map<String, Value>,
    outputs: Value,
}

/// Answers a call: arguments, inputs, and how they are batched.
type Ask = Box<dyn Fn(&Map<String, Value>, &[PathBuf], &Batching) -> Result<Value>>;

#[test]
fn pipelines_answer_as_in_python() {
    let mut files: Vec<_> = fs::read_dir(data("media")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in &files {
        let golden = read(file);
        let folder = folder(&golden);
        let ask = asker(&golden.task, folder.path());
        let sounds = golden.task.contains("audio") || golden.task.contains("speech");
        let inputs = data(if sounds { "audio/sounds" } else { "images/pictures" });
        let inputs: Vec<PathBuf> = golden.inputs.iter().map(|input| inputs.join(input)).collect();
        for (number, Call { arguments, outputs }) in golden.calls.iter().enumerate() {
            for batch_size in [Some(1), Some(4), None] {
                let found = ask(arguments, &inputs, &Batching { batch_size, ..Batching::default() });
                let difference = match found {
                    Ok(found) => difference(&found, outputs, ""),
                    Err(error) => Some(format!(": {error}")),
                };
                let name = file.file_name().unwrap().display();
                let call = format!("{name}, call {number} {arguments:?}, batch {batch_size:?}");
                wrong.extend(difference.map(|d| format!("{call}{d}")));
            }
        }
    }
    assert!(!files.is_empty() && wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whatever a file of sound says about itself, every pipeline answers as it would to a plain one, or says in one line
/// what is wrong.
#[test]
fn odd_sounds_are_heard_or_refused() {
    // Sums and means of them are not rounded.
    let samples: Vec<f32> = (0..16_000).map(|i| (i * i % 97) as f32 / 128.0 - 0.375).collect();
    let eight: Vec<f32> = samples.iter().flat_map(|&sample| [sample; 8]).collect();
    let mut broken = samples.clone();
    broken[9_000] = f32::NAN;
    let (wav, sounds) = (float_wav(16_000, 1, &samples, None), tempfile::tempdir().unwrap());
    let sound = |name: &str, bytes: &[u8]| {
        let path = sounds.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let plain = sound("plain.wav", &wav);
    let equal = [
        sound("eight.wav", &float_wav(16_000, 8, &eight, None)),
        sound("endless.wav", &float_wav(16_000, 1, &samples, Some(u32::MAX))),
        sound("named.mp3", &wav),
        sound("no-name", &wav),
    ];
    // Such a rate has other samples, and so few are no sound for some models.
    let heard = sound("fast.wav", &float_wav(192_000, 1, &samples, None));
    let short = sound("short.wav", &float_wav(16_000, 1, &samples[..160], None));
    let refused = [
        sound("empty.wav", &[]),
        sound("header.wav", &wav[..44]),
        sound("cut.wav", &wav[..30_000]),
        sound("silent.wav", &float_wav(16_000, 1, &[], None)),
        sound("nan.wav", &float_wav(16_000, 1, &broken, None)),
        sound("text.wav", b"The quick brown fox. "),
        sound("picture.wav", &fs::read(data("images/pictures/rgb.png")).unwrap()),
        sounds.path().join("missing.wav"),
    ];
    let mut asked = 0;
    for entry in fs::read_dir(data("media")).unwrap() {
        let golden = read(&entry.unwrap().path());
        if !golden.task.contains("audio") && !golden.task.contains("speech") {
            continue;
        }
        asked += 1;
        let folder = folder(&golden);
        let ask = asker(&golden.task, folder.path());
        let answer = |path: &Path| ask(&golden.calls[0].arguments, &[path.to_path_buf()], &Batching::default());
        let expected = answer(&plain).unwrap();
        for path in &equal {
            let found = answer(path).unwrap_or_else(|error| panic!("{}: {error}", golden.case));
            assert_eq!(difference(&found, &expected, ""), None, "{}: {}", golden.case, path.display());
        }
        answer(&heard).unwrap();
        let result = answer(&short);
        assert!(matches!(result, Ok(_) | Err(Error::Input { .. })), "{}: {result:?}", golden.case);
        for path in &refused {
            let error = answer(path).unwrap_err().to_string();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(error.contains(name) && !error.contains('\n') && error.len() < 4096, "{}: {error}", golden.case);
        }
    }
    assert!(asked >= 4, "{asked} pipelines of sounds");
}

/// A file of more samples than are held is read again while it is heard.
#[test]
fn long_sounds_are_heard_as_they_are_read() {
    const SECONDS: usize = 1100;
    let golden = read(&data("media/automatic-speech-recognition-ctc.json"));
    let folder = folder(&golden);
    let path = folder.path().join("long.wav");
    let speech = Audio::open(&data("audio/sounds/speech.wav"), 8000).unwrap();
    let samples: Vec<f32> = speech.samples.into_iter().cycle().take(8000 * SECONDS).collect();
    fs::write(&path, float_wav(8000, 1, &samples, None)).unwrap();
    let options = AutomaticSpeechRecognitionOptions {
        chunk_length_s: Some(0.2),
        stride_length_s: Some([0.02; 2]),
        progress: true,
        ..Default::default()
    };
    let load = LoadOptions::default();
    let pipeline = AutomaticSpeechRecognitionPipeline::from_folder(folder.path(), &load, options).unwrap();
    let audio = Audio::open(&path, 16000).unwrap();
    assert!(audio.samples.len() > 1 << 24);
    let text = pipeline.call(path.clone()).unwrap().text;
    assert!(text.len() > 1000, "{text}");
    assert!(text == pipeline.call(audio).unwrap().text, "what is heard of a file is not what is in it");
    // At once it is too long.
    let error = pipeline.with_options(Default::default()).unwrap().call(path).unwrap_err();
    assert!(matches!(&error, Error::Input { .. }) && error.to_string().contains("chunk_length_s"), "{error}");
}

fn read(file: &Path) -> Golden {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn data(name: &str) -> PathBuf {
    Path::new("data").join(name)
}

/// The model's folder: a case with its weights, and the other files.
fn folder(golden: &Golden) -> TempDir {
    let (case, folder) = (models().join(&golden.case), tempfile::tempdir().unwrap());
    Recipe::from_file(&case.join("weights.json")).unwrap().write(folder.path(), u64::MAX).unwrap();
    fs::copy(case.join("config.json"), folder.path().join("config.json")).unwrap();
    for (name, content) in &golden.files {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

/// The results of a pipeline as JSON.
fn results<P: Pipeline>(pipeline: &P, files: &[PathBuf], batching: &Batching) -> Result<Value>
where
    PathBuf: Into<P::Input>,
{
    Ok(serde_json::to_value(pipeline.call_all(files.iter().cloned(), batching)?).unwrap())
}

/// An argument of another type than JSON's.
fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(arguments: &Map<String, Value>, name: &str) -> Option<T> {
    arguments.get(name).map(|value| value.as_str().unwrap().parse().unwrap())
}

fn asker(task: &str, folder: &Path) -> Ask {
    let load = LoadOptions::default();
    let number = |arguments: &Map<String, Value>, name: &str| arguments.get(name).and_then(Value::as_f64);
    match task {
        "image-classification" => {
            let model = ProcessedModel::from_folder(IMAGE_CLASSIFICATION, folder, &load).unwrap();
            let pipeline = ImageClassificationPipeline::new(model, Default::default()).unwrap();
            Box::new(move |arguments, files, batching| {
                let default = ImageClassificationOptions::default();
                let options = ImageClassificationOptions {
                    top_k: number(arguments, "top_k").map_or(default.top_k, |count| count as usize),
                    function_to_apply: parsed(arguments, "function_to_apply"),
                };
                results(&pipeline.with_options(options), files, batching)
            })
        }
        "image-feature-extraction" => {
            let model = ProcessedModel::from_folder(VISION_MODEL, folder, &load).unwrap();
            let pipeline = ImageFeatureExtractionPipeline::new(model, Default::default());
            Box::new(move |arguments, files, batching| {
                let options = ImageFeatureExtractionOptions { pool: arguments.contains_key("pool") };
                results(&pipeline.with_options(options), files, batching)
            })
        }
        "object-detection" => {
            let model = ProcessedModel::from_folder(OBJECT_DETECTION, folder, &load).unwrap();
            let pipeline = ObjectDetectionPipeline::new(model, Default::default()).unwrap();
            Box::new(move |arguments, files, batching| {
                let threshold = number(arguments, "threshold").unwrap();
                results(&pipeline.with_options(ObjectDetectionOptions { threshold }), files, batching)
            })
        }
        "image-segmentation" => {
            let model = SegmentationModel::from_folder(folder, &load).unwrap();
            let pipeline = ImageSegmentationPipeline::new(model, Default::default()).unwrap();
            Box::new(move |arguments, files, batching| {
                let default = ImageSegmentationOptions::default();
                let or = |name: &str, default: f64| number(arguments, name).unwrap_or(default);
                let options = ImageSegmentationOptions {
                    subtask: parsed(arguments, "subtask"),
                    threshold: or("threshold", default.threshold),
                    mask_threshold: or("mask_threshold", default.mask_threshold),
                    overlap_mask_area_threshold: or("overlap_mask_area_threshold", default.overlap_mask_area_threshold),
                };
                let found = pipeline.with_options(options)?.call_all(files.iter().cloned(), batching)?;
                let pictures = found.iter().map(|segments| {
                    let segment = |Segment { score, label, mask }: &Segment| {
                        json!({ "score": score, "label": label, "mask": runs(mask) })
                    };
                    segments.iter().map(segment).collect::<Value>()
                });
                Ok(pictures.collect())
            })
        }
        "zero-shot-image-classification" => {
            let options = ZeroShotClassificationOptions::of_images(["cat"]);
            let pipeline = ZeroShotImageClassificationPipeline::from_folder(folder, &load, options).unwrap();
            Box::new(move |arguments, files, batching| {
                let options = hypotheses(ZeroShotClassificationOptions::of_images(labels(arguments)), arguments);
                results(&pipeline.with_options(options)?, files, batching)
            })
        }
        "zero-shot-audio-classification" => {
            let options = ZeroShotClassificationOptions::of_sounds(["cat"]);
            let pipeline = ZeroShotAudioClassificationPipeline::from_folder(folder, &load, options).unwrap();
            Box::new(move |arguments, files, batching| {
                let options = hypotheses(ZeroShotClassificationOptions::of_sounds(labels(arguments)), arguments);
                results(&pipeline.with_options(options)?, files, batching)
            })
        }
        "audio-classification" => {
            let pipeline = AudioClassificationPipeline::from_folder(folder, &load, Default::default()).unwrap();
            Box::new(move |arguments, files, batching| {
                let default = AudioClassificationOptions::default();
                let options = AudioClassificationOptions {
                    top_k: number(arguments, "top_k").map(|count| count as usize).or(default.top_k),
                    function_to_apply: parsed(arguments, "function_to_apply"),
                };
                results(&pipeline.with_options(options), files, batching)
            })
        }
        "automatic-speech-recognition" => {
            let pipeline = AutomaticSpeechRecognitionPipeline::from_folder(folder, &load, Default::default()).unwrap();
            Box::new(move |arguments, files, batching| {
                let stride = arguments.get("stride_length_s");
                let options = AutomaticSpeechRecognitionOptions {
                    chunk_length_s: number(arguments, "chunk_length_s"),
                    stride_length_s: stride.map(|stride| [0, 1].map(|side| stride[side].as_f64().unwrap())),
                    return_timestamps: parsed(arguments, "return_timestamps"),
                    ..Default::default()
                };
                results(&pipeline.with_options(options)?, files, batching)
            })
        }
        other => panic!("no pipeline for {other}"),
    }
}

fn labels(arguments: &Map<String, Value>) -> Vec<String> {
    let labels = arguments["candidate_labels"].as_array().unwrap().iter();
    labels.map(|label| label.as_str().unwrap().to_owned()).collect()
}

fn hypotheses(options: ZeroShotClassificationOptions, arguments: &Map<String, Value>) -> ZeroShotClassificationOptions {
    match parsed(arguments, "hypothesis_template") {
        Some(hypothesis_template) => ZeroShotClassificationOptions { hypothesis_template, ..options },
        None => options,
    }
}

/// The lengths of runs of pixels, which are outside and inside in turn.
fn runs(mask: &SegmentMask) -> Vec<usize> {
    let (mut runs, mut inside) = (vec![0], false);
    for pixel in mask.pixels() {
        if pixel != inside {
            runs.push(0);
            inside = pixel;
        }
        *runs.last_mut().unwrap() += 1;
    }
    runs
}

/// The pixels of runs.
fn pixels(runs: &Value) -> Vec<bool> {
    let runs = runs.as_array().unwrap().iter().map(|length| length.as_u64().unwrap() as usize);
    runs.enumerate().flat_map(|(number, length)| std::iter::repeat_n(number % 2 == 1, length)).collect()
}

/// Where and how a result differs from that of Python.
fn difference(found: &Value, expected: &Value, path: &str) -> Option<String> {
    let differs = || Some(format!("{path}: {found}, expected {expected}"));
    match (found, expected) {
        _ if path.ends_with(".mask") => {
            let (a, b) = (pixels(found), pixels(expected));
            let other = a.iter().zip(&b).filter(|(a, b)| a != b).count();
            let few = a.len() == b.len() && other as f64 <= BORDER * b.len() as f64;
            if few { None } else { Some(format!("{path}: {other} of {} pixels differ", b.len())) }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b, &format!("{path}[{i}]")))
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => b
            .iter()
            .find_map(|(key, b)| difference(a.get(key)?, b, &format!("{path}.{key}")))
            .or_else(|| if b.keys().all(|key| a.contains_key(key)) { None } else { differs() }),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) if a == b => None,
            (Some(_), Some(_)) => differs(),
            _ => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                if (a - b).abs() <= TOLERANCE * b.abs().max(1.0) { None } else { differs() }
            }
        },
        (a, b) if a == b => None,
        _ => differs(),
    }
}
