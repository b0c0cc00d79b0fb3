//! ModernBERT: a pre-norm encoder with rotary positions and gated MLPs, in which most layers see near tokens only.
//!
//! Paper: Warner et al., 2024 (arXiv:2412.13663).
//! Reference: transformers 5.23.0, `models/modernbert/modeling_modernbert.py`.

mod encoder;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, LayerNorm, Linear, Rope};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier,
    TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use self::LayerType::{FullAttention, SlidingAttention};
use self::encoder::{Embeddings, Layer, View};
use super::bert::first_token;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ModernBertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub hidden_activation: Activation,
    pub norm_eps: f64,
    pub norm_bias: bool,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    /// How many tokens a local layer sees, half of them on either side.
    pub local_attention: usize,
    pub classifier_pooling: Pooling,
    pub classifier_bias: bool,
    pub classifier_activation: Activation,
    pub decoder_bias: bool,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
    /// The kind of each layer; older files have `global_attn_every_n_layers` in its place.
    layer_types: Option<Vec<LayerType>>,
    global_attn_every_n_layers: usize,
    /// The rotation of each kind; older files have the two thetas in its place.
    rope_parameters: RopeByLayerType,
    global_rope_theta: f64,
    local_rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
}

/// What a layer sees: all, or what is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RopeByLayerType {
    full_attention: Option<RopeParameters>,
    sliding_attention: Option<RopeParameters>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RopeParameters {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

/// How a classifier makes one vector of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token.
    Cls,
    /// The mean of the tokens.
    Mean,
}

impl Default for ModernBertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50368,
            hidden_size: 768,
            intermediate_size: 1152,
            num_hidden_layers: 22,
            num_attention_heads: 12,
            hidden_activation: Activation::Gelu,
            norm_eps: 1e-5,
            norm_bias: false,
            attention_bias: false,
            mlp_bias: false,
            local_attention: 128,
            classifier_pooling: Pooling::Cls,
            classifier_bias: false,
            classifier_activation: Activation::Gelu,
            decoder_bias: true,
            tie_word_embeddings: true,
            num_labels: 2,
            layer_types: None,
            global_attn_every_n_layers: 3,
            rope_parameters: RopeByLayerType::default(),
            global_rope_theta: 160_000.0,
            local_rope_theta: 10_000.0,
            rope_scaling: None,
        }
    }
}

impl ModernBertConfig {
    fn layer_types(&self) -> Vec<LayerType> {
        let interval = self.global_attn_every_n_layers;
        let layer_type = |i: usize| if i.is_multiple_of(interval) { FullAttention } else { SlidingAttention };
        self.layer_types.clone().unwrap_or_else(|| (0..self.num_hidden_layers).map(layer_type).collect())
    }

    fn rope_theta(&self, layer_type: LayerType) -> f64 {
        let (rope, older) = match layer_type {
            FullAttention => (&self.rope_parameters.full_attention, self.global_rope_theta),
            SlidingAttention => (&self.rope_parameters.sliding_attention, self.local_rope_theta),
        };
        rope.as_ref().and_then(|rope| rope.rope_theta).unwrap_or(older)
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::with_bias(self.hidden_size, self.norm_eps, self.norm_bias, device)
    }
}

impl ModelConfig for ModernBertConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("local_attention", self.local_attention),
            ("global_attn_every_n_layers", self.global_attn_every_n_layers),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.epsilon("norm_eps", self.norm_eps)?;
        // Each head is rotated in pairs.
        check.divides("hidden_size", self.hidden_size, "2 · num_attention_heads", 2 * self.num_attention_heads)?;
        // The frequencies of the rotation are computed before any weight is compared.
        check.range("hidden_size", self.hidden_size, 2, self.num_attention_heads.saturating_mul(1 << 16))?;
        if let Some(types) = self.layer_types.as_ref().filter(|types| types.len() != self.num_hidden_layers) {
            let reason = format_args!("{} layers, but `num_hidden_layers` = {}", types.len(), self.num_hidden_layers);
            return Err(check.error("layer_types", reason));
        }
        let RopeByLayerType { full_attention, sliding_attention } = &self.rope_parameters;
        for rope in full_attention.iter().chain(sliding_attention) {
            let rope_type = rope.rope_type.as_deref().unwrap_or("default");
            check.supported("rope_type", rope_type == "default", rope_type, "default")?;
        }
        for theta in [FullAttention, SlidingAttention].map(|layer_type| self.rope_theta(layer_type)) {
            if !(theta.is_finite() && theta > 0.0) {
                return Err(check.error("rope_theta", format_args!("{theta}, expected a positive number")));
            }
        }
        let scaling = self.rope_scaling.as_ref().map_or_else(String::new, serde_json::Value::to_string);
        check.supported("rope_scaling", scaling.is_empty(), &scaling, "null")
    }

    fn limits(&self) -> TextLimits {
        // Rotations have no end: `max_position_embeddings` is what the model was trained for.
        TextLimits::unlimited(self.vocab_size, None)
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct ModernBertModel {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    #[module(skip)]
    full_rope: Rope,
    #[module(skip)]
    sliding_rope: Rope,
    /// How far a local layer sees to either side.
    #[module(skip)]
    reach: usize,
}

impl ModernBertModel {
    fn new(config: &ModernBertConfig, device: &Device) -> Self {
        let head_dim = config.hidden_size / config.num_attention_heads;
        let rope = |layer_type| Rope::new(head_dim, config.rope_theta(layer_type));
        let layers = config.layer_types().into_iter().enumerate();
        Self {
            embeddings: Embeddings::new(config, device),
            layers: layers.map(|(i, layer_type)| Layer::new(i, layer_type, config, device)).collect(),
            final_norm: config.norm(device),
            full_rope: rope(FullAttention),
            sliding_rope: rope(SlidingAttention),
            reach: config.local_attention / 2,
        }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let position_ids = inputs.position_ids_or_range();
        let length = inputs.input_ids.dims()[1];
        let full = View { rope: self.full_rope.table(position_ids.clone(), length), mask: inputs.mask() };
        let sliding = View { rope: self.sliding_rope.table(position_ids, length), mask: full.mask.within(self.reach) };
        let mut x = self.embeddings.forward(inputs);
        for layer in &self.layers {
            record.hidden_state(&x);
            let view = match layer.layer_type {
                FullAttention => &full,
                SlidingAttention => &sliding,
            };
            x = layer.forward(x, view, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.final_norm.forward(x);
        record.hidden_state(&x);
        x
    }
}

impl Pretrained for ModernBertModel {
    type Config = ModernBertConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ModernBertConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl TextModel for ModernBertModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        BaseModelOutput { last_hidden_state: self.encode(inputs, record), pooler_output: None }
    }
}

/// ModernBERT with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct ModernBertForMaskedLm {
    model: ModernBertModel,
    head: PredictionHead,
    decoder: Linear,
}

impl Pretrained for ModernBertForMaskedLm {
    type Config = ModernBertConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn tied(config: &ModernBertConfig) -> &'static [(&'static str, &'static str)] {
        const TIED: &[(&str, &str)] = &[("decoder.weight", "model.embeddings.tok_embeddings.weight")];
        if config.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &ModernBertConfig, _: &Parts, device: &Device) -> Self {
        Self {
            model: ModernBertModel::new(config, device),
            head: PredictionHead::new(config, device),
            decoder: Linear::new(config.hidden_size, config.vocab_size, config.decoder_bias, device),
        }
    }
}

impl MaskedLm for ModernBertForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.decoder.forward(self.head.forward(self.model.encode(inputs, record)))
    }
}

/// ModernBERT with a classifier on the pooled tokens.
#[derive(Module, Debug)]
pub struct ModernBertForSequenceClassification {
    model: ModernBertModel,
    head: PredictionHead,
    classifier: Linear,
    #[module(skip)]
    pooling: Pooling,
}

impl Pretrained for ModernBertForSequenceClassification {
    type Config = ModernBertConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ModernBertConfig, _: &Parts, device: &Device) -> Self {
        let (model, head, classifier) = classifier(config.num_labels, config, device);
        Self { model, head, classifier, pooling: config.classifier_pooling }
    }
}

impl SequenceClassifier for ModernBertForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        let x = self.model.encode(inputs, record);
        let pooled = match self.pooling {
            Pooling::Cls => first_token(x),
            Pooling::Mean => mean(x, inputs.attention_mask.clone()),
        };
        self.classifier.forward(self.head.forward(pooled))
    }
}

/// ModernBERT with a classifier on every token.
#[derive(Module, Debug)]
pub struct ModernBertForTokenClassification {
    model: ModernBertModel,
    head: PredictionHead,
    classifier: Linear,
}

impl Pretrained for ModernBertForTokenClassification {
    type Config = ModernBertConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ModernBertConfig, _: &Parts, device: &Device) -> Self {
        let (model, head, classifier) = classifier(config.num_labels, config, device);
        Self { model, head, classifier }
    }
}

impl TokenClassifier for ModernBertForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.head.forward(self.model.encode(inputs, record)))
    }
}

/// ModernBERT with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct ModernBertForQuestionAnswering {
    model: ModernBertModel,
    head: PredictionHead,
    classifier: Linear,
}

impl Pretrained for ModernBertForQuestionAnswering {
    type Config = ModernBertConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ModernBertConfig, _: &Parts, device: &Device) -> Self {
        let (model, head, classifier) = classifier(2, config, device);
        Self { model, head, classifier }
    }
}

impl QuestionAnswerer for ModernBertForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        let x = self.head.forward(self.model.encode(inputs, record));
        QuestionAnsweringOutput::split(self.classifier.forward(x))
    }
}

/// ModernBERT with one score per choice.
#[derive(Module, Debug)]
pub struct ModernBertForMultipleChoice {
    model: ModernBertModel,
    head: PredictionHead,
    classifier: Linear,
    #[module(skip)]
    pooling: Pooling,
}

impl Pretrained for ModernBertForMultipleChoice {
    type Config = ModernBertConfig;
    const PREFIX: &'static str = "model";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ModernBertConfig, _: &Parts, device: &Device) -> Self {
        let (model, head, classifier) = classifier(1, config, device);
        Self { model, head, classifier, pooling: config.classifier_pooling }
    }
}

impl MultipleChoice for ModernBertForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        let x = self.model.encode(inputs, record);
        let mask = inputs.attention_mask.clone();
        let pooled = match (self.pooling, mask) {
            (Pooling::Mean, mask) => mean(x, mask),
            (Pooling::Cls, None) => first_token(x),
            // Unlike a sequence classifier, this one skips padding on the left.
            (Pooling::Cls, Some(mask)) => {
                let first = mask.clone().cumsum(1).equal_elem(1).int() * mask;
                mean(x, Some(first))
            }
        };
        self.classifier.forward(self.head.forward(pooled))
    }
}

/// The parts that all classifiers have.
fn classifier(labels: usize, config: &ModernBertConfig, device: &Device) -> (ModernBertModel, PredictionHead, Linear) {
    let classifier = Linear::new(config.hidden_size, labels, true, device);
    (ModernBertModel::new(config, device), PredictionHead::new(config, device), classifier)
}

/// The mean of the tokens that the mask has ones for.
///
/// # Shapes
/// - x: `[batch, seq, hidden]`
/// - mask: `[batch, seq]`
/// - output: `[batch, hidden]`
fn mean(x: Tensor<3>, mask: Option<Tensor<2, Int>>) -> Tensor<2> {
    let Some(mask) = mask else { return x.mean_dim(1).squeeze_dim(1) };
    let mask = mask.float();
    (x * mask.clone().unsqueeze_dim(2)).sum_dim(1).squeeze_dim(1) / mask.sum_dim(1)
}

/// `norm(act(dense(x)))`, before a classifier or decoder.
#[derive(Module, Debug)]
struct PredictionHead {
    dense: Linear,
    norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl PredictionHead {
    fn new(config: &ModernBertConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(config.hidden_size, config.hidden_size, config.classifier_bias, device),
            norm: config.norm(device),
            act: config.classifier_activation,
        }
    }

    fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.norm.forward(self.dense.forward_activated(x, self.act))
    }
}

const RENAMES: &[Rename] = &[
    Rename { module: "wqkv", file: &["Wqkv"] },
    Rename { module: "wi", file: &["Wi"] },
    Rename { module: "wo", file: &["Wo"] },
];
