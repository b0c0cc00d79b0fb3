//! Broken files and wrong input: each gives one line that names what is wrong, whatever it is.
//!
//! A [`Row`] takes a good folder, breaks it, runs the real `tx` on it, and says what the line must contain. The program
//! runs under a limit of its memory and of its time, and must leave nothing behind. Rows with exit code 0 are the good
//! folders themselves, so that a row fails for its own reason.
//!
//! | module | breaks |
//! |---|---|
//! | [`safetensors`] | the weights, their index, and how they fit the model |
//! | [`pickle`] | `pytorch_model.bin` |
//! | [`config`] | `config.json`, and the files of sentence-transformers |
//! | [`tokenizer`] | `tokenizer.json`, vocabularies, and what lies beside them |
//! | [`input`] | tensors, texts and the command line |
//! | [`folder`] | nothing: the good folders, and how files are changed |

#![allow(clippy::unwrap_used)]

mod config;
mod folder;
mod input;
mod pickle;
mod safetensors;
mod tokenizer;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};

use folder::Folder;

/// What a failing command may allocate, in KiB: 200 MB.
const MEMORY_KIB: u64 = 200_000_000 / 1024;
/// What it may map besides, files included, in KiB.
const ADDRESSES_KIB: u64 = 4_000_000;
/// How long it may take.
const TIME: Duration = Duration::from_secs(20);
/// The longest line of an error, in bytes.
const MAX_LINE: usize = 4096;
/// The fewest broken inputs that this test may shrink to.
const MIN_ROWS: usize = 150;

/// The folder of a classifier with its tokenizer, which every command below works on.
const CLASSIFIER: &str = "tests/data/pipelines/text-classification";

const INFO: &[&str] = &["info", "model"];
const RUN: &[&str] = &["run", "text-classification", "--model", "model", "I am happy"];
const EMBED: &[&str] = &["embed", "--model", "model", "I am happy"];
const FORWARD: &[&str] =
    &["forward", "--model", "model", "--inputs", "inputs.safetensors", "--outputs", "outputs.safetensors"];

/// One broken input.
struct Row {
    name: String,
    /// The good folder, below the repository's root.
    source: &'static str,
    /// Breaks it.
    spoil: Box<dyn Fn(&Folder) + Send>,
    /// The arguments of `tx`.
    command: Vec<String>,
    code: i32,
    /// What the line must contain.
    expected: Vec<String>,
}

impl Row {
    /// A row of [`CLASSIFIER`] that fails with exit code 1.
    fn new(
        name: impl Into<String>,
        command: &[&str],
        expected: &[&str],
        spoil: impl Fn(&Folder) + Send + 'static,
    ) -> Self {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Self {
            name: name.into(),
            source: CLASSIFIER,
            spoil: Box::new(spoil),
            command: texts(command),
            code: 1,
            expected: texts(expected),
        }
    }

    /// A row that succeeds: what the others break.
    fn good(name: &str, command: &[&str], prepare: impl Fn(&Folder) + Send + 'static) -> Self {
        Self::new(format!("good {name}"), command, &[], prepare).code(0)
    }

    fn code(self, code: i32) -> Self {
        Self { code, ..self }
    }

    fn of(self, source: &'static str) -> Self {
        Self { source, ..self }
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let modules = [
        ("safetensors", safetensors::rows()),
        ("pickle", pickle::rows()),
        ("config", config::rows()),
        ("tokenizer", tokenizer::rows()),
        ("input", input::rows()),
    ];
    let mut names = BTreeSet::new();
    let mut broken = 0;
    let mut trials = Vec::new();
    for (module, rows) in modules {
        for row in rows {
            let name = format!("{module}/{}", row.name);
            assert!(names.insert(name.clone()), "two rows are called `{name}`");
            broken += usize::from(row.code != 0);
            trials.push(Trial::test(name, move || check(&row).map_err(|e| format!("{e:#}").into())));
        }
    }
    assert!(broken >= MIN_ROWS, "{broken} broken inputs, expected at least {MIN_ROWS}");
    libtest_mimic::run(&arguments, trials).exit();
}

/// Breaks a folder, runs the command, and looks at what it says and leaves.
fn check(row: &Row) -> Result<()> {
    let folder = Folder::new(row.source)?;
    (row.spoil)(&folder);
    let before = folder.files()?;
    let Outcome { status, stdout, stderr } = run(&row.command, folder.root())?;
    ensure!(status.code() == Some(row.code), "{status}, expected exit code {}: {stderr}{stdout}", row.code);
    if row.code == 0 {
        ensure!(stderr.is_empty(), "succeeds, but says {stderr}");
        return Ok(());
    }
    ensure!(stdout.is_empty(), "fails, but prints {stdout}");
    ensure!(stderr.starts_with("error: "), "does not start with `error: `: {stderr}");
    for word in ["panicked", "backtrace", "BACKTRACE", "a bug of tx", ".rs:"] {
        ensure!(!stderr.contains(word), "contains `{word}`: {stderr}");
    }
    // What is wrong with the command line itself is said by its parser, with a hint on the lines that follow.
    if row.code == 1 {
        let line = stderr.strip_suffix('\n').context("no line end")?;
        ensure!(!line.contains(char::is_control), "more than one line, or a control character: {line:?}");
        ensure!(line.len() < MAX_LINE, "{} bytes, expected less than {MAX_LINE}", line.len());
    }
    for text in &row.expected {
        ensure!(stderr.contains(text), "`{text}` is not in: {stderr}");
    }
    let after = folder.files()?;
    ensure!(before == after, "left behind: {:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
    Ok(())
}

/// How a command ended.
struct Outcome {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// Runs `tx` in `folder`, without network and with an empty cache.
fn run(arguments: &[String], folder: &Path) -> Result<Outcome> {
    let program = program()?;
    let mut command = if cfg!(target_os = "linux") {
        // The second limit counts memory that is the process's own, the first one maps of files too. Exceeding either
        // makes an allocation fail, which ends the program with another exit code.
        let limits =
            format!("ulimit -c 0 && ulimit -v {ADDRESSES_KIB} && ulimit -d {MEMORY_KIB} && exec \"$0\" \"$@\"");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &limits]).arg(&program);
        shell
    } else {
        Command::new(&program)
    };
    // Files and not pipes, which a program that is never read could fill.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.args(arguments).current_dir(folder).env_clear();
    command.envs([("HF_HOME", "home"), ("HF_HUB_OFFLINE", "1"), ("RUST_BACKTRACE", "1")]);
    // The stacks of many threads would count as memory.
    command.env("RAYON_NUM_THREADS", "2");
    command.stdin(File::open(folder.join("stdin"))?).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut child = command.spawn().with_context(|| program.display().to_string())?;
    let deadline = Instant::now() + TIME;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                bail!("still runs after {} s; says: {}", TIME.as_secs(), text(&mut stderr)?);
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    Ok(Outcome { status, stdout: text(&mut stdout)?, stderr: text(&mut stderr)? })
}

/// All that was written to a file, of which the first megabyte is enough.
fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The program `tx` of the build that this test belongs to.
fn program() -> Result<PathBuf> {
    // <target>/<profile>/deps/bad_input-<hash>
    let test = std::env::current_exe()?;
    let profile = test.parent().and_then(Path::parent).with_context(|| test.display().to_string())?;
    let program = profile.join(format!("tx{}", std::env::consts::EXE_SUFFIX));
    ensure!(program.is_file(), "{}: not built yet; run `cargo build -p tx` in the same profile", program.display());
    Ok(program)
}
