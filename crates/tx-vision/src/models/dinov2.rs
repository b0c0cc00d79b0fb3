//! DINOv2: a ViT that is trained without labels, with layer scale.
//!
//! Paper: Oquab et al., 2023 (arXiv:2304.07193). Gated MLP: Shazeer, 2020 (arXiv:2002.05202).
//! Reference: transformers 5.23.0, `models/dinov2/modeling_dinov2.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, LayerNorm, Linear, constant};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, Record, VisionModel, VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::vit::{Attention, PatchEmbeddings, check_patches, for_batch, grid, hide_behind, sides, token};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Dinov2Config {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// The width of the MLP in widths of the model.
    pub mlp_ratio: f64,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    #[serde(deserialize_with = "sides")]
    pub image_size: [usize; 2],
    #[serde(deserialize_with = "sides")]
    pub patch_size: [usize; 2],
    pub num_channels: usize,
    pub qkv_bias: bool,
    pub layerscale_value: f64,
    pub use_swiglu_ffn: bool,
    pub use_mask_token: bool,
    pub num_labels: usize,
    /// Of `dinov2_with_registers` alone.
    pub num_register_tokens: usize,
}

impl Default for Dinov2Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-6,
            image_size: [224, 224],
            patch_size: [14, 14],
            num_channels: 3,
            qkv_bias: true,
            layerscale_value: 1.0,
            use_swiglu_ffn: false,
            use_mask_token: true,
            num_labels: 2,
            num_register_tokens: 4,
        }
    }
}

impl ModelConfig for Dinov2Config {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("mlp_ratio", self.intermediate_size()),
            ("num_channels", self.num_channels),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check_patches(check, self.image_size, self.patch_size)
    }

    fn limits(&self) -> ImageLimits {
        ImageLimits::new(self.num_channels, self.patch_size).with_patches(ImageLimits::MAX_PATCHES)
    }
}

impl Dinov2Config {
    fn intermediate_size(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }

    pub(super) fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.hidden_size, self.layer_norm_eps, device)
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Dinov2Model {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
}

impl Dinov2Model {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            layernorm: config.norm(device),
        }
    }

    /// # Shapes
    /// - output: `[batch, 1 + patches, hidden]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<3> {
        self.layernorm.forward(self.encoder.forward(self.embeddings.forward(inputs), record))
    }
}

impl Pretrained for Dinov2Model {
    type Config = Dinov2Config;
    const PREFIX: &'static str = "dinov2";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["embeddings.mask_token"];

    fn init(config: &Dinov2Config, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl VisionModel for Dinov2Model {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = Some(token(&x, 0).into());
        VisionModelOutput { last_hidden_state: x.into(), pooler_output, encoder_last_hidden_state: None }
    }
}

/// DINOv2 with a classifier on the first token and the mean of the patches.
#[derive(Module, Debug)]
pub struct Dinov2ForImageClassification {
    dinov2: Dinov2Model,
    classifier: Linear,
}

impl Pretrained for Dinov2ForImageClassification {
    type Config = Dinov2Config;
    const PREFIX: &'static str = "dinov2";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["embeddings.mask_token"];

    fn init(config: &Dinov2Config, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(2 * config.hidden_size, config.num_labels, true, device);
        Self { dinov2: Dinov2Model::new(config, device), classifier }
    }
}

impl ImageClassifier for Dinov2ForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        self.classifier.forward(summary(self.dinov2.encode(inputs, record), 1)).into()
    }
}

/// The first token beside the mean of the patches, before which `special` tokens stand.
///
/// # Shapes
/// - x: `[batch, special + patches, hidden]`
/// - output: `[batch, 2 · hidden]`
pub(super) fn summary(x: Tensor<3>, special: usize) -> Tensor<2> {
    let patches = x.dims()[1] - special;
    let cls = token(&x, 0);
    let mean = x.narrow(1, special, patches).mean_dim(1).squeeze_dim(1);
    Tensor::cat(vec![cls, mean], 1)
}

/// Patches behind a token for the whole picture, and their positions.
#[derive(Module, Debug)]
struct Embeddings {
    cls_token: Param<Tensor<3>>,
    mask_token: Option<Param<Tensor<2>>>,
    patch_embeddings: PatchEmbeddings,
    position_embeddings: Param<Tensor<3>>,
    #[module(skip)]
    image_size: [usize; 2],
}

impl Embeddings {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let [rows, columns] = grid(config.image_size, config.patch_size);
        Self {
            cls_token: constant([1, 1, hidden], 0.0, device),
            mask_token: config.use_mask_token.then(|| constant([1, hidden], 0.0, device)),
            patch_embeddings: PatchEmbeddings::new(config.num_channels, hidden, config.patch_size, device),
            position_embeddings: constant([1, 1 + rows * columns, hidden], 0.0, device),
            image_size: config.image_size,
        }
    }

    fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        let x = self.patch_embeddings.forward(inputs);
        let x = match &self.mask_token {
            Some(mask_token) => hide(x, mask_token, inputs),
            None => x,
        };
        let cls = for_batch(&self.cls_token, x.dims()[0]);
        let positions = self.position_embeddings.val();
        let positions = self.patch_embeddings.positions(positions, 1, self.image_size, inputs);
        Tensor::cat(vec![cls, x], 1) + positions
    }
}

/// `x` with `mask_token` in place of the patches that are hidden from the model.
///
/// # Shapes
/// - x, output: `[batch, patches, hidden]`
/// - mask_token: `[1, hidden]`
pub(super) fn hide(x: Tensor<3>, mask_token: &Param<Tensor<2>>, inputs: &ImageInputs) -> Tensor<3> {
    // A matrix keeps the dtype of its file.
    let vector = mask_token.val().cast(x.dtype()).unsqueeze();
    hide_behind(x, vector, inputs)
}

/// A stack of pre-norm layers.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    layer: Vec<Layer>,
}

impl Encoder {
    pub(super) fn new(config: &Dinov2Config, device: &Device) -> Self {
        Self { layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect() }
    }

    pub(super) fn forward(&self, mut x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        record.hidden_state(&x);
        for layer in &self.layer {
            x = layer.forward(x, record);
            record.hidden_state(&x);
        }
        x
    }
}

#[derive(Module, Debug)]
struct Layer {
    norm1: LayerNorm,
    attention: Attention,
    layer_scale1: LayerScale,
    norm2: LayerNorm,
    mlp: FeedForward,
    layer_scale2: LayerScale,
}

impl Layer {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        Self {
            norm1: config.norm(device),
            attention: Attention::new(config.hidden_size, config.num_attention_heads, config.qkv_bias, device),
            layer_scale1: LayerScale::new(config, device),
            norm2: config.norm(device),
            mlp: FeedForward::new(config, device),
            layer_scale2: LayerScale::new(config, device),
        }
    }

    fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        let x = self.layer_scale1.forward(self.attention.forward(self.norm1.forward(x.clone()), record)) + x;
        self.layer_scale2.forward(self.mlp.forward(self.norm2.forward(x.clone()))) + x
    }
}

/// `lambda1 · x`. Touvron et al., 2021 (arXiv:2103.17239).
#[derive(Module, Debug)]
struct LayerScale {
    lambda1: Param<Tensor<1>>,
}

impl LayerScale {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        Self { lambda1: constant([config.hidden_size], config.layerscale_value, device) }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        x * self.lambda1.val().unsqueeze::<3>()
    }
}

/// A layer's MLP.
#[derive(Module, Debug)]
enum FeedForward {
    Plain(Mlp),
    Gated(SwiGlu),
}

impl FeedForward {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        if config.use_swiglu_ffn {
            return Self::Gated(SwiGlu::new(config, device));
        }
        Self::Plain(Mlp::new(config, device))
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Plain(mlp) => mlp.forward(x),
            Self::Gated(mlp) => mlp.forward(x),
        }
    }
}

/// `fc2(act(fc1(x)))`.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size());
        Self {
            fc1: Linear::new(hidden, intermediate, true, device),
            fc2: Linear::new(intermediate, hidden, true, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_activated(x, self.act))
    }
}

/// `weights_out(silu(gate) · up)`, where `weights_in` gives the gate and what passes it, one behind the other.
#[derive(Module, Debug)]
struct SwiGlu {
    weights_in: Linear,
    weights_out: Linear,
}

impl SwiGlu {
    fn new(config: &Dinov2Config, device: &Device) -> Self {
        // As many parameters as an MLP of two matrices, in multiples of eight.
        let intermediate = (config.intermediate_size() * 2 / 3).next_multiple_of(8);
        Self {
            weights_in: Linear::new(config.hidden_size, 2 * intermediate, true, device),
            weights_out: Linear::new(intermediate, config.hidden_size, true, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.weights_in.forward(x);
        let intermediate = x.dims()[2] / 2;
        let [gate, up] = [0, intermediate].map(|start| x.clone().narrow(2, start, intermediate));
        self.weights_out.forward(Activation::Silu.gate(gate, up))
    }
}

/// Both MLPs have one name in files; and the names of newer sources, which files rarely have.
pub(super) const RENAMES: &[Rename] = &[
    Rename { module: "mlp.Plain", file: &["mlp"] },
    Rename { module: "mlp.Gated", file: &["mlp"] },
    Rename { module: "attention.attention.query", file: &["attention.attention.query", "attention.q_proj"] },
    Rename { module: "attention.attention.key", file: &["attention.attention.key", "attention.k_proj"] },
    Rename { module: "attention.attention.value", file: &["attention.attention.value", "attention.v_proj"] },
    Rename { module: "attention.output.dense", file: &["attention.output.dense", "attention.o_proj"] },
];
