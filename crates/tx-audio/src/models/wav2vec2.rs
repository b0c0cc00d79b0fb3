//! wav2vec 2.0: a transformer over convolutions over the waveform, trained by telling masked frames apart.
//!
//! Paper: Baevski et al., 2020 (arXiv:2006.11477). Adapters in the layers: Pratap et al., 2023 (arXiv:2305.13516).
//! Reference: transformers 5.23.0, `models/wav2vec2/modeling_wav2vec2.py`.
//! There are two families: one norm in the convolutions and norms after the residual sums (base), or norms after every
//! convolution and before every sublayer (large, XLS-R, MMS).

mod encoder;
mod features;
mod heads;
mod xvector;

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, constant};
use tx_core::task::{AudioInputs, AudioLayout, AudioLimits, AudioModel, AudioModelOutput, Record};
use tx_core::weights::load::{Parts, Pretrained, Rename};

pub(super) use encoder::{Adapter, Encoder, FeedForward};
pub(super) use features::{FeatureExtractor, FeatureProjection, PositionalConvEmbedding, mask_padding, padding};
pub(super) use heads::{
    ForAudioFrameClassification, ForCtc, ForSequenceClassification, HeadConfig, WaveformConfig, WaveformModel,
    layer_weights, weighted_sum,
};
pub(super) use xvector::ForXVector;

/// The largest kernel and stride of a convolution: a second of sound at 64 kHz.
const MAX_KERNEL: usize = 1 << 16;
/// The most convolutions over the waveform.
const MAX_CONVOLUTIONS: usize = 64;
/// The most frames that all attend to each other; [`AudioLimits::MAX_SAMPLES`] make fewer with the published strides.
pub(super) const MAX_FRAMES: usize = 1 << 15;

/// The keys of `config.json` that decide the graph, those of its relatives HuBERT and WavLM included.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Wav2Vec2Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    pub feat_extract_norm: FeatExtractNorm,
    pub feat_extract_activation: Activation,
    pub conv_dim: Vec<usize>,
    pub conv_stride: Vec<usize>,
    pub conv_kernel: Vec<usize>,
    pub conv_bias: bool,
    pub num_conv_pos_embeddings: usize,
    pub num_conv_pos_embedding_groups: usize,
    pub do_stable_layer_norm: bool,
    pub mask_time_prob: f64,
    pub mask_feature_prob: f64,
    pub use_weighted_layer_sum: bool,
    pub classifier_proj_size: usize,
    pub add_adapter: bool,
    pub adapter_kernel_size: usize,
    pub adapter_stride: usize,
    pub num_adapter_layers: usize,
    /// `hidden_size`, if `None`.
    output_hidden_size: Option<usize>,
    pub adapter_attn_dim: Option<usize>,
    pub tdnn_dim: Vec<usize>,
    pub tdnn_kernel: Vec<usize>,
    pub tdnn_dilation: Vec<usize>,
    pub xvector_output_dim: usize,
    /// Of HuBERT.
    pub feat_proj_layer_norm: bool,
    /// Of HuBERT.
    pub conv_pos_batch_norm: bool,
    /// Of WavLM.
    pub num_buckets: usize,
    /// Of WavLM.
    pub max_bucket_distance: usize,
    pub num_labels: usize,
}

/// HF's `feat_extract_norm`: what is normalised in the convolutions over the waveform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatExtractNorm {
    /// Each channel of the first one, over time.
    Group,
    /// Each frame of all of them, over its channels.
    Layer,
}

impl Default for Wav2Vec2Config {
    fn default() -> Self {
        Self {
            vocab_size: 32,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
            feat_extract_norm: FeatExtractNorm::Group,
            feat_extract_activation: Activation::Gelu,
            conv_dim: vec![512; 7],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_bias: false,
            num_conv_pos_embeddings: 128,
            num_conv_pos_embedding_groups: 16,
            do_stable_layer_norm: false,
            mask_time_prob: 0.05,
            mask_feature_prob: 0.0,
            use_weighted_layer_sum: false,
            classifier_proj_size: 256,
            add_adapter: false,
            adapter_kernel_size: 3,
            adapter_stride: 2,
            num_adapter_layers: 3,
            output_hidden_size: None,
            adapter_attn_dim: None,
            tdnn_dim: vec![512, 512, 512, 512, 1500],
            tdnn_kernel: vec![5, 3, 3, 1, 1],
            tdnn_dilation: vec![1, 2, 3, 1, 1],
            xvector_output_dim: 512,
            feat_proj_layer_norm: true,
            conv_pos_batch_norm: false,
            num_buckets: 320,
            max_bucket_distance: 800,
            num_labels: 2,
        }
    }
}

impl Wav2Vec2Config {
    /// Channels of the last convolution.
    fn channels(&self) -> usize {
        self.conv_dim.last().copied().unwrap_or(1)
    }

    fn output_hidden_size(&self) -> usize {
        self.output_hidden_size.filter(|&size| size > 0).unwrap_or(self.hidden_size)
    }

    /// Whether files of the architecture hold the vector that masked frames get in training.
    pub(super) fn has_mask_vector(&self) -> bool {
        self.mask_time_prob > 0.0 || self.mask_feature_prob > 0.0
    }

    /// The convolutions that shorten a sound, those of the adapter if `adapted`.
    pub(super) fn strides(&self, adapted: bool) -> Strides {
        let (kernel, stride) = (self.adapter_kernel_size, self.adapter_stride);
        let adapter = Convolution { kernel, stride, padding: encoder::ADAPTER_PADDING, counted: 1 };
        let adapters = if adapted && self.add_adapter { self.num_adapter_layers } else { 0 };
        let stem = self.conv_kernel.iter().zip(&self.conv_stride);
        let stem = stem.map(|(&kernel, &stride)| Convolution { kernel, stride, padding: 0, counted: kernel });
        Strides { convolutions: stem.chain(std::iter::repeat_n(adapter, adapters)).collect() }
    }

    /// Sounds of at most so many frames.
    pub(super) fn waveform_limits(&self, adapted: bool, most_frames: usize) -> AudioLimits {
        let layout = AudioLayout::Waveform {
            min_samples: self.strides(adapted).samples(1),
            max_samples: self.strides(false).samples(most_frames).min(AudioLimits::MAX_SAMPLES),
        };
        AudioLimits { name: "input_values", layout }
    }

    /// What the heads need of it.
    pub(super) fn head_config(&self, adapted: bool) -> HeadConfig {
        HeadConfig {
            hidden_size: self.hidden_size,
            output_size: if adapted && self.add_adapter { self.output_hidden_size() } else { self.hidden_size },
            vocab_size: self.vocab_size,
            num_labels: self.num_labels,
            classifier_proj_size: self.classifier_proj_size,
            summed_layers: self.use_weighted_layer_sum.then_some(self.num_hidden_layers + 1),
        }
    }
}

impl ModelConfig for Wav2Vec2Config {
    type Limits = AudioLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("output_hidden_size", self.output_hidden_size()),
            ("adapter_attn_dim", self.adapter_attn_dim.unwrap_or(1)),
            ("classifier_proj_size", self.classifier_proj_size),
            ("max_bucket_distance", self.max_bucket_distance),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.layers("num_adapter_layers", self.num_adapter_layers)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        let groups = self.num_conv_pos_embedding_groups;
        check.divides("hidden_size", self.hidden_size, "num_conv_pos_embedding_groups", groups)?;
        check.range("num_conv_pos_embeddings", self.num_conv_pos_embeddings, 1, MAX_KERNEL)?;
        // Half of the buckets are for each direction, and half of those for near places.
        check.range("num_buckets", self.num_buckets, 4, 1 << 20)?;
        check.range("conv_dim", self.conv_dim.len(), 1, MAX_CONVOLUTIONS)?;
        for (key, list) in [("conv_kernel", &self.conv_kernel), ("conv_stride", &self.conv_stride)] {
            check_list(check, key, list, ("conv_dim", self.conv_dim.len()), MAX_KERNEL)?;
        }
        self.conv_dim.iter().try_for_each(|&size| check.size("conv_dim", size))?;
        check.range("adapter_kernel_size", self.adapter_kernel_size, 1, MAX_KERNEL)?;
        check.range("adapter_stride", self.adapter_stride, 1, MAX_KERNEL)
    }

    fn limits(&self) -> AudioLimits {
        self.waveform_limits(true, MAX_FRAMES)
    }
}

impl WaveformConfig for Wav2Vec2Config {
    fn head(&self, adapted: bool) -> HeadConfig {
        self.head_config(adapted)
    }

    fn keys(&self) -> &Wav2Vec2Config {
        self
    }
}

/// Fails unless a list has a number for each of another one, all of them from 1 to `most`.
fn check_list(check: &Check<'_>, key: &str, list: &[usize], like: (&str, usize), most: usize) -> Result<()> {
    let (found, (other, expected)) = (list.len(), like);
    if found != expected {
        return Err(check.error(key, format_args!("{found} numbers, expected {expected}, as in `{other}`")));
    }
    list.iter().try_for_each(|&size| check.range(key, size, 1, most))
}

/// How convolutions shorten a sound.
#[derive(Debug, Clone)]
pub(super) struct Strides {
    convolutions: Vec<Convolution>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
struct Convolution {
    kernel: usize,
    stride: usize,
    padding: usize,
    /// The kernel by which the reference counts the frames of padded sounds: one for an adapter, whatever its size is,
    /// which is what those of three make.
    counted: usize,
}

impl Strides {
    /// Frames that a sound of so many samples makes.
    pub(super) fn frames(&self, samples: usize) -> usize {
        self.convolutions.iter().fold(samples, |length, convolution| {
            let padded = length + 2 * convolution.padding;
            if length == 0 || padded < convolution.kernel {
                return 0;
            }
            (padded - convolution.kernel) / convolution.stride + 1
        })
    }

    /// The same for the lengths of a batch, of which each makes one frame at least.
    ///
    /// # Shapes
    /// - samples, output: `[batch, 1]`
    fn lengths(&self, samples: Tensor<2, Int>) -> Tensor<2, Int> {
        let lengths = self
            .convolutions
            .iter()
            .fold(samples, |length, convolution| (length - convolution.counted as i64) / convolution.stride as i64 + 1);
        lengths.clamp_min(1)
    }

    /// The fewest samples that make so many frames, of which there is one at least.
    fn samples(&self, frames: usize) -> usize {
        self.convolutions.iter().rev().fold(frames, |frames, convolution| {
            let padded = frames.saturating_sub(1).saturating_mul(convolution.stride).saturating_add(convolution.kernel);
            padded.saturating_sub(2 * convolution.padding).max(1)
        })
    }
}

/// The encoder, and the adapter behind it where there is one.
#[derive(Module, Debug)]
pub struct Wav2Vec2Model {
    feature_extractor: FeatureExtractor,
    feature_projection: FeatureProjection,
    /// What masked frames are replaced by in training.
    masked_spec_embed: Option<Param<Tensor<1>>>,
    encoder: Encoder,
    adapter: Option<Adapter>,
    #[module(skip)]
    stem: Strides,
    #[module(skip)]
    strides: Strides,
}

impl Wav2Vec2Model {
    fn forward_all(&self, inputs: &AudioInputs, record: &mut Record) -> AudioModelOutput {
        let (x, extract_features) = self.feature_projection.forward(self.feature_extractor.forward(inputs));
        let x = self.encoder.forward(x, padding(&self.stem, inputs), record);
        let x = match &self.adapter {
            Some(adapter) => adapter.forward(x),
            None => x,
        };
        AudioModelOutput { last_hidden_state: x, extract_features: Some(extract_features), pooler_output: None }
    }
}

impl Pretrained for Wav2Vec2Model {
    type Config = Wav2Vec2Config;
    const PREFIX: &'static str = "wav2vec2";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = MASK;
    const IGNORED: &'static [&'static str] = MASK;

    fn init(config: &Wav2Vec2Config, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts, true, device)
    }
}

impl AudioModel for Wav2Vec2Model {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> AudioModelOutput {
        self.forward_all(inputs, record)
    }
}

impl WaveformModel for Wav2Vec2Model {
    fn new(config: &Wav2Vec2Config, parts: &Parts, adapted: bool, device: &Device) -> Self {
        Self {
            feature_extractor: FeatureExtractor::new(config, device),
            feature_projection: FeatureProjection::new(config, device),
            masked_spec_embed: mask_vector(config, parts, device),
            encoder: Encoder::new(config, device),
            adapter: (adapted && config.add_adapter).then(|| Adapter::new(config, device)),
            stem: config.strides(false),
            strides: config.strides(adapted),
        }
    }

    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3> {
        self.forward_all(inputs, record).last_hidden_state
    }

    fn frames(&self, samples: usize) -> usize {
        self.strides.frames(samples)
    }

    fn padding(&self, inputs: &AudioInputs) -> Option<Tensor<2, Bool>> {
        padding(&self.strides, inputs)
    }
}

/// The vector for masked frames, if the file holds it: nothing reads it but training.
pub(super) fn mask_vector(config: &Wav2Vec2Config, parts: &Parts, device: &Device) -> Option<Param<Tensor<1>>> {
    let held = parts.has("masked_spec_embed") && config.has_mask_vector();
    held.then(|| constant([config.hidden_size], 0.0, device))
}

/// Files have it or not, whatever their config says.
pub(super) const MASK: &[&str] = &["masked_spec_embed"];

pub(super) const RENAMES: &[Rename] = &[
    Rename { module: "group_norm", file: &["layer_norm"] },
    Rename { module: "plain.weight_v", file: &["conv.weight"] },
    Rename { module: "plain", file: &["conv"] },
    // Most files on the Hub have the module's names; what the reference writes has torch's newer ones.
    Rename { module: "conv.weight_g", file: &["conv.parametrizations.weight.original0"] },
    Rename { module: "conv.weight_v", file: &["conv.parametrizations.weight.original1"] },
];
