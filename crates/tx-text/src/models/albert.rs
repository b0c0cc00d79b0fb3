//! ALBERT: BERT with layers that share their weights in groups, and word vectors that are narrower than the layers.
//!
//! Paper: Lan et al., 2019 (arXiv:1909.11942).
//! Reference: transformers 5.23.0, `models/albert/modeling_albert.py`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{
    Activation, AttentionOptions, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier,
    TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::bert::{BertConfig, Embeddings, RENAMES, first_token};

/// No model has as many layers or runs them as often: groups and repetitions multiply.
const MAX_LAYERS: usize = 4096;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct AlbertConfig {
    pub vocab_size: usize,
    pub embedding_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_hidden_groups: usize,
    pub inner_group_num: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pub position_embedding_type: String,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
}

impl Default for AlbertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30000,
            embedding_size: 128,
            hidden_size: 4096,
            num_hidden_layers: 12,
            num_hidden_groups: 1,
            inner_group_num: 1,
            num_attention_heads: 64,
            intermediate_size: 16384,
            hidden_act: Activation::GeluNew,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            position_embedding_type: "absolute".into(),
            tie_word_embeddings: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for AlbertConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("embedding_size", self.embedding_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("num_labels", self.num_labels),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.range("num_hidden_groups", self.num_hidden_groups, 1, MAX_LAYERS)?;
        let outer = self.num_hidden_layers.max(self.num_hidden_groups);
        check.range("inner_group_num", self.inner_group_num, 1, MAX_LAYERS / outer)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)?;
        let position = &self.position_embedding_type;
        check.supported("position_embedding_type", position == "absolute", position, "absolute")
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

impl AlbertConfig {
    /// The embeddings are BERT's, at their own width.
    fn embeddings(&self) -> BertConfig {
        BertConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.embedding_size,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
            layer_norm_eps: self.layer_norm_eps,
            ..BertConfig::default()
        }
    }
}

/// The encoder, with a pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct AlbertModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Option<Linear>,
}

impl AlbertModel {
    fn new(config: &AlbertConfig, pooler: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(&config.embeddings(), device),
            encoder: Encoder::new(config, device),
            pooler: pooler.then(|| Linear::new(config.hidden_size, config.hidden_size, true, device)),
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
        let x = first_token(self.encode(inputs, record));
        match &self.pooler {
            Some(pooler) => pooler.forward(x).tanh(),
            None => x,
        }
    }
}

impl Pretrained for AlbertModel {
    type Config = AlbertConfig;
    const PREFIX: &'static str = "albert";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler"];

    fn init(config: &AlbertConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("pooler"), device)
    }
}

impl TextModel for AlbertModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(first_token(x.clone())).tanh());
        BaseModelOutput { last_hidden_state: x, pooler_output }
    }
}

/// ALBERT with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct AlbertForMaskedLm {
    albert: AlbertModel,
    predictions: MlmHead,
}

impl Pretrained for AlbertForMaskedLm {
    type Config = AlbertConfig;
    const PREFIX: &'static str = "albert";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler", "sop_classifier"];

    fn tied(config: &AlbertConfig) -> &'static [(&'static str, &'static str)] {
        const TIED: &[(&str, &str)] = &[("predictions.decoder.weight", "albert.embeddings.word_embeddings.weight")];
        if config.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &AlbertConfig, _: &Parts, device: &Device) -> Self {
        Self { albert: AlbertModel::new(config, false, device), predictions: MlmHead::new(config, device) }
    }
}

impl MaskedLm for AlbertForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.predictions.forward(self.albert.encode(inputs, record))
    }
}

/// ALBERT with a classifier on the pooled first token.
#[derive(Module, Debug)]
pub struct AlbertForSequenceClassification {
    albert: AlbertModel,
    classifier: Linear,
}

impl Pretrained for AlbertForSequenceClassification {
    type Config = AlbertConfig;
    const PREFIX: &'static str = "albert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &AlbertConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { albert: AlbertModel::new(config, true, device), classifier }
    }
}

impl SequenceClassifier for AlbertForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.albert.pool(inputs, record))
    }
}

/// ALBERT with a classifier on every token.
#[derive(Module, Debug)]
pub struct AlbertForTokenClassification {
    albert: AlbertModel,
    classifier: Linear,
}

impl Pretrained for AlbertForTokenClassification {
    type Config = AlbertConfig;
    const PREFIX: &'static str = "albert";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &AlbertConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { albert: AlbertModel::new(config, false, device), classifier }
    }
}

impl TokenClassifier for AlbertForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.albert.encode(inputs, record))
    }
}

/// ALBERT with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct AlbertForQuestionAnswering {
    albert: AlbertModel,
    qa_outputs: Linear,
}

impl Pretrained for AlbertForQuestionAnswering {
    type Config = AlbertConfig;
    const PREFIX: &'static str = "albert";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &AlbertConfig, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.hidden_size, 2, true, device);
        Self { albert: AlbertModel::new(config, false, device), qa_outputs }
    }
}

impl QuestionAnswerer for AlbertForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(self.albert.encode(inputs, record)))
    }
}

/// ALBERT with one score per choice.
#[derive(Module, Debug)]
pub struct AlbertForMultipleChoice {
    albert: AlbertModel,
    classifier: Linear,
}

impl Pretrained for AlbertForMultipleChoice {
    type Config = AlbertConfig;
    const PREFIX: &'static str = "albert";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &AlbertConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, 1, true, device);
        Self { albert: AlbertModel::new(config, true, device), classifier }
    }
}

impl MultipleChoice for AlbertForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.albert.pool(inputs, record))
    }
}

/// `decoder(layer_norm(act(dense(x))))`, at the width of the word vectors.
#[derive(Module, Debug)]
struct MlmHead {
    dense: Linear,
    layer_norm: LayerNorm,
    decoder: Linear,
    #[module(skip)]
    act: Activation,
}

impl MlmHead {
    fn new(config: &AlbertConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(config.hidden_size, config.embedding_size, true, device),
            layer_norm: LayerNorm::new(config.embedding_size, config.layer_norm_eps, device),
            decoder: Linear::new(config.embedding_size, config.vocab_size, true, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.dense.forward_activated(x, self.act);
        self.decoder.forward(self.layer_norm.forward(x))
    }
}

/// Groups of layers; each group is run for several layers in a row.
#[derive(Module, Debug)]
struct Encoder {
    embedding_hidden_mapping_in: Linear,
    albert_layer_groups: Vec<LayerGroup>,
    #[module(skip)]
    layers: usize,
}

impl Encoder {
    fn new(config: &AlbertConfig, device: &Device) -> Self {
        Self {
            embedding_hidden_mapping_in: Linear::new(config.embedding_size, config.hidden_size, true, device),
            albert_layer_groups: (0..config.num_hidden_groups).map(|_| LayerGroup::new(config, device)).collect(),
            layers: config.num_hidden_layers,
        }
    }

    /// # Shapes
    /// - x: `[batch, seq, embedding]`
    /// - output: `[batch, seq, hidden]`
    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let mut x = self.embedding_hidden_mapping_in.forward(x);
        record.hidden_state(&x);
        // In floating point, as the reference has it: groups need not divide the layers.
        let layers_per_group = self.layers as f64 / self.albert_layer_groups.len() as f64;
        for i in 0..self.layers {
            let group = &self.albert_layer_groups[(i as f64 / layers_per_group) as usize];
            for layer in &group.albert_layers {
                x = layer.forward(x, mask, record);
                record.hidden_state(&x);
            }
        }
        x
    }
}

#[derive(Module, Debug)]
struct LayerGroup {
    albert_layers: Vec<Layer>,
}

impl LayerGroup {
    fn new(config: &AlbertConfig, device: &Device) -> Self {
        Self { albert_layers: (0..config.inner_group_num).map(|_| Layer::new(config, device)).collect() }
    }
}

/// A post-norm layer.
#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    ffn: Linear,
    ffn_output: Linear,
    full_layer_layer_norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl Layer {
    fn new(config: &AlbertConfig, device: &Device) -> Self {
        Self {
            attention: Attention::new(config, device),
            ffn: Linear::new(config.hidden_size, config.intermediate_size, true, device),
            ffn_output: Linear::new(config.intermediate_size, config.hidden_size, true, device),
            full_layer_layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let x = self.attention.forward(x, mask, record);
        let ffn = self.ffn_output.forward(self.ffn.forward_activated(x.clone(), self.act));
        self.full_layer_layer_norm.forward_residual(ffn, x)
    }
}

/// Attention, its projection back to the residual stream, and the norm after the sum.
#[derive(Module, Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    dense: Linear,
    layer_norm: LayerNorm,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &AlbertConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        Self {
            query: linear(),
            key: linear(),
            value: linear(),
            dense: linear(),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
            heads: config.num_attention_heads,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = project(x.clone(), [&self.query, &self.key, &self.value]).map(|x| split_heads(x, self.heads));
        let context = merge_heads(attention(q, k, v, AttentionOptions::new(mask), record));
        self.layer_norm.forward_residual(self.dense.forward(context), x)
    }
}
