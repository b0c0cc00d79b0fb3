//! What weights are before any training, where a checkpoint does not say it.
//!
//! Matrices are drawn around zero with the config's `initializer_range`, as HF's models do. Norms change nothing and
//! biases are zero, as the architecture itself makes them. Every tensor depends on the seed and its name alone.

use std::f64::consts::TAU;

use burn::tensor::{DType, TensorData};
use rayon::prelude::*;
use serde_json::Value;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::registry::{Class, Entry, Task, Vectors};
use tx_core::weights::StoredTensor;

use crate::data::Random;

/// HF's deviation, where the config has none.
const INITIALIZER_RANGE: f64 = 0.02;
/// The stream of random numbers that is for first weights.
const STREAM: u64 = 0x77_6569_6768_7473;
/// How many elements one thread draws at a time; even, as they are drawn in pairs.
const CHUNK: usize = 1 << 16;
/// The most elements of a model that begins with drawn weights: 64 GiB.
const MAX_ELEMENTS: u64 = 1 << 34;
/// The last parts of names of tensors that have first values of their own kind, which are not known here.
const PECULIAR: [&str; 2] = ["A_log", "dt_bias"];

/// Draws the tensors of one class.
pub(super) struct Initial {
    /// Names and shapes.
    parameters: Vec<(String, Vec<usize>)>,
    vectors: Vectors,
    deviation: f64,
    seed: u64,
    config: Config,
}

impl Initial {
    /// For a class of this config.
    pub fn new<T: ?Sized + Task>(entry: &Entry<T>, config: &Config, seed: u64) -> Result<Self>
    where
        Entry<T>: Class,
    {
        let deviation = ["initializer_range", "init_std"].into_iter().find_map(|key| config.get(key)?.as_f64());
        let deviation = deviation.filter(|deviation| deviation.is_finite() && *deviation >= 0.0);
        Ok(Self {
            parameters: Class::parameters(entry, config)?,
            vectors: entry.vectors(config)?,
            deviation: deviation.unwrap_or(INITIALIZER_RANGE),
            seed,
            config: config.clone(),
        })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| name.as_str())
    }

    /// Makes sure that the first values of all tensors are known, and fit into memory.
    pub fn check_all(&self) -> Result<()> {
        let peculiar = |name: &&str| PECULIAR.contains(&name.rsplit('.').next().unwrap_or_default());
        if let Some(name) = self.names().find(peculiar) {
            let model_type = self.config.get("model_type").and_then(Value::as_str).unwrap_or_default();
            let found = format_args!("true for `{model_type}`, whose `{name}` begins with values of its own kind");
            return Err(Error::input("from_scratch", found, "false: begin with a checkpoint"));
        }
        let elements = self.parameters.iter().fold(0u64, |sum, (_, shape)| {
            let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64));
            sum.saturating_add(elements.unwrap_or(u64::MAX))
        });
        if elements > MAX_ELEMENTS {
            let found = format_args!("a model of {elements} elements");
            return Err(Error::input("from_scratch", found, format_args!("at most {MAX_ELEMENTS}")));
        }
        Ok(())
    }

    /// The first value of a tensor, by the name that a file has for it: the base model's prefix may be there or not.
    /// `None` if there is no such tensor.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor> {
        let ends = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let (known, shape) = self.parameters.iter().find(|(known, _)| ends(known, name) || ends(name, known))?;
        let elements = shape.iter().product();
        let values = match self.vectors.get(known) {
            Some(vector) => of_vector(vector),
            None => normal(elements, self.deviation, self.seed, known),
        };
        let bytes: Vec<u8> = values.par_iter().flat_map_iter(|value| value.to_le_bytes()).collect();
        let path = self.config.path().to_path_buf();
        Some(StoredTensor { path, dtype: DType::F32, shape: shape.clone(), bytes: bytes.into() })
    }
}

fn of_vector(vector: &TensorData) -> Vec<f32> {
    vector.iter::<f32>().collect()
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Numbers around zero. Box and Muller, 1958 (doi:10.1214/aoms/1177706645).
fn normal(count: usize, deviation: f64, seed: u64, name: &str) -> Vec<f32> {
    let mut values = vec![0f32; count];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let mut random = Random::new(&[STREAM, seed, hash(name), chunk as u64]);
        for pair in values.chunks_mut(2) {
            let radius = deviation * (-2.0 * (1.0 - random.uniform()).ln()).sqrt();
            let (sine, cosine) = (TAU * random.uniform()).sin_cos();
            for (value, factor) in pair.iter_mut().zip([cosine, sine]) {
                *value = (radius * factor) as f32;
            }
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_numbers_have_the_deviation_and_follow_from_seed_and_name() {
        let values = normal(200_001, 0.02, 7, "a.weight");
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 2e-4 && (square.sqrt() - 0.02).abs() < 2e-4, "{mean} {square}");
        assert_eq!(normal(200_001, 0.02, 7, "a.weight"), values);
        assert_eq!(normal(10, 0.02, 7, "a.weight"), values[..10]);
        assert!(normal(10, 0.02, 8, "a.weight") != values[..10] && normal(10, 0.02, 7, "b.weight") != values[..10]);
        assert!(normal(3, 0.0, 7, "a").iter().all(|x| *x == 0.0));
    }
}
