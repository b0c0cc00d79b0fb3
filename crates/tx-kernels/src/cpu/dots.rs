//! Products with few rows: dot products of rows with rows of the weight, both read where they lie.
//!
//! The steps lie in the lanes of vectors. A tile of a few rows and [`TILE_COLUMNS`] columns stays in registers, so that
//! each vector is loaded once for several products; nothing is packed, and no lane is wasted whatever the number of rows.

use std::ops::Range;

use half::{bf16, f16};
use macerator::{Scalar, Simd, Vector, WithSimd};

#[cfg(target_arch = "x86_64")]
pub use self::avx512::reduce;
use super::product::Weight;
use super::tile::{next_page, prefetch};
use super::{Scratch, pairs};

/// Columns of a tile.
pub const TILE_COLUMNS: usize = 4;

/// The most rows of a tile: with its columns they fill the registers.
const TILE_ROWS: usize = 6;

/// Steps that are computed at a time: the columns of a tile stay in the nearest cache while all rows pass.
const STRIP: usize = 1024;

/// `x: [rows, steps]`, and in the form in which bf16 weights meet it: a single row may be taken apart.
pub struct Rows<'a> {
    x: &'a [f32],
    steps: usize,
    apart: Option<Scratch<f32>>,
    /// All rows, where the processor multiplies pairs.
    pairs: Option<pairs::Rows>,
}

impl<'a> Rows<'a> {
    /// Rows for some weights.
    pub fn new<'w>(x: &'a [f32], steps: usize, mut weights: impl Iterator<Item = Weight<'w>>) -> Self {
        let single = x.len() == steps && avx512::available();
        let apart = (single && weights.any(|w| matches!(w, Weight::Bf16(_)))).then(|| {
            let mut apart = Scratch::<f32>::take(steps);
            // SAFETY: the processor can.
            unsafe { avx512::take_apart(x, &mut apart) };
            apart
        });
        Self { x, steps, apart, pairs: None }
    }

    /// Rows for bf16 weights, rounded to that, on a processor that multiplies pairs.
    pub fn by_pairs(x: &'a [f32], steps: usize) -> Self {
        Self { x, steps, apart: None, pairs: Some(pairs::Rows::new(x, steps)) }
    }
}

/// Products of all rows with some columns of a weight: those of row `r` are written from `out + r · line` on.
///
/// # Safety
/// `out` is valid for these columns of all rows, and nothing else refers to them.
pub unsafe fn block(rows: &Rows<'_>, weight: Weight<'_>, columns: Range<usize>, out: *mut f32, line: usize) {
    macerator::AutoArch::new().dispatch(Block { rows, weight, columns, out, line });
}

struct Block<'a> {
    rows: &'a Rows<'a>,
    weight: Weight<'a>,
    columns: Range<usize>,
    out: *mut f32,
    line: usize,
}

/// Some steps of the columns of a tile.
#[derive(Clone, Copy)]
enum Columns<'a> {
    F32([&'a [f32]; TILE_COLUMNS]),
    Bf16([&'a [bf16]; TILE_COLUMNS]),
    F16([&'a [f16]; TILE_COLUMNS]),
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { rows, weight, columns, out, line } = self;
        let &Rows { x, steps, .. } = rows;
        // SAFETY: as `block` says.
        if x.len() == steps && unsafe { stream::<S>(rows, weight, columns.clone(), out) } {
            return;
        }
        let count = x.len() / steps;
        let tiles = count.div_ceil(TILE_ROWS);
        let mut widened = Scratch::<f32>::take(if as_they_are(weight) { 0 } else { TILE_COLUMNS * STRIP });
        for first in columns.clone().step_by(TILE_COLUMNS) {
            let valid = TILE_COLUMNS.min(columns.end - first);
            let out = out.wrapping_add(first - columns.start);
            for from in (0..steps).step_by(STRIP) {
                let strip = from..steps.min(from + STRIP);
                let w = strip_of(weight, steps, first, valid, strip.clone(), &mut widened);
                // What comes next: more steps of these columns, or the columns after them. Each tile asks for its share, so
                // that memory is at work while all of them compute; how large that is, the compiler has to know.
                let next = if strip.end < steps { STRIP } else { TILE_COLUMNS * steps - strip.start };
                let part = Part { rows, tiles, strip, w, next, out, line, valid };
                // SAFETY: as `block` says.
                unsafe {
                    match tiles {
                        1 => part.run::<S, TILE_COLUMNS>(),
                        2 | 3 => part.run::<S, 2>(),
                        _ => part.run::<S, 1>(),
                    }
                }
            }
        }
    }
}

/// Some steps of some columns, for all rows.
struct Part<'a> {
    rows: &'a Rows<'a>,
    /// Into how many tiles the rows are cut.
    tiles: usize,
    strip: Range<usize>,
    w: Columns<'a>,
    /// How far behind the columns lies what comes next, in elements.
    next: usize,
    /// Where the products of the first row with these columns are written, and elements from one row to the next.
    out: *mut f32,
    line: usize,
    /// How many of the columns there are.
    valid: usize,
}

impl Part<'_> {
    /// All tiles, each of which asks for what comes behind `A` columns.
    ///
    /// # Safety
    /// As [`block`].
    #[inline(always)]
    unsafe fn run<S: Simd, const A: usize>(&self) {
        let count = self.rows.x.len() / self.rows.steps;
        for tile in 0..self.tiles {
            // Tiles of equal height, as far as that goes.
            let (start, end) = (tile * count / self.tiles, (tile + 1) * count / self.tiles);
            let ahead = Ahead::<A> { elements: self.next, first: tile * A };
            // SAFETY: as above.
            unsafe {
                match end - start {
                    1 => self.tile::<S, 1, A>(start, ahead),
                    2 => self.tile::<S, 2, A>(start, ahead),
                    3 => self.tile::<S, 3, A>(start, ahead),
                    4 => self.tile::<S, 4, A>(start, ahead),
                    5 => self.tile::<S, 5, A>(start, ahead),
                    _ => self.tile::<S, TILE_ROWS, A>(start, ahead),
                }
            }
        }
    }

    /// A tile of `R` rows from `start` on: writes its products, or adds them to those of the steps before.
    ///
    /// # Safety
    /// As [`block`].
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const A: usize>(&self, start: usize, ahead: Ahead<A>) {
        let Self { rows, ref strip, w, out, line, valid, .. } = *self;
        let x = || -> [&[f32]; R] { std::array::from_fn(|r| &rows.x[(start + r) * rows.steps..][strip.clone()]) };
        let totals = match (w, &rows.pairs) {
            // SAFETY: the processor can, or there would be no such rows.
            (Columns::Bf16(w), Some(pairs)) => unsafe {
                pairs::tile(&std::array::from_fn(|r| pairs.row(start + r, strip.start)), &w, ahead)
            },
            (Columns::F32(w), _) if !avx512::available() => tile::<S, R>(&x(), &w),
            // SAFETY: the processor can; columns of 16 bits are made only then.
            (Columns::F32(w), _) => unsafe { avx512::tile(&x(), &w, ahead) },
            // SAFETY: as above.
            (Columns::Bf16(w), None) => unsafe { avx512::tile(&x(), &w, ahead) },
            // SAFETY: as above.
            (Columns::F16(w), _) => unsafe { avx512::tile(&x(), &w, ahead) },
        };
        for (r, totals) in totals.iter().enumerate() {
            // SAFETY: as above; what was written before is there.
            unsafe {
                let to = out.add((start + r) * line);
                if strip.start > 0 {
                    (0..valid).for_each(|i| *to.add(i) += totals[i]);
                } else if valid == TILE_COLUMNS {
                    to.copy_from_nonoverlapping(totals.as_ptr(), TILE_COLUMNS);
                } else {
                    to.copy_from_nonoverlapping(totals.as_ptr(), valid);
                }
            }
        }
    }
}

/// One row: each column in turn, so that the weight is one stream from memory. Says whether it knows the weight.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn stream<S: Simd>(rows: &Rows<'_>, weight: Weight<'_>, columns: Range<usize>, out: *mut f32) -> bool {
    let &Rows { x, steps, ref apart, ref pairs } = rows;
    for (i, column) in columns.enumerate() {
        let at = column * steps..(column + 1) * steps;
        let total = match (weight, pairs, apart) {
            (Weight::F32(w), ..) => line::<S>(x, &w[at]),
            // SAFETY: the processor can, or there would be no such row.
            (Weight::Bf16(w), Some(pairs), _) => unsafe { pairs::line(pairs.row(0, 0), &w[at]) },
            // SAFETY: as above.
            (Weight::Bf16(w), None, Some(apart)) => unsafe { avx512::line_of_pairs(apart, &w[at]) },
            // SAFETY: the processor can, as the guard says.
            (Weight::F16(w), ..) if avx512::available() => unsafe { avx512::line(x, &w[at]) },
            _ => return false,
        };
        // SAFETY: as above.
        unsafe { out.add(i).write(total) };
    }
    true
}

/// The dot product of two slices of one length.
#[inline(always)]
fn line<S: Simd>(x: &[f32], w: &[f32]) -> f32 {
    let lanes = <f32 as Scalar>::lanes::<S>();
    let mut sums: [Vector<S, f32>; LINE_VECTORS] = [0f32.splat(); LINE_VECTORS];
    let whole = x.len() / (LINE_VECTORS * lanes) * LINE_VECTORS * lanes;
    for k in (0..whole).step_by(LINE_VECTORS * lanes) {
        next_page(w.as_ptr().wrapping_add(k).cast(), 4 * LINE_VECTORS * lanes);
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: both slices have `whole` elements.
            unsafe {
                let x: Vector<S, f32> = f32::vload_unaligned(x.as_ptr().add(k + i * lanes));
                *sum = x.mul_add(f32::vload_unaligned(w.as_ptr().add(k + i * lanes)), *sum);
            }
        }
    }
    let total: f32 = sums.into_iter().map(Vector::reduce_add).sum();
    total + x[whole..].iter().zip(&w[whole..]).map(|(x, w)| x * w).sum::<f32>()
}

/// Vectors of a line that are computed together.
const LINE_VECTORS: usize = 4;

/// Whether tiles read a weight where it lies.
#[inline(always)]
fn as_they_are(weight: Weight<'_>) -> bool {
    match weight {
        Weight::F32(_) => true,
        Weight::Bf16(_) | Weight::F16(_) => avx512::available(),
        Weight::Quantized(_) => false,
    }
}

/// The columns from `first` on, of which `valid` exist; the last one is repeated.
#[inline(always)]
fn strip_of<'a>(
    weight: Weight<'a>,
    steps: usize,
    first: usize,
    valid: usize,
    strip: Range<usize>,
    widened: &'a mut [f32],
) -> Columns<'a> {
    let column = |i: usize| first + i.min(valid - 1);
    let at = |i: usize| column(i) * steps + strip.start..column(i) * steps + strip.end;
    match weight {
        Weight::F32(w) => Columns::F32([&w[at(0)], &w[at(1)], &w[at(2)], &w[at(3)]]),
        Weight::Bf16(w) if as_they_are(weight) => Columns::Bf16([&w[at(0)], &w[at(1)], &w[at(2)], &w[at(3)]]),
        Weight::F16(w) if as_they_are(weight) => Columns::F16([&w[at(0)], &w[at(1)], &w[at(2)], &w[at(3)]]),
        _ => {
            for (i, widened) in widened.chunks_exact_mut(STRIP).enumerate() {
                weight.widen(column(i), steps, strip.clone(), widened);
            }
            let widened = &*widened;
            Columns::F32(std::array::from_fn(|i| &widened[i * STRIP..][..strip.len()]))
        }
    }
}

/// What a tile asks for while it computes: what lies so many elements behind `A` of its columns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ahead<const A: usize> {
    elements: usize,
    /// The first of these columns.
    first: usize,
}

impl<const A: usize> Ahead<A> {
    /// Where the columns begin that are asked for.
    #[inline(always)]
    pub fn of<T>(self, w: &[&[T]; TILE_COLUMNS]) -> [*const T; A] {
        std::array::from_fn(|i| w[(self.first + i) % TILE_COLUMNS].as_ptr().wrapping_add(self.elements))
    }
}

/// Asks for step `k` of columns.
#[inline(always)]
pub fn ask<T, const A: usize>(columns: &[*const T; A], k: usize) {
    columns.iter().for_each(|column| prefetch(column.wrapping_add(k).cast()));
}

/// The dot products of `R` rows of `x` with `count` columns that lie `step` elements apart: those of row `r` are
/// `out[r · line..][..count]`.
///
/// # Safety
/// Each column is valid for as many elements as a row has.
#[inline(always)]
pub unsafe fn columns<S: Simd, const R: usize>(
    x: &[f32],
    start: *const f32,
    step: usize,
    count: usize,
    out: &mut [f32],
    line: usize,
) {
    let length = x.len() / R;
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[r * length..(r + 1) * length]);
    for first in (0..count).step_by(TILE_COLUMNS) {
        let valid = TILE_COLUMNS.min(count - first);
        let column = |i: usize| start.wrapping_add((first + i.min(valid - 1)) * step);
        // SAFETY: as above.
        let w = std::array::from_fn(|i| unsafe { std::slice::from_raw_parts(column(i), length) });
        let totals = match avx512::available() {
            // SAFETY: the processor can.
            true => unsafe { avx512::tile(&x, &w, Ahead::<0>::default()) },
            false => tile::<S, R>(&x, &w),
        };
        for (r, totals) in totals.iter().enumerate() {
            out[r * line + first..][..valid].copy_from_slice(&totals[..valid]);
        }
    }
}

/// The dot products of `R` rows with the columns of a tile, all of one length.
#[inline(always)]
fn tile<S: Simd, const R: usize>(x: &[&[f32]; R], w: &[&[f32]; TILE_COLUMNS]) -> [[f32; TILE_COLUMNS]; R] {
    let lanes = <f32 as Scalar>::lanes::<S>();
    let length = w[0].len();
    let mut sums: [[Vector<S, f32>; TILE_COLUMNS]; R] = [[0f32.splat(); TILE_COLUMNS]; R];
    let whole = length / lanes * lanes;
    for k in (0..whole).step_by(lanes) {
        // SAFETY: all slices have `length` elements.
        unsafe {
            let w: [Vector<S, f32>; TILE_COLUMNS] = std::array::from_fn(|i| f32::vload_unaligned(w[i].as_ptr().add(k)));
            for (sums, x) in sums.iter_mut().zip(x) {
                let x: Vector<S, f32> = f32::vload_unaligned(x.as_ptr().add(k));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = x.mul_add(w, *sum);
                }
            }
        }
    }
    let mut totals = [[0f32; TILE_COLUMNS]; R];
    for ((totals, sums), x) in totals.iter_mut().zip(sums).zip(x) {
        for ((total, sum), w) in totals.iter_mut().zip(sums).zip(w) {
            *total = sum.reduce_add() + (whole..length).map(|k| x[k] * w[k]).sum::<f32>();
        }
    }
    totals
}

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Processors without AVX-512 have none of its kernels.
#[cfg(not(target_arch = "x86_64"))]
mod avx512 {
    use super::{Ahead, TILE_COLUMNS};

    pub fn available() -> bool {
        false
    }

    pub unsafe fn line<T>(_: &[f32], _: &[T]) -> f32 {
        unreachable!("not available")
    }

    pub unsafe fn take_apart(_: &[f32], _: &mut [f32]) {
        unreachable!("not available")
    }

    pub unsafe fn line_of_pairs(_: &[f32], _: &[half::bf16]) -> f32 {
        unreachable!("not available")
    }

    pub unsafe fn tile<T, const R: usize, const A: usize>(
        _: &[&[f32]; R],
        _: &[&[T]; TILE_COLUMNS],
        _: Ahead<A>,
    ) -> [[f32; TILE_COLUMNS]; R] {
        unreachable!("not available")
    }
}
