//! BERT's layers: attention and an MLP, each with a norm after the residual sum.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tx_core::nn::{
    Activation, AttentionOptions, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::Record;

use super::BertConfig;

/// A stack of post-norm layers.
#[derive(Module, Debug)]
pub(in crate::models) struct Encoder {
    layer: Vec<Layer>,
}

impl Encoder {
    pub(in crate::models) fn new(config: &BertConfig, device: &Device) -> Self {
        Self { layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect() }
    }

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
        Self {
            attention: Attention::new(config, device),
            intermediate: Intermediate::new(config, device),
            output: Output::new(config.intermediate_size, config, device),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let x = self.attention.forward(x, mask, record);
        self.output.forward(self.intermediate.forward(x.clone()), x)
    }
}

#[derive(Module, Debug)]
struct Attention {
    self_: SelfAttention,
    output: Output,
}

impl Attention {
    fn new(config: &BertConfig, device: &Device) -> Self {
        Self { self_: SelfAttention::new(config, device), output: Output::new(config.hidden_size, config, device) }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        self.output.forward(self.self_.forward(x.clone(), mask, record), x)
    }
}

#[derive(Module, Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    #[module(skip)]
    heads: usize,
}

impl SelfAttention {
    fn new(config: &BertConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        Self { query: linear(), key: linear(), value: linear(), heads: config.num_attention_heads }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.query, &self.key, &self.value]).map(|x| split_heads(x, self.heads));
        merge_heads(attention(q, k, v, AttentionOptions::new(mask), record))
    }
}

/// `act(dense(x))`.
#[derive(Module, Debug)]
pub(in crate::models) struct Intermediate {
    dense: Linear,
    #[module(skip)]
    act: Activation,
}

impl Intermediate {
    pub(in crate::models) fn new(config: &BertConfig, device: &Device) -> Self {
        Self { dense: Linear::new(config.hidden_size, config.intermediate_size, true, device), act: config.hidden_act }
    }

    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.dense.forward_activated(x, self.act)
    }
}

/// A projection back to the residual stream, and the norm after the sum.
#[derive(Module, Debug)]
pub(in crate::models) struct Output {
    dense: Linear,
    layer_norm: LayerNorm,
}

impl Output {
    pub(in crate::models) fn new(input: usize, config: &BertConfig, device: &Device) -> Self {
        Self {
            dense: Linear::new(input, config.hidden_size, true, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    pub(in crate::models) fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.layer_norm.forward_residual(self.dense.forward(x), residual)
    }
}
