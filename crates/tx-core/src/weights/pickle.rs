//! PyTorch's `pytorch_model.bin`: a pickle that describes the tensors, and their storages, memory-mapped.
//!
//! Two layouts: the zip archive of torch ≥ 1.6 (`data.pkl`, `data/0`, …) and the plain file of the versions before it
//! (magic number, protocol, system, object, keys, storages, one after the other). Nothing in the file is executed: see
//! `machine`. Contiguous tensors of stored archives are views of the map, and loading reads no byte of them; so the
//! sums of such entries are not checked, only those of `data.pkl` and of compressed entries.

mod archive;
mod machine;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bytes::Bytes;

use self::archive::Archive;
use self::machine::{Machine, shown};
use self::value::{Storage, Tensor, Value};
use super::StoredTensor;
use super::safetensors::map;
use crate::error::{Error, Result};

/// More axes than any model has.
pub(super) const MAX_RANK: usize = 8;
/// Longer than any tensor name, in bytes.
pub(super) const MAX_NAME: usize = 4096;
/// More tensors than any file has.
const MAX_TENSORS: usize = 100_000;
/// A state dict of [`MAX_TENSORS`] tensors, in bytes.
const MAX_PICKLE: usize = 16 << 20;
/// What tensors that are not contiguous may take in memory besides the size of the file, in bytes.
const GATHER_ALLOWANCE: u64 = 16 << 20;
/// The keys under which training scripts put the state dict when they save more than that.
const WRAPPERS: [&[u8]; 4] = [b"state_dict", b"model_state_dict", b"model", b"module"];
/// The number at the beginning of the plain layout, little-endian.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Maps `path` into memory and lists its tensors. Tensors that share a storage appear under each of their names.
///
/// The file must not be truncated while it is mapped: see [`super::safetensors::read`].
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] if the file is broken, or names a class or function that a state dict does not
/// need; [`Error::Tensor`] for a tensor that does not fit its storage.
pub fn read(path: &Path) -> Result<BTreeMap<String, StoredTensor>> {
    let map = map(path)?;
    match map.get(..4) {
        Some(b"PK\x03\x04") => read_archive(path, &map),
        Some([0x80, 2..=5, _, _]) => read_plain(path, &map),
        _ => Err(Error::malformed(path, foreign(&map))),
    }
}

/// What a file is that is not a checkpoint, as far as its first bytes tell.
fn foreign(map: &[u8]) -> &'static str {
    if map.starts_with(b"version https://git-lfs") {
        "a pointer of Git LFS, not the file itself; download it"
    } else if map.get(8) == Some(&b'{') {
        "a safetensors file, it seems; name it `.safetensors`"
    } else if map.get(257..262) == Some(b"ustar") {
        "a tar archive of PyTorch before 0.1.12, which is not supported; save it again in Python"
    } else {
        "not a PyTorch checkpoint: expected a zip archive or a pickle of protocol 2 to 5"
    }
}

fn read_archive(path: &Path, map: &Bytes) -> Result<BTreeMap<String, StoredTensor>> {
    let mut archive = Archive::open(path, map)?;
    let root = archive.root()?;
    let order = format!("{root}/byteorder");
    if archive.contains(&order) && archive.unpack(&order, 16)? != b"little" {
        return Err(Error::malformed(
            path,
            "saved on a big-endian machine, which is not supported; save it again in Python",
        ));
    }
    let pickle = archive.unpack(&format!("{root}/data.pkl"), MAX_PICKLE as u64)?;
    let mut machine = Machine::new(path, &pickle);
    let object = machine.load()?;
    let mut storages = HashMap::<&[u8], Bytes>::new();
    for storage in &machine.storages {
        if !storages.contains_key(storage.key) {
            let bytes = archive.bytes(&format!("{root}/data/{}", String::from_utf8_lossy(storage.key)))?;
            storages.insert(storage.key, bytes);
        }
    }
    tensors(path, &machine, object, map.len(), &storages)
}

/// Reads the layout of torch before 1.6.
fn read_plain(path: &Path, map: &Bytes) -> Result<BTreeMap<String, StoredTensor>> {
    let mut machine = Machine::new(path, &map[..map.len().min(MAX_PICKLE)]);
    match (machine.load()?, machine.load()?) {
        (Value::Long(MAGIC), Value::Int(1001)) => {}
        _ => return Err(Error::malformed(path, "a pickle, but not one of PyTorch")),
    }
    let system = machine.load()?;
    for &(key, value) in machine.pairs(system).unwrap_or_default() {
        if let (Value::Text(b"little_endian"), Value::Bool(false)) = (key, value) {
            return Err(Error::malformed(
                path,
                "saved on a big-endian machine, which is not supported; save it again in Python",
            ));
        }
    }
    let object = machine.load()?;
    let keys = machine.load()?;
    let units: HashMap<_, _> = machine.storages.iter().rev().map(|s| (s.key, s.unit())).collect();
    let mut storages = HashMap::new();
    let mut rest = map.slice(machine.position()..);
    for &key in machine.items(keys).ok_or_else(|| machine.error("expected the list of the storages"))? {
        let Value::Text(key) = key else { return Err(machine.error("expected the list of the storages")) };
        let wrong = |reason: String| Error::malformed(path, format!("storage `{}`: {reason}", shown(key)));
        let unit = units.get(key).ok_or_else(|| wrong("no tensor has it".into()))?;
        let len = rest.first_chunk().map(|&len| i64::from_le_bytes(len));
        let len = len.ok_or_else(|| wrong("the file is truncated".into()))?;
        let bytes = u64::try_from(len).ok().and_then(|len| len.checked_mul(*unit));
        let bytes = bytes.and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= rest.len() - 8);
        let bytes = bytes
            .ok_or_else(|| wrong(format!("claims {len} elements, but the file has {} bytes left", rest.len() - 8)))?;
        storages.insert(key, rest.slice(8..8 + bytes));
        rest = rest.slice(8 + bytes..);
    }
    tensors(path, &machine, object, map.len(), &storages)
}

/// The tensors of a state dict, cut out of their storages.
fn tensors<'a>(
    path: &Path,
    machine: &Machine<'a>,
    object: Value<'a>,
    file_len: usize,
    storages: &HashMap<&'a [u8], Bytes>,
) -> Result<BTreeMap<String, StoredTensor>> {
    let mut gather = Gather { budget: file_len as u64 + GATHER_ALLOWANCE, done: HashMap::new() };
    let mut tensors = BTreeMap::new();
    for &(key, value) in state_dict(path, machine, object)? {
        let Value::Text(key) = key else {
            return Err(Error::malformed(
                path,
                format_args!("a key of the state dict is {}, expected a string", key.kind()),
            ));
        };
        let name = std::str::from_utf8(key).ok().filter(|name| name.len() <= MAX_NAME);
        let name =
            name.ok_or_else(|| Error::tensor(path, shown(key), "the name is not UTF-8 of at most 4096 bytes"))?;
        let wrong = |reason: String| Error::tensor(path, shown(key), reason);
        let Value::Tensor(tensor) = value else { return Err(wrong(format!("is {}, expected a tensor", value.kind()))) };
        let tensor = &machine.tensors[tensor];
        let storage = &machine.storages[tensor.storage];
        let bytes = storages
            .get(storage.key)
            .ok_or_else(|| wrong(format!("storage `{}` is not in the file", shown(storage.key))))?;
        let bytes = gather.view(tensor, storage, bytes).map_err(wrong)?;
        // Products and sizes were compared with the length of the file.
        let shape = tensor.sizes[..tensor.rank].iter().map(|&size| size as usize).collect();
        tensors.insert(name.to_owned(), StoredTensor { path: path.to_path_buf(), dtype: tensor.dtype, shape, bytes });
    }
    Ok(tensors)
}

/// The pairs of the state dict: of the object itself, or of the one well-known key under which it lies.
fn state_dict<'m, 'a>(
    path: &Path,
    machine: &'m Machine<'a>,
    object: Value<'a>,
) -> Result<&'m [(Value<'a>, Value<'a>)]> {
    let pairs = machine.pairs(object);
    let pairs =
        pairs.ok_or_else(|| Error::malformed(path, format_args!("holds {}, expected a state dict", object.kind())))?;
    let wrapped = pairs.iter().filter(|(key, _)| matches!(key, Value::Text(key) if WRAPPERS.contains(key)));
    let mut wrapped = wrapped.filter_map(|&(_, value)| machine.pairs(value));
    match (wrapped.next(), wrapped.next()) {
        (None, _) => Ok(pairs),
        (Some(inner), None) => Ok(inner),
        _ => Err(Error::malformed(path, "holds more than one state dict; save the one that is meant in Python")),
    }
}

/// Cuts tensors out of their storages, and copies those whose elements do not lie in order.
struct Gather {
    /// How many bytes may still be copied.
    budget: u64,
    /// Copies by what they are a copy of, for weights that are tied.
    done: HashMap<Place, Bytes>,
}

/// Address and length of the storage, offset, sizes and strides.
type Place = (usize, usize, u64, [u64; MAX_RANK], [u64; MAX_RANK]);

impl Gather {
    fn view(&mut self, tensor: &Tensor, storage: &Storage<'_>, bytes: &Bytes) -> Result<Bytes, String> {
        let unit = storage.unit();
        let ends = storage.offset.checked_mul(unit).zip(storage.len.checked_mul(unit));
        let ends = ends.and_then(|(start, len)| Some(start..start.checked_add(len)?));
        let range = ends.filter(|range| range.end <= bytes.len() as u64);
        let range = range.ok_or_else(|| {
            format!(
                "claims {} elements of storage `{}`, which has {} bytes",
                storage.len,
                shown(storage.key),
                bytes.len()
            )
        })?;
        let bytes = bytes.slice(range.start as usize..range.end as usize);

        let (sizes, strides) = (&tensor.sizes[..tensor.rank], &tensor.strides[..tensor.rank]);
        let element = tensor.dtype.size();
        // Without the zeros, so that no partial product of an empty tensor overflows later.
        let len = sizes.iter().filter(|&&size| size != 0).try_fold(element as u64, |n, &size| n.checked_mul(size));
        let len = len.filter(|&n| n <= i64::MAX as u64).ok_or_else(|| format!("shape {sizes:?} overflows"))?;
        if sizes.contains(&0) {
            return Ok(Bytes::new());
        }
        let axes = sizes.iter().zip(strides);
        let last = axes
            .clone()
            .try_fold(tensor.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?));
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(element as u64));
        if end.is_none_or(|end| end > bytes.len() as u64) {
            return Err(format!(
                "shape {sizes:?} with strides {strides:?} from element {} on does not fit its storage of {} bytes",
                tensor.offset,
                bytes.len()
            ));
        }
        if contiguous(sizes, strides) {
            let start = tensor.offset as usize * element;
            return Ok(bytes.slice(start..start + len as usize));
        }
        let place = (bytes.as_ptr() as usize, bytes.len(), tensor.offset, tensor.sizes, tensor.strides);
        if let Some(copy) = self.done.get(&place) {
            return Ok(copy.clone());
        }
        self.budget = self.budget.checked_sub(len).ok_or_else(|| {
            format!("shape {sizes:?} with strides {strides:?} repeats elements: it would take {len} bytes, more than the file")
        })?;
        let copy = Bytes::from(gather(&bytes, tensor, element, len as usize)?);
        self.done.insert(place, copy.clone());
        Ok(copy)
    }
}

/// Whether the elements lie in row-major order without gaps.
fn contiguous(sizes: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1;
    sizes.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size;
        fits
    })
}

/// Copies a tensor's elements into row-major order; that they lie inside of `bytes` has been checked.
fn gather(bytes: &[u8], tensor: &Tensor, element: usize, len: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| format!("{len} bytes do not fit into memory"))?;
    let axes = tensor.rank - 1;
    let row = tensor.sizes[axes] as usize;
    // The stride of an axis of size one may be anything.
    let step = if row == 1 { element } else { tensor.strides[axes] as usize * element };
    let mut index = [0; MAX_RANK];
    while out.len() < len {
        let offset: u64 = index[..axes].iter().zip(&tensor.strides).map(|(i, stride)| i * stride).sum();
        let start = (tensor.offset + offset) as usize * element;
        if step == element {
            out.extend_from_slice(&bytes[start..start + row * element]);
        } else {
            (0..row).map(|i| start + i * step).for_each(|at| out.extend_from_slice(&bytes[at..at + element]));
        }
        for axis in (0..axes).rev() {
            index[axis] += 1;
            if index[axis] < tensor.sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
