//! The samples of a sound, shifted and scaled to a mean of zero and a variance of one.
//!
//! Reference: transformers 5.23, `models/wav2vec2/feature_extraction_wav2vec2.py`.

use serde::Deserialize;
use tx_core::error::Result;

use super::{ConfigFile, FeatureBatch, Features, pad_rows};

/// Added to the variance, so that silence stays silence.
const EPSILON: f64 = 1e-7;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    feature_size: usize,
    sampling_rate: u32,
    padding_value: f32,
    return_attention_mask: bool,
    do_normalize: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            feature_size: 1,
            sampling_rate: 16000,
            padding_value: 0.0,
            return_attention_mask: false,
            do_normalize: true,
        }
    }
}

/// `Wav2Vec2FeatureExtractor`, which the models after it use, too.
#[derive(Debug, Clone)]
pub struct Wav2Vec2FeatureExtractor {
    pub(super) sampling_rate: u32,
    pub(super) padding_value: f32,
    return_attention_mask: bool,
    do_normalize: bool,
}

impl Wav2Vec2FeatureExtractor {
    pub(super) fn new(file: &ConfigFile<'_>) -> Result<Self> {
        let config: Config = file.parse()?;
        file.rate(config.sampling_rate)?;
        file.range("feature_size", config.feature_size, 1, 1)?;
        file.padding_side()?;
        Ok(Self {
            sampling_rate: config.sampling_rate,
            padding_value: config.padding_value,
            return_attention_mask: config.return_attention_mask,
            do_normalize: config.do_normalize,
        })
    }

    /// Whether the model takes a mask: those of `feat_extract_norm: layer` do, and the others must not.
    pub fn return_attention_mask(&self) -> bool {
        self.return_attention_mask
    }

    pub(super) fn extract(&self, samples: &[f32]) -> Features {
        let mut values = samples.to_vec();
        if self.do_normalize {
            normalize(&mut values);
        }
        Features { shape: vec![values.len()], frames: values.len(), values, is_longer: false }
    }

    pub(super) fn extract_batch(&self, samples: &[&[f32]], mask: Option<bool>) -> Result<FeatureBatch> {
        let mask = mask.unwrap_or(self.return_attention_mask);
        let mut batch = pad_rows(samples, self.padding_value, mask)?;
        if self.do_normalize && batch.shape[1] > 0 {
            let rows = batch.values.chunks_exact_mut(batch.shape[1]);
            rows.zip(samples).for_each(|(row, samples)| normalize(if mask { &mut row[..samples.len()] } else { row }));
        }
        Ok(batch)
    }
}

/// `zero_mean_unit_var_norm`: `(x - mean) / sqrt(variance + 1e-7)`
fn normalize(values: &mut [f32]) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + EPSILON).sqrt();
    values.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) * scale) as f32);
}
