//! Kernels on plain slices: no tensors, no threads.

use std::mem::MaybeUninit;

use half::{bf16, f16};

use crate::Pointwise;

/// Rational approximation of the error function, clamped at ±4; absolute error below 3e-7 in f32.
///
/// Coefficients: Eigen's `erf` (`unsupported/Eigen/src/SpecialFunctions`), which XLA uses too.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let t = x * x;
    let p = (-2.726_142_3e-10_f32)
        .mul_add(t, 2.770_681_4e-8)
        .mul_add(t, -2.101_024e-6)
        .mul_add(t, -5.692_506_4e-5)
        .mul_add(t, -7.349_906_4e-4)
        .mul_add(t, -2.954_600_1e-3)
        .mul_add(t, -1.609_603_3e-2);
    let q = (-1.456_607_2e-5_f32)
        .mul_add(t, -2.133_740_6e-4)
        .mul_add(t, -1.682_827e-3)
        .mul_add(t, -7.373_329e-3)
        .mul_add(t, -1.426_473_9e-2);
    x * p / q
}

/// `eˣ` by Cephes' polynomial; the exponent is added to the bits of the result.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let t = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_2e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5)
        .mul_add(r * r, r)
        + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(t.to_bits() << 23))
}

/// `tanh(x)` through [`exp`].
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let e = exp(2.0 * x.clamp(-20.0, 20.0));
    (e - 1.0) / (e + 1.0)
}

/// Folds a row over 64 lanes, which LLVM turns into vector registers, then over the lanes.
#[inline(always)]
pub fn reduce(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 64];
    let (chunks, tail) = x.as_chunks::<64>();
    for chunk in chunks {
        for l in 0..64 {
            lanes[l] = f(lanes[l], chunk[l]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane = f(*lane, v);
    }
    let mut width = 32;
    while width > 0 {
        for l in 0..width {
            lanes[l] = f(lanes[l], lanes[l + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn exponentials_of(x: &mut [f32], more: Option<f32>) -> f32 {
    let max = reduce(x, more.unwrap_or(f32::NEG_INFINITY), f32::max);
    for x in x.iter_mut() {
        *x = exp(*x - max);
    }
    reduce(x, 0.0, |a, v| a + v) + more.map_or(0.0, |more| exp(more - max))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// GELU with the error function.
#[inline(always)]
pub fn gelu_of(x: f32) -> f32 {
    let half = 0.5 * x;
    half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// GELU with the tanh approximation.
#[inline(always)]
pub fn gelu_tanh_of(x: f32) -> f32 {
    let inner = 0.797_884_6 * (0.044_715 * x * x).mul_add(x, x);
    let half = 0.5 * x;
    half.mul_add(tanh(inner), half)
}

/// `x · σ(x)`.
#[inline(always)]
pub fn silu_of(x: f32) -> f32 {
    x * sigmoid(x)
}

/// `max(x, 0)`; NaN stays.
#[inline(always)]
pub fn relu_of(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// Applies an activation to each element.
pub fn pointwise(act: Pointwise, x: &mut [f32]) {
    match act {
        Pointwise::Gelu => gelu(x),
        Pointwise::GeluTanh => gelu_tanh(x),
        Pointwise::Silu => silu(x),
        Pointwise::Relu => relu(x),
    }
}

/// `act(gate) · up`.
pub fn gated(act: Pointwise, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match act {
        Pointwise::Gelu => gelu_gated(gate, up, out),
        Pointwise::GeluTanh => gelu_tanh_gated(gate, up, out),
        Pointwise::Silu => silu_gated(gate, up, out),
        Pointwise::Relu => relu_gated(gate, up, out),
    }
}

/// `act(gate) · up`, element by element.
#[inline(always)]
fn gate_by(act: impl Fn(f32) -> f32, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = act(gate) * up;
    }
}

multiversion! {
    /// `to[i] += factor · from[i · stride]`, as far as both go.
    pub fn add_scaled(factor: f32, from: &[f32], stride: usize, to: &mut [f32]) {
        if stride == 1 {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = factor.mul_add(*from, *to));
        } else {
            to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = factor.mul_add(*from, *to));
        }
    }

    /// `to[i] = max(to[i], from[i · stride])`, as far as both go; NaN stays.
    pub fn maximum(from: &[f32], stride: usize, to: &mut [f32]) {
        let larger = |to: f32, from: f32| if from > to || from.is_nan() { from } else { to };
        if stride == 1 {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = larger(*to, *from));
        } else {
            to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = larger(*to, *from));
        }
    }

    /// `out = x + y`
    pub fn write_sum(x: &[f32], y: &[f32], out: &mut [MaybeUninit<f32>]) {
        write(x.iter().zip(y).map(|(x, y)| x + y), out);
    }

    /// `out = act(x · scale + shift + residual)`, as far as `out` goes.
    pub fn finish(
        x: &[f32],
        scale: f32,
        shift: f32,
        residual: Option<&[f32]>,
        act: Option<Pointwise>,
        out: &mut [MaybeUninit<f32>],
    ) {
        let is_relu = matches!(act, Some(Pointwise::Relu));
        let end = |x: f32| if is_relu { relu_of(x) } else { x };
        let x = x[..out.len()].iter().map(|x| x.mul_add(scale, shift));
        let out = match residual {
            Some(residual) => write(x.zip(&residual[..out.len()]).map(|(x, residual)| end(x + residual)), out),
            None => write(x.map(end), out),
        };
        if let Some(act) = act.filter(|_| !is_relu) {
            pointwise(act, out);
        }
    }

    /// GELU with the error function, in place.
    pub fn gelu(x: &mut [f32]) {
        for x in x {
            *x = gelu_of(*x);
        }
    }

    /// GELU with the tanh approximation, in place.
    pub fn gelu_tanh(x: &mut [f32]) {
        for x in x {
            *x = gelu_tanh_of(*x);
        }
    }

    /// `x · σ(x)`, in place.
    pub fn silu(x: &mut [f32]) {
        for x in x {
            *x = silu_of(*x);
        }
    }

    /// `max(x, 0)`, in place; NaN stays.
    pub fn relu(x: &mut [f32]) {
        for x in x {
            *x = relu_of(*x);
        }
    }

    fn gelu_gated(gate: &[f32], up: &[f32], out: &mut [f32]) {
        gate_by(gelu_of, gate, up, out);
    }

    fn gelu_tanh_gated(gate: &[f32], up: &[f32], out: &mut [f32]) {
        gate_by(gelu_tanh_of, gate, up, out);
    }

    fn silu_gated(gate: &[f32], up: &[f32], out: &mut [f32]) {
        gate_by(silu_of, gate, up, out);
    }

    fn relu_gated(gate: &[f32], up: &[f32], out: &mut [f32]) {
        gate_by(relu_of, gate, up, out);
    }

    /// `cap · tanh(x / cap)`, in place.
    pub fn softcap(cap: f32, x: &mut [f32]) {
        for x in x {
            *x = cap * tanh(*x / cap);
        }
    }

    /// Softmax of one row, in place.
    pub fn softmax(x: &mut [f32]) {
        let scale = 1.0 / exponentials_of(x, None);
        for x in x {
            *x *= scale;
        }
    }

    /// `exp(x - max)` of one row, in place, and their sum; one more element, if there is, counts for the maximum and the sum.
    pub fn exponentials(x: &mut [f32], more: Option<f32>) -> f32 {
        exponentials_of(x, more)
    }

    /// The norm of one row, or of its sum with a residual.
    pub fn layer_norm(x: &[f32], residual: Option<&[f32]>, weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
        match residual {
            Some(residual) => add(x, residual, out),
            None => out.copy_from_slice(x),
        }
        let mean = reduce(out, 0.0, |a, v| a + v) / out.len() as f32;
        for out in out.iter_mut() {
            *out -= mean;
        }
        let variance = sum_of_squares(out) / out.len() as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        match bias {
            Some(bias) => {
                for ((out, &weight), &bias) in out.iter_mut().zip(weight).zip(bias) {
                    *out = (*out * scale).mul_add(weight, bias);
                }
            }
            None => {
                for (out, &weight) in out.iter_mut().zip(weight) {
                    *out = *out * scale * weight;
                }
            }
        }
    }

    /// The mean and the variance of some elements.
    pub fn moments(x: &[f32]) -> (f32, f32) {
        let mean = reduce(x, 0.0, |a, v| a + v) / x.len() as f32;
        let mut lanes = [0f32; 64];
        for chunk in x.chunks(64) {
            lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane = (v - mean).mul_add(v - mean, *lane));
        }
        (mean, lanes.iter().sum::<f32>() / x.len() as f32)
    }

    /// `out = x · scale + shift`
    pub fn affine(x: &[f32], scale: f32, shift: f32, out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x.mul_add(scale, shift));
    }

    /// The root-mean-square norm of one row, or of its sum with a residual.
    pub fn rms_norm(x: &[f32], residual: Option<&[f32]>, weight: &[f32], eps: f32, out: &mut [f32]) {
        match residual {
            Some(residual) => add(x, residual, out),
            None => out.copy_from_slice(x),
        }
        let scale = 1.0 / (sum_of_squares(out) / out.len() as f32 + eps).sqrt();
        for (out, &weight) in out.iter_mut().zip(weight) {
            *out = *out * scale * weight;
        }
    }

    /// Rotates each pair `(x[i], x[i + n/2])` by the angle whose cosine and sine are given for both.
    pub fn rotary_halves(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        let (left, right) = x.split_at(x.len() / 2);
        let half = left.len();
        // The compiler has to see that all have this length.
        let (out_left, out_right) = out[..2 * half].split_at_mut(half);
        let (cos_left, cos_right) = cos[..2 * half].split_at(half);
        let (sin_left, sin_right) = sin[..2 * half].split_at(half);
        let right = &right[..half];
        for i in 0..half {
            out_left[i] = left[i].mul_add(cos_left[i], -right[i] * sin_left[i]);
            out_right[i] = right[i].mul_add(cos_right[i], left[i] * sin_right[i]);
        }
    }

    /// Rotates each pair `(x[2i], x[2i + 1])` by the angle whose cosine and sine are given for both.
    pub fn rotary_neighbours(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        let pairs = x.as_chunks::<2>().0.iter().zip(cos.as_chunks::<2>().0.iter().zip(sin.as_chunks::<2>().0));
        for ((x, (cos, sin)), out) in pairs.zip(out.as_chunks_mut::<2>().0) {
            *out = [x[0].mul_add(cos[0], -x[1] * sin[0]), x[1].mul_add(cos[1], x[0] * sin[1])];
        }
    }

    /// 16-bit floats of the upper half of an f32 as f32.
    pub fn widen_bf16(x: &[bf16], to: &mut [f32]) {
        for (to, x) in to.iter_mut().zip(x) {
            *to = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }

    /// Unsigned bytes `q` with `x ≈ scale · (q − zero)`; gives scale and zero.
    pub fn quantize(x: &[f32], to: &mut [u8]) -> (f32, f32) {
        let (low, high) = (reduce(x, 0.0, f32::min), reduce(x, 0.0, f32::max));
        let scale = (high - low) / 255.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let zero = (-low * inverse).round();
        // Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
        let shift = 12_582_912.0 + zero;
        for (to, &x) in to.iter_mut().zip(x) {
            let bits = x.mul_add(inverse, shift).to_bits() as i32 - 12_582_912.0f32.to_bits() as i32;
            *to = bits.clamp(0, 255) as u8;
        }
        (scale, zero)
    }

    /// Symmetric bytes `q` with `x ≈ scale · q`; gives the scale, by which `range` is the largest element.
    pub fn quantize_symmetric(x: &[f32], range: f32, to: &mut [i8]) -> f32 {
        let max = reduce(x, 0.0, |a, v| a.max(v.abs()));
        let scale = max / range;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (to, &x) in to.iter_mut().zip(x) {
            *to = (x.mul_add(inverse, 12_582_912.0).to_bits() as i32 - 12_582_912.0f32.to_bits() as i32) as i8;
        }
        scale
    }

    /// Lines of `dim` bytes, each times its scale, one after another: a line begins every `stride` bytes, and every `step`th
    /// number is a scale.
    pub fn widen_i8(x: &[i8], stride: usize, scales: &[f32], step: usize, dim: usize, to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(dim).enumerate() {
            let scale = scales[i * step];
            for (to, &x) in to.iter_mut().zip(&x[i * stride..][..dim]) {
                *to = f32::from(x) * scale;
            }
        }
    }

    /// The lanes' maxima over all lines `[lines][width]`, continued from `max`.
    pub fn lane_max(lines: &[f32], max: &mut [f32]) {
        for line in lines.chunks_exact(max.len()) {
            for (max, &x) in max.iter_mut().zip(line) {
                *max = if x > *max { x } else { *max };
            }
        }
    }

    /// `e^(x − max)` of each lane, in place, and their sums over all lines added to `sum`.
    pub fn lane_exp(lines: &mut [f32], max: &[f32], sum: &mut [f32]) {
        for line in lines.chunks_exact_mut(max.len()) {
            for ((x, &max), sum) in line.iter_mut().zip(max).zip(sum.iter_mut()) {
                *x = exp(*x - max);
                *sum += *x;
            }
        }
    }

    /// `e^(x − y)` for each element, into `x`.
    pub fn exp_difference(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x = exp(*x - y);
        }
    }

    /// Multiplies the lanes of all lines by factors, and adds other lines: `x = x · factor + y`.
    pub fn lane_rescale(x: &mut [f32], factor: &[f32], y: &[f32]) {
        for (x, y) in x.chunks_exact_mut(factor.len()).zip(y.chunks_exact(factor.len())) {
            for ((x, &factor), &y) in x.iter_mut().zip(factor).zip(y) {
                *x = x.mul_add(factor, y);
            }
        }
    }

    /// Divides the lanes of all lines.
    pub fn lane_divide(x: &mut [f32], divisor: &[f32]) {
        for x in x.chunks_exact_mut(divisor.len()) {
            for (x, &divisor) in x.iter_mut().zip(divisor) {
                *x /= divisor;
            }
        }
    }

    /// The sum of all elements.
    pub fn sum(x: &[f32]) -> f32 {
        reduce(x, 0.0, |a, v| a + v)
    }
}

/// Writes as many elements as there is room for.
#[inline(always)]
fn write(x: impl ExactSizeIterator<Item = f32>, out: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    assert_eq!(x.len(), out.len());
    for (out, x) in out.iter_mut().zip(x) {
        out.write(x);
    }
    // SAFETY: every element was just written.
    unsafe { out.assume_init_mut() }
}

/// `out = x + y`.
#[inline(always)]
pub fn add(x: &[f32], y: &[f32], out: &mut [f32]) {
    for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *out = x + y;
    }
}

/// `Σ x²`, in lanes.
#[inline(always)]
pub fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 64];
    let (chunks, tail) = x.as_chunks::<64>();
    for chunk in chunks {
        for l in 0..64 {
            lanes[l] = chunk[l].mul_add(chunk[l], lanes[l]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane = v.mul_add(v, *lane);
    }
    reduce(&lanes, 0.0, |a, v| a + v)
}

/// 16-bit floats of IEEE 754 as f32; needs the instruction, which LLVM does not find on its own.
pub fn widen_f16(x: &[f16], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[target_feature(enable = "avx512f")]
        fn avx512(x: &[[f16; 16]], to: &mut [[f32; 16]]) {
            use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
            for (x, to) in x.iter().zip(to) {
                // SAFETY: both have 16 elements.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()))) };
            }
        }
        let to = &mut to[..x.len()];
        let ((chunks, tail), (to_chunks, to_tail)) = (x.as_chunks::<16>(), to.as_chunks_mut::<16>());
        // SAFETY: the feature was just detected.
        unsafe { avx512(chunks, to_chunks) };
        to_tail.iter_mut().zip(tail).for_each(|(to, x)| *to = x.to_f32());
        return;
    }
    to.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_f32());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_and_exp_keep_single_precision() {
        for i in -4500..4500 {
            let x = i as f32 * 1e-3;
            let mut y = [x];
            gelu(&mut y);
            let exact = 0.5 * f64::from(x) * (1.0 + erf_series(f64::from(x) / 2f64.sqrt()));
            assert!((f64::from(y[0]) - exact).abs() < 1.5e-6, "gelu({x}) = {}, expected {exact}", y[0]);
            let x = x * 18.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "exp({x})");
        }
        let mut far = [-40.0, -6.0, 6.0, 40.0];
        gelu(&mut far);
        let expected = [0.0, 0.0, 6.0, 40.0];
        assert!(far.iter().zip(expected).all(|(x, y)| (x - y).abs() < 5e-6), "{far:?}");
    }

    /// The Maclaurin series, in f64; enough terms and digits for |x| ≤ 3.2.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn softmax_handles_odd_lengths_and_masked_rows() {
        for len in [1, 2, 63, 64, 65, 200] {
            let mut x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let exact: Vec<f64> = x.iter().map(|&v| f64::from(v).exp()).collect();
            let sum: f64 = exact.iter().sum();
            softmax(&mut x);
            for (y, e) in x.iter().zip(&exact) {
                assert!((f64::from(*y) - e / sum).abs() < 1e-7);
            }
            let mut hidden = vec![f32::MIN; len];
            softmax(&mut hidden);
            assert!(hidden.iter().all(|&y| (y - 1.0 / len as f32).abs() < 1e-6), "a fully hidden row is uniform");
        }
    }
}
