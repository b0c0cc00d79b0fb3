//! CLAP's audio tower: a spectrogram folded to a square, in a Swin Transformer.
//!
//! Chen et al., 2022 (arXiv:2202.00874).

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tx_core::nn::{
    Activation, AttentionOptions, BatchNorm2d, Embedding, Interpolation, LayerNorm, Linear, Mask, attention,
    interpolate, merge_heads, project, split_heads,
};
use tx_core::task::{Record, SpectrogramInputs};

use super::config::ClapAudioConfig;
use super::patches::{EPS, PatchEmbed};
use super::windows::Windows;

/// The encoder.
#[derive(Module, Debug)]
pub(super) struct AudioEncoder {
    patch_embed: PatchEmbed,
    layers: Vec<Stage>,
    batch_norm: BatchNorm2d,
    norm: LayerNorm,
    #[module(skip)]
    spec_size: usize,
    #[module(skip)]
    ratio: usize,
    /// Rows and columns of the patches.
    #[module(skip)]
    map: [usize; 2],
}

impl AudioEncoder {
    pub(super) fn new(config: &ClapAudioConfig, device: &Device) -> Self {
        Self {
            patch_embed: PatchEmbed::new(config, device),
            layers: (0..config.depths.len()).map(|stage| Stage::new(config, stage, device)).collect(),
            batch_norm: BatchNorm2d::new(config.num_mel_bins, EPS, device),
            norm: LayerNorm::new(config.channels(config.last_stage()), EPS, device),
            spec_size: config.spec_size,
            ratio: config.ratio(),
            map: config.map(0),
        }
    }

    /// The last map, its pieces of time beside each other again, and the mean of its places.
    ///
    /// # Shapes
    /// - output: `[batch, channels, bands, time]`, `[batch, channels]`
    pub(super) fn forward(&self, inputs: &SpectrogramInputs, record: &mut Record) -> (Tensor<4>, Tensor<2>) {
        let x = self.fold(self.normalize(inputs.input_features.clone()));
        let mut x = self.patch_embed.forward(x, inputs.is_longer.as_ref());
        let mut map = self.map;
        record.hidden_state(&to_map(x.clone(), map));
        for stage in &self.layers {
            (x, map) = stage.forward(x, map, record);
            record.hidden_state(&to_map(x.clone(), map));
        }
        let x = self.norm.forward(x);
        let pooled = x.clone().mean_dim(1).squeeze_dim::<2>(1);

        let [batch, _, channels] = x.dims();
        let [rows, columns] = map;
        let bands = rows / self.ratio;
        let pieces = rows / bands;
        let x = x.reshape([batch, pieces, bands, columns, channels]).permute([0, 4, 2, 1, 3]);
        (x.reshape([batch, channels, bands, pieces * columns]), pooled)
    }

    /// Each band by itself.
    ///
    /// # Shapes
    /// - x, output: `[batch, views, frames, bands]`
    fn normalize(&self, x: Tensor<4>) -> Tensor<4> {
        let (scale, shift) = self.batch_norm.scale_and_shift();
        let bands = scale.dims()[0];
        x * scale.reshape([1, 1, 1, bands]) + shift.reshape([1, 1, 1, bands])
    }

    /// Stretched to fill the square, and in pieces of time one above the other; frequency goes down and time right.
    ///
    /// # Shapes
    /// - x: `[batch, views, frames, bands]`
    /// - output: `[batch, views, spec_size, spec_size]`
    fn fold(&self, x: Tensor<4>) -> Tensor<4> {
        let (side, ratio) = (self.spec_size, self.ratio);
        let [batch, views, frames, bands] = x.dims();
        let all = side * ratio;
        let x = if frames < all { interpolate(x, [all, bands], Interpolation::Bicubic, true) } else { x };
        x.reshape([batch, views, ratio, side, bands]).swap_dims(3, 4).reshape([batch, views, side, side])
    }
}

/// # Shapes
/// - x: `[batch, height · width, channels]`
/// - output: `[batch, channels, height, width]`
fn to_map(x: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, _, channels] = x.dims();
    x.reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}

/// Layers of one width, every other one with shifted windows; then places merge, in all stages but the last.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Layer>,
    downsample: Option<PatchMerging>,
    #[module(skip)]
    window_size: usize,
}

impl Stage {
    fn new(config: &ClapAudioConfig, stage: usize, device: &Device) -> Self {
        let is_last = stage == config.last_stage();
        Self {
            blocks: (0..config.depths[stage]).map(|_| Layer::new(config, stage, device)).collect(),
            downsample: (!is_last).then(|| PatchMerging::new(config.channels(stage), device)),
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

/// Four neighbours become one place of twice the channels. The config has seen to it that no place is left over.
#[derive(Module, Debug)]
struct PatchMerging {
    reduction: Linear,
    norm: LayerNorm,
}

impl PatchMerging {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            reduction: Linear::new(4 * channels, 2 * channels, false, device),
            norm: LayerNorm::new(4 * channels, EPS, device),
        }
    }

    fn forward(&self, x: Tensor<3>, [height, width]: [usize; 2]) -> (Tensor<3>, [usize; 2]) {
        let [batch, _, channels] = x.dims();
        let [rows, columns] = [height / 2, width / 2];
        // The neighbours come column by column.
        let x = x.reshape([batch, rows, 2, columns, 2, channels]).permute([0, 1, 3, 4, 2, 5]);
        let x = self.norm.forward(x.reshape([batch, rows * columns, 4 * channels]));
        (self.reduction.forward(x), [rows, columns])
    }
}

/// A pre-norm layer.
#[derive(Module, Debug)]
struct Layer {
    layernorm_before: LayerNorm,
    attention: Attention,
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
    fn new(config: &ClapAudioConfig, stage: usize, device: &Device) -> Self {
        let (channels, intermediate) = (config.channels(stage), config.intermediate_size(stage));
        let norm = || LayerNorm::new(channels, config.layer_norm_eps, device);
        Self {
            layernorm_before: norm(),
            attention: Attention::new(config, stage, device),
            layernorm_after: norm(),
            intermediate: Dense::new(channels, intermediate, device),
            output: Dense::new(intermediate, channels, device),
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
    relative_position_bias_table: Embedding,
    query: Linear,
    key: Linear,
    value: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &ClapAudioConfig, stage: usize, device: &Device) -> Self {
        let (channels, heads) = (config.channels(stage), config.num_attention_heads[stage]);
        let linear = || Linear::new(channels, channels, config.qkv_bias, device);
        let distances = 2 * config.window_size - 1;
        let self_ = SelfAttention {
            relative_position_bias_table: Embedding::new(distances * distances, heads, device),
            query: linear(),
            key: linear(),
            value: linear(),
            heads,
        };
        Self { self_, output: Dense::new(channels, channels, device) }
    }

    /// # Shapes
    /// - x, output: `[batch · windows, places, channels]`
    fn forward(&self, x: Tensor<3>, windows: &Windows, record: &mut Record) -> Tensor<3> {
        let SelfAttention { relative_position_bias_table, query, key, value, heads } = &self.self_;
        let rows = x.dims()[0];
        let [q, k, v] = project(x, [query, key, value]).map(|x| split_heads(x, *heads));
        let bias = windows.bias(relative_position_bias_table, rows);
        let mask = Mask::default();
        let options = AttentionOptions { bias: Some(bias), ..AttentionOptions::new(&mask) };
        self.output.dense.forward(merge_heads(attention(q, k, v, options, record)))
    }
}
