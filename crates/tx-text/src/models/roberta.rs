//! RoBERTa: BERT trained longer on more text, with positions that skip padding and without next-sentence prediction.
//!
//! Paper: Liu et al., 2019 (arXiv:1907.11692). XLM-R: Conneau et al., 2019 (arXiv:1911.02116). CamemBERT: Martin et
//! al., 2019 (arXiv:1911.03894).
//! Reference: transformers 5.23.0, `models/roberta/modeling_roberta.py`.
//! Also serves: `xlm-roberta`, `camembert`.
//! Differs from `bert` in: positions, the masked-language-modelling head and the sequence classifier's head.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, LayerNorm, Linear};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier,
    TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::bert::{BertConfig, Embeddings, Encoder, Pooler, first_token};

/// BERT's keys of `config.json`, with RoBERTa's defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct RobertaConfig(BertConfig);

impl ModelConfig for RobertaConfig {
    type Limits = TextLimits;

    fn defaults() -> Vec<(&'static str, Value)> {
        vec![("vocab_size", 50265.into()), ("pad_token_id", 1.into())]
    }

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.0.validate(check)?;
        if self.max_length() == 0 {
            let (positions, padding) = (self.0.max_position_embeddings, self.0.pad_token_id);
            return Err(check.error(
                "max_position_embeddings",
                format_args!("{positions} leaves no position above `pad_token_id` = {padding}"),
            ));
        }
        Ok(())
    }

    fn limits(&self) -> TextLimits {
        TextLimits { max_length: Some(self.max_length()), ..self.0.limits() }
    }
}

impl RobertaConfig {
    /// Positions start above the one of padding, which is `pad_token_id`.
    fn max_length(&self) -> usize {
        self.0.max_position_embeddings.saturating_sub(self.0.pad_token_id).saturating_sub(1)
    }
}

/// The encoder, with a pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct RobertaModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Option<Pooler>,
    #[module(skip)]
    pad_token_id: usize,
}

impl RobertaModel {
    fn new(RobertaConfig(config): &RobertaConfig, pooler: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            pooler: pooler.then(|| Pooler::new(config, device)),
            pad_token_id: config.pad_token_id,
        }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let position_ids = inputs.position_ids_or_skip_padding(self.pad_token_id);
        let x = self.embeddings.forward(inputs, position_ids);
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

impl Pretrained for RobertaModel {
    type Config = RobertaConfig;
    const PREFIX: &'static str = "roberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler"];

    fn init(config: &RobertaConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("pooler"), device)
    }
}

impl TextModel for RobertaModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(x.clone()));
        BaseModelOutput { last_hidden_state: x, pooler_output }
    }
}

/// RoBERTa with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct RobertaForMaskedLm {
    roberta: RobertaModel,
    lm_head: LmHead,
}

impl Pretrained for RobertaForMaskedLm {
    type Config = RobertaConfig;
    const PREFIX: &'static str = "roberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn tied(config: &RobertaConfig) -> &'static [(&'static str, &'static str)] {
        const TIED: &[(&str, &str)] = &[("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight")];
        if config.0.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &RobertaConfig, _: &Parts, device: &Device) -> Self {
        Self { roberta: RobertaModel::new(config, false, device), lm_head: LmHead::new(&config.0, device) }
    }
}

impl MaskedLm for RobertaForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.lm_head.forward(self.roberta.encode(inputs, record))
    }
}

/// RoBERTa with a classifier on the first token.
#[derive(Module, Debug)]
pub struct RobertaForSequenceClassification {
    roberta: RobertaModel,
    classifier: ClassificationHead,
}

impl Pretrained for RobertaForSequenceClassification {
    type Config = RobertaConfig;
    const PREFIX: &'static str = "roberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &RobertaConfig, _: &Parts, device: &Device) -> Self {
        let classifier = ClassificationHead::new(config.0.hidden_size, config.0.num_labels, device);
        Self { roberta: RobertaModel::new(config, false, device), classifier }
    }
}

impl SequenceClassifier for RobertaForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.roberta.encode(inputs, record))
    }
}

/// RoBERTa with a classifier on every token.
#[derive(Module, Debug)]
pub struct RobertaForTokenClassification {
    roberta: RobertaModel,
    classifier: Linear,
}

impl Pretrained for RobertaForTokenClassification {
    type Config = RobertaConfig;
    const PREFIX: &'static str = "roberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &RobertaConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.0.hidden_size, config.0.num_labels, true, device);
        Self { roberta: RobertaModel::new(config, false, device), classifier }
    }
}

impl TokenClassifier for RobertaForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.roberta.encode(inputs, record))
    }
}

/// RoBERTa with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct RobertaForQuestionAnswering {
    roberta: RobertaModel,
    qa_outputs: Linear,
}

impl Pretrained for RobertaForQuestionAnswering {
    type Config = RobertaConfig;
    const PREFIX: &'static str = "roberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &RobertaConfig, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.0.hidden_size, 2, true, device);
        Self { roberta: RobertaModel::new(config, false, device), qa_outputs }
    }
}

impl QuestionAnswerer for RobertaForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(self.roberta.encode(inputs, record)))
    }
}

/// RoBERTa with one score per choice.
#[derive(Module, Debug)]
pub struct RobertaForMultipleChoice {
    roberta: RobertaModel,
    classifier: Linear,
}

impl Pretrained for RobertaForMultipleChoice {
    type Config = RobertaConfig;
    const PREFIX: &'static str = "roberta";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &RobertaConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.0.hidden_size, 1, true, device);
        Self { roberta: RobertaModel::new(config, true, device), classifier }
    }
}

impl MultipleChoice for RobertaForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.roberta.pool(inputs, record))
    }
}

/// `decoder(layer_norm(gelu(dense(x))))`; the activation is not the config's.
#[derive(Module, Debug)]
pub(super) struct LmHead {
    dense: Linear,
    layer_norm: LayerNorm,
    decoder: Linear,
}

impl LmHead {
    pub(super) fn new(config: &BertConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(config.hidden_size, config.hidden_size, true, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            decoder: Linear::new(config.hidden_size, config.vocab_size, true, device),
        }
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.dense.forward_activated(x, Activation::Gelu);
        self.decoder.forward(self.layer_norm.forward(x))
    }
}

/// `out_proj(tanh(dense(first token)))`.
#[derive(Module, Debug)]
pub(super) struct ClassificationHead {
    dense: Linear,
    out_proj: Linear,
}

impl ClassificationHead {
    pub(super) fn new(hidden: usize, labels: usize, device: &Device) -> Self {
        Self { dense: Linear::new(hidden, hidden, true, device), out_proj: Linear::new(hidden, labels, true, device) }
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        self.out_proj.forward(self.dense.forward(first_token(x)).tanh())
    }
}

/// RoBERTa's names in files; MPNet shares them.
pub(super) const RENAMES: &[Rename] = &[
    Rename { module: "self_", file: &["self"] },
    Rename { module: "layer_norm", file: &["LayerNorm"] },
    // Renames apply in order: the head alone has a norm in lower case, so it takes the last one back.
    Rename { module: "lm_head.LayerNorm", file: &["lm_head.layer_norm"] },
    // The decoder's bias is stored beside the decoder; old files have it twice.
    Rename { module: "lm_head.decoder.bias", file: &["lm_head.bias", "lm_head.decoder.bias"] },
];
