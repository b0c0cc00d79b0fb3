//! DeBERTa-v2 and v3: an encoder whose attention weighs contents and relative positions apart from each other.
//!
//! Paper: He et al., 2020 (arXiv:2006.03654); v3: He et al., 2021 (arXiv:2111.09543).
//! Reference: transformers 5.23.0, `models/deberta_v2/modeling_deberta_v2.py`.
//! Differs from `bert` in: attention, embeddings that are zero at padding, no pooler, a convolution beside the first
//! layer of v2.

mod encoder;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, LayerNorm, Linear};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier,
    TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use self::encoder::{Embeddings, Encoder};
use super::bert::first_token;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DebertaV2Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pub position_biased_input: bool,
    pub relative_attention: bool,
    pub pos_att_type: PosAttType,
    pub share_att_key: bool,
    pub norm_rel_ebd: String,
    pub conv_kernel_size: usize,
    pub conv_groups: usize,
    pub conv_act: Activation,
    pub pooler_hidden_act: Activation,
    /// Which head for masked tokens the checkpoint has: see `Head`.
    pub legacy: bool,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
    /// `max_position_embeddings` unless positive.
    max_relative_positions: i64,
    /// Unless positive, every distance has a vector of its own.
    position_buckets: i64,
    embedding_size: Option<usize>,
    attention_head_size: Option<usize>,
}

/// HF's `pos_att_type`: a list of names, or one text with bars between them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a list of names or one text with bars between them")]
pub enum PosAttType {
    List(Vec<String>),
    Text(String),
}

impl PosAttType {
    fn names(&self) -> Vec<String> {
        match self {
            Self::List(names) => names.clone(),
            Self::Text(names) => split(names),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names().iter().any(|n| n == name)
    }
}

/// The names between the bars of `text`.
fn split(text: &str) -> Vec<String> {
    text.to_lowercase().split('|').map(|name| name.trim().to_owned()).collect()
}

impl Default for DebertaV2Config {
    fn default() -> Self {
        Self {
            vocab_size: 128_100,
            hidden_size: 1536,
            num_hidden_layers: 24,
            num_attention_heads: 24,
            intermediate_size: 6144,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 0,
            layer_norm_eps: 1e-7,
            position_biased_input: true,
            relative_attention: false,
            pos_att_type: PosAttType::List(Vec::new()),
            share_att_key: false,
            norm_rel_ebd: "none".into(),
            conv_kernel_size: 0,
            conv_groups: 1,
            conv_act: Activation::Tanh,
            pooler_hidden_act: Activation::Gelu,
            legacy: true,
            tie_word_embeddings: true,
            num_labels: 2,
            max_relative_positions: -1,
            position_buckets: -1,
            embedding_size: None,
            attention_head_size: None,
        }
    }
}

impl DebertaV2Config {
    fn norms_relative_positions(&self) -> bool {
        split(&self.norm_rel_ebd).iter().any(|name| name == "layer_norm")
    }

    fn embedding_size(&self) -> usize {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    fn max_relative_positions(&self) -> usize {
        positive(self.max_relative_positions).unwrap_or(self.max_position_embeddings)
    }
}

/// `n` unless it stands for nothing.
fn positive(n: i64) -> Option<usize> {
    usize::try_from(n).ok().filter(|&n| n > 0)
}

impl ModelConfig for DebertaV2Config {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("max_relative_positions", self.max_relative_positions()),
            ("embedding_size", self.embedding_size()),
            ("conv_groups", self.conv_groups),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.range("type_vocab_size", self.type_vocab_size, 0, 1 << 31)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.divides("hidden_size", self.hidden_size, "conv_groups", self.conv_groups)?;
        check.range("conv_kernel_size", self.conv_kernel_size, 0, 1023)?;
        if self.conv_kernel_size != 0 && self.conv_kernel_size.is_multiple_of(2) {
            let reason = format_args!("{} is even, expected 0 or an odd number", self.conv_kernel_size);
            return Err(check.error("conv_kernel_size", reason));
        }
        if let Some(buckets) = positive(self.position_buckets) {
            check.range("position_buckets", buckets, 2, 1 << 31)?;
        }
        for name in self.pos_att_type.names() {
            check.supported("pos_att_type", ["c2p", "p2c", ""].contains(&name.as_str()), &name, "c2p, p2c")?;
        }
        let head_size = self.hidden_size / self.num_attention_heads;
        let found = self.attention_head_size.unwrap_or(head_size);
        check.supported("attention_head_size", found == head_size, found, "hidden_size / num_attention_heads")?;
        // The newer head multiplies hidden states by the word table itself.
        let size = self.embedding_size();
        let fits = self.legacy || size == self.hidden_size;
        check.supported("embedding_size", fits, size, "hidden_size, if `legacy` is false")
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            // Relative positions have no end: the last bucket takes what is further away.
            max_length: self.position_biased_input.then_some(self.max_position_embeddings),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct DebertaV2Model {
    embeddings: Embeddings,
    encoder: Encoder,
}

impl DebertaV2Model {
    fn new(config: &DebertaV2Config, device: &Device) -> Self {
        Self { embeddings: Embeddings::new(config, device), encoder: Encoder::new(config, device) }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let mask = inputs.mask();
        self.encoder.forward(self.embeddings.forward(inputs, &mask), &mask, record)
    }
}

impl Pretrained for DebertaV2Model {
    type Config = DebertaV2Config;
    const PREFIX: &'static str = "deberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = IGNORED;

    fn init(config: &DebertaV2Config, _: &Parts, device: &Device) -> Self {
        Self::new(config, device)
    }
}

impl TextModel for DebertaV2Model {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        BaseModelOutput { last_hidden_state: self.encode(inputs, record), pooler_output: None }
    }
}

/// DeBERTa-v2 with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct DebertaV2ForMaskedLm {
    deberta: DebertaV2Model,
    head: Head,
}

impl Pretrained for DebertaV2ForMaskedLm {
    type Config = DebertaV2Config;
    const PREFIX: &'static str = "deberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = IGNORED;

    fn tied(config: &DebertaV2Config) -> &'static [(&'static str, &'static str)] {
        const CLS: &[(&str, &str)] = &[("head.Cls.decoder.weight", "deberta.embeddings.word_embeddings.weight")];
        // This head has no matrix of its own, whatever `tie_word_embeddings` says.
        const LM_PREDICTIONS: &[(&str, &str)] =
            &[("head.LmPredictions.decoder.weight", "deberta.embeddings.word_embeddings.weight")];
        match (config.legacy, config.tie_word_embeddings) {
            (true, true) => CLS,
            (true, false) => &[],
            (false, _) => LM_PREDICTIONS,
        }
    }

    fn init(config: &DebertaV2Config, _: &Parts, device: &Device) -> Self {
        let head = MlmHead::new(config, device);
        let head = if config.legacy { Head::Cls(head) } else { Head::LmPredictions(head) };
        Self { deberta: DebertaV2Model::new(config, device), head }
    }
}

impl MaskedLm for DebertaV2ForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        let (Head::Cls(head) | Head::LmPredictions(head)) = &self.head;
        head.forward(self.deberta.encode(inputs, record))
    }
}

/// DeBERTa-v2 with a classifier on the pooled first token.
#[derive(Module, Debug)]
pub struct DebertaV2ForSequenceClassification {
    deberta: DebertaV2Model,
    pooler: ContextPooler,
    classifier: Linear,
}

impl Pretrained for DebertaV2ForSequenceClassification {
    type Config = DebertaV2Config;
    const PREFIX: &'static str = "deberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = IGNORED;

    fn init(config: &DebertaV2Config, _: &Parts, device: &Device) -> Self {
        Self {
            deberta: DebertaV2Model::new(config, device),
            pooler: ContextPooler::new(config, device),
            classifier: Linear::new(config.hidden_size, config.num_labels, true, device),
        }
    }
}

impl SequenceClassifier for DebertaV2ForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.pooler.forward(self.deberta.encode(inputs, record)))
    }
}

/// DeBERTa-v2 with a classifier on every token.
#[derive(Module, Debug)]
pub struct DebertaV2ForTokenClassification {
    deberta: DebertaV2Model,
    classifier: Linear,
}

impl Pretrained for DebertaV2ForTokenClassification {
    type Config = DebertaV2Config;
    const PREFIX: &'static str = "deberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = IGNORED;

    fn init(config: &DebertaV2Config, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { deberta: DebertaV2Model::new(config, device), classifier }
    }
}

impl TokenClassifier for DebertaV2ForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.deberta.encode(inputs, record))
    }
}

/// DeBERTa-v2 with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct DebertaV2ForQuestionAnswering {
    deberta: DebertaV2Model,
    qa_outputs: Linear,
}

impl Pretrained for DebertaV2ForQuestionAnswering {
    type Config = DebertaV2Config;
    const PREFIX: &'static str = "deberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = IGNORED;

    fn init(config: &DebertaV2Config, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.hidden_size, 2, true, device);
        Self { deberta: DebertaV2Model::new(config, device), qa_outputs }
    }
}

impl QuestionAnswerer for DebertaV2ForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(self.deberta.encode(inputs, record)))
    }
}

/// DeBERTa-v2 with one score per choice.
#[derive(Module, Debug)]
pub struct DebertaV2ForMultipleChoice {
    deberta: DebertaV2Model,
    pooler: ContextPooler,
    classifier: Linear,
}

impl Pretrained for DebertaV2ForMultipleChoice {
    type Config = DebertaV2Config;
    const PREFIX: &'static str = "deberta";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = IGNORED;

    fn init(config: &DebertaV2Config, _: &Parts, device: &Device) -> Self {
        Self {
            deberta: DebertaV2Model::new(config, device),
            pooler: ContextPooler::new(config, device),
            classifier: Linear::new(config.hidden_size, 1, true, device),
        }
    }
}

impl MultipleChoice for DebertaV2ForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.pooler.forward(self.deberta.encode(inputs, record)))
    }
}

/// `act(dense(first token))`.
#[derive(Module, Debug)]
struct ContextPooler {
    dense: Linear,
    #[module(skip)]
    act: Activation,
}

impl ContextPooler {
    fn new(config: &DebertaV2Config, device: &Device) -> Self {
        let dense = Linear::new(config.hidden_size, config.hidden_size, true, device);
        Self { dense, act: config.pooler_hidden_act }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        self.dense.forward_activated(first_token(x), self.act)
    }
}

/// The head for masked tokens, which came under two names: `cls` if `legacy`, else `lm_predictions`.
#[derive(Module, Debug)]
enum Head {
    Cls(MlmHead),
    LmPredictions(MlmHead),
}

#[derive(Module, Debug)]
struct MlmHead {
    dense: Linear,
    layer_norm: LayerNorm,
    decoder: Linear,
    #[module(skip)]
    act: Activation,
}

impl MlmHead {
    fn new(config: &DebertaV2Config, device: &Device) -> Self {
        let size = config.embedding_size();
        Self {
            dense: Linear::new(config.hidden_size, size, true, device),
            layer_norm: LayerNorm::new(size, config.layer_norm_eps, device),
            decoder: Linear::new(size, config.vocab_size, true, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.decoder.forward(self.layer_norm.forward(self.dense.forward_activated(x, self.act)))
    }
}

/// What the files hold for other heads, and the table of positions of models that do not add it.
const IGNORED: &[&str] = &["embeddings.position_embeddings", "mask_predictions", "lm_predictions", "cls", "pooler"];

const RENAMES: &[Rename] = &[
    Rename { module: "self_", file: &["self"] },
    Rename { module: "layer_norm", file: &["LayerNorm"] },
    // The decoder's bias is stored beside the decoder; old files have it twice.
    Rename { module: "head.Cls.decoder.bias", file: &["cls.predictions.bias", "cls.predictions.decoder.bias"] },
    Rename { module: "head.Cls.decoder", file: &["cls.predictions.decoder"] },
    Rename { module: "head.Cls", file: &["cls.predictions.transform"] },
    Rename { module: "head.LmPredictions.decoder.bias", file: &["lm_predictions.lm_head.bias"] },
    Rename { module: "head.LmPredictions", file: &["lm_predictions.lm_head"] },
];
