//! Stages of layers whose attention stays within windows, and the merging of patches between them.

use burn::module::Module;
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor};
use tx_core::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::Record;

use super::windows::Windows;
use super::{LAYER_NORM_EPS, SwinConfig};
use crate::maps::to_map;

/// The stages.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    layers: Vec<Stage>,
}

impl Encoder {
    pub(super) fn new(config: &SwinConfig, device: &Device) -> Self {
        Self { layers: (0..config.depths.len()).map(|stage| Stage::new(config, stage, device)).collect() }
    }

    /// The last map as a sequence, and its height and width.
    ///
    /// # Shapes
    /// - x: `[batch, map[0] · map[1], channels]`
    /// - output: `[batch, height · width, channels']`
    pub(super) fn forward(
        &self,
        mut x: Tensor<3>,
        mut map: [usize; 2],
        record: &mut Record,
    ) -> (Tensor<3>, [usize; 2]) {
        record.hidden_state(&x);
        record.keep("reshaped_hidden_states", &to_map(x.clone(), map));
        for stage in &self.layers {
            (x, map) = stage.forward(x, map, record);
            record.hidden_state(&x);
            record.keep("reshaped_hidden_states", &to_map(x.clone(), map));
        }
        (x, map)
    }
}

/// Layers of one width, every other one with shifted windows; then patches merge, in all stages but the last.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Layer>,
    downsample: Option<PatchMerging>,
    #[module(skip)]
    window_size: usize,
}

impl Stage {
    fn new(config: &SwinConfig, stage: usize, device: &Device) -> Self {
        let hidden = config.embed_dim << stage;
        let is_last = stage + 1 == config.depths.len();
        let blocks = (0..config.depths[stage]).map(|_| Layer::new(config, hidden, config.num_heads[stage], device));
        Self {
            blocks: blocks.collect(),
            downsample: (!is_last).then(|| PatchMerging::new(hidden, device)),
            window_size: config.window_size,
        }
    }

    fn forward(&self, mut x: Tensor<3>, map: [usize; 2], record: &mut Record) -> (Tensor<3>, [usize; 2]) {
        let device = x.device();
        let still = Windows::new(map, self.window_size, false, &device);
        let shifted = (self.blocks.len() > 1).then(|| Windows::new(map, self.window_size, true, &device));
        let mut nothing = Record::none();
        for (number, block) in self.blocks.iter().enumerate() {
            let windows = shifted.as_ref().filter(|_| number % 2 == 1).unwrap_or(&still);
            // The reference keeps one map of attention for each stage, the last.
            let is_last = number + 1 == self.blocks.len();
            x = block.forward(x, windows, if is_last { &mut *record } else { &mut nothing });
        }
        match &self.downsample {
            Some(downsample) => downsample.forward(x, map),
            None => (x, map),
        }
    }
}

/// Four neighbours become one place of twice the channels.
#[derive(Module, Debug)]
struct PatchMerging {
    reduction: Linear,
    norm: LayerNorm,
}

impl PatchMerging {
    fn new(hidden: usize, device: &Device) -> Self {
        Self {
            reduction: Linear::new(4 * hidden, 2 * hidden, false, device),
            norm: LayerNorm::new(4 * hidden, LAYER_NORM_EPS, device),
        }
    }

    fn forward(&self, x: Tensor<3>, [height, width]: [usize; 2]) -> (Tensor<3>, [usize; 2]) {
        let [batch, _, channels] = x.dims();
        let [rows, columns] = [height.div_ceil(2), width.div_ceil(2)];
        let x = x.reshape([batch, height, width, channels]);
        let ends = [(0, 2 * rows - height), (0, 2 * columns - width), (0, 0)];
        let x = if ends == [(0, 0); 3] { x } else { x.pad(ends, PadMode::Constant(0.0)) };
        // The neighbours come column by column.
        let x = x.reshape([batch, rows, 2, columns, 2, channels]).permute([0, 1, 3, 4, 2, 5]);
        let x = self.norm.forward(x.reshape([batch, rows * columns, 4 * channels]));
        (self.reduction.forward(x), [rows, columns])
    }
}

/// A pre-norm layer.
#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    layernorm_before: LayerNorm,
    layernorm_after: LayerNorm,
    intermediate: Dense,
    output: Dense,
    #[module(skip)]
    act: Activation,
}

#[derive(Module, Debug)]
struct Dense {
    dense: Linear,
}

impl Dense {
    fn new(input: usize, output: usize, device: &Device) -> Self {
        Self { dense: Linear::new(input, output, true, device) }
    }
}

impl Layer {
    fn new(config: &SwinConfig, hidden: usize, heads: usize, device: &Device) -> Self {
        let norm = || LayerNorm::new(hidden, config.layer_norm_eps, device);
        let intermediate = config.intermediate_size(hidden);
        Self {
            attention: Attention::new(config, hidden, heads, device),
            layernorm_before: norm(),
            layernorm_after: norm(),
            intermediate: Dense::new(hidden, intermediate, device),
            output: Dense::new(intermediate, hidden, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>, windows: &Windows, record: &mut Record) -> Tensor<3> {
        let y = windows.split(self.layernorm_before.forward(x.clone()));
        let x = x + windows.join(self.attention.forward(y, windows, record));
        let y = self.intermediate.dense.forward_activated(self.layernorm_after.forward(x.clone()), self.act);
        x + self.output.dense.forward(y)
    }
}

#[derive(Module, Debug)]
struct Attention {
    self_: SelfAttention,
    output: Dense,
}

/// Attention among the places of each window, with a bias for each distance.
#[derive(Module, Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    relative_position_bias_table: Embedding,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &SwinConfig, hidden: usize, heads: usize, device: &Device) -> Self {
        let linear = || Linear::new(hidden, hidden, config.qkv_bias, device);
        let distances = 2 * config.window_size - 1;
        let self_ = SelfAttention {
            query: linear(),
            key: linear(),
            value: linear(),
            relative_position_bias_table: Embedding::new(distances * distances, heads, device),
            heads,
        };
        Self { self_, output: Dense::new(hidden, hidden, device) }
    }

    /// # Shapes
    /// - x, output: `[batch · windows, places, hidden]`
    fn forward(&self, x: Tensor<3>, windows: &Windows, record: &mut Record) -> Tensor<3> {
        let SelfAttention { query, key, value, relative_position_bias_table, heads } = &self.self_;
        let rows = x.dims()[0];
        let [q, k, v] = project(x, [query, key, value]).map(|x| split_heads(x, *heads));
        let bias = windows.bias(relative_position_bias_table, rows);
        let mask = Mask::default();
        let options = AttentionOptions { bias: Some(bias), ..AttentionOptions::new(&mask) };
        self.output.dense.forward(merge_heads(attention(q, k, v, options, record)))
    }
}
