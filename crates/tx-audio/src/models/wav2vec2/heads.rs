//! The heads of models that read waveforms: wav2vec 2.0, HuBERT and WavLM have the same. That for voices is in
//! `xvector.rs`.

use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{Bool, Device, Tensor, activation};
use tx_core::config::ModelConfig;
use tx_core::nn::{Linear, constant};
use tx_core::task::{AudioClassifier, AudioFrameClassifier, AudioInputs, AudioLimits, CtcModel, Features, Record};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::{Wav2Vec2Config, mask_padding};

/// A config that says what the heads of its model are like.
pub trait WaveformConfig: ModelConfig<Limits = AudioLimits> {
    /// What the heads need of it; behind the adapter, if there is one, where they are `adapted`.
    fn head(&self, adapted: bool) -> HeadConfig;

    /// All of its keys.
    fn keys(&self) -> &Wav2Vec2Config;
}

/// The keys of a config that heads need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadConfig {
    /// Elements of a hidden state.
    pub hidden_size: usize,
    /// Elements of what the model gives.
    pub output_size: usize,
    /// Rows of the head for tokens.
    pub vocab_size: usize,
    /// Labels of a classifier.
    pub num_labels: usize,
    /// What a classifier of whole sounds projects to.
    pub classifier_proj_size: usize,
    /// How many hidden states a classifier sums, if it reads more than the last.
    pub summed_layers: Option<usize>,
}

/// A base model that reads waveforms.
pub trait WaveformModel: Pretrained<Config: WaveformConfig> + ModuleDisplay {
    /// The module with uninitialised parameters, with the config's adapter if `adapted`.
    fn new(config: &Self::Config, parts: &Parts, adapted: bool, device: &Device) -> Self;

    /// # Shapes
    /// - output: `[batch, frames, hidden]`
    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3>;

    /// Frames that a sound of this many samples makes.
    fn frames(&self, samples: usize) -> usize;

    /// Which frames are padding.
    ///
    /// # Shapes
    /// - output: `[batch, frames]`
    fn padding(&self, inputs: &AudioInputs) -> Option<Tensor<2, Bool>>;
}

/// Scores for the token that sounds at every frame.
#[derive(Module, Debug)]
pub struct ForCtc<M: Module> {
    model: M,
    lm_head: Linear,
}

impl<M: WaveformModel> Pretrained for ForCtc<M> {
    type Config = M::Config;
    const PREFIX: &'static str = M::PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::RENAMES;
    const OPTIONAL: &'static [&'static str] = M::OPTIONAL;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &M::Config, parts: &Parts, device: &Device) -> Self {
        let HeadConfig { output_size, vocab_size, .. } = config.head(true);
        let lm_head = Linear::new(output_size, vocab_size, true, device);
        Self { model: M::new(config, parts, true, device), lm_head }
    }
}

impl<M: WaveformModel> CtcModel for ForCtc<M> {
    fn frames(&self, samples: usize) -> usize {
        self.model.frames(samples)
    }

    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3> {
        self.lm_head.forward(self.model.encode(inputs, record))
    }
}

/// Scores for the labels of a whole sound, by the mean of its frames.
#[derive(Module, Debug)]
pub struct ForSequenceClassification<M: Module> {
    model: M,
    layer_weights: Option<Param<Tensor<1>>>,
    projector: Linear,
    classifier: Linear,
}

// As in the reference, classifiers have no adapter: a file that has one is refused by the names of its tensors.
impl<M: WaveformModel> Pretrained for ForSequenceClassification<M> {
    type Config = M::Config;
    const PREFIX: &'static str = M::PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::RENAMES;
    const OPTIONAL: &'static [&'static str] = M::OPTIONAL;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &M::Config, parts: &Parts, device: &Device) -> Self {
        let HeadConfig { hidden_size, num_labels, classifier_proj_size, summed_layers, .. } = config.head(false);
        Self {
            model: M::new(config, parts, false, device),
            layer_weights: summed_layers.map(|layers| layer_weights(layers, device)),
            projector: Linear::new(hidden_size, classifier_proj_size, true, device),
            classifier: Linear::new(classifier_proj_size, num_labels, true, device),
        }
    }
}

impl<M: WaveformModel> AudioClassifier for ForSequenceClassification<M> {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<2> {
        let x = weighted_sum(self.layer_weights.as_ref(), record, |record| self.model.encode(inputs, record));
        let x = self.projector.forward(x);
        let pooled = match self.model.padding(inputs) {
            Some(padding) => {
                let frames = padding.clone().bool_not().float().sum_dim(1); // [batch, 1]
                mask_padding(x, &padding).sum_dim(1).squeeze_dim::<2>(1) / frames
            }
            None => x.mean_dim(1).squeeze_dim::<2>(1),
        };
        self.classifier.forward(pooled)
    }
}

/// Scores for the labels of every frame.
#[derive(Module, Debug)]
pub struct ForAudioFrameClassification<M: Module> {
    model: M,
    layer_weights: Option<Param<Tensor<1>>>,
    classifier: Linear,
}

impl<M: WaveformModel> Pretrained for ForAudioFrameClassification<M> {
    type Config = M::Config;
    const PREFIX: &'static str = M::PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::RENAMES;
    const OPTIONAL: &'static [&'static str] = M::OPTIONAL;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &M::Config, parts: &Parts, device: &Device) -> Self {
        let HeadConfig { hidden_size, num_labels, summed_layers, .. } = config.head(false);
        Self {
            model: M::new(config, parts, false, device),
            layer_weights: summed_layers.map(|layers| layer_weights(layers, device)),
            classifier: Linear::new(hidden_size, num_labels, true, device),
        }
    }
}

impl<M: WaveformModel> AudioFrameClassifier for ForAudioFrameClassification<M> {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3> {
        let x = weighted_sum(self.layer_weights.as_ref(), record, |record| self.model.encode(inputs, record));
        self.classifier.forward(x)
    }
}

/// One weight for each hidden state, all the same at first.
pub(in crate::models) fn layer_weights(layers: usize, device: &Device) -> Param<Tensor<1>> {
    constant([layers], 1.0 / layers as f64, device)
}

/// What `encode` gives; or the sum of all hidden states, weighted by a softmax, where there are weights. Yang et al., 2021
/// (arXiv:2105.01051), section 3.
///
/// # Shapes
/// - weights: `[layers + 1]`
/// - output: `[batch, frames, hidden]`
pub(in crate::models) fn weighted_sum(
    weights: Option<&Param<Tensor<1>>>,
    record: &mut Record,
    encode: impl FnOnce(&mut Record) -> Tensor<3>,
) -> Tensor<3> {
    let Some(weights) = weights else { return encode(record) };
    let mut own = Record::new(true, record.wants_attentions());
    let last = encode(&mut own);
    for map in own.kept("attentions") {
        if let Features::Map(map) = map {
            record.attention(map.clone());
        }
    }
    let weights = activation::softmax(weights.val(), 0);
    let mut sum = None;
    for (i, state) in own.kept("hidden_states").iter().enumerate() {
        if let Features::Sequence(x) = state {
            record.hidden_state(x);
            let term = x.clone() * weights.clone().narrow(0, i, 1).unsqueeze::<3>();
            sum = Some(match sum {
                Some(sum) => sum + term,
                None => term,
            });
        }
    }
    sum.unwrap_or(last)
}
