//! Keys and values as a cache keeps them: in floats, or in 8 bits.

use std::ops::Range;

use burn::tensor::kind::Basic;
use burn::tensor::{DType, Device, Int, IntDType, Tensor};

#[cfg(feature = "flex")]
use crate::cpu;
use crate::write_rows;

/// The largest byte.
pub(crate) const RANGE: f32 = 127.0;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvPrecision {
    /// As they were computed.
    #[default]
    Float,
    /// In 8 bits: about a quarter of the memory that f32 takes.
    Int8,
}

/// Keys or values of some tokens, `[batch, tokens, groups, dim]`.
#[allow(clippy::large_enum_variant, reason = "a tensor is large, and most are floats")]
#[derive(Debug, Clone)]
pub enum KvTensor {
    /// As they were computed.
    Float(Tensor<4>),
    /// In 8 bits.
    Int8(Box<KvBytes>),
}

/// The closest integers within ±127 times a scale for each head of each token.
#[derive(Debug, Clone)]
pub struct KvBytes {
    /// `[batch, tokens, groups, dim]`, of [`DType::I8`].
    pub values: Tensor<4, Int>,
    /// `[batch, tokens, groups, 1]`
    pub scales: Tensor<4>,
}

impl KvBytes {
    fn apply(
        self,
        values: impl FnOnce(Tensor<4, Int>) -> Tensor<4, Int>,
        scales: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> KvTensor {
        KvTensor::Int8(Box::new(Self { values: values(self.values), scales: scales(self.scales) }))
    }
}

/// Tokens of one row of a batch that another row takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowCopy {
    /// The row that has them.
    pub from: usize,
    /// The row that gets them, at the same places.
    pub to: usize,
    /// Which ones.
    pub tokens: Range<usize>,
}

impl From<Tensor<4>> for KvTensor {
    fn from(x: Tensor<4>) -> Self {
        Self::Float(x)
    }
}

impl KvTensor {
    /// A buffer without tokens. `dtype` is that of what will be written to it.
    pub fn zeros(shape: [usize; 4], precision: KvPrecision, device: &Device, dtype: DType) -> Self {
        let [batch, tokens, groups, _] = shape;
        match precision {
            KvPrecision::Float => Self::Float(Tensor::zeros(shape, (device, dtype))),
            KvPrecision::Int8 => Self::Int8(Box::new(KvBytes {
                values: Tensor::zeros(shape, (device, DType::I8)),
                scales: Tensor::zeros([batch, tokens, groups, 1], (device, dtype)),
            })),
        }
    }

    /// `[batch, tokens, groups, dim]`
    pub fn dims(&self) -> [usize; 4] {
        match self {
            Self::Float(x) => x.dims(),
            Self::Int8(x) => x.values.dims(),
        }
    }

    /// Where they lie.
    pub fn device(&self) -> Device {
        match self {
            Self::Float(x) => x.device(),
            Self::Int8(x) => x.values.device(),
        }
    }

    /// The numbers that they stand for.
    ///
    /// # Shapes
    /// - output: `[batch, tokens, groups, dim]`
    pub fn float(self) -> Tensor<4> {
        match self {
            Self::Float(x) => x,
            Self::Int8(x) => x.values.float().cast(x.scales.dtype()) * x.scales,
        }
    }

    /// `count` tokens from `start` on.
    pub fn narrow(self, start: usize, count: usize) -> Self {
        match self {
            Self::Float(x) => Self::Float(x.narrow(1, start, count)),
            Self::Int8(x) => x.apply(|x| x.narrow(1, start, count), |x| x.narrow(1, start, count)),
        }
    }

    /// Rows of the batch, as often as they are named.
    ///
    /// # Shapes
    /// - rows: `[new batch]`
    pub fn select(self, rows: Tensor<1, Int>) -> Self {
        match self {
            Self::Float(x) => Self::Float(x.select(0, rows)),
            Self::Int8(x) => x.apply(|x| x.select(0, rows.clone()), |x| x.select(0, rows.clone())),
        }
    }

    /// With the tokens of `x` in place of those from `at` on; without a copy if nothing else holds the buffer.
    ///
    /// # Shapes
    /// - x: `[batch, new, groups, dim]`, where `at + new` is at most `tokens`
    pub fn write(self, at: usize, x: Tensor<4>) -> Self {
        match self {
            Self::Float(buffer) => Self::Float(write_rows(buffer, at, x)),
            Self::Int8(buffer) => {
                let (values, scales) = quantize(x);
                buffer.apply(|buffer| write_rows(buffer, at, values), |buffer| write_rows(buffer, at, scales))
            }
        }
    }

    /// A buffer for `room` tokens, of which the first are `count` of this one from `start` on.
    pub fn moved(self, start: usize, count: usize, room: usize) -> Self {
        fn moved<K: Basic>(x: Tensor<4, K>, start: usize, count: usize, room: usize) -> Tensor<4, K> {
            let [batch, _, groups, dim] = x.dims();
            let empty = Tensor::zeros([batch, room, groups, dim], (&x.device(), x.dtype()));
            write_rows(empty, 0, x.narrow(1, start, count))
        }
        match self {
            Self::Float(x) => Self::Float(moved(x, start, count, room)),
            Self::Int8(x) => x.apply(|x| moved(x, start, count, room), |x| moved(x, start, count, room)),
        }
    }

    /// With tokens of some rows in place of those of others; without another copy if nothing else holds the buffer. No
    /// row both gives and gets.
    pub fn copy_rows(self, copies: &[RowCopy]) -> Self {
        match self {
            Self::Float(x) => Self::Float(copy_rows(x, copies)),
            Self::Int8(x) => x.apply(|x| copy_rows(x, copies), |x| copy_rows(x, copies)),
        }
    }
}

/// Each head of `x` in bytes, and their scale.
///
/// # Shapes
/// - x, output: `[batch, tokens, groups, dim]`, and `[batch, tokens, groups, 1]`
fn quantize(x: Tensor<4>) -> (Tensor<4, Int>, Tensor<4>) {
    #[cfg(feature = "flex")]
    if let Some(quantized) = cpu::kv::quantize(&x) {
        return quantized;
    }
    let scales = x.clone().abs().max_dim(3) / RANGE;
    // A head of zeros has none.
    let inverse = scales.clone().recip().mask_fill(scales.clone().equal_elem(0.0), 0.0);
    ((x * inverse).round().int().cast(IntDType::I8), scales)
}

fn copy_rows<K: Basic>(buffer: Tensor<4, K>, copies: &[RowCopy]) -> Tensor<4, K> {
    #[cfg(feature = "flex")]
    let buffer = match cpu::kv::copy_rows(buffer, copies) {
        Ok(copied) => return copied,
        Err(buffer) => buffer,
    };
    let [_, _, groups, dim] = buffer.dims();
    copies.iter().fold(buffer, |buffer, RowCopy { from, to, tokens }| {
        let part = buffer.clone().slice([*from..*from + 1, tokens.clone(), 0..groups, 0..dim]);
        buffer.slice_assign([*to..*to + 1, tokens.clone(), 0..groups, 0..dim], part)
    })
}
