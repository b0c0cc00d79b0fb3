//! Filling a module from a checkpoint, strictly, and naming its tensors for saving.
//!
//! A module path *is* a tensor name. What cannot be said in Rust, or has had several names on the Hub, is a [`Rename`].
//! Each parameter is looked up by its names; whatever is missing, left over or of another shape is reported by name in
//! one error. Weights keep the dtype they have in the file and stay in the memory map; only vectors (biases, norms) are
//! converted to the device's float type, what is packed becomes plain, one tensor at a time, and the weights of linear
//! layers are quantized if that is asked for.

mod names;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};

use self::names::{FileNames, ends_with_segment, saved_name, saved_shape, starts_with_segment};
use super::packed::{Packing, Source};
use super::{Checkpoint, Quantization, StoredTensor, dtype_name, visit};
use crate::config::ModelConfig;
use crate::device::{self, Dtype};
use crate::error::{Error, Mismatch, Result, WeightsReport};
use crate::registry::Attach;
use crate::task::{AnyTensor, Parameter, PretrainedModel};

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Where its tensors live.
    pub device: Device,
    /// The element type of its weights.
    pub dtype: Dtype,
    /// What becomes of the weights of linear layers; they stay as they are if `None`.
    pub quantize: Option<Quantization>,
    /// What is put on the model as soon as it is loaded.
    pub attach: Option<Arc<dyn Attach>>,
}

/// A part of a path that reads differently in the module and in the file.
///
/// Both are whole dotted segments, matched anywhere in the path. The first file spelling is the one that is saved; all
/// are accepted.
#[derive(Debug, Clone, Copy)]
pub struct Rename {
    /// Segments of the module path.
    pub module: &'static str,
    /// The spellings of it in files.
    pub file: &'static [&'static str],
}

/// A module that checkpoints on the Hub can fill.
pub trait Pretrained: Module + Send + Sync + std::fmt::Debug + 'static {
    /// The typed view of its `config.json`.
    type Config: ModelConfig;

    /// HF's `base_model_prefix`: the field of a head class that holds the base model. Files may have it or not.
    const PREFIX: &'static str;

    /// The name of that field, where it is not the one in files.
    const FIELD: &'static str = Self::PREFIX;

    /// What reads differently in files.
    const RENAMES: &'static [Rename] = &[];

    /// Fields that a checkpoint may lack; [`Pretrained::init`] leaves them out then.
    const OPTIONAL: &'static [&'static str] = &[];

    /// Tensors of the file, by the start or the end of their name without the prefix, that this class has no use for.
    const IGNORED: &'static [&'static str] = &[];

    /// Module paths of single numbers that are tensors without axes in files, and of one axis here.
    const SCALARS: &'static [&'static str] = &[];

    /// Pairs of module paths that share one tensor: if a file has only one of them, or equal ones.
    fn tied(_config: &Self::Config) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The module with uninitialised parameters.
    fn init(config: &Self::Config, parts: &Parts, device: &Device) -> Self;
}

/// Which of a class's optional parts to build.
#[derive(Debug, Clone)]
pub struct Parts {
    absent: Vec<&'static str>,
}

impl Parts {
    /// All of them, for a model that is not loaded from a checkpoint.
    pub fn all() -> Self {
        Self { absent: Vec::new() }
    }

    /// Whether to build the optional field `name`.
    pub fn has(&self, name: &str) -> bool {
        !self.absent.contains(&name)
    }
}

/// Segments of buffers that old files hold and no model needs.
const OLD_BUFFERS: [&str; 6] =
    ["position_ids", "token_type_ids", "num_batches_tracked", "inv_freq", "masked_bias", "relative_position_index"];

/// A module filled from a checkpoint, and what was noticed on the way.
#[derive(Debug, Clone)]
pub struct Loaded<M> {
    /// The model.
    pub model: M,
    /// What was filled, tied, left out and left over.
    pub report: LoadReport,
}

/// What was filled, tied, left out and left over.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct LoadReport {
    /// Parameters that were filled.
    pub filled: usize,
    /// Optional parts that the checkpoint lacks: the model works without them.
    pub absent: Vec<&'static str>,
    /// Parameters that share the tensor of another one.
    pub tied: Vec<String>,
    /// Tensors of the file that belong to another head.
    pub unused: Vec<String>,
    /// Weights of linear layers that were quantized.
    pub quantized: usize,
    /// Weights of linear layers that stayed as they are because their rows are not whole blocks.
    pub not_quantized: Vec<String>,
}

/// Builds `M` and fills it from a checkpoint whose weights are packed as `packing` says.
///
/// `exact` says that the checkpoint was saved from this very class: then a tensor outside of the base model that the
/// class does not know is an error; otherwise it belongs to another head and is reported as unused.
///
/// # Errors
/// [`Error::Weights`] with every missing, unexpected and mis-shaped tensor; [`Error::Device`] if the device cannot hold
/// the dtype, or has no quantized products.
pub fn load<M: Pretrained>(
    config: &M::Config,
    checkpoint: &Checkpoint,
    packing: Packing,
    class: &str,
    exact: bool,
    options: &LoadOptions,
) -> Result<Loaded<M>> {
    let device = &options.device;
    let unable = |reason: String| Error::Device {
        device: format!("{device:?}"),
        reason,
        available: device::available().join(", "),
    };
    if let Some(quantization) = options.quantize
        && !device::is_cpu(device)
    {
        return Err(unable(format!("`--quantize {quantization}` needs `--device cpu`")));
    }
    let (prefix, field) = (format!("{}.", M::PREFIX), format!("{}.", M::FIELD));
    let tensors = packing.tensors(checkpoint);
    let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    let without_prefix = |name: &str| name.strip_prefix(&prefix).unwrap_or(name).to_owned();
    let holds = |part: &&'static str| names.iter().any(|name| starts_with_segment(&without_prefix(name), part));
    let absent: Vec<&'static str> = M::OPTIONAL.iter().filter(|part| !holds(part)).copied().collect();
    let model = M::init(config, &Parts { absent: absent.clone() }, device);

    let mut visitor = Paths::default();
    model.visit(&mut visitor);
    let paths: Vec<String> = visitor.paths.into_iter().map(|(path, _)| path).collect();
    let head = paths.iter().any(|path| path.starts_with(&field));
    let files = FileNames {
        renames: M::RENAMES,
        prefix: &prefix,
        field: &field,
        module_has_prefix: head,
        file_has_prefix: names.iter().any(|name| name.starts_with(&prefix)),
    };

    let mut found: HashMap<&str, &str> = HashMap::new();
    for path in &paths {
        if let Some((name, _)) = files.accepted(path).iter().find_map(|name| tensors.get_key_value(name)) {
            found.insert(path, name);
        }
    }
    let tied = tie::<M>(config, &tensors, &mut found);
    let (weights, compute) = (options.dtype.to_burn(), DType::from(device.settings().float_dtype));
    for name in found.values() {
        let dtype = tensors[*name].loaded_dtype(name, weights, compute);
        if !device.supports_dtype(dtype) {
            let dtype = dtype_name(dtype);
            return Err(unable(format!("it cannot compute with the {dtype} weights; use `--dtype f32`")));
        }
    }

    let mut filler = Filler {
        tensors: &tensors,
        found: &found,
        tied: &tied,
        ids: HashMap::new(),
        weights,
        compute,
        quantize: options.quantize,
        device,
        path: Vec::new(),
        linear: None,
        report: WeightsReport::default(),
        filled: 0,
        quantized: 0,
        not_quantized: Vec::new(),
        canonical: &|path| files.canonical(path),
    };
    let model = model.map(&mut filler);
    let Filler { mut report, filled, quantized, not_quantized, .. } = filler;

    let used: HashSet<&str> = found.values().copied().collect();
    let spellings: HashSet<String> = paths.iter().flat_map(|path| files.accepted(path)).collect();
    let mut unused = Vec::new();
    for name in names.iter().filter(|name| !used.contains(*name) && !spellings.contains(**name)) {
        let bare = without_prefix(name);
        let harmless = bare.split('.').any(|segment| OLD_BUFFERS.contains(&segment))
            || M::IGNORED.iter().any(|part| starts_with_segment(&bare, part) || ends_with_segment(&bare, part));
        // Outside of the base model: for a base class everything without the prefix, if the file has it at all.
        let other_head =
            if head { !name.starts_with(&prefix) && !exact } else { files.file_has_prefix && bare == **name };
        if other_head {
            unused.push((*name).to_owned());
        } else if !harmless {
            report.unexpected.push((*name).to_owned());
        }
    }
    if !report.is_empty() {
        return Err(Error::Weights { path: checkpoint.path().to_path_buf(), class: class.to_owned(), report });
    }
    if options.quantize.is_some() && quantized == 0 {
        tracing::warn!("{class}: no weight was quantized: in none are the rows whole blocks of 32 elements");
    }
    let tied = tied.into_keys().map(str::to_owned).collect();
    Ok(Loaded { model, report: LoadReport { filled, absent, tied, unused, quantized, not_quantized } })
}

/// The names and shapes of the tensors that a file for `M` holds, in the module's order, without any value.
pub fn parameters<M: Pretrained>(config: &M::Config) -> Vec<(String, Vec<usize>)> {
    let model = M::init(config, &Parts::all(), &Device::default());
    let mut visitor = Paths::default();
    model.visit(&mut visitor);
    let tied = M::tied(config);
    let own = visitor.paths.into_iter().filter(|(path, _)| tied.iter().all(|(a, _)| a != path));
    own.map(|(path, shape)| (saved_name::<M>(&path), saved_shape::<M>(&path, shape))).collect()
}

/// The weights of norms, the biases and the statistics of `M` before they are loaded or trained, by name.
pub fn vectors<M: Pretrained>(config: &M::Config) -> BTreeMap<String, TensorData> {
    visit::vectors(&M::init(config, &Parts::all(), &Device::default()), saved_name::<M>)
}

/// Decides which parameters share a tensor: those whose partner alone is in the file, and those with equal bytes.
fn tie<'a, M: Pretrained>(
    config: &M::Config,
    tensors: &BTreeMap<String, Source<'_>>,
    found: &mut HashMap<&'a str, &'a str>,
) -> BTreeMap<&'static str, &'static str> {
    let mut tied = BTreeMap::new();
    for &(a, b) in M::tied(config) {
        let same = match (found.get(a).copied(), found.get(b).copied()) {
            (None, Some(name)) => found.insert(a, name).is_none(),
            (Some(name), None) => found.insert(b, name).is_none(),
            (Some(x), Some(y)) => tensors[x].is_same(&tensors[y]),
            (None, None) => false,
        };
        if same {
            tied.insert(a, b);
        }
    }
    tied
}

/// Collects the path and shape of every parameter, in the module's order.
#[derive(Default)]
struct Paths {
    path: Vec<String>,
    paths: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Paths {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.paths.push((self.path.join("."), param.lazy_shape().as_slice().to_vec()));
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.paths.push((self.path.join("."), param.lazy_shape().as_slice().to_vec()));
    }
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

/// What a row of a linear layer's weight belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// An output: [`Linear`](crate::nn::Linear).
    Outputs,
    /// An input: [`Conv1dLinear`](crate::nn::Conv1dLinear).
    Inputs,
}

/// Replaces each parameter by the tensor that was found for it.
struct Filler<'a> {
    tensors: &'a BTreeMap<String, Source<'a>>,
    /// Module path to the name in the file.
    found: &'a HashMap<&'a str, &'a str>,
    tied: &'a BTreeMap<&'static str, &'static str>,
    /// The identity of parameters that others are tied to, or that are tied to others, by either path.
    ids: HashMap<String, ParamId>,
    weights: Option<DType>,
    compute: DType,
    quantize: Option<Quantization>,
    device: &'a Device,
    path: Vec<String>,
    /// How the weight lies that the path ends in, if it is that of a linear layer.
    linear: Option<Rows>,
    report: WeightsReport,
    filled: usize,
    quantized: usize,
    not_quantized: Vec<String>,
    canonical: &'a dyn Fn(&str) -> String,
}

impl<'a> Filler<'a> {
    /// The tensor for a parameter of `shape`, or `None` and a line in the report.
    fn find(&mut self, path: &str, shape: &[usize], float: bool) -> Option<(&'a Source<'a>, ParamId)> {
        let Some(&name) = self.found.get(path) else {
            self.report.missing.push((self.canonical)(path));
            return None;
        };
        let tensor = &self.tensors[name];
        if let Source::Broken(mismatch) = tensor {
            self.report.mismatched.push(mismatch.clone());
            return None;
        }
        let kind_fits = float == tensor.is_float();
        // One number is one number, with an axis or without.
        let shape_fits = tensor.shape() == shape || (tensor.shape().is_empty() && shape == [1]);
        if !shape_fits || !kind_fits {
            let expected = if kind_fits {
                format!("{shape:?}")
            } else {
                format!("a {} tensor", if float { "float" } else { "integer" })
            };
            self.report.mismatched.push(Mismatch { name: name.to_owned(), found: tensor.to_string(), expected });
            return None;
        }
        self.filled += 1;
        // Tied parameters have one identity, whichever of them comes first.
        let key = self.tied.get(path).copied().unwrap_or(path).to_owned();
        Some((tensor, *self.ids.entry(key).or_default()))
    }

    /// A tensor of the file in a dtype; without a copy if it is the file's.
    fn tensor<const D: usize>(&self, source: &Source<'_>, dtype: DType) -> Tensor<D> {
        Tensor::from_data(source.to_data(dtype), (self.device, dtype))
    }

    /// The quantized weight of a linear layer, whose rows are those of outputs however the file has it; `None` for other
    /// tensors, and where there is none.
    ///
    /// It is a tensor of its own even where the weight is tied: the rows of the other one, an embedding, stay dense.
    fn quantize(&mut self, path: &str, source: &Source<'_>) -> Option<Tensor<2>> {
        let (Quantization::Int8, rows) = (self.quantize?, self.linear?);
        if source.shape().len() != 2 {
            return None;
        }
        // Made of what the file has: another dtype of the other weights would only round it once more.
        let dtype = match source {
            Source::Packed(_) => DType::F32,
            _ => source.loaded_dtype(path, None, self.compute),
        };
        let weight: Tensor<2> = self.tensor(source, dtype);
        let weight = match rows {
            Rows::Outputs => weight,
            Rows::Inputs => Tensor::from_data(weight.transpose().into_data(), (self.device, dtype)),
        };
        if !tx_kernels::can_quantize(&weight) {
            self.not_quantized.push((self.canonical)(path));
            return None;
        }
        self.quantized += 1;
        Some(tx_kernels::quantize_int8(weight))
    }
}

impl ModuleMapper for Filler<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        self.linear = match (name, container) {
            ("weight", "Struct:Linear") => Some(Rows::Outputs),
            ("weight", "Struct:Conv1dLinear") => Some(Rows::Inputs),
            _ => None,
        };
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let Some((source, id)) = self.find(&path, param.lazy_shape().as_slice(), true) else { return param };
        let tensor = match self.quantize(&path, source) {
            // `D` is 2: the parameter is a matrix.
            Some(weight) => Tensor::from_dispatch(weight.into_dispatch()),
            None => self.tensor(source, source.loaded_dtype(&path, self.weights, self.compute)),
        };
        Param::initialized(id, tensor)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let path = self.path.join(".");
        match self.find(&path, param.lazy_shape().as_slice(), false) {
            Some((source, id)) => {
                Param::initialized(id, Tensor::from_data(source.to_data(source.dtype()), self.device))
            }
            None => param,
        }
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        param
    }
}

impl<M: Pretrained> PretrainedModel for M {
    fn tensors(&self) -> Vec<(String, StoredTensor)> {
        let mut visitor = Collector {
            name: saved_name::<M>,
            shape: saved_shape::<M>,
            path: Vec::new(),
            seen: HashSet::new(),
            tensors: Vec::new(),
        };
        self.visit(&mut visitor);
        visitor.tensors
    }

    fn num_parameters(&self) -> usize {
        visit::count(self)
    }

    fn visit_parameters(&self, f: &mut dyn FnMut(Parameter)) {
        visit::visit(self, saved_name::<M>, f);
    }

    fn visit_places(&self, f: &mut dyn FnMut(Parameter)) {
        visit::visit_places(self, saved_name::<M>, f);
    }

    fn map_parameters(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        visit::map(self, saved_name::<M>, f);
    }
}

/// Collects every tensor once, under the name it is saved by.
struct Collector {
    name: fn(&str) -> String,
    shape: fn(&str, Vec<usize>) -> Vec<usize>,
    path: Vec<String>,
    seen: HashSet<ParamId>,
    tensors: Vec<(String, StoredTensor)>,
}

/// burn's bytes as the owner of shared bytes.
struct Owned(burn::tensor::Bytes);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Collector {
    fn push(&mut self, id: ParamId, data: impl FnOnce() -> TensorData) {
        if self.seen.insert(id) {
            let path = self.path.join(".");
            let name = (self.name)(&path);
            let data = data();
            let (dtype, shape) = (data.dtype(), (self.shape)(&path, data.shape().as_slice().to_vec()));
            let bytes = bytes::Bytes::from_owner(Owned(data.into_bytes()));
            self.tensors.push((name, StoredTensor { path: "model".into(), dtype, shape, bytes }));
        }
    }
}

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.push(param.id, || param.val().into_data());
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.push(param.id, || param.val().into_data());
    }
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

#[cfg(test)]
mod tests;
