//! What the tests of the operations share: their numbers, and how near two results must be.

use std::cell::Cell;

use burn::tensor::{Device, Tensor, TensorData};

/// Normally distributed numbers, other ones at every call of a test and the same in every run (Box & Muller, 1958).
pub fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(1) });
    let uniform = || {
        let state = STATE.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        STATE.set(state);
        ((state >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    };
    let normal = || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Fails unless `‖x − y‖ ≤ tolerance · ‖y‖`. A result that is far below the numbers it was computed of, which are of order
/// one, as a single element can be, counts as a tenth.
#[track_caller]
pub fn near<T: Copy + Into<f64>>(x: &[T], y: &[T], tolerance: f64, what: &str) {
    assert_eq!(x.len(), y.len(), "{what}");
    let difference = x.iter().zip(y).map(|(&x, &y)| (x.into() - y.into()).powi(2)).sum::<f64>().sqrt();
    let length = y.iter().map(|&y| y.into().powi(2)).sum::<f64>().sqrt();
    let least = 0.1 * (y.len() as f64).sqrt();
    assert!(difference <= tolerance * length.max(least), "{what}: {difference:e} of {length:e}");
}
