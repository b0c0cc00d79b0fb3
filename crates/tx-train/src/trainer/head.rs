//! A head for other classes, or one that a checkpoint does not have.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::path::Path;

use burn::tensor::DType;
use bytes::Bytes;
use serde_json::{Map, Value};
use tx_core::config::Config;
use tx_core::error::{Error, Result, WeightsReport};
use tx_core::registry::{Auto, Class, Entry, LoadOptions, Task, find};
use tx_core::weights::{Checkpoint, StoredTensor};

use crate::data::Random;

/// HF's deviation of weights that are drawn, where the config has none.
const INITIALIZER_RANGE: f64 = 0.02;

/// What the outputs of a classifier mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Their names, or `None` for so many numbers.
    pub labels: Result<Vec<String>, usize>,
    /// HF's `problem_type`.
    pub problem_type: Option<&'static str>,
    /// What weights that are drawn depend on.
    pub seed: u64,
}

/// Loads a model; what the checkpoint has no weights for is drawn, as HF does it, and a warning names it.
///
/// # Errors
/// Those of loading. A checkpoint that lacks more than half of the tensors is of another model.
pub fn open<T: ?Sized + Task>(
    table: &[Entry<T>],
    classes: &[&dyn Class],
    folder: &Path,
    options: &LoadOptions,
    head: Option<&Head>,
) -> Result<Auto<T>> {
    let mut config = Config::from_folder(folder)?;
    let entry = find(table, classes, &config)?;
    let checkpoint = Checkpoint::from_folder(folder)?;
    let Some(head) = head else { return entry.load(config, &checkpoint, options) };
    head.write(&mut config)?;
    let (report, path) = match entry.load(config.clone(), &checkpoint, options) {
        Err(Error::Weights { report, path, .. }) => (report, path),
        other => return other,
    };
    let class = classes.iter().find(|class| (class.model_type(), class.class()) == (entry.model_type, entry.class));
    let parameters = class.map(|class| class.parameters(&config)).transpose()?.unwrap_or_default();
    let shapes: BTreeMap<String, Vec<usize>> = parameters.into_iter().collect();
    let drawn: Vec<&str> = drawn(&report).filter(|name| shapes.contains_key(*name)).collect();
    if drawn.is_empty() || 2 * drawn.len() > shapes.len() {
        return entry.load(config, &checkpoint, options);
    }
    tracing::warn!("{}: drawn at random, to be trained: {}", path.display(), drawn.join(", "));
    let deviation = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(INITIALIZER_RANGE);
    let mut tensors = checkpoint.tensors().clone();
    for name in &report.unexpected {
        tensors.remove(name);
    }
    for (number, name) in drawn.iter().enumerate() {
        let shape = shapes[*name].clone();
        let count = shape.iter().product();
        let values = match shape.as_slice() {
            [_] if name.ends_with("bias") => vec![0.0; count],
            [_] => vec![1.0; count],
            _ => normal(count, deviation, &mut Random::new(&[head.seed, number as u64])),
        };
        let bytes: Vec<u8> = values.iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
        let tensor = StoredTensor { path: path.clone(), dtype: DType::F32, shape, bytes: Bytes::from(bytes) };
        tensors.insert((*name).to_owned(), tensor);
    }
    entry.load(config, &Checkpoint::from_tensors(&path, tensors), options)
}

/// What a checkpoint has nothing for, or something of another size.
fn drawn(report: &WeightsReport) -> impl Iterator<Item = &str> {
    report.missing.iter().map(String::as_str).chain(report.mismatched.iter().map(|mismatch| mismatch.name.as_str()))
}

/// Numbers around zero. Box and Muller, 1958.
fn normal(count: usize, deviation: f64, random: &mut Random) -> Vec<f32> {
    let mut draw = || {
        let radius = (-2.0 * (1.0 - random.uniform()).ln()).sqrt();
        (deviation * radius * (TAU * random.uniform()).cos()) as f32
    };
    (0..count).map(|_| draw()).collect()
}

impl Head {
    /// Says in a config what the outputs mean.
    fn write(&self, config: &mut Config) -> Result<()> {
        if let Some(problem_type) = self.problem_type {
            config.set("problem_type", problem_type);
        }
        let names = match &self.labels {
            Ok(names) => names.clone(),
            Err(count) => (0..*count).map(|i| format!("LABEL_{i}")).collect(),
        };
        if config.get("id2label").is_some() && config.labels()? == names {
            return Ok(());
        }
        let of_ids = names.iter().enumerate().map(|(id, name)| (id.to_string(), Value::from(name.as_str())));
        let of_names = names.iter().enumerate().map(|(id, name)| (name.clone(), Value::from(id)));
        config.set("id2label", of_ids.collect::<Map<_, _>>());
        config.set("label2id", of_names.collect::<Map<_, _>>());
        Ok(())
    }
}
