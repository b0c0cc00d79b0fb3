//! The convolutional network whose maps DETR asks: HF's ResNet, or timm's, which old files have.
//!
//! timm's is the same network under other names, and its last stages may reach further instead of being smaller.
//! Reference: timm 1.0, `models/resnet.py`.

use burn::module::Module;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, BatchNorm2d, Conv2d, max_pool2d};

use crate::models::resnet::{ResNetBackbone, ResNetConfig};

/// The epsilon of all norms.
const BATCH_NORM_EPS: f64 = 1e-5;
/// Channels of the stem.
const STEM: usize = 64;
/// Channels within the blocks of each stage.
const WIDTHS: [usize; 4] = [64, 128, 256, 512];

/// A nested config of the backbone.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "model_type", rename_all = "snake_case")]
pub enum BackboneConfig {
    /// HF's ResNet.
    Resnet(ResNetConfig),
    /// A network of timm.
    TimmBackbone(TimmBackboneConfig),
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self::Resnet(ResNetConfig { out_features: Some(vec!["stage4".into()]), ..ResNetConfig::default() })
    }
}

/// A network of timm, by its name there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TimmBackboneConfig {
    /// ResNet-50, if `None`.
    pub backbone: Option<String>,
    /// Three, if `None`.
    pub num_channels: Option<usize>,
    /// Which maps it gives, the stem's being 0, from the end if negative; the last, if `None`.
    pub out_indices: Option<Vec<i64>>,
    /// How many times smaller than the picture the last map is at most; 32, if `None`.
    pub output_stride: Option<usize>,
}

impl BackboneConfig {
    /// # Errors
    /// As [`ModelConfig::validate`].
    pub(super) fn validate(&self, check: &Check<'_>) -> Result<()> {
        match self {
            Self::Resnet(config) => config.validate(check)?,
            Self::TimmBackbone(config) => config.validate(check)?,
        }
        if self.output_channels().is_empty() {
            return Err(check.error("backbone_config", "no map leaves the backbone"));
        }
        Ok(())
    }

    pub(super) fn num_channels(&self) -> usize {
        match self {
            Self::Resnet(config) => config.num_channels,
            Self::TimmBackbone(config) => config.num_channels(),
        }
    }

    /// The channels of the maps that it gives.
    pub(super) fn output_channels(&self) -> Vec<usize> {
        match self {
            Self::Resnet(config) => config.output_channels(),
            Self::TimmBackbone(config) => config.output_channels(),
        }
    }
}

impl TimmBackboneConfig {
    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let name = self.backbone.as_deref().unwrap_or_default();
        let supported = "resnet18, resnet26, resnet34, resnet50, resnet101, resnet152";
        check.supported("backbone", self.layout().is_some(), name, supported)?;
        check.size("num_channels", self.num_channels())?;
        let stride = self.output_stride();
        check.supported("output_stride", [8, 16, 32].contains(&stride), stride, "8, 16, 32")?;
        match self.out_indices.iter().flatten().find(|&&index| stage(index).is_none()) {
            Some(index) => Err(check.error("out_indices", format_args!("{index} is out of range, expected 0 to 4"))),
            None => Ok(()),
        }
    }

    fn num_channels(&self) -> usize {
        self.num_channels.unwrap_or(3)
    }

    fn output_stride(&self) -> usize {
        self.output_stride.unwrap_or(32)
    }

    /// Whether the blocks are bottlenecks, and how many of them each stage has.
    fn layout(&self) -> Option<(bool, [usize; 4])> {
        // What follows a dot says how the weights were trained.
        let name = self.backbone.as_deref().unwrap_or("resnet50").split('.').next();
        Some(match name? {
            "resnet18" => (false, [2, 2, 2, 2]),
            "resnet26" => (true, [2, 2, 2, 2]),
            "resnet34" => (false, [3, 4, 6, 3]),
            "resnet50" => (true, [3, 4, 6, 3]),
            "resnet101" => (true, [3, 4, 23, 3]),
            "resnet152" => (true, [3, 8, 36, 3]),
            _ => return None,
        })
    }

    /// The stages whose maps it gives, in their order; the stem is 0.
    fn outputs(&self) -> Vec<usize> {
        let mut outputs: Vec<usize> = match &self.out_indices {
            Some(indices) => indices.iter().filter_map(|&index| stage(index)).collect(),
            None => vec![WIDTHS.len()],
        };
        outputs.sort_unstable();
        outputs.dedup();
        outputs
    }

    fn output_channels(&self) -> Vec<usize> {
        let expansion = expansion(self.layout().is_some_and(|(bottleneck, _)| bottleneck));
        let channels = |stage: usize| if stage == 0 { STEM } else { expansion * WIDTHS[stage - 1] };
        self.outputs().into_iter().map(channels).collect()
    }
}

/// The stage of an index, from the end if negative.
fn stage(index: i64) -> Option<usize> {
    let all = WIDTHS.len() as i64 + 1;
    let index = if index < 0 { index.checked_add(all)? } else { index };
    (0..all).contains(&index).then_some(index as usize)
}

/// How much wider a block's output is than its middle.
fn expansion(bottleneck: bool) -> usize {
    if bottleneck { 4 } else { 1 }
}

/// The backbone, where files have it.
#[derive(Module, Debug)]
pub(super) struct Backbone {
    conv_encoder: ConvEncoder,
}

#[derive(Module, Debug)]
struct ConvEncoder {
    model: Network,
}

#[derive(Module, Debug)]
enum Network {
    ResNet(ResNetBackbone),
    Timm(TimmResNet),
}

impl Backbone {
    pub(super) fn new(config: &BackboneConfig, device: &Device) -> Self {
        let model = match config {
            BackboneConfig::Resnet(config) => Network::ResNet(ResNetBackbone::new(config, device)),
            BackboneConfig::TimmBackbone(config) => Network::Timm(TimmResNet::new(config, device)),
        };
        Self { conv_encoder: ConvEncoder { model } }
    }

    /// # Shapes
    /// - pixel_values: `[batch, channels, height, width]`
    /// - output: `[batch, channels', height', width']` each, from the largest to the smallest
    pub(super) fn forward(&self, pixel_values: Tensor<4>) -> Vec<Tensor<4>> {
        match &self.conv_encoder.model {
            Network::ResNet(network) => network.forward(pixel_values),
            Network::Timm(network) => network.forward(pixel_values),
        }
    }
}

/// timm's ResNet; stages behind the last map are left out.
#[derive(Module, Debug)]
struct TimmResNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    #[module(skip)]
    outputs: Vec<usize>,
}

impl TimmResNet {
    fn new(config: &TimmBackboneConfig, device: &Device) -> Self {
        // Names of other networks are rejected when the config is read.
        let (bottleneck, depths) = config.layout().unwrap_or_default();
        let outputs = config.outputs();
        let last = outputs.last().copied().unwrap_or_default();
        let (mut total, mut dilation, mut input) = (4, 1, STEM);
        let [layer1, layer2, layer3, layer4] = [0usize, 1, 2, 3].map(|stage| {
            let mut stride = if stage == 0 { 1 } else { 2 };
            // The first block still looks at a map that is as dense as it was before.
            let first_dilation = dilation;
            if total >= config.output_stride() {
                dilation *= stride;
                stride = 1;
            } else {
                total *= stride;
            }
            let depth = if stage < last { depths[stage] } else { 0 };
            let blocks = (0..depth).map(|number| {
                let shape = if number == 0 {
                    Shape { input, width: WIDTHS[stage], stride, dilations: [first_dilation, dilation] }
                } else {
                    Shape { input, width: WIDTHS[stage], stride: 1, dilations: [dilation; 2] }
                };
                input = WIDTHS[stage] * expansion(bottleneck);
                Block::new(shape, bottleneck, device)
            });
            blocks.collect::<Vec<_>>()
        });
        Self {
            conv1: Conv2d::new(config.num_channels(), STEM, [7, 7], device).with_stride(2).with_padding(3),
            bn1: BatchNorm2d::new(STEM, BATCH_NORM_EPS, device),
            layer1,
            layer2,
            layer3,
            layer4,
            outputs,
        }
    }

    fn forward(&self, pixel_values: Tensor<4>) -> Vec<Tensor<4>> {
        let stem = self.conv1.forward_normed(pixel_values, &self.bn1, None, Activation::Relu);
        let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
        let mut x = max_pool2d(stem.clone(), options);
        let mut maps = Vec::with_capacity(self.outputs.len());
        if self.outputs.contains(&0) {
            maps.push(stem);
        }
        for (stage, blocks) in (1..).zip([&self.layer1, &self.layer2, &self.layer3, &self.layer4]) {
            x = blocks.iter().fold(x, |x, block| block.forward(x));
            if self.outputs.contains(&stage) {
                maps.push(x.clone());
            }
        }
        maps
    }
}

/// The sizes of a block.
#[derive(Debug, Clone, Copy)]
struct Shape {
    input: usize,
    width: usize,
    stride: usize,
    /// Of its first convolution of 3 by 3, and of another one.
    dilations: [usize; 2],
}

/// Two convolutions of 3 by 3, or one between two of 1 by 1; and a shortcut.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
    downsample: Option<(Conv2d, BatchNorm2d)>,
}

impl Block {
    fn new(shape: Shape, bottleneck: bool, device: &Device) -> Self {
        let Shape { input, width, stride, dilations: [first, second] } = shape;
        let output = width * expansion(bottleneck);
        let narrow = |input, output| Conv2d::new(input, output, [1, 1], device);
        let wide = |input, stride, dilation| {
            let convolution = Conv2d::new(input, width, [3, 3], device).with_stride(stride);
            convolution.with_padding(dilation).with_dilation(dilation)
        };
        let norm = |channels| BatchNorm2d::new(channels, BATCH_NORM_EPS, device);
        let (conv1, conv2) = if bottleneck {
            (narrow(input, width), wide(width, stride, first))
        } else {
            (wide(input, stride, first), wide(width, 1, second))
        };
        let changes_shape = stride != 1 || input != output;
        Self {
            conv1,
            bn1: norm(width),
            conv2,
            bn2: norm(width),
            conv3: bottleneck.then(|| narrow(width, output)),
            bn3: bottleneck.then(|| norm(output)),
            downsample: changes_shape.then(|| (narrow(input, output).with_stride(stride), norm(output))),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some((convolution, norm)) => convolution.forward_normed(x.clone(), norm, None, Activation::Linear),
            None => x.clone(),
        };
        let x = self.conv1.forward_normed(x, &self.bn1, None, Activation::Relu);
        match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => {
                let x = self.conv2.forward_normed(x, &self.bn2, None, Activation::Relu);
                conv3.forward_normed(x, bn3, Some(shortcut), Activation::Relu)
            }
            _ => self.conv2.forward_normed(x, &self.bn2, Some(shortcut), Activation::Relu),
        }
    }
}
