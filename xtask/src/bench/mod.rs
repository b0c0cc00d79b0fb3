//! `cargo xtask bench`: tx beside Python and llama.cpp, on the same weights, inputs and number of threads, and beside
//! what the machine can do.
//!
//! Every side is a process of its own, which loads its model once. The sides take turns of about half a second, so that
//! a machine whose speed drifts slows all of them, and a ratio is that of turns which lie side by side.
//!
//! | file | holds |
//! |---|---|
//! | `workload.rs` | the workloads: how their sides are started, and what these have to agree in |
//! | `inputs.rs` | what the sides are given: models, token ids, sentences, numbers |
//! | `media.rs` | models of pictures and sounds: what is computed, and by the worker of tx |
//! | `side.rs` | a side: a worker that answers requests, or a program that is started anew each time |
//! | `worker.rs` | the worker of tx, which also measures the machine |
//! | `bound.rs`, `bound/media.rs` | the least time that the machine allows for a workload |
//! | `report.rs` | statistics, the table, the JSON |
//! | `xtask/bench/` | the workers in Python, and the packages they need |

mod bound;
mod inputs;
mod media;
mod report;
mod side;
mod train;
mod worker;
mod workload;

use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tempfile::TempDir;

use crate::{cache, cargo, reference, root, run};
use bound::Ceilings;
use report::{Difference, Measured, PeerMeasured, Report, SideMeasured, median};
use workload::{Peer, Workload};

pub use worker::{WorkerArgs, worker};

/// How long a side's turn is to take, in seconds.
const TURN: f64 = 0.5;
/// From so many seconds on a repetition brings its own data into the caches soon enough, and does not notice that threads of
/// the side before it still spin: it is timed from the first one on.
const LONG: f64 = 2.0;
/// The most repetitions in one turn.
const MAX_REPETITIONS: usize = 1000;

/// Measure against Python.
#[derive(Args)]
pub struct BenchArgs {
    /// What to measure, by name or by the beginning of several: bert, bert-int8, llama, vit, whisper, start …;
    /// everything if none is given.
    #[arg(value_name = "WORKLOAD")]
    workloads: Vec<String>,
    /// Whom to measure against: torch, with sentence-transformers where texts are embedded; onnxruntime; llama.cpp, for
    /// language models; or none.
    #[arg(long, value_name = "PEERS", value_delimiter = ',', default_values = ["torch", "onnxruntime"])]
    against: Vec<String>,
    /// Where tx computes: the processor, which is the device whose ceilings are measured.
    #[arg(long, value_parser = ["cpu"], default_value = "cpu")]
    device: String,
    /// The threads of every side; if not given, those that tx takes by itself.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How often every side has its turn.
    #[arg(long, value_name = "R", default_value = "5")]
    rounds: NonZeroUsize,
    /// A file for everything that was measured.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn bench(args: &BenchArgs) -> Result<()> {
    let workloads = workload::select(&args.workloads)?;
    let peers = Peer::select(&args.against)?;
    let threads = tx_core::threads::init(args.threads)?;
    let setup = Setup::new(threads, args.device.clone())?;
    run(cargo().args(["build", "--release", "--workspace"]))?;
    let ceilings = setup.ceilings()?;
    let mut report = Report::new(threads, args.rounds.get(), ceilings);
    eprintln!("{}", report.machine());
    let mut failed = Vec::new();
    for (name, workload) in workloads {
        match measure(name, workload, &peers, args.rounds.get(), &setup, &ceilings) {
            Ok(measured) => report.workloads.push(measured),
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    println!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

/// What all sides have in common.
struct Setup {
    threads: usize,
    device: String,
    /// Where cargo puts the programs of a release.
    release: PathBuf,
    /// For what the sides read and write.
    scratch: TempDir,
}

impl Setup {
    fn new(threads: usize, device: String) -> Result<Self> {
        // Profiles are neighbours.
        let program = std::env::current_exe()?;
        let target = program.parent().and_then(|profile| profile.parent());
        let release = target.context("this program does not lie in a target folder")?.join("release");
        Ok(Self { threads, device, release, scratch: tempfile::tempdir()? })
    }

    /// A command that uses no network and, whichever library it computes with, no other number of threads.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(root()).env("TRANSFORMERS_VERBOSITY", "error");
        for name in ["TX_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
            command.env(name, self.threads.to_string());
        }
        for name in ["HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "PYTHONDONTWRITEBYTECODE"] {
            command.env(name, "1");
        }
        command
    }

    /// The worker of tx; its work follows.
    fn tx(&self) -> Command {
        let mut command = self.command(self.release.join("xtask"));
        command.args(["bench-worker", "--device", &self.device, "--threads", &self.threads.to_string()]);
        command
    }

    /// A script of `xtask/bench`; its arguments follow.
    fn python(&self, script: &str) -> Result<Command> {
        let mut command = self.command(python()?);
        command.arg(root().join("xtask/bench").join(script));
        Ok(command)
    }

    /// The same for one that needs llama.cpp.
    fn llama_cpp(&self, script: &str) -> Result<Command> {
        install("requirements-llama.txt")?;
        self.python(script)
    }

    /// Measures what the machine can do.
    fn ceilings(&self) -> Result<Ceilings> {
        eprintln!("measuring the machine");
        let output = self.tx().arg("ceilings").stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the worker ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("the worker's ceilings")
    }
}

/// The interpreter of the references, with the packages of the peers.
fn python() -> Result<PathBuf> {
    install("requirements.txt")
}

/// The interpreter of the references, with the packages of a file of `xtask/bench`, which are installed on first use.
fn install(requirements: &str) -> Result<PathBuf> {
    let python = reference::python()?;
    let stamp = cache()?.join("python").join(format!("bench-{requirements}"));
    let requirements = root().join("xtask/bench").join(requirements);
    let wanted = fs::read_to_string(&requirements).with_context(|| requirements.display().to_string())?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements);
    // What the references were recorded with stays.
    run(pip.arg("--constraint").arg(root().join("xtask/reference/requirements.txt")))?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(python)
}

/// Starts the sides, makes sure that they compute the same, and lets them take turns.
fn measure(
    name: &'static str,
    workload: Workload,
    peers: &[Peer],
    rounds: usize,
    setup: &Setup,
    ceilings: &Ceilings,
) -> Result<Measured> {
    eprintln!("{name}: starting");
    let (mut sides, cost) = workload.start(peers, setup)?;
    let tokens = cost.as_ref().and_then(|cost| cost.tokens);
    let tx_output = sides[0].output()?;
    let mut differences = Vec::new();
    for side in &mut sides[1..] {
        let difference = Difference::new(&tx_output, &side.output()?, workload.rows())?;
        eprintln!("{name}: tx and {}: {difference}", side.name());
        workload.check(&difference).with_context(|| format!("{} computes something else than tx", side.name()))?;
        differences.push(difference);
    }

    let (mut repetitions, mut warm) = (Vec::new(), Vec::new());
    for side in &mut sides {
        let once = median(&side.seconds(1, false)?);
        repetitions.push(((TURN / once) as usize).clamp(1, MAX_REPETITIONS));
        warm.push(once < LONG);
    }
    eprintln!("{name}: {rounds} rounds, {repetitions:?} repetitions");
    let mut seconds = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for place in 0..sides.len() {
            // Another one begins each round: what comes first may find the processor cooler.
            let i = (round + place) % sides.len();
            seconds[i].push(sides[i].seconds(repetitions[i], warm[i])?);
        }
    }

    let mut results = Vec::new();
    for (mut side, seconds) in sides.into_iter().zip(seconds) {
        let peak_bytes = side.finish()?;
        results.push(SideMeasured::new(side.name().to_owned(), seconds, tokens, peak_bytes));
    }
    let tx = results.remove(0);
    let pairs = results.into_iter().zip(differences);
    let peers = pairs.map(|(side, difference)| PeerMeasured::new(&tx, side, difference)).collect();
    let bound = cost.map(|cost| cost.bound(ceilings));
    Ok(Measured::new(name, tx, bound, peers))
}
