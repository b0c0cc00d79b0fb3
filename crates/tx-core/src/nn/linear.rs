//! The matrix product that all models go through.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::adapter::{self, LinearBase};
use super::{Activation, INITIALIZER_RANGE, constant, normal};
use crate::device;

/// `y = x · Wᵀ + b`, with the weight in the checkpoint's layout and dtype.
///
/// Nothing is transposed, copied or converted when it is loaded; 16-bit weights stay 16-bit under f32 activations.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `input` features to `output` features.
    pub fn new(input: usize, output: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: normal([output, input], INITIALIZER_RANGE, device),
            bias: bias.then(|| constant([output], 0.0, device)),
        }
    }

    /// # Shapes
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match adapter::of_linear(self.weight.id) {
            Some(adapter) => adapter::apply(&*adapter, x, self.base()),
            None => {
                let (weight, bias) = self.parameters();
                tx_kernels::linear(x, weight, bias, None)
            }
        }
    }

    /// `act(forward(x))`, in one pass.
    ///
    /// # Shapes
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward_activated<const D: usize>(&self, x: Tensor<D>, act: Activation) -> Tensor<D> {
        let pointwise = act.pointwise().filter(|_| adapter::of_linear(self.weight.id).is_none());
        let Some(pointwise) = pointwise else { return act.forward(self.forward(x)) };
        let (weight, bias) = self.parameters();
        tx_kernels::linear(x, weight, bias, Some(pointwise))
    }

    /// The weight as that of so many heads, `out / heads` rows each; `None` if the layer does more than to multiply with
    /// it.
    pub fn by_heads(&self, heads: usize) -> Option<HeadWeights> {
        if self.bias.is_some() || adapter::of_linear(self.weight.id).is_some() {
            return None;
        }
        Some(HeadWeights { weight: tx_kernels::dequantize(self.weight.val()), heads })
    }

    fn base(&self) -> LinearBase {
        let (weight, bias) = self.parameters();
        LinearBase::new(weight, bias, false)
    }

    fn parameters(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(adapter::value))
    }
}

/// The weight of a [`Linear`] for products of each head with some of the rows that are its own.
#[derive(Debug, Clone)]
pub struct HeadWeights {
    /// `[heads · rows, in]`
    weight: Tensor<2>,
    heads: usize,
}

impl HeadWeights {
    /// `x · Wᵀ`: what the layer makes of its inputs, where each head has another one.
    ///
    /// # Shapes
    /// - x: `[batch, seq, heads, in]`
    /// - output: `[batch, seq, heads, rows]`
    pub fn forward(&self, x: Tensor<4>, rows: Range<usize>) -> Tensor<4> {
        let at_once = |x: Tensor<3>, weight: Tensor<3>| x.matmul(weight.swap_dims(1, 2));
        self.each(x, rows, at_once, |x, weight| tx_kernels::linear(x, weight, None, None))
    }

    /// `x · W`: the way back.
    ///
    /// # Shapes
    /// - x: `[batch, seq, heads, rows]`
    /// - output: `[batch, seq, heads, in]`
    pub fn forward_transposed(&self, x: Tensor<4>, rows: Range<usize>) -> Tensor<4> {
        self.each(x, rows, Tensor::matmul, |x, weight| tx_kernels::linear_transposed(x, weight, None, None))
    }

    /// A product of all heads at once, or one after another.
    fn each(
        &self,
        x: Tensor<4>,
        rows: Range<usize>,
        at_once: impl Fn(Tensor<3>, Tensor<3>) -> Tensor<3>,
        of_head: impl Fn(Tensor<3>, Tensor<2>) -> Tensor<3>,
    ) -> Tensor<4> {
        let (heads, [all, input], [batch, seq, _, width]) = (self.heads, self.weight.dims(), x.dims());
        let each = all / heads;
        let x = x.reshape([batch * seq, heads, width]).swap_dims(0, 1);
        let converted = self.weight.dtype() != x.dtype();
        // Converting all of a weight costs more than the products of a few tokens do, so that each head's part is read as
        // it is. Other devices than the processor would start a kernel for each.
        let y = if converted && device::is_cpu(&x.device()) {
            let product = |head: usize| {
                let weight = self.weight.clone().narrow(0, head * each + rows.start, rows.len());
                of_head(x.clone().narrow(0, head, 1), weight)
            };
            Tensor::cat((0..heads).map(product).collect(), 0)
        } else {
            let weight = self.weight.clone();
            let weight = if converted { weight.cast(x.dtype()) } else { weight };
            at_once(x, weight.reshape([heads, each, input]).narrow(1, rows.start, rows.len()))
        };
        let width = y.dims()[2];
        y.swap_dims(0, 1).reshape([batch, seq, heads, width])
    }
}

/// Several projections of one input, which is read once.
///
/// # Shapes
/// - x: `[.., in]`
/// - output: `[.., out]` of each layer
pub fn project<const D: usize, const N: usize>(x: Tensor<D>, layers: [&Linear; N]) -> [Tensor<D>; N] {
    let adapters = match adapter::on_any_linear() {
        true => layers.map(|layer| adapter::of_linear(layer.weight.id)),
        false => std::array::from_fn(|_| None),
    };
    let changed = adapters.iter().flatten();
    if changed.clone().next().is_none() {
        return tx_kernels::linears(x, layers.map(Linear::parameters), None);
    }
    if changed.clone().any(|adapter| !adapter.wants_output()) {
        return layers.map(|layer| layer.forward(x.clone()));
    }
    let mut outputs = tx_kernels::linears(x.clone(), layers.map(Linear::parameters), None).map(Some);
    std::array::from_fn(|i| match (outputs[i].take(), &adapters[i]) {
        (Some(output), None) => output,
        (output, Some(adapter)) => adapter::apply(&**adapter, x.clone(), layers[i].base().with_output(output)),
        (None, None) => layers[i].forward(x.clone()),
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;

    #[test]
    fn heads_multiply_with_their_own_rows() {
        let device = Device::default();
        // Two heads of three rows.
        let rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0], [11.0, 12.0]];
        let x = Tensor::<4>::from_floats([[[[1.0, -1.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]], &device);
        let numbers = |x: Tensor<4>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        for dtype in [DType::F32, DType::BF16] {
            let weight = Tensor::<2>::from_floats(rows, &device).cast(dtype);
            let weights = Linear { weight: Param::from_tensor(weight), bias: None }.by_heads(2).unwrap();
            let y = weights.forward(x.clone(), 1..3);
            assert_eq!(y.dims(), [1, 2, 2, 2]);
            assert_eq!(numbers(y), [-1.0, -1.0, 28.0, 34.0, 4.0, 6.0, 9.0, 11.0], "{dtype:?}");
            let y = weights.forward_transposed(x.clone(), 1..3);
            assert_eq!(numbers(y), [-2.0, -2.0, 29.0, 32.0, 5.0, 6.0, 9.0, 10.0], "{dtype:?}");
            let y = weights.forward(x.clone(), 0..1);
            assert_eq!(y.dims(), [1, 2, 2, 1]);
            assert_eq!(numbers(y), [-1.0, 22.0, 2.0, 7.0], "{dtype:?}");
        }
        assert!(Linear::new(2, 6, true, &device).by_heads(2).is_none());
    }
}
