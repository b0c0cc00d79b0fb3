//! Entities of tag sequences: precision, recall and F1 over whole entities.
//!
//! Reference: seqeval 1.2.2. [`Mode::Lenient`] is what the package and HF's examples do unless told otherwise; it reads
//! any tags as conlleval.pl does. [`Mode::Strict`] is `mode="strict"` with the scheme IOB2.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once;

use tx_core::{Error, Result};

use super::classification::Scores;
use super::{check_lengths, share};
use crate::arguments::setting::choices;

choices! {
    /// Which tags make an entity.
    Mode {
        /// Also one that begins with `I-`, or changes its type on the way.
        Lenient = "lenient",
        /// `B-` and the `I-` of the same type that follow it, and nothing else.
        Strict = "strict",
    }
}

/// The scores of one type of entity, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EntityScores {
    /// Precision, recall and F1.
    pub scores: Scores,
    /// How many entities there are.
    pub number: usize,
}

/// What [`seqeval`] gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The scores of every type that occurs or was predicted, by name.
    pub entities: BTreeMap<String, EntityScores>,
    /// Over all entities.
    pub overall: EntityScores,
    /// The share of tags that are right.
    pub accuracy: f64,
}

impl Report {
    /// The numbers by HF's names: `overall_f1`, `PER_precision` and so on.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::from([("overall_accuracy".to_owned(), self.accuracy)]);
        let named = self.entities.iter().map(|(name, scores)| (name.as_str(), scores));
        for (name, EntityScores { scores, number }) in named.chain(once(("overall", &self.overall))) {
            metrics.insert(format!("{name}_precision"), scores.precision);
            metrics.insert(format!("{name}_recall"), scores.recall);
            metrics.insert(format!("{name}_f1"), scores.f1);
            if name != "overall" {
                metrics.insert(format!("{name}_number"), *number as f64);
            }
        }
        metrics
    }
}

/// An entity: its sentence, and its first and last tag. Its type is what it is filed under.
type Span = (usize, usize, usize);
/// The entities of all sentences by type.
type Entities<'a> = BTreeMap<&'a str, BTreeSet<Span>>;

/// Compares the tags of sentences, such as `B-PER`, `I-PER` and `O`.
///
/// # Errors
/// [`Error::Input`] unless predictions and references have the same sentences of the same lengths, with one tag at
/// least; for an empty tag; and in [`Mode::Strict`] for one that begins with none of `B`, `I` and `O`.
pub fn seqeval<P: AsRef<str>, R: AsRef<str>>(
    predictions: &[Vec<P>],
    references: &[Vec<R>],
    mode: Mode,
) -> Result<Report> {
    check_lengths(predictions.len(), references.len())?;
    let (mut tags, mut right) = (0usize, 0usize);
    for (index, (prediction, reference)) in predictions.iter().zip(references).enumerate() {
        if prediction.len() != reference.len() {
            let found = format_args!("{} tags in sentence {index}", prediction.len());
            return Err(Error::input("predictions", found, format_args!("{}", reference.len())));
        }
        tags += reference.len();
        right += prediction.iter().zip(reference).filter(|(p, r)| p.as_ref() == r.as_ref()).count();
    }
    if tags == 0 {
        return Err(Error::input("references", "no tags", "one at least"));
    }
    let predicted = entities("predictions", predictions, mode)?;
    let there = entities("references", references, mode)?;
    let mut report = Report { accuracy: right as f64 / tags as f64, ..Report::default() };
    let (none, mut all) = (BTreeSet::new(), [0usize; 3]);
    for name in predicted.keys().chain(there.keys()).collect::<BTreeSet<_>>() {
        let (predicted, there) = (predicted.get(name).unwrap_or(&none), there.get(name).unwrap_or(&none));
        let counts = [predicted.len(), there.len(), predicted.intersection(there).count()];
        report.entities.insert((*name).to_owned(), scores(counts));
        all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    report.overall = scores(all);
    Ok(report)
}

/// The scores of so many predicted, existing and right entities.
fn scores([predicted, there, right]: [usize; 3]) -> EntityScores {
    let (precision, recall) = (share(right as f64, predicted as f64), share(right as f64, there as f64));
    let f1 = share(2.0 * precision * recall, precision + recall);
    EntityScores { scores: Scores { precision, recall, f1 }, number: there }
}

fn entities<'a, T: AsRef<str>>(what: &str, sentences: &'a [Vec<T>], mode: Mode) -> Result<Entities<'a>> {
    for (index, tag) in sentences.iter().enumerate().flat_map(|(i, sentence)| sentence.iter().map(move |tag| (i, tag)))
    {
        let allowed = match mode {
            Mode::Lenient => !tag.as_ref().is_empty(),
            Mode::Strict => tag.as_ref().starts_with(['B', 'I', 'O']),
        };
        if !allowed {
            let tag: String = tag.as_ref().chars().take(60).collect();
            let found = format!("the tag `{}` in sentence {index}", tag.escape_debug());
            let expected = if mode == Mode::Strict { "B-…, I-… or O" } else { "one that is not empty" };
            return Err(Error::input(what, found, expected));
        }
    }
    Ok(match mode {
        Mode::Lenient => lenient(sentences),
        Mode::Strict => strict(sentences),
    })
}

/// The entities that IOB2 allows.
fn strict<T: AsRef<str>>(sentences: &[Vec<T>]) -> Entities<'_> {
    let mut entities = Entities::new();
    for (index, sentence) in sentences.iter().enumerate() {
        let mut start = 0;
        while let Some(first) = sentence.get(start) {
            let kind = strict_type(first.as_ref());
            let begins = first.as_ref().starts_with('B');
            let continues = |tag: &&T| tag.as_ref().starts_with('I') && strict_type(tag.as_ref()) == kind;
            let rest = if begins { sentence[start + 1..].iter().take_while(continues).count() } else { 0 };
            if begins {
                entities.entry(kind).or_default().insert((index, start, start + rest));
            }
            start += 1 + rest;
        }
    }
    entities
}

/// The type of a tag: what is between dashes, and `_` where there is nothing.
fn strict_type(tag: &str) -> &str {
    let rest = tag.get(1..).unwrap_or_default().trim_matches('-');
    if rest.is_empty() { "_" } else { rest }
}

/// The entities that conlleval.pl sees.
fn lenient<T: AsRef<str>>(sentences: &[Vec<T>]) -> Entities<'_> {
    let mut entities = Entities::new();
    // One list of tags with an `O` after each sentence, as in the package, which goes through it so.
    let tags = sentences.iter().flat_map(|sentence| sentence.iter().map(AsRef::as_ref).chain(once("O")));
    let (mut before, mut type_before, mut start) = ('O', "", 0);
    for (place, tag) in tags.chain(once("O")).enumerate() {
        let (prefix, kind) = lenient_tag(tag);
        if ends(before, prefix, type_before, kind) {
            entities.entry(type_before).or_default().insert((0, start, place - 1));
        }
        if begins(before, prefix, type_before, kind) {
            start = place;
        }
        (before, type_before) = (prefix, kind);
    }
    entities
}

/// The first character of a tag, and its type: what follows the first dash after that.
fn lenient_tag(tag: &str) -> (char, &str) {
    let mut rest = tag.chars();
    let prefix = rest.next().unwrap_or('O');
    let rest = rest.as_str();
    let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
    (prefix, if kind.is_empty() { "_" } else { kind })
}

/// Whether an entity ends before this tag.
fn ends(before: char, prefix: char, type_before: &str, kind: &str) -> bool {
    matches!((before, prefix), ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O'))
        || !matches!(before, 'O' | '.') && type_before != kind
}

/// Whether an entity begins with this tag.
fn begins(before: char, prefix: char, type_before: &str, kind: &str) -> bool {
    matches!((before, prefix), (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I'))
        || !matches!(prefix, 'O' | '.') && type_before != kind
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, same};
    use super::*;

    #[derive(serde::Deserialize)]
    struct Expected {
        entities: BTreeMap<String, [f64; 4]>,
        overall: [f64; 4],
        accuracy: f64,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        references: Vec<Vec<String>>,
        predictions: Vec<Vec<String>>,
        lenient: Expected,
        strict: Option<Expected>,
    }

    fn check(name: &str, found: &EntityScores, expected: &[f64; 4]) {
        let Scores { precision, recall, f1 } = found.scores;
        for (found, expected) in [precision, recall, f1, found.number as f64].into_iter().zip(expected) {
            assert!(same(found, *expected), "{name}: {found}, expected {expected}");
        }
    }

    #[test]
    fn every_score_is_pythons() {
        for case in golden::<Vec<Case>>("seqeval.json") {
            for (mode, expected) in [(Mode::Lenient, Some(&case.lenient)), (Mode::Strict, case.strict.as_ref())] {
                let found = seqeval(&case.predictions, &case.references, mode);
                let Some(expected) = expected else {
                    assert!(found.is_err(), "{} {mode}", case.name);
                    continue;
                };
                let (found, name) = (found.unwrap(), format!("{} {mode}", case.name));
                let names: Vec<_> = found.entities.keys().collect();
                assert_eq!(names, expected.entities.keys().collect::<Vec<_>>(), "{name}");
                for (kind, expected) in &expected.entities {
                    check(&format!("{name} {kind}"), &found.entities[kind], expected);
                }
                check(&name, &found.overall, &expected.overall);
                assert!(same(found.accuracy, expected.accuracy), "{name}");
            }
        }
    }

    #[test]
    fn metrics_have_hfs_names() {
        let tags = [vec!["B-PER", "I-PER", "O"]];
        let metrics = seqeval(&tags, &tags, Mode::Strict).unwrap().metrics();
        let names: Vec<_> = metrics.keys().map(String::as_str).collect();
        let expected = ["PER_f1", "PER_number", "PER_precision", "PER_recall", "overall_accuracy", "overall_f1"];
        assert_eq!(names[..6], expected);
        assert_eq!((metrics["PER_number"], metrics["overall_recall"]), (1.0, 1.0));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let message = |predictions: &[Vec<&str>], references: &[Vec<&str>], mode| {
            seqeval(predictions, references, mode).unwrap_err().to_string()
        };
        assert!(message(&[vec!["O"]], &[], Mode::Lenient).contains("one for each of 0"));
        assert!(message(&[vec!["O"]], &[vec!["O", "O"]], Mode::Lenient).contains("1 tags in sentence 0, expected 2"));
        assert!(message(&[vec![]], &[vec![]], Mode::Lenient).contains("no tags"));
        assert!(message(&[vec![""]], &[vec!["O"]], Mode::Lenient).contains("not empty"));
        assert!(message(&[vec!["O"]], &[vec!["X\n"]], Mode::Strict).contains(r"the tag `X\n` in sentence 0"));
    }
}
