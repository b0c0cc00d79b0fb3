//! The register tile: a small block of a matrix product that stays in vector registers.
//!
//! A product `x · wᵀ` is computed with the rows of `x` side by side in the lanes of vectors ("a panel"), and with single
//! elements of `w` broadcast. So `w`, which is large and lies as the checkpoint has it, is read in place and once; only
//! `x`, which is small, is rearranged. The block comes out with the rows of `x` in the lanes: `[columns][rows]`.

use macerator::{Scalar, Simd, Vector, WithSimd};

use super::panels::Panel;

/// The most columns that a tile has.
pub const MAX_COLUMNS: usize = 12;

/// Rows of a product are taken in panels of `vectors` vectors; a wider panel has fewer columns in registers.
pub const fn columns(vectors: usize, registers: usize) -> usize {
    match (vectors, registers) {
        (1, _) | (2, 32) => 12,
        (3, _) => 8,
        _ => 6,
    }
}

/// The vectors of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// f32 elements of a vector.
    pub lanes: usize,
    /// Vectors of the widest panel.
    pub vectors: usize,
    /// Vector registers.
    pub registers: usize,
}

impl Shape {
    /// Of the instruction set that kernels run with.
    pub fn detect() -> Self {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            fn with_simd<S: Simd>(self) -> usize {
                f32::lanes::<S>()
            }
        }
        static SHAPE: std::sync::OnceLock<Shape> = std::sync::OnceLock::new();
        *SHAPE.get_or_init(|| {
            let lanes = macerator::AutoArch::new().dispatch(Lanes);
            let many = lanes == 16 || cfg!(target_arch = "aarch64");
            Self { lanes, vectors: if many { 4 } else { 2 }, registers: if many { 32 } else { 16 } }
        })
    }

    /// Rows of the widest panel.
    pub fn panel(self) -> usize {
        self.lanes * self.vectors
    }
}

/// Where the elements of `w` lie: `w[column][step]` is `column · column_stride + step · step_stride` elements away.
#[derive(Debug, Clone, Copy)]
pub struct Broadcast {
    /// The first element.
    pub start: *const f32,
    /// Elements from one column to the next.
    pub column: usize,
    /// Elements from one step to the next.
    pub step: usize,
}

/// Asks for the cache line at `address` to be brought into the second-level cache. Any address is allowed.
#[inline(always)]
pub fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults; SSE is part of the target.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// A page of memory, in bytes, and the part of it that is asked for.
const PAGE: usize = 4096;
const HEAD: usize = 8 * 64;

/// Asks for the first lines of the next page of a stream that is read from `address` on, `step` bytes at a time: the
/// hardware looks ahead, but not across the borders of pages. More requests than that are in its way.
#[inline(always)]
pub fn next_page(address: *const u8, step: usize) {
    if address as usize % PAGE < step {
        for line in (0..HEAD).step_by(64) {
            prefetch(address.wrapping_add(PAGE + line).cast());
        }
    }
}

/// Steps between two prefetches: the f32 elements of a cache line.
const LINE: usize = 16;

/// `out[column][row] = Σ_step x[step][row] · w[column][step]` for `V` vectors of rows and `C` columns.
///
/// Columns from `valid` on repeat the last valid one. `next` is what will be read next by whoever computes the following
/// columns, laid out as `w`; it is fetched into the cache on the way, if it is not null.
///
/// # Safety
/// `x` is valid for `steps · V · lanes` elements, `w` for `valid` columns of `steps` steps, `out` for `C · V · lanes`
/// elements; `valid` is at least 1.
#[inline(always)]
pub unsafe fn tile<S: Simd, const V: usize, const C: usize, const UNIT_STEP: bool>(
    steps: usize,
    x: *const f32,
    w: Broadcast,
    valid: usize,
    next: *const f32,
    out: *mut f32,
) {
    let lanes = f32::lanes::<S>();
    let stride = if UNIT_STEP { 1 } else { w.step };
    let mut sums: [[Vector<S, f32>; V]; C] = [[0f32.splat(); V]; C];
    let mut columns = [w.start; C];
    for (i, column) in columns.iter_mut().enumerate() {
        *column = w.start.wrapping_add(i.min(valid - 1) * w.column);
    }
    let (mut x, mut next, mut left) = (x, next, steps);
    // SAFETY: `left` counts the steps that x and w still have.
    unsafe {
        // Of steps that lie apart, four at a time would be more addresses than there are registers.
        while UNIT_STEP && left >= LINE {
            if !next.is_null() {
                for i in 0..C {
                    prefetch(next.wrapping_add(i * w.column));
                }
                next = next.wrapping_add(LINE);
            }
            for _ in 0..LINE / 4 {
                for i in 0..4 {
                    step::<S, V, C>(&mut sums, x.add(i * V * lanes), &columns, i);
                }
                x = x.add(4 * V * lanes);
                for column in &mut columns {
                    *column = column.wrapping_add(4);
                }
            }
            left -= LINE;
        }
        for _ in 0..left {
            step::<S, V, C>(&mut sums, x, &columns, 0);
            x = x.wrapping_add(V * lanes);
            for column in &mut columns {
                *column = column.wrapping_add(stride);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                f32::vstore_unaligned::<S>(out.add((i * V + v) * lanes), sum);
            }
        }
    }
}

/// One step of [`tile`]: `V` loads, `C` broadcasts, `V · C` fused multiply-adds.
///
/// # Safety
/// `x` is valid for `V` vectors, each column at `offset`.
#[inline(always)]
unsafe fn step<S: Simd, const V: usize, const C: usize>(
    sums: &mut [[Vector<S, f32>; V]; C],
    x: *const f32,
    columns: &[*const f32; C],
    offset: usize,
) {
    let lanes = f32::lanes::<S>();
    let mut rows = [0f32.splat::<S>(); V];
    // SAFETY: as above.
    unsafe {
        for (v, row) in rows.iter_mut().enumerate() {
            *row = f32::vload_unaligned::<S>(x.add(v * lanes));
        }
        for (sums, column) in sums.iter_mut().zip(columns) {
            let w: Vector<S, f32> = (*column.add(offset)).splat();
            for (sum, &row) in sums.iter_mut().zip(&rows) {
                *sum = row.mul_add(w, *sum);
            }
        }
    }
}

/// [`tile`] over any number of columns and for a panel: `out` is `[columns][width]`. `ahead` is where the
/// columns that will be wanted next begin, laid out as `w`, or null.
///
/// # Safety
/// As [`tile`], for `count` columns; `out` has room for `count` rounded up to a multiple of [`columns`].
#[inline(always)]
pub unsafe fn panel<S: Simd, const UNIT_STEP: bool>(
    panel: &Panel,
    steps: usize,
    x: *const f32,
    w: Broadcast,
    count: usize,
    ahead: *const f32,
    out: *mut f32,
) {
    let c = panel.columns;
    let mut column = 0;
    while column < count {
        let valid = c.min(count - column);
        let here = Broadcast { start: w.start.wrapping_add(column * w.column), ..w };
        let next = if ahead.is_null() { ahead } else { ahead.wrapping_add(column * w.column) };
        // SAFETY: `valid` columns from `column` on are in w, and c columns fit into out.
        unsafe {
            let out = out.add(column * panel.width);
            match (panel.vectors, c) {
                (1, _) => tile::<S, 1, 12, UNIT_STEP>(steps, x, here, valid, next, out),
                (2, 12) => tile::<S, 2, 12, UNIT_STEP>(steps, x, here, valid, next, out),
                (2, _) => tile::<S, 2, 6, UNIT_STEP>(steps, x, here, valid, next, out),
                (3, _) => tile::<S, 3, 8, UNIT_STEP>(steps, x, here, valid, next, out),
                _ => tile::<S, 4, 6, UNIT_STEP>(steps, x, here, valid, next, out),
            }
        }
        column += c;
    }
}
