//! The tensors of adapters, and the random numbers that new ones begin with.

use std::f64::consts::TAU;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use burn::module::ParamId;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;
use tx_core::task::{AnyTensor, Parameter};

use crate::data::Random;

/// Elements that share a stream of random numbers.
const CHUNK: usize = 1 << 14;

/// One tensor of an adapter: layers read it, training replaces it.
#[derive(Debug)]
pub struct Slot {
    /// Its name in `adapter_model.safetensors`.
    pub key: String,
    layer: String,
    id: ParamId,
    tensor: RwLock<AnyTensor>,
    version: AtomicU64,
}

impl Slot {
    /// `layer` is the type of module that it would be in, in Python.
    pub fn new(key: String, layer: &str, tensor: AnyTensor) -> Self {
        Self {
            key,
            layer: layer.to_owned(),
            id: ParamId::new(),
            tensor: RwLock::new(tensor),
            version: AtomicU64::new(0),
        }
    }

    /// What it is now.
    pub fn any(&self) -> AnyTensor {
        self.tensor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it is now, with the number of its axes.
    ///
    /// # Panics
    /// If it has another number of axes.
    pub fn get<const D: usize>(&self) -> Tensor<D> {
        self.any().to()
    }

    /// Its value as a constant in f32.
    ///
    /// # Panics
    /// If it has another number of axes.
    pub fn constant<const D: usize>(&self) -> Tensor<D> {
        self.any().untrack().to::<D>().cast(DType::F32)
    }

    /// How often it was replaced.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Replaces it; returns what it was.
    pub fn replace(&self, tensor: AnyTensor) -> AnyTensor {
        self.version.fetch_add(1, Ordering::Relaxed);
        std::mem::replace(&mut *self.tensor.write().unwrap_or_else(PoisonError::into_inner), tensor)
    }

    /// Takes it away, so that who has it is the only one that has.
    pub fn take(&self) -> AnyTensor {
        self.replace(Tensor::<1>::zeros([1], &Device::default()).into())
    }

    /// Calls `f` with it as a parameter.
    pub fn visit(&self, name: &str, f: &mut dyn FnMut(Parameter)) {
        f(self.parameter(name, self.any()));
    }

    /// Replaces it by what `f` makes of it.
    pub fn map(&self, name: &str, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        let tensor = self.take();
        self.replace(f(self.parameter(name, tensor)));
    }

    fn parameter(&self, name: &str, tensor: AnyTensor) -> Parameter {
        Parameter { name: name.to_owned(), id: self.id, layer: self.layer.clone(), tensor }
    }
}

/// Random numbers of one new tensor.
#[derive(Debug)]
pub struct Draw {
    random: Random,
    device: Device,
}

impl Draw {
    /// Those of the tensor with a number.
    pub fn new(seed: u64, number: u64, device: &Device) -> Self {
        Self { random: Random::new(&[seed, number]), device: device.clone() }
    }

    /// Numbers from `-bound` to `bound`.
    pub fn uniform(&mut self, shape: &[usize], bound: f64) -> AnyTensor {
        self.fill(shape, |random| bound * (2.0 * random.uniform() - 1.0))
    }

    /// Normal numbers. Box and Muller, 1958.
    pub fn normal(&mut self, shape: &[usize], deviation: f64) -> AnyTensor {
        self.fill(shape, |random| {
            let radius = (-2.0 * (1.0 - random.uniform()).ln()).sqrt();
            deviation * radius * (TAU * random.uniform()).cos()
        })
    }

    /// The same number everywhere.
    pub fn constant(&mut self, shape: &[usize], value: f64) -> AnyTensor {
        self.fill(shape, |_| value)
    }

    /// Numbers below `end`.
    pub fn ids(&mut self, count: usize, end: usize) -> Vec<i64> {
        (0..count).map(|_| self.random.below(end as u64) as i64).collect()
    }

    fn fill(&mut self, shape: &[usize], draw: impl Fn(&mut Random) -> f64) -> AnyTensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw(&mut self.random) as f32).collect();
        let length = values.len();
        let flat = Tensor::from_data(TensorData::new(values, [length]), (&self.device, DType::F32));
        AnyTensor::from_flat(flat, shape)
    }
}

/// Which elements are dropped in training.
#[derive(Debug, Default)]
pub struct Dice {
    training: AtomicBool,
    seed: Mutex<Vec<u64>>,
    calls: AtomicU64,
}

impl Dice {
    /// Whether anything is dropped.
    pub fn set_training(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed);
    }

    /// What is dropped from here on depends on these numbers alone.
    pub fn set_seed(&self, numbers: &[u64]) {
        *self.seed.lock().unwrap_or_else(PoisonError::into_inner) = numbers.to_vec();
        self.calls.store(0, Ordering::Relaxed);
    }

    /// `x` without a share of its elements, and the others larger; `None` where nothing is dropped.
    pub fn dropped(&self, x: &Tensor<2>, share: f64) -> Option<Tensor<2>> {
        if share <= 0.0 || !self.training.load(Ordering::Relaxed) {
            return None;
        }
        let mut numbers = self.seed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        numbers.push(self.calls.fetch_add(1, Ordering::Relaxed));
        let [rows, columns] = x.dims();
        let (kept, limit) = ((1.0 / (1.0 - share)) as f32, (share * 2f64.powi(32)) as u32);
        let mut mask = vec![0f32; rows * columns];
        mask.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, mask)| {
            let mut random = Random::new(&[&numbers[..], &[chunk as u64][..]].concat());
            for pair in mask.chunks_mut(2) {
                let bits = random.bits();
                pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]).for_each(|(factor, bits)| {
                    *factor = if bits < limit { 0.0 } else { kept };
                });
            }
        });
        let device = x.clone().without_autodiff().device();
        let mask = Tensor::from_data(TensorData::new(mask, [rows, columns]), (&device, x.dtype()));
        Some(x.clone() * mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_depends_on_the_seed_and_keeps_the_mean() {
        let device = Device::default();
        let (dice, x) = (Dice::default(), Tensor::<2>::ones([300, 200], &device));
        assert!(dice.dropped(&x, 0.5).is_none());
        dice.set_training(true);
        assert!(dice.dropped(&x, 0.0).is_none());
        let values = |dice: &Dice| dice.dropped(&x, 0.25).unwrap().into_data().iter::<f32>().collect::<Vec<_>>();
        dice.set_seed(&[7, 1]);
        let (first, second) = (values(&dice), values(&dice));
        dice.set_seed(&[7, 1]);
        assert!(first != second && first == values(&dice));
        assert!(first.iter().all(|x| *x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn new_tensors_are_drawn_from_their_distributions() {
        let device = Device::default();
        let values = |x: AnyTensor| x.flatten().into_data().iter::<f32>().collect::<Vec<_>>();
        let uniform = values(Draw::new(1, 0, &device).uniform(&[100, 50], 0.5));
        assert!(uniform.iter().all(|x| x.abs() <= 0.5) && uniform.iter().any(|x| x.abs() > 0.49));
        let normal = values(Draw::new(1, 1, &device).normal(&[100, 50], 2.0));
        let deviation = (normal.iter().map(|x| x * x).sum::<f32>() / 5000.0).sqrt();
        assert!((deviation - 2.0).abs() < 0.1, "{deviation}");
        assert_eq!(values(Draw::new(1, 0, &device).uniform(&[2, 2], 0.5)), uniform[..4]);
    }
}
