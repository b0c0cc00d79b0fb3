//! Examples that share a step, as the arguments of one forward pass: padded to the longest, with their labels.
//!
//! | file | holds |
//! |---|---|
//! | `masking.rs` | what a masked language model is to guess |
//! | `loader.rs` | batches of a data set, one after the other |

mod loader;
mod masking;

use std::path::PathBuf;

use tx_core::error::{Error, Result};
use tx_core::task::{IntRows, TextArguments};
use tx_core::tokenizer::{Side, Tokenizer};

pub use loader::DataLoader;
pub use masking::{Masking, MaskingOptions};

use crate::data::{Example, IGNORED, Labels, Origin, Reference, Tokens};

/// The most tokens that a padded batch may have.
const MAX_TOKENS: usize = 1 << 24;

/// What a model should say about a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchLabels {
    /// Nothing, or what follows from the texts.
    None,
    /// The number of a class for each example.
    Classes(Vec<i64>),
    /// Real numbers, `[batch, columns]`, row-major.
    Values {
        /// How many there are for each example.
        columns: usize,
        /// All of them.
        values: Vec<f32>,
    },
    /// A number per token, `[batch, seq]`; [`IGNORED`] for those that the loss leaves out.
    Tokens(IntRows),
    /// The first and last token of an answer, for each example.
    Spans {
        /// The first.
        starts: Vec<i64>,
        /// The last.
        ends: Vec<i64>,
    },
}

/// Examples that share a step, in the memory of the host.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The numbers of the examples.
    pub numbers: Vec<u64>,
    /// The rows that they are of, for messages.
    pub origins: Vec<Origin>,
    /// The texts: one entry, or one for each of those that are compared; none for images.
    pub texts: Vec<TextArguments>,
    /// The files of the images; none for texts.
    pub images: Vec<PathBuf>,
    /// What the model should say.
    pub labels: BatchLabels,
    /// What judging answers takes, where the task keeps it.
    pub references: Vec<Option<Box<Reference>>>,
    /// How many tokens there are in all texts, without padding.
    pub tokens: usize,
}

impl Batch {
    /// How many examples there are: none, it may be, for some ranks at the end of an epoch.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

/// How batches are padded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollatorOptions {
    /// Rounds the length up to a multiple.
    pub pad_to_multiple_of: Option<usize>,
    /// Pads every batch to so many tokens; to its longest text if `None`.
    pub max_length: Option<usize>,
    /// The token that fills rows; that of the tokenizer if `None`.
    pub pad_token_id: Option<u32>,
    /// The side of the padding; `None` is the one that the model wants. What learns the next token is padded right: its
    /// positions count from the left.
    pub padding_side: Option<Side>,
}

/// The token that a tokenizer fills rows with: the one for padding, or else the end of text.
pub fn padding_token(tokenizer: &Tokenizer) -> Option<u32> {
    let special = tokenizer.special();
    special.pad.as_ref().or(special.eos.as_ref()).map(|token| token.id)
}

/// Makes batches of examples.
#[derive(Debug, Clone)]
pub struct Collator {
    /// The token that fills rows; `None` if the tokenizer has none that could.
    pad: Option<u32>,
    side: Side,
    has_token_type_ids: bool,
    options: CollatorOptions,
    masking: Option<Masking>,
}

impl Collator {
    /// A collator of texts. A tokenizer without a padding token pads with its end of text, whose labels are ignored too.
    ///
    /// # Errors
    /// [`Error::Input`] for a multiple of 0.
    pub fn new(tokenizer: &Tokenizer, options: CollatorOptions) -> Result<Self> {
        if options.pad_to_multiple_of == Some(0) {
            return Err(Error::input("pad_to_multiple_of", 0, "a positive number"));
        }
        Ok(Self {
            pad: options.pad_token_id.or_else(|| padding_token(tokenizer)),
            side: options.padding_side.unwrap_or(tokenizer.padding_side()),
            has_token_type_ids: tokenizer.has_token_type_ids(),
            options,
            masking: None,
        })
    }

    /// A collator of examples without texts.
    pub fn images() -> Self {
        let options = CollatorOptions::default();
        Self { pad: None, side: Side::Right, has_token_type_ids: false, options, masking: None }
    }

    /// Hides tokens, and makes them the labels.
    pub fn with_masking(self, masking: Masking) -> Self {
        Self { masking: Some(masking), ..self }
    }

    /// A batch of examples with their numbers. `epoch` chooses which tokens are hidden, if any are.
    ///
    /// # Errors
    /// [`Error::Input`] for a batch that would be too large, or that needs padding where there is none; [`Error::Malformed`]
    /// for examples whose labels are of different kinds.
    pub fn collate(&self, examples: Vec<(u64, Example)>, epoch: u64) -> Result<Batch> {
        let mut batch = Batch {
            numbers: Vec::with_capacity(examples.len()),
            origins: Vec::with_capacity(examples.len()),
            texts: Vec::new(),
            images: Vec::new(),
            labels: BatchLabels::None,
            references: Vec::with_capacity(examples.len()),
            tokens: 0,
        };
        let (mut texts, mut labels) = (Vec::with_capacity(examples.len()), Vec::with_capacity(examples.len()));
        for (number, mut example) in examples {
            if let (Some(masking), Some(tokens)) = (&self.masking, example.texts.first_mut()) {
                example.labels = Labels::Tokens(masking.hide(tokens, epoch, number));
            }
            batch.numbers.push(number);
            batch.images.extend(example.image);
            batch.references.push(example.reference);
            batch.origins.push(example.origin);
            texts.push(example.texts);
            labels.push(example.labels);
        }
        let roles = texts.first().map_or(0, Vec::len);
        if let Some(row) = texts.iter().position(|texts| texts.len() != roles) {
            let reason = format_args!("{} texts, where the others have {roles}", texts[row].len());
            return Err(batch.origins[row].error(reason));
        }
        let mut widths = Vec::with_capacity(roles);
        for role in 0..roles {
            let rows: Vec<&Tokens> = texts.iter().map(|texts| &texts[role]).collect();
            let width = self.width(&rows)?;
            batch.tokens += rows.iter().map(|tokens| tokens.len()).sum::<usize>();
            batch.texts.push(self.arguments(&rows, width));
            widths.push(width);
        }
        batch.labels = self.labels(&batch.origins, &texts, labels, widths.first().copied().unwrap_or(0))?;
        Ok(batch)
    }

    /// The length to which texts are padded.
    fn width(&self, rows: &[&Tokens]) -> Result<usize> {
        let longest = rows.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let wanted = longest.max(self.options.max_length.unwrap_or(0));
        let width = wanted.checked_next_multiple_of(self.options.pad_to_multiple_of.unwrap_or(1)).unwrap_or(usize::MAX);
        if width.saturating_mul(rows.len()) > MAX_TOKENS {
            let found = format_args!("{} texts padded to {width} tokens", rows.len());
            let expected = format_args!("at most {MAX_TOKENS} tokens; use a smaller batch, or shorter texts");
            return Err(Error::input("batch size", found, expected));
        }
        if self.pad.is_none() && rows.iter().any(|tokens| tokens.len() < width) {
            let found = "a tokenizer without a padding token, and texts of different lengths";
            return Err(Error::input("batch size", found, "1"));
        }
        Ok(width)
    }

    /// The texts of one role, padded.
    fn arguments(&self, rows: &[&Tokens], width: usize) -> TextArguments {
        let matrix = |row: &dyn Fn(&Tokens) -> Vec<i64>, fill: i64| {
            let rows: Vec<Vec<i64>> = rows.iter().map(|&tokens| self.pad(row(tokens), width, fill)).collect();
            IntRows { batch: rows.len(), seq: width, values: rows.concat() }
        };
        let padded = rows.iter().any(|tokens| tokens.len() < width);
        let wide = |values: &[u32]| values.iter().map(|&value| i64::from(value)).collect::<Vec<_>>();
        let types = |tokens: &Tokens| match tokens.type_ids.is_empty() {
            true => vec![0; tokens.len()],
            false => wide(&tokens.type_ids),
        };
        TextArguments {
            input_ids: matrix(&|tokens| wide(&tokens.ids), self.pad.map_or(0, i64::from)),
            attention_mask: padded.then(|| matrix(&|tokens| vec![1; tokens.len()], 0)),
            token_type_ids: self.has_token_type_ids.then(|| matrix(&types, 0)),
            position_ids: None,
        }
    }

    /// Values of a row with those of the padding.
    fn pad(&self, mut values: Vec<i64>, width: usize, fill: i64) -> Vec<i64> {
        let count = width.saturating_sub(values.len());
        values.resize(values.len() + count, fill);
        if self.side == Side::Left {
            values.rotate_right(count);
        }
        values
    }

    fn labels(
        &self,
        origins: &[Origin],
        texts: &[Vec<Tokens>],
        labels: Vec<Labels>,
        width: usize,
    ) -> Result<BatchLabels> {
        let first = texts.iter().map(|texts| texts.first());
        let rows = first.zip(origins).zip(labels);
        let mut joined: Option<BatchLabels> = None;
        for ((tokens, origin), label) in rows {
            let length = tokens.map_or(0, Tokens::len);
            let padding = if self.side == Side::Left { width.saturating_sub(length) } else { 0 };
            let new = match label {
                Labels::None => BatchLabels::None,
                Labels::Class(class) => BatchLabels::Classes(vec![class]),
                Labels::Values(values) => BatchLabels::Values { columns: values.len(), values },
                Labels::Same => {
                    let ids = tokens.map_or(&[][..], |tokens| tokens.ids.as_slice());
                    self.token_labels(ids.iter().map(|&id| i64::from(id)).collect(), width)
                }
                Labels::Tokens(labels) if labels.len() == length => self.token_labels(labels, width),
                Labels::Tokens(labels) => {
                    return Err(origin.error(format_args!("{} labels for {length} tokens", labels.len())));
                }
                Labels::Span { start, end } => {
                    BatchLabels::Spans { starts: vec![(start + padding) as i64], ends: vec![(end + padding) as i64] }
                }
            };
            match &mut joined {
                None => joined = Some(new),
                Some(joined) => join(joined, new).map_err(|reason| origin.error(reason))?,
            }
        }
        Ok(joined.unwrap_or(BatchLabels::None))
    }

    fn token_labels(&self, labels: Vec<i64>, width: usize) -> BatchLabels {
        BatchLabels::Tokens(IntRows { batch: 1, seq: width, values: self.pad(labels, width, IGNORED) })
    }
}

/// Adds the labels of one example to those of the batch.
fn join(joined: &mut BatchLabels, new: BatchLabels) -> Result<(), String> {
    match (joined, new) {
        (BatchLabels::None, BatchLabels::None) => {}
        (BatchLabels::Classes(all), BatchLabels::Classes(new)) => all.extend(new),
        (BatchLabels::Values { columns, values: all }, BatchLabels::Values { columns: count, values }) => {
            if *columns != count {
                return Err(format!("{count} values, where the others have {columns}"));
            }
            all.extend(values);
        }
        (BatchLabels::Tokens(all), BatchLabels::Tokens(new)) => {
            all.batch += new.batch;
            all.values.extend(new.values);
        }
        (BatchLabels::Spans { starts, ends }, BatchLabels::Spans { starts: first, ends: last }) => {
            starts.extend(first);
            ends.extend(last);
        }
        _ => return Err("labels of another kind than the others".to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
