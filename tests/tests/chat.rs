//! Chat templates against Python's: every folder of `data/chat`, with the `expected.json` that `xtask reference` records.
//!
//! A folder holds a template in the published form of a family, and conversations with the arguments of Python's
//! `apply_chat_template`. Texts are compared exactly.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tx_core::error::Error;
use tx_core::tokenizer::{SpecialToken, SpecialTokens};
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_core::weights::synth::Recipe;
use tx_text::chat::{ChatOptions, ChatTemplate, Message, NaiveDateTime};

/// `cases.json`
#[derive(Deserialize)]
struct Cases {
    special_tokens: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Message>,
    options: ChatOptions,
}

/// An entry of `expected.json`.
#[derive(Deserialize)]
struct Expected {
    name: String,
    text: Option<String>,
    /// The assistant's parts: start and end in characters.
    #[serde(default)]
    assistant: Vec<(usize, usize)>,
    /// Which error Python raises: `template` or `input`.
    error: Option<String>,
    /// The words of the template's `raise_exception`.
    raised: Option<String>,
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn folders() -> Vec<PathBuf> {
    let data = PathBuf::from("data/chat");
    let mut folders: Vec<PathBuf> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("cases.json").is_file());
    folders.sort();
    assert!(folders.len() >= 12, "only {} templates in {}", folders.len(), data.display());
    folders
}

/// The time at which Python's clock stood: that of `goldens_chat.py`.
fn now() -> NaiveDateTime {
    "2026-03-14T15:09:26".parse().unwrap()
}

fn special_tokens(named: &Map<String, Value>) -> SpecialTokens {
    let mut special = SpecialTokens::default();
    for (name, text) in named {
        let token = Some(SpecialToken { text: text.as_str().unwrap().to_owned(), id: 0 });
        match name.as_str() {
            "bos_token" => special.bos = token,
            "eos_token" => special.eos = token,
            "unk_token" => special.unk = token,
            "pad_token" => special.pad = token,
            other => panic!("special token `{other}`"),
        }
    }
    special
}

fn compare(what: &str, template: &ChatTemplate, case: Case, expected: &Expected) {
    assert_eq!(case.name, expected.name, "{what}: record the goldens again");
    let options = ChatOptions { now: Some(now()), ..case.options };
    let rendered = template.render(&case.messages, &options);
    let Some(text) = &expected.text else {
        let error = rendered.err().unwrap_or_else(|| panic!("{what}: Python raises an error"));
        match expected.error.as_deref() {
            Some("template") => assert!(matches!(error, Error::Template { .. }), "{what}: {error}"),
            Some("input") => assert!(matches!(error, Error::Input { .. }), "{what}: {error}"),
            other => panic!("{what}: error {other:?}"),
        }
        if let (Some(raised), Error::Template { reason, line, .. }) = (&expected.raised, &error) {
            assert_eq!(reason, raised, "{what}");
            assert!(line.is_some(), "{what}: {error}");
        }
        return;
    };
    let rendered = rendered.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(&rendered.text, text, "{what}");
    let parts: Vec<Range<usize>> = expected.assistant.iter().map(|&(start, end)| start..end).collect();
    assert_eq!(rendered.assistant, parts, "{what}: the assistant's parts");
}

#[test]
fn texts_are_those_of_python() {
    let mut failed = Vec::new();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        // The first difference of every folder is printed, not only that of the first folder.
        let check = || {
            let cases: Cases = read(&folder.join("cases.json"));
            let expected: Vec<Expected> = read(&folder.join("expected.json"));
            assert_eq!(cases.cases.len(), expected.len(), "{name}: record the goldens again");
            let template = ChatTemplate::from_folder(&folder, &special_tokens(&cases.special_tokens)).unwrap();
            for (case, expected) in cases.cases.into_iter().zip(&expected) {
                let what = format!("{name}: {}", case.name);
                compare(&what, &template, case, expected);
            }
        };
        if catch_unwind(AssertUnwindSafe(check)).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "not as in Python: {failed:?}");
}

/// A template may be used from several threads at once.
#[test]
fn templates_are_shared() {
    let folder = PathBuf::from("data/chat/qwen3");
    let template = ChatTemplate::from_folder(&folder, &SpecialTokens::default()).unwrap();
    let options = ChatOptions { add_generation_prompt: true, ..Default::default() };
    let texts: Vec<String> = std::thread::scope(|scope| {
        let render = || template.render(&[Message::user("Hi")], &options).unwrap().text;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(render)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(texts.iter().all(|text| text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{texts:?}");
}

#[test]
fn a_conversation_goes_on_after_a_text_that_does_not_fit() {
    let model = tempfile::tempdir().unwrap();
    // A GPT-2 of 60 words and 40 positions.
    let data = PathBuf::from("data/generation/gpt2");
    for file in ["config.json", "generation_config.json"] {
        fs::copy(data.join(file), model.path().join(file)).unwrap();
    }
    Recipe::from_file(&data.join("weights.json")).unwrap().write(model.path(), MAX_SHARD_SIZE).unwrap();
    let vocab: Map<String, Value> = (0..60).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
    });
    fs::write(model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let class = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
    fs::write(model.path().join("tokenizer_config.json"), class.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
    fs::write(model.path().join("chat_template.jinja"), template).unwrap();

    let chat = |lines: &str, more: &[&str]| {
        let mut command = Command::new(tx_tests::tx().unwrap());
        command.args(["chat", "--no-sample", "--model"]).arg(model.path()).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{err}");
        (out, err)
    };
    let long = "w9 ".repeat(60);
    let four = ["--max-new-tokens", "4"];
    let (out, err) = chat(&format!("w7 w8 w9\n{long}\nw11\n"), &four);
    assert!(err.contains("input_ids: ") && err.contains("at most 40") && err.contains("/reset"), "{err}");
    // The answers are those of a conversation without the long text.
    assert_eq!(chat("w7 w8 w9\nw11\n", &four).0, out);
    assert_eq!(out.lines().count(), 2, "{out}");
    // Without a number of tokens, an answer takes what the context has left, after which nothing fits.
    let (out, err) = chat("w7 w8 w9\n/reset\nw7 w8 w9\n", &[]);
    let answers: Vec<&str> = out.lines().collect();
    assert!(answers.len() == 2 && answers[0] == answers[1] && !err.contains("input_ids"), "{out} {err}");
}
