//! Whisper's decoder, which looks at the tokens so far and at what the encoder heard.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use tx_core::nn::{Activation, Cache, Embedding, LayerCache, LayerNorm, Linear, Mask};
use tx_core::task::{Encoded, Record, TextInputs};

use super::{Attention, LAYER_NORM_EPS, WhisperConfig};

/// A stack of pre-norm layers over tokens.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    embed_tokens: Embedding,
    embed_positions: Embedding,
    layers: Vec<Layer>,
    layer_norm: LayerNorm,
}

impl Decoder {
    pub(super) fn new(config: &WhisperConfig, device: &Device) -> Self {
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.d_model, device),
            embed_positions: Embedding::new(config.max_target_positions, config.d_model, device),
            layers: (0..config.decoder_layers).map(|_| Layer::new(config, device)).collect(),
            layer_norm: LayerNorm::new(config.d_model, LAYER_NORM_EPS, device),
        }
    }

    pub(super) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// # Shapes
    /// - input_ids: `[batch, seq]`
    /// - output: `[batch, seq, hidden]`
    pub(super) fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(input_ids)
    }

    /// What the encoder heard, with the keys and values of each layer for it.
    ///
    /// # Shapes
    /// - x: `[sounds, positions, hidden]`
    pub(super) fn attend(&self, x: Tensor<3>) -> Encoded {
        let keys_values = self.layers.iter().map(|layer| layer.encoder_attn.keys_values(x.clone())).collect();
        Encoded { last_hidden_state: x, attention_mask: None, keys_values }
    }

    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        inputs: &TextInputs,
        encoded: &Encoded,
        cache: &mut Cache,
        record: &mut Record,
    ) -> Tensor<3> {
        let mut x = x + self.embed_positions.forward(inputs.position_ids_from(cache.length()));
        let (mask, heard) = (inputs.causal_mask(None), Mask::padding(encoded.attention_mask.clone()));
        for ((layer, keys_values), cache) in self.layers.iter().zip(&encoded.keys_values).zip(cache.layers()) {
            record.hidden_state(&x);
            x = layer.forward(x, [&mask, &heard], keys_values, cache, record);
        }
        // The last layer's output is recorded as the final norm leaves it.
        let x = self.layer_norm.forward(x);
        record.hidden_state(&x);
        x
    }
}

#[derive(Module, Debug)]
struct Layer {
    self_attn: Attention,
    self_attn_layer_norm: LayerNorm,
    encoder_attn: Attention,
    encoder_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl Layer {
    fn new(config: &WhisperConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.d_model, config.decoder_ffn_dim);
        let norm = || LayerNorm::new(hidden, LAYER_NORM_EPS, device);
        let attention = || Attention::new(hidden, config.decoder_attention_heads, device);
        Self {
            self_attn: attention(),
            self_attn_layer_norm: norm(),
            encoder_attn: attention(),
            encoder_attn_layer_norm: norm(),
            fc1: Linear::new(hidden, inner, true, device),
            fc2: Linear::new(inner, hidden, true, device),
            final_layer_norm: norm(),
            act: config.activation_function,
        }
    }

    /// `masks` hide tokens, and what the encoder heard.
    fn forward(
        &self,
        x: Tensor<3>,
        masks: [&Mask; 2],
        keys_values: &[Tensor<4>; 2],
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let [tokens, heard] = masks;
        let x = x.clone() + self.self_attn.forward(self.self_attn_layer_norm.forward(x), tokens, cache, record);
        let y = self.encoder_attn_layer_norm.forward(x.clone());
        let cross = |record: &mut Record| self.encoder_attn.forward_cross(y, keys_values.clone(), heard, record);
        let x = x + record.within("cross_", cross);
        x.clone() + self.mlp(self.final_layer_norm.forward(x))
    }

    fn mlp(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_activated(x, self.act))
    }
}
