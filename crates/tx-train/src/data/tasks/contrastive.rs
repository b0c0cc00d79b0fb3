//! Contrastive learning of sentence embeddings: texts that mean the same, or not, as `sentence-transformers` takes them.
//! An anchor stands beside what means the same, and perhaps what does not; or two texts stand beside a score.

use serde::{Deserialize, Serialize};
use tx_core::error::{Error, Result};
use tx_core::tokenizer::{Text, Tokenizer};

use super::encode;
use crate::data::{Columns, Example, Labels, Preparation, Row, Tokens};

/// The most texts of a row.
const MAX_TEXTS: usize = 64;

/// What is read, and how it is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastiveOptions {
    /// The columns of the texts: the anchor, what means the same, and any number that do not.
    pub text_columns: Vec<String>,
    /// The column of a number that says how much two texts mean the same, if there is one.
    pub score_column: Option<String>,
    /// The most tokens of a text; the tokenizer's limit if `None`.
    pub max_length: Option<usize>,
}

impl Default for ContrastiveOptions {
    fn default() -> Self {
        Self { text_columns: vec!["anchor".into(), "positive".into()], score_column: None, max_length: None }
    }
}

/// Makes examples of texts that belong together.
#[derive(Debug)]
pub struct Contrastive<'t> {
    tokenizer: &'t Tokenizer,
    options: ContrastiveOptions,
}

impl<'t> Contrastive<'t> {
    /// Examples of such columns.
    ///
    /// # Errors
    /// [`Error::Input`] for fewer than two columns of texts, or more than can be.
    pub fn new(tokenizer: &'t Tokenizer, options: ContrastiveOptions) -> Result<Self> {
        let count = options.text_columns.len();
        if !(2..=MAX_TEXTS).contains(&count) {
            return Err(Error::input(
                "text_columns",
                format_args!("{count} columns"),
                format_args!("2 to {MAX_TEXTS}"),
            ));
        }
        Ok(Self { tokenizer, options })
    }
}

impl Preparation for Contrastive<'_> {
    fn columns(&self) -> Columns {
        let ContrastiveOptions { text_columns, score_column, .. } = &self.options;
        let columns: Vec<&str> = text_columns.iter().chain(score_column).map(String::as_str).collect();
        Columns::new(&columns, &[])
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let tokens = |column: &String| {
            let text = Text::from(row.text(column)?);
            Ok(Tokens::new(&encode(self.tokenizer, row, column, &text, self.options.max_length)?))
        };
        let texts = self.options.text_columns.iter().map(tokens).collect::<Result<_>>()?;
        let labels = match &self.options.score_column {
            Some(column) => Labels::Values(vec![row.number(column)? as f32]),
            None => Labels::None,
        };
        Ok(vec![Example { origin: row.origin().clone(), texts, labels, image: None, reference: None }])
    }
}
