//! `tx train`, as a user runs it: what it learns, how it goes on after it was killed, and what it says about broken input.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_core::weights::synth::Recipe;
use tx_tests::tx;

/// How often a run is killed.
const KILLS: u64 = 20;

/// A folder with a model, rows and a configuration.
struct Run {
    folder: TempDir,
}

impl Run {
    /// The model that tells stories, before it has learned anything.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/stories");
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(source.join(name), model.join(name)).unwrap();
        }
        Recipe::from_file(&source.join("weights.json")).unwrap().write(&model, MAX_SHARD_SIZE).unwrap();
        let mut rows = String::new();
        for row in 0..41 {
            let words = ["The fox", "found", "a small", "seed", "and", "was", "very", "happy."];
            let text: Vec<&str> = (0..2 + row * 7 % 11).map(|i| words[(row + i * i) % words.len()]).collect();
            writeln!(rows, "{}", json!({ "text": text.join(" ") })).unwrap();
        }
        let run = Self { folder };
        run.write("rows.jsonl", &rows);
        run.write(
            "run.json",
            &json!({
                "model": model,
                "task": "causal-lm",
                "data": { "train": run.path("rows.jsonl"), "eval": run.path("rows.jsonl"), "grouping": "lines" },
                "training": {
                    "max_steps": 12,
                    "per_device_train_batch_size": 4,
                    "gradient_accumulation_steps": 2,
                    "learning_rate": 1e-3,
                    "warmup_steps": 3,
                    "weight_decay": 0.1,
                    "logging_steps": 1,
                    "save_steps": 2,
                    "disable_tqdm": true,
                },
            })
            .to_string(),
        );
        run
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, output: &str, more: &[&str]) -> Command {
        let mut command = Command::new(tx().unwrap());
        command.arg("train").arg(self.path("run.json")).args(more);
        command.arg("--set").arg(format!("output_dir={}", self.path(output).display()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn train(&self, output: &str, more: &[&str]) -> Output {
        self.command(output, more).output().unwrap()
    }

    /// The one line that a run fails with.
    fn fails(&self, output: &str, more: &[&str]) -> String {
        let ran = self.train(output, more);
        let text = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{text}");
        text
    }

    /// What a run ends with: the weights, and what its last checkpoint goes on with.
    fn end(&self, output: &str) -> [Vec<u8>; 3] {
        let folder = self.path(output);
        ["model.safetensors", "checkpoint-12/optimizer.safetensors", "checkpoint-12/scheduler.json"]
            .map(|name| fs::read(folder.join(name)).unwrap())
    }

    fn losses(&self, output: &str) -> Vec<f64> {
        let log = fs::read_to_string(self.path(output).join("log.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line.get("loss").and_then(Value::as_f64)).collect()
    }
}

fn succeeded(ran: &Output) {
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

fn has_checkpoint(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"))
}

#[test]
fn a_run_learns_and_its_folder_is_a_model() {
    let run = Run::new();
    succeeded(&run.train("out", &[]));
    let losses = run.losses("out");
    assert!(losses.len() == 12 && losses[11] < 0.7 * losses[0], "{losses:?}");
    let mut generate = Command::new(tx().unwrap());
    let generated = generate.args(["run", "text-generation", "--model"]).arg(run.path("out")).arg("The fox").output();
    succeeded(&generated.unwrap());
    let mut eval = Command::new(tx().unwrap());
    eval.args(["eval", "--json", "--task", "causal-lm", "--set", "grouping=lines", "--data"]);
    let ran = eval.arg(run.path("rows.jsonl")).arg(run.path("out")).output().unwrap();
    succeeded(&ran);
    let metrics: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(metrics["eval_loss"].as_f64().unwrap() < losses[0], "{metrics}");
}

#[test]
fn killed_at_any_moment_a_run_goes_on_as_if_nothing_had_been() {
    let run = Run::new();
    let start = Instant::now();
    succeeded(&run.train("whole", &[]));
    let (duration, whole) = (start.elapsed(), run.end("whole"));
    let mut state = 1u64;
    for kill in 0..KILLS {
        let output = format!("killed-{kill}");
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = duration.mul_f64((state >> 11) as f64 / (1u64 << 53) as f64);
        let mut child = run.command(&output, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(moment.max(Duration::from_millis(1)));
        child.kill().unwrap();
        child.wait().unwrap();
        let more: &[&str] = if has_checkpoint(&run.path(&output)) { &["--resume"] } else { &[] };
        succeeded(&run.train(&output, more));
        assert!(run.end(&output) == whole, "killed after {moment:?} of {duration:?}");
    }
}

#[test]
fn broken_input_is_named() {
    let run = Run::new();
    let rows = fs::read_to_string(run.path("rows.jsonl")).unwrap();
    assert!(run.fails("a", &["--set", "lerning_rate=1"]).contains("did you mean `learning_rate`"));
    assert!(run.fails("b", &["--resume"]).contains("no complete checkpoint"));
    run.write("rows.jsonl", &(rows.clone() + "{\"text\": 5}\n"));
    let error = run.fails("c", &[]);
    assert!(error.contains("rows.jsonl: line 42: column `text`"), "{error}");
    run.write("rows.jsonl", &(rows.clone() + "{\"text\": \n"));
    assert!(run.fails("d", &[]).contains("line 42"));
    run.write("rows.jsonl", "{\"txt\": \"a\"}\n");
    let error = run.fails("e", &[]);
    assert!(error.contains("no column `text`") && error.contains("did you mean"), "{error}");
    run.write("rows.jsonl", &rows);
    // A loss that is no number ends the run, with the step and its rows, and leaves the checkpoints before it.
    let error = run.fails("f", &["--set", "learning_rate=1e30", "--set", "warmup_steps=0", "--set", "save_steps=1"]);
    assert!(error.contains("step ") && error.contains("rows.jsonl: line "), "{error}");
    assert!(has_checkpoint(&run.path("f")));
}
