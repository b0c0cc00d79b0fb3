//! Steps of an optimizer, from tensors to kernels, and the kernels.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Tensor};
use rayon::prelude::*;

use super::{CHUNK, floats, slice};
use crate::AdamW;

/// A step on weights, gradient and the two means, in place where nothing else holds them; the tensors as they are if it
/// is not for this device.
#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
pub fn adamw(tensors: [Tensor<1>; 4], step: &AdamW) -> Result<[Tensor<1>; 3], [Tensor<1>; 4]> {
    let length = tensors[0].dims();
    if tensors.iter().any(|x| x.dims() != length) {
        return Err(tensors);
    }
    let [Some(mut weights), Some(gradient), Some(mut exp_avg), Some(mut exp_avg_sq)] = tensors.each_ref().map(floats)
    else {
        return Err(tensors);
    };
    // What is left are the handles to write through.
    drop(tensors);
    let factors = Factors {
        scale: step.scale as f32,
        decay: step.decay() as f32,
        beta2: step.beta2 as f32,
        of_gradient: (1.0 - step.beta1) as f32,
        of_square: (1.0 - step.beta2) as f32,
        step_size: step.step_size() as f32,
        root: step.root() as f32,
        eps: step.eps as f32,
    };
    values(&mut weights)
        .par_chunks_mut(CHUNK)
        .zip(slice(&gradient).par_chunks(CHUNK))
        .zip(values(&mut exp_avg).par_chunks_mut(CHUNK))
        .zip(values(&mut exp_avg_sq).par_chunks_mut(CHUNK))
        .for_each(|(((weights, gradient), exp_avg), exp_avg_sq)| {
            update(weights, gradient, exp_avg, exp_avg_sq, factors)
        });
    Ok([weights, exp_avg, exp_avg_sq].map(Tensor::from_primitive::<Flex>))
}

/// The elements of what [`floats`] gave, to be written to: those of a copy if something else holds them.
pub fn values(x: &mut FlexTensor) -> &mut [f32] {
    let length = x.layout().num_elements();
    if x.layout().start_offset() != 0 || x.bytes().len() != 4 * length {
        let copy = Bytes::from_elems(slice(x).to_vec());
        *x = FlexTensor::new(copy, Layout::contiguous(x.layout().shape().clone()), DType::F32);
    }
    x.storage_mut()
}

/// The sum of the squares of all elements.
pub fn squared_norm<const D: usize>(x: &Tensor<D>) -> Option<f64> {
    let x = floats(x)?;
    // Parts of one size, and their sums in one order, however many threads there are.
    let sums: Vec<f64> = slice(&x).par_chunks(CHUNK).map(sum_of_squares).collect();
    Some(sums.iter().sum())
}

/// The numbers of [`AdamW`] as the kernel needs them.
#[derive(Debug, Clone, Copy)]
struct Factors {
    scale: f32,
    decay: f32,
    beta2: f32,
    of_gradient: f32,
    of_square: f32,
    step_size: f32,
    root: f32,
    eps: f32,
}

multiversion! {
    fn update(weights: &mut [f32], gradient: &[f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32], factors: Factors) {
        let means = exp_avg.iter_mut().zip(exp_avg_sq);
        for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(means) {
            let g = g * factors.scale;
            *m = (g - *m).mul_add(factors.of_gradient, *m);
            *v = (factors.of_square * g).mul_add(g, factors.beta2 * *v);
            let divisor = v.sqrt() / factors.root + factors.eps;
            *w = *w * factors.decay - factors.step_size * *m / divisor;
        }
    }

    /// In f64, where no square overflows, and in lanes that do not depend on the instructions.
    fn sum_of_squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0; 32];
        let (chunks, tail) = x.as_chunks::<32>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane += f64::from(x) * f64::from(x);
        }
        lanes.iter().sum()
    }
}
