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
    /// With the heads that come with the adapters, where the model has none.
    fn complete(&self, config: &mut Config, checkpoint: &Checkpoint) -> Result<Option<Checkpoint>> {
        let mut tensors = checkpoint.tensors().clone();
        let before = tensors.len();
        for AdapterFolder { folder, .. } in &self.folders {
            let adapter = PeftConfig::from_folder(folder)?;
            let heads = adapter.task_type.map(TaskType::heads).unwrap_or_default();
            for (name, tensor) in saved_modules(folder, &adapter)? {
                let is_head = heads.iter().any(|head| name.split('.').next() == Some(*head));
                if !is_head || tensors.contains_key(&name) {
                    continue;
                }
                // It has a row for each label.
                let labels = tensor.shape.first().copied().filter(|_| is_last(&name, heads));
                if let Some(labels) = labels.filter(|&labels| config.labels().is_ok_and(|names| names.len() != labels))
                {
                    let names = || (0..labels).map(|label| format!("LABEL_{label}"));
                    let ids = names().enumerate().map(|(id, name)| (id.to_string(), Value::from(name)));
                    config.set("id2label", ids.collect::<Map<_, _>>());
                    let ids = names().enumerate().map(|(id, name)| (name, Value::from(id)));
                    config.set("label2id", ids.collect::<Map<_, _>>());
                }
                tensors.insert(name, tensor);
            }
        }
        Ok((tensors.len() > before).then(|| Checkpoint::from_tensors(checkpoint.path(), tensors)))
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
fn is_last(name: &str, heads: &[&str]) -> bool {
    let Some(module) = name.strip_suffix(".weight") else { return false };
    heads.contains(&module) || module.ends_with(".out_proj")
}

#[cfg(test)]
mod tests {
    use super::*;

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
