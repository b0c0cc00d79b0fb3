//! CLIP's layers, the same in both towers: attention and an MLP, each with a norm before it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tx_core::Result;
use tx_core::nn::{
    Activation, AttentionOptions, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::Record;

use crate::parts::PartCheck;

/// The keys of `config.json` that the layers of a tower are made by.
#[derive(Debug, Clone, Copy)]
pub(in crate::models) struct EncoderConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
}

impl EncoderConfig {
    pub(in crate::models) fn check(&self, check: &PartCheck<'_>) -> Result<()> {
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
        ])?;
        check.layers("num_hidden_layers", self.num_hidden_layers)?;
        check.divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)?;
        check.epsilon("layer_norm_eps", self.layer_norm_eps)
    }
}

/// A stack of pre-norm layers.
#[derive(Module, Debug)]
pub(in crate::models) struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    pub(in crate::models) fn new(config: &EncoderConfig, device: &Device) -> Self {
        Self { layers: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect() }
    }

    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    pub(in crate::models) fn forward(&self, mut x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        record.hidden_state(&x);
        for layer in &self.layers {
            x = layer.forward(x, mask, record);
            record.hidden_state(&x);
        }
        x
    }
}

#[derive(Module, Debug)]
struct Layer {
    self_attn: Attention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl Layer {
    fn new(config: &EncoderConfig, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, config.layer_norm_eps, device);
        Self {
            self_attn: Attention::new(config, device),
            layer_norm1: norm(),
            mlp: Mlp::new(config, device),
            layer_norm2: norm(),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let x = self.self_attn.forward(self.layer_norm1.forward(x.clone()), mask, record) + x;
        self.mlp.forward(self.layer_norm2.forward(x.clone())) + x
    }
}

#[derive(Module, Debug)]
struct Attention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &EncoderConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        Self {
            k_proj: linear(),
            v_proj: linear(),
            q_proj: linear(),
            out_proj: linear(),
            heads: config.num_attention_heads,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.q_proj, &self.k_proj, &self.v_proj]).map(|x| split_heads(x, self.heads));
        self.out_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}

/// `fc2(act(fc1(x)))`.
#[derive(Module, Debug)]
pub(in crate::models) struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    pub(in crate::models) fn new(config: &EncoderConfig, device: &Device) -> Self {
        Self {
            fc1: Linear::new(config.hidden_size, config.intermediate_size, true, device),
            fc2: Linear::new(config.intermediate_size, config.hidden_size, true, device),
            act: config.hidden_act,
        }
    }

    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    pub(in crate::models) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_activated(x, self.act))
    }
}
