//! What a machine can do at most, measured: the bounds that benchmarks are compared with.

use std::hint::black_box;
use std::time::Instant;

use macerator::{Scalar, Simd, Vector, WithSimd};
use rayon::prelude::*;

use crate::cpu::tile::Shape;
use crate::cpu::{amx, pairs, rows};
use crate::memory::prefer_large_pages;

/// Runs of each measurement; the best one counts.
const RUNS: usize = 5;

/// Steps of [`fused_multiply_adds`].
const STEPS: usize = 2_000_000;

/// Steps of [`bf16_peak`].
const BF16_STEPS: usize = 500_000;

/// Floating-point operations per second of fused multiply-adds in f32, on `threads` threads of the pool.
pub fn matrix_peak(threads: usize) -> f64 {
    operations(threads) as f64 / best(|| fused_multiply_adds(threads))
}

/// Floating-point operations of one call of [`fused_multiply_adds`].
pub fn operations(threads: usize) -> usize {
    threads * STEPS * lanes() * CHAINS * 2
}

/// Multiplies and adds in registers alone, on `threads` threads of the pool.
pub fn fused_multiply_adds(threads: usize) {
    (0..threads).into_par_iter().with_max_len(1).for_each(|i| {
        black_box(macerator::AutoArch::new().dispatch(Chains { start: i as f32 }));
    });
}

/// Operations per second of products of bf16 with AMX or AVX512-BF16, or of f32 where both are missing.
pub fn bf16_peak(threads: usize) -> f64 {
    let multiply = match (amx::available(), pairs::available()) {
        (true, _) => amx::multiply_zeros,
        (_, true) => pairs::multiply_zeros,
        _ => return matrix_peak(threads),
    };
    // SAFETY: the processor can.
    let run = || (0..threads).into_par_iter().with_max_len(1).map(|_| unsafe { multiply(BF16_STEPS) }).sum::<usize>();
    black_box(run()) as f64 / best(|| _ = black_box(run()))
}

/// Operations per second of products of bytes with VNNI, or of f32 where it is missing.
pub fn int8_peak(threads: usize) -> f64 {
    let factor = if crate::cpu::quantized::available() { 4.0 } else { 1.0 };
    factor * matrix_peak(threads)
}

/// Bytes per second that `threads` threads of the pool read from an array that is larger than the caches.
pub fn stream_bandwidth(threads: usize) -> f64 {
    let mut array = Vec::with_capacity(1 << 28);
    prefer_large_pages(array.spare_capacity_mut());
    array.resize(1 << 28, 1f32);
    let seconds = best(|| {
        let parts = array.par_chunks(array.len().div_ceil(threads)).with_max_len(1).map(rows::sum);
        black_box(parts.sum::<f32>());
    });
    size_of_val(array.as_slice()) as f64 / seconds
}

/// The sum of an array, read by all threads of the pool.
pub fn sum(array: &[f32]) -> f32 {
    array.par_chunks(1 << 16).map(rows::sum).sum()
}

fn best(mut run: impl FnMut()) -> f64 {
    run();
    let seconds = (0..RUNS).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

/// f32 elements of a vector.
fn lanes() -> usize {
    Shape::detect().lanes
}

/// Sums that do not depend on each other: enough to hide the latency of the instruction.
const CHAINS: usize = 12;

/// [`STEPS`] steps of [`CHAINS`] chains.
struct Chains {
    start: f32,
}

impl WithSimd for Chains {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self) -> f32 {
        let (factor, term): (Vector<S, f32>, Vector<S, f32>) = (0.999f32.splat(), 0.5f32.splat());
        let mut sums: [Vector<S, f32>; CHAINS] = [self.start.splat(); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, term);
            }
        }
        sums.into_iter().map(Vector::reduce_add).sum()
    }
}
