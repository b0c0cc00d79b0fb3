//! MPNet: masked and permuted language modelling in one; an encoder with T5's relative position bias on top of
//! absolute positions.
//!
//! Paper: Song et al., 2020 (arXiv:2004.09297).
//! Reference: transformers 5.23.0, `models/mpnet/modeling_mpnet.py`.
//! Differs from `roberta` in: the bias of the attention scores, the names of its projections, no token types.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Deserialize;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, Mask, attention, merge_heads, project,
    relative_position_bucket, split_heads,
};
use tx_core::task::{
    BaseModelOutput, MaskedLm, MultipleChoice, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier,
    TextInputs, TextLimits, TextModel, TokenClassifier,
};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::bert::{BertConfig, Intermediate, Output, Pooler, first_token};
use super::roberta::{ClassificationHead, LmHead, RENAMES};

/// The reference fixes the position of padding, whatever `pad_token_id` says.
const PADDING_ID: usize = 1;
/// The reference fixes the number of buckets, whatever the number of rows of their table.
const BUCKETS: usize = 32;
/// More rows than any table has.
const MAX_BUCKETS: usize = 1 << 16;
/// Distances beyond this one, in tokens, share a bucket.
const MAX_DISTANCE: usize = 128;

/// The keys of `config.json` that decide the graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct MpnetConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f64,
    pub relative_attention_num_buckets: usize,
    pub tie_word_embeddings: bool,
    pub num_labels: usize,
}

impl Default for MpnetConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30527,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            layer_norm_eps: 1e-12,
            relative_attention_num_buckets: BUCKETS,
            tie_word_embeddings: true,
            num_labels: 2,
        }
    }
}

impl ModelConfig for MpnetConfig {
    type Limits = TextLimits;

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.bert().validate(check)?;
        // Rows beyond the fixed number of buckets are never read; fewer would not do.
        check.range("relative_attention_num_buckets", self.relative_attention_num_buckets, BUCKETS, MAX_BUCKETS)?;
        if self.max_length() == 0 {
            return Err(check.error(
                "max_position_embeddings",
                format_args!("{} leaves no position above that of padding", self.max_position_embeddings),
            ));
        }
        Ok(())
    }

    fn limits(&self) -> TextLimits {
        TextLimits {
            vocab_size: self.vocab_size,
            max_length: Some(self.max_length()),
            context: None,
            positions: self.max_position_embeddings,
            type_vocab_size: 0,
        }
    }
}

impl MpnetConfig {
    /// Positions start above the one of padding.
    fn max_length(&self) -> usize {
        self.max_position_embeddings.saturating_sub(PADDING_ID + 1)
    }

    /// The parts of a layer and the heads are BERT's and RoBERTa's.
    fn bert(&self) -> BertConfig {
        BertConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.hidden_act,
            max_position_embeddings: self.max_position_embeddings,
            layer_norm_eps: self.layer_norm_eps,
            num_labels: self.num_labels,
            ..BertConfig::default()
        }
    }
}

/// The encoder, with a pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct MpnetModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Option<Pooler>,
}

impl MpnetModel {
    fn new(config: &MpnetConfig, pooler: bool, device: &Device) -> Self {
        Self {
            embeddings: Embeddings::new(config, device),
            encoder: Encoder::new(config, device),
            pooler: pooler.then(|| Pooler::new(&config.bert(), device)),
        }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    fn encode(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.encoder.forward(self.embeddings.forward(inputs), &inputs.mask(), record)
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

impl Pretrained for MpnetModel {
    type Config = MpnetConfig;
    const PREFIX: &'static str = "mpnet";
    const RENAMES: &'static [Rename] = RENAMES;
    const OPTIONAL: &'static [&'static str] = &["pooler"];

    fn init(config: &MpnetConfig, parts: &Parts, device: &Device) -> Self {
        Self::new(config, parts.has("pooler"), device)
    }
}

impl TextModel for MpnetModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let x = self.encode(inputs, record);
        let pooler_output = self.pooler.as_ref().map(|pooler| pooler.forward(x.clone()));
        BaseModelOutput { last_hidden_state: x, pooler_output }
    }
}

/// MPNet with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct MpnetForMaskedLm {
    mpnet: MpnetModel,
    lm_head: LmHead,
}

impl Pretrained for MpnetForMaskedLm {
    type Config = MpnetConfig;
    const PREFIX: &'static str = "mpnet";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn tied(config: &MpnetConfig) -> &'static [(&'static str, &'static str)] {
        const TIED: &[(&str, &str)] = &[("lm_head.decoder.weight", "mpnet.embeddings.word_embeddings.weight")];
        if config.tie_word_embeddings { TIED } else { &[] }
    }

    fn init(config: &MpnetConfig, _: &Parts, device: &Device) -> Self {
        Self { mpnet: MpnetModel::new(config, false, device), lm_head: LmHead::new(&config.bert(), device) }
    }
}

impl MaskedLm for MpnetForMaskedLm {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.lm_head.forward(self.mpnet.encode(inputs, record))
    }
}

/// MPNet with a classifier on the first token.
#[derive(Module, Debug)]
pub struct MpnetForSequenceClassification {
    mpnet: MpnetModel,
    classifier: ClassificationHead,
}

impl Pretrained for MpnetForSequenceClassification {
    type Config = MpnetConfig;
    const PREFIX: &'static str = "mpnet";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &MpnetConfig, _: &Parts, device: &Device) -> Self {
        let classifier = ClassificationHead::new(config.hidden_size, config.num_labels, device);
        Self { mpnet: MpnetModel::new(config, false, device), classifier }
    }
}

impl SequenceClassifier for MpnetForSequenceClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.mpnet.encode(inputs, record))
    }
}

/// MPNet with a classifier on every token.
#[derive(Module, Debug)]
pub struct MpnetForTokenClassification {
    mpnet: MpnetModel,
    classifier: Linear,
}

impl Pretrained for MpnetForTokenClassification {
    type Config = MpnetConfig;
    const PREFIX: &'static str = "mpnet";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &MpnetConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, config.num_labels, true, device);
        Self { mpnet: MpnetModel::new(config, false, device), classifier }
    }
}

impl TokenClassifier for MpnetForTokenClassification {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.classifier.forward(self.mpnet.encode(inputs, record))
    }
}

/// MPNet with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct MpnetForQuestionAnswering {
    mpnet: MpnetModel,
    qa_outputs: Linear,
}

impl Pretrained for MpnetForQuestionAnswering {
    type Config = MpnetConfig;
    const PREFIX: &'static str = "mpnet";
    const RENAMES: &'static [Rename] = RENAMES;
    const IGNORED: &'static [&'static str] = &["pooler"];

    fn init(config: &MpnetConfig, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.hidden_size, 2, true, device);
        Self { mpnet: MpnetModel::new(config, false, device), qa_outputs }
    }
}

impl QuestionAnswerer for MpnetForQuestionAnswering {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(self.mpnet.encode(inputs, record)))
    }
}

/// MPNet with one score per choice.
#[derive(Module, Debug)]
pub struct MpnetForMultipleChoice {
    mpnet: MpnetModel,
    classifier: Linear,
}

impl Pretrained for MpnetForMultipleChoice {
    type Config = MpnetConfig;
    const PREFIX: &'static str = "mpnet";
    const RENAMES: &'static [Rename] = RENAMES;

    fn init(config: &MpnetConfig, _: &Parts, device: &Device) -> Self {
        let classifier = Linear::new(config.hidden_size, 1, true, device);
        Self { mpnet: MpnetModel::new(config, true, device), classifier }
    }
}

impl MultipleChoice for MpnetForMultipleChoice {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        self.classifier.forward(self.mpnet.pool(inputs, record))
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
    fn new(config: &MpnetConfig, device: &Device) -> Self {
        Self {
            word_embeddings: Embedding::new(config.vocab_size, config.hidden_size, device),
            position_embeddings: Embedding::new(config.max_position_embeddings, config.hidden_size, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    fn forward(&self, inputs: &TextInputs) -> Tensor<3> {
        let words = self.word_embeddings.forward(inputs.input_ids.clone());
        let positions = self.position_embeddings.forward(inputs.position_ids_or_skip_padding(PADDING_ID));
        self.layer_norm.forward_residual(words, positions)
    }
}

/// A stack of post-norm layers that share one position bias.
#[derive(Module, Debug)]
struct Encoder {
    layer: Vec<Layer>,
    relative_attention_bias: Embedding,
}

impl Encoder {
    fn new(config: &MpnetConfig, device: &Device) -> Self {
        let (buckets, heads) = (config.relative_attention_num_buckets, config.num_attention_heads);
        Self {
            layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect(),
            relative_attention_bias: Embedding::new(buckets, heads, device),
        }
    }

    fn forward(&self, mut x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let options = AttentionOptions { bias: Some(self.position_bias(&x)), ..AttentionOptions::new(mask) };
        record.hidden_state(&x);
        for layer in &self.layer {
            x = layer.forward(x, options.clone(), record);
            record.hidden_state(&x);
        }
        x
    }

    /// What each head adds to a score for the distance from query to key: places in the sequence, not position ids.
    ///
    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - output: `[1, heads, seq, seq]`
    fn position_bias(&self, x: &Tensor<3>) -> Tensor<4> {
        let seq = x.dims()[1];
        let bucket = |distance| relative_position_bucket(distance, true, BUCKETS, MAX_DISTANCE) as i64;
        let by_distance: Vec<i64> = (1 - seq as i64..seq as i64).map(bucket).collect();
        // The distances of query q run from -q to seq - 1 - q.
        let buckets: Vec<i64> = (0..seq).flat_map(|q| &by_distance[seq - 1 - q..][..seq]).copied().collect();
        let buckets = Tensor::<1, Int>::from_data(TensorData::new(buckets, [seq * seq]), &x.device());
        let bias = self.relative_attention_bias.rows(buckets); // [seq · seq, heads]
        let heads = bias.dims()[1];
        bias.reshape([1, seq, seq, heads]).permute([0, 3, 1, 2])
    }
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    intermediate: Intermediate,
    output: Output,
}

impl Layer {
    fn new(config: &MpnetConfig, device: &Device) -> Self {
        let bert = config.bert();
        Self {
            attention: Attention::new(config, device),
            intermediate: Intermediate::new(&bert, device),
            output: Output::new(config.intermediate_size, &bert, device),
        }
    }

    fn forward(&self, x: Tensor<3>, options: AttentionOptions<'_>, record: &mut Record) -> Tensor<3> {
        let x = self.attention.forward(x, options, record);
        self.output.forward(self.intermediate.forward(x.clone()), x)
    }
}

#[derive(Module, Debug)]
struct Attention {
    attn: SelfAttention,
    layer_norm: LayerNorm,
}

impl Attention {
    fn new(config: &MpnetConfig, device: &Device) -> Self {
        Self {
            attn: SelfAttention::new(config, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    fn forward(&self, x: Tensor<3>, options: AttentionOptions<'_>, record: &mut Record) -> Tensor<3> {
        self.layer_norm.forward_residual(self.attn.forward(x.clone(), options, record), x)
    }
}

#[derive(Module, Debug)]
struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    #[module(skip)]
    heads: usize,
}

impl SelfAttention {
    fn new(config: &MpnetConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        Self { q: linear(), k: linear(), v: linear(), o: linear(), heads: config.num_attention_heads }
    }

    fn forward(&self, x: Tensor<3>, options: AttentionOptions<'_>, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.q, &self.k, &self.v]).map(|x| split_heads(x, self.heads));
        self.o.forward(merge_heads(attention(q, k, v, options, record)))
    }
}
