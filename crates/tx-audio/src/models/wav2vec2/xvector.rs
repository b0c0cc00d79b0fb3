//! A head that tells voices apart: a vector for each sound, by the mean and the deviation of its frames.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
use serde_json::Value;
use tx_core::Result;
use tx_core::config::{Check, ModelConfig};
use tx_core::nn::{Activation, Linear, normal};
use tx_core::task::{AudioInputs, AudioLayout, AudioLimits, AudioXVector, Record, XVectorOutput};
use tx_core::weights::load::{Parts, Pretrained, Rename};

use super::{
    HeadConfig, MAX_CONVOLUTIONS, MAX_FRAMES, WaveformConfig, WaveformModel, check_list, layer_weights, mask_padding,
    weighted_sum,
};

/// The most frames that a layer joins; published ones join five. Each of them is a copy of what the layer reads.
const MAX_CONTEXT: usize = 64;
/// The fewest frames that have a deviation.
const FEWEST: usize = 2;

/// The config of a model for [`ForXVector`], which reads more of its keys and needs longer sounds.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct XVectorConfig<C>(C);

impl<C: WaveformConfig> XVectorConfig<C> {
    /// Frames that a sound loses in the layers.
    fn lost(&self) -> usize {
        let keys = self.0.keys();
        keys.tdnn_kernel.iter().zip(&keys.tdnn_dilation).map(|(kernel, dilation)| dilation * (kernel - 1)).sum()
    }
}

impl<C: WaveformConfig> ModelConfig for XVectorConfig<C> {
    type Limits = AudioLimits;

    const NULLABLE: &'static [&'static str] = C::NULLABLE;

    fn defaults() -> Vec<(&'static str, Value)> {
        C::defaults()
    }

    fn validate(&self, check: &Check<'_>) -> Result<()> {
        self.0.validate(check)?;
        let keys = self.0.keys();
        check.size("xvector_output_dim", keys.xvector_output_dim)?;
        check.range("tdnn_dim", keys.tdnn_dim.len(), 1, MAX_CONVOLUTIONS)?;
        keys.tdnn_dim.iter().try_for_each(|&size| check.size("tdnn_dim", size))?;
        let layers = ("tdnn_dim", keys.tdnn_dim.len());
        check_list(check, "tdnn_kernel", &keys.tdnn_kernel, layers, MAX_CONTEXT)?;
        check_list(check, "tdnn_dilation", &keys.tdnn_dilation, layers, MAX_FRAMES)?;
        // The projection takes states of this size, be they those of the adapter or not.
        let HeadConfig { hidden_size, output_size, summed_layers, .. } = self.0.head(true);
        if summed_layers.is_none() && output_size != hidden_size {
            let reason = format_args!("{output_size}, expected {hidden_size}, as in `hidden_size`");
            return Err(check.error("output_hidden_size", reason));
        }
        match self.limits().layout {
            AudioLayout::Waveform { min_samples, max_samples } if min_samples > max_samples => {
                let joined = 1 + self.lost();
                Err(check
                    .error("tdnn_dilation", format_args!("the layers join {joined} frames, more than a sound has")))
            }
            _ => Ok(()),
        }
    }

    fn limits(&self) -> AudioLimits {
        let (limits, keys) = (self.0.limits(), self.0.keys());
        let AudioLayout::Waveform { min_samples, max_samples } = limits.layout else { return limits };
        // The sum of the layers' states leaves the adapter out.
        let strides = keys.strides(!keys.use_weighted_layer_sum);
        let min_samples = min_samples.max(strides.samples(FEWEST + self.lost()));
        AudioLimits { layout: AudioLayout::Waveform { min_samples, max_samples }, ..limits }
    }
}

/// A vector for the voice in a sound. Snyder et al., 2018, "X-Vectors: Robust DNN Embeddings for Speaker Recognition".
#[derive(Module, Debug)]
pub struct ForXVector<M: Module> {
    model: M,
    layer_weights: Option<Param<Tensor<1>>>,
    projector: Linear,
    tdnn: Vec<TdnnLayer>,
    feature_extractor: Linear,
    classifier: Linear,
    objective: Objective,
    /// Frames that a padded sound loses in the layers, as the reference counts them: without their dilation.
    #[module(skip)]
    lost: usize,
}

impl<M: WaveformModel> Pretrained for ForXVector<M> {
    type Config = XVectorConfig<M::Config>;
    const PREFIX: &'static str = M::PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::RENAMES;
    const OPTIONAL: &'static [&'static str] = M::OPTIONAL;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &XVectorConfig<M::Config>, parts: &Parts, device: &Device) -> Self {
        let (config, keys) = (&config.0, config.0.keys());
        let HeadConfig { hidden_size, num_labels, summed_layers, .. } = config.head(true);
        let (dims, dim) = (&keys.tdnn_dim, keys.xvector_output_dim);
        let layer = |i: usize| {
            let sizes = [dims[i.saturating_sub(1)], dims[i]];
            TdnnLayer::new(sizes, keys.tdnn_kernel[i], keys.tdnn_dilation[i], device)
        };
        let last = dims[dims.len() - 1];
        Self {
            model: M::new(config, parts, true, device),
            layer_weights: summed_layers.map(|layers| layer_weights(layers, device)),
            projector: Linear::new(hidden_size, dims[0], true, device),
            tdnn: (0..dims.len()).map(layer).collect(),
            feature_extractor: Linear::new(2 * last, dim, true, device),
            classifier: Linear::new(dim, dim, true, device),
            objective: Objective { weight: normal([dim, num_labels], 1.0, device) },
            lost: keys.tdnn_kernel.iter().map(|kernel| kernel - 1).sum(),
        }
    }
}

impl<M: WaveformModel> AudioXVector for ForXVector<M> {
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> XVectorOutput {
        let x = weighted_sum(self.layer_weights.as_ref(), record, |record| self.model.encode(inputs, record));
        let x = self.tdnn.iter().fold(self.projector.forward(x), |x, layer| layer.forward(x));
        let lengths = self.model.padding(inputs).map(|padding| {
            let frames = padding.bool_not().int().sum_dim(1); // [batch, 1]
            frames - self.lost as i64
        });
        let embeddings = self.feature_extractor.forward(statistics(x, lengths));
        XVectorOutput { logits: self.classifier.forward(embeddings.clone()), embeddings }
    }
}

/// Mean and deviation of each channel over the first frames of each sound, or all of them. A sound that is too short for
/// the layers has the fewest that there are.
///
/// # Shapes
/// - x: `[batch, frames, channels]`
/// - lengths: `[batch, 1]`
/// - output: `[batch, 2 · channels]`
fn statistics(x: Tensor<3>, lengths: Option<Tensor<2, Int>>) -> Tensor<2> {
    let ([batch, frames, _], device) = (x.dims(), x.device());
    let all = || Tensor::<2, Int>::full([batch, 1], frames as i64, &device);
    let lengths = lengths.unwrap_or_else(all).clamp(FEWEST as i64, frames as i64);
    let position = Tensor::<1, Int>::arange(0..frames as i64, &device).unsqueeze::<2>();
    let padding = (position - lengths.clone()).greater_equal_elem(0);
    let n = lengths.float().unsqueeze_dim::<3>(2); // [batch, 1, 1]
    let mean = mask_padding(x.clone(), &padding).sum_dim(1) / n.clone();
    let centred = mask_padding(x - mean.clone(), &padding);
    let variance = (centred.clone() * centred).sum_dim(1) / (n - 1.0);
    Tensor::cat(vec![mean, variance.sqrt()], 2).squeeze_dim(1)
}

/// A convolution over time whose weight is that of a linear layer over the frames that it joins.
#[derive(Module, Debug)]
struct TdnnLayer {
    kernel: Linear,
    #[module(skip)]
    size: usize,
    #[module(skip)]
    dilation: usize,
}

impl TdnnLayer {
    fn new([input, output]: [usize; 2], size: usize, dilation: usize, device: &Device) -> Self {
        Self { kernel: Linear::new(input * size, output, true, device), size, dilation }
    }

    /// # Shapes
    /// - x: `[batch, frames, channels]`
    /// - output: `[batch, frames - dilation · (size - 1), channels']`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let frames = x.dims()[1] - self.dilation * (self.size - 1);
        let joined = (0..self.size).map(|i| x.clone().narrow(1, i * self.dilation, frames)).collect();
        self.kernel.forward_activated(Tensor::cat(joined, 2), Activation::Relu)
    }
}

/// What only training reads: a vector for each of its voices. Wang et al., 2018 (arXiv:1801.05599).
#[derive(Module, Debug)]
struct Objective {
    /// `[dim, voices]`
    weight: Param<Tensor<2>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deviation_takes_two_frames() {
        let device = Device::default();
        let x = || Tensor::<3>::from_data([[[1.0f32], [2.0], [6.0]]], &device);
        for (length, mean, variance) in
            [(None, 3.0, 7.0), (Some(9), 3.0, 7.0), (Some(2), 1.5, 0.5), (Some(-4), 1.5, 0.5)]
        {
            let lengths = length.map(|length: i64| Tensor::<2, Int>::from_data([[length]], &device));
            let found: Vec<f32> = statistics(x(), lengths).into_data().iter::<f32>().collect();
            let close = |found: f32, expected: f32| (found - expected).abs() < 1e-6;
            assert!(close(found[0], mean) && close(found[1], f32::sqrt(variance)), "{length:?}: {found:?}");
        }
    }
}
