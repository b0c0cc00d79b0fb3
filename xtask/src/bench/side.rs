//! One side of a comparison: a worker that holds its model and answers requests, or a program that is started anew for
//! each repetition.
//!
//! A worker says who it is, and then answers each line of its stdin with a line of its stdout. It computes only between
//! the two, so that at any time one side has the machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How often the memory of a program is looked at.
const SAMPLING: Duration = Duration::from_millis(1);

pub trait Side {
    /// The library, its version and, if there are several, the dtype it computes in.
    fn name(&self) -> &str;

    /// How long each of some repetitions took, in seconds, after one that is not timed if `warm`.
    fn seconds(&mut self, repetitions: usize, warm: bool) -> Result<Vec<f64>>;

    /// The numbers that one repetition computes.
    fn output(&mut self) -> Result<Vec<f32>>;

    /// Ends the side; gives the most memory that was resident, in bytes, on systems that tell.
    fn finish(&mut self) -> Result<Option<u64>>;
}

/// A process that answers requests.
pub struct Worker {
    name: String,
    /// The lengths of the sequences it computes, in tokens; only tx tells.
    pub lengths: Vec<usize>,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Where it puts the numbers that it computes.
    output: PathBuf,
}

/// The first line of a worker.
#[derive(Deserialize)]
struct Hello {
    name: String,
    #[serde(default)]
    lengths: Vec<usize>,
}

#[derive(Deserialize)]
struct Seconds {
    seconds: Vec<f64>,
}

#[derive(Deserialize)]
struct Written {
    values: usize,
}

#[derive(Deserialize)]
struct Ended {
    peak_bytes: Option<u64>,
}

impl Worker {
    /// Starts a worker and waits until it has loaded its model. `output` is a file that it may write.
    pub fn start(command: &mut Command, output: PathBuf) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(name.clone())?;
        let stdin = child.stdin.take().context("a worker without stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("a worker without stdout")?);
        let mut worker = Self { name, lengths: Vec::new(), child, stdin, stdout, output };
        Hello { name: worker.name, lengths: worker.lengths } = worker.answer()?;
        Ok(worker)
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Value) -> Result<T> {
        // A worker that is gone has no answer, which says more than a pipe that cannot be written to.
        let _ = writeln!(self.stdin, "{request}");
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("`{}` ended with {}; its message is above", self.name, self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("`{}` answered `{}`", self.name, line.trim_end()))
    }
}

impl Side for Worker {
    fn name(&self) -> &str {
        &self.name
    }

    fn seconds(&mut self, repetitions: usize, warm: bool) -> Result<Vec<f64>> {
        let Seconds { seconds } = self.ask(&json!({ "run": repetitions, "warm": warm }))?;
        ensure!(seconds.len() == repetitions, "`{}` ran {} times, not {repetitions}", self.name, seconds.len());
        Ok(seconds)
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        let path = self.output.clone();
        let Written { values } = self.ask(&json!({ "output": path }))?;
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(bytes.len() == values * size_of::<f32>(), "`{}` wrote {} bytes", self.name, bytes.len());
        let (values, _) = bytes.as_chunks();
        Ok(values.iter().map(|&value| f32::from_le_bytes(value)).collect())
    }

    fn finish(&mut self) -> Result<Option<u64>> {
        let Ended { peak_bytes } = self.ask(&json!({ "quit": true }))?;
        self.child.wait()?;
        Ok(peak_bytes)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After an error it would wait for ever; one that has ended cannot be killed, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that prints vectors as JSON.
pub struct Program {
    pub name: String,
    pub command: Command,
}

impl Program {
    fn run(&mut self) -> Result<()> {
        let status = self.command.stdin(Stdio::null()).stdout(Stdio::null()).status().context(self.name.clone())?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }
}

impl Side for Program {
    fn name(&self) -> &str {
        &self.name
    }

    fn seconds(&mut self, repetitions: usize, warm: bool) -> Result<Vec<f64>> {
        if warm {
            self.run()?;
        }
        let mut seconds = Vec::with_capacity(repetitions);
        for _ in 0..repetitions {
            let start = Instant::now();
            self.run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        let command = self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let output = command.output().context(self.name.clone())?;
        ensure!(output.status.success(), "{} ended with {}", self.name, output.status);
        let vectors: Vec<Vec<f32>> = serde_json::from_slice(&output.stdout).context(self.name.clone())?;
        Ok(vectors.concat())
    }

    /// One more run, which is not timed, as its memory is looked at all the while.
    fn finish(&mut self) -> Result<Option<u64>> {
        let mut child = self.command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context(self.name.clone())?;
        let mut peak = None;
        loop {
            peak = peak_bytes(child.id()).or(peak);
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{} ended with {status}", self.name);
                return Ok(peak);
            }
            sleep(SAMPLING);
        }
    }
}

/// The most memory that was resident in a process that still runs, in bytes; `None` where the system does not tell.
pub fn peak_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_worker_answers_and_its_mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"echo '{"name": "w 1", "lengths": [3]}'; read a; echo '{"seconds": [1, 2]}'; read a; echo no"#;
        let mut worker = Worker::start(&mut shell(script), folder.path().join("output")).unwrap();
        assert_eq!((worker.name(), &worker.lengths[..]), ("w 1", &[3][..]));
        assert_eq!(worker.seconds(2, false).unwrap(), [1.0, 2.0]);
        assert!(worker.output().unwrap_err().to_string().contains("`w 1` answered `no`"));
        assert!(worker.finish().unwrap_err().to_string().contains("`w 1` ended with"));
        let error = Worker::start(&mut shell("exit 3"), folder.path().join("output")).err().unwrap();
        assert!(error.to_string().contains("`sh` ended with exit status: 3"), "{error}");
    }

    #[test]
    fn a_program_is_run_anew() {
        let mut program = Program { name: "p".to_owned(), command: shell("echo '[[1, 2], [3.5, 4]]'") };
        assert_eq!(program.output().unwrap(), [1.0, 2.0, 3.5, 4.0]);
        assert_eq!(program.seconds(2, true).unwrap().len(), 2);
        program.finish().unwrap();
        let mut program = Program { name: "p".to_owned(), command: shell("exit 1") };
        assert!(program.seconds(1, false).is_err() && program.output().is_err() && program.finish().is_err());
    }
}
