//! Changing a checkpoint's file format, dtype and sharding, one tensor in memory at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::DType;
use bytes::Bytes;
use half::{bf16, f16};
use rayon::prelude::*;

pub use super::save::Format;
use super::save::{MAX_SHARD_SIZE, Planned, StagedFile, burnpack, remove_stale, stage, write_atomically};
use super::{Checkpoint, StoredTensor, dtype_name, pickle, safetensors};
use crate::config::read_text;
use crate::error::{Error, Result};

/// The files beside the weights that make a checkpoint usable: configuration, tokenizer, chat template.
const COMPANIONS: [&str; 7] = ["json", "txt", "model", "jinja", "codes", "spm", "tiktoken"];
/// The largest file in which a dtype is looked for, in bytes.
const MAX_CONFIG: u64 = 16 << 20;
/// How many elements one thread converts at a time.
const CHUNK: usize = 1 << 16;

/// What a checkpoint is to become.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The file format.
    pub format: Format,
    /// The dtype of the floating-point tensors, `F32`, `BF16` or `F16`; `None` keeps each tensor's own. Integers and
    /// booleans are never changed.
    pub dtype: Option<DType>,
    /// The size above which another file is begun, in bytes. Burnpack has one file.
    pub max_shard_size: u64,
    /// Whether weights that are in the target folder may be replaced; those in other formats are removed at the end.
    pub force: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { format: Format::Safetensors, dtype: None, max_shard_size: MAX_SHARD_SIZE, force: false }
    }
}

/// What a conversion did.
#[derive(Debug, Clone)]
pub struct ConvertReport {
    /// The number of tensors.
    pub tensors: usize,
    /// How many of them have another dtype now.
    pub converted: usize,
    /// The size of the tensors in the target, in bytes.
    pub bytes: u64,
    /// The weight files written, the index last.
    pub files: Vec<PathBuf>,
    /// The configuration and tokenizer files copied.
    pub companions: Vec<PathBuf>,
}

/// Converts the checkpoint `source`, a folder or a file of any format, into the folder `target`.
///
/// Configuration and tokenizer files of a source folder come along; where the dtype changes, `config.json` says so. The
/// new files are written aside, opened again and compared with the source tensor by tensor before they get their names,
/// so that a failure leaves the target as it was. `progress` is told how many bytes of how many are written.
///
/// # Errors
/// [`Error::Input`] if the target is the source or has weights already; [`Error::Tensor`] for a finite number that
/// overflows in the new dtype; what reading and writing give.
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ConvertReport> {
    if let Some(dtype) = options.dtype
        && !matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
    {
        return Err(Error::input("dtype", dtype_name(dtype), "f32, bf16 or f16"));
    }
    let tensors = open(source)?;
    fs::create_dir_all(target).map_err(Error::io(target))?;
    check_target(source, target, options.force)?;

    let dtype_of = |tensor: &StoredTensor| options.dtype.filter(|_| is_float(tensor.dtype)).unwrap_or(tensor.dtype);
    let planned: Vec<_> = tensors.iter().map(|(name, tensor)| plan(name, tensor, dtype_of(tensor))).collect();
    let converted = tensors.values().filter(|tensor| dtype_of(tensor) != tensor.dtype).count();
    let bytes = planned.iter().map(Planned::len).sum();
    let staged = stage(target, options.format, &planned, options.max_shard_size, progress)?;
    let planned: BTreeMap<_, _> = planned.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    for file in &staged.files {
        verify(file, options.format, &planned)?;
    }
    let companions = if source.is_dir() { copy_companions(source, target, options.dtype)? } else { Vec::new() };
    let files = staged.commit()?;
    for format in Format::ALL.into_iter().filter(|&format| format != options.format) {
        remove_stale(target, format, &BTreeSet::new())?;
    }
    Ok(ConvertReport { tensors: tensors.len(), converted, bytes, files, companions })
}

/// The tensors of a folder or a file of any format.
fn open(source: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    let pack = source.join(Format::Burnpack.file_name());
    if source.extension().is_some_and(|e| e == "bpk") && source.is_file() {
        return burnpack::read(source);
    }
    if !source.is_dir() {
        return Ok(Checkpoint::from_file(source)?.tensors().clone());
    }
    match Checkpoint::from_folder(source) {
        Err(Error::MissingFile { .. }) if pack.is_file() => burnpack::read(&pack),
        other => Ok(other?.tensors().clone()),
    }
}

/// The target must be another folder, and must not have weights that a loader would find besides the new ones.
fn check_target(source: &Path, target: &Path, force: bool) -> Result<()> {
    let folder = if source.is_dir() { source } else { source.parent().unwrap_or(Path::new("")) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let real = |path: &Path| fs::canonicalize(path).map_err(Error::io(path));
    if real(folder)? == real(target)? {
        return Err(Error::input("target", target.display(), "a folder other than the source's"));
    }
    if force {
        return Ok(());
    }
    for entry in entries(target)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if Format::ALL.iter().any(|format| format.owns(&name)) {
            let found = format!("`{}` has `{name}` already", target.display());
            return Err(Error::input(
                "target",
                found,
                "a folder without weights; allow to replace them, or name another",
            ));
        }
    }
    Ok(())
}

fn plan(name: &str, tensor: &StoredTensor, dtype: DType) -> Planned {
    let mut planned = Planned::stored(name, tensor);
    if dtype != tensor.dtype {
        let (name, tensor) = (name.to_owned(), tensor.clone());
        planned.dtype = dtype;
        planned.produce = Arc::new(move || cast(&name, &tensor, dtype));
    }
    planned
}

/// Opens a file that was written and compares it with what was to be written.
fn verify(file: &StagedFile, format: Format, planned: &BTreeMap<&str, &Planned>) -> Result<()> {
    let found = match format {
        Format::Safetensors => safetensors::read(&file.path)?,
        Format::PyTorch => pickle::read(&file.path)?,
        Format::Burnpack => burnpack::read(&file.path)?,
    };
    let wrong =
        |name: &str, reason: &str| Error::tensor(&file.path, name, format!("was not written as it is: {reason}"));
    if found.len() != file.tensors.len() {
        let reason = format_args!("{} tensors were written, but {} are there", file.tensors.len(), found.len());
        return Err(Error::malformed(&file.path, reason));
    }
    for name in &file.tensors {
        let found = found.get(name).ok_or_else(|| wrong(name, "it is missing"))?;
        let expected = planned.get(name.as_str()).ok_or_else(|| wrong(name, "it does not belong here"))?;
        if (found.dtype, &found.shape) != (expected.dtype, &expected.shape) {
            return Err(wrong(name, "another dtype or shape"));
        }
        if found.bytes != (expected.produce)()? {
            return Err(wrong(name, "other bytes; the disk may be failing"));
        }
    }
    Ok(())
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::BF16 | DType::F16)
}

/// The tensor's bytes in another floating-point dtype, rounded to the nearest, ties to even.
///
/// # Errors
/// [`Error::Tensor`] if a finite number becomes infinite, or if memory is short.
pub(super) fn cast(name: &str, tensor: &StoredTensor, dtype: DType) -> Result<Bytes> {
    let wrong = |reason: String| Error::tensor(&tensor.path, name, reason);
    let (from, to) = (tensor.dtype.size(), dtype.size());
    let len = tensor.bytes.len() / from * to;
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| wrong(format!("{len} bytes do not fit into memory")))?;
    out.resize(len, 0);
    let pieces = tensor.bytes.par_chunks(CHUNK * from).zip(out.par_chunks_mut(CHUNK * to));
    let overflow = pieces.find_map_any(|(from, to)| match tensor.dtype {
        DType::F64 => encode(from, f64::from_le_bytes, to, dtype),
        DType::F32 => encode(from, |b| f32::from_le_bytes(b).into(), to, dtype),
        DType::F16 => encode(from, |b| f16::from_le_bytes(b).into(), to, dtype),
        DType::BF16 => encode(from, |b| bf16::from_le_bytes(b).into(), to, dtype),
        _ => None,
    });
    match overflow {
        Some(x) => Err(wrong(format!("{x:e} overflows in {}; keep this dtype, or use bf16 or f32", dtype_name(dtype)))),
        None => Ok(out.into()),
    }
}

/// Converts one piece through f64, which holds every value of the others; returns a finite number that overflows.
fn encode<const N: usize>(from: &[u8], decode: impl Fn([u8; N]) -> f64, to: &mut [u8], dtype: DType) -> Option<f64> {
    let numbers = from.as_chunks().0.iter().map(|&bytes| decode(bytes));
    match dtype {
        DType::F32 => write(numbers, to, |x| (x as f32).to_le_bytes(), |x| (x as f32).is_infinite()),
        // Through f32, as PyTorch does; and half's own way from f64 drops bits that decide ties.
        DType::F16 => {
            write(numbers, to, |x| f16::from_f32(x as f32).to_le_bytes(), |x| f16::from_f32(x as f32).is_infinite())
        }
        _ => write(numbers, to, |x| bf16::from_f32(x as f32).to_le_bytes(), |x| bf16::from_f32(x as f32).is_infinite()),
    }
}

fn write<const N: usize>(
    numbers: impl Iterator<Item = f64>,
    to: &mut [u8],
    bytes: impl Fn(f64) -> [u8; N],
    infinite: impl Fn(f64) -> bool,
) -> Option<f64> {
    let mut largest = 0f64;
    for (x, to) in numbers.zip(to.as_chunks_mut().0) {
        *to = bytes(x);
        if x.is_finite() {
            largest = largest.max(x.abs());
        }
    }
    // Rounding is monotonic: if the largest does not overflow, none does.
    infinite(largest).then_some(largest)
}

/// Copies the files beside the weights; `config.json` names the new dtype.
fn copy_companions(source: &Path, target: &Path, dtype: Option<DType>) -> Result<Vec<PathBuf>> {
    let mut copied = Vec::new();
    for from in entries(source)? {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let to = target.join(&*name);
        let known = from.extension().is_some_and(|e| COMPANIONS.iter().any(|known| e == *known));
        let weights = name.ends_with(".index.json") || Format::ALL.iter().any(|format| format.owns(&name));
        // The later modules of a sentence transformer, as they are: `1_Pooling`, `2_Dense`.
        if from.is_dir() && name.split_once('_').is_some_and(|(number, _)| number.parse::<u8>().is_ok()) {
            fs::create_dir_all(&to).map_err(Error::io(&to))?;
            for from in entries(&from)?.into_iter().filter(|from| from.is_file()) {
                copied.push(copy(&from, &to.join(from.file_name().unwrap_or_default()))?);
            }
        } else if !known || weights || !from.is_file() || name.starts_with('.') {
            continue;
        } else if let Some(dtype) = dtype.filter(|_| name == "config.json") {
            let text = with_dtype(&read_text(&from, MAX_CONFIG)?, dtype);
            write_atomically(&to, |file| file.write_all(text.as_bytes()))?;
            copied.push(to);
        } else {
            copied.push(copy(&from, &to)?);
        }
    }
    Ok(copied)
}

/// What lies in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).and_then(|entries| entries.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>());
    let mut entries = entries.map_err(Error::io(folder))?;
    entries.sort();
    Ok(entries)
}

/// Copies one file, or what the link leads to: the Hub's cache consists of links.
fn copy(from: &Path, to: &Path) -> Result<PathBuf> {
    let mut file = File::open(from).map_err(Error::io(from))?;
    write_atomically(to, |to| io::copy(&mut file, to).map(drop))?;
    Ok(to.to_path_buf())
}

/// The text of a `config.json` with another dtype in its keys `dtype` and `torch_dtype`, and otherwise unchanged.
fn with_dtype(config: &str, dtype: DType) -> String {
    let name = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let mut out = String::with_capacity(config.len());
    let mut rest = config;
    while let Some((before, after)) = ["\"dtype\"", "\"torch_dtype\""]
        .iter()
        .filter_map(|key| split_after(rest, key))
        .min_by_key(|(before, _)| before.len())
    {
        out.push_str(before);
        rest = after;
        let value = after.trim_start().strip_prefix(':').map(str::trim_start).and_then(|value| value.strip_prefix('"'));
        if let Some((old, end)) = value.and_then(|value| value.split_once('"'))
            && ["float64", "float32", "float16", "bfloat16"].contains(&old)
        {
            out.push_str(&after[..after.len() - end.len() - old.len() - 1]);
            out.push_str(name);
            out.push('"');
            rest = end;
        }
    }
    out + rest
}

/// The text up to and including the first `key`, and what follows.
fn split_after<'a>(text: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
    text.find(key).map(|at| text.split_at(at + key.len()))
}

#[cfg(test)]
mod tests;
