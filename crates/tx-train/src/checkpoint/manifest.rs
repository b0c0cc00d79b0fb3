//! `manifest.json`: what a checkpoint is made of, written last, so that what has one is complete.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tx_core::config::read_json;
use tx_core::{Error, Result};

/// The name of the file.
pub(super) const MANIFEST: &str = "manifest.json";
/// The form of the file that this program writes and reads.
const FORMAT: u32 = 1;
/// More files than any checkpoint has.
const MAX_FILES: usize = 100_000;
/// Folders within folders.
const MAX_DEPTH: usize = 8;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// The files of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// The step that the checkpoint was saved at.
    pub step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Bytes.
    size: u64,
    sha256: String,
}

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// They are there and have their size.
    Size,
    /// Every byte is what was written.
    Digest,
}

impl Manifest {
    /// Describes the files in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a name that is not UTF-8, and for more than a checkpoint can have.
    pub fn of(folder: &Path, step: u64, paths: &[PathBuf]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for path in paths {
            let relative = path.strip_prefix(folder).unwrap_or(path);
            let names: Option<Vec<&str>> = relative.iter().map(|name| name.to_str()).collect();
            let name = names.ok_or_else(|| Error::malformed(path, "a name that is not UTF-8"))?.join("/");
            let (size, sha256) = digest(path)?;
            files.insert(name, Entry { size, sha256 });
        }
        Ok(Self { format: FORMAT, step, files })
    }

    /// Reads that of a checkpoint, and compares its files; the error says what is wrong with it.
    pub fn check(folder: &Path, depth: Depth) -> Result<Self, String> {
        let path = folder.join(MANIFEST);
        if !path.is_file() {
            return Err(format!("no `{MANIFEST}`: it is incomplete, or another program wrote it"));
        }
        // The path stands before the reason already.
        let reason = |error: Error| match error {
            Error::Io { source, .. } => format!("`{MANIFEST}`: {source}"),
            Error::Malformed { reason, .. } => format!("`{MANIFEST}`: {reason}"),
            other => other.to_string(),
        };
        let json = read_json(&path).map_err(reason)?;
        let manifest: Self = serde_json::from_value(json).map_err(|error| format!("`{MANIFEST}`: {error}"))?;
        if manifest.format != FORMAT {
            return Err(format!("`{MANIFEST}`: format {}, expected {FORMAT}", manifest.format));
        }
        for (name, entry) in &manifest.files {
            let shown = name.escape_debug();
            let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            if !inside || name.is_empty() {
                return Err(format!("`{MANIFEST}`: `{shown}` is no file of this folder"));
            }
            let path = folder.join(name);
            let found = fs::metadata(&path).ok().filter(|found| found.is_file());
            let found = found.ok_or_else(|| format!("no `{shown}`"))?.len();
            if found != entry.size {
                return Err(format!("`{shown}` has {found} bytes, expected {}", entry.size));
            }
            if depth == Depth::Digest {
                let (_, sha256) = digest(&path).map_err(|error| error.to_string())?;
                if sha256 != entry.sha256 {
                    return Err(format!("`{shown}` is damaged: its SHA-256 is {sha256}, expected {}", entry.sha256));
                }
            }
        }
        Ok(manifest)
    }

    /// Whether a file was part of the checkpoint when it was saved.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }
}

/// The files in a folder and the folders below it, and those folders, innermost first and the folder itself last.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for more than a checkpoint can have.
pub(super) fn contents(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    collect(folder, 0, &mut files, &mut folders)?;
    Ok((files, folders))
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, folders: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::malformed(folder, format_args!("more than {MAX_DEPTH} folders within folders")));
    }
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            collect(&path, depth + 1, files, folders)?;
        } else {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::malformed(folder, format_args!("more than {MAX_FILES} files")));
        }
    }
    folders.push(folder.to_path_buf());
    Ok(())
}

/// The size and the SHA-256 of a file.
fn digest(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut sha256, mut size, mut chunk) = (Sha256::new(), 0u64, vec![0; CHUNK]);
    loop {
        let read = file.read(&mut chunk).map_err(Error::io(path))?;
        if read == 0 {
            break;
        }
        sha256.update(&chunk[..read]);
        size += read as u64;
    }
    Ok((size, sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
