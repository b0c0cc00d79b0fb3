//! What a Whisper model says about its generation, and what a call says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};
use tx_core::config::{Config, read_json};
use tx_core::error::{Error, Result};
use tx_generate::{GenerationConfig, Overrides};

/// The keys of `generation_config.json` that only Whisper has, and what of `config.json` generation needs.
#[derive(Debug, Clone)]
pub struct WhisperGenerationConfig {
    /// The keys that all models have.
    pub base: GenerationConfig,
    /// Where they are from, for messages.
    pub path: PathBuf,
    /// The first token.
    pub decoder_start_token_id: u32,
    /// Keys that may be missing.
    pub keys: WhisperKeys,
    /// The width of the filter that smooths attention maps: an odd number.
    pub median_filter_width: usize,
}

/// Keys of `generation_config.json`, with HF's names; what is missing there may be missing in Python, too.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct WhisperKeys {
    /// Whether there are tokens for languages and tasks.
    pub is_multilingual: Option<bool>,
    /// `<|en|>` and the like.
    pub lang_to_id: Option<BTreeMap<String, u32>>,
    /// `transcribe` and `translate`.
    pub task_to_id: Option<BTreeMap<String, u32>>,
    /// The token for text without times; tokens of time follow it.
    pub no_timestamps_token_id: Option<u32>,
    /// The latest time of a first token, in steps of 20 ms.
    pub max_initial_timestamp_index: Option<usize>,
    /// The token before what was said earlier.
    pub prev_sot_token_id: Option<u32>,
    /// Layers and heads whose attention says where a token is in the sound.
    pub alignment_heads: Option<Vec<[usize; 2]>>,
    /// What older models have in place of language and task: places in the decoder's text and tokens.
    pub forced_decoder_ids: Option<Vec<(usize, Option<u32>)>>,
    /// The language, where a call says nothing.
    pub language: Option<String>,
    /// The task, where a call says nothing.
    pub task: Option<WhisperTask>,
    /// Whether times are generated, where a call says nothing.
    pub return_timestamps: Option<bool>,
    /// See [`WhisperOptions::condition_on_prev_tokens`].
    pub condition_on_prev_tokens: Option<bool>,
    /// See [`WhisperOptions::compression_ratio_threshold`].
    pub compression_ratio_threshold: Option<f64>,
    /// See [`WhisperOptions::logprob_threshold`].
    pub logprob_threshold: Option<f64>,
    /// See [`WhisperOptions::no_speech_threshold`].
    pub no_speech_threshold: Option<f64>,
    /// The beams of [`WhisperGenerationConfig::base`], if the file says how many: 1 is then a choice, and no default.
    pub num_beams: Option<usize>,
}

/// What is made of speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhisperTask {
    /// Text in the language that is spoken.
    Transcribe,
    /// Text in English.
    Translate,
}

impl WhisperTask {
    /// HF's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transcribe => "transcribe",
            Self::Translate => "translate",
        }
    }
}

impl FromStr for WhisperTask {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = [Self::Transcribe, Self::Translate].into_iter().find(|task| task.name() == name);
        found.ok_or_else(|| {
            let shown: String = name.chars().take(40).collect();
            Error::input("task", format_args!("`{}`", shown.escape_debug()), "transcribe or translate")
        })
    }
}

/// Which parts of a long sound know the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptConditionType {
    /// The first.
    #[default]
    FirstSegment,
    /// All of them; needs `condition_on_prev_tokens`.
    AllSegments,
}

impl FromStr for PromptConditionType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "first-segment" => Ok(Self::FirstSegment),
            "all-segments" => Ok(Self::AllSegments),
            _ => {
                let shown: String = name.chars().take(40).collect();
                let found = format_args!("`{}`", shown.escape_debug());
                Err(Error::input("prompt_condition_type", found, "first-segment or all-segments"))
            }
        }
    }
}

/// What a call of [`WhisperGenerator::generate`](super::WhisperGenerator::generate) says; all of it is optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WhisperOptions {
    /// The language by its name, its code or its token; it is detected if nothing says it.
    pub language: Option<String>,
    /// What is made of speech.
    pub task: Option<WhisperTask>,
    /// Whether times are generated. For sounds longer than what the model hears at once they always are.
    pub return_timestamps: Option<bool>,
    /// Whether each token gets its time.
    pub return_token_timestamps: bool,
    /// Tokens that stand before the text, such as [`WhisperTokens::prompt_ids`](crate::tokens::WhisperTokens::prompt_ids)
    /// makes of a text.
    pub prompt_ids: Option<Vec<u32>>,
    /// Which parts of a long sound know them.
    pub prompt_condition_type: PromptConditionType,
    /// Whether each part of a long sound knows what was said before.
    pub condition_on_prev_tokens: Option<bool>,
    /// What is tried in turn while text repeats itself or is improbable; 0 for the most probable tokens. Empty for 0.
    pub temperature: Vec<f64>,
    /// Text whose token ids compress better than this, such as 1.35, repeats itself.
    pub compression_ratio_threshold: Option<f64>,
    /// Text whose tokens have less than this mean log-probability, such as -1, is improbable.
    pub logprob_threshold: Option<f64>,
    /// Improbable text is left out if nothing being said is more probable than this, such as 0.6.
    pub no_speech_threshold: Option<f64>,
    /// Replaces what `generation_config.json` says.
    pub generation: Overrides,
}

impl WhisperGenerationConfig {
    /// Reads `generation_config.json` in a model's folder, or where it is missing the same keys of `config.json`.
    ///
    /// # Errors
    /// Those of [`GenerationConfig::from_folder`]; [`Error::Config`] if there is no first token.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let model = Config::from_folder(folder)?;
        let base = GenerationConfig::from_folder(folder)?;
        let path = folder.join("generation_config.json");
        let path = if path.is_file() { path } else { model.path().to_path_buf() };
        let mut keys: WhisperKeys = parse(&path)?;
        if keys.forced_decoder_ids.is_none() && model.get("forced_decoder_ids").is_some() {
            keys.forced_decoder_ids = parse::<WhisperKeys>(model.path())?.forced_decoder_ids;
        }
        let of_model: ModelKeys = parse(model.path())?;
        let start = base.decoder_start_token_id.or(of_model.decoder_start_token_id).or(base.bos_token_id);
        let start = start.ok_or_else(|| {
            Error::config(&path, "decoder_start_token_id", "missing; it is the first token of the decoder")
        })?;
        let median_filter_width = of_model.median_filter_width.unwrap_or(7);
        if median_filter_width.is_multiple_of(2) || median_filter_width > MAX_FILTER_WIDTH {
            let reason = format_args!("{median_filter_width}, expected an odd number up to {MAX_FILTER_WIDTH}");
            return Err(Error::config(model.path(), "median_filter_width", reason));
        }
        Ok(Self { base, path, decoder_start_token_id: start, keys, median_filter_width })
    }

    /// The first token of time: 0.00.
    pub fn timestamp_begin(&self) -> Option<u32> {
        self.keys.no_timestamps_token_id?.checked_add(1)
    }

    /// Rejects tokens that a model with so many of them does not have.
    pub(super) fn validate_ids(&self, vocab_size: usize) -> Result<()> {
        let keys = &self.keys;
        let mut ids = vec![("decoder_start_token_id", self.decoder_start_token_id)];
        ids.extend(keys.no_timestamps_token_id.map(|id| ("no_timestamps_token_id", id)));
        ids.extend(keys.prev_sot_token_id.map(|id| ("prev_sot_token_id", id)));
        for (key, named) in [("lang_to_id", &keys.lang_to_id), ("task_to_id", &keys.task_to_id)] {
            ids.extend(named.iter().flat_map(|ids| ids.values()).map(|&id| (key, id)));
        }
        let forced = keys.forced_decoder_ids.iter().flatten();
        ids.extend(forced.filter_map(|&(_, id)| Some(("forced_decoder_ids", id?))));
        match ids.into_iter().find(|&(_, id)| id as usize >= vocab_size) {
            Some((key, id)) => {
                let reason = format_args!("token id {id}, expected ids below {vocab_size}");
                Err(Error::config(&self.path, key, reason))
            }
            None => Ok(()),
        }
    }

    /// An [`Error::Config`] for a key that a call needs.
    pub(super) fn missing(&self, key: &str, what: &str) -> Error {
        Error::config(&self.path, key, format_args!("missing; {what} needs it"))
    }
}

/// The widest filter: attention maps have 1500 places.
const MAX_FILTER_WIDTH: usize = 999;

/// Keys of `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ModelKeys {
    decoder_start_token_id: Option<u32>,
    median_filter_width: Option<usize>,
}

/// Some keys of a JSON file; null is as good as missing.
fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let keys: Map<String, Value> = match read_json(path)? {
        Value::Object(keys) => keys.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    serde_path_to_error::deserialize(Value::Object(keys)).map_err(|e| {
        let key = e.path().to_string();
        Error::config(path, key, e.into_inner())
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The settings of a file with these keys.
    pub fn config(keys: WhisperKeys) -> WhisperGenerationConfig {
        WhisperGenerationConfig {
            base: GenerationConfig::default(),
            path: PathBuf::from("generation_config.json"),
            decoder_start_token_id: 10,
            keys,
            median_filter_width: 7,
        }
    }

    #[test]
    fn tokens_are_those_of_the_model() {
        let ids = |id| Some(BTreeMap::from([("a".to_owned(), id)]));
        let last = || WhisperKeys {
            lang_to_id: ids(99),
            task_to_id: ids(99),
            no_timestamps_token_id: Some(99),
            prev_sot_token_id: Some(99),
            forced_decoder_ids: Some(vec![(1, None), (2, Some(99))]),
            ..WhisperKeys::default()
        };
        assert!(config(last()).validate_ids(100).is_ok());
        assert!(config(WhisperKeys::default()).validate_ids(10).is_err());
        for (key, keys) in [
            ("lang_to_id", WhisperKeys { lang_to_id: ids(100), ..last() }),
            ("task_to_id", WhisperKeys { task_to_id: ids(100), ..last() }),
            ("no_timestamps_token_id", WhisperKeys { no_timestamps_token_id: Some(100), ..last() }),
            ("prev_sot_token_id", WhisperKeys { prev_sot_token_id: Some(100), ..last() }),
            ("forced_decoder_ids", WhisperKeys { forced_decoder_ids: Some(vec![(1, Some(100))]), ..last() }),
        ] {
            let message = config(keys).validate_ids(100).unwrap_err().to_string();
            let expected = format!("generation_config.json: `{key}`: token id 100, expected ids below 100");
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn no_token_follows_the_last() {
        let keys = |id| WhisperKeys { no_timestamps_token_id: Some(id), ..WhisperKeys::default() };
        assert_eq!(config(keys(30)).timestamp_begin(), Some(31));
        assert_eq!(config(keys(u32::MAX)).timestamp_begin(), None);
    }
}
