//! Quantized weights: burn's quantized tensors, in the layout that the kernels of the CPU read.
//!
//! Values are symmetric integers; each block of a row has one f32 scale. On `Flex` both lie in panels, see
//! `cpu/quantized.rs`, and what burn calls the scales is one number for each row: the sum of its dequantized weights,
//! which the product with unsigned activations needs.

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

/// A weight in 8 bits: the closest integers within ±127 times a scale for each block of a row. Blocks are as long as
/// possible: at most 512 elements, a multiple of 32 that divides the row. A weight that [`can_quantize`] refuses comes back as it is.
///
/// # Shapes
/// - weight, output: `[out, in]`
pub fn quantize_int8(weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    let weight = flex::quantize_int8(weight);
    weight
}

/// A weight in 4 bits: integers within ±7 times a scale for each 32 elements of a row. A weight that [`can_quantize`]
/// refuses comes back as it is.
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
    use burn::tensor::{AllocationProperty, Bytes, DType, Shape, Tensor};
    use half::{bf16, f16};
    use rayon::prelude::*;

    use crate::cpu::quantized::{BLOCK, Bits, PANEL, Quantized, column_bytes, padded, quantize_panel};
    use crate::cpu::{Lines, rows};

    /// The most elements that share a scale.
    const MAX_BLOCK: usize = 512;

    pub fn can_quantize(weight: &Tensor<2>) -> bool {
        dense(weight).is_some() && weight.dims()[1].is_multiple_of(BLOCK) && weight.dims()[1] > 0
    }

    pub fn quantize_int8(weight: Tensor<2>) -> Tensor<2> {
        let steps = weight.dims()[1];
        let block = (1..=MAX_BLOCK / BLOCK).rev().map(|n| n * BLOCK).find(|block| steps.is_multiple_of(*block));
        quantize(weight, Bits::Eight, block.unwrap_or(BLOCK))
    }

    pub fn quantize_int4(weight: Tensor<2>) -> Tensor<2> {
        quantize(weight, Bits::Four, BLOCK)
    }

    fn quantize(weight: Tensor<2>, bits: Bits, block: usize) -> Tensor<2> {
        let [out, steps] = weight.dims();
        let Some(held) = dense(&weight).filter(|_| can_quantize(&weight)) else { return weight };
        let bytes = column_bytes(bits, block, steps);
        let mut sums = vec![0f32; padded(out)];
        let mut panels = Lines::new(sums.len() * bytes);
        let parts = panels.as_mut().par_chunks_mut(PANEL * bytes).zip(sums.par_chunks_mut(PANEL));
        parts.enumerate().for_each(|(index, (panel, sums))| {
            let columns = index * PANEL..out.min((index + 1) * PANEL);
            let mut lines = vec![0f32; columns.len() * steps];
            widen(&held, columns.start * steps..columns.end * steps, &mut lines);
            quantize_panel(&lines, bits, block, steps, panel, sums);
        });
        let value = if bits == Bits::Eight { QuantValue::Q8S } else { QuantValue::Q4S };
        let panels = Bytes::from_shared(bytes::Bytes::from_owner(panels), AllocationProperty::Native);
        wrap(panels, [out, steps], value, block, sums)
    }

    fn wrap(panels: Bytes, shape: [usize; 2], value: QuantValue, block: usize, sums: Vec<f32>) -> Tensor<2> {
        let scheme = QuantScheme::default()
            .with_value(value)
            .with_store(QuantStore::Native)
            .per_block([1, block.min(BLOCK) as u8], ScaleDtype::F32);
        let panels = FlexTensor::new(panels, Layout::contiguous(Shape::from(shape)), DType::I8);
        let tensor = BackendTensor::<Flex>::Quantized(FlexQTensor::new(panels, scheme, sums, None));
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
    pub fn weight(weight: &FlexQTensor, steps: usize) -> Option<Quantized<'_>> {
        let DType::QFloat(scheme) = weight.dtype() else { return None };
        let columns = padded(weight.shape()[0]);
        let bits = match scheme.value {
            QuantValue::Q8S => Bits::Eight,
            QuantValue::Q4S => Bits::Four,
            _ => return None,
        };
        let (panels, sums): (&[u8], _) = (weight.tensor().bytes(), weight.scales());
        // A scheme's blocks have at most 255 elements, so theirs is not asked for: what is no word of values is a scale.
        let words = panels.len() / (4 * columns.max(1));
        let block = steps / words.checked_sub(steps / bits.steps_per_word())?.max(1);
        let fits = block > 0
            && block.is_multiple_of(BLOCK)
            && sums.len() == columns
            && panels.len() == columns * column_bytes(bits, block, steps);
        fits.then_some(Quantized { bits, panels, sums, block, steps })
    }

    pub fn dequantize(quantized: &Tensor<2>) -> Option<Tensor<2>> {
        let [out, steps] = quantized.dims();
        let DispatchTensorKind::Flex(BackendTensor::Quantized(held)) = quantized.clone().into_dispatch().kind else {
            return None;
        };
        let weight = weight(&held, steps)?;
        let mut values = vec![0f32; out * steps];
        for (column, values) in values.chunks_exact_mut(steps).enumerate() {
            weight.widen(column, 0..steps, values);
        }
        Some(Tensor::from_data(burn::tensor::TensorData::new(values, [out, steps]), &quantized.device()))
    }
}
