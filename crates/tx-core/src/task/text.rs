//! Text: what its models take, and what their heads compute.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::{PretrainedModel, Record};
use crate::error::{Error, Result};
use crate::nn::{Cache, CacheKind, Mask};

/// What a text model can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLimits {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// The longest sequence, in tokens; `None` if positions are not limited.
    pub max_length: Option<usize>,
    /// Where positions are not limited: the longest text that the model was made for, in tokens, if its config says so. A
    /// pass takes more, but nothing sensible follows.
    pub context: Option<usize>,
    /// Position ids are below this: the rows of the table, of which padding may have some.
    pub positions: usize,
    /// Token type ids are below this; 0 if the model has none.
    pub type_vocab_size: usize,
}

impl TextLimits {
    /// The limits of a model without types whose positions have no end, and which was made for texts of `context` tokens.
    pub fn unlimited(vocab_size: usize, context: Option<usize>) -> Self {
        Self { vocab_size, max_length: None, context, positions: 1 << 24, type_vocab_size: 0 }
    }

    /// The longest text that a prompt may be, in tokens: what the model can take, or else what it was made for.
    pub fn longest_prompt(&self) -> Option<usize> {
        self.max_length.or(self.context)
    }

    /// Leaves room for `now` virtual tokens where there was room for `before`; `None`, and nothing has changed, if then no
    /// token fits.
    pub(crate) fn behind(&mut self, before: usize, now: usize) -> Option<()> {
        let left = |size: usize| size.saturating_add(before).checked_sub(now).filter(|&left| left > 0);
        let room = |size: Option<usize>| size.map_or(Some(None), |size| left(size).map(Some));
        (self.max_length, self.context, self.positions) =
            (room(self.max_length)?, room(self.context)?, left(self.positions)?);
        Some(())
    }
}

/// The longest sequence of a model whose positions are not limited, in tokens: attention takes memory by its square.
const MAX_LENGTH: usize = 1 << 14;

/// The arguments of a text model's forward pass, with HF's names.
#[derive(Debug, Clone)]
pub struct TextInputs {
    /// `[batch, seq]`
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`: 1 for tokens, 0 for padding; all tokens if `None`. A decoder with a cache takes `[batch, cached +
    /// seq]`.
    pub attention_mask: Option<Tensor<2, Int>>,
    /// `[batch, seq]`: which text of a pair a token belongs to; zeros if `None`.
    pub token_type_ids: Option<Tensor<2, Int>>,
    /// `[batch, seq]`; the architecture's own rule if `None`.
    pub position_ids: Option<Tensor<2, Int>>,
    /// Virtual tokens before the text that are keys and values alone: its positions follow theirs.
    pub past: usize,
}

/// Rows of one length, row-major: a tensor that has not been checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IntRows {
    /// Number of rows.
    pub batch: usize,
    /// Elements per row.
    pub seq: usize,
    /// `batch · seq` elements.
    pub values: Vec<i64>,
}

impl IntRows {
    /// Rows that all have the length of the first.
    pub fn new<T: Copy + Into<i64>>(rows: &[Vec<T>]) -> Self {
        let seq = rows.first().map_or(0, Vec::len);
        Self { batch: rows.len(), seq, values: rows.iter().flatten().map(|&v| v.into()).collect() }
    }

    fn to_tensor(&self, device: &Device) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(self.values.clone(), [self.batch, self.seq]), device)
    }
}

/// The unchecked arguments of a text model, by HF's names.
#[derive(Debug, Clone, Default)]
pub struct TextArguments {
    /// See [`TextInputs::input_ids`].
    pub input_ids: IntRows,
    /// See [`TextInputs::attention_mask`].
    pub attention_mask: Option<IntRows>,
    /// See [`TextInputs::token_type_ids`].
    pub token_type_ids: Option<IntRows>,
    /// See [`TextInputs::position_ids`].
    pub position_ids: Option<IntRows>,
}

impl TextInputs {
    /// Checks the arguments against what the model can take, and puts them on its device.
    ///
    /// `token_type_ids` are dropped for a model that has no table for them.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty or too long sequence, ids outside of the tables, and shapes that differ.
    pub fn new(arguments: &TextArguments, limits: &TextLimits, device: &Device) -> Result<Self> {
        let ids = &arguments.input_ids;
        if ids.batch == 0 || ids.seq == 0 {
            return Err(Error::input("input_ids", "no tokens", "at least one token"));
        }
        let max = limits.max_length.unwrap_or(MAX_LENGTH);
        if ids.seq > max {
            return Err(Error::input(
                "input_ids",
                format_args!("{} tokens", ids.seq),
                format_args!("at most {max}; shorten the text or turn truncation on"),
            ));
        }
        let check = |what: &str, rows: &IntRows, end: usize| {
            if (rows.batch, rows.seq) != (ids.batch, ids.seq) || rows.values.len() != ids.batch * ids.seq {
                return Err(Error::input(
                    what,
                    format_args!("[{}, {}]", rows.batch, rows.seq),
                    format_args!("[{}, {}], the shape of `input_ids`", ids.batch, ids.seq),
                ));
            }
            match rows.values.iter().find(|&&v| v < 0 || v as u64 >= end as u64) {
                Some(v) => Err(Error::input(what, v, format_args!("0 to {}", end.saturating_sub(1)))),
                None => Ok(()),
            }
        };
        check("input_ids", ids, limits.vocab_size)?;
        arguments.attention_mask.iter().try_for_each(|mask| check("attention_mask", mask, 2))?;
        // Tokenizers give types to models that have none, and Python ignores them.
        let types = if limits.type_vocab_size == 0 { usize::MAX } else { limits.type_vocab_size };
        arguments.token_type_ids.iter().try_for_each(|ids| check("token_type_ids", ids, types))?;
        arguments.position_ids.iter().try_for_each(|ids| check("position_ids", ids, limits.positions))?;
        let tensor = |rows: &Option<IntRows>| rows.as_ref().map(|rows| rows.to_tensor(device));
        Ok(Self {
            input_ids: ids.to_tensor(device),
            attention_mask: tensor(&arguments.attention_mask),
            token_type_ids: tensor(&arguments.token_type_ids).filter(|_| limits.type_vocab_size > 0),
            position_ids: tensor(&arguments.position_ids),
            past: 0,
        })
    }

    /// Some rows of the batch.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let narrow = |x: &Tensor<2, Int>| x.clone().narrow(0, rows.start, rows.len());
        Self {
            input_ids: narrow(&self.input_ids),
            attention_mask: self.attention_mask.as_ref().map(narrow),
            token_type_ids: self.token_type_ids.as_ref().map(narrow),
            position_ids: self.position_ids.as_ref().map(narrow),
            past: self.past,
        }
    }

    /// The same text behind `count` tokens that are keys and values alone, which the layers know of.
    pub(crate) fn behind_keys(&self, count: usize) -> Self {
        Self {
            attention_mask: self.attention_mask.clone().map(|mask| after(constant_rows(&mask, count, 1), mask)),
            position_ids: self.position_ids.clone().map(|positions| positions + count as i64),
            ..self.clone()
        }
    }

    /// The same text behind `count` tokens with the ids `first_id`, `first_id + 1`, …
    pub(crate) fn behind_prompt(&self, count: usize, first_id: usize) -> Self {
        let counted = |like: &Tensor<2, Int>, first: usize| {
            let numbers = Tensor::arange(first as i64..(first + count) as i64, &like.device());
            numbers.unsqueeze::<2>().expand([like.dims()[0], count])
        };
        let ids = self.input_ids.clone();
        let positions = self.position_ids.clone();
        Self {
            input_ids: after(counted(&ids, first_id), ids),
            attention_mask: self.attention_mask.clone().map(|mask| after(constant_rows(&mask, count, 1), mask)),
            token_type_ids: self.token_type_ids.clone().map(|types| after(constant_rows(&types, count, 0), types)),
            position_ids: positions.map(|positions| after(counted(&positions, 0), positions + count as i64)),
            past: self.past,
        }
    }

    /// What the queries of these inputs may not see: padding.
    pub fn mask(&self) -> Mask {
        Mask::padding(self.attention_mask.clone())
    }

    /// `token_type_ids`, or zeros.
    ///
    /// # Shapes
    /// - output: `[batch, seq]`
    pub fn token_type_ids_or_zeros(&self) -> Tensor<2, Int> {
        self.token_type_ids.clone().unwrap_or_else(|| self.input_ids.zeros_like())
    }

    /// What a decoder's queries may not see: padding, and what comes later or left the window.
    pub fn causal_mask(&self, window: Option<usize>) -> Mask {
        Mask::causal(self.attention_mask.clone(), window)
    }

    /// `position_ids`, or `0, 1, …` for one row.
    ///
    /// # Shapes
    /// - output: `[batch or 1, seq]`
    pub fn position_ids_or_range(&self) -> Tensor<2, Int> {
        self.position_ids_from(0)
    }

    /// `position_ids`, or `start, start + 1, …` for one row.
    ///
    /// # Shapes
    /// - output: `[batch or 1, seq]`
    pub fn position_ids_from(&self, start: usize) -> Tensor<2, Int> {
        self.position_ids.clone().unwrap_or_else(|| {
            let (start, seq) = (start + self.past, self.input_ids.dims()[1]);
            Tensor::arange(start as i64..(start + seq) as i64, &self.input_ids.device()).unsqueeze()
        })
    }

    /// `position_ids`, or `padding_id + 1, …` for tokens and `padding_id` for padding: RoBERTa's rule.
    ///
    /// # Shapes
    /// - output: `[batch, seq]`
    pub fn position_ids_or_skip_padding(&self, padding_id: usize) -> Tensor<2, Int> {
        self.position_ids.clone().unwrap_or_else(|| {
            let token: Tensor<2, Bool> = self.input_ids.clone().not_equal_elem(padding_id as i64);
            let token = token.int();
            (token.clone().cumsum(1) + self.past as i64) * token + padding_id as i64
        })
    }
}

/// Columns of one value before those of a matrix.
fn constant_rows(like: &Tensor<2, Int>, columns: usize, value: i64) -> Tensor<2, Int> {
    Tensor::full([like.dims()[0], columns], value, (&like.device(), like.dtype()))
}

/// Columns, and those that follow them.
fn after(first: Tensor<2, Int>, rest: Tensor<2, Int>) -> Tensor<2, Int> {
    Tensor::cat(vec![first.cast(rest.dtype()), rest], 1)
}

/// The result of a base model.
#[derive(Debug, Clone)]
pub struct BaseModelOutput {
    /// `[batch, seq, hidden]`
    pub last_hidden_state: Tensor<3>,
    /// `[batch, hidden]`, if the model has a pooler.
    pub pooler_output: Option<Tensor<2>>,
}

/// Start and end scores of an extractive answer.
#[derive(Debug, Clone)]
pub struct QuestionAnsweringOutput {
    /// `[batch, seq]`
    pub start_logits: Tensor<2>,
    /// `[batch, seq]`
    pub end_logits: Tensor<2>,
}

impl QuestionAnsweringOutput {
    /// # Shapes
    /// - logits: `[batch, seq, 2]`
    pub fn split(logits: Tensor<3>) -> Self {
        let [start, end] = [0, 1].map(|i| logits.clone().narrow(2, i, 1).squeeze_dim(2));
        Self { start_logits: start, end_logits: end }
    }
}

/// Text to hidden states: HF's `AutoModel` for text.
pub trait TextModel: PretrainedModel {
    /// The encoder, and the pooler where there is one.
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput;
}

/// Scores for the token at every position.
pub trait MaskedLm: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, seq, vocab]`
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3>;
}

/// Scores for the next token at every position.
///
/// The three steps of [`CausalLm::forward`] are apart, so that other modalities can put their embeddings between text,
/// and generation need not score what it does not look at.
pub trait CausalLm: PretrainedModel {
    /// What each layer keeps of the tokens it has seen: what [`Cache::new`] takes.
    fn cache_kinds(&self) -> Vec<CacheKind>;

    /// A length in tokens: the cache of a sequence that outgrows it is of no use any more, because the layers see tokens of
    /// longer sequences in another way. Such a sequence is computed anew, once, when it does. `None` if there is none.
    fn restarts_at(&self) -> Option<usize> {
        None
    }

    /// # Shapes
    /// - input_ids: `[batch, seq]`
    /// - output: `[batch, seq, hidden]`
    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3>;

    /// The layers and the last norm. The tokens follow those in the cache, which keeps them.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3>;

    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - output: `[batch, seq, vocab]`
    fn head(&self, x: Tensor<3>) -> Tensor<3>;

    /// # Shapes
    /// - output: `[batch, seq, vocab]`
    fn forward(&self, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        self.head(self.decode(self.embed(inputs.input_ids.clone()), inputs, cache, record))
    }
}

/// What a decoder looks at besides its own tokens: what an encoder made of its input.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[batch, positions, hidden]`
    pub last_hidden_state: Tensor<3>,
    /// `[batch, positions]`: 1 for what is there, 0 for padding; no padding if `None`.
    pub attention_mask: Option<Tensor<2, Int>>,
    /// Keys and values of each layer's cross-attention, `[batch, positions, heads, head_dim]`, computed once.
    pub keys_values: Vec<[Tensor<4>; 2]>,
}

/// Scores for the next token, given what an encoder has seen: HF's `…ForConditionalGeneration`.
pub trait ConditionalLm: PretrainedModel {
    /// What each layer keeps of the tokens it has seen: what [`Cache::new`] takes.
    fn cache_kinds(&self) -> Vec<CacheKind>;

    /// # Shapes
    /// - input_ids: `[batch, seq]`
    /// - output: `[batch, seq, hidden]`
    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3>;

    /// The decoder's layers and its last norm. The tokens follow those in the cache, which keeps them.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    fn decode(
        &self,
        x: Tensor<3>,
        inputs: &TextInputs,
        encoded: &Encoded,
        cache: &mut Cache,
        record: &mut Record,
    ) -> Tensor<3>;

    /// # Shapes
    /// - x: `[batch, seq, hidden]`
    /// - output: `[batch, seq, vocab]`
    fn head(&self, x: Tensor<3>) -> Tensor<3>;
}

/// Scores for the labels of a whole text.
pub trait SequenceClassifier: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, labels]`
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2>;
}

/// Scores for the labels of every token.
pub trait TokenClassifier: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, seq, labels]`
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3>;
}

/// Scores for where an answer starts and ends.
pub trait QuestionAnswerer: PretrainedModel {
    /// The two scores of every token.
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput;
}

/// Scores for one of several texts; the choices of one example are consecutive rows.
pub trait MultipleChoice: PretrainedModel {
    /// # Shapes
    /// - inputs: `[batch · choices, seq]`
    /// - output: `[batch · choices, 1]`
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2>;
}

/// Whether the second text follows the first: scores for yes and no.
pub trait NextSentencePredictor: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, 2]`
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2>;
}

/// Scores for each token having been replaced: ELECTRA's discriminator.
pub trait TokenDiscriminator: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, seq]`
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_tokens_take_room_of_every_length() {
        let mut limits = TextLimits::unlimited(9, Some(5));
        assert_eq!((limits.longest_prompt(), limits.behind(0, 2)), (Some(5), Some(())));
        assert_eq!((limits.context, limits.max_length, limits.positions), (Some(3), None, (1 << 24) - 2));
        let before = limits;
        assert_eq!(limits.behind(2, 5), None);
        assert_eq!(limits, before);
        assert_eq!(limits.behind(2, 0), Some(()));
        assert_eq!(limits, TextLimits::unlimited(9, Some(5)));
        let hard = TextLimits { max_length: Some(4), ..limits };
        assert_eq!((hard.longest_prompt(), TextLimits::unlimited(9, None).longest_prompt()), (Some(4), None));
    }
}
