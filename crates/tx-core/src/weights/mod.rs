//! Tensors on disk: finding, opening, naming, filling a model with them, and writing them back.
//!
//! A [`Checkpoint`] maps tensor names to bytes that stay where they are (a memory map) until they are used. [`load`]
//! fills a module from one, strictly; [`packed`] makes weights plain that files hold in MXFP4 or FP8; [`save`] writes a
//! folder that Python reads; [`convert`] changes format, dtype and sharding. Nothing else in the workspace reads or
//! writes tensors on disk.

pub mod convert;
pub mod load;
pub mod packed;
pub mod pickle;
pub mod safetensors;
pub mod save;
pub mod synth;
mod visit;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use burn::tensor::quantization::{QuantScheme, QuantValue};
use burn::tensor::{AllocationProperty, DType, TensorData};
use bytes::Bytes;
use serde_json::Value;

use crate::config::{kind, read_json};
use crate::error::{Error, Result};

/// One tensor as it lies in a file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// The file that holds it.
    pub path: PathBuf,
    /// The element type in the file.
    pub dtype: DType,
    /// The sizes of its axes, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, little-endian and row-major; a view of the memory map where the format allows it.
    pub bytes: Bytes,
}

impl StoredTensor {
    /// The tensor for burn: without a copy, unless its bytes start at an odd address.
    pub fn to_data(&self) -> TensorData {
        let aligned = (self.bytes.as_ptr() as usize).is_multiple_of(self.dtype.size());
        let bytes = if aligned {
            burn::tensor::Bytes::from_shared(self.bytes.clone(), AllocationProperty::File)
        } else {
            burn::tensor::Bytes::from_bytes_vec(self.bytes.to_vec())
        };
        TensorData::from_bytes(bytes, self.shape.clone(), self.dtype)
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The name of a dtype as `config.json` and the command line write it.
pub fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "f64",
        DType::F32 | DType::Flex32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::I64 => "i64",
        DType::I32 => "i32",
        DType::I16 => "i16",
        DType::I8 => "i8",
        DType::U64 => "u64",
        DType::U32 => "u32",
        DType::U16 => "u16",
        DType::U8 => "u8",
        DType::Bool(_) => "bool",
        DType::QFloat(QuantScheme { value: QuantValue::E4M3, .. }) => "f8_e4m3",
        DType::QFloat(QuantScheme { value: QuantValue::E5M2, .. }) => "f8_e5m2",
        _ => "quantized",
    }
}

/// The words of `--quantize`: what becomes of the weights of linear layers while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 8-bit integers in blocks of 32 to 128 along the input axis, each block with a scale; activations are quantized on
    /// the fly, token by token. Takes about a quarter of the memory of f32.
    Int8,
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Int8 = self;
        f.write_str("int8")
    }
}

impl FromStr for Quantization {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "int8" => Ok(Self::Int8),
            _ => Err(Error::input("--quantize", format_args!("`{s}`"), "int8")),
        }
    }
}

/// The tensors of a checkpoint, by the names they have in its files.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
}

/// The weight files that a folder may hold, in order of preference.
const WEIGHT_FILES: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.bpk",
];
/// No index comes near this number of shards.
const MAX_SHARDS: usize = 10_000;

impl Checkpoint {
    /// Opens the weights in `folder`: one file or shards, safetensors before PyTorch. Reads headers only.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if there are none; [`Error::Malformed`] and [`Error::Tensor`] if a file lies about itself.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let found = WEIGHT_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let path = found.ok_or_else(|| Error::MissingFile {
            folder: folder.to_path_buf(),
            expected: WEIGHT_FILES.map(|f| format!("`{f}`")).join(", "),
            remedy: "name a folder that holds a checkpoint as it lies on the Hub".into(),
        })?;
        Self::from_file(&path)
    }

    /// Opens one weight file, or the shards that an index names.
    ///
    /// # Errors
    /// As [`Checkpoint::from_folder`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let tensors = if path.extension().is_some_and(|e| e == "json") { read_shards(path)? } else { read_file(path)? };
        Ok(Self { path: path.to_path_buf(), tensors })
    }

    /// A checkpoint that was built in memory; `path` stands in its messages.
    pub fn from_tensors(path: &Path, tensors: BTreeMap<String, StoredTensor>) -> Self {
        Self { path: path.to_path_buf(), tensors }
    }

    /// The file or index that was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name, sorted.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// The size of all tensors, in bytes.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|t| t.bytes.len()).sum()
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => safetensors::read(path),
        Some("bin" | "pt" | "pth") => pickle::read(path),
        Some("bpk") => save::burnpack::read(path),
        _ => Err(Error::malformed(path, "expected a `.safetensors`, `.bin`, `.pt`, `.pth` or `.bpk` file")),
    }
}

/// Reads the shards of `{"weight_map": {tensor: file}}`; each tensor must lie in the file that the index names.
fn read_shards(index: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::malformed(index, "expected a map `weight_map` from tensor to file"))?;
    let folder = index.parent().unwrap_or(Path::new("."));
    let mut by_shard = BTreeMap::<&str, Vec<&str>>::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| {
            Error::malformed(index, format_args!("`weight_map.{tensor}`: expected a file name, found {}", kind(file)))
        })?;
        by_shard.entry(file).or_default().push(tensor);
    }
    if by_shard.len() > MAX_SHARDS {
        return Err(Error::malformed(index, format_args!("{} shards, expected at most {MAX_SHARDS}", by_shard.len())));
    }
    let mut tensors = BTreeMap::new();
    for (file, names) in by_shard {
        let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
        if !inside || file.ends_with(".json") {
            return Err(Error::malformed(
                index,
                format_args!("`{file}` is not the name of a weight file in this folder"),
            ));
        }
        let path = folder.join(file);
        if !path.is_file() {
            return Err(Error::MissingFile {
                folder: folder.to_path_buf(),
                expected: format!("shard `{file}`"),
                remedy: format!("`{}` names it for {} tensors; download it", index.display(), names.len()),
            });
        }
        let mut shard = read_file(&path)?;
        for name in names {
            let tensor = shard.remove(name).ok_or_else(|| {
                Error::tensor(&path, name, format_args!("not in this shard, but `{}` says so", index.display()))
            })?;
            tensors.insert(name.to_owned(), tensor);
        }
        // What the index does not name is still in the checkpoint: loading reports it by name.
        for (name, tensor) in shard {
            tensors.entry(name).or_insert(tensor);
        }
    }
    Ok(tensors)
}
