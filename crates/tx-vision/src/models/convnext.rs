//! ConvNeXT: a convolutional network with what transformers taught: wide blocks, few norms, large kernels.
//!
//! Paper: Liu et al., 2022 (arXiv:2201.03545).
//! Reference: transformers 5.23.0, `models/convnext/modeling_convnext.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, Conv2d, LayerNorm, Linear, constant};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, Record, VisionModel, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained};

use super::vit::{grid, sides, size};
use crate::maps::{average_pool, to_map};

/// The reference fixes the epsilon of every norm but the last.
const LAYER_NORM_EPS: f64 = 1e-6;

/// Each stage halves the map, so that pictures of a usual size have nothing left after these.
const MAX_STAGES: usize = 16;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ConvNextConfig {
    pub num_channels: usize,
    #[serde(deserialize_with = "sides")]
    pub patch_size: [usize; 2],
    pub num_stages: usize,
    pub hidden_sizes: Vec<usize>,
    pub depths: Vec<usize>,
    pub hidden_act: Activation,
    /// Of the last norm.
    pub layer_norm_eps: f64,
    /// What the scales of layers begin with; layers have none if it is 0.
    pub layer_scale_init_value: f64,
    pub num_labels: usize,
}

impl Default for ConvNextConfig {
    fn default() -> Self {
        Self {
            num_channels: 3,
            patch_size: [4, 4],
            num_stages: 4,
            hidden_sizes: vec![96, 192, 384, 768],
            depths: vec![3, 3, 9, 3],
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            layer_scale_init_value: 1e-6,
            num_labels: 2,
        }
    }
}

impl ModelConfig for ConvNextConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("num_channels", self.num_channels),
            ("patch_size", self.patch_size[0]),
            ("patch_size", self.patch_size[1]),
            ("num_labels", self.num_labels),
        ])?;
        check.range("num_stages", self.num_stages, 1, MAX_STAGES)?;
        for (key, length) in [("hidden_sizes", self.hidden_sizes.len()), ("depths", self.depths.len())] {
            if length != self.num_stages {
                let reason = format_args!("{length} stages, but `num_stages` = {}", self.num_stages);
                return Err(check.error(key, reason));
            }
        }
        self.hidden_sizes.iter().try_for_each(|&size| check.size("hidden_sizes", size))?;
        self.depths.iter().try_for_each(|&depth| check.layers("depths", depth))?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)
    }

    fn limits(&self) -> ImageLimits {
        // A patch of the last stage.
        let patch_size = self.patch_size.map(|side| side.saturating_mul(1 << (self.num_stages - 1)));
        ImageLimits::new(self.num_channels, patch_size)
    }
}

/// The stages, and the normalised mean of their last map.
#[derive(Module, Debug)]
pub struct ConvNextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
}

impl ConvNextModel {
    fn new(config: &ConvNextConfig, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            layernorm: LayerNorm::new(last_size(config), config.layer_norm_eps, device),
        }
    }

    /// # Shapes
    /// - output: `[batch, channels, height, width]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4> {
        self.encoder.forward(self.embeddings.forward(inputs), record)
    }

    /// # Shapes
    /// - x: `[batch, channels, height, width]`
    /// - output: `[batch, channels]`
    fn pool(&self, x: Tensor<4>) -> Tensor<2> {
        self.layernorm.forward(average_pool(x))
    }
}

impl Pretrained for ConvNextModel {
    type Config = ConvNextConfig;
    const PREFIX: &'static str = "convnext";

    fn init(config: &ConvNextConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl VisionModel for ConvNextModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooled = self.pool(x.clone());
        VisionModelOutput {
            last_hidden_state: x.into(),
            pooler_output: Some(pooled.into()),
            encoder_last_hidden_state: None,
        }
    }
}

/// ConvNeXT with a classifier on the normalised mean of the last map.
#[derive(Module, Debug)]
pub struct ConvNextForImageClassification {
    convnext: ConvNextModel,
    classifier: Linear,
}

impl Pretrained for ConvNextForImageClassification {
    type Config = ConvNextConfig;
    const PREFIX: &'static str = "convnext";

    fn init(config: &ConvNextConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(last_size(config), config.num_labels, true, device);
        Self { convnext: ConvNextModel::new(config, device), classifier }
    }
}

impl ImageClassifier for ConvNextForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        let x = self.convnext.encode(inputs, record);
        self.classifier.forward(self.convnext.pool(x)).into()
    }
}

/// Channels of the last stage.
fn last_size(config: &ConvNextConfig) -> usize {
    config.hidden_sizes.last().copied().unwrap_or_default()
}

/// Patches, projected and normalised.
#[derive(Module, Debug)]
struct Embeddings {
    patch_embeddings: Conv2d,
    layernorm: LayerNorm,
    #[module(skip)]
    patch_size: [usize; 2],
}

impl Embeddings {
    fn new(config: &ConvNextConfig, device: &Device) -> Self {
        let (hidden, patch_size) = (config.hidden_sizes[0], config.patch_size);
        let patch_embeddings = Conv2d::new(config.num_channels, hidden, patch_size, device);
        Self {
            patch_embeddings: patch_embeddings.with_bias(true).with_strides(patch_size),
            layernorm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            patch_size,
        }
    }

    /// # Shapes
    /// - output: `[batch, channels, height, width]`
    fn forward(&self, inputs: &ImageInputs) -> Tensor<4> {
        let x = self.patch_embeddings.forward_patches(inputs.pixel_values.clone());
        to_map(self.layernorm.forward(x), grid(size(inputs), self.patch_size))
    }
}

#[derive(Module, Debug)]
struct Encoder {
    stages: Vec<Stage>,
}

impl Encoder {
    fn new(config: &ConvNextConfig, device: &Device) -> Self {
        let sizes = &config.hidden_sizes;
        let stage = |(number, &depth): (usize, &usize)| {
            let input = (number > 0).then(|| sizes[number - 1]);
            Stage::new(config, input, sizes[number], depth, device)
        };
        Self { stages: config.depths.iter().enumerate().map(stage).collect() }
    }

    fn forward(&self, mut x: Tensor<4>, record: &mut Record) -> Tensor<4> {
        record.hidden_state(&x);
        for stage in &self.stages {
            x = stage.forward(x);
            record.hidden_state(&x);
        }
        x
    }
}

/// A norm and a convolution that halve the map, in all stages but the first; then layers.
#[derive(Module, Debug)]
struct Stage {
    downsampling_layer: Option<(LayerNorm, Conv2d)>,
    layers: Vec<Layer>,
}

impl Stage {
    fn new(config: &ConvNextConfig, input: Option<usize>, output: usize, depth: usize, device: &Device) -> Self {
        let downsampling = |input: usize| {
            let convolution = Conv2d::new(input, output, [2, 2], device).with_bias(true).with_stride(2);
            (LayerNorm::new(input, LAYER_NORM_EPS, device), convolution)
        };
        Self {
            downsampling_layer: input.map(downsampling),
            layers: (0..depth).map(|_| Layer::new(config, output, device)).collect(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = match &self.downsampling_layer {
            Some((norm, convolution)) => {
                let [_, _, height, width] = x.dims();
                let x = norm.forward(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]);
                to_map(convolution.forward_patches(x), [height / 2, width / 2])
            }
            None => x,
        };
        self.layers.iter().fold(x, |x, layer| layer.forward(x))
    }
}

/// `x + scale · pwconv2(act(pwconv1(layernorm(dwconv(x)))))`.
#[derive(Module, Debug)]
struct Layer {
    dwconv: Conv2d,
    layernorm: LayerNorm,
    pwconv1: Linear,
    pwconv2: Linear,
    layer_scale_parameter: Option<Param<Tensor<1>>>,
    #[module(skip)]
    act: Activation,
}

impl Layer {
    fn new(config: &ConvNextConfig, size: usize, device: &Device) -> Self {
        let scale = config.layer_scale_init_value;
        Self {
            dwconv: Conv2d::new(size, size, [7, 7], device).with_bias(true).with_padding(3).with_groups(size),
            layernorm: LayerNorm::new(size, LAYER_NORM_EPS, device),
            pwconv1: Linear::new(size, 4 * size, true, device),
            pwconv2: Linear::new(4 * size, size, true, device),
            layer_scale_parameter: (scale > 0.0).then(|| constant([size], scale, device)),
            act: config.hidden_act,
        }
    }

    /// # Shapes
    /// - x, output: `[batch, channels, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.dwconv.forward(x.clone()).permute([0, 2, 3, 1]); // [batch, height, width, channels]
        let y = self.pwconv1.forward_activated(self.layernorm.forward(y), self.act);
        let y = self.pwconv2.forward(y);
        let y = match &self.layer_scale_parameter {
            Some(scale) => y * scale.val().unsqueeze::<4>(),
            None => y,
        };
        x + y.permute([0, 3, 1, 2])
    }
}
