//! When each token was said: some heads of the decoder look at the place in the sound that they write down.
//!
//! Their attention maps are normalised and smoothed, and the best path through their mean, by dynamic time warping, says
//! which tokens and which places belong together. Reference: `_extract_token_timestamps`.

use std::cmp::Ordering;
use std::collections::BTreeSet;

/// From one place of the encoder to the next, in seconds.
const TIME_PRECISION: f64 = 0.02;

/// Checks that a model has these heads, and that each is named once: a map of each is held.
///
/// `there` are the heads of each layer.
pub(super) fn check_heads(heads: &[[usize; 2]], there: &[usize]) -> Result<(), String> {
    let mut named = BTreeSet::new();
    for &[layer, head] in heads {
        if there.get(layer).is_none_or(|&count| head >= count) {
            return Err(format!("no head {head} in layer {layer}"));
        }
        if !named.insert([layer, head]) {
            return Err(format!("head {head} of layer {layer} twice, expected each head once"));
        }
    }
    Ok(())
}

/// The attention of some heads.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Maps {
    /// `[rows, columns]` of each head, row-major: a row for each token that looks.
    pub heads: Vec<Vec<f32>>,
    /// Tokens.
    pub rows: usize,
    /// Places in the sound.
    pub columns: usize,
}

impl Maps {
    /// When the token of each row was said, in seconds from the beginning of the part.
    ///
    /// `frames` are those of the sound from the beginning of the part on, negative if it ended before; all places count
    /// if `None`. `width` is that of the median filter.
    pub(super) fn times(mut self, frames: Option<i64>, width: usize) -> Vec<f32> {
        if let Some(frames) = frames {
            // As in the reference, which counts places from the end if there are fewer than none, and does so twice.
            for _ in 0..2 {
                let places = frames.div_euclid(2);
                let columns = self.columns as i64;
                let kept = if places < 0 { columns + places } else { places.min(columns) };
                self.crop(kept.max(0) as usize);
            }
        }
        let (rows, columns) = (self.rows, self.columns);
        for head in &mut self.heads {
            normalize(head, rows, columns);
            *head = median_filter(head, columns, width);
        }
        let count = self.heads.len() as f32;
        let mean = |i: usize| self.heads.iter().map(|head| head[i]).sum::<f32>() / count;
        let costs: Vec<f64> = (0..rows * columns).map(|i| -f64::from(mean(i))).collect();
        first_columns(&costs, rows, columns).into_iter().map(|column| (column as f64 * TIME_PRECISION) as f32).collect()
    }

    /// Keeps the first columns.
    fn crop(&mut self, columns: usize) {
        if columns < self.columns {
            for head in &mut self.heads {
                *head = head.chunks_exact(self.columns).flat_map(|row| &row[..columns]).copied().collect();
            }
            self.columns = columns;
        }
    }
}

/// `(x − mean) / deviation` of each column.
fn normalize(map: &mut [f32], rows: usize, columns: usize) {
    for column in 0..columns {
        let values = || (0..rows).map(|row| f64::from(map[row * columns + column]));
        let mean = values().sum::<f64>() / rows as f64;
        let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / rows as f64;
        let (mean, deviation) = (mean as f32, variance.sqrt() as f32);
        for row in 0..rows {
            let x = &mut map[row * columns + column];
            *x = (*x - mean) / deviation;
        }
    }
}

/// The median of `width` neighbours along each row, which is mirrored at its ends.
fn median_filter(map: &[f32], columns: usize, width: usize) -> Vec<f32> {
    let side = width / 2;
    if columns <= side {
        return map.to_vec();
    }
    let mut filtered = Vec::with_capacity(map.len());
    let mut window = vec![0.0; width];
    for row in map.chunks_exact(columns) {
        for column in 0..columns {
            for (i, x) in window.iter_mut().enumerate() {
                // The places before the first and after the last are those on the other side of it.
                let place = (column + i).abs_diff(side);
                *x = row[if place < columns { place } else { 2 * (columns - 1) - place }];
            }
            window.sort_unstable_by(order);
            filtered.push(window[side]);
        }
    }
    filtered
}

/// Smaller numbers first, and what is not a number last.
fn order(a: &f32, b: &f32) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Dynamic time warping: the first column of each row on the cheapest path from the first row and column to the last.
/// Sakoe & Chiba, 1978 (doi:10.1109/TASSP.1978.1163055). Without columns it is -1.
fn first_columns(costs: &[f64], rows: usize, columns: usize) -> Vec<i64> {
    const DIAGONAL: u8 = 0;
    const DOWN: u8 = 1;
    const RIGHT: u8 = 2;
    let width = columns + 1;
    let mut total = vec![f32::INFINITY; (rows + 1) * width];
    let mut trace = vec![RIGHT; (rows + 1) * width];
    total[0] = 0.0;
    for row in 1..=rows {
        trace[row * width] = DOWN;
    }
    for column in 1..=columns {
        for row in 1..=rows {
            let at = row * width + column;
            let [diagonal, down, right] = [total[at - width - 1], total[at - width], total[at - 1]];
            let (least, step) = if diagonal < down && diagonal < right {
                (diagonal, DIAGONAL)
            } else if down < diagonal && down < right {
                (down, DOWN)
            } else {
                (right, RIGHT)
            };
            total[at] = (costs[(row - 1) * columns + column - 1] + f64::from(least)) as f32;
            trace[at] = step;
        }
    }
    let mut first = vec![-1; rows];
    let (mut row, mut column) = (rows, columns);
    while row > 0 {
        first[row - 1] = column as i64 - 1;
        match trace[row * width + column] {
            DIAGONAL => (row, column) = (row - 1, column - 1),
            DOWN => row -= 1,
            _ => column -= 1,
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_named_once() {
        assert_eq!(check_heads(&[[0, 1], [1, 2], [0, 0]], &[2, 3]), Ok(()));
        assert_eq!(check_heads(&[], &[]), Ok(()));
        for (heads, expected) in [
            (&[[0, 2]][..], "no head 2 in layer 0"),
            (&[[2, 0]][..], "no head 0 in layer 2"),
            (&[[usize::MAX; 2]][..], "no head"),
            (&[[1, 2], [0, 0], [1, 2]][..], "head 2 of layer 1 twice"),
        ] {
            let reason = check_heads(heads, &[2, 3]).unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
        }
    }

    #[test]
    fn medians_are_taken_over_mirrored_rows() {
        let row = [5.0, 1.0, 4.0, 2.0, 3.0];
        // 1 5 1 | 5 1 4 | 1 4 2 | 4 2 3 | 2 3 2
        assert_eq!(median_filter(&row, 5, 3), [1.0, 4.0, 2.0, 3.0, 2.0]);
        assert_eq!(median_filter(&row, 5, 1), row);
        // 4 1 5 1 4 | 1 5 1 4 2 | 5 1 4 2 3 | 1 4 2 3 2 | 4 2 3 2 4
        assert_eq!(median_filter(&row, 5, 5), [4.0, 2.0, 3.0, 2.0, 3.0]);
        assert_eq!(median_filter(&row[..2], 2, 5), row[..2]);
    }

    #[test]
    fn the_path_follows_what_costs_least() {
        let costs = [[-1.0, -0.9, 0.1, 0.2, 0.3], [0.15, 0.25, -1.0, 0.35, 0.45], [0.12, 0.22, 0.32, -1.0, -0.8]];
        assert_eq!(first_columns(costs.as_flattened(), 3, 5), [0, 2, 3]);
        assert_eq!(first_columns(&[], 3, 0), [-1, -1, -1]);
        assert_eq!(first_columns(&[0.0; 4], 1, 4), [0]);
        assert_eq!(first_columns(&[f64::NAN; 6], 2, 3).len(), 2);
    }

    #[test]
    fn maps_are_cropped_to_the_sound() {
        // Token i looks at places 2 i and 2 i + 1 of ten; four of these are sound.
        let map: Vec<f32> = (0..20).map(|i| if (i % 10) / 2 == i / 10 { 1.0 } else { 0.1 }).collect();
        let maps = Maps { heads: vec![map.clone(), map], rows: 2, columns: 10 };
        assert_eq!(maps.clone().times(Some(8), 1), [0.0, 0.04]);
        assert_eq!(maps.clone().times(Some(1), 1), [-0.02, -0.02]);
        let mut cropped = maps;
        cropped.crop(3);
        assert_eq!((cropped.columns, cropped.heads[0].len()), (3, 6));
    }
}
