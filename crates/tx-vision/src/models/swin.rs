//! Swin Transformer: attention within windows of a map, which are shifted in every other layer, and maps that shrink.
//!
//! Paper: Liu et al., 2021 (arXiv:2103.14030). Filling in hidden patches: Xie et al., 2021 (arXiv:2111.09886).
//! Reference: transformers 5.23.0, `models/swin/modeling_swin.py`.

mod encoder;
mod windows;

use burn::module::{Module, Param};
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, Conv2d, Interpolation, LayerNorm, Linear, constant, interpolate};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, MaskedImageModel, MaskedImageOutput, Record,
    VisionModel, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use self::encoder::Encoder;
use super::vit::{check_patches, grid, hide, sides, size, square_or};
use crate::maps::{to_map, to_sequence};

/// The epsilon of the norms of patches and of merged patches, which have no key.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Each stage doubles the channels, which no network does more often.
const MAX_STAGES: usize = 16;
/// Scores grow with the fourth power of a window's side; this is nearly three times the largest published one.
const MAX_WINDOW: usize = 32;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SwinConfig {
    /// Height and width that the table of positions is made for, if there is one.
    #[serde(deserialize_with = "sides")]
    pub image_size: [usize; 2],
    #[serde(deserialize_with = "sides")]
    pub patch_size: [usize; 2],
    pub num_channels: usize,
    pub embed_dim: usize,
    pub depths: Vec<usize>,
    pub num_heads: Vec<usize>,
    pub window_size: usize,
    pub mlp_ratio: f64,
    pub qkv_bias: bool,
    pub hidden_act: Activation,
    pub use_absolute_embeddings: bool,
    /// Of the norms of layers, and of the last one.
    pub layer_norm_eps: f64,
    /// Height and width of what the decoder makes of a place.
    pub encoder_stride: usize,
    pub num_labels: usize,
}

impl Default for SwinConfig {
    fn default() -> Self {
        Self {
            image_size: [224, 224],
            patch_size: [4, 4],
            num_channels: 3,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            window_size: 7,
            mlp_ratio: 4.0,
            qkv_bias: true,
            hidden_act: Activation::Gelu,
            use_absolute_embeddings: false,
            layer_norm_eps: 1e-5,
            encoder_stride: 32,
            num_labels: 2,
        }
    }
}

impl ModelConfig for SwinConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("num_channels", self.num_channels),
            ("embed_dim", self.embed_dim),
            ("encoder_stride", self.encoder_stride),
            ("num_labels", self.num_labels),
        ])?;
        check_patches(check, self.image_size, self.patch_size)?;
        check.range("window_size", self.window_size, 1, MAX_WINDOW)?;
        check.range("depths", self.depths.len(), 1, MAX_STAGES)?;
        if self.num_heads.len() != self.depths.len() {
            let [heads, depths] = [self.num_heads.len(), self.depths.len()];
            return Err(check.error("num_heads", format_args!("{heads} stages, but {depths} `depths`")));
        }
        check.size("embed_dim", self.hidden_size())?;
        for (stage, (&heads, &depth)) in self.num_heads.iter().zip(&self.depths).enumerate() {
            check.layers("depths", depth)?;
            check.size("num_heads", heads)?;
            check.divides("embed_dim", self.embed_dim << stage, "num_heads", heads)?;
        }
        check.size("mlp_ratio", self.intermediate_size(self.embed_dim))?;
        check.size("mlp_ratio", self.intermediate_size(self.hidden_size()))?;
        check.size("encoder_stride", self.encoder_stride.pow(2).saturating_mul(self.num_channels))?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)
    }

    fn limits(&self) -> ImageLimits {
        ImageLimits::new(self.num_channels, self.patch_size)
    }
}

impl SwinConfig {
    /// Channels of the last stage.
    fn hidden_size(&self) -> usize {
        self.embed_dim << (self.depths.len() - 1)
    }

    fn intermediate_size(&self, hidden: usize) -> usize {
        (self.mlp_ratio * hidden as f64) as usize
    }
}

/// The encoder, with a vector for hidden patches where the checkpoint has it.
#[derive(Module, Debug)]
pub struct SwinModel {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
}

impl SwinModel {
    fn new(config: &SwinConfig, mask_token: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, mask_token, device),
            encoder: Encoder::new(config, device),
            layernorm: LayerNorm::new(config.hidden_size(), config.layer_norm_eps, device),
        }
    }

    /// The last map as a sequence, and its height and width.
    ///
    /// # Shapes
    /// - output: `[batch, height · width, hidden]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> (Tensor<3>, [usize; 2]) {
        let (x, map) = self.embeddings.forward(inputs);
        let (x, map) = self.encoder.forward(x, map, record);
        (self.layernorm.forward(x), map)
    }
}

/// # Shapes
/// - x: `[batch, seq, hidden]`
/// - output: `[batch, hidden]`
fn mean(x: Tensor<3>) -> Tensor<2> {
    x.mean_dim(1).squeeze_dim(1)
}

impl Pretrained for SwinModel {
    type Config = SwinConfig;
    const PREFIX: &'static str = "swin";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["embeddings.mask_token"];

    fn init(config: &SwinConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("embeddings.mask_token"), device)
    }
}

impl VisionModel for SwinModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let (x, _) = self.encode(inputs, record);
        let pooled = mean(x.clone());
        VisionModelOutput {
            last_hidden_state: x.into(),
            pooler_output: Some(pooled.into()),
            encoder_last_hidden_state: None,
        }
    }
}

/// Swin with a decoder that paints the picture, hidden patches included: SimMIM.
#[derive(Module, Debug)]
pub struct SwinForMaskedImageModeling {
    swin: SwinModel,
    decoder: PixelDecoder,
}

impl Pretrained for SwinForMaskedImageModeling {
    type Config = SwinConfig;
    const PREFIX: &'static str = "swin";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &SwinConfig, _: &Parts, device: &Device) -> Self {
        Self { swin: SwinModel::new(config, true, device), decoder: PixelDecoder::new(config, device) }
    }
}

impl MaskedImageModel for SwinForMaskedImageModeling {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> MaskedImageOutput {
        let (x, map) = self.swin.encode(inputs, record);
        MaskedImageOutput::Reconstruction(self.decoder.forward(x, map))
    }
}

/// Swin with a classifier on the mean of the last map.
#[derive(Module, Debug)]
pub struct SwinForImageClassification {
    swin: SwinModel,
    classifier: Linear,
}

impl Pretrained for SwinForImageClassification {
    type Config = SwinConfig;
    const PREFIX: &'static str = "swin";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["embeddings.mask_token"];

    fn init(config: &SwinConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size(), config.num_labels, true, device);
        Self { swin: SwinModel::new(config, false, device), classifier }
    }
}

impl ImageClassifier for SwinForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        self.classifier.forward(mean(self.swin.encode(inputs, record).0)).into()
    }
}

/// Normalised patches, and their positions where the model has a table of them.
#[derive(Module, Debug)]
struct Embeddings {
    patch_embeddings: PatchEmbeddings,
    mask_token: Option<Param<Tensor<3>>>,
    position_embeddings: Option<Param<Tensor<3>>>,
    norm: LayerNorm,
    /// Rows and columns of the table of positions.
    #[module(skip)]
    trained: [usize; 2],
    #[module(skip)]
    patch_size: [usize; 2],
}

#[derive(Module, Debug)]
struct PatchEmbeddings {
    projection: Conv2d,
}

impl Embeddings {
    fn new(config: &SwinConfig, mask_token: bool, device: &Device) -> Self {
        let (hidden, patch_size) = (config.embed_dim, config.patch_size);
        let trained = grid(config.image_size, patch_size);
        let projection = Conv2d::new(config.num_channels, hidden, patch_size, device);
        let positions = || constant([1, trained[0] * trained[1], hidden], 0.0, device);
        Self {
            patch_embeddings: PatchEmbeddings { projection: projection.with_bias(true).with_strides(patch_size) },
            mask_token: mask_token.then(|| constant([1, 1, hidden], 0.0, device)),
            position_embeddings: config.use_absolute_embeddings.then(positions),
            norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            trained,
            patch_size,
        }
    }

    /// The map as a sequence, and its height and width.
    fn forward(&self, inputs: &ImageInputs) -> (Tensor<3>, [usize; 2]) {
        let whole = grid(size(inputs), self.patch_size);
        let [height, width] = size(inputs);
        let map = [height.div_ceil(self.patch_size[0]), width.div_ceil(self.patch_size[1])];
        let inputs = if map == whole { inputs } else { &self.fill_patches(inputs, whole, map) };
        let x = self.norm.forward(self.patch_embeddings.projection.forward_patches(inputs.pixel_values.clone()));
        let x = hide(x, self.mask_token.as_ref(), inputs);
        let x = match &self.position_embeddings {
            Some(table) => x + self.positions(table.val(), map),
            None => x,
        };
        (x, map)
    }

    /// The positions for a map of another size.
    fn positions(&self, table: Tensor<3>, map: [usize; 2]) -> Tensor<3> {
        if map == self.trained {
            return table;
        }
        to_sequence(interpolate(to_map(table, self.trained), map, Interpolation::Bicubic, false))
    }

    /// Pictures with zeros at their ends, so that they are whole patches; the new patches are not hidden ones.
    fn fill_patches(&self, inputs: &ImageInputs, whole: [usize; 2], map: [usize; 2]) -> ImageInputs {
        let [height, width] = size(inputs);
        let [rows, columns] = [map[0] * self.patch_size[0] - height, map[1] * self.patch_size[1] - width];
        let masked = inputs.bool_masked_pos.clone().map(|masked| {
            let batch = masked.dims()[0];
            let masked = masked.reshape([batch, whole[0], whole[1]]);
            let masked = masked.pad([(0, map[0] - whole[0]), (0, map[1] - whole[1])], PadMode::Constant(0.0));
            masked.reshape([batch, map[0] * map[1]])
        });
        ImageInputs {
            pixel_values: inputs.pixel_values.clone().pad([(0, rows), (0, columns)], PadMode::Constant(0.0)),
            pixel_mask: None,
            bool_masked_pos: masked,
        }
    }
}

/// Pixels of each place of the last map: one projection gives all of them.
#[derive(Module, Debug)]
struct PixelDecoder {
    projection: Conv2d,
    #[module(skip)]
    stride: usize,
}

impl PixelDecoder {
    fn new(config: &SwinConfig, device: &Device) -> Self {
        let stride = config.encoder_stride;
        let pixels = stride * stride * config.num_channels;
        Self { projection: Conv2d::new(config.hidden_size(), pixels, [1, 1], device).with_bias(true), stride }
    }

    /// # Shapes
    /// - x: `[batch, height · width, hidden]`
    /// - output: `[batch, channels, height · stride, width · stride]`
    fn forward(&self, x: Tensor<3>, map: [usize; 2]) -> Tensor<4> {
        let [batch, places, _] = x.dims();
        let [height, width] = square_or(places, map);
        let x = self.projection.forward_patches(to_map(x, [height, width])); // [batch, places, pixels]
        let stride = self.stride;
        let channels = x.dims()[2] / (stride * stride);
        let x = x.reshape([batch, height, width, channels, stride, stride]).permute([0, 3, 1, 4, 2, 5]);
        x.reshape([batch, channels, height * stride, width * stride])
    }
}

/// The names of files, and those of newer sources, which files rarely have.
const RENAMES: &[Rename] = &[
    Rename { module: "attention.self_.query", file: &["attention.self.query", "attention.q_proj"] },
    Rename { module: "attention.self_.key", file: &["attention.self.key", "attention.k_proj"] },
    Rename { module: "attention.self_.value", file: &["attention.self.value", "attention.v_proj"] },
    Rename {
        module: "attention.self_.relative_position_bias_table.weight",
        file: &[
            "attention.self.relative_position_bias_table",
            "attention.relative_position_bias.relative_position_bias_table",
        ],
    },
    Rename { module: "attention.output.dense", file: &["attention.output.dense", "attention.o_proj"] },
    Rename { module: "intermediate.dense", file: &["intermediate.dense", "mlp.fc1"] },
    Rename { module: "output.dense", file: &["output.dense", "mlp.fc2"] },
    Rename { module: "decoder.projection", file: &["decoder.0"] },
];
