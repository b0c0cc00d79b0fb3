//! Pictures: what their models take, and what their heads compute.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Features, PretrainedModel, Record, check_shape, integers};
use crate::error::{Error, Result};

/// What a vision model can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Channels of `pixel_values`.
    pub channels: usize,
    /// Height and width of a patch, in pixels: no picture is smaller. One pixel where there are no patches.
    pub patch_size: [usize; 2],
    /// The most pixels of a picture.
    pub max_pixels: usize,
}

impl ImageLimits {
    /// The most pixels of a picture as any model takes it.
    pub const MAX_PIXELS: usize = 1 << 24;
    /// The most patches that all look at each other: attention takes time, and on some devices memory, by their square.
    pub const MAX_PATCHES: usize = 1 << 14;

    /// Limits of a model whose memory grows with a picture.
    pub fn new(channels: usize, patch_size: [usize; 2]) -> Self {
        Self { channels, patch_size, max_pixels: Self::MAX_PIXELS }
    }

    /// The same, and no more patches than so many.
    pub fn with_patches(self, most: usize) -> Self {
        let [height, width] = self.patch_size;
        let pixels = most.saturating_mul(height).saturating_mul(width);
        Self { max_pixels: pixels.min(self.max_pixels), ..self }
    }
}

/// The arguments of a vision model's forward pass, with HF's names.
#[derive(Debug, Clone)]
pub struct ImageInputs {
    /// `[batch, channels, height, width]`
    pub pixel_values: Tensor<4>,
    /// `[batch, height, width]`: 1 for the picture, 0 for padding; no padding if `None`.
    pub pixel_mask: Option<Tensor<3, Int>>,
    /// `[batch, patches]`: 1 for patches that are hidden from the model; none if `None`.
    pub bool_masked_pos: Option<Tensor<2, Int>>,
}

/// The unchecked arguments of a vision model, by HF's names.
#[derive(Debug, Clone)]
pub struct ImageArguments {
    /// See [`ImageInputs::pixel_values`].
    pub pixel_values: TensorData,
    /// See [`ImageInputs::pixel_mask`].
    pub pixel_mask: Option<TensorData>,
    /// See [`ImageInputs::bool_masked_pos`].
    pub bool_masked_pos: Option<TensorData>,
}

impl ImageInputs {
    /// Checks the arguments against what the model can take, and puts them on its device.
    ///
    /// # Errors
    /// [`Error::Input`] for no picture, one that is too small or too large, and shapes that do not fit.
    pub fn new(arguments: &ImageArguments, limits: &ImageLimits, device: &Device) -> Result<Self> {
        let shape = arguments.pixel_values.shape().as_slice();
        let [batch, channels, height, width] = shape[..] else {
            let expected = "[batch, channels, height, width]";
            return Err(Error::input("pixel_values", format_args!("shape {shape:?}"), expected));
        };
        if batch == 0 || channels != limits.channels {
            let expected = format_args!("at least one picture of {} channels", limits.channels);
            return Err(Error::input("pixel_values", format_args!("shape {shape:?}"), expected));
        }
        let ([least_height, least_width], most) = (limits.patch_size, limits.max_pixels);
        if height < least_height || width < least_width || height.saturating_mul(width) > most {
            return Err(Error::input(
                "pixel_values",
                format_args!("{width}x{height} pixels"),
                format_args!("at least {least_width}x{least_height}, and at most {most} in all"),
            ));
        }
        let patches = (height / least_height) * (width / least_width);
        let mask = |name: &str, data: &Option<TensorData>, shape: &[usize]| -> Result<Option<TensorData>> {
            let Some(data) = data else { return Ok(None) };
            check_shape(name, data, shape)?;
            Ok(Some(integers(name, data, 2)?))
        };
        let pixel_mask = mask("pixel_mask", &arguments.pixel_mask, &[batch, height, width])?;
        let bool_masked_pos = mask("bool_masked_pos", &arguments.bool_masked_pos, &[batch, patches])?;
        Ok(Self {
            pixel_values: Tensor::from_data(arguments.pixel_values.clone(), device),
            pixel_mask: pixel_mask.map(|data| Tensor::from_data(data, device)),
            bool_masked_pos: bool_masked_pos.map(|data| Tensor::from_data(data, device)),
        })
    }

    /// Some rows of the batch.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let (start, len) = (rows.start, rows.len());
        Self {
            pixel_values: self.pixel_values.clone().narrow(0, start, len),
            pixel_mask: self.pixel_mask.as_ref().map(|mask| mask.clone().narrow(0, start, len)),
            bool_masked_pos: self.bool_masked_pos.as_ref().map(|mask| mask.clone().narrow(0, start, len)),
        }
    }
}

/// The result of a base model for pictures.
#[derive(Debug, Clone)]
pub struct VisionModelOutput {
    /// `[batch, seq, hidden]`, or `[batch, channels, height, width]` of a convolutional model.
    pub last_hidden_state: Features,
    /// `[batch, hidden]`, if the model has a pooler.
    pub pooler_output: Option<Features>,
    /// `[batch, positions, hidden]`, if a decoder follows an encoder.
    pub encoder_last_hidden_state: Option<Tensor<3>>,
}

/// The scores of a classifier of pictures.
#[derive(Debug, Clone)]
pub struct ImageClassifierOutput {
    /// `[batch, labels]`
    pub logits: Tensor<2>,
    /// `[batch, labels]` of the two heads that `logits` are the mean of, the second taught by another model: DeiT's.
    pub heads: Option<[Tensor<2>; 2]>,
}

impl From<Tensor<2>> for ImageClassifierOutput {
    fn from(logits: Tensor<2>) -> Self {
        Self { logits, heads: None }
    }
}

/// What was hidden of a picture.
#[derive(Debug, Clone)]
pub enum MaskedImageOutput {
    /// `[batch, channels, height, width]`
    Reconstruction(Tensor<4>),
    /// `[batch, patches, vocab]`: scores of visual tokens.
    Logits(Tensor<3>),
}

/// Objects of a picture: one for each query, most of them none.
#[derive(Debug, Clone)]
pub struct DetectionOutput {
    /// `[batch, queries, labels + 1]`; the last label is `no object`.
    pub logits: Tensor<3>,
    /// `[batch, queries, 4]`: centre x, centre y, width and height, as parts of the picture's size.
    pub pred_boxes: Tensor<3>,
    /// `[batch, queries, hidden]`
    pub last_hidden_state: Tensor<3>,
    /// `[batch, positions, hidden]`, if a decoder follows an encoder.
    pub encoder_last_hidden_state: Option<Tensor<3>>,
}

/// Objects of a picture with their shapes.
#[derive(Debug, Clone)]
pub struct SegmentationOutput {
    /// What and where they are.
    pub detection: DetectionOutput,
    /// `[batch, queries, height, width]`: scores of each pixel.
    pub pred_masks: Tensor<4>,
}

/// Pictures to hidden states: HF's `AutoModel` for pictures.
pub trait VisionModel: PretrainedModel {
    /// The encoder, and the pooler where there is one.
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput;
}

/// Scores for the labels of a whole picture.
pub trait ImageClassifier: PretrainedModel {
    /// The scores of every label.
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput;
}

/// What patches that were hidden look like.
pub trait MaskedImageModel: PretrainedModel {
    /// The whole picture, or the scores of its visual tokens.
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> MaskedImageOutput;
}

/// Scores for the labels of every pixel, at a part of the picture's size.
pub trait SemanticSegmenter: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, labels, height, width]`
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4>;
}

/// What is where in a picture.
pub trait ObjectDetector: PretrainedModel {
    /// The scores and boxes of every query.
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> DetectionOutput;
}

/// What is where in a picture, pixel by pixel: HF's `AutoModelForImageSegmentation`.
pub trait ImageSegmenter: PretrainedModel {
    /// The scores, boxes and masks of every query.
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> SegmentationOutput;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_bounded_by_their_patches() {
        let limits = ImageLimits::new(1, [4, 2]).with_patches(6);
        assert_eq!(limits.max_pixels, 48);
        let inputs = |height: usize, width: usize| {
            let pixel_values = TensorData::new(vec![0f32; height * width], [1, 1, height, width]);
            let arguments = ImageArguments { pixel_values, pixel_mask: None, bool_masked_pos: None };
            ImageInputs::new(&arguments, &limits, &Device::default()).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!([inputs(8, 6), inputs(4, 12)], [Ok(()), Ok(())]);
        let expected = "pixel_values: 7x8 pixels, expected at least 2x4, and at most 48 in all";
        assert_eq!(inputs(8, 7).unwrap_err(), expected);
        assert!(inputs(3, 6).is_err());
        let all = ImageLimits::new(3, [usize::MAX; 2]).with_patches(ImageLimits::MAX_PATCHES);
        assert_eq!(all.max_pixels, ImageLimits::MAX_PIXELS);
    }
}
