//! Text to ids and back, as Python's `AutoTokenizer` does it.
//!
//! [`Tokenizer::from_folder`] takes a folder as it lies on the Hub: with a `tokenizer.json`, or with only a vocabulary
//! (`vocab.txt`, `vocab.json` and `merges.txt`, or a SentencePiece model), and with whichever small files say what the
//! special tokens are. The work of splitting texts is done by the `tokenizers` crate; what is here is the choice and the
//! assembly of its parts, so that ids and offsets are those of Python's transformers 5.23.
//!
//! ```no_run
//! use tx_core::tokenizer::{EncodeOptions, Text, Tokenizer};
//!
//! let tokenizer = Tokenizer::from_folder("bert-base-uncased".as_ref())?;
//! let encodings = tokenizer.encode(&Text::from("Hello world"), &EncodeOptions::default())?;
//! assert_eq!(encodings[0].ids, [101, 7592, 2088, 102]);
//! # Ok::<(), tx_core::Error>(())
//! ```

mod build;
mod bytes;
mod charsmap;
mod encoding;
mod family;
mod files;
mod guard;
mod load;
mod model;
mod post;
mod sentencepiece;
mod settings;

use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::{ModelWrapper, PostProcessorWrapper};

pub use bytes::TokenBytes;
pub use encoding::{EncodeOptions, Encoding, PadTo, Padding, Sequence, Text, Truncation};

use crate::error::{Error, Result};

/// Whether Python's `str.isspace` takes a character for a space: Unicode's, and the four separators of ASCII.
pub fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// A side of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// A special token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its text, `[CLS]`.
    pub text: String,
    /// Its id.
    pub id: u32,
}

/// The special tokens that have a name; which of them a tokenizer has depends on the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Stands for what is not in the vocabulary.
    pub unk: Option<SpecialToken>,
    /// Beginning of a text.
    pub bos: Option<SpecialToken>,
    /// End of a text.
    pub eos: Option<SpecialToken>,
    /// Stands between two texts, and after the last one.
    pub sep: Option<SpecialToken>,
    /// Stands first; classifiers read its state.
    pub cls: Option<SpecialToken>,
    /// Fills short rows of a batch.
    pub pad: Option<SpecialToken>,
    /// Hides a token that the model is to guess.
    pub mask: Option<SpecialToken>,
}

/// A tokenizer with the options of its model.
pub struct Tokenizer {
    /// The file that the vocabulary is from, for messages.
    path: PathBuf,
    /// Without post-processor, truncation and padding, which are applied here so that errors are typed.
    backend: tokenizers::Tokenizer,
    post_processor: PostProcessorWrapper,
    special: SpecialTokens,
    model_max_length: Option<usize>,
    padding_side: Side,
    truncation_side: Side,
    has_token_type_ids: bool,
    /// Whether decoded text loses the spaces before punctuation.
    clean_up: bool,
    max_id: u32,
}

impl Tokenizer {
    /// Loads the tokenizer of a folder.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if the folder has no vocabulary; [`Error::Unsupported`] for a class that cannot be built
    /// without `tokenizer.json`; [`Error::Io`], [`Error::Malformed`], [`Error::Config`] and [`Error::Tokenizer`] for files
    /// that cannot be used.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let files = files::Files::read(folder)?;
        let class = family::resolve(&files);
        let path = if files.has_tokenizer_json() { files.path("tokenizer.json") } else { folder.to_path_buf() };
        guard::guarded(&path, "loading", || load::load(files, &class))
    }

    /// The file that the vocabulary is from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of ids. Special tokens are left out with `skip_special_tokens`.
    ///
    /// # Errors
    /// [`Error::Input`] for an id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        if let Some((index, id)) = ids.iter().enumerate().find(|&(_, &id)| !self.has_id(id)) {
            let expected = format!("ids of the vocabulary, the largest of which is {}", self.max_id);
            return Err(Error::input("ids", format_args!("{id} at position {index}"), expected));
        }
        let text = guard::guarded(&self.path, "decoding", || {
            self.backend.decode(ids, skip_special_tokens).map_err(|e| Error::tokenizer(&self.path, e))
        })?;
        Ok(if self.clean_up { clean_up(&text) } else { text })
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    /// The token of an id, as it is in the vocabulary: `##ing`, `Ġworld`.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    /// How many tokens there are, added ones included: Python's `len(tokenizer)`.
    pub fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    /// The largest id; a model needs one more row of embeddings than that. Not all smaller ids need be in use.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The most tokens that the model takes, if there is a limit.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// The side on which the model wants padding.
    pub fn padding_side(&self) -> Side {
        self.padding_side
    }

    /// The side on which texts are cut.
    pub fn truncation_side(&self) -> Side {
        self.truncation_side
    }

    /// Whether the model takes `token_type_ids`.
    pub fn has_token_type_ids(&self) -> bool {
        self.has_token_type_ids
    }

    /// The algorithm: `BPE`, `Unigram`, `WordPiece` or `WordLevel`.
    pub fn kind(&self) -> &'static str {
        match self.backend.get_model() {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::Unigram(_) => "Unigram",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
        }
    }

    /// Whether an id is in the vocabulary.
    fn has_id(&self, id: u32) -> bool {
        self.backend.id_to_token(id).is_some()
    }
}

impl fmt::Debug for Tokenizer {
    /// Without the vocabulary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("kind", &self.kind())
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .field("model_max_length", &self.model_max_length)
            .field("padding_side", &self.padding_side)
            .field("has_token_type_ids", &self.has_token_type_ids)
            .finish_non_exhaustive()
    }
}

/// Takes out the spaces that WordPiece decoding leaves before punctuation and English contractions.
fn clean_up(text: &str) -> String {
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests;
