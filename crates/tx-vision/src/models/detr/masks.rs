//! The head that gives every query the shape of its object.

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use tx_core::Result;
use tx_core::config::Check;
use tx_core::nn::{Activation, Conv2d, GroupNorm, Linear, split_heads};

use super::DetrConfig;

/// The most groups of channels that are normalised together.
const GROUPS: usize = 8;
/// The epsilon of all norms.
const GROUP_NORM_EPS: f64 = 1e-5;
/// Pixels of the masks that are computed at a time; a mask may have more.
const PIXELS: usize = 1 << 18;

/// How much each query looks at each place, in each of some heads.
#[derive(Module, Debug)]
pub(super) struct AttentionMap {
    q_linear: Linear,
    k_linear: Linear,
    #[module(skip)]
    heads: usize,
}

impl AttentionMap {
    pub(super) fn new(hidden: usize, heads: usize, device: &Device) -> Self {
        let linear = || Linear::new(hidden, hidden, true, device);
        Self { q_linear: linear(), k_linear: linear(), heads }
    }

    /// Sums to one over the places of all heads together.
    ///
    /// # Shapes
    /// - queries: `[batch, queries, hidden]`
    /// - memory: `[batch, places, hidden]`
    /// - padding: `[batch, places]`: true for padding
    /// - output: `[batch, queries, heads, places]`
    pub(super) fn forward(&self, queries: Tensor<3>, memory: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<4> {
        let q = split_heads(self.q_linear.forward(queries), self.heads);
        let k = split_heads(self.k_linear.forward(memory), self.heads);
        let [batch, count, heads, head_dim] = q.dims();
        let places = k.dims()[1];
        let scale = 1.0 / (head_dim as f64).sqrt();
        let scores = (q * scale).swap_dims(1, 2).matmul(k.permute([0, 2, 3, 1])); // [batch, heads, queries, places]
        let scores = scores.swap_dims(1, 2);
        let scores = match padding {
            Some(padding) => {
                let padding = padding.reshape([batch, 1, 1, places]).expand([batch, count, heads, places]);
                scores.mask_fill(padding, f64::from(f32::MIN))
            }
            None => scores,
        };
        softmax(scores.reshape([batch, count, heads * places]), 2).reshape([batch, count, heads, places])
    }
}

/// Convolutions that enlarge a query's attention step by step, with the help of the backbone's maps.
#[derive(Module, Debug)]
pub(super) struct MaskHead {
    lay1: Conv2d,
    gn1: GroupNorm,
    lay2: Conv2d,
    gn2: GroupNorm,
    lay3: Conv2d,
    gn3: GroupNorm,
    lay4: Conv2d,
    gn4: GroupNorm,
    lay5: Conv2d,
    gn5: GroupNorm,
    out_lay: Conv2d,
    adapter1: Conv2d,
    adapter2: Conv2d,
    adapter3: Conv2d,
    #[module(skip)]
    act: Activation,
}

impl MaskHead {
    /// Channels of the first two layers and of the three that follow.
    fn channels(config: &DetrConfig) -> [usize; 5] {
        let hidden = config.d_model;
        [hidden + config.encoder_attention_heads, hidden / 2, hidden / 4, hidden / 8, hidden / 16]
    }

    /// # Errors
    /// `Error::Config` for channels that do not make groups, and for a backbone of too few maps.
    pub(super) fn validate(check: &Check<'_>, config: &DetrConfig) -> Result<()> {
        let [first, others @ ..] = Self::channels(config);
        if !first.is_multiple_of(GROUPS) || others.iter().any(|&channels| !makes_groups(channels)) {
            let reason = format_args!(
                "a head for masks needs {first} channels, and {others:?}, to be multiples of {GROUPS}, or fewer",
            );
            return Err(check.error("d_model", reason));
        }
        let maps = config.backbone().output_channels().len();
        if maps < 3 {
            let reason = format_args!("{maps} maps leave the backbone, and a head for masks needs three");
            return Err(check.error("backbone_config", reason));
        }
        Ok(())
    }

    /// `maps` are the channels of the backbone's maps, from the largest to the smallest.
    pub(super) fn new(config: &DetrConfig, maps: &[usize], device: &Device) -> Self {
        let channels = Self::channels(config);
        let layer = |input, output| Conv2d::new(input, output, [3, 3], device).with_bias(true).with_padding(1);
        let norm = |channels: usize| GroupNorm::new(channels.min(GROUPS), channels, GROUP_NORM_EPS, device);
        let adapter = |map: usize, output| Conv2d::new(maps[map], output, [1, 1], device).with_bias(true);
        Self {
            lay1: layer(channels[0], channels[0]),
            gn1: norm(channels[0]),
            lay2: layer(channels[0], channels[1]),
            gn2: norm(channels[1]),
            lay3: layer(channels[1], channels[2]),
            gn3: norm(channels[2]),
            lay4: layer(channels[2], channels[3]),
            gn4: norm(channels[3]),
            lay5: layer(channels[3], channels[4]),
            gn5: norm(channels[4]),
            out_lay: layer(channels[4], 1),
            adapter1: adapter(2, channels[1]),
            adapter2: adapter(1, channels[2]),
            adapter3: adapter(0, channels[3]),
            act: config.activation_function,
        }
    }

    /// What is the same for all queries of a picture is computed once: the maps' part in each sum, and that of the
    /// picture's features in the first convolution. The queries follow in groups, so that memory has a bound.
    ///
    /// # Shapes
    /// - features: `[batch, hidden, height, width]`
    /// - attention: `[batch, queries, heads, height, width]`
    /// - maps: `[batch, channels, height', width']` each, from the largest to the smallest
    /// - output: `[batch, queries, height', width']` of the largest
    pub(super) fn forward(&self, features: Tensor<4>, attention: Tensor<5>, maps: &[Tensor<4>]) -> Tensor<4> {
        let [batch, queries, heads, height, width] = attention.dims();
        let hidden = features.dims()[1];
        let shared = Shared {
            features: part(&self.lay1, 0, hidden, true).forward(features),
            maps: [
                self.adapter1.forward(maps[2].clone()),
                self.adapter2.forward(maps[1].clone()),
                self.adapter3.forward(maps[0].clone()),
            ],
        };
        let attentive = part(&self.lay1, hidden, heads, false);
        let [_, _, rows, columns] = maps[0].dims();
        let group = (PIXELS / (rows * columns)).clamp(1, queries);
        let mut masks = Vec::new();
        for picture in 0..batch {
            let shared = shared.of(picture);
            let attention: Tensor<4> = attention.clone().narrow(0, picture, 1).reshape([queries, heads, height, width]);
            for attention in attention.split(group, 0) {
                masks.push(self.grow(attentive.forward(attention), &shared));
            }
        }
        Tensor::cat(masks, 0).reshape([batch, queries, rows, columns])
    }

    /// # Shapes
    /// - x: `[queries, channels, height, width]`: the part of attention in the first convolution
    /// - output: `[queries, 1, height', width']`
    fn grow(&self, x: Tensor<4>, shared: &Shared) -> Tensor<4> {
        let finish = |norm: &GroupNorm, x: Tensor<4>| self.act.forward(norm.forward(x));
        let x = finish(&self.gn1, x + shared.features.clone());
        let mut x = finish(&self.gn2, self.lay2.forward(x));
        let layers = [(&self.lay3, &self.gn3), (&self.lay4, &self.gn4), (&self.lay5, &self.gn5)];
        for ((layer, norm), map) in layers.into_iter().zip(&shared.maps) {
            let [_, _, height, width] = map.dims();
            x = finish(norm, layer.forward(enlarge(x, [height, width]) + map.clone()));
        }
        self.out_lay.forward(x)
    }
}

/// What is the same for all queries.
struct Shared {
    /// `[batch, channels, height, width]`
    features: Tensor<4>,
    /// The same, from the smallest map to the largest.
    maps: [Tensor<4>; 3],
}

impl Shared {
    /// That of one picture.
    fn of(&self, picture: usize) -> Self {
        let of = |x: &Tensor<4>| x.clone().narrow(0, picture, 1);
        Self { features: of(&self.features), maps: self.maps.each_ref().map(of) }
    }
}

/// Whether so many channels are whole groups.
fn makes_groups(channels: usize) -> bool {
    channels > 0 && channels.is_multiple_of(channels.min(GROUPS))
}

/// The convolution of some of its input channels.
fn part(convolution: &Conv2d, start: usize, length: usize, bias: bool) -> Conv2d {
    let weight = convolution.weight.val().narrow(1, start, length);
    let mut part = convolution.clone();
    part.weight = Param::initialized(ParamId::new(), weight);
    part.bias = part.bias.filter(|_| bias);
    part
}

/// A larger map of the nearest places, as PyTorch's `interpolate` chooses them.
fn enlarge(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [_, _, rows, columns] = x.dims();
    let device = x.device();
    let nearest = |from: usize, to: usize| -> Tensor<1, Int> {
        let scale = from as f32 / to as f32;
        let ids: Vec<i64> = (0..to).map(|id| ((id as f32 * scale) as usize).min(from - 1) as i64).collect();
        Tensor::from_data(TensorData::new(ids, [to]), &device)
    };
    x.select(3, nearest(columns, width)).select(2, nearest(rows, height))
}
