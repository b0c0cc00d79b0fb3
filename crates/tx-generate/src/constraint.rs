//! Structured output: text that follows a JSON schema, a regular expression, a choice or a grammar.
//!
//! `llguidance` keeps the place in the grammar and says which tokens may follow; here is what it needs to know of a
//! tokenizer, and the bounds. A token is allowed if its bytes are, whichever way the text is cut into tokens; special
//! tokens are no text, and those that end a text may come where it may end.
//!
//! ```no_run
//! use tx_core::tokenizer::Tokenizer;
//! use tx_generate::constraint::{Constraint, Grammar, Vocabulary};
//!
//! let tokenizer = Tokenizer::from_folder("Qwen2.5-0.5B-Instruct".as_ref())?;
//! let vocabulary = Vocabulary::new(&tokenizer, &[])?;
//! let mut constraint = Constraint::new(&Grammar::Choice(vec!["yes".into(), "no".into()]), &vocabulary)?;
//! let mut scores = vec![0.0; tokenizer.vocab_size()];
//! constraint.mask(&mut scores);
//! # Ok::<(), tx_core::Error>(())
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, panic_utils};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tx_core::config::kind;
use tx_core::error::{Error, Result};
use tx_core::tokenizer::{TokenBytes, Tokenizer};

use crate::config::GenerationConfig;
use crate::generate::{Generator, Hooks, Sequence};
use crate::processors::{Extras, LogitsProcessor};

/// The longest grammar, in bytes.
const MAX_GRAMMAR: usize = 4 << 20;
/// The longest token that can be generated, in bytes; longer ones are left out.
const MAX_TOKEN: usize = 1000;
/// All tokens of a vocabulary together, in bytes: each byte may become a node of the tree of tokens.
const MAX_TOKEN_BYTES: usize = 64 << 20;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 600;
/// What may stand between the parts of JSON: nothing, a space, or a line end with an indentation. It is bounded: white
/// space for ever follows a grammar that allows any.
const WHITE_SPACE: &str = r"[ ]|\r?\n[ \t]{0,16}";
/// The most tokens that follow a grammar where nothing says how many may: a text that is cut does not follow it.
pub const STRUCTURED_TOKENS: usize = 1024;

/// What a text must follow from its first to its last character.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that is valid under a schema (draft 2020-12). Keys come in the order of the schema. The key `x-guidance` of
    /// the schema may hold options of `llguidance`; without it, white space between the parts of the JSON is bounded.
    JsonSchema(Value),
    /// A regular expression, in the syntax of Rust's `regex`.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar in Lark's syntax, with the additions of `llguidance`.
    Lark(String),
}

impl Grammar {
    /// JSON that can be read as a `T`: see [`parse`]. Objects have no keys that `T` does not name.
    pub fn of<T: JsonSchema>() -> Self {
        let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
        close(&mut schema, false);
        if let Value::Object(keys) = &mut schema {
            // An enum's variants exclude each other, or the first that fits is taken.
            keys.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITE_SPACE, "coerce_one_of": true}));
        }
        Self::JsonSchema(schema)
    }

    /// What kind of grammar it is, for messages.
    fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Choice(_) => "choice",
            Self::Lark(_) => "Lark grammar",
        }
    }

    fn refused(&self, reason: impl fmt::Display) -> Error {
        Error::input(self.name(), one_line(reason), "one that some text follows")
    }

    /// The grammar as the library takes it.
    fn read(&self) -> Result<TopLevelGrammar> {
        let length = match self {
            Self::JsonSchema(schema) => schema.to_string().len(),
            Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(texts) => texts.iter().map(String::len).sum(),
        };
        if length > MAX_GRAMMAR {
            return Err(self.refused(format_args!("{length} bytes, expected at most {MAX_GRAMMAR}")));
        }
        match self {
            Self::JsonSchema(schema) => {
                let mut keys = match schema {
                    Value::Object(keys) => keys.clone(),
                    Value::Bool(true) => Map::new(),
                    Value::Bool(false) => return Err(self.refused("`false`, which no value is valid under")),
                    other => return Err(self.refused(format_args!("{} instead of an object", kind(other)))),
                };
                let options = json!({"whitespace_pattern": WHITE_SPACE});
                keys.entry("x-guidance").or_insert(options);
                Ok(TopLevelGrammar::from_json_schema(Value::Object(keys)))
            }
            Self::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
            Self::Choice(texts) if texts.is_empty() => Err(self.refused("no text to choose")),
            Self::Choice(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
                Ok(TopLevelGrammar::from_regex(&format!("(?:{})", texts.join("|"))))
            }
            Self::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
        }
    }
}

/// Reads what was generated under [`Grammar::of`].
///
/// # Errors
/// [`Error::Input`] if the text is no JSON of a `T`, as when generation ended too early.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text.trim())
        .map_err(|e| Error::input("generated text", e, format_args!("JSON of `{}`", std::any::type_name::<T>())))
}

/// A text as a regular expression.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() {
            pattern.push(c);
        } else {
            pattern.push_str(&format!("\\x{{{:x}}}", c as u32));
        }
    }
    pattern
}

/// Forbids keys that a schema does not name, unless a schema it is joined with may name them. Keys with one possible
/// value come first, because they tell variants apart.
fn close(schema: &mut Value, joined: bool) {
    let Value::Object(keys) = schema else { return };
    if let Some(Value::Object(properties)) = keys.get_mut("properties") {
        let all = std::mem::take(properties).into_iter();
        let (tags, others): (Vec<_>, Vec<_>) = all.partition(|(_, schema)| schema.get("const").is_some());
        properties.extend(tags.into_iter().chain(others));
    }
    let has = |key: &&str| keys.contains_key(*key);
    let own = has(&"properties");
    let open = ["additionalProperties", "patternProperties", "anyOf", "oneOf", "allOf", "$ref"].iter().any(has);
    if own && !open && !joined {
        keys.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for (key, value) in keys.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|schema| close(schema, false));
            }
            ("prefixItems", Value::Array(schemas)) => schemas.iter_mut().for_each(|schema| close(schema, false)),
            ("anyOf" | "oneOf" | "allOf", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(|schema| close(schema, own || joined));
            }
            ("items" | "additionalProperties", schema) => close(schema, false),
            _ => {}
        }
    }
}

/// The tokens of a model, by their bytes. It takes a moment to make, is shared by its clones, and serves any number of
/// constraints.
#[derive(Clone)]
pub struct Vocabulary {
    factory: Arc<ParserFactory>,
    eos: Arc<[u32]>,
}

impl Vocabulary {
    /// The vocabulary of a tokenizer. `eos` are the ids that end a text; if there are none, it is the tokenizer's own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a vocabulary whose tokens alone do not make the text, as with WordPiece;
    /// [`Error::Input`] for an id in `eos` that it does not have; [`Error::Tokenizer`] if it is too large.
    pub fn new(tokenizer: &Tokenizer, eos: &[u32]) -> Result<Self> {
        let tokens = tokenizer.token_bytes()?;
        let own = tokenizer.special().eos.as_ref().map(|token| token.id);
        let eos: Vec<u32> = if eos.is_empty() { own.into_iter().collect() } else { eos.to_vec() };
        if let Some(id) = eos.iter().find(|&&id| id as usize >= tokens.len()) {
            return Err(Error::input("eos_token_id", id, format_args!("an id below {}", tokens.len())));
        }
        // Special tokens have a byte before their name that no text has.
        let special = |name: &str| [[TokTrie::SPECIAL_TOKEN_MARKER].as_slice(), name.as_bytes()].concat();
        let mut words: Vec<Vec<u8>> = tokens
            .into_iter()
            .map(|token| match token {
                TokenBytes::Text(bytes) => bytes,
                TokenBytes::Special(name) => special(&name),
                TokenBytes::Unused => Vec::new(),
            })
            .map(|word| if word.len() > MAX_TOKEN { Vec::new() } else { word })
            .collect();
        for &id in &eos {
            let word = &mut words[id as usize];
            if word.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                *word = special(&format!("<eos {id}>"));
            }
        }
        let bytes: usize = words.iter().map(Vec::len).sum();
        if bytes > MAX_TOKEN_BYTES {
            let reason = format!("tokens of {bytes} bytes together, expected at most {MAX_TOKEN_BYTES}");
            return Err(Error::tokenizer(tokenizer.path(), reason));
        }
        let info = TokRxInfo::new(words.len() as u32, eos.first().copied().unwrap_or(INVALID_TOKEN));
        // The library panics if the tree has more nodes than it can count.
        let factory = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            let mut tree = TokTrie::from(&info, &words);
            if eos.len() > 1 {
                tree = tree.with_eos_tokens(&eos);
            }
            let environment: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
            ParserFactory::new_simple(&environment)
        }));
        let mut factory = factory.map_err(|e| Error::tokenizer(tokenizer.path(), one_line(e)))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory: Arc::new(factory), eos: eos.into() })
    }
}

/// A place in a grammar: which tokens may follow those that were accepted. Clones go their own ways, as beams need.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    eos: Arc<[u32]>,
    /// The allowed tokens at this place, once they are known.
    allowed: Option<SimpleVob>,
    /// Why no token can be accepted any more.
    failed: Option<String>,
}

impl Constraint {
    /// The beginning of a grammar.
    ///
    /// # Errors
    /// [`Error::Input`] if the grammar is malformed or too large, or if no text of this vocabulary follows it.
    pub fn new(grammar: &Grammar, vocabulary: &Vocabulary) -> Result<Self> {
        let parser = vocabulary.factory.create_parser(grammar.read()?).map_err(|e| grammar.refused(e))?;
        let mut matcher = Matcher::new(Ok(parser));
        let allowed = matcher.compute_mask().map_err(|e| grammar.refused(e))?;
        Ok(Self { matcher, eos: Arc::clone(&vocabulary.eos), allowed: Some(allowed), failed: None })
    }

    /// Makes the tokens that may not follow impossible. At the end of the grammar, and where it cannot be followed any
    /// more, only the tokens that end a text are left; if there are none, the scores stay as they are.
    pub fn mask(&mut self, scores: &mut [f32]) {
        if self.allowed.is_none() && !self.finished() {
            match self.matcher.compute_mask() {
                Ok(allowed) => self.allowed = Some(allowed),
                Err(e) => self.failed = Some(one_line(e)),
            }
        }
        match &self.allowed {
            Some(allowed) => keep(allowed, scores),
            None if self.eos.iter().any(|&id| (id as usize) < scores.len()) => {
                for (id, score) in scores.iter_mut().enumerate() {
                    if !self.eos.contains(&(id as u32)) {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
            None => {}
        }
    }

    /// Goes on by one token.
    ///
    /// # Errors
    /// [`Error::Input`] if the token may not follow, or if no token can, because the grammar became too complex or the
    /// vocabulary cannot spell what it asks for.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        let refused = |found: &str| Error::input("constraint", found, "tokens that follow the grammar");
        if let Some(reason) = &self.failed {
            return Err(refused(reason));
        }
        if self.finished() {
            let ends = self.eos.contains(&token);
            return if ends { Ok(()) } else { Err(refused(&format!("token {token} after the end of the grammar"))) };
        }
        self.allowed = None;
        self.matcher.consume_token(token).map_err(|e| {
            let reason = format!("token {token}: {}", one_line(e));
            let error = refused(&reason);
            self.failed = Some(reason);
            error
        })
    }

    /// Whether nothing but the end may follow.
    pub fn finished(&self) -> bool {
        self.failed.is_some() || self.matcher.is_stopped()
    }

    /// Whether the accepted tokens are a whole text of the grammar, be it that more may follow.
    pub fn complete(&mut self) -> bool {
        match self.matcher.stop_reason() {
            StopReason::NotStopped => self.failed.is_none() && self.matcher.is_accepting().unwrap_or(false),
            reason => reason.is_ok(),
        }
    }

    /// Whether these tokens from here on, with or without one that ends a text, are a whole text of the grammar.
    ///
    /// # Errors
    /// As [`Constraint::accept`].
    pub fn is_whole(&self, ids: &[u32]) -> Result<bool> {
        let mut place = self.clone();
        ids.iter().try_for_each(|&id| place.accept(id))?;
        Ok(place.complete())
    }
}

/// A constraint on what is generated after a prompt, whatever sequences are asked about: it remembers the places of the
/// last ones.
pub struct ConstraintProcessor {
    start: Constraint,
    places: VecDeque<(Vec<u32>, Constraint)>,
    /// How many places are kept.
    sequences: usize,
}

impl ConstraintProcessor {
    /// A processor that begins at `start`.
    pub fn new(start: Constraint) -> Self {
        Self { start, places: VecDeque::new(), sequences: 1 }
    }
}

impl LogitsProcessor for ConstraintProcessor {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        let generated = &ids[prompt.min(ids.len())..];
        if let Some((_, place)) = self.places.iter_mut().find(|(known, _)| known == generated) {
            place.mask(scores);
            return;
        }
        let before = self.places.iter().enumerate().filter(|(_, (known, _))| generated.starts_with(known));
        let before = before.max_by_key(|(_, (known, _))| known.len()).map(|(at, _)| at);
        // The state of a parser is large: it is copied only where another sequence may go on from the same place.
        let taken = before.and_then(|at| match self.sequences {
            0 | 1 => self.places.remove(at),
            _ => self.places.get(at).cloned(),
        });
        let (known, mut place) = taken.unwrap_or_else(|| (Vec::new(), self.start.clone()));
        // Where a token is refused, only the end is left.
        let _ = generated[known.len()..].iter().try_for_each(|&token| place.accept(token));
        place.mask(scores);
        while self.places.len() >= self.sequences.max(1) {
            self.places.pop_front();
        }
        self.places.push_back((generated.to_vec(), place));
    }

    fn remember(&mut self, sequences: usize) {
        self.sequences = sequences;
    }
}

impl Constraint {
    /// What each sequence has besides the config, for [`Hooks::extras`](crate::Hooks::extras): this constraint.
    pub fn extras(&self, row: usize) -> Extras {
        let processor = ConstraintProcessor::new(self.clone());
        Extras { row, processors: vec![Box::new(processor)], ..Extras::default() }
    }
}

impl Generator<'_> {
    /// Continues a prompt with JSON that is read as a `T`: of [`STRUCTURED_TOKENS`] at most where nothing sets a length.
    ///
    /// # Errors
    /// Those of [`Generator::generate`]; [`Error::Input`] if the text is cut before it is whole, by `max_new_tokens` for
    /// one; [`Error::Unsupported`] for a vocabulary that no text can be constrained in.
    pub fn generate_as<T: JsonSchema + DeserializeOwned>(
        &self,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        config: &GenerationConfig,
    ) -> Result<T> {
        let mut config = config.clone();
        config.or_new_tokens(self.room(prompt.len(), STRUCTURED_TOKENS));
        let vocabulary = Vocabulary::new(tokenizer, &config.eos_token_id)?;
        let constraint = Constraint::new(&Grammar::of::<T>(), &vocabulary)?;
        let mut hooks = Hooks { extras: Some(Box::new(|row| constraint.extras(row))), ..Hooks::default() };
        let generated = self.generate(&[prompt.to_vec()], &config, &mut hooks)?;
        let ids = generated.sequences.first().map(Sequence::new_ids).unwrap_or_default();
        parse(&tokenizer.decode(ids, true)?)
    }
}

/// Makes all other tokens impossible, and those that the vocabulary does not have.
fn keep(allowed: &SimpleVob, scores: &mut [f32]) {
    let (known, unknown) = scores.split_at_mut(scores.len().min(allowed.len()));
    unknown.fill(f32::NEG_INFINITY);
    for (scores, &bits) in known.chunks_mut(u32::BITS as usize).zip(allowed.as_slice()) {
        match bits {
            u32::MAX => {}
            0 => scores.fill(f32::NEG_INFINITY),
            _ => {
                for (bit, score) in scores.iter_mut().enumerate() {
                    if (bits >> bit) & 1 == 0 {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// A message of the library on one line, without the state that it may add.
fn one_line(message: impl fmt::Display) -> String {
    let text = format!("{message:#}");
    let text = ["<non-verbose/>", "<state>", "<backtrace>"]
        .iter()
        .fold(text.as_str(), |text, mark| text.split_once(*mark).map_or(text, |(before, _)| before));
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests;
