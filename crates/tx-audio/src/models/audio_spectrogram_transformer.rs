//! Audio Spectrogram Transformer: a vision transformer over overlapping patches of a spectrogram.
//!
//! Paper: Gong et al., 2021 (arXiv:2104.01778).
//! Reference: transformers 5.23.0,
//! `models/audio_spectrogram_transformer/modeling_audio_spectrogram_transformer.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Conv2d, LayerNorm, Linear, Mask, attention, constant, merge_heads, project,
    split_heads,
};
use tx_core::task::{AudioClassifier, AudioInputs, AudioLayout, AudioLimits, AudioModel, AudioModelOutput, Record};
use tx_core::weights::load::{Parts, Pretrained, Rename};

/// Tokens before the patches: one for the class, one for the class that a teacher gives.
const TOKENS: usize = 2;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct AstConfig {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    pub patch_size: usize,
    pub qkv_bias: bool,
    pub frequency_stride: usize,
    pub time_stride: usize,
    pub max_length: usize,
    pub num_mel_bins: usize,
    pub num_labels: usize,
}

impl Default for AstConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            patch_size: 16,
            qkv_bias: true,
            frequency_stride: 10,
            time_stride: 10,
            max_length: 1024,
            num_mel_bins: 128,
            num_labels: 2,
        }
    }
}

impl AstConfig {
    fn patches(&self) -> usize {
        let along = |length: usize, stride: usize| (length - self.patch_size) / stride + 1;
        along(self.num_mel_bins, self.frequency_stride) * along(self.max_length, self.time_stride)
    }
}

impl ModelConfig for AstConfig {
    type Limits = AudioLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("frequency_stride", self.frequency_stride),
            ("time_stride", self.time_stride),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.range("max_length", self.max_length, 1, 1 << 20)?;
        check.range("num_mel_bins", self.num_mel_bins, 1, 1 << 20)?;
        check.range("patch_size", self.patch_size, 1, self.max_length.min(self.num_mel_bins))
    }

    fn limits(&self) -> AudioLimits {
        let layout = AudioLayout::Frames { frames: self.max_length, mel: self.num_mel_bins };
        AudioLimits { name: "input_values", layout }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct AstModel {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
}

impl AstModel {
    fn new(config: &AstConfig, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder { layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect() },
            layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    /// All tokens, and the mean of those before the patches.
    ///
    /// # Shapes
    /// - output: `[batch, tokens, hidden]`, `[batch, hidden]`
    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> (Tensor<3>, Tensor<2>) {
        let x = self.encoder.forward(self.embeddings.forward(inputs), record);
        let x = self.layernorm.forward(x);
        let pooled = x.clone().narrow(1, 0, TOKENS).mean_dim(1).squeeze_dim(1);
        (x, pooled)
    }
}

impl Pretrained for AstModel {
    type Config = AstConfig;
    const PREFIX: &'static str = "audio_spectrogram_transformer";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &AstConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl AudioModel for AstModel {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> AudioModelOutput {
        let (last_hidden_state, pooled) = self.encode(inputs, record);
        AudioModelOutput { last_hidden_state, extract_features: None, pooler_output: Some(pooled) }
    }
}

/// AST with a classifier on the pooled tokens.
#[derive(Module, Debug)]
pub struct AstForAudioClassification {
    audio_spectrogram_transformer: AstModel,
    classifier: MlpHead,
}

impl Pretrained for AstForAudioClassification {
    type Config = AstConfig;
    const PREFIX: &'static str = "audio_spectrogram_transformer";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &AstConfig, _: &Parts, device: &Device) -> Self {
        Self { audio_spectrogram_transformer: AstModel::new(config, device), classifier: MlpHead::new(config, device) }
    }
}

impl AudioClassifier for AstForAudioClassification {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<2> {
        let (_, pooled) = self.audio_spectrogram_transformer.encode(inputs, record);
        self.classifier.dense.forward(self.classifier.layernorm.forward(pooled))
    }
}

#[derive(Module, Debug)]
struct MlpHead {
    layernorm: LayerNorm,
    dense: Linear,
}

impl MlpHead {
    fn new(config: &AstConfig, device: &Device) -> Self {
        Self {
            layernorm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            dense: Linear::new(config.hidden_size, config.num_labels, true, device),
        }
    }
}

/// The tokens and the patches, at their positions.
#[derive(Module, Debug)]
struct Embeddings {
    /// `[1, 1, hidden]`
    cls_token: Param<Tensor<3>>,
    /// `[1, 1, hidden]`
    distillation_token: Param<Tensor<3>>,
    patch_embeddings: PatchEmbeddings,
    /// `[1, tokens, hidden]`
    position_embeddings: Param<Tensor<3>>,
}

#[derive(Module, Debug)]
struct PatchEmbeddings {
    projection: Conv2d,
}

impl Embeddings {
    fn new(config: &AstConfig, device: &Device) -> Self {
        let (hidden, patch) = (config.hidden_size, config.patch_size);
        let strides = [config.frequency_stride, config.time_stride];
        let projection = Conv2d::new(1, hidden, [patch, patch], device).with_bias(true).with_strides(strides);
        Self {
            cls_token: constant([1, 1, hidden], 0.0, device),
            distillation_token: constant([1, 1, hidden], 0.0, device),
            patch_embeddings: PatchEmbeddings { projection },
            position_embeddings: constant([1, TOKENS + config.patches(), hidden], 0.0, device),
        }
    }

    /// # Shapes
    /// - output: `[batch, tokens, hidden]`
    fn forward(&self, inputs: &AudioInputs) -> Tensor<3> {
        // Frequencies are rows here and time is columns.
        let x = inputs.values.clone().swap_dims(1, 2).unsqueeze_dim::<4>(1);
        let patches = self.patch_embeddings.projection.forward(x);
        let [batch, hidden, rows, columns] = patches.dims();
        let patches = patches.reshape([batch, hidden, rows * columns]).swap_dims(1, 2);
        let tokens = [&self.cls_token, &self.distillation_token].map(|token| token.val().expand([batch, 1, hidden]));
        let [cls, distillation] = tokens;
        Tensor::cat(vec![cls, distillation, patches], 1) + self.position_embeddings.val()
    }
}

/// A stack of pre-norm layers.
#[derive(Module, Debug)]
struct Encoder {
    layer: Vec<Layer>,
}

impl Encoder {
    fn forward(&self, mut x: Tensor<3>, record: &mut Record) -> Tensor<3> {
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
    attention: Attention,
    intermediate: Dense,
    output: Dense,
    layernorm_before: LayerNorm,
    layernorm_after: LayerNorm,
    #[module(skip)]
    act: Activation,
}

#[derive(Module, Debug)]
struct Dense {
    dense: Linear,
}

impl Layer {
    fn new(config: &AstConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = || LayerNorm::new(hidden, config.layer_norm_eps, device);
        let dense = |input, output| Dense { dense: Linear::new(input, output, true, device) };
        Self {
            attention: Attention { attention: SelfAttention::new(config, device), output: dense(hidden, hidden) },
            intermediate: dense(hidden, inner),
            output: dense(inner, hidden),
            layernorm_before: norm(),
            layernorm_after: norm(),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.layernorm_before.forward(x), record);
        x.clone() + self.mlp(self.layernorm_after.forward(x))
    }

    fn mlp(&self, x: Tensor<3>) -> Tensor<3> {
        self.output.dense.forward(self.intermediate.dense.forward_activated(x, self.act))
    }
}

#[derive(Module, Debug)]
struct Attention {
    attention: SelfAttention,
    output: Dense,
}

impl Attention {
    fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        self.output.dense.forward(self.attention.forward(x, record))
    }
}

#[derive(Module, Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    #[module(skip)]
    heads: usize,
}

impl SelfAttention {
    fn new(config: &AstConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, config.qkv_bias, device);
        Self { query: linear(), key: linear(), value: linear(), heads: config.num_attention_heads }
    }

    fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        let qkv = project(x, [&self.query, &self.key, &self.value]);
        let [q, k, v] = qkv.map(|x| split_heads(x, self.heads));
        merge_heads(attention(q, k, v, AttentionOptions::new(&Mask::default()), record))
    }
}

/// The reference has newer names, which it does not write into files.
const RENAMES: &[Rename] = &[
    Rename { module: "encoder.layer", file: &["encoder.layer", "layers"] },
    Rename { module: "attention.attention.query", file: &["attention.attention.query", "attention.q_proj"] },
    Rename { module: "attention.attention.key", file: &["attention.attention.key", "attention.k_proj"] },
    Rename { module: "attention.attention.value", file: &["attention.attention.value", "attention.v_proj"] },
    Rename { module: "attention.output.dense", file: &["attention.output.dense", "attention.o_proj"] },
    Rename { module: "intermediate.dense", file: &["intermediate.dense", "mlp.fc1"] },
    Rename { module: "output.dense", file: &["output.dense", "mlp.fc2"] },
];
