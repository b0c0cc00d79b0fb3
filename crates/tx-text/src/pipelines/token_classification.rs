//! `token-classification` (`ner`): labels for the tokens or the words of a text.
//!
//! Reference: transformers 5.23.0, `pipelines/token_classification.py`.

use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Pipeline, softmax};
use tx_core::registry::Auto;
use tx_core::task::{Record, TokenClassifier};
use tx_core::tokenizer::{EncodeOptions, Encoding, Sequence, Text, Tokenizer, Truncation};

use super::TokenizedModel;
use super::tokenized::{argmax, slice_chars};
use super::words::Joining;

/// The arguments of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClassificationOptions {
    /// How tokens become entities.
    pub aggregation_strategy: AggregationStrategy,
    /// Labels that are left out.
    pub ignore_labels: Vec<String>,
    /// For long texts: reads all of the text in windows that share this many tokens. Without it, long texts are cut.
    pub stride: Option<usize>,
    /// What stands between the words of a text that is already split.
    pub delimiter: String,
}

impl Default for TokenClassificationOptions {
    fn default() -> Self {
        Self {
            aggregation_strategy: AggregationStrategy::None,
            ignore_labels: vec!["O".to_owned()],
            stride: None,
            delimiter: " ".to_owned(),
        }
    }
}

/// How tokens become entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AggregationStrategy {
    /// They do not.
    #[default]
    None,
    /// Neighbours of one label join.
    Simple,
    /// A word has the label of its first token, and neighbours of one label join.
    First,
    /// A word has the label that is best for its tokens on average, and neighbours of one label join.
    Average,
    /// A word has the label of its surest token, and neighbours of one label join.
    Max,
}

impl FromStr for AggregationStrategy {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "none" => Self::None,
            "simple" => Self::Simple,
            "first" => Self::First,
            "average" => Self::Average,
            "max" => Self::Max,
            _ => {
                let expected = "none, simple, first, average or max";
                return Err(Error::input("aggregation_strategy", format_args!("`{s}`"), expected));
            }
        })
    }
}

/// A text, whole or split into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClassificationInput(pub Sequence);

impl<T: Into<String>> From<T> for TokenClassificationInput {
    fn from(text: T) -> Self {
        Self(Sequence::Raw(text.into()))
    }
}

/// A token with its label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenEntity {
    /// The label.
    pub entity: String,
    /// Its probability.
    pub score: f32,
    /// The number of the token in its window.
    pub index: usize,
    /// The token as it is in the vocabulary.
    pub word: String,
    /// Where it begins in the text, in characters.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// Words with their common label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntityGroup {
    /// The label without its `B-` or `I-`.
    pub entity_group: String,
    /// Its mean probability.
    pub score: f32,
    /// The tokens, joined.
    pub word: String,
    /// Where the words begin in the text, in characters.
    pub start: usize,
    /// Where they end.
    pub end: usize,
}

/// The entities of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TokenClassification {
    /// Without aggregation.
    Tokens(Vec<TokenEntity>),
    /// With aggregation.
    Groups(Vec<EntityGroup>),
}

/// Labels for the tokens or the words of a text.
#[derive(Debug, Clone)]
pub struct TokenClassificationPipeline {
    model: Arc<TokenizedModel<dyn TokenClassifier>>,
    labels: Arc<[String]>,
    joining: Joining,
    options: TokenClassificationOptions,
}

impl TokenClassificationPipeline {
    /// A pipeline of a token classifier.
    ///
    /// # Errors
    /// [`Error::Config`] if the model's labels cannot be used; [`Error::Input`] if the options contradict each other.
    pub fn new(
        model: Auto<dyn TokenClassifier>,
        tokenizer: Tokenizer,
        options: TokenClassificationOptions,
    ) -> Result<Self> {
        let labels = model.config.labels()?.into();
        let joining = Joining::of(&tokenizer);
        let model = Arc::new(TokenizedModel { model, tokenizer });
        Self { model, labels, joining, options: TokenClassificationOptions::default() }.with_options(options)
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`] if the options contradict each other.
    pub fn with_options(&self, options: TokenClassificationOptions) -> Result<Self> {
        if let Some(stride) = options.stride {
            if options.aggregation_strategy == AggregationStrategy::None {
                let found = format_args!("{stride} without an aggregation strategy");
                return Err(Error::input("stride", found, "simple, first, average or max beside it"));
            }
            if let Some(max) = self.model.max_length().filter(|&max| stride >= max) {
                return Err(Error::input("stride", stride, format_args!("less than {max}, the length of a window")));
            }
        }
        Ok(Self { options, ..self.clone() })
    }

    /// The labelled tokens of a window.
    fn tokens(&self, text: &SourceText, encoding: &Encoding, logits: Vec<Vec<f32>>) -> Result<Vec<Token>> {
        let tokenizer = &self.model.tokenizer;
        let unknown = tokenizer.special().unk.as_ref().map(|token| token.id);
        let mut tokens = Vec::with_capacity(logits.len());
        for (index, logits) in logits.into_iter().enumerate() {
            if encoding.special_tokens_mask[index] == 1 {
                continue;
            }
            self.model.check_labels(&self.labels, logits.len())?;
            let (start, end) = text.span(encoding, index);
            let id = encoding.ids[index];
            let reference = slice_chars(&text.chars, start, end);
            let mut word = tokenizer.id_to_token(id).unwrap_or_default();
            let mut is_subword = match self.joining {
                Joining::WordPiece => word.chars().count() != reference.chars().count(),
                // Other vocabularies do not say; what no space precedes is taken for the rest of a word.
                _ => start > 0 && !slice_chars(&text.chars, start - 1, start + 1).contains(' '),
            };
            if Some(id) == unknown {
                (word, is_subword) = (reference, false);
            }
            tokens.push(Token { index, word, scores: softmax(&logits), start, end, is_subword });
        }
        Ok(tokens)
    }

    /// The words of a window, each with one label.
    fn words(&self, tokens: &[Token]) -> Vec<Word> {
        let strategy = self.options.aggregation_strategy;
        if matches!(strategy, AggregationStrategy::None | AggregationStrategy::Simple) {
            return tokens.iter().map(|token| self.word(token.word.clone(), &token.scores, token, token)).collect();
        }
        let words = tokens.chunk_by(|_, next| next.is_subword);
        let words = words.map(|word| {
            let (first, last) = (&word[0], &word[word.len() - 1]);
            let text = self.joining.join(word.iter().map(|token| token.word.as_str()));
            match strategy {
                AggregationStrategy::Average => {
                    let mean = |i| mean(word.iter().filter_map(|token| token.scores.get(i).copied()));
                    let scores: Vec<f32> = (0..self.labels.len()).map(mean).collect();
                    self.word(text, &scores, first, last)
                }
                AggregationStrategy::Max => {
                    let sureness = |token: &&Token| token.scores[argmax(&token.scores)];
                    let surest =
                        word.iter().reduce(|best, next| if sureness(&next) > sureness(&best) { next } else { best });
                    self.word(text, &surest.unwrap_or(first).scores, first, last)
                }
                _ => self.word(text, &first.scores, first, last),
            }
        });
        words.collect()
    }

    /// A word of some tokens, with the best label.
    fn word(&self, text: String, scores: &[f32], first: &Token, last: &Token) -> Word {
        let label = argmax(scores);
        Word { text, label, score: scores[label], index: first.index, start: first.start, end: last.end }
    }

    /// Joins neighbouring words of one label.
    fn group(&self, words: &[Word]) -> Vec<EntityGroup> {
        let label = |word: &Word| self.labels[word.label].as_str();
        let joins = |previous: &Word, next: &Word| {
            let ((_, tag), (begins, next_tag)) = (tag(label(previous)), tag(label(next)));
            tag == next_tag && !begins
        };
        let groups = words.chunk_by(joins).map(|words| EntityGroup {
            entity_group: label(&words[0]).split_once('-').map_or(label(&words[0]), |(_, group)| group).to_owned(),
            score: mean(words.iter().map(|word| word.score)),
            word: self.joining.join(words.iter().map(|word| word.text.as_str())),
            start: words[0].start,
            end: words[words.len() - 1].end,
        });
        groups.collect()
    }
}

/// The text that positions refer to.
struct SourceText {
    chars: Vec<char>,
    /// Where each word of a split text begins.
    words: Option<Vec<usize>>,
}

impl SourceText {
    fn new(text: &Sequence, delimiter: &str) -> Self {
        match text {
            Sequence::Raw(text) => Self { chars: text.chars().collect(), words: None },
            Sequence::Words(words) => {
                let mut starts = Vec::with_capacity(words.len());
                let mut start = 0;
                for word in words {
                    starts.push(start);
                    start += word.chars().count() + delimiter.chars().count();
                }
                Self { chars: words.join(delimiter).chars().collect(), words: Some(starts) }
            }
        }
    }

    /// Where a token is in the text, in characters.
    fn span(&self, encoding: &Encoding, index: usize) -> (usize, usize) {
        let (start, end) = encoding.offsets[index];
        let word = encoding.word_ids[index].and_then(|word| self.words.as_ref()?.get(word as usize));
        let shift = word.copied().unwrap_or(0);
        (start + shift, end + shift)
    }
}

/// A token of the text.
#[derive(Debug)]
struct Token {
    index: usize,
    word: String,
    scores: Vec<f32>,
    start: usize,
    end: usize,
    is_subword: bool,
}

/// A token, or the tokens of a word, with a label.
#[derive(Debug)]
struct Word {
    text: String,
    label: usize,
    score: f32,
    index: usize,
    start: usize,
    end: usize,
}

/// Whether a label begins an entity, and what it says without `B-` or `I-`.
fn tag(label: &str) -> (bool, &str) {
    match label.split_at_checked(2) {
        Some(("B-", tag)) => (true, tag),
        Some(("I-", tag)) => (false, tag),
        _ => (false, label),
    }
}

/// The mean of the numbers that are numbers.
fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = values.filter(|x| !x.is_nan()).fold((0.0, 0.0), |(sum, n), x| (sum + f64::from(x), n + 1.0));
    (sum / count) as f32
}

/// Of groups from different windows that overlap, keeps the longest, then the surest.
fn without_overlaps(mut groups: Vec<EntityGroup>) -> Vec<EntityGroup> {
    groups.sort_by_key(|group| group.start);
    let mut kept: Vec<EntityGroup> = Vec::with_capacity(groups.len());
    for group in groups {
        match kept.last_mut() {
            Some(last) if last.start <= group.start && group.start < last.end => {
                let length = |group: &EntityGroup| group.end.saturating_sub(group.start);
                let (length, kept_length) = (length(&group), length(last));
                if length > kept_length || length == kept_length && group.score > last.score {
                    *last = group;
                }
            }
            _ => kept.push(group),
        }
    }
    kept
}

impl Pipeline for TokenClassificationPipeline {
    type Input = TokenClassificationInput;
    /// A window of the text.
    type Unit = Encoding;
    /// The logits of each token.
    type Scores = Vec<Vec<f32>>;
    type Output = TokenClassification;

    fn preprocess(&self, TokenClassificationInput(text): &TokenClassificationInput) -> Result<Vec<Encoding>> {
        let options = EncodeOptions {
            truncation: Truncation::LongestFirst,
            max_length: self.model.max_length(),
            stride: self.options.stride.unwrap_or(0),
            return_overflowing: self.options.stride.is_some(),
            ..EncodeOptions::default()
        };
        let encodings = self.model.tokenizer.encode(&Text { first: text.clone(), second: None }, &options)?;
        encodings.iter().try_for_each(|encoding| self.model.check(encoding, "shorten it or set a stride"))?;
        Ok(encodings)
    }

    fn length(&self, unit: &Encoding) -> usize {
        unit.len()
    }

    fn forward(&self, units: &[&Encoding]) -> Result<Vec<Self::Scores>> {
        let batch = self.model.batch(units.iter().copied())?;
        let logits = self.model.model.forward(&batch.inputs, &mut Record::none());
        let tokens = |logits: &[f32], labels: usize| -> Self::Scores {
            logits.chunks_exact(labels.max(1)).map(<[f32]>::to_vec).collect()
        };
        self.model.read_tokens(logits, units, &batch.starts, tokens)
    }

    fn postprocess(
        &self,
        TokenClassificationInput(text): &TokenClassificationInput,
        units: Vec<(Encoding, Self::Scores)>,
    ) -> Result<TokenClassification> {
        let text = SourceText::new(text, &self.options.delimiter);
        let ignored = |label: &str| self.options.ignore_labels.iter().any(|ignored| ignored == label);
        let windows = units.len();
        let (mut tokens, mut groups) = (Vec::new(), Vec::new());
        for (encoding, logits) in units {
            let words = self.words(&self.tokens(&text, &encoding, logits)?);
            if self.options.aggregation_strategy == AggregationStrategy::None {
                tokens.extend(words.into_iter().filter(|word| !ignored(&self.labels[word.label])).map(|word| {
                    TokenEntity {
                        entity: self.labels[word.label].clone(),
                        score: word.score,
                        index: word.index,
                        word: word.text,
                        start: word.start,
                        end: word.end,
                    }
                }));
            } else {
                groups.extend(self.group(&words).into_iter().filter(|group| !ignored(&group.entity_group)));
            }
        }
        if windows > 1 {
            groups = without_overlaps(groups);
        }
        Ok(match self.options.aggregation_strategy {
            AggregationStrategy::None => TokenClassification::Tokens(tokens),
            _ => TokenClassification::Groups(groups),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_without_a_scheme_continue() {
        assert_eq!(tag("B-PER"), (true, "PER"));
        assert_eq!(tag("I-PER"), (false, "PER"));
        assert_eq!((tag("PER"), tag("B"), tag("é")), ((false, "PER"), (false, "B"), (false, "é")));
    }

    #[test]
    fn of_overlapping_groups_the_longest_and_then_the_surest_stays() {
        let group =
            |start, end, score| EntityGroup { entity_group: "X".into(), score, word: String::new(), start, end };
        let groups = vec![group(8, 9, 0.9), group(0, 4, 0.5), group(2, 7, 0.1), group(2, 7, 0.2), group(7, 8, 0.3)];
        let kept = without_overlaps(groups);
        assert_eq!(kept, [group(2, 7, 0.2), group(7, 8, 0.3), group(8, 9, 0.9)]);
    }

    #[test]
    fn words_of_a_split_text_have_positions_in_the_joined_one() {
        let text = SourceText::new(&Sequence::Words(vec!["ün".into(), "b".into(), "c".into()]), ", ");
        assert_eq!(
            (text.chars.iter().collect::<String>().as_str(), text.words.clone()),
            ("ün, b, c", Some(vec![0, 4, 7]))
        );
        let encoding = Encoding { offsets: vec![(0, 0), (0, 1)], word_ids: vec![None, Some(2)], ..Encoding::default() };
        assert_eq!((text.span(&encoding, 0), text.span(&encoding, 1)), ((0, 0), (7, 8)));
    }
}
