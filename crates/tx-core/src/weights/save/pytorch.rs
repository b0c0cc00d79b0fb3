//! Writing PyTorch's zip archive: `data.pkl`, which describes the tensors, and one stored file per storage.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use burn::tensor::{BoolStore, DType};

use super::Planned;
use super::archive::Archive;
use crate::error::{Error, Result};
use crate::weights::dtype_name;

/// Writes one archive; tensors that are made of the same bytes share a storage.
///
/// # Errors
/// [`Error::Io`], [`Error::Tensor`] for a dtype that PyTorch does not have.
pub(super) fn write(file: &mut File, path: &Path, tensors: &[&Planned], advance: &mut dyn FnMut(u64)) -> Result<()> {
    // What makes two tensors one storage: address, length and dtype.
    let mut keys = HashMap::new();
    let mut storages = Vec::new();
    let mut pickle = Pickle::new();
    for &tensor in tensors {
        let source = tensor.source.filter(|&(_, len)| len > 0);
        let known = source.and_then(|source| keys.get(&(source, tensor.dtype)).copied());
        let key = known.unwrap_or(storages.len());
        if known.is_none() {
            storages.push(tensor);
            if let Some(source) = source {
                keys.insert((source, tensor.dtype), key);
            }
        } else {
            advance(tensor.len());
        }
        pickle.tensor(path, tensor, key)?;
    }
    let mut zip = Archive::new(file);
    let mut add = |name: &str, bytes: &[u8]| zip.add(name, bytes).map_err(Error::io(path));
    add("archive/data.pkl", &pickle.finish())?;
    add("archive/byteorder", b"little")?;
    for (key, tensor) in storages.into_iter().enumerate() {
        add(&format!("archive/data/{key}"), &tensor.bytes(path)?)?;
        advance(tensor.len());
    }
    add("archive/version", b"3\n")?;
    zip.finish().map_err(Error::io(path))
}

/// A pickle of protocol 2 that makes an `OrderedDict` of tensors.
struct Pickle {
    bytes: Vec<u8>,
    /// Names and words that were written before, by their place in the memo.
    memo: HashMap<&'static str, u8>,
}

impl Pickle {
    fn new() -> Self {
        let mut pickle = Self { bytes: b"\x80\x02".to_vec(), memo: HashMap::new() };
        pickle.ordered_dict();
        pickle
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }

    /// `dict[name] = torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`; the dtypes
    /// without a storage class need the third version and untyped storages.
    fn tensor(&mut self, path: &Path, tensor: &Planned, key: usize) -> Result<()> {
        let (class, dtype) = classes(tensor.dtype).ok_or_else(|| {
            Error::tensor(path, &tensor.name, format_args!("PyTorch has no dtype for {}", dtype_name(tensor.dtype)))
        })?;
        self.text(&tensor.name);
        let version =
            if dtype.is_some() { "torch._utils\n_rebuild_tensor_v3\n" } else { "torch._utils\n_rebuild_tensor_v2\n" };
        self.global(version);
        self.bytes.extend(b"((");
        self.word("storage");
        self.global(class);
        self.text(&key.to_string());
        self.word("cpu");
        let elements = tensor.len() / tensor.dtype.size() as u64;
        self.int(if dtype.is_some() { tensor.len() } else { elements });
        self.bytes.extend(b"tQK\x00");
        self.ints(tensor.shape.iter().map(|&size| size as u64));
        let mut strides = vec![1u64; tensor.shape.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(tensor.shape[axis].max(1) as u64);
        }
        self.ints(strides);
        self.bytes.push(0x89);
        self.ordered_dict();
        if let Some(dtype) = dtype {
            self.global(dtype);
        }
        self.bytes.extend(b"tRs");
        Ok(())
    }

    fn ordered_dict(&mut self) {
        self.global("collections\nOrderedDict\n");
        self.bytes.extend(b")R");
    }

    /// A class or function: module and name, each with its line end.
    fn global(&mut self, name: &'static str) {
        self.remember(name, |bytes| bytes.extend([b"c", name.as_bytes()].concat()));
    }

    /// A string that comes up often.
    fn word(&mut self, word: &'static str) {
        self.remember(word, |bytes| text(bytes, word));
    }

    fn remember(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(&place) = self.memo.get(name) {
            self.bytes.extend([b'h', place]);
            return;
        }
        write(&mut self.bytes);
        // There are two dozen names in all.
        let place = self.memo.len() as u8;
        self.bytes.extend([b'q', place]);
        self.memo.insert(name, place);
    }

    fn text(&mut self, s: &str) {
        text(&mut self.bytes, s);
    }

    fn int(&mut self, n: u64) {
        if let Ok(small) = u8::try_from(n) {
            self.bytes.extend([b'K', small]);
        } else if let Ok(medium) = i32::try_from(n) {
            self.bytes.push(b'J');
            self.bytes.extend(medium.to_le_bytes());
        } else {
            // Nine bytes, so that the last one carries the sign.
            self.bytes.extend([0x8a, 9]);
            self.bytes.extend(n.to_le_bytes());
            self.bytes.push(0);
        }
    }

    fn ints(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.bytes.push(b'(');
        numbers.into_iter().for_each(|n| self.int(n));
        self.bytes.push(b't');
    }
}

fn text(bytes: &mut Vec<u8>, s: &str) {
    bytes.push(b'X');
    // Names come from files with shorter limits, or from the source code.
    bytes.extend((s.len() as u32).to_le_bytes());
    bytes.extend(s.as_bytes());
}

/// The storage class of a dtype, and the dtype itself where the class does not tell.
fn classes(dtype: DType) -> Option<(&'static str, Option<&'static str>)> {
    const UNTYPED: &str = "torch.storage\nUntypedStorage\n";
    Some(match dtype {
        DType::F64 => ("torch\nDoubleStorage\n", None),
        DType::F32 => ("torch\nFloatStorage\n", None),
        DType::F16 => ("torch\nHalfStorage\n", None),
        DType::BF16 => ("torch\nBFloat16Storage\n", None),
        DType::I64 => ("torch\nLongStorage\n", None),
        DType::I32 => ("torch\nIntStorage\n", None),
        DType::I16 => ("torch\nShortStorage\n", None),
        DType::I8 => ("torch\nCharStorage\n", None),
        DType::U8 => ("torch\nByteStorage\n", None),
        DType::Bool(BoolStore::Native) => ("torch\nBoolStorage\n", None),
        DType::U64 => (UNTYPED, Some("torch\nuint64\n")),
        DType::U32 => (UNTYPED, Some("torch\nuint32\n")),
        DType::U16 => (UNTYPED, Some("torch\nuint16\n")),
        _ => return None,
    })
}
