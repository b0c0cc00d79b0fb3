//! Maps at another size, read row by row: PyTorch's bilinear `interpolate` without aligned corners.

use rayon::prelude::*;

use super::ScoreMaps;

/// The two places that a value lies between, and the share of the second.
#[derive(Debug, Clone, Copy)]
struct Taps {
    first: usize,
    second: usize,
    share: f32,
}

impl Taps {
    /// Those of each place of an axis of `to` places, in one of `from`.
    fn of_axis(from: usize, to: usize) -> Vec<Self> {
        let scale = from as f32 / to as f32;
        let taps = |place: usize| {
            let source = ((place as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (source as usize).min(from - 1);
            Self { first, second: (first + 1).min(from - 1), share: (source - first as f32).clamp(0.0, 1.0) }
        };
        (0..to).map(taps).collect()
    }

    fn blend(self, values: impl Fn(usize) -> f32) -> f32 {
        (1.0 - self.share) * values(self.first) + self.share * values(self.second)
    }
}

/// Which map is the largest at each place, and how large each of them is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Largest {
    /// The number of the map that is the largest, the first of equal ones, row by row.
    pub(super) numbers: Vec<u32>,
    /// At how many places each map reaches the threshold.
    pub(super) areas: Vec<usize>,
}

/// Compares `maps`, each multiplied by its factor, at `size`.
///
/// The maps have at least one place, and so has the result.
pub(super) fn largest(maps: &ScoreMaps, factors: &[f32], threshold: f32, size: [usize; 2]) -> Largest {
    let [height, width] = maps.size;
    let rows = Taps::of_axis(height, size[0]);
    let columns = Taps::of_axis(width, size[1]);
    let mut numbers = vec![0; size[0] * size[1]];
    let start = || Comparison::new(factors.len(), threshold, width, &columns);
    let areas = numbers
        .par_chunks_mut(size[1])
        .zip(&rows)
        .fold(start, |mut comparison, (numbers, row)| {
            comparison.best.fill(f32::NEG_INFINITY);
            let maps = maps.values.chunks_exact(height * width);
            for (number, (map, &factor)) in maps.zip(factors).enumerate() {
                comparison.add(number, map, factor, *row, numbers);
            }
            comparison
        })
        .map(|comparison| comparison.areas)
        .reduce(|| vec![0; factors.len()], |a, b| a.iter().zip(b).map(|(a, b)| a + b).collect());
    Largest { numbers, areas }
}

/// What is kept from map to map of one row, and from row to row of one thread.
struct Comparison<'a> {
    threshold: f32,
    columns: &'a [Taps],
    /// The map's row between two of its own.
    source: Vec<f32>,
    /// The largest value of each place so far.
    best: Vec<f32>,
    areas: Vec<usize>,
}

impl<'a> Comparison<'a> {
    fn new(maps: usize, threshold: f32, width: usize, columns: &'a [Taps]) -> Self {
        let (source, best) = (vec![0.0; width], vec![0.0; columns.len()]);
        Self { threshold, columns, source, best, areas: vec![0; maps] }
    }

    fn add(&mut self, number: usize, map: &[f32], factor: f32, row: Taps, numbers: &mut [u32]) {
        let width = self.source.len();
        for (x, value) in self.source.iter_mut().enumerate() {
            *value = row.blend(|y| map[y * width + x]);
        }
        let mut area = 0;
        for ((taps, best), place) in self.columns.iter().zip(&mut self.best).zip(numbers) {
            let value = factor * taps.blend(|x| self.source[x]);
            area += usize::from(value >= self.threshold);
            if value > *best {
                (*best, *place) = (value, number as u32);
            }
        }
        self.areas[number] += area;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of one map at another size.
    fn resized(values: &[f32], size: [usize; 2], to: [usize; 2]) -> Vec<f32> {
        let (rows, columns) = (Taps::of_axis(size[0], to[0]), Taps::of_axis(size[1], to[1]));
        let value = |row: &Taps, column: &Taps| row.blend(|y| column.blend(|x| values[y * size[1] + x]));
        rows.iter().flat_map(|row| columns.iter().map(move |column| value(row, column))).collect()
    }

    /// The numbers of PyTorch 2.
    #[test]
    fn values_are_pytorchs() {
        let close = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
        };
        let map = [1.0, 2.0, 4.0, 8.0];
        close(&resized(&map, [1, 4], [1, 6]), &[1.0, 1.5, 2.333_333_3, 3.666_666_5, 6.0, 8.0]);
        close(&resized(&map, [2, 2], [3, 3]), &[1.0, 1.5, 2.0, 2.5, 3.75, 5.0, 4.0, 6.0, 8.0]);
        close(&resized(&map, [1, 4], [2, 2]), &[1.5, 6.0, 1.5, 6.0]);
    }

    #[test]
    fn the_first_of_equal_maps_is_the_largest() {
        let maps = ScoreMaps { size: [1, 2], values: vec![0.5, 0.0, 0.5, 1.0, 0.25, 1.0] };
        let found = largest(&maps, &[1.0, 1.0, 2.0], 0.5, [1, 2]);
        assert_eq!(found, Largest { numbers: vec![0, 2], areas: vec![1, 2, 2] });
        assert_eq!(largest(&maps, &[1.0; 3], 0.5, [64, 2]).numbers.len(), 128);
    }
}
