//! How good predictions are: the metrics of the usual benchmarks, as Python's packages compute them.
//!
//! | module | holds | as in |
//! |---|---|---|
//! | [`classification`] | accuracy, precision, recall, F1, Matthews | scikit-learn |
//! | [`correlation`] | Pearson, Spearman | SciPy |
//! | [`seqeval`] | entities of tag sequences | seqeval |
//! | [`squad`] | extracted answers | the official scripts of SQuAD |

pub mod classification;
pub mod correlation;
pub mod seqeval;
pub mod squad;

use tx_core::{Error, Result};

/// The perplexity of a model whose mean loss per token is this, in nats.
pub fn perplexity(loss: f64) -> f64 {
    loss.exp()
}

/// Predictions and references come in pairs, and there is one at least.
fn check_lengths(predictions: usize, references: usize) -> Result<()> {
    if predictions != references {
        return Err(Error::input("predictions", predictions, format_args!("one for each of {references} references")));
    }
    if references == 0 {
        return Err(Error::input("references", "none", "one at least"));
    }
    Ok(())
}

/// A share of something that may be nothing, of which every share is 0.
fn share(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde::de::DeserializeOwned;

    use super::*;

    /// What Python gave; xtask/reference/goldens_train_metrics.py records it.
    pub fn golden<T: DeserializeOwned>(name: &str) -> T {
        let path = Path::new("../../tests/data/train/metrics").join(name);
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Whether two numbers are the same but for the order of a sum; two that are none are the same, too.
    pub fn same(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs().max(1.0) || a.is_nan() && b.is_nan()
    }

    #[test]
    fn a_perplexity_is_one_where_nothing_surprises() {
        assert_eq!(perplexity(0.0), 1.0);
        assert!(same(perplexity(2.0), 7.38905609893065));
        assert!(perplexity(1e9).is_infinite() && perplexity(f64::NAN).is_nan());
    }

    #[test]
    fn pairs_are_counted() {
        assert_eq!(
            check_lengths(2, 3).unwrap_err().to_string(),
            "predictions: 2, expected one for each of 3 references"
        );
        assert!(check_lengths(0, 0).is_err() && check_lengths(1, 1).is_ok());
    }
}
