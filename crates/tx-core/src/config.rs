//! `config.json`: read once, kept whole, and viewed through one typed struct per architecture.
//!
//! [`Config`] holds every key of the file, known or not, and writes them all back. An architecture's own struct
//! ([`ModelConfig`]) has HF's key names and HF's defaults and is a view of it: [`Config::parse`] reads and checks it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::task::Limits;

/// No configuration file on the Hub comes near this size, in bytes.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// The typed view of `config.json` that one architecture needs.
///
/// Implementors derive `Deserialize` with `#[serde(default)]` on the struct and HF's defaults in `Default`.
pub trait ModelConfig: DeserializeOwned + Clone + std::fmt::Debug + Send + Sync {
    /// Defaults of an architecture that shares the struct of another one; keys of the file win over them.
    fn defaults() -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// Keys whose null is a value of its own, and not the default.
    const NULLABLE: &'static [&'static str] = &[];

    /// Rejects what the architecture cannot compute: zero sizes, sizes that do not divide, unsupported variants.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`], through the methods of [`Check`].
    fn validate(&self, check: &Check<'_>) -> Result<()>;

    /// What models of this architecture can take: `TextLimits`, `ImageLimits` and the like.
    type Limits: Into<Limits>;

    /// What the model can take. It is checked at the edge, so that `forward` need not.
    fn limits(&self) -> Self::Limits;
}

/// One `config.json`, with every key it holds.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` in `folder`.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Io`], [`Error::Malformed`].
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.is_file() {
            return Err(Error::MissingFile {
                folder: folder.to_path_buf(),
                expected: "`config.json`".into(),
                remedy: "name a folder that holds a checkpoint as it lies on the Hub".into(),
            });
        }
        Self::from_file(&path)
    }

    /// Reads a file of the form of `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn from_file(path: &Path) -> Result<Self> {
        match read_json(path)? {
            Value::Object(keys) => Ok(Self { path: path.to_path_buf(), keys }),
            other => Err(Error::malformed(path, format_args!("expected a JSON object, found {}", kind(&other)))),
        }
    }

    /// The file this was read from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|v| !v.is_null())
    }

    /// Sets a key; it is part of [`Config::to_json`].
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.insert(key.to_owned(), value.into());
    }

    /// Takes a key out; it is no longer part of [`Config::to_json`].
    pub fn remove(&mut self, key: &str) {
        self.keys.shift_remove(key);
    }

    /// The architecture, `model_type`.
    ///
    /// # Errors
    /// [`Error::Config`] if the key is missing or not a string.
    pub fn model_type(&self) -> Result<&str> {
        match self.get("model_type") {
            Some(Value::String(s)) => Ok(s),
            Some(other) => {
                Err(Error::config(&self.path, "model_type", format_args!("expected a string, found {}", kind(other))))
            }
            None => Err(Error::config(&self.path, "model_type", "missing; it names the architecture")),
        }
    }

    /// The classes that the checkpoint was saved from, `architectures`.
    pub fn architectures(&self) -> Vec<&str> {
        let list = self.get("architectures").and_then(Value::as_array);
        list.map(|names| names.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }

    /// The class names of a classifier, in the order of the logits.
    ///
    /// From `id2label`; else `LABEL_0 …` for `num_labels`; else HF's default of two.
    ///
    /// # Errors
    /// [`Error::Config`] if `id2label` is not a map from `0 … n-1` to strings.
    pub fn labels(&self) -> Result<Vec<String>> {
        let fallback = |n: usize| (0..n).map(|i| format!("LABEL_{i}")).collect();
        let Some(value) = self.get("id2label") else {
            let Some(n) = self.get("num_labels") else { return Ok(fallback(2)) };
            let n = n.as_u64().filter(|n| (1..=1_000_000).contains(n));
            let n =
                n.ok_or_else(|| Error::config(&self.path, "num_labels", "expected an integer from 1 to 1000000"))?;
            return Ok(fallback(n as usize));
        };
        let wrong = |reason: String| Error::config(&self.path, "id2label", reason);
        let map = value.as_object().ok_or_else(|| wrong(format!("expected a map, found {}", kind(value))))?;
        let mut labels = BTreeMap::new();
        for (id, label) in map {
            let id: usize = id.parse().map_err(|_| wrong(format!("`{id}` is not a class number")))?;
            let label = match label {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            labels.insert(id, label);
        }
        match labels.keys().enumerate().find(|&(i, &id)| i != id) {
            Some((i, _)) => Err(wrong(format!("class {i} has no label"))),
            None if labels.is_empty() => Err(wrong("expected at least one label".into())),
            None => Ok(labels.into_values().collect()),
        }
    }

    /// `problem_type`: `regression`, `single_label_classification` or `multi_label_classification`, if it is set.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for anything else.
    pub fn problem_type(&self) -> Result<Option<ProblemType>> {
        let Some(value) = self.get("problem_type") else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|_| Error::Unsupported {
            path: self.path.clone(),
            key: "problem_type".into(),
            value: plain(value),
            supported: "regression, single_label_classification, multi_label_classification".into(),
        })
    }

    /// Reads the keys that an architecture needs, and checks them.
    ///
    /// # Errors
    /// [`Error::Config`] with the key for a wrong type or an impossible value, [`Error::Unsupported`] for a variant that
    /// the architecture does not implement.
    pub fn parse<C: ModelConfig>(&self) -> Result<C> {
        let mut keys: Map<_, _> = C::defaults().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        // Null means "the default" for keys that are not optional, as in Python.
        let given = self.keys.iter().filter(|(k, v)| !v.is_null() || C::NULLABLE.contains(&k.as_str()));
        keys.extend(given.map(|(k, v)| (k.clone(), v.clone())));
        if self.get("id2label").is_some() {
            keys.insert("num_labels".to_owned(), self.labels()?.len().into());
        }
        let config: C = serde_path_to_error::deserialize(Value::Object(keys)).map_err(|e| {
            let key = e.path().to_string();
            match e.into_inner().to_string() {
                reason if key == "." => Error::malformed(&self.path, reason),
                reason => match reason.split_once(", expected ") {
                    Some((value, supported)) if value.starts_with("unknown variant") => Error::Unsupported {
                        path: self.path.clone(),
                        key,
                        value: value.trim_start_matches("unknown variant ").trim_matches('`').to_owned(),
                        supported: supported.trim_start_matches("one of ").replace('`', ""),
                    },
                    _ => Error::config(&self.path, key, reason),
                },
            }
        })?;
        config.validate(&Check { path: &self.path })?;
        Ok(config)
    }

    /// The JSON text of all keys, as Python writes it: two spaces of indentation and a line end.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(&self.keys).unwrap_or_default();
        text + "\n"
    }
}

/// The loss, and so the meaning of the logits, of a sequence classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One real number per label.
    Regression,
    /// Exactly one label holds.
    SingleLabelClassification,
    /// Any number of labels hold.
    MultiLabelClassification,
}

/// Range checks on the fields of a [`ModelConfig`], with the file's name in the error.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    path: &'a Path,
}

/// A layer count that no model reaches and that still builds in no time.
const MAX_LAYERS: usize = 4096;
/// The largest axis of a tensor: products of two stay far from overflow.
const MAX_SIZE: usize = 1 << 31;

impl Check<'_> {
    /// `1 ≤ value ≤ 2³¹`.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn size(&self, key: &str, value: usize) -> Result<()> {
        self.range(key, value, 1, MAX_SIZE)
    }

    /// Every size of a list: see [`Check::size`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn sizes<const N: usize>(&self, sizes: [(&str, usize); N]) -> Result<()> {
        sizes.into_iter().try_for_each(|(key, value)| self.size(key, value))
    }

    /// `0 ≤ value ≤ 4096`: every layer is a Rust value, so the count is bounded before any is made.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn layers(&self, key: &str, value: usize) -> Result<()> {
        self.range(key, value, 0, MAX_LAYERS)
    }

    /// `low ≤ value ≤ high`.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn range(&self, key: &str, value: usize, low: usize, high: usize) -> Result<()> {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(Error::config(self.path, key, format_args!("{value} is out of range, expected {low} to {high}")))
    }

    /// `value` is a multiple of `by`.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn divides(&self, key: &str, value: usize, by_key: &str, by: usize) -> Result<()> {
        if by != 0 && value.is_multiple_of(by) {
            return Ok(());
        }
        Err(Error::config(self.path, key, format_args!("{value} is not a multiple of `{by_key}` = {by}")))
    }

    /// `value` is finite and not negative: the epsilon of a norm.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn epsilon(&self, key: &str, value: f64) -> Result<()> {
        if value.is_finite() && (0.0..1.0).contains(&value) {
            return Ok(());
        }
        Err(Error::config(self.path, key, format_args!("{value} is not an epsilon, expected a number from 0 to 1")))
    }

    /// `key` has a value that is legal in HF but not implemented here unless `supported` holds.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn supported(&self, key: &str, holds: bool, value: impl std::fmt::Display, supported: &str) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::Unsupported {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            value: value.to_string(),
            supported: supported.to_owned(),
        })
    }

    /// An [`Error::Config`] for a rule that only this architecture has.
    pub fn error(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        Error::config(self.path, key, reason)
    }
}

/// Reads a JSON file of bounded size; bare `NaN` and `Infinity`, which Python writes, become strings of that name.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`].
pub fn read_json(path: &Path) -> Result<Value> {
    let text = read_text(path, MAX_JSON_BYTES)?;
    serde_json::from_str(&text)
        .or_else(|first| serde_json::from_str(&quote_non_finite(&text)).map_err(|_| first))
        .map_err(|e| Error::malformed(path, format_args!("not valid JSON: {e}")))
}

/// Reads a UTF-8 file of at most `limit` bytes.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`].
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if size > limit {
        return Err(Error::malformed(path, format_args!("{size} bytes, expected at most {limit}")));
    }
    String::from_utf8(std::fs::read(path).map_err(Error::io(path))?)
        .map_err(|e| Error::malformed(path, format_args!("not UTF-8 at byte {}", e.utf8_error().valid_up_to())))
}

/// Puts quotes around bare `NaN`, `Infinity` and `-Infinity` outside of strings.
fn quote_non_finite(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        if !in_string && let Some(word) = ["-Infinity", "Infinity", "NaN"].into_iter().find(|w| rest.starts_with(w)) {
            out.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        let escaped = if in_string && c == '\\' { rest[1..].chars().next() } else { None };
        in_string ^= c == '"';
        let step = c.len_utf8() + escaped.map_or(0, char::len_utf8);
        out.push_str(&rest[..step]);
        rest = &rest[step..];
    }
    out
}

/// The JSON type of a value, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// A value as it reads in a message: strings without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TextLimits;

    fn config(json: &str) -> Config {
        let Value::Object(keys) = serde_json::from_str(json).unwrap() else { panic!("an object") };
        Config { path: "config.json".into(), keys }
    }

    #[derive(Debug, Clone, serde::Deserialize)]
    #[serde(default)]
    struct Sizes {
        hidden_size: usize,
        layer_norm_eps: f64,
    }

    impl Default for Sizes {
        fn default() -> Self {
            Self { hidden_size: 768, layer_norm_eps: 1e-12 }
        }
    }

    impl ModelConfig for Sizes {
        type Limits = TextLimits;

        fn validate(&self, check: &Check<'_>) -> Result<()> {
            check.size("hidden_size", self.hidden_size)?;
            check.epsilon("layer_norm_eps", self.layer_norm_eps)
        }

        fn limits(&self) -> TextLimits {
            TextLimits { vocab_size: 1, max_length: None, context: None, positions: 1, type_vocab_size: 0 }
        }
    }

    #[test]
    fn absent_and_null_keys_take_the_default() {
        let sizes: Sizes = config(r#"{"hidden_size": null, "other": 1}"#).parse().unwrap();
        assert_eq!((sizes.hidden_size, sizes.layer_norm_eps), (768, 1e-12));
    }

    #[test]
    fn errors_name_the_key_and_what_was_found() {
        let message = |json| config(json).parse::<Sizes>().unwrap_err().to_string();
        assert_eq!(
            message(r#"{"hidden_size": 0}"#),
            "config.json: `hidden_size`: 0 is out of range, expected 1 to 2147483648"
        );
        let negative = message(r#"{"hidden_size": -3}"#);
        assert!(negative.contains("`hidden_size`") && negative.contains("-3"), "{negative}");
        let nan = message(r#"{"layer_norm_eps": "NaN"}"#);
        assert!(nan.contains("`layer_norm_eps`") && nan.contains("NaN"), "{nan}");
    }

    #[test]
    fn labels_come_from_id2label_in_numeric_order() {
        let ten = (0..11).map(|i| format!(r#""{i}": "l{i}""#)).collect::<Vec<_>>().join(",");
        assert_eq!(config(&format!(r#"{{"id2label": {{{ten}}}}}"#)).labels().unwrap()[10], "l10");
        assert_eq!(config(r#"{"num_labels": 3}"#).labels().unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert_eq!(config("{}").labels().unwrap().len(), 2);
        assert!(config(r#"{"id2label": {"0": "a", "2": "b"}}"#).labels().is_err());
    }

    #[test]
    fn bare_infinity_is_quoted_only_outside_strings() {
        assert_eq!(
            quote_non_finite(r#"{"a": -Infinity, "b": [NaN, "NaN \" Infinity"]}"#),
            r#"{"a": "-Infinity", "b": ["NaN", "NaN \" Infinity"]}"#
        );
    }
}
