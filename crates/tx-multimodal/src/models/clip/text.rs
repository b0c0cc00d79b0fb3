//! CLIP's text tower: a decoder of which the last token stands for the text.

use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor};
use tx_core::nn::{Embedding, LayerNorm};
use tx_core::task::{BaseModelOutput, Record, TextInputs, TextModel};
use tx_core::weights::load::{Parts, Pretrained};

use super::config::ClipTextConfig;
use super::encoder::Encoder;

/// The id that files of the first versions have for the end of a text, whatever the vocabulary.
const LEGACY_EOS_TOKEN_ID: i64 = 2;

/// The text tower.
#[derive(Module, Debug)]
pub struct ClipTextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    eos_token_id: i64,
}

impl ClipTextModel {
    /// `config` is that of the tower.
    pub(super) fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let (hidden, positions) = (config.hidden_size, config.max_position_embeddings);
        Self {
            embeddings: Embeddings::new(config.vocab_size, positions, hidden, device),
            encoder: Encoder::new(&config.encoder(), device),
            final_layer_norm: LayerNorm::new(hidden, config.layer_norm_eps, device),
            eos_token_id: config.eos_token_id,
        }
    }

    /// Every token, and the one that stands for its text.
    ///
    /// # Shapes
    /// - output: `[batch, seq, hidden]`, `[batch, hidden]`
    pub(super) fn encode(&self, inputs: &TextInputs, record: &mut Record) -> (Tensor<3>, Tensor<2>) {
        let x = self.encoder.forward(self.embeddings.forward(inputs), &inputs.causal_mask(None), record);
        let x = self.final_layer_norm.forward(x);
        (x.clone(), self.pool(x, &inputs.input_ids))
    }

    /// The state of the first end of each text; that of its first token, if it has no end.
    ///
    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - input_ids: `[batch, seq]`
    /// - output: `[batch, hidden]`
    fn pool(&self, x: Tensor<3>, input_ids: &Tensor<2, Int>) -> Tensor<2> {
        let [batch, seq, hidden] = x.dims();
        let ends: Tensor<2, Bool> = if self.eos_token_id == LEGACY_EOS_TOKEN_ID {
            let highest: Tensor<2, Int> = input_ids.clone().max_dim(1).expand([batch, seq]);
            input_ids.clone().equal(highest)
        } else {
            input_ids.clone().equal_elem(self.eos_token_id)
        };
        let before = ends.int().cumsum(1).equal_elem(0).int().sum_dim(1); // [batch, 1]
        let none = before.clone().equal_elem(seq as i64);
        let position = before.mask_fill(none, 0).reshape([batch]);
        let rows = position + Tensor::<1, Int>::arange(0..batch as i64, &x.device()) * seq as i64;
        x.reshape([batch * seq, hidden]).select(0, rows)
    }
}

impl Pretrained for ClipTextModel {
    type Config = ClipTextConfig;
    const PREFIX: &'static str = "text_model";

    fn init(config: &ClipTextConfig, _: &Parts, device: &Device) -> Self {
        Self::new(config.tower(), device)
    }
}

impl TextModel for ClipTextModel {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        let (x, pooled) = self.encode(inputs, record);
        BaseModelOutput { last_hidden_state: x, pooler_output: Some(pooled) }
    }
}

/// Word and position vectors, summed.
#[derive(Module, Debug)]
pub(in crate::models) struct Embeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

impl Embeddings {
    pub(in crate::models) fn new(words: usize, positions: usize, hidden: usize, device: &Device) -> Self {
        Self {
            token_embedding: Embedding::new(words, hidden, device),
            position_embedding: Embedding::new(positions, hidden, device),
        }
    }

    /// # Shapes
    /// - output: `[batch, seq, hidden]`
    pub(in crate::models) fn forward(&self, inputs: &TextInputs) -> Tensor<3> {
        let words = self.token_embedding.forward(inputs.input_ids.clone());
        words + self.position_embedding.forward(inputs.position_ids_or_range())
    }
}
