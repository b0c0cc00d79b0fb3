//! The safetensors format: a JSON header, then the tensors, memory-mapped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use burn::tensor::{BoolStore, DType};
use bytes::Bytes;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};

use super::StoredTensor;
use crate::error::{Error, Result};

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
/// [`Error::Io`]; [`Error::Malformed`] if the header lies about the file; [`Error::Tensor`] for a tensor that burn cannot
/// hold.
pub fn read(path: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    let map = map(path)?;
    let (header_len, metadata) = SafeTensors::read_metadata(&map).map_err(|e| Error::malformed(path, reason(e, map.len())))?;
    let start = header_len + size_of::<u64>();
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        if name.len() > MAX_NAME {
            return Err(Error::malformed(path, format_args!("a tensor name of {} bytes, expected at most {MAX_NAME}", name.len())));
        }
        if info.shape.len() > MAX_RANK {
            return Err(Error::tensor(path, name, format_args!("{} axes, expected at most {MAX_RANK}", info.shape.len())));
        }
        let dtype = dtype(info.dtype)
            .ok_or_else(|| Error::tensor(path, &name, format_args!("dtype {:?} is not supported", info.dtype)))?;
        let bytes = map.slice(start + info.data_offsets.0..start + info.data_offsets.1);
        tensors.insert(name, StoredTensor { path: path.to_path_buf(), dtype, shape: info.shape.clone(), bytes });
    }
    Ok(tensors)
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
    Ok(Bytes::from_owner(map))
}

/// The error of the header's parser, with the numbers that it leaves out.
fn reason(error: safetensors::SafeTensorError, len: usize) -> String {
    use safetensors::SafeTensorError as E;
    match error {
        E::HeaderTooSmall => format!("{len} bytes are too few for a safetensors file"),
        E::HeaderTooLarge => "the header claims more than 100 MB".to_owned(),
        E::InvalidHeaderLength => format!("the header claims to be longer than the file, which has {len} bytes"),
        E::InvalidOffset(name) => format!("tensor `{name}` overlaps its neighbour, leaves a gap or has its end before its start"),
        E::TensorInvalidInfo => "a tensor's offsets do not fit its shape and dtype".to_owned(),
        E::MetadataIncompleteBuffer => format!("the tensors do not fill the file of {len} bytes: it is truncated, or the header lies"),
        E::ValidationOverflow => "a tensor's shape overflows".to_owned(),
        other => format!("not a safetensors header: {other}"),
    }
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
        Dtype::U8 => DType::U8,
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
        _ => return None,
    })
}
