//! What the small files say about a tokenizer: special tokens, added tokens and options.
//!
//! Reference: transformers 5.23, `PreTrainedTokenizerBase._from_pretrained` and `__init__`. Newer folders keep all in
//! `tokenizer_config.json`; older ones spread it over `special_tokens_map.json`, `added_tokens.json` and the
//! `added_tokens` of `tokenizer.json`, which count only where `tokenizer_config.json` has no `added_tokens_decoder`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::files::{AddedWithId, Files};
use crate::config::kind;
use crate::error::{Error, Result};

/// The special tokens that have a name, in the order in which they are added.
pub(super) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The longest text of an added token, in bytes.
const MAX_ADDED: usize = 8 << 10;
/// The texts of all added tokens together, in bytes: each byte may become a state of the automaton that finds them.
const MAX_ADDED_BYTES: usize = 16 << 20;

/// A token that is found in a text before the model sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Added {
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    /// `None`: normalised unless special.
    #[serde(default)]
    pub normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

impl Added {
    /// A special token without other properties.
    pub fn special(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: Some(false),
            special: true,
        }
    }

    /// The token as the library takes it.
    pub fn build(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

/// The options and tokens of a tokenizer, from whichever files have them.
#[derive(Debug)]
pub(super) struct Settings {
    /// The file that messages name.
    path: PathBuf,
    /// What is left of `tokenizer_config.json`, overruled by `special_tokens_map.json`.
    keys: Map<String, Value>,
    /// Added tokens by id, as the folder has them.
    pub added: BTreeMap<u32, Added>,
    /// The properties of added tokens, by text.
    by_text: HashMap<String, Added>,
    /// Special tokens with a name of their own (`image_token`).
    pub model_specific: Vec<(String, Added)>,
    /// Further special tokens. `None`: no key for them; an empty list: a key that is null or empty.
    pub extra: Option<Vec<Added>>,
    /// The older key for the same, where both are present.
    pub additional: Option<Vec<Added>>,
}

impl Settings {
    /// Puts together what the files say; `json_added` are the `added_tokens` of `tokenizer.json`.
    pub fn new(files: &Files, json_added: Option<&[AddedWithId]>) -> Result<Self> {
        let path = files.path("tokenizer_config.json");
        let mut keys = files.tokenizer_config.clone();
        keys.remove("tokenizer_class");
        if json_added.is_some() {
            // The post-processor of `tokenizer.json` says whether they are added.
            keys.remove("add_bos_token");
            keys.remove("add_eos_token");
        }
        let is_empty = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
        };
        if is_empty(keys.get("extra_special_tokens"))
            && let Some(value) = keys.remove("additional_special_tokens")
        {
            keys.insert("extra_special_tokens".into(), value);
        }
        let mut settings = Self {
            path,
            keys,
            added: BTreeMap::new(),
            by_text: HashMap::new(),
            model_specific: Vec::new(),
            extra: None,
            additional: None,
        };
        match settings.keys.remove("added_tokens_decoder") {
            Some(decoder) => settings.read_decoder(&decoder)?,
            None => settings.read_older(files, json_added.unwrap_or_default())?,
        }
        settings.by_text = settings.added.values().map(|token| (token.content.clone(), token.clone())).collect();
        settings.read_special()?;
        Ok(settings)
    }

    /// `added_tokens_decoder`: a map from id to token.
    fn read_decoder(&mut self, decoder: &Value) -> Result<()> {
        let key = "added_tokens_decoder";
        let map = decoder.as_object().ok_or_else(|| self.wrong(key, "a map from id to token", decoder))?;
        for (id, token) in map {
            let id = id.parse().map_err(|_| self.wrong(key, "ids as keys", &Value::from(id.as_str())))?;
            let token = self.token(key, token)?.ok_or_else(|| self.wrong(key, "tokens", token))?;
            self.added.insert(id, token);
        }
        Ok(())
    }

    /// `special_tokens_map.json`, `added_tokens.json` and `added_tokens` of `tokenizer.json`.
    fn read_older(&mut self, files: &Files, json_added: &[AddedWithId]) -> Result<()> {
        for (key, value) in files.special_tokens_map.iter().flatten() {
            let value = match value {
                Value::Object(token) if key != "extra_special_tokens" => {
                    let mut token = token.clone();
                    token.insert("special".into(), true.into());
                    Value::Object(token)
                }
                Value::Array(tokens) if key == "extra_special_tokens" => {
                    let mut all = self.keys.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
                    all.extend(tokens.iter().filter(|token| !all.contains(token)).cloned().collect::<Vec<_>>());
                    Value::Array(all)
                }
                other => other.clone(),
            };
            self.keys.insert(key.clone(), value);
        }
        let texts = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
        let extra = self.keys.get("extra_special_tokens").and_then(Value::as_array);
        let named = NAMED.iter().filter_map(|&key| self.keys.get(key));
        let special: Vec<String> = named.chain(extra.into_iter().flatten()).filter_map(texts).collect();
        for (content, id) in files.added_tokens.iter().flatten() {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| {
                Error::config(files.path("added_tokens.json"), content, format_args!("expected an id, found {id}"))
            })?;
            let special = special.contains(content);
            let token = Added { special, normalized: Some(!special), ..Added::special(content) };
            self.added.insert(number, token);
        }
        for entry in json_added {
            self.added.insert(entry.id, entry.token.clone());
        }
        Ok(())
    }

    /// Takes the special tokens that are not among the seven named ones out of the keys.
    fn read_special(&mut self) -> Result<()> {
        let is_token = |value: &Value| value.is_string() || value.get("content").is_some();
        let own = self
            .keys
            .iter()
            .filter(|(key, value)| key.ends_with("_token") && !NAMED.contains(&key.as_str()) && is_token(value));
        let mut own: Vec<(String, Value)> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
        match self.keys.remove("extra_special_tokens") {
            Some(Value::Object(map)) => own.extend(map),
            Some(list) => self.extra = Some(self.tokens("extra_special_tokens", &list)?),
            None => {}
        }
        if let Some(list) = self.keys.remove("additional_special_tokens").filter(|list| !list.is_null()) {
            self.additional = Some(self.tokens("additional_special_tokens", &list)?);
        }
        for (key, value) in own {
            self.keys.remove(&key);
            if let Some(token) = self.token(&key, &value)? {
                self.model_specific.push((key, token));
            }
        }
        Ok(())
    }

    /// Bounds the texts of the tokens that will be added.
    pub fn check_added(&self, tokens: &[Added]) -> Result<()> {
        let longest = tokens.iter().map(|token| token.content.len()).max().unwrap_or(0);
        let all: usize = tokens.iter().map(|token| token.content.len()).sum();
        if longest <= MAX_ADDED && all <= MAX_ADDED_BYTES {
            return Ok(());
        }
        let reason = format!(
            "added tokens have up to {longest} bytes, {all} together, expected at most {MAX_ADDED} and {MAX_ADDED_BYTES}"
        );
        Err(Error::tokenizer(&self.path, reason))
    }

    /// A list of tokens; null is an empty one.
    fn tokens(&self, key: &str, list: &Value) -> Result<Vec<Added>> {
        let items = match list {
            Value::Null => return Ok(Vec::new()),
            Value::Array(items) => items,
            other => return Err(self.wrong(key, "a list of tokens", other)),
        };
        items.iter().map(|item| self.token(key, item)?.ok_or_else(|| self.wrong(key, "tokens", item))).collect()
    }

    /// A token, as a string or with its properties; `None` for null.
    fn token(&self, key: &str, value: &Value) -> Result<Option<Added>> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(Added::special(text))),
            Value::Object(_) => {
                let token = Added::deserialize(value);
                token.map(Some).map_err(|e| Error::config(&self.path, key, format_args!("not a token: {e}")))
            }
            other => Err(self.wrong(key, "a token", other)),
        }
    }

    /// One of the seven named special tokens: what the files say, else the class's own default.
    ///
    /// `lstrip` holds for tokens of which only the text is known, as some classes want for their mask token.
    pub fn named(&self, key: &str, default: Option<&str>, lstrip: bool) -> Result<Option<Added>> {
        let Some(value) = self.keys.get(key) else {
            return Ok(default.map(|text| Added { lstrip, ..Added::special(text) }));
        };
        let Some(token) = self.token(key, value)? else { return Ok(None) };
        Ok(Some(match self.by_text.get(&token.content) {
            Some(known) => known.clone(),
            None if value.is_string() => Added { lstrip, ..token },
            None => token,
        }))
    }

    /// Whether a key is there, null or not.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// A boolean; null counts as false.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.keys.get(key) {
            None => Ok(default),
            Some(_) => Ok(self.optional_flag(key)?.unwrap_or(false)),
        }
    }

    /// A boolean that may be null.
    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// An integer from 0 to `max`.
    pub fn count(&self, key: &str, default: usize, max: usize) -> Result<usize> {
        let Some(value) = self.keys.get(key).filter(|value| !value.is_null()) else { return Ok(default) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|&count| count <= max);
        count.ok_or_else(|| {
            Error::config(&self.path, key, format_args!("found {value}, expected an integer from 0 to {max}"))
        })
    }

    /// A string, if the key is there and not null.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    /// `model_max_length`, in tokens; `None` if there is no limit, which the reference writes as 1e30.
    pub fn model_max_length(&self) -> Result<Option<usize>> {
        /// What the reference takes for "no limit".
        const UNLIMITED: f64 = 1e20;
        let key = if self.has("model_max_length") { "model_max_length" } else { "max_len" };
        let Some(value) = self.keys.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_f64() {
            Some(length) if length > UNLIMITED => Ok(None),
            Some(length) if length >= 1.0 => Ok(Some(length as usize)),
            _ => Err(self.wrong(key, "a positive number of tokens", value)),
        }
    }

    /// The names of the model's inputs, if the config lists them.
    pub fn model_input_names(&self) -> Option<Vec<&str>> {
        let names = self.keys.get("model_input_names")?.as_array()?;
        Some(names.iter().filter_map(Value::as_str).collect())
    }

    /// An [`Error::Config`] for a value of the wrong type.
    pub fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        let found = match found {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        Error::config(&self.path, key, format_args!("found {found}, expected {expected}"))
    }

    /// An [`Error::Config`] with any reason.
    pub fn error(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        Error::config(&self.path, key, reason)
    }
}
