//! The buffers of a cache: rows that are written in place, and rounded to bytes on the way.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::kind::Basic;
use burn::tensor::{Bytes, DType, Int, Shape, Tensor};

use super::attention::{Kv, View};
use super::{flex, rows, wrap};
use crate::kv::{KvTensor, RANGE, RowCopy};

/// A type of elements that buffers have.
pub trait Stored: Copy + Sync + 'static {
    const DTYPE: DType;

    /// All elements that a tensor of this type refers to.
    fn all(tensor: &FlexTensor) -> &[Self];

    /// The same, to be changed, if nothing else refers to them.
    fn all_mut(tensor: &mut FlexTensor) -> Option<&mut [Self]>;
}

impl Stored for f32 {
    const DTYPE: DType = DType::F32;

    fn all(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }

    fn all_mut(tensor: &mut FlexTensor) -> Option<&mut [Self]> {
        tensor.try_storage_mut()
    }
}

impl Stored for i8 {
    const DTYPE: DType = DType::I8;

    fn all(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }

    fn all_mut(tensor: &mut FlexTensor) -> Option<&mut [Self]> {
        tensor.try_storage_mut()
    }
}

/// What [`view`] needs: elements of the last axis beside each other.
pub fn viewable<E: Stored, const D: usize, K: Basic>(x: &Tensor<D, K>) -> Option<FlexTensor> {
    match flex(x)? {
        BackendTensor::Float(x) | BackendTensor::Int(x) if x.dtype() == E::DTYPE => {
            let strides = x.layout().strides();
            let fits = strides[D - 1] == 1 && strides.iter().all(|&stride| stride >= 0);
            Some(if fits { x } else { x.to_contiguous() })
        }
        _ => None,
    }
}

/// Of a tensor with three or four axes.
pub fn view<E: Stored>(x: &FlexTensor) -> View<'_, E> {
    let strides = x.layout().strides();
    View {
        data: &E::all(x)[x.layout().start_offset()..],
        strides: [strides[0] as usize, strides[1] as usize, strides[2] as usize],
    }
}

/// Keys or values as `Flex` holds them.
pub struct Held {
    values: FlexTensor,
    /// If the values are bytes.
    scales: Option<FlexTensor>,
}

impl Held {
    pub fn new(x: &KvTensor) -> Option<Self> {
        match x {
            KvTensor::Float(x) => Some(Self { values: viewable::<f32, 4, _>(x)?, scales: None }),
            KvTensor::Int8(x) => {
                let [batch, tokens, groups, _] = x.values.dims();
                let fits = x.scales.dims() == [batch, tokens, groups, 1];
                let (values, scales) = (viewable::<i8, 4, _>(&x.values)?, viewable::<f32, 4, _>(&x.scales)?);
                fits.then_some(Self { values, scales: Some(scales) })
            }
        }
    }

    pub fn kv(&self) -> Kv<'_> {
        match &self.scales {
            None => Kv::Float(view(&self.values)),
            Some(scales) => Kv::Int8 { values: view(&self.values), scales: view(scales) },
        }
    }
}

/// Lets `change` have all elements of a tensor if nothing else holds it; gives it back otherwise.
#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
fn in_place<E: Stored, K: Basic>(
    tensor: Tensor<4, K>,
    change: impl FnOnce(&mut [E]),
) -> Result<Tensor<4, K>, Tensor<4, K>> {
    if flex(&tensor).is_none() {
        return Err(tensor);
    }
    let bytes = size_of::<E>() * tensor.dims().iter().product::<usize>();
    let mut held = tensor.into_dispatch();
    let elements = match &mut held.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(x) | BackendTensor::Int(x)) => {
            let whole = x.layout().is_contiguous() && x.layout().start_offset() == 0 && x.bytes().len() == bytes;
            if whole && x.dtype() == E::DTYPE { E::all_mut(x) } else { None }
        }
        _ => None,
    };
    match elements {
        Some(elements) => {
            change(elements);
            Ok(Tensor::from_dispatch(held))
        }
        None => Err(Tensor::from_dispatch(held)),
    }
}

/// Writes rows into a buffer, in place if nothing else holds it.
#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
pub fn write_rows<K: Basic>(buffer: Tensor<4, K>, at: usize, x: &Tensor<4, K>) -> Result<Tensor<4, K>, Tensor<4, K>> {
    match x.dtype() {
        DType::F32 => write::<f32, K>(buffer, at, x),
        DType::I8 => write::<i8, K>(buffer, at, x),
        _ => Err(buffer),
    }
}

#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
fn write<E: Stored, K: Basic>(buffer: Tensor<4, K>, at: usize, x: &Tensor<4, K>) -> Result<Tensor<4, K>, Tensor<4, K>> {
    let [batch, rows, heads, dim] = buffer.dims();
    let new = x.dims()[1];
    if x.dims() != [batch, new, heads, dim] || at + new > rows {
        return Err(buffer);
    }
    let Some(x) = viewable::<E, 4, K>(x) else { return Err(buffer) };
    let x = view::<E>(&x);
    in_place(buffer, |elements: &mut [E]| {
        for b in 0..batch {
            for row in 0..new {
                let to = &mut elements[((b * rows + at + row) * heads) * dim..][..heads * dim];
                for (head, to) in to.chunks_exact_mut(dim.max(1)).enumerate() {
                    to.copy_from_slice(x.row(b, row, head, dim));
                }
            }
        }
    })
}

/// Copies tokens of some rows to others, in place if nothing else holds the buffer.
#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
pub fn copy_rows<K: Basic>(buffer: Tensor<4, K>, copies: &[RowCopy]) -> Result<Tensor<4, K>, Tensor<4, K>> {
    match buffer.dtype() {
        DType::F32 => copy::<f32, K>(buffer, copies),
        DType::I8 => copy::<i8, K>(buffer, copies),
        _ => Err(buffer),
    }
}

#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
fn copy<E: Stored, K: Basic>(buffer: Tensor<4, K>, copies: &[RowCopy]) -> Result<Tensor<4, K>, Tensor<4, K>> {
    let [batch, rows, heads, dim] = buffer.dims();
    let fits = |copy: &RowCopy| copy.from.max(copy.to) < batch && copy.tokens.end <= rows;
    if !copies.iter().all(fits) {
        return Err(buffer);
    }
    let row = heads * dim;
    in_place(buffer, |elements: &mut [E]| {
        for RowCopy { from, to, tokens } in copies {
            let start = |of: usize| (of * rows + tokens.start) * row;
            elements.copy_within(start(*from)..start(*from) + tokens.len() * row, start(*to));
        }
    })
}

/// Each head of `x` in bytes, and their scale.
pub fn quantize(x: &Tensor<4>) -> Option<(Tensor<4, Int>, Tensor<4>)> {
    let [batch, seq, heads, dim] = x.dims();
    let x = viewable::<f32, 4, _>(x)?;
    let x = view::<f32>(&x);
    let mut values = vec![0i8; batch * seq * heads * dim];
    let mut scales = vec![0f32; batch * seq * heads];
    for (i, (to, scale)) in values.chunks_exact_mut(dim.max(1)).zip(&mut scales).enumerate() {
        let (token, head) = (i / heads, i % heads);
        *scale = rows::quantize_symmetric(x.row(token / seq, token % seq, head, dim), RANGE, to);
    }
    let layout = Layout::contiguous(Shape::from([batch, seq, heads, dim]));
    let values = FlexTensor::new(Bytes::from_elems(values), layout, DType::I8);
    let values = Tensor::<4, Int>::from_primitive::<burn::backend::Flex>(values);
    Some((values, wrap(scales, [batch, seq, heads, 1])))
}
