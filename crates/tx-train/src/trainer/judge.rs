//! The metrics of an evaluation: those of HF's example scripts.
//!
//! | task | metrics |
//! |---|---|
//! | one class | `accuracy`, `matthews_correlation`; `precision`, `recall`, `f1` of class 1 of two, else their means |
//! | several classes | `precision`, `recall`, `f1` over all classes together, and `accuracy`: all of a row are right |
//! | numbers | `mse`; of one number `pearson` and `spearmanr` as well |
//! | words | those of seqeval: `precision`, `recall`, `f1`, `accuracy`, and for each type `PER_f1` and so on |
//! | answers | `exact_match` and `f1` of SQuAD, in percent |
//! | tokens | `perplexity`, `accuracy` |
//! | embeddings | `accuracy`: the second text is the nearest of its batch; else `pearson_cosine`, `spearman_cosine` |
//!
//! The loss is the mean over all items. HF's is the mean over batches, which differs where batches have different
//! sizes.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use tx_core::error::Result;
use tx_core::task::TextArguments;

use super::answers::{Answer, of_questions};
use super::model::{Scores, TrainingModel};
use crate::checkpoint::Metrics;
use crate::collate::{Batch, BatchLabels};
use crate::data::IGNORED;
use crate::distributed::{Communicator, gather_rows};
use crate::loss::{Loss, cosines, similarities};
use crate::metrics::classification::{Average, accuracy, matthews_correlation, precision_recall_f1};
use crate::metrics::correlation::{pearson, spearman};
use crate::metrics::perplexity;
use crate::metrics::seqeval::{Mode, seqeval};
use crate::metrics::squad::{squad, squad_v2};

/// What an example gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Outcome {
    /// A class, and the right one.
    Class(usize, usize),
    /// For each class whether it holds, and whether it does.
    Several(Vec<bool>, Vec<bool>),
    /// Numbers, and the right ones.
    Numbers(Vec<f32>, Vec<f32>),
    /// The classes of words, and the right ones.
    Words(Vec<usize>, Vec<usize>),
    /// The answer of a window.
    Answer(Answer),
    /// How many tokens of a batch are right, and how many there are.
    Tokens(u64, u64),
    /// Whether the second text is nearest to the first.
    Nearest(bool),
    /// How alike two texts are, and should be.
    Alike(f32, f32),
}

/// Collects what the batches of an evaluation give.
#[derive(Debug, Default)]
pub(super) struct Judge {
    sum: f64,
    items: f64,
    examples: f64,
    outcomes: Vec<Outcome>,
}

impl Judge {
    /// Adds a batch.
    ///
    /// # Errors
    /// Those of [`TrainingModel::loss`].
    pub fn add(&mut self, model: &TrainingModel, batch: &Batch, scores: Scores, smoothing: f64) -> Result<()> {
        let Loss { sum, items } = model.loss(batch, scores.clone(), smoothing)?;
        self.sum += f64::from(sum.into_scalar::<f32>());
        self.items += items as f64;
        self.examples += batch.len() as f64;
        match (scores, &batch.labels) {
            (Scores::Rows(logits), BatchLabels::Classes(classes)) => {
                let pairs = best(logits).into_iter().zip(classes).filter(|(_, class)| **class != IGNORED);
                self.outcomes.extend(pairs.map(|(said, &class)| Outcome::Class(said, class as usize)));
            }
            (Scores::Rows(logits), BatchLabels::Values { columns, values: right }) => {
                let said = numbers(logits);
                let rows = said.chunks(*columns.max(&1)).zip(right.chunks(*columns.max(&1)));
                if model.has_several_classes()? {
                    let holds = |row: &[f32], limit: f32| row.iter().map(|&x| x > limit).collect();
                    self.outcomes
                        .extend(rows.map(|(said, right)| Outcome::Several(holds(said, 0.0), holds(right, 0.5))));
                } else {
                    self.outcomes.extend(rows.map(|(said, right)| Outcome::Numbers(said.to_vec(), right.to_vec())));
                }
            }
            (Scores::Tokens { logits, labels }, BatchLabels::Tokens(rows)) => {
                let said = best(logits);
                if matches!(model, TrainingModel::TokenClassification(_)) {
                    let seq = rows.seq.max(1);
                    self.outcomes.extend(labels.chunks(seq).zip(said.chunks(seq)).map(|(right, said)| {
                        let words = said.iter().zip(right).filter(|(_, label)| **label != IGNORED);
                        let (said, right) = words.map(|(&said, &right)| (said, right as usize)).unzip();
                        Outcome::Words(said, right)
                    }));
                } else {
                    let pairs = said.iter().zip(&labels).filter(|(_, label)| **label != IGNORED);
                    let right = pairs.clone().filter(|(said, label)| **said as i64 == **label).count();
                    self.outcomes.push(Outcome::Tokens(right as u64, pairs.count() as u64));
                }
            }
            (Scores::Spans { starts, ends }, _) => {
                let [_, seq] = starts.dims();
                let (starts, ends) = (numbers(starts), numbers(ends));
                let rows = starts.chunks(seq.max(1)).zip(ends.chunks(seq.max(1))).enumerate();
                for ((row, (starts, ends)), reference) in rows.zip(&batch.references) {
                    let Some(reference) = reference else { continue };
                    let first = batch.texts.first().map_or(0, |text| first_token(text, row));
                    let end = (first + reference.offsets.len()).min(seq);
                    self.outcomes.push(Outcome::Answer(Answer::new(reference, &starts[first..end], &ends[first..end])));
                }
            }
            (Scores::Embeddings(embeddings), BatchLabels::Values { values, .. }) => {
                if let Ok([a, b]) = <[Tensor<2>; 2]>::try_from(embeddings) {
                    let pairs = numbers(cosines(a, b)).into_iter().zip(values);
                    self.outcomes.extend(pairs.map(|(said, &right)| Outcome::Alike(said, right)));
                }
            }
            (Scores::Embeddings(embeddings), _) => {
                let nearest = best(similarities(embeddings)).into_iter().enumerate();
                self.outcomes.extend(nearest.map(|(row, nearest)| Outcome::Nearest(row == nearest)));
            }
            _ => {}
        }
        Ok(())
    }

    /// The metrics of the examples of all ranks, which are the same on all, and how many examples there are. The names
    /// begin with `eval_`.
    ///
    /// # Errors
    /// [`tx_core::Error::Distributed`]; those of the metrics.
    pub fn metrics(self, model: &TrainingModel, ranks: &dyn Communicator) -> Result<(Metrics, f64)> {
        let mut sums = [self.sum, self.items, self.examples];
        ranks.sum(&mut sums)?;
        let [sum, items, examples] = sums;
        let loss = sum / items;
        let mut metrics = Vec::from([("loss".to_owned(), loss)]);
        let outcomes = gather_rows(ranks, self.outcomes)?;
        match outcomes.first() {
            None => {}
            Some(Outcome::Class(..)) => of_classes(&outcomes, model.config().labels()?.len(), &mut metrics)?,
            Some(Outcome::Several(..)) => of_several(&outcomes, &mut metrics)?,
            Some(Outcome::Numbers(..)) => of_numbers(&outcomes, &mut metrics)?,
            Some(Outcome::Words(..)) => of_words(&outcomes, &model.config().labels()?, &mut metrics)?,
            Some(Outcome::Answer(_)) => of_answers(outcomes, &mut metrics)?,
            Some(Outcome::Tokens(..)) => {
                let [mut right, mut all] = [0, 0];
                for outcome in &outcomes {
                    if let Outcome::Tokens(of_right, of_all) = outcome {
                        (right, all) = (right + of_right, all + of_all);
                    }
                }
                metrics.push(("perplexity".to_owned(), perplexity(loss)));
                metrics.push(("accuracy".to_owned(), right as f64 / (all as f64).max(1.0)));
            }
            Some(Outcome::Nearest(_)) => {
                let right = outcomes.iter().filter(|outcome| **outcome == Outcome::Nearest(true)).count();
                metrics.push(("accuracy".to_owned(), right as f64 / outcomes.len() as f64));
            }
            Some(Outcome::Alike(..)) => {
                let pairs = outcomes.iter().filter_map(|outcome| match outcome {
                    Outcome::Alike(said, right) => Some((f64::from(*said), f64::from(*right))),
                    _ => None,
                });
                let (said, right): (Vec<f64>, Vec<f64>) = pairs.unzip();
                metrics.push(("pearson_cosine".to_owned(), pearson(&said, &right)?));
                metrics.push(("spearman_cosine".to_owned(), spearman(&said, &right)?));
            }
        }
        Ok((metrics.into_iter().map(|(name, value)| (format!("eval_{name}"), value)).collect(), examples))
    }
}

type Named = Vec<(String, f64)>;

fn put(metrics: &mut Named, values: &[(&str, f64)]) {
    metrics.extend(values.iter().map(|(name, value)| ((*name).to_owned(), *value)));
}

fn of_classes(outcomes: &[Outcome], classes: usize, metrics: &mut Named) -> Result<()> {
    let pairs = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Class(said, right) => Some((*said, *right)),
        _ => None,
    });
    let (said, right): (Vec<usize>, Vec<usize>) = pairs.unzip();
    let average = if classes == 2 { Average::Binary } else { Average::Macro };
    let scores = precision_recall_f1(&said, &right, average)?;
    put(
        metrics,
        &[
            ("accuracy", accuracy(&said, &right)?),
            ("precision", scores.precision),
            ("recall", scores.recall),
            ("f1", scores.f1),
            ("matthews_correlation", matthews_correlation(&said, &right)?),
        ],
    );
    Ok(())
}

fn of_several(outcomes: &[Outcome], metrics: &mut Named) -> Result<()> {
    let (mut said, mut right, mut whole) = (Vec::new(), Vec::new(), 0usize);
    for outcome in outcomes {
        if let Outcome::Several(of_said, of_right) = outcome {
            whole += usize::from(of_said == of_right);
            said.extend(of_said.iter().map(|&holds| usize::from(holds)));
            right.extend(of_right.iter().map(|&holds| usize::from(holds)));
        }
    }
    let scores = precision_recall_f1(&said, &right, Average::Binary)?;
    let all = whole as f64 / outcomes.len() as f64;
    put(metrics, &[("accuracy", all), ("precision", scores.precision), ("recall", scores.recall), ("f1", scores.f1)]);
    Ok(())
}

fn of_numbers(outcomes: &[Outcome], metrics: &mut Named) -> Result<()> {
    let (mut said, mut right, mut one) = (Vec::new(), Vec::new(), true);
    for outcome in outcomes {
        if let Outcome::Numbers(of_said, of_right) = outcome {
            one &= of_right.len() == 1;
            said.extend(of_said.iter().map(|&x| f64::from(x)));
            right.extend(of_right.iter().map(|&x| f64::from(x)));
        }
    }
    let squares = said.iter().zip(&right).map(|(a, b): (&f64, &f64)| (a - b).powi(2));
    put(metrics, &[("mse", squares.sum::<f64>() / (right.len() as f64).max(1.0))]);
    if one {
        put(metrics, &[("pearson", pearson(&said, &right)?), ("spearmanr", spearman(&said, &right)?)]);
    }
    Ok(())
}

fn of_words(outcomes: &[Outcome], names: &[String], metrics: &mut Named) -> Result<()> {
    let named = |classes: &[usize]| -> Vec<&str> {
        classes.iter().map(|&class| names.get(class).map_or("O", String::as_str)).collect()
    };
    let (mut said, mut right) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        if let Outcome::Words(of_said, of_right) = outcome {
            said.push(named(of_said));
            right.push(named(of_right));
        }
    }
    if right.iter().all(Vec::is_empty) {
        return Ok(());
    }
    for (name, value) in seqeval(&said, &right, Mode::Lenient)?.metrics() {
        metrics.push((name.strip_prefix("overall_").unwrap_or(&name).to_owned(), value));
    }
    Ok(())
}

fn of_answers(outcomes: Vec<Outcome>, metrics: &mut Named) -> Result<()> {
    let windows = outcomes.into_iter().filter_map(|outcome| match outcome {
        Outcome::Answer(answer) => Some(answer),
        _ => None,
    });
    let (said, right) = of_questions(windows.collect());
    let scores = match right.iter().any(Vec::is_empty) {
        true => squad_v2(&said, &right)?.all,
        false => squad(&said, &right)?,
    };
    put(metrics, &[("exact_match", scores.exact_match), ("f1", scores.f1)]);
    Ok(())
}

/// The place of the largest number of each row.
fn best(scores: Tensor<2>) -> Vec<usize> {
    scores.argmax(1).into_data().iter::<i64>().map(|place| place as usize).collect()
}

fn numbers(scores: Tensor<2>) -> Vec<f32> {
    scores.into_data().iter::<f32>().collect()
}

/// The place of the first token of a row, behind padding on the left.
fn first_token(arguments: &TextArguments, row: usize) -> usize {
    let Some(mask) = &arguments.attention_mask else { return 0 };
    let row = mask.values.get(row * mask.seq..(row + 1) * mask.seq).unwrap_or_default();
    row.iter().position(|&seen| seen != 0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(outcomes: &[Outcome], of: impl Fn(&[Outcome], &mut Named) -> Result<()>) -> Metrics {
        let mut metrics = Vec::new();
        of(outcomes, &mut metrics).unwrap();
        metrics.into_iter().collect()
    }

    #[test]
    fn classes_are_judged_by_the_second_of_two_or_by_all() {
        let outcomes = [(0, 0), (1, 1), (1, 0), (0, 1), (1, 1)].map(|(said, right)| Outcome::Class(said, right));
        let two = metrics(&outcomes, |outcomes, metrics| of_classes(outcomes, 2, metrics));
        assert_eq!((two["accuracy"], two["precision"], two["recall"]), (0.6, 2.0 / 3.0, 2.0 / 3.0));
        let all = metrics(&outcomes, |outcomes, metrics| of_classes(outcomes, 3, metrics));
        assert!((all["f1"] - (0.5 + 2.0 / 3.0) / 2.0).abs() < 1e-12, "{all:?}");
    }

    #[test]
    fn several_classes_numbers_and_words() {
        let several = [([true, false], [true, true]), ([false, false], [false, false])];
        let several = several.map(|(said, right)| Outcome::Several(said.to_vec(), right.to_vec()));
        let found = metrics(&several, of_several);
        assert_eq!((found["accuracy"], found["precision"], found["recall"]), (0.5, 1.0, 0.5));
        let numbers = [(1.0, 2.0), (2.0, 2.5), (4.0, 4.0)];
        let numbers = numbers.map(|(said, right)| Outcome::Numbers(vec![said], vec![right]));
        let found = metrics(&numbers, of_numbers);
        assert!((found["mse"] - 1.25 / 3.0).abs() < 1e-12 && (found["spearmanr"] - 1.0).abs() < 1e-12, "{found:?}");
        let names = ["O", "B-PER", "I-PER"].map(str::to_owned);
        let words = [Outcome::Words(vec![1, 2, 0], vec![1, 2, 0]), Outcome::Words(vec![0], vec![1])];
        let found = metrics(&words, |outcomes, metrics| of_words(outcomes, &names, metrics));
        assert_eq!((found["precision"], found["recall"], found["accuracy"]), (1.0, 0.5, 0.75));
        assert!(found.contains_key("PER_f1"), "{found:?}");
    }

    #[test]
    fn padding_on_the_left_is_skipped() {
        let mask = tx_core::task::IntRows { batch: 2, seq: 3, values: vec![0, 1, 1, 1, 1, 1] };
        let arguments = TextArguments { attention_mask: Some(mask), ..TextArguments::default() };
        assert_eq!((first_token(&arguments, 0), first_token(&arguments, 1)), (1, 0));
        assert_eq!(first_token(&TextArguments::default(), 5), 0);
    }
}
