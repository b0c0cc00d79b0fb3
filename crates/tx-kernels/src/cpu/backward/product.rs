//! Products of the backward pass: with `y = x · wᵀ`, the gradient of `x` is `dy · w`, and that of `w` is `dyᵀ · x`.
//!
//! Both are computed with the columns of the result in the lanes (see `lanes.rs`): panels of the second factor are copies
//! of some of its columns, which lie beside each other already. Of the first factor, rows are read where they lie; those
//! of `dyᵀ` are turned by blocks that several panels use.

use std::ops::Range;

use macerator::{Simd, WithSimd};
use rayon::prelude::*;

use super::rows;
use crate::cpu::lanes::{self, PANEL, Strip};
use crate::cpu::panels;
use crate::cpu::product::{Out, STRIP, Weight, row_groups};
use crate::cpu::scratch::Scratch;
use crate::cpu::threads::parallel;
use crate::cpu::transposed::Transposed;

/// Rows from which on a copy of a panel is worth its cost.
const MANY_ROWS: usize = 64;

/// Rows of a turned block, at most and, if threads would have nothing to do otherwise, at least.
const TURNED_ROWS: usize = 256;
const FEW_ROWS: usize = 48;

/// Columns of the result that use a turned block.
const TURNED_COLUMNS: usize = 384;

/// Steps of a turned block fill vectors of this many elements.
const VECTOR: usize = 16;

/// Columns that one task sums up.
const SUMMED_COLUMNS: usize = 128;

/// `out = x · w` of `[rows, steps]` and `[steps, columns]`, where there is at least one step.
///
/// # Safety
/// `out` is valid for `rows · columns` elements that nothing else refers to.
pub unsafe fn through(x: &[f32], steps: usize, weight: Weight<'_>, columns: usize, out: Out) {
    let rows = x.len() / steps.max(1);
    if rows < MANY_ROWS {
        // SAFETY: as above.
        return unsafe { Transposed { x, steps, weight, columns, bias: None, act: None, out }.run() };
    }
    let groups = row_groups(rows);
    let blocks = columns.div_ceil(PANEL);
    parallel(groups.len() * blocks, |task| {
        let Range { start: first, end } = groups[task / blocks];
        let (x, column) = (&x[first * steps..end * steps], task % blocks * PANEL);
        macerator::AutoArch::new().dispatch(Through { x, first, steps, weight, columns, column, out });
    });
}

/// Some columns of some rows of [`through`].
struct Through<'a> {
    x: &'a [f32],
    /// The first of the rows.
    first: usize,
    steps: usize,
    weight: Weight<'a>,
    columns: usize,
    column: usize,
    out: Out,
}

impl WithSimd for Through<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { x, first, steps, weight, columns, column, out } = self;
        let count = PANEL.min(columns - column);
        let width = lanes::padded::<S>(count);
        let pack = |range: Range<usize>, packed: &mut [f32]| {
            for (step, to) in range.zip(packed.chunks_exact_mut(width)) {
                weight.widen(step, columns, column..column + count, to);
                to[count..].fill(0.0);
            }
            Strip::new(packed.as_ptr(), width)
        };
        let finish = |row: usize, sums: &mut [f32]| {
            // SAFETY: this task alone writes these columns of these rows.
            unsafe { lanes::write_rows(sums, width, None, None, out, columns, first + row, column..column + count) };
        };
        // SAFETY: the panel has `width` columns at each step.
        unsafe { lanes::product::<S>(x, steps, width, STRIP, pack, finish) };
    }
}

/// `out = aᵀ · b` of `[steps, rows]` and `[steps, columns]`.
///
/// # Safety
/// `out` is valid for `rows · columns` elements that nothing else refers to; `a` and `b` have equally many steps.
pub unsafe fn outer(a: &[f32], rows: usize, b: &[f32], columns: usize, out: Out) {
    let steps = a.len() / rows.max(1);
    if steps == 0 {
        // SAFETY: as above. Zeros are floats.
        return unsafe { out.get().write_bytes(0, rows * columns) };
    }
    let blocks = columns.div_ceil(PANEL);
    let parts = columns.div_ceil(TURNED_COLUMNS).max(1);
    let wanted = (2 * rayon::current_num_threads()).div_ceil(parts);
    let groups = rows.div_ceil(TURNED_ROWS).max(wanted.min(rows.div_ceil(FEW_ROWS)));
    parallel(groups * parts, |task| {
        let (group, part) = (task / parts, task % parts);
        let task = Outer {
            a,
            b,
            steps,
            of: [rows, columns],
            rows: group * rows / groups..(group + 1) * rows / groups,
            columns: part * blocks / parts * PANEL..columns.min((part + 1) * blocks / parts * PANEL),
            out,
        };
        macerator::AutoArch::new().dispatch(task);
    });
}

/// Some columns of some rows of [`outer`].
struct Outer<'a> {
    a: &'a [f32],
    b: &'a [f32],
    steps: usize,
    /// Rows and columns of the whole result.
    of: [usize; 2],
    rows: Range<usize>,
    columns: Range<usize>,
    out: Out,
}

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { a, b, steps, of: [all_rows, all_columns], rows, columns, out } = self;
        for first in (0..steps).step_by(STRIP) {
            let strip = STRIP.min(steps - first);
            // What fills the last vector are zeros, here and in the panels.
            let padded = strip.next_multiple_of(VECTOR);
            let mut turned = Scratch::<f32>::take(rows.len() * padded);
            let lines: Vec<&[f32]> = (first..first + strip).map(|step| &a[step * all_rows..][rows.clone()]).collect();
            panels::pack(&lines, rows.len(), padded, &mut turned);
            for column in columns.clone().step_by(PANEL) {
                let count = PANEL.min(columns.end - column);
                let width = lanes::padded::<S>(count);
                let pack = |range: Range<usize>, packed: &mut [f32]| {
                    for (step, to) in range.zip(packed.chunks_exact_mut(width)) {
                        let (values, rest) = to.split_at_mut(if step < strip { count } else { 0 });
                        if step < strip {
                            values.copy_from_slice(&b[(first + step) * all_columns + column..][..count]);
                        }
                        rest.fill(0.0);
                    }
                    Strip::new(packed.as_ptr(), width)
                };
                let finish = |row: usize, sums: &mut [f32]| {
                    let to = |i: usize| out.get().wrapping_add((rows.start + row + i) * all_columns + column);
                    // SAFETY: this task alone refers to these columns of these rows, which the first strip has written.
                    unsafe { put_rows(sums, width, count, to, first > 0) };
                };
                // SAFETY: the panel has `width` columns at each step.
                unsafe { lanes::product::<S>(&turned, padded, width, STRIP, pack, finish) };
            }
        }
    }
}

/// Writes the first `count` columns of sums `[rows][width]` to where each row begins, or adds them to what is there.
///
/// # Safety
/// Each place is valid for `count` elements that nothing else refers to; they are initialised if they are added to.
#[inline(always)]
pub unsafe fn put_rows(sums: &[f32], width: usize, count: usize, to: impl Fn(usize) -> *mut f32, add: bool) {
    for (i, line) in sums.chunks_exact(width).enumerate() {
        // SAFETY: as above.
        unsafe {
            if add {
                rows::add_to(&line[..count], std::slice::from_raw_parts_mut(to(i), count));
            } else {
                to(i).copy_from_nonoverlapping(line.as_ptr(), count);
            }
        }
    }
}

/// The sum of the rows of `[rows, columns]`.
pub fn column_sums(x: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0f32; columns];
    if !x.is_empty() {
        let parts = sums.par_chunks_mut(SUMMED_COLUMNS).enumerate();
        parts.for_each(|(i, sums)| rows::add_lines(&x[i * SUMMED_COLUMNS..], columns, sums));
    }
    sums
}
