//! A good folder that can be broken, and the ways to change its files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::TensorData;
use serde_json::Value;
use tempfile::TempDir;
use tx_core::task::NamedTensors;
use tx_core::weights::save::write_file;
use tx_core::weights::synth::Recipe;

/// A folder with `model/`, `inputs.safetensors` for a forward pass of it, and `stdin`.
///
/// The methods fail the test where they cannot do what they say.
pub struct Folder(TempDir);

impl Folder {
    /// A model with the small files of `source`, a folder below the repository's root, and with its synthetic weights.
    pub fn new(source: &str) -> Result<Self> {
        let folder = Self(tempfile::tempdir()?);
        let source = repository().join(source);
        fs::create_dir(folder.model())?;
        for entry in fs::read_dir(&source).with_context(|| source.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().context("a file without a name")?.to_string_lossy().into_owned();
            if name != "weights.json" && !name.starts_with("golden") && !name.starts_with("reference.") {
                fs::copy(&path, folder.model().join(name))?;
            }
        }
        Recipe::from_file(&source.join("weights.json"))?.write(&folder.model(), u64::MAX)?;
        fs::write(folder.root().join("stdin"), "")?;
        folder
            .inputs(&[("input_ids", integers(&[4, 50, 51, 5], [1, 4])), ("attention_mask", integers(&[1; 4], [1, 4]))]);
        Ok(folder)
    }

    /// Where the command runs.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// The model's folder.
    pub fn model(&self) -> PathBuf {
        self.root().join("model")
    }

    /// A file of the model.
    pub fn path(&self, name: &str) -> PathBuf {
        self.model().join(name)
    }

    /// All files and folders.
    pub fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.root().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
                found.insert(entry.path());
            }
        }
        Ok(found)
    }

    /// Writes a file of the model, and its folder.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Makes a file of the model this long, of zeros that take no space.
    pub fn write_zeros(&self, name: &str, len: u64) {
        File::create(self.path(name)).unwrap().set_len(len).unwrap();
    }

    /// Cuts a file of the model to its first half.
    pub fn halve(&self, name: &str) {
        let bytes = fs::read(self.path(name)).unwrap();
        self.write(name, &bytes[..bytes.len() / 2]);
    }

    /// Takes a file away from the model.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Gives a file of the model another name.
    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Copies a file from below the repository's root into the model.
    pub fn copy(&self, file: &str) {
        let from = repository().join(file);
        fs::copy(&from, self.model().join(from.file_name().unwrap())).unwrap();
    }

    /// Changes a JSON file of the model.
    pub fn json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        edit(&mut value);
        self.write(name, value.to_string());
    }

    /// Sets a key of a JSON file of the model to text that need not be JSON: `NaN`.
    pub fn set(&self, name: &str, key: &str, value: &str) {
        const PLACE: &str = "the value goes here";
        self.json(name, |json| json[key] = PLACE.into());
        let text = fs::read_to_string(self.path(name)).unwrap();
        self.write(name, text.replace(&format!("\"{PLACE}\""), value));
    }

    /// Takes a key out of a JSON file of the model.
    pub fn unset(&self, name: &str, key: &str) {
        self.json(name, |json| drop(json.as_object_mut().unwrap().remove(key).unwrap()));
    }

    /// Changes the model's weights.
    pub fn weights(&self, edit: impl FnOnce(&mut NamedTensors)) {
        let path = self.path("model.safetensors");
        let stored = tx_core::weights::safetensors::read(&path).unwrap();
        let mut tensors = stored.iter().map(|(name, tensor)| (name.clone(), tensor.to_data())).collect();
        edit(&mut tensors);
        write_file(&path, tensors).unwrap();
    }

    /// Writes the arguments of the forward pass.
    pub fn inputs(&self, tensors: &[(&str, TensorData)]) {
        let tensors = tensors.iter().map(|(name, data)| ((*name).to_owned(), data.clone())).collect();
        write_file(&self.root().join("inputs.safetensors"), tensors).unwrap();
    }
}

/// Integers of 64 bits.
pub fn integers<const D: usize>(values: &[i64], shape: [usize; D]) -> TensorData {
    TensorData::new(values.to_vec(), shape)
}

/// Zeros of 32 bits.
pub fn floats<const D: usize>(shape: [usize; D]) -> TensorData {
    TensorData::new(vec![0f32; shape.iter().product()], shape)
}

fn repository() -> PathBuf {
    std::path::absolute("..").unwrap_or_default()
}
