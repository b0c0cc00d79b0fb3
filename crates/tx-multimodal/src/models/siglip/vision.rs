//! SigLIP's vision tower: patches alone, and a learned question to all of them whose answer stands for the picture.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tx_core::nn::{AttentionOptions, Conv2d, Embedding, LayerNorm, Linear, Mask, attention, constant, merge_heads};
use tx_core::task::{ImageInputs, Record, VisionModel, VisionModelOutput};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::RENAMES;
use super::config::SiglipVisionConfig;
use crate::models::clip::{Encoder, Mlp, positions};

/// The vision tower, with a head where the checkpoint has one.
pub type SiglipVisionModel = VisionTower<Option<PoolingHead>>;

/// The vision tower with a head, or something in its place.
#[derive(Module, Debug)]
pub struct VisionTower<H: Module> {
    embeddings: Embeddings,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    pub(super) head: H,
}

impl<H: Module> VisionTower<H> {
    /// `config` is that of the tower.
    pub(super) fn new(config: &SiglipVisionConfig, head: H, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(&config.encoder(), device),
            post_layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            head,
        }
    }

    /// # Shapes
    /// - output: `[batch, patches, hidden]`
    pub(super) fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<3> {
        let x = self.encoder.forward(self.embeddings.forward(inputs), &Mask::default(), record);
        self.post_layernorm.forward(x)
    }
}

impl SiglipVisionModel {
    /// With a head if the config has it and `parts` do. `config` is that of the tower.
    pub(super) fn with_parts(config: &SiglipVisionConfig, parts: &Parts, device: &Device) -> Self {
        let head = config.vision_use_head && parts.has("head");
        Self::new(config, head.then(|| PoolingHead::new(config, device)), device)
    }
}

impl Pretrained for SiglipVisionModel {
    type Config = SiglipVisionConfig;
    const PREFIX: &'static str = "vision_model";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["head"];

    fn init(config: &SiglipVisionConfig, parts: &Parts, device: &Device) -> Self {
        Self::with_parts(config.tower(), parts, device)
    }
}

impl VisionModel for SiglipVisionModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.head.as_ref().map(|head| head.forward(x.clone()).into());
        VisionModelOutput { last_hidden_state: x.into(), pooler_output, encoder_last_hidden_state: None }
    }
}

/// Patches and their positions.
#[derive(Module, Debug)]
struct Embeddings {
    patch_embedding: Conv2d,
    position_embedding: Embedding,
    #[module(skip)]
    patch_size: usize,
}

impl Embeddings {
    fn new(config: &SiglipVisionConfig, device: &Device) -> Self {
        let (hidden, patch) = (config.hidden_size, config.patch_size);
        let patch_embedding = Conv2d::new(config.num_channels, hidden, [patch, patch], device);
        Self {
            patch_embedding: patch_embedding.with_bias(true).with_stride(patch),
            position_embedding: Embedding::new((config.image_size / patch).pow(2), hidden, device),
            patch_size: patch,
        }
    }

    fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        let [_, _, height, width] = inputs.pixel_values.dims();
        let grid = [height / self.patch_size, width / self.patch_size];
        let patches = self.patch_embedding.forward_patches(inputs.pixel_values.clone());
        patches + positions(&self.position_embedding, 0, grid)
    }
}

/// Attention of one learned query over all patches, and an MLP.
#[derive(Module, Debug)]
pub struct PoolingHead {
    probe: Param<Tensor<3>>,
    attention: Attention,
    layernorm: LayerNorm,
    mlp: Mlp,
}

/// Attention whose three projections are one, as PyTorch's own has it.
#[derive(Module, Debug)]
struct Attention {
    in_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl PoolingHead {
    pub(super) fn new(config: &SiglipVisionConfig, device: &Device) -> Self {
        let hidden = config.hidden_size;
        Self {
            probe: constant([1, 1, hidden], 0.0, device),
            attention: Attention {
                in_proj: Linear::new(hidden, 3 * hidden, true, device),
                out_proj: Linear::new(hidden, hidden, true, device),
                heads: config.num_attention_heads,
            },
            layernorm: LayerNorm::new(hidden, config.layer_norm_eps, device),
            mlp: Mlp::new(&config.encoder(), device),
        }
    }

    /// # Shapes
    /// - x: `[batch, patches, hidden]`
    /// - output: `[batch, hidden]`
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let x = self.attention.forward(self.probe.val(), x);
        let x = self.mlp.forward(self.layernorm.forward(x.clone())) + x;
        x.squeeze_dim(1)
    }
}

impl Attention {
    /// # Shapes
    /// - query: `[1, 1, hidden]`
    /// - x: `[batch, seq, hidden]`
    /// - output: `[batch, 1, hidden]`
    fn forward(&self, query: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let (batch, heads) = (x.dims()[0], self.heads);
        // Queries, keys and values one after the other: `[batch, seq, 3 · heads, head_dim]`.
        let split = |x: Tensor<3>| {
            let [batch, seq, hidden] = x.dims();
            self.in_proj.forward(x).reshape([batch, seq, 3 * heads, hidden / heads])
        };
        let q = split(query).narrow(2, 0, heads);
        let head_dim = q.dims()[3];
        let q = q.expand([batch, 1, heads, head_dim]);
        let x = split(x);
        let (k, v) = (x.clone().narrow(2, heads, heads), x.narrow(2, 2 * heads, heads));
        // The reference does not count it among the layers' maps.
        let mut record = Record::none();
        self.out_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(&Mask::default()), &mut record)))
    }
}
