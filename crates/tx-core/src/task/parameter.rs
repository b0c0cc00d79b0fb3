//! The parameters of a model one by one, of any shape: what training, adapters and optimizers see of it.

use std::fmt;

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::module::ParamId;
use burn::tensor::{DType, GradientCheckpointingStrategy, Gradients, Tensor};

/// A tensor that a model has learned.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name on the Hub, as [`PretrainedModel::tensors`](super::PretrainedModel::tensors) has it.
    pub name: String,
    /// Its identity, which parameters that are tied have in common.
    pub id: ParamId,
    /// The type of the module whose field it is, such as `Linear`, `Conv1dLinear`, `Embedding` or `LayerNorm`.
    pub layer: String,
    /// Its value.
    pub tensor: AnyTensor,
}

/// A float tensor of any dtype and with any number of axes.
#[derive(Clone)]
pub struct AnyTensor(DispatchTensor);

impl AnyTensor {
    /// The sizes of its axes.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().as_slice().to_vec()
    }

    /// The number of its elements.
    pub fn num_elements(&self) -> usize {
        self.0.shape().num_elements()
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// Whether it is quantized: it can be multiplied with then, and nothing else.
    pub fn is_quantized(&self) -> bool {
        matches!(self.dtype(), DType::QFloat(_))
    }

    /// The tensor with the number of its axes.
    ///
    /// # Panics
    /// If it has another number of axes.
    pub fn to<const D: usize>(self) -> Tensor<D> {
        assert_eq!(self.0.rank(), D, "a tensor of shape {:?} as one with {D} axes", self.shape());
        Tensor::from_dispatch(self.0)
    }

    /// All elements in a row. What it shares with other tensors is not copied.
    pub fn flatten(self) -> Tensor<1> {
        let elements = self.num_elements();
        self.erased().reshape([elements])
    }

    /// Elements that were in a row, in the shape that they are to have.
    ///
    /// # Panics
    /// If the shape has another number of elements, or more than eight axes.
    pub fn from_flat(flat: Tensor<1>, shape: &[usize]) -> Self {
        match *shape {
            [a] => flat.reshape([a]).into(),
            [a, b] => flat.reshape([a, b]).into(),
            [a, b, c] => flat.reshape([a, b, c]).into(),
            [a, b, c, d] => flat.reshape([a, b, c, d]).into(),
            [a, b, c, d, e] => flat.reshape([a, b, c, d, e]).into(),
            [a, b, c, d, e, f] => flat.reshape([a, b, c, d, e, f]).into(),
            [a, b, c, d, e, f, g] => flat.reshape([a, b, c, d, e, f, g]).into(),
            [a, b, c, d, e, f, g, h] => flat.reshape([a, b, c, d, e, f, g, h]).into(),
            _ => panic!("a tensor of shape {shape:?}"),
        }
    }

    /// Whether a backward pass gives its gradient.
    pub fn is_tracked(&self) -> bool {
        !self.is_quantized() && self.clone().erased().is_require_grad()
    }

    /// The same values as a leaf of the graph, whose gradient a backward pass gives.
    pub fn track(self) -> Self {
        self.untrack().erased().autodiff().require_grad().into()
    }

    /// The same leaf, in a graph that keeps less: what is cheap is computed again in the backward pass. All leaves that meet
    /// in an operation must be of this kind, or none.
    ///
    /// # Panics
    /// If it is a constant.
    pub fn recomputing(self) -> Self {
        self.erased().with_gradient_checkpointing_strategy(GradientCheckpointingStrategy::Balanced).into()
    }

    /// The same values as a constant. If nothing else holds the tensor, its memory is its own then.
    pub fn untrack(self) -> Self {
        self.erased().without_autodiff().into()
    }

    /// Takes its gradient from those of a backward pass, if there is one.
    pub fn gradient(&self, gradients: &mut Gradients) -> Option<Self> {
        self.clone().erased().grad_remove(gradients).map(Self::from)
    }

    /// The tensor for operations that do not look at the number of axes in its type.
    fn erased(self) -> Tensor<1> {
        Tensor::from_dispatch(self.0)
    }
}

impl<const D: usize> From<Tensor<D>> for AnyTensor {
    fn from(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }
}

impl fmt::Debug for AnyTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyTensor").field("dtype", &self.dtype()).field("shape", &self.shape()).finish()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_tracked_tensor_has_a_gradient_and_its_memory_is_its_own_afterwards() {
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &Device::default());
        let x = AnyTensor::from(x).track();
        assert!(x.is_tracked());
        let y = x.clone().to::<2>();
        let mut gradients = (y.clone() * y).sum().backward();
        let gradient = x.gradient(&mut gradients).unwrap();
        assert_eq!(gradient.shape(), [2, 2]);
        assert_eq!(gradient.flatten().into_data().try_to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0, 8.0]);
        drop(gradients);
        let again = x.clone().recomputing();
        let y = again.clone().to::<2>();
        let gradient = again.gradient(&mut (y.clone() * y.exp()).sum().backward()).unwrap();
        assert!((gradient.flatten().into_data().iter::<f32>().next().unwrap() - 2.0 * 1f32.exp()).abs() < 1e-5);
        drop(again);
        let x = x.untrack();
        assert!(!x.is_tracked());
        let flat = x.flatten();
        assert!(flat.can_mut());
        let x = AnyTensor::from_flat(flat, &[4, 1]);
        assert_eq!((x.shape(), x.num_elements(), x.dtype()), (vec![4, 1], 4, DType::F32));
    }
}
