//! The tasks of `tx run`, of every modality.

use std::str::FromStr;

use tx::built_in;
use tx_audio::pipelines::AudioTask;
use tx_core::error::{Error, Result};
use tx_core::pipeline::TaskEntry;
use tx_multimodal::pipelines::MultimodalTask;
use tx_text::pipelines::TextTask;
use tx_vision::pipelines::VisionTask;

/// A task's names and a model for it.
#[derive(Debug, Clone, Copy)]
pub struct RunTask {
    /// HF's name.
    pub name: &'static str,
    /// HF's other name.
    pub alias: Option<&'static str>,
    /// A model on the Hub that does it.
    pub example: &'static str,
    /// The model that does it if none is named.
    pub built_in: Option<&'static str>,
    /// The task.
    pub kind: Kind,
}

/// A task of one modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text(TextTask),
    Vision(VisionTask),
    Audio(AudioTask),
    Multimodal(MultimodalTask),
}

/// Every task.
pub fn tasks() -> Vec<RunTask> {
    let mut tasks = of(tx_text::pipelines::TASKS, Kind::Text);
    tasks.extend(of(tx_vision::pipelines::TASKS, Kind::Vision));
    tasks.extend(of(tx_audio::pipelines::TASKS, Kind::Audio));
    tasks.extend(of(tx_multimodal::pipelines::TASKS, Kind::Multimodal));
    tasks
}

/// The tasks of one modality.
fn of<T: Copy>(tasks: &[TaskEntry<T>], kind: fn(T) -> Kind) -> Vec<RunTask> {
    let task = |&TaskEntry { task, name, alias, example }: &TaskEntry<T>| {
        let kind = kind(task);
        RunTask { name, alias, example, built_in: built_in(kind), kind }
    };
    tasks.iter().map(task).collect()
}

/// The model that ships with tx for a task.
fn built_in(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Text(TextTask::TextGeneration) => Some(built_in::STORIES),
        Kind::Vision(VisionTask::ImageClassification) => Some(built_in::DIGITS),
        _ => None,
    }
}

impl FromStr for RunTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let tasks = tasks();
        let found = tasks.iter().find(|task| task.name == name || task.alias == Some(name));
        let known = || tasks.iter().flat_map(|task| std::iter::once(task.name).chain(task.alias));
        found.copied().ok_or_else(|| Error::unknown("task", name, known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_found_by_all_names() {
        let tasks = tasks();
        for task in &tasks {
            for name in std::iter::once(task.name).chain(task.alias) {
                assert_eq!(name.parse::<RunTask>().unwrap().kind, task.kind, "{name}");
                assert_eq!(tasks.iter().filter(|task| task.name == name || task.alias == Some(name)).count(), 1);
            }
            assert!(task.example.split_once('/').is_some(), "{}", task.example);
        }
        let message = "image-clasification".parse::<RunTask>().unwrap_err().to_string();
        assert!(message.contains("did you mean `image-classification`?"), "{message}");
    }
}
