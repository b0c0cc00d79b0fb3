//! Language modelling: text alone. A causal model learns the next token; a masked one those that
//! [`crate::collate::Masking`] hides.
//!
//! Reference: transformers, `examples/pytorch/language-modeling/run_clm.py` and `run_mlm.py`.

use serde::{Deserialize, Serialize};
use tx_core::error::{Error, Result};
use tx_core::tokenizer::{EncodeOptions, Encoding, Text, Tokenizer, Truncation};

use crate::data::{Columns, Example, Labels, Packing, Preparation, Row, Tokens};

/// The tokens of a block, where the tokenizer allows so many.
const BLOCK_SIZE: usize = 1024;

/// How rows become examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// All tokens, one after the other, are cut into blocks: see [`Packing::Blocks`].
    #[default]
    Blocks,
    /// A row is an example, and its end is cut off if it is too long: `line_by_line` of the reference.
    Lines,
    /// As many whole rows as fit are an example: see [`Packing::Whole`]. Not for masked models.
    Whole,
}

/// What is read, and how it is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModelingOptions {
    /// The column of the text.
    pub text_column: String,
    /// The most tokens of an example; 1024, or the tokenizer's limit if that is less, if `None`.
    pub block_size: Option<usize>,
    /// How rows become examples.
    pub grouping: Grouping,
    /// Whether every row ends with the token for the end of a text, if the tokenizer adds none itself.
    pub add_eos: bool,
}

impl Default for LanguageModelingOptions {
    fn default() -> Self {
        Self { text_column: "text".into(), block_size: None, grouping: Grouping::Blocks, add_eos: false }
    }
}

/// Makes examples of text.
#[derive(Debug)]
pub struct LanguageModeling<'t> {
    tokenizer: &'t Tokenizer,
    options: LanguageModelingOptions,
    masked: bool,
    block_size: usize,
    eos: Option<u32>,
}

impl<'t> LanguageModeling<'t> {
    /// Examples for a model that learns the next token.
    ///
    /// # Errors
    /// [`Error::Input`] for blocks without room for two tokens, or longer than the tokenizer allows, and for an end of text
    /// that the tokenizer does not have.
    pub fn causal(tokenizer: &'t Tokenizer, options: LanguageModelingOptions) -> Result<Self> {
        Self::new(tokenizer, options, false)
    }

    /// Examples for a model that learns hidden tokens.
    ///
    /// # Errors
    /// Those of [`LanguageModeling::causal`], and [`Error::Input`] for [`Grouping::Whole`].
    pub fn masked(tokenizer: &'t Tokenizer, options: LanguageModelingOptions) -> Result<Self> {
        if options.grouping == Grouping::Whole {
            return Err(Error::input("grouping", "`whole` for a masked model", "`blocks` or `lines`"));
        }
        Self::new(tokenizer, options, true)
    }

    fn new(tokenizer: &'t Tokenizer, options: LanguageModelingOptions, masked: bool) -> Result<Self> {
        let limit = tokenizer.model_max_length().unwrap_or(usize::MAX);
        let block_size = options.block_size.unwrap_or(limit.min(BLOCK_SIZE));
        if block_size < 2 || block_size > limit {
            let expected = format_args!("2 to {limit}, the limit of the tokenizer");
            return Err(Error::input("block_size", block_size, expected));
        }
        let eos = tokenizer.special().eos.as_ref().map(|token| token.id);
        if options.add_eos && eos.is_none() {
            return Err(Error::input(
                "add_eos",
                "a tokenizer without a token for the end of a text",
                "one that has it",
            ));
        }
        let eos = eos.filter(|_| options.add_eos);
        Ok(Self { tokenizer, options, masked, block_size, eos })
    }
}

impl Preparation for LanguageModeling<'_> {
    fn columns(&self) -> Columns {
        Columns::new(&[&self.options.text_column], &[])
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let column = self.options.text_column.as_str();
        let text = row.text(column)?;
        let lines = self.options.grouping != Grouping::Blocks;
        // Blank lines teach nothing but special tokens.
        if (lines || self.eos.is_some()) && text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let options = EncodeOptions {
            truncation: if lines { Truncation::OnlyFirst } else { Truncation::DoNotTruncate },
            max_length: Some(self.block_size),
            ..EncodeOptions::default()
        };
        let encodings = self.tokenizer.encode(&Text::from(text), &options).map_err(|e| row.error(column, e))?;
        let encoding = encodings.into_iter().next().unwrap_or_default();
        let mut tokens = Tokens { ids: encoding.ids.clone(), ..Tokens::default() };
        if self.masked {
            tokens.marks = marks(&encoding);
        }
        if let Some(eos) = self.eos.filter(|eos| tokens.ids.last() != Some(eos))
            && (!lines || tokens.len() < self.block_size)
        {
            tokens.ids.push(eos);
            tokens.marks.extend(self.masked.then_some(Tokens::SPECIAL));
        }
        let labels = if self.masked { Labels::None } else { Labels::Same };
        // A single token has no next one, though in a block it has.
        let least = if lines && !self.masked { 2 } else { 1 };
        Ok((tokens.len() >= least).then(|| Example::text(row.origin().clone(), tokens, labels)).into_iter().collect())
    }

    fn packing(&self) -> Packing {
        match self.options.grouping {
            Grouping::Blocks => Packing::Blocks { size: self.block_size },
            Grouping::Lines => Packing::None,
            Grouping::Whole => Packing::Whole { size: self.block_size },
        }
    }
}

/// Which tokens are special, and which begin a word: those that do not follow the one before them without a gap.
fn marks(encoding: &Encoding) -> Vec<u8> {
    let mut end_before = None;
    let mut marks = Vec::with_capacity(encoding.len());
    for (&special, &(start, end)) in encoding.special_tokens_mask.iter().zip(&encoding.offsets) {
        let word = special == 0 && end_before != Some(start);
        marks.push(if special != 0 { Tokens::SPECIAL } else { u8::from(word) * Tokens::WORD });
        end_before = (special == 0).then_some(end);
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_behind_gaps_and_special_tokens() {
        let encoding = Encoding {
            ids: vec![0; 7],
            special_tokens_mask: vec![1, 0, 0, 0, 0, 1, 0],
            offsets: vec![(0, 0), (0, 2), (2, 4), (5, 6), (6, 7), (0, 0), (0, 3)],
            ..Encoding::default()
        };
        let (special, word) = (Tokens::SPECIAL, Tokens::WORD);
        assert_eq!(marks(&encoding), [special, word, 0, word, 0, special, word]);
    }
}
