//! Loading on a module of two layers.

use std::path::Path;

use super::*;
use crate::config::Check;
use crate::nn::{Conv1dLinear, Linear};
use crate::task::TextLimits;

#[derive(Debug, Clone, serde::Deserialize)]
struct NoConfig {}

impl ModelConfig for NoConfig {
    type Limits = TextLimits;

    fn validate(&self, _: &Check<'_>) -> Result<()> {
        Ok(())
    }

    fn limits(&self) -> TextLimits {
        TextLimits { vocab_size: 1, max_length: None, positions: 1, type_vocab_size: 0 }
    }
}

#[derive(Module, Debug)]
struct Both {
    linear: Linear,
    conv: Conv1dLinear,
}

impl Pretrained for Both {
    type Config = NoConfig;
    const PREFIX: &'static str = "model";

    fn init(_: &NoConfig, _: &Parts, device: &Device) -> Self {
        Self { linear: Linear::new(64, 48, true, device), conv: Conv1dLinear::new(64, 48, device) }
    }
}

#[test]
fn weights_are_quantized_whichever_way_they_lie() {
    let device = Device::default();
    let weight = Tensor::<2>::random([48, 64], burn::tensor::Distribution::Default, &device);
    let stored = |data: TensorData| {
        let (dtype, shape) = (data.dtype(), data.shape().as_slice().to_vec());
        let bytes = bytes::Bytes::from_owner(Owned(data.into_bytes()));
        StoredTensor { path: "memory".into(), dtype, shape, bytes }
    };
    let bias = stored(TensorData::new(vec![0.5f32; 48], [48]));
    let tensors = BTreeMap::from([
        ("linear.weight".to_owned(), stored(weight.clone().into_data())),
        ("linear.bias".to_owned(), bias.clone()),
        ("conv.weight".to_owned(), stored(weight.transpose().into_data())),
        ("conv.bias".to_owned(), bias),
    ]);
    let checkpoint = Checkpoint::from_tensors(Path::new("memory"), tensors);
    let x = Tensor::<2>::random([3, 64], burn::tensor::Distribution::Default, &device);
    for (quantize, quantized) in [(None, 0), (Some(Quantization::Int8), 2)] {
        let options = LoadOptions { quantize, ..LoadOptions::default() };
        let loaded = load::<Both>(&NoConfig {}, &checkpoint, "Both", true, &options).unwrap();
        assert_eq!((loaded.report.quantized, loaded.report.filled), (quantized, 4));
        let Both { linear, conv } = loaded.model;
        let [a, b] = [linear.forward(x.clone()), conv.forward(x.clone())];
        let largest = a.clone().abs().max().into_scalar::<f32>();
        // Quantized, they are one weight and give one result.
        let difference = (a - b).abs().max().into_scalar::<f32>();
        assert!(difference <= if quantized > 0 { 0.0 } else { 1e-5 * largest }, "{difference}");
    }
}
