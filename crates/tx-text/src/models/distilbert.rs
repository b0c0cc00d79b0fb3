//! DistilBERT: half of BERT's layers, trained to imitate it, without token types and pooler.
//!
//! Paper: Sanh et al., 2019 (arXiv:1910.01108).
//! Reference: transformers 5.23.0, `models/distilbert/modeling_distilbert.py`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier,
    TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::bert::{RENAMES, first_token};

/// The reference fixes the epsilon of every norm; the config has no key for it.
const LAYER_NORM_EPS: f64 = 1e-12;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DistilBertConfig {
    pub vocab_size: usize,
    #[serde(alias = "hidden_size")]
    pub dim: usize,
    #[serde(alias = "num_hidden_layers")]
    pub n_layers: usize,
    #[serde(alias = "num_attention_heads")]
    pub n_heads: usize,
    pub hidden_dim: usize,
    pub activation: Activation,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
}

impl Default for DistilBertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            dim: 768,
            n_layers: 6,
            n_heads: 12,
            hidden_dim: 4 * 768,
            activation: Activation::Gelu,
            max_position_embeddings: 512,
            tie_word_embeddings: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for DistilBertConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("dim", self.dim),
            ("n_heads", self.n_heads),
            ("hidden_dim", self.hidden_dim),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("n_layers", self.n_layers)?;
        check.divides("dim", self.dim, "n_heads", self.n_heads)
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_position_embeddings),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: 0,
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct DistilBertModel {
    embeddings: Embeddings,
    transformer: Transformer,
}

impl DistilBertModel {
    fn new(config: &DistilBertConfig, device: &Device) -> Self {
        Self { embeddings: Embeddings::new(config, device), transformer: Transformer::new(config, device) }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.transformer.forward(self.embeddings.forward(inputs), &inputs.mask(), record)
    }
}

impl Pretrained for DistilBertModel {
    type Config = DistilBertConfig;
    const PREFIX: &'static str = "distilbert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &DistilBertConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl TextModel for DistilBertModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        BaseModelOutput { last_hidden_state: self.encode(inputs, record), pooler_output: None }
    }
}

/// DistilBERT with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct DistilBertForMaskedLm {
    distilbert: DistilBertModel,
    vocab_transform: Linear,
    vocab_layer_norm: LayerNorm,
    vocab_projector: Linear,
    #[module(skip)]
    act: Activation,
}

impl Pretrained for DistilBertForMaskedLm {
    type Config = DistilBertConfig;
    const PREFIX: &'static str = "distilbert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn tied(config: &DistilBertConfig) -> &'static [(&'static str, &'static str)] {
        const TIED: &[(&str, &str)] = &[("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight")];
        if config.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &DistilBertConfig, _: &Parts, device: &Device) -> Self {
        Self {
            distilbert: DistilBertModel::new(config, device),
            vocab_transform: Linear::new(config.dim, config.dim, true, device),
            vocab_layer_norm: LayerNorm::new(config.dim, LAYER_NORM_EPS, device),
            vocab_projector: Linear::new(config.dim, config.vocab_size, true, device),
            act: config.activation,
        }
    }
}

impl MaskedLm for DistilBertForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let x = self.vocab_transform.forward_activated(self.distilbert.encode(inputs, record), self.act);
        self.vocab_projector.forward(self.vocab_layer_norm.forward(x))
    }
}

/// DistilBERT with a classifier on the first token.
#[derive(Module, Debug)]
pub struct DistilBertForSequenceClassification {
    distilbert: DistilBertModel,
    pre_classifier: Linear,
    classifier: Linear,
}

impl Pretrained for DistilBertForSequenceClassification {
    type Config = DistilBertConfig;
    const PREFIX: &'static str = "distilbert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &DistilBertConfig, _: &Parts, device: &Device) -> Self {
        Self {
            distilbert: DistilBertModel::new(config, device),
            pre_classifier: Linear::new(config.dim, config.dim, true, device),
            classifier: Linear::new(config.dim, config.num_labels, true, device),
        }
    }
}

impl SequenceClassifier for DistilBertForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        let x = first_token(self.distilbert.encode(inputs, record));
        self.classifier.forward(self.pre_classifier.forward_activated(x, Activation::Relu))
    }
}

/// DistilBERT with a classifier on every token.
#[derive(Module, Debug)]
pub struct DistilBertForTokenClassification {
    distilbert: DistilBertModel,
    classifier: Linear,
}

impl Pretrained for DistilBertForTokenClassification {
    type Config = DistilBertConfig;
    const PREFIX: &'static str = "distilbert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &DistilBertConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.dim, config.num_labels, true, device);
        Self { distilbert: DistilBertModel::new(config, device), classifier }
    }
}

impl TokenClassifier for DistilBertForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.distilbert.encode(inputs, record))
    }
}

/// DistilBERT with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct DistilBertForQuestionAnswering {
    distilbert: DistilBertModel,
    qa_outputs: Linear,
}

impl Pretrained for DistilBertForQuestionAnswering {
    type Config = DistilBertConfig;
    const PREFIX: &'static str = "distilbert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &DistilBertConfig, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.dim, 2, true, device);
        Self { distilbert: DistilBertModel::new(config, device), qa_outputs }
    }
}

impl QuestionAnswerer for DistilBertForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(self.distilbert.encode(inputs, record)))
    }
}

/// DistilBERT with one score per choice.
#[derive(Module, Debug)]
pub struct DistilBertForMultipleChoice {
    distilbert: DistilBertModel,
    pre_classifier: Linear,
    classifier: Linear,
}

impl Pretrained for DistilBertForMultipleChoice {
    type Config = DistilBertConfig;
    const PREFIX: &'static str = "distilbert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &DistilBertConfig, _: &Parts, device: &Device) -> Self {
        Self {
            distilbert: DistilBertModel::new(config, device),
            pre_classifier: Linear::new(config.dim, config.dim, true, device),
            classifier: Linear::new(config.dim, 1, true, device),
        }
    }
}

impl MultipleChoice for DistilBertForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        let x = first_token(self.distilbert.encode(inputs, record));
        self.classifier.forward(self.pre_classifier.forward_activated(x, Activation::Relu))
    }
}

/// Word and position vectors, summed and normalised.
#[derive(Module, Debug)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    layer_norm: LayerNorm,
}

impl Embeddings {
    fn new(config: &DistilBertConfig, device: &Device) -> Self {
        Self {
            word_embeddings: Embedding::new(config.vocab_size, config.dim, device),
            position_embeddings: Embedding::new(config.max_position_embeddings, config.dim, device),
            layer_norm: LayerNorm::new(config.dim, LAYER_NORM_EPS, device),
        }
    }

    fn forward(&self, inputs: &TextInputs) -> Tensor<3> {
        let words = self.word_embeddings.forward(inputs.input_ids.clone());
        let positions = self.position_embeddings.forward(inputs.position_ids_or_range());
        self.layer_norm.forward(words + positions)
    }
}

/// A stack of post-norm layers.
#[derive(Module, Debug)]
struct Transformer {
    layer: Vec<Layer>,
}

impl Transformer {
    fn new(config: &DistilBertConfig, device: &Device) -> Self {
        Self { layer: (0..config.n_layers).map(|_| Layer::new(config, device)).collect() }
    }

    fn forward(&self, mut x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        record.hidden_state(&x);
        for layer in &self.layer {
            x = layer.forward(x, mask, record);
            record.hidden_state(&x);
        }
        x
    }
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    sa_layer_norm: LayerNorm,
    ffn: Ffn,
    output_layer_norm: LayerNorm,
}

impl Layer {
    fn new(config: &DistilBertConfig, device: &Device) -> Self {
        Self {
            attention: Attention::new(config, device),
            sa_layer_norm: LayerNorm::new(config.dim, LAYER_NORM_EPS, device),
            ffn: Ffn::new(config, device),
            output_layer_norm: LayerNorm::new(config.dim, LAYER_NORM_EPS, device),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let x = self.sa_layer_norm.forward_residual(self.attention.forward(x.clone(), mask, record), x);
        self.output_layer_norm.forward_residual(self.ffn.forward(x.clone()), x)
    }
}

#[derive(Module, Debug)]
struct Attention {
    q_lin: Linear,
    k_lin: Linear,
    v_lin: Linear,
    out_lin: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &DistilBertConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.dim, config.dim, true, device);
        Self { q_lin: linear(), k_lin: linear(), v_lin: linear(), out_lin: linear(), heads: config.n_heads }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.q_lin, &self.k_lin, &self.v_lin]).map(|x| split_heads(x, self.heads));
        self.out_lin.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}

/// `lin2(act(lin1(x)))`.
#[derive(Module, Debug)]
struct Ffn {
    lin1: Linear,
    lin2: Linear,
    #[module(skip)]
    act: Activation,
}

impl Ffn {
    fn new(config: &DistilBertConfig, device: &Device) -> Self {
        Self {
            lin1: Linear::new(config.dim, config.hidden_dim, true, device),
            lin2: Linear::new(config.hidden_dim, config.dim, true, device),
            act: config.activation,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.lin2.forward(self.lin1.forward_activated(x, self.act))
    }
}
