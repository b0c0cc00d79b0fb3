//! Quantized weights: burn's quantized tensors, in the layout that the kernels of the CPU read.
//!
//! Values are symmetric integers; each block of a row has one f32 scale. On `Flex` the scales are followed by one more
//! number for each row, the sum of its dequantized weights, which the product with unsigned activations needs.

use burn::tensor::{DType, Tensor};

#[cfg(feature = "flex")]
pub(crate) use flex::weight;

/// Whether [`quantize_int8`] takes this weight: it lies on the CPU, and its rows are whole blocks of 32.
pub fn can_quantize(weight: &Tensor<2>) -> bool {
    #[cfg(feature = "flex")]
    return flex::can_quantize(weight);
    #[cfg(not(feature = "flex"))]
    {
        let _ = weight;
        false
    }
}

/// A weight in 8 bits: the closest integers within ±127 times a scale for each block of a row, which is the longest of
/// 128, 64 and 32 that divides the row. A weight that [`can_quantize`] refuses comes back as it is.
///
/// # Shapes
/// - weight, output: `[out, in]`
pub fn quantize_int8(weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    let weight = flex::quantize_int8(weight);
    weight
}

/// A weight in 4 bits: integers within ±7 times a scale for each 32 elements of a row, whose length must be a multiple of
/// 64. Another weight, or one on another device than the CPU, comes back as it is.
///
/// # Shapes
/// - weight, output: `[out, in]`
pub fn quantize_int4(weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    let weight = flex::quantize_int4(weight);
    weight
}

/// A quantized weight as the numbers it stands for, in f32; any other as it is.
///
/// # Shapes
/// - weight, output: `[out, in]`
pub fn dequantize(weight: Tensor<2>) -> Tensor<2> {
    if !matches!(weight.dtype(), DType::QFloat(_)) {
        return weight;
    }
    #[cfg(feature = "flex")]
    if let Some(weight) = flex::dequantize(&weight) {
        return weight;
    }
    weight.dequantize()
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::flex::{FlexQTensor, FlexTensor, Layout};
    use burn::backend::{
        BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex, TensorMetadata,
    };
    use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
    use burn::tensor::{Bytes, DType, Shape, Tensor};
    use half::{bf16, f16};
    use rayon::prelude::*;

    use crate::cpu::product::Weight;
    use crate::cpu::quantized::{BLOCK, Int4, Int8};
    use crate::cpu::rows;

    pub fn can_quantize(weight: &Tensor<2>) -> bool {
        dense(weight).is_some() && weight.dims()[1].is_multiple_of(BLOCK) && weight.dims()[1] > 0
    }

    pub fn quantize_int8(weight: Tensor<2>) -> Tensor<2> {
        let [out, steps] = weight.dims();
        let Some(held) = dense(&weight).filter(|_| can_quantize(&weight)) else { return weight };
        let block = [128, 64, BLOCK].into_iter().find(|block| steps.is_multiple_of(*block)).unwrap_or(BLOCK);
        let blocks = steps / block;
        let mut values = vec![0i8; out * steps];
        let mut scales = vec![0f32; out * (blocks + 1)];
        let (of_blocks, sums) = scales.split_at_mut(out * blocks);
        values.par_chunks_mut(steps).zip(of_blocks.par_chunks_mut(blocks)).zip(sums).enumerate().for_each(
            |(row, ((values, scales), sum))| {
                let mut line = vec![0f32; steps];
                widen(&held, row * steps..(row + 1) * steps, &mut line);
                *sum = quantize_row(&line, block, 127.0, values, scales);
            },
        );
        wrap(Bytes::from_elems(values), [out, steps], QuantValue::Q8S, block, scales)
    }

    pub fn quantize_int4(weight: Tensor<2>) -> Tensor<2> {
        let [out, steps] = weight.dims();
        let Some(held) = dense(&weight).filter(|_| steps > 0 && steps.is_multiple_of(2 * BLOCK)) else { return weight };
        let blocks = steps / BLOCK;
        let mut values = vec![0u8; out * steps / 2];
        let mut scales = vec![0f32; out * (blocks + 1)];
        let (of_blocks, sums) = scales.split_at_mut(out * blocks);
        values.par_chunks_mut(steps / 2).zip(of_blocks.par_chunks_mut(blocks)).zip(sums).enumerate().for_each(
            |(row, ((values, scales), sum))| {
                let (mut line, mut whole) = (vec![0f32; steps], vec![0i8; steps]);
                widen(&held, row * steps..(row + 1) * steps, &mut line);
                *sum = quantize_row(&line, BLOCK, 7.0, &mut whole, scales);
                for (to, pair) in values.chunks_exact_mut(BLOCK).zip(whole.chunks_exact(2 * BLOCK)) {
                    for (i, to) in to.iter_mut().enumerate() {
                        *to = (pair[i] + 8) as u8 | ((pair[BLOCK + i] + 8) as u8) << 4;
                    }
                }
            },
        );
        wrap(Bytes::from_elems(values), [out, steps], QuantValue::Q4S, BLOCK, scales)
    }

    /// Quantizes the blocks of a row; the sum of what it stands for then.
    fn quantize_row(x: &[f32], block: usize, range: f32, values: &mut [i8], scales: &mut [f32]) -> f32 {
        let mut sum = 0.0;
        for ((x, values), scale) in x.chunks_exact(block).zip(values.chunks_exact_mut(block)).zip(scales) {
            *scale = rows::quantize_symmetric(x, range, values);
            sum += *scale * values.iter().map(|&value| i32::from(value)).sum::<i32>() as f32;
        }
        sum
    }

    fn wrap(values: Bytes, shape: [usize; 2], value: QuantValue, block: usize, scales: Vec<f32>) -> Tensor<2> {
        let scheme = QuantScheme::default()
            .with_value(value)
            .with_store(QuantStore::Native)
            .per_block([1, block as u8], ScaleDtype::F32);
        let values = FlexTensor::new(values, Layout::contiguous(Shape::from(shape)), DType::I8);
        let tensor = BackendTensor::<Flex>::Quantized(FlexQTensor::new(values, scheme, scales, None));
        let kind = DispatchTensorKind::Flex(tensor);
        Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled })
    }

    /// A float weight on the CPU, its elements beside each other.
    fn dense(weight: &Tensor<2>) -> Option<FlexTensor> {
        match weight.clone().into_dispatch().kind {
            DispatchTensorKind::Flex(BackendTensor::Float(weight)) => Some(weight.to_contiguous())
                .filter(|weight| matches!(weight.dtype(), DType::F32 | DType::BF16 | DType::F16)),
            _ => None,
        }
    }

    fn widen(weight: &FlexTensor, range: std::ops::Range<usize>, to: &mut [f32]) {
        match weight.dtype() {
            DType::BF16 => rows::widen_bf16(&weight.as_slice::<bf16>().unwrap_or_default()[range], to),
            DType::F16 => rows::widen_f16(&weight.as_slice::<f16>().unwrap_or_default()[range], to),
            _ => to.copy_from_slice(&weight.as_slice::<f32>().unwrap_or_default()[range]),
        }
    }

    /// A quantized weight of these functions, as the kernels read it.
    pub fn weight(weight: &FlexQTensor, steps: usize) -> Option<Weight<'_>> {
        let DType::QFloat(scheme) = weight.dtype() else { return None };
        let [1, block] = scheme.block_size()?.as_dim::<2>() else { return None };
        let (rows, block) = (weight.shape()[0], usize::from(block));
        let (scales, sums) = weight.scales().split_at_checked(rows * (steps / block))?;
        let values = weight.tensor().bytes();
        match scheme.value {
            _ if sums.len() != rows => None,
            QuantValue::Q8S => {
                // SAFETY: bytes of either sign have the same layout.
                let values = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<i8>(), values.len()) };
                Some(Weight::Int8(Int8 { values, scales, sums, block }))
            }
            QuantValue::Q4S => Some(Weight::Int4(Int4 { values, scales, sums })),
            _ => None,
        }
    }

    pub fn dequantize(quantized: &Tensor<2>) -> Option<Tensor<2>> {
        let [out, steps] = quantized.dims();
        let DispatchTensorKind::Flex(BackendTensor::Quantized(held)) = quantized.clone().into_dispatch().kind else {
            return None;
        };
        let mut values = vec![0f32; out * steps];
        weight(&held, steps)?.widen(0..out * steps, &mut values);
        Some(Tensor::from_data(burn::tensor::TensorData::new(values, [out, steps]), &quantized.device()))
    }
}
