//! What Python makes of speech with tiny Whisper models: `tests/data/whisper`.
//!
//! `cargo test -p tx-tests --test whisper -- multilingual/long` runs what matches. Languages, tokens, texts and every
//! decision on the way to them have to be equal; times and the figures that decided may differ by rounding.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tx_audio::generation::{WhisperGenerator, WhisperOptions, WhisperSegment};
use tx_audio::pipelines::{
    AutomaticSpeechRecognitionOptions, AutomaticSpeechRecognitionPipeline, ReturnTimestamps, Transcription,
};
use tx_audio::tokens::{AsrOptions, AsrOutput, WhisperTokens};
use tx_audio::{Audio, FeatureExtractor};
use tx_core::pipeline::Pipeline;
use tx_core::registry::LoadOptions;
use tx_core::weights::synth::Recipe;
use tx_tests::folders;

/// The rate of the speech, in Hz.
const RATE: u32 = 16_000;
/// From one token of time to the next, in seconds.
const TIME_PRECISION: f64 = 0.02;
/// The last token of time, in steps.
const LAST_TIME: u32 = 1500;
/// How far times may be apart, in seconds: they are rounded to hundredths, or sums of floats.
const TIMES: f64 = 1e-4;
/// How far a mean log-probability may be from Python's.
const LOGPROB: f64 = 2e-3;
/// How far a probability may be from Python's, relative to it.
const PROBABILITY: f64 = 2e-2;
/// How far a compression ratio may be from Python's, relative to it: packers differ by a byte or two.
const RATIO: f64 = 0.05;

fn main() {
    let mut arguments = Arguments::from_args();
    // Each call runs burn's own threads.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, trials().unwrap_or_else(|e| vec![Trial::test("calls", move || Err(e.into()))]))
        .exit();
}

/// What is asked of a model.
#[derive(Debug, Clone, Deserialize)]
struct Call {
    name: String,
    /// The part of the speech.
    samples: [usize; 2],
    /// Keys of `generation_config.json` for this call; null takes one out.
    #[serde(default)]
    settings: Map<String, Value>,
    /// Tokens of time are suppressed.
    #[serde(default)]
    timeless: bool,
    arguments: Map<String, Value>,
}

/// A call of `generate`, and what came out.
#[derive(Debug, Clone, Deserialize)]
struct Generated {
    #[serde(flatten)]
    call: Call,
    language: Option<u32>,
    attempts: Vec<Attempt>,
    segments: Vec<Segment>,
}

/// A call of the pipeline, and what came out.
#[derive(Debug, Clone, Deserialize)]
struct Answered {
    #[serde(flatten)]
    call: Call,
    output: Value,
}

/// What was tried for the part of a sound that begins at `seek`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Attempt {
    seek: usize,
    #[serde(default)]
    temperature: f64,
    #[serde(default)]
    needs_fallback: bool,
    #[serde(default)]
    should_skip: bool,
    compression_ratio: Option<f64>,
    avg_logprob: Option<f64>,
    no_speech_prob: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Segment {
    start: f64,
    end: f64,
    tokens: Vec<u32>,
    token_timestamps: Option<Vec<f64>>,
}

/// The file `tokens.json`.
#[derive(Debug, Clone, Deserialize)]
struct Tokens {
    prompts: Vec<Prompt>,
    outputs: Vec<Outputs>,
}

#[derive(Debug, Clone, Deserialize)]
struct Prompt {
    text: String,
    ids: Vec<u32>,
}

/// Tokens of the parts of a sound, and what is made of them.
#[derive(Debug, Clone, Deserialize)]
struct Outputs {
    outputs: Vec<Output>,
    return_timestamps: Value,
    return_language: bool,
    expected: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct Output {
    tokens: Vec<u32>,
    token_timestamps: Option<Vec<f32>>,
    stride: Option<[f64; 3]>,
}

fn data() -> PathBuf {
    PathBuf::from("data/whisper")
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

fn trials() -> Result<Vec<Trial>> {
    let speech = Arc::new(Audio::open(&data().join("speech.flac"), RATE)?);
    let mut trials = Vec::new();
    for model in folders(&data())? {
        let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for recorded in read::<Vec<Generated>>(&model.join("generate.json"))? {
            let (model, speech) = (model.clone(), Arc::clone(&speech));
            let name = format!("{name}/{}", recorded.call.name);
            trials.push(Trial::test(name, move || generated(&model, &speech, &recorded).map_err(failed)));
        }
        for recorded in read::<Vec<Answered>>(&model.join("pipeline.json"))? {
            let (model, speech) = (model.clone(), Arc::clone(&speech));
            let name = format!("{name}/pipeline/{}", recorded.call.name);
            trials.push(Trial::test(name, move || answered(&model, &speech, &recorded).map_err(failed)));
        }
        let speech = Arc::clone(&speech);
        trials.push(Trial::test(format!("{name}/refused"), move || refused(&model, &speech).map_err(failed)));
    }
    let Tokens { prompts, outputs } = read(&data().join("tokens.json"))?;
    trials.push(Trial::test("tokens/prompts", move || encoded(&prompts).map_err(failed)));
    trials.push(Trial::test("tokens/outputs", move || decoded(&outputs).map_err(failed)));
    trials.push(Trial::test("tokens/far", || far().map_err(failed)));
    Ok(trials)
}

/// The tokenizer with the tokens of time, which are behind all others and in no file.
fn write_tokenizer(folder: &Path) -> Result<()> {
    let mut tokenizer: Value = read(&data().join("tokenizer.json"))?;
    let added = tokenizer.get_mut("added_tokens").and_then(Value::as_array_mut).context("no `added_tokens`")?;
    let last = added.last().and_then(|token| token["id"].as_u64()).context("no ids")?;
    added.extend((0..=LAST_TIME).map(|step| {
        let content = format!("<|{:.2}|>", f64::from(step) * TIME_PRECISION);
        json!({
            "id": last + 1 + u64::from(step), "content": content, "special": false, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    }));
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    fs::copy(data().join("tokenizer_config.json"), folder.join("tokenizer_config.json"))?;
    Ok(())
}

/// The folder of a model with the settings of a call.
fn write_model(model: &Path, call: &Call) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    Recipe::from_file(&model.join("weights.json"))?.write(folder.path(), u64::MAX)?;
    for name in ["config.json", "preprocessor_config.json"] {
        fs::copy(model.join(name), folder.path().join(name))?;
    }
    let mut settings: Map<String, Value> = read(&model.join("generation_config.json"))?;
    settings.extend(call.settings.clone());
    let mut settings: Map<String, Value> = settings.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if call.timeless {
        let config: Value = read(&model.join("config.json"))?;
        let vocab_size = config["vocab_size"].as_u64().context("no `vocab_size`")?;
        let no_timestamps = settings.get("no_timestamps_token_id").and_then(Value::as_u64);
        let first = no_timestamps.context("no `no_timestamps_token_id`")? + 1;
        let suppressed = settings.get_mut("suppress_tokens").and_then(Value::as_array_mut);
        suppressed.context("no `suppress_tokens`")?.extend((first..vocab_size).map(Value::from));
    }
    fs::write(folder.path().join("generation_config.json"), Value::Object(settings).to_string())?;
    write_tokenizer(folder.path())?;
    Ok(folder)
}

fn part(speech: &Audio, [start, end]: [usize; 2]) -> Result<Audio> {
    let samples = speech.samples.get(start..end).context("no such part of the speech")?;
    Ok(Audio::new(samples.to_vec(), speech.sampling_rate)?)
}

fn parse<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_json::from_value(value.clone()).with_context(|| format!("`{value}` is of another type"))
}

/// One number, or several.
fn numbers(value: &Value) -> Result<Vec<f64>> {
    if value.is_array() { parse(value) } else { Ok(vec![parse(value)?]) }
}

/// The arguments of `generate`.
fn options(arguments: &Map<String, Value>) -> Result<WhisperOptions> {
    let mut options = WhisperOptions::default();
    for (name, value) in arguments {
        let generation = &mut options.generation;
        match name.as_str() {
            "language" => options.language = Some(parse(value)?),
            "task" => options.task = Some(parse(value)?),
            "return_timestamps" => options.return_timestamps = Some(parse(value)?),
            "return_token_timestamps" => options.return_token_timestamps = parse(value)?,
            "prompt_ids" => options.prompt_ids = Some(parse(value)?),
            "prompt_condition_type" => options.prompt_condition_type = parse::<String>(value)?.parse()?,
            "condition_on_prev_tokens" => options.condition_on_prev_tokens = Some(parse(value)?),
            "temperature" => options.temperature = numbers(value)?,
            "compression_ratio_threshold" => options.compression_ratio_threshold = Some(parse(value)?),
            "logprob_threshold" => options.logprob_threshold = Some(parse(value)?),
            "no_speech_threshold" => options.no_speech_threshold = Some(parse(value)?),
            "max_new_tokens" => generation.max_new_tokens = Some(parse(value)?),
            "num_beams" => generation.num_beams = Some(parse(value)?),
            "top_k" => generation.top_k = Some(parse(value)?),
            "repetition_penalty" => generation.repetition_penalty = Some(parse(value)?),
            "no_repeat_ngram_size" => generation.no_repeat_ngram_size = Some(parse(value)?),
            "suppress_tokens" => generation.suppress_tokens = Some(parse(value)?),
            "begin_suppress_tokens" => generation.begin_suppress_tokens = Some(parse(value)?),
            _ => bail!("`{name}` is no argument of this test"),
        }
    }
    Ok(options)
}

fn close(what: &str, found: f64, expected: f64, tolerance: f64) -> Result<()> {
    ensure!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
    Ok(())
}

/// Compares figures that both have or neither has; `tolerance` is relative if `relative`.
fn figure(what: &str, found: Option<f64>, expected: Option<f64>, tolerance: f64, relative: bool) -> Result<()> {
    match (found, expected) {
        (None, None) => Ok(()),
        (Some(found), Some(expected)) => {
            let scale = if relative { expected.abs() } else { 1.0 };
            close(what, found, expected, tolerance * scale)
        }
        _ => bail!("{what}: {found:?}, expected {expected:?}"),
    }
}

fn generated(model: &Path, speech: &Audio, recorded: &Generated) -> Result<()> {
    let (call, folder) = (&recorded.call, write_model(model, &recorded.call)?);
    let extractor = FeatureExtractor::from_folder(folder.path())?;
    let generator = WhisperGenerator::from_folder(folder.path(), &LoadOptions::default())?;
    let audio = part(speech, call.samples)?;
    let long = matches!(&extractor, FeatureExtractor::Whisper(whisper) if audio.samples.len() > whisper.n_samples());
    let features = if long { extractor.extract_long(&audio)? } else { extractor.extract(&audio)? };
    let output = generator.generate(&features, &options(&call.arguments)?)?;

    let language = output.language_id;
    ensure!(language == recorded.language, "language {language:?}, expected {:?}", recorded.language);
    let tried = output.parts.iter().flat_map(|part| part.attempts.iter().map(move |attempt| (part.seek, attempt)));
    let tried: Vec<Attempt> = tried
        .map(|(seek, attempt)| Attempt {
            seek,
            temperature: attempt.temperature,
            needs_fallback: attempt.needs_fallback,
            should_skip: attempt.should_skip,
            compression_ratio: attempt.compression_ratio,
            avg_logprob: attempt.avg_logprob,
            no_speech_prob: attempt.no_speech_prob,
        })
        .collect();
    let decisions = |attempt: &Attempt| (attempt.seek, attempt.needs_fallback, attempt.should_skip);
    for (number, (found, expected)) in tried.iter().zip(&recorded.attempts).enumerate() {
        let decided = decisions(found) == decisions(expected) && found.temperature == expected.temperature;
        // Where tokens differ, the next part begins elsewhere, so these are told.
        let segments = || shown(&output.segments, expected.seek);
        ensure!(decided, "attempt {number}: {found:?}, expected {expected:?}; before it {}", segments());
        let what = |name: &str| format!("attempt {number}, {name}");
        let (ratio, expected_ratio) = (found.compression_ratio, expected.compression_ratio);
        figure(&what("compression ratio"), ratio, expected_ratio, RATIO, true)?;
        figure(&what("log-probability"), found.avg_logprob, expected.avg_logprob, LOGPROB, false)?;
        figure(&what("silence"), found.no_speech_prob, expected.no_speech_prob, PROBABILITY, true)?;
    }
    let (found, expected) = (tried.len(), recorded.attempts.len());
    ensure!(found == expected, "{found} attempts, expected {expected}");

    for (number, (found, expected)) in output.segments.iter().zip(&recorded.segments).enumerate() {
        let what = format!("segment {number}");
        ensure!(found.tokens == expected.tokens, "{what}: {:?}, expected {:?}", found.tokens, expected.tokens);
        close(&format!("{what}, start"), found.start, expected.start, TIMES)?;
        close(&format!("{what}, end"), found.end, expected.end, TIMES)?;
        let (times, expected_times) = (&found.token_timestamps, &expected.token_timestamps);
        ensure!(times.is_some() == expected_times.is_some(), "{what}: times of tokens {times:?}");
        let times = times.as_deref().unwrap_or_default();
        let expected_times = expected_times.as_deref().unwrap_or_default();
        let equal = times.iter().zip(expected_times).all(|(&x, y)| (f64::from(x) - y).abs() <= TIMES);
        let equal = equal && times.len() == expected_times.len();
        ensure!(equal, "{what}: times of tokens {times:?}, expected {expected_times:?}");
    }
    let (found, expected) = (output.segments.len(), recorded.segments.len());
    ensure!(found == expected, "{found} segments, expected {expected}");
    Ok(())
}

/// Settings and arguments that no model can use.
fn refused(model: &Path, speech: &Audio) -> Result<()> {
    let times = || json!({ "return_token_timestamps": true });
    let timed = || json!({ "return_timestamps": true });
    for (settings, timeless, arguments, expected) in [
        (
            json!({ "no_timestamps_token_id": u32::MAX }),
            false,
            json!({}),
            "`no_timestamps_token_id`: token id 4294967295",
        ),
        (json!({ "forced_decoder_ids": [[1, 1_000_000]] }), false, json!({}), "`forced_decoder_ids`: token id 1000000"),
        (json!({ "alignment_heads": [[0, 1], [0, 1]] }), false, times(), "`alignment_heads`: head 1 of layer 0 twice"),
        (json!({ "alignment_heads": [[7, 0]] }), false, times(), "`alignment_heads`: no head 0 in layer 7"),
        (json!({}), false, json!({ "max_new_tokens": 0 }), "max_new_tokens: 0, expected 1 to "),
        // A time must come first, and all of them are suppressed: Python takes the token 0.
        (json!({}), true, timed(), "generation settings: no token may follow"),
    ] {
        let (settings, arguments) = (parse(&settings)?, parse(&arguments)?);
        let call = Call { name: String::new(), samples: [0, RATE as usize], settings, timeless, arguments };
        let (folder, options) = (write_model(model, &call)?, options(&call.arguments)?);
        let features = FeatureExtractor::from_folder(folder.path())?.extract(&part(speech, call.samples)?)?;
        let generator = WhisperGenerator::from_folder(folder.path(), &LoadOptions::default());
        let output = generator.and_then(|generator| generator.generate(&features, &options));
        let Err(error) = output else { bail!("{call:?} is not refused") };
        ensure!(error.to_string().contains(expected), "{error}, expected {expected}");
    }
    Ok(())
}

/// The last segment that starts before a frame.
fn shown(segments: &[WhisperSegment], seek: usize) -> String {
    let before = segments.iter().rfind(|segment| segment.start * 100.0 < seek as f64);
    before.map_or_else(|| "nothing".to_owned(), |segment| format!("{segment:?}"))
}

fn answered(model: &Path, speech: &Audio, recorded: &Answered) -> Result<()> {
    let (call, folder) = (&recorded.call, write_model(model, &recorded.call)?);
    let mut options = AutomaticSpeechRecognitionOptions::default();
    for (name, value) in &call.arguments {
        match name.as_str() {
            "chunk_length_s" => options.chunk_length_s = Some(parse(value)?),
            "stride_length_s" => {
                options.stride_length_s = Some(match numbers(value)?[..] {
                    [both] => [both; 2],
                    [before, after] => [before, after],
                    _ => bail!("`{value}` is no stride"),
                });
            }
            "return_timestamps" => {
                options.return_timestamps = Some(match value {
                    Value::Bool(true) => ReturnTimestamps::Segment,
                    value => parse::<String>(value)?.parse()?,
                });
            }
            "return_language" => options.return_language = parse(value)?,
            "generate_kwargs" => options.generate = self::options(&parse(value)?)?,
            _ => bail!("`{name}` is no argument of this test"),
        }
    }
    let pipeline = AutomaticSpeechRecognitionPipeline::from_folder(folder.path(), &LoadOptions::default(), options)?;
    let found = pipeline.call(part(speech, call.samples)?)?;
    same(&serde_json::to_value(found)?, &recorded.output, "output")
}

/// Compares JSON; numbers are times.
fn same(found: &Value, expected: &Value, place: &str) -> Result<()> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, expected) in expected {
                let found = found.get(name).with_context(|| format!("{place}: no `{name}`"))?;
                same(found, expected, &format!("{place}.{name}"))?;
            }
            let other = found.keys().find(|name| !expected.contains_key(*name));
            ensure!(other.is_none(), "{place}: `{}` is not expected", other.map_or("", String::as_str));
        }
        (Value::Array(found), Value::Array(expected)) => {
            for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
                same(found, expected, &format!("{place}[{number}]"))?;
            }
            ensure!(found.len() == expected.len(), "{place}: {} items, expected {}", found.len(), expected.len());
        }
        (Value::Number(found), Value::Number(expected)) => {
            let [found, expected] = [found, expected].map(|number| number.as_f64().unwrap_or(f64::NAN));
            close(place, found, expected, TIMES)?;
        }
        _ => ensure!(found == expected, "{place}: {found}, expected {expected}"),
    }
    Ok(())
}

fn tokens() -> Result<WhisperTokens> {
    let folder = tempfile::tempdir()?;
    write_tokenizer(folder.path())?;
    Ok(WhisperTokens::from_folder(folder.path())?)
}

fn encoded(prompts: &[Prompt]) -> Result<()> {
    let tokens = tokens()?;
    for Prompt { text, ids } in prompts {
        let found = tokens.prompt_ids(text)?;
        ensure!(found == *ids, "{text:?}: {found:?}, expected {ids:?}");
    }
    for text in ["<|en|>", "well <|endoftext|>"] {
        ensure!(tokens.prompt_ids(text).is_err(), "{text:?} is a prompt");
    }
    Ok(())
}

/// A token whose id is beyond all vocabularies.
fn far() -> Result<()> {
    let folder = tempfile::tempdir()?;
    write_tokenizer(folder.path())?;
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = read(&path)?;
    tokenizer["model"]["vocab"]["<|notimestamps|>"] = json!(2_000_000_000);
    fs::write(&path, tokenizer.to_string())?;
    let Err(error) = WhisperTokens::from_folder(folder.path()) else { bail!("it is not refused") };
    ensure!(error.to_string().contains("`<|notimestamps|>` has the id 2000000000, expected less than"), "{error}");
    Ok(())
}

fn decoded(outputs: &[Outputs]) -> Result<()> {
    let tokens = tokens()?;
    for (number, row) in outputs.iter().enumerate() {
        let options = AsrOptions {
            return_timestamps: !row.return_timestamps.is_null(),
            words: row.return_timestamps == "word",
            return_language: row.return_language,
            time_precision: TIME_PRECISION,
        };
        let parts = row.outputs.iter().cloned().map(|Output { tokens, token_timestamps, stride }| AsrOutput {
            tokens,
            token_timestamps,
            stride,
        });
        let (text, chunks) = tokens.decode_asr(&parts.collect::<Vec<_>>(), &options)?;
        let found = serde_json::to_value(Transcription { text, chunks })?;
        same(&found, &row.expected, &format!("row {number}"))?;
    }
    Ok(())
}
