//! The parameters of a module one by one, by the names that they are saved by.

use std::collections::{BTreeMap, HashMap, HashSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor, TensorData};

use crate::task::{AnyTensor, Parameter};

/// The fields that are saved and are no parameters: statistics, and what balances experts by a rule of its own.
const BUFFERS: [&str; 3] = ["running_mean", "running_var", "e_score_correction_bias"];

/// Calls `f` with every parameter; `name` gives the name that a path is saved by.
pub(super) fn visit<M: Module>(module: &M, name: fn(&str) -> String, f: &mut dyn FnMut(Parameter)) {
    module.visit(&mut Visitor { place: Place::new(name), seen: Some(HashSet::new()), f });
}

/// Calls `f` with every parameter, and with tied ones in every place.
pub(super) fn visit_places<M: Module>(module: &M, name: fn(&str) -> String, f: &mut dyn FnMut(Parameter)) {
    module.visit(&mut Visitor { place: Place::new(name), seen: None, f });
}

/// The number of elements of all parameters and buffers, each tied one once.
pub(super) fn count<M: Module>(module: &M) -> usize {
    let mut counter = Counter::default();
    module.visit(&mut counter);
    counter.elements
}

#[derive(Default)]
struct Counter {
    seen: HashSet<ParamId>,
    elements: usize,
}

impl ModuleVisitor for Counter {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.seen.insert(param.id) {
            self.elements += param.lazy_shape().num_elements();
        }
    }
}

/// Replaces every parameter by what `f` makes of it.
pub(super) fn map<M: Module>(module: &mut M, name: fn(&str) -> String, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
    // burn maps a module by value, and a copy of it would share every tensor.
    replace_with::replace_with_or_abort(module, |module| {
        let mut release = Release::default();
        let module = module.map(&mut release);
        module.map(&mut Mapper { place: Place::new(name), tied: release.tied, mapped: HashMap::new(), f })
    });
}

/// The vectors of a module as it is, statistics included; `name` gives the name that a path is saved by.
pub(super) fn vectors<M: Module>(module: &M, name: fn(&str) -> String) -> BTreeMap<String, TensorData> {
    let mut visitor = Vectors { place: Place::new(name), vectors: BTreeMap::new() };
    module.visit(&mut visitor);
    visitor.vectors
}

/// Whether a tensor is one that others may be tied to: of a tied weight that is quantized, every quantized one is its own.
fn is_dense<const D: usize>(tensor: &Tensor<D>) -> bool {
    !matches!(tensor.dtype(), DType::QFloat(_))
}

/// Where in a module a walk is.
struct Place {
    name: fn(&str) -> String,
    /// The fields on the way, and the type of the module that each is in.
    path: Vec<(String, String)>,
}

impl Place {
    fn new(name: fn(&str) -> String) -> Self {
        Self { name, path: Vec::new() }
    }

    fn enter(&mut self, field: &str, container: &str) {
        self.path.push((field.to_owned(), container.to_owned()));
    }

    fn exit(&mut self) {
        self.path.pop();
    }

    fn is_buffer(&self) -> bool {
        self.path.last().is_some_and(|(field, _)| BUFFERS.contains(&field.as_str()))
    }

    fn name(&self) -> String {
        let fields: Vec<_> = self.path.iter().map(|(field, _)| field.as_str()).collect();
        (self.name)(&fields.join("."))
    }

    fn parameter<const D: usize>(&self, id: ParamId, tensor: Tensor<D>) -> Parameter {
        let layer =
            self.path.last().map_or("", |(_, container)| container.strip_prefix("Struct:").unwrap_or(container));
        Parameter { name: self.name(), id, layer: layer.to_owned(), tensor: tensor.into() }
    }
}

struct Visitor<'a> {
    place: Place,
    /// Those that are not to come again.
    seen: Option<HashSet<ParamId>>,
    f: &'a mut dyn FnMut(Parameter),
}

impl ModuleVisitor for Visitor<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.place.is_buffer() {
            return;
        }
        let tensor = param.val();
        if !is_dense(&tensor) || self.seen.as_mut().is_none_or(|seen| seen.insert(param.id)) {
            (self.f)(self.place.parameter(param.id, tensor));
        }
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.place.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }
}

struct Vectors {
    place: Place,
    vectors: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Vectors {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A matrix that nobody loaded is drawn when it is looked at.
        if D == 1 {
            self.vectors.insert(self.place.name(), param.val().into_data());
        }
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.place.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }
}

/// Empties every parameter that is tied to an earlier one, so that a tensor has one handle.
#[derive(Default)]
struct Release {
    seen: HashSet<ParamId>,
    tied: HashSet<ParamId>,
}

impl ModuleMapper for Release {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        if !is_dense(&param) || self.seen.insert(id) {
            return param;
        }
        self.tied.insert(id);
        let device = param.device();
        Param::initialized(id, Tensor::zeros([1; D], &device))
    }
}

struct Mapper<'a> {
    place: Place,
    tied: HashSet<ParamId>,
    /// What became of those that others are tied to.
    mapped: HashMap<ParamId, AnyTensor>,
    f: &'a mut dyn FnMut(Parameter) -> AnyTensor,
}

impl ModuleMapper for Mapper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.place.is_buffer() {
            return param;
        }
        let (id, tensor, _) = param.consume();
        let dense = is_dense(&tensor);
        if let Some(mapped) = self.mapped.get(&id).filter(|_| dense) {
            return Param::initialized(id, mapped.clone().to());
        }
        let mapped = (self.f)(self.place.parameter(id, tensor));
        if dense && self.tied.contains(&id) {
            self.mapped.insert(id, mapped.clone());
        }
        Param::initialized(id, mapped.to())
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.place.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::nn::{BatchNorm2d, LayerNorm, Linear};

    #[derive(Module, Debug)]
    struct Tied {
        first: Linear,
        norm: LayerNorm,
        batch: BatchNorm2d,
        last: Linear,
    }

    fn tied() -> Tied {
        let device = Device::default();
        let (first, mut last) = (Linear::new(3, 2, true, &device), Linear::new(3, 2, false, &device));
        last.weight = Param::initialized(first.weight.id, first.weight.val());
        Tied { first, norm: LayerNorm::new(2, 1e-5, &device), batch: BatchNorm2d::new(2, 1e-5, &device), last }
    }

    #[test]
    fn what_is_tied_is_visited_once_and_buffers_are_not() {
        let mut seen = Vec::new();
        visit(&tied(), |path| format!("model.{path}"), &mut |parameter| seen.push((parameter.name, parameter.layer)));
        let expected = [
            ("model.first.weight", "Linear"),
            ("model.first.bias", "Linear"),
            ("model.norm.weight", "LayerNorm"),
            ("model.norm.bias", "LayerNorm"),
            ("model.batch.weight", "BatchNorm2d"),
            ("model.batch.bias", "BatchNorm2d"),
        ];
        assert!(seen.iter().map(|(name, layer)| (name.as_str(), layer.as_str())).eq(expected), "{seen:?}");
        let mut places = Vec::new();
        visit_places(&tied(), str::to_owned, &mut |parameter| places.push(parameter.name));
        assert_eq!((places.len(), places.last().map(String::as_str)), (7, Some("last.weight")));
    }

    #[test]
    fn vectors_are_what_they_are_before_they_are_loaded() {
        let found = vectors(&tied(), str::to_owned);
        let names = ["batch.bias", "batch.running_mean", "batch.running_var", "batch.weight", "first.bias"];
        assert!(found.keys().take(5).eq(names), "{:?}", found.keys());
        assert!(found["batch.running_var"].iter::<f32>().eq([1.0; 2]) && found["norm.bias"].iter::<f32>().eq([0.0; 2]));
    }

    #[test]
    fn what_is_mapped_has_one_handle_and_stays_tied() {
        let mut module = tied();
        // Uninitialised parameters are drawn at the first visit.
        visit(&module, str::to_owned, &mut |_| ());
        for _ in 0..2 {
            map(&mut module, str::to_owned, &mut |parameter| {
                let tensor = parameter.tensor.untrack();
                let shape = tensor.shape();
                let flat = tensor.flatten();
                assert!(flat.can_mut(), "{}", parameter.name);
                AnyTensor::from_flat(flat * 0.0 + 1.0, &shape).track()
            });
        }
        let (first, last) = (module.first.weight.val(), module.last.weight.val());
        let mut gradients = (first.clone().sum() + last.sum() * 2.0).backward();
        let gradient = AnyTensor::from(first).gradient(&mut gradients).unwrap();
        assert_eq!(gradient.flatten().into_data().try_to_vec::<f32>().unwrap(), [3.0; 6]);
    }
}
