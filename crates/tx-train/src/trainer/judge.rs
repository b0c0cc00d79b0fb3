//! The metrics of an evaluation.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use tx_core::error::{Error, Result};
use tx_generate::argmax;

use super::model::{Forward, TrainingModel};
use crate::checkpoint::Metrics;
use crate::collate::{Batch, BatchLabels};
use crate::data::IGNORED;
use crate::distributed::{Communicator, gather_rows};
use crate::metrics::classification::{Average, accuracy, precision_recall_f1};
use crate::metrics::correlation::{pearson, spearman};
use crate::metrics::perplexity;
use crate::metrics::seqeval::{Mode, seqeval};

/// Collects what the batches of an evaluation give.
#[derive(Debug)]
pub struct Judge {
    kind: Kind,
    sum: f64,
    items: f64,
    rows: usize,
    predictions: Vec<usize>,
    references: Vec<usize>,
    /// The tags of each row that have a label.
    tags: Vec<[Vec<usize>; 2]>,
    numbers: [Vec<f64>; 2],
}

#[derive(Debug)]
enum Kind {
    /// One class for each row.
    Classes,
    /// One for each token, by these names.
    Tags(Vec<String>),
    /// Tokens of a vocabulary.
    Tokens,
    /// By the loss alone.
    Loss,
}

impl Judge {
    pub fn new(model: &TrainingModel) -> Result<Self> {
        let kind = match model {
            TrainingModel::SequenceClassification(_) | TrainingModel::ImageClassification(..) => Kind::Classes,
            TrainingModel::TokenClassification(_) => Kind::Tags(model.config().labels()?),
            TrainingModel::MaskedLm(_) | TrainingModel::CausalLm(_) => Kind::Tokens,
            TrainingModel::QuestionAnswering(_) | TrainingModel::SentenceEmbedding(_) => Kind::Loss,
        };
        Ok(Self {
            kind,
            sum: 0.0,
            items: 0.0,
            rows: 0,
            predictions: Vec::new(),
            references: Vec::new(),
            tags: Vec::new(),
            numbers: [Vec::new(), Vec::new()],
        })
    }

    /// How many rows there were.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn add(&mut self, model: &TrainingModel, batch: &Batch, forward: Forward) -> Result<()> {
        self.rows += batch.len();
        self.sum += f64::from(forward.loss.sum.into_scalar::<f32>());
        self.items += forward.loss.items as f64;
        let Some(scores) = forward.scores.filter(|_| !matches!(self.kind, Kind::Tokens | Kind::Loss)) else {
            return Ok(());
        };
        let [_, count] = scores.dims();
        if let BatchLabels::Values { columns, values: right } = &batch.labels {
            // The correlation of several numbers for each row is that of the first.
            self.numbers[0].extend(values(scores)?.iter().step_by(count).map(|&score| f64::from(score)));
            self.numbers[1].extend(right.iter().step_by(*columns).map(|&value| f64::from(value)));
            return Ok(());
        }
        let classes = model.classes(batch);
        let best: Vec<usize> = values(scores)?.chunks_exact(count).map(|row| argmax(row) as usize).collect();
        let counted = |classes: &[i64], best: &[usize]| -> [Vec<usize>; 2] {
            let pairs = classes.iter().zip(best).filter(|(class, _)| **class != IGNORED);
            let (right, said) = pairs.map(|(class, best)| (*class as usize, *best)).unzip();
            [said, right]
        };
        match (&self.kind, &batch.labels) {
            (Kind::Tags(_), BatchLabels::Tokens(labels)) => {
                let seq = labels.seq.max(1);
                self.tags.extend(classes.chunks(seq).zip(best.chunks(seq)).map(|(c, b)| counted(c, b)));
            }
            _ => {
                let [said, right] = counted(&classes, &best);
                self.predictions.extend(said);
                self.references.extend(right);
            }
        }
        Ok(())
    }

    /// The metrics over the rows of all ranks: the same on each of them.
    pub fn metrics(mut self, ranks: &dyn Communicator) -> Result<Metrics> {
        let mut sums = [self.sum, self.items];
        ranks.sum(&mut sums)?;
        let loss = sums[0] / sums[1];
        self.tags = gather_rows(ranks, self.tags)?;
        let classes = self.predictions.into_iter().zip(self.references).collect();
        (self.predictions, self.references) = gather_rows::<(usize, usize)>(ranks, classes)?.into_iter().unzip();
        let [said, right] = self.numbers;
        let numbers = gather_rows::<(f64, f64)>(ranks, said.into_iter().zip(right).collect())?;
        let (said, right) = numbers.into_iter().unzip();
        self.numbers = [said, right];
        let mut metrics = BTreeMap::from([("eval_loss".to_owned(), loss)]);
        let mut put = |name: &str, value: f64| metrics.insert(format!("eval_{name}"), value);
        match &self.kind {
            Kind::Loss => {}
            Kind::Tokens => {
                put("perplexity", perplexity(loss));
            }
            Kind::Tags(names) => {
                let tags = |which: usize| -> Vec<Vec<&str>> {
                    self.tags.iter().map(|row| row[which].iter().map(|&tag| names[tag].as_str()).collect()).collect()
                };
                for (name, value) in seqeval(&tags(0), &tags(1), Mode::Lenient)?.metrics() {
                    put(&name, value);
                }
            }
            Kind::Classes if !self.numbers[0].is_empty() => {
                put("pearson", pearson(&self.numbers[0], &self.numbers[1])?);
                put("spearmanr", spearman(&self.numbers[0], &self.numbers[1])?);
            }
            Kind::Classes if self.predictions.is_empty() => {}
            Kind::Classes => {
                put("accuracy", accuracy(&self.predictions, &self.references)?);
                put("f1", precision_recall_f1(&self.predictions, &self.references, Average::Macro)?.f1);
            }
        }
        Ok(metrics)
    }
}

fn values(scores: Tensor<2>) -> Result<Vec<f32>> {
    scores.without_autodiff().try_into_vec_as::<f32>().map_err(|e| Error::input("scores", e, "numbers in f32"))
}
