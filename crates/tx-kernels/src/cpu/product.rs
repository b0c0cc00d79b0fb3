//! Matrix products with the weights of a checkpoint, as they lie there: `y = act(x · wᵀ + b)`.
//!
//! Few rows are dot products that stream the weights (see `dots.rs`). More rows are packed into panels (see `tile.rs`), and blocks of
//! [`COLUMNS`] columns of the result are computed by one thread each, so that a block of weights is read from memory
//! once per [`L2_BYTES`] of rows, widened to f32 if it has 16 bits, and used from the cache by all panels.

use std::ops::Range;

use half::{bf16, f16};
use macerator::{Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{self, Strip};
use super::panels::{self, Panels};
use super::quantized::{self, Quantized};
use super::threads::{parallel, parallel_ranges_with};
use super::tile::{self, Broadcast};
use super::{Aligned, Scratch, amx, dots, pairs, rows};
use crate::{Pointwise, exact_products};

/// Columns of the result in one task: whole tiles of every width, whole cache lines of the result.
pub const COLUMNS: usize = 48;

/// How much of the packed rows stays in the second-level cache beside the weights of a block.
pub const L2_BYTES: usize = 3 << 18;

/// Panels from which on a block of weights is copied before they use it.
const COPY_PANELS: usize = 2;

/// Rows up to which dot products may be faster than panels.
const FEW_ROWS: usize = 48;

/// Rows up to which turning blocks of bf16 weights costs more than it saves.
const FEW_PAIRS: usize = 12;

/// As many columns for each row are fewer than turning the rows of `x` costs.
const MANY_ROWS: usize = 4;

/// Rows that use a turned block of a weight.
const WIDE_ROWS: usize = 704;

/// Steps of a turned block, at most.
pub const STRIP: usize = 1536;

/// Columns that a thread multiplies with few rows, at least.
const LEAST_COLUMNS: usize = dots::WHOLE_TILES;

/// A weight matrix `[columns, steps]` as it is stored.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    Quantized(Quantized<'a>),
}

impl Weight<'_> {
    /// Whether this is bf16 that can be read as pairs.
    fn is_pairs(&self) -> bool {
        matches!(self, Weight::Bf16(w) if !pairs::pairs_of(w).is_empty())
    }

    /// Some of the `steps` elements of a column as f32; whole blocks of quantized ones.
    pub fn widen(&self, column: usize, steps: usize, range: Range<usize>, to: &mut [f32]) {
        let at = column * steps + range.start..column * steps + range.end;
        match self {
            Weight::F32(w) => to[..range.len()].copy_from_slice(&w[at]),
            Weight::Bf16(w) => rows::widen_bf16(&w[at], to),
            Weight::F16(w) => rows::widen_f16(&w[at], to),
            Weight::Quantized(w) => w.widen(column, range, to),
        }
    }
}

/// One of the products with the same rows.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    pub weight: Weight<'a>,
    pub bias: Option<&'a [f32]>,
    /// Columns of the result: rows of the weight.
    pub columns: usize,
    /// `[rows, columns]`, to be written.
    pub out: Out,
}

/// Memory that several threads write different parts of.
#[derive(Debug, Clone, Copy)]
pub struct Out(pub *mut f32);

// SAFETY: whoever writes through the pointer makes sure that no two threads write the same element.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub fn get(self) -> *mut f32 {
        self.0
    }
}

/// Computes all products of `x: [rows, steps]` with the factors.
///
/// # Safety
/// Every factor's `out` is valid for `rows · columns` elements that nothing else refers to.
pub unsafe fn product(x: &[f32], steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
    let rows = x.len() / steps.max(1);
    if rows == 0 {
        return;
    }
    let vnni = quantized::available();
    let (bytes, floats): (Vec<Factor<'_>>, Vec<Factor<'_>>) =
        factors.iter().partition(|f| vnni && matches!(f.weight, Weight::Quantized(_)));
    let by_pairs = pairs::available() && steps.is_multiple_of(2) && !exact_products();
    let (pairs, floats): (Vec<Factor<'_>>, Vec<Factor<'_>>) =
        floats.into_iter().partition(|f| by_pairs && f.weight.is_pairs());
    // SAFETY: as above.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if !bytes.is_empty() {
            quantized::product(x, rows, steps, &bytes, act);
        }
        if !pairs.is_empty() && rows > 1 && amx::available() {
            amx::product(x, steps, &pairs, act);
        } else if !pairs.is_empty() && rows <= FEW_PAIRS {
            dots(x, rows, steps, &pairs, act, true);
        } else if !pairs.is_empty() {
            pairs::product(x, rows, steps, &pairs, act);
        }
        if !floats.is_empty() && few(rows) {
            dots(x, rows, steps, &floats, act, false);
        } else if floats.iter().map(|factor| factor.columns).sum::<usize>() < MANY_ROWS * rows {
            wide(x, rows, steps, &floats, act);
        } else if !floats.is_empty() {
            paneled(x, rows, steps, &floats, act);
        }
    }
}

/// Whether dot products are faster than panels: these compute whole vectors of rows, those spend an eighth on sums across
/// lanes.
fn few(rows: usize) -> bool {
    rows <= FEW_ROWS && 8 * Panels::new(rows).padded_rows() > 9 * rows
}

/// The blocks of [`COLUMNS`] columns of all factors: the factor and its first column.
fn blocks(factors: &[Factor<'_>]) -> Vec<(usize, usize)> {
    let of = |(i, f): (usize, &Factor<'_>)| (0..f.columns).step_by(COLUMNS).map(move |column| (i, column)).collect();
    factors.iter().enumerate().flat_map(|f| -> Vec<_> { of(f) }).collect()
}

/// # Safety
/// As [`product`].
unsafe fn paneled(x: &[f32], rows: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
    let panels = Panels::new(rows);
    let mut packed = Scratch::<f32>::take(panels.padded_rows() * steps);
    packed.par_chunks_mut((panels.shape.panel() * steps).max(1)).enumerate().for_each(|(index, packed)| {
        let panel = panels.get(index);
        let lines: Vec<&[f32]> = x[panel.row * steps..][..panel.rows * steps].chunks_exact(steps).collect();
        panels::pack(&lines, steps, panel.width, packed);
    });
    let blocks = blocks(factors);
    let group = (L2_BYTES / (panels.shape.panel() * steps * 4).max(1)).clamp(1, panels.count());
    let groups = panels.count().div_ceil(group);
    parallel(groups * blocks.len(), |task| {
        let (factor, column) = blocks[task % blocks.len()];
        let first = task / blocks.len() * group;
        let block = Block {
            packed: &packed,
            panels,
            first,
            last: (first + group).min(panels.count()),
            steps,
            factor: &factors[factor],
            column,
            act,
        };
        macerator::AutoArch::new().dispatch(block);
    });
}

/// A block of columns of a factor, for some panels.
struct Block<'a> {
    packed: &'a [f32],
    panels: Panels,
    first: usize,
    last: usize,
    steps: usize,
    factor: &'a Factor<'a>,
    column: usize,
    act: Option<Pointwise>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { packed, panels, first, last, steps, factor, column, act } = self;
        let count = COLUMNS.min(factor.columns - column);
        // Rows that lie apart, and in memory, are slow to broadcast from: panels that share them get a copy at hand.
        let in_place = matches!(factor.weight, Weight::F32(_)) && last - first < COPY_PANELS;
        let mut copy = Scratch::<f32>::take(if in_place { 0 } else { count * steps });
        let range = column * steps..(column + count) * steps;
        let (w, next) = match factor.weight {
            // In place the next tile follows; after a copy the next block does.
            Weight::F32(w) if in_place => {
                let tile = panels.get(first).columns * steps;
                (&w[range.clone()], w.as_ptr().wrapping_add(range.start + tile))
            }
            weight => {
                for (i, copy) in copy.chunks_exact_mut(steps).enumerate() {
                    weight.widen(column + i, steps, 0..steps, copy);
                }
                let next =
                    if let Weight::F32(w) = weight { w.as_ptr().wrapping_add(range.end) } else { std::ptr::null() };
                (&*copy, next)
            }
        };
        let w = Broadcast { start: w.as_ptr(), column: steps, step: 1 };
        let mut block = Aligned([0f32; (COLUMNS + tile::MAX_COLUMNS) * 64]);
        for index in first..last {
            let panel = panels.get(index);
            let x = &packed[panel.row * steps..][..panel.width * steps];
            // SAFETY: the panel has `width` lanes for each step, w has `count` columns; the block has room for them.
            unsafe {
                let ahead = if index == first { next } else { std::ptr::null() };
                let out = block.0.as_mut_ptr();
                tile::panel::<S, true>(&panel, steps, x.as_ptr(), w, count, ahead, out);
            }
            // SAFETY: this task alone writes these columns of these rows.
            unsafe {
                let rows = panel.row..panel.row + panel.rows;
                finish(&mut block.0, panel.width, rows, factor, column..column + count, act);
            }
        }
    }
}

/// Adds the bias to a block `[columns][width]` of some rows, at most 64, applies the activation and writes the rows.
///
/// # Safety
/// The factor's `out` has these rows, and nothing else refers to them in the columns of this block.
#[inline(always)]
pub unsafe fn finish(
    block: &mut [f32],
    width: usize,
    rows: Range<usize>,
    factor: &Factor<'_>,
    columns: Range<usize>,
    act: Option<Pointwise>,
) {
    let block = &mut block[..columns.len() * width];
    if let Some(bias) = factor.bias {
        for (sums, &bias) in block.chunks_exact_mut(width).zip(&bias[columns.clone()]) {
            for sum in sums {
                *sum += bias;
            }
        }
    }
    if let Some(act) = act {
        rows::pointwise(act, block);
    }
    let mut into = [std::ptr::null_mut(); 64];
    let into = &mut into[..rows.len()];
    for (row, pointer) in rows.zip(&mut *into) {
        *pointer = factor.out.get().wrapping_add(row * factor.columns + columns.start);
    }
    // SAFETY: as above.
    unsafe { panels::unpack(block, columns.len(), width, into) };
}

/// The blocks of [`lanes::PANEL`] columns of all factors: the factor and its first column.
pub fn turned_blocks(factors: &[Factor<'_>]) -> Vec<(usize, usize)> {
    let of = |(i, f): (usize, &Factor<'_>)| {
        (0..f.columns).step_by(lanes::PANEL).map(move |column| (i, column)).collect::<Vec<_>>()
    };
    factors.iter().enumerate().flat_map(of).collect()
}

/// Rows that use a turned block one after the other.
pub fn row_groups(rows: usize) -> Vec<Range<usize>> {
    let groups = (rows / WIDE_ROWS).max(1);
    (0..groups).map(|group| group * rows / groups..(group + 1) * rows / groups).collect()
}

/// Many rows: blocks of the weights are turned, and the rows read where they lie.
///
/// # Safety
/// As [`product`].
unsafe fn wide(x: &[f32], rows: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
    let blocks = turned_blocks(factors);
    let groups = row_groups(rows);
    parallel(groups.len() * blocks.len(), |task| {
        let (factor, column) = blocks[task % blocks.len()];
        let Range { start: first, end } = groups[task / blocks.len()];
        let x = &x[first * steps..end * steps];
        macerator::AutoArch::new().dispatch(Wide { x, first, steps, factor: &factors[factor], column, act });
    });
}

/// A block of columns of a factor, for some rows.
struct Wide<'a> {
    x: &'a [f32],
    /// The first of the rows.
    first: usize,
    steps: usize,
    factor: &'a Factor<'a>,
    column: usize,
    act: Option<Pointwise>,
}

impl WithSimd for Wide<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { x, first, steps, factor, column, act } = self;
        let count = lanes::PANEL.min(factor.columns - column);
        let width = lanes::padded::<S>(count);
        let pack = |range: Range<usize>, packed: &mut [f32]| {
            let length = range.len();
            let in_place = matches!(factor.weight, Weight::F32(_));
            let mut copy = Scratch::<f32>::take(if in_place { 0 } else { count * length });
            let mut columns: [&[f32]; lanes::PANEL] = [&[]; lanes::PANEL];
            if let Weight::F32(w) = factor.weight {
                for (i, to) in columns[..count].iter_mut().enumerate() {
                    *to = &w[(column + i) * steps + range.start..(column + i) * steps + range.end];
                }
            } else {
                for (i, copy) in copy.chunks_exact_mut(length).enumerate() {
                    factor.weight.widen(column + i, steps, range.clone(), copy);
                }
                columns.iter_mut().zip(copy.chunks_exact(length)).for_each(|(to, column)| *to = column);
            }
            panels::pack(&columns[..count], length, width, packed);
            Strip::new(packed.as_ptr(), width)
        };
        let finish = |row: usize, sums: &mut [f32]| {
            let bias = factor.bias.map(|bias| &bias[column..column + count]);
            // SAFETY: this task alone writes these columns of these rows.
            unsafe {
                let range = column..column + count;
                lanes::write_rows(sums, width, bias, act, factor.out, factor.columns, first + row, range);
            }
        };
        // SAFETY: the panel has `width` columns at each step.
        unsafe { lanes::product::<S>(x, steps, width, STRIP, pack, finish) };
    }
}

/// # Safety
/// As [`product`].
unsafe fn dots(x: &[f32], rows: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>, by_pairs: bool) {
    // What a thread makes of the rows is in its own cache.
    let lines = || match by_pairs {
        true => dots::Rows::by_pairs(x, steps),
        false => dots::Rows::new(x, steps, factors.iter().map(|factor| factor.weight)),
    };
    // The columns of all factors, one after the other.
    let columns = factors.iter().map(|factor| factor.columns).sum();
    parallel_ranges_with(columns, LEAST_COLUMNS, lines, |lines, range| {
        let mut first = 0;
        for factor in factors {
            let of = |column: usize| column.clamp(first, first + factor.columns) - first;
            let columns = of(range.start)..of(range.end);
            if !columns.is_empty() {
                // SAFETY: as above; each range has its own columns.
                unsafe { dots_of_columns(lines, rows, factor, columns, act) };
            }
            first += factor.columns;
        }
    });
}

/// # Safety
/// As [`product`].
unsafe fn dots_of_columns(
    lines: &dots::Rows<'_>,
    rows: usize,
    factor: &Factor<'_>,
    columns: Range<usize>,
    act: Option<Pointwise>,
) {
    let (start, count) = (columns.start, columns.len());
    // SAFETY: as above.
    unsafe { dots::block(lines, factor.weight, columns, factor.out.get().add(start), factor.columns) };
    if factor.bias.is_none() && act.is_none() {
        return;
    }
    for row in 0..rows {
        // SAFETY: this task alone refers to these columns of the row, which were just written.
        let sums = unsafe { std::slice::from_raw_parts_mut(factor.out.get().add(row * factor.columns + start), count) };
        if let Some(bias) = factor.bias {
            rows::add_scaled(1.0, &bias[start..], 1, sums);
        }
        if let Some(act) = act {
            rows::pointwise(act, sums);
        }
    }
}
