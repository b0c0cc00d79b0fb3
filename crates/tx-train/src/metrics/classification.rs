//! Metrics of labels: accuracy, precision, recall, F1 and the coefficient of Matthews.
//!
//! Reference: scikit-learn 1.9.1, `metrics/_classification.py`, where a share of nothing is 0.

use std::collections::BTreeMap;

use tx_core::{Error, Result};

use super::{check_lengths, share};
use crate::arguments::setting::choices;

choices! {
    /// How the scores of several labels become one.
    Average {
        /// The scores of label 1, of two.
        Binary = "binary",
        /// The mean over labels.
        Macro = "macro",
        /// Over all predictions.
        Micro = "micro",
        /// The mean over labels, weighted by how often each occurs.
        Weighted = "weighted",
    }
}

/// Precision, recall and F1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scores {
    /// How many of what was predicted is right.
    pub precision: f64,
    /// How many of what is there was predicted.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
}

/// How often a label was predicted, occurs, and was predicted where it occurs.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    predicted: u64,
    occurs: u64,
    right: u64,
}

impl Counts {
    fn scores(self) -> Scores {
        let (predicted, occurs, right) = (self.predicted as f64, self.occurs as f64, self.right as f64);
        Scores {
            precision: share(right, predicted),
            recall: share(right, occurs),
            f1: share(2.0 * right, predicted + occurs),
        }
    }
}

fn count(predictions: &[usize], references: &[usize]) -> Result<BTreeMap<usize, Counts>> {
    check_lengths(predictions.len(), references.len())?;
    let mut counts = BTreeMap::<usize, Counts>::new();
    for (&prediction, &reference) in predictions.iter().zip(references) {
        counts.entry(prediction).or_default().predicted += 1;
        let of_reference = counts.entry(reference).or_default();
        of_reference.occurs += 1;
        of_reference.right += u64::from(prediction == reference);
    }
    Ok(counts)
}

/// The share of predictions that are right.
///
/// # Errors
/// [`Error::Input`] unless there are as many predictions as references, and one at least.
pub fn accuracy(predictions: &[usize], references: &[usize]) -> Result<f64> {
    check_lengths(predictions.len(), references.len())?;
    let right = predictions.iter().zip(references).filter(|(prediction, reference)| prediction == reference).count();
    Ok(right as f64 / references.len() as f64)
}

/// Precision, recall and F1.
///
/// # Errors
/// [`Error::Input`] as for [`accuracy`], and for [`Average::Binary`] with labels other than 0 and 1.
pub fn precision_recall_f1(predictions: &[usize], references: &[usize], average: Average) -> Result<Scores> {
    let counts = count(predictions, references)?;
    let total = references.len() as f64;
    let mean = |weight: &dyn Fn(&Counts) -> f64| {
        counts.values().fold(Scores::default(), |sum, counts| {
            let (scores, weight) = (counts.scores(), weight(counts));
            Scores {
                precision: sum.precision + weight * scores.precision,
                recall: sum.recall + weight * scores.recall,
                f1: sum.f1 + weight * scores.f1,
            }
        })
    };
    match average {
        Average::Binary => {
            if let Some((label, _)) = counts.last_key_value().filter(|(label, _)| **label > 1) {
                let expected = "labels 0 and 1 for the average `binary`; use macro, micro or weighted";
                return Err(Error::input("predictions", format_args!("label {label}"), expected));
            }
            Ok(counts.get(&1).copied().unwrap_or_default().scores())
        }
        Average::Macro => Ok(mean(&|_| 1.0 / counts.len() as f64)),
        Average::Weighted => Ok(mean(&|counts| counts.occurs as f64 / total)),
        Average::Micro => {
            let right = counts.values().map(|counts| counts.right).sum();
            let all = references.len() as u64;
            Ok(Counts { predicted: all, occurs: all, right }.scores())
        }
    }
}

/// The correlation of predictions and references as labels, from -1 to 1; 0 where either has one label alone.
///
/// # Errors
/// [`Error::Input`] as for [`accuracy`].
pub fn matthews_correlation(predictions: &[usize], references: &[usize]) -> Result<f64> {
    let counts = count(predictions, references)?;
    let total = references.len() as f64;
    let sum = |of: &dyn Fn(&Counts) -> f64| counts.values().map(of).sum::<f64>();
    let square = |n: u64| n as f64 * n as f64;
    let both = sum(&|c| c.right as f64) * total - sum(&|c| c.predicted as f64 * c.occurs as f64);
    let of_predictions = total * total - sum(&|c| square(c.predicted));
    let of_references = total * total - sum(&|c| square(c.occurs));
    Ok(share(both, (of_predictions * of_references).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, same};
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        predictions: Vec<usize>,
        references: Vec<usize>,
        accuracy: f64,
        matthews: f64,
        binary: Option<[f64; 3]>,
        r#macro: [f64; 3],
        micro: [f64; 3],
        weighted: [f64; 3],
    }

    #[test]
    fn every_score_is_pythons() {
        for case in golden::<Vec<Case>>("classification.json") {
            let (predictions, references) = (&case.predictions, &case.references);
            assert!(same(accuracy(predictions, references).unwrap(), case.accuracy), "{}", case.name);
            let found = matthews_correlation(predictions, references).unwrap();
            assert!(same(found, case.matthews), "{}: {found}, expected {}", case.name, case.matthews);
            let expected = [
                (Average::Binary, case.binary),
                (Average::Macro, Some(case.r#macro)),
                (Average::Micro, Some(case.micro)),
                (Average::Weighted, Some(case.weighted)),
            ];
            for (average, expected) in expected {
                let found = precision_recall_f1(predictions, references, average);
                let Some(expected) = expected else {
                    assert!(found.is_err(), "{} {average}", case.name);
                    continue;
                };
                let found = found.unwrap();
                for (found, expected) in [found.precision, found.recall, found.f1].into_iter().zip(expected) {
                    assert!(same(found, expected), "{} {average}: {found}, expected {expected}", case.name);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        assert!(accuracy(&[0, 1], &[0]).is_err());
        assert!(precision_recall_f1(&[], &[], Average::Macro).is_err());
        let error = precision_recall_f1(&[2], &[0], Average::Binary).unwrap_err().to_string();
        assert!(error.contains("label 2"), "{error}");
    }
}
