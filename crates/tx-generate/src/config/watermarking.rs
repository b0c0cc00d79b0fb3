//! How a text can be marked: HF's `watermarking_config`.

use serde_json::{Map, Value};

use super::setting::{COUNT, PART, SIZE, Setting, unsigned, whole};

/// The most keys of a SynthID watermark, and tokens of its n-grams: each of them takes time for each token.
const MOST: usize = 1024;

/// The entries of a sampling table that HF allows.
const LARGEST_TABLE: usize = 1 << 24;

/// A watermark of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum BaseWatermarkingConfig {
    /// Green lists.
    GreenList(WatermarkingConfig),
    /// Tournaments.
    SynthIdText(SynthIdTextWatermarkingConfig),
}

impl From<WatermarkingConfig> for BaseWatermarkingConfig {
    fn from(config: WatermarkingConfig) -> Self {
        Self::GreenList(config)
    }
}

impl From<SynthIdTextWatermarkingConfig> for BaseWatermarkingConfig {
    fn from(config: SynthIdTextWatermarkingConfig) -> Self {
        Self::SynthIdText(config)
    }
}

impl BaseWatermarkingConfig {
    /// What is wrong with its values: what was expected.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self {
            Self::GreenList(config) => config.problem(),
            Self::SynthIdText(config) => config.problem(),
        }
    }
}

/// What the green list of a watermark depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeedingScheme {
    /// The last token: Algorithm 2 of the paper.
    #[default]
    LeftHash,
    /// The token to come as well: Algorithm 3, which tries 40 candidates at each step.
    SelfHash,
}

/// A watermark of green lists: Kirchenbauer et al., 2023 (arXiv:2306.04634).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WatermarkingConfig {
    /// The share of the vocabulary that is green.
    pub greenlist_ratio: f64,
    /// What is added to the logits of green tokens.
    pub bias: f64,
    /// The secret; below 2⁶³.
    pub hashing_key: u64,
    /// What the green list depends on.
    pub seeding_scheme: SeedingScheme,
    /// How many tokens before it does.
    pub context_width: usize,
}

impl Default for WatermarkingConfig {
    fn default() -> Self {
        Self {
            greenlist_ratio: 0.25,
            bias: 2.0,
            hashing_key: 15_485_863,
            seeding_scheme: SeedingScheme::LeftHash,
            context_width: 1,
        }
    }
}

impl WatermarkingConfig {
    /// What is wrong with its values: what was expected.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if !PART.holds(self.greenlist_ratio) {
            return Some("a `greenlist_ratio` above 0 and below 1");
        }
        if !self.bias.is_finite() {
            return Some("a finite `bias`");
        }
        if self.hashing_key > i64::MAX as u64 {
            return Some("a `hashing_key` from 0 to 9223372036854775807");
        }
        (!SIZE.holds(self.context_width as f64)).then_some("a `context_width` of at least 1")
    }

    fn from_map(map: &Map<String, Value>) -> Result<Self, &'static str> {
        const SCHEME: &str = "a `seeding_scheme` of \"lefthash\" or \"selfhash\"";
        let mut config = Self::default();
        for (key, value) in map {
            match key.as_str() {
                "greenlist_ratio" => config.greenlist_ratio = value.as_f64().ok_or("a number as `greenlist_ratio`")?,
                "bias" => config.bias = value.as_f64().ok_or("a number as `bias`")?,
                "hashing_key" => config.hashing_key = unsigned(value).ok_or("an integer as `hashing_key`")?,
                "seeding_scheme" => {
                    config.seeding_scheme = match value.as_str() {
                        Some("lefthash") => SeedingScheme::LeftHash,
                        Some("selfhash") => SeedingScheme::SelfHash,
                        _ => return Err(SCHEME),
                    }
                }
                "context_width" => {
                    let width = unsigned(value).and_then(|width| usize::try_from(width).ok());
                    config.context_width = width.ok_or("an integer as `context_width`")?;
                }
                _ => {
                    return Err("the keys of a watermark: `ngram_len` and `keys` for SynthID, or those of green lists");
                }
            }
        }
        Ok(config)
    }
}

/// SynthID-Text's watermark: Dathathri et al., 2024 (doi:10.1038/s41586-024-08025-4).
///
/// Not that of Google's own products, which hash in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthIdTextWatermarkingConfig {
    /// A token is chosen by a hash of itself and of the tokens before it, so many together.
    pub ngram_len: usize,
    /// The secret: one key for each round of the tournament.
    pub keys: Vec<i64>,
    /// So many of the last contexts are not used for a mark again.
    pub context_history_size: usize,
    /// What the table depends on that hashes are looked up in.
    pub sampling_table_seed: u64,
    /// Its entries.
    pub sampling_table_size: usize,
    /// Leaves the tokens unmarked before which there is no whole context.
    pub skip_first_ngram_calls: bool,
    /// Marks a distribution in which all tokens are equal, to see the mark alone.
    pub debug_mode: bool,
}

impl SynthIdTextWatermarkingConfig {
    /// A config with HF's defaults.
    pub fn new(ngram_len: usize, keys: Vec<i64>) -> Self {
        Self {
            ngram_len,
            keys,
            context_history_size: 1024,
            sampling_table_seed: 0,
            sampling_table_size: 1 << 16,
            skip_first_ngram_calls: false,
            debug_mode: false,
        }
    }

    /// What is wrong with its values: what was expected.
    fn problem(&self) -> Option<&'static str> {
        if !(1..=MOST).contains(&self.ngram_len) {
            return Some("an `ngram_len` from 1 to 1024");
        }
        if !(1..=MOST).contains(&self.keys.len()) {
            return Some("1 to 1024 `keys`");
        }
        if !(1..=LARGEST_TABLE).contains(&self.sampling_table_size) {
            return Some("a `sampling_table_size` from 1 to 16777216");
        }
        (!COUNT.holds(self.context_history_size as f64)).then_some("a `context_history_size` from 0 to 2147483648")
    }

    fn from_map(map: &Map<String, Value>) -> Result<Self, &'static str> {
        let number = |value: &Value| unsigned(value).and_then(|number| usize::try_from(number).ok());
        let mut config = Self::new(0, Vec::new());
        for (key, value) in map {
            match key.as_str() {
                "ngram_len" => config.ngram_len = number(value).ok_or("an integer as `ngram_len`")?,
                "keys" => {
                    let keys = value.as_array().and_then(|keys| keys.iter().map(whole).collect::<Option<_>>());
                    config.keys = keys.ok_or("a list of 64-bit integers as `keys`")?;
                }
                "context_history_size" => {
                    config.context_history_size = number(value).ok_or("an integer as `context_history_size`")?;
                }
                "sampling_table_seed" => {
                    // PyTorch takes a negative one for the 64 bits that it has.
                    let seed = unsigned(value).or_else(|| whole(value).map(|seed| seed as u64));
                    config.sampling_table_seed = seed.ok_or("a 64-bit integer as `sampling_table_seed`")?;
                }
                "sampling_table_size" => {
                    config.sampling_table_size = number(value).ok_or("an integer as `sampling_table_size`")?;
                }
                "skip_first_ngram_calls" => {
                    config.skip_first_ngram_calls =
                        value.as_bool().ok_or("true or false as `skip_first_ngram_calls`")?;
                }
                "debug_mode" => config.debug_mode = value.as_bool().ok_or("true or false as `debug_mode`")?,
                _ => return Err("the keys of a SynthID watermark beside `ngram_len` and `keys`"),
            }
        }
        Ok(config)
    }
}

/// Which kind it is shows in the keys; Python writes both kinds, and reads only green lists again.
impl Setting for BaseWatermarkingConfig {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        let map = value.as_object().ok_or("a map")?;
        let config = if map.contains_key("ngram_len") || map.contains_key("keys") {
            Self::SynthIdText(SynthIdTextWatermarkingConfig::from_map(map)?)
        } else {
            Self::GreenList(WatermarkingConfig::from_map(map)?)
        };
        match config.problem() {
            Some(expected) => Err(expected),
            None => Ok(Some(config)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<BaseWatermarkingConfig, &'static str> {
        BaseWatermarkingConfig::read(&value).map(Option::unwrap)
    }

    #[test]
    fn keys_tell_the_kind() {
        let expected =
            WatermarkingConfig { bias: 2.5, seeding_scheme: SeedingScheme::SelfHash, ..WatermarkingConfig::default() };
        assert_eq!(read(json!({"bias": 2.5, "seeding_scheme": "selfhash"})), Ok(expected.into()));
        assert_eq!(read(json!({})), Ok(WatermarkingConfig::default().into()));
        let expected = SynthIdTextWatermarkingConfig::new(5, vec![654, -400]);
        assert_eq!(read(json!({"ngram_len": 5, "keys": [654, -400]})), Ok(expected.clone().into()));
        let expected = SynthIdTextWatermarkingConfig {
            context_history_size: 0,
            sampling_table_seed: u64::MAX,
            sampling_table_size: 1 << 24,
            skip_first_ngram_calls: true,
            debug_mode: true,
            ..expected
        };
        let all = json!({"ngram_len": 5, "keys": [654, -400], "context_history_size": 0, "sampling_table_seed": -1,
            "sampling_table_size": 16_777_216, "skip_first_ngram_calls": true, "debug_mode": true});
        assert_eq!(read(all), Ok(expected.into()));
    }

    #[test]
    fn bad_values_are_named() {
        for (value, expected) in [
            (json!([]), "a map"),
            (json!({"greenlist_ratio": 1.0}), "a `greenlist_ratio` above 0 and below 1"),
            (
                json!({"ngram": 5}),
                "the keys of a watermark: `ngram_len` and `keys` for SynthID, or those of green lists",
            ),
            (json!({"ngram_len": 5}), "1 to 1024 `keys`"),
            (json!({"keys": [1]}), "an `ngram_len` from 1 to 1024"),
            (json!({"ngram_len": 1025, "keys": [1]}), "an `ngram_len` from 1 to 1024"),
            (json!({"ngram_len": 5, "keys": vec![1; 1025]}), "1 to 1024 `keys`"),
            (json!({"ngram_len": 5, "keys": [1u64 << 63]}), "a list of 64-bit integers as `keys`"),
            (
                json!({"ngram_len": 5, "keys": [1], "bias": 2}),
                "the keys of a SynthID watermark beside `ngram_len` and `keys`",
            ),
            (
                json!({"ngram_len": 5, "keys": [1], "sampling_table_size": 16_777_217}),
                "a `sampling_table_size` from 1 to 16777216",
            ),
            (
                json!({"ngram_len": 5, "keys": [1], "sampling_table_size": 0}),
                "a `sampling_table_size` from 1 to 16777216",
            ),
            (
                json!({"ngram_len": 5, "keys": [1], "sampling_table_seed": 1.5}),
                "a 64-bit integer as `sampling_table_seed`",
            ),
        ] {
            assert_eq!(read(value.clone()), Err(expected), "{value}");
        }
    }
}
