//! `cargo xtask`: checks, references, conversion and generated documents of `tx`.
#![allow(clippy::print_stdout, reason = "the results of a program")]

mod adapters;
mod bench;
mod ci;
mod codegen;
mod conversion;
mod digits;
mod models;
mod random;
mod reference;
mod stories;
mod tidy;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

/// Checks, references, conversion and generated documents of tx.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold before a change lands: format, lints, invariants, documents, tests.
    Ci,
    /// Check the invariants of ARCHITECTURE.md.
    Tidy,
    /// Write the generated tables of the README and the model pages of `docs/models`.
    Codegen {
        /// Fail instead of writing where something is out of date.
        #[arg(long)]
        check: bool,
    },
    /// Record reference cases with the pinned Python, which is installed on first use.
    Reference(reference::ReferenceArgs),
    /// Save every case of some architectures with tx, or train adapters, and load them with the pinned Python.
    Roundtrip(reference::RoundtripArgs),
    /// Run the recorded cases on a GPU: compiles the backend, which takes a while.
    Gpu(ci::GpuArgs),
    /// Write a checkpoint with weights from a hash: of a recorded case, or of any `config.json` at full size.
    Synth(models::SynthArgs),
    /// Print the tensors of a weight file or folder as a tree.
    Keys(models::KeysArgs),
    /// Start a new architecture from the file of a similar one.
    NewModel(models::NewModelArgs),
    /// Convert a checkpoint between safetensors, PyTorch and burn's own format.
    Convert(conversion::ConvertArgs),
    /// Write the stories that the model `tx/stories` learns from, and train its tokenizer.
    Stories(stories::StoriesArgs),
    /// Write the pictures that the model `tx/digits` learns from.
    Digits(digits::DigitsArgs),
    /// Measure tx beside Python, and beside what the machine can do.
    Bench(bench::BenchArgs),
    /// One side of a measurement; `bench` starts it.
    #[command(hide = true)]
    BenchWorker(bench::WorkerArgs),
}

fn main() -> ExitCode {
    match perform(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Ci => ci::ci(),
        Task::Tidy => tidy::tidy(),
        Task::Codegen { check } => codegen::codegen(check),
        Task::Reference(args) => reference::reference(&args),
        Task::Roundtrip(args) => reference::roundtrip(&args),
        Task::Gpu(args) => ci::gpu(&args),
        Task::Synth(args) => models::synth(&args),
        Task::Keys(args) => models::keys(&args),
        Task::NewModel(args) => models::new_model(&args),
        Task::Convert(args) => conversion::convert(&args),
        Task::Stories(args) => stories::stories(&args),
        Task::Digits(args) => digits::digits(&args),
        Task::Bench(args) => bench::bench(&args),
        Task::BenchWorker(args) => bench::worker(&args),
    }
}

/// The folder of the workspace: the one that this command was called in, wherever it was compiled.
fn root() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors().find(|folder| folder.join("xtask/Cargo.toml").is_file()).unwrap_or(&here).to_path_buf()
}

/// Runs a command in the workspace's folder; its output is the user's.
fn run(command: &mut Command) -> Result<()> {
    let text = format!("{command:?}").replace('"', "");
    eprintln!("$ {text}");
    let status = command.current_dir(root()).status().with_context(|| text.clone())?;
    ensure!(status.success(), "`{text}` failed");
    Ok(())
}

/// The cargo that runs this task.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A folder for what is installed or built outside of the workspace: `$XDG_CACHE_HOME/tx`.
fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("tx"))
}
