//! The invariants of ARCHITECTURE.md, checked on the text of the workspace.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::root;

/// Lines of a model file.
const MODEL_LINES: usize = 500;
/// Lines of any other source file.
const SOURCE_LINES: usize = 600;

pub fn tidy() -> Result<()> {
    let mut problems = Vec::new();
    let model_types = model_types()?;
    for file in sources(&root().join("crates"))?.into_iter().chain(sources(&root().join("xtask/src"))?) {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let path = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        check(&path, &text, &model_types, &mut problems);
    }
    let modalities = ["tx-text", "tx-vision", "tx-audio"];
    for name in modalities {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml"))?;
        for other in modalities.iter().filter(|other| **other != name) {
            if manifest.contains(&format!("{other}.workspace")) {
                problems.push(format!("crates/{name}: depends on {other}; modalities are independent"));
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    bail!("{} problems", problems.len())
}

fn check(path: &str, text: &str, model_types: &[String], problems: &mut Vec<String>) {
    let model = path.contains("/src/models/") && !path.ends_with("/mod.rs");
    let lines = text.lines().count();
    let limit = if model { MODEL_LINES } else { SOURCE_LINES };
    if lines > limit {
        problems.push(format!("{path}: {lines} lines, at most {limit}"));
    }
    if !text.starts_with("//!") && !path.ends_with("/tests.rs") {
        problems.push(format!("{path}: no `//!` header"));
    }
    let code: Vec<&str> = text.split("#[cfg(test)]").next().unwrap_or(text).lines().collect();
    for (number, line) in code.iter().enumerate() {
        let mut problem = |what: &str| problems.push(format!("{path}:{}: {what}", number + 1));
        let comment = line.trim_start().starts_with("//");
        if line.contains("TODO") || line.contains("FIXME") {
            problem("an open end; file an issue instead");
        }
        if comment {
            continue;
        }
        let shared = path.starts_with("crates/tx-core/src") || path.starts_with("crates/tx-kernels/src");
        // The tokenizer's files differ by family; everything else shared is the same for all architectures.
        if shared && !path.contains("/tokenizer/") && names_architecture(line, model_types) {
            problem("names an architecture");
        }
        if !path.contains("/hub") && ["std::net", "reqwest", "hf_hub"].iter().any(|w| line.contains(w)) {
            problem("only `hub` opens a socket");
        }
        if !path.contains("/weights/")
            && ["memmap2", "safetensors::tensor", "SafeTensors::"].iter().any(|w| line.contains(w))
        {
            problem("only `weights` reads or writes tensors on disk");
        }
        if line.contains("unsafe ")
            && !path.starts_with("crates/tx-kernels/")
            && !path.ends_with("weights/safetensors.rs")
        {
            problem("`unsafe` stays in tx-kernels");
        }
        // DeepSeek's keys call the width of a latent vector so.
        let words = line.replace("_lora_rank", "");
        if model && ["std::env", "cfg!(", "tracing::", "println!", "quantize", "lora"].iter().any(|w| words.contains(w))
        {
            problem("does not belong in a model file");
        }
        if model && line.contains("fn forward") && line.contains("Result") {
            problem("`forward` never fails");
        }
    }
}

/// Whether a line of code has an architecture's name in it, as a word.
fn names_architecture(line: &str, model_types: &[String]) -> bool {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
    words.into_iter().any(|word| model_types.iter().any(|name| word.eq_ignore_ascii_case(name)))
}

/// The architectures that `models/` describes.
fn model_types() -> Result<Vec<String>> {
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(architectures()?.iter().map(name).collect())
}

/// The folders of `models/`, but for those of models that ship: these have a recipe.
pub fn architectures() -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(root().join("models"))? {
        let folder = entry?.path();
        if !folder.join("recipe.toml").is_file() {
            folders.push(folder);
        }
    }
    Ok(folders)
}

/// Every `.rs` file below a folder, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
