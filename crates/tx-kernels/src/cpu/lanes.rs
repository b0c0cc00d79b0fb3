//! Products with the columns of the result in the lanes of vectors: rows are read where they lie, one element at a time,
//! and multiplied with a panel of columns, so that the result comes out in rows.

use std::ops::Range;

use macerator::{ReduceAdd, Scalar, Simd, Vector};

use super::product::Out;
use super::{Scratch, rows};
use crate::Pointwise;

/// The most columns of a panel.
pub const PANEL: usize = 64;

/// The most rows of a tile.
pub const ROWS: usize = 6;

/// Some steps of a panel: `w[step][column]`, steps `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub struct Strip {
    start: *const f32,
    stride: usize,
    /// The steps of one more column, if there is one.
    more: *const f32,
}

impl Strip {
    pub fn new(start: *const f32, stride: usize) -> Self {
        Self { start, stride, more: std::ptr::null() }
    }

    /// With one more column, whose steps lie at `more` beside each other.
    pub fn with(self, more: *const f32) -> Self {
        Self { more, ..self }
    }
}

/// `sums[row][column] = Σ_step x[row][step] · w[step][column]` for all rows of `x: [rows, steps]`.
///
/// `pack` gives the panel for some steps, at most `strip` of them at a time; it may write it into the memory it is given,
/// `strip · width` elements. `finish` is called with the first of some rows and their sums, `[rows][width]`.
///
/// # Safety
/// What `pack` gives is valid for `width` elements at each of its steps.
#[inline(always)]
pub unsafe fn product<S: Simd>(
    x: &[f32],
    steps: usize,
    width: usize,
    strip: usize,
    pack: impl FnMut(Range<usize>, &mut [f32]) -> Strip,
    finish: impl FnMut(usize, &mut [f32]),
) {
    // SAFETY: as above.
    unsafe { product_with::<S, false>(x, steps, width, strip, pack, finish) };
}

/// [`product`]; if there is `MORE`, then with one more column than `width`, at most three vectors: a vector of its own would
/// have that one alone, so that it is computed with the steps in the lanes. A line of sums ends with it.
///
/// # Safety
/// As [`product`]; if there is `MORE`, what `pack` gives has as many steps of one more column.
#[inline(always)]
pub unsafe fn product_with<S: Simd, const MORE: bool>(
    x: &[f32],
    steps: usize,
    width: usize,
    strip: usize,
    mut pack: impl FnMut(Range<usize>, &mut [f32]) -> Strip,
    mut finish: impl FnMut(usize, &mut [f32]),
) {
    let line = width + usize::from(MORE);
    let rows = x.len() / steps.max(1);
    let strip = strip.min(steps).max(1);
    // Each of several strips adds to the sums of all rows.
    let kept = if strip < steps { rows } else { rows.min(ROWS) };
    let mut packed = Scratch::<f32>::take(strip * width);
    let mut sums = Scratch::<f32>::take(kept * line);
    for from in (0..steps).step_by(strip) {
        let range = from..steps.min(from + strip);
        let w = pack(range.clone(), &mut packed);
        for rows in tiles(rows) {
            let at = if strip < steps { rows.start * line } else { 0 };
            let sums = &mut sums[at..at + rows.len() * line];
            let x = x[rows.start * steps + from..].as_ptr();
            let tile = Tile { x, row: steps, w, steps: range.len(), width };
            // SAFETY: each of the rows has all steps, and a line of sums.
            unsafe {
                match from {
                    0 => tile.run::<S, true, MORE>(rows.len(), sums.as_mut_ptr()),
                    _ => tile.run::<S, false, MORE>(rows.len(), sums.as_mut_ptr()),
                }
            }
            // What is written now goes to memory while the next tile is computed.
            if range.end == steps {
                finish(rows.start, sums);
            }
        }
    }
}

/// The rows of tiles of equal height, as far as that goes.
pub fn tiles(rows: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    let tiles = rows.div_ceil(ROWS);
    let (height, higher) = (rows / tiles.max(1), rows % tiles.max(1));
    (0..tiles).map(move |tile| {
        let start = tile * height + tile.min(higher);
        start..start + height + usize::from(tile < higher)
    })
}

/// Some rows, and a panel.
#[derive(Clone, Copy)]
struct Tile {
    x: *const f32,
    /// Elements from one row to the next.
    row: usize,
    w: Strip,
    steps: usize,
    width: usize,
}

impl Tile {
    /// Adds the products to the sums of `count` rows, or sets the sums to them if they are `NEW`.
    ///
    /// # Safety
    /// The rows and the panel have these steps, and `sums` is valid for a line of each of at most [`ROWS`] rows.
    #[inline(always)]
    unsafe fn run<S: Simd, const NEW: bool, const MORE: bool>(self, count: usize, sums: *mut f32) {
        // SAFETY: as above.
        unsafe {
            match count {
                1 => self.rows::<S, 1, NEW, MORE>(sums),
                2 => self.rows::<S, 2, NEW, MORE>(sums),
                3 => self.rows::<S, 3, NEW, MORE>(sums),
                4 => self.rows::<S, 4, NEW, MORE>(sums),
                5 => self.rows::<S, 5, NEW, MORE>(sums),
                _ => self.rows::<S, ROWS, NEW, MORE>(sums),
            }
        }
    }

    /// All columns of the panel, as many vectors at a time as registers allow.
    ///
    /// # Safety
    /// As [`Tile::run`], for `R` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize, const NEW: bool, const MORE: bool>(self, sums: *mut f32) {
        let lanes = <f32 as Scalar>::lanes::<S>();
        if MORE {
            // SAFETY: the panel is at most three vectors wide.
            return unsafe {
                match self.width / lanes {
                    3 => self.vectors::<S, R, 3, NEW, true>(0, sums),
                    2 => self.vectors::<S, R, 2, NEW, true>(0, sums),
                    _ => self.vectors::<S, R, 1, NEW, true>(0, sums),
                }
            };
        }
        let most = if lanes >= 16 || cfg!(target_arch = "aarch64") { 4 } else { 2 };
        let mut column = 0;
        while column < self.width {
            let vectors = ((self.width - column) / lanes).min(most);
            // SAFETY: the panel is a whole number of vectors wide.
            unsafe {
                match vectors {
                    4 => self.vectors::<S, R, 4, NEW, false>(column, sums),
                    3 => self.vectors::<S, R, 3, NEW, false>(column, sums),
                    2 => self.vectors::<S, R, 2, NEW, false>(column, sums),
                    _ => self.vectors::<S, R, 1, NEW, false>(column, sums),
                }
            }
            column += lanes * vectors.max(1);
        }
    }

    /// `V` vectors of columns from `column` on, and one more column if there is.
    ///
    /// # Safety
    /// As [`Tile::rows`].
    #[inline(always)]
    unsafe fn vectors<S: Simd, const R: usize, const V: usize, const NEW: bool, const MORE: bool>(
        self,
        column: usize,
        sums: *mut f32,
    ) {
        let Self { x, row, w, steps, width } = self;
        let lanes = <f32 as Scalar>::lanes::<S>();
        let line = width + usize::from(MORE);
        // SAFETY: as above.
        unsafe {
            let place = |r: usize, v: usize| sums.add(r * line + column + v * lanes);
            let mut totals: [[Vector<S, f32>; V]; R] = [[0f32.splat(); V]; R];
            if !NEW {
                for (r, totals) in totals.iter_mut().enumerate() {
                    for (v, total) in totals.iter_mut().enumerate() {
                        *total = f32::vload_unaligned(place(r, v));
                    }
                }
            }
            let mut w_at = w.start.add(column);
            let mut k = 0;
            if MORE {
                let mut more: [Vector<S, f32>; R] = [0f32.splat(); R];
                while k + lanes <= steps {
                    for step in k..k + lanes {
                        multiply_add(&mut totals, x.add(step), row, w_at);
                        w_at = w_at.wrapping_add(w.stride);
                    }
                    let column = f32::vload_unaligned::<S>(w.more.add(k));
                    for (r, more) in more.iter_mut().enumerate() {
                        *more = f32::vload_unaligned::<S>(x.add(r * row + k)).mul_add(column, *more);
                    }
                    k += lanes;
                }
                for (r, more) in more.into_iter().enumerate() {
                    let place = place(r, V);
                    let rest = (k..steps).map(|k| *x.add(r * row + k) * *w.more.add(k)).sum::<f32>();
                    *place = if NEW { 0.0 } else { *place } + f32::reduce_add(more) + rest;
                }
            }
            for k in k..steps {
                multiply_add(&mut totals, x.add(k), row, w_at);
                w_at = w_at.wrapping_add(w.stride);
            }
            for (r, totals) in totals.into_iter().enumerate() {
                for (v, total) in totals.into_iter().enumerate() {
                    f32::vstore_unaligned::<S>(place(r, v), total);
                }
            }
        }
    }
}

/// Adds the products of a step of `R` rows, `row` elements apart, with `V` vectors of columns.
///
/// # Safety
/// `x` is valid for an element of each row, `w` for `V` vectors.
#[inline(always)]
unsafe fn multiply_add<S: Simd, const R: usize, const V: usize>(
    totals: &mut [[Vector<S, f32>; V]; R],
    x: *const f32,
    row: usize,
    w: *const f32,
) {
    let lanes = <f32 as Scalar>::lanes::<S>();
    let mut columns = [0f32.splat::<S>(); V];
    // SAFETY: as above.
    unsafe {
        for (v, column) in columns.iter_mut().enumerate() {
            *column = f32::vload_unaligned(w.add(v * lanes));
        }
        for (r, totals) in totals.iter_mut().enumerate() {
            let x: Vector<S, f32> = (*x.add(r * row)).splat();
            for (total, &column) in totals.iter_mut().zip(&columns) {
                *total = column.mul_add(x, *total);
            }
        }
    }
}

/// Columns with those that fill the last vector.
pub fn padded<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of(<f32 as Scalar>::lanes::<S>())
}

/// Adds the bias to sums `[rows][width]`, applies the activation and writes them as columns of `out: [.., columns]`.
///
/// # Safety
/// `out` has these rows from `first` on, and nothing else refers to them in these columns.
#[expect(clippy::too_many_arguments, reason = "what a product ends with")]
#[inline(always)]
pub unsafe fn write_rows(
    sums: &mut [f32],
    width: usize,
    bias: Option<&[f32]>,
    act: Option<Pointwise>,
    out: Out,
    columns: usize,
    first: usize,
    range: Range<usize>,
) {
    if let Some(act) = act {
        if let Some(bias) = bias {
            sums.chunks_exact_mut(width).for_each(|line| rows::add_scaled(1.0, bias, 1, &mut line[..bias.len()]));
        }
        rows::pointwise(act, sums);
    }
    for (row, line) in sums.chunks_exact(width).enumerate() {
        let line = &line[..range.len()];
        // SAFETY: as above.
        unsafe {
            let to = out.get().add((first + row) * columns + range.start);
            match bias {
                Some(bias) if act.is_none() => {
                    rows::write_sum(line, bias, std::slice::from_raw_parts_mut(to.cast(), line.len()));
                }
                _ => to.copy_from_nonoverlapping(line.as_ptr(), line.len()),
            }
        }
    }
}
