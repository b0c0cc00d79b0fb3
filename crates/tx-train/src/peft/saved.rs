//! What is part of an adapter as a whole: layers in place of the model's, and single parameters of it.

use std::sync::Arc;

use burn::module::ParamId;
use burn::tensor::{Int, Tensor};
use tx_core::nn::adapter::{EmbeddingAdapter, LinearAdapter, LinearBase, ParameterAdapter};
use tx_core::task::AnyTensor;

use super::modules::Kind;
use super::slot::Slot;

/// A layer in place of one of the model's: of `modules_to_save`.
#[derive(Debug)]
pub struct Saved {
    /// The module that it replaces.
    pub path: String,
    /// The weight of that.
    pub id: ParamId,
    /// What kind of module it is.
    pub kind: Kind,
    /// As the model's.
    pub weight: Slot,
    /// As the model's.
    pub bias: Option<Slot>,
}

impl LinearAdapter for Saved {
    fn forward(&self, x: Tensor<2>, _: &mut LinearBase) -> Tensor<2> {
        let bias = self.bias.as_ref().map(Slot::get);
        LinearBase::new(self.weight.get(), bias, self.kind.is_transposed()).apply(x)
    }

    fn wants_output(&self) -> bool {
        false
    }
}

impl EmbeddingAdapter for Saved {
    fn rows(&self, ids: Tensor<1, Int>, _: Tensor<2>) -> Tensor<2> {
        tx_kernels::embedding(self.weight.get(), ids)
    }
}

/// A parameter of the model that the adapter has another value for.
#[derive(Debug)]
pub struct Loose {
    /// The identity of the parameter in the model.
    pub id: ParamId,
    /// Its value.
    pub slot: Arc<Slot>,
}

impl ParameterAdapter for Slot {
    fn value(&self) -> AnyTensor {
        self.any()
    }
}
