//! Products with weights that lie the other way round: `[steps, columns]`, as GPT-2's `Conv1D` has them.
//!
//! A step of the weight is read as it lies: nothing is packed or transposed.

use macerator::{Simd, WithSimd};

use super::lanes::{self, PANEL, Strip};
use super::product::{Out, Weight};
use super::threads::parallel;
use crate::Pointwise;

/// Steps that are computed at a time: they stay in the nearest cache while all rows pass.
const STRIP: usize = 64;

/// `out = act(x · w + b)` of dense weights.
#[derive(Debug, Clone, Copy)]
pub struct Transposed<'a> {
    /// `[rows, steps]`
    pub x: &'a [f32],
    pub steps: usize,
    /// `[steps, columns]`
    pub weight: Weight<'a>,
    pub columns: usize,
    pub bias: Option<&'a [f32]>,
    pub act: Option<Pointwise>,
    /// `[rows, columns]`
    pub out: Out,
}

impl Transposed<'_> {
    /// # Safety
    /// `out` is valid for the result, and nothing else refers to it.
    pub unsafe fn run(&self) {
        parallel(self.columns.div_ceil(PANEL), |block| {
            macerator::AutoArch::new().dispatch(Block { of: self, column: block * PANEL });
        });
    }
}

/// Some columns of the result.
struct Block<'a> {
    of: &'a Transposed<'a>,
    column: usize,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { of, column } = self;
        let count = PANEL.min(of.columns - column);
        let width = lanes::padded::<S>(count);
        let pack = |range: std::ops::Range<usize>, packed: &mut [f32]| match of.weight {
            Weight::F32(w) if count == width => Strip::new(w[range.start * of.columns + column..].as_ptr(), of.columns),
            weight => {
                for (k, to) in range.zip(packed.chunks_exact_mut(width)) {
                    weight.widen(k, of.columns, column..column + count, to);
                    to[count..].fill(0.0);
                }
                Strip::new(packed.as_ptr(), width)
            }
        };
        let finish = |first: usize, sums: &mut [f32]| {
            let bias = of.bias.map(|bias| &bias[column..column + count]);
            // SAFETY: this task alone writes these columns.
            unsafe { lanes::write_rows(sums, width, bias, of.act, of.out, of.columns, first, column..column + count) };
        };
        // SAFETY: the panel has `width` columns at each step.
        unsafe { lanes::product::<S>(of.x, of.steps, width, STRIP, pack, finish) };
    }
}
