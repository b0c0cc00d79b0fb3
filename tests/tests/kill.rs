//! A small run that is killed twenty times, at moments that nobody chose: it must end as if nothing had happened.
//!
//! The moments follow from `TX_KILL_SEED`, which is printed if it fails; `TX_KILLS` says how many there are.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_core::weights::synth::Recipe;
use tx_tests::tx;
use tx_train::data::Random;

/// How many updates the run has; each is saved.
const STEPS: u64 = 40;

struct Workshop {
    folder: TempDir,
}

impl Workshop {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = PathBuf::from("data/pipelines/text-classification");
        let model = folder.path().join("model");
        fs::create_dir(&model)?;
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(source.join(name), model.join(name))?;
        }
        Recipe::from_file(&source.join("weights.json"))?.write(&model, MAX_SHARD_SIZE)?;
        let mut rows = String::new();
        for row in 0..23usize {
            let text = "nobody saw the great film ".repeat(1 + row % 3);
            writeln!(rows, "{}", json!({ "text": text, "label": (["joy", "fear"][row % 2]) }))?;
        }
        fs::write(folder.path().join("rows.jsonl"), rows)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a run, which goes on if it can.
    fn start(&self, name: &str) -> Result<Child> {
        let recipe = self.path(&format!("{name}.toml"));
        let text = format!(
            "model = {:?}\ntask = 'text-classification'\n[data]\ntrain = {:?}\neval = {:?}\n\
             [training]\noutput_dir = {:?}\n\
             per_device_train_batch_size = 4\ngradient_accumulation_steps = 2\nmax_steps = {STEPS}\nsave_steps = 1\n\
             save_total_limit = 3\nlogging_steps = 3\neval_strategy = 'steps'\neval_steps = 7\nlearning_rate = 1e-3\n\
             warmup_steps = 5\nearly_stopping_patience = 100\nmetric_for_best_model = 'loss'\n",
            self.path("model"),
            self.path("rows.jsonl"),
            self.path("rows.jsonl"),
            self.path(name),
        );
        fs::write(&recipe, text)?;
        let mut command = Command::new(tx()?);
        command.args(["train", recipe.to_str().context("a path")?, "--threads", "1"]).env("HF_HUB_OFFLINE", "1");
        if self.has_checkpoint(name) {
            command.arg("--resume");
        }
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
    }

    fn has_checkpoint(&self, name: &str) -> bool {
        let Ok(entries) = fs::read_dir(self.path(name)) else { return false };
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"))
    }

    fn finish(&self, name: &str) -> Result<()> {
        let output = self.start(name)?.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What a run has learned, and what it logged, but for times and paths.
    fn result(&self, name: &str) -> Result<Vec<Vec<u8>>> {
        let checkpoint = format!("{name}/checkpoint-{STEPS}");
        let files = ["model.safetensors", "optimizer.safetensors", "scheduler.json", "rng_state.json"];
        let mut result = vec![fs::read(self.path(&format!("{name}/model.safetensors")))?];
        for file in files {
            result.push(fs::read(self.path(&format!("{checkpoint}/{file}")))?);
        }
        let state = fs::read(self.path(&format!("{checkpoint}/trainer_state.json")))?;
        let state: serde_json::Value = serde_json::from_slice(&state)?;
        let losses = state["log_history"].as_array().into_iter().flatten();
        let losses = losses.map(|line| format!("{} {} {}", line["step"], line["loss"], line["eval_loss"]));
        result.push(losses.collect::<Vec<_>>().join("\n").into_bytes());
        Ok(result)
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been() -> Result<()> {
    let (seed, kills) = (number("TX_KILL_SEED", 1), number("TX_KILLS", 20));
    let workshop = Workshop::new()?;
    let begin = Instant::now();
    workshop.finish("whole")?;
    let whole = begin.elapsed();
    let expected = workshop.result("whole")?;

    let mut random = Random::new(&[seed]);
    let (mut killed, mut run) = (0, 0);
    while killed < kills {
        let mut child = workshop.start(&format!("run-{run}"))?;
        thread::sleep(whole.mul_f64(random.uniform()));
        // One that has ended is compared, and another one begins.
        match child.try_wait()? {
            None => {
                child.kill()?;
                child.wait()?;
                killed += 1;
            }
            Some(status) => {
                let message = child.wait_with_output()?.stderr;
                ensure!(status.success(), "seed {seed}: {}", String::from_utf8_lossy(&message));
                ensure!(
                    workshop.result(&format!("run-{run}"))? == expected,
                    "seed {seed}: run {run} ended in another way"
                );
                run += 1;
            }
        }
    }
    let name = format!("run-{run}");
    workshop.finish(&name).with_context(|| format!("seed {seed}"))?;
    let found = workshop.result(&name)?;
    for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
        ensure!(found == expected, "seed {seed}: part {part} differs after {killed} kills");
    }
    let left: Vec<_> = fs::read_dir(workshop.path(&name))?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!left.iter().any(|file| file.to_string_lossy().starts_with(".tx-unfinished")), "{left:?}");
    Ok(())
}

/// A second run in the same folder is kept out as long as the first one lives.
#[test]
fn two_runs_do_not_share_a_folder() -> Result<()> {
    let workshop = Workshop::new()?;
    let mut first = workshop.start("run")?;
    let begin = Instant::now();
    while !workshop.has_checkpoint("run") && begin.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(5));
    }
    let running = first.try_wait()?.is_none();
    let second = workshop.start("run")?.wait_with_output()?;
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    let kept_out = !second.status.success() && message.contains("another run writes to");
    let still = first.try_wait()?.is_none();
    first.kill()?;
    first.wait()?;
    ensure!(kept_out || !running || !still, "{message}");
    Ok(())
}
