//! The parameters that are trained, and their gradients.
//!
//! A model is loaded as it is for inference. [`Trainable::track`] then makes leaves of autodiff's graph of those
//! parameters that are trained; all others stay constants, in whatever dtype they are, and take no part in a graph.
//! [`Gradients`] collects what the backward passes of one update give.

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::{DType, Device, Tensor, TensorData};
use tx_core::task::{AnyTensor, Parameter, PretrainedModel};
use tx_core::{Error, Result};

/// What has parameters: a model, adapters, or both.
pub trait Parameters {
    /// Calls `f` with every parameter, in an order that does not change. No two have one name.
    fn visit(&self, f: &mut dyn FnMut(Parameter));

    /// Replaces every parameter by what `f` makes of it, in the same order.
    fn map(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor);
}

impl<M: PretrainedModel + ?Sized> Parameters for M {
    fn visit(&self, f: &mut dyn FnMut(Parameter)) {
        self.visit_parameters(f);
    }

    fn map(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        self.map_parameters(f);
    }
}

/// Which parameters are trained, and in which dtype.
///
/// They are f32, in memory of their own, whatever the file has; or as the file has them, with
/// [`Trainable::in_stored_dtype`].
pub struct Trainable {
    chosen: Box<dyn Fn(&Parameter) -> bool + Send + Sync>,
    stored_dtype: bool,
}

impl Trainable {
    /// All parameters.
    pub fn all() -> Self {
        Self::only(|_| true)
    }

    /// Those that `chosen` says yes to.
    pub fn only(chosen: impl Fn(&Parameter) -> bool + Send + Sync + 'static) -> Self {
        Self { chosen: Box::new(chosen), stored_dtype: false }
    }

    /// Lets 16-bit weights be trained in 16 bits. Steps that these would round away are kept by the optimizer, which has
    /// the weights in f32 besides.
    pub fn in_stored_dtype(self) -> Self {
        Self { stored_dtype: true, ..self }
    }

    /// Makes the chosen parameters leaves of autodiff's graph, and all others constants. Returns how many elements are
    /// trained.
    ///
    /// # Errors
    /// [`Error::Input`] if none is chosen, or one that is quantized; nothing has changed then.
    pub fn track<P: Parameters + ?Sized>(&self, source: &mut P) -> Result<usize> {
        let (mut elements, mut quantized) = (0, None);
        source.visit(&mut |parameter| {
            if (self.chosen)(&parameter) {
                elements += parameter.tensor.num_elements();
                if parameter.tensor.is_quantized() {
                    quantized.get_or_insert(parameter.name);
                }
            }
        });
        if let Some(name) = quantized {
            return Err(Error::input(format!("`{name}`"), "a quantized weight to train", "to train adapters on it"));
        }
        if elements == 0 {
            return Err(Error::input("parameters to train", "none", "at least one"));
        }
        source.map(&mut |parameter| {
            let chosen = (self.chosen)(&parameter);
            let tensor = parameter.tensor.untrack();
            if chosen { owned(tensor, self.stored_dtype).track() } else { tensor }
        });
        Ok(elements)
    }
}

impl fmt::Debug for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainable").field("stored_dtype", &self.stored_dtype).finish_non_exhaustive()
    }
}

/// Makes all parameters constants, as they are in a model that is loaded.
pub fn untrack<P: Parameters + ?Sized>(source: &mut P) {
    source.map(&mut |parameter| parameter.tensor.untrack());
}

/// The same values in memory of their own: what is loaded lies in the memory map of its file, which cannot be written.
fn owned(tensor: AnyTensor, stored_dtype: bool) -> AnyTensor {
    let shape = tensor.shape();
    let dtype = match tensor.dtype() {
        dtype @ (DType::F16 | DType::BF16) if stored_dtype => dtype,
        _ => DType::F32,
    };
    let flat = tensor.flatten();
    let (device, elements) = (flat.device(), flat.shape().num_elements());
    let data = flat.into_data();
    let data = if data.dtype() == dtype {
        TensorData::from_bytes_vec(data.as_bytes().to_vec(), [elements], dtype)
    } else {
        data.convert_dtype(dtype)
    };
    AnyTensor::from_flat(Tensor::from_data(data, (&device, dtype)), &shape)
}

/// The gradients of the trained parameters, by name and in f32: the sums over the backward passes of one update.
#[derive(Debug)]
pub struct Gradients {
    entries: BTreeMap<String, Entry>,
    /// What all are still to be multiplied with.
    scale: f64,
}

/// The gradient of one parameter.
#[derive(Debug)]
struct Entry {
    elements: usize,
    device: Device,
    /// `None` where no loss depended on the parameter.
    sum: Option<Tensor<1>>,
}

impl Gradients {
    /// Those of all parameters that are tracked, before any backward pass.
    pub fn new<P: Parameters + ?Sized>(source: &P) -> Self {
        let mut entries = BTreeMap::new();
        source.visit(&mut |parameter| {
            if parameter.tensor.is_tracked() {
                let elements = parameter.tensor.num_elements();
                let device = parameter.tensor.untrack().flatten().device();
                entries.insert(parameter.name, Entry { elements, device, sum: None });
            }
        });
        Self { entries, scale: 1.0 }
    }

    /// Adds what a backward pass gave.
    pub fn add<P: Parameters + ?Sized>(&mut self, source: &P, backward: &mut burn::tensor::Gradients) {
        self.settle();
        source.visit(&mut |parameter| {
            let Some(entry) = self.entries.get_mut(&parameter.name) else { return };
            let Some(gradient) = parameter.tensor.gradient(backward) else { return };
            let gradient = gradient.flatten().cast(DType::F32);
            entry.sum = Some(match entry.sum.take() {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        });
    }

    /// Forgets all sums: the next backward pass is the first of an update.
    pub fn zero(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.sum = None);
        self.scale = 1.0;
    }

    /// Multiplies all with a factor. The elements are not touched until they are used.
    pub fn scale(&mut self, factor: f64) {
        self.scale *= factor;
    }

    /// The norm of all elements together; the same with any number of threads. It is not finite if an element is not.
    pub fn norm(&self) -> f64 {
        let sums = self.entries.values().filter_map(|entry| entry.sum.clone());
        self.scale.abs() * sums.map(tx_kernels::squared_norm).sum::<f64>().sqrt()
    }

    /// Scales all down to a norm of at most `max_norm`, as PyTorch's `clip_grad_norm_`; 0 for any. Returns the norm before.
    pub fn clip(&mut self, max_norm: f64) -> f64 {
        let norm = self.norm();
        let factor = max_norm / (norm + 1e-6);
        if max_norm > 0.0 && factor < 1.0 {
            self.scale(factor);
        }
        norm
    }

    /// Exchanges all elements with other processes, some parameters at a time: as many whole ones as have at most `most`
    /// elements, or a single one. `start` gets a bucket of them, and `finish` gives what they are from then on. The next
    /// bucket is filled and started before one is finished.
    ///
    /// Every parameter has one more element in front of its own: 1 if it has a gradient, and otherwise 0 before zeros. One
    /// that is 0 afterwards has none. So processes that add up what they have agree also on what nobody has.
    ///
    /// # Errors
    /// What `start` and `finish` give. Some gradients are lost then.
    pub fn in_buckets<T>(
        &mut self,
        most: usize,
        start: &mut dyn FnMut(Vec<f32>) -> Result<T>,
        finish: &mut dyn FnMut(T) -> Result<Vec<f32>>,
    ) -> Result<()> {
        self.settle();
        let mut entries: Vec<&mut Entry> = self.entries.values_mut().collect();
        let mut rest = entries.as_mut_slice();
        let mut started: Option<(&mut [&mut Entry], T)> = None;
        while !rest.is_empty() || started.is_some() {
            let mut next = None;
            if !rest.is_empty() {
                let mut elements = 0;
                let fitting = rest.iter().take_while(|entry| {
                    elements += entry.elements;
                    elements <= most
                });
                let count = fitting.count().max(1);
                let (bucket, later) = std::mem::take(&mut rest).split_at_mut(count);
                rest = later;
                let values = pack(bucket);
                next = Some((bucket, start(values)?));
            }
            if let Some((bucket, exchange)) = std::mem::replace(&mut started, next) {
                unpack(bucket, &finish(exchange)?);
            }
        }
        Ok(())
    }

    /// Takes the gradient of a parameter, and what it is still to be multiplied with.
    pub(crate) fn take(&mut self, name: &str) -> Option<(Tensor<1>, f64)> {
        let sum = self.entries.get_mut(name)?.sum.take()?;
        Some((sum, self.scale))
    }

    /// Multiplies the elements with what they are still to be multiplied with.
    fn settle(&mut self) {
        if self.scale != 1.0 {
            for entry in self.entries.values_mut() {
                entry.sum = entry.sum.take().map(|sum| sum * self.scale);
            }
            self.scale = 1.0;
        }
    }
}

/// The elements of some parameters in a row, each with a sign in front that it has a gradient. The parameters have none
/// afterwards.
fn pack(bucket: &mut [&mut Entry]) -> Vec<f32> {
    let mut values = Vec::with_capacity(bucket.iter().map(|entry| entry.elements + 1).sum());
    for entry in bucket {
        match entry.sum.take().map(Tensor::into_data) {
            Some(sum) => {
                values.push(1.0);
                values.extend_from_slice(sum.as_slice().unwrap_or_default());
            }
            None => values.resize(values.len() + entry.elements + 1, 0.0),
        }
    }
    values
}

/// Gives parameters what [`pack`] took of them.
fn unpack(bucket: &mut [&mut Entry], mut values: &[f32]) {
    for entry in bucket {
        let (own, others) = values.split_at(entry.elements + 1);
        values = others;
        entry.sum = (own[0] != 0.0).then(|| {
            let data = TensorData::new(own[1..].to_vec(), [entry.elements]);
            Tensor::from_data(data, (&entry.device, DType::F32))
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use burn::module::ParamId;

    use super::*;

    /// Parameters without a model.
    #[derive(Debug)]
    pub(crate) struct Loose(pub Vec<Parameter>);

    impl Loose {
        /// Parameters of these names and values, in rows of two.
        pub(crate) fn new(values: &[(&str, &[f32])]) -> Self {
            let parameter = |(name, values): &(&str, &[f32])| {
                let tensor = Tensor::<1>::from_floats(*values, &Device::default());
                let tensor = AnyTensor::from_flat(tensor, &[values.len() / 2, 2]);
                Parameter { name: (*name).into(), id: ParamId::new(), layer: "Linear".into(), tensor }
            };
            Self(values.iter().map(parameter).collect())
        }

        pub(crate) fn values(&self, name: &str) -> Vec<f32> {
            let parameter = self.0.iter().find(|parameter| parameter.name == name).unwrap();
            parameter.tensor.clone().untrack().flatten().cast(DType::F32).into_data().try_to_vec().unwrap()
        }

        /// A backward pass whose gradients are these factors, as far as they are given.
        pub(crate) fn backward(&self, factors: &[(&str, &[f32])]) -> burn::tensor::Gradients {
            let terms = factors.iter().map(|(name, factors)| {
                let parameter = self.0.iter().find(|parameter| parameter.name == *name).unwrap();
                let flat = parameter.tensor.clone().flatten().cast(DType::F32);
                (flat * Tensor::from_floats(*factors, &Device::default())).sum()
            });
            terms.reduce(|sum, term| sum + term).unwrap().backward()
        }
    }

    impl Parameters for Loose {
        fn visit(&self, f: &mut dyn FnMut(Parameter)) {
            self.0.iter().for_each(|parameter| f(parameter.clone()));
        }

        fn map(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
            self.0 = std::mem::take(&mut self.0)
                .into_iter()
                .map(|parameter| {
                    let (name, id, layer) = (parameter.name.clone(), parameter.id, parameter.layer.clone());
                    Parameter { name, id, layer, tensor: f(parameter) }
                })
                .collect();
        }
    }

    fn sums(gradients: &Gradients, name: &str) -> Option<Vec<f32>> {
        gradients.entries[name].sum.clone().map(|sum| sum.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn gradients_are_summed_and_clipped_and_what_is_frozen_has_none() {
        let mut source = Loose::new(&[("a", &[1.0, 2.0]), ("b", &[3.0, 4.0]), ("c", &[5.0, 6.0])]);
        assert_eq!(Trainable::only(|parameter| parameter.name != "c").track(&mut source).unwrap(), 4);
        let mut gradients = Gradients::new(&source);
        for _ in 0..2 {
            gradients.add(&source, &mut source.backward(&[("a", &[1.0, 2.0]), ("c", &[7.0, 7.0])]));
        }
        assert_eq!(sums(&gradients, "a").unwrap(), [2.0, 4.0]);
        assert!(sums(&gradients, "b").is_none() && !gradients.entries.contains_key("c"));
        gradients.scale(0.5);
        assert!((gradients.norm() - 5f64.sqrt()).abs() < 1e-12);
        assert!((gradients.clip(1.0) - 5f64.sqrt()).abs() < 1e-12);
        assert!((gradients.norm() - 1.0).abs() < 1e-6);
        // A gradient that is not longer stays as it is, and so does any with a limit of 0.
        let scale = gradients.scale;
        gradients.clip(2.0);
        gradients.clip(0.0);
        assert_eq!(gradients.scale, scale);
        gradients.zero();
        assert_eq!(gradients.norm(), 0.0);
    }

    #[test]
    fn buckets_hold_whole_parameters_and_say_which_have_a_gradient() {
        let mut source = Loose::new(&[("a", &[0.0; 4]), ("b", &[0.0; 2]), ("c", &[0.0; 8]), ("d", &[0.0; 2])]);
        Trainable::all().track(&mut source).unwrap();
        let mut gradients = Gradients::new(&source);
        gradients.add(&source, &mut source.backward(&[("a", &[1.0; 4]), ("c", &[2.0; 8])]));
        gradients.scale(2.0);
        let (seen, order) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let mut start = |bucket: Vec<f32>| -> Result<(usize, Vec<f32>)> {
            order.borrow_mut().push("start");
            seen.borrow_mut().push(bucket.clone());
            Ok((seen.borrow().len(), bucket))
        };
        // The other process has a gradient of b, and none of the others.
        let mut average = |(number, mut bucket): (usize, Vec<f32>)| -> Result<Vec<f32>> {
            order.borrow_mut().push("finish");
            bucket.iter_mut().for_each(|x| *x /= 2.0);
            if number == 1 {
                bucket[5..].copy_from_slice(&[0.5, 3.0, 3.0]);
            }
            Ok(bucket)
        };
        gradients.in_buckets(6, &mut start, &mut average).unwrap();
        assert_eq!(order.into_inner(), ["start", "start", "finish", "start", "finish", "finish"]);
        let seen = seen.into_inner();
        assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [8, 9, 3]);
        assert_eq!(seen[0], [1.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0]);
        assert_eq!(sums(&gradients, "a").unwrap(), [1.0; 4]);
        assert_eq!(sums(&gradients, "b").unwrap(), [3.0; 2]);
        assert_eq!(sums(&gradients, "c").unwrap(), [2.0; 8]);
        assert!(sums(&gradients, "d").is_none());
    }

    #[test]
    fn sixteen_bits_become_f32_unless_they_are_to_stay() {
        let mut source = Loose::new(&[("a", &[1.0, 2.0])]);
        source.map(&mut |parameter| parameter.tensor.to::<2>().cast(DType::BF16).into());
        Trainable::all().in_stored_dtype().track(&mut source).unwrap();
        assert_eq!(source.0[0].tensor.dtype(), DType::BF16);
        Trainable::all().track(&mut source).unwrap();
        assert_eq!(source.0[0].tensor.dtype(), DType::F32);
        assert_eq!(source.values("a"), [1.0, 2.0]);
        untrack(&mut source);
        assert!(!source.0[0].tensor.is_tracked());
        assert!(Trainable::only(|_| false).track(&mut source).is_err());
    }
}
