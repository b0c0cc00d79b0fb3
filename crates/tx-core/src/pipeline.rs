//! What all pipelines share: inputs, batching, order and progress.
//!
//! A pipeline makes *units* of an input, each one row of a forward pass: a tokenised text, a window of a long text, a
//! text with one of several hypotheses, a chunk of audio. Units of like length share forward passes, whichever inputs
//! they are of, so that little is padded; the results come back in the order of the inputs.

mod labels;

use std::cmp::Reverse;
use std::collections::VecDeque;

use serde::Serialize;

pub use labels::{FunctionToApply, Label, ScoredLabel, TaskEntry, softmax};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// A task from raw input to finished result: HF's `Pipeline`.
pub trait Pipeline: Sized {
    /// What the user gives.
    type Input;
    /// One row of a forward pass.
    type Unit;
    /// What the model says about one unit, in the memory of the host.
    type Scores;
    /// What the user gets; it serializes to HF's JSON.
    type Output: Serialize;

    /// The units of an input.
    ///
    /// # Errors
    /// [`Error::Input`] for an input that the model cannot take.
    fn preprocess(&self, input: &Self::Input) -> Result<Vec<Self::Unit>>;

    /// How long a unit is: units of like length share a forward pass.
    fn length(&self, unit: &Self::Unit) -> usize;

    /// One forward pass: the scores of each unit, without any padding.
    ///
    /// # Errors
    /// [`Error::Input`] if a unit does not fit the model; [`Error::Device`] if the device fails.
    fn forward(&self, units: &[&Self::Unit]) -> Result<Vec<Self::Scores>>;

    /// The result for an input, from the scores of its units in their order.
    ///
    /// # Errors
    /// [`Error::Input`] and [`Error::Tokenizer`] if no result can be made of the scores.
    fn postprocess(&self, input: &Self::Input, units: Vec<(Self::Unit, Self::Scores)>) -> Result<Self::Output>;

    /// The result for one input.
    ///
    /// # Errors
    /// Those of the three steps.
    fn call(&self, input: impl Into<Self::Input>) -> Result<Self::Output> {
        let input = input.into();
        let units = self.preprocess(&input)?;
        let lengths: Vec<usize> = units.iter().map(|unit| self.length(unit)).collect();
        let mut scores: Vec<Option<Self::Scores>> = units.iter().map(|_| None).collect();
        for pass in passes(&lengths, None) {
            let rows: Vec<&Self::Unit> = pass.iter().map(|&i| &units[i]).collect();
            pass.iter().zip(self.forward(&rows)?).for_each(|(&i, result)| scores[i] = Some(result));
        }
        let scored = units.into_iter().zip(scores).filter_map(|(unit, scores)| Some((unit, scores?)));
        self.postprocess(&input, scored.collect())
    }

    /// The results for many inputs, in their order.
    ///
    /// # Errors
    /// The first error, which names the number of the input.
    fn call_all<I>(&self, inputs: I, batching: &Batching) -> Result<Vec<Self::Output>>
    where
        I: IntoIterator,
        I::Item: Into<Self::Input>,
    {
        self.call_iter(inputs, batching).collect()
    }

    /// The results for inputs that are read as they are needed; only a bounded number is held at a time.
    ///
    /// An input that fails yields its error, which names its number, and the others go on.
    fn call_iter<I>(&self, inputs: I, batching: &Batching) -> Outputs<'_, Self, I::IntoIter>
    where
        I: IntoIterator,
        I::Item: Into<Self::Input>,
    {
        let inputs = inputs.into_iter();
        let total = inputs.size_hint().0 as u64;
        Outputs {
            pipeline: self,
            progress: Progress::items("inputs", total, batching.progress && total > 1),
            batch_size: batching.batch_size,
            read: 0,
            ready: VecDeque::new(),
            inputs,
        }
    }
}

/// How inputs share forward passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Batching {
    /// How many units share a forward pass: HF's `batch_size`. If `None`, as many as make [`MAX_TOKENS`] tokens with
    /// their padding, or fewer where another pass costs less than the padding.
    pub batch_size: Option<usize>,
    /// Whether to show a bar on a terminal.
    pub progress: bool,
}

/// The most tokens, with padding, that share a forward pass if the batch size is left open; one unit may have more. A
/// quarter of it keeps a processor busy, and more takes only memory.
pub const MAX_TOKENS: usize = 2048;
/// What a forward pass costs beside its tokens, in tokens: reading all weights and waking all threads.
const PASS: usize = 64;
/// How many forward passes are read ahead, to find units of like length among them.
const WINDOW: usize = 16;

/// Which units, by their numbers, share forward passes, from the longest units to the shortest.
///
/// With a batch size, as many in each; without one, the division that costs least: a pass costs its tokens, with
/// padding, and [`PASS`].
fn passes(lengths: &[usize], batch_size: Option<usize>) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| Reverse(lengths[i]));
    if let Some(batch_size) = batch_size {
        return order.chunks(batch_size.max(1)).map(<[usize]>::to_vec).collect();
    }
    // The first unit of a pass is its longest, so that all of its rows have that length.
    let tokens = |first: usize, end: usize| lengths[order[first]].max(1).saturating_mul(end - first);
    // For each number of units from 0 on: what they cost at least, and with which unit their last pass begins.
    let mut best = vec![(0usize, 0)];
    for end in 1..=order.len() {
        let fits = |&first: &usize| first + 1 == end || tokens(first, end) <= MAX_TOKENS;
        let costs = |first: usize| (best[first].0.saturating_add(tokens(first, end)).saturating_add(PASS), first);
        let cheapest = (0..end).rev().take_while(fits).map(costs).min();
        best.push(cheapest.unwrap_or_default());
    }
    let mut passes = Vec::new();
    let mut end = order.len();
    while end > 0 {
        let first = best[end].1;
        passes.push(order[first..end].to_vec());
        end = first;
    }
    passes.reverse();
    passes
}

/// The results of a pipeline for the inputs of an iterator: see [`Pipeline::call_iter`].
#[derive(Debug)]
pub struct Outputs<'p, P: Pipeline, I> {
    pipeline: &'p P,
    inputs: I,
    batch_size: Option<usize>,
    /// How many inputs were read so far.
    read: usize,
    ready: VecDeque<Result<P::Output>>,
    progress: Progress,
}

impl<P: Pipeline, I: Iterator<Item: Into<P::Input>>> Iterator for Outputs<'_, P, I> {
    type Item = Result<P::Output>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            self.read_window();
        }
        self.ready.pop_front()
    }
}

/// An input whose results are being made.
struct Job<P: Pipeline> {
    input: P::Input,
    /// How many units it has.
    units: usize,
    /// How many of them have no scores yet.
    pending: usize,
    error: Option<Error>,
}

impl<P: Pipeline, I: Iterator<Item: Into<P::Input>>> Outputs<'_, P, I> {
    /// Reads some inputs and makes their results.
    fn read_window(&mut self) {
        // In units, or in tokens where these decide.
        let window = match self.batch_size {
            // Without batches there is nothing to sort, and results should come at once.
            Some(0 | 1) => 1,
            Some(batch_size) => batch_size.saturating_mul(WINDOW),
            None => MAX_TOKENS * WINDOW,
        };
        let first = self.read + 1;
        let mut jobs: Vec<Job<P>> = Vec::new();
        let mut units: Vec<(usize, P::Unit)> = Vec::new();
        let mut lengths: Vec<usize> = Vec::new();
        let mut held = 0usize;
        while held < window {
            let Some(input) = self.inputs.next() else { break };
            let input = input.into();
            self.read += 1;
            let (made, error) = match self.pipeline.preprocess(&input) {
                Ok(made) => (made, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            self.progress.advance(u64::from(made.is_empty()));
            let job = jobs.len();
            jobs.push(Job { input, units: made.len(), pending: made.len(), error });
            let start = lengths.len();
            lengths.extend(made.iter().map(|unit| self.pipeline.length(unit)));
            units.extend(made.into_iter().map(|unit| (job, unit)));
            let new = &lengths[start..];
            held = held.saturating_add(match self.batch_size {
                Some(_) => new.len().max(1),
                // An input that gives none is held, too, and may be long.
                None if new.is_empty() => MAX_TOKENS / 8,
                None => new.iter().fold(1, |sum, &length| sum.saturating_add(length)),
            });
        }

        let mut scores: Vec<Option<P::Scores>> = units.iter().map(|_| None).collect();
        for pass in passes(&lengths, self.batch_size) {
            let rows: Vec<&P::Unit> = pass.iter().map(|&i| &units[i].1).collect();
            for (&i, result) in pass.iter().zip(forward_each(self.pipeline, &rows)) {
                let job = &mut jobs[units[i].0];
                match result {
                    Ok(result) => scores[i] = Some(result),
                    Err(error) => job.error = job.error.take().or(Some(error)),
                }
                job.pending -= 1;
                self.progress.advance(u64::from(job.pending == 0));
            }
        }

        let mut scored = units.into_iter().map(|(_, unit)| unit).zip(scores);
        for (number, job) in (first..).zip(jobs) {
            let mine: Vec<_> = scored.by_ref().take(job.units).collect();
            let complete: Vec<_> = mine.into_iter().filter_map(|(unit, scores)| Some((unit, scores?))).collect();
            let result = match job.error {
                Some(error) => Err(error),
                None => self.pipeline.postprocess(&job.input, complete),
            };
            self.ready.push_back(result.map_err(|error| numbered(error, number)));
        }
    }
}

/// The scores of each unit of a batch; if the batch fails, each unit is tried alone, to find those that are to blame.
fn forward_each<P: Pipeline>(pipeline: &P, units: &[&P::Unit]) -> Vec<Result<P::Scores>> {
    match pipeline.forward(units) {
        Ok(scores) => scores.into_iter().map(Ok).collect(),
        Err(error) if units.len() == 1 => vec![Err(error)],
        Err(_) => units.iter().flat_map(|&unit| forward_each(pipeline, &[unit])).collect(),
    }
}

/// The error with the number of its input, counted from 1.
fn numbered(error: Error, number: usize) -> Error {
    match error {
        Error::Input { what, found, expected } => {
            Error::Input { what: format!("input {number}: {what}"), found, expected }
        }
        Error::Tokenizer { path, reason } => Error::Tokenizer { path, reason: format!("input {number}: {reason}") },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Upper-cases the words of a text; keeps the lengths of the words of every forward pass.
    #[derive(Default)]
    struct Upper {
        batches: RefCell<Vec<Vec<usize>>>,
    }

    impl Pipeline for Upper {
        type Input = String;
        type Unit = String;
        type Scores = String;
        type Output = String;

        fn preprocess(&self, input: &String) -> Result<Vec<String>> {
            if input == "broken" {
                return Err(Error::input("text", "broken", "a whole one"));
            }
            Ok(input.split_whitespace().map(str::to_owned).collect())
        }

        fn length(&self, unit: &String) -> usize {
            unit.len()
        }

        fn forward(&self, units: &[&String]) -> Result<Vec<String>> {
            self.batches.borrow_mut().push(units.iter().map(|unit| unit.len()).collect());
            match units.iter().find(|unit| unit.as_str() == "bad") {
                Some(unit) => Err(Error::input("word", unit, "a good one")),
                None => Ok(units.iter().map(|unit| unit.to_uppercase()).collect()),
            }
        }

        fn postprocess(&self, _: &String, units: Vec<(String, String)>) -> Result<String> {
            Ok(units.into_iter().map(|(_, scores)| scores).collect::<Vec<_>>().join(" "))
        }
    }

    const TEXTS: [&str; 5] = ["one seventeen", "", "eleven", "a bc def", "two"];

    #[test]
    fn units_of_like_length_share_batches_and_results_keep_the_order() {
        let pipeline = Upper::default();
        let all = pipeline.call_all(TEXTS, &Batching { batch_size: Some(3), ..Batching::default() }).unwrap();
        assert_eq!(all, ["ONE SEVENTEEN", "", "ELEVEN", "A BC DEF", "TWO"]);
        assert_eq!(*pipeline.batches.borrow(), [vec![9, 6, 3], vec![3, 3, 2], vec![1]]);
        for batch_size in [None, Some(0), Some(1), Some(2), Some(100), Some(usize::MAX)] {
            let batching = Batching { batch_size, progress: true };
            assert_eq!(pipeline.call_all(TEXTS, &batching).unwrap(), all, "{batch_size:?}");
        }
        let single: Vec<_> = TEXTS.into_iter().map(|text| pipeline.call(text).unwrap()).collect();
        assert_eq!(single, all);
    }

    #[test]
    fn passes_cost_little() {
        let sizes = |lengths: &[usize]| -> Vec<usize> { passes(lengths, None).iter().map(Vec::len).collect() };
        assert!(sizes(&[]).is_empty());
        assert_eq!(passes(&[8, 10, 9, 10], None), [[1, 3, 2, 0]], "a little padding costs less than another pass");
        assert_eq!(sizes(&[&[512][..], &[8; 100]].concat()), [1, 100], "much padding costs more");
        assert_eq!(sizes(&[128; 40]).iter().max(), Some(&16), "as many as make `MAX_TOKENS`");
        assert_eq!(sizes(&[128; 40]).len(), 3);
        assert_eq!(sizes(&[2 * MAX_TOKENS, usize::MAX, 3]), [1, 1, 1], "one unit may have more");
        assert_eq!(sizes(&[0; MAX_TOKENS + 1]).len(), 2);
        assert_eq!(passes(&[1, 5, 3], Some(2)), [vec![1, 2], vec![0]]);
    }

    #[test]
    fn every_unit_is_in_one_pass_whose_tokens_are_bounded() {
        let lengths: Vec<usize> = (0..1000usize).map(|i| i * i * 7919 % 601).collect();
        let passes = passes(&lengths, None);
        let tokens = |pass: &Vec<usize>| pass.len() * pass.iter().map(|&i| lengths[i]).max().unwrap();
        assert!(passes.iter().all(|pass| tokens(pass) <= MAX_TOKENS));
        let padded: usize = passes.iter().map(tokens).sum();
        assert!(padded < lengths.iter().sum::<usize>() * 101 / 100, "{padded}");
        let mut all = passes.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
    }

    #[test]
    fn inputs_are_read_as_they_are_needed() {
        let read = &RefCell::new(0);
        let endless = move |text: &'static str| std::iter::repeat(text).inspect(move |_| *read.borrow_mut() += 1);
        let pipeline = Upper::default();
        let long: &'static str = "x".repeat(MAX_TOKENS / 2 - 1).leak();
        for (text, batch_size, expected) in [
            (long, None, 2 * WINDOW),
            ("", None, 8 * WINDOW),
            ("broken", None, 8 * WINDOW),
            ("a b", Some(8), 4 * WINDOW),
            ("", Some(8), 8 * WINDOW),
            ("a", Some(1), 1),
        ] {
            *read.borrow_mut() = 0;
            let batching = Batching { batch_size, ..Batching::default() };
            assert_eq!(pipeline.call_iter(endless(text), &batching).take(1).count(), 1);
            assert_eq!(*read.borrow(), expected, "{text:.9} {batch_size:?}");
        }
    }

    #[test]
    fn an_error_names_its_input_and_the_others_go_on() {
        let pipeline = Upper::default();
        let texts = ["good", "broken", "some bad words", "fine"];
        let results: Vec<_> = pipeline.call_iter(texts, &Batching::default()).collect();
        let shown: Vec<_> =
            results.into_iter().map(|result| result.unwrap_or_else(|error| error.to_string())).collect();
        let (text, word) = ("input 2: text: broken, expected a whole one", "input 3: word: bad, expected a good one");
        assert_eq!(shown, ["GOOD", text, word, "FINE"]);
        assert_eq!(pipeline.call_all(texts, &Batching::default()).unwrap_err().to_string(), text);
        assert_eq!(pipeline.call("broken").unwrap_err().to_string(), "text: broken, expected a whole one");
    }
}
