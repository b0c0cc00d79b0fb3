//! The models that ship with tx: they run where none is named, from a cache that is empty or cannot be written.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tx_tests::models;

use crate::program::{Ran, command};

const STORY: [&str; 5] = ["run", "text-generation", "Once upon a time", "--seed", "1"];

/// The program with a cache of its own.
fn tx_at(home: &Path, args: &[&str]) -> Ran {
    let ran = Ran::from(command(args).env("HF_HOME", home).output().unwrap());
    assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    ran
}

#[test]
fn a_story_is_told_without_a_model_and_a_network() {
    let home = tempfile::tempdir().unwrap();
    let ran = tx_at(home.path(), &STORY);
    assert!(ran.err.contains("tx/stories") && ran.err.lines().count() == 1, "{ran:?}");
    assert!(ran.out.starts_with("Once upon a time,") && ran.out.split_whitespace().count() > 40, "{ran:?}");
    assert!(ran.out.trim_end().ends_with(['.', '!', '"']), "{ran:?}");
    // The same again, from what the first run has unpacked; and with the name.
    assert_eq!(tx_at(home.path(), &STORY).out, ran.out);
    let named = tx_at(home.path(), &[&STORY[..], &["--model", "tx/stories"]].concat());
    assert!(named.out == ran.out && named.err.is_empty(), "{named:?}");
    let prompt = ["generate", "--prompt", "Once upon a time", "--seed", "1"];
    assert_eq!(tx_at(home.path(), &prompt).out, ran.out);
    let info: Value = serde_json::from_str(&tx_at(home.path(), &["info", "tx/stories", "--json"]).out).unwrap();
    assert_eq!(info["model_type"], "llama", "{info}");
    assert_eq!(info["supported"], true, "{info}");
}

#[test]
fn a_digit_is_read_without_a_model_and_a_network() {
    let home = tempfile::tempdir().unwrap();
    let picture = models().join("digits/example.png");
    let ran = tx_at(home.path(), &["run", "image-classification", "--json", picture.to_str().unwrap()]);
    let labels: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(labels[0]["label"], "8", "{labels}");
    assert!(labels[0]["score"].as_f64().unwrap() > 0.5, "{labels}");
}

#[test]
fn a_cache_that_cannot_be_written_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let (file, temporary) = (folder.path().join("file"), folder.path().join("tmp"));
    fs::write(&file, "no folder").unwrap();
    fs::create_dir(&temporary).unwrap();
    let output = command(&STORY).env("HF_HOME", &file).env("TMPDIR", &temporary).output().unwrap();
    let ran = Ran::from(output);
    assert!(ran.code == Some(0) && ran.out.starts_with("Once upon a time,"), "{ran:?}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), "no folder");
}
