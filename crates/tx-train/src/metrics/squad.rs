//! Answers that are parts of a text: exact matches and F1 over words.
//!
//! Reference: the official scripts of SQuAD, `evaluate-v1.1.py` and `evaluate-v2.0.py`. Both compare answers without
//! case, punctuation and articles, take the best of several references, and give percentages.

use std::borrow::Cow;
use std::collections::HashMap;

use tx_core::tokenizer::is_python_space;
use tx_core::{Error, Result};

use super::{check_lengths, share};

/// Percentages over questions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AnswerScores {
    /// Answers that are one of the references.
    pub exact_match: f64,
    /// The words that answers share with their nearest reference.
    pub f1: f64,
    /// How many questions there are.
    pub total: usize,
}

/// What [`squad_v2`] gives.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SquadV2 {
    /// Over all questions.
    pub all: AnswerScores,
    /// Over those that have an answer: `HasAns`.
    pub answered: AnswerScores,
    /// Over those that have none: `NoAns`.
    pub unanswered: AnswerScores,
}

/// The sums over questions.
#[derive(Default)]
struct Sums {
    exact: f64,
    f1: f64,
    total: usize,
}

impl Sums {
    fn add(&mut self, (exact, f1): (f64, f64)) {
        self.exact += exact;
        self.f1 += f1;
        self.total += 1;
    }

    fn scores(&self) -> AnswerScores {
        let percent = |sum: f64| share(100.0 * sum, self.total as f64);
        AnswerScores { exact_match: percent(self.exact), f1: percent(self.f1), total: self.total }
    }
}

/// Compares answers as SQuAD 1.1 does, where every question has an answer.
///
/// # Errors
/// [`Error::Input`] unless there is one prediction for each question, one question at least, and an answer to each.
pub fn squad<P: AsRef<str>, R: AsRef<str>>(predictions: &[P], references: &[Vec<R>]) -> Result<AnswerScores> {
    check_lengths(predictions.len(), references.len())?;
    let mut sums = Sums::default();
    for (index, (prediction, answers)) in predictions.iter().zip(references).enumerate() {
        if answers.is_empty() {
            let found = format_args!("none for question {index}");
            return Err(Error::input("references", found, "an answer to each; SQuAD 2.0 has questions without one"));
        }
        sums.add(best(prediction.as_ref(), answers.iter().map(AsRef::as_ref), false));
    }
    Ok(sums.scores())
}

/// Compares answers as SQuAD 2.0 does, where questions without a reference have the empty answer.
///
/// # Errors
/// [`Error::Input`] unless there is one prediction for each question, and one question at least.
pub fn squad_v2<P: AsRef<str>, R: AsRef<str>>(predictions: &[P], references: &[Vec<R>]) -> Result<SquadV2> {
    check_lengths(predictions.len(), references.len())?;
    let mut parts = [Sums::default(), Sums::default(), Sums::default()];
    for (prediction, answers) in predictions.iter().zip(references) {
        // What nothing is left of is no answer.
        let mut left: Vec<&str> = answers.iter().map(AsRef::as_ref).collect();
        left.retain(|answer| !normalize_answer(answer).is_empty());
        if left.is_empty() {
            left.push("");
        }
        let scores = best(prediction.as_ref(), left.into_iter(), true);
        parts[0].add(scores);
        parts[if answers.is_empty() { 2 } else { 1 }].add(scores);
    }
    let [all, answered, unanswered] = parts.map(|sums| sums.scores());
    Ok(SquadV2 { all, answered, unanswered })
}

/// The best match and the best F1 over several references.
fn best<'a>(prediction: &str, answers: impl Iterator<Item = &'a str>, second: bool) -> (f64, f64) {
    let prediction = normalize_answer(prediction);
    answers.fold((0.0, 0.0), |(exact, f1), answer| {
        let answer = normalize_answer(answer);
        let same = if prediction == answer { 1.0 } else { 0.0 };
        (f64::max(exact, same), f64::max(f1, word_f1(&prediction, &answer, second)))
    })
}

/// F1 over the words of two normalized answers. Where one has none, 2.0 asks whether both are the same.
fn word_f1(prediction: &str, answer: &str, second: bool) -> f64 {
    if second && (prediction.is_empty() || answer.is_empty()) {
        return if prediction == answer { 1.0 } else { 0.0 };
    }
    let mut words = HashMap::<&str, usize>::new();
    let (mut predicted, mut there, mut same) = (0usize, 0usize, 0usize);
    for word in answer.split(' ').filter(|word| !word.is_empty()) {
        *words.entry(word).or_default() += 1;
        there += 1;
    }
    for word in prediction.split(' ').filter(|word| !word.is_empty()) {
        predicted += 1;
        if let Some(left) = words.get_mut(word).filter(|left| **left > 0) {
            *left -= 1;
            same += 1;
        }
    }
    let (precision, recall) = (share(same as f64, predicted as f64), share(same as f64, there as f64));
    share(2.0 * precision * recall, precision + recall)
}

/// An answer without case, ASCII punctuation and articles, and with single spaces.
pub fn normalize_answer(text: &str) -> String {
    let text: String = text.to_lowercase().chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    let text = without_articles(&text);
    let words = text.split(is_python_space).filter(|word| !word.is_empty());
    words.fold(String::with_capacity(text.len()), |mut joined, word| {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined + word
    })
}

/// Puts a space in the place of every article that is a word.
fn without_articles(text: &str) -> Cow<'_, str> {
    const ARTICLES: [&str; 3] = ["a", "an", "the"];
    if !ARTICLES.iter().any(|article| text.contains(article)) {
        return Cow::Borrowed(text);
    }
    let in_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let inside = in_word(first);
        let end = rest.find(|letter: char| in_word(letter) != inside).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        left.push_str(if inside && ARTICLES.contains(&run) { " " } else { run });
        rest = after;
    }
    Cow::Owned(left)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, same};
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        prediction: String,
        answers: Vec<String>,
        v1: Option<[f64; 2]>,
        v2: [f64; 2],
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        normalized: Vec<[String; 2]>,
        cases: Vec<Case>,
        v1: [f64; 2],
        v2: [f64; 2],
        v2_answered: [f64; 2],
        v2_unanswered: [f64; 2],
    }

    fn check(name: &str, found: AnswerScores, expected: [f64; 2]) {
        for (found, expected) in [found.exact_match, found.f1].into_iter().zip(expected) {
            assert!(same(found, expected), "{name}: {found}, expected {expected}");
        }
    }

    #[test]
    fn every_score_is_pythons() {
        let golden: Golden = golden("squad.json");
        for [text, expected] in &golden.normalized {
            assert_eq!(normalize_answer(text), *expected, "{text:?}");
        }
        let (mut predictions, mut references) = (Vec::new(), Vec::new());
        for Case { prediction, answers, v1, v2 } in golden.cases {
            let answers = vec![answers];
            match (squad(&[&prediction], &answers), v1) {
                (Ok(found), Some(v1)) => check(&prediction, found, v1.map(|share| 100.0 * share)),
                (found, v1) => assert!(found.is_err() && v1.is_none(), "{prediction}"),
            }
            check(&prediction, squad_v2(&[&prediction], &answers).unwrap().all, v2.map(|share| 100.0 * share));
            predictions.push(prediction);
            references.extend(answers);
        }
        let found = squad_v2(&predictions, &references).unwrap();
        check("v2", found.all, golden.v2);
        check("v2 answered", found.answered, golden.v2_answered);
        check("v2 unanswered", found.unanswered, golden.v2_unanswered);
        assert_eq!((found.all.total, found.answered.total + found.unanswered.total), (9, 9));
        let answered = predictions.iter().zip(&references).filter(|(_, answers)| !answers.is_empty());
        let (predictions, references): (Vec<_>, Vec<_>) = answered.map(|(p, r)| (p, r.clone())).unzip();
        check("v1", squad(&predictions, &references).unwrap(), golden.v1);
    }

    #[test]
    fn questions_and_answers_are_counted() {
        assert!(squad(&["a", "b"], &[vec!["a"]]).is_err());
        let none: [Vec<&str>; 1] = [vec![]];
        assert!(squad(&["a"], &none).unwrap_err().to_string().contains("question 0"));
        assert!(squad_v2::<&str, &str>(&[], &[]).is_err());
    }
}
