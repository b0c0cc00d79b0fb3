//! YOLOS: a ViT with a token for every object that it may find.
//!
//! Paper: Fang et al., 2021 (arXiv:2106.00666).
//! Reference: transformers 5.23.0, `models/yolos/modeling_yolos.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, LayerNorm, Linear, constant};
use tx_core::task::{
    DetectionOutput, ImageInputs, ImageLimits, ObjectDetector, Record, VisionModel, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::vit::{Layer, PatchEmbeddings, Pooler, ViTConfig, for_batch, grid, resize_positions, sides};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct YolosConfig {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    /// Height and width that the tables of positions are made for.
    #[serde(deserialize_with = "sides")]
    pub image_size: [usize; 2],
    #[serde(deserialize_with = "sides")]
    pub patch_size: [usize; 2],
    pub num_channels: usize,
    pub qkv_bias: bool,
    pub num_detection_tokens: usize,
    pub use_mid_position_embeddings: bool,
    pub num_labels: usize,
}

impl Default for YolosConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: [512, 864],
            patch_size: [16, 16],
            num_channels: 3,
            qkv_bias: true,
            num_detection_tokens: 100,
            use_mid_position_embeddings: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for YolosConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.vit().validate(check)?;
        check.size("num_detection_tokens", self.num_detection_tokens)?;
        // One table of positions less than layers.
        check.size("num_hidden_layers", self.num_hidden_layers)
    }

    fn limits(&self) -> ImageLimits {
        self.vit().limits()
    }
}

impl YolosConfig {
    /// The layers are ViT's.
    fn vit(&self) -> ViTConfig {
        ViTConfig {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            image_size: self.image_size,
            patch_size: self.patch_size,
            num_channels: self.num_channels,
            qkv_bias: self.qkv_bias,
            num_labels: self.num_labels,
            ..ViTConfig::default()
        }
    }

    fn tokens(&self) -> Tokens {
        Tokens { grid: grid(self.image_size, self.patch_size), detection: self.num_detection_tokens }
    }
}

/// What stands behind the token for the whole picture: patches, then the tokens for objects.
#[derive(Debug, Clone, Copy)]
struct Tokens {
    /// Of the tables of positions.
    grid: [usize; 2],
    detection: usize,
}

impl Tokens {
    /// The number of all of them.
    fn count(&self) -> usize {
        1 + self.grid[0] * self.grid[1] + self.detection
    }

    /// Tables of positions for a picture of other rows and columns.
    ///
    /// # Shapes
    /// - tables: `[tables, tokens, hidden]`
    fn resize(&self, tables: Tensor<3>, to: [usize; 2]) -> Tensor<3> {
        resize_positions(tables, [1, self.detection], self.grid, to)
    }
}

/// The encoder, with a pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct YolosModel {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
    pooler: Option<Pooler>,
}

impl YolosModel {
    fn new(config: &YolosConfig, pooler: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            pooler: pooler.then(|| Pooler::new(&config.vit(), device)),
        }
    }

    /// # Shapes
    /// - output: `[batch, 1 + patches + detection tokens, hidden]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<3> {
        let grid = self.embeddings.patch_embeddings.grid(inputs);
        self.layernorm.forward(self.encoder.forward(self.embeddings.forward(inputs, grid), grid, record))
    }
}

impl Pretrained for YolosModel {
    type Config = YolosConfig;
    const PREFIX: &'static str = "vit";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler"];

    fn init(config: &YolosConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("pooler"), device)
    }
}

impl VisionModel for YolosModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(&x).into());
        VisionModelOutput { last_hidden_state: x.into(), pooler_output, encoder_last_hidden_state: None }
    }
}

/// YOLOS with a class and a box for every detection token.
#[derive(Module, Debug)]
pub struct YolosForObjectDetection {
    vit: YolosModel,
    class_labels_classifier: Mlp,
    bbox_predictor: Mlp,
    #[module(skip)]
    detection_tokens: usize,
}

impl Pretrained for YolosForObjectDetection {
    type Config = YolosConfig;
    const PREFIX: &'static str = "vit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &YolosConfig, _: &Parts, device: &Device) -> Self {
        let hidden = config.hidden_size;
        Self {
            vit: YolosModel::new(config, false, device),
            class_labels_classifier: Mlp::new(hidden, config.num_labels + 1, device),
            bbox_predictor: Mlp::new(hidden, 4, device),
            detection_tokens: config.num_detection_tokens,
        }
    }
}

impl ObjectDetector for YolosForObjectDetection {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> DetectionOutput {
        let last_hidden_state = self.vit.encode(inputs, record);
        let first = last_hidden_state.dims()[1] - self.detection_tokens;
        let x = last_hidden_state.clone().narrow(1, first, self.detection_tokens);
        DetectionOutput {
            logits: self.class_labels_classifier.forward(x.clone()),
            pred_boxes: Activation::Sigmoid.forward(self.bbox_predictor.forward(x)),
            last_hidden_state,
            encoder_last_hidden_state: None,
        }
    }
}

/// A token for the whole picture, patches, tokens for objects, and the positions of all.
#[derive(Module, Debug)]
struct Embeddings {
    cls_token: Param<Tensor<3>>,
    detection_tokens: Param<Tensor<3>>,
    patch_embeddings: PatchEmbeddings,
    position_embeddings: Param<Tensor<3>>,
    #[module(skip)]
    tokens: Tokens,
}

impl Embeddings {
    fn new(config: &YolosConfig, device: &Device) -> Self {
        let (hidden, tokens) = (config.hidden_size, config.tokens());
        let vectors = |n: usize| constant([1, n, hidden], 0.0, device);
        Self {
            cls_token: vectors(1),
            detection_tokens: vectors(tokens.detection),
            patch_embeddings: PatchEmbeddings::new(config.num_channels, hidden, config.patch_size, device),
            position_embeddings: vectors(tokens.count()),
            tokens,
        }
    }

    fn forward(&self, inputs: &ImageInputs, grid: [usize; 2]) -> Tensor<3> {
        let x = self.patch_embeddings.forward(inputs);
        let batch = x.dims()[0];
        let x = vec![for_batch(&self.cls_token, batch), x, for_batch(&self.detection_tokens, batch)];
        Tensor::cat(x, 1) + self.tokens.resize(self.position_embeddings.val(), grid)
    }
}

/// A stack of pre-norm layers, between which positions are added again.
#[derive(Module, Debug)]
struct Encoder {
    layer: Vec<Layer>,
    /// `[layers - 1, 1, tokens, hidden]`
    mid_position_embeddings: Option<Param<Tensor<4>>>,
    #[module(skip)]
    tokens: Tokens,
}

impl Encoder {
    fn new(config: &YolosConfig, device: &Device) -> Self {
        let (vit, tokens) = (config.vit(), config.tokens());
        let shape = [config.num_hidden_layers - 1, 1, tokens.count(), config.hidden_size];
        Self {
            layer: (0..config.num_hidden_layers).map(|_| Layer::new(&vit, device)).collect(),
            mid_position_embeddings: config.use_mid_position_embeddings.then(|| constant(shape, 0.0, device)),
            tokens,
        }
    }

    fn forward(&self, mut x: Tensor<3>, grid: [usize; 2], record: &mut Record) -> Tensor<3> {
        let last = self.layer.len() - 1;
        let positions = self.mid_position_embeddings.as_ref().filter(|_| last > 0);
        let positions = positions.map(|tables| self.tokens.resize(tables.val().squeeze_dim(1), grid));
        record.hidden_state(&x);
        for (i, layer) in self.layer.iter().enumerate() {
            x = layer.forward(x, record);
            // Without the positions, as the reference has it.
            record.hidden_state(&x);
            if let Some(positions) = positions.as_ref().filter(|_| i < last) {
                x = x + positions.clone().narrow(0, i, 1);
            }
        }
        x
    }
}

/// Three layers, with ReLU between them.
#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn new(hidden: usize, output: usize, device: &Device) -> Self {
        let layers = [hidden, hidden, output].map(|output| Linear::new(hidden, output, true, device));
        Self { layers: layers.into() }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let last = self.layers.len() - 1;
        let hidden = self.layers[..last].iter().fold(x, |x, layer| layer.forward_activated(x, Activation::Relu));
        self.layers[last].forward(hidden)
    }
}

/// The name of newer sources.
const RENAMES: &[Rename] = &[Rename {
    module: "encoder.mid_position_embeddings",
    file: &["encoder.mid_position_embeddings", "encoder.interpolation.mid_position_embeddings"],
}];
