//! The derivative of a product.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, Tensor};

use super::{Graph, Place, split, split_given};
use crate::Pointwise;
use crate::cpu::{self, Held, backward, floats, slice};

/// See [`crate::linears`]. Each result is a step of its own.
pub fn linears<const D: usize, const N: usize>(
    x: &Tensor<D>,
    layers: &[(Tensor<2>, Option<Tensor<1>>); N],
    act: Option<Pointwise>,
) -> Option<[Tensor<D>; N]> {
    let (x, of_x) = split(x)?;
    let (mut values, mut graphs) = (Vec::with_capacity(N), Vec::with_capacity(N));
    for (weight, bias) in layers {
        let (weight, of_weight) = split(weight)?;
        let (bias, of_bias) = split_given(bias.as_ref())?;
        let places = [of_x.clone(), of_weight, of_bias];
        let constant = places.iter().all(Place::is_constant);
        graphs.push(if constant { None } else { Some(Graph::of(places)?) });
        values.push((weight, bias));
    }
    let empty = values.iter().any(|(weight, _)| weight.dims().contains(&0));
    if empty || graphs.iter().all(Option::is_none) {
        return None;
    }
    let layers: [(Tensor<2>, Option<Tensor<1>>); N] = values.try_into().ok()?;
    let x = floats(&x)?;
    let products = cpu::linears(&Tensor::<D>::from_primitive::<Flex>(x.clone()), &layers, None)?;
    let results = products.into_iter().zip(&layers).zip(graphs).map(|((product, (weight, _)), graph)| {
        Product { x: x.clone(), weight, turned: false, act }.result(product, graph)
    });
    results.collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// See [`crate::linear_transposed`].
pub fn linear_transposed<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    act: Option<Pointwise>,
) -> Option<Tensor<D>> {
    let (x, of_x) = split(x)?;
    let (weight, of_weight) = split(weight)?;
    let (bias, of_bias) = split_given(bias)?;
    let graph = Graph::of([of_x, of_weight, of_bias])?;
    if weight.dims().contains(&0) {
        return None;
    }
    let x = floats(&x)?;
    let value = Tensor::<D>::from_primitive::<Flex>(x.clone());
    let product = cpu::linear_transposed(&value, &weight, bias.as_ref(), None)?;
    Product { x, weight: &weight, turned: true, act }.result(product, Some(graph))
}

/// A product that has been computed, without its activation.
struct Product<'a> {
    x: FlexTensor,
    weight: &'a Tensor<2>,
    /// Whether the weight is `[in, out]`.
    turned: bool,
    act: Option<Pointwise>,
}

impl Product<'_> {
    /// What comes of the product, as a tensor of the graph if there is one.
    fn result<const D: usize>(self, product: Tensor<D>, graph: Option<Graph<3>>) -> Option<Tensor<D>> {
        let Self { x, weight, turned, act } = self;
        let product = floats(&product)?;
        let result = match act {
            Some(act) => backward::activated(act, &product),
            None => product.clone(),
        };
        let Some(graph) = graph else { return Some(Tensor::from_primitive::<Flex>(result)) };
        let [of_x, of_weight, of_bias] = graph.wanted();
        let derivative = Derivative {
            shape: x.layout().shape().clone(),
            x: of_weight.then_some(x),
            weight: if of_x { Some(Held::new(weight)?) } else { None },
            dims: weight.dims(),
            turned,
            of_bias,
            dtype: weight.dtype(),
            act: act.map(|act| (act, product)),
        };
        Some(graph.record(result, move |gradient| derivative.backward(gradient)))
    }
}

/// What the derivative of a product needs.
struct Derivative {
    /// Of the input.
    shape: Shape,
    /// If the weight wants a gradient.
    x: Option<FlexTensor>,
    /// If the input wants one.
    weight: Option<Held>,
    /// Of the weight, and which way it lies.
    dims: [usize; 2],
    turned: bool,
    of_bias: bool,
    /// Of the weight.
    dtype: DType,
    /// The activation, and what it was applied to.
    act: Option<(Pointwise, FlexTensor)>,
}

impl Derivative {
    fn backward(self, gradient: FlexTensor) -> [Option<FlexTensor>; 3] {
        let [first, second] = self.dims;
        let (input, output) = if self.turned { (first, second) } else { (second, first) };
        let gradient = match self.act {
            Some((act, product)) => backward::pointwise(act, &product, gradient),
            None => gradient.to_contiguous(),
        };
        let dy = slice(&gradient);
        let of_bias = self.of_bias.then(|| backward::bias(dy, output));
        let of_weight = self.x.map(|x| {
            let x = slice(&x);
            let (a, b) = if self.turned { (x, dy) } else { (dy, x) };
            backward::cast(backward::weight(a, b, self.dims), self.dtype)
        });
        let of_x = self.weight.as_ref().and_then(|held| {
            let (weight, shape) = (held.weight(second)?, self.shape);
            Some(if self.turned {
                backward::input_transposed(dy, weight, input, shape)
            } else {
                backward::input(dy, weight, input, shape)
            })
        });
        [of_x, of_weight, of_bias]
    }
}
