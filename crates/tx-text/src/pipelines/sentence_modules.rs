//! What a sentence-transformers folder says beside its encoder: pooling, further modules, prompts.
//!
//! Reference: sentence-transformers 6.2.0, `base/model.py`, `base/modules`, `sentence_transformer/modules/pooling.py`.
//! `modules.json` lists the modules with their folders; each has a small configuration file of its own.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tx_core::config::{kind, read_json};
use tx_core::error::{Error, Result};
use tx_core::nn::{Activation, LayerNorm, Linear};
use tx_core::weights::Checkpoint;

/// What a sentence-transformers folder says beside its encoder.
#[derive(Debug)]
pub struct SentenceModules {
    /// The folder of the encoder and its tokenizer.
    pub encoder: PathBuf,
    /// The longest text, in tokens; the model's limit if `None`.
    pub max_seq_length: Option<usize>,
    /// Whether texts are lower-cased before they are tokenised.
    pub do_lower_case: bool,
    /// What makes one vector of the tokens' states.
    pub pooling: Pooling,
    /// What comes after it.
    pub(super) after: Vec<Module>,
    /// Texts that go before every text, by name.
    pub prompts: BTreeMap<String, String>,
    /// The one that is used if none is named.
    pub default_prompt_name: Option<String>,
}

/// What makes one vector of the tokens' states: one or several ways, whose results are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    /// The ways.
    pub modes: Vec<PoolingMode>,
    /// Whether the tokens of the prompt count.
    pub include_prompt: bool,
}

/// One way to make a vector of the tokens' states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingMode {
    /// The first token.
    Cls,
    /// The largest of each element.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean with weights 1, 2, 3, ….
    WeightedMean,
    /// The last token.
    LastToken,
}

/// The ways by their names, with the keys that older files have for them, in the order in which their results join.
const MODES: [(&str, &str, PoolingMode); 6] = [
    ("cls", "pooling_mode_cls_token", PoolingMode::Cls),
    ("max", "pooling_mode_max_tokens", PoolingMode::Max),
    ("mean", "pooling_mode_mean_tokens", PoolingMode::Mean),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
    ("weightedmean", "pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
    ("lasttoken", "pooling_mode_lasttoken", PoolingMode::LastToken),
];

/// One line of `modules.json`.
#[derive(Debug, Deserialize)]
struct ModuleEntry {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

/// `sentence_bert_config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TransformerConfig {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
    transformer_task: Option<String>,
}

/// `config_sentence_transformers.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ModelConfig {
    prompts: Option<BTreeMap<String, Option<String>>>,
    default_prompt_name: Option<String>,
}

/// The names that `sentence_bert_config.json` has had.
const TRANSFORMER_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

impl SentenceModules {
    /// Reads the files of a folder; a plain encoder has none of them, and the mean of its tokens is taken.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Config`] for files that cannot be used; [`Error::Unsupported`] for modules that
    /// are not implemented.
    pub fn from_folder(folder: &Path, device: &Device) -> Result<Self> {
        let path = folder.join("modules.json");
        let entries: Vec<ModuleEntry> = if path.is_file() { read(&path)? } else { Vec::new() };
        let mut modules = entries.iter().map(|entry| {
            let inside = Path::new(&entry.path).components().all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                return Err(Error::malformed(
                    &path,
                    format_args!("`{}` is not the name of a folder in this one", entry.path),
                ));
            }
            Ok((entry.class.rsplit('.').next().unwrap_or_default(), folder.join(&entry.path)))
        });
        let unsupported = |class: &str, supported: &str| Error::Unsupported {
            path: path.clone(),
            key: "type".into(),
            value: class.to_owned(),
            supported: supported.to_owned(),
        };

        let encoder = match modules.next().transpose()? {
            Some(("Transformer", encoder)) => encoder,
            Some((class, _)) => return Err(unsupported(class, "Transformer as the first module")),
            None => folder.to_path_buf(),
        };
        let pooling = match modules.next().transpose()? {
            Some(("Pooling", folder)) => Pooling::from_folder(&folder)?,
            Some((class, _)) => return Err(unsupported(class, "Pooling as the second module")),
            None => Pooling { modes: vec![PoolingMode::Mean], include_prompt: true },
        };
        let mut after = Vec::new();
        for module in modules {
            let (class, folder) = module?;
            match class {
                "Normalize" => after.push(Module::Normalize),
                "Dense" => after.push(Module::Dense(Dense::from_folder(&folder, device)?)),
                "LayerNorm" => after.push(Module::LayerNorm(read_layer_norm(&folder, device)?)),
                // Does nothing outside of training.
                "Dropout" => {}
                _ => return Err(unsupported(class, "Dense, Dropout, LayerNorm and Normalize after Pooling")),
            }
        }

        let config = TRANSFORMER_CONFIGS.iter().map(|name| encoder.join(name)).find(|path| path.is_file());
        let transformer: TransformerConfig = config.as_deref().map(read).transpose()?.unwrap_or_default();
        if let (Some(path), Some(task)) =
            (config, transformer.transformer_task.filter(|task| task != "feature-extraction"))
        {
            let (key, supported) = ("transformer_task".into(), "feature-extraction".into());
            return Err(Error::Unsupported { path, key, value: task, supported });
        }
        let path = folder.join("config_sentence_transformers.json");
        let model: ModelConfig = if path.is_file() { read(&path)? } else { ModelConfig::default() };
        let prompts = model.prompts.unwrap_or_default().into_iter();
        Ok(Self {
            encoder,
            max_seq_length: transformer.max_seq_length.filter(|&length| length > 0),
            do_lower_case: transformer.do_lower_case,
            pooling,
            after,
            prompts: prompts.map(|(name, prompt)| (name, prompt.unwrap_or_default())).collect(),
            default_prompt_name: model.default_prompt_name,
        })
    }
}

/// Reads a JSON file of a known form.
fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_value(read_json(path)?).map_err(|e| Error::malformed(path, e))
}

/// Reads `config.json` in the folder of a module.
fn read_config(folder: &Path) -> Result<(PathBuf, Map<String, Value>)> {
    let path = folder.join("config.json");
    match read_json(&path)? {
        Value::Object(keys) => Ok((path, keys)),
        other => Err(Error::malformed(&path, format_args!("expected a JSON object, found {}", kind(&other)))),
    }
}

impl Pooling {
    /// Reads `config.json` in the folder of the module.
    fn from_folder(folder: &Path) -> Result<Self> {
        let (path, keys) = read_config(folder)?;
        let mode = |name: &str| {
            let found = MODES.iter().find(|(known, _, _)| *known == name);
            found.map(|&(_, _, mode)| mode).ok_or_else(|| Error::Unsupported {
                path: path.clone(),
                key: "pooling_mode".into(),
                value: name.to_owned(),
                supported: MODES.map(|(known, _, _)| known).join(", "),
            })
        };
        let wrong = |key: &str, expected: &str, found: &Value| {
            Error::config(&path, key, format_args!("expected {expected}, found {}", kind(found)))
        };
        let flag = |key: &str, default: bool| match keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(key, "true or false", other)),
        };
        let mut modes = Vec::new();
        match keys.get("pooling_mode") {
            Some(Value::String(name)) => modes.push(mode(name)?),
            Some(Value::Array(names)) => {
                for name in names {
                    modes.push(mode(name.as_str().ok_or_else(|| wrong("pooling_mode", "names", name))?)?);
                }
            }
            Some(other) => return Err(wrong("pooling_mode", "a name or a list of names", other)),
            None => {
                for (_, key, mode) in MODES {
                    modes.extend(flag(key, false)?.then_some(mode));
                }
            }
        }
        if modes.is_empty() {
            modes.push(PoolingMode::Mean);
        }
        Ok(Self { modes, include_prompt: flag("include_prompt", true)? })
    }

    /// One vector from the states of a text's tokens, `[tokens, hidden]`; the first `prompt` tokens are left out, but
    /// never all.
    pub(super) fn pool(&self, states: &[f32], hidden: usize, prompt: usize) -> Vec<f32> {
        let tokens = states.len() / hidden;
        let prompt = prompt.min(tokens.saturating_sub(1));
        let count = (tokens - prompt) as f64;
        let kept = || states.chunks_exact(hidden).skip(prompt);
        // Weights count from the first token of all.
        let positions = || (prompt + 1..=tokens).map(|position| position as f64);
        let sum = |weight: fn(f64) -> f64, total: f64| {
            let mut sum = vec![0.0; hidden];
            for (weight, token) in positions().map(weight).zip(kept()) {
                sum.iter_mut().zip(token).for_each(|(sum, &x)| *sum += weight * f64::from(x));
            }
            sum.into_iter().map(|sum| (sum / total) as f32).collect::<Vec<f32>>()
        };
        let token = |token: Option<&[f32]>| token.map(<[f32]>::to_vec).unwrap_or_default();
        let pooled = self.modes.iter().flat_map(|mode| match mode {
            PoolingMode::Cls => token(kept().next()),
            PoolingMode::LastToken => token(kept().next_back()),
            PoolingMode::Max => {
                let mut largest = vec![f32::NEG_INFINITY; hidden];
                for token in kept() {
                    largest.iter_mut().zip(token).for_each(|(largest, &x)| *largest = x.max(*largest));
                }
                largest
            }
            PoolingMode::Mean => sum(|_| 1.0, count),
            PoolingMode::MeanSqrtLen => sum(|_| 1.0, count.sqrt()),
            PoolingMode::WeightedMean => sum(|position| position, positions().sum()),
        });
        pooled.collect()
    }
}

/// A module after pooling.
#[derive(Debug)]
pub(super) enum Module {
    Dense(Dense),
    LayerNorm(Layer<LayerNorm>),
    Normalize,
}

/// A layer, and what it takes.
#[derive(Debug)]
pub(super) struct Layer<L> {
    /// The file that says so.
    path: PathBuf,
    input: usize,
    layer: L,
}

/// A projection with an activation.
pub(super) type Dense = Layer<(Linear, Activation)>;

impl<L> Layer<L> {
    /// The vectors as a tensor, if they have the right length.
    fn take(&self, rows: &[Vec<f32>], device: &Device) -> Result<Tensor<2>> {
        match rows.iter().find(|row| row.len() != self.input) {
            Some(row) => {
                let reason = format_args!("takes {} numbers, but the module before gives {}", self.input, row.len());
                Err(Error::malformed(&self.path, reason))
            }
            None => Ok(Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), self.input]), device)),
        }
    }
}

impl Dense {
    fn from_folder(folder: &Path, device: &Device) -> Result<Self> {
        /// PyTorch's classes.
        const ACTIVATIONS: [(&str, Activation); 6] = [
            ("GELU", Activation::Gelu),
            ("Identity", Activation::Linear),
            ("ReLU", Activation::Relu),
            ("SiLU", Activation::Silu),
            ("Sigmoid", Activation::Sigmoid),
            ("Tanh", Activation::Tanh),
        ];
        let (path, keys) = read_config(folder)?;
        let check = |key: &str, default: Value, supported: &[&str]| {
            let value = keys.get(key).filter(|value| !value.is_null()).unwrap_or(&default).clone();
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let name = value.rsplit('.').next().unwrap_or_default().to_owned();
            if supported.contains(&name.as_str()) {
                return Ok(name);
            }
            Err(Error::Unsupported { path: path.clone(), key: key.to_owned(), value, supported: supported.join(", ") })
        };
        let name = check("activation_function", "Tanh".into(), &ACTIVATIONS.map(|(name, _)| name))?;
        check("use_residual", false.into(), &["false"])?;
        check("module_input_name", "sentence_embedding".into(), &["sentence_embedding"])?;
        check("module_output_name", "sentence_embedding".into(), &["sentence_embedding"])?;
        let activation = ACTIVATIONS.iter().find(|(known, _)| *known == name).map_or(Activation::Tanh, |&(_, act)| act);

        let checkpoint = Checkpoint::from_folder(folder)?;
        let (weight, [output, input]) = tensor::<2>(&checkpoint, "linear.weight", device)?;
        let bias = match checkpoint.tensors().contains_key("linear.bias") {
            true => Some(vector(&checkpoint, "linear.bias", output, device)?),
            false => None,
        };
        Ok(Self { path, input, layer: (Linear { weight: Param::from_tensor(weight), bias }, activation) })
    }
}

/// A norm: `norm.weight` and `norm.bias`.
fn read_layer_norm(folder: &Path, device: &Device) -> Result<Layer<LayerNorm>> {
    /// PyTorch's default.
    const EPS: f64 = 1e-5;
    let checkpoint = Checkpoint::from_folder(folder)?;
    let (weight, [input]) = tensor::<1>(&checkpoint, "norm.weight", device)?;
    let bias = vector(&checkpoint, "norm.bias", input, device)?;
    let mut layer = LayerNorm::new(input, EPS, device);
    (layer.weight, layer.bias) = (Param::from_tensor(weight), Some(bias));
    Ok(Layer { path: checkpoint.path().to_path_buf(), input, layer })
}

/// A tensor of a module's weights, in f32, and its shape.
fn tensor<const D: usize>(checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<(Tensor<D>, [usize; D])> {
    let wrong = |reason: String| Error::tensor(checkpoint.path(), name, reason);
    let stored = checkpoint.tensors().get(name).ok_or_else(|| wrong("missing".into()))?;
    let shape = <[usize; D]>::try_from(stored.shape.as_slice());
    let shape = shape.map_err(|_| wrong(format!("shape {:?}, expected {D} axes", stored.shape)))?;
    if shape.contains(&0) {
        return Err(wrong(format!("shape {shape:?}, expected at least one element")));
    }
    let data = stored.to_data().try_cast_as::<f32>().map_err(|e| wrong(e.to_string()))?;
    Ok((Tensor::from_data(data, device), shape))
}

/// A vector of a module's weights, of known length.
fn vector(checkpoint: &Checkpoint, name: &str, length: usize, device: &Device) -> Result<Param<Tensor<1>>> {
    let (vector, [found]) = tensor::<1>(checkpoint, name, device)?;
    if found != length {
        return Err(Error::tensor(checkpoint.path(), name, format_args!("{found} elements, expected {length}")));
    }
    Ok(Param::from_tensor(vector))
}

impl Module {
    /// The vectors after the module; `read` brings a tensor to the host.
    pub fn apply(
        &self,
        rows: Vec<Vec<f32>>,
        device: &Device,
        read: impl Fn(Tensor<2>) -> Result<Vec<Vec<f32>>>,
    ) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Dense(dense) => {
                let (linear, activation) = &dense.layer;
                read(activation.forward(linear.forward(dense.take(&rows, device)?)))
            }
            Self::LayerNorm(norm) => read(norm.layer.forward(norm.take(&rows, device)?)),
            Self::Normalize => Ok(rows.into_iter().map(normalize).collect()),
        }
    }
}

/// The vector of length one in the same direction; a vector of zeros stays.
pub(super) fn normalize(vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    vector.into_iter().map(|x| (f64::from(x) / norm) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooling(json: &str) -> Result<Pooling> {
        let folder = std::env::temp_dir().join(format!("tx-pooling-{}-{:p}", std::process::id(), json.as_ptr()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), json).unwrap();
        let pooling = Pooling::from_folder(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        pooling
    }

    #[test]
    fn modes_are_read_from_old_and_new_files() {
        use PoolingMode::*;
        let modes = |json| pooling(json).unwrap().modes;
        assert_eq!(modes(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}"#), [Cls, Mean]);
        assert_eq!(modes(r#"{"pooling_mode_mean_tokens": false}"#), [Mean]);
        assert_eq!(
            modes(r#"{"pooling_mode": ["lasttoken", "cls"], "pooling_mode_max_tokens": true}"#),
            [LastToken, Cls]
        );
        assert_eq!(modes(r#"{"pooling_mode": "weightedmean"}"#), [WeightedMean]);
        assert!(!pooling(r#"{"include_prompt": false}"#).unwrap().include_prompt);
        for (json, expected) in [
            (r#"{"pooling_mode": "sum"}"#, "`pooling_mode` is `sum`, which is not supported; supported: cls, max"),
            (r#"{"pooling_mode": 3}"#, "`pooling_mode`: expected a name or a list of names, found a number"),
            (r#"{"pooling_mode_cls_token": 1}"#, "`pooling_mode_cls_token`: expected true or false"),
            ("[]", "expected a JSON object"),
        ] {
            let message = pooling(json).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn each_mode_pools_what_is_not_the_prompt() {
        let states = [9.0, 9.0, 1.0, -2.0, 3.0, 4.0];
        let pool = |mode, prompt| Pooling { modes: vec![mode], include_prompt: true }.pool(&states, 2, prompt);
        assert_eq!(pool(PoolingMode::Cls, 0), [9.0, 9.0]);
        assert_eq!(pool(PoolingMode::Cls, 1), [1.0, -2.0]);
        assert_eq!(pool(PoolingMode::LastToken, 1), [3.0, 4.0]);
        assert_eq!(pool(PoolingMode::Max, 1), [3.0, 4.0]);
        assert_eq!(pool(PoolingMode::Mean, 1), [2.0, 1.0]);
        assert_eq!(pool(PoolingMode::MeanSqrtLen, 1), [4.0 / 2f32.sqrt(), 2.0 / 2f32.sqrt()]);
        assert_eq!(pool(PoolingMode::WeightedMean, 1), [11.0 / 5.0, 8.0 / 5.0]);
        assert_eq!(pool(PoolingMode::Mean, 99), [3.0, 4.0], "the last token stays");
        let both = Pooling { modes: vec![PoolingMode::LastToken, PoolingMode::Cls], include_prompt: true };
        assert_eq!(both.pool(&states, 2, 0), [3.0, 4.0, 9.0, 9.0]);
    }

    #[test]
    fn a_vector_of_zeros_stays() {
        assert_eq!(normalize(vec![3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(normalize(vec![0.0; 2]), [0.0; 2]);
    }
}
