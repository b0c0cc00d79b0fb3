//! What peft takes where a config says nothing, by the model.
//!
//! Reference: peft 0.21.2, `utils/constants.py`, `utils/other.py` (`_prepare_prompt_learning_config`).

use serde_json::Value;
use tx_core::error::{Error, Result};
use tx_core::registry::Adaptable;

use super::config::{LoraInit, Method, Modules, PeftConfig, TaskType, VirtualSizes, is_nothing};
use super::modules::{Kind, Module, all_linear};

/// The layers that LoRA is on, by `model_type`.
const LORA: &[(&[&str], &[&str])] = &[
    (&["bart", "gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "mistral"], &["q_proj", "v_proj"]),
    (&["mixtral", "opt", "qwen2", "qwen3", "stablelm"], &["q_proj", "v_proj"]),
    (&["bert", "electra", "layoutlm", "roberta", "xlm-roberta"], &["query", "value"]),
    (&["bloom", "falcon", "gpt_neox"], &["query_key_value"]),
    (&["codegen"], &["qkv_proj"]),
    (&["deberta"], &["in_proj"]),
    (&["deberta-v2"], &["query_proj", "value_proj"]),
    (&["gpt2", "gpt_bigcode"], &["c_attn"]),
    (&["mpt"], &["Wqkv"]),
    (&["mt5", "t5"], &["q", "v"]),
    (&["phi"], &["q_proj", "v_proj", "fc1", "fc2"]),
];

/// The layers that IA3 is on, by `model_type`, and those of them whose inputs it scales.
const IA3: &[(&[&str], &[&str], &[&str])] = &[
    (&["bart", "opt"], &["q_proj", "v_proj", "fc2"], &["fc2"]),
    (&["bert", "roberta"], &["key", "value", "output.dense"], &["output.dense"]),
    (&["bloom"], &["query_key_value", "mlp.dense_4h_to_h"], &["mlp.dense_4h_to_h"]),
    (&["deberta"], &["in_proj", "output.dense"], &["output.dense"]),
    (&["deberta-v2"], &["key_proj", "value_proj", "output.dense"], &["output.dense"]),
    (&["falcon", "gpt_neox"], &["query_key_value", "dense_4h_to_h"], &["dense_4h_to_h"]),
    (&["gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"], &["q_proj", "v_proj", "down_proj"], &["down_proj"]),
    (&["gpt2", "gpt_bigcode"], &["c_attn", "mlp.c_proj"], &["mlp.c_proj"]),
    (&["gpt_neo"], &["q_proj", "v_proj", "c_proj"], &["c_proj"]),
    (&["gptj"], &["q_proj", "v_proj", "fc_out"], &["fc_out"]),
    (&["llama", "mistral"], &["k_proj", "v_proj", "down_proj"], &["down_proj"]),
    (&["mixtral"], &["k_proj", "v_proj", "w2"], &["w2"]),
    (&["mt5"], &["k", "v", "wi_1"], &[]),
    (&["phi"], &["q_proj", "v_proj", "fc2"], &["fc2"]),
    (&["t5"], &["k", "v", "wo"], &["wo"]),
];

/// The keys of sizes in the configs of models, in the order in which peft looks for them.
const LAYERS: [&str; 3] = ["num_hidden_layers", "num_layers", "n_layer"];
const HIDDEN: [&str; 3] = ["hidden_size", "n_embd", "d_model"];
const HEADS: [&str; 4] = ["num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"];

/// The layers that an adapter is on where its config names none, and those of them whose inputs IA3 scales.
fn defaults(config: &PeftConfig, model: &dyn Adaptable) -> Result<(Modules, Modules)> {
    let model_type = model.config().model_type().unwrap_or_default();
    let names = |names: &[&str]| Modules::Names(names.iter().map(|name| (*name).to_owned()).collect());
    let found = match &config.method {
        Method::Ia3(_) => {
            let line = IA3.iter().find(|(types, ..)| types.contains(&model_type));
            line.map(|(_, targets, feedforward)| (names(targets), names(feedforward)))
        }
        _ => {
            let line = LORA.iter().find(|(types, _)| types.contains(&model_type));
            line.map(|(_, targets)| (names(targets), names(&[])))
        }
    };
    found.ok_or_else(|| {
        let reason = format_args!("missing, and `{model_type}` has no default; name layers, or \"all-linear\"");
        Error::config(config.path(), "target_modules", reason)
    })
}

/// Names as a file has them.
fn value(modules: &Modules) -> Value {
    match modules {
        Modules::Pattern(pattern) => pattern.as_str().into(),
        Modules::Names(names) => {
            let mut names = names.clone();
            names.sort();
            names.into()
        }
    }
}

/// A config with everything that follows from the model, as it is when the adapter is saved.
///
/// # Errors
/// [`Error::Config`] for what the model does not say; [`Error::Unsupported`] for what a new adapter cannot begin with.
pub fn complete(config: &PeftConfig, model: &dyn Adaptable, modules: &[Module]) -> Result<PeftConfig> {
    let mut config = config.clone();
    let heads = config.task_type.map(TaskType::heads).unwrap_or_default();
    let lacking = heads.iter().filter(|head| !config.modules_to_save.iter().any(|name| name == *head));
    let saved: Vec<String> =
        config.modules_to_save.iter().cloned().chain(lacking.map(|head| (*head).to_owned())).collect();
    if !saved.is_empty() {
        config = config.with([("modules_to_save", saved.into())])?;
    }
    match config.method.clone() {
        Method::Lora(lora) => {
            if let LoraInit::Other(name) = &lora.init_lora_weights {
                return Err(Error::Unsupported {
                    path: config.path().to_path_buf(),
                    key: "init_lora_weights".into(),
                    value: name.clone(),
                    supported: "true, false, gaussian".into(),
                });
            }
            with_targets(&config, lora.target_modules.as_ref(), model, modules)
        }
        Method::Ia3(ia3) => {
            if ia3.feedforward_modules.is_none() {
                let feedforward = match &ia3.target_modules {
                    None => defaults(&config, model)?.1,
                    Some(_) => Modules::Names(Vec::new()),
                };
                config = config.with([("feedforward_modules", value(&feedforward))])?;
            }
            with_targets(&config, ia3.target_modules.as_ref(), model, modules)
        }
        Method::PromptTuning(prompt) => {
            if let Some(kwargs) = config.get("tokenizer_kwargs").filter(|kwargs| !is_nothing(kwargs)) {
                return Err(Error::Unsupported {
                    path: config.path().to_path_buf(),
                    key: "tokenizer_kwargs".into(),
                    value: kwargs.to_string(),
                    supported: "null".into(),
                });
            }
            with_sizes(&config, &prompt.sizes, model, false)
        }
        Method::PrefixTuning(prefix) => {
            let config = with_sizes(&config, &prefix.sizes, model, true)?;
            let (key, hidden) = ("encoder_hidden_size", config.get("token_dim").cloned().unwrap_or_default());
            if prefix.encoder_hidden_size.is_some() { Ok(config) } else { config.with([(key, hidden)]) }
        }
    }
}

/// The config of an adapter that was saved, with the layers that it is on.
///
/// # Errors
/// [`Error::Config`] where the model does not say which these are.
pub fn with_layers(config: PeftConfig, model: &dyn Adaptable, modules: &[Module]) -> Result<PeftConfig> {
    match &config.method {
        Method::Lora(lora) => with_targets(&config, lora.target_modules.as_ref(), model, modules),
        Method::Ia3(ia3) => with_targets(&config, ia3.target_modules.as_ref(), model, modules),
        Method::PromptTuning(_) | Method::PrefixTuning(_) => Ok(config),
    }
}

/// With the layers that it is on, and whether their weights are transposed.
fn with_targets(
    config: &PeftConfig,
    given: Option<&Modules>,
    model: &dyn Adaptable,
    modules: &[Module],
) -> Result<PeftConfig> {
    let classifies = config.task_type == Some(TaskType::SeqCls);
    let targets = match given {
        None => defaults(config, model)?.0,
        Some(all) if all.is_all_linear() => Modules::Names(all_linear(model, modules, classifies)),
        Some(_) => return with_layout(config, modules),
    };
    with_layout(&config.with([("target_modules", value(&targets))])?, modules)
}

/// With whether the weights of the model are transposed.
fn with_layout(config: &PeftConfig, modules: &[Module]) -> Result<PeftConfig> {
    let turned = modules.iter().any(|module| module.kind().is_some_and(|(kind, _)| kind == Kind::Transposed));
    config.with([("fan_in_fan_out", turned.into())])
}

/// With the sizes of virtual tokens.
fn with_sizes(
    config: &PeftConfig,
    sizes: &VirtualSizes,
    model: &dyn Adaptable,
    keys_values: bool,
) -> Result<PeftConfig> {
    let of_model = |keys: &[&str]| keys.iter().find_map(|key| model.config().get(key)?.as_u64());
    let size = |key: &str, given: Option<usize>, keys: &[&str]| {
        let size = given.map(|size| size as u64).or_else(|| of_model(keys));
        size.ok_or_else(|| Error::config(config.path(), key, "missing, and the config of the model does not say it"))
    };
    let layers = size("num_layers", sizes.num_layers, &LAYERS)?;
    let mut hidden = size("token_dim", sizes.token_dim, &HIDDEN)?;
    let mut heads = size("num_attention_heads", sizes.num_attention_heads, &HEADS)?;
    if let (true, Some(groups)) = (keys_values, of_model(&["num_key_value_heads"])) {
        // Heads of keys and values may be fewer than those of queries.
        hidden = of_model(&["head_dim"]).unwrap_or(hidden / heads.max(1)).saturating_mul(groups);
        heads = groups;
    }
    config.with([
        ("num_layers", layers.into()),
        ("token_dim", hidden.into()),
        ("num_attention_heads", heads.into()),
        ("num_transformer_submodules", 1.into()),
    ])
}
