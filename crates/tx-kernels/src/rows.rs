//! Kernels on plain slices: no tensors, no threads.

/// Rational approximation of the error function, clamped at ±4; absolute error below 3e-7 in f32.
///
/// Coefficients: Eigen's `erf` (`unsupported/Eigen/src/SpecialFunctions`), which XLA uses too.
#[inline(always)]
fn erf(x: f32) -> f32 {
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
fn exp(x: f32) -> f32 {
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
fn tanh(x: f32) -> f32 {
    let e = exp(2.0 * x.clamp(-20.0, 20.0));
    (e - 1.0) / (e + 1.0)
}

/// Folds a row over 64 lanes, which LLVM turns into vector registers, then over the lanes.
#[inline(always)]
fn reduce(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
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

multiversion! {
    /// GELU with the error function, in place.
    pub fn gelu(x: &mut [f32]) {
        for x in x {
            let half = 0.5 * *x;
            *x = half.mul_add(erf(*x * std::f32::consts::FRAC_1_SQRT_2), half);
        }
    }

    /// GELU with the tanh approximation, in place.
    pub fn gelu_tanh(x: &mut [f32]) {
        for x in x {
            let inner = 0.797_884_6 * (0.044_715 * *x * *x).mul_add(*x, *x);
            let half = 0.5 * *x;
            *x = half.mul_add(tanh(inner), half);
        }
    }

    /// Softmax of one row, in place.
    pub fn softmax(x: &mut [f32]) {
        let max = reduce(x, f32::NEG_INFINITY, f32::max);
        for x in x.iter_mut() {
            *x = exp(*x - max);
        }
        let scale = 1.0 / reduce(x, 0.0, |a, v| a + v);
        for x in x {
            *x *= scale;
        }
    }
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
