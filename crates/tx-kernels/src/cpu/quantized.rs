//! Products with 8-bit and 4-bit weights on processors with VNNI.
//!
//! Rows are quantized on the fly, each to unsigned bytes with a scale and a zero point of its own, so that
//! `x ≈ scale · (q − zero)`. A block of a weight's row has one scale, so that
//! `Σ x·w ≈ scale · (Σ_blocks s_b · Σ q·w_b − zero · Σ_blocks s_b · Σ w_b)`; the last sum depends on the weight alone and is
//! kept with it. `vpdpbusd` multiplies four unsigned by four signed bytes and adds the products to a 32-bit lane.
//!
//! On processors without VNNI the weights are widened to f32, block by block, and take the way of all others.

use super::rows;

/// 8-bit weights `[columns, steps]` with one scale for each `block` steps of a column.
#[derive(Debug, Clone, Copy)]
pub struct Int8<'a> {
    pub values: &'a [i8],
    /// `[columns, steps / block]`
    pub scales: &'a [f32],
    /// `Σ s_b · Σ w_b` of each column.
    pub sums: &'a [f32],
    /// A multiple of 32 that divides the steps.
    pub block: usize,
}

/// 4-bit weights `[columns, steps]` in blocks of 32, each 64 of them in 32 bytes: the low halves are the first 32. A half
/// is the weight plus 8.
#[derive(Debug, Clone, Copy)]
pub struct Int4<'a> {
    pub values: &'a [u8],
    /// `[columns, steps / 32]`
    pub scales: &'a [f32],
    /// `Σ s_b · Σ w_b` of each column.
    pub sums: &'a [f32],
}

/// Steps of a block of 4-bit weights, and the fewest of 8-bit ones.
pub const BLOCK: usize = 32;

impl Int8<'_> {
    /// Widens a range of values, whole blocks of one or several columns.
    pub fn widen(&self, range: std::ops::Range<usize>, to: &mut [f32]) {
        let scales = &self.scales[range.start / self.block..];
        for ((to, values), &scale) in to.chunks_mut(self.block).zip(self.values[range].chunks(self.block)).zip(scales) {
            rows::widen_int8(values, scale, to);
        }
    }
}

impl Int4<'_> {
    /// Widens a range of values, whole pairs of blocks.
    pub fn widen(&self, range: std::ops::Range<usize>, to: &mut [f32]) {
        let scales = self.scales[range.start / BLOCK..].as_chunks::<2>().0;
        let values = self.values[range.start / 2..range.end / 2].as_chunks::<BLOCK>().0;
        for ((to, values), scales) in to.as_chunks_mut::<{ 2 * BLOCK }>().0.iter_mut().zip(values).zip(scales) {
            for (i, value) in values.iter().enumerate() {
                to[i] = f32::from(i16::from(value & 15) - 8) * scales[0];
                to[BLOCK + i] = f32::from(i16::from(value >> 4) - 8) * scales[1];
            }
        }
    }
}

/// Rows in unsigned bytes: `x ≈ scale · (q − zero)`.
#[cfg(target_arch = "x86_64")]
pub struct Quantized {
    pub values: super::Scratch<u8>,
    pub scales: Vec<f32>,
    pub zeros: Vec<f32>,
}

#[cfg(target_arch = "x86_64")]
pub use vnni::{available, product};

/// Whether this processor has VNNI.
#[cfg(not(target_arch = "x86_64"))]
pub fn available() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::*;

    use rayon::prelude::*;

    use super::{BLOCK, Int4, Int8, Quantized};
    use crate::Pointwise;
    use crate::cpu::panels::{self, Panels};
    use crate::cpu::product::{COLUMNS, Factor, L2_BYTES, Weight, blocks, finish, parallel};
    use crate::cpu::{Aligned, Scratch, rows};

    /// Rows up to which each is multiplied by whole rows of the weight.
    const FEW_ROWS: usize = 4;

    /// Columns that are computed together with few rows.
    const DOTS: usize = 4;

    /// Steps that fill a vector.
    const VECTOR: usize = 64;

    /// Whether this processor has VNNI on 512-bit vectors.
    pub fn available() -> bool {
        is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
    }

    /// The products of `x: [rows, steps]` with quantized factors; `steps` is a multiple of 64.
    ///
    /// # Safety
    /// The processor has VNNI; every factor's `out` is valid for `rows · columns` elements that nothing else refers to.
    pub unsafe fn product(x: &[f32], count: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
        let quantized = quantize(x, count, steps);
        // SAFETY: as above.
        unsafe {
            if count <= FEW_ROWS {
                dots(&quantized, count, steps, factors, act);
            } else {
                paneled(&quantized, count, steps, factors, act);
            }
        }
    }

    fn quantize(x: &[f32], count: usize, steps: usize) -> Quantized {
        let mut values = Scratch::<u8>::take(count * steps);
        let (mut scales, mut zeros) = (vec![0.0; count], vec![0.0; count]);
        let rows = values.par_chunks_mut(steps).zip(x.par_chunks(steps)).zip(scales.par_iter_mut().zip(&mut zeros));
        rows.with_min_len(8).for_each(|((q, x), (scale, zero))| (*scale, *zero) = rows::quantize(x, q));
        Quantized { values, scales, zeros }
    }

    /// # Safety
    /// As [`product`].
    unsafe fn paneled(x: &Quantized, count: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
        let panels = Panels::new(count);
        let quads = steps / 4;
        let mut packed = Scratch::<f32>::take(panels.padded_rows() * quads);
        packed.par_chunks_mut(panels.shape.panel() * quads).enumerate().for_each(|(index, packed)| {
            let panel = panels.get(index);
            let rows = &x.values[panel.row * steps..][..panel.rows * steps];
            // Four bytes move as one f32.
            // SAFETY: scratch memory is aligned, every pattern of bits is an f32, and steps is a multiple of 4.
            let rows = unsafe { std::slice::from_raw_parts(rows.as_ptr().cast::<f32>(), rows.len() / 4) };
            let lines: Vec<&[f32]> = rows.chunks_exact(quads).collect();
            panels::pack(&lines, quads, panel.width, packed);
        });
        let blocks = blocks(factors);
        let group = (L2_BYTES / (panels.shape.panel() * steps)).clamp(1, panels.count());
        parallel(panels.count().div_ceil(group) * blocks.len(), |task| {
            let (factor, column) = blocks[task % blocks.len()];
            let first = task / blocks.len() * group;
            let panels = (first..(first + group).min(panels.count())).map(|index| panels.get(index));
            // SAFETY: as above; each task writes its own columns and rows.
            unsafe { block(x, &packed, panels, steps, &factors[factor], column, act) };
        });
    }

    /// # Safety
    /// As [`product`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn block(
        x: &Quantized,
        packed: &[f32],
        panels: impl Iterator<Item = panels::Panel>,
        steps: usize,
        factor: &Factor<'_>,
        column: usize,
        act: Option<Pointwise>,
    ) {
        let count = COLUMNS.min(factor.columns - column);
        let range = column * steps..(column + count) * steps;
        // Rows that lie apart, and in memory, are slow to broadcast from.
        let mut copied = Scratch::<i8>::take(count * steps);
        let (w, scales, sums, length) = match factor.weight {
            Weight::Int8(Int8 { values, scales, sums, block }) => {
                copied.copy_from_slice(&values[range.clone()]);
                (&*copied, &scales[range.start / block..], &sums[column..column + count], block)
            }
            Weight::Int4(Int4 { values, scales, sums }) => {
                unpack_int4(&values[range.start / 2..range.end / 2], &mut copied);
                (&*copied, &scales[range.start / BLOCK..], &sums[column..column + count], BLOCK)
            }
            _ => return,
        };
        let mut out = Aligned([0f32; (COLUMNS + 12) * 64]);
        for panel in panels {
            let width = panel.width;
            let x_panel = packed[panel.row * steps / 4..][..width * steps / 4].as_ptr();
            let c = panel.columns;
            for first in (0..count).step_by(c) {
                let tile = Tile {
                    steps,
                    x: x_panel,
                    w: w[first * steps..].as_ptr(),
                    scales: scales[first * (steps / length)..].as_ptr(),
                    block: length,
                    valid: c.min(count - first),
                };
                // SAFETY: the panel has `width` lanes, `valid` columns follow `first`, and `out` has room for c more.
                unsafe {
                    let out = out.0.as_mut_ptr().add(first * width);
                    match panel.vectors {
                        1 => tile.run::<1, 12>(out),
                        2 => tile.run::<2, 12>(out),
                        3 => tile.run::<3, 8>(out),
                        _ => tile.run::<4, 6>(out),
                    }
                }
            }
            let (mut scale, mut zero) = (Aligned([0f32; 64]), Aligned([0f32; 64]));
            scale.0[..panel.rows].copy_from_slice(&x.scales[panel.row..][..panel.rows]);
            zero.0[..panel.rows].copy_from_slice(&x.zeros[panel.row..][..panel.rows]);
            for (line, &sum) in out.0.chunks_exact_mut(width).zip(sums) {
                for ((value, scale), zero) in line.iter_mut().zip(&scale.0).zip(&zero.0) {
                    *value = scale * (-zero).mul_add(sum, *value);
                }
            }
            // SAFETY: this task alone writes these rows and columns.
            unsafe { finish(&mut out.0, &panel, factor, column, act) };
        }
    }

    /// 4-bit weights as bytes.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn unpack_int4(values: &[u8], to: &mut [i8]) {
        for (to, values) in to.as_chunks_mut::<{ 2 * BLOCK }>().0.iter_mut().zip(values.as_chunks::<BLOCK>().0) {
            for (i, value) in values.iter().enumerate() {
                to[i] = (value & 15) as i8 - 8;
                to[BLOCK + i] = (value >> 4) as i8 - 8;
            }
        }
    }

    /// A block of a product in registers; see `tile.rs`.
    struct Tile {
        steps: usize,
        /// `[steps / 4][vectors · 16]` groups of four bytes.
        x: *const f32,
        w: *const i8,
        scales: *const f32,
        block: usize,
        valid: usize,
    }

    impl Tile {
        /// `out[column][row] = Σ_blocks scale · Σ x·w`
        ///
        /// # Safety
        /// `x` and `w` are valid for `steps`, `w` and `scales` for `valid` columns, `out` for `C · V` vectors.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn run<const V: usize, const C: usize>(&self, out: *mut f32) {
            let blocks = self.steps / self.block;
            let quads = self.block / 4;
            let w: [*const i8; C] = std::array::from_fn(|i| self.w.wrapping_add(i.min(self.valid - 1) * self.steps));
            let scales: [*const f32; C] =
                std::array::from_fn(|i| self.scales.wrapping_add(i.min(self.valid - 1) * blocks));
            let mut x = self.x;
            for b in 0..blocks {
                let mut sums = [[_mm512_setzero_si512(); V]; C];
                let start = b * self.block;
                for q in 0..quads {
                    // SAFETY: `q` and `b` stay within x and w.
                    unsafe {
                        let rows: [__m512i; V] = std::array::from_fn(|v| _mm512_loadu_si512(x.add(v * 16).cast()));
                        for (sums, w) in sums.iter_mut().zip(&w) {
                            let w = _mm512_set1_epi32(w.add(start + 4 * q).cast::<i32>().read_unaligned());
                            for (sum, &row) in sums.iter_mut().zip(&rows) {
                                *sum = _mm512_dpbusd_epi32(*sum, row, w);
                            }
                        }
                        x = x.add(V * 16);
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        // SAFETY: `out` has C · V vectors, and a scale for each block of each column.
                        unsafe {
                            let out = out.add((i * V + v) * 16);
                            let total = if b == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(out) };
                            let scale = _mm512_set1_ps(*scales[i].add(b));
                            _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total));
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`product`].
    unsafe fn dots(x: &Quantized, count: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
        let blocks = blocks(factors);
        parallel(blocks.len(), |task| {
            let (index, column) = blocks[task];
            let factor = &factors[index];
            let columns = COLUMNS.min(factor.columns - column);
            for row in 0..count {
                let mut line = [0f32; COLUMNS];
                let x_row = &x.values[row * steps..(row + 1) * steps];
                for first in (0..columns).step_by(DOTS) {
                    let valid = DOTS.min(columns - first);
                    let at: [usize; DOTS] = std::array::from_fn(|i| column + first + i.min(valid - 1));
                    // SAFETY: the processor has VNNI.
                    let (totals, sums) = unsafe {
                        match factor.weight {
                            Weight::Int8(w) => (dot8(x_row, &w, at), w.sums),
                            Weight::Int4(w) => (dot4(x_row, &w, at), w.sums),
                            _ => return,
                        }
                    };
                    for i in 0..valid {
                        line[first + i] = x.scales[row] * (totals[i] - x.zeros[row] * sums[at[i]]);
                    }
                }
                let line = &mut line[..columns];
                if let Some(bias) = factor.bias {
                    line.iter_mut().zip(&bias[column..]).for_each(|(value, bias)| *value += bias);
                }
                if let Some(act) = act {
                    rows::pointwise(act, line);
                }
                // SAFETY: this task alone writes these columns.
                unsafe {
                    let out = factor.out.get().add(row * factor.columns + column);
                    out.copy_from_nonoverlapping(line.as_ptr(), columns);
                }
            }
        });
    }

    /// The scales of two blocks, each in half of a vector.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn halves(scales: &[f32]) -> __m512 {
        let low = _mm256_set1_ps(scales[0]);
        _mm512_castpd_ps(_mm512_insertf64x4::<1>(
            _mm512_castpd256_pd512(_mm256_castps_pd(low)),
            _mm256_castps_pd(_mm256_set1_ps(scales[1])),
        ))
    }

    /// The dot products of a row with the columns `at`, with the scales of their blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn dot8(x: &[u8], w: &Int8<'_>, at: [usize; DOTS]) -> [f32; DOTS] {
        let steps = x.len();
        let columns: [&[i8]; DOTS] = at.map(|column| &w.values[column * steps..(column + 1) * steps]);
        let scales: [&[f32]; DOTS] =
            at.map(|column| &w.scales[column * (steps / w.block)..(column + 1) * (steps / w.block)]);
        let mut totals = [_mm512_setzero_ps(); DOTS];
        let load = |values: *const u8| {
            // SAFETY: called with chunks of 64 bytes.
            unsafe { _mm512_loadu_si512(values.cast()) }
        };
        let per_scale = (w.block / VECTOR).max(1);
        for start in (0..steps).step_by(per_scale * VECTOR) {
            let mut sums = [_mm512_setzero_si512(); DOTS];
            for k in (start..start + per_scale * VECTOR).step_by(VECTOR) {
                let x = load(x[k..k + VECTOR].as_ptr());
                for (sum, column) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbusd_epi32(*sum, x, load(column[k..k + VECTOR].as_ptr().cast()));
                }
            }
            for ((total, sum), scales) in totals.iter_mut().zip(sums).zip(&scales) {
                let scale = if w.block == BLOCK {
                    halves(&scales[start / BLOCK..])
                } else {
                    _mm512_set1_ps(scales[start / w.block])
                };
                *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *total);
            }
        }
        totals.map(|total| _mm512_reduce_add_ps(total))
    }

    /// As [`dot8`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn dot4(x: &[u8], w: &Int4<'_>, at: [usize; DOTS]) -> [f32; DOTS] {
        let steps = x.len();
        let columns: [&[u8]; DOTS] = at.map(|column| &w.values[column * (steps / 2)..(column + 1) * (steps / 2)]);
        let scales: [&[f32]; DOTS] =
            at.map(|column| &w.scales[column * (steps / BLOCK)..(column + 1) * (steps / BLOCK)]);
        let (low, eight) = (_mm256_set1_epi8(15), _mm512_set1_epi8(8));
        let mut totals = [_mm512_setzero_ps(); DOTS];
        for k in (0..steps).step_by(VECTOR) {
            // SAFETY: both slices hold what is loaded.
            let x = unsafe { _mm512_loadu_si512(x[k..k + VECTOR].as_ptr().cast()) };
            for ((total, column), scales) in totals.iter_mut().zip(&columns).zip(&scales) {
                // SAFETY: as above.
                let pairs = unsafe { _mm256_loadu_si256(column[k / 2..k / 2 + BLOCK].as_ptr().cast()) };
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(pairs), low);
                let w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_and_si256(pairs, low)), high);
                let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), x, _mm512_sub_epi8(w, eight));
                *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), halves(&scales[k / BLOCK..]), *total);
            }
        }
        totals.map(|total| _mm512_reduce_add_ps(total))
    }
}
