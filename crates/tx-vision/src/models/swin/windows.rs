//! A map in windows, which may be shifted, and what their places see of each other.

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
    /// Windows of `side` by `side` places, which are the sizes that the table of biases is made for.
    ///
    /// A map with a side that is no longer than that is cut into windows of its shorter side, and is not shifted.
    pub(super) fn new(map: [usize; 2], side: usize, is_shifted: bool, device: &Device) -> Self {
        let [height, width] = map;
        let shorter = height.min(width);
        let (window, shift) = if shorter <= side { (shorter, 0) } else { (side, side / 2) };
        let shift = if is_shifted { shift } else { 0 };
        let [rows, columns] = map.map(|side| side.div_ceil(window));
        let places = window * window;

        // Row and column of the rolled map.
        let rolled = |index: usize| {
            let (number, place) = (index / places, index % places);
            [number / columns * window + place / window, number % columns * window + place % window]
        };
        let count = rows * columns * places;
        let mut from = Vec::with_capacity(count);
        let mut to = vec![0; height * width];
        for index in 0..count {
            let [row, column] = rolled(index);
            let (row, column) = ((row + shift) % (rows * window), (column + shift) % (columns * window));
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
                let row = query / window + side - 1 - key / window;
                let column = query % window + side - 1 - key % window;
                distances.push((row * (2 * side - 1) + column) as i64);
            }
        }

        let mask = (shift > 0).then(|| {
            let regions: Vec<usize> = (0..count)
                .map(|index| {
                    let [row, column] = rolled(index);
                    3 * region(row, rows * window, window, shift) + region(column, columns * window, window, shift)
                })
                .collect();
            let mut mask = Vec::with_capacity(count * places);
            for regions in regions.chunks(places) {
                for query in regions {
                    mask.extend(regions.iter().map(|key| if key == query { 0.0 } else { NO_NEIGHBOURS }));
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
        let heads = bias.dims()[1];
        let places = self.places;
        let bias = bias.reshape([places, places, heads]).permute([2, 0, 1]).unsqueeze_dim::<4>(0);
        let Some(mask) = &self.mask else { return bias };
        let windows = mask.dims()[0];
        let bias = (bias + mask.clone()).unsqueeze_dim::<5>(0);
        let bias = bias.expand([rows / windows, windows, heads, places, places]);
        bias.reshape([rows, heads, places, places])
    }
}

/// Which of three parts a row or column of the rolled map is in: only the last window holds places of two of them.
fn region(at: usize, length: usize, window: usize, shift: usize) -> usize {
    usize::from(at >= length - window) + usize::from(at >= length - shift)
}
