//! The model of a tokenizer (BPE, Unigram, WordPiece, WordLevel): its data, its limits, and how it is made.

use std::fmt;
use std::path::Path;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokenizers::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;

use crate::error::{Error, Result};

/// The most tokens a vocabulary may have; the largest on the Hub has about one million.
pub(super) const MAX_TOKENS: usize = 4_000_000;
/// The largest id, so that ids of added tokens, which follow, stay far from overflow.
const MAX_ID: u32 = (1 << 31) - 1;
/// The longest token of a Unigram vocabulary, in bytes: its search tree is as deep as that, and is freed by recursion.
const MAX_UNIGRAM_TOKEN: usize = 512;
/// All tokens of a Unigram vocabulary together, in bytes: each byte may become a node of its search tree.
const MAX_UNIGRAM_BYTES: usize = 16 << 20;
/// WordPiece compares every part of a word with the vocabulary, so the length of a word is bounded, in characters.
const MAX_WORD: usize = 1000;

/// Token to id.
pub(super) type Ids = tokenizers::models::bpe::Vocab;

/// A vocabulary, in either of the forms that `tokenizer.json` has.
#[derive(Debug)]
pub(super) enum Vocabulary {
    /// Token to id: BPE, WordPiece, WordLevel.
    Ids(Ids),
    /// Tokens with their log probabilities, in order of their ids: Unigram.
    Scores(Vec<(String, f64)>),
}

impl Vocabulary {
    /// The largest id.
    pub fn max_id(&self) -> Option<u32> {
        match self {
            Self::Ids(ids) => ids.values().max().copied(),
            Self::Scores(scores) => scores.len().checked_sub(1).map(|id| id as u32),
        }
    }

    /// Token to id, dropping the scores if there are any, as the reference does.
    fn into_ids(self) -> Ids {
        match self {
            Self::Ids(ids) => ids,
            Self::Scores(scores) => scores.into_iter().enumerate().map(|(id, (token, _))| (token, id as u32)).collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabularyVisitor;

        impl<'de> Visitor<'de> for VocabularyVisitor {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a vocabulary of at most {MAX_TOKENS} tokens")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let (mut ids, mut count) = (Ids::default(), 0);
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    count += 1;
                    if count > MAX_TOKENS {
                        return Err(serde::de::Error::invalid_length(count, &self));
                    }
                    ids.insert(token, id);
                }
                Ok(Vocabulary::Ids(ids))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut scores = Vec::new();
                while let Some(entry) = list.next_element::<(String, f64)>()? {
                    if scores.len() == MAX_TOKENS {
                        return Err(serde::de::Error::invalid_length(MAX_TOKENS + 1, &self));
                    }
                    scores.push(entry);
                }
                Ok(Vocabulary::Scores(scores))
            }
        }

        deserializer.deserialize_any(VocabularyVisitor)
    }
}

/// The kinds of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum ModelKind {
    #[serde(rename = "BPE")]
    Bpe,
    Unigram,
    WordPiece,
    WordLevel,
}

/// A merge, as two strings or as one with a space between.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// `model` of `tokenizer.json`, and what every other source of a vocabulary is turned into.
#[derive(Debug, Deserialize)]
pub(super) struct ModelParts {
    /// Absent in the oldest files.
    #[serde(rename = "type")]
    pub kind: Option<ModelKind>,
    pub vocab: Vocabulary,
    #[serde(default, deserialize_with = "merges")]
    pub merges: Option<Vec<(String, String)>>,
    pub unk_token: Option<String>,
    pub unk_id: Option<usize>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub fuse_unk: Option<bool>,
    pub byte_fallback: Option<bool>,
    pub ignore_merges: Option<bool>,
    pub dropout: Option<f32>,
    pub max_input_chars_per_word: Option<usize>,
}

/// Reads merges in either form.
fn merges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<(String, String)>>, D::Error> {
    let Some(merges) = Option::<Vec<Merge>>::deserialize(deserializer)? else { return Ok(None) };
    let pairs = merges.into_iter().filter_map(|merge| match merge {
        Merge::Pair(a, b) => Some(Ok((a, b))),
        Merge::Line(line) if line.starts_with("#version") => None,
        Merge::Line(line) => match line.split_once(' ') {
            Some((a, b)) if !b.contains(' ') => Some(Ok((a.to_owned(), b.to_owned()))),
            _ => Some(Err(serde::de::Error::custom(format_args!("merge `{line}` is not two tokens")))),
        },
    });
    pairs.collect::<Result<_, _>>().map(Some)
}

impl ModelParts {
    /// A model with this vocabulary and no options.
    pub fn new(kind: ModelKind, vocab: Vocabulary) -> Self {
        Self {
            kind: Some(kind),
            vocab,
            merges: None,
            unk_token: None,
            unk_id: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: None,
            byte_fallback: None,
            ignore_merges: None,
            dropout: None,
            max_input_chars_per_word: None,
        }
    }

    /// The kind, guessed from what is there if the file does not say.
    pub fn kind(&self) -> ModelKind {
        self.kind.unwrap_or(match &self.vocab {
            Vocabulary::Scores(_) => ModelKind::Unigram,
            Vocabulary::Ids(_) if self.merges.is_some() => ModelKind::Bpe,
            Vocabulary::Ids(_) if self.continuing_subword_prefix.is_some() => ModelKind::WordPiece,
            Vocabulary::Ids(_) => ModelKind::WordLevel,
        })
    }

    /// Checks the limits and makes the model.
    pub fn build(self, path: &Path) -> Result<ModelWrapper> {
        let wrong = |reason: fmt::Arguments<'_>| Err(Error::tokenizer(path, reason));
        if let Some(id) = self.vocab.max_id().filter(|&id| id > MAX_ID) {
            return wrong(format_args!("id {id} in the vocabulary, expected at most {MAX_ID}"));
        }
        let failed = |e: tokenizers::Error| Error::tokenizer(path, e);
        let kind = self.kind();
        match kind {
            ModelKind::Bpe => self.build_bpe(path),
            ModelKind::Unigram => {
                let Vocabulary::Scores(scores) = self.vocab else {
                    return wrong(format_args!("a Unigram model needs a list of tokens with scores, found a map"));
                };
                check_unigram(path, &scores)?;
                Unigram::from(scores, self.unk_id, self.byte_fallback.unwrap_or(false)).map(Into::into).map_err(failed)
            }
            ModelKind::WordPiece => {
                let mut builder = WordPiece::builder().vocab(self.vocab.into_ids());
                if let Some(token) = self.unk_token {
                    builder = builder.unk_token(token);
                }
                if let Some(prefix) = self.continuing_subword_prefix {
                    builder = builder.continuing_subword_prefix(prefix);
                }
                if let Some(longest) = self.max_input_chars_per_word {
                    if longest > MAX_WORD {
                        return wrong(format_args!(
                            "`max_input_chars_per_word` is {longest}, expected at most {MAX_WORD}"
                        ));
                    }
                    builder = builder.max_input_chars_per_word(longest);
                }
                builder.build().map(Into::into).map_err(failed)
            }
            ModelKind::WordLevel => {
                let mut builder = WordLevel::builder().vocab(self.vocab.into_ids());
                if let Some(token) = self.unk_token {
                    builder = builder.unk_token(token);
                }
                builder.build().map(Into::into).map_err(failed)
            }
        }
    }

    /// Makes a BPE model.
    fn build_bpe(self, path: &Path) -> Result<ModelWrapper> {
        let Some(merges) = self.merges else { return Err(Error::tokenizer(path, "a BPE model needs `merges`")) };
        let vocab = self.vocab.into_ids();
        // The library joins the two tokens in a buffer of the longest token's size and cuts the second one where the
        // prefix ends, without looking.
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or("").len();
        let longest = vocab.keys().map(String::len).max().unwrap_or(0);
        let fits = |(a, b): &&(String, String)| b.is_char_boundary(prefix) && a.len() + b.len() - prefix <= longest;
        if let Some((a, b)) = merges.iter().find(|merge| !fits(merge)) {
            return Err(Error::tokenizer(path, format_args!("the merge of `{a}` and `{b}` is not in the vocabulary")));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false));
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map(Into::into).map_err(|e| Error::tokenizer(path, e))
    }
}

/// Checks what the search tree of a Unigram model cannot bear.
fn check_unigram(path: &Path, scores: &[(String, f64)]) -> Result<()> {
    let mut bytes = 0;
    for (id, (token, score)) in scores.iter().enumerate() {
        if token.len() > MAX_UNIGRAM_TOKEN {
            let reason = format!("token {id} has {} bytes, expected at most {MAX_UNIGRAM_TOKEN}", token.len());
            return Err(Error::tokenizer(path, reason));
        }
        if !score.is_finite() {
            return Err(Error::tokenizer(
                path,
                format_args!("token {id} has the score {score}, expected a finite one"),
            ));
        }
        bytes += token.len();
    }
    if bytes > MAX_UNIGRAM_BYTES {
        let reason = format!("the tokens have {bytes} bytes together, expected at most {MAX_UNIGRAM_BYTES}");
        return Err(Error::tokenizer(path, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(json: &str) -> Result<ModelWrapper> {
        let parts: ModelParts = serde_json::from_str(json).map_err(|e| Error::tokenizer("tokenizer.json", e))?;
        parts.build(Path::new("tokenizer.json"))
    }

    #[test]
    fn kinds_are_read_or_guessed() {
        let is = |json: &str| match build(json).unwrap() {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::Unigram(_) => "Unigram",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
        };
        assert_eq!(is(r#"{"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}"#), "BPE");
        assert_eq!(is(r#"{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}"#), "BPE");
        assert_eq!(is(r#"{"vocab": [["<unk>", 0], ["a", -1.5]], "unk_id": 0}"#), "Unigram");
        assert_eq!(is(r#"{"vocab": {"a": 0}, "continuing_subword_prefix": "@@"}"#), "WordPiece");
        assert_eq!(is(r#"{"vocab": {"a": 0}, "unk_token": "a"}"#), "WordLevel");
    }

    #[test]
    fn hostile_models_are_errors() {
        let long = "a".repeat(MAX_UNIGRAM_TOKEN + 1);
        for json in [
            r#"{"type": "Other", "vocab": {"a": 0}}"#,
            r#"{"type": "BPE", "vocab": {"a": 0}}"#,
            r#"{"type": "BPE", "vocab": {"a": -1}, "merges": []}"#,
            r#"{"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}"#,
            r#"{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}"#,
            r#"{"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}"#,
            r#"{"type": "BPE", "vocab": {"a": 0, "é": 1, "aé": 2}, "merges": ["a é"], "continuing_subword_prefix": "x"}"#,
            r#"{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "dropout": 3}"#,
            r#"{"type": "Unigram", "vocab": {"a": 0}}"#,
            r#"{"type": "Unigram", "vocab": [["a", 0]], "unk_id": 7}"#,
            r#"{"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 1000000}"#,
            &format!(r#"{{"type": "Unigram", "vocab": [["{long}", 0]]}}"#),
        ] {
            let error = build(json).err().unwrap_or_else(|| panic!("{json} was accepted"));
            assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
        }
    }
}
