//! SegFormer: a transformer whose stages make the map smaller, without a table of positions; a head of linear layers
//! labels every place.
//!
//! Paper: Xie et al., 2021 (arXiv:2105.15203). Fewer keys than queries: Wang et al., 2021 (arXiv:2102.12122).
//! Reference: transformers 5.23.0, `models/segformer/modeling_segformer.py`.

mod encoder;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, BatchNorm2d, Conv2d, Interpolation, Linear, interpolate};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, ImageLimits, Record, SemanticSegmenter, VisionModel,
    VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use self::encoder::{Encoder, StageOutput};

/// The epsilon of all norms; the reference ignores the key `layer_norm_eps`.
const NORM_EPS: f64 = 1e-5;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SegformerConfig {
    pub num_channels: usize,
    pub num_encoder_blocks: usize,
    pub depths: Vec<usize>,
    /// How many times shorter the sides are of the map that keys and values are made of.
    pub sr_ratios: Vec<usize>,
    pub hidden_sizes: Vec<usize>,
    pub patch_sizes: Vec<usize>,
    pub strides: Vec<usize>,
    pub num_attention_heads: Vec<usize>,
    pub mlp_ratios: Vec<f64>,
    pub hidden_act: Activation,
    pub decoder_hidden_size: usize,
    /// Whether the last stage gives a map, and not a sequence.
    pub reshape_last_stage: bool,
    pub num_labels: usize,
}

impl Default for SegformerConfig {
    fn default() -> Self {
        Self {
            num_channels: 3,
            num_encoder_blocks: 4,
            depths: vec![2, 2, 2, 2],
            sr_ratios: vec![8, 4, 2, 1],
            hidden_sizes: vec![32, 64, 160, 256],
            patch_sizes: vec![7, 3, 3, 3],
            strides: vec![4, 2, 2, 2],
            num_attention_heads: vec![1, 2, 5, 8],
            mlp_ratios: vec![4.0, 4.0, 4.0, 4.0],
            hidden_act: Activation::Gelu,
            decoder_hidden_size: 256,
            reshape_last_stage: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for SegformerConfig {
    type Limits = ImageLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("num_channels", self.num_channels),
            ("num_encoder_blocks", self.num_encoder_blocks),
            ("decoder_hidden_size", self.decoder_hidden_size),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_encoder_blocks", self.num_encoder_blocks)?;
        let lengths = [
            ("depths", self.depths.len()),
            ("sr_ratios", self.sr_ratios.len()),
            ("hidden_sizes", self.hidden_sizes.len()),
            ("patch_sizes", self.patch_sizes.len()),
            ("strides", self.strides.len()),
            ("num_attention_heads", self.num_attention_heads.len()),
            ("mlp_ratios", self.mlp_ratios.len()),
        ];
        if let Some((key, length)) = lengths.into_iter().find(|&(_, length)| length != self.num_encoder_blocks) {
            let reason = format_args!("{length} stages, but `num_encoder_blocks` = {}", self.num_encoder_blocks);
            return Err(check.error(key, reason));
        }
        let layers = self.depths.iter().fold(0usize, |sum, &depth| sum.saturating_add(depth));
        check.layers("depths", layers)?;
        for stage in 0..self.num_encoder_blocks {
            let (hidden, heads) = (self.hidden_sizes[stage], self.num_attention_heads[stage]);
            check.sizes([
                ("sr_ratios", self.sr_ratios[stage]),
                ("hidden_sizes", hidden),
                ("patch_sizes", self.patch_sizes[stage]),
                ("strides", self.strides[stage]),
                ("num_attention_heads", heads),
                ("mlp_ratios", self.intermediate_size(stage)),
            ])?;
            check.divides("hidden_sizes", hidden, "num_attention_heads", heads)?;
        }
        check.size("decoder_hidden_size", self.decoder_hidden_size.saturating_mul(self.num_encoder_blocks))
    }

    fn limits(&self) -> ImageLimits {
        let side = self.least_side();
        ImageLimits::new(self.num_channels, [side, side])
    }
}

impl SegformerConfig {
    fn intermediate_size(&self, stage: usize) -> usize {
        (self.mlp_ratios[stage] * self.hidden_sizes[stage] as f64) as usize
    }

    /// The side of the smallest picture of which every stage can make keys.
    fn least_side(&self) -> usize {
        (0..self.num_encoder_blocks).rev().fold(1, |after, stage| {
            let side = self.sr_ratios[stage].max(after);
            // Half a patch of zeros lies around the map, so that an odd patch needs a place and an even one none.
            let patch = self.patch_sizes[stage] % 2;
            (side - 1).saturating_mul(self.strides[stage]).saturating_add(patch).max(1)
        })
    }
}

/// The stages.
#[derive(Module, Debug)]
pub struct SegformerModel {
    encoder: Encoder,
}

impl SegformerModel {
    fn new(config: &SegformerConfig, device: &Device) -> Self {
        Self { encoder: Encoder::new(config, device) }
    }

    /// What each stage gives.
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Vec<StageOutput> {
        let stages = self.encoder.forward(inputs.pixel_values.clone(), record);
        for stage in &stages {
            if stage.is_flat {
                record.hidden_state(&stage.x);
            } else {
                record.hidden_state(&stage.to_map());
            }
        }
        stages
    }

    /// What the last stage gives.
    fn encode_last(&self, inputs: &ImageInputs, record: &mut Record) -> StageOutput {
        let mut stages = self.encode(inputs, record);
        // A config has at least one stage.
        stages.swap_remove(stages.len() - 1)
    }
}

impl Pretrained for SegformerModel {
    type Config = SegformerConfig;
    const PREFIX: &'static str = "segformer";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &SegformerConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl VisionModel for SegformerModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let stage = self.encode_last(inputs, record);
        let last_hidden_state = if stage.is_flat { stage.x.into() } else { stage.to_map().into() };
        VisionModelOutput { last_hidden_state, pooler_output: None, encoder_last_hidden_state: None }
    }
}

/// SegFormer with a classifier on the mean of the last stage.
#[derive(Module, Debug)]
pub struct SegformerForImageClassification {
    segformer: SegformerModel,
    classifier: Linear,
}

impl Pretrained for SegformerForImageClassification {
    type Config = SegformerConfig;
    const PREFIX: &'static str = "segformer";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &SegformerConfig, _: &Parts, device: &Device) -> Self {
        let hidden = config.hidden_sizes.last().copied().unwrap_or_default();
        let classifier = Linear::new(hidden, config.num_labels, true, device);
        Self { segformer: SegformerModel::new(config, device), classifier }
    }
}

impl ImageClassifier for SegformerForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        let x = self.segformer.encode_last(inputs, record).x;
        self.classifier.forward(x.mean_dim(1).squeeze_dim::<2>(1)).into()
    }
}

/// SegFormer with scores for every place of the first stage's map.
#[derive(Module, Debug)]
pub struct SegformerForSemanticSegmentation {
    segformer: SegformerModel,
    decode_head: DecodeHead,
}

impl Pretrained for SegformerForSemanticSegmentation {
    type Config = SegformerConfig;
    const PREFIX: &'static str = "segformer";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &SegformerConfig, _: &Parts, device: &Device) -> Self {
        Self { segformer: SegformerModel::new(config, device), decode_head: DecodeHead::new(config, device) }
    }
}

impl SemanticSegmenter for SegformerForSemanticSegmentation {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<4> {
        self.decode_head.forward(&self.segformer.encode(inputs, record))
    }
}

/// Every stage projected to one width and enlarged to the first stage's map, joined, and labelled.
#[derive(Module, Debug)]
struct DecodeHead {
    linear_c: Vec<Mlp>,
    linear_fuse: Conv2d,
    batch_norm: BatchNorm2d,
    classifier: Conv2d,
}

#[derive(Module, Debug)]
struct Mlp {
    proj: Linear,
}

impl DecodeHead {
    fn new(config: &SegformerConfig, device: &Device) -> Self {
        let hidden = config.decoder_hidden_size;
        let mlp = |&size: &usize| Mlp { proj: Linear::new(size, hidden, true, device) };
        Self {
            linear_c: config.hidden_sizes.iter().map(mlp).collect(),
            linear_fuse: Conv2d::new(hidden * config.num_encoder_blocks, hidden, [1, 1], device),
            batch_norm: BatchNorm2d::new(hidden, NORM_EPS, device),
            classifier: Conv2d::new(hidden, config.num_labels, [1, 1], device).with_bias(true),
        }
    }

    /// The convolution that joins the stages has a kernel of one place: it is a sum over the stages, and each term may
    /// be enlarged after its product instead of before, which is a fraction of the work.
    ///
    /// # Shapes
    /// - output: `[batch, labels, height, width]` of the first stage
    fn forward(&self, stages: &[StageOutput]) -> Tensor<4> {
        let weight = self.linear_fuse.weight.val();
        let [hidden, joined, ..] = weight.dims();
        let weight: Tensor<2> = weight.reshape([hidden, joined]);
        let term = |number: usize, stage: &StageOutput| {
            // The last stage comes first.
            let weight = weight.clone().narrow(1, joined - (number + 1) * hidden, hidden);
            let x = self.linear_c[number].proj.forward(stage.x.clone());
            let y = weight.unsqueeze_dim::<3>(0).matmul(x.swap_dims(1, 2)); // [batch, hidden, height · width]
            let [batch, ..] = y.dims();
            let y = y.reshape([batch, hidden, stage.map[0], stage.map[1]]);
            interpolate(y, stages[0].map, Interpolation::Bilinear, false)
        };
        let others = stages.iter().enumerate().skip(1);
        let sum = others.fold(term(0, &stages[0]), |sum, (number, stage)| sum + term(number, stage));
        self.classifier.forward(Activation::Relu.forward(self.batch_norm.forward(sum)))
    }
}

/// The names of files, and those of newer sources, which files rarely have.
const RENAMES: &[Rename] = &[
    Rename { module: "attention.self_.query", file: &["attention.self.query", "attention.q_proj"] },
    Rename { module: "attention.self_.key", file: &["attention.self.key", "attention.k_proj"] },
    Rename { module: "attention.self_.value", file: &["attention.self.value", "attention.v_proj"] },
    Rename {
        module: "attention.self_.sr",
        file: &["attention.self.sr", "attention.sequence_reduction.sequence_reduction"],
    },
    Rename {
        module: "attention.self_.layer_norm",
        file: &["attention.self.layer_norm", "attention.sequence_reduction.layer_norm"],
    },
    Rename { module: "attention.output.dense", file: &["attention.output.dense", "attention.o_proj"] },
    Rename { module: "mlp.dense1", file: &["mlp.dense1", "mlp.fc1"] },
    Rename { module: "mlp.dense2", file: &["mlp.dense2", "mlp.fc2"] },
    Rename { module: "layer_norm_1", file: &["layer_norm_1", "layernorm_before"] },
    Rename { module: "layer_norm_2", file: &["layer_norm_2", "layernorm_after"] },
    Rename { module: "decode_head.linear_c", file: &["decode_head.linear_c", "decode_head.linear_projections"] },
    // A stage's number comes first in newer sources; four stages are all that are published.
    Rename { module: "encoder.patch_embeddings.0", file: &["encoder.patch_embeddings.0", "stages.0.patch_embeddings"] },
    Rename { module: "encoder.patch_embeddings.1", file: &["encoder.patch_embeddings.1", "stages.1.patch_embeddings"] },
    Rename { module: "encoder.patch_embeddings.2", file: &["encoder.patch_embeddings.2", "stages.2.patch_embeddings"] },
    Rename { module: "encoder.patch_embeddings.3", file: &["encoder.patch_embeddings.3", "stages.3.patch_embeddings"] },
    Rename { module: "encoder.block.0", file: &["encoder.block.0", "stages.0.blocks"] },
    Rename { module: "encoder.block.1", file: &["encoder.block.1", "stages.1.blocks"] },
    Rename { module: "encoder.block.2", file: &["encoder.block.2", "stages.2.blocks"] },
    Rename { module: "encoder.block.3", file: &["encoder.block.3", "stages.3.blocks"] },
    Rename { module: "encoder.layer_norm.0", file: &["encoder.layer_norm.0", "stages.0.layer_norm"] },
    Rename { module: "encoder.layer_norm.1", file: &["encoder.layer_norm.1", "stages.1.layer_norm"] },
    Rename { module: "encoder.layer_norm.2", file: &["encoder.layer_norm.2", "stages.2.layer_norm"] },
    Rename { module: "encoder.layer_norm.3", file: &["encoder.layer_norm.3", "stages.3.layer_norm"] },
];
