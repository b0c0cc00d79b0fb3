//! DETR: a transformer that asks a convolutional network's map with learned queries, each of which answers with an
//! object or with none.
//!
//! Paper: Carion et al., 2020 (arXiv:2005.12872).
//! Reference: transformers 5.23.0, `models/detr/modeling_detr.py`; backbones that are not HF's own: timm 1.0.

mod backbone;
mod masks;
mod transformer;

use burn::module::Module;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Bool, Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, Conv2d, Embedding, Interpolation, Linear, Mask, interpolate};
use tx_core::task::{
    DetectionOutput, ImageInputs, ImageLimits, ImageSegmenter, ObjectDetector, Record, SegmentationOutput, VisionModel,
    VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use self::backbone::{Backbone, BackboneConfig, TimmBackboneConfig};
use self::masks::{AttentionMap, MaskHead};
use self::transformer::{Decoder, Encoder, LearnedPositions, sine_positions};
use crate::maps::to_sequence;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DetrConfig {
    pub backbone_config: Option<BackboneConfig>,
    /// Of old files: whether the backbone is one of timm, by the name `backbone`.
    pub use_timm_backbone: bool,
    pub backbone: Option<String>,
    /// Of old files: more about that backbone.
    pub backbone_kwargs: TimmBackboneConfig,
    /// Whether that backbone's last stage reaches further instead of being smaller: DC5.
    pub dilation: bool,
    pub num_channels: usize,
    pub num_queries: usize,
    pub encoder_layers: usize,
    pub encoder_ffn_dim: usize,
    pub encoder_attention_heads: usize,
    pub decoder_layers: usize,
    pub decoder_ffn_dim: usize,
    pub decoder_attention_heads: usize,
    pub activation_function: Activation,
    pub d_model: usize,
    /// Whether the decoder's norm stands behind each of its layers, too, as it was trained.
    pub auxiliary_loss: bool,
    pub position_embedding_type: PositionEmbeddingType,
    pub num_labels: usize,
}

/// How a map's places tell where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbeddingType {
    /// By sines and cosines of row and column.
    Sine,
    /// By a table for rows and one for columns.
    Learned,
}

impl Default for DetrConfig {
    fn default() -> Self {
        Self {
            backbone_config: None,
            use_timm_backbone: true,
            backbone: None,
            backbone_kwargs: TimmBackboneConfig::default(),
            dilation: false,
            num_channels: 3,
            num_queries: 100,
            encoder_layers: 6,
            encoder_ffn_dim: 2048,
            encoder_attention_heads: 8,
            decoder_layers: 6,
            decoder_ffn_dim: 2048,
            decoder_attention_heads: 8,
            activation_function: Activation::Relu,
            d_model: 256,
            auxiliary_loss: false,
            position_embedding_type: PositionEmbeddingType::Sine,
            num_labels: 2,
        }
    }
}

impl ModelConfig for DetrConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("num_queries", self.num_queries),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
            ("decoder_attention_heads", self.decoder_attention_heads),
            ("d_model", self.d_model),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("encoder_layers", self.encoder_layers)?;
        check.layers("decoder_layers", self.decoder_layers)?;
        check.divides("d_model", self.d_model, "encoder_attention_heads", self.encoder_attention_heads)?;
        check.divides("d_model", self.d_model, "decoder_attention_heads", self.decoder_attention_heads)?;
        // Rows and columns have half of the features each, and sines and cosines half of those.
        let parts = if self.position_embedding_type == PositionEmbeddingType::Sine { 4 } else { 2 };
        if !self.d_model.is_multiple_of(parts) {
            return Err(check.error("d_model", format_args!("{} is not a multiple of {parts}", self.d_model)));
        }
        self.backbone().validate(check)
    }

    fn limits(&self) -> ImageLimits {
        // Padding keeps one pixel of the smallest map.
        ImageLimits::new(self.backbone().num_channels(), [1, 1])
    }
}

impl DetrConfig {
    /// The backbone, in whichever of three ways the config says it.
    fn backbone(&self) -> BackboneConfig {
        if let Some(config) = &self.backbone_config {
            return config.clone();
        }
        if self.backbone_kwargs != TimmBackboneConfig::default() {
            return BackboneConfig::TimmBackbone(TimmBackboneConfig {
                backbone: self.backbone.clone(),
                ..self.backbone_kwargs.clone()
            });
        }
        if self.use_timm_backbone || self.backbone.is_some() {
            return BackboneConfig::TimmBackbone(TimmBackboneConfig {
                backbone: self.backbone.clone(),
                num_channels: Some(self.num_channels),
                out_indices: Some(vec![1, 2, 3, 4]),
                output_stride: self.dilation.then_some(16),
            });
        }
        BackboneConfig::default()
    }
}

/// What segmentation needs besides.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct DetrSegmentationConfig(DetrConfig);

impl ModelConfig for DetrSegmentationConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let Self(config) = self;
        config.validate(check)?;
        MaskHead::validate(check, config)
    }

    fn limits(&self) -> ImageLimits {
        self.0.limits()
    }
}

/// The backbone, the encoder and the decoder.
#[derive(Module, Debug)]
pub struct DetrModel {
    backbone: Backbone,
    position_embedding: Option<LearnedPositions>,
    query_position_embeddings: Embedding,
    input_projection: Conv2d,
    encoder: Encoder,
    decoder: Decoder,
}

/// What the encoder and the decoder give, and what the head for masks needs besides.
struct DetrOutput {
    /// `[batch, queries, hidden]`
    last_hidden_state: Tensor<3>,
    /// `[batch, height · width, hidden]`
    encoder_last_hidden_state: Tensor<3>,
    /// The backbone's, from the largest to the smallest.
    maps: Vec<Tensor<4>>,
    /// `[batch, hidden, height, width]`: the last of them, projected.
    projected: Tensor<4>,
    /// `[batch, height · width]`: true for padding.
    padding: Option<Tensor<2, Bool>>,
}

impl DetrModel {
    fn new(config: &DetrConfig, device: &Device) -> Self {
        let backbone = config.backbone();
        let channels = backbone.output_channels().last().copied().unwrap_or_default();
        let learned = config.position_embedding_type == PositionEmbeddingType::Learned;
        Self {
            backbone: Backbone::new(&backbone, device),
            position_embedding: learned.then(|| LearnedPositions::new(config.d_model / 2, device)),
            query_position_embeddings: Embedding::new(config.num_queries, config.d_model, device),
            input_projection: Conv2d::new(channels, config.d_model, [1, 1], device).with_bias(true),
            encoder: Encoder::new(config, device),
            decoder: Decoder::new(config, device),
        }
    }

    fn run(&self, inputs: &ImageInputs, record: &mut Record) -> DetrOutput {
        let maps = self.backbone.forward(inputs.pixel_values.clone());
        let projected = self.input_projection.forward(maps[maps.len() - 1].clone());
        let [batch, hidden, height, width] = projected.dims();
        let device = projected.device();
        let seen = inputs.pixel_mask.as_ref().map(|mask| resize_mask(mask, [height, width]));
        let padding = seen.as_ref().map(|seen| seen.clone().reshape([batch, height * width]).equal_elem(0.0));
        let positions = match &self.position_embedding {
            Some(learned) => learned.forward([height, width]),
            None => sine_positions(seen, [height, width], hidden, &device),
        };
        let mask = Mask { padding: padding.clone(), ..Mask::default() };

        let x = to_sequence(projected.clone());
        let memory = record.within("encoder_", |record| self.encoder.forward(x, &positions, &mask, record));
        let count = self.query_position_embeddings.weight.lazy_shape()[0];
        let queries = self.query_position_embeddings.rows(Tensor::arange(0..count as i64, &device));
        let queries = queries.unsqueeze_dim::<3>(0).expand([batch, count, hidden]);
        let x =
            record.within("decoder_", |record| self.decoder.forward(queries, memory.clone(), positions, &mask, record));
        DetrOutput { last_hidden_state: x, encoder_last_hidden_state: memory, maps, projected, padding }
    }
}

/// The mask of the pictures for a map of `size`.
///
/// # Shapes
/// - mask: `[batch, height, width]`
/// - output: `[batch, size[0], size[1]]`: 1 for the picture, 0 for padding
fn resize_mask(mask: &Tensor<3, Int>, size: [usize; 2]) -> Tensor<3> {
    let mask = mask.clone().float().unsqueeze_dim::<4>(1);
    interpolate(mask, size, Interpolation::Nearest, false).squeeze_dim(1)
}

impl Pretrained for DetrModel {
    type Config = DetrConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &DetrConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl VisionModel for DetrModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let DetrOutput { last_hidden_state, encoder_last_hidden_state, .. } = self.run(inputs, record);
        VisionModelOutput {
            last_hidden_state: last_hidden_state.into(),
            pooler_output: None,
            encoder_last_hidden_state: Some(encoder_last_hidden_state),
        }
    }
}

/// DETR with a label and a box for every query.
#[derive(Module, Debug)]
pub struct DetrForObjectDetection {
    model: DetrModel,
    class_labels_classifier: Linear,
    bbox_predictor: BoxPredictor,
}

impl DetrForObjectDetection {
    fn new(config: &DetrConfig, device: &Device) -> Self {
        Self {
            model: DetrModel::new(config, device),
            // One more for no object.
            class_labels_classifier: Linear::new(config.d_model, config.num_labels + 1, true, device),
            bbox_predictor: BoxPredictor::new(config.d_model, device),
        }
    }

    fn detect(&self, output: &DetrOutput) -> DetectionOutput {
        let x = output.last_hidden_state.clone();
        DetectionOutput {
            logits: self.class_labels_classifier.forward(x.clone()),
            pred_boxes: self.bbox_predictor.forward(x.clone()),
            last_hidden_state: x,
            encoder_last_hidden_state: Some(output.encoder_last_hidden_state.clone()),
        }
    }
}

impl Pretrained for DetrForObjectDetection {
    type Config = DetrConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &DetrConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl ObjectDetector for DetrForObjectDetection {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> DetectionOutput {
        self.detect(&self.model.run(inputs, record))
    }
}

/// DETR with a label, a box and a mask for every query.
#[derive(Module, Debug)]
pub struct DetrForSegmentation {
    detr: DetrForObjectDetection,
    mask_head: MaskHead,
    bbox_attention: AttentionMap,
}

impl Pretrained for DetrForSegmentation {
    type Config = DetrSegmentationConfig;
    const PREFIX: &'static str = "detr";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(DetrSegmentationConfig(config): &DetrSegmentationConfig, _: &Parts, device: &Device) -> Self {
        Self {
            detr: DetrForObjectDetection::new(config, device),
            mask_head: MaskHead::new(config, &config.backbone().output_channels(), device),
            bbox_attention: AttentionMap::new(config.d_model, config.encoder_attention_heads, device),
        }
    }
}

impl ImageSegmenter for DetrForSegmentation {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> SegmentationOutput {
        let output = self.detr.model.run(inputs, record);
        let detection = self.detr.detect(&output);
        let DetrOutput { last_hidden_state, encoder_last_hidden_state, maps, projected, padding } = output;
        let [_, _, height, width] = projected.dims();
        let attention = self.bbox_attention.forward(last_hidden_state, encoder_last_hidden_state, padding);
        let [batch, queries, heads, _] = attention.dims();
        let attention = attention.reshape([batch, queries, heads, height, width]);
        let pred_masks = self.mask_head.forward(projected, attention, &maps);
        SegmentationOutput { detection, pred_masks }
    }
}

/// Three layers, and a sigmoid: a box as parts of the picture's size.
#[derive(Module, Debug)]
struct BoxPredictor {
    layers: Vec<Linear>,
}

impl BoxPredictor {
    fn new(hidden: usize, device: &Device) -> Self {
        let layer = |output| Linear::new(hidden, output, true, device);
        Self { layers: vec![layer(hidden), layer(hidden), layer(4)] }
    }

    /// # Shapes
    /// - x: `[batch, queries, hidden]`
    /// - output: `[batch, queries, 4]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let last = self.layers.len() - 1;
        let x = self.layers[..last].iter().fold(x, |x, layer| layer.forward_activated(x, Activation::Relu));
        sigmoid(self.layers[last].forward(x))
    }
}

/// The names of files, and those of newer sources, which files rarely have.
const RENAMES: &[Rename] = &[
    // Files do not say of which kind the backbone is.
    Rename { module: "backbone.conv_encoder.model.Timm", file: &["backbone.conv_encoder.model", "backbone.model"] },
    Rename { module: "backbone.conv_encoder.model.ResNet", file: &["backbone.conv_encoder.model", "backbone.model"] },
    Rename { module: "out_proj", file: &["out_proj", "o_proj"] },
    Rename { module: "fc1", file: &["fc1", "mlp.fc1"] },
    Rename { module: "fc2", file: &["fc2", "mlp.fc2"] },
    Rename { module: "bbox_attention.q_linear", file: &["bbox_attention.q_linear", "bbox_attention.q_proj"] },
    Rename { module: "bbox_attention.k_linear", file: &["bbox_attention.k_linear", "bbox_attention.k_proj"] },
    Rename { module: "mask_head.lay1", file: &["mask_head.lay1", "mask_head.conv1.conv"] },
    Rename { module: "mask_head.gn1", file: &["mask_head.gn1", "mask_head.conv1.norm"] },
    Rename { module: "mask_head.lay2", file: &["mask_head.lay2", "mask_head.conv2.conv"] },
    Rename { module: "mask_head.gn2", file: &["mask_head.gn2", "mask_head.conv2.norm"] },
    Rename { module: "mask_head.adapter1", file: &["mask_head.adapter1", "mask_head.fpn_stages.0.fpn_adapter"] },
    Rename { module: "mask_head.lay3", file: &["mask_head.lay3", "mask_head.fpn_stages.0.refine.conv"] },
    Rename { module: "mask_head.gn3", file: &["mask_head.gn3", "mask_head.fpn_stages.0.refine.norm"] },
    Rename { module: "mask_head.adapter2", file: &["mask_head.adapter2", "mask_head.fpn_stages.1.fpn_adapter"] },
    Rename { module: "mask_head.lay4", file: &["mask_head.lay4", "mask_head.fpn_stages.1.refine.conv"] },
    Rename { module: "mask_head.gn4", file: &["mask_head.gn4", "mask_head.fpn_stages.1.refine.norm"] },
    Rename { module: "mask_head.adapter3", file: &["mask_head.adapter3", "mask_head.fpn_stages.2.fpn_adapter"] },
    Rename { module: "mask_head.lay5", file: &["mask_head.lay5", "mask_head.fpn_stages.2.refine.conv"] },
    Rename { module: "mask_head.gn5", file: &["mask_head.gn5", "mask_head.fpn_stages.2.refine.norm"] },
    Rename { module: "mask_head.out_lay", file: &["mask_head.out_lay", "mask_head.output_conv"] },
];
