//! Token classification: words, and the class of each. Words become several tokens, of which the first has the label.
//!
//! Reference: transformers, `examples/pytorch/token-classification/run_ner.py`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tx_core::error::Result;
use tx_core::tokenizer::{Text, Tokenizer};

use super::encode;
use crate::data::{ClassLabels, Columns, Example, IGNORED, Labels, Preparation, Row, Tokens};

/// What is read, and which tokens have labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenClassificationOptions {
    /// The column of the words, lists of texts.
    pub text_column: String,
    /// The column of their classes, lists of names or numbers.
    pub label_column: String,
    /// The most tokens; the tokenizer's limit if `None`.
    pub max_length: Option<usize>,
    /// Whether all tokens of a word have its label, and not the first alone; `B-` becomes `I-` within a word.
    pub label_all_tokens: bool,
}

impl Default for TokenClassificationOptions {
    fn default() -> Self {
        let (text_column, label_column) = ("tokens".to_owned(), "ner_tags".to_owned());
        Self { text_column, label_column, max_length: None, label_all_tokens: false }
    }
}

/// Makes examples of words with labels.
#[derive(Debug)]
pub struct TokenClassification<'t> {
    tokenizer: &'t Tokenizer,
    options: TokenClassificationOptions,
    classes: ClassLabels,
    /// For each class the one that goes on with it.
    inside: Vec<usize>,
}

impl<'t> TokenClassification<'t> {
    /// Examples for a model with such classes.
    pub fn new(tokenizer: &'t Tokenizer, options: TokenClassificationOptions, classes: ClassLabels) -> Self {
        let inside = |(id, name): (usize, &String)| {
            let follows = name.starts_with("B-").then(|| classes.id(&name.replace("B-", "I-")));
            follows.flatten().unwrap_or(id)
        };
        let inside = classes.names().iter().enumerate().map(inside).collect();
        Self { tokenizer, options, classes, inside }
    }
}

impl Preparation for TokenClassification<'_> {
    fn columns(&self) -> Columns {
        Columns::new(&[&self.options.text_column, &self.options.label_column], &[])
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let TokenClassificationOptions { text_column, label_column, max_length, label_all_tokens } = &self.options;
        let (words, tags) = (row.texts(text_column)?, row.list(label_column)?);
        if words.len() != tags.len() {
            let reason = format_args!("{} labels, expected {}, one for each word", tags.len(), words.len());
            return Err(row.error(label_column, reason));
        }
        let read = |(i, tag): (usize, &Value)| self.classes.read(row, &format!("{label_column}[{i}]"), tag);
        let tags: Vec<usize> = tags.iter().enumerate().map(read).collect::<Result<_>>()?;
        let encoding = encode(self.tokenizer, row, text_column, &Text::words(words), *max_length)?;
        let mut previous = None;
        let mut labels = Vec::with_capacity(encoding.len());
        for &word in &encoding.word_ids {
            let tag = word.and_then(|word| tags.get(word as usize).copied());
            labels.push(match tag {
                Some(tag) if word != previous => tag as i64,
                Some(tag) if *label_all_tokens => self.inside[tag] as i64,
                _ => IGNORED,
            });
            previous = word;
        }
        Ok(vec![Example::text(row.origin().clone(), Tokens::new(&encoding), Labels::Tokens(labels))])
    }
}
