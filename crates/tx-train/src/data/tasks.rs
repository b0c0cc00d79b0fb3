//! Tasks: what examples they make of a row. Their options have the names of HF's example scripts.
//!
//! | file | holds |
//! |---|---|
//! | `sequence_classification.rs` | a text, or two, and its class, classes or numbers |
//! | `token_classification.rs` | words, and the class of each |
//! | `question_answering.rs` | a question, and where in a text the answer is |
//! | `language_modeling.rs` | text alone: the next token, or hidden ones |
//! | `chat.rs` | conversations: what the assistant says |
//! | `chat/mask.rs` | which part of a conversation that is |
//! | `contrastive.rs` | texts that mean the same, or not |
//! | `image_classification.rs` | an image, and its class |

mod chat;
mod contrastive;
mod image_classification;
mod language_modeling;
mod question_answering;
mod sequence_classification;
mod token_classification;

use tx_core::error::Result;
use tx_core::tokenizer::{EncodeOptions, Encoding, Text, Tokenizer, Truncation};

pub use chat::{ChatTuning, ChatTuningOptions};
pub use contrastive::{Contrastive, ContrastiveOptions};
pub use image_classification::{ImageClassification, ImageClassificationOptions};
pub use language_modeling::{Grouping, LanguageModeling, LanguageModelingOptions};
pub use question_answering::{QuestionAnswering, QuestionAnsweringOptions};
pub use sequence_classification::{SequenceClassification, SequenceClassificationOptions};
pub use token_classification::{TokenClassification, TokenClassificationOptions};

use super::row::Row;

/// One encoding of a text, cut to `max_length`, or the tokenizer's limit; what fails is named by row and column.
fn encode(tokenizer: &Tokenizer, row: &Row, column: &str, text: &Text, max_length: Option<usize>) -> Result<Encoding> {
    let options = EncodeOptions { truncation: Truncation::LongestFirst, max_length, ..EncodeOptions::default() };
    let encodings = tokenizer.encode(text, &options).map_err(|e| row.error(column, e))?;
    let encoding = encodings.into_iter().next().unwrap_or_default();
    if encoding.is_empty() {
        return Err(row.error(column, "a text without tokens"));
    }
    Ok(encoding)
}

#[cfg(test)]
mod tests;
