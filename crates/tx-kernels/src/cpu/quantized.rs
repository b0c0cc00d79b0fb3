//! Products with 8-bit and 4-bit weights on processors with VNNI.
//!
//! Rows are quantized on the fly, each to unsigned bytes with a scale and a zero point of its own, so that
//! `x ≈ scale · (q − zero)`. A block of a weight's column has one scale, so that
//! `Σ x·w ≈ scale · (Σ_blocks s_b · Σ q·w_b − zero · Σ_blocks s_b · Σ w_b)`; the last sum depends on the weight alone and is
//! kept with it. `vpdpbusd` multiplies four unsigned by four signed bytes and adds the products to a 32-bit lane.
//!
//! Weights lie in panels of [`PANEL`] columns, four steps of a column beside each other and before each block its scales:
//! the columns of the result are the lanes of vectors, so that a weight is read as one stream, rows where they lie, and
//! the result is written in rows.
//!
//! On processors without VNNI the weights are widened to f32 and take the way of all others.

use std::ops::Range;

use super::rows;

/// Columns of a panel; the last one has fewer, a multiple of [`LANES`].
pub const PANEL: usize = 64;

/// Columns are padded to a multiple of this: the lanes of a vector.
pub const LANES: usize = 16;

/// Steps of a block of 4-bit weights, and the fewest of 8-bit ones.
pub const BLOCK: usize = 32;

/// How many bits a weight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Four bytes are four steps of a column.
    Eight,
    /// Four bytes are eight steps of a column: the low halves are the first four. A half is the weight plus 8.
    Four,
}

impl Bits {
    /// Steps of a column in four bytes.
    pub fn steps_per_word(self) -> usize {
        match self {
            Self::Eight => 4,
            Self::Four => 8,
        }
    }
}

/// A quantized weight `[columns, steps]` with one scale for each `block` steps of a column.
#[derive(Debug, Clone, Copy)]
pub struct Quantized<'a> {
    pub bits: Bits,
    /// `[panel][block][1 + words][column of the panel]` of four bytes: scales in f32, then the words of the block.
    pub panels: &'a [u8],
    /// `Σ s_b · Σ w_b` of each column, padded ones included.
    pub sums: &'a [f32],
    /// A multiple of 32 that divides the steps.
    pub block: usize,
    pub steps: usize,
}

/// Some columns that lie together.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// The first one.
    pub first: usize,
    /// How many, padded ones included.
    pub width: usize,
}

/// Columns with those that fill the last vector.
pub fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// The panels of a weight.
pub fn panel(columns: usize, index: usize) -> Columns {
    let first = index * PANEL;
    Columns { first, width: (padded(columns) - first).min(PANEL) }
}

/// The bytes of a column, scales included.
pub fn column_bytes(bits: Bits, block: usize, steps: usize) -> usize {
    4 * (steps / bits.steps_per_word() + steps / block)
}

impl<'a> Quantized<'a> {
    fn panel(&self, columns: Columns) -> &'a [u8] {
        let bytes = column_bytes(self.bits, self.block, self.steps);
        &self.panels[columns.first * bytes..][..columns.width * bytes]
    }

    /// Widens some steps of a column, whole blocks of 8.
    pub fn widen(&self, column: usize, steps: Range<usize>, to: &mut [f32]) {
        let columns = panel(self.sums.len(), column / PANEL);
        let words = self.panel(columns).as_chunks::<4>().0;
        let at = |word: usize| words[word * columns.width + column % PANEL];
        let per_word = self.bits.steps_per_word();
        for (step, to) in steps.clone().step_by(per_word).zip(to[..steps.len()].chunks_exact_mut(per_word)) {
            let block = step / self.block;
            let scale = f32::from_ne_bytes(at(block * (1 + self.block / per_word)));
            for (i, byte) in at(1 + block + step / per_word).into_iter().enumerate() {
                match self.bits {
                    Bits::Eight => to[i] = scale * f32::from(byte as i8),
                    Bits::Four => {
                        to[i] = scale * f32::from(i16::from(byte & 15) - 8);
                        to[4 + i] = scale * f32::from(i16::from(byte >> 4) - 8);
                    }
                }
            }
        }
    }
}

/// Quantizes up to [`PANEL`] columns of `steps` elements each: writes their panel, and the sums of what it stands for.
/// Padded columns become zeros.
pub fn quantize_panel(lines: &[f32], bits: Bits, block: usize, steps: usize, panel: &mut [u8], sums: &mut [f32]) {
    let width = sums.len();
    let largest = if bits == Bits::Eight { 127.0 } else { 7.0 };
    let mut whole = vec![0i8; block];
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum = 0.0;
        let line = lines.get(lane * steps..(lane + 1) * steps);
        let mut words = panel.as_chunks_mut::<4>().0.iter_mut().skip(lane).step_by(width);
        for b in 0..steps / block {
            whole.fill(0);
            let scale =
                line.map_or(0.0, |line| rows::quantize_symmetric(&line[b * block..][..block], largest, &mut whole));
            *sum += scale * whole.iter().map(|&value| i32::from(value)).sum::<i32>() as f32;
            let whole = whole.chunks_exact(bits.steps_per_word()).map(|whole| word(bits, whole));
            words.by_ref().zip(std::iter::once(scale.to_ne_bytes()).chain(whole)).for_each(|(to, word)| *to = word);
        }
    }
}

/// The steps of a column that share four bytes.
fn word(bits: Bits, whole: &[i8]) -> [u8; 4] {
    std::array::from_fn(|i| match bits {
        Bits::Eight => whole[i] as u8,
        Bits::Four => (whole[i] + 8) as u8 | ((whole[4 + i] + 8) as u8) << 4,
    })
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

    use super::{BLOCK, Bits, Columns, LANES, PANEL, Quantized, panel};
    use crate::Pointwise;
    use crate::cpu::lanes::{self, ROWS};
    use crate::cpu::product::{Factor, Weight};
    use crate::cpu::threads::parallel;
    use crate::cpu::tile::next_page;
    use crate::cpu::{Aligned, CHUNK, Scratch, rows};

    /// Rows that all panels pass before the next ones follow: few enough to stay, with their part of the result, in the
    /// second-level cache; many enough to be worth reading the weights again.
    const GROUP_ROWS: usize = 96;

    /// Does something for each of `R` rows, at most [`ROWS`] of them, without a loop: a loop that is not unrolled early
    /// makes the compiler keep the sums of a tile in memory.
    macro_rules! each_row {
        ($rows:ident, $r:ident, $do:expr) => {{
            each_row!(@ $rows, $r, $do, 0);
            each_row!(@ $rows, $r, $do, 1);
            each_row!(@ $rows, $r, $do, 2);
            each_row!(@ $rows, $r, $do, 3);
            each_row!(@ $rows, $r, $do, 4);
            each_row!(@ $rows, $r, $do, 5);
        }};
        (@ $rows:ident, $r:ident, $do:expr, $row:literal) => {
            if $row < $rows {
                let $r = $row % $rows;
                $do;
            }
        };
    }

    /// Whether this processor has VNNI on 512-bit vectors.
    pub fn available() -> bool {
        is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
    }

    /// Rows in unsigned bytes: `x ≈ scale · (q − zero)`.
    struct Rows {
        /// `[rows, steps]`
        values: Scratch<u8>,
        scales: Vec<f32>,
        zeros: Vec<f32>,
        /// `[rows, steps / 32]`: minus eight times the sum of each 32 bytes, for 4-bit weights, which are 8 too large.
        offsets: Vec<i32>,
    }

    impl Rows {
        fn new(x: &[f32], count: usize, steps: usize, offsets: bool) -> Self {
            let mut values = Scratch::<u8>::take(count * steps);
            let (mut scales, mut zeros) = (vec![0.0; count], vec![0.0; count]);
            let rows = values.par_chunks_mut(steps).zip(x.par_chunks(steps)).zip(scales.par_iter_mut().zip(&mut zeros));
            rows.with_min_len((CHUNK / steps).max(1))
                .for_each(|((q, x), (scale, zero))| (*scale, *zero) = rows::quantize(x, q));
            let block = |block: &[u8]| -8 * block.iter().map(|&q| i32::from(q)).sum::<i32>();
            let offsets = if offsets { values.chunks_exact(BLOCK).map(block).collect() } else { Vec::new() };
            Self { values, scales, zeros, offsets }
        }
    }

    /// The products of `x: [rows, steps]` with quantized factors.
    ///
    /// # Safety
    /// The processor has VNNI; every factor's `out` is valid for `rows · columns` elements that nothing else refers to.
    pub unsafe fn product(x: &[f32], count: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
        let four = |factor: &Factor<'_>| matches!(factor.weight, Weight::Quantized(w) if w.bits == Bits::Four);
        let x = Rows::new(x, count, steps, factors.iter().any(four));
        let panels: Vec<(usize, usize)> = (0..factors.len())
            .flat_map(|factor| (0..factors[factor].columns.div_ceil(PANEL)).map(move |panel| (factor, panel)))
            .collect();
        // All panels of some rows, then those of the next: rows of the result are written in one go.
        let groups = (count / GROUP_ROWS).max(1);
        let cut = |group: usize| if group == groups { count } else { group * count / groups / ROWS * ROWS };
        parallel(groups * panels.len(), |task| {
            let (factor, index) = panels[task % panels.len()];
            let factor = &factors[factor];
            let Weight::Quantized(weight) = factor.weight else { return };
            let group = task / panels.len();
            let block = Block {
                x: &x,
                rows: cut(group)..cut(group + 1),
                weight: &weight,
                columns: panel(factor.columns, index),
                factor,
                act,
            };
            // SAFETY: the processor has VNNI; each task writes its own rows and columns.
            unsafe { block.run() };
        });
    }

    /// A panel of a factor, for some rows.
    struct Block<'a> {
        x: &'a Rows,
        rows: std::ops::Range<usize>,
        weight: &'a Quantized<'a>,
        columns: Columns,
        factor: &'a Factor<'a>,
        act: Option<Pointwise>,
    }

    impl Block<'_> {
        /// # Safety
        /// As [`product`].
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn run(&self) {
            let mut totals = Aligned([0f32; ROWS * PANEL]);
            for rows in lanes::tiles(self.rows.len()) {
                let (first, totals) = (self.rows.start + rows.start, &mut totals.0);
                // SAFETY: as above.
                unsafe {
                    match rows.len() {
                        1 => self.rows::<1>(first, totals),
                        2 => self.rows::<2>(first, totals),
                        3 => self.rows::<3>(first, totals),
                        4 => self.rows::<4>(first, totals),
                        5 => self.rows::<5>(first, totals),
                        _ => self.rows::<ROWS>(first, totals),
                    }
                }
            }
        }

        /// # Safety
        /// As [`product`]; there are `R` rows from `first` on.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn rows<const R: usize>(&self, first: usize, totals: &mut [f32; ROWS * PANEL]) {
            let to = totals.as_mut_ptr();
            // SAFETY: as above; `totals` has room for the widest tile.
            unsafe {
                match (self.columns.width / LANES, self.weight.bits) {
                    (1, Bits::Eight) => self.tile8::<1, R>(first, to),
                    (2, Bits::Eight) => self.tile8::<2, R>(first, to),
                    (3, Bits::Eight) => self.tile8::<3, R>(first, to),
                    (_, Bits::Eight) => self.tile8::<4, R>(first, to),
                    (1, Bits::Four) => self.tile4::<1, R>(first, to),
                    (2, Bits::Four) => self.tile4::<2, R>(first, to),
                    (3, Bits::Four) => self.tile4::<3, R>(first, to),
                    (_, Bits::Four) => self.tile4::<4, R>(first, to),
                }
                self.finish(first, R, totals);
            }
        }

        /// Makes of the totals of some rows what they stand for, and writes it.
        ///
        /// # Safety
        /// As [`product`]; these are totals of `count` rows from `first` on.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn finish(&self, first: usize, count: usize, totals: &mut [f32; ROWS * PANEL]) {
            let Columns { first: column, width } = self.columns;
            let (columns, bias) = (self.factor.columns, self.factor.bias);
            // Padded columns are neither read nor written.
            let mask = |v: usize| ((1u32 << (columns - column - v).min(LANES)) - 1) as __mmask16;
            let place = |r: usize, v: usize| self.factor.out.get().wrapping_add((first + r) * columns + column + v);
            let sums = &self.weight.sums[column..column + width];
            for r in 0..count {
                let (scale, zero) = (_mm512_set1_ps(self.x.scales[first + r]), _mm512_set1_ps(self.x.zeros[first + r]));
                for v in (0..width).step_by(LANES) {
                    // SAFETY: a panel is a whole number of vectors wide; this task alone refers to these columns of the row.
                    unsafe {
                        let total = totals.as_mut_ptr().add(r * width + v);
                        let sum = _mm512_loadu_ps(sums.as_ptr().add(v));
                        let mut y = _mm512_mul_ps(scale, _mm512_fnmadd_ps(zero, sum, _mm512_loadu_ps(total)));
                        if let Some(bias) = bias {
                            y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask(v), bias.as_ptr().add(column + v)));
                        }
                        match self.act {
                            Some(_) => _mm512_storeu_ps(total, y),
                            None => _mm512_mask_storeu_ps(place(r, v), mask(v), y),
                        }
                    }
                }
            }
            let Some(act) = self.act else { return };
            rows::pointwise(act, &mut totals[..count * width]);
            for r in 0..count {
                for v in (0..width).step_by(LANES) {
                    // SAFETY: as above.
                    unsafe {
                        let total = _mm512_loadu_ps(totals.as_ptr().add(r * width + v));
                        _mm512_mask_storeu_ps(place(r, v), mask(v), total);
                    }
                }
            }
        }

        /// `out[row][column] = Σ_blocks scale · Σ x·w` of 8-bit weights.
        ///
        /// # Safety
        /// The panel has `V` vectors; there are `R` rows from `first` on; `out` is valid for `R · V` vectors.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn tile8<const V: usize, const R: usize>(&self, first: usize, out: *mut f32) {
            let (steps, words) = (self.weight.steps, self.weight.block / 4);
            let x: [*const u8; R] = std::array::from_fn(|r| self.x.values[(first + r) * steps..].as_ptr());
            let mut word = 0;
            let mut totals = [[_mm512_setzero_ps(); V]; R];
            for block in self.weight.panel(self.columns).chunks_exact((1 + words) * V * 64) {
                let mut sums = [[_mm512_setzero_si512(); V]; R];
                let mut w = block[V * 64..].as_ptr();
                for _ in 0..words {
                    // SAFETY: each row and each column of the panel has `words` words in each block.
                    unsafe {
                        look_ahead::<V, R>(w);
                        let columns: [__m512i; V] = std::array::from_fn(|v| _mm512_loadu_si512(w.add(v * 64).cast()));
                        each_row!(R, r, accumulate(&mut sums[r], x[r].add(4 * word), &columns));
                        w = w.add(V * 64);
                    }
                    word += 1;
                }
                // SAFETY: a block begins with its scales.
                unsafe { each_row!(R, r, add_scaled(&mut totals[r], &sums[r], block.as_ptr())) };
            }
            // SAFETY: as above.
            unsafe { each_row!(R, r, store(&totals[r], out.add(r * V * LANES))) };
        }

        /// As [`Block::tile8`], of 4-bit weights, whose blocks are all of one length.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn tile4<const V: usize, const R: usize>(&self, first: usize, out: *mut f32) {
            const WORDS: usize = BLOCK / 8;
            let (steps, blocks) = (self.weight.steps, self.weight.steps / BLOCK);
            let x: [*const u8; R] = std::array::from_fn(|r| self.x.values[(first + r) * steps..].as_ptr());
            let offsets: [&[i32]; R] = std::array::from_fn(|r| &self.x.offsets[(first + r) * blocks..][..blocks]);
            let low = _mm512_set1_epi8(15);
            let mut totals = [[_mm512_setzero_ps(); V]; R];
            for (b, block) in self.weight.panel(self.columns).chunks_exact((1 + WORDS) * V * 64).enumerate() {
                look_ahead::<V, R>(block.as_ptr());
                let mut sums: [[__m512i; V]; R] = std::array::from_fn(|r| [_mm512_set1_epi32(offsets[r][b]); V]);
                for word in 0..WORDS {
                    // SAFETY: each column has `WORDS` words in each block, and each row as many pairs of words.
                    unsafe {
                        let (w, at) = (block.as_ptr().add((1 + word) * V * 64), b * BLOCK + 8 * word);
                        look_ahead::<V, R>(w);
                        let both: [__m512i; V] = std::array::from_fn(|v| _mm512_loadu_si512(w.add(v * 64).cast()));
                        let columns = both.map(|both| _mm512_and_si512(both, low));
                        each_row!(R, r, accumulate(&mut sums[r], x[r].add(at), &columns));
                        let columns = both.map(|both| _mm512_and_si512(_mm512_srli_epi16::<4>(both), low));
                        each_row!(R, r, accumulate(&mut sums[r], x[r].add(at + 4), &columns));
                    }
                }
                // SAFETY: a block begins with its scales.
                unsafe { each_row!(R, r, add_scaled(&mut totals[r], &sums[r], block.as_ptr())) };
            }
            // SAFETY: as above.
            unsafe { each_row!(R, r, store(&totals[r], out.add(r * V * LANES))) };
        }
    }

    /// Looks ahead of `V` vectors, if there are so few rows that memory is what they wait for.
    #[inline]
    fn look_ahead<const V: usize, const R: usize>(w: *const u8) {
        if R <= 2 {
            next_page(w, V * 64);
        }
    }

    /// Adds the products of four bytes of a row with those of each column.
    ///
    /// # Safety
    /// `x` is valid for four bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn accumulate<const V: usize>(sums: &mut [__m512i; V], x: *const u8, columns: &[__m512i; V]) {
        // SAFETY: as above.
        let row = _mm512_set1_epi32(unsafe { x.cast::<i32>().read_unaligned() });
        for (sum, &column) in sums.iter_mut().zip(columns) {
            *sum = _mm512_dpbusd_epi32(*sum, row, column);
        }
    }

    /// Adds the sums of a block, times its scales.
    ///
    /// # Safety
    /// `scales` is valid for `V` vectors.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn add_scaled<const V: usize>(totals: &mut [__m512; V], sums: &[__m512i; V], scales: *const u8) {
        for (v, (total, &sum)) in totals.iter_mut().zip(sums).enumerate() {
            // SAFETY: as above.
            let scale = unsafe { _mm512_loadu_ps(scales.add(v * 64).cast()) };
            *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *total);
        }
    }

    /// # Safety
    /// `out` is valid for `V` vectors.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store<const V: usize>(totals: &[__m512; V], out: *mut f32) {
        for (v, &total) in totals.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(out.add(v * LANES), total) };
        }
    }
}
