//! Maps of another size, as PyTorch's `interpolate` makes them.

use burn::tensor::{Device, Tensor, TensorData};

/// How a value between others is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Of the nearest one at or before it.
    Nearest,
    /// Of two along each axis.
    Bilinear,
    /// Of four along each axis: Keys' cubic with a = −0.75.
    Bicubic,
}

/// A map of `size`, height and width.
///
/// It is a product with one sparse matrix per axis, which any device computes and which can be differentiated. With
/// `align_corners` the first and last places stay where they are.
///
/// # Shapes
/// - x: `[batch, channels, height, width]`
/// - output: `[batch, channels, size[0], size[1]]`
pub fn interpolate(x: Tensor<4>, size: [usize; 2], mode: Interpolation, align_corners: bool) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let device = x.device();
    let x = if size[1] == width { x } else { x.matmul(weights(width, size[1], mode, align_corners, &device)) };
    if size[0] == height {
        return x;
    }
    weights(height, size[0], mode, align_corners, &device).transpose().matmul(x)
}

/// The share of every place of an axis in every place of the new one.
///
/// # Shapes
/// - output: `[1, 1, from, to]`
fn weights(from: usize, to: usize, mode: Interpolation, align_corners: bool, device: &Device) -> Tensor<4> {
    let mut values = vec![0f32; from * to];
    let mut add = |place: isize, column: usize, share: f32| {
        let place = place.clamp(0, from as isize - 1) as usize;
        values[place * to + column] += share;
    };
    let scale = if align_corners && to > 1 {
        (from - 1) as f32 / (to - 1) as f32
    } else if align_corners {
        0.0
    } else {
        from as f32 / to as f32
    };
    for column in 0..to {
        let source = if align_corners { column as f32 * scale } else { (column as f32 + 0.5) * scale - 0.5 };
        match mode {
            Interpolation::Nearest => add((column as f32 * scale) as isize, column, 1.0),
            Interpolation::Bilinear => {
                let source = source.max(0.0);
                let part = source - source.floor();
                add(source as isize, column, 1.0 - part);
                add(source as isize + 1, column, part);
            }
            Interpolation::Bicubic => {
                let first = source.floor();
                for (tap, share) in cubic(source - first).into_iter().enumerate() {
                    add(first as isize - 1 + tap as isize, column, share);
                }
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [1, 1, from, to]), device)
}

/// The shares of four neighbours for a place at `part` between the second and the third.
fn cubic(part: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f32], to: usize, mode: Interpolation, align_corners: bool) -> Vec<f32> {
        let x = Tensor::from_data(TensorData::new(values.to_vec(), [1, 1, 1, values.len()]), &Device::default());
        interpolate(x, [1, to], mode, align_corners).into_data().iter::<f32>().collect()
    }

    /// The numbers of PyTorch 2.
    #[test]
    fn values_are_pytorchs() {
        let x = [1.0, 2.0, 4.0, 8.0];
        let cases = [
            (Interpolation::Nearest, false, vec![1.0, 1.0, 2.0, 4.0, 4.0, 8.0]),
            (Interpolation::Bilinear, false, vec![1.0, 1.5, 2.333_333_3, 3.666_666_5, 6.0, 8.0]),
            (Interpolation::Bilinear, true, vec![1.0, 1.6, 2.4, 3.6, 5.6, 8.0]),
            (Interpolation::Bicubic, false, vec![0.913_194_7, 1.3125, 2.304_397_8, 3.383_102, 6.1875, 8.347_222]),
        ];
        for (mode, align_corners, expected) in cases {
            for (found, expected) in line(&x, 6, mode, align_corners).into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{mode:?}: {found}, expected {expected}");
            }
        }
    }
}
