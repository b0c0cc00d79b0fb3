//! Texts, what they become, and how they are cut and padded.

use rayon::prelude::*;
use tokenizers::{InputSequence, PostProcessor, TruncationDirection};

use super::guard::guarded;
use super::{Side, Tokenizer};
use crate::error::{Error, Result};

/// The most tokens that overlapping windows of one text, or a padded batch, may have together.
const MAX_TOKENS: usize = 1 << 24;

/// A text to encode, alone or with a second one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub first: Sequence,
    /// A second text: an answer's context, a hypothesis.
    pub second: Option<Sequence>,
}

/// One text, whole or split into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sequence {
    /// A whole text.
    Raw(String),
    /// Words, for labels per word: Python's `is_split_into_words`. Offsets then count from the start of each word.
    Words(Vec<String>),
}

impl Text {
    /// Two texts.
    pub fn pair(first: impl Into<String>, second: impl Into<String>) -> Self {
        Self { first: Sequence::Raw(first.into()), second: Some(Sequence::Raw(second.into())) }
    }

    /// A text that is already split into words.
    pub fn words<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self { first: Sequence::Words(words.into_iter().map(Into::into).collect()), second: None }
    }
}

impl Sequence {
    fn is_empty(&self) -> bool {
        match self {
            Self::Raw(text) => text.is_empty(),
            Self::Words(words) => words.is_empty(),
        }
    }
}

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        Self { first: Sequence::Raw(text.into()), second: None }
    }
}

/// Which text is cut when there are too many tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Truncation {
    /// None: long encodings stay long.
    #[default]
    DoNotTruncate,
    /// The longer one of two, until both are equally long.
    LongestFirst,
    /// The first.
    OnlyFirst,
    /// The second.
    OnlySecond,
}

/// How texts are encoded. The default is that of Python's `tokenizer(text)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Whether to add the special tokens that the model wants around a text.
    pub add_special_tokens: bool,
    /// Which text is cut when there are too many tokens.
    pub truncation: Truncation,
    /// The side on which texts are cut; `None` is the tokenizer's own.
    pub truncation_side: Option<Side>,
    /// The most tokens, special ones included, where truncation is on; `None` is the model's limit.
    pub max_length: Option<usize>,
    /// How many tokens a window shares with the one before it; special tokens do not count.
    pub stride: usize,
    /// Whether what was cut off becomes further encodings.
    pub return_overflowing: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            add_special_tokens: true,
            truncation: Truncation::DoNotTruncate,
            truncation_side: None,
            max_length: None,
            stride: 0,
            return_overflowing: false,
        }
    }
}

/// An encoded text. All lists have one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Ids in the vocabulary.
    pub ids: Vec<u32>,
    /// 0, and 1 for the second text in models that distinguish them: `token_type_ids`.
    pub type_ids: Vec<u32>,
    /// 1, and 0 for padding.
    pub attention_mask: Vec<u32>,
    /// 1 for tokens that are not from the text: special tokens and padding.
    pub special_tokens_mask: Vec<u32>,
    /// Start and end in the original text, in characters (Unicode scalar values); `(0, 0)` for special tokens.
    pub offsets: Vec<(usize, usize)>,
    /// The number of the word in the text; `None` for special tokens.
    pub word_ids: Vec<Option<u32>>,
    /// 0 for the first text, 1 for the second; `None` for special tokens.
    pub sequence_ids: Vec<Option<usize>>,
    /// The index of the text in the batch: Python's `overflow_to_sample_mapping`.
    pub sample: usize,
}

impl Encoding {
    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn new(encoding: tokenizers::Encoding, sample: usize) -> Self {
        Self {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            attention_mask: encoding.get_attention_mask().to_vec(),
            special_tokens_mask: encoding.get_special_tokens_mask().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
            word_ids: encoding.get_word_ids().to_vec(),
            sequence_ids: encoding.get_sequence_ids(),
            sample,
        }
    }
}

/// The length to which encodings are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PadTo {
    /// That of the longest one.
    Longest,
    /// This many tokens; longer encodings stay as they are.
    Length(usize),
    /// The model's limit; nothing is padded if it has none.
    ModelMaxLength,
}

/// How encodings are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// The length.
    pub to: PadTo,
    /// Rounds the length up to a multiple.
    pub multiple_of: Option<usize>,
    /// The side; `None` is the one that the model wants.
    pub side: Option<Side>,
}

impl Default for Padding {
    fn default() -> Self {
        Self { to: PadTo::Longest, multiple_of: None, side: None }
    }
}

impl Tokenizer {
    /// Encodes a text. There is one encoding, or several if cut-off parts are asked for.
    ///
    /// An empty second text counts as none, as in a call of Python's tokenizer with one pair.
    ///
    /// # Errors
    /// [`Error::Input`] if the options contradict each other or the text cannot be cut as they say; [`Error::Tokenizer`] if
    /// the tokenizer fails on the text.
    pub fn encode(&self, text: &Text, options: &EncodeOptions) -> Result<Vec<Encoding>> {
        let second = text.second.as_ref().filter(|second| !second.is_empty());
        self.encode_one(&text.first, second, options, 0)
    }

    /// Encodes texts, on all cores. Encodings are in the order of the texts; [`Encoding::sample`] says which one each is of.
    ///
    /// An empty second text is still a second text, as in a call of Python's tokenizer with lists.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`], for the first text that fails.
    pub fn encode_batch(&self, texts: &[Text], options: &EncodeOptions) -> Result<Vec<Encoding>> {
        let encode =
            |(sample, text): (usize, &Text)| self.encode_one(&text.first, text.second.as_ref(), options, sample);
        let results: Vec<Result<Vec<Encoding>>> = texts.par_iter().enumerate().map(encode).collect();
        let mut encodings = Vec::with_capacity(texts.len());
        for result in results {
            encodings.extend(result?);
        }
        Ok(encodings)
    }

    /// Pads encodings to a common length.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no padding token, or the padded batch would be too large.
    pub fn pad(&self, encodings: &mut [Encoding], padding: &Padding) -> Result<()> {
        let length = match padding.to {
            PadTo::Longest => encodings.iter().map(Encoding::len).max().unwrap_or(0),
            PadTo::Length(length) => length,
            PadTo::ModelMaxLength => match self.model_max_length {
                Some(length) => length,
                None => return Ok(()),
            },
        };
        let multiple = padding.multiple_of.unwrap_or(1);
        let padded = length.checked_next_multiple_of(multiple);
        let padded = padded.ok_or_else(|| Error::input("pad_to_multiple_of", multiple, "a positive number"))?;
        let Some(pad) = &self.special.pad else {
            return Err(Error::input(
                "padding",
                "a tokenizer without a padding token",
                "one that has it, or no padding",
            ));
        };
        if padded.saturating_mul(encodings.len()) > MAX_TOKENS {
            let found = format!("{} encodings padded to {padded} tokens", encodings.len());
            return Err(Error::input("padding", found, format_args!("at most {MAX_TOKENS} tokens in a batch")));
        }
        let side = padding.side.unwrap_or(self.padding_side);
        for encoding in encodings {
            let count = padded.saturating_sub(encoding.len());
            fill(&mut encoding.ids, pad.id, count, side);
            fill(&mut encoding.type_ids, 0, count, side);
            fill(&mut encoding.attention_mask, 0, count, side);
            fill(&mut encoding.special_tokens_mask, 1, count, side);
            fill(&mut encoding.offsets, (0, 0), count, side);
            fill(&mut encoding.word_ids, None, count, side);
            fill(&mut encoding.sequence_ids, None, count, side);
        }
        Ok(())
    }

    fn encode_one(
        &self,
        first: &Sequence,
        second: Option<&Sequence>,
        options: &EncodeOptions,
        sample: usize,
    ) -> Result<Vec<Encoding>> {
        guarded(&self.path, "encoding", || {
            let mut first = self.split(first)?;
            let mut second = second.map(|text| self.split(text)).transpose()?;
            if let Some(second) = &mut second {
                second.set_type_ids(vec![1; second.len()]);
            }
            self.truncate(&mut first, second.as_mut(), options)?;
            let processed = self.post_processor.process(first, second, options.add_special_tokens);
            let mut encoding = processed.map_err(|e| Error::tokenizer(&self.path, e))?;
            let overflowing = encoding.take_overflowing();
            Ok(std::iter::once(encoding).chain(overflowing).map(|encoding| Encoding::new(encoding, sample)).collect())
        })
    }

    /// One text's tokens, without any special ones around them.
    fn split(&self, text: &Sequence) -> Result<tokenizers::Encoding> {
        let input = match text {
            Sequence::Raw(text) => InputSequence::from(text.as_str()),
            Sequence::Words(words) => InputSequence::from(words.as_slice()),
        };
        let mut encoding = self.backend.encode(input, false).map_err(|e| Error::tokenizer(&self.path, e))?;
        match text {
            Sequence::Raw(text) => Characters::new(text).count(encoding.get_offsets_mut()),
            Sequence::Words(words) => {
                let word_ids = encoding.get_word_ids().to_vec();
                let mut offsets = encoding.get_offsets_mut();
                for tokens in word_ids.chunk_by(|a, b| a == b) {
                    let (of_word, rest) = offsets.split_at_mut(tokens.len());
                    if let Some(word) = tokens[0].and_then(|word| words.get(word as usize)) {
                        Characters::new(word).count(of_word);
                    }
                    offsets = rest;
                }
            }
        }
        Ok(encoding)
    }

    /// Cuts the texts so that they fit with the special tokens; what is cut off is kept in them if it is asked for.
    fn truncate(
        &self,
        first: &mut tokenizers::Encoding,
        second: Option<&mut tokenizers::Encoding>,
        options: &EncodeOptions,
    ) -> Result<()> {
        if options.truncation == Truncation::DoNotTruncate {
            return Ok(());
        }
        let Some(max_length) = options.max_length.or(self.model_max_length) else { return Ok(()) };
        let added = if options.add_special_tokens { self.post_processor.added_tokens(second.is_some()) } else { 0 };
        let Some(room) = max_length.checked_sub(added) else {
            let expected = format!("at least {added}, the number of special tokens");
            return Err(Error::input("max_length", max_length, expected));
        };
        if options.stride > 0 && options.stride >= room {
            return Err(Error::input("stride", options.stride, format_args!("less than {room}, {}", ROOM)));
        }

        let (n1, n2) = (first.len(), second.as_ref().map_or(0, |second| second.len()));
        let excess = (n1 + n2).saturating_sub(room);
        if excess == 0 {
            return Ok(());
        }
        let too_short = |which: &str, length: usize| {
            let found = format!("{excess} tokens too many, but the {which} text has only {length}");
            Error::input("max_length", found, "a larger one, or another truncation strategy")
        };
        let (keep1, keep2) = match options.truncation {
            _ if room == 0 => (0, 0),
            Truncation::OnlyFirst if n1 <= excess => return Err(too_short("first", n1)),
            Truncation::OnlyFirst => (n1 - excess, n2),
            Truncation::OnlySecond if second.is_none() => {
                return Err(Error::input(
                    "truncation",
                    "`only_second` for a single text",
                    "`only_first` or a second text",
                ));
            }
            Truncation::OnlySecond if n2 <= excess => return Err(too_short("second", n2)),
            Truncation::OnlySecond => (n1, n2 - excess),
            _ if second.is_none() => (room, 0),
            _ => longest_first(n1, n2, room),
        };
        let mut windows = 1;
        let targets = [Some((&mut *first, keep1)), second.map(|second| (second, keep2))];
        for (encoding, keep) in targets.into_iter().flatten().filter(|(encoding, keep)| *keep < encoding.len()) {
            let stride = if options.return_overflowing { options.stride } else { 0 };
            if keep > 0 && stride >= keep {
                let expected = format!("less than {keep}, the tokens that are left of a text after truncation");
                return Err(Error::input("stride", stride, expected));
            }
            if keep > 0 {
                windows *= 1 + (encoding.len() - keep).div_ceil(keep - stride);
            }
            if options.return_overflowing && windows.saturating_mul(room) > MAX_TOKENS {
                let found = format!("{stride} with a text of {} tokens, which makes {windows} windows", encoding.len());
                return Err(Error::input("stride", found, format_args!("at most {MAX_TOKENS} tokens in all windows")));
            }
            let direction = match options.truncation_side.unwrap_or(self.truncation_side) {
                Side::Left => TruncationDirection::Left,
                Side::Right => TruncationDirection::Right,
            };
            encoding.truncate(keep, stride, direction);
            if !options.return_overflowing {
                encoding.take_overflowing();
            }
        }
        Ok(())
    }
}

/// From places in bytes to places in characters. The library can do this too, but through a hash map with an entry for
/// every byte, which nearly doubles the time of an encoding.
enum Characters {
    /// All characters have one byte.
    Ascii,
    /// The number of the character that each byte belongs to, and at last how many there are.
    OfByte(Vec<usize>),
}

impl Characters {
    fn new(text: &str) -> Self {
        if text.is_ascii() {
            return Self::Ascii;
        }
        let mut of_byte = Vec::with_capacity(text.len() + 1);
        let mut count = 0;
        for c in text.chars() {
            of_byte.resize(of_byte.len() + c.len_utf8(), count);
            count += 1;
        }
        of_byte.push(count);
        Self::OfByte(of_byte)
    }

    /// Turns offsets in bytes into offsets in characters. A token of nothing at the end of the text keeps its place in
    /// bytes, as in the library.
    fn count(&self, offsets: &mut [(usize, usize)]) {
        let Self::OfByte(of_byte) = self else { return };
        let last = of_byte.len() - 1;
        for (start, end) in offsets {
            if *start < last {
                (*start, *end) = (of_byte[*start], of_byte[(*end).min(last)]);
            }
        }
    }
}

/// What remains of `max_length`, for messages.
const ROOM: &str = "the tokens of `max_length` that are left beside the special ones";

/// How many tokens of two texts are kept if the longer one is cut first.
fn longest_first(n1: usize, n2: usize, room: usize) -> (usize, usize) {
    let short = n1.min(n2);
    // If the short one fits into its half, only the long one is cut.
    let kept = if 2 * short <= room { (short, room - short) } else { (room / 2, room / 2 + room % 2) };
    if n1 > n2 { (kept.1, kept.0) } else { kept }
}

/// Adds `count` values on one side.
fn fill<T: Copy>(values: &mut Vec<T>, value: T, count: usize, side: Side) {
    let end = values.len();
    values.resize(end + count, value);
    if side == Side::Left {
        values.rotate_right(count);
    }
}
