//! Products with weights that lie the other way round: `[steps, columns]`, as GPT-2's `Conv1D` has them.
//!
//! Columns are the lanes of vectors here: a step of the weight is read as it lies, and multiplied by single elements of
//! the rows, which lie as they are, too. Nothing is packed or transposed.

use macerator::{Scalar, Simd, Vector, WithSimd};

use super::product::{Out, Weight, parallel};
use super::{Scratch, rows};
use crate::Pointwise;

/// Columns of a block.
const COLUMNS: usize = 64;

/// The most rows of a tile.
const ROWS: usize = 6;

/// Steps of a block that are computed at a time: they stay in the nearest cache while all rows pass.
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
        parallel(self.columns.div_ceil(COLUMNS), |block| {
            macerator::AutoArch::new().dispatch(Block { of: self, column: block * COLUMNS });
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
        let count = COLUMNS.min(of.columns - column);
        let rows = of.x.len() / of.steps;
        let mut sums = Scratch::<f32>::take(rows * COLUMNS);
        for line in sums.chunks_exact_mut(COLUMNS) {
            line.fill(0.0);
            if let Some(bias) = of.bias {
                line[..count].copy_from_slice(&bias[column..column + count]);
            }
        }
        let mut copy = Scratch::<f32>::take(STRIP * COLUMNS);
        for from in (0..of.steps).step_by(STRIP) {
            let length = STRIP.min(of.steps - from);
            let (w, stride) = match of.weight {
                Weight::F32(w) if count == COLUMNS => (w[from * of.columns + column..].as_ptr(), of.columns),
                weight => {
                    for (k, to) in copy.chunks_exact_mut(COLUMNS).take(length).enumerate() {
                        weight.widen(from + k, of.columns, column..column + count, to);
                        to[count..].fill(0.0);
                    }
                    (copy.as_ptr(), COLUMNS)
                }
            };
            let tiles = rows.div_ceil(ROWS);
            for tile in 0..tiles {
                // Tiles of equal height, as far as that goes.
                let (start, end) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                let x = of.x[start * of.steps + from..].as_ptr();
                let sums = sums[start * COLUMNS..end * COLUMNS].as_mut_ptr();
                // SAFETY: the rows have `length` steps from `from` on, and so has the block; `sums` has a line for each.
                unsafe {
                    match end - start {
                        1 => lanes::<S, 1>(x, of.steps, w, stride, length, sums),
                        2 => lanes::<S, 2>(x, of.steps, w, stride, length, sums),
                        3 => lanes::<S, 3>(x, of.steps, w, stride, length, sums),
                        4 => lanes::<S, 4>(x, of.steps, w, stride, length, sums),
                        5 => lanes::<S, 5>(x, of.steps, w, stride, length, sums),
                        _ => lanes::<S, ROWS>(x, of.steps, w, stride, length, sums),
                    }
                }
            }
        }
        for (row, line) in sums.chunks_exact_mut(COLUMNS).enumerate() {
            let line = &mut line[..count];
            if let Some(act) = of.act {
                rows::pointwise(act, line);
            }
            // SAFETY: this task alone writes these columns.
            unsafe { of.out.get().add(row * of.columns + column).copy_from_nonoverlapping(line.as_ptr(), count) };
        }
    }
}

/// [`tile`] over all columns of a block, as many vectors at a time as registers allow.
///
/// # Safety
/// As [`tile`], for all columns.
#[inline(always)]
unsafe fn lanes<S: Simd, const R: usize>(
    x: *const f32,
    row: usize,
    w: *const f32,
    stride: usize,
    steps: usize,
    sums: *mut f32,
) {
    let lanes = <f32 as Scalar>::lanes::<S>();
    // SAFETY: as above.
    unsafe {
        if lanes >= 16 {
            for column in (0..COLUMNS).step_by(4 * lanes) {
                tile::<S, R, 4>(x, row, w.add(column), stride, steps, sums.add(column));
            }
        } else {
            for column in (0..COLUMNS).step_by(2 * lanes) {
                tile::<S, R, 2>(x, row, w.add(column), stride, steps, sums.add(column));
            }
        }
    }
}

/// `sums[row][column] += Σ_step x[row][step] · w[step][column]` for `R` rows and `V` vectors of columns.
///
/// # Safety
/// `x` is valid for `R` rows, `row` elements apart, of `steps` elements; `w` for `V` vectors at each of `steps` multiples of
/// `stride`; `sums` for `V` vectors at each of `R` multiples of [`COLUMNS`].
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    x: *const f32,
    row: usize,
    w: *const f32,
    stride: usize,
    steps: usize,
    sums: *mut f32,
) {
    let lanes = <f32 as Scalar>::lanes::<S>();
    // SAFETY: as above.
    unsafe {
        let mut totals: [[Vector<S, f32>; V]; R] =
            std::array::from_fn(|r| std::array::from_fn(|v| f32::vload_unaligned(sums.add(r * COLUMNS + v * lanes))));
        for k in 0..steps {
            let w: [Vector<S, f32>; V] = std::array::from_fn(|v| f32::vload_unaligned(w.add(k * stride + v * lanes)));
            for (r, totals) in totals.iter_mut().enumerate() {
                let x: Vector<S, f32> = (*x.add(r * row + k)).splat();
                for (total, &w) in totals.iter_mut().zip(&w) {
                    *total = w.mul_add(x, *total);
                }
            }
        }
        for (r, totals) in totals.into_iter().enumerate() {
            for (v, total) in totals.into_iter().enumerate() {
                f32::vstore_unaligned::<S>(sums.add(r * COLUMNS + v * lanes), total);
            }
        }
    }
}
