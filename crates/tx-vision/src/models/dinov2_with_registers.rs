//! DINOv2 with registers: tokens beside the patches, in which the model keeps what belongs to none of them.
//!
//! Paper: Darcet et al., 2023 (arXiv:2309.16588). Cubic: Keys, 1981 (doi:10.1109/TASSP.1981.1163711).
//! Reference: transformers 5.23.0, `models/dinov2_with_registers/modeling_dinov2_with_registers.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{LayerNorm, Linear, constant};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, Record, VisionModel, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::dinov2::{Dinov2Config, Encoder, RENAMES, hide, summary};
use super::vit::{PatchEmbeddings, for_batch, grid, size, square_or, token};

/// DINOv2's config with other defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Dinov2WithRegistersConfig(Dinov2Config);

impl ModelConfig for Dinov2WithRegistersConfig {
    type Limits = ImageLimits;

    fn defaults() -> Vec<(&'static str, Value)> {
        vec![("patch_size", 16.into())]
    }

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.size("num_register_tokens", self.0.num_register_tokens)?;
        self.0.validate(check)
    }

    fn limits(&self) -> ImageLimits {
        self.0.limits()
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Dinov2WithRegistersModel {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
}

impl Dinov2WithRegistersModel {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            layernorm: config.norm(device),
        }
    }

    /// # Shapes
    /// - output: `[batch, 1 + registers + patches, hidden]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<3> {
        self.layernorm.forward(self.encoder.forward(self.embeddings.forward(inputs), record))
    }
}

impl Pretrained for Dinov2WithRegistersModel {
    type Config = Dinov2WithRegistersConfig;
    const PREFIX: &'static str = "dinov2_with_registers";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &Dinov2WithRegistersConfig, _: &Parts, device: &Device) -> Self {
        Self::new(&config.0, device)
    }
}

impl VisionModel for Dinov2WithRegistersModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = Some(token(&x, 0).into());
        VisionModelOutput { last_hidden_state: x.into(), pooler_output, encoder_last_hidden_state: None }
    }
}

/// DINOv2 with registers and a classifier on the first token and the mean of the patches.
#[derive(Module, Debug)]
pub struct Dinov2WithRegistersForImageClassification {
    dinov2_with_registers: Dinov2WithRegistersModel,
    classifier: Linear,
    #[module(skip)]
    registers: usize,
}

impl Pretrained for Dinov2WithRegistersForImageClassification {
    type Config = Dinov2WithRegistersConfig;
    const PREFIX: &'static str = "dinov2_with_registers";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &Dinov2WithRegistersConfig, _: &Parts, device: &Device) -> Self {
        let config = &config.0;
        Self {
            dinov2_with_registers: Dinov2WithRegistersModel::new(config, device),
            classifier: Linear::new(2 * config.hidden_size, config.num_labels, true, device),
            registers: config.num_register_tokens,
        }
    }
}

impl ImageClassifier for Dinov2WithRegistersForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        let x = self.dinov2_with_registers.encode(inputs, record);
        self.classifier.forward(summary(x, 1 + self.registers)).into()
    }
}

/// A token for the whole picture, the registers, and the patches; the registers have no positions.
#[derive(Module, Debug)]
struct Embeddings {
    cls_token: Param<Tensor<3>>,
    mask_token: Param<Tensor<2>>,
    register_tokens: Param<Tensor<3>>,
    patch_embeddings: PatchEmbeddings,
    position_embeddings: Param<Tensor<3>>,
    #[module(skip)]
    grid: [usize; 2],
}

impl Embeddings {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let grid = grid(config.image_size, config.patch_size);
        let vectors = |n: usize| constant([1, n, hidden], 0.0, device);
        Self {
            cls_token: vectors(1),
            mask_token: constant([1, hidden], 0.0, device),
            register_tokens: vectors(config.num_register_tokens),
            patch_embeddings: PatchEmbeddings::new(config.num_channels, hidden, config.patch_size, device),
            position_embeddings: vectors(1 + grid[0] * grid[1]),
            grid,
        }
    }

    fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        let x = hide(self.patch_embeddings.forward(inputs), &self.mask_token, inputs);
        let [batch, patches, _] = x.dims();
        let positions = self.positions(inputs);
        let cls = for_batch(&self.cls_token, batch) + positions.clone().narrow(1, 0, 1);
        Tensor::cat(vec![cls, for_batch(&self.register_tokens, batch), x + positions.narrow(1, 1, patches)], 1)
    }

    /// The table's positions for these pictures.
    ///
    /// # Shapes
    /// - output: `[1, 1 + rows · columns, hidden]`
    fn positions(&self, inputs: &ImageInputs) -> Tensor<3> {
        let table = self.position_embeddings.val();
        let [_, positions, hidden] = table.dims();
        let patches = positions - 1;
        let [height, width] = size(inputs);
        let [rows, columns] = self.patch_embeddings.grid(inputs);
        if height == width && rows * columns == patches {
            return table;
        }
        let from = square_or(patches, self.grid);
        let map = table.clone().narrow(1, 1, patches).reshape([from[0], from[1] * hidden]);
        let map = resampling(from[0], rows, &table.device()).matmul(map).reshape([rows, from[1], hidden]);
        let map = resampling(from[1], columns, &table.device()).unsqueeze::<3>().matmul(map);
        Tensor::cat(vec![table.narrow(1, 0, 1), map.reshape([1, rows * columns, hidden])], 1)
    }
}

/// The share of every place of an axis in every place of the new one: PyTorch's bicubic interpolation with `antialias`.
///
/// # Shapes
/// - output: `[to, from]`
fn resampling(from: usize, to: usize, device: &Device) -> Tensor<2> {
    let scale = from as f32 / to as f32;
    // Where places become fewer, each one is made of more.
    let stretch = scale.max(1.0);
    let reach = 2.0 * stretch;
    let mut shares = vec![0f32; to * from];
    for (place, row) in shares.chunks_exact_mut(from).enumerate() {
        let centre = scale * (place as f32 + 0.5);
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        for (i, share) in row.iter_mut().enumerate().take(end).skip(first) {
            *share = cubic(((i as f32 - centre + 0.5) / stretch).abs());
        }
        let sum = row.iter().sum::<f32>();
        row.iter_mut().for_each(|share| *share /= sum);
    }
    Tensor::from_data(TensorData::new(shares, [to, from]), device)
}

/// Keys' cubic with a = −0.5, at a distance.
fn cubic(x: f32) -> f32 {
    const A: f32 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
