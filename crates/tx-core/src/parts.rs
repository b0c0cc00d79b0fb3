//! Large batches in parts: on a CPU, what lies between two layers should fit into the caches.
//!
//! The rows of a batch do not depend on each other, so a pass over some of them at a time gives the same numbers. Where
//! products are fast it takes less time, because the intermediate values of a thousand tokens would have to come back from
//! memory in every layer; and it bounds the memory of a pass whatever the batch.

use burn::tensor::{Int, Tensor};

use crate::device;
use crate::nn::{Cache, CacheKind};
use crate::task::{
    BaseModelOutput, CausalLm, MaskedLm, MultipleChoice, NextSentencePredictor, PretrainedModel, QuestionAnswerer,
    QuestionAnsweringOutput, Record, SequenceClassifier, TextInputs, TextModel, TokenClassifier, TokenDiscriminator,
};
use crate::weights::StoredTensor;
use crate::weights::load::LoadReport;

/// Tokens of a part, with padding; a part has at least one row.
const TOKENS: usize = 1024;

/// The same with 8-bit weights, whose products wait for memory otherwise (measured with BERT-base: a tenth of the time).
const TOKENS_QUANTIZED: usize = 256;

/// A model that is called with batches of any size, and computes them in parts.
#[derive(Debug)]
pub(crate) struct InParts<M> {
    model: M,
    tokens: usize,
}

impl<M> InParts<M> {
    pub(crate) fn new(model: M, report: &LoadReport) -> Self {
        Self { model, tokens: if report.quantized > 0 { TOKENS_QUANTIZED } else { TOKENS } }
    }
}

impl<M: PretrainedModel> PretrainedModel for InParts<M> {
    fn tensors(&self) -> Vec<(String, StoredTensor)> {
        self.model.tensors()
    }

    fn num_parameters(&self) -> usize {
        self.model.num_parameters()
    }
}

/// What a model gives for some rows of a batch.
trait Rows: Sized {
    /// The results of consecutive rows as one.
    fn join(parts: Vec<Self>) -> Self;
}

impl<const D: usize> Rows for Tensor<D> {
    fn join(parts: Vec<Self>) -> Self {
        Tensor::cat(parts, 0)
    }
}

impl Rows for BaseModelOutput {
    fn join(parts: Vec<Self>) -> Self {
        let (states, pooled): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.last_hidden_state, part.pooler_output)).unzip();
        let pooled: Option<Vec<_>> = pooled.into_iter().collect();
        Self { last_hidden_state: Rows::join(states), pooler_output: pooled.map(Rows::join) }
    }
}

impl Rows for QuestionAnsweringOutput {
    fn join(parts: Vec<Self>) -> Self {
        let (starts, ends) = parts.into_iter().map(|part| (part.start_logits, part.end_logits)).unzip();
        Self { start_logits: Rows::join(starts), end_logits: Rows::join(ends) }
    }
}

/// Calls `forward` with some rows at a time.
fn in_parts<T: Rows>(
    tokens: usize,
    inputs: &TextInputs,
    record: &mut Record,
    forward: impl Fn(&TextInputs, &mut Record) -> T,
) -> T {
    let [batch, seq] = inputs.input_ids.dims();
    let parts = batch.div_ceil((tokens / seq).max(1));
    if parts == 1 || !device::is_cpu(&inputs.input_ids.device()) {
        return forward(inputs, record);
    }
    let mut records = Vec::with_capacity(parts);
    let mut results = Vec::with_capacity(parts);
    for part in 0..parts {
        // Parts of equal size, as far as that goes.
        let rows = part * batch / parts..(part + 1) * batch / parts;
        let mut recorded = Record::new(record.hidden_states.is_some(), record.attentions.is_some());
        results.push(forward(&inputs.rows(rows), &mut recorded));
        records.push(recorded);
    }
    join_each(&mut record.hidden_states, records.iter_mut().map(|part| part.hidden_states.take()));
    join_each(&mut record.attentions, records.iter_mut().map(|part| part.attentions.take()));
    T::join(results)
}

/// Joins what each layer left in the parts.
fn join_each<T: Rows>(into: &mut Option<Vec<T>>, parts: impl Iterator<Item = Option<Vec<T>>>) {
    let Some(into) = into else { return };
    let mut layers: Vec<_> = parts.flatten().map(Vec::into_iter).collect();
    loop {
        let layer: Vec<T> = layers.iter_mut().filter_map(Iterator::next).collect();
        if layer.is_empty() {
            return;
        }
        into.push(T::join(layer));
    }
}

/// A decoder's rows share a cache, so they are not taken apart.
impl<M: CausalLm> CausalLm for InParts<M> {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.model.cache_kinds()
    }

    fn restarts_at(&self) -> Option<usize> {
        self.model.restarts_at()
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        self.model.decode(x, inputs, cache, record)
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        self.model.head(x)
    }
}

macro_rules! tasks_in_parts {
    ($($task:ident: $output:ty;)*) => {$(
        impl<M: $task> $task for InParts<M> {
            fn forward(&self, inputs: &TextInputs, record: &mut Record) -> $output {
                in_parts(self.tokens, inputs, record, |inputs, record| self.model.forward(inputs, record))
            }
        }
    )*};
}

tasks_in_parts! {
    TextModel: BaseModelOutput;
    MaskedLm: Tensor<3>;
    SequenceClassifier: Tensor<2>;
    TokenClassifier: Tensor<3>;
    QuestionAnswerer: QuestionAnsweringOutput;
    MultipleChoice: Tensor<2>;
    NextSentencePredictor: Tensor<2>;
    TokenDiscriminator: Tensor<2>;
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn parts_are_joined_in_order_with_what_they_record() {
        let device = Device::default();
        let input_ids = Tensor::<1, Int>::arange(0..30, &device).reshape([10, 3]);
        let inputs = TextInputs { input_ids, attention_mask: None, token_type_ids: None, position_ids: None };
        let values = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        for tokens in [1, 3, 7, 12, 1000] {
            let mut record = Record::new(true, false);
            let mut sizes = Vec::new();
            let sizes_cell = std::cell::RefCell::new(&mut sizes);
            let all = in_parts(tokens, &inputs, &mut record, |inputs, record| {
                sizes_cell.borrow_mut().push(inputs.input_ids.dims()[0]);
                let x = inputs.input_ids.clone().float();
                record.hidden_state(&x.clone().unsqueeze_dim(2));
                record.hidden_state(&x.clone().neg().unsqueeze_dim(2));
                x
            });
            assert_eq!(values(all), (0..30).map(|i| i as f32).collect::<Vec<_>>());
            assert!(sizes.iter().all(|&rows| rows == 1 || rows * 3 <= tokens), "{sizes:?}");
            let states = record.hidden_states.unwrap_or_default();
            assert_eq!(states.len(), 2);
            assert_eq!(values(states[1].clone().neg().squeeze_dim(2))[29], 29.0);
        }
    }
}
