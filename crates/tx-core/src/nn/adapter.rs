//! Adapters: what is put on layers from outside, while the model around them stays as it is.
//!
//! An adapter belongs to a weight, by the identity of its parameter. [`Linear`](super::Linear),
//! [`Conv1dLinear`](super::Conv1dLinear) and [`Embedding`](super::Embedding) look for one in every pass; as long as there
//! is none in the whole process, that is one read of a counter. A weight that a linear layer and an embedding share can
//! have an adapter in each role. Biases, and the parameters of norms and convolutions, can have another value.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Int, Tensor};

use crate::task::AnyTensor;

/// What changes the result of a linear layer.
pub trait LinearAdapter: Debug + Send + Sync {
    /// The result of the layer with the adapter.
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - output: `[rows, out]`
    fn forward(&self, x: Tensor<2>, base: &mut LinearBase) -> Tensor<2>;

    /// Whether [`LinearAdapter::forward`] asks for [`LinearBase::output`]: layers with one input compute theirs together.
    fn wants_output(&self) -> bool {
        true
    }
}

/// What changes the rows of a table.
pub trait EmbeddingAdapter: Debug + Send + Sync {
    /// # Shapes
    /// - ids: `[n]`
    /// - table: `[rows, hidden]`
    /// - output: `[n, hidden]`
    fn rows(&self, ids: Tensor<1, Int>, table: Tensor<2>) -> Tensor<2>;
}

/// What a parameter is in place of what the model has: a bias, or one of a norm or a convolution.
pub trait ParameterAdapter: Debug + Send + Sync {
    /// Its value, of the same shape.
    fn value(&self) -> AnyTensor;
}

/// The layers whose parameters can have another value. The weights of linear layers cannot, nor can tables of embeddings:
/// these have adapters of their own.
pub const ADAPTABLE_LAYERS: [&str; 9] =
    ["BatchNorm2d", "CausalConv1d", "Conv1d", "Conv1dLinear", "Conv2d", "GroupNorm", "LayerNorm", "Linear", "RmsNorm"];

/// A linear layer without its adapter.
#[derive(Debug, Clone)]
pub struct LinearBase {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    transposed: bool,
    output: Option<Tensor<2>>,
}

impl LinearBase {
    /// # Shapes
    /// - weight: `[out, in]`; `[in, out]` if it is transposed, unless it is quantized
    /// - bias: `[out]`
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>, transposed: bool) -> Self {
        Self { weight, bias, transposed, output: None }
    }

    /// The same with its result for the input that the adapter gets: `[.., out]`.
    pub(super) fn with_output<const D: usize>(self, output: Option<Tensor<D>>) -> Self {
        let flat = |y: Tensor<D>| {
            let shape = y.dims();
            y.reshape([shape[..D - 1].iter().product::<usize>(), shape[D - 1]])
        };
        Self { output: output.map(flat), ..self }
    }

    /// `[out]`
    pub fn bias(&self) -> Option<&Tensor<1>> {
        self.bias.as_ref()
    }

    /// The result for the input that the adapter got.
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - output: `[rows, out]`
    pub fn output(&mut self, x: Tensor<2>) -> Tensor<2> {
        self.output.take().unwrap_or_else(|| self.apply(x))
    }

    /// `x · Wᵀ + b`
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - output: `[rows, out]`
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        self.multiply(x, self.bias.clone())
    }

    /// `x · Wᵀ`
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - output: `[rows, out]`
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        self.multiply(x, None)
    }

    /// [`LinearBase::product`] without rounding `x`, whatever the dtype of the weight.
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - output: `[rows, out]`
    pub fn exact_product(&self, x: Tensor<2>) -> Tensor<2> {
        match self.weight.dtype() {
            DType::QFloat(_) => tx_kernels::linear(x, self.dense(), None, None),
            _ => tx_kernels::with_exact_products(|| self.product(x)),
        }
    }

    /// The weight in f32.
    ///
    /// # Shapes
    /// - output: `[out, in]`
    pub fn dense(&self) -> Tensor<2> {
        let weight = self.weight.clone();
        let weight = match weight.dtype() {
            DType::QFloat(_) => tx_kernels::dequantize(weight),
            _ if self.transposed => weight.transpose(),
            _ => weight,
        };
        weight.cast(DType::F32)
    }

    fn multiply(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let weight = self.weight.clone();
        match self.transposed {
            true => tx_kernels::linear_transposed(x, weight, bias, None),
            false => tx_kernels::linear(x, weight, bias, None),
        }
    }
}

/// Puts an adapter on the linear layers of a weight, until what is returned is dropped. Of several the last one counts.
pub fn adapt_linear(weight: ParamId, adapter: Arc<dyn LinearAdapter>) -> Registration {
    let number = LINEAR.add(weight, adapter);
    Registration { weight, number, remove: |weight, number| LINEAR.remove(weight, number) }
}

/// Puts an adapter on the embeddings of a weight, until what is returned is dropped. Of several the last one counts.
pub fn adapt_embedding(weight: ParamId, adapter: Arc<dyn EmbeddingAdapter>) -> Registration {
    let number = EMBEDDING.add(weight, adapter);
    Registration { weight, number, remove: |weight, number| EMBEDDING.remove(weight, number) }
}

/// Gives a parameter another value, until what is returned is dropped. Of several the last one counts.
pub fn adapt_parameter(parameter: ParamId, adapter: Arc<dyn ParameterAdapter>) -> Registration {
    let number = PARAMETER.add(parameter, adapter);
    Registration { weight: parameter, number, remove: |parameter, number| PARAMETER.remove(parameter, number) }
}

/// Keeps an adapter on a layer; when it is dropped, the layer is as it was.
#[derive(Debug)]
#[must_use = "the adapter is removed when this is dropped"]
pub struct Registration {
    weight: ParamId,
    number: u64,
    remove: fn(ParamId, u64),
}

impl Drop for Registration {
    fn drop(&mut self) {
        (self.remove)(self.weight, self.number);
    }
}

static LINEAR: Registry<dyn LinearAdapter> = Registry::new();
static EMBEDDING: Registry<dyn EmbeddingAdapter> = Registry::new();
static PARAMETER: Registry<dyn ParameterAdapter> = Registry::new();

/// The adapter on a linear layer's weight.
pub(super) fn of_linear(weight: ParamId) -> Option<Arc<dyn LinearAdapter>> {
    LINEAR.get(weight)
}

/// The adapter on an embedding's weight.
pub(super) fn of_embedding(weight: ParamId) -> Option<Arc<dyn EmbeddingAdapter>> {
    EMBEDDING.get(weight)
}

/// The value of a parameter: the model's, or that of an adapter.
pub(super) fn value<const D: usize>(parameter: &Param<Tensor<D>>) -> Tensor<D> {
    match PARAMETER.get(parameter.id) {
        Some(adapter) => adapter.value().to(),
        None => parameter.val(),
    }
}

/// Whether there is an adapter on any linear layer.
pub(super) fn on_any_linear() -> bool {
    LINEAR.count.load(Ordering::Relaxed) > 0
}

/// The result of a layer with its adapter.
///
/// # Shapes
/// - x: `[.., in]`
/// - output: `[.., out]`
pub(super) fn apply<const D: usize>(adapter: &dyn LinearAdapter, x: Tensor<D>, mut base: LinearBase) -> Tensor<D> {
    let mut shape = x.dims();
    let (rows, input) = (shape[..D - 1].iter().product::<usize>(), shape[D - 1]);
    let y = adapter.forward(x.reshape([rows, input]), &mut base);
    shape[D - 1] = y.dims()[1];
    y.reshape(shape)
}

/// Adapters with their numbers, in the order in which they were put on.
type Numbered<A> = Vec<(u64, Arc<A>)>;

/// The adapters of one role, by the weight that they are on.
struct Registry<A: ?Sized> {
    count: AtomicUsize,
    numbers: AtomicU64,
    adapters: RwLock<BTreeMap<ParamId, Numbered<A>>>,
}

impl<A: ?Sized> Registry<A> {
    const fn new() -> Self {
        Self { count: AtomicUsize::new(0), numbers: AtomicU64::new(0), adapters: RwLock::new(BTreeMap::new()) }
    }

    fn add(&self, weight: ParamId, adapter: Arc<A>) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut adapters = self.adapters.write().unwrap_or_else(PoisonError::into_inner);
        adapters.entry(weight).or_default().push((number, adapter));
        self.count.fetch_add(1, Ordering::Relaxed);
        number
    }

    fn remove(&self, weight: ParamId, number: u64) {
        let mut adapters = self.adapters.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = adapters.get_mut(&weight) {
            let before = here.len();
            here.retain(|(other, _)| *other != number);
            self.count.fetch_sub(before - here.len(), Ordering::Relaxed);
            if here.is_empty() {
                adapters.remove(&weight);
            }
        }
    }

    fn get(&self, weight: ParamId) -> Option<Arc<A>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let adapters = self.adapters.read().unwrap_or_else(PoisonError::into_inner);
        adapters.get(&weight)?.last().map(|(_, adapter)| adapter.clone())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::{Activation, Conv1dLinear, Embedding, LayerNorm, Linear, project};
    use super::*;

    /// Adds a number to the result of a layer, or to the rows of a table.
    #[derive(Debug)]
    struct Plus(f64);

    impl LinearAdapter for Plus {
        fn forward(&self, x: Tensor<2>, base: &mut LinearBase) -> Tensor<2> {
            base.output(x) + self.0
        }
    }

    impl EmbeddingAdapter for Plus {
        fn rows(&self, ids: Tensor<1, Int>, table: Tensor<2>) -> Tensor<2> {
            tx_kernels::embedding(table, ids) + self.0
        }
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    #[test]
    fn an_adapter_is_on_one_role_of_one_weight_until_it_is_dropped() {
        let device = Device::default();
        let mut linear = Linear::new(3, 3, false, &device);
        let weight = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], &device);
        linear.weight = Param::initialized(linear.weight.id, weight.clone());
        let mut tied = Embedding::new(3, 3, &device);
        tied.weight = Param::initialized(linear.weight.id, weight.clone());
        let mut turned = Conv1dLinear::new(3, 3, &device);
        turned.weight = Param::initialized(turned.weight.id, weight);
        turned.bias = Param::initialized(turned.bias.id, Tensor::zeros([3], &device));
        let ids = || Tensor::<1, Int>::from_data([1], &device);
        let x = || Tensor::<1>::from_floats([1.0, 0.0, -1.0], &device).reshape([1, 1, 3]);

        let first = adapt_linear(linear.weight.id, Arc::new(Plus(1.0)));
        assert_eq!(values(linear.forward(x())), [-1.0; 3]);
        assert_eq!(values(linear.forward_activated(x(), Activation::Relu)), [0.0; 3]);
        assert_eq!(values(tied.rows(ids())), [4.0, 5.0, 6.0]);
        assert_eq!(values(turned.forward(x())), [-6.0; 3]);
        let second = adapt_linear(linear.weight.id, Arc::new(Plus(2.0)));
        let other = Linear { weight: Param::from_tensor(Tensor::ones([2, 3], &device)), bias: None };
        let [a, b] = project(x(), [&linear, &other]);
        assert_eq!((values(a), values(b)), (vec![0.0; 3], vec![0.0; 2]));
        drop(first);
        assert_eq!(values(linear.forward(x())), [0.0; 3]);
        drop(second);
        assert_eq!(values(linear.forward(x())), [-2.0; 3]);
        let embedding = adapt_embedding(linear.weight.id, Arc::new(Plus(1.0)));
        let transposed = adapt_linear(turned.weight.id, Arc::new(Plus(1.0)));
        assert_eq!(values(tied.rows(ids())), [5.0, 6.0, 7.0]);
        assert_eq!(values(linear.forward(x())), [-2.0; 3]);
        assert_eq!(values(turned.forward(x())), [-5.0; 3]);
        drop((embedding, transposed));
    }

    impl ParameterAdapter for Plus {
        fn value(&self) -> AnyTensor {
            Tensor::<1>::full([2], self.0, &Device::default()).into()
        }
    }

    #[test]
    fn biases_and_norms_can_have_another_value() {
        let device = Device::default();
        let linear = Linear::new(2, 2, true, &device);
        let norm = LayerNorm::new(2, 1e-5, &device);
        let Some(bias) = &linear.bias else { panic!("a bias") };
        let zeros = || Tensor::<2>::zeros([1, 2], &device);
        assert_eq!((values(linear.forward(zeros())), values(norm.forward(zeros()))), (vec![0.0; 2], vec![0.0; 2]));
        let Some(shift) = &norm.bias else { panic!("a bias") };
        let both = [adapt_parameter(bias.id, Arc::new(Plus(3.0))), adapt_parameter(shift.id, Arc::new(Plus(4.0)))];
        assert_eq!((values(linear.forward(zeros())), values(norm.forward(zeros()))), (vec![3.0; 2], vec![4.0; 2]));
        drop(both);
        assert_eq!((values(linear.forward(zeros())), values(norm.forward(zeros()))), (vec![0.0; 2], vec![0.0; 2]));
    }

    #[test]
    fn a_base_is_the_same_either_way_round() {
        let device = Device::default();
        let weight = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
        let x = Tensor::<2>::from_floats([[1.0, -1.0, 2.0]], &device);
        let plain = LinearBase::new(weight.clone(), None, false);
        let turned = LinearBase::new(weight.transpose(), None, true);
        for base in [plain, turned] {
            assert_eq!(values(base.product(x.clone())), [5.0, 11.0]);
            assert_eq!(values(base.exact_product(x.clone())), [5.0, 11.0]);
            assert_eq!(values(base.dense()), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        }
    }
}
