//! What can go wrong at the edge: files, configs, checkpoints, the Hub and the user's input.
//!
//! Every variant holds data, not text: which file, which key or tensor, what was found, what was expected. Messages are
//! one line, lower case, without a full stop, and end with the remedy where there is one. The core (`forward`) never
//! returns an error.

use std::fmt;
use std::path::{Path, PathBuf};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can fail outside of `forward`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A file is not what its name promises: truncated, lying about sizes, not UTF-8, not JSON.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },

    /// A folder lacks a file that is needed.
    #[error("{}: no {expected} here; {remedy}", folder.display())]
    MissingFile {
        /// The folder that was searched.
        folder: PathBuf,
        /// The file names that would have served.
        expected: String,
        /// What to do.
        remedy: String,
    },

    /// A key of a JSON configuration has the wrong type or an impossible value.
    #[error("{}: `{key}`: {reason}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The key, with dots between levels.
        key: String,
        /// What was found and what was expected.
        reason: String,
    },

    /// A key of a configuration has a legal value that this program does not implement.
    #[error("{}: `{key}` is `{value}`, which is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found.
        value: String,
        /// The values that would work.
        supported: String,
    },

    /// No table holds this architecture, task or class.
    #[error("unknown {what} `{name}`{}; see `tx models`", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    Unknown {
        /// What kind of name it is: `architecture`, `task`, `class`.
        what: &'static str,
        /// The name found.
        name: String,
        /// The closest name in the table.
        nearest: Option<String>,
    },

    /// The architecture is known but has no such head.
    #[error("`{model_type}` has no {task} head; it has: {available}")]
    NoHead {
        /// The architecture.
        model_type: String,
        /// The task asked for.
        task: &'static str,
        /// The tasks that it has.
        available: String,
    },

    /// The checkpoint does not fit the model.
    #[error("{}: the weights do not fit `{class}`: {report}", path.display())]
    Weights {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// The class that was to be filled.
        class: String,
        /// Which tensors are missing, unexpected or mis-shaped.
        report: WeightsReport,
    },

    /// A tensor cannot be read from, or written to, a file.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What was found and what was expected.
        reason: String,
    },

    /// The tokenizer's files cannot be used.
    #[error("{}: tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },

    /// A chat template cannot be used, or refuses the conversation.
    #[error("{}: chat template{}: {reason}", path.display(), line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// The line of the template, where it is known.
        line: Option<usize>,
        /// What was found and what was expected, or the template's own words.
        reason: String,
    },

    /// The user's input (text, ids, options) does not fit the model.
    #[error("{what}: {found}, expected {expected}")]
    Input {
        /// The input: `input_ids`, `text`, `--top-k`, an input's index.
        what: String,
        /// What was found.
        found: String,
        /// What would have been right, or the remedy.
        expected: String,
    },

    /// The Hub, or the way to it, refused.
    #[error("{repo}{}: {reason}; {remedy}", file.as_ref().map(|f| format!("/{f}")).unwrap_or_default())]
    Hub {
        /// The repository, `owner/name`.
        repo: String,
        /// The file in the repository.
        file: Option<String>,
        /// What happened.
        reason: String,
        /// What to do.
        remedy: String,
    },

    /// The device or dtype asked for is not there.
    #[error("device `{device}`: {reason}; available: {available}")]
    Device {
        /// The device as the user wrote it.
        device: String,
        /// What is wrong with it.
        reason: String,
        /// The devices that this program can use on this machine.
        available: String,
    },

    /// The processes that train one model cannot go on together.
    #[error("{}: {reason}; {remedy}", rank.map_or_else(|| "distributed run".to_owned(), |rank| format!("rank {rank}")))]
    Distributed {
        /// The number of the process that is at fault, where it is known.
        rank: Option<usize>,
        /// What happened.
        reason: String,
        /// What to do.
        remedy: String,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`, for use in `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Malformed`] for `path`.
    pub fn malformed(path: impl AsRef<Path>, reason: impl fmt::Display) -> Self {
        Self::Malformed { path: path.as_ref().to_path_buf(), reason: reason.to_string() }
    }

    /// An [`Error::Config`] for `key` of `path`.
    pub fn config(path: impl AsRef<Path>, key: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Config { path: path.as_ref().to_path_buf(), key: key.into(), reason: reason.to_string() }
    }

    /// An [`Error::Tokenizer`] for `path`.
    pub fn tokenizer(path: impl AsRef<Path>, reason: impl fmt::Display) -> Self {
        Self::Tokenizer { path: path.as_ref().to_path_buf(), reason: reason.to_string() }
    }

    /// An [`Error::Tensor`] for the tensor `name` of `path`.
    pub fn tensor(path: impl AsRef<Path>, name: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Tensor { path: path.as_ref().to_path_buf(), tensor: name.into(), reason: reason.to_string() }
    }

    /// An [`Error::Input`].
    pub fn input(what: impl Into<String>, found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self::Input { what: what.into(), found: found.to_string(), expected: expected.to_string() }
    }

    /// An [`Error::Distributed`].
    pub fn distributed(rank: Option<usize>, reason: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::Distributed { rank, reason: reason.to_string(), remedy: remedy.to_string() }
    }

    /// An [`Error::Unknown`] that proposes the closest of `known`.
    pub fn unknown<'a>(what: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Unknown { what, name: name.to_owned(), nearest: nearest(name, known).map(str::to_owned) }
    }
}

/// How a checkpoint and a model differ, by tensor name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightsReport {
    /// Tensors that the model needs and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Tensors that the checkpoint holds and the model has no place for.
    pub unexpected: Vec<String>,
    /// Tensors whose shape or dtype is not the model's.
    pub mismatched: Vec<Mismatch>,
}

/// A tensor whose shape or dtype in the checkpoint is not the one the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// What the checkpoint holds, `f32 [2, 3]`.
    pub found: String,
    /// What the model needs.
    pub expected: String,
}

impl WeightsReport {
    /// Whether the checkpoint fits the model.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

impl fmt::Display for WeightsReport {
    /// One line; at most twenty names of each kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        let mut separator = "";
        let mut list = |f: &mut fmt::Formatter<'_>, what: &str, names: Vec<String>| -> fmt::Result {
            if names.is_empty() {
                return Ok(());
            }
            write!(f, "{separator}{} {what}: {}", names.len(), names[..names.len().min(SHOWN)].join(", "))?;
            separator = "; ";
            if names.len() > SHOWN { write!(f, ", …") } else { Ok(()) }
        };
        let quoted = |names: &[String]| names.iter().map(|n| format!("`{n}`")).collect();
        list(f, "missing", quoted(&self.missing))?;
        list(f, "unexpected", quoted(&self.unexpected))?;
        let mismatched =
            self.mismatched.iter().map(|m| format!("`{}` is {}, expected {}", m.name, m.found, m.expected)).collect();
        list(f, "mismatched", mismatched)
    }
}

/// The name in `known` that is closest to `name`, if one is close enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|k| (edit_distance(&name.to_lowercase(), &k.to_lowercase()), k))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, k)| k)
}

/// Levenshtein distance, in characters, of the first 200.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(200).collect(), b.chars().take(200).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_proposes_only_what_could_be_meant() {
        assert_eq!(nearest("brt", ["albert", "bert", "roberta"]), Some("bert"));
        assert_eq!(nearest("Deberta_v2", ["deberta-v2", "bert"]), Some("deberta-v2"));
        assert_eq!(nearest("stable-diffusion", ["bert", "mpnet"]), None);
    }

    #[test]
    fn report_is_one_line_and_bounded() {
        let report = WeightsReport {
            missing: (0..30).map(|i| format!("layer.{i}")).collect(),
            unexpected: vec!["x".into()],
            mismatched: vec![Mismatch { name: "w".into(), found: "f32 [2]".into(), expected: "[3]".into() }],
        };
        let text = report.to_string();
        assert!(
            text.starts_with("30 missing: `layer.0`") && text.contains("`layer.19`, …; 1 unexpected: `x`"),
            "{text}"
        );
        assert!(text.ends_with("1 mismatched: `w` is f32 [2], expected [3]") && !text.contains('\n'), "{text}");
    }
}
