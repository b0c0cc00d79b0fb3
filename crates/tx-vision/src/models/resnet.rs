//! ResNet: stages of residual blocks of convolutions, each with smaller maps and more channels than the one before.
//!
//! Paper: He et al., 2015 (arXiv:1512.03385).
//! Reference: transformers 5.23.0, `models/resnet/modeling_resnet.py`.

use burn::module::Module;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, BatchNorm2d, Conv2d, Linear, max_pool2d};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, Record, VisionModel, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use crate::maps::average_pool;

/// The reference fixes the epsilon of every norm; the config has no key for it.
const BATCH_NORM_EPS: f64 = 1e-5;

/// How much narrower the middle of a bottleneck is.
const REDUCTION: usize = 4;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ResNetConfig {
    pub num_channels: usize,
    pub embedding_size: usize,
    pub hidden_sizes: Vec<usize>,
    pub depths: Vec<usize>,
    pub layer_type: LayerType,
    pub hidden_act: Activation,
    pub downsample_in_first_stage: bool,
    pub downsample_in_bottleneck: bool,
    pub num_labels: usize,
    /// The stages whose maps a backbone gives, by name: `stem`, `stage1` …
    pub out_features: Option<Vec<String>>,
    /// The same by number, from the end if negative.
    pub out_indices: Option<Vec<i64>>,
}

/// What a stage is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerType {
    /// Two convolutions of 3 by 3.
    Basic,
    /// A convolution of 3 by 3 between two of 1 by 1.
    Bottleneck,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            num_channels: 3,
            embedding_size: 64,
            hidden_sizes: vec![256, 512, 1024, 2048],
            depths: vec![3, 4, 6, 3],
            layer_type: LayerType::Bottleneck,
            hidden_act: Activation::Relu,
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
            num_labels: 2,
            out_features: None,
            out_indices: None,
        }
    }
}

impl ModelConfig for ResNetConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("num_channels", self.num_channels),
            ("embedding_size", self.embedding_size),
            ("num_labels", self.num_labels),
        ])?;
        if self.depths.is_empty() || self.depths.len() != self.hidden_sizes.len() {
            let [depths, sizes] = [self.depths.len(), self.hidden_sizes.len()];
            return Err(check.error("depths", format_args!("{depths} stages, but {sizes} `hidden_sizes`")));
        }
        check.layers("depths", self.depths.iter().fold(self.depths.len(), |sum, &depth| sum.saturating_add(depth)))?;
        let least = if self.layer_type == LayerType::Bottleneck { REDUCTION } else { 1 };
        for &size in &self.hidden_sizes {
            check.range("hidden_sizes", size, least, 1 << 31)?;
        }
        let stages = self.hidden_sizes.len();
        if let Some(names) = &self.out_features {
            for name in names {
                if stage_number(name).is_none_or(|stage| stage > stages) {
                    let reason = format_args!("`{name}` is none of `stem`, `stage1` to `stage{stages}`");
                    return Err(check.error("out_features", reason));
                }
            }
        } else if let Some(index) = self.out_indices.iter().flatten().find(|&&i| stage_index(i, stages).is_none()) {
            return Err(check.error("out_indices", format_args!("{index} is out of range, expected 0 to {stages}")));
        }
        Ok(())
    }

    fn limits(&self) -> ImageLimits {
        // Padding keeps one pixel of the smallest map.
        ImageLimits::new(self.num_channels, [1, 1])
    }
}

impl ResNetConfig {
    /// The stages whose maps a backbone gives, in their order; the stem is 0.
    pub(super) fn outputs(&self) -> Vec<usize> {
        let stages = self.hidden_sizes.len();
        let mut outputs: Vec<usize> = match (&self.out_features, &self.out_indices) {
            (Some(names), _) => names.iter().filter_map(|name| stage_number(name)).collect(),
            (None, Some(indices)) => indices.iter().filter_map(|&index| stage_index(index, stages)).collect(),
            (None, None) => vec![stages],
        };
        outputs.sort_unstable();
        outputs.dedup();
        outputs
    }

    /// The channels of the maps that a backbone gives.
    pub(super) fn output_channels(&self) -> Vec<usize> {
        let channels = |stage: usize| if stage == 0 { self.embedding_size } else { self.hidden_sizes[stage - 1] };
        self.outputs().into_iter().map(channels).collect()
    }
}

/// The number of `stem`, `stage1` …
fn stage_number(name: &str) -> Option<usize> {
    if name == "stem" {
        return Some(0);
    }
    name.strip_prefix("stage")?.parse().ok().filter(|&stage| stage > 0)
}

/// An index into the stem and the stages, from the end if negative.
fn stage_index(index: i64, stages: usize) -> Option<usize> {
    let all = stages as i64 + 1;
    let index = if index < 0 { index.checked_add(all)? } else { index };
    (0..all).contains(&index).then_some(index as usize)
}

/// The stages, and the mean of their last map.
#[derive(Module, Debug)]
pub struct ResNetModel {
    embedder: Embeddings,
    encoder: Encoder,
}

impl ResNetModel {
    fn new(config: &ResNetConfig, device: &Device) -> Self {
        Self { embedder: Embeddings::new(config, device), encoder: Encoder::new(config, device) }
    }

    /// # Shapes
    /// - output: `[batch, channels, height, width]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4> {
        self.encoder.forward(self.embedder.forward(inputs.pixel_values.clone()), record)
    }
}

impl Pretrained for ResNetModel {
    type Config = ResNetConfig;
    const PREFIX: &'static str = "resnet";

    fn init(config: &ResNetConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl VisionModel for ResNetModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let [batch, channels, ..] = x.dims();
        let pooled: Tensor<4> = average_pool(x.clone()).reshape([batch, channels, 1, 1]);
        VisionModelOutput {
            last_hidden_state: x.into(),
            pooler_output: Some(pooled.into()),
            encoder_last_hidden_state: None,
        }
    }
}

/// ResNet with a classifier on the mean of the last map.
#[derive(Module, Debug)]
pub struct ResNetForImageClassification {
    resnet: ResNetModel,
    classifier: Linear,
}

impl Pretrained for ResNetForImageClassification {
    type Config = ResNetConfig;
    const PREFIX: &'static str = "resnet";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ResNetConfig, _: &Parts, device: &Device) -> Self {
        let hidden = config.hidden_sizes.last().copied().unwrap_or_default();
        let classifier = Linear::new(hidden, config.num_labels, true, device);
        Self { resnet: ResNetModel::new(config, device), classifier }
    }
}

impl ImageClassifier for ResNetForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        self.classifier.forward(average_pool(self.resnet.encode(inputs, record))).into()
    }
}

/// The maps of some stages, for models that build on them.
#[derive(Module, Debug)]
pub(super) struct ResNetBackbone {
    embedder: Embeddings,
    encoder: Encoder,
    #[module(skip)]
    outputs: Vec<usize>,
}

impl ResNetBackbone {
    pub(super) fn new(config: &ResNetConfig, device: &Device) -> Self {
        let ResNetModel { embedder, encoder } = ResNetModel::new(config, device);
        Self { embedder, encoder, outputs: config.outputs() }
    }

    /// # Shapes
    /// - pixel_values: `[batch, channels, height, width]`
    /// - output: `[batch, channels', height', width']` of each stage that is asked for
    pub(super) fn forward(&self, pixel_values: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.embedder.forward(pixel_values);
        let mut maps = Vec::with_capacity(self.outputs.len());
        let mut stages = self.encoder.stages.iter();
        let mut done = 0;
        for &output in &self.outputs {
            for stage in stages.by_ref().take(output - done) {
                x = stage.forward(x);
            }
            done = output;
            maps.push(x.clone());
        }
        maps
    }
}

/// A convolution and a pooling that make the map four times smaller.
#[derive(Module, Debug)]
struct Embeddings {
    embedder: ConvLayer,
}

impl Embeddings {
    fn new(config: &ResNetConfig, device: &Device) -> Self {
        let channels = [config.num_channels, config.embedding_size];
        Self { embedder: ConvLayer::new(channels, 7, 2, config.hidden_act, device) }
    }

    fn forward(&self, pixel_values: Tensor<4>) -> Tensor<4> {
        let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
        max_pool2d(self.embedder.forward(pixel_values, None), options)
    }
}

#[derive(Module, Debug)]
struct Encoder {
    stages: Vec<Stage>,
}

impl Encoder {
    fn new(config: &ResNetConfig, device: &Device) -> Self {
        let inputs = std::iter::once(config.embedding_size).chain(config.hidden_sizes.iter().copied());
        let sizes = inputs.zip(&config.hidden_sizes).zip(&config.depths).enumerate();
        let stage = |(number, ((input, &output), &depth)): (usize, ((usize, &usize), &usize))| {
            let stride = if number > 0 || config.downsample_in_first_stage { 2 } else { 1 };
            Stage::new(config, [input, output], stride, depth, device)
        };
        Self { stages: sizes.map(stage).collect() }
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

#[derive(Module, Debug)]
struct Stage {
    layers: Vec<Layer>,
}

impl Stage {
    fn new(config: &ResNetConfig, [input, output]: [usize; 2], stride: usize, depth: usize, device: &Device) -> Self {
        let first = Layer::new(config, [input, output], stride, device);
        let others = (1..depth).map(|_| Layer::new(config, [output, output], 1, device));
        Self { layers: std::iter::once(first).chain(others).collect() }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x))
    }
}

/// `act(layer(x) + shortcut(x))`; the shortcut changes nothing where it need not.
#[derive(Module, Debug)]
struct Layer {
    shortcut: Option<ConvLayer>,
    layer: Vec<ConvLayer>,
}

impl Layer {
    fn new(config: &ResNetConfig, [input, output]: [usize; 2], stride: usize, device: &Device) -> Self {
        // The activation between the convolutions is the same whatever the config says.
        let inner = Activation::Relu;
        let layer = match config.layer_type {
            LayerType::Basic => vec![
                ConvLayer::new([input, output], 3, stride, inner, device),
                ConvLayer::new([output, output], 3, 1, config.hidden_act, device),
            ],
            LayerType::Bottleneck => {
                let reduced = output / REDUCTION;
                let strides = if config.downsample_in_bottleneck { [stride, 1] } else { [1, stride] };
                vec![
                    ConvLayer::new([input, reduced], 1, strides[0], inner, device),
                    ConvLayer::new([reduced, reduced], 3, strides[1], inner, device),
                    ConvLayer::new([reduced, output], 1, 1, config.hidden_act, device),
                ]
            }
        };
        let shortcut = (input != output || stride != 1)
            .then(|| ConvLayer::new([input, output], 1, stride, Activation::Linear, device));
        Self { shortcut, layer }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x.clone(), None),
            None => x.clone(),
        };
        let last = self.layer.len() - 1;
        let x = self.layer[..last].iter().fold(x, |x, layer| layer.forward(x, None));
        self.layer[last].forward(x, Some(residual))
    }
}

/// `act(normalization(convolution(x)) + residual)`.
#[derive(Module, Debug)]
struct ConvLayer {
    convolution: Conv2d,
    normalization: BatchNorm2d,
    #[module(skip)]
    act: Activation,
}

impl ConvLayer {
    fn new([input, output]: [usize; 2], kernel: usize, stride: usize, act: Activation, device: &Device) -> Self {
        let convolution = Conv2d::new(input, output, [kernel, kernel], device);
        Self {
            convolution: convolution.with_stride(stride).with_padding(kernel / 2),
            normalization: BatchNorm2d::new(output, BATCH_NORM_EPS, device),
            act,
        }
    }

    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        self.convolution.forward_normed(x, &self.normalization, residual, self.act)
    }
}

/// The classifier stands behind a layer without weights in a list.
const RENAMES: &[Rename] = &[Rename { module: "classifier", file: &["classifier.1"] }];
