//! `adapter_config.json`: what an adapter is.
//!
//! A [`PeftConfig`] holds all keys of the file, those that were not given with peft's defaults, and writes them all back. Its
//! [`Method`] is the typed view. Keys that change what is computed in ways that are not implemented are refused.
//!
//! Reference: peft 0.21.2, `config.py` and the `config.py` of each tuner.

mod read;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tx_core::config::read_json;
use tx_core::error::{Error, Result, nearest};

use read::Reader;

/// The name of the file.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The keys of every method, with their defaults.
const COMMON: &str = r#"{"auto_mapping": null, "base_model_name_or_path": null, "inference_mode": true, "peft_type": null,
    "peft_version": "0.21.2", "revision": null, "task_type": null}"#;
const LORA: &str = r#"{"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "bias": "none",
    "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
    "fan_in_fan_out": false, "init_lora_weights": true, "kasa_config": null, "layer_replication": null,
    "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8, "lora_bias": false,
    "lora_dropout": 0.0, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
    "modules_to_save": null, "monteclora_config": null, "qalora_group_size": 16, "r": 8, "rank_pattern": {},
    "target_modules": null, "target_parameters": null, "trainable_token_indices": null, "use_bdlora": null,
    "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null}"#;
const IA3: &str = r#"{"exclude_modules": null, "fan_in_fan_out": false, "feedforward_modules": null,
    "init_ia3_weights": true, "modules_to_save": null, "target_modules": null}"#;
const PROMPT: &str = r#"{"modules_to_save": null, "num_attention_heads": null, "num_layers": null,
    "num_transformer_submodules": null, "num_virtual_tokens": null, "prompt_tuning_init": "RANDOM",
    "prompt_tuning_init_text": null, "token_dim": null, "tokenizer_kwargs": null, "tokenizer_name_or_path": null}"#;
const PREFIX: &str = r#"{"encoder_hidden_size": null, "init_weights": null, "modules_to_save": null,
    "num_attention_heads": null, "num_layers": null, "num_transformer_submodules": null, "num_virtual_tokens": null,
    "prefix_projection": false, "token_dim": null}"#;

/// `adapter_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    path: PathBuf,
    keys: Map<String, Value>,
    /// How the adapter changes the model.
    pub method: Method,
    /// What the model was for when the adapter was trained.
    pub task_type: Option<TaskType>,
    /// Modules that are part of the adapter as a whole, by the ends of their names.
    pub modules_to_save: Vec<String>,
}

/// peft's `peft_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeftType {
    /// Two narrow matrices beside that of a layer. Hu et al., 2021 (arXiv:2106.09685).
    Lora,
    /// Factors of keys, values and inner activations. Liu et al., 2022 (arXiv:2205.05638).
    Ia3,
    /// Embeddings before those of the text. Lester et al., 2021 (arXiv:2104.08691).
    PromptTuning,
    /// Keys and values before those of the text, in every layer. Li and Liang, 2021 (arXiv:2101.00190).
    PrefixTuning,
}

/// The methods by name.
const METHODS: [(&str, PeftType); 4] = [
    ("IA3", PeftType::Ia3),
    ("LORA", PeftType::Lora),
    ("PREFIX_TUNING", PeftType::PrefixTuning),
    ("PROMPT_TUNING", PeftType::PromptTuning),
];

impl PeftType {
    /// The name of a method in files.
    pub fn name(self) -> &'static str {
        METHODS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn defaults(self) -> Map<String, Value> {
        let own = match self {
            Self::Lora => LORA,
            Self::Ia3 => IA3,
            Self::PromptTuning => PROMPT,
            Self::PrefixTuning => PREFIX,
        };
        let keys = [COMMON, own].map(|text| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default());
        keys.into_iter().flatten().collect()
    }
}

/// peft's `task_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskType {
    /// Sequence classification.
    SeqCls,
    /// Encoder and decoder of texts.
    #[serde(rename = "SEQ_2_SEQ_LM")]
    Seq2SeqLm,
    /// Causal language modelling.
    CausalLm,
    /// Token classification.
    TokenCls,
    /// Extractive question answering.
    QuestionAns,
    /// Hidden states.
    FeatureExtraction,
}

impl TaskType {
    /// The heads that peft saves with the adapter for a task.
    pub fn heads(self) -> &'static [&'static str] {
        match self {
            Self::SeqCls | Self::TokenCls => &["classifier", "score"],
            Self::QuestionAns => &["qa_outputs"],
            Self::Seq2SeqLm | Self::CausalLm | Self::FeatureExtraction => &[],
        }
    }
}

/// How an adapter changes a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// See [`PeftType::Lora`].
    Lora(LoraConfig),
    /// See [`PeftType::Ia3`].
    Ia3(Ia3Config),
    /// See [`PeftType::PromptTuning`].
    PromptTuning(PromptConfig),
    /// See [`PeftType::PrefixTuning`].
    PrefixTuning(PrefixConfig),
}

impl Method {
    /// Its name in files.
    pub fn peft_type(&self) -> PeftType {
        match self {
            Self::Lora(_) => PeftType::Lora,
            Self::Ia3(_) => PeftType::Ia3,
            Self::PromptTuning(_) => PeftType::PromptTuning,
            Self::PrefixTuning(_) => PeftType::PrefixTuning,
        }
    }
}

/// Which modules are meant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a pattern or a list of names")]
pub enum Modules {
    /// Those whose whole name a regular expression matches.
    Pattern(String),
    /// Those whose name is one of these, or ends in one after a dot.
    Names(Vec<String>),
}

impl Modules {
    /// Whether it is the word for all linear layers.
    pub fn is_all_linear(&self) -> bool {
        matches!(self, Self::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear"))
    }
}

/// Which biases of the model are trained with the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Biases {
    /// None.
    None,
    /// All of the model.
    All,
    /// Those of the layers that the adapter is on.
    LoraOnly,
}

/// What the matrices of a new adapter are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoraInit {
    /// A small and random, B zero: the model is as it was.
    Default,
    /// Both random.
    Random,
    /// A from a normal distribution, B zero.
    Gaussian,
    /// Something that changes the weights of the model too, or needs data.
    Other(String),
}

/// The keys of LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// The rank.
    pub r: usize,
    /// The scale, times the rank.
    pub lora_alpha: f64,
    /// The share of the input that is dropped in training.
    pub lora_dropout: f64,
    /// The layers that the adapter is on.
    pub target_modules: Option<Modules>,
    /// Those that it is not on whatever `target_modules` says.
    pub exclude_modules: Option<Modules>,
    /// The numbers of the blocks that it is on; all if empty.
    pub layers_to_transform: Vec<usize>,
    /// What stands before these numbers in names.
    pub layers_pattern: Vec<String>,
    /// Ranks of layers by patterns of their names; the first that fits counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// The same for `lora_alpha`.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Which biases are trained.
    pub bias: Biases,
    /// Whether the second matrix has a bias.
    pub lora_bias: bool,
    /// Whether the scale is `lora_alpha / √r`. Kalajdzievski, 2023 (arXiv:2312.03732).
    pub use_rslora: bool,
    /// Whether lengths of rows are learned apart. Liu et al., 2024 (arXiv:2402.09353).
    pub use_dora: bool,
    /// What a new adapter begins with.
    pub init_lora_weights: LoraInit,
}

/// The keys of IA3.
#[derive(Debug, Clone, PartialEq)]
pub struct Ia3Config {
    /// The layers that the adapter is on.
    pub target_modules: Option<Modules>,
    /// Those of them whose input is scaled, and not the output.
    pub feedforward_modules: Option<Modules>,
    /// Those that it is not on whatever `target_modules` says.
    pub exclude_modules: Option<Modules>,
    /// Whether a new adapter begins with ones.
    pub init_ia3_weights: bool,
}

/// The sizes of virtual tokens. Those that are not given are the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualSizes {
    /// How many there are.
    pub num_virtual_tokens: usize,
    /// Elements of one in a layer.
    pub token_dim: Option<usize>,
    /// Layers of the model.
    pub num_layers: Option<usize>,
    /// Heads of keys and values.
    pub num_attention_heads: Option<usize>,
}

/// What a prompt begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromptInit {
    /// Normal numbers.
    Random,
    /// The embeddings of random tokens.
    SampleVocab,
    /// The embeddings of a text.
    Text,
}

/// The keys of prompt tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptConfig {
    /// How large the prompt is.
    pub sizes: VirtualSizes,
    /// What it begins with.
    pub prompt_tuning_init: PromptInit,
    /// The text of [`PromptInit::Text`].
    pub prompt_tuning_init_text: Option<String>,
}

/// The keys of prefix tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixConfig {
    /// How large the prefix is.
    pub sizes: VirtualSizes,
    /// Whether it is computed from something smaller in training.
    pub prefix_projection: bool,
    /// Elements of the layer between.
    pub encoder_hidden_size: Option<usize>,
    /// Whether a new one begins with zeros.
    pub zero: bool,
}

impl PeftConfig {
    /// Reads the file in a folder.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if there is none; else as [`PeftConfig::from_keys`].
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        if !path.is_file() {
            return Err(Error::MissingFile {
                folder: folder.to_path_buf(),
                expected: format!("`{CONFIG_FILE}`"),
                remedy: "name a folder that an adapter was saved to".into(),
            });
        }
        match read_json(&path)? {
            Value::Object(keys) => Self::from_keys(&path, keys),
            _ => Err(Error::malformed(&path, "expected a JSON object")),
        }
    }

    /// Takes keys as a file has them; `path` stands in messages.
    ///
    /// # Errors
    /// [`Error::Config`] for a key that is unknown, of the wrong type or impossible; [`Error::Unsupported`] for a method or
    /// a variant that is not implemented.
    pub fn from_keys(path: &Path, given: Map<String, Value>) -> Result<Self> {
        let supported = || METHODS.map(|(name, _)| name).join(", ");
        let name = given.get("peft_type").and_then(Value::as_str);
        let name =
            name.ok_or_else(|| Error::config(path, "peft_type", format!("missing, expected {}", supported())))?;
        let Some((name, peft_type)) = METHODS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            return Err(Error::Unsupported {
                path: path.to_path_buf(),
                key: "peft_type".into(),
                value: name.to_owned(),
                supported: supported(),
            });
        };
        let mut keys = peft_type.defaults();
        for (key, value) in given {
            if keys.contains_key(&key) {
                keys.insert(key, value);
            } else if !is_nothing(&value) {
                // Other versions of peft write keys of methods that this adapter makes no use of.
                let hint = nearest(&key, keys.keys().map(String::as_str));
                let hint = hint.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
                return Err(Error::config(path, &key, format!("unknown key of {name} with the value {value}{hint}")));
            }
        }
        keys.insert("peft_type".into(), (*name).into());
        Self::parse(path.to_path_buf(), keys, *peft_type)
    }

    fn parse(path: PathBuf, keys: Map<String, Value>, peft_type: PeftType) -> Result<Self> {
        let reader = Reader { path: &path, keys: &keys };
        let method = match peft_type {
            PeftType::Lora => Method::Lora(reader.lora()?),
            PeftType::Ia3 => Method::Ia3(reader.ia3()?),
            PeftType::PromptTuning => Method::PromptTuning(reader.prompt()?),
            PeftType::PrefixTuning => Method::PrefixTuning(reader.prefix()?),
        };
        let task_type = reader.get("task_type")?;
        let modules_to_save = reader.get::<Option<Vec<String>>>("modules_to_save")?.unwrap_or_default();
        reader.names("modules_to_save", &modules_to_save)?;
        Ok(Self { path, keys, method, task_type, modules_to_save })
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// The same with other values of some keys.
    ///
    /// # Errors
    /// As [`PeftConfig::from_keys`].
    pub fn with<const N: usize>(&self, values: [(&str, Value); N]) -> Result<Self> {
        let mut keys = self.keys.clone();
        keys.extend(values.map(|(key, value)| (key.to_owned(), value)));
        Self::parse(self.path.clone(), keys, self.method.peft_type())
    }

    /// The text of the file: all keys, sorted, as Python writes them.
    pub fn to_json(&self) -> String {
        let mut keys = self.keys.clone();
        keys.insert("inference_mode".into(), true.into());
        serde_json::to_string_pretty(&sorted(&Value::Object(keys))).unwrap_or_default()
    }
}

/// Whether a value says nothing: null, false, or empty.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        Value::Number(_) => false,
    }
}

/// The same with the keys of all maps in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(keys) => {
            let mut keys: Vec<_> = keys.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            keys.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(keys.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
