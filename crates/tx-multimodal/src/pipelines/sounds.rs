//! Sounds as the inputs of a model that joins modalities.

use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use tx_audio::features::{FeatureExtractor, Features};
use tx_audio::pipelines::Sound;
use tx_core::error::{Error, Result};
use tx_core::task::{AudioLimits, SpectrogramArguments, SpectrogramInputs};

/// A feature extractor, and what its model takes.
#[derive(Debug)]
pub(super) struct Sounds {
    pub extractor: FeatureExtractor,
    pub limits: AudioLimits,
}

impl Sounds {
    /// A sound as the model takes it.
    ///
    /// # Errors
    /// As [`Sound::read`] and [`FeatureExtractor::extract`].
    pub fn extract(&self, sound: &Sound) -> Result<Features> {
        self.extractor.extract(&sound.read(self.extractor.sampling_rate())?)
    }

    /// How much a sound adds to a forward pass, in tokens.
    pub fn cost(&self, features: &Features) -> usize {
        features.shape.iter().copied().max().unwrap_or(0)
    }

    /// What `forward` gives for each sound, in their order. It is called with sounds of one shape at a time.
    ///
    /// # Errors
    /// [`Error::Input`] for features that are none of several spectrograms, or do not fit the model; those of `forward`.
    pub fn forward<R>(
        &self,
        sounds: &[&Features],
        device: &Device,
        forward: impl Fn(&SpectrogramInputs) -> Result<Vec<R>>,
    ) -> Result<Vec<R>> {
        let mut shapes: BTreeMap<&[usize], Vec<usize>> = BTreeMap::new();
        for (i, features) in sounds.iter().enumerate() {
            shapes.entry(&features.shape).or_default().push(i);
        }
        let mut results: Vec<Option<R>> = sounds.iter().map(|_| None).collect();
        for (shape, rows) in shapes {
            let &[views, frames, bands] = shape else {
                let found = format_args!("features of shape {shape:?}");
                return Err(Error::input("feature extractor", found, "[views, frames, bands], as CLAP's gives them"));
            };
            let values: Vec<f32> = rows.iter().flat_map(|&i| &sounds[i].values).copied().collect();
            let longer: Vec<i64> = rows.iter().map(|&i| i64::from(sounds[i].is_longer)).collect();
            let arguments = SpectrogramArguments {
                input_features: TensorData::new(values, [rows.len(), views, frames, bands]),
                is_longer: Some(TensorData::new(longer, [rows.len(), 1])),
            };
            let made = forward(&SpectrogramInputs::new(&arguments, &self.limits, device)?)?;
            rows.into_iter().zip(made).for_each(|(i, result)| results[i] = Some(result));
        }
        Ok(results.into_iter().flatten().collect())
    }
}
