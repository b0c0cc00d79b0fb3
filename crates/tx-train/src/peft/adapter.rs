//! One adapter: its layers, the modules that are saved with it, and the parameters of the model that it has values for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::tensor::TensorData;
use tx_core::error::{Error, Result};
use tx_core::nn::adapter::ADAPTABLE_LAYERS;
use tx_core::registry::Adaptable;

use super::config::{Biases, Method, Modules, PeftConfig};
use super::files::{self, Begin, PREFIX, Source, VIRTUAL_PREFIX, Want};
use super::ia3::Ia3;
use super::lora::Lora;
use super::modules::{Kind, Matcher, Module, Part, is_saved, targets};
use super::prompt::{self, Prefix, Prompt};
use super::saved::{Loose, Saved};
use super::slot::{Dice, Slot};

/// An adapter of a model.
#[derive(Debug)]
pub struct Adapter {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub config: PeftConfig,
    /// What it does to layers, or puts before texts.
    pub layers: Layers,
    /// Layers in place of those of the model.
    pub saved: Vec<Arc<Saved>>,
    /// Parameters of the model.
    pub loose: Vec<Loose>,
}

/// What an adapter does.
#[derive(Debug)]
pub enum Layers {
    /// LoRA on layers.
    Lora(Vec<Arc<Lora>>),
    /// IA3 on layers.
    Ia3(Vec<Arc<Ia3>>),
    /// A prompt.
    Prompt(Arc<Prompt>),
    /// A prefix.
    Prefix(Arc<Prefix>),
}

/// What an adapter is made of.
pub struct Parts<'a> {
    /// The model.
    pub model: &'a dyn Adaptable,
    /// Its modules.
    pub modules: &'a [Module],
    /// The ids of the text that a prompt begins with.
    pub prompt_ids: &'a [u32],
    /// Whether every name in the config has to be one of the model.
    pub each_name: bool,
}

impl Adapter {
    /// An adapter with tensors from `source`.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for what does not fit the model.
    pub fn new(
        name: &str,
        config: PeftConfig,
        parts: &Parts<'_>,
        dice: &Arc<Dice>,
        source: &mut dyn Source,
    ) -> Result<Self> {
        let &Parts { model, modules, prompt_ids, each_name } = parts;
        let named = |target: &Option<Modules>| {
            target.clone().ok_or_else(|| Error::config(config.path(), "target_modules", "missing"))
        };
        let on = |matcher: &Matcher| targets(&config, matcher, modules, model.class(), each_name);
        let (layers, biased): (Layers, Vec<(&Module, bool)>) = match &config.method {
            Method::Lora(lora) => {
                let target = named(&lora.target_modules)?;
                let found = on(&Matcher::new(&config, &target, lora.exclude_modules.as_ref(), Some(lora))?)?;
                let layers = found.iter().map(|module| Lora::new(&config, lora, module, dice, source).map(Arc::new));
                let layers = Layers::Lora(layers.collect::<Result<_>>()?);
                let paths: BTreeSet<&str> = found.iter().map(|module| module.path.as_str()).collect();
                let is_target = |module: &Module| paths.contains(module.path.as_str());
                let biased = modules.iter().filter(|module| match lora.bias {
                    Biases::None => false,
                    Biases::LoraOnly => is_target(module),
                    Biases::All => true,
                });
                (layers, biased.map(|module| (module, is_target(module))).collect())
            }
            Method::Ia3(ia3) => {
                let target = named(&ia3.target_modules)?;
                let found = on(&Matcher::new(&config, &target, ia3.exclude_modules.as_ref(), None)?)?;
                let layers = found.iter().map(|module| Ia3::new(&config, ia3, module, source).map(Arc::new));
                (Layers::Ia3(layers.collect::<Result<_>>()?), Vec::new())
            }
            Method::PromptTuning(prompt) => {
                let words = prompt::words(&config, model, modules)?;
                let prompt = Prompt::new(&config, prompt, model, words, prompt_ids, source)?;
                (Layers::Prompt(Arc::new(prompt)), Vec::new())
            }
            Method::PrefixTuning(prefix) => {
                (Layers::Prefix(Arc::new(Prefix::new(&config, prefix, model, source)?)), Vec::new())
            }
        };
        let prefix = if layers.are_virtual() { VIRTUAL_PREFIX } else { PREFIX };
        let (mut saved, mut loose) = (Vec::new(), Vec::new());
        for module in modules.iter().filter(|module| is_saved(&module.path, &config.modules_to_save)) {
            let key = |part: &Part| format!("{prefix}{}.{}", module.path, part.field);
            match module.kind() {
                Some((kind, weight)) => {
                    let bias = module.part("bias").map(|part| copy(key(part), module, part, kind, source));
                    let (path, id) = (module.path.clone(), weight.id);
                    let weight = copy(key(weight), module, weight, kind, source);
                    saved.push(Arc::new(Saved { path, id, kind, weight, bias }));
                }
                None => {
                    for part in &module.parts {
                        check_part(&config, "modules_to_save", module, part)?;
                        let slot = Arc::new(copy(key(part), module, part, Kind::Linear, source));
                        loose.push(Loose { id: part.id, slot });
                    }
                }
            }
        }
        for (module, is_target) in biased {
            let own = module.parts.iter().filter(|part| part.name.contains("bias"));
            for part in own.filter(|_| !is_saved(&module.path, &config.modules_to_save)) {
                let infix = if is_target { ".base_layer" } else { "" };
                let key = format!("{prefix}{}{infix}.{}", module.path, part.field);
                check_part(&config, "bias", module, part)?;
                loose.push(Loose { id: part.id, slot: Arc::new(copy(key, module, part, Kind::Linear, source)) });
            }
        }
        Ok(Self { name: name.to_owned(), config, layers, saved, loose })
    }

    /// Its tensors.
    pub fn all_slots(&self) -> Vec<&Slot> {
        let mut slots: Vec<&Slot> = match &self.layers {
            Layers::Lora(layers) => layers.iter().flat_map(|lora| lora.slots()).collect(),
            Layers::Ia3(layers) => layers.iter().map(|ia3| &ia3.factors).collect(),
            Layers::Prompt(prompt) => vec![&prompt.embeddings],
            Layers::Prefix(prefix) => prefix.slots().collect(),
        };
        slots.extend(self.saved.iter().flat_map(|saved| std::iter::once(&saved.weight).chain(&saved.bias)));
        slots.extend(self.loose.iter().map(|loose| &*loose.slot));
        slots
    }

    /// What Python's files have of it: of a prefix that is computed, the result.
    pub fn tensors(&self) -> BTreeMap<String, TensorData> {
        let own = self.encoder().into_keys().collect::<BTreeSet<_>>();
        let slots = self.all_slots().into_iter().filter(|slot| !own.contains(&slot.key));
        let mut tensors: BTreeMap<String, TensorData> =
            slots.map(|slot| (slot.key.clone(), files::data(slot.any()))).collect();
        if let Layers::Prefix(prefix) = &self.layers {
            tensors.insert(prompt::KEY.to_owned(), files::data(prefix.whole().into()));
        }
        tensors
    }

    /// What a prefix is computed of, which Python's files do not have.
    pub fn encoder(&self) -> BTreeMap<String, TensorData> {
        match &self.layers {
            Layers::Prefix(prefix) if prefix.transform.is_some() => {
                prefix.slots().map(|slot| (slot.key.clone(), files::data(slot.any()))).collect()
            }
            _ => BTreeMap::new(),
        }
    }
}

impl Layers {
    /// Whether they are tokens before those of texts.
    pub fn are_virtual(&self) -> bool {
        matches!(self, Self::Prompt(_) | Self::Prefix(_))
    }
}

/// Makes sure that a parameter of a module can have another value.
fn check_part(config: &PeftConfig, key: &str, module: &Module, part: &Part) -> Result<()> {
    let is_matrix = matches!(module.layer.as_str(), "Linear" | "Conv1dLinear") && part.field == "weight";
    if ADAPTABLE_LAYERS.contains(&module.layer.as_str()) && !is_matrix {
        return Ok(());
    }
    Err(Error::Unsupported {
        path: config.path().to_path_buf(),
        key: key.to_owned(),
        value: format!("{}, of the type {}", part.name, module.layer),
        supported: format!("biases and parameters of {}", ADAPTABLE_LAYERS.join(", ")),
    })
}

/// A parameter of the model as one of the adapter. One that is quantized is so no more, and lies as in files.
fn copy(key: String, module: &Module, part: &Part, kind: Kind, source: &mut dyn Source) -> Slot {
    let tensor = part.tensor.clone().untrack();
    let turned = kind == Kind::Transposed && tensor.is_quantized();
    let shape = match tensor.shape()[..] {
        [rows, columns] if turned => vec![columns, rows],
        _ => tensor.shape(),
    };
    let begin: Begin<'_> = Box::new(move |_| match tensor.is_quantized() {
        true if turned => tx_kernels::dequantize(tensor.to()).transpose().into(),
        true => tx_kernels::dequantize(tensor.to()).into(),
        false => tensor,
    });
    source.make(Want { key, layer: &module.layer, shape, keep_dtype: true, begin })
}
