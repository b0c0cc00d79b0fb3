//! The values of the keys of `adapter_config.json`, checked.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tx_core::error::{Error, Result};

use super::{Ia3Config, LoraConfig, LoraInit, Modules, PrefixConfig, PromptConfig, VirtualSizes, is_nothing};

/// The largest rank of a pair of matrices.
const MAX_RANK: usize = 1 << 14;
/// The most virtual tokens.
const MAX_VIRTUAL_TOKENS: usize = 1 << 16;
/// The most elements that virtual tokens have together.
const MAX_VIRTUAL_ELEMENTS: usize = 1 << 31;
/// The most names or patterns in a list.
const MAX_NAMES: usize = 1 << 14;

/// The keys of LoRA that make another computation of it.
const REFUSED: [&str; 12] = [
    "alora_invocation_tokens",
    "arrow_config",
    "ensure_weight_tying",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// One or several of something.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected one or a list")]
enum Several<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Several<T> {
    fn list(this: Option<Self>) -> Vec<T> {
        match this {
            Some(Self::One(one)) => vec![one],
            Some(Self::Many(many)) => many,
            None => Vec::new(),
        }
    }
}

/// Reads and checks the values of keys.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) keys: &'a Map<String, Value>,
}

impl Reader<'_> {
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.keys.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| Error::config(self.path, key, error))
    }

    fn wrong(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        Error::config(self.path, key, reason)
    }

    fn unsupported(&self, key: &str, supported: &str) -> Error {
        let value = self.keys.get(key).cloned().unwrap_or(Value::Null);
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Error::Unsupported { path: self.path.to_path_buf(), key: key.into(), value, supported: supported.into() }
    }

    fn size(&self, key: &str, size: usize, most: usize) -> Result<usize> {
        match size {
            0 => Err(self.wrong(key, format_args!("0, expected 1 to {most}"))),
            size if size > most => Err(self.wrong(key, format_args!("{size}, expected 1 to {most}"))),
            size => Ok(size),
        }
    }

    pub(super) fn names(&self, key: &str, names: &[String]) -> Result<()> {
        if names.len() > MAX_NAMES {
            return Err(self.wrong(key, format_args!("{} names, expected at most {MAX_NAMES}", names.len())));
        }
        match names.iter().any(String::is_empty) {
            true => Err(self.wrong(key, "an empty name")),
            false => Ok(()),
        }
    }

    fn modules(&self, key: &str) -> Result<Option<Modules>> {
        let modules: Option<Modules> = self.get(key)?;
        if let Some(Modules::Names(names)) = &modules {
            self.names(key, names)?;
        }
        Ok(modules)
    }

    fn alpha(&self, key: &str, alpha: f64) -> Result<f64> {
        match alpha.is_finite() {
            true => Ok(alpha),
            false => Err(self.wrong(key, format_args!("{alpha}, expected a finite number"))),
        }
    }

    fn pattern<T: DeserializeOwned>(&self, key: &str, check: impl Fn(T) -> Result<T>) -> Result<Vec<(String, T)>> {
        let patterns: Option<Map<String, Value>> = self.get(key)?;
        let patterns = patterns.unwrap_or_default();
        self.names(key, &patterns.keys().cloned().collect::<Vec<_>>())?;
        let read = |(pattern, value): (String, Value)| {
            let value =
                serde_json::from_value(value).map_err(|error| self.wrong(&format!("{key}.{pattern}"), error))?;
            Ok((pattern, check(value)?))
        };
        patterns.into_iter().map(read).collect()
    }

    pub(super) fn lora(&self) -> Result<LoraConfig> {
        let set = |key: &&&str| self.keys.get(**key).is_some_and(|value| !is_nothing(value));
        if let Some(key) = REFUSED.iter().find(set) {
            return Err(self.unsupported(key, "null"));
        }
        let lora_dropout: f64 = self.get("lora_dropout")?;
        if !(0.0..1.0).contains(&lora_dropout) {
            return Err(self.wrong("lora_dropout", format_args!("{lora_dropout}, expected 0 to less than 1")));
        }
        let init_lora_weights = match self.get::<Value>("init_lora_weights")? {
            Value::Bool(true) => LoraInit::Default,
            Value::Bool(false) => LoraInit::Random,
            Value::String(name) if name.eq_ignore_ascii_case("gaussian") => LoraInit::Gaussian,
            Value::String(name) => LoraInit::Other(name),
            other => {
                return Err(self.wrong("init_lora_weights", format_args!("{other}, expected true, false or a name")));
            }
        };
        let config = LoraConfig {
            r: self.size("r", self.get("r")?, MAX_RANK)?,
            lora_alpha: self.alpha("lora_alpha", self.get("lora_alpha")?)?,
            lora_dropout,
            target_modules: self.modules("target_modules")?,
            exclude_modules: self.modules("exclude_modules")?,
            layers_to_transform: Several::list(self.get("layers_to_transform")?),
            layers_pattern: Several::list(self.get("layers_pattern")?),
            rank_pattern: self.pattern("rank_pattern", |rank| self.size("rank_pattern", rank, MAX_RANK))?,
            alpha_pattern: self.pattern("alpha_pattern", |alpha| self.alpha("alpha_pattern", alpha))?,
            bias: self.get("bias")?,
            lora_bias: self.get("lora_bias")?,
            use_rslora: self.get("use_rslora")?,
            use_dora: self.get("use_dora")?,
            init_lora_weights,
        };
        self.names("layers_pattern", &config.layers_pattern)?;
        let by_pattern = matches!(config.target_modules, Some(Modules::Pattern(_)));
        if by_pattern && !(config.layers_to_transform.is_empty() && config.layers_pattern.is_empty()) {
            return Err(self.wrong("layers_to_transform", "given with a pattern as `target_modules`, expected a list"));
        }
        if config.lora_bias && config.use_dora {
            return Err(self.wrong("lora_bias", "true together with `use_dora`, which has no such bias"));
        }
        Ok(config)
    }

    pub(super) fn ia3(&self) -> Result<Ia3Config> {
        Ok(Ia3Config {
            target_modules: self.modules("target_modules")?,
            feedforward_modules: self.modules("feedforward_modules")?,
            exclude_modules: self.modules("exclude_modules")?,
            init_ia3_weights: self.get("init_ia3_weights")?,
        })
    }

    fn sizes(&self) -> Result<VirtualSizes> {
        let submodules: Option<usize> = self.get("num_transformer_submodules")?;
        if submodules.is_some_and(|submodules| submodules != 1) {
            return Err(self.unsupported("num_transformer_submodules", "1"));
        }
        let optional = |key: &str, most: usize| -> Result<Option<usize>> {
            let size: Option<usize> = self.get(key)?;
            size.map(|size| self.size(key, size, most)).transpose()
        };
        let key = "num_virtual_tokens";
        let count: Option<usize> = self.get(key)?;
        let count = count.ok_or_else(|| self.wrong(key, "missing, expected how many there are"))?;
        let sizes = VirtualSizes {
            num_virtual_tokens: self.size(key, count, MAX_VIRTUAL_TOKENS)?,
            token_dim: optional("token_dim", 1 << 20)?,
            num_layers: optional("num_layers", 1 << 12)?,
            num_attention_heads: optional("num_attention_heads", 1 << 12)?,
        };
        let per_token = 2 * sizes.num_layers.unwrap_or(1) * sizes.token_dim.unwrap_or(1);
        if per_token.saturating_mul(count) > MAX_VIRTUAL_ELEMENTS {
            return Err(self.wrong(key, format_args!("{count} of {per_token} elements, which is too much")));
        }
        Ok(sizes)
    }

    pub(super) fn prompt(&self) -> Result<PromptConfig> {
        Ok(PromptConfig {
            sizes: self.sizes()?,
            prompt_tuning_init: self.get("prompt_tuning_init")?,
            prompt_tuning_init_text: self.get("prompt_tuning_init_text")?,
        })
    }

    pub(super) fn prefix(&self) -> Result<PrefixConfig> {
        let init_weights: Option<String> = self.get("init_weights")?;
        let zero = match init_weights.as_deref() {
            None => false,
            Some("zero") => true,
            Some(_) => return Err(self.unsupported("init_weights", "null, zero")),
        };
        let hidden: Option<usize> = self.get("encoder_hidden_size")?;
        Ok(PrefixConfig {
            sizes: self.sizes()?,
            prefix_projection: self.get("prefix_projection")?,
            encoder_hidden_size: hidden.map(|size| self.size("encoder_hidden_size", size, 1 << 20)).transpose()?,
            zero,
        })
    }
}
