//! The files that a tokenizer is made of: found, bounded, read.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::model::{Ids, MAX_TOKENS, ModelParts, Vocabulary};
use super::settings::Added;
use crate::config::{kind, read_json, read_text};
use crate::error::{Error, Result};

/// The largest `tokenizer.json`, `vocab.txt`, `vocab.json` or `merges.txt` that is read, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// The only version of `tokenizer.json` there is.
const VERSION: &str = "1.0";

/// What a folder holds about its tokenizer; the vocabulary is read later, when it is known which one is needed.
#[derive(Debug)]
pub(super) struct Files {
    /// The folder.
    pub folder: PathBuf,
    /// `tokenizer_config.json`; empty if there is none.
    pub tokenizer_config: Map<String, Value>,
    /// `special_tokens_map.json`, which older folders have.
    pub special_tokens_map: Option<Map<String, Value>>,
    /// `added_tokens.json`, which older folders have.
    pub added_tokens: Option<Map<String, Value>>,
    config: Map<String, Value>,
    tokenizer_json: Option<String>,
}

impl Files {
    /// Reads the small files of `folder`, and the text of `tokenizer.json`.
    pub fn read(folder: &Path) -> Result<Self> {
        let json = folder.join("tokenizer.json");
        Ok(Self {
            folder: folder.to_path_buf(),
            tokenizer_config: read_map(folder, "tokenizer_config.json")?.unwrap_or_default(),
            special_tokens_map: read_map(folder, "special_tokens_map.json")?,
            added_tokens: read_map(folder, "added_tokens.json")?,
            config: read_map(folder, "config.json")?.unwrap_or_default(),
            tokenizer_json: if json.is_file() { Some(read_text(&json, MAX_BYTES)?) } else { None },
        })
    }

    /// The path of a file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The first of these files that the folder has.
    pub fn first(&self, names: &[&str]) -> Option<PathBuf> {
        names.iter().map(|name| self.path(name)).find(|path| path.is_file())
    }

    /// `model_type` of `config.json`.
    pub fn model_type(&self) -> Option<&str> {
        self.config.get("model_type")?.as_str()
    }

    /// `tokenizer_class` of `tokenizer_config.json`, else of `config.json`, without the ending `Fast` of older versions.
    pub fn class_name(&self) -> Option<&str> {
        let named = |map: &'_ Map<String, Value>| map.get("tokenizer_class").and_then(Value::as_str).is_some();
        let map = if named(&self.tokenizer_config) { &self.tokenizer_config } else { &self.config };
        let name = map.get("tokenizer_class")?.as_str()?;
        // The one name whose ending is its own.
        if name == "PreTrainedTokenizerFast" { Some(name) } else { Some(name.strip_suffix("Fast").unwrap_or(name)) }
    }

    /// Whether there is a `tokenizer.json`.
    pub fn has_tokenizer_json(&self) -> bool {
        self.tokenizer_json.is_some()
    }

    /// The reference's own test for a byte-level `tokenizer.json`.
    pub fn tokenizer_json_names_byte_level(&self) -> bool {
        self.tokenizer_json.as_ref().is_some_and(|text| text.contains("\"ByteLevel\""))
    }

    /// Parses `tokenizer.json`, if there is one, and forgets its text.
    pub fn take_tokenizer_json(&mut self) -> Result<Option<TokenizerJson>> {
        let Some(text) = self.tokenizer_json.take() else { return Ok(None) };
        let path = self.path("tokenizer.json");
        let json: TokenizerJson =
            serde_json::from_str(&text).map_err(|e| Error::tokenizer(&path, format_args!("not a tokenizer: {e}")))?;
        match json.version.as_deref() {
            None | Some(VERSION) => Ok(Some(json)),
            Some(version) => Err(Error::Unsupported {
                path,
                key: "version".into(),
                value: version.chars().take(40).collect(),
                supported: VERSION.into(),
            }),
        }
    }
}

/// `tokenizer.json`. The parts of the pipeline stay JSON until they are checked.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson {
    version: Option<String>,
    #[serde(default)]
    pub added_tokens: Vec<AddedWithId>,
    #[serde(default)]
    pub truncation: Value,
    #[serde(default)]
    pub padding: Value,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    #[serde(default)]
    pub decoder: Value,
    pub model: ModelParts,
}

/// An entry of `added_tokens` in `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(super) struct AddedWithId {
    pub id: u32,
    #[serde(flatten)]
    pub token: Added,
}

/// Reads a JSON map; `None` if the folder has no such file.
fn read_map(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    match read_json(&path)? {
        Value::Object(map) => Ok(Some(map)),
        other => Err(Error::malformed(&path, format_args!("expected a JSON object, found {}", kind(&other)))),
    }
}

/// Reads `vocab.txt`: one token a line, whose id is the line's number from 0.
pub(super) fn read_vocab_txt(path: &Path) -> Result<Vocabulary> {
    let text = read_text(path, MAX_BYTES)?;
    let mut ids = Ids::default();
    for (id, line) in text.lines().enumerate() {
        check_count(path, "lines", id)?;
        // White space at the end is not part of a token, for the reference either.
        ids.insert(line.trim_end().to_owned(), id as u32);
    }
    if ids.is_empty() {
        return Err(Error::tokenizer(path, "the vocabulary is empty"));
    }
    Ok(Vocabulary::Ids(ids))
}

/// Reads `vocab.json`: a map from token to id.
pub(super) fn read_vocab_json(path: &Path) -> Result<Vocabulary> {
    let text = read_text(path, MAX_BYTES)?;
    match serde_json::from_str(&text).map_err(|e| Error::tokenizer(path, e))? {
        vocab @ Vocabulary::Ids(_) => Ok(vocab),
        Vocabulary::Scores(_) => Err(Error::tokenizer(path, "expected a map from token to id, found a list")),
    }
}

/// Reads `merges.txt`: two tokens a line, best merge first.
pub(super) fn read_merges(path: &Path) -> Result<Vec<(String, String)>> {
    let text = read_text(path, MAX_BYTES)?;
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version")) {
        check_count(path, "lines", number)?;
        match line.split_once(' ') {
            Some((a, b)) if !b.contains(' ') => merges.push((a.to_owned(), b.to_owned())),
            _ => {
                let reason = format!("line {}: expected two tokens with one space between", number + 1);
                return Err(Error::tokenizer(path, reason));
            }
        }
    }
    Ok(merges)
}

/// An error if an index reaches the largest size of a vocabulary.
fn check_count(path: &Path, what: &str, index: usize) -> Result<()> {
    if index < MAX_TOKENS {
        return Ok(());
    }
    Err(Error::tokenizer(path, format_args!("more than {MAX_TOKENS} {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn vocab_txt_drops_trailing_space_and_keeps_the_last_of_equals() {
        let (_folder, path) = written("vocab.txt", "a\r\nb \nc\na\n");
        let Vocabulary::Ids(ids) = read_vocab_txt(&path).unwrap() else { panic!("a map") };
        assert_eq!((ids["a"], ids["b"], ids["c"], ids.len()), (3, 1, 2, 3));
    }

    #[test]
    fn merges_name_the_bad_line() {
        let (_folder, path) = written("merges.txt", "#version: 0.2\na b\nab c\n");
        assert_eq!(read_merges(&path).unwrap(), [("a".into(), "b".into()), ("ab".into(), "c".into())]);
        let (_folder, path) = written("merges.txt", "#version: 0.2\na b c\n");
        assert!(read_merges(&path).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn broken_tokenizer_json_is_a_typed_error() {
        for text in ["", "{", "[]", r#"{"model": 1}"#, r#"{"version": "9", "model": {"type": "BPE", "vocab": {}}}"#] {
            let (folder, _) = written("tokenizer.json", text);
            let error = Files::read(folder.path()).unwrap().take_tokenizer_json().unwrap_err();
            assert!(matches!(error, Error::Tokenizer { .. } | Error::Unsupported { .. }), "{error}");
        }
    }
}
