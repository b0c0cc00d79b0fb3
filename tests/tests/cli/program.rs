//! The program as the tests run it, and models for it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tx_core::weights::save::{MAX_SHARD_SIZE, write_file};
use tx_core::weights::synth::Recipe;
use tx_tests::{Case, models};

/// The longest line of a failure, in bytes, with its line end.
pub const MAX_ERROR_BYTES: usize = 4096;
/// Between numbers that were printed and those of Python.
const TOLERANCE: f64 = 1e-5;

/// What a run of the program left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The program, which lies beside this test's folder; without the user's settings and without the network.
pub fn command(args: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join(format!("tx{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "`{}` is not there: build it first with `cargo build --workspace`, as `cargo xtask ci` does",
        program.display()
    );
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
    let hub = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH"];
    for name in hub.into_iter().chain(["TX_LOG", "TX_NUM_THREADS"]) {
        command.env_remove(name);
    }
    command.env("HF_HOME", test.with_file_name("no-such-cache")).env("HF_HUB_OFFLINE", "1");
    command
}

pub fn tx(args: &[&str]) -> Ran {
    Ran::from(command(args).output().unwrap())
}

pub fn tx_with(args: &[&str], input: &[u8]) -> Ran {
    let mut command = command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Ran::from(child.wait_with_output().unwrap())
}

/// What a run that must succeed printed; nothing may have gone to stderr.
pub fn succeeds(args: &[&str]) -> String {
    let ran = tx(args);
    assert!(ran.code == Some(0) && ran.err.is_empty() && ran.out.ends_with('\n'), "{args:?}: {ran:?}");
    ran.out
}

/// The message of a run that must fail.
pub fn fails(args: &[&str]) -> String {
    failure(&tx(args)).to_owned()
}

/// A failure has exit code 1, prints nothing to stdout and one bounded line to stderr.
pub fn failure(ran: &Ran) -> &str {
    assert!(ran.code == Some(1) && ran.out.is_empty(), "{ran:?}");
    let line = ran.err.strip_suffix('\n').unwrap_or_else(|| panic!("no line end: {ran:?}"));
    assert!(line.starts_with("error: ") && !line.contains(char::is_control), "{ran:?}");
    assert!(ran.err.len() <= MAX_ERROR_BYTES && !line.contains("bug of tx"), "{ran:?}");
    &ran.err
}

/// A model's folder, made of a recipe.
pub struct Model {
    pub folder: TempDir,
    pub path: String,
    pub inputs: String,
    pub outputs: String,
}

impl Model {
    /// A recorded case of BERT, with its inputs.
    pub fn of_case(name: &str) -> Self {
        let source = models().join("bert").join(name);
        let model = Self::of(&source);
        write_file(Path::new(&model.inputs), Case::read(&source).unwrap().inputs).unwrap();
        model
    }

    /// A folder of `data`, with its tokenizer.
    pub fn of_data(name: &str) -> Self {
        Self::of(&data(name))
    }

    /// A folder with a recipe for its weights.
    pub fn of(source: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(source, folder.path());
        Recipe::from_file(&source.join("weights.json")).unwrap().write(folder.path(), MAX_SHARD_SIZE).unwrap();
        let string = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let path = folder.path().to_str().unwrap().to_owned();
        Self { path, inputs: string("inputs.safetensors"), outputs: string("outputs.safetensors"), folder }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn string(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// The command line of a forward pass.
    pub fn forward(&self) -> [&str; 7] {
        ["forward", "--model", &self.path, "--inputs", &self.inputs, "--outputs", &self.outputs]
    }

    /// Sets a key of `config.json`.
    pub fn set_config(&self, key: &str, value: Value) {
        let path = self.file("config.json");
        let mut config = read_json(&path);
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

/// A folder or file of `data`.
pub fn data(name: &str) -> PathBuf {
    Path::new("data").join(name)
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Numbers agree within the tolerance, everything else exactly.
pub fn assert_close(found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| assert_close(a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{a:?}, expected {b:?}");
            a.values().zip(b.values()).for_each(|(a, b)| assert_close(a, b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= TOLERANCE, "{a}, expected {b}");
        }
        (a, b) => assert_eq!(a, b),
    }
}
