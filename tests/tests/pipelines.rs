//! Pipelines against what Python's answer: every folder of `data/pipelines` and `data/embed`.
//!
//! A folder holds a tiny model as `config.json` and a recipe for its weights, a tokenizer, and `golden.json` with calls
//! and their results. Scores agree to 1e-5 and all else exactly, with batches of 1 and of 4, and by tokens.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tx_core::error::Result;
use tx_core::pipeline::{Batching, Pipeline};
use tx_core::registry::LoadOptions;
use tx_core::tokenizer::{Sequence, Text};
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_core::weights::synth::Recipe;
use tx_text::models;
use tx_text::pipelines::*;

type Arguments = Map<String, Value>;
/// Answers a call: arguments, inputs, and how they are batched.
type Ask = Box<dyn Fn(&Arguments, &Value, &Batching) -> Result<Value>>;

const TOLERANCE: f64 = 2e-5;

#[test]
fn pipelines_answer_as_in_python() {
    let folders = folders("pipelines");
    let mut wrong = Vec::new();
    for folder in &folders {
        let model = Model::of(folder);
        let calls: Vec<Value> = read(&folder.join("golden.json"));
        let ask = asker(calls[0]["task"].as_str().unwrap(), model.folder.path());
        for (number, call) in calls.iter().enumerate() {
            let arguments = call["arguments"].as_object().unwrap();
            for batch_size in [Some(1), Some(4), None] {
                let found = ask(arguments, &call["inputs"], &Batching { batch_size, ..Batching::default() });
                let difference = match (found, call.get("output")) {
                    (Ok(found), Some(expected)) => difference(&found, expected, ""),
                    (Ok(found), None) => Some(format!(": found {found}, expected the error {}", call["error"])),
                    (Err(error), Some(expected)) => Some(format!(": found the error `{error}`, expected {expected}")),
                    (Err(error), None) => error.to_string().contains('\n').then(|| format!(": two lines: {error}")),
                };
                let name = folder.file_name().unwrap().display();
                let call = format!("{name}, call {number} {arguments:?}, batch {batch_size:?}");
                wrong.extend(difference.map(|d| format!("{call}{d}")));
            }
        }
    }
    assert!(!folders.is_empty() && wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn embeddings_are_those_of_python() {
    let folders = folders("embed");
    let mut wrong = Vec::new();
    for folder in &folders {
        let model = Model::of(folder);
        let load = LoadOptions::default();
        let pipeline = SentenceEmbeddingPipeline::from_folder(model.folder.path(), &load, Default::default()).unwrap();
        for call in read::<Vec<Value>>(&folder.join("golden.json")) {
            let sentences: Vec<String> = texts(&call["sentences"]);
            let pipeline = pipeline.with_options(embedding_options(call["arguments"].as_object().unwrap())).unwrap();
            let name = format!("{} {}", folder.file_name().unwrap().display(), call["arguments"]);
            if Some(pipeline.max_seq_length().unwrap()) != call["max_seq_length"].as_u64().map(|length| length as usize)
            {
                wrong.push(format!("{name}: max_seq_length {:?}", pipeline.max_seq_length()));
            }
            for batch_size in [Some(1), Some(4), None] {
                let batching = Batching { batch_size, ..Batching::default() };
                let vectors = pipeline.call_all(&sentences, &batching).unwrap();
                wrong.extend(difference(&json(&vectors), &call["embeddings"], "").map(|d| format!("{name}{d}")));
                let similarities = SentenceSimilarityPipeline::new(pipeline.clone());
                let inputs = sentences.iter().map(|source| SentenceSimilarityInput {
                    source_sentence: source.clone(),
                    sentences: sentences.clone(),
                });
                let found = json(&similarities.call_all(inputs, &batching).unwrap());
                wrong.extend(difference(&found, &call["similarities"], "").map(|d| format!("{name}, similarities{d}")));
            }
        }
    }
    assert!(!folders.is_empty() && wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// A real model: `TX_MINILM` names the folder of all-MiniLM-L6-v2.
#[test]
#[ignore = "needs a model that is not in the repository"]
fn embeddings_of_minilm_are_those_of_python() {
    let folder = PathBuf::from(std::env::var("TX_MINILM").unwrap());
    let golden: Value = read(&data("embed").join("minilm.json"));
    let pipeline =
        SentenceEmbeddingPipeline::from_folder(&folder, &LoadOptions::default(), Default::default()).unwrap();
    let sentences = texts(&golden["sentences"]);
    let vectors = pipeline.call_all(&sentences, &Batching::default()).unwrap();
    assert_eq!(difference(&json(&vectors), &golden["embeddings"], ""), None);
    let source_sentence = sentences[0].clone();
    let similarities =
        SentenceSimilarityPipeline::new(pipeline).call(SentenceSimilarityInput { source_sentence, sentences }).unwrap();
    assert_eq!(difference(&json(&similarities), &golden["similarities"][0], ""), None);
}

#[test]
fn results_do_not_depend_on_how_inputs_come() {
    let model = Model::of(&data("pipelines").join("token-classification-bert"));
    let TokenizedModel { model, tokenizer } =
        TokenizedModel::from_folder(models::TOKEN_CLASSIFICATION, model.folder.path(), &LoadOptions::default())
            .unwrap();
    let options = TokenClassificationOptions {
        aggregation_strategy: AggregationStrategy::Simple,
        stride: Some(6),
        ..TokenClassificationOptions::default()
    };
    let pipeline = TokenClassificationPipeline::new(model, tokenizer, options).unwrap();
    let texts: Vec<String> = (0..40).map(|i| format!("Maria moved to {} ", "New York ".repeat(i))).collect();
    let one_by_one: Vec<_> = texts.iter().map(|text| json(&pipeline.call(text).unwrap())).collect();
    for batch_size in [Some(1), Some(4), Some(7), None] {
        let batching = Batching { batch_size, ..Batching::default() };
        let list: Vec<_> = pipeline.call_all(&texts, &batching).unwrap().iter().map(json).collect();
        let lazily: Vec<_> =
            pipeline.call_iter(texts.iter().cloned(), &batching).map(|result| json(&result.unwrap())).collect();
        assert_eq!(list, lazily);
        for (found, expected) in list.iter().zip(&one_by_one) {
            assert_eq!(difference(found, expected, ""), None);
        }
    }
}

#[test]
fn differences_are_found() {
    let found = serde_json::json!({"score": 0.5, "tokens": [1, "a"]});
    let differs = |expected: Value| difference(&found, &expected, "").is_some();
    assert!(!differs(serde_json::json!({"score": 0.500_001, "tokens": [1, "a"]})));
    assert!(differs(serde_json::json!({"score": 0.5001, "tokens": [1, "a"]})));
    assert!(differs(serde_json::json!({"score": 0.5, "tokens": [2, "a"]})));
    assert!(differs(serde_json::json!({"score": 0.5, "tokens": [1, "b"]})));
    assert!(differs(serde_json::json!({"score": 0.5, "tokens": [1]})));
    assert!(differs(serde_json::json!({"tokens": [1, "a"], "score": 0.5})), "the order of the keys");
}

/// A model that is only as large as its recipe until a test needs it.
struct Model {
    folder: TempDir,
}

impl Model {
    fn of(source: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(source, folder.path());
        Self { folder }
    }
}

/// Copies a folder and writes the weights of its recipes.
fn copy(source: &Path, target: &Path) {
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let target = target.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else if path.file_name().unwrap() == "weights.json" {
            Recipe::from_file(&path).unwrap().write(target.parent().unwrap(), MAX_SHARD_SIZE).unwrap();
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn data(section: &str) -> PathBuf {
    Path::new("data").join(section)
}

/// The folders of a section that have a golden.
fn folders(section: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(data(section)).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("golden.json").is_file()).collect();
    folders.sort();
    folders
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The first difference: keys, their order, texts and integers are equal, other numbers near.
fn difference(found: &Value, expected: &Value, path: &str) -> Option<String> {
    let different = || Some(format!(" at `{path}`: found {found}, expected {expected}"));
    match (found, expected) {
        (Value::Object(a), Value::Object(b)) => {
            if !a.keys().eq(b.keys()) {
                return different();
            }
            a.iter().find_map(|(key, value)| difference(value, &b[key], &format!("{path}.{key}")))
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                return different();
            }
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b, &format!("{path}[{i}]")))
        }
        (Value::Number(a), Value::Number(b)) if b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            if (a - b).abs() <= TOLERANCE * b.abs().max(1.0) { None } else { different() }
        }
        _ => {
            if found == expected {
                None
            } else {
                different()
            }
        }
    }
}

/// The results for the inputs, as Python shapes them: that of a single one, or a list.
fn ask<P: Pipeline>(pipeline: &P, inputs: Vec<P::Input>, single: bool, batching: &Batching) -> Result<Value> {
    let mut outputs: Vec<Value> = pipeline.call_all(inputs, batching)?.iter().map(json).collect();
    Ok(if single { outputs.remove(0) } else { outputs.into() })
}

/// Inputs that are texts, and whether there is a single one.
fn text_inputs<T>(inputs: &Value, text: impl Fn(&Value) -> T) -> (Vec<T>, bool) {
    match inputs {
        Value::Array(list) => (list.iter().map(text).collect(), false),
        single => (vec![text(single)], true),
    }
}

/// Takes the arguments that a pipeline knows out of a call; more than these are a mistake in this file.
struct Known<'a>(&'a Arguments);

impl<'a> Known<'a> {
    fn new(arguments: &'a Arguments, names: &[&str]) -> Self {
        assert!(arguments.keys().all(|name| names.contains(&name.as_str())), "{arguments:?}");
        Self(arguments)
    }

    fn get<T>(&self, name: &str, convert: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        self.0.get(name).filter(|value| !value.is_null()).map(|value| convert(value).unwrap())
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.get(name, |value| value.as_u64().map(|n| n as usize))
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name, Value::as_bool)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name, |value| value.as_str().map(str::to_owned))
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name, |value| value.as_str()?.parse().ok())
    }
}

fn asker(task: &str, folder: &Path) -> Ask {
    match task.parse().unwrap() {
        TextTask::FeatureExtraction => feature_extraction(folder),
        TextTask::FillMask => fill_mask(folder),
        TextTask::QuestionAnswering => question_answering(folder),
        TextTask::SentenceSimilarity => unreachable!("it is not among Python's pipelines"),
        TextTask::TextGeneration => unreachable!("it has tests of its own, in generation.rs"),
        TextTask::TextClassification => text_classification(folder),
        TextTask::TokenClassification => token_classification(folder),
        TextTask::ZeroShotClassification => zero_shot_classification(folder),
    }
}

fn feature_extraction(folder: &Path) -> Ask {
    let TokenizedModel { model, tokenizer } =
        TokenizedModel::from_folder(models::TEXT_MODEL, folder, &LoadOptions::default()).unwrap();
    let pipeline = FeatureExtractionPipeline::new(model, tokenizer, FeatureExtractionOptions::default());
    Box::new(move |arguments, inputs, batching| {
        let known = Known::new(arguments, &["truncation", "tokenize_kwargs"]);
        let empty = Map::new();
        let more =
            Known::new(known.get("tokenize_kwargs", Value::as_object).unwrap_or(&empty), &["truncation", "max_length"]);
        let options = FeatureExtractionOptions {
            truncation: known.flag("truncation").or(more.flag("truncation")).unwrap_or(false),
            max_length: more.number("max_length"),
        };
        let (inputs, single) = text_inputs(inputs, |text| Text::from(text.as_str().unwrap()));
        ask(&pipeline.with_options(options), inputs, single, batching)
    })
}

fn fill_mask(folder: &Path) -> Ask {
    let TokenizedModel { model, tokenizer } =
        TokenizedModel::from_folder(models::MASKED_LM, folder, &LoadOptions::default()).unwrap();
    let pipeline = FillMaskPipeline::new(model, tokenizer, FillMaskOptions::default()).unwrap();
    Box::new(move |arguments, inputs, batching| {
        let known = Known::new(arguments, &["top_k", "targets", "tokenizer_kwargs"]);
        let empty = Map::new();
        let more = Known::new(
            known.get("tokenizer_kwargs", Value::as_object).unwrap_or(&empty),
            &["truncation", "max_length"],
        );
        let options = FillMaskOptions {
            top_k: known.number("top_k").unwrap_or(5),
            targets: known.get("targets", |targets| match targets {
                Value::String(target) => Some(vec![target.clone()]),
                list => Some(texts(list)),
            }),
            truncation: more.flag("truncation").unwrap_or(false),
            max_length: more.number("max_length"),
        };
        // A list of one is answered like the one.
        let single = inputs.as_array().is_none_or(|list| list.len() == 1);
        let (inputs, _) = text_inputs(inputs, |text| Text::from(text.as_str().unwrap()));
        ask(&pipeline.with_options(options)?, inputs, single, batching)
    })
}

fn text_classification(folder: &Path) -> Ask {
    let TokenizedModel { model, tokenizer } =
        TokenizedModel::from_folder(models::SEQUENCE_CLASSIFICATION, folder, &LoadOptions::default()).unwrap();
    let pipeline = TextClassificationPipeline::new(model, tokenizer, TextClassificationOptions::default()).unwrap();
    Box::new(move |arguments, inputs, batching| {
        let known = Known::new(arguments, &["top_k", "function_to_apply", "truncation", "max_length"]);
        let options = TextClassificationOptions {
            top_k: match arguments.get("top_k") {
                None => TopK::Best,
                Some(Value::Null) => TopK::All,
                Some(count) => TopK::First(count.as_u64().unwrap() as usize),
            },
            function_to_apply: known.parsed("function_to_apply"),
            truncation: known.flag("truncation").unwrap_or(false),
            max_length: known.number("max_length"),
        };
        let top_k = options.top_k;
        let plain_text = inputs.is_string();
        let (inputs, single) = text_inputs(inputs, |input| match input {
            Value::String(text) => Text::from(text.as_str()),
            // An old way to write a pair: a list of a list.
            Value::Array(pairs) => Text::pair(pairs[0][0].as_str().unwrap(), pairs[0][1].as_str().unwrap()),
            pair => Text::pair(pair["text"].as_str().unwrap(), pair["text_pair"].as_str().unwrap()),
        });
        let answer = ask(&pipeline.with_options(options), inputs, single, batching)?;
        // For one text the label is alone in a list.
        Ok(if plain_text && top_k == TopK::Best { vec![answer].into() } else { answer })
    })
}

fn token_classification(folder: &Path) -> Ask {
    let TokenizedModel { model, tokenizer } =
        TokenizedModel::from_folder(models::TOKEN_CLASSIFICATION, folder, &LoadOptions::default()).unwrap();
    let pipeline = TokenClassificationPipeline::new(model, tokenizer, TokenClassificationOptions::default()).unwrap();
    Box::new(move |arguments, inputs, batching| {
        let names = ["aggregation_strategy", "ignore_labels", "stride", "is_split_into_words", "delimiter"];
        let known = Known::new(arguments, &names);
        let options = TokenClassificationOptions {
            aggregation_strategy: known.parsed("aggregation_strategy").unwrap_or_default(),
            ignore_labels: known.get("ignore_labels", |labels| Some(texts(labels))).unwrap_or(vec!["O".to_owned()]),
            stride: known.number("stride"),
            delimiter: known.text("delimiter").unwrap_or(" ".to_owned()),
        };
        let pipeline = pipeline.with_options(options)?;
        if known.flag("is_split_into_words").unwrap_or(false) {
            return ask(&pipeline, vec![TokenClassificationInput(Sequence::Words(texts(inputs)))], false, batching);
        }
        let (inputs, single) = text_inputs(inputs, |text| text.as_str().unwrap().into());
        ask(&pipeline, inputs, single, batching)
    })
}

fn zero_shot_classification(folder: &Path) -> Ask {
    let TokenizedModel { model, tokenizer } =
        TokenizedModel::from_folder(models::SEQUENCE_CLASSIFICATION, folder, &LoadOptions::default()).unwrap();
    let candidate_labels = vec!["any".to_owned()];
    let options = ZeroShotClassificationOptions { candidate_labels, ..ZeroShotClassificationOptions::default() };
    let pipeline = ZeroShotClassificationPipeline::new(model, tokenizer, options).unwrap();
    Box::new(move |arguments, inputs, batching| {
        let known = Known::new(arguments, &["candidate_labels", "hypothesis_template", "multi_label"]);
        let default = ZeroShotClassificationOptions::default();
        let options = ZeroShotClassificationOptions {
            candidate_labels: match &arguments["candidate_labels"] {
                Value::String(labels) => labels.split(',').map(|label| label.trim().to_owned()).collect(),
                labels => texts(labels),
            },
            hypothesis_template: known.text("hypothesis_template").unwrap_or(default.hypothesis_template),
            multi_label: known.flag("multi_label").unwrap_or(false),
        };
        let (inputs, single) = text_inputs(inputs, |text| text.as_str().unwrap().to_owned());
        ask(&pipeline.with_options(options)?, inputs, single, batching)
    })
}

fn question_answering(folder: &Path) -> Ask {
    let TokenizedModel { model, tokenizer } =
        TokenizedModel::from_folder(models::QUESTION_ANSWERING, folder, &LoadOptions::default()).unwrap();
    let pipeline = QuestionAnsweringPipeline::new(model, tokenizer, QuestionAnsweringOptions::default()).unwrap();
    Box::new(move |arguments, inputs, batching| {
        let names =
            ["top_k", "doc_stride", "max_answer_len", "max_seq_len", "handle_impossible_answer", "align_to_words"];
        let known = Known::new(arguments, &names);
        let default = QuestionAnsweringOptions::default();
        let options = QuestionAnsweringOptions {
            top_k: known.number("top_k").unwrap_or(default.top_k),
            doc_stride: known.number("doc_stride"),
            max_answer_len: known.number("max_answer_len").unwrap_or(default.max_answer_len),
            max_seq_len: known.number("max_seq_len"),
            handle_impossible_answer: known.flag("handle_impossible_answer").unwrap_or(false),
            align_to_words: known.flag("align_to_words").unwrap_or(true),
            ..default
        };
        let (inputs, single) = text_inputs(inputs, |input| serde_json::from_value(input.clone()).unwrap());
        ask(&pipeline.with_options(options)?, inputs, single, batching)
    })
}

fn embedding_options(arguments: &Arguments) -> SentenceEmbeddingOptions {
    let known = Known::new(arguments, &["prompt", "prompt_name", "normalize_embeddings", "truncate_dim"]);
    SentenceEmbeddingOptions {
        prompt: known.text("prompt"),
        prompt_name: known.text("prompt_name"),
        normalize_embeddings: known.flag("normalize_embeddings").unwrap_or(false),
        truncate_dim: known.number("truncate_dim"),
    }
}
