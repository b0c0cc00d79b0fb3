//! ELECTRA: BERT trained to tell replaced tokens from true ones, with word vectors that may be narrower than the layers.
//!
//! Paper: Clark et al., 2020 (arXiv:2003.10555).
//! Reference: transformers 5.23.0, `models/electra/modeling_electra.py`.
//! Differs from `bert` in: a projection after the embeddings, no pooler, and all heads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, LayerNorm, Linear};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier,
    TextInputs, TextLimits, TextModel, TokenClassifier, TokenDiscriminator,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::bert::{BertConfig, Embeddings, Encoder, RENAMES, first_token};

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ElectraConfig {
    pub vocab_size: usize,
    pub embedding_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pub position_embedding_type: String,
    pub is_decoder: bool,
    pub summary_type: String,
    pub summary_use_proj: bool,
    pub summary_activation: Activation,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
}

impl Default for ElectraConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            embedding_size: 128,
            hidden_size: 256,
            num_hidden_layers: 12,
            num_attention_heads: 4,
            intermediate_size: 1024,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            position_embedding_type: "absolute".into(),
            is_decoder: false,
            summary_type: "first".into(),
            summary_use_proj: true,
            summary_activation: Activation::Gelu,
            tie_word_embeddings: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for ElectraConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.bert(self.hidden_size).validate(check)?;
        check.size("embedding_size", self.embedding_size)?;
        let summary = &self.summary_type;
        check.supported("summary_type", summary == "first", summary, "first")
    }

    fn limits(&self) -> TextLimits {
        self.bert(self.hidden_size).limits()
    }
}

impl ElectraConfig {
    /// The embeddings and the encoder are BERT's, each at its own width.
    fn bert(&self, hidden_size: usize) -> BertConfig {
        BertConfig {
            vocab_size: self.vocab_size,
            hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.hidden_act,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
            layer_norm_eps: self.layer_norm_eps,
            position_embedding_type: self.position_embedding_type.clone(),
            is_decoder: self.is_decoder,
            num_labels: self.num_labels,
            ..BertConfig::default()
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct ElectraModel {
    embeddings: Embeddings,
    /// `None` where the embeddings are as wide as the layers.
    embeddings_project: Option<Linear>,
    encoder: Encoder,
}

impl ElectraModel {
    fn new(config: &ElectraConfig, device: &Device) -> Self {
        let (from, to) = (config.embedding_size, config.hidden_size);
        Self {
            embeddings: Embeddings::new(&config.bert(from), device),
            embeddings_project: (from != to).then(|| Linear::new(from, to, true, device)),
            encoder: Encoder::new(&config.bert(to), device),
        }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let x = self.embeddings.forward(inputs, inputs.position_ids_or_range());
        let x = match &self.embeddings_project {
            Some(project) => project.forward(x),
            None => x,
        };
        self.encoder.forward(x, &inputs.mask(), record)
    }
}

impl Pretrained for ElectraModel {
    type Config = ElectraConfig;
    const PREFIX: &'static str = "electra";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ElectraConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl TextModel for ElectraModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        BaseModelOutput { last_hidden_state: self.encode(inputs, record), pooler_output: None }
    }
}

/// The generator: ELECTRA with a masked-language-modelling head.
#[derive(Module, Debug)]
pub struct ElectraForMaskedLm {
    electra: ElectraModel,
    generator_predictions: GeneratorPredictions,
    generator_lm_head: Linear,
}

impl Pretrained for ElectraForMaskedLm {
    type Config = ElectraConfig;
    const PREFIX: &'static str = "electra";
    const RENAMES: &'static [Rename] = RENAMES;

    fn tied(config: &ElectraConfig) -> &'static [(&'static str, &'static str)] {
        const TIED: &[(&str, &str)] = &[("generator_lm_head.weight", "electra.embeddings.word_embeddings.weight")];
        if config.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &ElectraConfig, _: &Parts, device: &Device) -> Self {
        Self {
            electra: ElectraModel::new(config, device),
            generator_predictions: GeneratorPredictions::new(config, device),
            generator_lm_head: Linear::new(config.embedding_size, config.vocab_size, true, device),
        }
    }
}

impl MaskedLm for ElectraForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let x = self.electra.encode(inputs, record);
        self.generator_lm_head.forward(self.generator_predictions.forward(x))
    }
}

/// The discriminator: ELECTRA with a score for each token having been replaced.
#[derive(Module, Debug)]
pub struct ElectraForPreTraining {
    electra: ElectraModel,
    discriminator_predictions: DiscriminatorPredictions,
}

impl Pretrained for ElectraForPreTraining {
    type Config = ElectraConfig;
    const PREFIX: &'static str = "electra";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ElectraConfig, _: &Parts, device: &Device) -> Self {
        let discriminator_predictions = DiscriminatorPredictions::new(config, device);
        Self { electra: ElectraModel::new(config, device), discriminator_predictions }
    }
}

impl TokenDiscriminator for ElectraForPreTraining {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.discriminator_predictions.forward(self.electra.encode(inputs, record))
    }
}

/// ELECTRA with a classifier on the first token.
#[derive(Module, Debug)]
pub struct ElectraForSequenceClassification {
    electra: ElectraModel,
    classifier: ClassificationHead,
}

impl Pretrained for ElectraForSequenceClassification {
    type Config = ElectraConfig;
    const PREFIX: &'static str = "electra";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ElectraConfig, _: &Parts, device: &Device) -> Self {
        Self { electra: ElectraModel::new(config, device), classifier: ClassificationHead::new(config, device) }
    }
}

impl SequenceClassifier for ElectraForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.electra.encode(inputs, record))
    }
}

/// ELECTRA with a classifier on every token.
#[derive(Module, Debug)]
pub struct ElectraForTokenClassification {
    electra: ElectraModel,
    classifier: Linear,
}

impl Pretrained for ElectraForTokenClassification {
    type Config = ElectraConfig;
    const PREFIX: &'static str = "electra";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ElectraConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { electra: ElectraModel::new(config, device), classifier }
    }
}

impl TokenClassifier for ElectraForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.electra.encode(inputs, record))
    }
}

/// ELECTRA with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct ElectraForQuestionAnswering {
    electra: ElectraModel,
    qa_outputs: Linear,
}

impl Pretrained for ElectraForQuestionAnswering {
    type Config = ElectraConfig;
    const PREFIX: &'static str = "electra";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ElectraConfig, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.hidden_size, 2, true, device);
        Self { electra: ElectraModel::new(config, device), qa_outputs }
    }
}

impl QuestionAnswerer for ElectraForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(self.electra.encode(inputs, record)))
    }
}

/// ELECTRA with one score per choice.
#[derive(Module, Debug)]
pub struct ElectraForMultipleChoice {
    electra: ElectraModel,
    sequence_summary: SequenceSummary,
    classifier: Linear,
}

impl Pretrained for ElectraForMultipleChoice {
    type Config = ElectraConfig;
    const PREFIX: &'static str = "electra";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &ElectraConfig, _: &Parts, device: &Device) -> Self {
        Self {
            electra: ElectraModel::new(config, device),
            sequence_summary: SequenceSummary::new(config, device),
            classifier: Linear::new(config.hidden_size, 1, true, device),
        }
    }
}

impl MultipleChoice for ElectraForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.sequence_summary.forward(self.electra.encode(inputs, record)))
    }
}

/// `layer_norm(gelu(dense(x)))`, at the width of the word vectors; the activation is not the config's.
#[derive(Module, Debug)]
struct GeneratorPredictions {
    dense: Linear,
    layer_norm: LayerNorm,
}

impl GeneratorPredictions {
    fn new(config: &ElectraConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(config.hidden_size, config.embedding_size, true, device),
            layer_norm: LayerNorm::new(config.embedding_size, config.layer_norm_eps, device),
        }
    }

    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - output: `[batch, seq, embedding]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.layer_norm.forward(self.dense.forward_activated(x, Activation::Gelu))
    }
}

/// `dense_prediction(act(dense(x)))`.
#[derive(Module, Debug)]
struct DiscriminatorPredictions {
    dense: Linear,
    dense_prediction: Linear,
    #[module(skip)]
    act: Activation,
}

impl DiscriminatorPredictions {
    fn new(config: &ElectraConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(config.hidden_size, config.hidden_size, true, device),
            dense_prediction: Linear::new(config.hidden_size, 1, true, device),
            act: config.hidden_act,
        }
    }

    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - output: `[batch, seq]`
    fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        self.dense_prediction.forward(self.dense.forward_activated(x, self.act)).squeeze_dim(2)
    }
}

/// `out_proj(gelu(dense(first token)))`; the activation is not the config's.
#[derive(Module, Debug)]
struct ClassificationHead {
    dense: Linear,
    out_proj: Linear,
}

impl ClassificationHead {
    fn new(config: &ElectraConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(config.hidden_size, config.hidden_size, true, device),
            out_proj: Linear::new(config.hidden_size, config.num_labels, true, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        self.out_proj.forward(self.dense.forward_activated(first_token(x), Activation::Gelu))
    }
}

/// `act(summary(first token))`.
#[derive(Module, Debug)]
struct SequenceSummary {
    summary: Option<Linear>,
    #[module(skip)]
    act: Activation,
}

impl SequenceSummary {
    fn new(config: &ElectraConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        Self { summary: config.summary_use_proj.then(linear), act: config.summary_activation }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let x = first_token(x);
        match &self.summary {
            Some(summary) => summary.forward_activated(x, self.act),
            None => self.act.forward(x),
        }
    }
}
