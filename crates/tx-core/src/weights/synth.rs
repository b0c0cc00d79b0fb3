//! Weights from a hash: checkpoints of any size from a recipe of a few kilobytes, the same in Python and here.
//!
//! Element `i` of a tensor is uniform around the mean, with the standard deviation of the recipe; it depends on the
//! tensor's name and on `i` alone, so that tensors can be made in any order and by any number of threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::DType;
use burn::tensor::quantization::QuantValue;
use bytes::Bytes;
use half::{bf16, f16};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::packed::float8;
use super::pickle::{MAX_NAME, MAX_RANK};
use super::save::{Format, Planned, stage};
use super::{Checkpoint, StoredTensor, dtype_name};
use crate::config::{kind, read_json};
use crate::device::Dtype;
use crate::error::{Error, Result};

/// The largest checkpoint that is made in memory, in bytes.
const MAX_IN_MEMORY: u64 = 16 << 30;
/// The largest checkpoint that is made at all, in bytes.
const MAX_ON_DISK: u64 = 1 << 40;
/// How many elements one thread makes at a time.
const CHUNK: usize = 1 << 16;

/// The elements of the tensor `name`: uniform, with this mean and standard deviation.
pub fn values(name: &str, len: usize, mean: f64, std: f64) -> impl Iterator<Item = f32> {
    let seed = seed(name);
    (0..len as u64).map(move |i| value(seed, i, mean, std))
}

/// FNV-1a of the name.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Output `i` of splitmix64, its upper 24 bits scaled to the interval that has this mean and standard deviation.
#[inline]
fn value(seed: u64, i: u64, mean: f64, std: f64) -> f32 {
    let mut z = seed.wrapping_add(i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let k = (z ^ (z >> 31)) >> 40;
    (mean + std * 3f64.sqrt() * ((2 * k + 1) as f64 / f64::from(1 << 24) - 1.0)) as f32
}

/// How to make one tensor.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    shape: Vec<u64>,
    mean: f64,
    std: f64,
    #[serde(default)]
    dtype: Element,
}

/// The dtypes that a recipe may name.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Element {
    #[default]
    F32,
    Bf16,
    F16,
    /// Rounded to the nearest integer, ties to even; what is out of range becomes the end of it.
    U8,
    /// Rounded to the nearest number, ties to even; what is larger than all becomes the largest.
    #[serde(rename = "f8_e4m3")]
    F8E4m3,
}

impl Element {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::U8 => DType::U8,
            Self::F8E4m3 => float8(QuantValue::E4M3),
        }
    }
}

impl Entry {
    /// The size, in bytes, unless it overflows.
    fn bytes(&self) -> Option<u64> {
        // Without the zeros, so that no partial product of an empty tensor overflows later.
        let mut sizes = self.shape.iter().filter(|&&size| size != 0);
        let bytes = sizes.try_fold(self.dtype.dtype().size() as u64, |n, &size| n.checked_mul(size))?;
        Some(if self.shape.contains(&0) { 0 } else { bytes })
    }

    fn make(&self, path: &Path, name: &str) -> Result<Bytes> {
        let dtype = self.dtype.dtype();
        let len = self.bytes().and_then(|n| usize::try_from(n).ok());
        let mut out = Vec::new();
        let len = len.filter(|&len| out.try_reserve_exact(len).is_ok());
        let len = len.ok_or_else(|| {
            Error::tensor(path, name, format_args!("{} {:?} does not fit into memory", dtype_name(dtype), self.shape))
        })?;
        out.resize(len, 0);
        let (seed, mean, std) = (seed(name), self.mean, self.std);
        match self.dtype {
            Element::F32 => fill(&mut out, |i| value(seed, i, mean, std).to_le_bytes()),
            Element::Bf16 => fill(&mut out, |i| bf16::from_f32(value(seed, i, mean, std)).to_le_bytes()),
            Element::F16 => fill(&mut out, |i| f16::from_f32(value(seed, i, mean, std)).to_le_bytes()),
            Element::U8 => fill(&mut out, |i| [value(seed, i, mean, std).round_ties_even() as u8]),
            Element::F8E4m3 => fill(&mut out, |i| [e4m3(value(seed, i, mean, std))]),
        }
        Ok(out.into())
    }
}

/// The code of the nearest number of e4m3.
fn e4m3(x: f32) -> u8 {
    const LARGEST: f32 = 448.0;
    let (size, sign) = (x.abs().min(LARGEST), if x.is_sign_negative() { 0x80 } else { 0 });
    // Below 2⁻⁶ all are multiples of 2⁻⁹; above, the fraction loses twenty bits, and the exponent has another bias.
    let code = if size < 1.0 / 64.0 {
        (size * 512.0).round_ties_even() as u32
    } else {
        let bits = size.to_bits();
        ((bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20) - ((127 - 7) << 3)
    };
    sign | code as u8
}

/// Writes every element, in parallel.
fn fill<const N: usize>(out: &mut [u8], element: impl Fn(u64) -> [u8; N] + Sync) {
    out.par_chunks_mut(CHUNK * N).enumerate().for_each(|(chunk, out)| {
        let first = (chunk * CHUNK) as u64;
        out.chunks_exact_mut(N).zip(first..).for_each(|(out, i)| out.copy_from_slice(&element(i)));
    });
}

/// The tensors of a checkpoint, each with its shape, mean and standard deviation: `weights.json`.
#[derive(Debug, Clone)]
pub struct Recipe {
    path: PathBuf,
    tensors: BTreeMap<String, Entry>,
}

impl Recipe {
    /// Reads `{"name": {"shape": […], "mean": m, "std": s, "dtype": "f32"}}`; `dtype` may be absent, `bf16`, `f16`, `u8` or
    /// `f8_e4m3`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`]; [`Error::Tensor`] for an entry that is not of this form or too large.
    pub fn from_file(path: &Path) -> Result<Self> {
        let entries = match read_json(path)? {
            Value::Object(entries) => entries,
            other => {
                return Err(Error::malformed(path, format_args!("expected a map of tensors, found {}", kind(&other))));
            }
        };
        let mut tensors = BTreeMap::new();
        let mut total = 0u64;
        for (name, value) in entries {
            let wrong = |reason: String| Error::tensor(path, &name, reason);
            if name.len() > MAX_NAME {
                return Err(Error::malformed(
                    path,
                    format_args!("a tensor name of {} bytes, expected at most {MAX_NAME}", name.len()),
                ));
            }
            let entry: Entry = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
            if entry.shape.len() > MAX_RANK {
                return Err(wrong(format!("{} axes, expected at most {MAX_RANK}", entry.shape.len())));
            }
            if !entry.mean.is_finite() || !entry.std.is_finite() || entry.std < 0.0 {
                return Err(wrong(format!("mean {} and std {}, expected finite numbers", entry.mean, entry.std)));
            }
            let sum = entry.bytes().and_then(|bytes| total.checked_add(bytes)).filter(|&sum| sum <= MAX_ON_DISK);
            total = sum.ok_or_else(|| {
                wrong(format!("with shape {:?} the checkpoint has more than {MAX_ON_DISK} bytes", entry.shape))
            })?;
            tensors.insert(name, entry);
        }
        Ok(Self { path: path.to_path_buf(), tensors })
    }

    /// A recipe for tensors of these names and shapes, with deviations that keep activations at about one: norms and
    /// variances near one, small biases, matrices by their inputs. `path` stands in its messages.
    pub fn from_parameters(path: &Path, parameters: Vec<(String, Vec<usize>)>, dtype: Dtype) -> Self {
        let dtype = match dtype {
            Dtype::Auto | Dtype::F32 => Element::F32,
            Dtype::Bf16 => Element::Bf16,
            Dtype::F16 => Element::F16,
        };
        let entry = |(name, shape): (String, Vec<usize>)| {
            let inputs: usize = shape.iter().skip(1).product();
            let (mean, std) = match shape.len() {
                0 | 1 if name.ends_with("weight") || name.ends_with("running_var") => (1.0, 0.05),
                0 | 1 => (0.0, 0.05),
                _ => (0.0, 1.0 / (inputs.max(1) as f64).sqrt()),
            };
            let shape = shape.into_iter().map(|size| size as u64).collect();
            (name, Entry { shape, mean, std, dtype })
        };
        Self { path: path.to_path_buf(), tensors: parameters.into_iter().map(entry).collect() }
    }

    /// The size of all tensors, in bytes.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().filter_map(Entry::bytes).sum()
    }

    /// Makes the checkpoint in memory; `path` stands in its messages.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Tensor`] if it is too large for that.
    pub fn checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        let bytes = self.bytes();
        if bytes > MAX_IN_MEMORY {
            let reason =
                format_args!("{bytes} bytes, expected at most {MAX_IN_MEMORY} in memory; write it to a folder");
            return Err(Error::malformed(&self.path, reason));
        }
        let mut tensors = BTreeMap::new();
        for (name, entry) in &self.tensors {
            // The sizes are below the limit.
            let shape = entry.shape.iter().map(|&size| size as usize).collect();
            let bytes = entry.make(&self.path, name)?;
            tensors.insert(
                name.clone(),
                StoredTensor { path: path.to_path_buf(), dtype: entry.dtype.dtype(), shape, bytes },
            );
        }
        Ok(Checkpoint::from_tensors(path, tensors))
    }

    /// Writes the checkpoint as safetensors, one tensor in memory at a time: see [`super::save::write_folder`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Tensor`].
    pub fn write(&self, folder: &Path, max_shard_size: u64) -> Result<()> {
        let planned = self.tensors.iter().map(|(name, entry)| {
            let (path, name, entry) = (self.path.clone(), name.clone(), entry.clone());
            Planned {
                name: name.clone(),
                dtype: entry.dtype.dtype(),
                shape: entry.shape.iter().map(|&size| size as usize).collect(),
                source: None,
                produce: Arc::new(move || entry.make(&path, &name)),
            }
        });
        let planned: Vec<_> = planned.collect();
        stage(folder, Format::Safetensors, &planned, max_shard_size, &mut |_, _| ())?.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::save::MAX_SHARD_SIZE;

    fn recipe(json: &str) -> Result<Recipe> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.json");
        std::fs::write(&path, json).unwrap();
        Recipe::from_file(&path)
    }

    /// The numbers are those of the Python twin.
    #[test]
    fn values_are_those_of_the_twin_in_python() {
        assert!(values("encoder.layer.0.weight", 4, 0.0, 0.02).map(f32::to_bits).eq(EXPECTED_WEIGHT));
        assert!(values("ä", 3, 1.0, 0.5).map(f32::to_bits).eq(EXPECTED_UMLAUT));
    }

    const EXPECTED_WEIGHT: [u32; 4] = [0xbcdf_75de, 0x3ce8_42dc, 0x3cb3_c7da, 0x3c9a_66de];
    const EXPECTED_UMLAUT: [u32; 3] = [0x3f9b_1fd4, 0x3fa7_bd11, 0x3ecf_691c];

    #[test]
    fn values_have_the_mean_and_the_deviation() {
        let all: Vec<f64> = values("w", 200_000, 0.3, 0.7).map(f64::from).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let std = (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        assert!((mean - 0.3).abs() < 0.005 && (std - 0.7).abs() < 0.005, "{mean} {std}");
        assert!(values("w", 10, 2.0, 0.0).all(|x| x == 2.0));
    }

    #[test]
    fn in_memory_and_on_disk_are_the_same_whatever_the_threads() {
        let json = r#"{"a": {"shape": [300, 500], "mean": 0.0, "std": 0.02}, "b": {"shape": [], "mean": 1, "std": 0},
            "c": {"shape": [7, 0], "mean": 0, "std": 1}, "d": {"shape": [70000], "mean": 0, "std": 1, "dtype": "bf16"},
            "e": {"shape": [3], "mean": 0, "std": 1, "dtype": "f16"},
            "f": {"shape": [3, 5], "mean": 128, "std": 74, "dtype": "u8"},
            "g": {"shape": [9, 7], "mean": 0, "std": 60, "dtype": "f8_e4m3"}}"#;
        let recipe = recipe(json).unwrap();
        let memory = recipe.checkpoint(Path::new("weights.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        recipe.write(folder.path(), MAX_SHARD_SIZE).unwrap();
        let disk = Checkpoint::from_folder(folder.path()).unwrap();
        assert_eq!(memory.tensors().len(), 7);
        for (name, tensor) in memory.tensors() {
            let other = &disk.tensors()[name];
            assert_eq!(
                (tensor.dtype, &tensor.shape, &tensor.bytes),
                (other.dtype, &other.shape, &other.bytes),
                "{name}"
            );
        }
        let a: Vec<u8> = values("a", 150_000, 0.0, 0.02).flat_map(f32::to_le_bytes).collect();
        assert_eq!(memory.tensors()["a"].bytes, a);
        let d: Vec<u8> = values("d", 70_000, 0.0, 1.0).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(memory.tensors()["d"].bytes, d);
    }

    #[test]
    fn of_parameters_alone_norms_are_near_one_and_their_variances_positive() {
        let shapes: [(&str, &[usize]); 6] = [
            ("conv.weight", &[8, 4, 3, 3]),
            ("norm.weight", &[300]),
            ("norm.bias", &[300]),
            ("norm.running_mean", &[300]),
            ("norm.running_var", &[300]),
            ("scale", &[]),
        ];
        let parameters = shapes.map(|(name, shape)| (name.to_owned(), shape.to_vec())).to_vec();
        let path = Path::new("config.json");
        let recipe = Recipe::from_parameters(path, parameters, Dtype::F32);
        let made = recipe.checkpoint(path).unwrap();
        let values = |name: &str| made.tensors()[name].to_data().iter::<f32>().collect::<Vec<_>>();
        let within = |name: &str, low: f32, high: f32| values(name).iter().all(|x| (low..high).contains(x));
        assert!(within("norm.weight", 0.9, 1.1) && within("norm.running_var", 0.9, 1.1));
        assert!(within("norm.bias", -0.1, 0.1) && within("norm.running_mean", -0.1, 0.1) && within("scale", -0.1, 0.1));
        assert!((recipe.tensors["conv.weight"].std - 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn broken_recipes_are_refused_by_name() {
        let table = [
            ("[]", "expected a map"),
            (r#"{"w": {"shape": [2], "mean": 0}}"#, "missing field `std`"),
            (r#"{"w": {"shape": [-2], "mean": 0, "std": 1}}"#, "`w`"),
            (r#"{"w": {"shape": [2.5], "mean": 0, "std": 1}}"#, "`w`"),
            (r#"{"w": {"shape": [2], "mean": 0, "std": -1}}"#, "expected finite numbers"),
            (r#"{"w": {"shape": [2], "mean": NaN, "std": 1}}"#, "`w`"),
            (r#"{"w": {"shape": [2], "mean": 0, "std": 1, "dtype": "i64"}}"#, "unknown variant `i64`"),
            (r#"{"w": {"shape": [2], "mean": 0, "std": 1, "extra": 1}}"#, "unknown field `extra`"),
            (r#"{"w": {"shape": [1,1,1,1,1,1,1,1,1], "mean": 0, "std": 1}}"#, "9 axes"),
            (r#"{"w": {"shape": [18446744073709551615, 2], "mean": 0, "std": 1}}"#, "more than"),
            (r#"{"w": {"shape": [18446744073709551615, 2, 0], "mean": 0, "std": 1}}"#, "more than"),
            (
                r#"{"v": {"shape": [200000000000], "mean": 0, "std": 1}, "w": {"shape": [200000000000], "mean": 0, "std": 1}}"#,
                "`w`",
            ),
        ];
        for (json, expected) in table {
            let message = recipe(json).unwrap_err().to_string();
            assert!(message.contains(expected), "{json}: {message}");
        }
        let large = recipe(r#"{"w": {"shape": [100000000000], "mean": 0, "std": 1}}"#).unwrap();
        assert!(large.checkpoint(Path::new("x")).unwrap_err().to_string().contains("in memory"));
    }
}
