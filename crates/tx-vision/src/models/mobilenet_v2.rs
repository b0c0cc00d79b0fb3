//! MobileNetV2: residual blocks that are narrow at their ends and wide within, where convolutions see one channel each.
//!
//! Paper: Sandler et al., 2018 (arXiv:1801.04381). Segmentation: Chen et al., 2018 (arXiv:1802.02611), DeepLabV3+.
//! Reference: transformers 5.23.0, `models/mobilenet_v2/modeling_mobilenet_v2.py`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, BatchNorm2d, Conv2d, Linear};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, Record, SemanticSegmenter, VisionModel,
    VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained};

use crate::maps::average_pool;

/// Channels between the blocks, and behind the last, at a `depth_multiplier` of one.
const CHANNELS: [usize; 17] = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320];
/// Strides of the blocks, as long as the map may become smaller.
const STRIDES: [usize; 16] = [2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];
/// Channels of the first convolution, at a `depth_multiplier` of one.
const STEM_CHANNELS: usize = 32;
/// Channels of the last one.
const LAST_CHANNELS: usize = 1280;
/// Channels of the head for segmentation.
const HEAD_CHANNELS: usize = 256;
/// The epsilon of the norms of that head, which have no key.
const HEAD_EPS: f64 = 1e-5;
/// No network is wider by a larger factor.
const MAX_FACTOR: f64 = 1000.0;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct MobileNetV2Config {
    pub num_channels: usize,
    pub depth_multiplier: f64,
    pub depth_divisible_by: usize,
    pub min_depth: usize,
    pub expand_ratio: f64,
    /// How many times smaller than the picture the last map is at most; then convolutions reach further instead.
    pub output_stride: usize,
    pub first_layer_is_expansion: bool,
    pub finegrained_output: bool,
    pub hidden_act: Activation,
    /// Whether convolutions with a stride pad as TensorFlow's do.
    pub tf_padding: bool,
    pub layer_norm_eps: f64,
    pub num_labels: usize,
}

impl Default for MobileNetV2Config {
    fn default() -> Self {
        Self {
            num_channels: 3,
            depth_multiplier: 1.0,
            depth_divisible_by: 8,
            min_depth: 8,
            expand_ratio: 6.0,
            output_stride: 32,
            first_layer_is_expansion: true,
            finegrained_output: true,
            hidden_act: Activation::Relu6,
            tf_padding: true,
            layer_norm_eps: 0.001,
            num_labels: 2,
        }
    }
}

impl ModelConfig for MobileNetV2Config {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("num_channels", self.num_channels),
            ("depth_divisible_by", self.depth_divisible_by),
            ("min_depth", self.min_depth),
            ("output_stride", self.output_stride),
            ("num_labels", self.num_labels),
        ])?;
        for (key, factor) in [("depth_multiplier", self.depth_multiplier), ("expand_ratio", self.expand_ratio)] {
            if !(f64::MIN_POSITIVE..=MAX_FACTOR).contains(&factor) {
                let reason = format_args!("{factor} is out of range, expected more than 0 and at most {MAX_FACTOR}");
                return Err(check.error(key, reason));
            }
        }
        check.epsilon("layer_norm_eps", self.layer_norm_eps)
    }

    fn limits(&self) -> ImageLimits {
        // Padding keeps one pixel of the smallest map.
        ImageLimits::new(self.num_channels, [1, 1])
    }
}

impl MobileNetV2Config {
    /// `channels` times `factor`, as a multiple of `depth_divisible_by` that is smaller by a tenth at most.
    fn scaled(&self, channels: usize, factor: f64) -> usize {
        let channels = (channels as f64 * factor).round_ties_even();
        let divisor = self.depth_divisible_by;
        let nearest = (channels + divisor as f64 / 2.0) as usize / divisor * divisor;
        let scaled = nearest.max(self.min_depth);
        if (scaled as f64) < 0.9 * channels { scaled + divisor } else { scaled }
    }

    fn channels(&self, channels: usize) -> usize {
        self.scaled(channels, self.depth_multiplier)
    }

    fn last_channels(&self) -> usize {
        let keeps = self.finegrained_output && self.depth_multiplier < 1.0;
        if keeps { LAST_CHANNELS } else { self.channels(LAST_CHANNELS) }
    }

    /// Stride and dilation of each block.
    fn strides(&self) -> [[usize; 2]; 16] {
        // The first convolution has a stride of two.
        let (mut total, mut dilation) = (2, 1);
        STRIDES.map(|stride| {
            if total == self.output_stride {
                // The block itself reaches as far as those before it made necessary.
                let now = dilation;
                dilation *= stride;
                [1, now]
            } else {
                total *= stride;
                [stride, 1]
            }
        })
    }
}

/// The blocks, and the mean of the last map.
#[derive(Module, Debug)]
pub struct MobileNetV2Model {
    conv_stem: Stem,
    layer: Vec<InvertedResidual>,
    conv_1x1: ConvLayer,
}

impl MobileNetV2Model {
    fn new(config: &MobileNetV2Config, device: &Device) -> Self {
        let channels = CHANNELS.map(|channels| config.channels(channels));
        let block = |(strides, channels): ([usize; 2], &[usize])| {
            InvertedResidual::new(config, [channels[0], channels[1]], strides, device)
        };
        let last = [channels[CHANNELS.len() - 1], config.last_channels()];
        Self {
            conv_stem: Stem::new(config, channels[0], device),
            layer: config.strides().into_iter().zip(channels.windows(2)).map(block).collect(),
            conv_1x1: ConvLayer::pointwise(last, config.layer_norm_eps, config.hidden_act, device),
        }
    }

    /// The map behind the last block.
    ///
    /// # Shapes
    /// - output: `[batch, channels, height, width]`
    fn blocks(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4> {
        let mut x = self.conv_stem.forward(inputs.pixel_values.clone());
        for layer in &self.layer {
            x = layer.forward(x);
            record.hidden_state(&x);
        }
        x
    }

    /// # Shapes
    /// - output: `[batch, channels, height, width]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4> {
        self.conv_1x1.forward(self.blocks(inputs, record), None)
    }
}

impl Pretrained for MobileNetV2Model {
    type Config = MobileNetV2Config;
    const PREFIX: &'static str = "mobilenet_v2";

    fn init(config: &MobileNetV2Config, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl VisionModel for MobileNetV2Model {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooled = average_pool(x.clone());
        VisionModelOutput {
            last_hidden_state: x.into(),
            pooler_output: Some(pooled.into()),
            encoder_last_hidden_state: None,
        }
    }
}

/// MobileNetV2 with a classifier on the mean of the last map.
#[derive(Module, Debug)]
pub struct MobileNetV2ForImageClassification {
    mobilenet_v2: MobileNetV2Model,
    classifier: Linear,
}

impl Pretrained for MobileNetV2ForImageClassification {
    type Config = MobileNetV2Config;
    const PREFIX: &'static str = "mobilenet_v2";

    fn init(config: &MobileNetV2Config, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.last_channels(), config.num_labels, true, device);
        Self { mobilenet_v2: MobileNetV2Model::new(config, device), classifier }
    }
}

impl ImageClassifier for MobileNetV2ForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        self.classifier.forward(average_pool(self.mobilenet_v2.encode(inputs, record))).into()
    }
}

/// MobileNetV2 with scores for every place of the last block's map: DeepLabV3+.
#[derive(Module, Debug)]
pub struct MobileNetV2ForSemanticSegmentation {
    mobilenet_v2: MobileNetV2Model,
    segmentation_head: DeepLabV3Plus,
}

impl Pretrained for MobileNetV2ForSemanticSegmentation {
    type Config = MobileNetV2Config;
    const PREFIX: &'static str = "mobilenet_v2";

    fn init(config: &MobileNetV2Config, _: &Parts, device: &Device) -> Self {
        Self {
            mobilenet_v2: MobileNetV2Model::new(config, device),
            segmentation_head: DeepLabV3Plus::new(config, device),
        }
    }
}

impl SemanticSegmenter for MobileNetV2ForSemanticSegmentation {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4> {
        self.segmentation_head.forward(self.mobilenet_v2.blocks(inputs, record))
    }
}

/// The whole picture's mean beside every place, and a classifier on both.
#[derive(Module, Debug)]
struct DeepLabV3Plus {
    conv_pool: ConvLayer,
    conv_aspp: ConvLayer,
    conv_projection: ConvLayer,
    classifier: Classifier,
}

#[derive(Module, Debug)]
struct Classifier {
    convolution: Conv2d,
}

impl DeepLabV3Plus {
    fn new(config: &MobileNetV2Config, device: &Device) -> Self {
        let input = config.channels(CHANNELS[CHANNELS.len() - 1]);
        let layer = |input| ConvLayer::pointwise([input, HEAD_CHANNELS], HEAD_EPS, Activation::Relu, device);
        let convolution = Conv2d::new(HEAD_CHANNELS, config.num_labels, [1, 1], device).with_bias(true);
        Self {
            conv_pool: layer(input),
            conv_aspp: layer(input),
            conv_projection: layer(2 * HEAD_CHANNELS),
            classifier: Classifier { convolution },
        }
    }

    /// # Shapes
    /// - x: `[batch, channels, height, width]`
    /// - output: `[batch, labels, height, width]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let pooled = self.conv_pool.forward(average_pool(x.clone()).reshape([batch, channels, 1, 1]), None);
        let pooled = pooled.expand([batch, HEAD_CHANNELS, height, width]);
        let x = Tensor::cat(vec![pooled, self.conv_aspp.forward(x, None)], 1);
        self.classifier.convolution.forward(self.conv_projection.forward(x, None))
    }
}

/// The first layers: a convolution of all channels, and a block without a shortcut.
#[derive(Module, Debug)]
struct Stem {
    first_conv: ConvLayer,
    expand_1x1: Option<ConvLayer>,
    conv_3x3: ConvLayer,
    reduce_1x1: ConvLayer,
}

impl Stem {
    fn new(config: &MobileNetV2Config, output: usize, device: &Device) -> Self {
        let (eps, act) = (config.layer_norm_eps, config.hidden_act);
        let wide = config.channels(STEM_CHANNELS);
        let expand = || ConvLayer::pointwise([wide, wide], eps, act, device);
        Self {
            first_conv: ConvLayer::new(config, [config.num_channels, wide], [2, 1], device),
            expand_1x1: (!config.first_layer_is_expansion).then(expand),
            conv_3x3: ConvLayer::depthwise(config, wide, [1, 1], device),
            reduce_1x1: ConvLayer::pointwise([wide, output], eps, Activation::Linear, device),
        }
    }

    fn forward(&self, pixel_values: Tensor<4>) -> Tensor<4> {
        let x = self.first_conv.forward(pixel_values, None);
        let x = match &self.expand_1x1 {
            Some(expand) => expand.forward(x, None),
            None => x,
        };
        self.reduce_1x1.forward(self.conv_3x3.forward(x, None), None)
    }
}

/// Wider, each channel by itself, and narrower again; with a shortcut where the shape stays.
#[derive(Module, Debug)]
struct InvertedResidual {
    expand_1x1: ConvLayer,
    conv_3x3: ConvLayer,
    reduce_1x1: ConvLayer,
    #[module(skip)]
    has_shortcut: bool,
}

impl InvertedResidual {
    fn new(config: &MobileNetV2Config, [input, output]: [usize; 2], strides: [usize; 2], device: &Device) -> Self {
        let (eps, act) = (config.layer_norm_eps, config.hidden_act);
        let wide = config.scaled(input, config.expand_ratio);
        Self {
            expand_1x1: ConvLayer::pointwise([input, wide], eps, act, device),
            conv_3x3: ConvLayer::depthwise(config, wide, strides, device),
            reduce_1x1: ConvLayer::pointwise([wide, output], eps, Activation::Linear, device),
            has_shortcut: strides[0] == 1 && input == output,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let residual = self.has_shortcut.then(|| x.clone());
        let x = self.conv_3x3.forward(self.expand_1x1.forward(x, None), None);
        self.reduce_1x1.forward(x, residual)
    }
}

/// `act(normalization(convolution(x)) + residual)`.
#[derive(Module, Debug)]
struct ConvLayer {
    convolution: Conv2d,
    normalization: BatchNorm2d,
    #[module(skip)]
    act: Activation,
    /// Whether the padding depends on the map.
    #[module(skip)]
    pads_as_tensorflow: bool,
}

impl ConvLayer {
    /// A kernel of 1 by 1.
    fn pointwise([input, output]: [usize; 2], eps: f64, act: Activation, device: &Device) -> Self {
        Self {
            convolution: Conv2d::new(input, output, [1, 1], device),
            normalization: BatchNorm2d::new(output, eps, device),
            act,
            pads_as_tensorflow: false,
        }
    }

    /// A kernel of 3 by 3, with a stride and a dilation.
    fn new(config: &MobileNetV2Config, channels: [usize; 2], strides: [usize; 2], device: &Device) -> Self {
        let ([input, output], [stride, dilation]) = (channels, strides);
        let convolution = Conv2d::new(input, output, [3, 3], device).with_stride(stride);
        Self {
            convolution: convolution.with_padding(dilation).with_dilation(dilation),
            normalization: BatchNorm2d::new(output, config.layer_norm_eps, device),
            act: config.hidden_act,
            // With a stride of one, TensorFlow pads all sides alike, too.
            pads_as_tensorflow: config.tf_padding && stride > 1,
        }
    }

    /// A kernel of 3 by 3 for each channel by itself.
    fn depthwise(config: &MobileNetV2Config, channels: usize, strides: [usize; 2], device: &Device) -> Self {
        let layer = Self::new(config, [channels, channels], strides, device);
        Self { convolution: layer.convolution.with_groups(channels), ..layer }
    }

    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        if !self.pads_as_tensorflow {
            return self.convolution.forward_normed(x, &self.normalization, residual, self.act);
        }
        // An even side gets one row or column of zeros at its end, an odd one another at its beginning.
        let [_, _, height, width] = x.dims();
        let padding = [height, width].map(|side| [side % 2, 1]);
        let convolution = self.convolution.clone().with_paddings(padding);
        convolution.forward_normed(x, &self.normalization, residual, self.act)
    }
}
