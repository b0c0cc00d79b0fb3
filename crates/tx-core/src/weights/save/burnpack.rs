//! burn's own format, `.bpk`: a CBOR header, then the tensors at multiples of 256 bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{AllocationProperty, BoolStore, DType};
use burn_pack::{Reader, Tensor, Writer};
use bytes::Bytes;

use super::Planned;
use crate::error::{Error, Result};
use crate::weights::pickle::{MAX_NAME, MAX_RANK};
use crate::weights::safetensors::map;
use crate::weights::{StoredTensor, dtype_name};

/// Maps `path` into memory and lists its tensors; no byte behind the header is touched.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] if the header lies about the file; [`Error::Tensor`] for a quantized tensor.
pub(in crate::weights) fn read(path: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    let map = burn::tensor::Bytes::from_shared(map(path)?, AllocationProperty::File);
    let reader = Reader::from_bytes(map).and_then(Reader::into_tensors);
    let mut tensors = BTreeMap::new();
    for tensor in reader.map_err(|e| Error::malformed(path, format_args!("not a Burnpack file: {e}")))? {
        let (name, dtype, shape, _, bytes) = tensor.into_parts().map_err(|e| Error::malformed(path, e))?;
        if name.len() > MAX_NAME {
            return Err(Error::malformed(
                path,
                format_args!("a tensor name of {} bytes, expected at most {MAX_NAME}", name.len()),
            ));
        }
        if shape.rank() > MAX_RANK {
            return Err(Error::tensor(path, name, format_args!("{} axes, expected at most {MAX_RANK}", shape.rank())));
        }
        let dtype = match dtype {
            // One byte of zero or one, as the native ones.
            DType::Bool(BoolStore::U8) => DType::Bool(BoolStore::Native),
            DType::Bool(BoolStore::U32) | DType::QFloat(_) | DType::Flex32 => {
                return Err(Error::tensor(path, name, format_args!("dtype {} is not supported", dtype.name())));
            }
            plain => plain,
        };
        let bytes = Bytes::from_owner(View(bytes));
        tensors.insert(name, StoredTensor { path: path.to_path_buf(), dtype, shape: shape.to_vec(), bytes });
    }
    Ok(tensors)
}

/// A window of the map, in burn's own type of shared bytes.
struct View(burn::tensor::Bytes);

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Writes one file at `aside`; messages name `path`, which it is for.
///
/// burn's writer gives no news of its progress: `advance` is told of all bytes at the end.
///
/// # Errors
/// [`Error::Io`], and what producing a tensor's bytes gives.
pub(super) fn write(aside: &Path, path: &Path, tensors: &[&Planned], advance: &mut dyn FnMut(u64)) -> Result<()> {
    // burn's errors are text; ours waits here until its writer has given up.
    let failure = Arc::new(Mutex::new(None));
    let mut entries = Vec::with_capacity(tensors.len());
    for &tensor in tensors {
        let len = usize::try_from(tensor.len());
        let len = len.map_err(|_| {
            Error::tensor(
                path,
                &tensor.name,
                format_args!("{} of {:?} is larger than any file", dtype_name(tensor.dtype), tensor.shape),
            )
        })?;
        let (failure, planned, path) = (Arc::clone(&failure), tensor.clone(), path.to_path_buf());
        let produce = move || match planned.bytes(&path) {
            Ok(bytes) => Ok(burn::tensor::Bytes::from_shared(bytes, AllocationProperty::File)),
            Err(e) => {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                Err(burn_pack::Error::IoError("no bytes".into()))
            }
        };
        entries.push(Tensor::deferred(tensor.name.clone(), tensor.dtype, tensor.shape.clone(), None, len, produce));
    }
    let written = Writer::new(entries).auto_extension(false).write_to_file_in_place(aside);
    written.map_err(|e| {
        let ours = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        ours.unwrap_or_else(|| Error::Io { path: path.to_path_buf(), source: std::io::Error::other(e.to_string()) })
    })?;
    advance(tensors.iter().map(|tensor| tensor.len()).sum());
    Ok(())
}
