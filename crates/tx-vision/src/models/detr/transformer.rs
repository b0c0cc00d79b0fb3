//! The encoder of a map and the decoder of queries, and how places tell where they are.

use std::f64::consts::TAU;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use tx_core::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::Record;

use super::DetrConfig;

/// The epsilon of all norms.
const LAYER_NORM_EPS: f64 = 1e-5;
/// The longest period of the sines, in pixels of a map.
const TEMPERATURE: f64 = 10000.0;
/// Keeps a row or column of padding alone from a division by zero.
const POSITION_EPS: f64 = 1e-6;
/// Rows, and columns, of the tables of learned positions.
const LEARNED_POSITIONS: usize = 50;

/// Sines and cosines of row and column, which count what is seen, as parts of a full turn.
///
/// # Shapes
/// - seen: `[batch, height, width]`: 1 for the picture, 0 for padding; all is seen if `None`
/// - output: `[batch or 1, height · width, hidden]`
pub(super) fn sine_positions(
    seen: Option<Tensor<3>>,
    [height, width]: [usize; 2],
    hidden: usize,
    device: &Device,
) -> Tensor<3> {
    let seen = seen.unwrap_or_else(|| Tensor::ones([1, height, width], device));
    let batch = seen.dims()[0];
    let (rows, columns) = (seen.clone().cumsum(1), seen.cumsum(2));
    let last_row = rows.clone().narrow(1, height - 1, 1) + POSITION_EPS;
    let last_column = columns.clone().narrow(2, width - 1, 1) + POSITION_EPS;
    // Rows have the first half of the features.
    let features = hidden / 2;
    let period = |pair: usize| TEMPERATURE.powf((2 * pair) as f64 / features as f64) as f32;
    let periods: Vec<f32> = (0..features / 2).map(period).collect();
    let periods: Tensor<4> = Tensor::from_data(TensorData::new(periods, [1, 1, 1, features / 2]), device);
    let waves = |turns: Tensor<3>| {
        let angles = (turns * TAU).unsqueeze_dim::<4>(3) / periods.clone();
        // A sine and its cosine stand side by side.
        let pairs = Tensor::stack::<5>(vec![angles.clone().sin(), angles.cos()], 4);
        pairs.reshape([batch, height * width, features])
    };
    Tensor::cat(vec![waves(rows / last_row), waves(columns / last_column)], 2)
}

/// A vector for each column, and behind it one for each row.
#[derive(Module, Debug)]
pub(super) struct LearnedPositions {
    row_embeddings: Embedding,
    column_embeddings: Embedding,
}

impl LearnedPositions {
    pub(super) fn new(features: usize, device: &Device) -> Self {
        let table = || Embedding::new(LEARNED_POSITIONS, features, device);
        Self { row_embeddings: table(), column_embeddings: table() }
    }

    /// Rows and columns behind the last of the tables have its position; the reference does not take such pictures.
    ///
    /// # Shapes
    /// - output: `[1, height · width, hidden]`
    pub(super) fn forward(&self, [height, width]: [usize; 2]) -> Tensor<3> {
        let device = self.row_embeddings.weight.lazy_device();
        let rows = |table: &Embedding, count: usize| {
            let ids: Vec<i64> = (0..count).map(|id| id.min(LEARNED_POSITIONS - 1) as i64).collect();
            let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids, [count]), &device);
            table.rows(ids)
        };
        let columns = rows(&self.column_embeddings, width);
        let rows = rows(&self.row_embeddings, height);
        let features = rows.dims()[1];
        let columns = columns.unsqueeze_dim::<3>(0).expand([height, width, features]);
        let rows = rows.unsqueeze_dim::<3>(1).expand([height, width, features]);
        Tensor::cat(vec![columns, rows], 2).reshape([1, height * width, 2 * features])
    }
}

/// A stack of post-norm layers.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    layers: Vec<EncoderLayer>,
}

impl Encoder {
    pub(super) fn new(config: &DetrConfig, device: &Device) -> Self {
        Self { layers: (0..config.encoder_layers).map(|_| EncoderLayer::new(config, device)).collect() }
    }

    /// # Shapes
    /// - x, output: `[batch, places, hidden]`
    /// - positions: `[batch or 1, places, hidden]`
    pub(super) fn forward(
        &self,
        mut x: Tensor<3>,
        positions: &Tensor<3>,
        mask: &Mask,
        record: &mut Record,
    ) -> Tensor<3> {
        record.hidden_state(&x);
        for layer in &self.layers {
            x = layer.forward(x, positions, mask, record);
            record.hidden_state(&x);
        }
        x
    }
}

#[derive(Module, Debug)]
struct EncoderLayer {
    self_attn: Attention,
    self_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl EncoderLayer {
    fn new(config: &DetrConfig, device: &Device) -> Self {
        let hidden = config.d_model;
        Self {
            self_attn: Attention::new(hidden, config.encoder_attention_heads, device),
            self_attn_layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            fc1: Linear::new(hidden, config.encoder_ffn_dim, true, device),
            fc2: Linear::new(config.encoder_ffn_dim, hidden, true, device),
            final_layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            act: config.activation_function,
        }
    }

    fn forward(&self, x: Tensor<3>, positions: &Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let y = self.self_attn.within(x.clone(), positions.clone(), mask, record);
        let x = self.self_attn_layer_norm.forward_residual(y, x);
        let y = self.fc2.forward(self.fc1.forward_activated(x.clone(), self.act));
        self.final_layer_norm.forward_residual(y, x)
    }
}

/// A stack of post-norm layers, and a norm.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    layers: Vec<DecoderLayer>,
    layernorm: LayerNorm,
    #[module(skip)]
    norms_every_layer: bool,
}

impl Decoder {
    pub(super) fn new(config: &DetrConfig, device: &Device) -> Self {
        Self {
            layers: (0..config.decoder_layers).map(|_| DecoderLayer::new(config, device)).collect(),
            layernorm: LayerNorm::new(config.d_model, LAYER_NORM_EPS, device),
            norms_every_layer: config.auxiliary_loss,
        }
    }

    /// # Shapes
    /// - queries: `[batch, queries, hidden]`: what tells them apart, as positions do
    /// - memory: `[batch, places, hidden]`
    /// - positions: `[batch or 1, places, hidden]`
    /// - output: `[batch, queries, hidden]`
    pub(super) fn forward(
        &self,
        queries: Tensor<3>,
        memory: Tensor<3>,
        positions: Tensor<3>,
        mask: &Mask,
        record: &mut Record,
    ) -> Tensor<3> {
        let keys = memory.clone() + positions;
        let mut x = queries.zeros_like();
        record.hidden_state(&x);
        for (number, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &queries, [&keys, &memory], mask, record);
            if number + 1 < self.layers.len() {
                record.hidden_state(&x);
            }
            if self.norms_every_layer {
                x = self.layernorm.forward(x);
            }
        }
        let x = self.layernorm.forward(x);
        record.hidden_state(&x);
        x
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    self_attn: Attention,
    self_attn_layer_norm: LayerNorm,
    encoder_attn: Attention,
    encoder_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl DecoderLayer {
    fn new(config: &DetrConfig, device: &Device) -> Self {
        let hidden = config.d_model;
        Self {
            self_attn: Attention::new(hidden, config.decoder_attention_heads, device),
            self_attn_layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            encoder_attn: Attention::new(hidden, config.decoder_attention_heads, device),
            encoder_attn_layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            fc1: Linear::new(hidden, config.decoder_ffn_dim, true, device),
            fc2: Linear::new(config.decoder_ffn_dim, hidden, true, device),
            final_layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            act: config.activation_function,
        }
    }

    /// # Shapes
    /// - x, queries, output: `[batch, queries, hidden]`
    /// - memory: `[batch, places, hidden]`, with positions and without
    fn forward(
        &self,
        x: Tensor<3>,
        queries: &Tensor<3>,
        memory: [&Tensor<3>; 2],
        mask: &Mask,
        record: &mut Record,
    ) -> Tensor<3> {
        let y = self.self_attn.within(x.clone(), queries.clone(), &Mask::default(), record);
        let x = self.self_attn_layer_norm.forward_residual(y, x);
        let placed = x.clone() + queries.clone();
        let y = record.within("cross_", |record| self.encoder_attn.across(placed, memory, mask, record));
        let x = self.encoder_attn_layer_norm.forward_residual(y, x);
        let y = self.fc2.forward(self.fc1.forward_activated(x.clone(), self.act));
        self.final_layer_norm.forward_residual(y, x)
    }
}

/// Attention whose queries and keys know where they are; its values do not.
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
    fn new(hidden: usize, heads: usize, device: &Device) -> Self {
        let linear = || Linear::new(hidden, hidden, true, device);
        Self { k_proj: linear(), v_proj: linear(), q_proj: linear(), out_proj: linear(), heads }
    }

    /// Among the places of one sequence.
    fn within(&self, x: Tensor<3>, positions: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [q, k] = project(x.clone() + positions, [&self.q_proj, &self.k_proj]);
        self.attend([q, k, self.v_proj.forward(x)], mask, record)
    }

    /// From one sequence to another, which is given with positions and without.
    fn across(&self, queries: Tensor<3>, memory: [&Tensor<3>; 2], mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [keys, values] = memory.map(Clone::clone);
        let [q, k] = [self.q_proj.forward(queries), self.k_proj.forward(keys)];
        self.attend([q, k, self.v_proj.forward(values)], mask, record)
    }

    fn attend(&self, projected: [Tensor<3>; 3], mask: &Mask, record: &mut Record) -> Tensor<3> {
        let [q, k, v] = projected.map(|x| split_heads(x, self.heads));
        self.out_proj.forward(merge_heads(attention(q, k, v, AttentionOptions::new(mask), record)))
    }
}
