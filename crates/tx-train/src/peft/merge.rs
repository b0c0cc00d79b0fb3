//! Adapters in the weights of the model.
//!
//! The weights from before are kept beside: for those of a file, which lie in its memory map, this takes no memory. So
//! [`Adapters::unmerge`] restores them bit for bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::ParamId;
use burn::tensor::{DType, Tensor};
use tx_core::error::{Error, Result};
use tx_core::nn::adapter::LinearBase;
use tx_core::registry::Adaptable;
use tx_core::task::AnyTensor;

use super::Adapters;
use super::adapter::Layers;
use super::ia3::Ia3;
use super::lora::Lora;
use super::modules::{Kind, Module, modules};
use super::saved::Saved;

/// What becomes of one parameter.
enum Change {
    Lora(Kind, Vec<Arc<Lora>>),
    LoraBias(Vec<Arc<Lora>>),
    Ia3(Kind, Vec<Arc<Ia3>>),
    Ia3Bias(Vec<Arc<Ia3>>),
    Saved(AnyTensor),
}

impl Change {
    fn apply(&self, tensor: AnyTensor) -> AnyTensor {
        let dtype = tensor.dtype();
        let weight = |kind: Kind| LinearBase::new(tensor.clone().untrack().to(), None, kind.is_transposed());
        let stored = |kind: Kind, weight: Tensor<2>| {
            let weight = if kind.is_transposed() { weight.transpose() } else { weight };
            // As it lies in files, and not as a view of it.
            let data = weight.cast(dtype).into_data();
            let device = tensor.clone().untrack().flatten().device();
            Tensor::<2>::from_data(data, (&device, dtype)).into()
        };
        match self {
            Self::Lora(kind, layers) => {
                let base = weight(*kind);
                stored(*kind, layers.iter().fold(base.dense(), |weight, lora| lora.merged(weight, &base)))
            }
            Self::Ia3(kind, layers) => {
                let base = weight(*kind);
                stored(*kind, layers.iter().fold(base.dense(), |weight, ia3| ia3.merged(weight)))
            }
            Self::LoraBias(layers) => {
                let bias = tensor.untrack().to::<1>().cast(DType::F32);
                let added = layers.iter().filter_map(|lora| {
                    let bias = lora.bias.as_ref()?.constant::<1>();
                    Some(bias * lora.scaling)
                });
                added.fold(bias, |sum, bias| sum + bias).cast(dtype).into()
            }
            Self::Ia3Bias(layers) => {
                let bias = tensor.untrack().to::<1>().cast(DType::F32);
                layers.iter().fold(bias, |bias, ia3| ia3.merged_bias(bias)).cast(dtype).into()
            }
            Self::Saved(value) => value.clone().untrack(),
        }
    }
}

impl Adapters {
    /// Puts the active adapters into the weights of the model, which can be saved and computes no more than before.
    ///
    /// # Errors
    /// [`Error::Input`] for virtual tokens, weights that are quantized, weights that are tied to others that the adapter is
    /// not on, and where nothing is active.
    pub fn merge(&mut self, model: &mut dyn Adaptable) -> Result<()> {
        self.check_separate("merge")?;
        let wrong = |found: String, expected: &str| Err(Error::input("adapters to merge", found, expected));
        if self.active.is_empty() || self.disabled {
            return wrong("none are active".into(), "at least one");
        }
        let modules = modules(model);
        let changes = self.changes(&modules)?;
        for (id, name) in changes.iter().map(|(id, (_, name))| (*id, name)) {
            let places = modules.iter().flat_map(|module| &module.parts).filter(|part| part.id == id);
            let mut places: Vec<_> = places.collect();
            if places.iter().any(|part| part.tensor.is_quantized()) {
                return wrong(format!("`{name}` is quantized"), "a model loaded without `--quantize`");
            }
            places.retain(|part| part.name != *name);
            if let Some(other) = places.first() {
                let expected = "weights of their own; use the adapter beside the model instead";
                return wrong(format!("`{name}` is tied to `{}`, which has no such adapter", other.name), expected);
            }
        }
        drop(modules);
        let mut originals = BTreeMap::new();
        self.registrations.clear();
        model.map_parameters(&mut |parameter| match changes.get(&parameter.id) {
            Some((change, _)) => {
                originals.insert(parameter.id, parameter.tensor.clone());
                change.apply(parameter.tensor)
            }
            None => parameter.tensor,
        });
        self.merged = Some(originals);
        Ok(())
    }

    /// Gives the model the weights that it had before [`Adapters::merge`], bit for bit; the adapters are active again.
    ///
    /// # Errors
    /// [`Error::Input`] if they are not merged.
    pub fn unmerge(&mut self, model: &mut dyn Adaptable) -> Result<()> {
        let Some(mut originals) = self.merged.take() else {
            return Err(Error::input("unmerge", "nothing is merged", "`merge` before"));
        };
        model.map_parameters(&mut |parameter| originals.remove(&parameter.id).unwrap_or(parameter.tensor));
        self.switch(model, self.active.clone())
    }

    /// What becomes of which parameters, with their names.
    fn changes(&self, modules: &[Module]) -> Result<BTreeMap<ParamId, (Change, String)>> {
        let by_path: BTreeMap<&str, &Module> = modules.iter().map(|module| (module.path.as_str(), module)).collect();
        let adapters = || self.active.iter().map(|&number| &self.adapters[number]);
        let (mut lora, mut ia3) = (BTreeMap::<&str, Vec<Arc<Lora>>>::new(), BTreeMap::<&str, Vec<Arc<Ia3>>>::new());
        for adapter in adapters() {
            match &adapter.layers {
                Layers::Lora(layers) => {
                    layers.iter().for_each(|layer| lora.entry(&layer.path).or_default().push(layer.clone()));
                }
                Layers::Ia3(layers) => {
                    layers.iter().for_each(|layer| ia3.entry(&layer.path).or_default().push(layer.clone()));
                }
                Layers::Prompt(_) | Layers::Prefix(_) => {
                    let found = format!("`{}` has virtual tokens", adapter.name);
                    return Err(Error::input("adapters to merge", found, "adapters that change weights"));
                }
            }
        }
        let mut changes = BTreeMap::new();
        let mut change = |path: &str, field: &str, change: Change| {
            if let Some(part) = by_path.get(path).and_then(|module| module.part(field)) {
                changes.insert(part.id, (change, part.name.clone()));
            }
        };
        for (path, layers) in lora {
            let Some(kind) = layers.first().map(|lora| lora.kind) else { continue };
            if layers.iter().any(|lora| lora.bias.is_some()) {
                if by_path.get(path).is_none_or(|module| module.part("bias").is_none()) {
                    let found = format!("`{path}` has no bias, and the adapter has one for it");
                    return Err(Error::input("adapters to merge", found, "an adapter without `lora_bias`"));
                }
                change(path, "bias", Change::LoraBias(layers.clone()));
            }
            change(path, "weight", Change::Lora(kind, layers));
        }
        for (path, layers) in ia3 {
            let Some(kind) = layers.first().map(|ia3| ia3.kind) else { continue };
            if layers.iter().any(|ia3| !ia3.feedforward) {
                change(path, "bias", Change::Ia3Bias(layers.clone()));
            }
            change(path, "weight", Change::Ia3(kind, layers));
        }
        let saved: Vec<&Arc<Saved>> = adapters().flat_map(|adapter| &adapter.saved).collect();
        for saved in saved.into_iter().rev() {
            change(&saved.path, "weight", Change::Saved(saved.weight.any()));
            if let Some(bias) = &saved.bias {
                change(&saved.path, "bias", Change::Saved(bias.any()));
            }
        }
        let loose: BTreeMap<ParamId, AnyTensor> =
            adapters().flat_map(|adapter| &adapter.loose).map(|loose| (loose.id, loose.slot.any())).collect();
        for part in modules.iter().flat_map(|module| &module.parts) {
            if let Some(value) = loose.get(&part.id) {
                changes.insert(part.id, (Change::Saved(value.clone()), part.name.clone()));
            }
        }
        Ok(changes)
    }
}
