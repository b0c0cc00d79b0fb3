//! The embeddings and layers of ModernBERT.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tx_core::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, Mask, RopeTable, attention, merge_heads, split_heads,
};
use tx_core::task::{Record, TextInputs};

use super::{LayerType, ModernBertConfig};

/// Word vectors, normalised: positions come with the rotations.
#[derive(Module, Debug)]
pub(super) struct Embeddings {
    tok_embeddings: Embedding,
    norm: LayerNorm,
}

impl Embeddings {
    pub(super) fn new(config: &ModernBertConfig, device: &Device) -> Self {
        Self {
            tok_embeddings: Embedding::new(config.vocab_size, config.hidden_size, device),
            norm: config.norm(device),
        }
    }

    pub(super) fn forward(&self, inputs: &TextInputs) -> Tensor<3> {
        self.norm.forward(self.tok_embeddings.forward(inputs.input_ids.clone()))
    }
}

/// What the layers of one kind share: the rotation and the tokens that are seen.
pub(super) struct View {
    pub(super) rope: RopeTable,
    pub(super) mask: Mask,
}

#[derive(Module, Debug)]
pub(super) struct Layer {
    /// `None` in the first layer, whose input the embeddings have normalised.
    attn_norm: Option<LayerNorm>,
    attn: Attention,
    mlp_norm: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    pub(super) layer_type: LayerType,
}

impl Layer {
    pub(super) fn new(i: usize, layer_type: LayerType, config: &ModernBertConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            attn_norm: (i > 0).then(|| config.norm(device)),
            attn: Attention {
                wqkv: Linear::new(hidden, 3 * hidden, config.attention_bias, device),
                wo: Linear::new(hidden, hidden, config.attention_bias, device),
                heads: config.num_attention_heads,
            },
            mlp_norm: config.norm(device),
            mlp: Mlp {
                wi: Linear::new(hidden, 2 * inner, config.mlp_bias, device),
                wo: Linear::new(inner, hidden, config.mlp_bias, device),
                act: config.hidden_activation,
            },
            layer_type,
        }
    }

    pub(super) fn forward(&self, x: Tensor<3>, view: &View, record: &mut Record) -> Tensor<3> {
        let normed = match &self.attn_norm {
            Some(norm) => norm.forward(x.clone()),
            None => x.clone(),
        };
        let x = x + self.attn.forward(normed, view, record);
        x.clone() + self.mlp.forward(self.mlp_norm.forward(x))
    }
}

#[derive(Module, Debug)]
struct Attention {
    wqkv: Linear,
    wo: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn forward(&self, x: Tensor<3>, view: &View, record: &mut Record) -> Tensor<3> {
        // [batch, seq, 3 · heads, head_dim]: all queries, then all keys, then all values.
        let qkv = split_heads(self.wqkv.forward(x), 3 * self.heads);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(2, i * self.heads, self.heads));
        let (q, k) = (view.rope.apply(q), view.rope.apply(k));
        self.wo.forward(merge_heads(attention(q, k, v, AttentionOptions::new(&view.mask), record)))
    }
}

/// `wo(act(left half of wi(x)) · right half)`. Shazeer, 2020 (arXiv:2002.05202).
#[derive(Module, Debug)]
struct Mlp {
    wi: Linear,
    wo: Linear,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.wi.forward(x);
        let inner = x.dims()[2] / 2;
        let [x, gate] = [0, inner].map(|start| x.clone().narrow(2, start, inner));
        self.wo.forward(self.act.forward(x) * gate)
    }
}
