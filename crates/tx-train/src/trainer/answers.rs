//! The best answer to a question from the scores of the windows of its text.
//!
//! Reference: transformers, `examples/pytorch/question-answering/utils_qa.py`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::Reference;

/// How many of the best first and last tokens are looked at: `n_best_size`.
const N_BEST: usize = 20;
/// The most tokens of an answer: `max_answer_length`.
const MAX_ANSWER: usize = 30;

/// The best answer of one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The question.
    id: String,
    /// The best answer and its score, if the window has any.
    best: Option<(f32, String)>,
    /// The score of "no answer".
    none: f32,
    /// The answers that are right.
    answers: Vec<String>,
}

impl Answer {
    /// The best answer of a window. The scores are those of its tokens, without padding.
    pub fn new(reference: &Reference, starts: &[f32], ends: &[f32]) -> Self {
        let inside = |token: &usize| reference.offsets.get(*token).is_some_and(Option::is_some);
        let mut best: Option<(f32, usize, usize)> = None;
        for &start in best_of(starts).iter().filter(|token| inside(token)) {
            for &end in best_of(ends).iter().filter(|token| inside(token)) {
                let score = starts[start] + ends[end];
                if (start..start + MAX_ANSWER).contains(&end) && best.is_none_or(|(other, ..)| score > other) {
                    best = Some((score, start, end));
                }
            }
        }
        let text = |start: usize, end: usize| -> Option<String> {
            let (from, to) = (reference.offsets[start]?.0, reference.offsets[end]?.1);
            Some(reference.context.chars().skip(from).take(to.saturating_sub(from)).collect())
        };
        Self {
            id: reference.id.clone(),
            best: best.and_then(|(score, start, end)| Some((score, text(start, end)?))),
            none: starts.first().copied().unwrap_or(0.0) + ends.first().copied().unwrap_or(0.0),
            answers: reference.answers.clone(),
        }
    }
}

/// The places of the largest numbers, the largest first.
fn best_of(scores: &[f32]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    places.truncate(N_BEST);
    places
}

/// The answer to every question, and those that are right. Where some questions have none, "no answer" is an answer.
pub(super) fn of_questions(windows: Vec<Answer>) -> (Vec<String>, Vec<Vec<String>>) {
    let impossible = windows.iter().any(|window| window.answers.is_empty());
    let mut questions: BTreeMap<String, Answer> = BTreeMap::new();
    for window in windows {
        match questions.get_mut(&window.id) {
            None => drop(questions.insert(window.id.clone(), window)),
            Some(question) => {
                question.none = question.none.min(window.none);
                let better = |(score, _): &(f32, String)| question.best.as_ref().is_none_or(|(best, _)| score > best);
                if let Some(best) = window.best.filter(better) {
                    question.best = Some(best);
                }
            }
        }
    }
    let answers = questions.into_values().map(|Answer { best, none, answers, .. }| {
        let said = match best {
            Some((score, text)) if !impossible || score >= none => text,
            _ => String::new(),
        };
        (said, answers)
    });
    answers.unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(id: &str, answers: &[&str]) -> Reference {
        Reference {
            id: id.into(),
            context: "Ünder the bed".into(),
            answers: answers.iter().map(|&answer| answer.to_owned()).collect(),
            offsets: vec![None, Some((0, 5)), Some((6, 9)), Some((10, 13)), None],
        }
    }

    #[test]
    fn the_best_answer_lies_in_the_text_and_ends_after_its_start() {
        let window = Answer::new(&reference("a", &["Ünder"]), &[9.0, 1.0, 0.0, 2.0, 9.0], &[9.0, 0.5, 0.0, 0.2, 9.0]);
        assert_eq!((window.best.as_ref().unwrap().1.as_str(), window.none), ("bed", 18.0));
        let (said, right) = of_questions(vec![window]);
        assert_eq!((said, right), (vec!["bed".to_owned()], vec![vec!["Ünder".to_owned()]]));
    }

    #[test]
    fn windows_of_one_question_agree_and_it_may_have_no_answer() {
        let window = |id: &str, answers: &[&str], none: f32, score: f32| {
            Answer::new(&reference(id, answers), &[none, score, 0.0, 0.0, 0.0], &[0.0, score, 0.0, 0.0, 0.0])
        };
        let low = window("a", &["x"], 3.0, 1.0);
        let high = window("a", &["x"], 5.0, 2.0);
        assert_eq!(of_questions(vec![low.clone(), high.clone()]).0, ["Ünder"]);
        // The other question has no answer, so that the first is compared with none, which scores 3.
        let other = window("b", &[], 9.0, 1.0);
        assert_eq!(of_questions(vec![low.clone(), high, other.clone()]).0, ["Ünder", ""]);
        assert_eq!(of_questions(vec![low, other]).0, ["", ""]);
    }
}
