//! A map in windows, which may be shifted, and what the places of a window see of each other.

use burn::tensor::{Device, Int, Tensor, TensorData};
use tx_core::nn::Embedding;

/// What a score loses where the shift made neighbours of places that are none. The reference does not forbid them.
const NO_NEIGHBOURS: f32 = -100.0;

/// How a map is cut into windows, and put together again.
///
/// The map is filled up with zeros to whole windows; shifted, it is rolled by half a window to the upper left. A
/// window's places come one after the other, and so do the windows, so that one selection of places does it all.
#[derive(Debug, Clone)]
pub(super) struct Windows {
    /// Places of a window.
    places: usize,
    /// `[windows · places]`: where each place comes from; the number of the map's places for those that are filled up.
    from: Tensor<1, Int>,
    /// `[height · width]`: where each place of the map went.
    to: Tensor<1, Int>,
    /// Whether the map is not whole windows.
    is_filled_up: bool,
    /// `[places · places]`: the rows of the table of biases.
    distances: Tensor<1, Int>,
    /// `[windows, 1, places, places]`
    mask: Option<Tensor<4>>,
}

impl Windows {
    /// Windows of `side` by `side` places of a map whose sides are no shorter.
    ///
    /// A map with a side of that length is not shifted.
    pub(super) fn new([height, width]: [usize; 2], side: usize, is_shifted: bool, device: &Device) -> Self {
        let shift = if is_shifted && height.min(width) > side { side / 2 } else { 0 };
        let [rows, columns] = [height.div_ceil(side), width.div_ceil(side)];
        let places = side * side;
        let count = rows * columns * places;

        // Row and column in the rolled map.
        let rolled = |index: usize| {
            let (window, place) = (index / places, index % places);
            [window / columns * side + place / side, window % columns * side + place % side]
        };
        let mut from = Vec::with_capacity(count);
        let mut to = vec![0; height * width];
        for index in 0..count {
            let [row, column] = rolled(index);
            let (row, column) = ((row + shift) % (rows * side), (column + shift) % (columns * side));
            if row < height && column < width {
                to[row * width + column] = index as i64;
                from.push((row * width + column) as i64);
            } else {
                from.push((height * width) as i64);
            }
        }

        let mut distances = Vec::with_capacity(places * places);
        for query in 0..places {
            for key in 0..places {
                let row = query / side + side - 1 - key / side;
                let column = query % side + side - 1 - key % side;
                distances.push((row * (2 * side - 1) + column) as i64);
            }
        }

        let mask = (shift > 0).then(|| {
            let region = |index: usize| {
                let [row, column] = rolled(index);
                [part(row, rows * side, side, shift), part(column, columns * side, side, shift)]
            };
            let regions: Vec<[usize; 2]> = (0..count).map(region).collect();
            let mut mask = Vec::with_capacity(count * places);
            for window in regions.chunks(places) {
                for query in window {
                    mask.extend(window.iter().map(|key| if key == query { 0.0 } else { NO_NEIGHBOURS }));
                }
            }
            Tensor::from_data(TensorData::new(mask, [rows * columns, 1, places, places]), device)
        });
        let integers = |values: Vec<i64>| {
            let length = values.len();
            Tensor::from_data(TensorData::new(values, [length]), device)
        };
        Self {
            places,
            is_filled_up: count > height * width,
            from: integers(from),
            to: integers(to),
            distances: integers(distances),
            mask,
        }
    }

    /// # Shapes
    /// - x: `[batch, height · width, channels]`
    /// - output: `[batch · windows, places, channels]`
    pub(super) fn split(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, _, channels] = x.dims();
        let x = if self.is_filled_up {
            let zeros = Tensor::zeros([batch, 1, channels], (&x.device(), x.dtype()));
            Tensor::cat(vec![x, zeros], 1)
        } else {
            x
        };
        let windows = self.from.dims()[0] / self.places;
        x.select(1, self.from.clone()).reshape([batch * windows, self.places, channels])
    }

    /// The inverse of [`Windows::split`].
    pub(super) fn join(&self, x: Tensor<3>) -> Tensor<3> {
        let [rows, places, channels] = x.dims();
        let windows = self.from.dims()[0] / self.places;
        x.reshape([rows / windows, windows * places, channels]).select(1, self.to.clone())
    }

    /// What the scores of the heads are changed by.
    ///
    /// # Shapes
    /// - output: `[rows or 1, heads, places, places]`
    pub(super) fn bias(&self, table: &Embedding, rows: usize) -> Tensor<4> {
        let bias = table.rows(self.distances.clone());
        let (heads, places) = (bias.dims()[1], self.places);
        let bias = bias.reshape([places, places, heads]).permute([2, 0, 1]).unsqueeze_dim::<4>(0);
        let Some(mask) = &self.mask else { return bias };
        let windows = mask.dims()[0];
        let bias = (bias + mask.clone()).unsqueeze_dim::<5>(0);
        bias.expand([rows / windows, windows, heads, places, places]).reshape([rows, heads, places, places])
    }
}

/// Which of three parts a row or column of the rolled map is in: only the last window holds places of two of them.
fn part(at: usize, length: usize, window: usize, shift: usize) -> usize {
    usize::from(at >= length - window) + usize::from(at >= length - shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    #[test]
    fn windows_are_cut_and_put_together_again() {
        let device = Device::default();
        for (map, side, is_shifted) in [([4, 4], 2, false), ([4, 6], 2, true), ([3, 5], 2, true), ([2, 5], 2, true)] {
            let places = map[0] * map[1];
            let x = Tensor::<1, Int>::arange(0..places as i64, &device).float().reshape([1, places, 1]);
            let windows = Windows::new(map, side, is_shifted, &device);
            let split = windows.split(x.clone());
            assert_eq!(split.dims(), [map[0].div_ceil(side) * map[1].div_ceil(side), side * side, 1]);
            assert_eq!(values(windows.join(split)), values(x), "{map:?}");
            assert_eq!(windows.mask.is_some(), is_shifted && map[0] > side, "{map:?}");
        }
    }

    #[test]
    fn shifted_windows_begin_half_a_window_further() {
        let device = Device::default();
        let x = Tensor::<1, Int>::arange(0..16, &device).float().reshape([1, 16, 1]);
        let windows = Windows::new([4, 4], 2, true, &device);
        let split = values(windows.split(x));
        assert_eq!(split[..4], [5.0, 6.0, 9.0, 10.0]);
        assert_eq!(split[12..], [15.0, 12.0, 3.0, 0.0], "the last window is rolled over both ends");
        let mask = values(windows.mask.unwrap());
        assert_eq!(mask[..16], [0.0; 16], "the first window is whole");
        assert_eq!(mask[48..52], [0.0, -100.0, -100.0, -100.0]);
    }
}
