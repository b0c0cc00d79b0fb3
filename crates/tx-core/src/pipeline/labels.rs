//! What the pipelines of several modalities give and take: labels, their scores, and names of tasks.

use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, Result};

/// A label with its score, as the pipelines of texts and of pictures give it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    /// The label.
    pub label: String,
    /// Its score.
    pub score: f32,
}

/// The same as the pipelines of sounds and those of labels of the user's choice give it: Python writes its keys in this
/// order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredLabel {
    /// Its score.
    pub score: f32,
    /// The label.
    pub label: String,
}

/// What turns logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionToApply {
    /// Each label by itself.
    Sigmoid,
    /// The labels exclude each other.
    Softmax,
    /// The logits as they are.
    None,
}

impl FromStr for FunctionToApply {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "sigmoid" => Ok(Self::Sigmoid),
            "softmax" => Ok(Self::Softmax),
            "none" => Ok(Self::None),
            _ => {
                let shown: String = name.chars().take(40).collect();
                let found = format_args!("`{}`", shown.escape_debug());
                Err(Error::input("function_to_apply", found, "sigmoid, softmax or none"))
            }
        }
    }
}

impl FunctionToApply {
    /// The scores of labels.
    pub fn scores(self, logits: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Sigmoid => logits.into_iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Self::Softmax => softmax(&logits),
            Self::None => logits,
        }
    }
}

/// `eˣ / Σ eˣ`, with the largest element taken off first.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum = exp.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
    exp.into_iter().map(|x| x / sum).collect()
}

/// A task's names and a model for it.
#[derive(Debug, Clone, Copy)]
pub struct TaskEntry<T> {
    /// The task.
    pub task: T,
    /// HF's name.
    pub name: &'static str,
    /// HF's other name.
    pub alias: Option<&'static str>,
    /// A model on the Hub that does it.
    pub example: &'static str,
}

impl<T: Copy> TaskEntry<T> {
    /// A task with one name.
    pub const fn new(task: T, name: &'static str, example: &'static str) -> Self {
        Self { task, name, alias: None, example }
    }

    /// The same with another name.
    pub const fn with_alias(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }

    /// The task of a table that has this name.
    ///
    /// # Errors
    /// [`Error::Unknown`], with the closest name.
    pub fn find(tasks: &[Self], name: &str) -> Result<T> {
        let found = tasks.iter().find(|entry| entry.name == name || entry.alias == Some(name));
        let known = || tasks.iter().flat_map(|entry| std::iter::once(entry.name).chain(entry.alias));
        found.map(|entry| entry.task).ok_or_else(|| Error::unknown("task", name, known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_name() {
        assert_eq!("softmax".parse::<FunctionToApply>().unwrap(), FunctionToApply::Softmax);
        let message = "tanh".parse::<FunctionToApply>().unwrap_err().to_string();
        assert_eq!(message, "function_to_apply: `tanh`, expected sigmoid, softmax or none");
    }

    #[test]
    fn scores_are_stable() {
        let scores = FunctionToApply::Softmax.scores(vec![1000.0, 1001.0, f32::NEG_INFINITY]);
        assert!((scores[0] - 0.268_941_43).abs() < 1e-6 && (scores[1] - 0.731_058_6).abs() < 1e-6 && scores[2] == 0.0);
        assert_eq!(softmax(&[-3.0]), [1.0]);
        assert_eq!(FunctionToApply::Sigmoid.scores(vec![0.0, -200.0]), [0.5, 0.0]);
        assert_eq!(FunctionToApply::None.scores(vec![3.0]), [3.0]);
    }

    #[test]
    fn labels_serialize_as_in_python() {
        let json = serde_json::to_string(&Label { label: "macaw".into(), score: 0.5 }).unwrap();
        assert_eq!(json, r#"{"label":"macaw","score":0.5}"#);
        let json = serde_json::to_string(&ScoredLabel { score: 0.5, label: "bark".into() }).unwrap();
        assert_eq!(json, r#"{"score":0.5,"label":"bark"}"#);
    }

    #[test]
    fn tasks_are_found_by_all_names() {
        let tasks =
            [TaskEntry::new(1, "fill-mask", "a/b"), TaskEntry::new(2, "token-classification", "a/b").with_alias("ner")];
        for (name, task) in [("fill-mask", 1), ("token-classification", 2), ("ner", 2)] {
            assert_eq!(TaskEntry::find(&tasks, name).unwrap(), task);
        }
        let message = TaskEntry::find(&tasks, "fill-mast").unwrap_err().to_string();
        assert!(message.contains("did you mean `fill-mask`?"), "{message}");
    }
}
