//! Gradients of the operations, from tensors to kernels. Tensors have been checked by whoever computed the result.
//!
//! Sums over rows go over parts that depend on the shapes alone, and these are added in order: a gradient is the same
//! with any number of threads.
//!
//! | file | holds |
//! |---|---|
//! | `attention.rs` | the gradients of an attention, by the blocks of its result |
//! | `product.rs` | the products that are the gradients of a product |
//! | `rows.rs` | everything that goes row by row or element by element |

mod attention;
mod product;
mod rows;

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Bytes, DType, Shape};
use rayon::prelude::*;

use self::attention::Backward;
use super::optim::values;
use super::product::{Factor, Out, Weight};
use super::threads::parallel;
use super::{CHUNK, HeldAttention, kv, slice};
use crate::{Pairs, Pointwise, with_exact_products};

/// The most parts that rows are summed up in.
const PARTS: usize = 64;

/// Rows of a part at least.
const PART_ROWS: usize = 8;

/// Columns of a table whose rows one task adds up.
const TABLE_COLUMNS: usize = 128;

/// Elements beside each other as a tensor.
pub fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// A new tensor whose elements `write` sets, all of them.
///
/// # Safety
/// `write` writes every element.
unsafe fn create(shape: Shape, write: impl FnOnce(Out)) -> FlexTensor {
    let length = shape.num_elements();
    let mut values = Vec::<f32>::with_capacity(length);
    write(Out(values.as_mut_ptr()));
    // SAFETY: the capacity suffices, and everything was written.
    unsafe { values.set_len(length) };
    tensor(values, shape)
}

/// Calls `kernel` with each `piece` elements of `x` and their number; in place if nothing else holds `x`, otherwise in a
/// new tensor. The last piece may be shorter.
pub fn by_pieces(mut x: FlexTensor, piece: usize, kernel: impl Fn(usize, &mut [f32]) + Sync + Send) -> FlexTensor {
    // The other handle is gone then.
    x = x.to_contiguous();
    let piece = piece.max(1);
    let per_task = (CHUNK / piece).max(1);
    let run = |task: usize, values: &mut [f32]| {
        for (i, values) in values.chunks_mut(piece).enumerate() {
            kernel(task * per_task + i, values);
        }
    };
    if let Some(values) = x.try_storage_mut::<f32>() {
        values.par_chunks_mut(per_task * piece).enumerate().for_each(|(task, values)| run(task, values));
        return x;
    }
    let from = slice(&x);
    let write = |out: Out| {
        from.par_chunks(per_task * piece).enumerate().for_each(|(task, from)| {
            // SAFETY: the elements are in the new tensor, and this task alone refers to them. They are written first.
            let values = unsafe {
                let start = out.get().add(task * per_task * piece);
                start.copy_from_nonoverlapping(from.as_ptr(), from.len());
                std::slice::from_raw_parts_mut(start, from.len())
            };
            run(task, values);
        });
    };
    // SAFETY: every element is copied.
    unsafe { create(x.layout().shape().clone(), write) }
}

/// `act(x)` in a new tensor.
pub fn activated(act: Pointwise, x: &FlexTensor) -> FlexTensor {
    by_pieces(x.clone(), CHUNK, |_, x| super::rows::pointwise(act, x))
}

/// Softmax over the last axis in a new tensor.
pub fn softmaxed(x: &FlexTensor, row: usize) -> FlexTensor {
    by_pieces(x.clone(), row, |_, x| super::rows::softmax(x))
}

/// The gradient of `x` in `act(x)`.
pub fn pointwise(act: Pointwise, x: &FlexTensor, gradient: FlexTensor) -> FlexTensor {
    let x = slice(x);
    by_pieces(gradient, CHUNK, |i, gradient| rows::pointwise(act, &x[i * CHUNK..][..gradient.len()], gradient))
}

/// The gradients of `gate` and `up` in `act(gate) · up`.
pub fn gated(act: Pointwise, gate: &FlexTensor, up: &FlexTensor, gradient: FlexTensor) -> [FlexTensor; 2] {
    let shape = gate.layout().shape().clone();
    let (gate, up) = (slice(gate), slice(up));
    let mut of_gate = gradient;
    of_gate = of_gate.to_contiguous();
    let gradient = values(&mut of_gate);
    let write = |out: Out| {
        gradient.par_chunks_mut(CHUNK).enumerate().for_each(|(i, gradient)| {
            let range = i * CHUNK..i * CHUNK + gradient.len();
            // SAFETY: the elements are in the new tensor, and this task alone refers to them. They are only written.
            let of_up = unsafe { std::slice::from_raw_parts_mut(out.get().add(range.start), range.len()) };
            rows::gated(act, &gate[range.clone()], &up[range], gradient, of_up);
        });
    };
    // SAFETY: every element is written.
    let of_up = unsafe { create(shape, write) };
    [of_gate, of_up]
}

/// The gradient of `x` in `y = softmax(x)` over the last axis.
pub fn softmax(y: &FlexTensor, row: usize, gradient: FlexTensor) -> FlexTensor {
    let y = slice(y);
    by_pieces(gradient, row, |i, gradient| rows::softmax(&y[i * row..][..gradient.len()], gradient))
}

/// The arguments of a norm, see [`super::norm`].
pub struct Norm {
    pub x: FlexTensor,
    pub residual: Option<FlexTensor>,
    pub weight: FlexTensor,
    pub eps: f32,
    /// The root-mean-square norm if not.
    pub centred: bool,
}

impl Norm {
    /// The gradients of the input, or of both that are its sum, of the weight and of the bias.
    pub fn backward(&self, gradient: &FlexTensor) -> [FlexTensor; 3] {
        let (x, weight, gradient) = (slice(&self.x), slice(&self.weight), slice(gradient));
        let residual = self.residual.as_ref().map(slice);
        let hidden = weight.len();
        let count = x.len() / hidden.max(1);
        let per_part = count.div_ceil(PARTS).max(PART_ROWS);
        let mut sums = vec![0f32; 2 * hidden * count.div_ceil(per_part).max(1)];
        let write = |out: Out| {
            sums.par_chunks_mut((2 * hidden).max(1)).enumerate().for_each(|(part, sums)| {
                let (of_weight, of_bias) = sums.split_at_mut(hidden);
                for i in part * per_part..count.min((part + 1) * per_part) {
                    let range = i * hidden..(i + 1) * hidden;
                    let row = rows::Row {
                        x: &x[range.clone()],
                        residual: residual.map(|residual| &residual[range.clone()]),
                        weight,
                        gradient: &gradient[range.clone()],
                        eps: self.eps,
                    };
                    // SAFETY: the row is in the new tensor, and this task alone refers to it. It is only written.
                    let to = unsafe { std::slice::from_raw_parts_mut(out.get().add(range.start), hidden) };
                    if self.centred {
                        rows::layer_norm(row, to, of_weight, of_bias);
                    } else {
                        rows::rms_norm(row, to, of_weight);
                    }
                }
            });
        };
        // SAFETY: every row is written.
        let of_x = unsafe { create(self.x.layout().shape().clone(), write) };
        let (first, others) = sums.split_at_mut(2 * hidden);
        for part in others.chunks_exact((2 * hidden).max(1)) {
            rows::add_to(part, first);
        }
        let parameter = |values: &[f32]| tensor(values.to_vec(), Shape::from([hidden]));
        [of_x, parameter(&first[..hidden]), parameter(&first[hidden..])]
    }
}

/// The gradient of a table of `rows` rows that were looked up by number.
pub fn embedding(ids: &[usize], [rows, hidden]: [usize; 2], gradient: &FlexTensor) -> FlexTensor {
    let gradient = slice(gradient);
    let mut table = vec![0f32; rows * hidden];
    let out = Out(table.as_mut_ptr());
    // A task has columns of its own: every row is a sum in the order of the ids.
    parallel(hidden.div_ceil(TABLE_COLUMNS), |task| {
        let columns = task * TABLE_COLUMNS..hidden.min((task + 1) * TABLE_COLUMNS);
        for (gradient, &id) in gradient.chunks_exact(hidden).zip(ids) {
            // SAFETY: ids are below the number of rows, and this task alone refers to these columns.
            let to =
                unsafe { std::slice::from_raw_parts_mut(out.get().add(id * hidden + columns.start), columns.len()) };
            rows::add_to(&gradient[columns.clone()], to);
        }
    });
    tensor(table, Shape::from([rows, hidden]))
}

/// The gradient of a rotated tensor `[batch, seq, heads, head_dim]`: it is rotated back.
pub fn rotary(
    gradient: FlexTensor,
    shape: [usize; 4],
    [cos, sin]: [&FlexTensor; 2],
    angles: [usize; 4],
    pairs: Pairs,
) -> Option<FlexTensor> {
    let gradient = gradient.to_contiguous();
    // The elements of a pair change places, in a table as in the sum that it is for.
    let sin: Vec<f32> = slice(sin).chunks(angles[3].max(1)).flat_map(|row| turned_back(row, pairs)).collect();
    super::rotate(kv::view(&gradient), shape, slice(cos), &sin, angles, pairs).try_into_primitive::<Flex>().ok()
}

fn turned_back(sin: &[f32], pairs: Pairs) -> Vec<f32> {
    let half = sin.len() / 2;
    let partner = |i: usize| match pairs {
        Pairs::Halves => (i + half) % sin.len(),
        Pairs::Neighbours => i ^ 1,
    };
    (0..sin.len()).map(|i| -sin[partner(i)]).collect()
}

/// The gradient of `x: [.., in]` in `x · wᵀ`, of the shape of `x`.
pub fn input(gradient: &[f32], weight: Weight<'_>, columns: usize, shape: Shape) -> FlexTensor {
    let rows = shape.num_elements() / columns.max(1);
    let steps = gradient.len() / rows.max(1);
    // SAFETY: the result has a row for each row of the gradient.
    unsafe { create(shape, |out| product::through(gradient, steps, weight, columns, out)) }
}

/// The gradient of `x: [.., in]` in `x · w`, of the shape of `x`.
pub fn input_transposed(gradient: &[f32], weight: Weight<'_>, columns: usize, shape: Shape) -> FlexTensor {
    let rows = shape.num_elements() / columns.max(1);
    let steps = gradient.len() / rows.max(1);
    let factor = |out: Out| [Factor { weight, bias: None, columns, out }];
    // Gradients are not rounded, whatever the weights are.
    // SAFETY: as above.
    let product = |out: Out| unsafe { super::product::product(gradient, steps, &factor(out), None) };
    // SAFETY: as above.
    unsafe { create(shape, |out| with_exact_products(|| product(out))) }
}

/// `aᵀ · b` of `[steps, rows]` and `[steps, columns]`: the gradient of a weight.
pub fn weight(a: &[f32], b: &[f32], [rows, columns]: [usize; 2]) -> FlexTensor {
    // SAFETY: every element of the result is written.
    unsafe { create(Shape::from([rows, columns]), |out| product::outer(a, rows, b, columns, out)) }
}

/// The gradient of a bias: the sum of all rows.
pub fn bias(gradient: &[f32], columns: usize) -> FlexTensor {
    tensor(product::column_sums(gradient, columns), Shape::from([columns]))
}

/// The same numbers in another dtype.
pub fn cast(x: FlexTensor, dtype: DType) -> FlexTensor {
    if dtype == DType::F32 { x } else { Flex::float_cast(x, dtype.into()) }
}

/// Which gradients of an attention are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub q: bool,
    pub k: bool,
    pub v: bool,
    /// `[batch or 1, heads or 1, queries or 1, keys]`, if so.
    pub bias: Option<[usize; 4]>,
    pub sinks: bool,
}

impl HeldAttention {
    /// The gradients of queries, keys, values, bias and sinks.
    pub fn backward(&self, gradient: FlexTensor, wanted: Wanted) -> [Option<FlexTensor>; 5] {
        let [batch, queries, heads, dim] = self.shape;
        let (keys, groups, value_dim) = (self.keys, self.groups, self.value_dim);
        let gradient = gradient.to_contiguous();
        let of = self.attention();
        let parts = attention::parts(&of);
        let one_batch = wanted.bias.is_some_and(|[batch, ..]| batch == 1);
        let batches = if one_batch { 1 } else { batch };
        let zeros = |wanted: bool, length: usize| wanted.then(|| vec![0f32; length]);
        let mut of_q = zeros(wanted.q, batch * queries * heads * dim);
        let mut of_k = zeros(wanted.k, parts * batch * keys * groups * dim);
        let mut of_v = zeros(wanted.v, parts * batch * keys * groups * value_dim);
        let mut of_bias = zeros(wanted.bias.is_some(), batches * heads * queries * keys);
        let mut of_sinks = zeros(wanted.sinks, batch * heads * queries);
        let out = |values: &mut Option<Vec<f32>>| values.as_mut().map(|values| Out(values.as_mut_ptr()));
        let backward = Backward {
            of: &of,
            gradient: kv::view(&gradient),
            parts,
            of_q: out(&mut of_q),
            of_k: out(&mut of_k),
            of_v: out(&mut of_v),
            of_bias: out(&mut of_bias),
            one_batch,
            of_sinks: out(&mut of_sinks),
        };
        // SAFETY: all gradients have room for their shapes, and zeros.
        unsafe { backward.run() };
        let of_keys = |values, dim: usize| tensor(sum_parts(values, parts), Shape::from([batch, keys, groups, dim]));
        let of_bias = of_bias.zip(wanted.bias).map(|(values, dims)| {
            let full = [batches, heads, queries, keys];
            let sum = tensor(values, Shape::from(full));
            (0..4).filter(|&axis| dims[axis] != full[axis]).fold(sum, Flex::float_sum_dim)
        });
        let of_sinks = of_sinks.map(|values| {
            let of_head = |head: usize| -> f32 {
                let of_batch = values.chunks_exact((heads * queries).max(1));
                of_batch.map(|values| super::rows::sum(&values[head * queries..(head + 1) * queries])).sum()
            };
            tensor((0..heads).map(of_head).collect(), Shape::from([heads]))
        });
        [
            of_q.map(|values| tensor(values, Shape::from(self.shape))),
            of_k.map(|values| of_keys(values, dim)),
            of_v.map(|values| of_keys(values, value_dim)),
            of_bias,
            of_sinks,
        ]
    }
}

/// The first of some parts of equal length with all others added.
fn sum_parts(mut values: Vec<f32>, parts: usize) -> Vec<f32> {
    if parts == 1 {
        return values;
    }
    let length = values.len() / parts;
    let (first, others) = values.split_at_mut(length);
    first.par_chunks_mut(CHUNK).enumerate().for_each(|(i, first)| {
        for part in others.chunks_exact(length.max(1)) {
            rows::add_to(&part[i * CHUNK..][..first.len()], first);
        }
    });
    values.truncate(length);
    values.shrink_to_fit();
    values
}
