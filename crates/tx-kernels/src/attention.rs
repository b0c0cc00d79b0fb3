//! Scaled dot-product attention and what it may see.

use burn::tensor::{Bool, DType, Int, Tensor};

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::gradient;
use crate::{KvTensor, softmax};

/// Which keys a query may not see. The one convention of the workspace: *true is hidden*.
///
/// A key is seen if it is not padding and lies within the window of the query's position. Queries are the last
/// positions of the keys, so that a cache needs no other mask.
#[derive(Debug, Clone, Default)]
pub struct Mask {
    /// `[batch, keys]`: true for padding. Of more keys than there are, the last ones count: the others left a window.
    pub padding: Option<Tensor<2, Bool>>,
    /// How far back a query sees, itself not counted; unlimited if `None`.
    pub before: Option<usize>,
    /// How far ahead a query sees, itself not counted; unlimited if `None`, causal if 0.
    pub after: Option<usize>,
}

impl Mask {
    /// Nothing but padding is hidden. `attention_mask` is HF's: 1 is seen, 0 is padding.
    ///
    /// # Shapes
    /// - attention_mask: `[batch, keys]`
    pub fn padding(attention_mask: Option<Tensor<2, Int>>) -> Self {
        Self { padding: attention_mask.map(|mask| mask.equal_elem(0)), ..Self::default() }
    }

    /// Padding and whatever comes after a query is hidden, and what is `window` positions before it or more.
    pub fn causal(attention_mask: Option<Tensor<2, Int>>, window: Option<usize>) -> Self {
        Self { before: window.map(|window| window.saturating_sub(1)), after: Some(0), ..Self::padding(attention_mask) }
    }

    /// The same, seen through a window of `reach` positions on both sides.
    pub fn within(&self, reach: usize) -> Self {
        Self { padding: self.padding.clone(), before: Some(reach), after: Some(reach) }
    }

    /// The padding of the last keys.
    pub(crate) fn padding_of(&self, keys: usize) -> Option<Tensor<2, Bool>> {
        let padding = self.padding.clone()?;
        let all = padding.dims()[1];
        Some(if all > keys { padding.narrow(1, all - keys, keys) } else { padding })
    }

    /// True where a query may not see a key, or `None` if all is seen.
    ///
    /// # Shapes
    /// - output: `[batch or 1, 1, queries or 1, keys]`
    fn hidden(&self, queries: usize, keys: usize, device: &burn::tensor::Device) -> Option<Tensor<4, Bool>> {
        let padding = self.padding_of(keys).map(|p| p.unsqueeze_dims::<4>(&[1, 1]));
        if self.before.is_none() && self.after.is_none() {
            return padding;
        }
        let query = Tensor::<1, Int>::arange((keys - queries) as i64..keys as i64, device).unsqueeze_dim::<2>(1);
        let key = Tensor::<1, Int>::arange(0..keys as i64, device).unsqueeze_dim::<2>(0);
        let distance = key - query; // [queries, keys]
        let outside = match (self.before, self.after) {
            (Some(before), Some(after)) => {
                distance.clone().lower_elem(-(before as i64)).bool_or(distance.greater_elem(after as i64))
            }
            (Some(before), None) => distance.lower_elem(-(before as i64)),
            (None, after) => distance.greater_elem(after.unwrap_or(keys) as i64),
        };
        let outside = outside.unsqueeze_dims::<4>(&[0, 1]);
        Some(match padding {
            Some(padding) => padding.bool_or(outside),
            None => outside,
        })
    }
}

/// What [`attention`] needs besides queries, keys and values.
#[derive(Debug, Clone)]
pub struct AttentionOptions<'a> {
    /// Which keys are hidden.
    pub mask: &'a Mask,
    /// Factor of the scores; `1/√head_dim` if `None`.
    pub scale: Option<f64>,
    /// Added to the scaled scores: `[batch or 1, heads, queries or 1, keys]`.
    pub bias: Option<Tensor<4>>,
    /// Scores are kept within ± this, smoothly: `cap · tanh(score / cap)`. Gemma team, 2024 (arXiv:2408.00118).
    pub softcap: Option<f64>,
    /// One more score for each head, which has no value: `[heads]`. Xiao et al., 2023 (arXiv:2309.17453).
    pub sinks: Option<Tensor<1>>,
}

impl<'a> AttentionOptions<'a> {
    /// The usual scale and nothing else.
    pub fn new(mask: &'a Mask) -> Self {
        Self { mask, scale: None, bias: None, softcap: None, sinks: None }
    }

    /// The factor of the scores of heads of `head_dim` elements.
    pub(crate) fn factor(&self, head_dim: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (head_dim as f64).sqrt())
    }
}

/// `softmax(q·kᵀ·scale + bias) · v`. Vaswani et al., 2017 (arXiv:1706.03762), equation 1.
///
/// Heads of keys and values may be fewer than those of queries: each serves as many that follow one another (Ainslie et
/// al., 2023, arXiv:2305.13245).
///
/// Keys and values are tensors, or what a cache has made of them.
///
/// # Shapes
/// - q: `[batch, queries, heads, head_dim]`
/// - k: `[batch, keys, groups, head_dim]`, where `groups` divides `heads`
/// - v: `[batch, keys, groups, value_dim]`
/// - output: `[batch, queries, heads, value_dim]`
pub fn attention(
    q: Tensor<4>,
    k: impl Into<KvTensor>,
    v: impl Into<KvTensor>,
    options: AttentionOptions<'_>,
) -> Tensor<4> {
    let (k, v) = (k.into(), v.into());
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::attention(&q, &k, &v, &options).or_else(|| gradient::attention(&q, &k, &v, &options)) {
        return y;
    }
    attention_weights(q, k, v, options).0
}

/// Each head of keys or values as often as heads of queries share it.
fn repeat_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, seq, groups, dim] = x.dims();
    if groups == heads {
        return x;
    }
    let x = x.unsqueeze_dim::<5>(3).expand([batch, seq, groups, heads / groups, dim]);
    x.reshape([batch, seq, heads, dim])
}

/// [`attention`], and the weights that it computed: for whoever wants to look at them.
///
/// # Shapes
/// - weights: `[batch, heads, queries, keys]`; every row sums to one, also where all keys are hidden, unless sinks take
///   their part
pub fn attention_weights(
    q: Tensor<4>,
    k: impl Into<KvTensor>,
    v: impl Into<KvTensor>,
    options: AttentionOptions<'_>,
) -> (Tensor<4>, Tensor<4>) {
    let (k, v) = (k.into().float(), v.into().float());
    let [_, queries, heads, head_dim] = q.dims();
    let keys = k.dims()[1];
    let device = q.device();
    let scale = options.factor(head_dim);
    let (k, v) = (repeat_heads(k, heads), repeat_heads(v, heads));
    let scores = (q * scale).swap_dims(1, 2).matmul(k.permute([0, 2, 3, 1])); // [batch, heads, queries, keys]
    let scores = match options.softcap {
        Some(cap) => (scores / cap).tanh() * cap,
        None => scores,
    };
    let scores = match options.bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    let lowest = if scores.dtype() == DType::F16 { -65504.0 } else { f64::from(f32::MIN) };
    let scores = match options.mask.hidden(queries, keys, &device) {
        Some(hidden) => {
            let shape = scores.shape();
            scores.mask_fill(hidden.expand(shape), lowest)
        }
        None => scores,
    };
    let weights = match options.sinks {
        Some(sinks) => {
            let [batch, heads, queries, keys] = scores.dims();
            let sinks = sinks.cast(scores.dtype()).reshape([1, heads, 1, 1]).expand([batch, heads, queries, 1]);
            softmax(Tensor::cat(vec![scores, sinks], 3)).narrow(3, 0, keys)
        }
        None => softmax(scores),
    };
    (weights.clone().matmul(v.swap_dims(1, 2)).swap_dims(1, 2), weights)
}
