//! Cross entropy, from tensors to kernels, and the kernels.

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use rayon::prelude::*;

use super::backward::{by_pieces, tensor};
use super::rows::{self, exp, reduce};
use super::slice;

/// What the gradient of a cross entropy needs besides its input.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The class of each row; `None` for rows that do not count.
    pub classes: Vec<Option<usize>>,
    /// The part of the target that all classes share.
    pub smoothing: f32,
    /// `log Σ eˣ` of each row.
    logs: Vec<f32>,
}

/// A number as a tensor `[1]`.
pub fn scalar(value: f32) -> FlexTensor {
    tensor(vec![value], Shape::from([1]))
}

/// The loss of all rows of `logits: [rows, classes]` together.
pub fn cross_entropy(logits: &FlexTensor, classes: Vec<Option<usize>>, smoothing: f32) -> (f32, Targets) {
    let x = slice(logits);
    let width = x.len() / classes.len().max(1);
    let row = |(x, class): (&[f32], &Option<usize>)| match class {
        Some(class) => {
            let log = log_sum_exp(x);
            let mean = if smoothing == 0.0 { 0.0 } else { rows::sum(x) / width as f32 };
            // What the weights of the target make of `log − x`.
            ((1.0 - smoothing) * (log - x[*class]) + smoothing * (log - mean), log)
        }
        None => (0.0, 0.0),
    };
    let losses: Vec<(f32, f32)> = x.par_chunks_exact(width.max(1)).zip(classes.par_iter()).map(row).collect();
    // In f64, and in order: the same with any number of threads.
    let sum = losses.iter().map(|(loss, _)| f64::from(*loss)).sum::<f64>();
    let logs = losses.into_iter().map(|(_, log)| log).collect();
    (sum as f32, Targets { classes, smoothing, logs })
}

/// The gradient of the logits, whose memory it takes if nothing else holds it.
pub fn cross_entropy_backward(logits: FlexTensor, targets: &Targets, gradient: f32) -> FlexTensor {
    let Targets { classes, smoothing, logs } = targets;
    let width = logits.layout().num_elements() / classes.len().max(1);
    let shared = smoothing / width.max(1) as f32;
    by_pieces(logits, width, |row, x| match classes[row] {
        Some(class) => {
            difference(x, logs[row], shared, gradient);
            x[class] -= gradient * (1.0 - smoothing);
        }
        None => x.fill(0.0),
    })
}

multiversion! {
    fn log_sum_exp(x: &[f32]) -> f32 {
        let max = reduce(x, f32::NEG_INFINITY, f32::max);
        let mut lanes = [0f32; 64];
        let (chunks, tail) = x.as_chunks::<64>();
        for chunk in chunks {
            for l in 0..64 {
                lanes[l] += exp(chunk[l] - max);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane += exp(x - max);
        }
        max + reduce(&lanes, 0.0, |a, v| a + v).ln()
    }

    /// The softmax less what all classes share of the target, times a factor, in place.
    fn difference(x: &mut [f32], log: f32, shared: f32, factor: f32) {
        for x in x {
            *x = factor * (exp(*x - log) - shared);
        }
    }
}
