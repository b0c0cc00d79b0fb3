//! Bodies for burn's `Flex` backend: what its tensors hold, as slices, to the kernels.
//!
//! A body takes a case if all tensors lie on the CPU, are not tracked by autodiff and have the dtypes that it knows;
//! otherwise it says `None` and the reference body runs. So it does where shapes do not fit, which is then burn's panic:
//! kernels read through pointers and trust their shapes. Kernels know nothing of tensors.
//!
//! | file | holds |
//! |---|---|
//! | `tile.rs` | the register tile of all products of f32 |
//! | `panels.rs` | rearranging rows for it |
//! | `product.rs` | products with weights of every dtype |
//! | `dots.rs` | products with few rows |
//! | `lanes.rs` | products with the columns of the result in the lanes |
//! | `conv.rs` | convolutions |
//! | `pairs.rs` | products with bf16 weights by AVX512-BF16 |
//! | `amx.rs` | the same by AMX |
//! | `quantized.rs` | products with 8-bit and 4-bit weights by VNNI |
//! | `attention.rs` | attention by blocks |
//! | `kv.rs` | the buffers of a cache |
//! | `loss.rs` | cross entropy and its gradient |
//! | `optim.rs` | steps of an optimizer |
//! | `rows.rs` | everything that goes row by row or element by element |
//! | `transposed.rs` | products with weights that lie the other way round |
//! | `scratch.rs` | memory that is used again |
//! | `ssm.rs` | state space models, from tensors to kernels |
//! | `threads.rs` | work that threads share |
//! | `backward/` | gradients, see `crate::gradient` |

pub mod amx;
mod attention;
pub mod backward;
mod conv;
mod dots;
pub mod kv;
mod lanes;
pub mod loss;
pub mod optim;
pub mod pairs;
mod panels;
pub mod product;
pub mod quantized;
pub mod rows;
mod scratch;
pub mod ssm;
mod threads;
pub mod tile;
mod transposed;

use burn::backend::flex::{FlexQTensor, FlexTensor, Layout};
use burn::backend::{BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind};
use burn::tensor::kind::Basic;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Bytes, DType, Int, Shape, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use self::attention::{Attention, View};
use self::conv::{Axes, Conv, MaxPool};
use self::product::{Factor, Out, Weight};
pub use self::scratch::Lines;
use self::scratch::{Aligned, Scratch};
use self::threads::parallel;
use self::transposed::Transposed;
use crate::{AttentionOptions, Epilogue, KvTensor, Pairs, Pointwise, reference};

/// Elements per task of a kernel that goes element by element: they stay in the nearest caches.
const CHUNK: usize = 1 << 14;

/// What `Flex` holds for a tensor, if it lies there and nothing differentiates through it.
fn flex<const D: usize, K: Basic>(x: &Tensor<D, K>) -> Option<BackendTensor<burn::backend::Flex>> {
    if reference() {
        return None;
    }
    match x.clone().into_dispatch() {
        DispatchTensor { kind: DispatchTensorKind::Flex(tensor), autodiff: DispatchAutodiffContext::Disabled } => {
            Some(tensor)
        }
        _ => None,
    }
}

/// A tensor that is not quantized, its elements beside each other.
pub fn plain<const D: usize, K: Basic>(x: &Tensor<D, K>) -> Option<FlexTensor> {
    match flex(x)? {
        BackendTensor::Float(x) | BackendTensor::Int(x) | BackendTensor::Bool(x) => Some(x.to_contiguous()),
        _ => None,
    }
}

/// As [`plain`], of f32.
pub fn floats<const D: usize>(x: &Tensor<D>) -> Option<FlexTensor> {
    plain(x).filter(|x| x.dtype() == DType::F32)
}

/// The elements of what [`floats`] gave.
pub fn slice(x: &FlexTensor) -> &[f32] {
    x.as_slice().unwrap_or_default()
}

/// A new tensor whose elements `write` sets, all of them.
///
/// # Safety
/// `write` writes every element.
unsafe fn create<const D: usize>(shape: [usize; D], write: impl FnOnce(Out)) -> Tensor<D> {
    let length = shape.iter().product();
    let mut values = Vec::<f32>::with_capacity(length);
    write(Out(values.as_mut_ptr()));
    // SAFETY: the capacity suffices, and everything was written.
    unsafe { values.set_len(length) };
    wrap(values, shape)
}

fn wrap<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    let tensor = FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape)), DType::F32);
    Tensor::from_primitive::<burn::backend::Flex>(tensor)
}

/// Applies `kernel` to whole rows of `row` elements, several rows per task; in place if nothing else holds `x`.
#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
fn rows_in_place<const D: usize>(
    x: Tensor<D>,
    row: usize,
    kernel: impl Fn(&mut [f32]) + Sync,
) -> Result<Tensor<D>, Tensor<D>> {
    if floats(&x).is_none() {
        return Err(x);
    }
    let shape = x.dims();
    let mut tensor = match x.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => tensor,
        kind => {
            return Err(Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled }));
        }
    };
    tensor = tensor.to_contiguous();
    let row = row.max(1);
    let chunk = row * (CHUNK / row).max(1);
    let run = |values: &mut [f32]| {
        let rows = |values: &mut [f32]| values.chunks_mut(row).for_each(&kernel);
        if values.len() <= chunk { rows(values) } else { values.par_chunks_mut(chunk).for_each(rows) }
    };
    if tensor.is_unique()
        && tensor.layout().start_offset() == 0
        && tensor.bytes().len() == 4 * shape.iter().product::<usize>()
    {
        if let Some(values) = tensor.try_storage_mut::<f32>() {
            run(values);
        }
        return Ok(Tensor::from_primitive::<burn::backend::Flex>(tensor));
    }
    let mut values = slice(&tensor).to_vec();
    run(&mut values);
    Ok(wrap(values, shape))
}

#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
pub fn pointwise<const D: usize>(x: Tensor<D>, act: Pointwise) -> Result<Tensor<D>, Tensor<D>> {
    rows_in_place(x, CHUNK, |x| rows::pointwise(act, x))
}

#[expect(clippy::result_large_err, reason = "what is not taken goes back")]
pub fn softmax<const D: usize>(x: Tensor<D>) -> Result<Tensor<D>, Tensor<D>> {
    let row = x.dims()[D - 1];
    rows_in_place(x, row, rows::softmax)
}

/// Writes each row of a new tensor from the row with the same number.
fn by_rows<const D: usize>(shape: [usize; D], kernel: impl Fn(usize, &mut [f32]) + Sync + Send) -> Tensor<D> {
    let row = shape[D - 1];
    let count = shape[..D - 1].iter().product::<usize>();
    let per_task = (CHUNK / row.max(1)).max(1);
    let write = |out: Out| {
        parallel(count.div_ceil(per_task), |task| {
            for i in task * per_task..count.min((task + 1) * per_task) {
                // SAFETY: the row lies in the tensor, and this task alone refers to it. It is only written.
                kernel(i, unsafe { std::slice::from_raw_parts_mut(out.get().add(i * row), row) });
            }
        });
    };
    // SAFETY: kernels write whole rows.
    unsafe { create(shape, write) }
}

pub fn gated<const D: usize>(act: Pointwise, gate: &Tensor<D>, up: &Tensor<D>) -> Option<Tensor<D>> {
    if gate.dims() != up.dims() {
        return None;
    }
    let (gate, up, shape) = (floats(gate)?, floats(up)?, gate.dims());
    let row = shape[D - 1];
    let (gate, up) = (slice(&gate), slice(&up));
    Some(by_rows(shape, |i, out| {
        let range = i * row..(i + 1) * row;
        rows::gated(act, &gate[range.clone()], &up[range], out);
    }))
}

/// The norm of each row, or of its sum with a residual; the root-mean-square norm if not `centred`.
pub fn norm<const D: usize>(
    x: &Tensor<D>,
    residual: Option<&Tensor<D>>,
    weight: &Tensor<1>,
    bias: Option<&Tensor<1>>,
    eps: f64,
    centred: bool,
) -> Option<Tensor<D>> {
    let shape = x.dims();
    let hidden = [shape[D - 1]];
    let fits = weight.dims() == hidden && bias.is_none_or(|bias| bias.dims() == hidden);
    if !fits || residual.is_some_and(|residual| residual.dims() != shape) {
        return None;
    }
    let (x, weight) = (floats(x)?, floats(weight)?);
    let residual = residual.map(floats);
    let bias = bias.map(floats);
    if matches!(residual, Some(None)) || matches!(bias, Some(None)) {
        return None;
    }
    let (residual, bias) = (residual.flatten(), bias.flatten());
    let (x, weight, residual, bias) =
        (slice(&x), slice(&weight), residual.as_ref().map(slice), bias.as_ref().map(slice));
    let row = shape[D - 1];
    Some(by_rows(shape, |i, out| {
        let range = i * row..(i + 1) * row;
        let (x, residual) = (&x[range.clone()], residual.map(|residual| &residual[range]));
        if centred {
            rows::layer_norm(x, residual, weight, bias, eps as f32, out);
        } else {
            rows::rms_norm(x, residual, weight, eps as f32, out);
        }
    }))
}

/// The norm of groups of channels over all places.
pub fn group_norm<const D: usize>(
    x: &Tensor<D>,
    groups: usize,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    eps: f64,
) -> Option<Tensor<D>> {
    let shape = x.dims();
    let (channels, places) = (shape[1], shape[2..].iter().product::<usize>());
    let fits = weight.dims() == [channels] && bias.dims() == [channels];
    if !fits || groups == 0 || !channels.is_multiple_of(groups) || places == 0 {
        return None;
    }
    let (x, weight, bias) = (floats(x)?, floats(weight)?, floats(bias)?);
    let (x, weight, bias) = (slice(&x), slice(&weight), slice(&bias));
    let of_group = channels / groups;
    let write = |out: Out| {
        parallel(shape[0] * groups, |task| {
            let at = task * of_group * places;
            let x = &x[at..at + of_group * places];
            // SAFETY: this task alone refers to its group. It is only written.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), x.len()) };
            let (mean, variance) = rows::moments(x);
            let scale = 1.0 / (variance + eps as f32).sqrt();
            let first = task % groups * of_group;
            for (i, (x, out)) in x.chunks_exact(places).zip(out.chunks_exact_mut(places)).enumerate() {
                let scale = scale * weight[first + i];
                rows::affine(x, scale, (-mean).mul_add(scale, bias[first + i]), out);
            }
        });
    };
    // SAFETY: every group is written.
    Some(unsafe { create(shape, write) })
}

pub fn rotary(x: &Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>, pairs: Pairs) -> Option<Tensor<4>> {
    let [batch, seq, heads, dim] = x.dims();
    let angles = cos.dims();
    let rotated = angles[3];
    let fits = angles == sin.dims() && (angles[0] == 1 || angles[0] == batch) && angles[1..3] == [seq, 1];
    if !fits || !rotated.is_multiple_of(2) || rotated > dim {
        return None;
    }
    let (x, cos, sin) = (viewable(x)?, floats(cos)?, floats(sin)?);
    Some(rotate(view(&x), [batch, seq, heads, dim], slice(&cos), slice(&sin), angles, pairs))
}

/// The rotation of heads of the shape `[batch, seq, heads, dim]` by angles of the shape `[batch or 1, seq, 1, rotated]`.
fn rotate(x: View<'_>, shape: [usize; 4], cos: &[f32], sin: &[f32], angles: [usize; 4], pairs: Pairs) -> Tensor<4> {
    let [_, seq, heads, dim] = shape;
    let rotated = angles[3];
    by_rows(shape, |i, out| {
        let (position, head) = (i / heads, i % heads);
        let (batch, token) = (position / seq, position % seq);
        let at = if angles[0] == 1 { token } else { position } * rotated;
        let x = x.row(batch, token, head, dim);
        let (cos, sin) = (&cos[at..at + rotated], &sin[at..at + rotated]);
        match pairs {
            Pairs::Halves => rows::rotary_halves(&x[..rotated], cos, sin, &mut out[..rotated]),
            Pairs::Neighbours => rows::rotary_neighbours(&x[..rotated], cos, sin, &mut out[..rotated]),
        }
        out[rotated..].copy_from_slice(&x[rotated..]);
    })
}

/// Integers that count or number something.
pub fn numbers(ids: &Tensor<1, Int>) -> Option<Vec<usize>> {
    let ids = plain(ids)?;
    match ids.dtype() {
        DType::I64 => Some(ids.as_slice::<i64>()?.iter().map(|&id| id as usize).collect()),
        DType::I32 => Some(ids.as_slice::<i32>()?.iter().map(|&id| id as usize).collect()),
        _ => None,
    }
}

/// Rows of a table, widened to f32.
pub fn embedding(table: &Tensor<2>, ids: &Tensor<1, Int>) -> Option<Tensor<2>> {
    let [rows, hidden] = table.dims();
    let (table, ids) = (plain(table)?, numbers(ids)?);
    assert!(ids.iter().all(|&id| id < rows), "embedding: an id is not below {rows}, the rows of the table");
    let widen = |id: usize, out: &mut [f32]| {
        let range = id * hidden..(id + 1) * hidden;
        match table.dtype() {
            DType::F32 => out.copy_from_slice(&slice(&table)[range]),
            DType::BF16 => rows::widen_bf16(&table.as_slice::<bf16>().unwrap_or_default()[range], out),
            _ => rows::widen_f16(&table.as_slice::<f16>().unwrap_or_default()[range], out),
        }
    };
    matches!(table.dtype(), DType::F32 | DType::BF16 | DType::F16)
        .then(|| by_rows([ids.len(), hidden], |i, out| widen(ids[i], out)))
}

/// A weight as `Flex` holds it.
pub enum Held {
    Dense(FlexTensor),
    Quantized(FlexQTensor),
}

impl Held {
    pub fn new(weight: &Tensor<2>) -> Option<Self> {
        match flex(weight)? {
            BackendTensor::Float(weight) => Some(Self::Dense(weight.to_contiguous())),
            BackendTensor::Quantized(weight) => Some(Self::Quantized(weight)),
            _ => None,
        }
    }

    /// The weight, whose rows have `steps` elements.
    pub fn weight(&self, steps: usize) -> Option<Weight<'_>> {
        match self {
            Self::Dense(weight) => match weight.dtype() {
                DType::F32 => Some(Weight::F32(weight.as_slice()?)),
                DType::BF16 => Some(Weight::Bf16(weight.as_slice()?)),
                DType::F16 => Some(Weight::F16(weight.as_slice()?)),
                _ => None,
            },
            Self::Quantized(weight) => crate::quantize::weight(weight, steps).map(Weight::Quantized),
        }
    }
}

/// `act(x · Wᵀ + b)` for several weights.
pub fn linears<const D: usize, const N: usize>(
    x: &Tensor<D>,
    layers: &[(Tensor<2>, Option<Tensor<1>>); N],
    act: Option<Pointwise>,
) -> Option<[Tensor<D>; N]> {
    let x_shape = x.dims();
    let steps = x_shape[D - 1];
    let count: usize = x_shape[..D - 1].iter().product();
    let fits = |(weight, bias): &(Tensor<2>, Option<Tensor<1>>)| {
        let [out, input] = weight.dims();
        input == steps && bias.as_ref().is_none_or(|bias| bias.dims() == [out])
    };
    if !layers.iter().all(fits) {
        return None;
    }
    let x = floats(x)?;
    let mut held = Vec::with_capacity(N);
    for (weight, bias) in layers {
        let bias = match bias {
            Some(bias) => Some(floats(bias)?),
            None => None,
        };
        held.push((Held::new(weight)?, bias, weight.dims()[0]));
    }
    let mut outs: Vec<Vec<f32>> = held.iter().map(|(_, _, columns)| Vec::with_capacity(count * columns)).collect();
    let mut factors = Vec::with_capacity(N);
    for ((held, bias, columns), out) in held.iter().zip(&mut outs) {
        let (weight, bias) = (held.weight(steps)?, bias.as_ref().map(slice));
        factors.push(Factor { weight, bias, columns: *columns, out: Out(out.as_mut_ptr()) });
    }
    // SAFETY: every output has room for `count` rows, all of which are written.
    unsafe {
        product::product(slice(&x), steps, &factors, act);
        for (out, (_, _, columns)) in outs.iter_mut().zip(&held) {
            out.set_len(count * columns);
        }
    }
    let mut outs = outs.into_iter();
    Some(std::array::from_fn(|i| {
        let mut shape = x_shape;
        shape[D - 1] = held[i].2;
        wrap(outs.next().unwrap_or_default(), shape)
    }))
}

/// `act(x · W + b)` of a dense weight `[in, out]`.
pub fn linear_transposed<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    act: Option<Pointwise>,
) -> Option<Tensor<D>> {
    let ([steps, columns], mut shape) = (weight.dims(), x.dims());
    if shape[D - 1] != steps || steps == 0 || bias.is_some_and(|bias| bias.dims() != [columns]) {
        return None;
    }
    let (x, held) = (floats(x)?, Held::new(weight)?);
    let bias = match bias {
        Some(bias) => Some(floats(bias)?),
        None => None,
    };
    let weight = held.weight(steps).filter(|weight| !matches!(weight, Weight::Quantized(_)))?;
    shape[D - 1] = columns;
    let product =
        |out: Out| Transposed { x: slice(&x), steps, weight, columns, bias: bias.as_ref().map(slice), act, out };
    // SAFETY: every row of x has a row of the result.
    Some(unsafe { create(shape, |out| product(out).run()) })
}

/// A convolution, and what follows it.
pub fn conv2d(x: &Tensor<4>, weight: &Tensor<4>, options: &ConvOptions<2>, epilogue: &Epilogue) -> Option<Tensor<4>> {
    let ([batch, channels, height, width], [out, inputs, kernel_height, kernel_width]) = (x.dims(), weight.dims());
    let (groups, kernel) = (options.groups, [kernel_height, kernel_width]);
    let axes = Axes::new([height, width], kernel, options.stride, options.padding, options.dilation)?;
    let shape = [batch, out, axes.output[0], axes.output[1]];
    let per_channel = |x: &Option<Tensor<1>>| x.as_ref().is_none_or(|x| x.dims() == [out]);
    let fits = inputs > 0
        && channels == groups * inputs
        && out.is_multiple_of(groups)
        && per_channel(&epilogue.scale)
        && per_channel(&epilogue.shift)
        && epilogue.residual.as_ref().is_none_or(|residual| residual.dims() == shape);
    if !fits {
        return None;
    }
    let (x, weight) = (floats(x)?, floats(weight)?);
    let scale = given(&epilogue.scale)?;
    let shift = given(&epilogue.shift)?;
    let residual = given(&epilogue.residual)?;
    let conv = |out_to: Out| Conv {
        x: slice(&x),
        weight: slice(&weight),
        batch,
        groups,
        inputs,
        outputs: out / groups,
        axes,
        scale: scale.as_ref().map(slice),
        shift: shift.as_ref().map(slice),
        residual: residual.as_ref().map(slice),
        act: epilogue.act,
        out: out_to,
    };
    // SAFETY: every channel and pixel of the result is written.
    Some(unsafe { create(shape, |out| conv(out).run()) })
}

/// See [`crate::max_pool2d`].
pub fn max_pool2d(x: &Tensor<4>, options: &MaxPoolOptions<2>) -> Option<Tensor<4>> {
    let [batch, channels, height, width] = x.dims();
    if options.ceil_mode {
        return None;
    }
    let axes = Axes::new([height, width], options.kernel_size, options.stride, options.padding, options.dilation)?;
    let x = floats(x)?;
    let shape = [batch, channels, axes.output[0], axes.output[1]];
    // SAFETY: every plane of the result is written.
    Some(unsafe { create(shape, |out| MaxPool { x: slice(&x), planes: batch * channels, axes, out }.run()) })
}

/// The elements of a tensor if it is given; `None` if it is not what [`floats`] takes.
#[expect(clippy::option_option, reason = "not there is not the same as not taken")]
fn given<const D: usize>(x: &Option<Tensor<D>>) -> Option<Option<FlexTensor>> {
    match x {
        Some(x) => floats(x).map(Some),
        None => Some(None),
    }
}

/// What a [`View`] of a tensor with three or four axes needs: elements of the last axis beside each other.
fn viewable<const D: usize>(x: &Tensor<D>) -> Option<FlexTensor> {
    kv::viewable::<f32, D, _>(x)
}

fn view(x: &FlexTensor) -> View<'_> {
    kv::view(x)
}

pub fn attention(q: &Tensor<4>, k: &KvTensor, v: &KvTensor, options: &AttentionOptions<'_>) -> Option<Tensor<4>> {
    HeldAttention::new(q, k, v, options).map(|held| held.run())
}

/// The arguments of an attention as `Flex` holds them.
pub struct HeldAttention {
    q: FlexTensor,
    k: kv::Held,
    v: kv::Held,
    padding: Option<FlexTensor>,
    before: Option<usize>,
    after: Option<usize>,
    scale: f32,
    softcap: Option<f32>,
    bias: Option<FlexTensor>,
    sinks: Option<FlexTensor>,
    /// Of queries, `[batch, queries, heads, dim]`.
    shape: [usize; 4],
    keys: usize,
    groups: usize,
    value_dim: usize,
}

impl HeldAttention {
    pub fn new(q: &Tensor<4>, k: &KvTensor, v: &KvTensor, options: &AttentionOptions<'_>) -> Option<Self> {
        let [batch, queries, heads, dim] = q.dims();
        let [_, keys, groups, _] = k.dims();
        let value_dim = v.dims()[3];
        let padding = options.mask.padding_of(keys);
        let padded = padding.as_ref().is_none_or(|padding| padding.dims() == [batch, keys]);
        let fits = k.dims() == [batch, keys, groups, dim] && v.dims() == [batch, keys, groups, value_dim];
        if !fits || !padded || groups == 0 || !heads.is_multiple_of(groups) || queries > keys {
            return None;
        }
        let bias = match &options.bias {
            // `[batch or 1, heads, queries, keys]`; an axis of one is repeated by a stride of zero.
            Some(bias) => Some(viewable(&bias.clone().expand([batch, heads, queries, keys]))?),
            None => None,
        };
        let padding = match &padding {
            Some(padding) => Some(plain(padding)?),
            None => None,
        };
        let sinks = match &options.sinks {
            Some(sinks) => Some(floats(sinks).filter(|_| sinks.dims() == [heads])?),
            None => None,
        };
        let (q, k, v) = (viewable(q)?, kv::Held::new(k)?, kv::Held::new(v)?);
        Some(Self {
            q,
            k,
            v,
            padding,
            before: options.mask.before,
            after: options.mask.after,
            scale: options.factor(dim) as f32,
            softcap: options.softcap.map(|cap| cap as f32),
            bias,
            sinks,
            shape: [batch, queries, heads, dim],
            keys,
            groups,
            value_dim,
        })
    }

    pub fn run(&self) -> Tensor<4> {
        let [batch, queries, heads, _] = self.shape;
        // SAFETY: every query of every head has a row of the result.
        unsafe { create([batch, queries, heads, self.value_dim], |out| self.attention().run(out)) }
    }

    fn attention(&self) -> Attention<'_> {
        let [batch, queries, heads, dim] = self.shape;
        Attention {
            q: view(&self.q),
            k: self.k.kv(),
            v: self.v.kv(),
            batch,
            queries,
            keys: self.keys,
            heads,
            groups: self.groups,
            dim,
            value_dim: self.value_dim,
            scale: self.scale,
            softcap: self.softcap,
            sinks: self.sinks.as_ref().map(slice),
            padding: self.padding.as_ref().map(FlexTensor::bytes),
            before: self.before,
            after: self.after,
            // The view's axes are batch, seq, heads: those of the bias are batch, heads, queries.
            bias: self
                .bias
                .as_ref()
                .map(view)
                .map(|view| View { strides: [view.strides[0], view.strides[2], view.strides[1]], ..view }),
        }
    }
}
