//! A model with its image processor: from pictures to rows of a forward pass, and from its tensors to numbers on the
//! host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use tx_core::device;
use tx_core::error::{Error, Result};
use tx_core::registry::{Auto, Entry, LoadOptions, Task, from_folder};
use tx_core::task::{ImageArguments, ImageInputs, ImageLimits};

use crate::image::Image;
use crate::models;
use crate::processor::{ImageProcessor, Processed};

/// The most pixels of a forward pass; one picture may have more.
const MAX_PIXELS: usize = 1 << 24;
/// Pixels that count as a token where pipelines share forward passes among inputs: a patch of most vision transformers.
const PATCH: usize = 16 * 16;

/// What a pipeline takes: a picture, or a file that is opened when its turn comes, so that few pictures are held at a
/// time.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// An opened picture.
    Image(Image),
    /// The path of a file.
    File(PathBuf),
}

impl ImageSource {
    /// The picture.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open(&self) -> Result<Cow<'_, Image>> {
        match self {
            Self::Image(image) => Ok(Cow::Borrowed(image)),
            Self::File(path) => Image::open(path).map(Cow::Owned),
        }
    }
}

impl From<Image> for ImageSource {
    fn from(image: Image) -> Self {
        Self::Image(image)
    }
}

impl From<PathBuf> for ImageSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for ImageSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_path_buf())
    }
}

impl From<String> for ImageSource {
    fn from(path: String) -> Self {
        Self::File(path.into())
    }
}

impl From<&str> for ImageSource {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

/// A model and the image processor that belongs to it.
#[derive(Debug)]
pub struct ProcessedModel<T: ?Sized + Task> {
    /// The model.
    pub model: Auto<T>,
    /// Its image processor.
    pub processor: ImageProcessor,
}

impl<T: ?Sized + Task<Limits = ImageLimits>> ProcessedModel<T> {
    /// Loads both from a folder; `table` is one of [`crate::models`].
    ///
    /// # Errors
    /// As [`tx_core::registry::from_folder`] and [`ImageProcessor::from_folder`].
    pub fn from_folder(table: &[Entry<T>], folder: &Path, options: &LoadOptions) -> Result<Self> {
        // The processor first: if it cannot be used, no weights have been read for nothing.
        let processor = ImageProcessor::from_folder(folder)?;
        let model = from_folder(table, &models::classes(), folder, options)?;
        Ok(Self { model, processor })
    }

    /// A picture as the model takes it.
    pub(super) fn process(&self, source: &ImageSource) -> Result<Processed> {
        let image = source.open()?;
        self.processor.process(&image)
    }

    /// How much a picture costs, in tokens.
    pub(super) fn length(&self, picture: &Processed) -> usize {
        picture.height.saturating_mul(picture.width).div_ceil(PATCH)
    }

    /// What `forward` makes of each picture. Those of one size share passes: padding would change the others' numbers.
    pub(super) fn forward<R>(
        &self,
        pictures: &[&Processed],
        forward: impl Fn(&ImageInputs) -> Result<Vec<R>>,
    ) -> Result<Vec<R>> {
        let mut sizes: BTreeMap<[usize; 2], Vec<usize>> = BTreeMap::new();
        for (i, picture) in pictures.iter().enumerate() {
            sizes.entry([picture.height, picture.width]).or_default().push(i);
        }
        let mut results: Vec<Option<R>> = pictures.iter().map(|_| None).collect();
        for ([height, width], rows) in sizes {
            let most = MAX_PIXELS / height.saturating_mul(width).max(1);
            for rows in rows.chunks(most.max(1)) {
                let made = forward(&self.inputs(rows.iter().map(|&i| pictures[i]))?)?;
                rows.iter().zip(made).for_each(|(&i, result)| results[i] = Some(result));
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    fn inputs<'a>(&self, pictures: impl Iterator<Item = &'a Processed>) -> Result<ImageInputs> {
        let pixels = self.processor.batch(pictures.cloned().collect())?;
        let [batch, _, height, width] = pixels.shape;
        let arguments = ImageArguments {
            pixel_values: TensorData::new(pixels.values, pixels.shape),
            pixel_mask: pixels.mask.map(|mask| TensorData::new(mask, [batch, height, width])),
            bool_masked_pos: None,
        };
        ImageInputs::new(&arguments, &self.model.limits, &self.model.device)
    }

    /// A classifier's outputs must have as many labels.
    pub(super) fn check_labels(&self, labels: &[String], outputs: usize) -> Result<()> {
        if labels.len() == outputs {
            return Ok(());
        }
        let reason = format_args!("{} labels, but the model has {outputs} outputs", labels.len());
        Err(Error::config(self.model.config.path(), "id2label", reason))
    }

    /// The elements of a tensor, row-major.
    pub(super) fn read<const D: usize>(&self, tensor: Tensor<D>) -> Result<Vec<f32>> {
        tensor.try_into_vec_as::<f32>().map_err(|e| Error::Device {
            device: format!("{:?}", self.model.device),
            reason: format!("the result cannot be read: {e}"),
            available: device::available().join(", "),
        })
    }
}
