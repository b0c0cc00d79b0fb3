//! ViT's layers: attention and an MLP, each with a norm before it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tx_core::nn::{
    Activation, AttentionOptions, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::Record;

use super::ViTConfig;

/// A stack of pre-norm layers.
#[derive(Module, Debug)]
pub(in crate::models) struct Encoder {
    layer: Vec<Layer>,
}

impl Encoder {
    pub(in crate::models) fn new(config: &ViTConfig, device: &Device) -> Self {
        Self { layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect() }
    }

    pub(in crate::models) fn forward(&self, mut x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        record.hidden_state(&x);
        for layer in &self.layer {
            x = layer.forward(x, record);
            record.hidden_state(&x);
        }
        x
    }
}

#[derive(Module, Debug)]
pub(in crate::models) struct Layer {
    attention: Attention,
    intermediate: Intermediate,
    output: Output,
    layernorm_before: LayerNorm,
    layernorm_after: LayerNorm,
}

impl Layer {
    pub(in crate::models) fn new(config: &ViTConfig, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let norm = || LayerNorm::new(hidden, config.layer_norm_eps, device);
        Self {
            attention: Attention::new(hidden, config.num_attention_heads, config.qkv_bias, device),
            intermediate: Intermediate::new(hidden, intermediate, config.hidden_act, device),
            output: Output::new(intermediate, hidden, device),
            layernorm_before: norm(),
            layernorm_after: norm(),
        }
    }

    pub(in crate::models) fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        let x = self.attention.forward(self.layernorm_before.forward(x.clone()), record) + x;
        self.output.forward(self.intermediate.forward(self.layernorm_after.forward(x.clone()))) + x
    }
}

/// Every token looks at every other.
#[derive(Module, Debug)]
pub(in crate::models) struct Attention {
    attention: SelfAttention,
    output: Output,
}

impl Attention {
    pub(in crate::models) fn new(hidden: usize, heads: usize, bias: bool, device: &Device) -> Self {
        Self { attention: SelfAttention::new(hidden, heads, bias, device), output: Output::new(hidden, hidden, device) }
    }

    pub(in crate::models) fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        self.output.forward(self.attention.forward(x, record))
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
    fn new(hidden: usize, heads: usize, bias: bool, device: &Device) -> Self {
        let linear = || Linear::new(hidden, hidden, bias, device);
        Self { query: linear(), key: linear(), value: linear(), heads }
    }

    fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.query, &self.key, &self.value]).map(|x| split_heads(x, self.heads));
        merge_heads(attention(q, k, v, AttentionOptions::new(&Mask::default()), record))
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
    pub(in crate::models) fn new(hidden: usize, intermediate: usize, act: Activation, device: &Device) -> Self {
        Self { dense: Linear::new(hidden, intermediate, true, device), act }
    }

    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.dense.forward_activated(x, self.act)
    }
}

/// A projection back to the residual stream.
#[derive(Module, Debug)]
pub(in crate::models) struct Output {
    dense: Linear,
}

impl Output {
    pub(in crate::models) fn new(input: usize, hidden: usize, device: &Device) -> Self {
        Self { dense: Linear::new(input, hidden, true, device) }
    }

    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.dense.forward(x)
    }
}
