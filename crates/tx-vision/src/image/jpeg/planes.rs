//! From the samples of each component to pixels: components with fewer samples are interpolated, colours converted.

use rayon::prelude::*;

use super::super::cmyk_to_rgb;
use super::{Component, Frame};

/// Rows that are worth a task of their own.
const ROWS_OF_TASK: usize = 16;

/// What the components are.
#[derive(Clone, Copy)]
pub(super) enum Colours {
    Grey,
    Rgb,
    YCbCr,
    /// Inks; PIL takes them all as inverted, as Adobe writes them.
    Cmyk,
    /// Inks that are coded as the brightness and colours of their complement.
    Ycck,
}

/// The picture's pixels.
pub(super) fn pixels(frame: &Frame, colours: Colours) -> Vec<u8> {
    let [width, height] = frame.size;
    let mut pixels = vec![0; 3 * width * height];
    pixels.par_chunks_mut(3 * width * ROWS_OF_TASK).enumerate().for_each_init(
        || vec![Scratch::default(); frame.components.len()],
        |scratch, (task, pixels)| {
            for (i, row) in pixels.chunks_exact_mut(3 * width).enumerate() {
                let y = task * ROWS_OF_TASK + i;
                let mut samples: [&[u8]; 4] = [&[]; 4];
                let rows = frame.components.iter().zip(scratch.iter_mut());
                for (samples, (component, scratch)) in samples.iter_mut().zip(rows) {
                    *samples = &component.row(y, frame.sampling, scratch)[..width];
                }
                convert(colours, samples, row);
            }
        },
    );
    pixels
}

/// Room for a row of a component.
#[derive(Default, Clone)]
struct Scratch {
    row: Vec<u8>,
    /// Sums over two rows, before the columns.
    sums: Vec<u16>,
}

impl Component {
    fn line(&self, y: usize) -> &[u8] {
        &self.plane[y * 8 * self.stride..][..self.size[0]]
    }

    /// The samples for the picture's row `y`, as many as the row has and perhaps more.
    fn row<'a>(&'a self, y: usize, most: [usize; 2], scratch: &'a mut Scratch) -> &'a [u8] {
        let [across, down] = [most[0] / self.sampling[0], most[1] / self.sampling[1]];
        let near = self.line(y / down);
        // The triangle filter needs three samples.
        let smooth = across == 2 && self.size[0] > 2;
        let Scratch { row, sums } = scratch;
        match (across, down) {
            (1, 1) => return near,
            (2, 1) if smooth => {
                let halves = [1, 2];
                sums.clear();
                sums.extend(near.iter().map(|&sample| u16::from(sample)));
                widen(sums, row, halves, 2);
            }
            (1 | 2, 2) if across == 1 || smooth => {
                let far = if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 };
                let far = self.line(far.min(self.size[1] - 1));
                sums.clear();
                sums.extend(near.iter().zip(far).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
                if across == 2 {
                    widen(sums, row, [8, 7], 4);
                } else {
                    let half = if y.is_multiple_of(2) { 1 } else { 2 };
                    row.clear();
                    row.extend(sums.iter().map(|&sum| ((sum + half) >> 2) as u8));
                }
            }
            _ => {
                row.clear();
                row.extend(near.iter().flat_map(|&sample| std::iter::repeat_n(sample, across)));
            }
        }
        row
    }
}

/// Twice as many samples: each is three parts of the nearer one and one of the other. `halves` are added to the left
/// and the right ones, so that rounding is even over both; `bits` are left out at the end.
fn widen(sums: &[u16], row: &mut Vec<u8>, halves: [u16; 2], bits: u32) {
    let [left, right] = halves;
    let last = sums.len() - 1;
    let whole = |sum: u16, half: u16| ((4 * sum + half) >> bits) as u8;
    row.clear();
    row.resize(2 * sums.len(), 0);
    row[0] = whole(sums[0], left);
    row[2 * last + 1] = whole(sums[last], right);
    let pairs = row[1..2 * last + 1].as_chunks_mut::<2>().0;
    for (pair, sums) in pairs.iter_mut().zip(sums.windows(2)) {
        // Between two samples: to the right of the first, and to the left of the second.
        pair[0] = ((3 * sums[0] + sums[1] + right) >> bits) as u8;
        pair[1] = ((3 * sums[1] + sums[0] + left) >> bits) as u8;
    }
}

/// A row of pixels from a row of each component.
fn convert(colours: Colours, [a, b, c, d]: [&[u8]; 4], row: &mut [u8]) {
    let pixels = row.as_chunks_mut::<3>().0;
    match colours {
        Colours::Grey => pixels.iter_mut().zip(a).for_each(|(pixel, &grey)| *pixel = [grey; 3]),
        Colours::Rgb => {
            let samples = a.iter().zip(b).zip(c);
            pixels.iter_mut().zip(samples).for_each(|(pixel, ((&r, &g), &b))| *pixel = [r, g, b]);
        }
        Colours::YCbCr => {
            let samples = a.iter().zip(b).zip(c);
            pixels.iter_mut().zip(samples).for_each(|(pixel, ((&y, &cb), &cr))| *pixel = rgb(y, cb, cr));
        }
        Colours::Cmyk => {
            let samples = a.iter().zip(b).zip(c).zip(d);
            pixels.iter_mut().zip(samples).for_each(|(pixel, (((&c, &m), &y), &k))| {
                *pixel = cmyk_to_rgb([c, m, y, k].map(|ink| 255 - ink));
            });
        }
        Colours::Ycck => {
            let samples = a.iter().zip(b).zip(c).zip(d);
            pixels.iter_mut().zip(samples).for_each(|(pixel, (((&y, &cb), &cr), &k))| {
                // Inverted twice: what is coded is the complement.
                let [c, m, y] = rgb(y, cb, cr);
                *pixel = cmyk_to_rgb([c, m, y, 255 - k]);
            });
        }
    }
}

/// JFIF's conversion, in 16 fractional bits.
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = (91_881 * cr + HALF) >> 16; // 1.40200
    let green = (-22_554 * cb - 46_802 * cr + HALF) >> 16; // 0.34414, 0.71414
    let blue = (116_130 * cb + HALF) >> 16; // 1.77200
    [red, green, blue].map(|offset| (y + offset).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_interpolated() {
        let mut row = Vec::new();
        widen(&[0, 100, 40], &mut row, [1, 2], 2);
        assert_eq!(row, [0, 25, 75, 85, 55, 40]);
        // Sums over two rows have four times the weight.
        widen(&[0, 400, 160], &mut row, [8, 7], 4);
        assert_eq!(row, [0, 25, 75, 85, 55, 40]);
    }

    #[test]
    fn colours_are_converted() {
        assert_eq!(rgb(255, 128, 128), [255; 3]);
        assert_eq!(rgb(76, 85, 255), [254, 0, 0]);
        assert_eq!(rgb(29, 255, 107), [0, 0, 254]);
    }
}
