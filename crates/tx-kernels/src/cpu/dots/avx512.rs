//! Products with few rows by AVX-512, which widens 16-bit floats on the way into a register, and adds lanes of several sums
//! at once.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Ahead, LINE_VECTORS, Lines, Sums};
use crate::cpu::tile::next_page;

/// Elements of a vector.
const LANES: usize = 16;

pub fn available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// What becomes f32 on the way into a register.
pub trait Widen: Copy {
    /// # Safety
    /// The processor is [`available`], and `from` is valid for [`LANES`] elements.
    unsafe fn widen(from: *const Self) -> __m512;

    fn to_f32(self) -> f32;
}

impl Widen for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn widen(from: *const f32) -> __m512 {
        // SAFETY: as the trait says.
        unsafe { _mm512_loadu_ps(from) }
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Widen for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn widen(from: *const bf16) -> __m512 {
        // SAFETY: as the trait says.
        let bits = unsafe { _mm256_loadu_si256(from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }

    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

impl Widen for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn widen(from: *const f16) -> __m512 {
        // SAFETY: as the trait says.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

/// See [`super::line`].
///
/// # Safety
/// The processor is [`available`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn line<T: Widen>(x: &[f32], w: &[T]) -> f32 {
    const STEP: usize = 2 * LINE_VECTORS * LANES;
    let mut sums = [_mm512_setzero_ps(); 2 * LINE_VECTORS];
    let (steps, vectors) = (x.len() / STEP * STEP, x.len() / LANES * LANES);
    // SAFETY: both slices have `vectors` elements, of which `steps` are a part.
    unsafe {
        let add = |sum: &mut __m512, k: usize| {
            *sum = _mm512_fmadd_ps(_mm512_loadu_ps(x.as_ptr().add(k)), T::widen(w.as_ptr().add(k)), *sum);
        };
        for k in (0..steps).step_by(STEP) {
            next_page(w.as_ptr().wrapping_add(k).cast(), 64 * LINE_VECTORS);
            sums.iter_mut().enumerate().for_each(|(i, sum)| add(sum, k + i * LANES));
        }
        let places = (steps..vectors).step_by(LANES);
        sums.iter_mut().zip(places).for_each(|(sum, k)| add(sum, k));
    }
    sum(sums) + rest(&x[vectors..], &w[vectors..])
}

/// Of each 32 elements, first those at even places, then the others; what is left stays as it is.
///
/// # Safety
/// The processor is [`available`]; both slices have one length.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn take_apart(x: &[f32], apart: &mut [f32]) {
    let even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    let odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    let (pairs, rest) = x.as_chunks::<{ 2 * LANES }>();
    let (to, to_rest) = apart.as_chunks_mut::<{ 2 * LANES }>();
    for (x, to) in pairs.iter().zip(to) {
        // SAFETY: two vectors each.
        unsafe {
            let (a, b) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(LANES)));
            _mm512_storeu_ps(to.as_mut_ptr(), _mm512_permutex2var_ps(a, even, b));
            _mm512_storeu_ps(to.as_mut_ptr().add(LANES), _mm512_permutex2var_ps(a, odd, b));
        }
    }
    to_rest.copy_from_slice(rest);
}

/// See [`super::line`], of 16-bit weights in pairs: 32 bits are an element, with another one below it. `x` was
/// [taken apart](take_apart).
///
/// # Safety
/// The processor is [`available`]; both slices have one length.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn line_of_pairs(x: &[f32], w: &[bf16]) -> f32 {
    const PAIRS: usize = 2 * LANES;
    const STEP: usize = LINE_VECTORS * PAIRS;
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut sums = [[_mm512_setzero_ps(); 2]; LINE_VECTORS];
    let (steps, pairs) = (x.len() / STEP * STEP, x.len() / PAIRS * PAIRS);
    // SAFETY: both slices have `pairs` elements, of which `steps` are a part.
    unsafe {
        let add = |[even, odd]: &mut [__m512; 2], k: usize| {
            let w = _mm512_loadu_si512(w.as_ptr().add(k).cast());
            let (low, high) = (_mm512_slli_epi32::<16>(w), _mm512_and_si512(w, upper));
            *even = _mm512_fmadd_ps(_mm512_loadu_ps(x.as_ptr().add(k)), _mm512_castsi512_ps(low), *even);
            *odd = _mm512_fmadd_ps(_mm512_loadu_ps(x.as_ptr().add(k + LANES)), _mm512_castsi512_ps(high), *odd);
        };
        for k in (0..steps).step_by(STEP) {
            next_page(w.as_ptr().wrapping_add(k).cast(), 64 * LINE_VECTORS);
            sums.iter_mut().enumerate().for_each(|(i, sums)| add(sums, k + i * PAIRS));
        }
        let places = (steps..pairs).step_by(PAIRS);
        sums.iter_mut().zip(places).for_each(|(sums, k)| add(sums, k));
    }
    let [[a, b], [c, d], [e, f], [g, h]] = sums;
    sum([a, b, c, d, e, f, g, h]) + rest(&x[pairs..], &w[pairs..])
}

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sum([a, b, c, d, e, f, g, h]: [__m512; 2 * LINE_VECTORS]) -> f32 {
    let [ab, cd, ef, gh] = [_mm512_add_ps(a, b), _mm512_add_ps(c, d), _mm512_add_ps(e, f), _mm512_add_ps(g, h)];
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(ab, cd), _mm512_add_ps(ef, gh)))
}

fn rest<T: Widen>(x: &[f32], w: &[T]) -> f32 {
    x.iter().zip(w).map(|(x, w)| x * w.to_f32()).sum()
}

/// See [`super::tile`].
///
/// # Safety
/// As [`super::tile`], and the processor is [`available`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn tile<T: Widen, const R: usize, const C: usize, const A: usize>(
    x: Lines<f32>,
    w: Lines<T>,
    steps: usize,
    ahead: Ahead<A>,
    sums: Sums,
) {
    let whole = steps / LANES * LANES;
    let mut totals = [[_mm512_setzero_ps(); C]; R];
    // SAFETY: all rows and columns have these steps, of which `whole` are a part.
    unsafe {
        for k in (0..whole).step_by(LANES) {
            ahead.ask(k * size_of::<T>(), LANES * size_of::<T>());
            let w: [__m512; C] = std::array::from_fn(|i| T::widen(w.at(i, k)));
            for (r, totals) in totals.iter_mut().enumerate() {
                let x = _mm512_loadu_ps(x.at(r, k));
                for (total, &w) in totals.iter_mut().zip(&w) {
                    *total = _mm512_fmadd_ps(x, w, *total);
                }
            }
        }
        for (r, totals) in totals.iter().enumerate() {
            let mut totals = reduce(totals);
            for k in whole..steps {
                totals.iter_mut().enumerate().for_each(|(i, total)| *total += *x.at(r, k) * (*w.at(i, k)).to_f32());
            }
            sums.write(r, totals);
        }
    }
}

/// The sums of the lanes of each of `C` vectors, at most four.
///
/// # Safety
/// The processor is [`available`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn reduce<const C: usize>(sums: &[__m512; C]) -> [f32; C] {
    let [a, b, c, d] = std::array::from_fn(|i| sums[i.min(C - 1)]);
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let halves = _mm256_add_ps(
        _mm512_castps512_ps256(all),
        _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(all))),
    );
    let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
    let mut totals = [0f32; 4];
    // SAFETY: four elements.
    unsafe { _mm_storeu_ps(totals.as_mut_ptr(), sums) };
    std::array::from_fn(|i| totals[i])
}
