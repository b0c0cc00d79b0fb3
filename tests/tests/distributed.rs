//! Processes that train together, started by `mpirun` on this machine.
//!
//! `cargo test --workspace --features tx-tests/mpi --test distributed` runs them, where Open MPI is installed. This
//! program is also what some of them run: with a variable that says which.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tx_core::Error;
use tx_train::distributed::{self, Communicator, Options};

/// The variable that says what a rank does.
const RANK: &str = "TX_TEST_RANK";
/// The folder that ranks write to.
const FOLDER: &str = "TX_TEST_FOLDER";
/// How long ranks may wait, and the longest that a failure may take to be noticed.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let with_mpi: [(&str, fn() -> Result<()>); 4] = [
        ("ranks_exchange_what_they_have", exchange),
        ("an_error_of_one_rank_ends_all", failing),
        ("a_killed_rank_ends_the_others", killed),
        ("others_that_are_not_killed_end_by_themselves", recovered),
    ];
    let mut trials = vec![alone.with_ignored_flag(cfg!(feature = "mpi"))];
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
        "killed" => killed_on(&*ranks, &folder),
        other => bail!("no rank does `{other}`"),
    };
    // As a trainer does: rank 0 keeps what it has, whatever the reason.
    if let Err(error) = &result
        && ranks.is_main()
    {
        std::fs::write(folder.join("saved"), format!("{error:#}"))?;
    }
    result?;
    std::fs::write(folder.join(format!("done-{}", ranks.rank())), "")?;
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
    let saved = std::fs::read_to_string(folder.path().join("saved")).with_context(|| text(&output))?;
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
    let saved = std::fs::read_to_string(folder.path().join("saved")).with_context(|| text(&output))?;
    // Open MPI says 0 where it was told to recover.
    ensure!(options.is_empty() != output.status.success(), "{:?}: {}", output.status, text(&output));
    ensure!(saved.starts_with("rank 2: its process ") && saved.contains("has ended"), "{saved}");
    ensure!(begin.elapsed() < PATIENCE, "it took {:?}", begin.elapsed());
    Ok(())
}

/// The last of the ranks dies while the others wait for it.
fn killed_on(ranks: &dyn Communicator, folder: &Path) -> Result<()> {
    for step in 0.. {
        if step == 5 && ranks.rank() + 1 == ranks.size() {
            std::fs::write(folder.join("killed"), "")?;
            Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status()?;
            std::thread::sleep(PATIENCE);
        }
        let buckets = [ranks.all_reduce(vec![1.0; 1_000_000])?, ranks.all_reduce(vec![1.0; 10])?];
        for bucket in buckets {
            bucket.wait()?;
        }
    }
    Ok(())
}
