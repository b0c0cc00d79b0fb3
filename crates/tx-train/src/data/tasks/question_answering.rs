//! Extractive question answering: a question, a text, and where in it the answer is. A long text is read in windows that
//! overlap; a window without the answer has it at its first special token, which stands for "no answer".
//!
//! Reference: transformers, `examples/pytorch/question-answering/run_qa.py`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tx_core::error::{Error, Result};
use tx_core::tokenizer::{EncodeOptions, Encoding, Side, SpecialToken, Text, Tokenizer, Truncation};

use crate::data::row::shown;
use crate::data::{Columns, Example, Labels, Preparation, Reference, Row, Tokens};

/// What is read, and how texts are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuestionAnsweringOptions {
    /// The column of the question.
    pub question_column: String,
    /// The column of the text.
    pub context_column: String,
    /// The column of the answers: `{"text": […], "answer_start": […]}`, or a list of `{"text": …, "answer_start": …}`;
    /// places count characters. The first one is learned; none means that there is none.
    pub answer_column: String,
    /// The column that names a question, for judging answers; the row's place serves if it is not there.
    pub id_column: String,
    /// The most tokens of a window with its question.
    pub max_seq_length: usize,
    /// How many tokens of the text two windows share.
    pub doc_stride: usize,
}

impl Default for QuestionAnsweringOptions {
    fn default() -> Self {
        Self {
            question_column: "question".into(),
            context_column: "context".into(),
            answer_column: "answers".into(),
            id_column: "id".into(),
            max_seq_length: 384,
            doc_stride: 128,
        }
    }
}

/// Makes examples of questions.
#[derive(Debug)]
pub struct QuestionAnswering<'t> {
    tokenizer: &'t Tokenizer,
    options: QuestionAnsweringOptions,
    keep_references: bool,
}

/// An answer, and where it begins in the text, in characters.
struct Answer<'r> {
    text: &'r str,
    start: usize,
}

impl<'t> QuestionAnswering<'t> {
    /// Examples to learn from, or with `keep_references` to judge answers by.
    ///
    /// # Errors
    /// [`Error::Input`] if windows are longer than the tokenizer allows, or not longer than what they share.
    pub fn new(tokenizer: &'t Tokenizer, options: QuestionAnsweringOptions, keep_references: bool) -> Result<Self> {
        let limit = tokenizer.model_max_length().unwrap_or(usize::MAX);
        if options.max_seq_length > limit {
            let expected = format_args!("at most {limit}, the limit of the tokenizer");
            return Err(Error::input("max_seq_length", options.max_seq_length, expected));
        }
        if options.doc_stride >= options.max_seq_length {
            let expected = format_args!("less than {}, the `max_seq_length`", options.max_seq_length);
            return Err(Error::input("doc_stride", options.doc_stride, expected));
        }
        Ok(Self { tokenizer, options, keep_references })
    }

    /// Whether the question comes before the text.
    fn question_first(&self) -> bool {
        self.tokenizer.padding_side() == Side::Right
    }

    /// The windows of a text, each with its question.
    fn windows(&self, row: &Row, question: &str, context: &str) -> Result<Vec<Encoding>> {
        let (text, truncation) = match self.question_first() {
            true => (Text::pair(question, context), Truncation::OnlySecond),
            false => (Text::pair(context, question), Truncation::OnlyFirst),
        };
        let options = EncodeOptions {
            truncation,
            max_length: Some(self.options.max_seq_length),
            stride: self.options.doc_stride,
            return_overflowing: true,
            ..EncodeOptions::default()
        };
        self.tokenizer.encode(&text, &options).map_err(|e| row.error(&self.options.context_column, e))
    }

    /// The answers of a row, checked against its text.
    fn answers<'r>(&self, row: &'r Row, context: &str) -> Result<Vec<Answer<'r>>> {
        let column = self.options.answer_column.as_str();
        let value = row.get(column)?;
        let list = |key: &str| value.get(key).and_then(Value::as_array);
        let pairs: Vec<(Option<&Value>, Option<&Value>)> = match (value, list("text"), list("answer_start")) {
            (_, Some(texts), Some(starts)) if texts.len() == starts.len() => {
                texts.iter().map(Some).zip(starts.iter().map(Some)).collect()
            }
            (Value::Array(answers), ..) => {
                answers.iter().map(|answer| (answer.get("text"), answer.get("answer_start"))).collect()
            }
            _ => {
                let expected = "`text` and `answer_start`, lists of one length";
                return Err(row.wrong(column, value, expected));
            }
        };
        pairs
            .into_iter()
            .map(|(text, start)| {
                let text = text.and_then(Value::as_str);
                let start = start.and_then(Value::as_u64).and_then(|start| usize::try_from(start).ok());
                let (Some(text), Some(start)) = (text, start) else {
                    return Err(row.error(column, "an answer without a `text` or an `answer_start`"));
                };
                // A place is looked up by characters, which a slice of bytes cannot give.
                let mut characters = context.chars().skip(start);
                if text.is_empty() || !text.chars().all(|c| characters.next() == Some(c)) {
                    let found: String = context.chars().skip(start).take(text.chars().count()).collect();
                    let (text, found) = (shown(&Value::from(text)), shown(&Value::from(found)));
                    let reason =
                        format_args!("answer {text} is not at character {start} of the context, where {found} is");
                    return Err(row.error(column, reason));
                }
                Ok(Answer { text, start })
            })
            .collect()
    }

    /// Where a window has an answer, as tokens; at the first special token if it does not have all of it.
    fn span(&self, window: &Encoding, answer: Option<&Answer<'_>>) -> Labels {
        let special = self.tokenizer.special();
        let find = |id: u32| window.ids.iter().position(|&other| other == id);
        let token = |token: &Option<SpecialToken>| token.as_ref().and_then(|token| find(token.id));
        let none = token(&special.cls).or_else(|| token(&special.bos)).unwrap_or(0);
        let span = answer.and_then(|answer| {
            let (from, to) = (answer.start, answer.start + answer.text.chars().count());
            let context = Some(usize::from(self.question_first()));
            let first = window.sequence_ids.iter().position(|&id| id == context)?;
            let last = window.sequence_ids.iter().rposition(|&id| id == context)?;
            if window.offsets[first].0 > from || window.offsets[last].1 < to {
                return None;
            }
            // The last token that begins at the answer or before it, and the first that ends at its end or behind it.
            // The reference looks behind the text, too, and takes the last token of all where no other begins later.
            let after = window.offsets[first..=last].iter().position(|&(start, _)| start > from);
            let start = after.map_or(last + 1, |after| first + after) - 1;
            let end = window.offsets[..=last].iter().rposition(|&(_, end)| end < to).map_or(0, |before| before + 1);
            Some((start, end))
        });
        let (start, end) = span.unwrap_or((none, none));
        Labels::Span { start, end }
    }
}

impl Preparation for QuestionAnswering<'_> {
    fn columns(&self) -> Columns {
        let QuestionAnsweringOptions { question_column, context_column, answer_column, id_column, .. } = &self.options;
        Columns::new(&[question_column, context_column, answer_column], &[id_column])
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let options = &self.options;
        let question = row.text(&options.question_column)?.trim_start();
        let context = row.text(&options.context_column)?;
        if context.is_empty() {
            return Err(row.error(&options.context_column, "an empty text"));
        }
        let answers = self.answers(row, context)?;
        let id = match row.find(&options.id_column) {
            Some(Value::String(id)) => id.clone(),
            Some(other) => other.to_string(),
            None => row.origin().to_string(),
        };
        let in_context = Some(usize::from(self.question_first()));
        let example = |window: Encoding| {
            let labels = self.span(&window, answers.first());
            let reference = self.keep_references.then(|| {
                let places = window.offsets.iter().zip(&window.sequence_ids);
                Box::new(Reference {
                    id: id.clone(),
                    context: context.to_owned(),
                    answers: answers.iter().map(|answer| answer.text.to_owned()).collect(),
                    offsets: places.map(|(&place, &sequence)| (sequence == in_context).then_some(place)).collect(),
                })
            });
            Example { reference, ..Example::text(row.origin().clone(), Tokens::new(&window), labels) }
        };
        Ok(self.windows(row, question, context)?.into_iter().map(example).collect())
    }
}
