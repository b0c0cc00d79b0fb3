//! Kernels of the backward pass on plain slices: no tensors, no threads.

use crate::Pointwise;
use crate::cpu::rows::{add, erf, exp, gelu_of, gelu_tanh_of, reduce, relu_of, sigmoid, silu_of, sum_of_squares, tanh};

/// Beyond this, the slope of GELU is that of the identity or zero.
const FAR: f32 = 16.0;

/// Beyond this, [`exp`] does not follow.
const FAR_EXP: f32 = 87.0;

/// What the softmax of [`exp`] of the lowest number is at most: a little more than it gives there.
const LEAST: f32 = 2e-38;

/// The slope of GELU with the error function: `Φ(x) + x · φ(x)`.
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    /// `1 / √(2π)`
    const DENSITY: f32 = 0.398_942_3;
    let area = 0.5f32.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), 0.5);
    let x = x.clamp(-FAR, FAR);
    (DENSITY * x).mul_add(exp(-0.5 * x * x), area)
}

/// The slope of GELU with the tanh approximation.
#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    /// `√(2/π)`
    const SCALE: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let x = x.clamp(-FAR, FAR);
    let square = x * x;
    let t = tanh(SCALE * (CUBIC * square).mul_add(x, x));
    let inner = SCALE * (3.0 * CUBIC).mul_add(square, 1.0);
    (0.5 * x * t.mul_add(-t, 1.0)).mul_add(inner, 0.5f32.mul_add(t, 0.5))
}

/// The slope of `x · σ(x)`.
#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let (s, x) = (sigmoid(x), x.clamp(-FAR_EXP, FAR_EXP));
    (x * s).mul_add(1.0 - s, s)
}

/// The slope of `max(x, 0)`: zero at zero, as it is everywhere else.
#[inline(always)]
fn relu_slope(x: f32) -> f32 {
    if x > 0.0 { 1.0 } else { 0.0 }
}

/// Multiplies a gradient with the slopes of an activation at `x`.
pub fn pointwise(act: Pointwise, x: &[f32], gradient: &mut [f32]) {
    match act {
        Pointwise::Gelu => gelu(x, gradient),
        Pointwise::GeluTanh => gelu_tanh(x, gradient),
        Pointwise::Silu => silu(x, gradient),
        Pointwise::Relu => relu(x, gradient),
    }
}

/// Of `act(gate) · up`: makes the gradient that of `gate`, and writes that of `up`.
pub fn gated(act: Pointwise, gate: &[f32], up: &[f32], gradient: &mut [f32], of_up: &mut [f32]) {
    match act {
        Pointwise::Gelu => gelu_gated(gate, up, gradient, of_up),
        Pointwise::GeluTanh => gelu_tanh_gated(gate, up, gradient, of_up),
        Pointwise::Silu => silu_gated(gate, up, gradient, of_up),
        Pointwise::Relu => relu_gated(gate, up, gradient, of_up),
    }
}

#[inline(always)]
fn times(slope: impl Fn(f32) -> f32, x: &[f32], gradient: &mut [f32]) {
    for (gradient, &x) in gradient.iter_mut().zip(x) {
        *gradient *= slope(x);
    }
}

#[inline(always)]
fn gate_by(
    act: impl Fn(f32) -> f32,
    slope: impl Fn(f32) -> f32,
    gate: &[f32],
    up: &[f32],
    gradient: &mut [f32],
    of_up: &mut [f32],
) {
    for (((gradient, of_up), &gate), &up) in gradient.iter_mut().zip(of_up).zip(gate).zip(up) {
        *of_up = *gradient * act(gate);
        *gradient *= up * slope(gate);
    }
}

/// `Σ x · y`, in lanes.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; 64];
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<64>(), y.as_chunks::<64>());
    for (x, y) in x.iter().zip(y) {
        for l in 0..64 {
            lanes[l] = x[l].mul_add(y[l], lanes[l]);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane = x.mul_add(y, *lane);
    }
    reduce(&lanes, 0.0, |a, v| a + v)
}

/// `Σ x · y · z`, in lanes.
#[inline(always)]
fn dot_of_three(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let mut lanes = [0f32; 64];
    let ((x, x_tail), (y, y_tail), (z, z_tail)) = (x.as_chunks::<64>(), y.as_chunks::<64>(), z.as_chunks::<64>());
    for ((x, y), z) in x.iter().zip(y).zip(z) {
        for l in 0..64 {
            lanes[l] = (x[l] * y[l]).mul_add(z[l], lanes[l]);
        }
    }
    for (((lane, &x), &y), &z) in lanes.iter_mut().zip(x_tail).zip(y_tail).zip(z_tail) {
        *lane = (x * y).mul_add(z, *lane);
    }
    reduce(&lanes, 0.0, |a, v| a + v)
}

/// A row of a norm, and the gradient of its result.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub x: &'a [f32],
    /// What is added to `x`.
    pub residual: Option<&'a [f32]>,
    pub weight: &'a [f32],
    pub gradient: &'a [f32],
    pub eps: f32,
}

impl Row<'_> {
    /// The numbers that are normed.
    #[inline(always)]
    fn input(&self, out: &mut [f32]) {
        match self.residual {
            Some(residual) => add(self.x, residual, out),
            None => out.copy_from_slice(self.x),
        }
    }
}

multiversion! {
    fn gelu(x: &[f32], gradient: &mut [f32]) {
        times(gelu_slope, x, gradient);
    }

    fn gelu_tanh(x: &[f32], gradient: &mut [f32]) {
        times(gelu_tanh_slope, x, gradient);
    }

    fn silu(x: &[f32], gradient: &mut [f32]) {
        times(silu_slope, x, gradient);
    }

    fn relu(x: &[f32], gradient: &mut [f32]) {
        times(relu_slope, x, gradient);
    }

    fn gelu_gated(gate: &[f32], up: &[f32], gradient: &mut [f32], of_up: &mut [f32]) {
        gate_by(gelu_of, gelu_slope, gate, up, gradient, of_up);
    }

    fn gelu_tanh_gated(gate: &[f32], up: &[f32], gradient: &mut [f32], of_up: &mut [f32]) {
        gate_by(gelu_tanh_of, gelu_tanh_slope, gate, up, gradient, of_up);
    }

    fn silu_gated(gate: &[f32], up: &[f32], gradient: &mut [f32], of_up: &mut [f32]) {
        gate_by(silu_of, silu_slope, gate, up, gradient, of_up);
    }

    fn relu_gated(gate: &[f32], up: &[f32], gradient: &mut [f32], of_up: &mut [f32]) {
        gate_by(relu_of, relu_slope, gate, up, gradient, of_up);
    }

    /// `to += x`
    pub fn add_to(x: &[f32], to: &mut [f32]) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to += x);
    }

    /// Adds the first elements of every line; lines are `stride` elements apart.
    pub fn add_lines(x: &[f32], stride: usize, to: &mut [f32]) {
        for line in x.chunks(stride) {
            to.iter_mut().zip(line).for_each(|(to, x)| *to += x);
        }
    }

    /// Through the softmax `y` of one row, in place.
    pub fn softmax(y: &[f32], gradient: &mut [f32]) {
        let mean = dot(y, gradient);
        for (gradient, &y) in gradient.iter_mut().zip(y) {
            *gradient = y * (*gradient - mean);
        }
    }

    /// Of the norm of one row: writes the gradient of its input, and adds to those of weight and bias.
    pub fn layer_norm(row: Row<'_>, out: &mut [f32], of_weight: &mut [f32], of_bias: &mut [f32]) {
        let (weight, gradient, length) = (row.weight, row.gradient, out.len() as f32);
        row.input(out);
        let mean = reduce(out, 0.0, |a, v| a + v) / length;
        for out in out.iter_mut() {
            *out -= mean;
        }
        let scale = 1.0 / (sum_of_squares(out) / length + row.eps).sqrt();
        for (((out, &gradient), of_weight), of_bias) in out.iter_mut().zip(gradient).zip(of_weight).zip(of_bias) {
            *out *= scale;
            *of_weight = gradient.mul_add(*out, *of_weight);
            *of_bias += gradient;
        }
        // Of the gradient before the weight, its mean and its part along the normed row are taken out.
        let mean = dot(gradient, weight) / length;
        let part = dot_of_three(gradient, weight, out) / length;
        for ((out, &gradient), &weight) in out.iter_mut().zip(gradient).zip(weight) {
            *out = scale * (gradient.mul_add(weight, -mean) - *out * part);
        }
    }

    /// Of the root-mean-square norm of one row: writes the gradient of its input, and adds to that of the weight.
    pub fn rms_norm(row: Row<'_>, out: &mut [f32], of_weight: &mut [f32]) {
        let (weight, gradient, length) = (row.weight, row.gradient, out.len() as f32);
        row.input(out);
        let scale = 1.0 / (sum_of_squares(out) / length + row.eps).sqrt();
        for ((out, &gradient), of_weight) in out.iter_mut().zip(gradient).zip(of_weight) {
            *out *= scale;
            *of_weight = gradient.mul_add(*out, *of_weight);
        }
        let part = dot_of_three(gradient, weight, out) / length;
        for ((out, &gradient), &weight) in out.iter_mut().zip(gradient).zip(weight) {
            *out = scale * gradient.mul_add(weight, -*out * part);
        }
    }

    /// Divides the lanes of all lines `[lines][width]`; what hidden keys have becomes zero.
    pub fn lane_normalise(x: &mut [f32], total: &[f32]) {
        for line in x.chunks_exact_mut(total.len()) {
            for (x, &total) in line.iter_mut().zip(total) {
                *x = if *x < LEAST { 0.0 } else { *x / total };
            }
        }
    }

    /// Adds the products of the lanes over all lines to `sums`.
    pub fn lane_dot(x: &[f32], y: &[f32], sums: &mut [f32]) {
        for (x, y) in x.chunks_exact(sums.len()).zip(y.chunks_exact(sums.len())) {
            for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
                *sum = x.mul_add(y, *sum);
            }
        }
    }

    /// Through the softmax `y` of each lane, in place; lanes that are not `live` have none.
    pub fn lane_softmax(y: &[f32], mean: &[f32], live: &[f32], gradient: &mut [f32]) {
        for (gradient, y) in gradient.chunks_exact_mut(mean.len()).zip(y.chunks_exact(mean.len())) {
            for (((gradient, &y), &mean), &live) in gradient.iter_mut().zip(y).zip(mean).zip(live) {
                *gradient = live * y * (*gradient - mean);
            }
        }
    }

    /// Multiplies a gradient with the slope of `cap · tanh(x / cap)`, of which `capped` are the values.
    pub fn softcap(cap: f32, capped: &[f32], gradient: &mut [f32]) {
        for (gradient, &capped) in gradient.iter_mut().zip(capped) {
            let t = capped / cap;
            *gradient *= t.mul_add(-t, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_values() {
        const STEP: f64 = 1e-4;
        let gelu = |x: f64| {
            // The integral of the density, by midpoints.
            let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let steps = 4000;
            let width = x / f64::from(steps);
            x * (0.5 + (0..steps).map(|i| density((f64::from(i) + 0.5) * width) * width).sum::<f64>())
        };
        let gelu_tanh = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        };
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let cases: [(Pointwise, &dyn Fn(f64) -> f64); 4] = [
            (Pointwise::Gelu, &gelu),
            (Pointwise::GeluTanh, &gelu_tanh),
            (Pointwise::Silu, &silu),
            (Pointwise::Relu, &|x: f64| x.max(0.0)),
        ];
        for (act, f) in cases {
            for i in -60..60 {
                let x = f64::from(i) * 0.1 + 0.05;
                let expected = (f(x + STEP) - f(x - STEP)) / (2.0 * STEP);
                let mut slope = [1.0];
                pointwise(act, &[x as f32], &mut slope);
                assert!((f64::from(slope[0]) - expected).abs() < 3e-6, "{act:?} at {x}: {}, {expected}", slope[0]);
            }
            let mut far = [1.0; 6];
            pointwise(act, &[-1e30, -1e9, -200.0, 200.0, 1e9, 1e30], &mut far);
            let expected = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
            assert!(far.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-5), "{act:?}: {far:?}");
        }
    }
}
