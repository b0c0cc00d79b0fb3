//! Adapters: a model is changed by a few weights beside it, which alone are trained and saved. Python's `peft`.
//!
//! An adapter is a folder, `adapter_config.json` and `adapter_model.safetensors`, that Python opens too. [`Adapters`] holds
//! those of one model: [`Adapters::load`] and [`Adapters::create`] add one, [`Adapters::set_active`] chooses, while the
//! model stays as it is; [`Adapters::merge`] puts the active ones into its weights. What is trained are the parameters of
//! the active ones.
//!
//! The weights of the model may have any dtype, or be quantized. Architectures know nothing of adapters: LoRA and IA3 are
//! on layers by the identity of their weights (see [`tx_core::nn::adapter`]), virtual tokens are put in by whoever calls
//! the model.
//!
//! Reference: peft 0.21.2. The formulas are in the files of the methods.
//!
//! | file | holds |
//! |---|---|
//! | `config.rs` | `adapter_config.json` |
//! | `defaults.rs` | what a config does not say, by the model |
//! | `modules.rs` | which modules of the model are meant |
//! | `adapter.rs` | one adapter and its tensors |
//! | `lora.rs`, `ia3.rs`, `prompt.rs`, `saved.rs` | what adapters do |
//! | `slot.rs` | a tensor of an adapter; what new ones begin with; dropout |
//! | `files.rs` | `adapter_model.safetensors` |
//! | `merge.rs` | adapters in the weights of the model |
//! | `combine.rs`, `svd.rs` | one adapter of several |
//! | `attach.rs` | adapters that are put on a model as it is loaded |

mod adapter;
mod attach;
mod combine;
mod config;
mod defaults;
mod files;
mod ia3;
mod lora;
mod merge;
mod modules;
mod prompt;
mod saved;
mod slot;
mod svd;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use burn::module::ParamId;
use tx_core::error::{Error, Result};
use tx_core::nn::adapter::{Registration, adapt_embedding, adapt_linear, adapt_parameter};
use tx_core::registry::Adaptable;
use tx_core::task::{AnyTensor, Parameter, VirtualTokens};

use self::adapter::{Adapter, Layers, Parts};
pub use self::attach::{AdapterFolder, AttachAdapters};
pub use self::combine::{Combination, CombineOptions, MajoritySign};
pub use self::config::{
    Biases, CONFIG_FILE, Ia3Config, LoraConfig, LoraInit, Method, Modules, PeftConfig, PeftType, PrefixConfig,
    PromptConfig, PromptInit, TaskType, VirtualSizes,
};
pub use self::files::summary;
use self::files::{Fresh, Stored};
use self::ia3::Ia3Stack;
use self::lora::LoraStack;
use self::modules::{Kind, modules};
use self::slot::{Dice, Slot};
use crate::parameters::Parameters;
use crate::trainer::TrainableAdapters;

/// The name of an adapter that was given none.
pub const DEFAULT: &str = "default";

/// The adapters of one model.
///
/// They are on the model until they are dropped or replaced, all but virtual tokens, which [`Adapters::set_enabled`] takes
/// away.
///
/// As [`Parameters`] they are the tensors of the active ones, under the names that they are saved by; of several active
/// ones, each with its own name before that.
#[derive(Debug, Default)]
pub struct Adapters {
    adapters: Vec<Adapter>,
    /// Numbers of those that are used.
    active: Vec<usize>,
    disabled: bool,
    /// What the weights were that the active adapters are in.
    merged: Option<BTreeMap<ParamId, AnyTensor>>,
    has_virtual: bool,
    dice: Arc<Dice>,
    registrations: Vec<Registration>,
}

/// What a new adapter begins with.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// What random numbers depend on.
    pub seed: u64,
    /// The ids of `prompt_tuning_init_text`.
    pub prompt_ids: Vec<u32>,
}

impl Adapters {
    /// No adapters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the adapter of a folder. The first one becomes active.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Config`] and [`Error::Unsupported`] for its config; [`Error::Weights`] with every
    /// tensor that is missing, unexpected or does not fit the model.
    pub fn load(&mut self, model: &mut dyn Adaptable, name: &str, folder: &Path) -> Result<()> {
        self.check_new(name)?;
        let modules = modules(model);
        let config = defaults::with_layers(PeftConfig::from_folder(folder)?, model, &modules)?;
        if let Method::Lora(LoraConfig { init_lora_weights: LoraInit::Other(init), .. }) = &config.method {
            tracing::warn!(
                "{}: `init_lora_weights` is `{init}`, which may have changed the weights of the model too: the adapter \
                 fits only these",
                config.path().display()
            );
        }
        let mut stored = Stored::open(folder, model.device())?;
        let parts = Parts { model: &*model, modules: &modules, prompt_ids: &[], each_name: false };
        let adapter = Adapter::new(name, config, &parts, &self.dice, &mut stored)?;
        stored.finish(model.class())?;
        self.add(model, adapter)
    }

    /// Adds a new adapter, which is to be trained. The first one becomes active.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for a config that does not fit the model, or names layers that it does
    /// not have.
    pub fn create(
        &mut self,
        model: &mut dyn Adaptable,
        name: &str,
        config: &PeftConfig,
        options: &CreateOptions,
    ) -> Result<()> {
        self.check_new(name)?;
        let modules = modules(model);
        let config = defaults::complete(config, model, &modules)?;
        let mut fresh = Fresh { seed: options.seed, count: 0, device: model.device().clone() };
        let parts = Parts { model: &*model, modules: &modules, prompt_ids: &options.prompt_ids, each_name: true };
        let adapter = Adapter::new(name, config, &parts, &self.dice, &mut fresh)?;
        self.add(model, adapter)
    }

    fn add(&mut self, model: &mut dyn Adaptable, adapter: Adapter) -> Result<()> {
        self.adapters.push(adapter);
        if self.adapters.len() == 1 {
            let activated = self.switch(model, vec![0]);
            if activated.is_err() {
                self.adapters.clear();
            }
            return activated;
        }
        Ok(())
    }

    fn check_new(&self, name: &str) -> Result<()> {
        match self.adapters.iter().any(|adapter| adapter.name == name) {
            true => Err(Error::input("adapter", format_args!("a second one called `{name}`"), "another name")),
            false => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Result<usize> {
        let found = self.adapters.iter().position(|adapter| adapter.name == name);
        found.ok_or_else(|| {
            let names: Vec<_> = self.names().collect();
            Error::input("adapter", format_args!("none called `{name}`"), format_args!("one of: {}", names.join(", ")))
        })
    }

    /// The names of all adapters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapters.iter().map(|adapter| adapter.name.as_str())
    }

    /// The names of the active ones.
    pub fn active(&self) -> impl Iterator<Item = &str> {
        self.active.iter().map(|&number| self.adapters[number].name.as_str())
    }

    /// The config of an adapter, with everything that followed from the model.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of this name.
    pub fn config(&self, name: &str) -> Result<&PeftConfig> {
        Ok(&self.adapters[self.find(name)?].config)
    }

    /// Uses these adapters and no others; what several of them do is added up.
    ///
    /// # Errors
    /// [`Error::Input`] for names that there are not, adapters that cannot be used together, and while they are merged.
    pub fn set_active(&mut self, model: &mut dyn Adaptable, names: &[&str]) -> Result<()> {
        let numbers = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>>>()?;
        self.check_separate("set_active")?;
        self.check_together(&numbers)?;
        self.switch(model, numbers)
    }

    /// Uses the active adapters, or none until further notice.
    ///
    /// # Errors
    /// [`Error::Input`] while they are merged.
    pub fn set_enabled(&mut self, model: &mut dyn Adaptable, enabled: bool) -> Result<()> {
        self.check_separate("set_enabled")?;
        self.disabled = !enabled;
        self.switch(model, self.active.clone())
    }

    /// Whether elements are dropped, as in training.
    pub fn set_training(&self, training: bool) {
        self.dice.set_training(training);
    }

    /// What is dropped from here on depends on these numbers alone: the seed, the update, the batch, the rank.
    pub fn seed_dropout(&self, numbers: &[u64]) {
        self.dice.set_seed(numbers);
    }

    fn check_separate(&self, what: &str) -> Result<()> {
        match self.merged {
            Some(_) => Err(Error::input(what, "the adapters are merged into the model", "`unmerge` before")),
            None => Ok(()),
        }
    }

    fn check_together(&self, numbers: &[usize]) -> Result<()> {
        let wrong = |found: String, expected: &str| Err(Error::input("active adapters", found, expected));
        if numbers.iter().collect::<BTreeSet<_>>().len() < numbers.len() {
            return wrong("one of them twice".into(), "each once");
        }
        let [first, others @ ..] = numbers else { return Ok(()) };
        let method = |number: &usize| self.adapters[*number].config.method.peft_type();
        if let Some(other) = others.iter().find(|other| method(other) != method(first)) {
            return wrong(format!("{} and {}", method(first).name(), method(other).name()), "one method at a time");
        }
        if !others.is_empty() && self.adapters[*first].layers.are_virtual() {
            return wrong(format!("several of {}", method(first).name()), "one of them at a time");
        }
        let loose = || numbers.iter().flat_map(|&number| &self.adapters[number].loose);
        if loose().map(|loose| loose.id).collect::<BTreeSet<_>>().len() < loose().count() {
            return wrong("several with values for one bias or norm".into(), "one of them at a time");
        }
        Ok(())
    }

    /// Takes away what is on the model, and puts these adapters on it.
    fn switch(&mut self, model: &mut dyn Adaptable, numbers: Vec<usize>) -> Result<()> {
        self.registrations.clear();
        self.active = numbers;
        let used = if self.disabled { Vec::new() } else { self.active.clone() };
        let result = self.put_before_texts(model, &used);
        if result.is_err() {
            self.active.clear();
            self.registrations.clear();
            return result;
        }
        self.register(&used);
        Ok(())
    }

    /// Puts virtual tokens before texts, if one of these adapters has any.
    fn put_before_texts(&mut self, model: &mut dyn Adaptable, used: &[usize]) -> Result<()> {
        let layers = used.first().map(|&number| &self.adapters[number].layers);
        let tokens: Arc<dyn VirtualTokens> = match layers {
            Some(Layers::Prompt(prompt)) => {
                if prompt.looked_up {
                    self.registrations.push(adapt_embedding(prompt.words, prompt.clone()));
                }
                prompt.clone()
            }
            Some(Layers::Prefix(prefix)) => prefix.clone(),
            Some(Layers::Lora(_) | Layers::Ia3(_)) | None if self.has_virtual => {
                self.has_virtual = false;
                return model.set_virtual_tokens(None);
            }
            Some(Layers::Lora(_) | Layers::Ia3(_)) | None => return Ok(()),
        };
        model.set_virtual_tokens(Some(tokens))?;
        self.has_virtual = true;
        let reached_all = match layers {
            Some(Layers::Prompt(prompt)) => prompt.reached_all(),
            Some(Layers::Prefix(prefix)) => prefix.reached_all(),
            Some(Layers::Lora(_) | Layers::Ia3(_)) | None => true,
        };
        if reached_all {
            return Ok(());
        }
        self.has_virtual = false;
        model.set_virtual_tokens(None)?;
        let what = format!("virtual tokens of an adapter for `{}`", model.class());
        Err(Error::input(what, "some layers do not take them", "an adapter of another method"))
    }

    /// Puts what these adapters do on the layers.
    fn register(&mut self, used: &[usize]) {
        let mut on = BTreeMap::<(ParamId, bool), (Vec<_>, Vec<_>)>::new();
        for &number in used {
            match &self.adapters[number].layers {
                Layers::Lora(layers) => {
                    for lora in layers {
                        on.entry((lora.weight, lora.kind == Kind::Embedding)).or_default().0.push(lora.clone());
                    }
                }
                Layers::Ia3(layers) => {
                    for ia3 in layers {
                        on.entry((ia3.weight, false)).or_default().1.push(ia3.clone());
                    }
                }
                Layers::Prompt(_) | Layers::Prefix(_) => {}
            }
        }
        for ((weight, is_embedding), (lora, ia3)) in on {
            self.registrations.push(match (is_embedding, lora.is_empty()) {
                (true, _) => adapt_embedding(weight, Arc::new(LoraStack(lora))),
                (false, false) => adapt_linear(weight, Arc::new(LoraStack(lora))),
                (false, true) => adapt_linear(weight, Arc::new(Ia3Stack(ia3))),
            });
        }
        for loose in used.iter().flat_map(|&number| &self.adapters[number].loose) {
            self.registrations.push(adapt_parameter(loose.id, loose.slot.clone()));
        }
        // A layer that an adapter has as a whole comes before what others do to it; of several the first.
        for saved in used.iter().rev().flat_map(|&number| &self.adapters[number].saved) {
            self.registrations.push(match saved.kind {
                Kind::Embedding => adapt_embedding(saved.id, saved.clone()),
                Kind::Linear | Kind::Transposed => adapt_linear(saved.id, saved.clone()),
            });
        }
    }

    /// Writes an adapter into a folder.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of this name; [`Error::Io`].
    pub fn save(&self, name: &str, folder: &Path) -> Result<()> {
        let adapter = &self.adapters[self.find(name)?];
        files::write(folder, &adapter.config, adapter.tensors(), adapter.encoder())
    }

    /// Gives the active adapter the values that [`Adapters::save`] wrote. What was tracked is.
    ///
    /// # Errors
    /// [`Error::Input`] if not one is active; those of reading the files; [`Error::Tensor`] for one that is missing or has
    /// another shape, and nothing has changed then.
    pub fn restore(&mut self, folder: &Path) -> Result<()> {
        let adapter = &self.adapters[self.only_active()?];
        files::restore(folder, &adapter.all_slots())
    }

    /// The number of the only active adapter.
    fn only_active(&self) -> Result<usize> {
        match self.active[..] {
            [number] => Ok(number),
            _ => Err(Error::input("active adapters", self.active.len(), "one")),
        }
    }

    /// The tensors of the active adapters with their names.
    fn slots(&self) -> impl Iterator<Item = (String, &Slot)> {
        let named = self.active.len() > 1;
        self.active.iter().map(|&number| &self.adapters[number]).flat_map(move |adapter| {
            adapter.all_slots().into_iter().map(move |slot| match named {
                true => (format!("{}/{}", adapter.name, slot.key), slot),
                false => (slot.key.clone(), slot),
            })
        })
    }
}

impl Parameters for Adapters {
    fn visit(&self, f: &mut dyn FnMut(Parameter)) {
        self.slots().for_each(|(name, slot)| slot.visit(&name, f));
    }

    fn map(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        self.slots().for_each(|(name, slot)| slot.map(&name, f));
    }
}

impl TrainableAdapters for Adapters {
    fn begin(&mut self, seed: Option<u64>) {
        self.set_training(seed.is_some());
        if let Some(seed) = seed {
            self.seed_dropout(&[seed]);
        }
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let number = self.only_active()?;
        self.save(&self.adapters[number].name, folder)
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        self.restore(folder)
    }
}
