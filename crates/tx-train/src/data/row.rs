//! A row of a data set: values by the names of columns, and where the row is from.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tx_core::config::kind;
use tx_core::error::{Error, Result, nearest};
use tx_text::chat::Message;

/// The most characters of a value that a message repeats, and the most names that it lists.
const SHOWN_CHARS: usize = 40;
const SHOWN_NAMES: usize = 20;

/// Where a row is in its file, counted from 1; 0 where it is not known. Neither is known of a file that is one row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The number of the row.
    pub row: u64,
    /// The number of the line that it begins in.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.row, self.line) {
            (0, 0) => f.write_str("the whole file"),
            (0, line) => write!(f, "line {line}"),
            (row, 0) => write!(f, "row {row}"),
            (row, line) => write!(f, "row {row} (line {line})"),
        }
    }
}

/// Where a row is from, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The place in it.
    pub place: Place,
}

impl Origin {
    /// An [`Error::Malformed`] that names file and place.
    pub fn error(&self, reason: impl fmt::Display) -> Error {
        Error::malformed(&self.file, format_args!("{}: {reason}", self.place))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.place)
    }
}

/// A row of a data set.
#[derive(Debug, Clone)]
pub struct Row {
    origin: Origin,
    values: Map<String, Value>,
    /// Whether the format knows strings only, so that numbers are written as such.
    untyped: bool,
}

impl Row {
    /// A row whose values have types.
    pub fn new(origin: Origin, values: Map<String, Value>) -> Self {
        Self { origin, values, untyped: false }
    }

    /// A row of a format that knows strings only.
    pub fn untyped(origin: Origin, values: Map<String, Value>) -> Self {
        Self { origin, values, untyped: true }
    }

    /// Where the row is from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether numbers are written as strings.
    pub fn is_untyped(&self) -> bool {
        self.untyped
    }

    /// The names of the columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> + Clone {
        self.values.keys().map(String::as_str)
    }

    /// An [`Error::Malformed`] that names file, place and column.
    pub fn error(&self, column: &str, reason: impl fmt::Display) -> Error {
        self.origin.error(format_args!("column `{column}`: {reason}"))
    }

    /// An [`Row::error`] for a value that is something else than it should be.
    pub fn wrong(&self, column: &str, found: &Value, expected: impl fmt::Display) -> Error {
        self.error(column, format_args!("found {}, expected {expected}", shown(found)))
    }

    /// The value of a column, which may be null.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is no such column; it proposes the one that could be meant.
    pub fn get(&self, column: &str) -> Result<&Value> {
        self.values.get(column).ok_or_else(|| self.origin.error(missing(column, self.columns())))
    }

    /// The value of a column, if there is one and it is not null.
    pub fn find(&self, column: &str) -> Option<&Value> {
        self.values.get(column).filter(|value| !value.is_null())
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none in this column.
    pub fn text(&self, column: &str) -> Result<&str> {
        let value = self.get(column)?;
        value.as_str().ok_or_else(|| self.wrong(column, value, "a text"))
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none in this column, or one that is not finite as an `f32`.
    pub fn number(&self, column: &str) -> Result<f64> {
        let value = self.get(column)?;
        self.to_number(value).ok_or_else(|| self.wrong(column, value, "a number"))
    }

    /// A list.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none in this column.
    pub fn list(&self, column: &str) -> Result<&[Value]> {
        let value = self.get(column)?;
        let expected = if self.untyped { "a list, which CSV has none of: use JSON lines or Parquet" } else { "a list" };
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(column, value, expected))
    }

    /// A list of texts.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none in this column.
    pub fn texts(&self, column: &str) -> Result<Vec<&str>> {
        let mut texts = Vec::new();
        for (i, value) in self.list(column)?.iter().enumerate() {
            texts.push(value.as_str().ok_or_else(|| self.wrong(&format!("{column}[{i}]"), value, "a text"))?);
        }
        Ok(texts)
    }

    /// The messages of a conversation: objects with `role` and `content`, or with `from` and `value`, where `human` and
    /// `gpt` speak.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there are none in this column.
    pub fn messages(&self, column: &str) -> Result<Vec<Message>> {
        let message = |(i, value): (usize, &Value)| {
            let text = |key: &str| value.get(key).and_then(Value::as_str);
            if let (Some(from), Some(content)) = (text("from"), text("value")) {
                let role = match from {
                    "human" => "user",
                    "gpt" => "assistant",
                    other => other,
                };
                return Ok(Message::new(role, content));
            }
            serde_json::from_value(value.clone())
                .map_err(|e| self.error(&format!("{column}[{i}]"), format_args!("not a message: {e}")))
        };
        self.list(column)?.iter().enumerate().map(message).collect()
    }

    /// A number that an `f32` can hold, which may be written as a string where the format knows nothing else.
    pub fn to_number(&self, value: &Value) -> Option<f64> {
        let number = match value {
            Value::String(text) if self.untyped => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        number.filter(|&number| (number as f32).is_finite())
    }

    /// An integer, which may be written as a string where the format knows nothing else. A flag is 0 or 1.
    pub fn to_integer(&self, value: &Value) -> Option<i64> {
        match value {
            Value::String(text) if self.untyped => text.trim().parse().ok(),
            Value::Bool(flag) => Some(i64::from(*flag)),
            other => other.as_i64(),
        }
    }

    /// About how much memory the row takes, in bytes.
    pub(super) fn size(&self) -> usize {
        self.values.iter().map(|(name, value)| name.len() + size(value)).sum()
    }
}

fn size(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inner
}

/// Why a column cannot be read that is not there.
pub(super) fn missing<'a>(column: &str, columns: impl Iterator<Item = &'a str> + Clone) -> String {
    let proposal = nearest(column, columns.clone()).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("no column `{column}`{proposal}; the columns are {}", names(columns))
}

/// Names in a message: a bounded list.
pub(super) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut list: Vec<String> = names.take(SHOWN_NAMES + 1).map(|name| format!("`{}`", shorten(name))).collect();
    if list.len() > SHOWN_NAMES {
        list[SHOWN_NAMES] = "…".to_owned();
    }
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

/// A value in a message: one line, and not long.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", shorten(text)),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        other => kind(other).to_owned(),
    }
}

/// The beginning of a text, on one line.
pub(super) fn shorten(text: &str) -> String {
    let mut start: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(values: Value) -> Row {
        let Value::Object(values) = values else { panic!("an object") };
        Row::new(Origin { file: Path::new("train.jsonl").into(), place: Place { row: 0, line: 3 } }, values)
    }

    #[test]
    fn values_by_type() {
        let row = row(json!({"text": "a", "n": 2, "x": 1.5, "list": ["a", "b"], "flag": true, "none": null}));
        assert_eq!(row.text("text").unwrap(), "a");
        assert_eq!((row.number("n").unwrap(), row.number("x").unwrap()), (2.0, 1.5));
        assert_eq!(row.texts("list").unwrap(), ["a", "b"]);
        assert_eq!(row.to_integer(row.get("flag").unwrap()), Some(1));
        assert!(row.find("none").is_none() && row.find("other").is_none() && row.get("none").unwrap().is_null());
        let mut untyped = row.clone();
        untyped.untyped = true;
        assert_eq!((row.to_integer(&json!("7")), untyped.to_integer(&json!(" 7"))), (None, Some(7)));
        assert_eq!((untyped.to_number(&json!("2.5")), untyped.to_number(&json!("nan"))), (Some(2.5), None));
    }

    #[test]
    fn errors_name_file_line_and_column() {
        let row = row(json!({"text": 5, "labels": ["a", 1], "sentence": "x".repeat(100)}));
        let message = |error: Error| error.to_string();
        assert_eq!(
            message(row.text("text").unwrap_err()),
            "train.jsonl: line 3: column `text`: found 5, expected a text"
        );
        assert_eq!(
            message(row.texts("labels").unwrap_err()),
            "train.jsonl: line 3: column `labels[1]`: found 1, expected a text"
        );
        assert_eq!(
            message(row.text("label").unwrap_err()),
            "train.jsonl: line 3: no column `label`; did you mean `labels`?; the columns are `text`, `labels`, `sentence`"
        );
        let long = message(row.number("sentence").unwrap_err());
        assert!(long.ends_with(&format!("found \"{}…\", expected a number", "x".repeat(SHOWN_CHARS))), "{long}");
        assert_eq!(shorten("a\nb"), "a\\nb");
        let many: Vec<String> = (0..30).map(|i| format!("c{i}")).collect();
        assert!(names(many.iter().map(String::as_str)).ends_with("`c19`, …"));
    }

    #[test]
    fn conversations_of_both_forms() {
        let row = row(json!({
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
            "broken": [{"role": "user", "content": "Hi"}, {"content": "Ho"}],
        }));
        assert_eq!(row.messages("messages").unwrap(), row.messages("conversations").unwrap());
        let error = row.messages("broken").unwrap_err().to_string();
        assert!(error.contains("line 3: column `broken[1]`: not a message: missing field `role`"), "{error}");
    }
}
