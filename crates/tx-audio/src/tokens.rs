//! Whisper's tokens: text, languages, tasks and times.
//!
//! Reference: transformers 5.23.0, `models/whisper/tokenization_whisper.py`.
//!
//! | file | holds |
//! |---|---|
//! | `asr.rs` | the text of a sound, from the tokens of its parts |
//! | `words.rs` | words, from tokens |

mod asr;
mod words;

use std::collections::BTreeSet;
use std::path::Path;

use tx_core::error::{Error, Result};
use tx_core::tokenizer::{EncodeOptions, Text, Tokenizer};

pub use asr::{AsrOptions, AsrOutput, Chunk};

/// How many ids there may be up to the first token of time: each of them is looked at. Whisper has 50 365.
const MAX_IDS: u32 = 1 << 20;

/// HF's `WhisperTokenizer`.
#[derive(Debug)]
pub struct WhisperTokens {
    tokenizer: Tokenizer,
    /// Tokens that are no text and no times.
    special: BTreeSet<u32>,
    /// The first token of time.
    timestamp_begin: u32,
    /// The token that ends a text; those before it are text.
    eos: u32,
    start_of_prev: Option<u32>,
    start_of_transcript: Option<u32>,
}

impl WhisperTokens {
    /// Reads the tokenizer of a folder.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`] and [`WhisperTokens::new`].
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::new(Tokenizer::from_folder(folder)?)
    }

    /// The tokens of a tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it lacks a token that Whisper needs, or has it behind all too many others.
    pub fn new(tokenizer: Tokenizer) -> Result<Self> {
        let needed = |token: &str| {
            let missing =
                || Error::tokenizer(tokenizer.path(), format_args!("no token `{token}`, which Whisper needs"));
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let no_timestamps = needed("<|notimestamps|>")?;
        if no_timestamps >= MAX_IDS {
            let reason = format_args!("`<|notimestamps|>` has the id {no_timestamps}, expected less than {MAX_IDS}");
            return Err(Error::tokenizer(tokenizer.path(), reason));
        }
        let timestamp_begin = no_timestamps + 1;
        let named = tokenizer.special();
        let eos = match &named.eos {
            Some(token) => token.id,
            None => needed("<|endoftext|>")?,
        };
        let tokens = [&named.unk, &named.bos, &named.eos, &named.sep, &named.cls, &named.pad, &named.mask];
        let mut special: BTreeSet<u32> = tokens.into_iter().flatten().map(|token| token.id).collect();
        for id in 0..timestamp_begin {
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            if token.starts_with("<|") && token.ends_with("|>") && tokenizer.decode(&[id], true)?.is_empty() {
                special.insert(id);
            }
        }
        let start_of_prev = tokenizer.token_to_id("<|startofprev|>");
        let start_of_transcript = tokenizer.token_to_id("<|startoftranscript|>");
        Ok(Self { tokenizer, special, timestamp_begin, eos, start_of_prev, start_of_transcript })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text of ids; rows that a model has beyond its vocabulary have none.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if they cannot be decoded.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let known: Vec<u32> = ids.iter().copied().filter(|&id| self.tokenizer.id_to_token(id).is_some()).collect();
        self.tokenizer.decode(&known, false)
    }

    /// The tokens of a prompt: names and words that are likely to be said.
    ///
    /// # Errors
    /// [`Error::Input`] for a text with special tokens; [`Error::Tokenizer`].
    pub fn prompt_ids(&self, text: &str) -> Result<Vec<u32>> {
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let encodings = self.tokenizer.encode(&Text::from(format!(" {}", text.trim())), &options)?;
        let ids = encodings.into_iter().next().map(|encoding| encoding.ids).unwrap_or_default();
        if let Some(&id) = ids.iter().find(|&&id| id >= self.eos) {
            let token = self.tokenizer.id_to_token(id).unwrap_or_default();
            return Err(Error::input("prompt", format_args!("the special token `{token}`"), "text"));
        }
        Ok(self.start_of_prev.into_iter().chain(ids).collect())
    }

    /// The ids without a prompt before the start.
    fn without_prompt<'a>(&self, ids: &'a [u32]) -> &'a [u32] {
        if self.start_of_prev.is_none() || ids.first().copied() != self.start_of_prev {
            return ids;
        }
        match ids.iter().position(|&id| Some(id) == self.start_of_transcript) {
            Some(start) => &ids[start..],
            None => &[],
        }
    }
}
