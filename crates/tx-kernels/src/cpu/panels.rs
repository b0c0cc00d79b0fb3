//! Rearranging rows into panels, and blocks of columns back into rows.

use super::tile::{self, Shape};

/// How many elements ahead lines are asked for while they are transposed.
const AHEAD: usize = 128;

/// How the rows of a matrix are cut into panels: full ones, and a narrower last one.
#[derive(Debug, Clone, Copy)]
pub struct Panels {
    /// Rows of the matrix.
    pub rows: usize,
    /// The vectors of this machine.
    pub shape: Shape,
}

/// One panel.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    /// Its first row.
    pub row: usize,
    /// How many rows it has.
    pub rows: usize,
    /// How many vectors hold them.
    pub vectors: usize,
    /// The lanes of these.
    pub width: usize,
    /// Columns of its tiles.
    pub columns: usize,
}

impl Panels {
    pub fn new(rows: usize) -> Self {
        Self { rows, shape: Shape::detect() }
    }

    /// Number of panels.
    pub fn count(self) -> usize {
        self.rows.div_ceil(self.shape.panel())
    }

    /// Rows with those that fill the last vector.
    pub fn padded_rows(self) -> usize {
        self.rows.next_multiple_of(self.shape.lanes)
    }

    pub fn get(self, index: usize) -> Panel {
        let row = index * self.shape.panel();
        let rows = (self.rows - row).min(self.shape.panel());
        let vectors = rows.div_ceil(self.shape.lanes);
        let (width, columns) = (vectors * self.shape.lanes, tile::columns(vectors, self.shape.registers));
        Panel { row, rows, vectors, width, columns }
    }
}

/// Writes `rows` rows of `length` elements as `[length][width]`; lanes beyond `rows` are zero.
pub fn pack(rows: &[&[f32]], length: usize, width: usize, packed: &mut [f32]) {
    let packed = &mut packed[..length * width];
    let full = if width.is_multiple_of(16) { rows.len() / 16 * 16 } else { 0 };
    for lane in (0..full).step_by(16) {
        for start in (0..length / 16 * 16).step_by(16) {
            // Sixteen lines are more streams than the hardware looks ahead on.
            for row in &rows[lane..lane + 16] {
                tile::prefetch(row.as_ptr().wrapping_add(start + AHEAD));
            }
            transpose16(|i| &rows[lane + i][start..start + 16], &mut packed[start * width + lane..], width);
        }
        for (i, row) in rows[lane..lane + 16].iter().enumerate() {
            for k in length / 16 * 16..length {
                packed[k * width + lane + i] = row[k];
            }
        }
    }
    for (lane, row) in rows.iter().enumerate().skip(full) {
        for (k, &value) in row[..length].iter().enumerate() {
            packed[k * width + lane] = value;
        }
    }
    if rows.len() < width {
        for step in packed.chunks_exact_mut(width) {
            step[rows.len()..].fill(0.0);
        }
    }
}

/// Writes a block `[columns][width]` into rows: `rows[r][c] = block[c][r]`.
///
/// # Safety
/// Each row is valid for `columns` elements, and nothing else refers to them.
pub unsafe fn unpack(block: &[f32], columns: usize, width: usize, rows: &[*mut f32]) {
    let (full, whole) = (rows.len() / 16 * 16, columns / 16 * 16);
    let mut lines = [[0f32; 16]; 16];
    for lane in (0..full).step_by(16) {
        for column in (0..whole).step_by(16) {
            transpose16(|i| &block[(column + i) * width + lane..][..16], lines.as_flattened_mut(), 16);
            for (line, row) in lines.iter().zip(&rows[lane..]) {
                // SAFETY: `column + 16 <= columns`.
                unsafe { row.add(column).copy_from_nonoverlapping(line.as_ptr(), 16) };
            }
        }
    }
    for (lane, row) in rows.iter().enumerate() {
        for column in if lane < full { whole } else { 0 }..columns {
            // SAFETY: `column < columns`.
            unsafe { row.add(column).write(block[column * width + lane]) };
        }
    }
}

/// Transposes 16 lines of 16 elements: `to[k · stride + i] = line(i)[k]`.
#[inline]
fn transpose16<'a>(line: impl Fn(usize) -> &'a [f32], to: &mut [f32], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        let mut lines = [std::ptr::null(); 16];
        for (i, l) in lines.iter_mut().enumerate() {
            *l = line(i)[..16].as_ptr();
        }
        assert!(to.len() >= 15 * stride + 16);
        // SAFETY: every line has 16 elements, `to` has 16 lines of them, and the feature was just detected.
        return unsafe { transpose16_avx512(&lines, to.as_mut_ptr(), stride) };
    }
    for i in 0..16 {
        for (k, &value) in line(i)[..16].iter().enumerate() {
            to[k * stride + i] = value;
        }
    }
}

/// # Safety
/// Each line is valid for 16 elements, `to` for 16 of them at each of 16 multiples of `stride`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose16_avx512(lines: &[*const f32; 16], to: *mut f32, stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: as above.
    let mut r: [__m512; 16] = std::array::from_fn(|i| unsafe { _mm512_loadu_ps(lines[i]) });
    // Pairs, then quadruples of lines within each 128-bit lane.
    for i in (0..16).step_by(2) {
        (r[i], r[i + 1]) = (_mm512_unpacklo_ps(r[i], r[i + 1]), _mm512_unpackhi_ps(r[i], r[i + 1]));
    }
    let mut t = r;
    for i in (0..16).step_by(4) {
        let pair = |a: __m512, b: __m512| (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let (a, b) = pair(r[i], r[i + 2]);
        let (c, d) = pair(r[i + 1], r[i + 3]);
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    }
    // t[4q + e] holds, in its 128-bit lane L, element 4L + e of lines 4q..4q+4: a 4×4 transpose of lanes remains.
    for e in 0..4 {
        let (a, b, c, d) = (t[e], t[4 + e], t[8 + e], t[12 + e]);
        let (ab_even, ab_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
        let (cd_even, cd_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(c, d), _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d));
        let columns = [
            (e, _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even)),
            (4 + e, _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd)),
            (8 + e, _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even)),
            (12 + e, _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd)),
        ];
        for (k, column) in columns {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to.add(k * stride), column) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        for (rows, length) in [(1usize, 1), (5, 7), (16, 16), (17, 33), (48, 64), (61, 20)] {
            let width = rows.next_multiple_of(16);
            let values: Vec<f32> = (0..rows * length).map(|i| i as f32).collect();
            let lines: Vec<&[f32]> = values.chunks(length).collect();
            let mut packed = vec![-1.0; length * width];
            pack(&lines, length, width, &mut packed);
            for (k, step) in packed.chunks(width).enumerate() {
                for (lane, &value) in step.iter().enumerate() {
                    assert_eq!(value, lines.get(lane).map_or(0.0, |line| line[k]), "{rows}×{length}");
                }
            }
            let mut back = vec![0.0; rows * length];
            let into: Vec<*mut f32> = back.chunks_mut(length).map(<[f32]>::as_mut_ptr).collect();
            // SAFETY: the rows are the chunks of `back`.
            unsafe { unpack(&packed, length, width, &into) };
            assert_eq!(back, values, "{rows}×{length}");
        }
    }
}
