//! Whisper's encoder: two convolutions over the spectrogram, and layers.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use tx_core::nn::{Activation, Conv1d, Embedding, LayerCache, LayerNorm, Linear, Mask};
use tx_core::task::{AudioInputs, Record};

use super::{Attention, FRAMES, LAYER_NORM_EPS, WhisperConfig};

/// The width of both convolutions.
const KERNEL: usize = 3;

/// A stack of pre-norm layers over a spectrogram.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    conv1: Conv1d,
    conv2: Conv1d,
    embed_positions: Embedding,
    layers: Vec<Layer>,
    layer_norm: LayerNorm,
}

impl Encoder {
    pub(super) fn new(config: &WhisperConfig, device: &Device) -> Self {
        let hidden = config.d_model;
        let conv = |input| Conv1d::new(input, hidden, KERNEL, device).with_bias(true).with_padding(KERNEL / 2);
        Self {
            conv1: conv(config.num_mel_bins),
            conv2: conv(hidden).with_stride(FRAMES),
            embed_positions: Embedding::new(config.max_source_positions, hidden, device),
            layers: (0..config.encoder_layers).map(|_| Layer::new(config, device)).collect(),
            layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
        }
    }

    /// # Shapes
    /// - output: `[batch, positions, hidden]`
    pub(super) fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3> {
        // Whatever the activation of the layers is, that of the convolutions is GELU.
        let x = self.conv1.forward_activated(inputs.values.clone(), Activation::Gelu);
        let x = self.conv2.forward_activated(x, Activation::Gelu).swap_dims(1, 2);
        let positions = Tensor::<1, Int>::arange(0..x.dims()[1] as i64, &x.device());
        let mut x = x + self.embed_positions.rows(positions).unsqueeze::<3>();
        for layer in &self.layers {
            record.hidden_state(&x);
            x = layer.forward(x, record);
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
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl Layer {
    fn new(config: &WhisperConfig, device: &Device) -> Self {
        let (hidden, inner) = (config.d_model, config.encoder_ffn_dim);
        Self {
            self_attn: Attention::new(hidden, config.encoder_attention_heads, device),
            self_attn_layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            fc1: Linear::new(hidden, inner, true, device),
            fc2: Linear::new(inner, hidden, true, device),
            final_layer_norm: LayerNorm::new(hidden, LAYER_NORM_EPS, device),
            act: config.activation_function,
        }
    }

    fn forward(&self, x: Tensor<3>, record: &mut Record) -> Tensor<3> {
        let (mask, mut cache) = (Mask::default(), LayerCache::Off);
        let attended = self.self_attn.forward(self.self_attn_layer_norm.forward(x.clone()), &mask, &mut cache, record);
        let x = x + attended;
        x.clone() + self.mlp(self.final_layer_norm.forward(x))
    }

    fn mlp(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_activated(x, self.act))
    }
}
