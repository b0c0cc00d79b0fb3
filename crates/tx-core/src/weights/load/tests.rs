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
        TextLimits { vocab_size: 1, max_length: None, context: None, positions: 1, type_vocab_size: 0 }
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
        let loaded = load::<Both>(&NoConfig {}, &checkpoint, Packing::Plain, "Both", true, &options).unwrap();
        assert_eq!((loaded.report.quantized, loaded.report.filled), (quantized, 4));
        let Both { linear, conv } = loaded.model;
        let [a, b] = [linear.forward(x.clone()), conv.forward(x.clone())];
        let largest = a.clone().abs().max().into_scalar::<f32>();
        // Quantized, they are one weight and give one result.
        let difference = (a - b).abs().max().into_scalar::<f32>();
        assert!(difference <= if quantized > 0 { 0.0 } else { 1e-5 * largest }, "{difference}");
    }
}

#[test]
fn packed_weights_load_plain_and_become_int8_without_a_detour() {
    let device = Device::default();
    let stored = |dtype, shape: &[usize], bytes: Vec<u8>| StoredTensor {
        path: "memory".into(),
        dtype,
        shape: shape.to_vec(),
        bytes: bytes.into(),
    };
    // Numbers of e4m3 from 2⁻³ to 2, in blocks of 32 by 32 whose scales are no powers of two.
    let code = |i: usize| (0x20 + i * 29 % 32) as u8 | if i % 3 == 1 { 0x80 } else { 0 };
    let codes = |len: usize| (0..len).map(code).collect::<Vec<u8>>();
    let scales = |len: usize| (0..len).flat_map(|i| (0.3 + 0.1 * i as f32).to_le_bytes()).collect::<Vec<u8>>();
    let float8 = crate::weights::packed::float8(burn::tensor::quantization::QuantValue::E4M3);
    let bias = stored(DType::F32, &[48], vec![0; 4 * 48]);
    let tensors = BTreeMap::from([
        ("linear.weight".to_owned(), stored(float8, &[48, 64], codes(48 * 64))),
        ("linear.weight_scale_inv".to_owned(), stored(DType::F32, &[2, 2], scales(4))),
        ("linear.bias".to_owned(), bias.clone()),
        ("conv.weight".to_owned(), stored(DType::BF16, &[64, 48], vec![0x3c; 2 * 64 * 48])),
        ("conv.bias".to_owned(), bias),
    ]);
    let checkpoint = Checkpoint::from_tensors(Path::new("memory"), tensors);
    let packing = Packing::Fp8 { block: Some([32, 32]) };
    let x = Tensor::<2>::random([3, 64], burn::tensor::Distribution::Default, &device);
    let mut results = Vec::new();
    for (dtype, quantize) in [(Dtype::F32, None), (Dtype::Auto, None), (Dtype::Auto, Some(Quantization::Int8))] {
        let options = LoadOptions { dtype, quantize, ..LoadOptions::default() };
        let loaded = load::<Both>(&NoConfig {}, &checkpoint, packing, "Both", true, &options).unwrap();
        assert_eq!((loaded.report.filled, loaded.report.quantized), (4, if quantize.is_some() { 2 } else { 0 }));
        let weight = loaded.model.linear.weight.val();
        if quantize.is_none() {
            assert_eq!(weight.dtype(), if dtype == Dtype::F32 { DType::F32 } else { DType::BF16 });
        }
        results.push(loaded.model.linear.forward(x.clone()));
    }
    let largest = results[0].clone().abs().max().into_scalar::<f32>();
    for (result, limit) in results[1..].iter().zip([1e-2, 2e-2]) {
        let difference = (results[0].clone() - result.clone()).abs().max().into_scalar::<f32>();
        assert!(difference > 0.0 && difference < limit * largest, "{difference} of {largest}");
    }
    // What the scales do not fit is named, among all else that is wrong.
    let wrong = Packing::Fp8 { block: Some([16, 16]) };
    let error = load::<Both>(&NoConfig {}, &checkpoint, wrong, "Both", true, &LoadOptions::default()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("1 mismatched: `linear.weight_scale_inv` is f32 [2, 2], expected [3, 4]"), "{message}");
}
