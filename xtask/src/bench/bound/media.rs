//! What models of pictures and sounds have to do: their linear maps, their convolutions and their attention.
//!
//! Biases, norms, activations and poolings are left out. So is what convolutions would multiply with the zeros around a
//! map, and what tokens would make of those that they do not see.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tx_core::config::read_json;

use super::Cost;
use crate::bench::inputs::PICTURE;

/// How much narrower the middle of a ResNet's bottleneck is.
const REDUCTION: usize = 4;

/// Layers of a transformer.
#[derive(Clone, Copy, Deserialize)]
struct Layers {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
}

/// Patches, and layers over them.
#[derive(Deserialize)]
struct Vision {
    #[serde(flatten)]
    layers: Layers,
    num_channels: usize,
    patch_size: usize,
}

/// The keys of classifiers, of which there are two kinds.
#[derive(Deserialize)]
#[serde(tag = "model_type", rename_all = "lowercase")]
enum Classifier {
    Vit(Vit),
    ResNet(ResNet),
}

#[derive(Deserialize)]
struct Vit {
    #[serde(flatten)]
    vision: Vision,
    num_labels: usize,
}

#[derive(Deserialize)]
struct ResNet {
    num_channels: usize,
    embedding_size: usize,
    hidden_sizes: Vec<usize>,
    depths: Vec<usize>,
    layer_type: String,
    num_labels: usize,
}

#[derive(Deserialize)]
struct Clip {
    text_config: Layers,
    vision_config: Vision,
    projection_dim: usize,
}

#[derive(Deserialize)]
struct Whisper {
    d_model: usize,
    encoder_layers: usize,
    encoder_ffn_dim: usize,
    decoder_layers: usize,
    decoder_ffn_dim: usize,
    num_mel_bins: usize,
    max_source_positions: usize,
    vocab_size: usize,
}

#[derive(Deserialize)]
struct Wav2Vec2 {
    #[serde(flatten)]
    layers: Layers,
    conv_dim: Vec<usize>,
    conv_kernel: Vec<usize>,
    conv_stride: Vec<usize>,
    num_conv_pos_embeddings: usize,
    num_conv_pos_embedding_groups: usize,
    vocab_size: usize,
}

/// A convolution, the same along every axis.
#[derive(Clone, Copy)]
struct Convolution {
    inputs: usize,
    outputs: usize,
    groups: usize,
    kernel: usize,
    stride: usize,
    /// Zeros before and after the map.
    padding: [usize; 2],
}

impl Convolution {
    fn new(inputs: usize, outputs: usize, kernel: usize, stride: usize, padding: [usize; 2]) -> Self {
        Self { inputs, outputs, groups: 1, kernel, stride, padding }
    }

    /// The length of what it makes of a map of this length.
    fn length(&self, length: usize) -> usize {
        let [before, after] = self.padding;
        (before + length + after).checked_sub(self.kernel).map_or(0, |rest| rest / self.stride + 1)
    }

    /// How often a place of the kernel lies on one of the map.
    fn meetings(&self, length: usize) -> usize {
        let [before, _] = self.padding;
        let starts = (0..self.length(length)).map(|i| i * self.stride);
        starts.map(|start| (start + self.kernel).min(before + length).saturating_sub(start.max(before))).sum()
    }
}

impl Cost {
    /// A linear map of vectors.
    fn map(&mut self, vectors: usize, inputs: usize, outputs: usize) {
        let weights = (inputs * outputs) as f64;
        self.linear += 2.0 * vectors as f64 * weights;
        self.bytes += 4.0 * weights;
    }

    /// A convolution over maps; gives the lengths of the axes of what it makes.
    fn convolve<const N: usize>(&mut self, maps: usize, convolution: Convolution, lengths: [usize; N]) -> [usize; N] {
        let weights = convolution.outputs * (convolution.inputs / convolution.groups);
        let meetings: usize = lengths.iter().map(|&length| convolution.meetings(length)).product();
        self.linear += 2.0 * (maps * meetings * weights) as f64;
        self.bytes += 4.0 * (weights * convolution.kernel.pow(N as u32)) as f64;
        lengths.map(|length| convolution.length(length))
    }

    /// Layers over tokens, which see others in so many `pairs`.
    fn layers(&mut self, layers: Layers, tokens: usize, pairs: usize) {
        let Layers { hidden_size: hidden, intermediate_size: intermediate, num_hidden_layers } = layers;
        for _ in 0..num_hidden_layers {
            // Queries, keys, values and output; up and down.
            for (inputs, outputs) in [(hidden, 4 * hidden), (hidden, intermediate), (intermediate, hidden)] {
                self.map(tokens, inputs, outputs);
            }
            self.attention += 2.0 * 2.0 * (pairs * hidden) as f64;
        }
    }

    /// Patches of pictures, each picture behind a token of its own.
    fn vision(&mut self, Vision { layers, num_channels, patch_size }: Vision, pictures: usize) {
        let patches = (PICTURE / patch_size).pow(2);
        self.map(pictures * patches, num_channels * patch_size.pow(2), layers.hidden_size);
        self.layers(layers, pictures * (1 + patches), pictures * (1 + patches).pow(2));
    }

    /// The cost of ViT or of ResNet, for scores of the labels of pictures.
    pub fn image_classifier(model: &Path, pictures: usize) -> Result<Self> {
        let mut cost = Self::default();
        match config::<Classifier>(model)? {
            Classifier::Vit(Vit { vision, num_labels }) => {
                let hidden = vision.layers.hidden_size;
                cost.vision(vision, pictures);
                cost.map(pictures, hidden, num_labels);
            }
            Classifier::ResNet(config) => {
                ensure!(config.layer_type == "bottleneck", "the cost of `{}` layers is not known", config.layer_type);
                cost.resnet(&config, pictures);
            }
        }
        Ok(cost)
    }

    fn resnet(&mut self, config: &ResNet, pictures: usize) {
        let convolution =
            |inputs, outputs, kernel, stride| Convolution::new(inputs, outputs, kernel, stride, [kernel / 2; 2]);
        let stem = convolution(config.num_channels, config.embedding_size, 7, 2);
        let mut map = self.convolve(pictures, stem, [PICTURE; 2]).map(|length| length.div_ceil(2));
        let mut inputs = config.embedding_size;
        for (stage, (&outputs, &depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
            let narrow = outputs / REDUCTION;
            for layer in 0..depth {
                let stride = if stage > 0 && layer == 0 { 2 } else { 1 };
                if layer == 0 {
                    self.convolve(pictures, convolution(inputs, outputs, 1, stride), map);
                }
                self.convolve(pictures, convolution(inputs, narrow, 1, 1), map);
                map = self.convolve(pictures, convolution(narrow, narrow, 3, stride), map);
                self.convolve(pictures, convolution(narrow, outputs, 1, 1), map);
                inputs = outputs;
            }
        }
        self.map(pictures, inputs, config.num_labels);
    }

    /// The cost of CLIP, for how well a picture and texts of `seq` tokens fit.
    pub fn image_text(model: &Path, texts: usize, seq: usize) -> Result<Self> {
        let Clip { text_config, vision_config, projection_dim } = config(model)?;
        let mut cost = Self::default();
        let vision_hidden = vision_config.layers.hidden_size;
        cost.vision(vision_config, 1);
        cost.map(1, vision_hidden, projection_dim);
        cost.layers(text_config, texts * seq, texts * seq * (seq + 1) / 2);
        cost.map(texts, text_config.hidden_size, projection_dim);
        cost.linear += 2.0 * (texts * projection_dim) as f64;
        Ok(cost)
    }

    /// The cost of Whisper's encoder, and of its decoder's keys and values of what was heard.
    pub fn speech_encoder(model: &Path) -> Result<Self> {
        let config: Whisper = config(model)?;
        let (hidden, positions) = (config.d_model, config.max_source_positions);
        let mut cost = Self::default();
        let frames = cost.convolve(1, Convolution::new(config.num_mel_bins, hidden, 3, 1, [1; 2]), [2 * positions]);
        cost.convolve(1, Convolution::new(hidden, hidden, 3, 2, [1; 2]), frames);
        let layers = Layers {
            hidden_size: hidden,
            intermediate_size: config.encoder_ffn_dim,
            num_hidden_layers: config.encoder_layers,
        };
        cost.layers(layers, positions, positions.pow(2));
        cost.map(positions, hidden, 2 * hidden * config.decoder_layers);
        Ok(cost)
    }

    /// The cost of Whisper's decoder, for tokens that come one by one: each reads all weights, and what was kept of the
    /// tokens before it and of what was heard.
    pub fn speech_decoder(model: &Path, prompt: usize, steps: usize) -> Result<Self> {
        let config: Whisper = config(model)?;
        let (hidden, layers) = (config.d_model, config.decoder_layers);
        let mut cost = Self { tokens: Some(steps), ..Self::default() };
        for seen in prompt..prompt + steps {
            // Queries, keys, values and output; queries and output once more for what was heard; up and down.
            cost.map(1, hidden, layers * (6 * hidden + 2 * config.decoder_ffn_dim));
            cost.map(1, hidden, config.vocab_size);
            let kept = seen + config.max_source_positions;
            cost.attention += 2.0 * 2.0 * ((kept + 1) * hidden * layers) as f64;
            cost.bytes += 4.0 * (2 * kept * hidden * layers) as f64;
        }
        Ok(cost)
    }

    /// The cost of wav2vec 2.0, for scores of the tokens at every frame of a waveform.
    pub fn ctc(model: &Path, samples: usize) -> Result<Self> {
        let config: Wav2Vec2 = config(model)?;
        let mut cost = Self::default();
        let (mut inputs, mut frames) = (1, [samples]);
        for ((&outputs, &kernel), &stride) in config.conv_dim.iter().zip(&config.conv_kernel).zip(&config.conv_stride) {
            frames = cost.convolve(1, Convolution::new(inputs, outputs, kernel, stride, [0; 2]), frames);
            inputs = outputs;
        }
        let hidden = config.layers.hidden_size;
        cost.map(frames[0], inputs, hidden);
        let kernel = config.num_conv_pos_embeddings;
        // A kernel of even size would make one frame too many.
        let padding = [kernel / 2, kernel - 1 - kernel / 2];
        let groups = config.num_conv_pos_embedding_groups;
        cost.convolve(1, Convolution { groups, ..Convolution::new(hidden, hidden, kernel, 1, padding) }, frames);
        cost.layers(config.layers, frames[0], frames[0].pow(2));
        cost.map(frames[0], hidden, config.vocab_size);
        Ok(cost)
    }
}

/// The keys of a `config.json` that decide the cost.
fn config<T: DeserializeOwned>(model: &Path) -> Result<T> {
    let path = model.join("config.json");
    serde_json::from_value(read_json(&path)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::root;

    /// The folder of a model of `xtask/bench`, without its weights.
    fn folder(name: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let source = root().join(format!("xtask/bench/{name}.json"));
        fs::copy(&source, folder.path().join("config.json")).unwrap();
        folder
    }

    #[test]
    fn zeros_around_a_map_are_not_multiplied() {
        let convolution = Convolution::new(4, 6, 3, 2, [1, 1]);
        // Of the places -1 to 5, three kernels see 0 and 1; 1, 2 and 3; 3 and 4.
        assert_eq!((convolution.length(5), convolution.meetings(5)), (3, 7));
        assert_eq!((convolution.length(0), convolution.meetings(0)), (0, 0));
        let mut cost = Cost::default();
        assert_eq!(cost.convolve(2, Convolution { groups: 2, ..convolution }, [5, 5]), [3, 3]);
        assert_eq!((cost.linear, cost.bytes), (2.0 * 2.0 * 49.0 * 12.0, 4.0 * 9.0 * 12.0));
    }

    /// What `torch.utils.flop_counter` counts in the models of transformers, less what is left out here.
    #[test]
    fn full_models_cost_what_pytorch_counts() {
        let operations = |cost: &Cost| cost.linear + cost.attention;
        let vit = Cost::image_classifier(folder("vit-b16").path(), 1).unwrap();
        assert_eq!(operations(&vit), 35_127_656_448.0);
        let eight = Cost::image_classifier(folder("vit-b16").path(), 8).unwrap();
        assert_eq!((operations(&eight), eight.bytes), (8.0 * operations(&vit), vit.bytes));
        // Half of the attention among the tokens of a text is to those that come later.
        let clip = Cost::image_text(folder("clip-b32").path(), 4, 16).unwrap();
        assert_eq!(operations(&clip), 13_676_728_320.0 - 11_796_480.0);
        let resnet = Cost::image_classifier(folder("resnet-50").path(), 1).unwrap();
        assert_eq!((operations(&resnet), resnet.bytes), (8_178_368_512.0 - 281_864_704.0, 102_011_648.0));
        let encoder = Cost::speech_encoder(folder("whisper-base").path()).unwrap();
        assert_eq!(operations(&encoder), 96_804_864_000.0 - 688_128.0);
        let decoder = Cost::speech_decoder(folder("whisper-base").path(), 4, 64).unwrap();
        assert_eq!((operations(&decoder), decoder.tokens), (7_425_949_696.0, Some(64)));
        // 64 times 48,574,976 weights, and keys and values of 1500 frames and of 4 to 67 tokens.
        assert_eq!(decoder.bytes, 64.0 * 4.0 * 48_574_976.0 + 4.0 * 2.0 * 512.0 * 6.0 * (64.0 * 1500.0 + 2272.0));
        let ctc = Cost::ctc(folder("wav2vec2-base").path(), 160_000).unwrap();
        assert_eq!(operations(&ctc), 148_157_573_120.0 - 311_427_072.0);
        assert_eq!(vit.tokens, None);
    }

    #[test]
    fn a_config_without_its_keys_is_refused_by_name() {
        let folder = folder("bert-base");
        for error in [Cost::image_classifier(folder.path(), 1).err(), Cost::ctc(folder.path(), 1).err()] {
            assert!(error.unwrap().to_string().contains("config.json"));
        }
    }
}
