//! Stages of overlapping patches and layers, each with a smaller map than the one before.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tx_core::nn::{
    Activation, AttentionOptions, Conv2d, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::Record;

use super::{NORM_EPS, SegformerConfig};
use crate::maps::{to_map, to_sequence};

/// What a stage gives.
#[derive(Debug, Clone)]
pub(super) struct StageOutput {
    /// `[batch, map[0] · map[1], hidden]`
    pub(super) x: Tensor<3>,
    /// Height and width.
    pub(super) map: [usize; 2],
    /// Whether the reference gives the sequence, and not the map.
    pub(super) is_flat: bool,
}

impl StageOutput {
    /// # Shapes
    /// - output: `[batch, hidden, height, width]`
    pub(super) fn to_map(&self) -> Tensor<4> {
        to_map(self.x.clone(), self.map)
    }
}

/// The stages; the parts of each lie in three lists.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    patch_embeddings: Vec<PatchEmbeddings>,
    block: Vec<Vec<Layer>>,
    layer_norm: Vec<LayerNorm>,
    #[module(skip)]
    reshape_last_stage: bool,
}

impl Encoder {
    pub(super) fn new(config: &SegformerConfig, device: &Device) -> Self {
        let stages = || 0..config.num_encoder_blocks;
        let layers = |stage: usize| -> Vec<Layer> {
            (0..config.depths[stage]).map(|_| Layer::new(config, stage, device)).collect()
        };
        let norm = |stage: usize| LayerNorm::new(config.hidden_sizes[stage], NORM_EPS, device);
        Self {
            patch_embeddings: stages().map(|stage| PatchEmbeddings::new(config, stage, device)).collect(),
            block: stages().map(layers).collect(),
            layer_norm: stages().map(norm).collect(),
            reshape_last_stage: config.reshape_last_stage,
        }
    }

    /// # Shapes
    /// - pixel_values: `[batch, channels, height, width]`
    pub(super) fn forward(&self, pixel_values: Tensor<4>, record: &mut Record) -> Vec<StageOutput> {
        let mut input = pixel_values;
        let mut outputs = Vec::with_capacity(self.block.len());
        let stages = self.patch_embeddings.iter().zip(&self.block).zip(&self.layer_norm);
        for (number, ((patch_embeddings, layers), norm)) in stages.enumerate() {
            let (mut x, map) = patch_embeddings.forward(input);
            for layer in layers {
                x = layer.forward(x, map, record);
            }
            let is_flat = number + 1 == self.block.len() && !self.reshape_last_stage;
            let output = StageOutput { x: norm.forward(x), map, is_flat };
            input = output.to_map();
            outputs.push(output);
        }
        outputs
    }
}

/// Patches that overlap, projected and normalised.
#[derive(Module, Debug)]
struct PatchEmbeddings {
    proj: Conv2d,
    layer_norm: LayerNorm,
}

impl PatchEmbeddings {
    fn new(config: &SegformerConfig, stage: usize, device: &Device) -> Self {
        let input = if stage == 0 { config.num_channels } else { config.hidden_sizes[stage - 1] };
        let (hidden, patch) = (config.hidden_sizes[stage], config.patch_sizes[stage]);
        let proj = Conv2d::new(input, hidden, [patch, patch], device).with_bias(true);
        Self {
            proj: proj.with_stride(config.strides[stage]).with_padding(patch / 2),
            layer_norm: LayerNorm::new(hidden, NORM_EPS, device),
        }
    }

    /// The map as a sequence, and its height and width.
    fn forward(&self, x: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        let x = self.proj.forward(x);
        let [_, _, height, width] = x.dims();
        (self.layer_norm.forward(to_sequence(x)), [height, width])
    }
}

/// A pre-norm layer.
#[derive(Module, Debug)]
struct Layer {
    layer_norm_1: LayerNorm,
    attention: Attention,
    layer_norm_2: LayerNorm,
    mlp: MixFfn,
}

impl Layer {
    fn new(config: &SegformerConfig, stage: usize, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_sizes[stage], NORM_EPS, device);
        Self {
            layer_norm_1: norm(),
            attention: Attention::new(config, stage, device),
            layer_norm_2: norm(),
            mlp: MixFfn::new(config, stage, device),
        }
    }

    fn forward(&self, x: Tensor<3>, map: [usize; 2], record: &mut Record) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.layer_norm_1.forward(x), map, record);
        x.clone() + self.mlp.forward(self.layer_norm_2.forward(x), map)
    }
}

#[derive(Module, Debug)]
struct Attention {
    self_: SelfAttention,
    output: AttentionOutput,
}

#[derive(Module, Debug)]
struct AttentionOutput {
    dense: Linear,
}

/// Attention with the keys and values of a smaller map.
#[derive(Module, Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    sr: Option<Conv2d>,
    layer_norm: Option<LayerNorm>,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &SegformerConfig, stage: usize, device: &Device) -> Self {
        let (hidden, ratio) = (config.hidden_sizes[stage], config.sr_ratios[stage]);
        let linear = || Linear::new(hidden, hidden, true, device);
        let reduction = || Conv2d::new(hidden, hidden, [ratio, ratio], device).with_bias(true).with_stride(ratio);
        let self_ = SelfAttention {
            query: linear(),
            key: linear(),
            value: linear(),
            sr: (ratio > 1).then(reduction),
            layer_norm: (ratio > 1).then(|| LayerNorm::new(hidden, NORM_EPS, device)),
            heads: config.num_attention_heads[stage],
        };
        Self { self_, output: AttentionOutput { dense: linear() } }
    }

    fn forward(&self, x: Tensor<3>, map: [usize; 2], record: &mut Record) -> Tensor<3> {
        let SelfAttention { query, key, value, sr, layer_norm, heads } = &self.self_;
        let [q, k, v] = match (sr, layer_norm) {
            (Some(sr), Some(layer_norm)) => {
                let reduced = layer_norm.forward(sr.forward_patches(to_map(x.clone(), map)));
                let [k, v] = project(reduced, [key, value]);
                [query.forward(x), k, v]
            }
            _ => project(x, [query, key, value]),
        }
        .map(|x| split_heads(x, *heads));
        let mask = Mask::default();
        self.output.dense.forward(merge_heads(attention(q, k, v, AttentionOptions::new(&mask), record)))
    }
}

/// `dense2(act(dwconv(dense1(x))))`: the convolution sees neighbours, and so tells places apart.
#[derive(Module, Debug)]
struct MixFfn {
    dense1: Linear,
    dwconv: DepthwiseConv,
    dense2: Linear,
    #[module(skip)]
    act: Activation,
}

#[derive(Module, Debug)]
struct DepthwiseConv {
    dwconv: Conv2d,
}

impl MixFfn {
    fn new(config: &SegformerConfig, stage: usize, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_sizes[stage], config.intermediate_size(stage));
        let dwconv = Conv2d::new(intermediate, intermediate, [3, 3], device).with_bias(true).with_padding(1);
        Self {
            dense1: Linear::new(hidden, intermediate, true, device),
            dwconv: DepthwiseConv { dwconv: dwconv.with_groups(intermediate) },
            dense2: Linear::new(intermediate, hidden, true, device),
            act: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>, map: [usize; 2]) -> Tensor<3> {
        let x = to_map(self.dense1.forward(x), map);
        self.dense2.forward(to_sequence(self.dwconv.dwconv.forward_activated(x, self.act)))
    }
}
