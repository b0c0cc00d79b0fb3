//! The ids of a model trained with connectionist temporal classification, one for every frame of sound, to text.
//!
//! Equal ids in a row are one character, and the pad token is the blank between two characters.
//!
//! Reference: transformers 5.23, `models/wav2vec2/tokenization_wav2vec2.py`. The word delimiter is the one of
//! `tokenizer_config.json`, as in version 4; version 5.23 takes `|`, whatever that file says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tx_core::config::{kind, read_json};
use tx_core::error::{Error, Result};

/// The special tokens that have a name, in the order in which they are added to a vocabulary.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// `Wav2Vec2CTCTokenizer`: ids to text.
#[derive(Debug, Clone)]
pub struct Wav2Vec2CtcTokenizer {
    path: PathBuf,
    /// The vocabularies by language, where `vocab.json` has several.
    languages: Map<String, Value>,
    target_lang: Option<String>,
    /// The tokens of the vocabulary.
    tokens: HashMap<u32, String>,
    /// Tokens that the vocabulary lacks.
    added: BTreeMap<u32, String>,
    special: HashSet<String>,
    pad: Option<String>,
    unk: Option<String>,
    word_delimiter: Option<String>,
    /// What stands for the word delimiter in a text.
    replace_word_delimiter_char: String,
    do_lower_case: bool,
    clean_up: bool,
}

/// How ids become text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CtcDecodeOptions {
    /// Leaves out special tokens, and the blank with them, before equal ids become one.
    pub skip_special_tokens: bool,
    /// Whether equal ids in a row are one character.
    pub group_tokens: bool,
    /// Puts a space between all characters.
    pub spaces_between_special_tokens: bool,
    /// Removes spaces before punctuation. `None`: as `tokenizer_config.json` says.
    pub clean_up_tokenization_spaces: Option<bool>,
    /// Says where each character is.
    pub output_char_offsets: bool,
    /// Says where each word is.
    pub output_word_offsets: bool,
}

impl Default for CtcDecodeOptions {
    fn default() -> Self {
        Self {
            skip_special_tokens: false,
            group_tokens: true,
            spaces_between_special_tokens: false,
            clean_up_tokenization_spaces: None,
            output_char_offsets: false,
            output_word_offsets: false,
        }
    }
}

/// A text, and where its parts are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CtcOutput {
    /// The text.
    pub text: String,
    /// The characters and word delimiters, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub char_offsets: Option<Vec<CharOffset>>,
    /// The words, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word_offsets: Option<Vec<WordOffset>>,
}

/// A character and its frames; a frame lasts `inputs_to_logits_ratio / sampling_rate` seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharOffset {
    /// The character.
    pub char: String,
    /// Its first frame.
    pub start_offset: usize,
    /// The frame behind its last.
    pub end_offset: usize,
}

/// A word and its frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordOffset {
    /// The word.
    pub word: String,
    /// Its first frame.
    pub start_offset: usize,
    /// The frame behind its last.
    pub end_offset: usize,
}

impl Wav2Vec2CtcTokenizer {
    /// Reads `vocab.json`, and `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` where they are.
    /// `target_lang` names the language of a vocabulary that has several; it overrules the configuration.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Io`], [`Error::Malformed`]; [`Error::Config`] and [`Error::Tokenizer`] for files that
    /// do not say what they should.
    pub fn from_folder(folder: &Path, target_lang: Option<&str>) -> Result<Self> {
        let path = folder.join("vocab.json");
        if !path.is_file() {
            return Err(Error::MissingFile {
                folder: folder.to_path_buf(),
                expected: "`vocab.json`".into(),
                remedy: "name a folder that holds a CTC model as it lies on the Hub".into(),
            });
        }
        let config_path = folder.join("tokenizer_config.json");
        let mut keys = read_map(&config_path)?.unwrap_or_default();
        let mut added = BTreeMap::new();
        if let Some(decoder) = keys.remove("added_tokens_decoder") {
            let wrong = || Error::config(&config_path, "added_tokens_decoder", "expected a map from id to token");
            for (id, token) in decoder.as_object().ok_or_else(wrong)? {
                let (Ok(id), Some(text)) = (id.parse::<u32>(), text_of(token)) else { return Err(wrong()) };
                added.insert(id, text);
            }
        } else {
            // Older folders spread over other files what newer ones have in one.
            keys.extend(read_map(&folder.join("special_tokens_map.json"))?.unwrap_or_default());
            let added_path = folder.join("added_tokens.json");
            for (text, id) in read_map(&added_path)?.unwrap_or_default() {
                added.insert(id_of(&added_path, &text, &id)?, text);
            }
        }
        let vocabulary = read_map(&path)?.unwrap_or_default();
        let nested = vocabulary.values().any(Value::is_object);
        let settings = Settings { path: config_path, keys };
        let own_lang = settings.text("target_lang", None)?;
        let target_lang = target_lang.map(str::to_owned).or(own_lang);
        let mut tokenizer = Self {
            path,
            languages: if nested { vocabulary.clone() } else { Map::new() },
            target_lang: None,
            tokens: HashMap::new(),
            added,
            special: HashSet::new(),
            pad: settings.text("pad_token", Some("<pad>"))?,
            unk: settings.text("unk_token", Some("<unk>"))?,
            word_delimiter: settings.text("word_delimiter_token", Some("|"))?,
            replace_word_delimiter_char: settings.text("replace_word_delimiter_char", Some(" "))?.unwrap_or_default(),
            do_lower_case: settings.flag("do_lower_case")?,
            clean_up: settings.flag("clean_up_tokenization_spaces")?,
        };
        match target_lang {
            None if !nested => tokenizer.tokens = tokenizer.read_vocabulary(&vocabulary)?,
            Some(language) => tokenizer.tokens = tokenizer.read_language(&language)?,
            None => {
                let reason = format!("has languages, and `target_lang` names none; it has {}", tokenizer.listed());
                return Err(Error::tokenizer(&tokenizer.path, reason));
            }
        }
        tokenizer.add_special(settings.special()?);
        Ok(tokenizer)
    }

    /// The languages of the vocabulary; none if it has just one.
    pub fn languages(&self) -> impl Iterator<Item = &str> {
        self.languages.keys().map(String::as_str)
    }

    /// The language of the tokens, where the vocabulary has several.
    pub fn target_lang(&self) -> Option<&str> {
        self.target_lang.as_deref()
    }

    /// Takes the vocabulary of another language.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if there is no such language, or only one.
    pub fn set_target_lang(&mut self, language: &str) -> Result<()> {
        self.tokens = self.read_language(language)?;
        self.added.retain(|id, _| !self.tokens.contains_key(id));
        Ok(())
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(&id).or_else(|| self.added.get(&id)).map(String::as_str)
    }

    /// The text of ids, as Python's `decode`.
    ///
    /// # Errors
    /// [`Error::Input`] for an id that the vocabulary lacks, if it has no unknown token.
    pub fn decode(&self, ids: &[u32], options: &CtcDecodeOptions) -> Result<CtcOutput> {
        let mut tokens = Vec::with_capacity(ids.len());
        for &id in ids {
            let token = self.token(id).or(self.unk.as_deref());
            let token = token.ok_or_else(|| Error::input("ids", id, "ids of the vocabulary"))?;
            let skip = options.skip_special_tokens && self.special.contains(token);
            if !skip || self.word_delimiter.as_deref() == Some(token) {
                tokens.push(token);
            }
        }
        let (by_char, by_word) = (options.output_char_offsets, options.output_word_offsets);
        if tokens.is_empty() {
            let asked = by_char || by_word;
            let (char_offsets, word_offsets) = (asked.then(Vec::new), asked.then(Vec::new));
            return Ok(CtcOutput { text: String::new(), char_offsets, word_offsets });
        }
        let mut chars: Vec<(&str, usize, usize)> = Vec::new();
        let mut previous = None;
        for (frame, &token) in tokens.iter().enumerate() {
            if options.group_tokens && previous == Some(token) {
                if let Some(last) = chars.last_mut().filter(|_| self.pad.as_deref() != Some(token)) {
                    last.2 = frame + 1;
                }
                continue;
            }
            previous = Some(token);
            if self.pad.as_deref() != Some(token) {
                chars.push((token, frame, frame + 1));
            }
        }
        for (char, _, _) in &mut chars {
            if self.word_delimiter.as_deref() == Some(*char) {
                *char = self.replace_word_delimiter_char.as_str();
            }
        }
        let separator = if options.spaces_between_special_tokens { " " } else { "" };
        let text = chars.iter().map(|&(char, _, _)| char).collect::<Vec<_>>().join(separator);
        let text = text.trim();
        let text = if self.do_lower_case { text.to_lowercase() } else { text.to_owned() };
        let clean_up = options.clean_up_tokenization_spaces.unwrap_or(self.clean_up);
        let char_offset = |&(char, start_offset, end_offset): &(&str, usize, usize)| CharOffset {
            char: char.to_owned(),
            start_offset,
            end_offset,
        };
        Ok(CtcOutput {
            text: if clean_up { without_spaces(text) } else { text },
            char_offsets: by_char.then(|| chars.iter().map(char_offset).collect()),
            word_offsets: by_word.then(|| words(&chars, &self.replace_word_delimiter_char)),
        })
    }

    /// The tokens of one language.
    fn read_language(&mut self, language: &str) -> Result<HashMap<u32, String>> {
        let Some(vocabulary) = self.languages.get(language) else {
            let shown: String = language.chars().take(80).collect();
            let reason = match self.languages.is_empty() {
                true => format!("has no languages, and so no `{shown}`"),
                false => format!("has no language `{shown}`; it has {}", self.listed()),
            };
            return Err(Error::tokenizer(&self.path, reason));
        };
        let wrong = || Error::tokenizer(&self.path, format_args!("`{language}` is {}", kind(vocabulary)));
        let tokens = self.read_vocabulary(vocabulary.as_object().ok_or_else(wrong)?)?;
        self.target_lang = Some(language.to_owned());
        Ok(tokens)
    }

    /// A vocabulary the other way round; of several tokens with one id, the last counts.
    fn read_vocabulary(&self, vocabulary: &Map<String, Value>) -> Result<HashMap<u32, String>> {
        vocabulary.iter().map(|(token, id)| Ok((id_of(&self.path, token, id)?, token.clone()))).collect()
    }

    /// Some languages, for messages.
    fn listed(&self) -> String {
        const SHOWN: usize = 20;
        let names: Vec<&str> = self.languages().take(SHOWN).collect();
        names.join(", ") + if self.languages.len() > SHOWN { ", …" } else { "" }
    }

    /// Puts special tokens that the vocabulary lacks behind it.
    fn add_special(&mut self, special: Vec<String>) {
        let known: HashSet<&str> = self.tokens.values().chain(self.added.values()).map(String::as_str).collect();
        let mut missing: Vec<&String> = Vec::new();
        for token in special.iter().filter(|token| !token.is_empty() && !known.contains(token.as_str())) {
            if !missing.contains(&token) {
                missing.push(token);
            }
        }
        let added: Vec<(u32, String)> = (known.len() as u32..).zip(missing.into_iter().cloned()).collect();
        self.added.extend(added);
        self.special = special.into_iter().collect();
    }
}

/// The words among characters: what stands between two delimiters.
fn words(chars: &[(&str, usize, usize)], delimiter: &str) -> Vec<WordOffset> {
    let mut words: Vec<WordOffset> = Vec::new();
    let mut inside = false;
    for &(char, start_offset, end_offset) in chars {
        let was_inside = inside;
        inside = char != delimiter;
        match words.last_mut().filter(|_| was_inside) {
            _ if !inside => {}
            Some(word) => {
                word.word.push_str(char);
                word.end_offset = end_offset;
            }
            None => words.push(WordOffset { word: char.to_owned(), start_offset, end_offset }),
        }
    }
    words
}

/// `clean_up_tokenization`
fn without_spaces(text: String) -> String {
    #[rustfmt::skip]
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
        (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ];
    REPLACED.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// `tokenizer_config.json`, overruled by what older folders have besides.
struct Settings {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Settings {
    /// A token or another text; `None` for null.
    fn text(&self, key: &str, default: Option<&str>) -> Result<Option<String>> {
        match self.keys.get(key) {
            None => Ok(default.map(str::to_owned)),
            Some(Value::Null) => Ok(None),
            Some(value) => match text_of(value) {
                Some(text) => Ok(Some(text)),
                None => Err(self.wrong(key, "a string", value)),
            },
        }
    }

    /// A boolean that is false unless it says otherwise.
    fn flag(&self, key: &str) -> Result<bool> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// All special tokens, in the order in which Python adds them.
    fn special(&self) -> Result<Vec<String>> {
        let mut special = Vec::new();
        for key in NAMED {
            let default = match key {
                "bos_token" => Some("<s>"),
                "eos_token" => Some("</s>"),
                "unk_token" => Some("<unk>"),
                "pad_token" => Some("<pad>"),
                _ => None,
            };
            special.extend(self.text(key, default)?);
        }
        special.extend(self.text("word_delimiter_token", Some("|"))?);
        let own = self.keys.iter().filter(|(key, _)| key.ends_with("_token") && !NAMED.contains(&key.as_str()));
        special.extend(own.filter_map(|(_, value)| text_of(value)));
        let is_empty = |value: &&Value| match value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let extra = self.keys.get("extra_special_tokens").filter(|value| !is_empty(value));
        match extra.or(self.keys.get("additional_special_tokens")) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => special.extend(list.iter().filter_map(text_of)),
            Some(Value::Object(map)) => special.extend(map.values().filter_map(text_of)),
            Some(other) => return Err(self.wrong("extra_special_tokens", "a list of tokens", other)),
        }
        Ok(special)
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::config(&self.path, key, format_args!("found {}, expected {expected}", kind(found)))
    }
}

/// The text of a token, as a string or with its properties.
fn text_of(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The id of a token of `path`.
fn id_of(path: &Path, token: &str, id: &Value) -> Result<u32> {
    let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
    number.ok_or_else(|| {
        let token: String = token.chars().take(80).collect();
        let found = if id.is_number() { id.to_string() } else { kind(id).to_owned() };
        Error::tokenizer(path, format_args!("the id of `{}` is {found}, expected a number", token.escape_debug()))
    })
}

/// Reads a JSON map; `None` if there is no such file.
fn read_map(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    match read_json(path)? {
        Value::Object(map) => Ok(Some(map)),
        other => Err(Error::malformed(path, format_args!("expected a JSON object, found {}", kind(&other)))),
    }
}
