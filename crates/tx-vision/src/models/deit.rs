//! DeiT: ViT with a second token, which is taught by another model.
//!
//! Paper: Touvron et al., 2021 (arXiv:2012.12877).
//! Reference: transformers 5.23.0, `models/deit/modeling_deit.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tx_core::nn::{LayerNorm, Linear, constant};
use tx_core::task::{
    ImageClassifier, ImageClassifierOutput, ImageInputs, MaskedImageModel, MaskedImageOutput, Record, VisionModel,
    VisionModelOutput,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::vit::{
    Encoder, PatchEmbeddings, PixelDecoder, Pooler, RENAMES, ViTConfig, for_batch, grid, hide, size, token,
};

/// The encoder, with a pooler and a vector for hidden patches where the checkpoint has them.
#[derive(Module, Debug)]
pub struct DeiTModel {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
    pooler: Option<Pooler>,
}

impl DeiTModel {
    fn new(config: &ViTConfig, mask_token: bool, pooler: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, mask_token, device),
            encoder: Encoder::new(config, device),
            layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            pooler: pooler.then(|| Pooler::new(config, device)),
        }
    }

    /// # Shapes
    /// - output: `[batch, 2 + patches, hidden]`
    fn encode(&self, inputs: &ImageInputs, record: &mut Record) -> Tensor<3> {
        self.layernorm.forward(self.encoder.forward(self.embeddings.forward(inputs), record))
    }
}

impl Pretrained for DeiTModel {
    type Config = ViTConfig;
    const PREFIX: &'static str = "deit";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler", "embeddings.mask_token"];

    fn init(config: &ViTConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("embeddings.mask_token"), parts.has("pooler"), device)
    }
}

impl VisionModel for DeiTModel {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> VisionModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(&x).into());
        VisionModelOutput { last_hidden_state: x.into(), pooler_output, encoder_last_hidden_state: None }
    }
}

/// DeiT with a decoder that paints the picture, hidden patches included: SimMIM.
#[derive(Module, Debug)]
pub struct DeiTForMaskedImageModeling {
    deit: DeiTModel,
    decoder: PixelDecoder,
}

impl Pretrained for DeiTForMaskedImageModeling {
    type Config = ViTConfig;
    const PREFIX: &'static str = "deit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &ViTConfig, _: &Parts, device: &Device) -> Self {
        Self { deit: DeiTModel::new(config, true, false, device), decoder: PixelDecoder::new(config, device) }
    }
}

impl MaskedImageModel for DeiTForMaskedImageModeling {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> MaskedImageOutput {
        let x = self.deit.encode(inputs, record);
        let patches = x.dims()[1] - 2;
        let grid = self.deit.embeddings.patch_embeddings.grid(inputs);
        MaskedImageOutput::Reconstruction(self.decoder.forward(x.narrow(1, 2, patches), grid))
    }
}

/// DeiT with a classifier on the first token.
#[derive(Module, Debug)]
pub struct DeiTForImageClassification {
    deit: DeiTModel,
    classifier: Linear,
}

impl Pretrained for DeiTForImageClassification {
    type Config = ViTConfig;
    const PREFIX: &'static str = "deit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler", "embeddings.mask_token"];

    fn init(config: &ViTConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { deit: DeiTModel::new(config, false, false, device), classifier }
    }
}

impl ImageClassifier for DeiTForImageClassification {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        self.classifier.forward(token(&self.deit.encode(inputs, record), 0)).into()
    }
}

/// DeiT with a classifier on each of the first two tokens, the second taught by another model.
#[derive(Module, Debug)]
pub struct DeiTForImageClassificationWithTeacher {
    deit: DeiTModel,
    cls_classifier: Linear,
    distillation_classifier: Linear,
}

impl Pretrained for DeiTForImageClassificationWithTeacher {
    type Config = ViTConfig;
    const PREFIX: &'static str = "deit";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler", "embeddings.mask_token"];

    fn init(config: &ViTConfig, _: &Parts, device: &Device) -> Self {
        let classifier = || Linear::new(config.hidden_size, config.num_labels, true, device);
        Self {
            deit: DeiTModel::new(config, false, false, device),
            cls_classifier: classifier(),
            distillation_classifier: classifier(),
        }
    }
}

impl ImageClassifier for DeiTForImageClassificationWithTeacher {
    fn forward(&self, inputs: &ImageInputs, record: &mut Record) -> ImageClassifierOutput {
        let x = self.deit.encode(inputs, record);
        let cls = self.cls_classifier.forward(token(&x, 0));
        let distillation = self.distillation_classifier.forward(token(&x, 1));
        ImageClassifierOutput { logits: (cls.clone() + distillation.clone()) / 2.0, heads: Some([cls, distillation]) }
    }
}

/// Patches behind a token for the whole picture and one for the teacher, and their positions.
#[derive(Module, Debug)]
struct Embeddings {
    cls_token: Param<Tensor<3>>,
    distillation_token: Param<Tensor<3>>,
    mask_token: Option<Param<Tensor<3>>>,
    patch_embeddings: PatchEmbeddings,
    position_embeddings: Param<Tensor<3>>,
    #[module(skip)]
    image_size: [usize; 2],
}

impl Embeddings {
    fn new(config: &ViTConfig, mask_token: bool, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let [rows, columns] = grid(config.image_size, config.patch_size);
        let vectors = |n: usize| constant([1, n, hidden], 0.0, device);
        Self {
            cls_token: vectors(1),
            distillation_token: vectors(1),
            mask_token: mask_token.then(|| vectors(1)),
            patch_embeddings: PatchEmbeddings::new(config.num_channels, hidden, config.patch_size, device),
            position_embeddings: vectors(2 + rows * columns),
            image_size: config.image_size,
        }
    }

    fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        let x = self.patch_embeddings.forward(inputs);
        let x = hide(x, self.mask_token.as_ref(), inputs);
        let batch = x.dims()[0];
        let x = vec![for_batch(&self.cls_token, batch), for_batch(&self.distillation_token, batch), x];
        let table = self.position_embeddings.val();
        let positions = if size(inputs) == self.image_size {
            table
        } else {
            self.patch_embeddings.positions(table, 2, self.image_size, inputs)
        };
        Tensor::cat(x, 1) + positions
    }
}
