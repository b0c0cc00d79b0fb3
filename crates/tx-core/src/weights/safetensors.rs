//! The safetensors format: a JSON header, then the tensors, memory-mapped.
//!
//! The header is read here and not by the `safetensors` crate, which keeps all of it in memory several times, takes the
//! last of two tensors of one name, and does not say which tensor is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use burn::tensor::quantization::{QuantScheme, QuantValue};
use burn::tensor::{BoolStore, DType};
use bytes::Bytes;
use memmap2::Mmap;
use safetensors::tensor::Dtype;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::StoredTensor;
use super::packed::float8;
use crate::error::{Error, Result};

/// The longest header, in bytes: the limit of the format.
const MAX_HEADER: u64 = 100_000_000;
/// More tensors than any file has.
const MAX_TENSORS: usize = 100_000;
/// More axes than any model has.
const MAX_RANK: usize = 8;
/// Longer than any tensor name, in bytes.
const MAX_NAME: usize = 4096;

/// Maps `path` into memory and lists its tensors; no byte behind the header is touched.
///
/// The file must not be truncated while it is mapped: the system answers a read behind its end with a signal, which no
/// program can catch.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] if the header lies about the file; [`Error::Tensor`] for a tensor that it lies
/// about, or that burn cannot hold.
pub fn read(path: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    let map = map(path)?;
    let (header, data) = split(&map).map_err(|reason| Error::malformed(path, reason))?;
    let Header(mut entries) = serde_json::from_str(header)
        .map_err(|e| Error::malformed(path, format_args!("not a safetensors header: {e}")))?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = BTreeMap::new();
    let mut start = 0;
    for (name, Entry { dtype: stored, shape, data_offsets: (from, to) }) in entries {
        let wrong = |reason: String| Error::tensor(path, &name, reason);
        if from != start || to < from {
            let reason = format!(
                "its bytes {from} to {to} do not follow byte {start}: an overlap, a gap, or an end before its start"
            );
            return Err(wrong(reason));
        }
        let bits = shape.iter().try_fold(stored.bitsize() as u64, |n, &size| n.checked_mul(size));
        match bits {
            Some(bits) if bits == (to - from).saturating_mul(8) => {}
            _ => return Err(wrong(format!("{stored:?} {shape:?} does not fill its bytes {from} to {to} exactly"))),
        }
        if to > data as u64 {
            return Err(wrong(format!(
                "its bytes {from} to {to} lie behind the {data} that there are: the file is truncated"
            )));
        }
        start = to;
        let dtype = dtype(stored).ok_or_else(|| wrong(format!("dtype {stored:?} is not supported")))?;
        // All are below the length of the map, but for the sizes of empty tensors, whose product is bounded above.
        let mut shape: Vec<usize> = shape.into_iter().map(|size| size as usize).collect();
        if stored == Dtype::F4 {
            // The bytes are kept, and each has two numbers of the last axis.
            let Some(last) = shape.pop().filter(|last| last.is_multiple_of(2)) else {
                return Err(wrong("numbers of four bits in an odd last axis, expected pairs".into()));
            };
            shape.push(last / 2);
        }
        let first = map.len() - data;
        let bytes = map.slice(first + from as usize..first + to as usize);
        if tensors.contains_key(&name) {
            return Err(wrong("is there twice".into()));
        }
        tensors.insert(name, StoredTensor { path: path.to_path_buf(), dtype, shape, bytes });
    }
    if start != data as u64 {
        let reason =
            format_args!("the tensors fill {start} of {data} bytes: the file has trailing bytes, or the header lies");
        return Err(Error::malformed(path, reason));
    }
    Ok(tensors)
}

/// The header's text, and how many bytes of data follow it.
fn split(map: &[u8]) -> Result<(&str, usize), String> {
    if map.starts_with(b"version https://git-lfs") {
        return Err("a pointer of Git LFS, not the file itself; download it".into());
    }
    let (len, rest) =
        map.split_first_chunk().ok_or_else(|| format!("{} bytes are too few for a safetensors file", map.len()))?;
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(format!(
            "the header claims to have {len} bytes, more than 100 MB: not a safetensors file, it seems"
        ));
    }
    let (header, data) = rest.split_at_checked(len as usize).ok_or_else(|| {
        format!("the header claims to have {len} bytes, but the file has only {} bytes: it is truncated", map.len())
    })?;
    let header = std::str::from_utf8(header);
    Ok((header.map_err(|e| format!("the header is not UTF-8 at byte {}", e.valid_up_to()))?, data.len()))
}

/// The tensors of a header, in its order.
struct Header(Vec<(String, Entry)>);

/// A tensor of a header: offsets count from the end of the header.
#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    #[serde(deserialize_with = "shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<Metadata>()
                            .map_err(|e| A::Error::custom(format_args!("`__metadata__`: {e}")))?;
                        continue;
                    }
                    if name.len() > MAX_NAME {
                        let found = name.len();
                        return Err(A::Error::custom(format_args!(
                            "a tensor name of {found} bytes, expected at most {MAX_NAME}"
                        )));
                    }
                    if entries.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                    }
                    let entry = map.next_value::<Entry>();
                    entries.push((
                        name.clone(),
                        entry.map_err(|e| A::Error::custom(format_args!("tensor `{name}`: {e}")))?,
                    ));
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// A map of texts, of which nothing is kept.
struct Metadata;

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetadataVisitor;

        impl<'de> Visitor<'de> for MetadataVisitor {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                while map.next_entry::<IgnoredAny, String>()?.is_some() {}
                Ok(Metadata)
            }
        }

        deserializer.deserialize_map(MetadataVisitor)
    }
}

/// Reads a shape without keeping more of it than a tensor may have.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct ShapeVisitor;

    impl<'de> Visitor<'de> for ShapeVisitor {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of sizes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while shape.len() < MAX_RANK {
                match list.next_element()? {
                    Some(size) => shape.push(size),
                    None => return Ok(shape),
                }
            }
            let mut axes = MAX_RANK;
            while list.next_element::<IgnoredAny>()?.is_some() {
                axes += 1;
            }
            if axes == MAX_RANK {
                Ok(shape)
            } else {
                Err(A::Error::custom(format_args!("{axes} axes, expected at most {MAX_RANK}")))
            }
        }
    }

    deserializer.deserialize_seq(ShapeVisitor)
}

/// The whole file as shared bytes.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(Error::io(path))?;
    if file.metadata().map_err(Error::io(path))?.len() == 0 {
        return Err(Error::malformed(path, "the file is empty"));
    }
    // SAFETY: the map is read-only; that nobody truncates the file meanwhile is the documented contract of this module.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    // What is not in memory yet is read in large pages, see `BlockWriter`; a system that has none says so to no purpose.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(Bytes::from_owner(map))
}

fn dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        // Exponents, and pairs of numbers of four bits: burn has no name for either.
        Dtype::U8 | Dtype::F8_E8M0 | Dtype::F4 => DType::U8,
        Dtype::F8_E4M3 => float8(QuantValue::E4M3),
        Dtype::F8_E5M2 => float8(QuantValue::E5M2),
        Dtype::BOOL => DType::Bool(BoolStore::Native),
        _ => return None,
    })
}

/// The safetensors name of a dtype, for writing.
pub(super) fn stored_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(BoolStore::Native) => Dtype::BOOL,
        DType::QFloat(QuantScheme { value: QuantValue::E4M3, .. }) => Dtype::F8_E4M3,
        DType::QFloat(QuantScheme { value: QuantValue::E5M2, .. }) => Dtype::F8_E5M2,
        _ => return None,
    })
}
