//! The derivative of attention.

use burn::tensor::Tensor;

use super::{Graph, split, split_given};
use crate::cpu::HeldAttention;
use crate::cpu::backward::Wanted;
use crate::cpu::floats;
use crate::{AttentionOptions, KvTensor, Mask};

/// See [`crate::attention`]. The step keeps queries, keys and values, and none of their products.
pub fn attention(q: &Tensor<4>, k: &KvTensor, v: &KvTensor, options: &AttentionOptions<'_>) -> Option<Tensor<4>> {
    let (KvTensor::Float(k), KvTensor::Float(v)) = (k, v) else { return None };
    let (q, of_q) = split(q)?;
    let (k, of_k) = split(k)?;
    let (v, of_v) = split(v)?;
    let (bias, of_bias) = split_given(options.bias.as_ref())?;
    let (sinks, of_sinks) = split_given(options.sinks.as_ref())?;
    let graph = Graph::of([of_q, of_k, of_v, of_bias, of_sinks])?;
    if [q.dims(), k.dims(), v.dims()].as_flattened().contains(&0) {
        return None;
    }
    let padding = match &options.mask.padding {
        Some(padding) => Some(split(padding)?.0),
        None => None,
    };
    let mask = Mask { padding, before: options.mask.before, after: options.mask.after };
    let bias_dims = bias.as_ref().map(Tensor::dims);
    let options = AttentionOptions { mask: &mask, bias, sinks, scale: options.scale, softcap: options.softcap };
    let held = HeldAttention::new(&q, &KvTensor::Float(k), &KvTensor::Float(v), &options)?;
    let result = floats(&held.run())?;
    let [q, k, v, of_bias, sinks] = graph.wanted();
    let wanted = Wanted { q, k, v, bias: bias_dims.filter(|_| of_bias), sinks };
    Some(graph.record(result, move |gradient| held.backward(gradient, wanted)))
}
