//! Products with few rows: dot products of rows with rows of the weight, both read where they lie.
//!
//! The steps lie in the lanes of vectors. A tile of a few rows and [`TILE_COLUMNS`] columns stays in registers, so that
//! each vector is loaded once for several products; nothing is packed, and no lane is wasted whatever the number of rows.
//! Meanwhile it asks for the weights that come next, in the order in which they lie.

use std::ops::Range;

use half::{bf16, f16};
use macerator::{Scalar, Simd, Vector, WithSimd};

#[cfg(target_arch = "x86_64")]
pub use self::avx512::reduce;
use super::product::Weight;
use super::tile::{next_page, prefetch};
use super::{Scratch, lanes, pairs};

/// Columns of a tile.
const TILE_COLUMNS: usize = 4;

/// The most rows of a tile: with its columns they fill the registers.
const TILE_ROWS: usize = lanes::ROWS;

/// Columns and the most rows of a tall tile: for as many rows, one that passes over the columns once is faster than two.
const TALL_COLUMNS: usize = 3;
const TALL_ROWS: usize = 8;

/// Columns that are whole tiles of either kind.
pub const WHOLE_TILES: usize = TILE_COLUMNS * TALL_COLUMNS;

/// Steps that are computed at a time: the columns of a tile stay in the nearest cache while all rows pass.
const STRIP: usize = 1024;

/// How far ahead tiles ask for weights, in bytes: about what a thread gets from memory while it waits for one line. Farther
/// is the same, as long as it stays in the second-level cache.
const AHEAD_BYTES: usize = 1 << 14;

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

    /// The products of a row with columns, each of which is read as one stream.
    ///
    /// # Safety
    /// `out` is valid for these columns, and nothing else refers to them.
    #[inline(always)]
    unsafe fn stream<S: Simd>(
        &self,
        row: usize,
        weight: Weight<'_>,
        columns: Range<usize>,
        out: *mut f32,
        widened: &mut [f32],
    ) {
        let steps = self.steps;
        let x = &self.x[row * steps..(row + 1) * steps];
        let at = |column: usize| column * steps..(column + 1) * steps;
        // SAFETY: as above; the processor can, or there would be no such rows, or as the guards say.
        unsafe {
            match (weight, &self.pairs, &self.apart) {
                (Weight::F32(w), ..) => write_each(columns, out, |i| line::<S>(x, &w[at(i)])),
                (Weight::Bf16(w), Some(pairs), _) => {
                    let x = pairs.row(row, 0);
                    write_each(columns, out, |i| pairs::line(x, &w[at(i)]));
                }
                (Weight::Bf16(w), None, Some(apart)) => {
                    write_each(columns, out, |i| avx512::line_of_pairs(apart, &w[at(i)]));
                }
                (Weight::Bf16(w), ..) if avx512::available() => {
                    write_each(columns, out, |i| avx512::line(x, &w[at(i)]));
                }
                (Weight::F16(w), ..) if avx512::available() => {
                    write_each(columns, out, |i| avx512::line(x, &w[at(i)]));
                }
                _ => write_each(columns, out, |i| {
                    let part = |strip: Range<usize>| {
                        weight.widen(i, steps, strip.clone(), widened);
                        line::<S>(&x[strip.clone()], &widened[..strip.len()])
                    };
                    strips(steps).map(part).sum()
                }),
            }
        }
    }
}

/// Writes the product of each column.
///
/// # Safety
/// `out` is valid for the columns, and nothing else refers to them.
#[inline(always)]
unsafe fn write_each(columns: Range<usize>, out: *mut f32, mut product: impl FnMut(usize) -> f32) {
    for (i, column) in columns.enumerate() {
        let total = product(column);
        // SAFETY: as above.
        unsafe { out.add(i).write(total) };
    }
}

/// The steps that are computed at a time.
fn strips(steps: usize) -> impl Iterator<Item = Range<usize>> {
    (0..steps).step_by(STRIP).map(move |from| from..steps.min(from + STRIP))
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

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { rows, weight, columns, out, line } = self;
        let &Rows { x, steps, .. } = rows;
        let count = x.len() / steps;
        let of = if count > TILE_ROWS && count <= TALL_ROWS { TALL_COLUMNS } else { TILE_COLUMNS };
        let tiled = if count > 1 { columns.len() / of * of } else { 0 };
        let mut widened = Scratch::<f32>::take(if as_they_are(weight) { 0 } else { of * STRIP });
        let tiles = lanes::tiles(count);
        for first in (0..tiled).step_by(of) {
            for strip in strips(steps) {
                let first_column = columns.start + first;
                let w = Columns::new(weight, first_column..first_column + of, steps, strip.clone(), &mut widened);
                let part = Part { rows, strip, w, out: out.wrapping_add(first), line };
                // Each tile asks for its share of what comes, so that memory is at work while all of them compute; how large
                // that is, the compiler has to know.
                // SAFETY: as `block` says.
                unsafe {
                    match (of, tiles.len()) {
                        (TALL_COLUMNS, _) => part.run_tall::<S>(count),
                        (_, 1) => part.run::<S, TILE_COLUMNS>(tiles.clone()),
                        (_, 2 | 3) => part.run::<S, 2>(tiles.clone()),
                        _ => part.run::<S, 1>(tiles.clone()),
                    }
                }
            }
        }
        for row in 0..count {
            // SAFETY: as above.
            unsafe {
                let out = out.add(row * line + tiled);
                rows.stream::<S>(row, weight, columns.start + tiled..columns.end, out, &mut widened);
            }
        }
    }
}

/// Whether tiles read a weight where it lies.
#[inline(always)]
fn as_they_are(weight: Weight<'_>) -> bool {
    match weight {
        Weight::F32(_) => true,
        Weight::Bf16(_) | Weight::F16(_) => avx512::available(),
        Weight::Quantized(_) => false,
    }
}

/// Some steps of the columns of a tile.
#[derive(Clone, Copy)]
struct Columns {
    start: Start,
    /// Elements from one column to the next.
    stride: usize,
    /// Where what tiles ask for begins.
    ahead: *const u8,
}

/// The first of these steps of the first column.
#[derive(Clone, Copy)]
enum Start {
    F32(*const f32),
    Bf16(*const bf16),
    F16(*const f16),
}

impl Columns {
    /// These columns, where they lie or widened.
    #[inline(always)]
    fn new(weight: Weight<'_>, columns: Range<usize>, steps: usize, strip: Range<usize>, widened: &mut [f32]) -> Self {
        let at = columns.start * steps + strip.start..(columns.end - 1) * steps + strip.end;
        let start = match weight {
            Weight::F32(w) => Start::F32(w[at].as_ptr()),
            Weight::Bf16(w) if as_they_are(weight) => Start::Bf16(w[at].as_ptr()),
            Weight::F16(w) if as_they_are(weight) => Start::F16(w[at].as_ptr()),
            _ => {
                for (i, widened) in widened.chunks_exact_mut(STRIP).enumerate() {
                    weight.widen(columns.start + i, steps, strip.clone(), widened);
                }
                let start = widened.as_ptr();
                return Self { start: Start::F32(start), stride: STRIP, ahead: start.cast() };
            }
        };
        // Steps of a tile are asked for while the one before is computed, or earlier, and the strips before this one have
        // asked for their part of it.
        let size = start.element_bytes();
        let ahead = (columns.len() * steps * size).max(AHEAD_BYTES) + (columns.len() - 1) * strip.start * size;
        Self { start, stride: steps, ahead: start.address().wrapping_add(ahead) }
    }
}

impl Start {
    fn address(self) -> *const u8 {
        match self {
            Self::F32(w) => w.cast(),
            Self::Bf16(w) => w.cast(),
            Self::F16(w) => w.cast(),
        }
    }

    fn element_bytes(self) -> usize {
        match self {
            Self::F32(_) => 4,
            Self::Bf16(_) | Self::F16(_) => 2,
        }
    }
}

/// Some steps of the columns of a tile, for all rows.
struct Part<'a> {
    rows: &'a Rows<'a>,
    strip: Range<usize>,
    w: Columns,
    /// Where the products of the first row with these columns are written, and elements from one row to the next.
    out: *mut f32,
    line: usize,
}

impl Part<'_> {
    /// All tiles, each of which asks for as much as `A` of the columns.
    ///
    /// # Safety
    /// As [`block`].
    #[inline(always)]
    unsafe fn run<S: Simd, const A: usize>(&self, tiles: impl Iterator<Item = Range<usize>>) {
        let share = A * self.strip.len() * self.w.start.element_bytes();
        for (tile, rows) in tiles.enumerate() {
            let ahead = Ahead::<A>(self.w.ahead.wrapping_add(tile % (TILE_COLUMNS / A) * share));
            // SAFETY: as above.
            unsafe {
                match rows.len() {
                    1 => self.tile::<S, 1, TILE_COLUMNS, A>(rows.start, ahead),
                    2 => self.tile::<S, 2, TILE_COLUMNS, A>(rows.start, ahead),
                    3 => self.tile::<S, 3, TILE_COLUMNS, A>(rows.start, ahead),
                    4 => self.tile::<S, 4, TILE_COLUMNS, A>(rows.start, ahead),
                    5 => self.tile::<S, 5, TILE_COLUMNS, A>(rows.start, ahead),
                    _ => self.tile::<S, TILE_ROWS, TILE_COLUMNS, A>(rows.start, ahead),
                }
            }
        }
    }

    /// A tall tile of all rows.
    ///
    /// # Safety
    /// As [`block`].
    #[inline(always)]
    unsafe fn run_tall<S: Simd>(&self, rows: usize) {
        let ahead = Ahead::<TALL_COLUMNS>(self.w.ahead);
        // SAFETY: as above.
        unsafe {
            match rows {
                7 => self.tile::<S, 7, TALL_COLUMNS, TALL_COLUMNS>(0, ahead),
                _ => self.tile::<S, TALL_ROWS, TALL_COLUMNS, TALL_COLUMNS>(0, ahead),
            }
        }
    }

    /// A tile of `R` rows from `first` on, and `C` columns: writes its products, or adds them to those of the steps before.
    ///
    /// # Safety
    /// As [`block`].
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const C: usize, const A: usize>(&self, first: usize, ahead: Ahead<A>) {
        let Self { rows, ref strip, w, out, line } = *self;
        let x = &rows.x[first * rows.steps + strip.start..(first + R - 1) * rows.steps + strip.end];
        let x = Lines { start: x.as_ptr(), stride: rows.steps };
        let steps = strip.len();
        let sums = Sums { to: out.wrapping_add(first * line), line, add: strip.start > 0 };
        // SAFETY: rows and columns have these steps. The processor can, where columns of 16 bits and pairs were made.
        unsafe {
            match (w.start, &rows.pairs) {
                (Start::Bf16(start), Some(pairs)) => {
                    let x = Lines { start: pairs.row(first, strip.start).as_ptr(), stride: pairs.stride() };
                    pairs::tile::<R, C, A>(x, Lines { start, stride: w.stride }, steps, ahead, sums);
                }
                (Start::F32(start), _) if !avx512::available() => {
                    tile::<S, R, C>(x, Lines { start, stride: w.stride }, steps, sums);
                }
                (Start::F32(start), _) => {
                    avx512::tile::<_, R, C, A>(x, Lines { start, stride: w.stride }, steps, ahead, sums);
                }
                (Start::Bf16(start), None) => {
                    avx512::tile::<_, R, C, A>(x, Lines { start, stride: w.stride }, steps, ahead, sums);
                }
                (Start::F16(start), _) => {
                    avx512::tile::<_, R, C, A>(x, Lines { start, stride: w.stride }, steps, ahead, sums);
                }
            }
        }
    }
}

/// Rows or columns of a tile.
#[derive(Clone, Copy)]
pub struct Lines<T> {
    start: *const T,
    /// Elements from one to the next.
    stride: usize,
}

impl<T> Lines<T> {
    /// An element of a line.
    #[inline(always)]
    pub fn at(&self, line: usize, element: usize) -> *const T {
        self.start.wrapping_add(line * self.stride + element)
    }
}

/// Where the products of a tile are written, or added.
#[derive(Clone, Copy)]
pub struct Sums {
    to: *mut f32,
    /// Elements from one row to the next.
    line: usize,
    add: bool,
}

impl Sums {
    /// The products of a row.
    ///
    /// # Safety
    /// The row is valid for the columns, and nothing else refers to them.
    #[inline(always)]
    pub unsafe fn write<const C: usize>(self, row: usize, totals: [f32; C]) {
        // SAFETY: as above; what is added to was written.
        unsafe {
            let to = self.to.add(row * self.line).cast::<[f32; C]>();
            if self.add {
                let before = to.read_unaligned();
                to.write_unaligned(std::array::from_fn(|i| before[i] + totals[i]));
            } else {
                to.write_unaligned(totals);
            }
        }
    }
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

/// What a tile asks for while it computes: as many bytes as `A` of its columns have, one after the other. Memory is read in
/// its order, whatever the order in which they are needed: several streams at a time take twice as long.
#[derive(Debug, Clone, Copy)]
pub struct Ahead<const A: usize>(*const u8);

impl Ahead<0> {
    pub fn nothing() -> Self {
        Self(std::ptr::null())
    }
}

impl<const A: usize> Ahead<A> {
    /// Asks for what belongs to the `vector` bytes from the byte `at` of each column on.
    #[inline(always)]
    pub fn ask(self, at: usize, vector: usize) {
        for line in (0..A * vector).step_by(64) {
            prefetch(self.0.wrapping_add(A * at + line).cast());
        }
    }
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
    let tiled = count / TILE_COLUMNS * TILE_COLUMNS;
    assert!(out.len() >= (R - 1) * line + count, "room for the products");
    for first in (0..tiled).step_by(TILE_COLUMNS) {
        let x = Lines { start: x.as_ptr(), stride: length };
        let w = Lines { start: start.wrapping_add(first * step), stride: step };
        let sums = Sums { to: out[first..].as_mut_ptr(), line, add: false };
        // SAFETY: as above; there is room for the products.
        unsafe {
            match avx512::available() {
                true => avx512::tile::<_, R, TILE_COLUMNS, 0>(x, w, length, Ahead::nothing(), sums),
                false => tile::<S, R, TILE_COLUMNS>(x, w, length, sums),
            }
        }
    }
    for column in tiled..count {
        // SAFETY: as above.
        let w = unsafe { std::slice::from_raw_parts(start.wrapping_add(column * step), length) };
        for r in 0..R {
            out[r * line + column] = self::line::<S>(&x[r * length..(r + 1) * length], w);
        }
    }
}

/// A tile of `R` rows and `C` columns.
///
/// # Safety
/// Rows and columns are valid for `steps` elements, `sums` for the products of all rows.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const C: usize>(x: Lines<f32>, w: Lines<f32>, steps: usize, sums: Sums) {
    let lanes = <f32 as Scalar>::lanes::<S>();
    let mut totals: [[Vector<S, f32>; C]; R] = [[0f32.splat(); C]; R];
    let whole = steps / lanes * lanes;
    // SAFETY: as above.
    unsafe {
        for k in (0..whole).step_by(lanes) {
            let w: [Vector<S, f32>; C] = std::array::from_fn(|i| f32::vload_unaligned(w.at(i, k)));
            for (r, totals) in totals.iter_mut().enumerate() {
                let x: Vector<S, f32> = f32::vload_unaligned(x.at(r, k));
                for (total, w) in totals.iter_mut().zip(w) {
                    *total = x.mul_add(w, *total);
                }
            }
        }
        for (r, totals) in totals.into_iter().enumerate() {
            let rest = |i: usize| (whole..steps).map(|k| *x.at(r, k) * *w.at(i, k)).sum::<f32>();
            let mut i = 0..;
            sums.write(r, totals.map(|total| total.reduce_add() + i.next().map_or(0.0, rest)));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Processors without AVX-512 have none of its kernels.
#[cfg(not(target_arch = "x86_64"))]
mod avx512 {
    use super::{Ahead, Lines, Sums};

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

    pub unsafe fn tile<T, const R: usize, const C: usize, const A: usize>(
        _: Lines<f32>,
        _: Lines<T>,
        _: usize,
        _: Ahead<A>,
        _: Sums,
    ) {
        unreachable!("not available")
    }
}
