//! ViT: a picture as a sequence of patches, in a pre-norm transformer encoder.
//!
//! Paper: Dosovitskiy et al., 2021 (arXiv:2010.11929). Filling in hidden patches: Xie et al., 2021 (arXiv:2111.09886).
//! Reference: transformers 5.23.0, `models/vit/modeling_vit.py`.

mod encoder;
mod patches;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, Conv2d, LayerNorm, Linear, constant};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, MaskedImageModel, MaskedImageOutput, Record,
    VisionModel, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use crate::maps::to_map;

pub(super) use encoder::{Attention, Encoder, Intermediate, Layer, Output};
pub(super) use patches::{
    PatchEmbeddings, check_patches, for_batch, grid, hide, hide_behind, resize_positions, sides, size, square_or, token,
};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ViTConfig {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    /// Height and width that the table of positions is made for.
    #[serde(deserialize_with = "sides")]
    pub image_size: [usize; 2],
    #[serde(deserialize_with = "sides")]
    pub patch_size: [usize; 2],
    pub num_channels: usize,
    pub qkv_bias: bool,
    /// Height and width of what the decoder makes of a patch.
    pub encoder_stride: usize,
    /// `hidden_size`, if `None` or 0.
    pub pooler_output_size: Option<usize>,
    pub pooler_act: Activation,
    pub num_labels: usize,
}

impl Default for ViTConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: [224, 224],
            patch_size: [16, 16],
            num_channels: 3,
            qkv_bias: true,
            encoder_stride: 16,
            pooler_output_size: None,
            pooler_act: Activation::Tanh,
            num_labels: 2,
        }
    }
}

impl ModelConfig for ViTConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_channels", self.num_channels),
            ("encoder_stride", self.encoder_stride),
            ("pooler_output_size", self.pooler_output_size()),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check.size("encoder_stride", self.encoder_stride.pow(2).saturating_mul(self.num_channels))?;
        check_patches(check, self.image_size, self.patch_size)
    }

    fn limits(&self) -> ImageLimits {
        ImageLimits::new(self.num_channels, self.patch_size).with_patches(ImageLimits::MAX_PATCHES)
    }
}

impl ViTConfig {
    fn pooler_output_size(&self) -> usize {
        self.pooler_output_size.filter(|&size| size > 0).unwrap_or(self.hidden_size)
    }
}

/// The encoder, with a pooler and a vector for hidden patches where the checkpoint has them.
#[derive(Module, Debug)]
pub struct ViTModel {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
    pooler: Option<Pooler>,
}

impl ViTModel {
    fn new(config: &ViTConfig, mask_token: bool, pooler: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, mask_token, device),
            encoder: Encoder::new(config, device),
            layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            pooler: pooler.then(|| Pooler::new(config, device)),
        }
    }

    /// # Shapes
    /// - output: `[batch, 1 + patches, hidden]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<3> {
        self.layernorm.forward(self.encoder.forward(self.embeddings.forward(inputs), record))
    }
}

impl Pretrained for ViTModel {
    type Config = ViTConfig;
    const PREFIX: &'static str = "vit";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler", "embeddings.mask_token"];

    fn init(config: &ViTConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("embeddings.mask_token"), parts.has("pooler"), device)
    }
}

impl VisionModel for ViTModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(&x).into());
        VisionModelOutput { last_hidden_state: x.into(), pooler_output, encoder_last_hidden_state: None }
    }
}

/// ViT with a decoder that paints the picture, hidden patches included: SimMIM.
#[derive(Module, Debug)]
pub struct ViTForMaskedImageModeling {
    vit: ViTModel,
    decoder: PixelDecoder,
}

impl Pretrained for ViTForMaskedImageModeling {
    type Config = ViTConfig;
    const PREFIX: &'static str = "vit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &ViTConfig, _: &Parts, device: &Device) -> Self {
        Self { vit: ViTModel::new(config, true, false, device), decoder: PixelDecoder::new(config, device) }
    }
}

impl MaskedImageModel for ViTForMaskedImageModeling {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> MaskedImageOutput {
        let x = self.vit.encode(inputs, record);
        let patches = x.dims()[1] - 1;
        let grid = self.vit.embeddings.patch_embeddings.grid(inputs);
        MaskedImageOutput::Reconstruction(self.decoder.forward(x.narrow(1, 1, patches), grid))
    }
}

/// ViT with a classifier on the first token.
#[derive(Module, Debug)]
pub struct ViTForImageClassification {
    vit: ViTModel,
    classifier: Linear,
}

impl Pretrained for ViTForImageClassification {
    type Config = ViTConfig;
    const PREFIX: &'static str = "vit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler", "embeddings.mask_token"];

    fn init(config: &ViTConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { vit: ViTModel::new(config, false, false, device), classifier }
    }
}

impl ImageClassifier for ViTForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        self.classifier.forward(token(&self.vit.encode(inputs, record), 0)).into()
    }
}

/// Patches behind a token for the whole picture, and their positions.
#[derive(Module, Debug)]
struct Embeddings {
    cls_token: Param<Tensor<3>>,
    mask_token: Option<Param<Tensor<3>>>,
    patch_embeddings: PatchEmbeddings,
    position_embeddings: Param<Tensor<3>>,
    #[module(skip)]
    image_size: [usize; 2],
}

impl Embeddings {
    fn new(config: &ViTConfig, mask_token: bool, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let [rows, columns] = grid(config.image_size, config.patch_size);
        let vectors = |n: usize| constant([1, n, hidden], 0.0, device);
        Self {
            cls_token: vectors(1),
            mask_token: mask_token.then(|| vectors(1)),
            patch_embeddings: PatchEmbeddings::new(config.num_channels, hidden, config.patch_size, device),
            position_embeddings: vectors(1 + rows * columns),
            image_size: config.image_size,
        }
    }

    fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        let x = self.patch_embeddings.forward(inputs);
        let x = hide(x, self.mask_token.as_ref(), inputs);
        let cls = for_batch(&self.cls_token, x.dims()[0]);
        let table = self.position_embeddings.val();
        let positions = if size(inputs) == self.image_size {
            table
        } else {
            self.patch_embeddings.positions(table, 1, self.image_size, inputs)
        };
        Tensor::cat(vec![cls, x], 1) + positions
    }
}

/// `act(dense(x))` of the first token.
#[derive(Module, Debug)]
pub(super) struct Pooler {
    dense: Linear,
    #[module(skip)]
    act: Activation,
}

impl Pooler {
    pub(super) fn new(config: &ViTConfig, device: &Device) -> Self {
        let dense = Linear::new(config.hidden_size, config.pooler_output_size(), true, device);
        Self { dense, act: config.pooler_act }
    }

    pub(super) fn forward(&self, x: &Tensor<3>) -> Tensor<2> {
        self.dense.forward_activated(token(x, 0), self.act)
    }
}

/// Pixels of each patch: one projection gives all of them.
#[derive(Module, Debug)]
pub(super) struct PixelDecoder {
    projection: Conv2d,
    #[module(skip)]
    stride: usize,
}

impl PixelDecoder {
    pub(super) fn new(config: &ViTConfig, device: &Device) -> Self {
        let stride = config.encoder_stride;
        let pixels = stride * stride * config.num_channels;
        Self { projection: Conv2d::new(config.hidden_size, pixels, [1, 1], device).with_bias(true), stride }
    }

    /// # Shapes
    /// - x: `[batch, rows · columns, hidden]`
    /// - output: `[batch, channels, rows · stride, columns · stride]`
    pub(super) fn forward(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<4> {
        let [batch, patches, _] = x.dims();
        let [rows, columns] = square_or(patches, grid);
        let x = self.projection.forward(to_map(x, [rows, columns]));
        let stride = self.stride;
        let channels = x.dims()[1] / (stride * stride);
        let x = x.reshape([batch, channels, stride, stride, rows, columns]).permute([0, 1, 4, 2, 5, 3]);
        x.reshape([batch, channels, rows * stride, columns * stride])
    }
}

/// The names of newer sources, which files rarely have.
pub(super) const RENAMES: &[Rename] = &[
    Rename { module: "encoder.layer", file: &["encoder.layer", "layers"] },
    Rename { module: "attention.attention.query", file: &["attention.attention.query", "attention.q_proj"] },
    Rename { module: "attention.attention.key", file: &["attention.attention.key", "attention.k_proj"] },
    Rename { module: "attention.attention.value", file: &["attention.attention.value", "attention.v_proj"] },
    Rename { module: "attention.output.dense", file: &["attention.output.dense", "attention.o_proj"] },
    Rename { module: "intermediate.dense", file: &["intermediate.dense", "mlp.fc1"] },
    Rename { module: "output.dense", file: &["output.dense", "mlp.fc2"] },
    Rename { module: "decoder.projection", file: &["decoder.0"] },
];
