//! Convolutions and pooling.
//!
//! A convolution is a product: output channels are rows, and the pixels of the result are the lanes of vectors.
//! The pixels under a kernel are gathered for one panel of the result at a time, in a buffer that stays in the caches, so
//! that the matrix of all of them never exists; the result comes out as it is laid out.

use std::ops::Range;

use macerator::{Simd, WithSimd};

use super::lanes::{self, PANEL, Strip};
use super::product::Out;
use super::rows;
use super::threads::parallel;
use super::tile::Shape;
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
        let cut = Cut::new(self.pixels());
        let tasks = self.batch * self.groups * cut.panels;
        // Few panels are shared by several tasks, each with some of the channels.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(tasks.max(1));
        let parts = wanted.min(self.outputs / CHANNELS).max(1);
        parallel(tasks * parts, |task| {
            let (place, part) = (task / parts, task % parts);
            let block = Block {
                of: self,
                image: place / cut.panels / self.groups,
                group: place / cut.panels % self.groups,
                pixels: cut.start(place % cut.panels)..cut.start(place % cut.panels + 1),
                channels: part * self.outputs / parts..(part + 1) * self.outputs / parts,
            };
            if cut.more > 0 && !block.pixels.len().is_multiple_of(cut.lanes) {
                macerator::AutoArch::new().dispatch(WithMore(block));
            } else {
                macerator::AutoArch::new().dispatch(block);
            }
        });
    }

    /// Pixels of a channel of the result.
    fn pixels(&self) -> usize {
        self.axes.output[0] * self.axes.output[1]
    }

    /// The input channels of a group.
    fn channels(&self, image: usize, group: usize) -> &[f32] {
        let size = self.inputs * self.axes.input[0] * self.axes.input[1];
        &self.x[(image * self.groups + group) * size..][..size]
    }

    /// Scales, shifts, adds the residual and applies the activation to some pixels of a channel of the result, and writes
    /// them.
    fn finish(&self, image: usize, channel: usize, first: usize, line: &[f32]) {
        let at = (image * self.groups * self.outputs + channel) * self.pixels() + first;
        let scale = self.scale.map_or(1.0, |scale| scale[channel]);
        let shift = self.shift.map_or(0.0, |shift| shift[channel]);
        // SAFETY: the task that has these pixels alone writes them.
        let out = unsafe { std::slice::from_raw_parts_mut(self.out.get().add(at).cast(), line.len()) };
        rows::finish(line, scale, shift, self.residual.map(|residual| &residual[at..]), self.act, out);
    }

    /// One channel, which sees no other.
    fn plane(&self, plane: usize) {
        let (image, channel) = (plane / self.groups, plane % self.groups);
        let Axes { input, output, kernel, .. } = self.axes;
        let x = self.channels(image, channel);
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
            self.finish(image, channel, row * output[1], &line);
        }
    }
}

impl Axes {
    /// What a kernel gives over an input with zeros around it, before and after each axis; `None` if it does not fit in.
    pub fn new(
        input: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [(usize, usize); 2],
        dilation: [usize; 2],
    ) -> Option<Self> {
        let mut output = [0; 2];
        for axis in 0..2 {
            let padded = input[axis] + padding[axis].0 + padding[axis].1;
            let reach = dilation[axis] * (kernel[axis].checked_sub(1)?) + 1;
            output[axis] = padded.checked_sub(reach)?.checked_div(stride[axis])? + 1;
        }
        Some(Self { input, output, kernel, stride, padding: padding.map(|(before, _)| before), dilation })
    }

    /// Whether every pixel of the result sees the one in its own place alone.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0] && self.input == self.output
    }

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

/// How the pixels of a channel are cut into panels.
#[derive(Debug, Clone, Copy)]
struct Cut {
    lanes: usize,
    pixels: usize,
    panels: usize,
    /// Whole vectors of all panels.
    vectors: usize,
    /// How many of the first panels have one more pixel.
    more: usize,
}

impl Cut {
    fn new(pixels: usize) -> Self {
        let lanes = Shape::detect().lanes;
        let (vectors, rest) = (pixels / lanes, pixels % lanes);
        // Where a panel has four long vectors, one of them for a few pixels would take its time for nothing: panels of three
        // vectors have room for one pixel more.
        let panels = vectors.div_ceil(3);
        if PANEL == 4 * lanes && (1..=panels).contains(&rest) {
            return Self { lanes, pixels, panels, vectors, more: rest };
        }
        // Otherwise panels of nearly one width.
        let vectors = pixels.div_ceil(lanes);
        Self { lanes, pixels, panels: vectors.div_ceil(PANEL / lanes), vectors, more: 0 }
    }

    /// The first pixel of a panel.
    fn start(self, panel: usize) -> usize {
        (panel * self.vectors / self.panels * self.lanes + panel.min(self.more)).min(self.pixels)
    }
}

/// The largest of what each pixel sees of its channel, see [`crate::max_pool2d`].
#[derive(Debug, Clone, Copy)]
pub struct MaxPool<'a> {
    /// `[planes, height, width]`
    pub x: &'a [f32],
    pub planes: usize,
    pub axes: Axes,
    /// `[planes, height', width']`
    pub out: Out,
}

impl MaxPool<'_> {
    /// # Safety
    /// `out` is valid for the result, and nothing else refers to it.
    pub unsafe fn run(&self) {
        let Axes { input, output, kernel, stride, .. } = self.axes;
        parallel(self.planes, |plane| {
            let x = &self.x[plane * input[0] * input[1]..][..input[0] * input[1]];
            let mut column = super::Scratch::<f32>::take(input[1]);
            let mut line = super::Scratch::<f32>::take(output[1]);
            for row in 0..output[0] {
                // First over the rows of the kernel, in which pixels lie beside each other.
                column.fill(f32::NEG_INFINITY);
                for y in (0..kernel[0]).filter_map(|ky| self.axes.source(0, row, ky)) {
                    rows::maximum(&x[y * input[1]..][..input[1]], 1, &mut column);
                }
                line.fill(f32::NEG_INFINITY);
                for kx in 0..kernel[1] {
                    let (inside, start) = self.axes.inside(0..output[1], kx);
                    if !inside.is_empty() {
                        rows::maximum(&column[start..], stride[1], &mut line[inside]);
                    }
                }
                // SAFETY: this task alone writes this plane.
                unsafe {
                    let to = self.out.get().add((plane * output[0] + row) * output[1]);
                    to.copy_from_nonoverlapping(line.as_ptr(), line.len());
                }
            }
        });
    }
}

/// Some channels of the result at the pixels of a panel.
struct Block<'a> {
    of: &'a Conv<'a>,
    image: usize,
    group: usize,
    pixels: Range<usize>,
    channels: Range<usize>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        self.run::<S, false>();
    }
}

/// A block whose last pixel is one more than whole vectors have.
struct WithMore<'a>(Block<'a>);

impl WithSimd for WithMore<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        self.0.run::<S, true>();
    }
}

impl Block<'_> {
    #[inline(always)]
    fn run<S: Simd, const MORE: bool>(self) {
        let Self { of, image, group, ref pixels, ref channels } = self;
        let (first, count) = (pixels.start, pixels.len());
        let whole = pixels.start..pixels.end - usize::from(MORE);
        let width = lanes::padded::<S>(whole.len());
        let (sights, sight_of_last) = (of.axes.sights(whole.clone()), of.axes.sights(whole.end..pixels.end));
        let elements = sights.len();
        let steps = of.inputs * elements;
        let row = group * of.outputs + channels.start;
        let weight = &of.weight[row * steps..][..channels.len() * steps];
        let mut more = super::Scratch::<f32>::take(if MORE { steps.min(STRIP) } else { 0 });
        let x = of.channels(image, group);
        let size = of.axes.input[0] * of.axes.input[1];
        let stride = of.axes.stride[1];
        let in_place = of.axes.is_pointwise() && whole.len() == width;
        let pack = |range: Range<usize>, packed: &mut [f32]| {
            if MORE {
                gather(x, size, &sight_of_last, stride, range.clone(), &mut more[..range.len()]);
            }
            if in_place {
                return Strip::new(x[range.start * size + first..].as_ptr(), size).with(more.as_ptr());
            }
            gather(x, size, &sights, stride, range.clone(), &mut packed[..range.len() * width]);
            Strip::new(packed.as_ptr(), width).with(more.as_ptr())
        };
        let finish = |start: usize, sums: &mut [f32]| {
            for (i, line) in sums.chunks_exact(width + usize::from(MORE)).enumerate() {
                of.finish(image, row + start + i, first, &line[..count]);
            }
        };
        // SAFETY: the panel has `width` columns at each step, and one more if it says so.
        unsafe { lanes::product_with::<S, MORE>(weight, steps, width, STRIP, pack, finish) };
    }
}

multiversion! {
    /// What is seen in some steps, of which each channel of `size` pixels has one for each element of the kernel.
    fn gather(x: &[f32], size: usize, sights: &[Sight], stride: usize, steps: Range<usize>, packed: &mut [f32]) {
        let width = packed.len() / steps.len().max(1);
        for (step, to) in steps.zip(packed.chunks_exact_mut(width.max(1))) {
            sights[step % sights.len()].gather(&x[step / sights.len() * size..][..size], stride, to);
        }
    }
}

/// What some pixels of the result see through one element of the kernel, in whichever channel.
#[derive(Default)]
struct Sight {
    segments: Vec<Segment>,
    /// How many of them see a pixel of the input.
    seeing: usize,
}

/// Pixels of the result, from `at` on, that see pixels of one row of the input, from `from` on.
struct Segment {
    at: usize,
    from: usize,
    length: usize,
}

impl Axes {
    /// What some pixels of the result see through each element of the kernel.
    fn sights(&self, pixels: Range<usize>) -> Vec<Sight> {
        let elements = (0..self.kernel[0]).flat_map(|ky| (0..self.kernel[1]).map(move |kx| (ky, kx)));
        elements.map(|(ky, kx)| self.sight(pixels.clone(), ky, kx)).collect()
    }

    fn sight(&self, pixels: Range<usize>, ky: usize, kx: usize) -> Sight {
        let mut sight = Sight::default();
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (row, column) = (pixel / self.output[1], pixel % self.output[1]);
            let at = pixel - pixels.start;
            let length = (self.output[1] - column).min(pixels.end - pixel);
            pixel += length;
            let Some(y) = self.source(0, row, ky) else { continue };
            let (inside, start) = self.inside(column..column + length, kx);
            if inside.is_empty() {
                continue;
            }
            let (at, from, length) = (at + inside.start, y * self.input[1] + start, inside.len());
            sight.seeing += length;
            match sight.segments.last_mut() {
                // Without padding and steps, rows that follow each other are one.
                Some(last) if self.stride[1] == 1 && last.at + last.length == at && last.from + last.length == from => {
                    last.length += length;
                }
                _ => sight.segments.push(Segment { at, from, length }),
            }
        }
        sight
    }
}

impl Sight {
    /// What is seen of a channel, and zeros where nothing is.
    #[inline(always)]
    fn gather(&self, x: &[f32], stride: usize, to: &mut [f32]) {
        if self.seeing < to.len() {
            to.fill(0.0);
        }
        for &Segment { at, from, length } in &self.segments {
            let (to, from) = (&mut to[at..at + length], &x[from..]);
            match stride {
                1 => to.copy_from_slice(&from[..length]),
                // Which compilers can do by vectors.
                2 => {
                    let (pairs, last) = from.as_chunks::<2>();
                    let (whole, rest) = to.split_at_mut(length.min(pairs.len()));
                    whole.iter_mut().zip(pairs).for_each(|(to, [from, _])| *to = *from);
                    rest.iter_mut().zip(last).for_each(|(to, from)| *to = *from);
                }
                stride => to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from),
            }
        }
    }
}
