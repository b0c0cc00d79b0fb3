//! Sequence classification: a text, or two, and its class, its classes, or numbers.
//!
//! Reference: transformers, `examples/pytorch/text-classification/run_classification.py` and `run_glue.py`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tx_core::error::Result;
use tx_core::tokenizer::{Text, Tokenizer};

use super::encode;
use crate::data::labels::twice;
use crate::data::{ClassLabels, Columns, Example, Labels, Preparation, Row, Targets, Tokens};

/// What is read, and how it is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceClassificationOptions {
    /// The column of the text.
    pub text_column: String,
    /// The column of a second text, if there is one.
    pub text_pair_column: Option<String>,
    /// The column of the labels.
    pub label_column: String,
    /// The most tokens; the tokenizer's limit if `None`.
    pub max_length: Option<usize>,
}

impl Default for SequenceClassificationOptions {
    fn default() -> Self {
        Self { text_column: "text".into(), text_pair_column: None, label_column: "label".into(), max_length: None }
    }
}

/// Makes examples of texts with labels.
#[derive(Debug)]
pub struct SequenceClassification<'t> {
    tokenizer: &'t Tokenizer,
    options: SequenceClassificationOptions,
    targets: Targets,
}

impl<'t> SequenceClassification<'t> {
    /// Examples for a model with such targets.
    pub fn new(tokenizer: &'t Tokenizer, options: SequenceClassificationOptions, targets: Targets) -> Self {
        Self { tokenizer, options, targets }
    }

    fn labels(&self, row: &Row) -> Result<Labels> {
        let column = self.options.label_column.as_str();
        let value = row.get(column)?;
        match &self.targets {
            Targets::Classes(classes) => Ok(Labels::Class(classes.read(row, column, value)? as i64)),
            Targets::MultiLabel(classes) => many(row, column, classes).map(Labels::Values),
            Targets::Regression(1) if !value.is_array() => Ok(Labels::Values(vec![row.number(column)? as f32])),
            Targets::Regression(count) => numbers(row, column, *count).map(Labels::Values),
        }
    }
}

impl Preparation for SequenceClassification<'_> {
    fn columns(&self) -> Columns {
        let SequenceClassificationOptions { text_column, text_pair_column, label_column, .. } = &self.options;
        let pair = text_pair_column.as_deref();
        let columns: Vec<&str> = [text_column, label_column].into_iter().map(String::as_str).chain(pair).collect();
        Columns::new(&columns, &[])
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let column = self.options.text_column.as_str();
        let text = match &self.options.text_pair_column {
            Some(pair) => Text::pair(row.text(column)?, row.text(pair)?),
            None => Text::from(row.text(column)?),
        };
        let encoding = encode(self.tokenizer, row, column, &text, self.options.max_length)?;
        Ok(vec![Example::text(row.origin().clone(), Tokens::new(&encoding), self.labels(row)?)])
    }
}

/// 1 for every class of a list, else 0; or such a vector as it stands, where there is a number with a point for each.
fn many(row: &Row, column: &str, classes: &ClassLabels) -> Result<Vec<f32>> {
    let list = row.list(column)?;
    if list.iter().any(Value::is_f64) {
        let values = numbers(row, column, classes.count())?;
        return match values.iter().find(|&&value| !(0.0..=1.0).contains(&value)) {
            Some(value) => Err(row.error(column, format_args!("found {value}, expected numbers from 0 to 1"))),
            None => Ok(values),
        };
    }
    let mut values = vec![0.0; classes.count()];
    for item in list {
        let class = classes.read(row, column, item)?;
        if values[class] > 0.0 {
            return Err(twice(row, column));
        }
        values[class] = 1.0;
    }
    Ok(values)
}

/// A list of so many numbers.
fn numbers(row: &Row, column: &str, count: usize) -> Result<Vec<f32>> {
    let list = row.list(column)?;
    if list.len() != count {
        return Err(row.error(column, format_args!("{} numbers, expected {count}", list.len())));
    }
    let number = |value: &Value| row.to_number(value).ok_or_else(|| row.wrong(column, value, "a number"));
    list.iter().map(|value| Ok(number(value)? as f32)).collect()
}
