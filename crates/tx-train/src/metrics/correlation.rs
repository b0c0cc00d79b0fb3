//! Correlations of numbers.
//!
//! Reference: SciPy 1.17.1, `stats.pearsonr` and `stats.spearmanr`.

use tx_core::Result;

use super::check_lengths;

/// How far two lists of numbers lie on a line, from -1 to 1; NaN where one of them is constant or holds NaN.
///
/// # Errors
/// [`tx_core::Error::Input`] unless there are as many predictions as references, and one at least.
pub fn pearson(predictions: &[f64], references: &[f64]) -> Result<f64> {
    check_lengths(predictions.len(), references.len())?;
    let (x, y) = (unit(predictions), unit(references));
    let product: f64 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
    // Two points lie on a line, whatever rounding says.
    let correlation = if x.len() == 2 { product.round() } else { product };
    Ok(correlation.clamp(-1.0, 1.0))
}

/// The same of their ranks: how far one grows with the other.
///
/// # Errors
/// As [`pearson`].
pub fn spearman(predictions: &[f64], references: &[f64]) -> Result<f64> {
    check_lengths(predictions.len(), references.len())?;
    if predictions.iter().chain(references).any(|number| number.is_nan()) {
        return Ok(f64::NAN);
    }
    pearson(&ranks(predictions), &ranks(references))
}

/// The differences from the mean as a vector of length 1; NaN for a constant.
fn unit(numbers: &[f64]) -> Vec<f64> {
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    let constant = numbers.iter().all(|number| *number == numbers[0]);
    let differences: Vec<f64> = numbers.iter().map(|number| number - mean).collect();
    // Divided by the largest first, so that no square overflows.
    let largest = differences.iter().fold(0.0f64, |largest, difference| largest.max(difference.abs()));
    let squares = differences.iter().map(|difference| (difference / largest).powi(2)).sum::<f64>();
    let norm = if constant { f64::NAN } else { largest * squares.sqrt() };
    differences.into_iter().map(|difference| difference / norm).collect()
}

/// The place of each number in the sorted list, from 1 on; equal ones share the mean of theirs.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*a].total_cmp(&numbers[*b]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut start = 0;
    // `==` and not the order of bits: the two zeros are equal.
    for equal in order.chunk_by(|a, b| numbers[*a] == numbers[*b]) {
        let rank = start as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|index| ranks[*index] = rank);
        start += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, same};
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        x: Vec<f64>,
        y: Vec<f64>,
        pearson: Option<f64>,
        spearman: Option<f64>,
    }

    #[test]
    fn every_correlation_is_pythons() {
        for case in golden::<Vec<Case>>("correlation.json") {
            for (found, expected) in
                [(pearson(&case.x, &case.y), case.pearson), (spearman(&case.x, &case.y), case.spearman)]
            {
                let (found, expected) = (found.unwrap(), expected.unwrap_or(f64::NAN));
                // Numbers far from zero lose digits in their differences, in both languages.
                let close = (found - expected).abs() <= 1e-9;
                assert!(close || same(found, expected), "{}: {found}, expected {expected}", case.name);
            }
        }
    }

    #[test]
    fn equal_numbers_share_a_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, -0.0, 0.0]), [4.5, 3.0, 4.5, 1.5, 1.5]);
        assert!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]).unwrap().is_nan());
        assert!(pearson(&[1.0, f64::NAN], &[1.0, 2.0]).unwrap().is_nan());
        assert!(pearson(&[1.0], &[2.0]).unwrap().is_nan());
        assert!(pearson(&[1.0, 2.0], &[2.0]).is_err() && spearman(&[], &[]).is_err());
    }
}
