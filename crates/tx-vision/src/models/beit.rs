//! BEiT: a ViT that is trained by naming the visual tokens of hidden patches, with biases for relative positions.
//!
//! Paper: Bao et al., 2021 (arXiv:2106.08254). Layer scale: Touvron et al., 2021 (arXiv:2103.17239).
//! Reference: transformers 5.23.0, `models/beit/modeling_beit.py`.

mod encoder;
mod segmentation;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, LayerNorm, Linear, constant};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, MaskedImageModel, MaskedImageOutput, Record,
    VisionModel, VisionModelOutput, most_places,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use self::encoder::Encoder;
use super::vit::{PatchEmbeddings, check_patches, for_batch, grid, hide, sides, token};

pub use self::segmentation::BeitForSemanticSegmentation;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct BeitConfig {
    /// Visual tokens.
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    #[serde(deserialize_with = "sides")]
    pub image_size: [usize; 2],
    #[serde(deserialize_with = "sides")]
    pub patch_size: [usize; 2],
    pub num_channels: usize,
    pub use_mask_token: bool,
    pub use_absolute_position_embeddings: bool,
    /// One table of biases for each layer.
    pub use_relative_position_bias: bool,
    /// One table of biases for all layers.
    pub use_shared_relative_position_bias: bool,
    /// No layer scale, if it is not positive.
    pub layer_scale_init_value: f64,
    pub use_mean_pooling: bool,
    pub num_labels: usize,
    /// The sides of the maps that a segmenter pools its last state to.
    pub pool_scales: Vec<usize>,
    pub use_auxiliary_head: bool,
    pub auxiliary_channels: usize,
    pub auxiliary_num_convs: usize,
    pub auxiliary_concat_input: bool,
    /// The layers that a segmenter reads, counted from one.
    out_indices: Option<Vec<i64>>,
    /// Their older name.
    segmentation_indices: Option<Vec<i64>>,
    /// The same layers by name: `stage1` and so on.
    out_features: Option<Vec<String>>,
}

impl Default for BeitConfig {
    fn default() -> Self {
        Self {
            vocab_size: 8192,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: [224, 224],
            patch_size: [16, 16],
            num_channels: 3,
            use_mask_token: false,
            use_absolute_position_embeddings: false,
            use_relative_position_bias: false,
            use_shared_relative_position_bias: false,
            layer_scale_init_value: 0.1,
            use_mean_pooling: true,
            num_labels: 2,
            pool_scales: vec![1, 2, 3, 6],
            use_auxiliary_head: true,
            auxiliary_channels: 256,
            auxiliary_num_convs: 1,
            auxiliary_concat_input: false,
            out_indices: None,
            segmentation_indices: None,
            out_features: None,
        }
    }
}

impl ModelConfig for BeitConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_channels", self.num_channels),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check_patches(check, self.image_size, self.patch_size)
    }

    fn limits(&self) -> ImageLimits {
        let limits = ImageLimits::new(self.num_channels, self.patch_size).with_patches(ImageLimits::MAX_PATCHES);
        if self.use_relative_position_bias || self.use_shared_relative_position_bias {
            return limits.with_patches(most_places(self.num_attention_heads));
        }
        limits
    }
}

/// The encoder, with a pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct BeitModel {
    embeddings: Embeddings,
    encoder: Encoder,
    /// `None` where the pooler takes the mean of the patches.
    layernorm: Option<LayerNorm>,
    pooler: Option<Pooler>,
}

impl BeitModel {
    fn new(config: &BeitConfig, pooler: bool, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, config.layer_norm_eps, device);
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            layernorm: (!config.use_mean_pooling).then(norm),
            pooler: pooler.then(|| Pooler { layernorm: config.use_mean_pooling.then(norm) }),
        }
    }

    /// `see` gets every state with its number: that of the embeddings, which is 0, and that of each layer.
    ///
    /// # Shapes
    /// - output: `[batch, 1 + patches, hidden]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record, see: impl FnMut(usize, &Tensor<3>)) -> Tensor<3> {
        let grid = self.embeddings.patch_embeddings.grid(inputs);
        let x = self.encoder.forward(self.embeddings.forward(inputs), grid, record, see);
        match &self.layernorm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }
}

impl Pretrained for BeitModel {
    type Config = BeitConfig;
    const PREFIX: &'static str = "beit";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler"];
    const IGNORED: &'static [&'static str] = &["embeddings.mask_token"];

    fn init(config: &BeitConfig, parts: &Parts, device: &Device) -> Self {
        // A pooler that takes the first token has no tensors.
        Self::new(config, !config.use_mean_pooling || parts.has("pooler"), device)
    }
}

impl VisionModel for BeitModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record, |_, _| {});
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(&x).into());
        VisionModelOutput { last_hidden_state: x.into(), pooler_output, encoder_last_hidden_state: None }
    }
}

/// BEiT with scores for the visual token of every patch.
#[derive(Module, Debug)]
pub struct BeitForMaskedImageModeling {
    beit: BeitModel,
    layernorm: LayerNorm,
    lm_head: Linear,
}

impl Pretrained for BeitForMaskedImageModeling {
    type Config = BeitConfig;
    const PREFIX: &'static str = "beit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler", "embeddings.mask_token"];

    fn init(config: &BeitConfig, _: &Parts, device: &Device) -> Self {
        Self {
            beit: BeitModel::new(config, false, device),
            layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            lm_head: Linear::new(config.hidden_size, config.vocab_size, true, device),
        }
    }
}

impl MaskedImageModel for BeitForMaskedImageModeling {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> MaskedImageOutput {
        let x = self.beit.encode(inputs, record, |_, _| {});
        MaskedImageOutput::Logits(self.lm_head.forward(self.layernorm.forward(patches(&x))))
    }
}

/// BEiT with a classifier on the pooled state.
#[derive(Module, Debug)]
pub struct BeitForImageClassification {
    beit: BeitModel,
    classifier: Linear,
}

impl Pretrained for BeitForImageClassification {
    type Config = BeitConfig;
    const PREFIX: &'static str = "beit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["embeddings.mask_token"];

    fn init(config: &BeitConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { beit: BeitModel::new(config, true, device), classifier }
    }
}

impl ImageClassifier for BeitForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        let x = self.beit.encode(inputs, record, |_, _| {});
        let pooled = match &self.beit.pooler {
            Some(pooler) => pooler.forward(&x),
            None => token(&x, 0),
        };
        self.classifier.forward(pooled).into()
    }
}

/// Patches behind a token for the whole picture.
#[derive(Module, Debug)]
struct Embeddings {
    cls_token: Param<Tensor<3>>,
    mask_token: Option<Param<Tensor<3>>>,
    patch_embeddings: PatchEmbeddings,
    position_embeddings: Option<Param<Tensor<3>>>,
    #[module(skip)]
    image_size: [usize; 2],
}

impl Embeddings {
    fn new(config: &BeitConfig, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let [rows, columns] = grid(config.image_size, config.patch_size);
        let vectors = |n: usize| constant([1, n, hidden], 0.0, device);
        Self {
            cls_token: vectors(1),
            mask_token: config.use_mask_token.then(|| vectors(1)),
            patch_embeddings: PatchEmbeddings::new(config.num_channels, hidden, config.patch_size, device),
            position_embeddings: config.use_absolute_position_embeddings.then(|| vectors(1 + rows * columns)),
            image_size: config.image_size,
        }
    }

    fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        let x = self.patch_embeddings.forward(inputs);
        let x = hide(x, self.mask_token.as_ref(), inputs);
        let cls = for_batch(&self.cls_token, x.dims()[0]);
        let x = Tensor::cat(vec![cls, x], 1);
        match &self.position_embeddings {
            Some(table) => x + self.patch_embeddings.positions(table.val(), 1, self.image_size, inputs),
            None => x,
        }
    }
}

/// The normalised mean of the patches, or the first token.
#[derive(Module, Debug)]
struct Pooler {
    layernorm: Option<LayerNorm>,
}

impl Pooler {
    fn forward(&self, x: &Tensor<3>) -> Tensor<2> {
        match &self.layernorm {
            Some(norm) => norm.forward(patches(x).mean_dim(1).squeeze_dim(1)),
            None => token(x, 0),
        }
    }
}

/// All tokens but the first.
///
/// # Shapes
/// - x: `[batch, 1 + patches, hidden]`
/// - output: `[batch, patches, hidden]`
fn patches(x: &Tensor<3>) -> Tensor<3> {
    let patches = x.dims()[1] - 1;
    x.clone().narrow(1, 1, patches)
}

/// A sequence's numbered modules, and the names of newer sources, which files rarely have.
const RENAMES: &[Rename] = &[
    Rename {
        module: "encoder.relative_position_bias",
        file: &["encoder.relative_position_bias", "shared_position_bias"],
    },
    Rename { module: "encoder.layer", file: &["encoder.layer", "layers"] },
    Rename {
        module: "attention.attention.relative_position_bias",
        file: &["attention.attention.relative_position_bias", "relative_position_bias"],
    },
    Rename { module: "attention.attention.query", file: &["attention.attention.query", "attention.q_proj"] },
    Rename { module: "attention.attention.key", file: &["attention.attention.key", "attention.k_proj"] },
    Rename { module: "attention.attention.value", file: &["attention.attention.value", "attention.v_proj"] },
    Rename { module: "attention.output.dense", file: &["attention.output.dense", "attention.o_proj"] },
    Rename { module: "intermediate.dense", file: &["intermediate.dense", "mlp.fc1"] },
    Rename { module: "output.dense", file: &["output.dense", "mlp.fc2"] },
    Rename { module: "fpn1.conv_transpose1", file: &["fpn1.0", "fpn.fpn1.conv_transpose1"] },
    Rename { module: "fpn1.normalization", file: &["fpn1.1", "fpn.fpn1.normalization"] },
    Rename { module: "fpn1.conv_transpose2", file: &["fpn1.3", "fpn.fpn1.conv_transpose2"] },
    Rename { module: "fpn2", file: &["fpn2.0", "fpn.fpn2"] },
    Rename { module: "bn", file: &["bn", "normalization"] },
    Rename { module: "conv.weight", file: &["conv.weight", "convolution.weight"] },
    Rename { module: "decode_head.bottleneck", file: &["decode_head.bottleneck", "decode_head.psp_bottleneck"] },
    Rename { module: "psp_modules", file: &["psp_modules", "psp_modules.blocks"] },
    Rename { module: "pooled", file: &["1", "conv"] },
];
