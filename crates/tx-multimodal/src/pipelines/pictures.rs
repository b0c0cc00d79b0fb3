//! Pictures as the inputs of a model that joins modalities.

use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use tx_core::error::Result;
use tx_core::task::{ImageArguments, ImageInputs, ImageLimits};
use tx_vision::pipelines::ImageSource;
use tx_vision::processor::{ImageProcessor, Processed};

/// The most pixels of a forward pass; one picture may have more.
const MAX_PIXELS: usize = 1 << 24;
/// Pixels that count as a token where pipelines share forward passes among inputs: a patch of most vision transformers.
const PATCH: usize = 16 * 16;

/// An image processor, and what its model takes.
#[derive(Debug)]
pub(super) struct Pictures {
    pub processor: ImageProcessor,
    pub limits: ImageLimits,
}

impl Pictures {
    /// A picture as the model takes it.
    ///
    /// # Errors
    /// As [`ImageSource::open`] and [`ImageProcessor::process`].
    pub fn process(&self, source: &ImageSource) -> Result<Processed> {
        let image = source.open()?;
        self.processor.process(&image)
    }

    /// How much a picture adds to a forward pass, in tokens.
    pub fn cost(&self, picture: &Processed) -> usize {
        picture.height.saturating_mul(picture.width).div_ceil(PATCH)
    }

    /// What `forward` gives for each picture, in their order. It is called with pictures of one size at a time: padding
    /// would change the others' numbers.
    ///
    /// # Errors
    /// [`tx_core::Error::Input`] for pictures that do not fit the model; those of `forward`.
    pub fn forward<R>(
        &self,
        pictures: &[&Processed],
        device: &Device,
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
                let pixels = self.processor.batch(rows.iter().map(|&i| pictures[i].clone()).collect())?;
                let arguments = ImageArguments {
                    pixel_values: TensorData::new(pixels.values, pixels.shape),
                    pixel_mask: None,
                    bool_masked_pos: None,
                };
                let made = forward(&ImageInputs::new(&arguments, &self.limits, device)?)?;
                rows.iter().zip(made).for_each(|(&i, result)| results[i] = Some(result));
            }
        }
        Ok(results.into_iter().flatten().collect())
    }
}
