//! A model with its tokenizer: from texts to rows of a forward pass, and from its tensors to numbers on the host.

use std::path::Path;

use burn::tensor::Tensor;
use tx_core::device;
use tx_core::error::{Error, Result};
use tx_core::registry::{Auto, Entry, LoadOptions, Task, from_folder};
use tx_core::task::{IntRows, TextArguments, TextInputs, TextLimits};
use tx_core::tokenizer::{EncodeOptions, Encoding, Side, Text, Tokenizer, Truncation};

use crate::models;

/// The most tokens that a padded batch may have.
const MAX_TOKENS: usize = 1 << 24;

/// A model and the tokenizer that belongs to it.
#[derive(Debug)]
pub struct TokenizedModel<T: ?Sized + Task> {
    /// The model.
    pub model: Auto<T>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// The arguments of a forward pass, and how many tokens of padding stand before each row.
pub(super) struct Batch {
    pub inputs: TextInputs,
    pub starts: Vec<usize>,
}

impl<T: ?Sized + Task<Limits = TextLimits>> TokenizedModel<T> {
    /// Loads both from a folder; `table` is one of [`crate::models`].
    ///
    /// # Errors
    /// As [`tx_core::registry::from_folder`] and [`Tokenizer::from_folder`].
    pub fn from_folder(table: &[Entry<T>], folder: &Path, options: &LoadOptions) -> Result<Self> {
        // The tokenizer first: if it cannot be used, no weights have been read for nothing.
        let tokenizer = Tokenizer::from_folder(folder)?;
        let model = from_folder(table, &models::classes(), folder, options)?;
        let (last, rows) = (tokenizer.max_id(), model.limits.vocab_size);
        if last as usize >= rows {
            let reason =
                format_args!("it gives ids up to {last}, expected at most {}: `vocab_size` of the model", rows - 1);
            return Err(Error::tokenizer(tokenizer.path(), reason));
        }
        Ok(Self { model, tokenizer })
    }

    /// The most tokens that both the model and the tokenizer allow.
    pub fn max_length(&self) -> Option<usize> {
        self.model.limits.max_length.into_iter().chain(self.tokenizer.model_max_length()).min()
    }

    /// One encoding of a text. One that is too long is cut if `truncation` or `max_length` says so, and is an error
    /// otherwise.
    pub(super) fn encode(&self, text: &Text, truncation: bool, max_length: Option<usize>) -> Result<Encoding> {
        let cut = truncation || max_length.is_some();
        let options = EncodeOptions {
            truncation: if cut { Truncation::LongestFirst } else { Truncation::DoNotTruncate },
            max_length: max_length.or(self.max_length()),
            ..EncodeOptions::default()
        };
        let encoding = self.tokenizer.encode(text, &options)?.into_iter().next().unwrap_or_default();
        self.check(&encoding, "shorten it or turn truncation on")?;
        Ok(encoding)
    }

    /// A text without tokens, or with more than the model has positions for, is an error that ends with the remedy.
    pub(super) fn check(&self, encoding: &Encoding, remedy: &str) -> Result<()> {
        match self.model.limits.max_length {
            _ if encoding.is_empty() => Err(Error::input("text", "no tokens", "a text with at least one token")),
            Some(max) if encoding.len() > max => {
                let expected = format_args!("at most {max}, the positions of the model; {remedy}");
                Err(Error::input("text", format_args!("{} tokens", encoding.len()), expected))
            }
            _ => Ok(()),
        }
    }

    /// Pads encodings to the longest one, on the side that the model wants.
    pub(super) fn batch<'a>(&self, encodings: impl Iterator<Item = &'a Encoding> + Clone) -> Result<Batch> {
        let batch = encodings.clone().count();
        let seq = encodings.clone().map(Encoding::len).max().unwrap_or(0);
        let padded = encodings.clone().any(|encoding| encoding.len() < seq);
        if batch.saturating_mul(seq) > MAX_TOKENS {
            let found = format_args!("{batch} texts of {seq} tokens in one forward pass");
            return Err(Error::input(
                "batch_size",
                found,
                format_args!("at most {MAX_TOKENS} tokens; use a smaller batch"),
            ));
        }
        let special = self.tokenizer.special();
        let pad = special.pad.as_ref().or(special.eos.as_ref()).map(|token| token.id);
        if padded && pad.is_none() {
            let found = "a tokenizer without a padding token, and texts of different lengths";
            return Err(Error::input("batch_size", found, "1"));
        }
        let left = self.tokenizer.padding_side() == Side::Left;
        let rows = |field: fn(&Encoding) -> &Vec<u32>, fill: u32| {
            let mut values = Vec::with_capacity(batch * seq);
            for row in encodings.clone().map(field) {
                let padding = std::iter::repeat_n(i64::from(fill), seq - row.len());
                if left {
                    values.extend(padding.clone());
                }
                values.extend(row.iter().map(|&value| i64::from(value)));
                if !left {
                    values.extend(padding);
                }
            }
            IntRows { batch, seq, values }
        };
        let arguments = TextArguments {
            input_ids: rows(|encoding| &encoding.ids, pad.unwrap_or(0)),
            attention_mask: padded.then(|| rows(|encoding| &encoding.attention_mask, 0)),
            token_type_ids: self.tokenizer.has_token_type_ids().then(|| rows(|encoding| &encoding.type_ids, 0)),
            position_ids: None,
        };
        let inputs = TextInputs::new(&arguments, &self.model.limits, &self.model.device)?;
        let starts = encodings.map(|encoding| if left { seq - encoding.len() } else { 0 }).collect();
        Ok(Batch { inputs, starts })
    }

    /// A classifier's outputs must have as many labels.
    pub(super) fn check_labels(&self, labels: &[String], outputs: usize) -> Result<()> {
        if labels.len() == outputs {
            return Ok(());
        }
        let reason = format_args!("{} labels, but the model has {outputs} outputs", labels.len());
        Err(Error::config(self.model.config.path(), "id2label", reason))
    }

    /// The text of ids; rows that a model has beyond its vocabulary have none.
    pub(super) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let known: Vec<u32> = ids.iter().copied().filter(|&id| self.tokenizer.id_to_token(id).is_some()).collect();
        self.tokenizer.decode(&known, skip_special_tokens)
    }

    /// The elements of a tensor, row-major.
    pub(super) fn read<const D: usize>(&self, tensor: Tensor<D>) -> Result<Vec<f32>> {
        tensor.try_into_vec_as::<f32>().map_err(|e| Error::Device {
            device: format!("{:?}", self.model.device),
            reason: format!("the result cannot be read: {e}"),
            available: device::available().join(", "),
        })
    }

    /// The rows of a batch: `[batch, n]`.
    pub(super) fn read_rows(&self, tensor: Tensor<2>) -> Result<Vec<Vec<f32>>> {
        let [_, n] = tensor.dims();
        let values = self.read(tensor)?;
        Ok(values.chunks_exact(n.max(1)).map(<[f32]>::to_vec).collect())
    }

    /// What `take` makes of each row of a batch `[batch, seq, n]`: it gets the elements of the tokens that are no
    /// padding, row-major, and `n`.
    pub(super) fn read_tokens<R>(
        &self,
        tensor: Tensor<3>,
        encodings: &[&Encoding],
        starts: &[usize],
        take: impl Fn(&[f32], usize) -> R,
    ) -> Result<Vec<R>> {
        let [_, seq, n] = tensor.dims();
        let values = self.read(tensor)?;
        let rows = values.chunks_exact((seq * n).max(1)).zip(encodings).zip(starts);
        Ok(rows.map(|((row, e), &start)| take(&row[start * n..(start + e.len()) * n], n)).collect())
    }
}

/// The index of the largest element, the first of equal ones.
pub(super) fn argmax(values: &[f32]) -> usize {
    let best = values.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(index, _)| index)
}

/// A part of a text, by the positions of its characters; empty if there is no such part.
pub(super) fn slice_chars(text: &[char], start: usize, end: usize) -> String {
    let end = end.min(text.len());
    text[start.min(end)..end].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equal_ones() {
        assert_eq!(argmax(&[0.1, 0.7, 0.7, 0.2]), 1);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn slices_count_characters_and_never_fail() {
        let text: Vec<char> = "é日本x".chars().collect();
        assert_eq!(slice_chars(&text, 1, 3), "日本");
        assert_eq!(slice_chars(&text, 3, 99), "x");
        assert_eq!(slice_chars(&text, 4, 2), "");
    }
}
