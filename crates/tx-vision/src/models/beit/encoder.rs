//! BEiT's layers: ViT's, with biases for relative positions and with layer scale.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use tx_core::nn::{
    AttentionOptions, Interpolation, LayerNorm, Linear, Mask, attention, constant, interpolate, merge_heads, project,
    split_heads,
};
use tx_core::task::Record;

use super::BeitConfig;
use crate::models::vit::{Intermediate, Output, grid};

/// A stack of pre-norm layers.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    layer: Vec<Layer>,
    /// Of all layers.
    relative_position_bias: Option<RelativePositionBias>,
}

impl Encoder {
    pub(super) fn new(config: &BeitConfig, device: &Device) -> Self {
        let shared = config.use_shared_relative_position_bias;
        Self {
            layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect(),
            relative_position_bias: shared.then(|| RelativePositionBias::new(config, device)),
        }
    }

    /// `see` gets every state with its number, as in `BeitModel::encode`.
    pub(super) fn forward(
        &self,
        mut x: Tensor<3>,
        grid: [usize; 2],
        record: &mut Record,
        mut see: impl FnMut(usize, &Tensor<3>),
    ) -> Tensor<3> {
        let own = self.layer.first().is_some_and(|layer| layer.attention.attention.relative_position_bias.is_some());
        let window = (own || self.relative_position_bias.is_some()).then(|| Window::new(grid, &x));
        let shared = bias(self.relative_position_bias.as_ref(), window.as_ref());
        record.hidden_state(&x);
        see(0, &x);
        for (i, layer) in self.layer.iter().enumerate() {
            x = layer.forward(x, window.as_ref(), shared.as_ref(), record);
            record.hidden_state(&x);
            see(i + 1, &x);
        }
        x
    }
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    intermediate: Intermediate,
    output: Output,
    layernorm_before: LayerNorm,
    layernorm_after: LayerNorm,
    lambda_1: Option<Param<Tensor<1>>>,
    lambda_2: Option<Param<Tensor<1>>>,
}

impl Layer {
    fn new(config: &BeitConfig, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let norm = || LayerNorm::new(hidden, config.layer_norm_eps, device);
        let init = config.layer_scale_init_value;
        let lambda = || (init > 0.0).then(|| constant([hidden], init, device));
        Self {
            attention: Attention::new(config, device),
            intermediate: Intermediate::new(hidden, intermediate, config.hidden_act, device),
            output: Output::new(intermediate, hidden, device),
            layernorm_before: norm(),
            layernorm_after: norm(),
            lambda_1: lambda(),
            lambda_2: lambda(),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        window: Option<&Window>,
        shared: Option<&Tensor<4>>,
        record: &mut Record,
    ) -> Tensor<3> {
        let y = self.attention.forward(self.layernorm_before.forward(x.clone()), window, shared, record);
        let x = scale(y, self.lambda_1.as_ref()) + x;
        let y = self.output.forward(self.intermediate.forward(self.layernorm_after.forward(x.clone())));
        scale(y, self.lambda_2.as_ref()) + x
    }
}

/// `lambda · x`, where there is one.
fn scale(x: Tensor<3>, lambda: Option<&Param<Tensor<1>>>) -> Tensor<3> {
    match lambda {
        Some(lambda) => x * lambda.val().unsqueeze::<3>(),
        None => x,
    }
}

#[derive(Module, Debug)]
struct Attention {
    attention: SelfAttention,
    output: Output,
}

impl Attention {
    fn new(config: &BeitConfig, device: &Device) -> Self {
        let output = Output::new(config.hidden_size, config.hidden_size, device);
        Self { attention: SelfAttention::new(config, device), output }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        window: Option<&Window>,
        shared: Option<&Tensor<4>>,
        record: &mut Record,
    ) -> Tensor<3> {
        self.output.forward(self.attention.forward(x, window, shared, record))
    }
}

#[derive(Module, Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    /// Of this layer alone.
    relative_position_bias: Option<RelativePositionBias>,
    #[module(skip)]
    heads: usize,
}

impl SelfAttention {
    fn new(config: &BeitConfig, device: &Device) -> Self {
        // A bias of the keys would move all scores of a query alike, which softmax does not see.
        let linear = |bias: bool| Linear::new(config.hidden_size, config.hidden_size, bias, device);
        let own = config.use_relative_position_bias;
        Self {
            query: linear(true),
            key: linear(false),
            value: linear(true),
            relative_position_bias: own.then(|| RelativePositionBias::new(config, device)),
            heads: config.num_attention_heads,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        window: Option<&Window>,
        shared: Option<&Tensor<4>>,
        record: &mut Record,
    ) -> Tensor<3> {
        let [q, k, v] = project(x, [&self.query, &self.key, &self.value]).map(|x| split_heads(x, self.heads));
        let bias = match (bias(self.relative_position_bias.as_ref(), window), shared) {
            (Some(own), Some(shared)) => Some(own + shared.clone()),
            (own, shared) => own.or(shared.cloned()),
        };
        let mask = Mask::default();
        let options = AttentionOptions { bias, ..AttentionOptions::new(&mask) };
        merge_heads(attention(q, k, v, options, record))
    }
}

/// The biases of a table, where there is one.
fn bias(table: Option<&RelativePositionBias>, window: Option<&Window>) -> Option<Tensor<4>> {
    Some(table?.forward(window?))
}

/// Which row of a table of biases each pair of tokens has: the picture in patches, behind the first token.
struct Window {
    grid: [usize; 2],
    /// `[tokens · tokens]`
    rows: Tensor<1, Int>,
    dtype: DType,
}

impl Window {
    /// The window of the tokens `x`.
    fn new([rows, columns]: [usize; 2], x: &Tensor<3>) -> Self {
        let tokens = 1 + rows * columns;
        // The last three rows are those of the first token: to others, from others, and to itself.
        let special = distances([rows, columns]).iter().product::<usize>();
        let mut index = Vec::with_capacity(tokens * tokens);
        for query in 0..tokens {
            for key in 0..tokens {
                let row = match (query, key) {
                    (0, 0) => special + 2,
                    (0, _) => special,
                    (_, 0) => special + 1,
                    _ => {
                        let [q, k] = [query, key].map(|token| ((token - 1) / columns, (token - 1) % columns));
                        (q.0 + rows - 1 - k.0) * (2 * columns - 1) + q.1 + columns - 1 - k.1
                    }
                };
                index.push(row as i64);
            }
        }
        let index = TensorData::new(index, [tokens * tokens]);
        Self { grid: [rows, columns], rows: Tensor::from_data(index, &x.device()), dtype: x.dtype() }
    }
}

/// How many distances there are along each axis of a grid.
fn distances(grid: [usize; 2]) -> [usize; 2] {
    grid.map(|side| 2 * side - 1)
}

/// A bias for every distance between two patches, in each head.
#[derive(Module, Debug)]
struct RelativePositionBias {
    relative_position_bias_table: Param<Tensor<2>>,
    #[module(skip)]
    grid: [usize; 2],
}

impl RelativePositionBias {
    fn new(config: &BeitConfig, device: &Device) -> Self {
        let grid = grid(config.image_size, config.patch_size);
        let rows = distances(grid).iter().product::<usize>() + 3;
        Self { relative_position_bias_table: constant([rows, config.num_attention_heads], 0.0, device), grid }
    }

    /// # Shapes
    /// - output: `[1, heads, tokens, tokens]`
    fn forward(&self, window: &Window) -> Tensor<4> {
        let [height, width] = distances(self.grid);
        let table = self.relative_position_bias_table.val().cast(window.dtype).transpose();
        let heads = table.dims()[0];
        let (patches, special) = (height * width, table.clone().narrow(1, height * width, 3));
        // The reference takes rows for columns here, which shows where the table's grid is not square.
        let map = table.narrow(1, 0, patches).reshape([1, heads, width, height]);
        let to = distances(window.grid);
        let map = interpolate(map, to, Interpolation::Bilinear, false).reshape([heads, to[0] * to[1]]);
        let tokens = 1 + window.grid[0] * window.grid[1];
        Tensor::cat(vec![map, special], 1).select(1, window.rows.clone()).reshape([1, heads, tokens, tokens])
    }
}
