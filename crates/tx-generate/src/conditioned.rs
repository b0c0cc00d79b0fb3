//! A decoder with an encoder, seen as a decoder alone: what the encoder made of its input is the same for every token.

use burn::tensor::{Int, Tensor};
use tx_core::nn::{Cache, CacheKind};
use tx_core::task::{AnyTensor, CausalLm, ConditionalLm, Encoded, Parameter, PretrainedModel, Record, TextInputs};
use tx_core::weights::StoredTensor;

/// A model and what its encoder made of one input: what a [`Generator`](crate::Generator) continues prompts with.
///
/// All prompts of a call, their beams and samples, are about that one input.
#[derive(Debug)]
pub struct Conditioned<'m> {
    /// The model.
    pub model: &'m dyn ConditionalLm,
    /// What its encoder made of the input, a batch of one.
    pub encoded: Encoded,
}

impl PretrainedModel for Conditioned<'_> {
    fn tensors(&self) -> Vec<(String, StoredTensor)> {
        self.model.tensors()
    }

    fn num_parameters(&self) -> usize {
        self.model.num_parameters()
    }

    /// None: they are those of the model, which is borrowed.
    fn visit_parameters(&self, _: &mut dyn FnMut(Parameter)) {}

    fn map_parameters(&mut self, _: &mut dyn FnMut(Parameter) -> AnyTensor) {}
}

impl CausalLm for Conditioned<'_> {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.model.cache_kinds()
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        self.model.decode(x, inputs, &self.encoded, cache, record)
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        self.model.head(x)
    }
}
