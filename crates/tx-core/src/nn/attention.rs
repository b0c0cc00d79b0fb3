//! Scaled dot-product attention between the heads of a layer.

use burn::tensor::Tensor;
use tx_kernels::KvTensor;
pub use tx_kernels::{AttentionOptions, Mask};

use crate::task::Record;

/// `softmax(q·kᵀ·scale + bias) · v`, with the weights kept in `record` if they were asked for. Keys and values are tensors,
/// or what a cache gave for them; if `record` has others for this layer, these come before them.
///
/// # Shapes
/// - q: `[batch, queries, heads, head_dim]`
/// - k, v: `[batch, keys, heads, head_dim]`
/// - output: `[batch, queries, heads, head_dim]`
pub fn attention(
    q: Tensor<4>,
    k: impl Into<KvTensor>,
    v: impl Into<KvTensor>,
    options: AttentionOptions<'_>,
    record: &mut Record,
) -> Tensor<4> {
    let (k, v) = record.behind_prefix(k.into(), v.into());
    if !record.wants_attentions() {
        return tx_kernels::attention(q, k, v, options);
    }
    let (context, weights) = tx_kernels::attention_weights(q, k, v, options);
    record.attention(weights);
    context
}

/// # Shapes
/// - x: `[batch, seq, heads · head_dim]`
/// - output: `[batch, seq, heads, head_dim]`
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, seq, hidden] = x.dims();
    x.reshape([batch, seq, heads, hidden / heads])
}

/// The inverse of [`split_heads`].
pub fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, seq, heads, head_dim] = x.dims();
    x.reshape([batch, seq, heads * head_dim])
}
