//! BERT: a bidirectional transformer encoder, trained by filling in masked tokens.
//!
//! Paper: Devlin et al., 2018 (arXiv:1810.04805).
//! Reference: transformers 5.23.0, `models/bert/modeling_bert.py`.
//! Sentence encoders such as MiniLM, E5, BGE and GTE are checkpoints of this architecture.

mod encoder;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, Embedding, LayerNorm, Linear};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, NextSentencePredictor, QuestionAnswerer, QuestionAnsweringOutput,
    Record, SequenceClassifier, TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

pub(super) use encoder::{Encoder, Intermediate, Output};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pub pad_token_id: usize,
    pub position_embedding_type: String,
    pub is_decoder: bool,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            position_embedding_type: "absolute".into(),
            is_decoder: false,
            tie_word_embeddings: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for BertConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        let position = &self.position_embedding_type;
        check.supported("position_embedding_type", position == "absolute", position, "absolute")?;
        check.supported("is_decoder", !self.is_decoder, self.is_decoder, "false")
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_position_embeddings),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
        }
    }
}

/// The encoder, with a pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct BertModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Option<Pooler>,
}

impl BertModel {
    pub(super) fn new(config: &BertConfig, pooler: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            pooler: pooler.then(|| Pooler::new(config, device)),
        }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let x = self.embeddings.forward(inputs, inputs.position_ids_or_range());
        self.encoder.forward(x, &inputs.mask(), record)
    }

    /// # Shapes
    /// - output: `[batch, hidden]`
    fn pool(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        let x = self.encode(inputs, record);
        match &self.pooler {
            Some(pooler) => pooler.forward(x),
            None => first_token(x),
        }
    }
}

impl Pretrained for BertModel {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler"];

    fn init(config: &BertConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("pooler"), device)
    }
}

impl TextModel for BertModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(x.clone()));
        BaseModelOutput { last_hidden_state: x, pooler_output }
    }
}

/// BERT with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct BertForMaskedLm {
    bert: BertModel,
    cls: Predictions<MlmHead>,
}

impl Pretrained for BertForMaskedLm {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler", "cls.seq_relationship"];

    fn tied(config: &BertConfig) -> &'static [(&'static str, &'static str)] {
        const TIED: &[(&str, &str)] = &[("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")];
        if config.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &BertConfig, _: &Parts, device: &Device) -> Self {
        let cls = Predictions { predictions: MlmHead::new(config, device) };
        Self { bert: BertModel::new(config, false, device), cls }
    }
}

impl MaskedLm for BertForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.cls.predictions.forward(self.bert.encode(inputs, record))
    }
}

/// BERT with a classifier on the pooled first token.
#[derive(Module, Debug)]
pub struct BertForSequenceClassification {
    bert: BertModel,
    classifier: Linear,
}

impl Pretrained for BertForSequenceClassification {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &BertConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { bert: BertModel::new(config, true, device), classifier }
    }
}

impl SequenceClassifier for BertForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.bert.pool(inputs, record))
    }
}

/// BERT with a classifier on every token.
#[derive(Module, Debug)]
pub struct BertForTokenClassification {
    bert: BertModel,
    classifier: Linear,
}

impl Pretrained for BertForTokenClassification {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &BertConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { bert: BertModel::new(config, false, device), classifier }
    }
}

impl TokenClassifier for BertForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.bert.encode(inputs, record))
    }
}

/// BERT with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct BertForQuestionAnswering {
    bert: BertModel,
    qa_outputs: Linear,
}

impl Pretrained for BertForQuestionAnswering {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &BertConfig, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.hidden_size, 2, true, device);
        Self { bert: BertModel::new(config, false, device), qa_outputs }
    }
}

impl QuestionAnswerer for BertForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(self.bert.encode(inputs, record)))
    }
}

/// BERT with one score per choice.
#[derive(Module, Debug)]
pub struct BertForMultipleChoice {
    bert: BertModel,
    classifier: Linear,
}

impl Pretrained for BertForMultipleChoice {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &BertConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, 1, true, device);
        Self { bert: BertModel::new(config, true, device), classifier }
    }
}

impl MultipleChoice for BertForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.bert.pool(inputs, record))
    }
}

/// BERT with a score for the second text following the first.
#[derive(Module, Debug)]
pub struct BertForNextSentencePrediction {
    bert: BertModel,
    cls: SeqRelationship,
}

#[derive(Module, Debug)]
struct SeqRelationship {
    seq_relationship: Linear,
}

impl Pretrained for BertForNextSentencePrediction {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["cls.predictions"];

    fn init(config: &BertConfig, _: &Parts, device: &Device) -> Self {
        let cls = SeqRelationship { seq_relationship: Linear::new(config.hidden_size, 2, true, device) };
        Self { bert: BertModel::new(config, true, device), cls }
    }
}

impl NextSentencePredictor for BertForNextSentencePrediction {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.cls.seq_relationship.forward(self.bert.pool(inputs, record))
    }
}

/// Word, token type and position vectors, summed and normalised.
#[derive(Module, Debug)]
pub(super) struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
}

impl Embeddings {
    pub(super) fn new(config: &BertConfig, device: &Device) -> Self {
        Self {
            word_embeddings: Embedding::new(config.vocab_size, config.hidden_size, device),
            position_embeddings: Embedding::new(config.max_position_embeddings, config.hidden_size, device),
            token_type_embeddings: Embedding::new(config.type_vocab_size, config.hidden_size, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    pub(super) fn forward(&self, inputs: &TextInputs, position_ids: Tensor<2, Int>) -> Tensor<3> {
        let words = self.word_embeddings.forward(inputs.input_ids.clone());
        let types = self.token_type_embeddings.forward(inputs.token_type_ids_or_zeros());
        let positions = self.position_embeddings.forward(position_ids);
        self.layer_norm.forward(words + types + positions)
    }
}

/// `tanh(dense(first token))`.
#[derive(Module, Debug)]
pub(super) struct Pooler {
    dense: Linear,
}

impl Pooler {
    pub(super) fn new(config: &BertConfig, device: &Device) -> Self {
        Self { dense: Linear::new(config.hidden_size, config.hidden_size, true, device) }
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        self.dense.forward(first_token(x)).tanh()
    }
}

/// # Shapes
/// - x: `[batch, seq, hidden]`
/// - output: `[batch, hidden]`
pub(super) fn first_token(x: Tensor<3>) -> Tensor<2> {
    x.narrow(1, 0, 1).squeeze_dim(1)
}

#[derive(Module, Debug)]
struct Predictions<M: Module> {
    predictions: M,
}

#[derive(Module, Debug)]
struct MlmHead {
    transform: Transform,
    decoder: Linear,
}

#[derive(Module, Debug)]
struct Transform {
    dense: Linear,
    layer_norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl MlmHead {
    fn new(config: &BertConfig, device: &Device) -> Self {
        let transform = Transform {
            dense: Linear::new(config.hidden_size, config.hidden_size, true, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            act: config.hidden_act,
        };
        Self { transform, decoder: Linear::new(config.hidden_size, config.vocab_size, true, device) }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let Transform { dense, layer_norm, act } = &self.transform;
        self.decoder.forward(layer_norm.forward(dense.forward_activated(x, *act)))
    }
}

/// BERT's names in files; RoBERTa, ELECTRA and others share them.
pub(super) const RENAMES: &[Rename] = &[
    Rename { module: "self_", file: &["self"] },
    Rename { module: "layer_norm", file: &["LayerNorm"] },
    // The decoder's bias is stored beside the decoder; old files have it twice.
    Rename { module: "predictions.decoder.bias", file: &["predictions.bias", "predictions.decoder.bias"] },
];
