//! Convolutions as products: output channels are rows, and the pixels of the result are the lanes of vectors.
//!
//! The pixels under a kernel are gathered for one panel of the result at a time, in a buffer that stays in the caches, so
//! that the matrix of all of them never exists; the result comes out as it is laid out.

use std::ops::Range;

use macerator::{Simd, WithSimd};

use super::lanes::{self, PANEL, Strip};
use super::product::{Out, parallel};
use super::rows;
use crate::Pointwise;

/// The most steps of a panel at a time: with the rows they stay in the second-level cache.
const STRIP: usize = 2048;

/// Output channels of a task, at least: they are worth gathering the pixels again.
const CHANNELS: usize = 96;

/// The axes of a convolution; height comes before width.
#[derive(Debug, Clone, Copy)]
pub struct Axes {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Zeros before the first pixel.
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

/// See [`crate::conv2d`].
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// `[batch, groups · inputs, height, width]`
    pub x: &'a [f32],
    /// `[groups · outputs, inputs, kernel_height, kernel_width]`
    pub weight: &'a [f32],
    pub batch: usize,
    pub groups: usize,
    /// Input and output channels of a group.
    pub inputs: usize,
    pub outputs: usize,
    pub axes: Axes,
    /// `[groups · outputs]`
    pub scale: Option<&'a [f32]>,
    pub shift: Option<&'a [f32]>,
    /// As the result.
    pub residual: Option<&'a [f32]>,
    pub act: Option<Pointwise>,
    /// `[batch, groups · outputs, height', width']`
    pub out: Out,
}

impl Conv<'_> {
    /// # Safety
    /// `out` is valid for the result, and nothing else refers to it.
    pub unsafe fn run(&self) {
        if self.inputs == 1 && self.outputs == 1 {
            return parallel(self.batch * self.groups, |plane| self.plane(plane));
        }
        let panels = self.pixels().div_ceil(PANEL);
        let tasks = self.batch * self.groups * panels;
        // Few panels are shared by several tasks, each with some of the channels.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(tasks.max(1));
        let parts = wanted.min(self.outputs / CHANNELS).max(1);
        parallel(tasks * parts, |task| {
            let (place, part) = (task / parts, task % parts);
            let block = Block {
                of: self,
                image: place / panels / self.groups,
                group: place / panels % self.groups,
                panel: place % panels,
                channels: part * self.outputs / parts..(part + 1) * self.outputs / parts,
            };
            macerator::AutoArch::new().dispatch(block);
        });
    }

    /// Pixels of a channel of the result.
    fn pixels(&self) -> usize {
        self.axes.output[0] * self.axes.output[1]
    }

    /// A channel of the input.
    fn channel(&self, image: usize, channel: usize) -> &[f32] {
        let size = self.axes.input[0] * self.axes.input[1];
        &self.x[(image * self.groups * self.inputs + channel) * size..][..size]
    }

    /// Scales, shifts, adds the residual and applies the activation to some pixels of a channel of the result, and writes
    /// them.
    fn finish(&self, image: usize, channel: usize, first: usize, line: &mut [f32]) {
        if let Some(scale) = self.scale {
            line.iter_mut().for_each(|x| *x *= scale[channel]);
        }
        if let Some(shift) = self.shift {
            line.iter_mut().for_each(|x| *x += shift[channel]);
        }
        let at = (image * self.groups * self.outputs + channel) * self.pixels() + first;
        if let Some(residual) = self.residual {
            line.iter_mut().zip(&residual[at..]).for_each(|(x, residual)| *x += residual);
        }
        if let Some(act) = self.act {
            rows::pointwise(act, line);
        }
        // SAFETY: the task that has these pixels alone writes them.
        unsafe { self.out.get().add(at).copy_from_nonoverlapping(line.as_ptr(), line.len()) };
    }

    /// One channel, which sees no other.
    fn plane(&self, plane: usize) {
        let (image, channel) = (plane / self.groups, plane % self.groups);
        let Axes { input, output, kernel, .. } = self.axes;
        let x = self.channel(image, channel);
        let weight = &self.weight[channel * kernel[0] * kernel[1]..][..kernel[0] * kernel[1]];
        let mut line = super::Scratch::<f32>::take(output[1]);
        for row in 0..output[0] {
            line.fill(0.0);
            for (ky, weight) in weight.chunks_exact(kernel[1]).enumerate() {
                let Some(y) = self.axes.source(0, row, ky) else { continue };
                for (kx, &weight) in weight.iter().enumerate() {
                    let (inside, start) = self.axes.inside(0..output[1], kx);
                    if inside.is_empty() {
                        continue;
                    }
                    let (to, from) = (&mut line[inside], &x[y * input[1] + start..(y + 1) * input[1]]);
                    rows::add_scaled(weight, from, self.axes.stride[1], to);
                }
            }
            self.finish(image, channel, row * output[1], &mut line);
        }
    }
}

impl Axes {
    /// The place of the input that a place of the result sees through an element of the kernel, if there is one.
    fn source(&self, axis: usize, place: usize, element: usize) -> Option<usize> {
        let place = place * self.stride[axis] + element * self.dilation[axis];
        place.checked_sub(self.padding[axis]).filter(|&place| place < self.input[axis])
    }

    /// Those of some columns of the result that see the input through a column of the kernel, counted from the first, and
    /// the column of the input that the first of them sees.
    fn inside(&self, columns: Range<usize>, element: usize) -> (Range<usize>, usize) {
        let (stride, shift, padding) = (self.stride[1], element * self.dilation[1], self.padding[1]);
        // Column c sees c · stride + shift − padding.
        let first = padding.saturating_sub(shift).div_ceil(stride).clamp(columns.start, columns.end);
        let end = (self.input[1] + padding).saturating_sub(shift).div_ceil(stride).clamp(first, columns.end);
        (first - columns.start..end - columns.start, (first * stride + shift).saturating_sub(padding))
    }
}

/// Some channels of the result at the pixels of a panel.
struct Block<'a> {
    of: &'a Conv<'a>,
    image: usize,
    group: usize,
    panel: usize,
    channels: Range<usize>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { of, image, group, panel, ref channels } = self;
        let first = panel * PANEL;
        let count = PANEL.min(of.pixels() - first);
        let width = lanes::padded::<S>(count);
        let steps = of.inputs * of.axes.kernel[0] * of.axes.kernel[1];
        let row = group * of.outputs + channels.start;
        let weight = &of.weight[row * steps..][..channels.len() * steps];
        let pack = |range: Range<usize>, packed: &mut [f32]| {
            for (step, to) in range.zip(packed.chunks_exact_mut(width)) {
                self.gather(step, first, &mut to[..count]);
                to[count..].fill(0.0);
            }
            Strip { start: packed.as_ptr(), stride: width }
        };
        let finish = |start: usize, sums: &mut [f32]| {
            for (i, line) in sums.chunks_exact_mut(width).enumerate() {
                of.finish(image, row + start + i, first, &mut line[..count]);
            }
        };
        // SAFETY: the panel has `width` columns at each step.
        unsafe { lanes::product::<S>(weight, steps, width, STRIP, pack, finish) };
    }
}

impl Block<'_> {
    /// What the pixels of the result from `first` on see through one element of the kernel, in one channel.
    #[inline(always)]
    fn gather(&self, step: usize, first: usize, to: &mut [f32]) {
        let axes = &self.of.axes;
        let elements = axes.kernel[0] * axes.kernel[1];
        let (channel, element) = (step / elements, step % elements);
        let (ky, kx) = (element / axes.kernel[1], element % axes.kernel[1]);
        let x = self.of.channel(self.image, self.group * self.of.inputs + channel);
        let (mut at, mut pixel) = (0, first);
        while at < to.len() {
            let (row, column) = (pixel / axes.output[1], pixel % axes.output[1]);
            let length = (axes.output[1] - column).min(to.len() - at);
            let segment = &mut to[at..at + length];
            at += length;
            pixel += length;
            let Some(y) = axes.source(0, row, ky) else {
                segment.fill(0.0);
                continue;
            };
            let (inside, start) = axes.inside(column..column + length, kx);
            segment[..inside.start].fill(0.0);
            segment[inside.end..].fill(0.0);
            let segment = &mut segment[inside];
            if segment.is_empty() {
                continue;
            }
            let from = &x[y * axes.input[1] + start..];
            match axes.stride[1] {
                1 => segment.copy_from_slice(&from[..segment.len()]),
                stride => segment.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from),
            }
        }
    }
}
