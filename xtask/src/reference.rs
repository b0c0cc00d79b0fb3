//! The pinned Python: recording references, and reading back what tx saves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tx_core::config::Config;
use tx_core::registry::{LoadOptions, find_class};
use tx_core::weights::synth::Recipe;

use crate::{adapters, cache, root, run};

/// Record reference cases.
#[derive(Args)]
pub struct ReferenceArgs {
    /// Architectures to record; all if none is given.
    model_types: Vec<String>,
    /// Record the golden files of tokenizers, pipelines, embeddings, chats, sounds and pictures instead.
    #[arg(long)]
    goldens: bool,
}

pub fn reference(args: &ReferenceArgs) -> Result<()> {
    let scripts = root().join("xtask/reference");
    let mut python = Command::new(python()?);
    if args.goldens {
        python.arg(scripts.join("goldens.py")).arg("--out").arg(root().join("tests/data"));
    } else {
        python.arg(scripts.join("reference.py")).arg("--models").arg(root().join("models"));
    }
    run(python.args(&args.model_types))
}

/// Save with tx, load with Python.
#[derive(Args)]
pub struct RoundtripArgs {
    /// Architectures to try.
    #[arg(default_values = [
        "bert", "roberta", "albert", "deberta-v2", "modernbert", "vit", "detr", "wav2vec2", "whisper", "clip", "clap",
    ])]
    model_types: Vec<String>,
    /// Train an adapter of each method with tx instead, and open it with Python's peft.
    #[arg(long)]
    adapters: bool,
}

pub fn roundtrip(args: &RoundtripArgs) -> Result<()> {
    let python = python()?;
    let out = tempfile::tempdir()?;
    if args.adapters {
        let script = root().join("xtask/reference/peft_adapters.py");
        return run(Command::new(python).arg(script).arg("check").args(adapters::train(out.path())?));
    }
    let mut command = Command::new(python);
    command.arg(root().join("xtask/reference/roundtrip.py"));
    for model_type in &args.model_types {
        let model = root().join("models").join(model_type);
        for entry in std::fs::read_dir(&model).with_context(|| model.display().to_string())? {
            let case = entry?.path();
            if case.is_dir() {
                let name = format!("{model_type}-{}", case.file_name().unwrap_or_default().to_string_lossy());
                let folder = out.path().join(name);
                save(&case, &folder).with_context(|| case.display().to_string())?;
                command.arg(folder).arg(case.join("reference.safetensors"));
            }
        }
    }
    run(&mut command)
}

/// Fills the case's class and saves it.
fn save(case: &Path, folder: &Path) -> Result<()> {
    let config = Config::from_folder(case)?;
    let class = find_class(&tx::classes(), &config, None)?;
    let path = case.join("weights.json");
    let checkpoint = Recipe::from_file(&path)?.checkpoint(&path)?;
    class.load_named(config, &checkpoint, &LoadOptions::default())?.save_pretrained(folder, u64::MAX)?;
    Ok(())
}

/// The interpreter of a virtual environment with the pinned packages, made on first use.
pub fn python() -> Result<PathBuf> {
    let venv = cache()?.join("python");
    let python = venv.join("bin/python");
    let requirements = root().join("xtask/reference/requirements.txt");
    let stamp = venv.join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).with_context(|| requirements.display().to_string())?;
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements))?;
    ensure!(python.is_file(), "{} was not made", python.display());
    std::fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(python)
}
