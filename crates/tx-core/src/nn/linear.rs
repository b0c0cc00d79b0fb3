//! The matrix product that all models go through.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use super::adapter::{self, LinearBase};
use super::{Activation, INITIALIZER_RANGE, constant, normal};

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

    /// The weight in a dtype of activations, however it is kept, for products with parts of it; `None` if the layer does
    /// more than to multiply with it.
    ///
    /// # Shapes
    /// - output: `[out, in]`
    pub fn weight_as(&self, dtype: DType) -> Option<Tensor<2>> {
        if self.bias.is_some() || adapter::of_linear(self.weight.id).is_some() {
            return None;
        }
        let weight = tx_kernels::dequantize(self.weight.val());
        Some(if weight.dtype() == dtype { weight } else { weight.cast(dtype) })
    }

    fn base(&self) -> LinearBase {
        let (weight, bias) = self.parameters();
        LinearBase::new(weight, bias, false)
    }

    fn parameters(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(adapter::value))
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
