//! What an optimizer does with every parameter.

use burn::tensor::{DType, Tensor};

#[cfg(feature = "flex")]
use crate::cpu;

/// The numbers of one step of AdamW. Loshchilov & Hutter, 2017 (arXiv:1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// The learning rate.
    pub lr: f64,
    /// How much of the mean of gradients stays.
    pub beta1: f64,
    /// How much of the mean of their squares stays.
    pub beta2: f64,
    /// What keeps the divisor above 0.
    pub eps: f64,
    /// What weights lose at a rate of 1.
    pub weight_decay: f64,
    /// What the gradient is multiplied with first.
    pub scale: f64,
    /// The number of the step, counted from 1.
    pub step: u64,
}

impl AdamW {
    /// What weights are multiplied with.
    pub(crate) fn decay(&self) -> f64 {
        1.0 - self.lr * self.weight_decay
    }

    /// The learning rate over what the mean of gradients lacks, as it begins with 0.
    pub(crate) fn step_size(&self) -> f64 {
        self.lr / (1.0 - self.beta1.powf(self.step as f64))
    }

    /// The square root of what the mean of squares lacks.
    pub(crate) fn root(&self) -> f64 {
        (1.0 - self.beta2.powf(self.step as f64)).sqrt()
    }
}

/// One step of AdamW, as PyTorch has it: the new weights and means. On a CPU they are written over the old ones, if
/// nothing else holds them.
///
/// ```text
/// m ← m + (1 − β₁) (g − m)
/// v ← β₂ v + (1 − β₂) g²
/// w ← (1 − lr · decay) w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)
/// ```
///
/// # Shapes
/// - weights, gradient, exp_avg, exp_avg_sq, output: `[elements]`, all of f32
pub fn adamw(
    weights: Tensor<1>,
    gradient: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    step: &AdamW,
) -> [Tensor<1>; 3] {
    let tensors = [weights, gradient, exp_avg, exp_avg_sq];
    #[cfg(feature = "flex")]
    let tensors = match cpu::optim::adamw(tensors, step) {
        Ok(updated) => return updated,
        Err(tensors) => tensors,
    };
    let [weights, gradient, exp_avg, exp_avg_sq] = tensors;
    let gradient = gradient * step.scale;
    let exp_avg = exp_avg.clone() + (gradient.clone() - exp_avg) * (1.0 - step.beta1);
    let exp_avg_sq = exp_avg_sq * step.beta2 + gradient.clone() * gradient * (1.0 - step.beta2);
    let divisor = exp_avg_sq.clone().sqrt() / step.root() + step.eps;
    let weights = weights * step.decay() - exp_avg.clone() * step.step_size() / divisor;
    [weights, exp_avg, exp_avg_sq]
}

/// The sum of the squares of all elements. On a CPU it is the same with any number of threads.
pub fn squared_norm<const D: usize>(x: Tensor<D>) -> f64 {
    #[cfg(feature = "flex")]
    if let Some(sum) = cpu::optim::squared_norm(&x) {
        return sum;
    }
    let x = x.cast(DType::F32);
    f64::from((x.clone() * x).sum().into_scalar::<f32>())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::with_reference;

    const LENGTH: usize = 40_003;

    fn wave(frequency: f32) -> Tensor<1> {
        let values: Vec<f32> = (0..LENGTH).map(|i| (i as f32 * frequency).sin()).collect();
        Tensor::from_floats(values.as_slice(), &Device::default())
    }

    fn steps() -> Vec<Vec<f32>> {
        let zeros = || Tensor::<1>::zeros([LENGTH], &Device::default());
        let [mut weights, mut exp_avg, mut exp_avg_sq] = [wave(0.1), zeros(), zeros()];
        for step in 1..=5 {
            let numbers = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, scale: 0.5, step };
            let gradient = wave(0.1 + step as f32);
            [weights, exp_avg, exp_avg_sq] = adamw(weights, gradient, exp_avg, exp_avg_sq, &numbers);
        }
        [weights, exp_avg, exp_avg_sq].map(|x| x.into_data().try_to_vec().unwrap()).to_vec()
    }

    #[test]
    fn both_bodies_give_the_same_steps() {
        for (x, y) in steps().iter().zip(with_reference(steps)) {
            let difference = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-6, "{difference:e}");
        }
    }

    #[test]
    fn a_step_is_the_one_of_pytorch() {
        // torch.optim.AdamW(lr=0.1, weight_decay=0.5) after gradients of [1, -2], then of [0.5, 3].
        let device = Device::default();
        let of = |values: [f32; 2]| Tensor::<1>::from_floats(values, &device);
        let [mut weights, mut exp_avg, mut exp_avg_sq] = [of([1.0, 2.0]), of([0.0; 2]), of([0.0; 2])];
        for (step, gradient) in [[1.0, -2.0], [0.5, 3.0]].into_iter().enumerate() {
            let step = step as u64 + 1;
            let numbers = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5, scale: 1.0, step };
            [weights, exp_avg, exp_avg_sq] = adamw(weights, of(gradient), exp_avg, exp_avg_sq, &numbers);
        }
        let expected: [[f32; 2]; 3] = [[0.714_282, 1.875_229_8], [0.14, 0.12], [0.001_249, 0.012_996]];
        for (found, expected) in [weights, exp_avg, exp_avg_sq].into_iter().zip(expected) {
            let found = found.into_data().try_to_vec::<f32>().unwrap();
            for (found, expected) in found.into_iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found}, expected {expected}");
            }
        }
    }

    #[test]
    fn a_tensor_that_is_held_elsewhere_is_not_written_to() {
        let numbers = AdamW { lr: 1.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, scale: 1.0, step: 1 };
        let weights = wave(0.1);
        let part = weights.clone().narrow(0, 10, 10);
        let zeros = || Tensor::<1>::zeros([10], &Device::default());
        let [updated, ..] = adamw(part.clone(), zeros() + 1.0, zeros(), zeros(), &numbers);
        let difference = (part - updated - 1.0).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-6, "{difference:e}");
        assert_eq!((weights - wave(0.1)).abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn the_squared_norm_does_not_overflow_and_depends_on_no_thread() {
        let (large, x) = (wave(1.0) * 1e30, wave(1.0));
        let (fast, reference) = (squared_norm(x.clone()), with_reference(|| squared_norm(x.clone())));
        assert!((fast - reference).abs() < 1e-4 * reference, "{fast}, expected {reference}");
        let expected = fast * 1e60;
        assert!((squared_norm(large) - expected).abs() < 1e-6 * expected);
        assert_eq!(squared_norm(x.clone().reshape([LENGTH, 1])), fast);
    }
}
