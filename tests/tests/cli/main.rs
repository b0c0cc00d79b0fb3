//! The command line as a user meets it: the built program, its exit codes, and what it prints where.

#![allow(clippy::unwrap_used, clippy::panic)]

mod built_in;
mod generate;
mod media;
mod program;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use burn::tensor::TensorData;
use generate::language_model;
use program::{
    MAX_ERROR_BYTES, Model, Ran, assert_close, command, data, fails, failure, read_json, succeeds, tx, tx_with,
};
use serde_json::{Value, json};
use tx_core::registry::LoadOptions;
use tx_core::task::NamedTensors;
use tx_core::weights::save::{MAX_SHARD_SIZE, write_file};
use tx_core::weights::{Checkpoint, Quantization, safetensors};
use tx_tests::{Array, Case, EQUIVALENCE, REFERENCE, Tolerance, compare, folders, is_token, models};

#[test]
fn help_and_version_succeed() {
    for args in [&["--help"][..], &["embed", "--help"], &["--version"]] {
        let ran = tx(args);
        assert!(ran.code == Some(0) && ran.err.is_empty() && ran.out.contains("tx"), "{args:?}: {ran:?}");
    }
    let help = tx(&["--help"]).out;
    for command in ["run", "generate", "chat", "embed", "forward", "info", "models", "download", "bench"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {help}");
    }
}

#[test]
fn what_cannot_be_understood_exits_with_2() {
    let lines: [&[&str]; 9] = [
        &[],
        &["modles"],
        &["models", "--jsn"],
        &["models", "--dtype", "f64"],
        &["models", "--quantize", "int4"],
        &["models", "--threads", "many"],
        &["embed", "text"],
        &["forward", "--model", "x"],
        &["info"],
    ];
    for args in lines {
        let ran = tx(args);
        assert!(ran.code == Some(2) && ran.out.is_empty() && !ran.err.is_empty(), "{args:?}: {ran:?}");
    }
    assert!(tx(&["modles"]).err.contains("'models'"));
}

#[test]
fn unknown_names_propose_the_nearest() {
    let model = Model::of_case("masked-lm");
    let forward = |extra: &[&str]| fails(&[&model.forward()[..], extra].concat());
    assert_eq!(
        fails(&["run", "text-clasification", "--model", model.path(), "text"]),
        "error: unknown task `text-clasification`; did you mean `text-classification`?; see `tx models`\n"
    );
    assert!(forward(&["--class", "BertForMaskedLm"]).contains("did you mean `BertForMaskedLM`?"));
    model.set_config("model_type", json!("bertt"));
    assert!(forward(&[]).contains("unknown architecture `bertt`; did you mean `bert`?"));
    assert!(!model.file("outputs.safetensors").exists());
}

#[test]
fn devices_that_are_not_there_are_named_with_those_that_are() {
    let model = Model::of_case("model");
    for (device, expected) in [
        ("gpu", "error: device `gpu`: not a kind of device; available: cpu"),
        ("metal", "error: device `metal`: this program was built without it; build with `--features metal`"),
        ("cpu:7", "error: device `cpu:7`: this machine has "),
        ("cpu:x", "error: device `cpu:x`: `x` is not a device number"),
    ] {
        let message = fails(&[&model.forward()[..], &["--device", device]].concat());
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn failures_are_one_line_without_control_characters() {
    let model = Model::of_case("model");
    model.set_config("model_type", json!("be\u{1b}[31m\nrt\u{202e}"));
    let message = fails(&model.forward());
    assert!(
        message.contains(r"config.json: `model_type`: unknown architecture `be\u{1b}[31m\nrt\u{202e}`"),
        "{message}"
    );
    model.set_config("model_type", json!("é".repeat(100_000)));
    let message = fails(&model.forward());
    assert!(message.len() > MAX_ERROR_BYTES - 8 && message.ends_with("…\n"), "{} bytes", message.len());
}

#[test]
fn models_that_are_not_here_come_with_the_way_to_get_them() {
    let name = "sentence-transformers/all-MiniLM-L6-v2";
    for args in [&["embed", "--model", name, "text"][..], &["info", name], &["download", name]] {
        let message = fails(args);
        assert!(message.contains(&format!("tx download {name}")) && message.contains("offline"), "{message}");
    }
    assert!(fails(&["run", "fill-mask", "text"]).contains("--model"));
}

#[test]
fn forward_computes_what_python_computes() {
    for folder in folders(&models().join("bert")).unwrap() {
        let case = Case::read(&folder).unwrap();
        let model = Model::of_case(folder.file_name().unwrap().to_str().unwrap());
        // Products with bf16 weights may round what they multiply; the same weights in f32 do not.
        let exact: &[&str] = if folder.to_string_lossy().ends_with("-bf16") { &["--dtype", "f32"] } else { &[] };
        succeeds(&[&model.forward()[..], &["--hidden-states", "--attentions", "--json"], exact].concat());
        let found = safetensors::read(&model.file("outputs.safetensors")).unwrap();
        assert!(found.keys().eq(case.outputs.keys()), "{}: {:?}", folder.display(), found.keys());
        let mask = case.mask().unwrap();
        for (name, expected) in &case.outputs {
            let output = Array::new(&found[name].to_data()).unwrap();
            let seen = is_token(mask.as_ref(), &expected.shape, name.ends_with("_logits"));
            compare(name, &output, expected, REFERENCE, seen).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        }
    }
}

#[test]
fn threads_are_checked_and_change_no_result() {
    for threads in ["0", "1000000"] {
        let message = fails(&["models", "--threads", threads]);
        assert!(message.starts_with(&format!("error: --threads: `{threads}`, expected a number from 1")), "{message}");
    }
    let with_variable =
        |args: &[&str], value: &str| Ran::from(command(args).env("TX_NUM_THREADS", value).output().unwrap());
    for value in ["abc", "0", "-1", "1.5"] {
        let ran = with_variable(&["models"], value);
        let expected = format!("error: TX_NUM_THREADS: `{value}`, expected a number from 1");
        assert!(failure(&ran).starts_with(&expected), "{ran:?}");
    }
    let model = Model::of_case("masked-lm");
    let outputs = |threads: &str, variable: &str| {
        let ran = with_variable(&[&model.forward()[..], &["--threads", threads]].concat(), variable);
        assert!(ran.code == Some(0) && ran.err.is_empty(), "{ran:?}");
        Array::new(&safetensors::read(&model.file("outputs.safetensors")).unwrap()["logits"].to_data()).unwrap()
    };
    // The option comes before the variable.
    let one = outputs("1", "abc");
    compare("logits", &outputs("3", "1"), &one, EQUIVALENCE, |_| true).unwrap();
}

#[test]
fn quantized_weights_give_nearly_the_same() {
    const NEAR: Tolerance = Tolerance { relative: 5e-2, absolute: 0.0 };
    let case = Case::read(&models().join("bert/masked-lm")).unwrap();
    let model = Model::of_case("masked-lm");
    succeeds(&[&model.forward()[..], &["--quantize", "int8"]].concat());
    let found = safetensors::read(&model.file("outputs.safetensors")).unwrap();
    assert!(found.contains_key("logits"));
    let mask = case.mask().unwrap();
    for (name, tensor) in &found {
        let (output, expected) = (Array::new(&tensor.to_data()).unwrap(), &case.outputs[name]);
        let seen = || is_token(mask.as_ref(), &expected.shape, false);
        let compare = |tolerance| compare(name, &output, expected, tolerance, seen());
        compare(NEAR).unwrap();
        assert!(compare(REFERENCE).is_err(), "`{name}` is that of f32: nothing was quantized");
    }

    let load = |quantize| {
        let options = LoadOptions { quantize, ..LoadOptions::default() };
        case.load(&case.checkpoint().unwrap(), &options).unwrap()
    };
    let (dense, quantized) = (load(None), load(Some(Quantization::Int8)));
    // Of two layers six each, and of the head its own and the one that is tied to the embedding.
    assert_eq!((dense.report.quantized, quantized.report.quantized), (0, 14));
    assert!(quantized.report.not_quantized.is_empty(), "{:?}", quantized.report.not_quantized);
    assert_eq!(quantized.num_parameters(), dense.num_parameters());
    let folder = tempfile::tempdir().unwrap();
    let message = quantized.save_pretrained(folder.path(), MAX_SHARD_SIZE).unwrap_err().to_string();
    assert_eq!(message, "model: 8-bit weights, expected a model loaded without `--quantize`");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn forward_writes_what_is_asked_for_and_says_so() {
    let model = Model::of_case("model");
    let ran = succeeds(&[&model.forward()[..], &["--json"]].concat());
    let document: Value = serde_json::from_str(&ran).unwrap();
    assert_eq!(
        document,
        json!({
            "class": "BertModel",
            "outputs": model.outputs,
            "tensors": {
                "last_hidden_state": { "dtype": "f32", "shape": [2, 11, 32] },
                "pooler_output": { "dtype": "f32", "shape": [2, 32] },
            },
        })
    );
    let table = succeeds(&model.forward());
    assert_eq!(table.lines().next(), Some("output             dtype  shape"));
    // A class that the checkpoint was not saved from: the base model's weights are there, those of the head are not.
    let message = fails(&[&model.forward()[..], &["--class", "BertForMaskedLM"]].concat());
    assert!(message.contains("missing: `cls.predictions."), "{message}");
    // Files that are read may be replaced by those that are written.
    succeeds(&["forward", "--model", model.path(), "--inputs", &model.inputs, "--outputs", &model.inputs]);
    assert!(safetensors::read(&model.file("inputs.safetensors")).unwrap().contains_key("last_hidden_state"));
}

#[test]
fn forward_refuses_what_does_not_fit_and_writes_nothing() {
    let model = Model::of_case("model");
    let case = Case::read(&models().join("bert/model")).unwrap();
    let inputs = |name: &str, change: &dyn Fn(&mut NamedTensors)| {
        let mut tensors = case.inputs.clone();
        change(&mut tensors);
        write_file(&model.file(name), tensors).unwrap();
        model.string(name)
    };
    let ids = |value: i64| TensorData::new(vec![value; 22], [2, 11]);
    let table = [
        (
            inputs("a", &|t| drop(t.insert("pixel_values".into(), ids(0)))),
            "pixel_values: an argument that this model does",
        ),
        (inputs("b", &|t| drop(t.insert("input_ids".into(), ids(120)))), "input_ids: 120, expected 0 to 119"),
        (inputs("c", &|t| drop(t.insert("input_ids".into(), ids(-1)))), "input_ids: -1, expected 0 to 119"),
        (inputs("d", &|t| drop(t.remove("input_ids"))), "input_ids: nothing"),
        (model.string("absent.safetensors"), "absent.safetensors"),
        (model.string("config.json"), "config.json"),
    ];
    for (file, expected) in &table {
        let message = fails(&["forward", "--model", model.path(), "--inputs", file, "--outputs", &model.outputs]);
        assert!(message.contains(expected), "{message}");
        assert!(!Path::new(&model.outputs).exists());
    }
    let message = fails(&["forward", "--model", model.path(), "--inputs", &model.inputs, "--outputs", model.path()]);
    assert!(message.starts_with("error: --outputs: "), "{message}");
}

#[test]
fn info_says_what_a_model_is() {
    let model = Model::of_data("pipelines/text-classification");
    let document: Value = serde_json::from_str(&succeeds(&["info", model.path(), "--json"])).unwrap();
    let checkpoint = Checkpoint::from_folder(model.folder.path()).unwrap();
    let parameters: usize = checkpoint.tensors().values().map(|tensor| tensor.elements()).sum();
    assert_eq!(document["model_type"], "bert");
    assert_eq!(document["supported"], true);
    assert_eq!(document["architectures"], json!(["BertForSequenceClassification"]));
    assert!(document["classes"].as_array().unwrap().iter().any(|class| class["class"] == "BertForMaskedLM"));
    let commands = [
        "tx run text-classification",
        "tx embed",
        "tx run feature-extraction",
        "tx run sentence-similarity",
        "tx forward",
    ];
    assert_eq!(document["commands"], json!(commands));
    assert_eq!(document["labels"], json!(["anger", "joy", "fear", "surprise"]));
    assert_eq!(document["limits"], json!({ "vocab_size": 799, "max_length": 96, "type_vocab_size": 2 }));
    assert_eq!(document["sizes"]["layers"], 2);
    assert_eq!(document["weights"]["parameters"], parameters);
    assert_eq!(document["weights"]["dtypes"], json!({ "f32": parameters }));
    assert_eq!(document["weights"]["bytes"], checkpoint.bytes());
    assert_eq!(document["weights"]["memory"], 4 * parameters);
    assert_eq!(document["tokenizer"]["kind"], "WordPiece");
    assert_eq!(document["tokenizer"]["special_tokens"]["mask"]["text"], "[MASK]");
    let table = succeeds(&["info", model.path()]);
    for row in ["architecture", "parameters", "memory", "tokenizer", "special tokens", "command"] {
        assert!(table.lines().any(|line| line.starts_with(row)), "{row}: {table}");
    }
    let half: Value = serde_json::from_str(&succeeds(&["info", model.path(), "--json", "--dtype", "bf16"])).unwrap();
    assert!(half["weights"]["memory"].as_u64() < document["weights"]["memory"].as_u64());
}

#[test]
fn info_shows_what_it_can_of_unknown_models() {
    let model = Model::of_case("model");
    model.set_config("model_type", json!("bertt"));
    let document: Value = serde_json::from_str(&succeeds(&["info", model.path(), "--json"])).unwrap();
    assert_eq!((&document["supported"], &document["commands"]), (&json!(false), &json!([])));
    assert!(document["reason"].as_str().unwrap().contains("did you mean `bert`?"));
    assert!(document["weights"]["parameters"].as_u64() > Some(0) && document["tokenizer"].is_null());
    model.set_config("model_type", json!("bert"));
    model.set_config("is_decoder", json!(true));
    let table = succeeds(&["info", model.path()]);
    assert!(
        table.lines().any(|line| line.starts_with("supported") && line.contains("`is_decoder` is `true`")),
        "{table}"
    );
    assert!(fails(&["info", model.string("absent").as_str()]).starts_with("error: "));
}

/// Only headers are read: the file is as long as its header says, but holds next to nothing.
#[test]
fn info_reads_headers_only() {
    let model = Model::of_case("model");
    let header =
        r#"{"embeddings.word_embeddings.weight":{"dtype":"F32","shape":[16384,16384],"data_offsets":[0,1073741824]}}"#;
    let mut file = fs::File::create(model.file("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + (1 << 30)).unwrap();
    drop(file);
    let document: Value = serde_json::from_str(&succeeds(&["info", model.path(), "--json"])).unwrap();
    assert_eq!(document["weights"]["parameters"], 1u64 << 28);
    assert_eq!(document["weights"]["bytes"], 1u64 << 30);
}

#[test]
fn models_lists_every_class_sorted() {
    let document: Value = serde_json::from_str(&succeeds(&["models", "--json"])).unwrap();
    let list = document.as_array().unwrap();
    let names: Vec<_> = list.iter().map(|entry| entry["model_type"].as_str().unwrap()).collect();
    assert!(names.is_sorted() && names.contains(&"bert"), "{names:?}");
    let classes: usize = list.iter().map(|entry| entry["classes"].as_array().unwrap().len()).sum();
    assert_eq!(classes, tx::classes().len());
    let table = succeeds(&["models"]);
    assert_eq!(table.lines().count(), 1 + names.len());
    assert!(
        table.lines().skip(1).zip(&names).all(|(line, name)| line.split_whitespace().next() == Some(*name)),
        "{table}"
    );
}

#[test]
fn download_prints_the_folder() {
    let model = Model::of_case("model");
    assert_eq!(succeeds(&["download", model.path()]).trim_end(), model.path());
    let document: Value = serde_json::from_str(&succeeds(&["download", model.path(), "--json"])).unwrap();
    assert_eq!(document, json!({ "folder": model.path() }));
}

#[test]
fn embed_reads_arguments_and_lines_of_standard_input() {
    let model = Model::of_data("embed/mean");
    let golden: Value = read_json(&data("embed/mean/golden.json"));
    let sentences = [0, 4].map(|i| golden[0]["sentences"][i].as_str().unwrap());
    let expected = json!([golden[0]["embeddings"][0], golden[0]["embeddings"][4]]);
    let args = ["embed", "--json", "--model", model.path()];
    let given = succeeds(&[&args[..], &sentences].concat());
    let lines = tx_with(&[&args[..], &["-"]].concat(), format!("{}\n{}\n", sentences[0], sentences[1]).as_bytes());
    assert!(lines.code == Some(0) && lines.err.is_empty(), "{lines:?}");
    for text in [given, lines.out] {
        assert_eq!(text.lines().count(), 1);
        assert_close(&serde_json::from_str(&text).unwrap(), &expected);
    }
    let table = succeeds(&[&["embed", "--model", model.path()][..], &sentences].concat());
    assert!(table.contains("cosine") && table.contains(sentences[0]), "{table}");
    let broken = tx_with(&[&args[..], &["-"]].concat(), b"\xff\xfe\n");
    assert!(failure(&broken).contains("standard input"), "{broken:?}");
}

#[test]
fn bench_measures_language_models_and_others() {
    let model = language_model();
    let args = ["bench", model.path().to_str().unwrap(), "--prompt-tokens", "6", "--new-tokens", "3", "--rounds", "2"];
    let measure = |extra: &[&str]| -> Value {
        serde_json::from_str(&succeeds(&[&args[..], &["--json"], extra].concat())).unwrap()
    };
    let document = measure(&["--batch-size", "2"]);
    assert_eq!((&document["class"], &document["device"]), (&json!("LlamaForCausalLM"), &json!("cpu")));
    let runs = document["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| &run["batch_size"]).collect::<Vec<_>>(), [1, 2]);
    let positive = |value: &Value| value.as_f64().is_some_and(|number| number > 0.0);
    for run in runs {
        assert_eq!((&run["tokens"], &run["decode"]["new_tokens"]), (&json!(6), &json!(3)));
        let decode = &run["decode"];
        let numbers = [&run["tokens_per_second"], &decode["tokens_per_second"], &decode["share"]];
        assert!(numbers.into_iter().all(positive), "{document}");
    }
    for name in ["load_seconds", "first_pass_seconds", "stream_bandwidth"] {
        assert!(positive(&document[name]), "{name}: {document}");
    }
    // Weights that were quantized are not those of the file.
    assert_eq!(measure(&["--quantize", "int8"])["runs"][0]["decode"]["share"], Value::Null);
    let table = succeeds(&args);
    assert!(table.contains("LlamaForCausalLM") && table.contains("new tokens"), "{table}");

    let model = Model::of_case("masked-lm");
    let others = succeeds(&["bench", model.path(), "--rounds", "1", "--json"]);
    let document: Value = serde_json::from_str(&others).unwrap();
    assert_eq!(document["class"], "BertModel");
    assert_eq!((&document["runs"][0]["batch_size"], &document["runs"][1]["batch_size"]), (&json!(1), &json!(8)));
    assert!(positive(&document["runs"][1]["seconds"]) && document["runs"][1]["decode"].is_null(), "{document}");
}

#[test]
fn bench_says_what_does_not_fit() {
    let model = language_model();
    let wrong = [
        (["--rounds", "0"], "--rounds: 0, expected 1 to 1000"),
        (["--new-tokens", "1"], "--new-tokens: 1, expected 2 to "),
        (["--prompt-tokens", "0"], "--prompt-tokens: 0, expected 1 to "),
        (["--prompt-tokens", "99999999999"], "--prompt-tokens: 99999999999, expected 1 to "),
        (["--batch-size", "0"], "--batch-size: 0, expected 1 to "),
        (["--batch-size", "1000000"], "--batch-size: 1000000, expected 1 to "),
    ];
    for (extra, expected) in wrong {
        let line = fails(&[&["bench", model.path().to_str().unwrap()][..], &extra].concat());
        assert!(line.starts_with(&format!("error: {expected}")), "{extra:?}: {line}");
    }
    assert_eq!(tx(&["bench"]).code, Some(2));
    assert_eq!(tx(&["bench", "x", "--rounds=-1"]).code, Some(2));
}

#[test]
fn run_prints_the_json_of_python() {
    let model = Model::of_data("pipelines/text-classification");
    let golden: Value = read_json(&data("pipelines/text-classification/golden.json"));
    let text = golden[0]["inputs"].as_str().unwrap();
    let found = succeeds(&["run", "text-classification", "--model", model.path(), "--json", text]);
    assert_close(&serde_json::from_str(&found).unwrap(), &golden[0]["output"]);
    let table = succeeds(&["run", "sentiment-analysis", "--model", model.path(), text]);
    assert!(table.contains(golden[0]["output"][0]["label"].as_str().unwrap()), "{table}");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = command(&["models"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ran.code == Some(0) && ran.err.is_empty(), "{ran:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran::from(command(&["models", "--json"]).stdout(full).output().unwrap());
    assert!(failure(&ran).starts_with("error: standard output: "), "{ran:?}");
}
