//! Image processors: from a picture to a model's `pixel_values`, as `preprocessor_config.json` says.
//!
//! A processor resizes, crops, rescales, normalises and pads, in this order, and each of the steps may be left out. HF
//! has a class for every model; those here differ in their defaults and in how they resize:
//!
//! | class | resizes to |
//! |---|---|
//! | ViT, DeiT, Beit, Bit, CLIP, ChineseCLIP, Siglip, Segformer, MobileNetV2 | `size`, whatever its keys |
//! | ConvNext | a larger size and a crop from it, by `crop_pct`; from 384 on the square |
//! | Detr | `shortest_edge` that `longest_edge` bounds; pads, with a mask |
//! | Yolos | likewise, then sides down to multiples of 16 |
//!
//! Reference: transformers 5.23, the PIL processors (`image_processing_pil_*.py`), to the bit: pixels are 8 bits until
//! they are rescaled, in double precision, to single precision, in which they are normalised.
//!
//! The pixel values of a picture, and of a batch, take at most 1 GiB ([`MAX_BUFFER_BYTES`]).

use std::borrow::Cow;
use std::path::Path;

use tx_core::error::{Error, Result};

use crate::image::{Image, MAX_BUFFER_BYTES, Resample};

mod config;
mod size;

use config::{Resize, Settings};
use size::Size;

/// The channels of a picture.
const CHANNELS: usize = 3;

/// What `preprocessor_config.json` says is done to a picture.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    settings: Settings,
}

/// The pixel values of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed {
    /// `[channels, height, width]`
    pub values: Vec<f32>,
    /// Always 3.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Height and width of the picture before.
    pub original: [usize; 2],
}

/// The pixel values of pictures of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelBatch {
    /// `[batch, channels, height, width]`
    pub shape: [usize; 4],
    /// `pixel_values`
    pub values: Vec<f32>,
    /// `pixel_mask`, `[batch, height, width]`: 1 where there is a picture and 0 where it was padded; only of processors
    /// whose models read it.
    pub mask: Option<Vec<i64>>,
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json`, or the part `image_processor` of `processor_config.json` where that is.
    ///
    /// The class is that of `image_processor_type`, or of `feature_extractor_type` in older files, or that of the
    /// architecture in `config.json`. What the file does not say is as the class has it.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Io`], [`Error::Malformed`], [`Error::Config`] with the key for a wrong or an
    /// impossible value, and [`Error::Unsupported`] for other classes.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Ok(Self { settings: Settings::from_folder(folder)? })
    }

    /// The pixel values of a picture.
    ///
    /// # Errors
    /// [`Error::Input`] if the picture cannot have the size that the processor asks for.
    pub fn process(&self, image: &Image) -> Result<Processed> {
        let settings = &self.settings;
        let original = [image.height(), image.width()];
        let mut picture = Cow::Borrowed(image);
        if let Some(resize) = &settings.resize {
            picture = Cow::Owned(resized(&picture, resize, settings.resample)?);
        }
        if let Some([height, width]) = settings.crop {
            picture = Cow::Owned(picture.center_crop(height, width)?);
        }
        let (height, width) = (picture.height(), picture.width());
        let pixels = height * width;
        check_memory("image", pixels * CHANNELS)?;
        // A value depends on its channel's byte alone.
        let tables: [Vec<f32>; CHANNELS] = std::array::from_fn(|channel| settings.values_of_bytes(channel));
        let mut values = vec![0.0; pixels * CHANNELS];
        for (channel, (plane, table)) in values.chunks_exact_mut(pixels).zip(&tables).enumerate() {
            let bytes = picture.pixels().iter().skip(channel).step_by(CHANNELS);
            for (value, &byte) in plane.iter_mut().zip(bytes) {
                *value = table[usize::from(byte)];
            }
        }
        Ok(Processed { values, channels: CHANNELS, height, width, original })
    }

    /// Puts pictures together: where the processor pads, to the size of the largest, or to the size that it says.
    ///
    /// # Errors
    /// [`Error::Input`] if there are none, or they are too large, or of different sizes and the processor does not pad.
    pub fn batch(&self, images: Vec<Processed>) -> Result<PixelBatch> {
        let settings = &self.settings;
        let Some(first) = images.first() else {
            return Err(Error::input("images", "none", "at least one"));
        };
        let largest = images.iter().fold([0; 2], |most, image| [most[0].max(image.height), most[1].max(image.width)]);
        let [height, width] = if settings.pad { settings.pad_size.unwrap_or(largest) } else { largest };
        for (i, image) in images.iter().enumerate() {
            let found = || format!("{} x {} pixels after processing", image.width, image.height);
            if image.values.is_empty() || image.values.len() != CHANNELS * image.height * image.width {
                let expected = format_args!("{CHANNELS} values for each, and {} were given", image.values.len());
                return Err(Error::input(format!("image {i}"), found(), expected));
            }
            if image.width > width || image.height > height {
                let expected = format_args!("at most {width} x {height}, the size to pad to");
                return Err(Error::input(format!("image {i}"), found(), expected));
            }
            if !settings.pad && [image.height, image.width] != [first.height, first.width] {
                let expected = format_args!("{} x {} as the first one has", first.width, first.height);
                return Err(Error::input(format!("image {i}"), found(), expected));
            }
        }
        let pixels = height * width;
        let elements = images.len().checked_mul(pixels).and_then(|pixels| pixels.checked_mul(CHANNELS));
        check_memory("images", elements.unwrap_or(usize::MAX))?;
        let shape = [images.len(), CHANNELS, height, width];
        let mut values = vec![0.0; images.len() * CHANNELS * pixels];
        let planes = images.iter().flat_map(|image| {
            image.values.chunks_exact(image.height * image.width).map(move |plane| plane.chunks_exact(image.width))
        });
        for (target, plane) in values.chunks_exact_mut(pixels).zip(planes) {
            for (target, row) in target.chunks_exact_mut(width).zip(plane) {
                target[..row.len()].copy_from_slice(row);
            }
        }
        let mask = settings.mask.then(|| {
            let mut mask = vec![0; images.len() * pixels];
            for (mask, image) in mask.chunks_exact_mut(pixels).zip(&images) {
                for row in mask.chunks_exact_mut(width).take(image.height) {
                    row[..image.width].fill(1);
                }
            }
            mask
        });
        Ok(PixelBatch { shape, values, mask })
    }
}

fn resized(image: &Image, resize: &Resize, resample: Resample) -> Result<Image> {
    let original = [image.height(), image.width()];
    match *resize {
        Resize::To(size) => {
            let [height, width] = size.of(original);
            image.resize(height, width, resample)
        }
        Resize::Crop { shortest_edge, crop_pct } => {
            let larger = (shortest_edge as f64 / crop_pct) as usize;
            let [height, width] = Size::ShortestEdge(larger).of(original);
            image.resize(height, width, resample)?.center_crop(shortest_edge, shortest_edge)
        }
    }
}

/// Whether so many values of four bytes may be allocated.
fn check_memory(what: &str, values: usize) -> Result<()> {
    let most = MAX_BUFFER_BYTES / 4;
    if values as u64 <= most {
        return Ok(());
    }
    Err(Error::input(what, format_args!("{values} pixel values"), format_args!("at most {most}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn processor(json: &str) -> Result<ImageProcessor> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("preprocessor_config.json"), json).unwrap();
        ImageProcessor::from_folder(folder.path())
    }

    fn grey(height: usize, width: usize, value: u8) -> Image {
        Image::new(width, height, vec![value; 3 * width * height]).unwrap()
    }

    #[test]
    fn values_are_rescaled_and_normalised() {
        let json = r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 2, "width": 3},
            "image_mean": [0.5, 0.25, 0.0], "image_std": [0.5, 1.0, 2.0]}"#;
        let processed = processor(json).unwrap().process(&grey(5, 5, 255)).unwrap();
        assert_eq!([processed.channels, processed.height, processed.width], [3, 2, 3]);
        assert_eq!(processed.original, [5, 5]);
        assert_eq!(processed.values, [[1.0; 6], [0.75; 6], [0.5; 6]].concat());
    }

    #[test]
    fn batches_are_padded_where_the_processor_pads() {
        let json = r#"{"feature_extractor_type": "DetrFeatureExtractor", "do_resize": false, "do_normalize": false}"#;
        let detr = processor(json).unwrap();
        let images = || [grey(1, 2, 255), grey(2, 1, 255)].map(|image| detr.process(&image).unwrap()).to_vec();
        let batch = detr.batch(images()).unwrap();
        assert_eq!(batch.shape, [2, 3, 2, 2]);
        assert_eq!(batch.values[..4], [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(batch.values[12..16], [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(batch.mask, Some(vec![1, 1, 0, 0, 1, 0, 1, 0]));
        assert!(detr.batch(Vec::new()).is_err());

        let vit = processor(r#"{"image_processor_type": "ViTImageProcessor", "do_resize": false}"#).unwrap();
        assert!(vit.batch(images()).unwrap_err().to_string().contains("image 1"));
        let padding = r#"{"image_processor_type": "ViTImageProcessor", "do_pad": true, "pad_size": 3}"#;
        let batch = processor(padding).unwrap().batch(images()).unwrap();
        assert_eq!((batch.shape, batch.mask), ([2, 3, 3, 3], None));
        let small = r#"{"image_processor_type": "ViTImageProcessor", "do_pad": true, "pad_size": 1}"#;
        assert!(processor(small).unwrap().batch(images()).is_err());
    }

    #[test]
    fn files_that_make_no_sense_name_the_key() {
        let message = |json: &str| processor(json).unwrap_err().to_string();
        for (json, expected) in [
            (r#"{"image_processor_type": "VitImageProcessor"}"#, "VitImageProcessor"),
            (r#"{"size": 224}"#, "image_processor_type"),
            (r#"{"image_processor_type": "ViTImageProcessor", "size": 0}"#, "`size`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 2}}"#, "`size`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 2}}"#, "`size`"),
            (r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"height": 2, "width": 2}}"#, "`size`"),
            (r#"{"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0}"#, "`crop_pct`"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "crop_size": {"shortest_edge": 9}}"#, "`crop_size`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "do_center_crop": true}"#, "`crop_size`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "resample": 7}"#, "`resample`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "image_std": [1, 0, 1]}"#, "`image_std`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "image_mean": [1, 0]}"#, "`image_mean`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "do_resize": "yes"}"#, "`do_resize`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "rescale_factor": "x"}"#, "`rescale_factor`"),
            ("[]", "JSON object"),
        ] {
            let message = message(json);
            assert!(message.contains(expected) && !message.contains('\n'), "{json}: {message}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(ImageProcessor::from_folder(empty.path()), Err(Error::MissingFile { .. })));
    }

    #[test]
    fn extreme_pictures_are_refused_before_they_are_made() {
        let clip = processor(r#"{"image_processor_type": "CLIPImageProcessor"}"#).unwrap();
        assert!(clip.process(&grey(1, 1_000_000, 0)).is_err());
        let detr = processor(r#"{"image_processor_type": "DetrImageProcessor"}"#).unwrap();
        // The longest edge bounds the other one to nothing.
        assert!(detr.process(&grey(1, 10_000, 0)).is_err());
    }
}
