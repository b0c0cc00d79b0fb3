//! CLIP's vision tower: patches behind a token that stands for the picture. Chinese CLIP has the same.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tx_core::nn::{Conv2d, Embedding, Interpolation, LayerNorm, Mask, constant, interpolate};
use tx_core::task::{ImageInputs, Record, VisionModel, VisionModelOutput};
use tx_core::weights::load::{Parts, Pretrained};

use super::config::ClipVisionConfig;
use super::encoder::Encoder;

/// The vision tower.
#[derive(Module, Debug)]
pub struct ClipVisionModel {
    embeddings: Embeddings,
    // Published so.
    pre_layrnorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
}

impl ClipVisionModel {
    /// `config` is that of the tower.
    pub(in crate::models) fn new(config: &ClipVisionConfig, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, config.layer_norm_eps, device);
        Self {
            embeddings: Embeddings::new(config, device),
            pre_layrnorm: norm(),
            encoder: Encoder::new(&config.encoder(), device),
            post_layernorm: norm(),
        }
    }

    /// Every token, before the last norm.
    ///
    /// # Shapes
    /// - output: `[batch, 1 + patches, hidden]`
    pub(in crate::models) fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<3> {
        let x = self.pre_layrnorm.forward(self.embeddings.forward(inputs));
        self.encoder.forward(x, &Mask::default(), record)
    }

    /// The first token, after the last norm.
    ///
    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - output: `[batch, hidden]`
    pub(in crate::models) fn pool(&self, x: &Tensor<3>) -> Tensor<2> {
        self.post_layernorm.forward(x.clone().narrow(1, 0, 1).squeeze_dim::<2>(1))
    }
}

impl Pretrained for ClipVisionModel {
    type Config = ClipVisionConfig;
    const PREFIX: &'static str = "vision_model";

    fn init(config: &ClipVisionConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config.tower(), device)
    }
}

impl VisionModel for ClipVisionModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooled = self.pool(&x);
        output(x, pooled)
    }
}

/// Every token of a picture, and what stands for it as a whole.
///
/// # Shapes
/// - x: `[batch, seq, hidden]`
/// - pooled: `[batch, dim]`
pub(in crate::models) fn output(x: Tensor<3>, pooled: Tensor<2>) -> VisionModelOutput {
    VisionModelOutput {
        last_hidden_state: x.into(),
        pooler_output: Some(pooled.into()),
        encoder_last_hidden_state: None,
    }
}

/// Patches behind a token for the whole picture, and their positions.
#[derive(Module, Debug)]
struct Embeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
    #[module(skip)]
    patch_size: usize,
}

impl Embeddings {
    fn new(config: &ClipVisionConfig, device: &Device) -> Self {
        let (hidden, patch) = (config.hidden_size, config.patch_size);
        let patches = (config.image_size / patch).pow(2);
        Self {
            class_embedding: constant([hidden], 0.0, device),
            patch_embedding: Conv2d::new(config.num_channels, hidden, [patch, patch], device).with_stride(patch),
            position_embedding: Embedding::new(1 + patches, hidden, device),
            patch_size: patch,
        }
    }

    fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        let [batch, _, height, width] = inputs.pixel_values.dims();
        let patches = self.patch_embedding.forward_patches(inputs.pixel_values.clone());
        let hidden = patches.dims()[2];
        let class = self.class_embedding.val().reshape([1, 1, hidden]).expand([batch, 1, hidden]);
        let grid = [height / self.patch_size, width / self.patch_size];
        Tensor::cat(vec![class, patches], 1) + positions(&self.position_embedding, 1, grid)
    }
}

/// Positions for a grid of patches, bicubic between those of a table for a square of them. Before the patches stand
/// `special` tokens, which keep theirs.
///
/// # Shapes
/// - output: `[1, special + grid[0] · grid[1], hidden]`
pub(in crate::models) fn positions(table: &Embedding, special: usize, grid: [usize; 2]) -> Tensor<3> {
    let [count, hidden] = table.weight.lazy_shape().dims();
    let device = table.weight.lazy_device();
    let rows: Tensor<3> = table.rows(Tensor::arange(0..count as i64, &device)).unsqueeze();
    let patches = count - special;
    let side = patches.isqrt();
    if grid == [side, side] {
        return rows;
    }
    let map = rows.clone().narrow(1, special, patches).reshape([1, side, side, hidden]).permute([0, 3, 1, 2]);
    let map = interpolate(map, grid, Interpolation::Bicubic, false);
    let resized = map.reshape([1, hidden, grid[0] * grid[1]]).swap_dims(1, 2);
    if special == 0 { resized } else { Tensor::cat(vec![rows.narrow(1, 0, special), resized], 1) }
}
