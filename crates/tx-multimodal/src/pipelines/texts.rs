//! Texts as the inputs of a model that joins modalities.

use burn::tensor::Device;
use tx_core::error::{Error, Result};
use tx_core::task::{IntRows, TextArguments, TextInputs, TextLimits};
use tx_core::tokenizer::{EncodeOptions, Encoding, PadTo, Padding, Text, Tokenizer, Truncation};

/// The tokens of every text of a model that scores pairs by themselves, padding included: SigLIP was trained so.
const FIXED_LENGTH: usize = 64;

/// A tokenizer, and what its model takes.
#[derive(Debug)]
pub(super) struct Texts {
    tokenizer: Tokenizer,
    limits: TextLimits,
    /// All texts have this many tokens, of which padding counts; as many as the longest of a batch if `None`.
    length: Option<usize>,
}

impl Texts {
    /// A tokenizer for a model, which `has_fixed_length` if it takes padding for text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it gives ids that the model has no vectors for.
    pub fn new(tokenizer: Tokenizer, limits: TextLimits, has_fixed_length: bool) -> Result<Self> {
        let (last, rows) = (tokenizer.max_id(), limits.vocab_size);
        if last as usize >= rows {
            let reason =
                format_args!("it gives ids up to {last}, expected at most {}: `vocab_size` of the model", rows - 1);
            return Err(Error::tokenizer(tokenizer.path(), reason));
        }
        let length = has_fixed_length.then(|| limits.max_length.unwrap_or(FIXED_LENGTH).min(FIXED_LENGTH));
        Ok(Self { tokenizer, limits, length })
    }

    /// The tokens of a text. One that is too long is cut if `truncation`, or if all texts have one length.
    ///
    /// # Errors
    /// [`Error::Input`] for a text without tokens, and for one with more tokens than the model takes.
    pub fn encode(&self, text: &str, truncation: bool) -> Result<Encoding> {
        let most = self.limits.max_length.into_iter().chain(self.tokenizer.model_max_length()).min();
        let cut = truncation || self.length.is_some();
        let options = EncodeOptions {
            truncation: if cut { Truncation::LongestFirst } else { Truncation::DoNotTruncate },
            max_length: self.length.or(most),
            ..EncodeOptions::default()
        };
        let encoding = self.tokenizer.encode(&Text::from(text), &options)?.into_iter().next().unwrap_or_default();
        match self.limits.max_length {
            _ if encoding.is_empty() => Err(Error::input("text", "no tokens", "a text with at least one token")),
            Some(max) if encoding.len() > max => {
                let found = format_args!("{} tokens", encoding.len());
                Err(Error::input("text", found, format_args!("at most {max}, the positions of the model; shorten it")))
            }
            _ => Ok(encoding),
        }
    }

    /// How much a text adds to a forward pass, in tokens.
    pub fn cost(&self, encoding: &Encoding) -> usize {
        self.length.unwrap_or(encoding.len())
    }

    /// The arguments of a forward pass, padded.
    ///
    /// # Errors
    /// [`Error::Input`] if texts differ in length and the tokenizer has no padding token, or they do not fit the model.
    pub fn inputs(&self, encodings: &[&Encoding], device: &Device) -> Result<TextInputs> {
        let mut rows: Vec<Encoding> = encodings.iter().map(|&encoding| encoding.clone()).collect();
        let longest = rows.iter().map(Encoding::len).max().unwrap_or(0);
        let length = self.length.unwrap_or(longest);
        let is_padded = rows.iter().any(|row| row.len() < length);
        if is_padded {
            self.tokenizer.pad(&mut rows, &Padding { to: PadTo::Length(length), ..Padding::default() })?;
        }
        let field = |field: fn(&Encoding) -> &Vec<u32>| {
            let rows: Vec<Vec<u32>> = rows.iter().map(|row| field(row).clone()).collect();
            IntRows::new(&rows)
        };
        let arguments = TextArguments {
            input_ids: field(|row| &row.ids),
            attention_mask: (is_padded && self.length.is_none()).then(|| field(|row| &row.attention_mask)),
            token_type_ids: self.tokenizer.has_token_type_ids().then(|| field(|row| &row.type_ids)),
            position_ids: None,
        };
        TextInputs::new(&arguments, &self.limits, device)
    }
}
