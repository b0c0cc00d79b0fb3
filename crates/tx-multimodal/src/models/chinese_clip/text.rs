//! BERT, the text tower of Chinese CLIP; CLAP's is a RoBERTa, whose layers are the same.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use tx_core::Result;
use tx_core::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs};
use tx_core::weights::load::Rename;

use crate::parts::PartCheck;

/// The keys of `config.json` that the tower is made by.
#[derive(Debug, Clone, Copy)]
pub(in crate::models) struct BertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
}

impl BertConfig {
    pub(in crate::models) fn check(&self, check: &PartCheck<'_>) -> Result<()> {
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)
    }
}

/// Word, token type and position vectors, summed and normalised.
#[derive(Module, Debug)]
pub(in crate::models) struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
}

impl Embeddings {
    pub(in crate::models) fn new(config: &BertConfig, device: &Device) -> Self {
        Self {
            word_embeddings: Embedding::new(config.vocab_size, config.hidden_size, device),
            position_embeddings: Embedding::new(config.max_position_embeddings, config.hidden_size, device),
            token_type_embeddings: Embedding::new(config.type_vocab_size, config.hidden_size, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    /// # Shapes
    /// - position_ids: `[batch or 1, seq]`
    /// - output: `[batch, seq, hidden]`
    pub(in crate::models) fn forward(&self, inputs: &TextInputs, position_ids: Tensor<2, Int>) -> Tensor<3> {
        let words = self.word_embeddings.forward(inputs.input_ids.clone());
        let types = self.token_type_embeddings.forward(inputs.token_type_ids_or_zeros());
        let positions = self.position_embeddings.forward(position_ids);
        self.layer_norm.forward(words + types + positions)
    }
}

/// A stack of post-norm layers.
#[derive(Module, Debug)]
pub(in crate::models) struct Encoder {
    layer: Vec<Layer>,
}

impl Encoder {
    pub(in crate::models) fn new(config: &BertConfig, device: &Device) -> Self {
        Self { layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect() }
    }

    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    pub(in crate::models) fn forward(&self, mut x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
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
    intermediate: Intermediate,
    output: Output,
}

impl Layer {
    fn new(config: &BertConfig, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let dense = Linear::new(hidden, intermediate, true, device);
        Self {
            attention: Attention::new(config, device),
            intermediate: Intermediate { dense, act: config.hidden_act },
            output: Output::new(intermediate, config, device),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let x = self.attention.forward(x, mask, record);
        let Intermediate { dense, act } = &self.intermediate;
        self.output.forward(dense.forward_activated(x.clone(), *act), x)
    }
}

#[derive(Module, Debug)]
struct Attention {
    self_: SelfAttention,
    output: Output,
}

#[derive(Module, Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &BertConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        let self_ =
            SelfAttention { query: linear(), key: linear(), value: linear(), heads: config.num_attention_heads };
        Self { self_, output: Output::new(config.hidden_size, config, device) }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let SelfAttention { query, key, value, heads } = &self.self_;
        let [q, k, v] = project(x.clone(), [query, key, value]).map(|x| split_heads(x, *heads));
        self.output.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)), x)
    }
}

/// `act(dense(x))`.
#[derive(Module, Debug)]
struct Intermediate {
    dense: Linear,
    #[module(skip)]
    act: Activation,
}

/// A projection back to the residual stream, and the norm after the sum.
#[derive(Module, Debug)]
struct Output {
    dense: Linear,
    layer_norm: LayerNorm,
}

impl Output {
    fn new(input: usize, config: &BertConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(input, config.hidden_size, true, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.layer_norm.forward_residual(self.dense.forward(x), residual)
    }
}

/// `tanh(dense(first token))`.
#[derive(Module, Debug)]
pub(in crate::models) struct Pooler {
    dense: Linear,
}

impl Pooler {
    pub(in crate::models) fn new(config: &BertConfig, device: &Device) -> Self {
        Self { dense: Linear::new(config.hidden_size, config.hidden_size, true, device) }
    }

    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - output: `[batch, hidden]`
    pub(in crate::models) fn forward(&self, x: &Tensor<3>) -> Tensor<2> {
        self.dense.forward(first_token(x)).tanh()
    }
}

/// # Shapes
/// - x: `[batch, seq, hidden]`
/// - output: `[batch, hidden]`
pub(in crate::models) fn first_token(x: &Tensor<3>) -> Tensor<2> {
    x.clone().narrow(1, 0, 1).squeeze_dim(1)
}

/// BERT's names in files.
pub(in crate::models) const RENAMES: &[Rename] =
    &[Rename { module: "self_", file: &["self"] }, Rename { module: "layer_norm", file: &["LayerNorm"] }];
