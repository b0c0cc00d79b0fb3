//! Adapters that are put on a model as it is loaded, whoever loads it.

use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Map, Value};
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::registry::{Adaptable, Attach};
use tx_core::weights::Checkpoint;

use super::config::{PeftConfig, TaskType};
use super::files::saved_modules;
use super::{Adapters, Combination, CombineOptions, DEFAULT};

/// The name of one that is made of several.
const WEIGHTED: &str = "weighted";

/// The layers of heads that give a score for each label, besides those called `out_proj`.
const LAST: [&str; 6] =
    ["classifier", "classifier.1", "cls_classifier", "distillation_classifier", "qa_outputs", "score"];

/// The folder of an adapter, and how much of it is used.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFolder {
    /// The folder.
    pub folder: PathBuf,
    /// What it is multiplied with, if anything.
    pub weight: Option<f64>,
}

impl FromStr for AdapterFolder {
    type Err = Error;

    /// `FOLDER`, or `FOLDER=WEIGHT`.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::input("adapter", "nothing", "a folder, or FOLDER=WEIGHT"));
        }
        // A folder may have the sign in its name.
        let weighted = text.rsplit_once('=').and_then(|(folder, weight)| Some((folder, weight.parse::<f64>().ok()?)));
        Ok(match weighted {
            Some((folder, weight)) if !folder.is_empty() => Self { folder: folder.into(), weight: Some(weight) },
            _ => Self { folder: text.into(), weight: None },
        })
    }
}

/// Puts adapters on a model as soon as it is loaded: side by side, or as one if any has a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct AttachAdapters {
    /// The adapters.
    pub folders: Vec<AdapterFolder>,
    /// Whether they become part of the weights.
    pub merge: bool,
}

impl Attach for AttachAdapters {
    /// With the heads that come with the adapters, where the model has none of their sizes.
    fn complete(&self, config: &mut Config, checkpoint: &Checkpoint) -> Result<Option<Checkpoint>> {
        let mut tensors = checkpoint.tensors().clone();
        let mut changed = false;
        let vocabulary = config.get("vocab_size").and_then(Value::as_u64);
        for AdapterFolder { folder, .. } in &self.folders {
            let adapter = PeftConfig::from_folder(folder)?;
            let of_task = adapter.task_type.map(TaskType::heads).unwrap_or_default();
            let heads: Vec<&str> =
                of_task.iter().copied().chain(adapter.modules_to_save.iter().map(String::as_str)).collect();
            for (name, tensor) in saved_modules(folder, &adapter)? {
                let module = name.split('.').next().unwrap_or_default();
                let is_head = heads.iter().any(|head| module.ends_with(head));
                let rows = tensor.shape.first().copied();
                // The head of a language model may be the table of its words, which the model has.
                let of_words = rows.is_some_and(|rows| Some(rows as u64) == vocabulary);
                // Its name may begin with that of the base model.
                let inner = format!(".{name}");
                let mut of_name = tensors.iter().filter(|(own, _)| **own == name || own.ends_with(&inner));
                let is_there = of_name.any(|(_, own)| own.shape == tensor.shape);
                if !is_head || of_words || is_there {
                    continue;
                }
                // It has a row for each label.
                let labels = rows.filter(|_| is_last(&name));
                if let Some(labels) = labels.filter(|&labels| config.labels().is_ok_and(|names| names.len() != labels))
                {
                    let names = || (0..labels).map(|label| format!("LABEL_{label}"));
                    let ids = names().enumerate().map(|(id, name)| (id.to_string(), Value::from(name)));
                    config.set("id2label", ids.collect::<Map<_, _>>());
                    let ids = names().enumerate().map(|(id, name)| (name, Value::from(id)));
                    config.set("label2id", ids.collect::<Map<_, _>>());
                }
                tensors.insert(name, tensor);
                changed = true;
            }
        }
        Ok(changed.then(|| Checkpoint::from_tensors(checkpoint.path(), tensors)))
    }

    fn attach(&self, model: &mut dyn Adaptable) -> Result<()> {
        let mut adapters = Adapters::new();
        let name = |number: usize| if number == 0 { DEFAULT.to_owned() } else { format!("{DEFAULT}_{number}") };
        let names: Vec<String> = (0..self.folders.len()).map(name).collect();
        for (name, AdapterFolder { folder, .. }) in names.iter().zip(&self.folders) {
            adapters.load(model, name, folder)?;
        }
        if self.folders.iter().any(|adapter| adapter.weight.is_some()) {
            let weights = self.folders.iter().map(|adapter| adapter.weight.unwrap_or(1.0));
            let members: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(weights).collect();
            adapters.add_weighted(WEIGHTED, &members, Combination::Cat, &CombineOptions::default())?;
            adapters.set_active(model, &[WEIGHTED])?;
        } else if names.len() > 1 {
            adapters.set_active(model, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        if self.merge {
            return adapters.merge(model);
        }
        model.keep(Box::new(adapters));
        Ok(())
    }
}

/// Whether a tensor is the weight of the layer of a head that gives the scores.
fn is_last(name: &str) -> bool {
    name.strip_suffix(".weight").is_some_and(|module| LAST.contains(&module) || module.ends_with(".out_proj"))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};
    use serde_json::json;
    use tx_core::weights::StoredTensor;
    use tx_core::weights::save::write_file;

    use super::super::config::CONFIG_FILE;
    use super::*;

    #[test]
    fn a_head_comes_with_an_adapter_where_the_model_has_another_or_none() {
        let stored = |shape: &[usize]| {
            let elements = shape.iter().product::<usize>();
            let bytes: Vec<u8> = vec![0; 4 * elements];
            StoredTensor { path: "model".into(), dtype: DType::F32, shape: shape.to_vec(), bytes: bytes.into() }
        };
        let folder = tempfile::tempdir().unwrap();
        let complete = |modules: &[&str], saved: &[(&str, [usize; 2])], own: &[(&str, [usize; 2])]| {
            let keys = json!({ "peft_type": "LORA", "target_modules": ["query"], "modules_to_save": modules });
            std::fs::write(folder.path().join(CONFIG_FILE), keys.to_string()).unwrap();
            let zeros = |shape: [usize; 2]| TensorData::zeros::<f32, _>(shape);
            let saved = saved.iter().map(|(name, shape)| (format!("base_model.model.{name}"), zeros(*shape)));
            write_file(&folder.path().join("adapter_model.safetensors"), saved.collect()).unwrap();
            let config = folder.path().join("config.json");
            std::fs::write(&config, json!({ "id2label": { "0": "a", "1": "b" }, "vocab_size": 9 }).to_string())
                .unwrap();
            let mut config = Config::from_file(&config).unwrap();
            let own = own.iter().map(|(name, shape)| ((*name).to_owned(), stored(shape))).collect();
            let adapter = AdapterFolder { folder: folder.path().into(), weight: None };
            let attach = AttachAdapters { folders: vec![adapter], merge: false };
            let completed = attach.complete(&mut config, &Checkpoint::from_tensors("model".as_ref(), own)).unwrap();
            let shape = |checkpoint: Checkpoint| {
                checkpoint
                    .tensors()
                    .iter()
                    .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
                    .collect::<Vec<_>>()
            };
            (completed.map(shape), config.labels().unwrap().len())
        };
        let (head, lm_head) = ("classifier.weight", "lm_head.weight");
        let with_three = Some(vec![(head.to_owned(), vec![3, 4])]);
        assert_eq!(complete(&["classifier"], &[(head, [3, 4])], &[]), (with_three.clone(), 3));
        assert_eq!(complete(&["classifier"], &[(head, [3, 4])], &[(head, [2, 4])]), (with_three, 3));
        assert_eq!(complete(&["classifier"], &[(head, [2, 4])], &[(head, [2, 4])]), (None, 2));
        assert_eq!(complete(&["lm_head"], &[(lm_head, [9, 4])], &[]), (None, 2));
        assert_eq!(complete(&["pooler"], &[("pooler.weight", [4, 4])], &[("bert.pooler.weight", [4, 4])]), (None, 2));
        // A layer before the last one has no row for each label.
        let before = "pre_classifier.weight";
        assert_eq!(
            complete(&["classifier"], &[(before, [4, 4])], &[]),
            (Some(vec![(before.to_owned(), vec![4, 4])]), 2)
        );
    }

    #[test]
    fn a_folder_may_have_a_weight() {
        let parse = |text: &str| text.parse::<AdapterFolder>().map(|adapter| (adapter.folder, adapter.weight));
        assert_eq!(parse("a/b").unwrap(), ("a/b".into(), None));
        assert_eq!(parse("a=b=0.5").unwrap(), ("a=b".into(), Some(0.5)));
        assert_eq!(parse("a=b").unwrap(), ("a=b".into(), None));
        assert_eq!(parse("=2").unwrap(), ("=2".into(), None));
        assert!(parse("").is_err());
    }
}
