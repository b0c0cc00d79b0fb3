//! Weights that files hold packed, as floats of eight or four bits with scales beside them, and how they become plain.
//!
//! MXFP4: OCP Microscaling Formats (MX) Specification 1.0, 2023. FP8: Micikevicius et al., 2022 (arXiv:2209.05433);
//! with a scale for each block: DeepSeek-AI, 2024 (arXiv:2412.19437).
//! Reference: transformers 5.23.0, `integrations/mxfp4.py` and `integrations/finegrained_fp8.py`, as they dequantize.

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue};
use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::Value;

use super::{Checkpoint, StoredTensor, dtype_name};
use crate::config::Config;
use crate::error::{Error, Mismatch, Result};

/// The key of `config.json` that says how weights are packed.
pub(crate) const KEY: &str = "quantization_config";

/// Numbers with one exponent in MXFP4.
const GROUP: usize = 32;
/// The bytes of a group: two numbers in each, the lower four bits first.
const GROUP_BYTES: usize = GROUP / 2;

/// The numbers of e2m1.
const E2M1: [f64; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// burn's name for floats of eight bits in a file: it has no tensors of them alone, only scaled ones.
pub(super) fn float8(value: QuantValue) -> DType {
    DType::QFloat(QuantScheme::default().with_value(value).with_store(QuantStore::Native))
}

/// What a byte stands for, if the dtype is one of floats of eight bits.
fn float8_number(dtype: DType) -> Option<fn(u8) -> f32> {
    match dtype {
        DType::QFloat(QuantScheme { value: QuantValue::E4M3, .. }) => Some(e4m3),
        DType::QFloat(QuantScheme { value: QuantValue::E5M2, .. }) => Some(e5m2),
        _ => None,
    }
}

/// Four bits of exponent and three of fraction, without infinities.
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from((code >> 3) & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        // Eighths of the smallest exponent, 2⁻⁶.
        (0, _) => fraction * 2f32.powi(-9),
        _ => (8.0 + fraction) * 2f32.powi(exponent - 10),
    };
    if code < 0x80 { size } else { -size }
}

/// Five bits of exponent and two of fraction: the upper half of an f16.
fn e5m2(code: u8) -> f32 {
    f16::from_bits(u16::from(code) << 8).to_f32()
}

/// The power of two that e8m0 stands for.
fn e8m0(code: u8) -> f64 {
    f64::from_bits((u64::from(code) + 1023 - 127) << 52)
}

/// How a checkpoint packs its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// Not at all. Floats of eight bits stand for themselves.
    #[default]
    Plain,
    /// `NAME_blocks` are numbers of e2m1, two in a byte, 32 of which have one exponent in `NAME_scales`.
    Mxfp4,
    /// Floats of eight bits, to be multiplied by `NAME_scale_inv` or `NAME_scale`.
    Fp8 {
        /// How many rows and columns share a number of `NAME_scale_inv`; the shapes tell, if `None`.
        block: Option<[usize; 2]>,
    },
}

impl Packing {
    /// What `quantization_config` says.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another method, [`Error::Config`] for blocks without a size.
    pub fn from_config(config: &Config) -> Result<Self> {
        let Some(packing) = config.get(KEY) else { return Ok(Self::Plain) };
        let unsupported = |value: String| Error::Unsupported {
            path: config.path().to_path_buf(),
            key: format!("{KEY}.quant_method"),
            value,
            supported: "mxfp4, fp8, mxfp8, fbgemm_fp8, compressed-tensors (float-quantized)".into(),
        };
        match packing.get("quant_method").and_then(Value::as_str) {
            Some("mxfp4") => Ok(Self::Mxfp4),
            Some("fp8") => Ok(Self::Fp8 { block: block(config, packing)? }),
            Some("mxfp8" | "fbgemm_fp8") => Ok(Self::Fp8 { block: None }),
            Some(method @ "compressed-tensors") => match packing.get("format").and_then(Value::as_str) {
                Some("float-quantized") => Ok(Self::Fp8 { block: None }),
                format => Err(unsupported(format!("{method} ({})", format.unwrap_or("no format")))),
            },
            method => Err(unsupported(method.unwrap_or("missing").to_owned())),
        }
    }

    /// The tensors of a checkpoint as modules know them: what lies packed under its own name, and without its parts.
    ///
    /// Sizes are compared here; no number is computed before [`Source::to_data`].
    pub fn tensors(self, checkpoint: &Checkpoint) -> BTreeMap<String, Source<'_>> {
        let stored = checkpoint.tensors();
        let mut tensors: BTreeMap<_, _> =
            stored.iter().map(|(name, tensor)| (name.clone(), Source::Plain(tensor))).collect();
        for (name, numbers) in stored {
            if float8_number(numbers.dtype).is_some() {
                let (source, parts) = self.float8(name, numbers, stored);
                parts.iter().for_each(|part| drop(tensors.remove(part)));
                tensors.insert(name.clone(), source);
            } else if self == Self::Mxfp4
                && let Some(base) = name.strip_suffix("_blocks")
                && !stored.contains_key(base)
            {
                let scales = format!("{base}_scales");
                tensors.remove(name);
                tensors.remove(&scales);
                tensors.insert(base.to_owned(), mxfp4(name, numbers, &scales, stored.get(&scales)));
            }
        }
        tensors
    }

    /// A tensor of floats of eight bits, and the names of what belongs to it.
    fn float8<'a>(
        self,
        name: &str,
        numbers: &'a StoredTensor,
        stored: &'a BTreeMap<String, StoredTensor>,
    ) -> (Source<'a>, Vec<String>) {
        let Self::Fp8 { block } = self else {
            let shape = numbers.shape.clone();
            return (Source::Packed(Packed { shape, numbers, scales: Scales::None }), Vec::new());
        };
        let [inverse, scale] = ["_scale_inv", "_scale"].map(|suffix| format!("{name}{suffix}"));
        let (scales, block) = if stored.contains_key(&inverse) { (inverse, block) } else { (scale, None) };
        let Some(found) = stored.get(&scales) else {
            let missing = format!("{name}_scale_inv");
            let expected = format!("the scales of `{name}`");
            return (Source::Broken(Mismatch { name: missing, found: "missing".into(), expected }), Vec::new());
        };
        let source = scaled(numbers, &scales, found, block);
        // What activations are divided by: they are not quantized here.
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        let activations = ["activation_scale", "input_scale"].map(|part| format!("{layer}.{part}"));
        (source, activations.into_iter().chain([scales]).collect())
    }
}

/// `weight_block_size`, and what it is if the key is not there.
fn block(config: &Config, packing: &Value) -> Result<Option<[usize; 2]>> {
    let sizes = match packing.get("weight_block_size") {
        None => return Ok(Some([128, 128])),
        Some(Value::Null) => return Ok(None),
        Some(sizes) => sizes.as_array(),
    };
    let size = |size: &Value| size.as_u64().filter(|size| (1..=1 << 31).contains(size)).map(|size| size as usize);
    let sizes: Option<Vec<usize>> = sizes.and_then(|sizes| sizes.iter().map(size).collect());
    match sizes.as_deref() {
        Some(&[rows, columns]) => Ok(Some([rows, columns])),
        _ => {
            let key = format!("{KEY}.weight_block_size");
            Err(Error::config(config.path(), key, format_args!("expected two integers from 1 to {}", 1u64 << 31)))
        }
    }
}

/// Matrices of experts, `[experts, rows, groups, 16]`, of which modules know `[experts, groups · 32, rows]`.
fn mxfp4<'a>(name: &str, blocks: &'a StoredTensor, scales_name: &str, scales: Option<&'a StoredTensor>) -> Source<'a> {
    let broken = |name: &str, found: Option<&StoredTensor>, expected: String| {
        let found = found.map_or_else(|| "missing".to_owned(), describe);
        Source::Broken(Mismatch { name: name.to_owned(), found, expected })
    };
    let [experts, rows, groups, GROUP_BYTES] = blocks.shape[..] else {
        return broken(name, Some(blocks), format!("u8 [experts, rows, groups, {GROUP_BYTES}]"));
    };
    if blocks.dtype != DType::U8 {
        return broken(name, Some(blocks), format!("u8 {:?}", blocks.shape));
    }
    match scales {
        Some(scales) if scales.dtype == DType::U8 && scales.shape == [experts, rows, groups] => {
            let shape = vec![experts, groups.saturating_mul(GROUP), rows];
            Source::Packed(Packed { shape, numbers: blocks, scales: Scales::Groups(scales) })
        }
        _ => broken(scales_name, scales, format!("u8 {:?}", [experts, rows, groups])),
    }
}

/// Floats of eight bits with one scale, or with a grid of scales in which each belongs to a block.
fn scaled<'a>(
    numbers: &'a StoredTensor,
    scales_name: &str,
    scales: &'a StoredTensor,
    block: Option<[usize; 2]>,
) -> Source<'a> {
    let broken =
        |expected: String| Source::Broken(Mismatch { name: scales_name.to_owned(), found: describe(scales), expected });
    if !matches!(scales.dtype, DType::F32 | DType::BF16 | DType::F16 | DType::U8) {
        return broken("f32, bf16 or f16, or exponents in u8".into());
    }
    let packed = |scales| Source::Packed(Packed { shape: numbers.shape.clone(), numbers, scales });
    if block.is_none() && scales.shape.iter().all(|&size| size == 1) {
        return packed(Scales::One(scales));
    }
    let Some((lead, &[rows, columns])) = numbers.shape.split_last_chunk::<2>() else {
        return broken("one number".into());
    };
    let grid = match scales.shape.split_last_chunk::<2>() {
        Some((scales_lead, &grid)) if scales_lead == lead => Some(grid),
        _ => None,
    };
    match (block, grid) {
        (Some(block), Some(grid)) if grid == [rows.div_ceil(block[0]), columns.div_ceil(block[1])] => {
            packed(Scales::Blocks { scales, block, grid })
        }
        (Some(block), _) => {
            let shape = [lead, &[rows.div_ceil(block[0]), columns.div_ceil(block[1])]].concat();
            broken(format!("{shape:?}, one for each block of {block:?}"))
        }
        (None, Some(grid @ [down, across]))
            if down > 0 && across > 0 && rows.is_multiple_of(down) && columns.is_multiple_of(across) =>
        {
            packed(Scales::Blocks { scales, block: [rows / down, columns / across], grid })
        }
        (None, _) => broken(format!("one number, or a grid that divides {:?} evenly", numbers.shape)),
    }
}

/// Dtype and shape, for messages.
fn describe(tensor: &StoredTensor) -> String {
    format!("{} {:?}", dtype_name(tensor.dtype), tensor.shape)
}

/// A tensor of a checkpoint as modules know it.
#[derive(Debug, Clone)]
pub enum Source<'a> {
    /// As it lies in the file.
    Plain(&'a StoredTensor),
    /// Several of the file's together.
    Packed(Packed<'a>),
    /// Packed, and the parts do not fit together.
    Broken(Mismatch),
}

impl Source<'_> {
    /// The sizes of its axes.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Plain(stored) => &stored.shape,
            Self::Packed(packed) => &packed.shape,
            Self::Broken(_) => &[],
        }
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape().iter().fold(1, |n: usize, &size| n.saturating_mul(size))
    }

    /// The dtype that it has if no other is asked for: bf16 for what is packed.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(stored) => stored.dtype,
            Self::Packed(_) | Self::Broken(_) => DType::BF16,
        }
    }

    /// Whether its numbers are floats.
    pub fn is_float(&self) -> bool {
        match self {
            Self::Plain(stored) => matches!(stored.dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16),
            Self::Packed(_) => true,
            Self::Broken(_) => false,
        }
    }

    /// The word for its elements in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Plain(stored) => dtype_name(stored.dtype),
            Self::Packed(Packed { scales: Scales::Groups(_), .. }) => "mxfp4",
            Self::Packed(packed) => dtype_name(packed.numbers.dtype),
            Self::Broken(_) => "broken",
        }
    }

    /// The bytes that it takes in the file.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain(stored) => stored.bytes.len(),
            Self::Packed(packed) => {
                packed.numbers.bytes.len() + packed.scales.stored().map_or(0, |scales| scales.bytes.len())
            }
            Self::Broken(_) => 0,
        }
    }

    /// The dtype that it is loaded in: matrices keep theirs, unless another one was asked for; everything else meets
    /// the activations element by element and has their dtype, `compute`.
    pub fn loaded_dtype(&self, name: &str, weights: Option<DType>, compute: DType) -> DType {
        let dtype = self.dtype();
        let matrix = match self.shape().len() {
            2 => true,
            // Those of all experts in one tensor.
            3 => name.split('.').any(|segment| segment == "experts"),
            _ => false,
        };
        if matrix && dtype != DType::F64 { weights.unwrap_or(dtype) } else { compute }
    }

    /// Whether it is made of the same bytes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |a: &StoredTensor, b: &StoredTensor| a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes;
        match (self, other) {
            (Self::Plain(a), Self::Plain(b)) => same(a, b),
            (Self::Packed(a), Self::Packed(b)) => {
                same(a.numbers, b.numbers)
                    && match (a.scales.stored(), b.scales.stored()) {
                        (Some(a), Some(b)) => same(a, b),
                        (a, b) => a.is_none() && b.is_none(),
                    }
            }
            _ => false,
        }
    }

    /// The tensor for burn; without a copy if it lies in the file in this dtype. One without axes gets one.
    pub fn to_data(&self, dtype: DType) -> TensorData {
        let data = match self {
            Self::Plain(stored) => stored.to_data(),
            Self::Packed(packed) => packed.to_data(dtype),
            Self::Broken(_) => TensorData::new(Vec::<f32>::new(), [0]),
        };
        let found = data.dtype();
        // burn has no tensors without axes.
        let scalar = data.shape().as_slice().is_empty();
        let data = if scalar { TensorData::from_bytes(data.into_bytes(), [1], found) } else { data };
        if dtype == found { data } else { data.convert_dtype(dtype) }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind(), self.shape())
    }
}

/// Numbers of few bits and what they are multiplied by; the sizes of both fit together.
#[derive(Debug, Clone)]
pub struct Packed<'a> {
    shape: Vec<usize>,
    numbers: &'a StoredTensor,
    scales: Scales<'a>,
}

/// What numbers are multiplied by.
#[derive(Debug, Clone, Copy)]
enum Scales<'a> {
    None,
    /// The same for all.
    One(&'a StoredTensor),
    /// A matrix for each matrix of numbers, with an element for each block of rows and columns; the last ones may be
    /// smaller.
    Blocks {
        scales: &'a StoredTensor,
        block: [usize; 2],
        grid: [usize; 2],
    },
    /// An exponent for each group of MXFP4.
    Groups(&'a StoredTensor),
}

impl<'a> Scales<'a> {
    fn stored(self) -> Option<&'a StoredTensor> {
        match self {
            Self::None => None,
            Self::One(scales) | Self::Blocks { scales, .. } | Self::Groups(scales) => Some(scales),
        }
    }
}

impl Packed<'_> {
    /// The products, each rounded once: f32 for a dtype that is none of f32, bf16 and f16.
    fn to_data(&self, dtype: DType) -> TensorData {
        let shape = self.shape.clone();
        match dtype {
            DType::BF16 => TensorData::new(self.products(bf16::from_f32), shape),
            DType::F16 => TensorData::new(self.products(f16::from_f32), shape),
            _ => TensorData::new(self.products(|x| x), shape),
        }
    }

    fn products<T: Copy + Default + Send>(&self, round: impl Fn(f32) -> T + Sync) -> Vec<T> {
        let mut out = vec![T::default(); self.shape.iter().product()];
        match (self.scales, float8_number(self.numbers.dtype)) {
            (Scales::Groups(exponents), _) => self.groups(exponents, &mut out, round),
            (_, Some(number)) => self.blocks(&std::array::from_fn(|code| number(code as u8)), &mut out, round),
            (_, None) => {}
        }
        out
    }

    /// MXFP4: the rows of a matrix in the file are the columns of a matrix here.
    fn groups<T: Send>(&self, exponents: &StoredTensor, out: &mut [T], round: impl Fn(f32) -> T + Sync) {
        let [_, rows, columns] = self.shape[..] else { return };
        let groups = rows / GROUP;
        let (codes, _) = self.numbers.bytes.as_chunks::<GROUP_BYTES>();
        // Each part is the rows that come from one group of every row in the file.
        out.par_chunks_mut((GROUP * columns).max(1)).enumerate().for_each(|(part, out)| {
            let (expert, group) = (part / groups, part % groups);
            for column in 0..columns {
                let at = (expert * columns + column) * groups + group;
                // In f64 no product overflows or vanishes, as it would in f32 with the largest and smallest exponents.
                let exponent = e8m0(exponents.bytes[at]);
                let numbers = codes[at].iter().flat_map(|byte| [byte & 15, byte >> 4]);
                for (row, code) in numbers.enumerate() {
                    out[row * columns + column] = round((E2M1[usize::from(code)] * exponent) as f32);
                }
            }
        });
    }

    /// FP8, row by row.
    fn blocks<T: Send>(&self, numbers: &[f32; 256], out: &mut [T], round: impl Fn(f32) -> T + Sync) {
        let (rows, columns) = match self.shape[..] {
            [.., rows, columns] => (rows, columns.max(1)),
            [columns] => (1, columns.max(1)),
            [] => (1, 1),
        };
        let scales = self.scales.stored().map_or_else(|| vec![1.0], floats);
        let ([height, width], [down, across]) = match self.scales {
            Scales::Blocks { block, grid, .. } => (block, grid),
            _ => ([rows, columns], [0, 0]),
        };
        let codes = self.numbers.bytes.par_chunks(columns);
        out.par_chunks_mut(columns).zip(codes).enumerate().for_each(|(row, (out, codes))| {
            let (matrix, row) = (row / rows, row % rows);
            let scales = &scales[(matrix * down + row / height) * across..];
            for ((out, codes), scale) in out.chunks_mut(width).zip(codes.chunks(width)).zip(scales) {
                for (out, &code) in out.iter_mut().zip(codes) {
                    *out = round(numbers[usize::from(code)] * scale);
                }
            }
        });
    }
}

/// Scales as f32; bytes are exponents.
fn floats(scales: &StoredTensor) -> Vec<f32> {
    match scales.dtype {
        DType::U8 => scales.bytes.iter().map(|&code| e8m0(code) as f32).collect(),
        _ => scales.to_data().iter::<f32>().collect(),
    }
}

#[cfg(test)]
mod tests;
