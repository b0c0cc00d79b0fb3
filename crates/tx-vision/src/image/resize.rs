//! Resizing to the bit as PIL does: its filters, its rounding, its order of the two passes.
//!
//! A pixel of the result is a weighted sum of the pixels below the filter, which is as wide as a pixel of the result
//! where the picture shrinks. First the rows are resized, then the columns, or the other way round where that is less
//! work, with a picture of 8 bits in between. Weights are integers of 22 fractional bits, so that a sum has room for the
//! filters' overshoot.
//!
//! Reference: Pillow 13.0.0, `src/libImaging/Resample.c` and `Geometry.c`. Releases before it always begin with the
//! rows, which differs by a level for pictures that are much higher than wide.

use std::f64::consts::PI;

use rayon::prelude::*;
use serde::Deserialize;
use tx_core::error::{Error, Result};

use super::{Image, MAX_BUFFER_BYTES, check_size};

/// Fractional bits of a weight.
const PRECISION: u32 = 32 - 8 - 2;
/// A weight of one.
const ONE: i32 = 1 << PRECISION;
/// A half, from which sums start so that they are rounded.
const HALF: i32 = ONE / 2;
/// Bytes that are worth a task of their own.
const TASK: usize = 1 << 16;

/// PIL's resampling filters, by PIL's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub enum Resample {
    /// The pixel in whose area the middle of the new one lies.
    Nearest = 0,
    /// The sinc function, cut off after three pixels by its own first lobe.
    Lanczos = 1,
    /// A triangle of two pixels.
    Bilinear = 2,
    /// Keys' cubic convolution with a = -1/2, four pixels.
    Bicubic = 3,
    /// The mean of the pixels below the new one.
    Box = 4,
    /// A sinc in Hamming's window, two pixels.
    Hamming = 5,
}

impl TryFrom<u64> for Resample {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        use Resample::*;
        let filters = [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming];
        let filter = usize::try_from(number).ok().and_then(|number| filters.get(number).copied());
        filter.ok_or_else(|| format!("{number} is not a filter of PIL, expected 0 to 5"))
    }
}

impl Resample {
    /// How far the filter reaches to each side, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The filter at `x` pixels from its middle.
    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Nearest => 0.0,
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Hamming if distance == 0.0 => 1.0,
            Self::Hamming if distance >= 1.0 => 0.0,
            // The window's constants are single precision in the reference.
            Self::Hamming => sinc(distance) * (f64::from(0.54f32) + f64::from(0.46f32) * (distance * PI).cos()),
            Self::Bicubic => {
                let a = -0.5;
                match distance {
                    x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
                    x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
                    _ => 0.0,
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

impl Image {
    /// The picture in another size.
    ///
    /// # Errors
    /// [`Error::Input`] if a side is zero, there are too many pixels, or a side is too long for so short a one.
    pub fn resize(&self, height: usize, width: usize, resample: Resample) -> Result<Self> {
        check_size("resize", width as u64, height as u64)?;
        if [self.height, self.width] == [height, width] {
            return Ok(self.clone());
        }
        let pixels = if resample == Resample::Nearest {
            self.nearest(height, width)
        } else {
            let columns = Weights::new(self.width, width, resample);
            let rows = Weights::new(self.height, height, resample);
            let (Some(columns), Some(rows)) = (columns, rows) else {
                let found = format_args!("from {} x {} to {width} x {height} pixels", self.width, self.height);
                return Err(Error::input("resize", found, "sides that shrink less"));
            };
            self.filtered(height, width, &columns, &rows)
        };
        Self::new(width, height, pixels)
    }

    fn nearest(&self, height: usize, width: usize) -> Vec<u8> {
        let columns = nearest(self.width, width);
        let mut pixels = vec![0; 3 * width * height];
        for (row, y) in pixels.chunks_exact_mut(3 * width).zip(nearest(self.height, height)) {
            let Some(source) = y.map(|y| &self.pixels[3 * y * self.width..][..3 * self.width]) else { continue };
            for (pixel, x) in row.chunks_exact_mut(3).zip(&columns) {
                if let Some(x) = x {
                    pixel.copy_from_slice(&source[3 * x..3 * x + 3]);
                }
            }
        }
        pixels
    }

    fn filtered(&self, height: usize, width: usize, columns: &Weights, rows: &Weights) -> Vec<u8> {
        if width == self.width {
            return resize_columns(&self.pixels, 3 * width, height, rows);
        }
        if height == self.height {
            return resize_rows(&self.pixels, self.width, width, columns);
        }
        // What is in between is never larger than both pictures.
        let (fewer_rows, fewer_columns) = (self.height as i64 - height as i64, self.width as i64 - width as i64);
        if fewer_rows > 0 && fewer_rows > 2 * fewer_columns {
            resize_rows(&resize_columns(&self.pixels, 3 * self.width, height, rows), self.width, width, columns)
        } else {
            resize_columns(&resize_rows(&self.pixels, self.width, width, columns), 3 * width, height, rows)
        }
    }
}

/// Resizes each row of RGB pixels.
fn resize_rows(source: &[u8], from: usize, to: usize, weights: &Weights) -> Vec<u8> {
    let mut result = vec![0; source.len() / from * to];
    let rows_of_task = TASK.div_ceil(3 * from);
    let tasks = result.par_chunks_mut(3 * to * rows_of_task).zip(source.par_chunks(3 * from * rows_of_task));
    tasks.for_each_init(
        // The channels one after the other: sums over neighbours are vectors.
        || vec![0; 3 * from],
        |planes, (result, source)| {
            for (result, source) in result.chunks_exact_mut(3 * to).zip(source.chunks_exact(3 * from)) {
                let (red, rest) = planes.split_at_mut(from);
                let (green, blue) = rest.split_at_mut(from);
                let channels = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut());
                for (pixel, ((red, green), blue)) in source.chunks_exact(3).zip(channels) {
                    (*red, *green, *blue) = (pixel[0], pixel[1], pixel[2]);
                }
                let planes: [&[u8]; 3] = [red, green, blue];
                for (pixel, (start, weights)) in result.chunks_exact_mut(3).zip(weights.iter()) {
                    for (value, plane) in pixel.iter_mut().zip(planes) {
                        let products = plane[start..start + weights.len()].iter().zip(weights);
                        *value = clip(products.fold(HALF, |sum, (&x, &w)| add_product(sum, x, w)));
                    }
                }
            }
        },
    );
    result
}

/// Resizes each column of rows of `stride` bytes.
fn resize_columns(source: &[u8], stride: usize, to: usize, weights: &Weights) -> Vec<u8> {
    let mut result = vec![0; stride * to];
    let rows_of_task = TASK.div_ceil(stride);
    let tasks = result.par_chunks_mut(stride * rows_of_task).enumerate();
    tasks.for_each_init(
        || vec![0; stride],
        |sums: &mut Vec<i32>, (task, result)| {
            for (i, row) in result.chunks_exact_mut(stride).enumerate() {
                let (start, weights) = weights.get(task * rows_of_task + i);
                sums.fill(HALF);
                let lines = source[start * stride..].chunks_exact(stride);
                for (line, &w) in lines.zip(weights) {
                    for (sum, &x) in sums.iter_mut().zip(line) {
                        *sum = add_product(*sum, x, w);
                    }
                }
                for (value, &sum) in row.iter_mut().zip(sums.iter()) {
                    *value = clip(sum);
                }
            }
        },
    );
    result
}

/// Cannot overflow; saying so lets the loops become vectors where overflow is checked.
fn add_product(sum: i32, x: u8, weight: i32) -> i32 {
    sum.wrapping_add(i32::from(x).wrapping_mul(weight))
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// For each place of the result, which places of the source count, and how much.
struct Weights {
    /// The first place and the number of places.
    spans: Vec<(usize, usize)>,
    /// `room` for every place of the result.
    weights: Vec<i32>,
    room: usize,
}

impl Weights {
    /// `None` if the table would be too large: an extremely long side is made short.
    fn new(from: usize, to: usize, resample: Resample) -> Option<Self> {
        // Sizes are single precision in the reference.
        let scale = f64::from(from as f32) / to as f64;
        let stretch = scale.max(1.0);
        let support = resample.support() * stretch;
        let room = support.ceil() as usize * 2 + 1;
        to.checked_mul(room).filter(|&entries| 4 * entries as u64 <= MAX_BUFFER_BYTES)?;
        let (mut spans, mut weights) = (Vec::with_capacity(to), vec![0; to * room]);
        let mut exact = Vec::with_capacity(room);
        for (place, weights) in weights.chunks_exact_mut(room).enumerate() {
            let center = (place as f64 + 0.5) * scale;
            // Casts cut off, and make what is negative zero.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((start..end).map(|x| resample.weight((x as f64 - center + 0.5) * (1.0 / stretch))));
            let sum: f64 = exact.iter().sum();
            for (weight, &exact) in weights.iter_mut().zip(&exact) {
                let share = if sum == 0.0 { exact } else { exact / sum };
                *weight = (share * f64::from(ONE) + 0.5f64.copysign(share)) as i32;
            }
            spans.push((start, exact.len()));
        }
        Some(Self { spans, weights, room })
    }

    fn get(&self, place: usize) -> (usize, &[i32]) {
        let (start, count) = self.spans[place];
        (start, &self.weights[place * self.room..][..count])
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        (0..self.spans.len()).map(|place| self.get(place))
    }
}

/// For each place of the result the nearest of the source; steps add up as in the reference.
fn nearest(from: usize, to: usize) -> Vec<Option<usize>> {
    let step = f64::from(from as f32) / to as f64;
    let mut position = step * 0.5;
    let places = (0..to).map(|_| {
        let place = position as usize;
        position += step;
        Some(place).filter(|&place| place < from)
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::MAX_PIXELS;

    const FILTERS: [Resample; 5] =
        [Resample::Box, Resample::Bilinear, Resample::Hamming, Resample::Bicubic, Resample::Lanczos];

    #[test]
    fn weights_add_up_to_one() {
        for filter in FILTERS {
            for (from, to) in [(100, 7), (7, 100), (5, 5), (1, 9), (9, 1), (224, 223)] {
                let weights = Weights::new(from, to, filter).unwrap();
                for (place, (start, weights)) in weights.iter().enumerate() {
                    let sum: i32 = weights.iter().sum();
                    assert!((sum - ONE).abs() <= weights.len() as i32, "{filter:?} {from} {to} {place}");
                    assert!(start + weights.len() <= from);
                }
            }
        }
    }

    #[test]
    fn even_pictures_stay_even() {
        let image = Image::new(31, 17, [200, 3, 77].repeat(31 * 17)).unwrap();
        for filter in FILTERS.into_iter().chain([Resample::Nearest]) {
            for (height, width) in [(5, 9), (40, 50), (17, 8), (9, 31), (1, 1)] {
                let resized = image.resize(height, width, filter).unwrap();
                assert!(resized.pixels().chunks(3).all(|pixel| pixel == [200, 3, 77]), "{filter:?} {height} {width}");
            }
        }
    }

    /// Computed with Pillow.
    #[test]
    fn pixels_are_those_of_pil() {
        let image = Image::new(4, 1, [0, 90, 200, 255].iter().flat_map(|&x| [x; 3]).collect()).unwrap();
        let row = |width, filter| -> Vec<u8> {
            image.resize(1, width, filter).unwrap().pixels().chunks(3).map(|pixel| pixel[0]).collect()
        };
        assert_eq!(row(3, Resample::Nearest), [0, 200, 255]);
        assert_eq!(row(7, Resample::Nearest), [0, 0, 90, 90, 200, 255, 255]);
        assert_eq!(row(3, Resample::Lanczos), [12, 147, 251]);
        assert_eq!(row(7, Resample::Lanczos), [0, 19, 81, 150, 207, 246, 255]);
        assert_eq!(row(3, Resample::Bilinear), [27, 145, 239]);
        assert_eq!(row(7, Resample::Bilinear), [0, 32, 84, 145, 204, 235, 255]);
        assert_eq!(row(3, Resample::Bicubic), [16, 146, 248]);
        assert_eq!(row(7, Resample::Bicubic), [0, 23, 83, 147, 206, 243, 255]);
        assert_eq!(row(3, Resample::Box), [0, 145, 255]);
        assert_eq!(row(7, Resample::Box), [0, 0, 90, 200, 200, 255, 255]);
        assert_eq!(row(3, Resample::Hamming), [14, 145, 247]);
        assert_eq!(row(7, Resample::Hamming), [0, 18, 89, 145, 200, 244, 255]);
    }

    #[test]
    fn sizes_are_bounded() {
        let image = Image::new(1, 1, vec![1; 3]).unwrap();
        assert!(image.resize(0, 5, Resample::Box).is_err());
        assert!(image.resize(60_000, 60_000, Resample::Box).is_err());
        assert!(Weights::new(MAX_PIXELS as usize, 224, Resample::Bicubic).is_none());
        // A line becomes a square without a huge picture in between.
        for (height, width) in [(1_000_000, 1), (1, 1_000_000)] {
            let line = Image::new(width, height, vec![9; 3_000_000]).unwrap();
            assert_eq!(line.resize(8, 8, Resample::Bilinear).unwrap().pixels(), [9; 192]);
        }
    }
}
