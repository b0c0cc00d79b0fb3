//! Writing checkpoints: files that Python reads, written aside and renamed, so that what was there survives a failure.
//!
//! A save has two steps. `stage` writes every file under a temporary name in the same folder and waits until the disk
//! has it; `Staged::commit` renames. Before the commit nothing that was there has changed; at every moment of the
//! commit the folder loads as what it was or as what it becomes. Files of an earlier save go last.

mod archive;
pub(super) mod burnpack;
mod pytorch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use bytes::Bytes;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};
use tempfile::TempPath;

use super::safetensors::stored_dtype;
use super::{StoredTensor, dtype_name};
use crate::blocks::BlockWriter;
use crate::error::{Error, Result};

/// The size above which Python's `save_pretrained` begins another file, in bytes.
pub const MAX_SHARD_SIZE: u64 = 50_000_000_000;
/// Temporary files begin with this; the next save removes those that a killed one left.
const STAGED_PREFIX: &str = ".tx-";

/// A file format for weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `model.safetensors`, or its shards and an index.
    Safetensors,
    /// `pytorch_model.bin`, or its shards and an index.
    PyTorch,
    /// burn's `model.bpk`: one file.
    Burnpack,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Safetensors, Self::PyTorch, Self::Burnpack];

    fn stem(self) -> &'static str {
        if self == Self::PyTorch { "pytorch_model" } else { "model" }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "bin",
            Self::Burnpack => "bpk",
        }
    }

    /// The name of the file if there is one.
    pub fn file_name(self) -> String {
        format!("{}.{}", self.stem(), self.extension())
    }

    /// The name of the index if there are shards.
    pub fn index_name(self) -> String {
        self.file_name() + ".index.json"
    }

    fn shard_name(self, shard: usize, shards: usize) -> String {
        format!("{}-{:05}-of-{shards:05}.{}", self.stem(), shard + 1, self.extension())
    }

    /// Whether a save in this format may have written a file of this name.
    pub fn owns(self, name: &str) -> bool {
        let middle = name.strip_prefix(self.stem()).and_then(|rest| rest.strip_suffix(self.extension()));
        let numbers = middle.and_then(|m| m.strip_prefix('-')?.strip_suffix('.')?.split_once("-of-"));
        let digits = |s: &str| s.len() >= 5 && s.bytes().all(|b| b.is_ascii_digit());
        numbers.is_some_and(|(shard, shards)| digits(shard) && digits(shards))
            || name == self.file_name()
            || name == self.index_name()
    }
}

/// A tensor that is about to be written: its place in the header now, its bytes when their turn comes.
#[derive(Clone)]
pub(super) struct Planned {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Address and length of the bytes it is made of: equal for tensors that are tied.
    pub source: Option<(usize, usize)>,
    pub produce: Arc<dyn Fn() -> Result<Bytes> + Send + Sync>,
}

impl Planned {
    /// A tensor written as it is.
    pub(super) fn stored(name: &str, tensor: &StoredTensor) -> Self {
        let bytes = tensor.bytes.clone();
        Self {
            name: name.to_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            source: Some((bytes.as_ptr() as usize, bytes.len())),
            produce: Arc::new(move || Ok(bytes.clone())),
        }
    }

    /// The size, in bytes; saturates where no tensor can be.
    pub(super) fn len(&self) -> u64 {
        self.shape.iter().fold(self.dtype.size() as u64, |n, &size| n.saturating_mul(size as u64))
    }

    /// The bytes, as many as promised.
    fn bytes(&self, path: &Path) -> Result<Bytes> {
        let bytes = (self.produce)()?;
        if bytes.len() as u64 != self.len() {
            let reason = format_args!(
                "{} bytes, but {} {:?} has {}",
                bytes.len(),
                dtype_name(self.dtype),
                self.shape,
                self.len()
            );
            return Err(Error::tensor(path, &self.name, reason));
        }
        Ok(bytes)
    }
}

/// Writes `tensors` as safetensors into `folder`, in files of at most `max_shard_size` bytes, or of one tensor.
///
/// The memory needed is that of the largest tensor, and nothing for one that is a memory map. Files of an earlier save
/// in this format are replaced; if the save fails they are as they were.
///
/// # Errors
/// [`Error::Io`] with the file, [`Error::Tensor`] for a dtype that the format does not have, as quantized weights have.
pub fn write_folder(folder: &Path, tensors: &BTreeMap<String, StoredTensor>, max_shard_size: u64) -> Result<()> {
    write_format(folder, Format::Safetensors, tensors, max_shard_size)
}

/// Writes `tensors` as PyTorch's `pytorch_model.bin`, which `torch.load(weights_only=True)` reads; else as
/// [`write_folder`]. Tensors that are views of the same bytes stay tied.
///
/// # Errors
/// As [`write_folder`].
pub fn write_pytorch(folder: &Path, tensors: &BTreeMap<String, StoredTensor>, max_shard_size: u64) -> Result<()> {
    write_format(folder, Format::PyTorch, tensors, max_shard_size)
}

fn write_format(
    folder: &Path,
    format: Format,
    tensors: &BTreeMap<String, StoredTensor>,
    max_shard_size: u64,
) -> Result<()> {
    let planned: Vec<_> = tensors.iter().map(|(name, tensor)| Planned::stored(name, tensor)).collect();
    stage(folder, format, &planned, max_shard_size, &mut |_, _| ())?.commit()?;
    Ok(())
}

/// Writes `tensors` as one safetensors file, aside and renamed: `path` has either its old content or all of the new.
///
/// # Errors
/// As [`write_folder`].
pub fn write_file(path: &Path, tensors: BTreeMap<String, TensorData>) -> Result<()> {
    let planned = tensors.into_iter().map(|(name, data)| {
        let (dtype, shape) = (data.dtype(), data.shape().as_slice().to_vec());
        let bytes = Bytes::from(data.into_bytes().to_vec());
        Planned { name, dtype, shape, source: None, produce: Arc::new(move || Ok(bytes.clone())) }
    });
    let planned: Vec<_> = planned.collect();
    let needed = planned.iter().fold(0u64, |sum, tensor| sum.saturating_add(tensor.len()));
    let staged = write_aside(parent(path), path, needed, |file, _| {
        write_safetensors(file, path, &planned.iter().collect::<Vec<_>>(), &mut |_| ())
    })?;
    staged.persist(path).map_err(|e| Error::io(path)(e.error))?;
    sync_folder(parent(path))
}

/// Writes a file so that `path` has either its old content or all of the new: aside, to the disk, renamed.
///
/// # Errors
/// [`Error::Io`].
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = parent(path);
    let staged = write_aside(folder, path, 0, |file, _| {
        let mut file = BufWriter::new(file);
        write(&mut file).and_then(|()| file.flush()).map_err(Error::io(path))
    })?;
    staged.persist(path).map_err(|e| Error::io(path)(e.error))?;
    sync_folder(folder)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a temporary file in `folder` and waits for the disk; messages name `path`, which it is for.
fn write_aside(
    folder: &Path,
    path: &Path,
    needed: u64,
    write: impl FnOnce(&mut File, &Path) -> Result<()>,
) -> Result<TempPath> {
    let suffix = format!("-{}", path.file_name().unwrap_or_default().to_string_lossy());
    let mut builder = tempfile::Builder::new();
    builder.prefix(STAGED_PREFIX).suffix(&suffix);
    #[cfg(unix)]
    {
        // As any other new file, not private to the user as temporary files are; the umask applies.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let full = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge if needed > 0 => {
            io::Error::new(e.kind(), format!("{e}; {needed} bytes are needed"))
        }
        _ => e,
    };
    let (mut file, staged) = builder.tempfile_in(folder).map_err(Error::io(path))?.into_parts();
    let written = write(&mut file, &staged).and_then(|()| file.sync_all().map_err(Error::io(path)));
    match written {
        Ok(()) => Ok(staged),
        Err(Error::Io { path, source }) => Err(Error::Io { path, source: full(source) }),
        Err(other) => Err(other),
    }
}

/// Makes the renames in a folder last, where the system allows to.
fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))?;
    let _ = folder;
    Ok(())
}

/// A save that is complete on the disk, under temporary names.
#[derive(Debug)]
pub(super) struct Staged {
    folder: PathBuf,
    format: Format,
    /// The files and which of the tensors each holds.
    pub(super) files: Vec<StagedFile>,
    total: u64,
}

/// One file of a [`Staged`] save.
#[derive(Debug)]
pub(super) struct StagedFile {
    pub path: TempPath,
    name: String,
    pub tensors: Vec<String>,
}

/// Writes `tensors` under temporary names; `progress` is told how many bytes of how many are written.
///
/// # Errors
/// As [`write_folder`], and what producing a tensor's bytes gives.
pub(super) fn stage(
    folder: &Path,
    format: Format,
    tensors: &[Planned],
    max_shard_size: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Staged> {
    let is_float8 = |dtype| stored_dtype(dtype).is_some();
    let mut quantized = tensors.iter().filter(|tensor| matches!(tensor.dtype, DType::QFloat(_)));
    if let Some(tensor) = quantized.find(|tensor| format != Format::Safetensors || !is_float8(tensor.dtype)) {
        let reason = if is_float8(tensor.dtype) {
            "floats of eight bits are written as safetensors only"
        } else {
            "it is quantized; only a model loaded without `--quantize` can be saved"
        };
        return Err(Error::tensor(folder.join(format.file_name()), &tensor.name, reason));
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let total = tensors.iter().fold(0u64, |sum, tensor| sum.saturating_add(tensor.len()));
    let shards =
        if format == Format::Burnpack { vec![tensors.iter().collect()] } else { shards(tensors, max_shard_size) };
    let mut done = 0;
    let mut advance = |bytes: u64| {
        done += bytes;
        progress(done, total);
    };
    let mut files = Vec::with_capacity(shards.len());
    for (i, shard) in shards.iter().enumerate() {
        let name = if shards.len() == 1 { format.file_name() } else { format.shard_name(i, shards.len()) };
        let path = folder.join(&name);
        let needed = shard.iter().fold(0u64, |sum, tensor| sum.saturating_add(tensor.len()));
        let staged = write_aside(folder, &path, needed, |file, aside| match format {
            Format::Safetensors => write_safetensors(file, &path, shard, &mut advance),
            Format::PyTorch => pytorch::write(file, &path, shard, &mut advance),
            Format::Burnpack => burnpack::write(aside, &path, shard, &mut advance),
        })?;
        files.push(StagedFile {
            path: staged,
            name,
            tensors: shard.iter().map(|tensor| tensor.name.clone()).collect(),
        });
    }
    Ok(Staged { folder: folder.to_path_buf(), format, files, total })
}

/// Divides the tensors, in their order, as `huggingface_hub` does: one that is too large gets a file of its own.
fn shards(tensors: &[Planned], max_shard_size: u64) -> Vec<Vec<&Planned>> {
    let (mut shards, mut current, mut size) = (Vec::new(), Vec::new(), 0u64);
    for tensor in tensors {
        if tensor.len() > max_shard_size {
            shards.push(vec![tensor]);
            continue;
        }
        if size.saturating_add(tensor.len()) > max_shard_size {
            shards.push(std::mem::take(&mut current));
            size = 0;
        }
        current.push(tensor);
        size += tensor.len();
    }
    if !current.is_empty() || shards.is_empty() {
        shards.push(current);
    }
    shards
}

/// Writes one safetensors file: the header, then the tensors, the largest dtypes first so that all are aligned.
fn write_safetensors(file: &mut File, path: &Path, tensors: &[&Planned], advance: &mut dyn FnMut(u64)) -> Result<()> {
    let mut order = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let dtype = stored_dtype(tensor.dtype).ok_or_else(|| {
            Error::tensor(path, &tensor.name, format_args!("safetensors has no dtype for {}", dtype_name(tensor.dtype)))
        })?;
        order.push((dtype, *tensor));
    }
    order.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.name.cmp(&y.name)));
    let mut end = 0usize;
    let mut infos = Vec::with_capacity(order.len());
    for &(dtype, tensor) in &order {
        let start = end;
        end = usize::try_from(tensor.len()).ok().and_then(|len| start.checked_add(len)).ok_or_else(|| {
            Error::tensor(path, &tensor.name, format_args!("shape {:?} is larger than any file", tensor.shape))
        })?;
        infos
            .push((tensor.name.clone(), TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, end) }));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(metadata), infos).map_err(|e| Error::malformed(path, e))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::malformed(path, e))?;
    // Tensors begin at a cache line, and blanks at the end of a header are allowed.
    header.resize((8 + header.len()).next_multiple_of(64) - 8, b' ');
    let mut file = BlockWriter::new(file, 0);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
    file.write_all(&header).map_err(Error::io(path))?;
    for (_, tensor) in order {
        file.write_all(&tensor.bytes(path)?).map_err(Error::io(path))?;
        advance(tensor.len());
    }
    file.flush().map_err(Error::io(path))
}

impl Staged {
    /// Gives the files their names and removes those of earlier saves in this format. Returns the files, the index last.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn commit(self) -> Result<Vec<PathBuf>> {
        let Self { folder, format, files, total } = self;
        let finals: Vec<_> = files.iter().map(|file| folder.join(&file.name)).collect();
        let mut keep: BTreeSet<_> = files.iter().map(|file| file.name.clone()).collect();
        let single = folder.join(format.file_name());
        if files.len() == 1 {
            for file in files {
                file.path.persist(&single).map_err(|e| Error::io(&single)(e.error))?;
            }
            sync_folder(&folder)?;
            remove_stale(&folder, format, &keep)?;
            return Ok(finals);
        }
        let index = folder.join(format.index_name());
        let names: Vec<_> = files.iter().map(|file| (file.name.clone(), file.tensors.as_slice())).collect();
        let text = index_json(total, &names);
        // Loaders prefer the single file to the index, so that as long as there is one the shards may change.
        let in_use = !single.exists() && index.exists() && finals.iter().any(|path| path.exists());
        if in_use {
            relink(&folder, &index, files, total)?;
        } else {
            for (file, path) in files.into_iter().zip(&finals) {
                file.path.persist(path).map_err(|e| Error::io(path)(e.error))?;
            }
            sync_folder(&folder)?;
        }
        write_atomically(&index, |file| file.write_all(text.as_bytes()))?;
        if single.exists() {
            fs::remove_file(&single).map_err(Error::io(&single))?;
        }
        keep.insert(format.index_name());
        remove_stale(&folder, format, &keep)?;
        Ok(finals.into_iter().chain([index]).collect())
    }
}

/// Replaces shards that the index of an earlier save names: an index of the temporary names takes over, and then the
/// shards get their names as second names, which the caller's index names.
fn relink(folder: &Path, index: &Path, files: Vec<StagedFile>, total: u64) -> Result<()> {
    let mut kept = Vec::with_capacity(files.len());
    for file in files {
        let path = file.path.keep().map_err(|e| Error::io(folder)(e.error))?;
        let staged = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        kept.push((path, folder.join(file.name), staged, file.tensors));
    }
    sync_folder(folder)?;
    let names: Vec<_> = kept.iter().map(|(_, _, staged, tensors)| (staged.clone(), tensors.as_slice())).collect();
    let text = index_json(total, &names);
    if let Err(e) = write_atomically(index, |file| file.write_all(text.as_bytes())) {
        // The earlier save still holds; what cannot be removed now, the next save removes.
        kept.iter().for_each(|(path, ..)| drop(fs::remove_file(path)));
        return Err(e);
    }
    for (path, name, ..) in &kept {
        if name.exists() {
            fs::remove_file(name).map_err(Error::io(name))?;
        }
        // A copy where the file system has no second names.
        let copy = || fs::copy(path, name).and_then(|_| File::open(name)?.sync_all());
        fs::hard_link(path, name).or_else(|_| copy()).map_err(Error::io(name))?;
    }
    sync_folder(folder)
}

/// The index of a sharded checkpoint, as Python writes it.
fn index_json(total: u64, files: &[(String, &[String])]) -> String {
    let pairs = files.iter().flat_map(|(file, tensors)| tensors.iter().map(move |tensor| (tensor, file)));
    let map: BTreeMap<_, _> = pairs.collect();
    let map: Map<_, _> = map.into_iter().map(|(tensor, file)| (tensor.clone(), Value::from(file.as_str()))).collect();
    format!("{:#}\n", json!({ "metadata": { "total_size": total }, "weight_map": map }))
}

/// Removes the weights of earlier saves in this format, and temporary files that a killed save left.
pub(super) fn remove_stale(folder: &Path, format: Format, keep: &BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let left = name
            .strip_prefix(STAGED_PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .is_some_and(|(_, name)| format.owns(name));
        if left || format.owns(&name) && !keep.contains(&name) {
            fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
