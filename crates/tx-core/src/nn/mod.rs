//! Layers that have a name in the literature and that at least three architectures use.
//!
//! They take numbers and tensors, never a model's config. Their fields are named as the tensors on the Hub are, so that
//! a module path is a tensor name. New layers are uninitialised until they are loaded or first used: building a model
//! of any size costs nothing.

mod activation;
pub mod adapter;
mod alibi;
mod attention;
mod cache;
mod causal_conv;
mod conv;
mod conv1d;
mod embedding;
mod experts;
mod interpolate;
mod linear;
mod norm;
mod relative;
mod rope;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Distribution, Tensor};

pub use activation::Activation;
pub use alibi::{alibi, alibi_slopes};
pub use attention::{AttentionOptions, Mask, attention, merge_heads, split_heads};
pub use cache::{Cache, CacheKind, KeyValues, LayerCache, States};
pub use causal_conv::CausalConv1d;
pub use conv::{BatchNorm2d, Conv1d, Conv2d, GroupNorm, conv1d};
pub use conv1d::Conv1dLinear;
pub use embedding::Embedding;
pub use experts::{Router, Routing};
pub use interpolate::{Interpolation, interpolate};
pub use linear::{HeadWeights, Linear, project};
pub use norm::{LayerNorm, RmsNorm};
pub use relative::relative_position_bucket;
pub use rope::{Pairs, Rope, RopeParameters, RopeTable, RopeType};
pub use tx_kernels::{KvPrecision, KvTensor, SsdParameters, linear_transposed, max_pool2d, selective_scan, ssd_scan};

/// A parameter that is drawn from a normal distribution with this deviation on first use, if it is not loaded before.
pub fn normal<const D: usize>(shape: [usize; D], std: f64, device: &Device) -> Param<Tensor<D>> {
    let draw = move |device: &Device, grad: bool| {
        Tensor::random(shape, Distribution::Normal(0.0, std), device).set_require_grad(grad)
    };
    Param::uninitialized(ParamId::new(), draw, device.clone(), true, shape.into())
}

/// A parameter that is constant on first use, if it is not loaded before.
pub fn constant<const D: usize>(shape: [usize; D], value: f64, device: &Device) -> Param<Tensor<D>> {
    let fill = move |device: &Device, grad: bool| Tensor::full(shape, value, device).set_require_grad(grad);
    Param::uninitialized(ParamId::new(), fill, device.clone(), true, shape.into())
}

/// HF's `initializer_range`, which nearly every architecture leaves at its default.
pub(crate) const INITIALIZER_RANGE: f64 = 0.02;
