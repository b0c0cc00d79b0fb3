//! `adapter_model.safetensors`: the tensors of an adapter, under the names that peft gives them.
//!
//! Reference: peft 0.21.2, `utils/save_and_load.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use tx_core::error::{Error, Mismatch, Result, WeightsReport};
use tx_core::task::AnyTensor;
use tx_core::weights::{Checkpoint, StoredTensor, dtype_name, save};

use super::config::{CONFIG_FILE, Method, PeftConfig};
use super::modules::is_saved;
use super::slot::{Draw, Slot};

/// What the names of modules begin with.
pub const PREFIX: &str = "base_model.model.";
/// The same in files of virtual tokens.
pub const VIRTUAL_PREFIX: &str = "base_model.";

/// The file of what a prefix is computed of, with which its training goes on.
const ENCODER: &str = "prefix_encoder.safetensors";

/// The name of the file, and that of older ones.
pub const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Parts of names that peft saves although they say nothing new: embeddings as they were, and biases a second time.
const SAID_ALREADY: [&str; 3] = [".base_layer.weight", ".modules_to_save.", ".original_module."];

/// A tensor that an adapter needs.
pub struct Want<'a> {
    /// Its name.
    pub key: String,
    /// The type of the module that it is in, in Python.
    pub layer: &'a str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether a file's dtype stays; f32 otherwise.
    pub keep_dtype: bool,
    /// What a new one is.
    pub begin: Begin<'a>,
}

/// Makes a new tensor.
pub type Begin<'a> = Box<dyn FnOnce(&mut Draw) -> AnyTensor + 'a>;

/// Where the tensors of an adapter come from.
pub trait Source {
    /// Whether they are new.
    fn is_new(&self) -> bool;

    /// One of them.
    fn make(&mut self, want: Want<'_>) -> Slot;
}

/// New tensors.
#[derive(Debug)]
pub struct Fresh {
    /// What they depend on.
    pub seed: u64,
    /// How many there are.
    pub count: u64,
    /// Where they live.
    pub device: Device,
}

impl Source for Fresh {
    fn is_new(&self) -> bool {
        true
    }

    fn make(&mut self, want: Want<'_>) -> Slot {
        let tensor = (want.begin)(&mut Draw::new(self.seed, self.count, &self.device));
        self.count += 1;
        Slot::new(want.key, want.layer, tensor)
    }
}

/// The tensors of a file.
#[derive(Debug)]
pub struct Stored {
    checkpoint: Checkpoint,
    used: BTreeSet<String>,
    report: WeightsReport,
    device: Device,
}

impl Stored {
    /// Those of a folder.
    ///
    /// # Errors
    /// [`Error::MissingFile`], and what reading it reports.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let path = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| Error::MissingFile {
            folder: folder.to_path_buf(),
            expected: WEIGHTS.map(|name| format!("`{name}`")).join(", "),
            remedy: "name a folder that an adapter was saved to".into(),
        })?;
        let checkpoint = Checkpoint::from_file(&path)?;
        Ok(Self { checkpoint, used: BTreeSet::new(), report: WeightsReport::default(), device: device.clone() })
    }

    /// Makes sure that all that was wanted was there, and nothing else.
    ///
    /// # Errors
    /// [`Error::Weights`] with every tensor that is missing, unexpected or of another shape.
    pub fn finish(mut self, class: &str) -> Result<()> {
        let known = |name: &str| SAID_ALREADY.iter().any(|part| name.contains(part));
        let names = self.checkpoint.tensors().keys();
        let unexpected = names.filter(|name| !self.used.contains(*name) && !known(name)).cloned();
        self.report.unexpected = unexpected.collect();
        if self.report.is_empty() {
            return Ok(());
        }
        let class = format!("{class} with this adapter");
        Err(Error::Weights { path: self.checkpoint.path().to_path_buf(), class, report: self.report })
    }

    fn find(&mut self, want: &Want<'_>) -> Option<AnyTensor> {
        // Some versions of peft have one more part.
        let longer = format!("{}.weight", want.key);
        let found = [&want.key, &longer].into_iter().find_map(|name| self.checkpoint.tensors().get_key_value(name));
        let Some((name, stored)) = found else {
            self.report.missing.push(want.key.clone());
            return None;
        };
        self.used.insert(name.clone());
        if stored.shape != want.shape || !is_float(stored.dtype) {
            self.report.mismatched.push(Mismatch {
                name: name.clone(),
                found: format!("{} {:?}", dtype_name(stored.dtype), stored.shape),
                expected: format!("{:?} of floats", want.shape),
            });
            return None;
        }
        Some(tensor(stored, want.keep_dtype, &self.device))
    }
}

/// A tensor of a file. Matrices may keep their dtype, everything else is f32.
fn tensor(stored: &StoredTensor, keep_dtype: bool, device: &Device) -> AnyTensor {
    let dtype = if keep_dtype && stored.shape.len() == 2 { stored.dtype } else { DType::F32 };
    let data = stored.to_data();
    let data = if data.dtype() == dtype { data } else { data.convert_dtype(dtype) };
    let data = TensorData::from_bytes(data.into_bytes(), [stored.elements()], dtype);
    AnyTensor::from_flat(Tensor::from_data(data, (device, dtype)), &stored.shape)
}

impl Source for Stored {
    fn is_new(&self) -> bool {
        false
    }

    fn make(&mut self, want: Want<'_>) -> Slot {
        // What stands for a tensor that is not there never gets used: the report is not empty.
        let tensor = self.find(&want).unwrap_or_else(|| Tensor::<1>::zeros([1], &self.device).into());
        Slot::new(want.key, want.layer, tensor)
    }
}

/// The tensors in a folder that are of modules as a whole, under their names in the model.
///
/// # Errors
/// Those of reading the file.
pub fn saved_modules(folder: &Path, config: &PeftConfig) -> Result<BTreeMap<String, StoredTensor>> {
    let stored = Stored::open(folder, &Device::default())?;
    let is_virtual = matches!(config.method, Method::PromptTuning(_) | Method::PrefixTuning(_));
    let prefix = if is_virtual { VIRTUAL_PREFIX } else { PREFIX };
    let named = |(key, tensor): (&String, &StoredTensor)| {
        let name = key.strip_prefix(prefix)?;
        let said_already = SAID_ALREADY.iter().any(|part| key.contains(part));
        let (module, _) = name.rsplit_once('.')?;
        (is_saved(module, &config.modules_to_save) && !said_already).then(|| (name.to_owned(), tensor.clone()))
    };
    Ok(stored.checkpoint.tensors().iter().filter_map(named).collect())
}

/// A tensor in the memory of the host.
pub fn data(tensor: AnyTensor) -> TensorData {
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    TensorData::from_bytes(tensor.untrack().flatten().into_data().into_bytes(), shape, dtype)
}

/// Writes an adapter into a folder; `encoder` is what Python's files do not have.
///
/// # Errors
/// [`Error::Io`].
pub fn write(
    folder: &Path,
    config: &PeftConfig,
    tensors: BTreeMap<String, TensorData>,
    encoder: BTreeMap<String, TensorData>,
) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    save::write_file(&folder.join(WEIGHTS[0]), tensors)?;
    if !encoder.is_empty() {
        save::write_file(&folder.join(ENCODER), encoder)?;
    }
    save::write_atomically(&folder.join(CONFIG_FILE), |file| file.write_all(config.to_json().as_bytes()))
}

/// Gives tensors the values in a folder.
///
/// # Errors
/// Those of reading the files; [`Error::Tensor`] for one that is missing or has another shape, and nothing has changed
/// then.
pub fn restore(folder: &Path, slots: &[&Slot]) -> Result<()> {
    let stored = Stored::open(folder, &Device::default())?;
    let (path, mut tensors) = (stored.checkpoint.path().to_path_buf(), stored.checkpoint.tensors().clone());
    let encoder = folder.join(ENCODER);
    if encoder.is_file() {
        tensors.extend(Checkpoint::from_file(&encoder)?.tensors().clone());
    }
    let mut values = Vec::new();
    for slot in slots {
        let (now, shape) = (slot.any(), slot.any().shape());
        let wrong = |reason: String| Error::tensor(&path, &slot.key, reason);
        let found = tensors.get(&slot.key).ok_or_else(|| wrong("is missing".into()))?;
        if found.shape != shape || !is_float(found.dtype) {
            let found = format!("{} {:?}", dtype_name(found.dtype), found.shape);
            return Err(wrong(format!("{found}, expected {shape:?} of floats")));
        }
        let (device, dtype) = (now.clone().untrack().flatten().device(), now.dtype());
        // A copy: what is trained is written to, and a memory map cannot be.
        let data = TensorData::from_bytes_vec(found.bytes.to_vec(), [found.elements()], found.dtype);
        let data = if found.dtype == dtype { data } else { data.convert_dtype(dtype) };
        let value = AnyTensor::from_flat(Tensor::from_data(data, (&device, dtype)), &shape);
        values.push(if now.is_tracked() { value.track() } else { value });
    }
    slots.iter().zip(values).for_each(|(slot, value)| drop(slot.replace(value)));
    Ok(())
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
}

/// How many tensors, elements and bytes the weights of an adapter have.
///
/// # Errors
/// As [`Checkpoint::from_file`], and [`Error::MissingFile`].
pub fn summary(folder: &Path) -> Result<[u64; 3]> {
    let stored = Stored::open(folder, &Device::default())?;
    let tensors = stored.checkpoint.tensors();
    let elements = tensors.values().map(|tensor| tensor.elements() as u64).sum();
    Ok([tensors.len() as u64, elements, stored.checkpoint.bytes() as u64])
}
