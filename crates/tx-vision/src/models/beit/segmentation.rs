//! BEiT with a decoder that labels every pixel, from the states of four layers.
//!
//! Paper: Xiao et al., 2018 (arXiv:1807.10221).

use burn::module::{Module, Param};
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{
    Activation, BatchNorm2d, Conv2d, Interpolation, constant, interpolate, linear_transposed, max_pool2d, normal,
};
use tx_core::task::{ImageInputs, ImageLimits, Record, SemanticSegmenter};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::{BeitConfig, BeitModel, RENAMES, patches};
use crate::maps::{to_map, to_sequence};

/// PyTorch's, which the reference does not change.
const BATCH_NORM_EPS: f64 = 1e-5;
/// The largest side of a pooled map, and the most of them.
const MAX_POOLING: usize = 64;

/// BEiT's config, whose keys for a decoder are checked too.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct BeitSegmentationConfig(BeitConfig);

impl ModelConfig for BeitSegmentationConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let config = &self.0;
        config.validate(check)?;
        check.range("pool_scales", config.pool_scales.len(), 0, MAX_POOLING)?;
        config.pool_scales.iter().try_for_each(|&scale| check.range("pool_scales", scale, 1, MAX_POOLING))?;
        check.size("auxiliary_channels", config.auxiliary_channels)?;
        check.layers("auxiliary_num_convs", config.auxiliary_num_convs)?;
        if self.states().is_some() {
            return Ok(());
        }
        let found = config.out_indices.as_deref().unwrap_or_default();
        let layers = config.num_hidden_layers;
        Err(check.error("out_indices", format_args!("{found:?}, expected four rising layers from 1 to {layers}")))
    }

    fn limits(&self) -> ImageLimits {
        // The decoder halves the map of the patches.
        ImageLimits { patch_size: self.0.patch_size.map(|side| 2 * side), ..self.0.limits() }
    }
}

impl BeitSegmentationConfig {
    /// The numbers of the four states that the decoder sees: stage 1 is what the first layer gets.
    fn states(&self) -> Option<[usize; 4]> {
        let config = &self.0;
        let layers = config.num_hidden_layers;
        let stages: Option<Vec<usize>> = match (&config.out_indices, &config.segmentation_indices) {
            (Some(indices), _) | (None, Some(indices)) => {
                let from_end = layers as i64 + 1;
                indices.iter().map(|&i| usize::try_from(if i < 0 { i + from_end } else { i }).ok()).collect()
            }
            (None, None) => {
                config.out_features.as_ref()?.iter().map(|name| name.strip_prefix("stage")?.parse().ok()).collect()
            }
        };
        let stages: [usize; 4] = stages?.try_into().ok()?;
        let fit = stages.is_sorted_by(|a, b| a < b) && stages[0] >= 1 && stages[3] <= layers;
        fit.then(|| stages.map(|stage| stage - 1))
    }
}

/// BEiT with UPerNet's decoder.
#[derive(Module, Debug)]
pub struct BeitForSemanticSegmentation {
    beit: BeitModel,
    fpn1: Quadruple,
    fpn2: ConvTranspose,
    decode_head: DecodeHead,
    /// The loss reads it in training; here it is kept, so that it is saved again.
    auxiliary_head: Option<AuxiliaryHead>,
    #[module(skip)]
    states: [usize; 4],
}

impl Pretrained for BeitForSemanticSegmentation {
    type Config = BeitSegmentationConfig;
    const PREFIX: &'static str = "beit";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["auxiliary_head"];
    const IGNORED: &'static [&'static str] = &["auxiliary_head", "pooler", "embeddings.mask_token"];

    fn init(config: &BeitSegmentationConfig, parts: &Parts, device: &Device) -> Self {
        // Checked by `validate`.
        let states = config.states().unwrap_or_default();
        let config = &config.0;
        let auxiliary = config.use_auxiliary_head && parts.has("auxiliary_head");
        Self {
            beit: BeitModel::new(config, false, device),
            fpn1: Quadruple::new(config.hidden_size, device),
            fpn2: ConvTranspose::new(config.hidden_size, device),
            decode_head: DecodeHead::new(config, device),
            auxiliary_head: auxiliary.then(|| AuxiliaryHead::new(config, device)),
            states,
        }
    }
}

impl SemanticSegmenter for BeitForSemanticSegmentation {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4> {
        let grid = self.beit.embeddings.patch_embeddings.grid(inputs);
        let mut states = Vec::with_capacity(self.states.len());
        self.beit.encode(inputs, record, |i, x| {
            if self.states.contains(&i) {
                states.push(patches(x));
            }
        });
        self.decode_head.forward(&[
            self.fpn1.forward(states[0].clone(), grid),
            self.fpn2.forward(states[1].clone(), grid),
            to_map(states[2].clone(), grid),
            max_pool2d(to_map(states[3].clone(), grid), MaxPoolOptions::new([2, 2])),
        ])
    }
}

/// Twice as many rows and columns, twice.
#[derive(Module, Debug)]
struct Quadruple {
    conv_transpose1: ConvTranspose,
    normalization: BatchNorm2d,
    conv_transpose2: ConvTranspose,
}

impl Quadruple {
    fn new(hidden: usize, device: &Device) -> Self {
        Self {
            conv_transpose1: ConvTranspose::new(hidden, device),
            normalization: BatchNorm2d::new(hidden, BATCH_NORM_EPS, device),
            conv_transpose2: ConvTranspose::new(hidden, device),
        }
    }

    fn forward(&self, x: Tensor<3>, grid: [usize; 2]) -> Tensor<4> {
        let x = self.normalization.forward(self.conv_transpose1.forward(x, grid));
        let [_, _, rows, columns] = x.dims();
        self.conv_transpose2.forward(to_sequence(Activation::Gelu.forward(x)), [rows, columns])
    }
}

/// A transposed convolution that makes four pixels of each: twice as many rows and columns.
#[derive(Module, Debug)]
struct ConvTranspose {
    /// `[in, out, 2, 2]`
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

impl ConvTranspose {
    fn new(hidden: usize, device: &Device) -> Self {
        Self { weight: normal([hidden, hidden, 2, 2], 0.02, device), bias: constant([hidden], 0.0, device) }
    }

    /// # Shapes
    /// - x: `[batch, rows · columns, in]`
    /// - output: `[batch, out, 2 · rows, 2 · columns]`
    fn forward(&self, x: Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<4> {
        // The pixels of different patches do not overlap, so it is a product.
        let weight = self.weight.val();
        let ([input, output, _, _], batch) = (weight.dims(), x.dims()[0]);
        let x = linear_transposed(x, weight.reshape([input, output * 4]), None, None);
        let x = x.reshape([batch, rows, columns, output, 2, 2]).permute([0, 3, 1, 4, 2, 5]);
        x.reshape([batch, output, 2 * rows, 2 * columns]) + self.bias.val().reshape([1, output, 1, 1])
    }
}

/// UPerNet: the last map pooled to several sizes, and added to the others from the smallest to the largest.
#[derive(Module, Debug)]
struct DecodeHead {
    classifier: Conv2d,
    psp_modules: Vec<PooledMap>,
    bottleneck: ConvModule,
    lateral_convs: Vec<ConvModule>,
    fpn_convs: Vec<ConvModule>,
    fpn_bottleneck: ConvModule,
}

impl DecodeHead {
    fn new(config: &BeitConfig, device: &Device) -> Self {
        let (hidden, pooled) = (config.hidden_size, config.pool_scales.len());
        let three = |kernel: usize| (0..3).map(|_| ConvModule::new(hidden, hidden, kernel, device)).collect::<Vec<_>>();
        Self {
            classifier: Conv2d::new(hidden, config.num_labels, [1, 1], device).with_bias(true),
            psp_modules: config.pool_scales.iter().map(|&scale| PooledMap::new(scale, hidden, device)).collect(),
            bottleneck: ConvModule::new((1 + pooled) * hidden, hidden, 3, device),
            lateral_convs: three(1),
            fpn_convs: three(3),
            fpn_bottleneck: ConvModule::new(4 * hidden, hidden, 3, device),
        }
    }

    /// # Shapes
    /// - maps: `[batch, hidden, height, width]` of falling sizes
    /// - output: `[batch, labels, height, width]` of the largest size
    fn forward(&self, maps: &[Tensor<4>; 4]) -> Tensor<4> {
        let pooled = self.psp_modules.iter().map(|module| module.forward(&maps[3]));
        let last = Tensor::cat(std::iter::once(maps[3].clone()).chain(pooled).collect(), 1);
        let laterals = self.lateral_convs.iter().zip(maps).map(|(conv, map)| conv.forward(map.clone()));
        let mut laterals: Vec<_> = laterals.chain(std::iter::once(self.bottleneck.forward(last))).collect();
        for i in (1..laterals.len()).rev() {
            laterals[i - 1] = resize(laterals[i].clone(), &laterals[i - 1]) + laterals[i - 1].clone();
        }
        let last = laterals.pop();
        let outputs = self.fpn_convs.iter().zip(laterals).map(|(conv, map)| conv.forward(map));
        let outputs: Vec<_> = outputs.chain(last).collect();
        let outputs = outputs.iter().map(|map| resize(map.clone(), &outputs[0])).collect();
        self.classifier.forward(self.fpn_bottleneck.forward(Tensor::cat(outputs, 1)))
    }
}

/// A map of the size of another one.
fn resize(map: Tensor<4>, like: &Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = like.dims();
    interpolate(map, [height, width], Interpolation::Bilinear, false)
}

/// The means of parts of a map, spread over it.
#[derive(Module, Debug)]
struct PooledMap {
    pooled: ConvModule,
    #[module(skip)]
    scale: usize,
}

impl PooledMap {
    fn new(scale: usize, hidden: usize, device: &Device) -> Self {
        Self { pooled: ConvModule::new(hidden, hidden, 1, device), scale }
    }

    fn forward(&self, map: &Tensor<4>) -> Tensor<4> {
        let means = adaptive_avg_pool2d(map.clone(), [self.scale, self.scale]);
        resize(self.pooled.forward(means), map)
    }
}

/// `relu(bn(conv(x)))`, of the same size.
#[derive(Module, Debug)]
struct ConvModule {
    conv: Conv2d,
    bn: BatchNorm2d,
}

impl ConvModule {
    fn new(input: usize, output: usize, kernel: usize, device: &Device) -> Self {
        Self {
            conv: Conv2d::new(input, output, [kernel, kernel], device).with_padding(kernel / 2),
            bn: BatchNorm2d::new(output, BATCH_NORM_EPS, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward_normed(x, &self.bn, None, Activation::Relu)
    }
}

/// A second classifier of pixels.
#[derive(Module, Debug)]
struct AuxiliaryHead {
    convs: Vec<ConvModule>,
    conv_cat: Option<ConvModule>,
    classifier: Conv2d,
}

impl AuxiliaryHead {
    fn new(config: &BeitConfig, device: &Device) -> Self {
        let (hidden, channels) = (config.hidden_size, config.auxiliary_channels);
        let conv = |input: usize| ConvModule::new(input, channels, 3, device);
        Self {
            convs: (0..config.auxiliary_num_convs).map(|i| conv(if i == 0 { hidden } else { channels })).collect(),
            conv_cat: config.auxiliary_concat_input.then(|| conv(hidden + channels)),
            classifier: Conv2d::new(channels, config.num_labels, [1, 1], device).with_bias(true),
        }
    }
}
