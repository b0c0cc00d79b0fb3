//! The gradients of an attention, by the blocks of its result.
//!
//! Nothing of the forward pass is kept: the weights of a block are computed again (Dao et al., 2022, arXiv:2205.14135,
//! algorithm 4). As there, the queries of a block lie in the lanes; it takes all keys that they may see at once, so that
//! the memory grows with the number of keys alone.
//!
//! With `p = softmax(s)`, `y = p · v` and the gradient `dy`: `dv = pᵀ · dy`, `dp = dy · vᵀ`, `ds = p · (dp − Σ p · dp)`,
//! `dq = scale · ds · k` and `dk = scale · dsᵀ · q`.

use std::ops::Range;

use macerator::{Simd, WithSimd};

use super::product::put_rows;
use super::rows as backward;
use crate::cpu::attention::{Attention, Block, View};
use crate::cpu::lanes::{self, PANEL, Strip};
use crate::cpu::panels;
use crate::cpu::product::Out;
use crate::cpu::rows;
use crate::cpu::scratch::{Aligned, Scratch};
use crate::cpu::threads::parallel;
use crate::cpu::tile::{self, Broadcast, MAX_COLUMNS};

/// Tasks that there should be, if heads of keys are fewer: they sum up parts of the queries then, each for itself.
const TASKS: usize = 16;

/// In how many parts the gradients of keys and values are summed up. It does not depend on the number of threads.
pub fn parts(of: &Attention<'_>) -> usize {
    (TASKS / (of.batch * of.groups).max(1)).clamp(1, of.panels().count().max(1))
}

/// The gradients of an attention: those that are wanted, all of them zeros before.
#[derive(Debug, Clone, Copy)]
pub struct Backward<'a> {
    pub of: &'a Attention<'a>,
    /// Of the result, `[batch, queries, heads, value_dim]`.
    pub gradient: View<'a>,
    /// See [`parts`].
    pub parts: usize,
    /// `[batch, queries, heads, dim]`
    pub of_q: Option<Out>,
    /// `[parts, batch, keys, groups, dim]`
    pub of_k: Option<Out>,
    /// `[parts, batch, keys, groups, value_dim]`
    pub of_v: Option<Out>,
    /// `[batch or 1, heads, queries, keys]`
    pub of_bias: Option<Out>,
    /// Whether all of the batch have one bias.
    pub one_batch: bool,
    /// `[batch, heads, queries]`: what each query adds to the gradient of the sink.
    pub of_sinks: Option<Out>,
}

impl Backward<'_> {
    /// # Safety
    /// The gradients are valid for their shapes, and nothing else refers to them.
    pub unsafe fn run(&self) {
        let of = self.of;
        let panels = of.panels().count();
        // A bias that all of the batch have is a sum that one task computes.
        let batches = if self.one_batch { 1 } else { of.batch };
        parallel(batches * of.groups * self.parts, |task| {
            let (pair, part) = (task / self.parts, task % self.parts);
            let (batch, group) = (pair / of.groups, pair % of.groups);
            let batches = if self.one_batch { 0..of.batch } else { batch..batch + 1 };
            let panels = part * panels / self.parts..(part + 1) * panels / self.parts;
            macerator::AutoArch::new().dispatch(Part { of: self, batches, group, part, panels });
        });
    }
}

/// Some queries that share a head of keys.
struct Part<'a> {
    of: &'a Backward<'a>,
    batches: Range<usize>,
    group: usize,
    part: usize,
    panels: Range<usize>,
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let panels = self.of.of.panels();
        for batch in self.batches.clone() {
            for index in self.panels.clone() {
                let block = Block { of: self.of.of, panel: panels.get(index), batch, group: self.group };
                Gradients { of: self.of, block, part: self.part }.compute::<S>();
            }
        }
    }
}

/// Writes some elements of the line of a lane that has a query.
type Lines<'a> = dyn Fn(usize, Range<usize>, &mut [f32]) + 'a;

/// What a block adds.
struct Gradients<'a> {
    of: &'a Backward<'a>,
    block: Block<'a>,
    part: usize,
}

impl Gradients<'_> {
    #[inline(always)]
    fn compute<S: Simd>(&self) {
        let Block { of, panel, batch, group } = self.block;
        let (block, width) = (&self.block, panel.width);
        let lanes = block.lanes();
        let lanes = &lanes[..panel.rows];
        let keys = block.visible(lanes);
        let count = keys.len();

        let mut q = Scratch::<f32>::take(of.dim * width);
        block.pack(&of.q, lanes, of.dim, &mut q);
        q.iter_mut().for_each(|q| *q *= of.scale);
        let mut dy = Scratch::<f32>::take(of.value_dim * width);
        block.pack(&self.of.gradient, lanes, of.value_dim, &mut dy);
        let (k, k_step) = of.k.tokens([batch, keys.start, group], count, of.dim, &mut []);
        let (v, v_step) = of.v.tokens([batch, keys.start, group], count, of.value_dim, &mut []);

        // The weights, as in the forward pass.
        let mut p = Scratch::<f32>::take((count + MAX_COLUMNS) * width);
        let columns = Broadcast { start: k, column: k_step, step: 1 };
        // SAFETY: `q` has `width` lanes for each element; there are `count` keys; the weights have room for them.
        unsafe {
            tile::panel::<S, true>(&panel, of.dim, q.as_ptr(), columns, count, std::ptr::null(), p.as_mut_ptr());
        }
        let p = &mut p[..count * width];
        let mut capped = Scratch::<f32>::take(if of.softcap.is_some() { p.len() } else { 0 });
        if let Some(cap) = of.softcap {
            rows::softcap(cap, p);
            capped.copy_from_slice(p);
        }
        block.mask(p, keys.start, lanes);
        let (mut max, mut total) = (Aligned([f32::NEG_INFINITY; 64]), Aligned([0f32; 64]));
        if let Some(sinks) = of.sinks {
            max.0.iter_mut().zip(lanes).for_each(|(max, &(head, _))| *max = sinks[head]);
        }
        rows::lane_max(p, &mut max.0[..width]);
        rows::lane_exp(p, &max.0[..width], &mut total.0[..width]);
        let mut sunk = Aligned([0f32; 64]);
        if let Some(sinks) = of.sinks {
            for (lane, &(head, _)) in lanes.iter().enumerate() {
                sunk.0[lane] = rows::exp(sinks[head] - max.0[lane]);
                total.0[lane] += sunk.0[lane];
            }
        }
        backward::lane_normalise(p, &total.0[..width]);

        let mut ds = Scratch::<f32>::take((count + MAX_COLUMNS) * width);
        let columns = Broadcast { start: v, column: v_step, step: 1 };
        // SAFETY: as above, with values for keys.
        unsafe {
            let (x, out) = (dy.as_ptr(), ds.as_mut_ptr());
            tile::panel::<S, true>(&panel, of.value_dim, x, columns, count, std::ptr::null(), out);
        }
        let ds = &mut ds[..count * width];
        let mut mean = Aligned([0f32; 64]);
        backward::lane_dot(p, ds, &mut mean.0[..width]);
        if let Some(out) = self.of.of_sinks {
            for (lane, &(head, query)) in lanes.iter().enumerate() {
                let value = -sunk.0[lane] / total.0[lane] * mean.0[lane];
                // SAFETY: this block alone refers to what its queries have.
                unsafe { out.get().add((batch * of.heads + head) * of.queries + query).write(value) };
            }
        }
        // Where all keys are hidden, all have one weight, which does not depend on the scores.
        let live = Aligned(max.0.map(|max| if max > f32::MIN { 1.0 } else { 0.0 }));
        backward::lane_softmax(p, &mean.0[..width], &live.0[..width], ds);
        if let Some(out) = self.of.of_bias {
            self.add_to_bias(ds, &keys, lanes, out);
        }
        if let Some(cap) = of.softcap {
            backward::softcap(cap, &capped, ds);
        }

        if let Some(out) = self.of.of_q {
            let mut sums = Scratch::<f32>::take((of.dim + MAX_COLUMNS) * width);
            let rows = Broadcast { start: k, column: 1, step: k_step };
            // SAFETY: `ds` has `width` lanes for each of `count` keys; this block alone writes the rows of its queries.
            unsafe {
                let (x, to) = (ds.as_ptr(), sums.as_mut_ptr());
                tile::panel::<S, false>(&panel, count, x, rows, of.dim, std::ptr::null(), to);
                sums[..of.dim * width].iter_mut().for_each(|sum| *sum *= of.scale);
                block.unpack(&sums, lanes, of.dim, out);
            }
        }
        let of_gradient = |lane: usize, column: Range<usize>, to: &mut [f32]| {
            let (head, query) = lanes[lane];
            to.copy_from_slice(&self.of.gradient.row(batch, query, head, of.value_dim)[column]);
        };
        let of_q = |lane: usize, column: Range<usize>, to: &mut [f32]| {
            let (head, query) = lanes[lane];
            let q = &of.q.row(batch, query, head, of.dim)[column];
            to.iter_mut().zip(q).for_each(|(to, q)| *to = of.scale * q);
        };
        // One call for both: it is compiled into this function as a whole.
        let sums: [(Option<Out>, &[f32], usize, &Lines<'_>); 2] =
            [(self.of.of_v, &*p, of.value_dim, &of_gradient), (self.of.of_k, &*ds, of.dim, &of_q)];
        for (out, x, dim, lines) in sums {
            if let Some(out) = out {
                self.add_to_keys::<S>(x, keys.start, dim, lines, out);
            }
        }
    }

    /// Adds `x · lines` of `[keys][width]` and `[width][dim]` to rows of `[parts, batch, keys, groups, dim]` from the key
    /// `first` on.
    #[inline(always)]
    fn add_to_keys<S: Simd>(&self, x: &[f32], first: usize, dim: usize, lines: &Lines<'_>, out: Out) {
        let Block { of, panel, batch, group } = self.block;
        let key = (self.part * of.batch + batch) * of.keys + first;
        for column in (0..dim).step_by(PANEL) {
            let count = PANEL.min(dim - column);
            let width = lanes::padded::<S>(count);
            let pack = |range: Range<usize>, packed: &mut [f32]| {
                for (step, to) in range.zip(packed.chunks_exact_mut(width)) {
                    let (values, rest) = to.split_at_mut(if step < panel.rows { count } else { 0 });
                    if step < panel.rows {
                        lines(step, column..column + count, values);
                    }
                    rest.fill(0.0);
                }
                Strip::new(packed.as_ptr(), width)
            };
            let finish = |row: usize, sums: &mut [f32]| {
                let to = |i: usize| out.get().wrapping_add(((key + row + i) * of.groups + group) * dim + column);
                // SAFETY: this task alone refers to the keys of its head in its part.
                unsafe { put_rows(sums, width, count, to, true) };
            };
            // SAFETY: the panel has `width` columns at each step.
            unsafe { lanes::product::<S>(x, panel.width, width, panel.width, pack, finish) };
        }
    }

    /// Adds the gradient of scores `[keys][width]` to that of the bias.
    fn add_to_bias(&self, ds: &[f32], keys: &Range<usize>, lanes: &[(usize, usize)], out: Out) {
        let Block { of, panel, batch, .. } = self.block;
        let count = keys.len();
        let mut turned = Scratch::<f32>::take(lanes.len() * count);
        let mut into = [std::ptr::null_mut(); 64];
        for (pointer, line) in into.iter_mut().zip(turned.chunks_exact_mut(count.max(1))) {
            *pointer = line.as_mut_ptr();
        }
        // SAFETY: there is a line for each lane.
        unsafe { panels::unpack(ds, count, panel.width, &into[..lanes.len()]) };
        let batch = if self.of.one_batch { 0 } else { batch };
        for (line, &(head, query)) in turned.chunks_exact(count.max(1)).zip(lanes) {
            let row = (batch * of.heads + head) * of.queries + query;
            // SAFETY: this task alone refers to the rows of its queries, which were zeros before.
            let to = unsafe { std::slice::from_raw_parts_mut(out.get().add(row * of.keys + keys.start), count) };
            backward::add_to(line, to);
        }
    }
}
