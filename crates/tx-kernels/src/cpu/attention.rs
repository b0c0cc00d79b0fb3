//! Attention without the matrix of its weights: blocks of queries over blocks of keys, with a running softmax.
//!
//! Milakov & Gimelshein, 2018 (arXiv:1805.02867); Dao et al., 2022 (arXiv:2205.14135). The queries of a block lie in the
//! lanes of vectors, so the softmax needs no sums across lanes, and its result is already the panel of the product with
//! the values. Few queries, as those of one token, would leave most lanes empty: theirs are rows, the elements of a key or
//! value lie in the lanes, and their weights are all held. Keys and values are read where they lie, or, if they are bytes,
//! widened by blocks that stay in the nearest cache.

use std::ops::Range;

use macerator::{Simd, WithSimd};

use super::lanes::{self, Strip};
use super::panels::{self, Panel, Panels};
use super::product::Out;
use super::threads::{parallel, parallel_ranges};
use super::tile::{self, Broadcast, MAX_COLUMNS};
use super::{Aligned, CHUNK, Scratch, dots, rows};

/// Keys whose scores are held at a time.
const KEYS: usize = 256;

/// Elements of keys or values that are widened at a time: half of the nearest cache.
const WIDENED: usize = 1 << 12;

/// Keys and values of few queries that are asked for at a time.
const ASKED: usize = 32;

/// `[batch, seq, heads, dim]` with elements of `dim` beside each other.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, E = f32> {
    pub data: &'a [E],
    /// Elements from one to the next along the first three axes.
    pub strides: [usize; 3],
}

impl<'a, E> View<'a, E> {
    /// From a head of a token on.
    fn start_at(&self, batch: usize, seq: usize, head: usize) -> &'a [E] {
        &self.data[batch * self.strides[0] + seq * self.strides[1] + head * self.strides[2]..]
    }

    /// The `dim` elements of a head.
    pub fn row(&self, batch: usize, seq: usize, head: usize, dim: usize) -> &'a [E] {
        &self.start_at(batch, seq, head)[..dim]
    }
}

/// Keys or values.
#[derive(Debug, Clone, Copy)]
pub enum Kv<'a> {
    Float(View<'a>),
    /// Bytes, and the factor of each head of each token.
    Int8 {
        values: View<'a, i8>,
        scales: View<'a>,
    },
}

impl Kv<'_> {
    fn is_float(&self) -> bool {
        matches!(self, Self::Float(_))
    }

    /// Asks for `count` tokens of a head from `first` on, of `dim` elements each: other heads lie between them, so that the
    /// hardware does not look ahead.
    fn ask(&self, [batch, first, head]: [usize; 3], count: usize, dim: usize) {
        let lines = |start: *const u8, stride: usize, bytes: usize| {
            for token in 0..count {
                for line in (0..bytes).step_by(64) {
                    tile::prefetch(start.wrapping_add(token * stride + line).cast());
                }
            }
        };
        match self {
            _ if count == 0 => {}
            Self::Float(view) => {
                lines(view.start_at(batch, first, head).as_ptr().cast(), 4 * view.strides[1], 4 * dim);
            }
            Self::Int8 { values, .. } => {
                lines(values.start_at(batch, first, head).as_ptr().cast(), values.strides[1], dim);
            }
        }
    }

    /// `count` tokens of a head from `first` on, of `dim` elements each: where they begin, and elements from one token to
    /// the next. Bytes are widened into `room`.
    pub fn tokens(
        &self,
        [batch, first, head]: [usize; 3],
        count: usize,
        dim: usize,
        room: &mut [f32],
    ) -> (*const f32, usize) {
        match self {
            Self::Float(view) => (view.start_at(batch, first, head).as_ptr(), view.strides[1]),
            Self::Int8 { values, scales } => {
                let (values, stride) = (values.start_at(batch, first, head), values.strides[1]);
                let (scales, step) = (scales.start_at(batch, first, head), scales.strides[1]);
                rows::widen_i8(values, stride, scales, step, dim.max(1), &mut room[..count * dim]);
                (room.as_ptr(), dim)
            }
        }
    }
}

/// The arguments of an attention, see [`crate::attention`].
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    pub q: View<'a>,
    pub k: Kv<'a>,
    pub v: Kv<'a>,
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub groups: usize,
    /// Elements of a query and of a key.
    pub dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    pub scale: f32,
    /// Keeps the scores within ± this.
    pub softcap: Option<f32>,
    /// `[heads]`: one more score, without a value.
    pub sinks: Option<&'a [f32]>,
    /// `[batch, keys]`: not zero is hidden.
    pub padding: Option<&'a [u8]>,
    pub before: Option<usize>,
    pub after: Option<usize>,
    /// `[batch, heads, queries, keys]` with the strides of the first three axes; added to the scaled scores.
    pub bias: Option<View<'a>>,
}

impl Attention<'_> {
    /// Writes the result, `[batch, queries, heads, value_dim]`.
    ///
    /// # Safety
    /// `out` is valid for the result, and nothing else refers to it.
    pub unsafe fn run(&self, out: Out) {
        let panels = self.panels();
        if self.is_few() {
            let least = CHUNK / (panels.rows * self.keys * self.dim).max(1);
            return parallel_ranges(self.batch * self.groups, least.max(1), |range| {
                for pair in range {
                    let (batch, group) = (pair / self.groups, pair % self.groups);
                    let block = Block { of: self, panel: panels.get(0), batch, group };
                    macerator::AutoArch::new().dispatch(Few { block, out });
                }
            });
        }
        let tasks = self.batch * self.groups * panels.count();
        parallel(tasks, |task| {
            let (pair, index) = (task / panels.count(), task % panels.count());
            let (batch, group) = (pair / self.groups, pair % self.groups);
            let block = Block { of: self, panel: panels.get(index), batch, group };
            macerator::AutoArch::new().dispatch(Forward { block, out });
        });
    }

    /// The rows of a head of keys: all queries of all its heads of queries.
    pub fn panels(&self) -> Panels {
        Panels::new(self.heads / self.groups * self.queries)
    }

    /// Whether the queries of a head of keys would leave most lanes of a vector empty, and values fill them.
    fn is_few(&self) -> bool {
        let (rows, lanes) = (self.panels().rows, tile::Shape::detect().lanes);
        rows > 0 && 2 * rows <= lanes && self.value_dim.is_multiple_of(lanes)
    }

    /// The keys of a block, and room for their elements if they are widened.
    fn block(&self) -> (usize, usize) {
        if self.k.is_float() && self.v.is_float() {
            return (KEYS, 0);
        }
        let dim = self.dim.max(self.value_dim);
        let keys = (WIDENED / dim.max(1)).clamp(8, KEYS);
        (keys, keys * dim)
    }
}

/// A block of the result.
struct Forward<'a> {
    block: Block<'a>,
    out: Out,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { block, out } = self;
        let Block { of, panel, batch, group } = block;
        let width = panel.width;
        let lanes = block.lanes();
        let lanes = &lanes[..panel.rows];
        let mut q = Scratch::<f32>::take(of.dim * width);
        block.pack(&of.q, lanes, of.dim, &mut q);
        q.iter_mut().for_each(|q| *q *= of.scale);

        let range = block.visible(lanes);
        let (keys, room) = of.block();
        let mut widened = Scratch::<f32>::take(room);
        let mut scores = Scratch::<f32>::take((keys.min(range.len()) + MAX_COLUMNS) * width);
        let mut sums = Scratch::<f32>::take((of.value_dim + MAX_COLUMNS) * width);
        let mut part = Scratch::<f32>::take(if range.len() > keys { sums.len() } else { 0 });
        let mut max = Aligned([f32::NEG_INFINITY; 64]);
        let mut total = Aligned([0f32; 64]);
        if let Some(sinks) = of.sinks {
            for (lane, &(head, _)) in lanes.iter().enumerate() {
                (max.0[lane], total.0[lane]) = (sinks[head], 1.0);
            }
        }
        for first in range.clone().step_by(keys) {
            let count = keys.min(range.end - first);
            let at = [batch, first, group];
            let (start, column) = of.k.tokens(at, count, of.dim, &mut widened);
            let k = Broadcast { start, column, step: 1 };
            // SAFETY: `q` has `width` lanes for each element; `count` keys follow `first`; the scores have room for them.
            unsafe {
                tile::panel::<S, true>(&panel, of.dim, q.as_ptr(), k, count, std::ptr::null(), scores.as_mut_ptr());
            }
            let scores = &mut scores[..count * width];
            if let Some(cap) = of.softcap {
                rows::softcap(cap, scores);
            }
            block.mask(scores, first, lanes);

            let mut old = max;
            rows::lane_max(scores, &mut max.0[..width]);
            rows::exp_difference(&mut old.0[..width], &max.0[..width]);
            let factor = &old.0[..width];
            total.0.iter_mut().zip(factor).for_each(|(total, factor)| *total *= factor);
            rows::lane_exp(scores, &max.0[..width], &mut total.0[..width]);

            let (start, step) = of.v.tokens(at, count, of.value_dim, &mut widened);
            let v = Broadcast { start, column: 1, step };
            let into = if first == range.start { &mut sums } else { &mut part };
            // SAFETY: the scores have `width` lanes for each of `count` keys, each of which has a value.
            unsafe {
                let (x, out) = (scores.as_ptr(), into.as_mut_ptr());
                tile::panel::<S, false>(&panel, count, x, v, of.value_dim, std::ptr::null(), out);
            }
            if first != range.start {
                rows::lane_rescale(&mut sums[..of.value_dim * width], factor, &part[..of.value_dim * width]);
            }
        }
        rows::lane_divide(&mut sums[..of.value_dim * width], &total.0[..width]);
        // SAFETY: this block alone writes the rows of its queries.
        unsafe { block.unpack(&sums, lanes, of.value_dim, out) };
    }
}

/// All queries of a head of keys, if they are few.
struct Few<'a> {
    block: Block<'a>,
    out: Out,
}

impl WithSimd for Few<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { block, out } = self;
        let Block { of, panel, batch, group } = block;
        let lanes = block.lanes();
        let lanes = &lanes[..panel.rows];
        let range = block.visible(lanes);
        let keys = range.len();
        let mut weights = Scratch::<f32>::take(lanes.len() * keys);
        block.scores::<S>(lanes, range.clone(), &mut weights);
        let mut totals = [0f32; 64];
        for ((line, &(head, _)), total) in weights.chunks_exact_mut(keys).zip(lanes).zip(&mut totals) {
            *total = rows::exponentials(line, of.sinks.map(|sinks| sinks[head]));
        }
        let (strip, _) = of.block();
        let values = |part: Range<usize>, room: &mut [f32]| {
            let at = [batch, range.start + part.start, group];
            let (start, step) = of.v.tokens(at, part.len(), of.value_dim, room);
            Strip::new(start, step)
        };
        let finish = |first: usize, sums: &mut [f32]| {
            for (i, sums) in (first..).zip(sums.chunks_exact_mut(of.value_dim)) {
                let (head, query) = lanes[i];
                sums.iter_mut().for_each(|sum| *sum /= totals[i]);
                // SAFETY: this block alone writes the rows of its queries.
                unsafe {
                    let row = (batch * of.queries + query) * of.heads + head;
                    out.get().add(row * of.value_dim).copy_from_nonoverlapping(sums.as_ptr(), of.value_dim);
                }
            }
        };
        // SAFETY: values have `value_dim` elements, whole vectors.
        unsafe { lanes::product::<S>(&weights, keys, of.value_dim, strip, values, finish) };
    }
}

/// Some queries that share a head of keys.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    pub of: &'a Attention<'a>,
    pub panel: Panel,
    pub batch: usize,
    pub group: usize,
}

impl Block<'_> {
    /// Head and query of each lane of the panel; of the lanes beyond its rows, nothing.
    pub fn lanes(&self) -> [(usize, usize); 64] {
        let mut lanes = [(0, 0); 64];
        for (i, lane) in lanes[..self.panel.rows].iter_mut().enumerate() {
            let row = self.panel.row + i;
            *lane = (self.group * (self.of.heads / self.of.groups) + row / self.of.queries, row % self.of.queries);
        }
        lanes
    }

    /// Writes the rows of the lanes, of `[batch, queries, heads, dim]`, as `[dim][width]`.
    pub fn pack(&self, x: &View<'_>, lanes: &[(usize, usize)], dim: usize, packed: &mut [f32]) {
        let mut lines: [&[f32]; 64] = [&[]; 64];
        for (line, &(head, query)) in lines.iter_mut().zip(lanes) {
            *line = x.row(self.batch, query, head, dim);
        }
        panels::pack(&lines[..lanes.len()], dim, self.panel.width, packed);
    }

    /// The inverse of [`Block::pack`], into `[batch, queries, heads, dim]`.
    ///
    /// # Safety
    /// `out` has these rows, and nothing else refers to them.
    pub unsafe fn unpack(&self, packed: &[f32], lanes: &[(usize, usize)], dim: usize, out: Out) {
        let mut into = [std::ptr::null_mut(); 64];
        for (pointer, &(head, query)) in into.iter_mut().zip(lanes) {
            let row = (self.batch * self.of.queries + query) * self.of.heads + head;
            *pointer = out.get().wrapping_add(row * dim);
        }
        // SAFETY: as above.
        unsafe { panels::unpack(packed, dim, self.panel.width, &into[..lanes.len()]) };
    }

    /// The scores of some keys, `[lanes][keys]`.
    #[inline(always)]
    fn scores<S: Simd>(&self, lanes: &[(usize, usize)], keys: Range<usize>, scores: &mut [f32]) {
        let of = self.of;
        let (count, dim) = (keys.len(), of.dim);
        let mut q = Scratch::<f32>::take(lanes.len() * dim);
        for (to, &(head, query)) in q.chunks_exact_mut(dim.max(1)).zip(lanes) {
            to.iter_mut().zip(of.q.row(self.batch, query, head, dim)).for_each(|(to, q)| *to = q * of.scale);
        }
        let (most, room) = of.block();
        let most = most.min(ASKED);
        let mut widened = Scratch::<f32>::take(room);
        of.k.ask([self.batch, keys.start, self.group], most.min(count), dim);
        for first in (0..count).step_by(most) {
            let part = most.min(count - first);
            let at = [self.batch, keys.start + first, self.group];
            of.k.ask([self.batch, keys.start + first + part, self.group], most.min(count - first - part), dim);
            of.v.ask(at, part, of.value_dim);
            let (start, step) = of.k.tokens(at, part, dim, &mut widened);
            for rows in lanes::tiles(lanes.len()) {
                let q = &q[rows.start * dim..rows.end * dim];
                let to = &mut scores[rows.start * count + first..];
                // SAFETY: `part` keys of `dim` elements lie `step` apart from `start` on.
                unsafe {
                    match rows.len() {
                        1 => dots::columns::<S, 1>(q, start, step, part, to, count),
                        2 => dots::columns::<S, 2>(q, start, step, part, to, count),
                        3 => dots::columns::<S, 3>(q, start, step, part, to, count),
                        4 => dots::columns::<S, 4>(q, start, step, part, to, count),
                        5 => dots::columns::<S, 5>(q, start, step, part, to, count),
                        _ => dots::columns::<S, { lanes::ROWS }>(q, start, step, part, to, count),
                    }
                }
            }
        }
        for (line, &(head, query)) in scores.chunks_exact_mut(count).zip(lanes) {
            if let Some(cap) = of.softcap {
                rows::softcap(cap, line);
            }
            if let Some(bias) = &of.bias {
                rows::add_scaled(1.0, &bias.row(self.batch, query, head, keys.end)[keys.start..], 1, line);
            }
            let position = of.keys - of.queries + query;
            let first = of.before.map_or(0, |before| position.saturating_sub(before));
            let end = of.after.map_or(of.keys, |after| position + after + 1);
            let place = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
            line[..place(first)].fill(f32::MIN);
            line[place(end)..].fill(f32::MIN);
            if let Some(padding) = of.padding {
                let padding = &padding[self.batch * of.keys..][keys.clone()];
                line.iter_mut()
                    .zip(padding)
                    .filter(|(_, hidden)| **hidden != 0)
                    .for_each(|(score, _)| *score = f32::MIN);
            }
        }
    }

    /// Adds the bias to scores `[keys][width]` from the key `first` on, and gives the lowest one to what may not be seen.
    pub fn mask(&self, scores: &mut [f32], first: usize, lanes: &[(usize, usize)]) {
        let width = self.panel.width;
        let end = first + scores.len() / width;
        if let Some(bias) = &self.of.bias {
            for (lane, &(head, query)) in lanes.iter().enumerate() {
                let bias = &bias.row(self.batch, query, head, end)[first..];
                for (line, bias) in scores.chunks_exact_mut(width).zip(bias) {
                    line[lane] += bias;
                }
            }
        }
        self.hide(scores, width, first, lanes);
    }

    /// The keys from the first to the last that any of the queries may see; all if none may be seen.
    pub fn visible(&self, lanes: &[(usize, usize)]) -> Range<usize> {
        let of = self.of;
        let positions = || lanes.iter().map(|&(_, query)| of.keys - of.queries + query);
        let (low, high) = (positions().min().unwrap_or(0), positions().max().unwrap_or(0));
        let mut start = of.before.map_or(0, |before| low.saturating_sub(before));
        let mut end = of.after.map_or(of.keys, |after| (high + after + 1).min(of.keys));
        if let Some(padding) = of.padding {
            let padding = &padding[self.batch * of.keys..(self.batch + 1) * of.keys];
            start += padding[start..end].iter().take_while(|&&hidden| hidden != 0).count();
            end -= padding[start..end].iter().rev().take_while(|&&hidden| hidden != 0).count();
        }
        if start < end { start..end } else { 0..of.keys }
    }

    /// Gives the lowest score to what may not be seen.
    fn hide(&self, scores: &mut [f32], width: usize, first: usize, lanes: &[(usize, usize)]) {
        let of = self.of;
        let padding = of.padding.map(|padding| &padding[self.batch * of.keys..]);
        let windowed = of.before.is_some() || of.after.is_some();
        if padding.is_none() && !windowed {
            return;
        }
        for (key, line) in (first..).zip(scores.chunks_exact_mut(width)) {
            if padding.is_some_and(|padding| padding[key] != 0) {
                line.fill(f32::MIN);
            } else if windowed {
                for (score, &(_, query)) in line.iter_mut().zip(lanes) {
                    let position = of.keys - of.queries + query;
                    let hidden = of.before.is_some_and(|before| key + before < position)
                        || of.after.is_some_and(|after| key > position + after);
                    if hidden {
                        *score = f32::MIN;
                    }
                }
            }
        }
    }
}
