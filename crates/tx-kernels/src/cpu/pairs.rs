//! Products with bf16 weights on processors that multiply pairs of bf16 (AVX512-BF16).
//!
//! Rows are rounded to bf16 on the fly, as PyTorch rounds all activations of such a model; the products and their sums are
//! f32. `vdpbf16ps` adds the products of two neighbours to an f32 lane, so that 32 bits of a row or of a weight are one
//! step of these kernels.
//!
//! Other processors widen the weights and leave the rows as they are.

use super::Scratch;

/// Rows in bf16, each padded with zeros to whole vectors.
pub struct Rows {
    /// `[rows, pairs]`; a pair is two bf16.
    pairs: Scratch<u32>,
    /// Pairs of a row.
    stride: usize,
}

impl Rows {
    /// The pairs of a row from an even step on.
    pub fn row(&self, row: usize, from: usize) -> &[u32] {
        &self.pairs[row * self.stride + from / 2..(row + 1) * self.stride]
    }

    /// All pairs of a row, as numbers of their size.
    pub fn as_numbers(&self, row: usize) -> &[f32] {
        let pairs = self.row(row, 0);
        // SAFETY: every pattern of bits is an f32.
        unsafe { std::slice::from_raw_parts(pairs.as_ptr().cast(), pairs.len()) }
    }

    /// Pairs from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{available, line, multiply_zeros, product, tile};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use half::bf16;
    use rayon::prelude::*;

    use super::Rows;
    use crate::Pointwise;
    use crate::cpu::dots::{Ahead, Lines, Sums, reduce};
    use crate::cpu::lanes::{self, PANEL, ROWS};
    use crate::cpu::product::{Factor, STRIP, Weight, row_groups, turned_blocks};
    use crate::cpu::threads::parallel;
    use crate::cpu::tile::next_page;
    use crate::cpu::{CHUNK, Scratch, panels};

    /// Elements of a vector.
    const ELEMENTS: usize = 32;

    /// Lanes of a vector: pairs of elements.
    const LANES: usize = ELEMENTS / 2;

    /// Vectors of a line that are computed together.
    const LINE_VECTORS: usize = 4;

    /// Whether this processor has AVX512-BF16.
    pub fn available() -> bool {
        is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
    }

    impl Rows {
        /// Rounds rows of `steps` elements, to the nearest and ties to even.
        pub fn new(x: &[f32], steps: usize) -> Self {
            Self::rounded(x, steps, false)
        }

        fn rounded(x: &[f32], steps: usize, by_threads: bool) -> Self {
            let stride = steps.div_ceil(ELEMENTS) * LANES;
            let mut pairs = Scratch::<u32>::take(x.len() / steps * stride);
            // SAFETY: rows are made only if the processor can.
            let round = |(x, to): (&[f32], &mut [u32])| unsafe { round(x, to) };
            if by_threads && x.len() >= CHUNK {
                x.par_chunks_exact(steps).zip(pairs.par_chunks_exact_mut(stride)).for_each(round);
            } else {
                x.chunks_exact(steps).zip(pairs.chunks_exact_mut(stride)).for_each(round);
            }
            Self { pairs, stride }
        }
    }

    /// # Safety
    /// The processor is [`available`]; there are whole vectors of pairs, as many as the elements need.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn round(x: &[f32], to: &mut [u32]) {
        for (x, to) in x.chunks(ELEMENTS).zip(to.chunks_exact_mut(LANES)) {
            let mask = |from: usize| ((1u32 << x.len().saturating_sub(from).min(LANES)) - 1) as __mmask16;
            // SAFETY: masked lanes are not read; `to` is a vector.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask(0), x.as_ptr());
                let high = _mm512_maskz_loadu_ps(mask(LANES), x.as_ptr().wrapping_add(LANES));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
            }
        }
    }

    /// A vector of pairs.
    ///
    /// # Safety
    /// The processor is [`available`], and `from` valid for a vector.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load<T>(from: *const T) -> __m512bh {
        // SAFETY: as above; both types are 512 bits.
        unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
    }

    /// The last elements of a slice, fewer than a vector, then zeros.
    ///
    /// # Safety
    /// The processor is [`available`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load_rest(rest: &[bf16]) -> __m512bh {
        let mask = ((1u64 << rest.len()) - 1) as __mmask32;
        // SAFETY: masked lanes are not read; both types are 512 bits.
        unsafe { std::mem::transmute(_mm512_maskz_loadu_epi16(mask, rest.as_ptr().cast())) }
    }

    /// The dot product of a row with a column, which is read as one stream.
    ///
    /// # Safety
    /// The processor is [`available`]; the row has as many elements, and zeros after them.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn line(x: &[u32], w: &[bf16]) -> f32 {
        const STEP: usize = LINE_VECTORS * ELEMENTS;
        let mut sums = [_mm512_setzero_ps(); LINE_VECTORS];
        let (steps, vectors) = (w.len() / STEP * STEP, w.len() / ELEMENTS * ELEMENTS);
        // SAFETY: both slices have `vectors` elements, of which `steps` are a part, and the row has a vector for the rest.
        unsafe {
            let add = |sum: &mut __m512, k: usize| {
                *sum = _mm512_dpbf16_ps(*sum, load(x.as_ptr().add(k / 2)), load(w.as_ptr().add(k)));
            };
            for k in (0..steps).step_by(STEP) {
                next_page(w.as_ptr().wrapping_add(k).cast(), 64 * LINE_VECTORS);
                sums.iter_mut().enumerate().for_each(|(i, sum)| add(sum, k + i * ELEMENTS));
            }
            sums.iter_mut().zip((steps..vectors).step_by(ELEMENTS)).for_each(|(sum, k)| add(sum, k));
            if vectors < w.len() {
                let x = load(x.as_ptr().add(vectors / 2));
                sums[LINE_VECTORS - 1] = _mm512_dpbf16_ps(sums[LINE_VECTORS - 1], x, load_rest(&w[vectors..]));
            }
        }
        let [a, b, c, d] = sums;
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
    }

    /// A tile of `R` rows and `C` columns.
    ///
    /// # Safety
    /// The processor is [`available`]; columns are valid for `steps` elements, rows as well, and zeros after them; `sums` is
    /// valid for the products of all rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn tile<const R: usize, const C: usize, const A: usize>(
        x: Lines<u32>,
        w: Lines<bf16>,
        steps: usize,
        ahead: Ahead<A>,
        sums: Sums,
    ) {
        let whole = steps / ELEMENTS * ELEMENTS;
        let mut totals = [[_mm512_setzero_ps(); C]; R];
        let x: [*const u32; R] = std::array::from_fn(|r| x.at(r, 0));
        let w: [*const bf16; C] = std::array::from_fn(|i| w.at(i, 0));
        // SAFETY: all columns have these steps, of which `whole` are a part.
        unsafe {
            for k in (0..whole).step_by(ELEMENTS) {
                ahead.ask(2 * k, 2 * ELEMENTS);
                add(&mut totals, &x, k, w.map(|w| load(w.wrapping_add(k))));
            }
            if whole < steps {
                let rest = |w: *const bf16| std::slice::from_raw_parts(w.wrapping_add(whole), steps - whole);
                add(&mut totals, &x, whole, w.map(|w| load_rest(rest(w))));
            }
            for (r, totals) in totals.iter().enumerate() {
                sums.write(r, reduce(totals));
            }
        }
    }

    /// Adds the products of a vector of each row, from the step `k` on, with vectors of columns.
    ///
    /// # Safety
    /// The processor is [`available`], and the rows are valid for these vectors.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn add<const R: usize, const C: usize>(
        totals: &mut [[__m512; C]; R],
        x: &[*const u32; R],
        k: usize,
        w: [__m512bh; C],
    ) {
        for (totals, x) in totals.iter_mut().zip(x) {
            // SAFETY: as above.
            let x = unsafe { load(in_turn(x.wrapping_add(k / 2))) };
            for (total, &w) in totals.iter_mut().zip(&w) {
                *total = _mm512_dpbf16_ps(*total, x, w);
            }
        }
    }

    /// The same address, from which nothing is read before this: the compiler would load vectors of all rows of a tile at once
    /// otherwise, and move sums out of registers for them.
    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read there")]
    fn in_turn<T>(mut address: *const T) -> *const T {
        // SAFETY: it does nothing.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags)) };
        address
    }

    /// Products in registers alone, to see how fast they are: some in each step. Says how many operations that were.
    ///
    /// # Safety
    /// The processor is [`available`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn multiply_zeros(steps: usize) -> usize {
        // Enough sums to hide the latency of the instruction.
        const CHAINS: usize = 12;
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        // SAFETY: both types are 512 bits.
        let zeros: __m512bh = unsafe { std::mem::transmute(_mm512_setzero_si512()) };
        for _ in 0..steps {
            let zeros = std::hint::black_box(zeros);
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, zeros, zeros));
        }
        std::hint::black_box(sums);
        // Each pair of elements is two multiplications and two additions.
        steps * CHAINS * LANES * 4
    }

    /// The products of many rows with bf16 factors: blocks of the weights are turned.
    ///
    /// # Safety
    /// The processor is [`available`]; every factor [is pairs](pairs_of), and its `out` is valid for `rows · columns`
    /// elements that nothing else refers to.
    pub unsafe fn product(x: &[f32], rows: usize, steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
        let x = Rows::rounded(x, steps, true);
        let blocks = turned_blocks(factors);
        let groups = row_groups(rows);
        parallel(groups.len() * blocks.len(), |task| {
            let (factor, column) = blocks[task % blocks.len()];
            let rows = groups[task / blocks.len()].clone();
            // SAFETY: as above; each task has its own rows and columns.
            unsafe { Block { x: &x, rows, steps, factor: &factors[factor], column, act }.run() };
        });
    }

    /// A block of columns of a factor, for some rows.
    struct Block<'a> {
        x: &'a Rows,
        rows: Range<usize>,
        steps: usize,
        factor: &'a Factor<'a>,
        column: usize,
        act: Option<Pointwise>,
    }

    impl Block<'_> {
        /// # Safety
        /// As [`product`].
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        unsafe fn run(&self) {
            let Self { steps, factor, column, .. } = *self;
            let pairs = steps / 2;
            let count = PANEL.min(factor.columns - column);
            let width = count.next_multiple_of(LANES);
            let Weight::Bf16(weight) = factor.weight else { return };
            let weight = super::pairs_of(weight);
            let mut packed = Scratch::<f32>::take(pairs.min(STRIP) * width);
            let mut sums = Scratch::<f32>::take(self.rows.len() * width);
            let bias = factor.bias.map(|bias| &bias[column..column + count]);
            for from in (0..pairs).step_by(STRIP) {
                let strip = from..pairs.min(from + STRIP);
                let mut columns: [&[f32]; PANEL] = [&[]; PANEL];
                for (i, to) in columns[..count].iter_mut().enumerate() {
                    *to = &weight[(column + i) * pairs + strip.start..(column + i) * pairs + strip.end];
                }
                panels::pack(&columns[..count], strip.len(), width, &mut packed);
                for rows in lanes::tiles(self.rows.len()) {
                    let first = self.rows.start + rows.start;
                    let sums = &mut sums[rows.start * width..rows.end * width];
                    // SAFETY: as above; this task alone writes these columns of these rows.
                    unsafe {
                        match rows.len() {
                            1 => self.rows::<1>(first, &packed, strip.clone(), sums),
                            2 => self.rows::<2>(first, &packed, strip.clone(), sums),
                            3 => self.rows::<3>(first, &packed, strip.clone(), sums),
                            4 => self.rows::<4>(first, &packed, strip.clone(), sums),
                            5 => self.rows::<5>(first, &packed, strip.clone(), sums),
                            _ => self.rows::<ROWS>(first, &packed, strip.clone(), sums),
                        }
                        if strip.end == pairs {
                            let range = column..column + count;
                            lanes::write_rows(sums, width, bias, self.act, factor.out, factor.columns, first, range);
                        }
                    }
                }
            }
        }

        /// `R` rows, all columns of the panel.
        ///
        /// # Safety
        /// As [`product`].
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        unsafe fn rows<const R: usize>(&self, first: usize, packed: &[f32], strip: Range<usize>, sums: &mut [f32]) {
            let x: [*const u32; R] = std::array::from_fn(|r| self.x.row(first + r, 2 * strip.start).as_ptr());
            let new = strip.start == 0;
            // SAFETY: as above.
            unsafe {
                match sums.len() / R / LANES {
                    1 => tile_of_panel::<R, 1>(&x, packed, strip.len(), new, sums),
                    2 => tile_of_panel::<R, 2>(&x, packed, strip.len(), new, sums),
                    3 => tile_of_panel::<R, 3>(&x, packed, strip.len(), new, sums),
                    _ => tile_of_panel::<R, 4>(&x, packed, strip.len(), new, sums),
                }
            }
        }
    }

    /// Sets `sums: [R][V vectors]` to the products of rows with a turned panel `[pairs][V vectors]`, or adds them.
    ///
    /// # Safety
    /// The processor is [`available`]; each row is valid for `pairs` pairs, the panel and the sums for their vectors.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tile_of_panel<const R: usize, const V: usize>(
        x: &[*const u32; R],
        panel: &[f32],
        pairs: usize,
        new: bool,
        sums: &mut [f32],
    ) {
        let mut totals = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: as above.
        unsafe {
            let line = |r: usize, v: usize| sums.as_ptr().add((r * V + v) * LANES);
            if !new {
                totals = std::array::from_fn(|r| std::array::from_fn(|v| _mm512_loadu_ps(line(r, v))));
            }
            let mut w = panel.as_ptr();
            for k in 0..pairs {
                let columns: [__m512bh; V] = std::array::from_fn(|v| load(w.add(v * LANES)));
                for (totals, x) in totals.iter_mut().zip(x) {
                    let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(k) as i32));
                    for (total, &column) in totals.iter_mut().zip(&columns) {
                        *total = _mm512_dpbf16_ps(*total, x, column);
                    }
                }
                w = w.add(V * LANES);
            }
        }
        for (totals, line) in totals.iter().zip(sums.chunks_exact_mut(V * LANES)) {
            for (&total, to) in totals.iter().zip(line.chunks_exact_mut(LANES)) {
                // SAFETY: a vector.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), total) };
            }
        }
    }
}

/// The pairs of a weight, as numbers of their size; nothing if it does not lie so.
pub fn pairs_of(weight: &[half::bf16]) -> &[f32] {
    // SAFETY: every pattern of bits is an f32.
    match unsafe { weight.align_to::<f32>() } {
        ([], pairs, []) => pairs,
        _ => &[],
    }
}

/// Other processors have none of these kernels.
#[cfg(not(target_arch = "x86_64"))]
mod other {
    use half::bf16;

    use super::Rows;
    use crate::Pointwise;
    use crate::cpu::dots::{Ahead, Lines, Sums};
    use crate::cpu::product::Factor;

    pub fn available() -> bool {
        false
    }

    pub unsafe fn multiply_zeros(_: usize) -> usize {
        unreachable!("not available")
    }

    impl Rows {
        pub fn new(_: &[f32], _: usize) -> Self {
            unreachable!("not available")
        }
    }

    pub unsafe fn line(_: &[u32], _: &[bf16]) -> f32 {
        unreachable!("not available")
    }

    pub unsafe fn tile<const R: usize, const C: usize, const A: usize>(
        _: Lines<u32>,
        _: Lines<bf16>,
        _: usize,
        _: Ahead<A>,
        _: Sums,
    ) {
        unreachable!("not available")
    }

    pub unsafe fn product(_: &[f32], _: usize, _: usize, _: &[Factor<'_>], _: Option<Pointwise>) {
        unreachable!("not available")
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub use other::{available, line, multiply_zeros, product, tile};
