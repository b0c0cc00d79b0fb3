//! The singular value decomposition of small matrices, and of products of narrow ones.

/// The most rounds over all pairs of columns. Fewer than ten suffice.
const MAX_SWEEPS: usize = 60;
/// Columns whose cosine is smaller are orthogonal.
const ORTHOGONAL: f64 = 1e-14;

/// `U · diag(s) · Vᵀ`, the largest singular values first. Columns are vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Svd {
    /// As many columns as there are singular values, each as long as the matrix has rows.
    pub u: Vec<Vec<f64>>,
    /// The singular values.
    pub s: Vec<f64>,
    /// As many columns, each as long as the matrix has columns.
    pub v: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// That of a matrix by its columns, of which there are no more than rows: one-sided rotations (Hestenes, 1958).
fn of_tall(mut columns: Vec<Vec<f64>>) -> Svd {
    let n = columns.len();
    let mut v: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for i in 0..n {
            for j in i + 1..n {
                let (a, b, c) =
                    (dot(&columns[i], &columns[i]), dot(&columns[j], &columns[j]), dot(&columns[i], &columns[j]));
                if c == 0.0 || c.abs() <= ORTHOGONAL * (a * b).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (b - a) / (2.0 * c);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                rotate(&mut columns, i, j, cosine, cosine * tangent);
                rotate(&mut v, i, j, cosine, cosine * tangent);
            }
        }
        if !rotated {
            break;
        }
    }
    let lengths: Vec<f64> = columns.iter().map(|column| dot(column, column).sqrt()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    let unit = |i: usize| columns[i].iter().map(|x| if lengths[i] > 0.0 { x / lengths[i] } else { 0.0 }).collect();
    Svd {
        u: order.iter().map(|&i| unit(i)).collect(),
        s: order.iter().map(|&i| lengths[i]).collect(),
        v: order.iter().map(|&i| v[i].clone()).collect(),
    }
}

fn rotate(columns: &mut [Vec<f64>], i: usize, j: usize, cosine: f64, sine: f64) {
    let (first, second) = columns.split_at_mut(j);
    for (x, y) in first[i].iter_mut().zip(&mut second[0]) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

/// That of a matrix of `rows` rows, row-major.
pub fn svd(matrix: &[f32], rows: usize) -> Svd {
    let columns = matrix.len() / rows.max(1);
    let column = |j: usize| (0..rows).map(|i| f64::from(matrix[i * columns + j])).collect::<Vec<f64>>();
    if columns <= rows {
        return of_tall((0..columns).map(column).collect());
    }
    let row = |i: usize| matrix[i * columns..(i + 1) * columns].iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let Svd { u, s, v } = of_tall((0..rows).map(row).collect());
    Svd { u: v, s, v: u }
}

/// That of `B · A`, with the columns of `B` and the rows of `A`: as many, and fewer than either matrix has otherwise.
pub fn svd_of_product(b: Vec<Vec<f64>>, a: Vec<Vec<f64>>) -> Svd {
    let (left, r) = orthogonal(b);
    let (right, t) = orthogonal(a);
    // R · Tᵀ, whose columns are as long as there are columns in `left`.
    let inner = (0..t.len()).map(|j| (0..r.len()).map(|i| dot(&r[i], &t[j])).collect()).collect();
    let wide = left.len() < right.len();
    let Svd { u, s, v } = match wide {
        false => of_tall(inner),
        true => {
            let Svd { u, s, v } = of_tall(transposed(&inner, left.len()));
            Svd { u: v, s, v: u }
        }
    };
    Svd { u: multiply(&left, &u), s, v: multiply(&right, &v) }
}

fn transposed(columns: &[Vec<f64>], rows: usize) -> Vec<Vec<f64>> {
    (0..rows).map(|i| columns.iter().map(|column| column[i]).collect()).collect()
}

/// The products of a matrix, by its columns, with vectors.
fn multiply(columns: &[Vec<f64>], vectors: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let length = columns.first().map_or(0, Vec::len);
    let product = |vector: &Vec<f64>| {
        let mut sum = vec![0.0; length];
        for (column, factor) in columns.iter().zip(vector) {
            sum.iter_mut().zip(column).for_each(|(sum, x)| *sum += factor * x);
        }
        sum
    };
    vectors.iter().map(product).collect()
}

/// Orthonormal vectors `q` that span the columns, and the rows of `r`, so that a column `j` is the sum of `q[i] · r[i][j]`.
/// Gram and Schmidt, twice, for rounding.
fn orthogonal(columns: Vec<Vec<f64>>) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let count = columns.len();
    let (mut q, mut r): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    for (j, mut column) in columns.into_iter().enumerate() {
        let before = dot(&column, &column).sqrt();
        for _ in 0..2 {
            for (unit, row) in q.iter().zip(&mut r) {
                let part = dot(unit, &column);
                row[j] += part;
                column.iter_mut().zip(unit).for_each(|(x, unit)| *x -= part * unit);
            }
        }
        let length = dot(&column, &column).sqrt();
        if length > 1e-13 * before {
            let mut row = vec![0.0; count];
            row[j] = length;
            q.push(column.into_iter().map(|x| x / length).collect());
            r.push(row);
        }
    }
    (q, r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Random;

    fn matrix(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(&[seed]);
        (0..rows * columns).map(|_| random.uniform() as f32 - 0.4).collect()
    }

    fn check(svd: &Svd, matrix: &[f32], rows: usize) {
        let columns = matrix.len() / rows;
        for i in 0..rows {
            for j in 0..columns {
                let sum: f64 = (0..svd.s.len()).map(|k| svd.u[k][i] * svd.s[k] * svd.v[k][j]).sum();
                assert!((sum - f64::from(matrix[i * columns + j])).abs() < 1e-6, "{i} {j} {sum}");
            }
        }
        assert!(svd.s.is_sorted_by(|a, b| a >= b));
        for (k, vectors) in [&svd.u, &svd.v].into_iter().enumerate() {
            for (i, a) in vectors.iter().enumerate().filter(|(i, _)| svd.s[*i] > 1e-9) {
                for (j, b) in vectors.iter().enumerate().filter(|(j, _)| svd.s[*j] > 1e-9) {
                    let expected = f64::from(u8::from(i == j));
                    assert!((dot(a, b) - expected).abs() < 1e-9, "{k} {i} {j}");
                }
            }
        }
    }

    #[test]
    fn matrices_are_what_their_parts_multiply_to() {
        for (rows, columns) in [(7, 7), (12, 5), (5, 12), (1, 4), (30, 30)] {
            let matrix = matrix(rows, columns, 1);
            check(&svd(&matrix, rows), &matrix, rows);
        }
        // Of rank one, and of rank zero.
        let matrix: Vec<f32> = (0..20).map(|i| (i / 5 + 1) as f32 * (i % 5) as f32).collect();
        let found = svd(&matrix, 4);
        check(&found, &matrix, 4);
        assert!(found.s[1] < 1e-9);
        assert_eq!(svd(&[0.0; 6], 2).s, [0.0; 2]);
    }

    #[test]
    fn products_of_narrow_matrices_are_decomposed_without_multiplying_them() {
        for (rows, columns, rank) in [(20, 30, 4), (30, 6, 3), (3, 9, 5)] {
            let column =
                |seed: u64, length: usize| matrix(length, 1, seed).into_iter().map(f64::from).collect::<Vec<_>>();
            let b: Vec<_> = (0..rank).map(|k| column(k, rows)).collect();
            let a: Vec<_> = (0..rank).map(|k| column(100 + k, columns)).collect();
            let product: Vec<f32> = (0..rows * columns)
                .map(|at| (0..rank as usize).map(|k| b[k][at / columns] * a[k][at % columns]).sum::<f64>() as f32)
                .collect();
            let (found, direct) = (svd_of_product(b, a), svd(&product, rows));
            check(&found, &product, rows);
            assert!(found.s.iter().zip(&direct.s).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
        }
    }
}
