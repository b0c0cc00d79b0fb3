//! `question-answering`: the part of a context that answers a question.
//!
//! A long context is read in overlapping windows.
//! Reference: transformers 4.57.6, `pipelines/question_answering.py`; version 5 has no such pipeline.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Pipeline, softmax};
use tx_core::registry::Auto;
use tx_core::task::{QuestionAnswerer, QuestionAnsweringOutput, Record};
use tx_core::tokenizer::{EncodeOptions, Encoding, Side, Text, Tokenizer, Truncation};

use super::TokenizedModel;
use super::tokenized::slice_chars;

/// The score of a token that cannot be part of the answer.
const EXCLUDED: f32 = -10_000.0;
/// The default of `max_seq_len`, where the model allows it.
const MAX_SEQ_LEN: usize = 384;
/// The default of `doc_stride`, where the windows are long enough.
const DOC_STRIDE: usize = 128;

/// The arguments of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionAnsweringOptions {
    /// How many answers to return.
    pub top_k: usize,
    /// How many tokens of the context two windows share; half a window, and at most 128, if `None`.
    pub doc_stride: Option<usize>,
    /// The longest answer, in tokens.
    pub max_answer_len: usize,
    /// The length of a window with its question, in tokens; what the model allows, and at most 384, if `None`.
    pub max_seq_len: Option<usize>,
    /// Cuts the question to this many tokens. The reference does that for slow tokenizers only, so `None` cuts nothing.
    pub max_question_len: Option<usize>,
    /// Whether "no answer" is among the answers, as an empty one.
    pub handle_impossible_answer: bool,
    /// Whether answers begin and end with words. Not for languages without spaces.
    pub align_to_words: bool,
}

impl Default for QuestionAnsweringOptions {
    fn default() -> Self {
        Self {
            top_k: 1,
            doc_stride: None,
            max_answer_len: 15,
            max_seq_len: None,
            max_question_len: None,
            handle_impossible_answer: false,
            align_to_words: true,
        }
    }
}

/// A question with the text that answers it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionAnsweringInput {
    /// The question.
    pub question: String,
    /// The text that answers it.
    pub context: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// Its probability.
    pub score: f32,
    /// Where it begins in the context, in characters.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// The part of the context.
    pub answer: String,
}

/// The answers to a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum QuestionAnswering {
    /// There is just one.
    One(Answer),
    /// There are several, best first, or none.
    Several(Vec<Answer>),
}

impl QuestionAnswering {
    /// The answers, best first.
    pub fn answers(&self) -> &[Answer] {
        match self {
            Self::One(answer) => std::slice::from_ref(answer),
            Self::Several(answers) => answers,
        }
    }
}

/// The part of a context that answers a question.
#[derive(Debug, Clone)]
pub struct QuestionAnsweringPipeline {
    model: Arc<TokenizedModel<dyn QuestionAnswerer>>,
    options: QuestionAnsweringOptions,
}

impl QuestionAnsweringPipeline {
    /// A pipeline of an extractive question answerer.
    ///
    /// # Errors
    /// [`Error::Input`] if the options contradict each other.
    pub fn new(
        model: Auto<dyn QuestionAnswerer>,
        tokenizer: Tokenizer,
        options: QuestionAnsweringOptions,
    ) -> Result<Self> {
        let model = Arc::new(TokenizedModel { model, tokenizer });
        Self { model, options: QuestionAnsweringOptions::default() }.with_options(options)
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`] if the options contradict each other.
    pub fn with_options(&self, options: QuestionAnsweringOptions) -> Result<Self> {
        for (name, value) in [("top_k", options.top_k), ("max_answer_len", options.max_answer_len)] {
            if value == 0 {
                return Err(Error::input(name, value, "at least 1"));
            }
        }
        let pipeline = Self { model: self.model.clone(), options };
        let (max_seq_len, doc_stride) = pipeline.window();
        if doc_stride > max_seq_len {
            return Err(Error::input(
                "doc_stride",
                doc_stride,
                format_args!("at most {max_seq_len}, the `max_seq_len`"),
            ));
        }
        Ok(pipeline)
    }

    /// The length of a window, and how much two of them share.
    fn window(&self) -> (usize, usize) {
        let default = || self.model.max_length().map_or(MAX_SEQ_LEN, |max| max.min(MAX_SEQ_LEN));
        let max_seq_len = self.options.max_seq_len.unwrap_or_else(default);
        (max_seq_len, self.options.doc_stride.unwrap_or((max_seq_len / 2).min(DOC_STRIDE)))
    }

    /// The question, cut to `max_question_len` tokens.
    fn cut_question(&self, question: &str) -> Result<String> {
        let Some(max) = self.options.max_question_len else { return Ok(question.to_owned()) };
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let encodings = self.model.tokenizer.encode(&question.into(), &options)?;
        let cut = encodings.first().filter(|encoding| encoding.len() > max).map(|encoding| encoding.offsets[max].0);
        Ok(cut.map_or_else(|| question.to_owned(), |end| question.chars().take(end).collect()))
    }

    /// Whether the question comes before the context.
    fn question_first(&self) -> bool {
        self.model.tokenizer.padding_side() == Side::Right
    }

    /// Where an answer is in the context, in characters.
    fn span(&self, encoding: &Encoding, start: usize, end: usize) -> (usize, usize) {
        let sequence = usize::from(self.question_first());
        // Some tokens belong to no word; then it is the tokens that count.
        let words = || Some((word_span(encoding, start, sequence)?.0, word_span(encoding, end, sequence)?.1));
        let aligned = if self.options.align_to_words { words() } else { None };
        aligned.unwrap_or_else(|| (encoding.offsets[start].0, encoding.offsets[end].1))
    }
}

/// Where the word of a token is in the text, as far as the window shows it, in characters.
fn word_span(encoding: &Encoding, token: usize, sequence: usize) -> Option<(usize, usize)> {
    let word = encoding.word_ids[token]?;
    let mut tokens = (0..encoding.len())
        .filter(|&i| encoding.sequence_ids[i] == Some(sequence) && encoding.word_ids[i] == Some(word))
        .map(|i| encoding.offsets[i]);
    let first = tokens.next()?;
    Some((first.0, tokens.next_back().unwrap_or(first).1))
}

/// The best spans from `start` to `end`, with the products of their probabilities, best first.
fn best_spans(start: &[f32], end: &[f32], count: usize, max_answer_len: usize) -> Vec<(usize, usize, f32)> {
    let order =
        |a: &(usize, usize, f32), b: &(usize, usize, f32)| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1)));
    let mut best = Vec::new();
    for (i, &s) in start.iter().enumerate().filter(|&(_, &s)| s > 0.0) {
        let ends = end.iter().enumerate().skip(i).take(max_answer_len);
        best.extend(ends.map(|(j, &e)| (i, j, s * e)).filter(|&(_, _, score)| score > 0.0));
        // Long windows have millions of spans; few of them are kept at a time.
        if best.len() > count.saturating_mul(4).max(1 << 16) {
            best.select_nth_unstable_by(count, order);
            best.truncate(count);
        }
    }
    best.sort_unstable_by(order);
    best.truncate(count);
    best
}

/// A window of the context, with its question.
#[derive(Debug, Clone)]
pub struct Window {
    encoding: Encoding,
    /// Whether each token can be part of the answer.
    allowed: Vec<bool>,
}

impl Pipeline for QuestionAnsweringPipeline {
    type Input = QuestionAnsweringInput;
    type Unit = Window;
    /// The logits of each token for the start and the end of the answer.
    type Scores = (Vec<f32>, Vec<f32>);
    type Output = QuestionAnswering;

    fn preprocess(&self, input: &QuestionAnsweringInput) -> Result<Vec<Window>> {
        for (name, text) in [("question", &input.question), ("context", &input.context)] {
            if text.is_empty() {
                return Err(Error::input(name, "an empty text", "at least one character"));
            }
        }
        let (max_seq_len, doc_stride) = self.window();
        let question = self.cut_question(&input.question)?;
        let question_first = self.question_first();
        let (text, truncation) = match question_first {
            true => (Text::pair(question, input.context.as_str()), Truncation::OnlySecond),
            false => (Text::pair(input.context.as_str(), question), Truncation::OnlyFirst),
        };
        let options = EncodeOptions {
            truncation,
            max_length: Some(max_seq_len),
            stride: doc_stride,
            return_overflowing: true,
            ..EncodeOptions::default()
        };
        let encodings = self.model.tokenizer.encode(&text, &options)?;
        let cls = self.model.tokenizer.special().cls.as_ref().map(|token| token.id);
        let window = |encoding: Encoding| {
            self.model.check(&encoding, "lower `max_seq_len`")?;
            // The first token often stands for "no answer".
            let ids = encoding.ids.iter().zip(&encoding.sequence_ids);
            let allowed =
                ids.map(|(&id, &sequence)| !question_first || sequence == Some(1) || Some(id) == cls).collect();
            Ok(Window { encoding, allowed })
        };
        encodings.into_iter().map(window).collect()
    }

    fn length(&self, unit: &Window) -> usize {
        unit.encoding.len()
    }

    fn forward(&self, units: &[&Window]) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
        let batch = self.model.batch(units.iter().map(|unit| &unit.encoding))?;
        let logits = self.model.model.forward(&batch.inputs, &mut Record::none());
        let QuestionAnsweringOutput { start_logits, end_logits } = logits;
        let [_, seq] = start_logits.dims();
        let (starts, ends) = (self.model.read(start_logits)?, self.model.read(end_logits)?);
        let firsts = (0usize..).step_by(seq.max(1)).zip(batch.starts);
        let rows = firsts.zip(units).map(|((row, padding), unit)| {
            let tokens = row + padding..row + padding + unit.encoding.len();
            (starts[tokens.clone()].to_vec(), ends[tokens].to_vec())
        });
        Ok(rows.collect())
    }

    fn postprocess(
        &self,
        input: &QuestionAnsweringInput,
        units: Vec<(Window, (Vec<f32>, Vec<f32>))>,
    ) -> Result<QuestionAnswering> {
        let QuestionAnsweringOptions { top_k, max_answer_len, handle_impossible_answer, align_to_words, .. } =
            self.options;
        let context: Vec<char> = input.context.chars().collect();
        // Spans that begin and end in the same words become one answer, so more of them are looked at.
        let count = if align_to_words { top_k.saturating_mul(2).saturating_add(10) } else { top_k };
        let mut answers: Vec<Answer> = Vec::new();
        let mut impossible = f32::INFINITY;
        for (Window { encoding, allowed }, (start, end)) in units {
            let probabilities = |logits: Vec<f32>| {
                let logits = logits.into_iter().zip(&allowed).map(|(x, &allowed)| if allowed { x } else { EXCLUDED });
                softmax(&logits.collect::<Vec<_>>())
            };
            let (mut start, mut end) = (probabilities(start), probabilities(end));
            impossible = impossible.min(start[0] * end[0]);
            (start[0], end[0]) = (0.0, 0.0);
            let spans = best_spans(&start, &end, count, max_answer_len);
            for (first, last, score) in spans.into_iter().filter(|&(first, last, _)| allowed[first] && allowed[last]) {
                let (start, end) = self.span(&encoding, first, last);
                let answer = slice_chars(&context, start, end);
                let same = |other: &&mut Answer| other.answer.to_lowercase() == answer.to_lowercase();
                match answers.iter_mut().find(same) {
                    Some(other) => other.score += score,
                    None => answers.push(Answer { score, start, end, answer }),
                }
            }
        }
        if handle_impossible_answer {
            answers.push(Answer { score: impossible, start: 0, end: 0, answer: String::new() });
        }
        answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        answers.truncate(top_k);
        Ok(match <[_; 1]>::try_from(answers) {
            Ok([answer]) => QuestionAnswering::One(answer),
            Err(answers) => QuestionAnswering::Several(answers),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_ordered_bounded_and_possible() {
        let (start, end) = ([0.0, 0.5, 0.1, 0.4], [0.0, 0.2, 0.7, 0.1]);
        let spans: Vec<_> = best_spans(&start, &end, 3, 2).iter().map(|&(s, e, _)| (s, e)).collect();
        assert_eq!(spans, [(1, 2), (1, 1), (2, 2)]);
        assert_eq!(best_spans(&start, &end, 10, 1).len(), 3);
        assert!(best_spans(&[], &[], 3, 2).is_empty());
        let flat = vec![0.001; 2000];
        assert_eq!(
            best_spans(&flat, &flat, 5, 2000).iter().map(|&(s, e, _)| (s, e)).collect::<Vec<_>>(),
            [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]
        );
    }

    #[test]
    fn words_are_looked_up_in_their_own_text() {
        let encoding = Encoding {
            ids: vec![1, 5, 2, 6, 7, 8, 2],
            word_ids: vec![None, Some(0), None, Some(0), Some(1), Some(1), None],
            sequence_ids: vec![None, Some(0), None, Some(1), Some(1), Some(1), None],
            offsets: vec![(0, 0), (0, 9), (0, 0), (0, 2), (3, 5), (5, 8), (0, 0)],
            ..Encoding::default()
        };
        assert_eq!(word_span(&encoding, 5, 1), Some((3, 8)));
        assert_eq!(word_span(&encoding, 1, 1), Some((0, 2)), "the word of that number, as in the reference");
        assert_eq!(word_span(&encoding, 0, 1), None);
    }
}
