//! What gradients do to parameters: AdamW, as PyTorch and HF's `Trainer` have it.
//!
//! Reference: torch 2.15, `optim/adamw.py`; transformers 5.23.0, `trainer.py`. Only parameters that are trained have a
//! state, and only from their first gradient on: two means of f32, each as large as the parameter. Parameters are changed
//! in place. One that is trained in 16 bits has its value in f32 besides: steps are made on that one, and the parameter is
//! rounded from it, so that many small steps are not lost.

mod decay;

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use tx_core::task::{AnyTensor, Parameter};
use tx_core::weights::{Checkpoint, StoredTensor, dtype_name};
use tx_core::{Error, Result};
use tx_kernels::AdamW;

use crate::arguments::{OptimizerNames, TrainingArguments};
use crate::parameters::{Gradients, Parameters};
use decay::decays;

/// What gradients do to parameters, and what it remembers of them.
#[derive(Debug)]
pub struct Optimizer {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    state: BTreeMap<String, State>,
}

/// What is remembered of one parameter, its elements in a row.
#[derive(Debug)]
struct State {
    /// The updates that it had.
    step: u64,
    /// The mean of its gradients.
    exp_avg: Tensor<1>,
    /// The mean of their squares.
    exp_avg_sq: Tensor<1>,
    /// Its value in f32, of a parameter in 16 bits.
    master: Option<Tensor<1>>,
}

/// The names of the parts of a [`State`] in a checkpoint, behind that of the parameter.
const STEP: &str = "step";
const EXP_AVG: &str = "exp_avg";
const EXP_AVG_SQ: &str = "exp_avg_sq";
const MASTER: &str = "master";

impl Optimizer {
    /// The optimizer that the arguments name, with its settings there.
    pub fn new(arguments: &TrainingArguments) -> Self {
        // Two names of one rule.
        let (OptimizerNames::AdamwTorch | OptimizerNames::AdamwTorchFused) = arguments.optim;
        Self {
            beta1: arguments.adam_beta1,
            beta2: arguments.adam_beta2,
            eps: arguments.adam_epsilon,
            weight_decay: arguments.weight_decay,
            state: BTreeMap::new(),
        }
    }

    /// Changes every parameter that has a gradient, at a learning rate. The gradients are used up.
    ///
    /// A parameter stays a leaf of autodiff's graph, but is another one: what was computed with it before has no gradient
    /// any more.
    pub fn step<P: Parameters + ?Sized>(&mut self, source: &mut P, gradients: &mut Gradients, lr: f64) {
        source.map(&mut |Parameter { name, layer, tensor, .. }| {
            let Some((gradient, scale)) = gradients.take(&name) else { return tensor };
            let (shape, dtype) = (tensor.shape(), tensor.dtype());
            let weights = tensor.untrack().flatten();
            let State { step, exp_avg, exp_avg_sq, master } =
                self.state.remove(&name).unwrap_or_else(|| State::new(&weights));
            let weights = master.unwrap_or(weights);
            let numbers = AdamW {
                lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: if decays(&name, &layer) { self.weight_decay } else { 0.0 },
                scale,
                step: step + 1,
            };
            let [weights, exp_avg, exp_avg_sq] = tx_kernels::adamw(weights, gradient, exp_avg, exp_avg_sq, &numbers);
            let master = (dtype != DType::F32).then(|| weights.clone());
            self.state.insert(name, State { step: step + 1, exp_avg, exp_avg_sq, master });
            AnyTensor::from_flat(weights.cast(dtype), &shape).track()
        });
        gradients.zero();
    }

    /// All that is remembered, for [`OPTIMIZER`](crate::checkpoint::OPTIMIZER) in a checkpoint.
    pub fn save(&self) -> BTreeMap<String, TensorData> {
        let mut tensors = BTreeMap::new();
        for (name, State { step, exp_avg, exp_avg_sq, master }) in &self.state {
            let mut put = |part: &str, data: TensorData| tensors.insert(format!("{name}.{part}"), data);
            put(STEP, TensorData::new(vec![*step as i64], [1]));
            put(EXP_AVG, exp_avg.to_data());
            put(EXP_AVG_SQ, exp_avg_sq.to_data());
            if let Some(master) = master {
                put(MASTER, master.to_data());
            }
        }
        tensors
    }

    /// Remembers what [`Optimizer::save`] wrote, bit for bit. The parameters of `source` are already tracked.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is missing, does not fit its parameter, or whose parameter is not trained.
    pub fn load<P: Parameters + ?Sized>(&mut self, source: &P, checkpoint: &Checkpoint) -> Result<()> {
        let mut saved: BTreeMap<&str, BTreeMap<&str, &StoredTensor>> = BTreeMap::new();
        for (name, tensor) in checkpoint.tensors() {
            let (parameter, part) = name.rsplit_once('.').unwrap_or((name, ""));
            saved.entry(parameter).or_default().insert(part, tensor);
        }
        let mut state = BTreeMap::new();
        let mut wrong: Option<Error> = None;
        source.visit(&mut |Parameter { name, tensor, .. }| {
            if tensor.is_tracked()
                && let Some(parts) = saved.remove(name.as_str())
            {
                match State::read(&name, &tensor, parts, checkpoint) {
                    Ok(read) => {
                        state.insert(name, read);
                    }
                    Err(error) => wrong = wrong.take().or(Some(error)),
                }
            }
        });
        if let Some(error) = wrong {
            return Err(error);
        }
        if let Some(name) = saved.into_keys().next() {
            return Err(Error::tensor(checkpoint.path(), name, "no such parameter is trained"));
        }
        self.state = state;
        Ok(())
    }
}

impl State {
    /// That of a parameter before its first update.
    fn new(weights: &Tensor<1>) -> Self {
        let device = weights.device();
        let zeros = || Tensor::zeros(weights.shape(), (&device, DType::F32));
        let master = (weights.dtype() != DType::F32).then(|| weights.clone().cast(DType::F32));
        Self { step: 0, exp_avg: zeros(), exp_avg_sq: zeros(), master }
    }

    /// That of a parameter, of the tensors that a checkpoint has for it.
    fn read(
        name: &str,
        tensor: &AnyTensor,
        mut parts: BTreeMap<&str, &StoredTensor>,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let wrong = |part: &str, reason: String| Error::tensor(checkpoint.path(), format!("{name}.{part}"), reason);
        let device = tensor.clone().untrack().flatten().device();
        let mut take = |part: &str, dtype: DType, elements: usize| {
            let Some(stored) = parts.remove(part) else { return Err(wrong(part, "is missing".into())) };
            if stored.dtype == dtype && stored.shape == [elements] {
                return Ok(stored);
            }
            let found = format!("{} {:?}", dtype_name(stored.dtype), stored.shape);
            Err(wrong(part, format!("{found}, expected {} [{elements}]", dtype_name(dtype))))
        };
        let elements = tensor.num_elements();
        let read = |stored: &StoredTensor| {
            // A copy, for it is written to.
            let data = TensorData::from_bytes_vec(stored.bytes.to_vec(), [elements], DType::F32);
            Tensor::from_data(data, (&device, DType::F32))
        };
        let step = take(STEP, DType::I64, 1)?.to_data().iter::<i64>().next().unwrap_or_default();
        let step = u64::try_from(step).map_err(|_| wrong(STEP, format!("{step}, expected a number of updates")))?;
        let state = Self {
            step,
            exp_avg: read(take(EXP_AVG, DType::F32, elements)?),
            exp_avg_sq: read(take(EXP_AVG_SQ, DType::F32, elements)?),
            master: match tensor.dtype() {
                DType::F32 => None,
                _ => Some(read(take(MASTER, DType::F32, elements)?)),
            },
        };
        match parts.into_keys().next() {
            Some(part) => Err(wrong(part, "the parameter has no such state".into())),
            None => Ok(state),
        }
    }
}

#[cfg(test)]
mod tests;
