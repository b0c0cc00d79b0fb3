//! What pipelines take, and how it becomes the inputs of a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use tx_core::device;
use tx_core::error::{Error, Result};
use tx_core::task::{AudioArguments, AudioInputs, AudioLimits};

use crate::audio::{Audio, AudioReader};
use crate::features::Features;

/// A sound.
#[derive(Debug, Clone)]
pub enum Sound {
    /// A file.
    File(PathBuf),
    /// The content of a file.
    Bytes(Arc<[u8]>),
    /// Samples of any rate.
    Audio(Audio),
}

impl Sound {
    /// The sound at a rate in Hz.
    ///
    /// # Errors
    /// As [`Audio::open`], [`Audio::new`] and [`Audio::resample`].
    pub fn read(&self, sampling_rate: u32) -> Result<Audio> {
        match self {
            Self::File(path) => Audio::open(path, sampling_rate),
            Self::Bytes(bytes) => Audio::from_bytes(bytes.clone(), "audio", sampling_rate),
            Self::Audio(audio) => {
                audio.check()?;
                audio.clone().resample(sampling_rate)
            }
        }
    }

    /// The sound as it is decoded, at a rate in Hz; `None` if it is samples already.
    pub(super) fn reader(&self, sampling_rate: u32) -> Result<Option<AudioReader>> {
        match self {
            Self::File(path) => AudioReader::open(path, sampling_rate).map(Some),
            Self::Bytes(bytes) => AudioReader::from_bytes(bytes.clone(), "audio", sampling_rate).map(Some),
            Self::Audio(_) => Ok(None),
        }
    }
}

impl From<&str> for Sound {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<String> for Sound {
    fn from(path: String) -> Self {
        Self::File(path.into())
    }
}

impl From<&Path> for Sound {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

impl From<PathBuf> for Sound {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<Vec<u8>> for Sound {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Audio> for Sound {
    fn from(audio: Audio) -> Self {
        Self::Audio(audio)
    }
}

/// Samples that count as a token where forward passes are filled.
const SAMPLES: usize = 320;

/// How much a sound adds to a forward pass, in tokens.
pub(super) fn tokens(shape: &[usize]) -> usize {
    match shape {
        [samples] => samples.div_ceil(SAMPLES),
        _ => shape.iter().copied().max().unwrap_or(0),
    }
}

/// What `forward` gives for each sound, in their order. It is called with sounds of one shape at a time: padding would
/// change what models without a mask hear.
pub(super) fn forward_equal<R>(
    features: &[Features],
    limits: &AudioLimits,
    device: &Device,
    forward: impl Fn(&AudioInputs) -> Result<Vec<R>>,
) -> Result<Vec<R>> {
    let mut by_shape: BTreeMap<&[usize], Vec<usize>> = BTreeMap::new();
    for (i, features) in features.iter().enumerate() {
        by_shape.entry(&features.shape).or_default().push(i);
    }
    let mut results: Vec<Option<R>> = features.iter().map(|_| None).collect();
    for (shape, rows) in by_shape {
        let values: Vec<f32> = rows.iter().flat_map(|&i| &features[i].values).copied().collect();
        let shape = [&[rows.len()][..], shape].concat();
        let arguments = AudioArguments { values: TensorData::new(values, shape), attention_mask: None };
        let given = forward(&AudioInputs::new(&arguments, limits, device)?)?;
        rows.into_iter().zip(given).for_each(|(i, result)| results[i] = Some(result));
    }
    Ok(results.into_iter().flatten().collect())
}

/// The elements of a tensor, row-major.
pub(super) fn read<const D: usize>(tensor: Tensor<D>, device: &Device) -> Result<Vec<f32>> {
    tensor.try_into_vec_as::<f32>().map_err(|e| unreadable(device, e))
}

/// A result that the device does not give.
pub(super) fn unreadable(device: &Device, reason: impl std::fmt::Display) -> Error {
    Error::Device {
        device: format!("{device:?}"),
        reason: format!("the result cannot be read: {reason}"),
        available: device::available().join(", "),
    }
}
