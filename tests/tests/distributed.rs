//! Ranks that train together: threads of one program, and processes that `mpirun` started on this machine.
//!
//! For processes, `cargo test --workspace --features tx-tests/mpi --test distributed` with Open MPI. This
//! program is also what some of them run: with a variable that says which.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;
use tx_core::Error;
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_core::weights::synth::Recipe;
use tx_tests::models;
use tx_train::distributed::{self, Communicator, Options};
use tx_train::logging::LOG_FILE;

/// The variable that says what a rank does.
const RANK: &str = "TX_TEST_RANK";
/// The folder that ranks write to.
const FOLDER: &str = "TX_TEST_FOLDER";
/// How long ranks may wait, and the longest that a failure may take to be noticed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far losses of several processes may be from those of one, of their size.
const TOLERANCE: f64 = 1e-5;

fn main() -> ExitCode {
    if let Ok(what) = std::env::var(RANK) {
        return match rank(&what) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    // Every trial has several processes.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    let alone = Trial::test("without_mpi_several_processes_are_an_error", || check(without_mpi()));
    let needs = match (cfg!(feature = "mpi"), Command::new("mpirun").arg("--version").output()) {
        (false, _) => Some("skipped: needs the feature `mpi`"),
        (_, Err(_)) => Some("skipped: needs `mpirun`"),
        _ => None,
    };
    #[expect(clippy::type_complexity, reason = "a table")]
    let with_mpi: [(&str, fn() -> Result<()>); 7] = [
        ("ranks_exchange_what_they_have", exchange),
        ("an_error_of_one_rank_ends_all", failing),
        ("a_killed_rank_ends_the_others", killed),
        ("others_that_are_not_killed_end_by_themselves", recovered),
        ("two_processes_learn_as_one_with_twice_the_batch", same_curve),
        ("a_run_goes_on_after_a_process_was_killed", resumed),
        ("processes_with_other_arguments_or_data_do_not_begin", differing),
    ];
    let threads = Trial::test("ranks_on_devices_learn_as_one_with_twice_the_batch", || check(on_devices()));
    let mut trials = vec![alone.with_ignored_flag(cfg!(feature = "mpi")), threads];
    for (name, run) in with_mpi {
        let trial = Trial::test(name, move || check(run()));
        trials.push(trial.with_kind(needs.unwrap_or_default()).with_ignored_flag(needs.is_some()));
    }
    trials
}

fn check(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| format!("{error:#}").into())
}

/// This program as a number of ranks.
fn ranks(what: &str, count: usize, options: &[&str], folder: &Path) -> Result<Output> {
    let mut command = mpirun(count, options);
    command.arg(std::env::current_exe()?).env(RANK, what).env(FOLDER, folder);
    command.output().context("mpirun")
}

/// `mpirun` on this machine alone, also as root and on few cores.
fn mpirun(count: usize, options: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none", "-n", &count.to_string()]).args(options);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("OMPI_MCA_btl", "self,vader").env("OMPI_MCA_oob_tcp_if_include", "lo");
    command.stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a rank of this program does.
fn rank(what: &str) -> Result<()> {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap_or_default());
    let ranks = distributed::connect(Options { timeout: PATIENCE, ..Options::default() })?;
    let result = match what {
        "exchange" => exchange_on(&*ranks),
        "failing" => failing_on(&*ranks),
        "killed" => killed_on(&*ranks),
        other => bail!("no rank does `{other}`"),
    };
    // As a trainer does: rank 0 keeps what it has, whatever the reason.
    if let Err(error) = &result
        && ranks.is_main()
    {
        fs::write(folder.join("saved"), format!("{error:#}"))?;
    }
    result?;
    fs::write(folder.join(format!("done-{}", ranks.rank())), "")?;
    Ok(ranks.finish()?)
}

fn without_mpi() -> Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .env(RANK, "exchange")
        .env("OMPI_COMM_WORLD_SIZE", "2")
        .stdin(Stdio::null())
        .output()?;
    let text = text(&output);
    ensure!(!output.status.success() && text.contains("build with `--features mpi`"), "{text}");
    Ok(())
}

fn exchange() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = ranks("exchange", 3, &[], folder.path())?;
    ensure!(output.status.success(), "{}", text(&output));
    for rank in 0..3 {
        ensure!(folder.path().join(format!("done-{rank}")).is_file(), "rank {rank} did not finish: {}", text(&output));
    }
    Ok(())
}

/// Sums of every size, several at once, and bytes from every rank.
fn exchange_on(ranks: &dyn Communicator) -> Result<()> {
    let (own, size) = (ranks.rank(), ranks.size());
    ensure!(size == 3, "{size} ranks");
    distributed::check_same(ranks, "numbers", &[7])?;
    for round in 0..5 {
        let values = |len: usize, rank: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * 31 + rank * 7 + round) % 1000) as f32 / 8.0).collect()
        };
        let lens = [1, 1000, 6_553_600, 3, 0];
        let under_way: Vec<_> = lens.iter().map(|&len| ranks.all_reduce(values(len, own))).collect::<Result<_, _>>()?;
        for (len, sums) in lens.into_iter().zip(under_way) {
            let sums = sums.wait()?;
            let of_rank: Vec<Vec<f32>> = (0..size).map(|rank| values(len, rank)).collect();
            ensure!(sums.len() == len, "{} sums of {len}", sums.len());
            let wrong = (0..len).find(|&i| sums[i] != of_rank.iter().map(|values| values[i]).sum::<f32>());
            ensure!(wrong.is_none(), "sum {wrong:?} of {len}");
        }
        let mut numbers = [own as f64, 0.5, round as f64];
        ranks.sum(&mut numbers)?;
        ensure!(numbers == [3.0, 1.5, 3.0 * round as f64], "{numbers:?}");
        let bytes: Vec<u8> = (0..100_000 * own).map(|i| (i % 251) as u8).collect();
        let all = distributed::gather(ranks, &bytes)?;
        ensure!(all.iter().map(Vec::len).eq([0, 100_000, 200_000]) && all[own] == bytes, "gathered bytes");
        ranks.barrier()?;
    }
    match distributed::check_same(ranks, "weights", &[u8::from(own == 2)]) {
        Err(Error::Distributed { rank: Some(2), .. }) => Ok(()),
        other => bail!("weights that differ: {other:?}"),
    }
}

fn failing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = ranks("failing", 2, &[], folder.path())?;
    let saved = fs::read_to_string(folder.path().join("saved")).with_context(|| text(&output))?;
    ensure!(output.status.code() == Some(1), "{:?}: {}", output.status, text(&output));
    ensure!(saved.starts_with("rank 1: row 7: nothing, expected a text; go on from the last checkpoint"), "{saved}");
    Ok(())
}

/// The last of the ranks cannot read its rows.
fn failing_on(ranks: &dyn Communicator) -> Result<()> {
    for step in 0.. {
        let rows = match step {
            5 if ranks.rank() + 1 == ranks.size() => Err(Error::input("row 7", "nothing", "a text")),
            _ => Ok(()),
        };
        distributed::agree(ranks, rows)?;
        ranks.all_reduce(vec![1.0; 1000])?.wait()?;
    }
    Ok(())
}

fn killed() -> Result<()> {
    loses_a_rank(&[])
}

fn recovered() -> Result<()> {
    loses_a_rank(&["--enable-recovery"])
}

fn loses_a_rank(options: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let begin = Instant::now();
    let output = ranks("killed", 3, options, folder.path())?;
    let saved = fs::read_to_string(folder.path().join("saved")).with_context(|| text(&output))?;
    // Open MPI says 0 where it was told to recover.
    ensure!(options.is_empty() != output.status.success(), "{:?}: {}", output.status, text(&output));
    ensure!(saved.starts_with("rank 2: its process ") && saved.contains("has ended"), "{saved}");
    ensure!(begin.elapsed() < PATIENCE, "it took {:?}", begin.elapsed());
    Ok(())
}

/// The last of the ranks dies while the others wait for it.
fn killed_on(ranks: &dyn Communicator) -> Result<()> {
    for step in 0.. {
        if step == 5 && ranks.rank() + 1 == ranks.size() {
            Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status()?;
            thread::sleep(PATIENCE);
        }
        let buckets = [ranks.all_reduce(vec![1.0; 1_000_000])?, ranks.all_reduce(vec![1.0; 10])?];
        for bucket in buckets {
            bucket.wait()?;
        }
    }
    Ok(())
}

/// A small model, its rows, and the folders of runs.
struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// The story model before its training, and rows of very different lengths that do not fill the last batch.
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let model = folder.path().join("model");
        fs::create_dir(&model)?;
        let source = models().join("stories");
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(source.join(name), model.join(name)).with_context(|| name.to_owned())?;
        }
        Recipe::from_file(&source.join("weights.json"))?.write(&model, MAX_SHARD_SIZE)?;
        let mut rows = String::new();
        for row in 0..43 {
            let words = ["The fox", "found", "a small", "seed", "and", "was", "very", "happy."];
            let text: Vec<&str> = (0..1 + row * 7 % 19).map(|i| words[(row + i * i) % words.len()]).collect();
            writeln!(rows, "{}", serde_json::json!({ "text": text.join(" ") }))?;
        }
        fs::write(folder.path().join("rows.jsonl"), rows)?;
        Ok(Self { folder })
    }

    /// Where a run writes.
    fn run(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration of a run, with other arguments besides.
    fn recipe(&self, name: &str, batch: usize, steps: u64, arguments: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("{name}-{steps}.toml"));
        let recipe = format!(
            "model = {:?}
task = \"causal-lm\"

[data]
train = {:?}
text_column = \"text\"
grouping = \"lines\"

[training]
output_dir = {:?}
per_device_train_batch_size = {batch}
max_steps = {steps}
learning_rate = 1e-3
lr_scheduler_type = \"constant\"
weight_decay = 0.1
logging_steps = 1
disable_tqdm = true
{arguments}
",
            self.folder.path().join("model"),
            self.folder.path().join("rows.jsonl"),
            self.run(name),
        );
        fs::write(&path, recipe)?;
        Ok(path)
    }

    /// The loss of every step, from one step on.
    fn losses(&self, name: &str, from: u64) -> Vec<(u64, f64)> {
        let text = fs::read_to_string(self.run(name).join(LOG_FILE)).unwrap_or_default();
        let mut losses = Vec::new();
        // The last line may be on its way.
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let (Some(step), Some(loss)) = (line["step"].as_u64(), line["loss"].as_f64())
                && step >= from
            {
                losses.push((step, loss));
            }
        }
        losses
    }
}

/// Trains with a number of processes; one without `mpirun`.
fn train(processes: usize, recipe: &Path) -> Result<Command> {
    let mut command = match processes {
        1 => Command::new(tx_tests::tx()?),
        _ => {
            let mut command = mpirun(processes, &[]);
            command.arg(tx_tests::tx()?);
            command
        }
    };
    command.arg("train").arg(recipe).env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    Ok(command)
}

fn succeed(mut command: Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{:?}: {}", output.status, text(&output));
    Ok(())
}

fn ensure_same(found: &[(u64, f64)], expected: &[(u64, f64)]) -> Result<()> {
    let steps = |losses: &[(u64, f64)]| losses.iter().map(|&(step, _)| step).collect::<Vec<_>>();
    ensure!(!found.is_empty() && steps(found) == steps(expected), "steps {:?} {:?}", steps(found), steps(expected));
    for (&(step, found), &(_, expected)) in found.iter().zip(expected) {
        let fine = (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0);
        ensure!(fine, "step {step}: loss {found}, expected {expected}");
    }
    Ok(())
}

fn same_curve() -> Result<()> {
    let workshop = Workshop::new()?;
    // Nine steps with a batch of three reach the last row of an epoch, of which one of two processes gets none.
    let cases = [("plain", 4, 14, ""), ("accumulated", 4, 14, "gradient_accumulation_steps = 2"), ("short", 3, 9, "")];
    for (name, batch, steps, arguments) in cases {
        let arguments = format!("{arguments}\nsave_strategy = \"no\"");
        let (two, one) = (format!("{name}-two"), format!("{name}-one"));
        succeed(train(2, &workshop.recipe(&two, batch, steps, &arguments)?)?)?;
        succeed(train(1, &workshop.recipe(&one, 2 * batch, steps, &arguments)?)?)?;
        let (found, expected) = (workshop.losses(&two, 0), workshop.losses(&one, 0));
        ensure!(expected.len() as u64 == steps, "{name}: {} losses of {steps} steps", expected.len());
        ensure_same(&found, &expected).context(name)?;
    }
    Ok(())
}

fn on_devices() -> Result<()> {
    let workshop = Workshop::new()?;
    let mut two = train(1, &workshop.recipe("two", 2, 9, "")?)?;
    two.args(["--devices", "2"]);
    succeed(two)?;
    succeed(train(1, &workshop.recipe("one", 4, 9, "")?)?)?;
    ensure_same(&workshop.losses("two", 0), &workshop.losses("one", 0))?;
    // The checkpoint is that of all ranks.
    let mut resumed = train(1, &workshop.recipe("two", 2, 12, "resume_from_checkpoint = true")?)?;
    resumed.args(["--devices", "2"]);
    succeed(resumed)?;
    succeed(train(1, &workshop.recipe("one", 4, 12, "resume_from_checkpoint = true")?)?)?;
    ensure_same(&workshop.losses("two", 10), &workshop.losses("one", 10))?;
    // An error of the only rank that sees it ends all.
    let broken = fs::read_to_string(workshop.run("rows.jsonl"))?.replacen("\"text\"", "\"txet\"", 2);
    fs::write(workshop.run("rows.jsonl"), broken)?;
    let mut failing = train(1, &workshop.recipe("broken", 2, 9, "")?)?;
    let output = failing.args(["--devices", "2"]).output()?;
    let message = text(&output);
    ensure!(output.status.code() == Some(1) && message.contains("rows.jsonl"), "{:?}: {message}", output.status);
    let mut numbered = train(1, &workshop.recipe("numbered", 2, 9, "")?)?;
    let output = numbered.args(["--device", "cpu:0", "--devices", "2"]).output()?;
    let message = text(&output);
    ensure!(output.status.code() == Some(1) && message.contains("--devices: `--device cpu:0`"), "{message}");
    Ok(())
}

fn resumed() -> Result<()> {
    let workshop = Workshop::new()?;
    let endless = workshop.recipe("killed", 4, 1_000_000, "save_steps = 1000000")?;
    let mut command = train(2, &endless)?;
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let begin = Instant::now();
    while workshop.losses("killed", 0).len() < 6 && begin.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let victim = process_of_rank(1, &endless).context("no process of rank 1")?;
    Command::new("kill").args(["-KILL", &victim]).status()?;
    let output = child.wait_with_output()?;
    let message = text(&output);
    ensure!(!output.status.success() && message.contains("rank 1: its process"), "{:?}: {message}", output.status);

    let mut checkpoints = Vec::new();
    for entry in fs::read_dir(workshop.run("killed"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        checkpoints.extend(name.strip_prefix("checkpoint-").and_then(|step| step.parse::<u64>().ok()));
    }
    let step = checkpoints.into_iter().max().with_context(|| format!("no checkpoint was saved: {message}"))?;
    let steps = step + 4;
    succeed(train(2, &workshop.recipe("killed", 4, steps, "resume_from_checkpoint = true")?)?)?;
    succeed(train(1, &workshop.recipe("alone", 8, steps, "save_strategy = \"no\"")?)?)?;
    // What was logged after the checkpoint by the run that was killed comes first.
    let mut found = workshop.losses("killed", step + 1);
    found.drain(..found.len().saturating_sub(4));
    ensure_same(&found, &workshop.losses("alone", step + 1))
}

fn differing() -> Result<()> {
    let workshop = Workshop::new()?;
    let rows = fs::read_to_string(workshop.run("rows.jsonl"))?;
    let reversed: String = rows.lines().rev().map(|line| format!("{line}\n")).collect();
    fs::write(workshop.run("other.jsonl"), reversed)?;
    let recipe = workshop.recipe("one", 4, 3, "")?;
    let text_of_one = fs::read_to_string(&recipe)?;
    let program = tx_tests::tx()?;
    for (from, to) in [("rows.jsonl", "other.jsonl"), ("weight_decay = 0.1", "weight_decay = 0.2")] {
        let other = workshop.run("other.toml");
        fs::write(&other, text_of_one.replace(from, to))?;
        let mut command = mpirun(1, &[]);
        command.arg(&program).arg("train").arg(&recipe).args([":", "-n", "1"]);
        command.arg(&program).arg("train").arg(&other).env("HF_HUB_OFFLINE", "1");
        let output = command.output()?;
        let message = text(&output);
        ensure!(!output.status.success() && message.contains("its arguments or data differ"), "{to}: {message}");
        ensure!(workshop.losses("one", 0).is_empty(), "{to}: the run has begun");
    }
    Ok(())
}

/// The process of a rank that runs this recipe, as Linux lists it.
fn process_of_rank(rank: usize, recipe: &Path) -> Option<String> {
    let (name, recipe) = (format!("OMPI_COMM_WORLD_RANK={rank}"), recipe.to_str()?);
    let has = |path: PathBuf, part: &str| {
        fs::read(path).is_ok_and(|bytes| bytes.split(|&byte| byte == 0).any(|entry| entry == part.as_bytes()))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ours =
        processes.filter(|entry| has(entry.path().join("environ"), &name) && has(entry.path().join("cmdline"), recipe));
    Some(ours.next()?.file_name().to_string_lossy().into_owned())
}
