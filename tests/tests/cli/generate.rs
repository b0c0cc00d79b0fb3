//! `tx generate` and `tx chat`.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tx_core::weights::synth::Recipe;

use crate::program::{fails, tx};

/// The llama of `tests/data/generation` as a folder.
pub fn language_model() -> TempDir {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/generation/llama");
    let folder = tempfile::tempdir().unwrap();
    Recipe::from_file(&data.join("weights.json")).unwrap().write(folder.path(), u64::MAX).unwrap();
    for file in ["config.json", "generation_config.json"] {
        fs::copy(data.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn generate_continues_as_python_does() {
    let model = language_model();
    let path = model.path().to_str().unwrap();
    let expected = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/generation/llama/expected.json")).unwrap();
    let calls: Vec<Value> = serde_json::from_slice(&expected).unwrap();
    let ids = |ids: &Value| -> String {
        let ids: Vec<String> = ids.as_array().unwrap().iter().map(Value::to_string).collect();
        ids.join(",")
    };
    for name in ["greedy", "beams-2"] {
        let call = calls.iter().find(|call| call["name"] == name).unwrap();
        let mut args =
            vec!["generate".to_owned(), "--json".into(), "--model".into(), path.into(), "--no-sample".into()];
        args.extend(["--input-ids".to_owned(), ids(&call["prompts"][0])]);
        for (key, value) in call["arguments"].as_object().unwrap() {
            if key != "do_sample" && !value.is_array() {
                args.extend([format!("--{}", key.replace('_', "-")), value.to_string()]);
            }
            for eos in value.as_array().into_iter().flatten() {
                args.extend(["--eos-token-id".to_owned(), eos.to_string()]);
            }
        }
        let ran = tx(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        let found: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(found["sequences"][0], call["sequences"][0], "{name}");
    }
}

#[test]
fn generate_says_what_does_not_fit() {
    let model = language_model();
    let path = model.path().to_str().unwrap();
    let missing = "/no/such/file";
    let wrong: [(&[&str], &str); 8] = [
        (&["--input-ids", "1,x"], "token ids"),
        (&["--input-ids", "1,99999999"], "input_ids"),
        (&["--prompt", "text"], "tokenizer"),
        (&["--input-ids", "1", "--num-return-sequences", "3", "--no-sample"], "num_return_sequences"),
        (&["--input-ids", "1", "--min-new-tokens", "9", "--max-new-tokens", "3"], "min_new_tokens"),
        (&["--input-ids", "1", "--temperature=-1", "--sample"], "temperature"),
        (&["--input-ids", "1", "--schema", missing], missing),
        (&["--input-ids", "1", "--num-beams", "2", "--stream"], "--stream"),
    ];
    for (extra, word) in wrong {
        let line = fails(&[&["generate", "--model", path], extra].concat());
        assert!(line.contains(word), "{extra:?}: {line}");
    }
    let line = fails(&["chat", "--model", path]);
    assert!(line.contains("tokenizer"), "{line}");
}
