//! What the tests share: recorded cases, and the one place that says when two tensors are equal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, TensorData};
use tx_core::config::Config;
use tx_core::registry::{Auto, LoadOptions, NamedModel, find_class};
use tx_core::task::NamedTensors;
use tx_core::weights::synth::Recipe;
use tx_core::weights::{Checkpoint, safetensors};

/// The folder `models/`.
pub fn models() -> PathBuf {
    PathBuf::from("../models")
}

/// The folders of `models/` that describe an architecture: all but those of models that ship, which have a recipe.
///
/// # Errors
/// If `models/` cannot be read.
pub fn architectures() -> Result<Vec<PathBuf>> {
    let folders = folders(&models())?.into_iter();
    Ok(folders.filter(|folder| !folder.join("recipe.toml").is_file()).collect())
}

/// The folders in `folder`, sorted.
///
/// # Errors
/// If `folder` cannot be read.
pub fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut folders: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

/// A WAV file of floats with these channels, whose length is what `stated` says, or the real one.
pub fn float_wav(rate: u32, channels: u16, samples: &[f32], stated: Option<u32>) -> Vec<u8> {
    let content: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let block = 4 * channels;
    let mut bytes = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x03\0".to_vec();
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(u32::from(block)).to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend(b"\x20\0data");
    bytes.extend(stated.unwrap_or(content.len() as u32).to_le_bytes());
    bytes.extend(content);
    bytes
}

/// One recorded case: a config, a recipe for its weights, and what Python computed.
#[derive(Debug)]
pub struct Case {
    /// `models/<model_type>/<case>`
    pub folder: PathBuf,
    /// Its `config.json`.
    pub config: Config,
    /// The arguments of the forward pass.
    pub inputs: NamedTensors,
    /// What Python computed.
    pub outputs: BTreeMap<String, Array>,
}

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    /// If a file is missing or broken.
    pub fn read(folder: &Path) -> Result<Self> {
        let (mut inputs, mut outputs) = (NamedTensors::new(), BTreeMap::new());
        for (name, tensor) in safetensors::read(&folder.join("reference.safetensors"))? {
            match name.split_once('.') {
                Some(("inputs", name)) => drop(inputs.insert(name.to_owned(), tensor.to_data())),
                Some(("outputs", name)) => drop(outputs.insert(name.to_owned(), Array::new(&tensor.to_data())?)),
                _ => bail!("reference.safetensors: `{name}` is neither an input nor an output"),
            }
        }
        ensure!(!outputs.is_empty(), "{}: no outputs are recorded", folder.display());
        Ok(Self { folder: folder.to_path_buf(), config: Config::from_folder(folder)?, inputs, outputs })
    }

    /// The case's weights, made by their recipe.
    ///
    /// # Errors
    /// If the recipe is broken.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let path = self.folder.join("weights.json");
        Ok(Recipe::from_file(&path)?.checkpoint(&path)?)
    }

    /// The model of the class that the config names, filled from `checkpoint`.
    ///
    /// # Errors
    /// If the weights do not fit.
    pub fn load(&self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Auto<dyn NamedModel>> {
        let class = find_class(&tx::classes(), &self.config, None)?;
        Ok(class.load_named(self.config.clone(), checkpoint, options)?)
    }

    /// See [`text_mask`].
    ///
    /// # Errors
    /// If `input_ids` is a scalar.
    pub fn mask(&self) -> Result<Option<Array>> {
        text_mask(&self.inputs)
    }
}

/// What the names of a text's arguments begin with: those of a decoder that reads it have a prefix.
pub fn text_prefix(inputs: &NamedTensors) -> &'static str {
    if inputs.contains_key("decoder_input_ids") { "decoder_" } else { "" }
}

/// `[rows, seq]` of a text's `attention_mask`, ones if there is none; choices are rows. Nothing without a text.
///
/// # Errors
/// If `input_ids` is a scalar.
pub fn text_mask(inputs: &NamedTensors) -> Result<Option<Array>> {
    let prefix = text_prefix(inputs);
    let Some(ids) = inputs.get(&format!("{prefix}input_ids")) else { return Ok(None) };
    let seq = *ids.shape().as_slice().last().context("`input_ids` is a scalar")?;
    let rows = ids.num_elements() / seq.max(1);
    let values = match inputs.get(&format!("{prefix}attention_mask")) {
        Some(mask) => mask.iter::<f32>().collect(),
        None => vec![1.0; rows * seq],
    };
    Ok(Some(Array { shape: vec![rows, seq], values }))
}

/// A tensor of floats on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The sizes of its axes.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl Array {
    /// The values as f32.
    ///
    /// # Errors
    /// If the tensor holds no numbers.
    pub fn new(data: &TensorData) -> Result<Self> {
        ensure!(!matches!(data.dtype(), DType::Bool(_)), "expected numbers, found booleans");
        Ok(Self { shape: data.shape().as_slice().to_vec(), values: data.iter::<f32>().collect() })
    }

    /// The part `start..start + len` of one axis.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Self {
        let inner: usize = self.shape[axis + 1..].iter().product();
        let size = self.shape[axis];
        let mut shape = self.shape.clone();
        shape[axis] = len;
        let blocks = self.values.chunks(size * inner);
        let values = blocks.flat_map(|block| block[start * inner..(start + len) * inner].iter().copied()).collect();
        Self { shape, values }
    }
}

/// How far two tensors may be apart.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Of the norm of the difference to the norm of what is expected.
    pub relative: f64,
    /// Of the largest single difference; whatever lies below it is equal.
    pub absolute: f64,
}

/// The tolerance against recorded references.
pub const REFERENCE: Tolerance = Tolerance { relative: 5e-5, absolute: 1e-5 };
/// The tolerance between two ways of computing the same.
pub const EQUIVALENCE: Tolerance = Tolerance { relative: 1e-5, absolute: 1e-5 };

/// Compares where `seen` holds: by the norm of the difference, with an absolute floor.
///
/// # Errors
/// With the tensor's name, the figures, and the place of the largest difference.
pub fn compare(
    name: &str,
    found: &Array,
    expected: &Array,
    tolerance: Tolerance,
    seen: impl Fn(&[usize]) -> bool,
) -> Result<()> {
    ensure!(found.shape == expected.shape, "`{name}`: shape {:?}, expected {:?}", found.shape, expected.shape);
    let (mut difference, mut norm, mut worst) = (0.0, 0.0, (0.0, Vec::new()));
    let mut index = vec![0; expected.shape.len()];
    for (&x, &y) in found.values.iter().zip(&expected.values) {
        if seen(&index) {
            ensure!(x.is_finite() == y.is_finite(), "`{name}`: {x} at {index:?}, expected {y}");
            let d = f64::from((x - y).abs());
            difference += d * d;
            norm += f64::from(y) * f64::from(y);
            if d > worst.0 {
                worst = (d, index.clone());
            }
        }
        for (i, &size) in index.iter_mut().zip(&expected.shape).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    let relative = (difference / f64::max(norm, f64::MIN_POSITIVE)).sqrt();
    ensure!(
        relative <= tolerance.relative || worst.0 <= tolerance.absolute,
        "`{name}`: relative error {relative:.2e} (limit {:.0e}), largest difference {:.2e} at {:?}",
        tolerance.relative,
        worst.0,
        worst.1
    );
    Ok(())
}

/// Whether an element of an output belongs to a token, not to padding; all do that belong to no text.
///
/// `mask` is `[rows, seq]`. Outputs per token are `[rows, seq, ..]`, attention weights `[rows, heads, queries, keys]`;
/// `[rows, n]` is per token only where `per_token` says so.
pub fn is_token(mask: Option<&Array>, shape: &[usize], per_token: bool) -> impl Fn(&[usize]) -> bool {
    let tokens = mask.and_then(|mask| {
        let (rows, seq) = (mask.shape[0], mask.shape[1]);
        let axis = match *shape {
            [r, _, q, _] if (r, q) == (rows, seq) => 2,
            [r, s, _] if (r, s) == (rows, seq) => 1,
            [r, s] if (r, s) == (rows, seq) && per_token => 1,
            _ => return None,
        };
        Some((axis, seq, mask.values.clone()))
    });
    move |index| tokens.as_ref().is_none_or(|(axis, seq, mask)| mask[index[0] * seq + index[*axis]] != 0.0)
}

/// The program `tx`, which cargo builds beside the tests.
///
/// # Errors
/// If it is not there.
pub fn tx() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let profile = here.parent().and_then(Path::parent).context("the test is not in a target folder")?;
    let tx = profile.join(format!("tx{}", std::env::consts::EXE_SUFFIX));
    ensure!(tx.is_file(), "{} is not built; run `cargo build --workspace`", tx.display());
    Ok(tx)
}
