//! Virtual tokens: a prompt of embeddings, or a prefix of keys and values.
//!
//! Reference: peft 0.21.2, `tuners/prompt_tuning/model.py`, `tuners/prefix_tuning/model.py`, `peft_model.py` (`get_prompt`).

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::ParamId;
use burn::tensor::{Int, Tensor, TensorData};
use tx_core::error::{Error, Result};
use tx_core::nn::adapter::EmbeddingAdapter;
use tx_core::registry::{Adaptable, Task};
use tx_core::task::{CausalLm, VirtualTokens, VirtualValues};

use super::config::{PeftConfig, PrefixConfig, PromptConfig, PromptInit, VirtualSizes};
use super::files::{Begin, Source, Want};
use super::modules::{Kind, Module};
use super::slot::Slot;

/// The key of what is saved.
pub const KEY: &str = "prompt_embeddings";

/// Architectures whose keys and values lie otherwise, or are no tensors of one shape.
const NO_PREFIX: [&str; 2] = ["bloom", "gpt_bigcode"];
/// Architectures that scale the embeddings of tokens, and not those of a prompt.
const SCALED: [&str; 3] = ["gemma", "gemma2", "gemma3_text"];

/// Embeddings before those of the text.
#[derive(Debug)]
pub struct Prompt {
    /// `[tokens, hidden]`
    pub embeddings: Slot,
    /// The table of the words.
    pub words: ParamId,
    /// Whether the prompt is looked up in it, because the layers of the model cannot be given embeddings.
    pub looked_up: bool,
    tokens: usize,
    first_id: usize,
    passed: AtomicUsize,
}

/// Keys and values before those of the text, in every layer.
#[derive(Debug)]
pub struct Prefix {
    /// `[tokens, layers · 2 · heads · head_dim]`, or what it is computed from: `[tokens, heads · head_dim]`.
    pub embeddings: Slot,
    /// What it is computed with: the weights and biases of two layers with a tangent between.
    pub transform: Option<[Slot; 4]>,
    tokens: usize,
    layers: usize,
    heads: usize,
    passed: AtomicUsize,
}

/// The table of words, as peft finds it: the first one that has a row for each, under that name if there is one.
///
/// # Errors
/// [`Error::Config`] if there is none.
pub fn words<'m>(config: &PeftConfig, model: &dyn Adaptable, modules: &'m [Module]) -> Result<&'m Module> {
    let vocabulary = model.config().get("vocab_size").and_then(serde_json::Value::as_u64);
    let is_table = |module: &&Module| {
        let Some((Kind::Embedding, weight)) = module.kind() else { return false };
        weight.tensor.shape().first().map(|&rows| rows as u64) == vocabulary
    };
    let tables = || modules.iter().filter(is_table);
    let found = tables().find(|module| module.path.ends_with("word_embeddings")).or_else(|| tables().next());
    let none = || Error::config(config.path(), "peft_type", format_args!("`{}` embeds no words", model.class()));
    found.ok_or_else(none)
}

/// The sizes, which a config has that was completed for a model.
fn complete(config: &PeftConfig, sizes: &VirtualSizes) -> Result<[usize; 4]> {
    let given = |key: &str, size: Option<usize>| size.ok_or_else(|| Error::config(config.path(), key, "missing"));
    Ok([
        sizes.num_virtual_tokens,
        given("token_dim", sizes.token_dim)?,
        given("num_layers", sizes.num_layers)?,
        given("num_attention_heads", sizes.num_attention_heads)?,
    ])
}

impl Prompt {
    /// That of a config, with the tensor from `source`. `ids` are those of the text that it begins with.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that are not those of the model; [`Error::Input`] for a text without tokens.
    pub fn new(
        config: &PeftConfig,
        prompt: &PromptConfig,
        model: &dyn Adaptable,
        words: &Module,
        ids: &[u32],
        source: &mut dyn Source,
    ) -> Result<Self> {
        let [tokens, hidden, ..] = complete(config, &prompt.sizes)?;
        let Some((Kind::Embedding, table)) = words.kind() else {
            return Err(Error::config(config.path(), "peft_type", "the model embeds no words"));
        };
        let [rows, columns] = Kind::Embedding.sizes(&table.tensor);
        if columns != hidden {
            let reason = format_args!("{hidden}, but `{}` embeds words in {columns}", model.class());
            return Err(Error::config(config.path(), "token_dim", reason));
        }
        let model_type = model.config().model_type().unwrap_or_default();
        let (is_scaled, looked_up) = (SCALED.contains(&model_type), model.task() != <dyn CausalLm as Task>::NAME);
        if is_scaled && looked_up {
            return Err(Error::Unsupported {
                path: config.path().to_path_buf(),
                key: "peft_type".into(),
                value: format!("{} for `{}`", config.method.peft_type().name(), model.class()),
                supported: "it for language models of this architecture".into(),
            });
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            return Err(Error::input("the ids of `prompt_tuning_init_text`", id, format_args!("0 to {}", rows - 1)));
        }
        let (words, table) = (table.id, table.tensor.clone().untrack().to::<2>());
        let embed = move |ids: Vec<i64>| {
            let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [tokens]), &table.device());
            let rows = tx_kernels::embedding(table, ids);
            if is_scaled { rows * (hidden as f64).sqrt() } else { rows }
        };
        let text: Vec<i64> = ids.iter().map(|&id| i64::from(id)).cycle().take(tokens).collect();
        let init = prompt.prompt_tuning_init;
        if source.is_new() && init == PromptInit::Text && text.is_empty() {
            let expected = "`prompt_tuning_init_text` with at least one token";
            return Err(Error::input("prompt_tuning_init", "TEXT without one", expected));
        }
        let begin: Begin<'_> = Box::new(move |draw| match init {
            PromptInit::Random => draw.normal(&[tokens, hidden], 1.0),
            PromptInit::SampleVocab => embed(draw.ids(tokens, rows)).into(),
            PromptInit::Text => embed(text).into(),
        });
        let shape = vec![tokens, hidden];
        let want = Want { key: KEY.into(), layer: "Embedding", shape, keep_dtype: false, begin };
        let embeddings = source.make(want);
        Ok(Self { embeddings, words, looked_up, tokens, first_id: rows, passed: AtomicUsize::new(0) })
    }

    /// Whether the model has got it.
    pub fn reached_all(&self) -> bool {
        self.passed.load(Ordering::Relaxed) > 0
    }
}

impl VirtualTokens for Prompt {
    fn count(&self) -> usize {
        self.tokens
    }

    fn values(&self) -> VirtualValues {
        VirtualValues::Prompt(self.embeddings.get())
    }

    fn first_id(&self) -> Option<usize> {
        Some(self.first_id)
    }

    fn passed(&self, layers: usize) {
        self.passed.fetch_max(layers, Ordering::Relaxed);
    }
}

impl EmbeddingAdapter for Prompt {
    fn rows(&self, ids: Tensor<1, Int>, table: Tensor<2>) -> Tensor<2> {
        // Ids behind the table are those of the prompt.
        let first = self.first_id as i64;
        let own = ids.clone().greater_equal_elem(first);
        let rows = tx_kernels::embedding(table, ids.clone().mask_fill(own.clone(), 0));
        let places = (ids - first).mask_fill(own.clone().bool_not(), 0);
        let prompt = self.embeddings.get::<2>().cast(rows.dtype()).select(0, places);
        self.passed(1);
        let [count, hidden] = rows.dims();
        rows.mask_where(own.unsqueeze_dim::<2>(1).expand([count, hidden]), prompt)
    }
}

impl Prefix {
    /// That of a config, with the tensors from `source`.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that are not those of the model; [`Error::Unsupported`] for architectures without one.
    pub fn new(
        config: &PeftConfig,
        prefix: &PrefixConfig,
        model: &dyn Adaptable,
        source: &mut dyn Source,
    ) -> Result<Self> {
        let [tokens, hidden, layers, heads] = complete(config, &prefix.sizes)?;
        if !hidden.is_multiple_of(heads) {
            let reason = format_args!("{hidden} is not a multiple of `num_attention_heads` = {heads}");
            return Err(Error::config(config.path(), "token_dim", reason));
        }
        let model_type = model.config().model_type().unwrap_or_default();
        if NO_PREFIX.contains(&model_type) {
            return Err(Error::Unsupported {
                path: config.path().to_path_buf(),
                key: "peft_type".into(),
                value: format!("PREFIX_TUNING for `{model_type}`"),
                supported: "LORA, IA3, PROMPT_TUNING".into(),
            });
        }
        let (zero, projected) = (prefix.zero, prefix.prefix_projection && source.is_new());
        let mut make = |key: &str, layer: &str, shape: Vec<usize>, begin: Begin<'_>| {
            source.make(Want { key: key.into(), layer, shape, keep_dtype: false, begin })
        };
        let whole = layers * 2 * hidden;
        let normal = |shape: [usize; 2]| -> Begin<'static> { Box::new(move |draw| draw.normal(&shape, 1.0)) };
        // In files there is the result alone.
        if !projected {
            let begin: Begin<'_> = match zero {
                true => Box::new(move |draw| draw.constant(&[tokens, whole], 0.0)),
                false => normal([tokens, whole]),
            };
            let embeddings = make(KEY, "Embedding", vec![tokens, whole], begin);
            return Ok(Self { embeddings, transform: None, tokens, layers, heads, passed: AtomicUsize::new(0) });
        }
        let between = prefix.encoder_hidden_size.unwrap_or(hidden);
        let linear = |shape: Vec<usize>, input: usize, zero: bool| -> Begin<'static> {
            Box::new(move |draw| match zero {
                true => draw.constant(&shape, 0.0),
                false => draw.uniform(&shape, 1.0 / (input as f64).sqrt()),
            })
        };
        let mut layer = |number: usize, output: usize, input: usize, zero: bool| {
            let (weight, bias) = (vec![output, input], vec![output]);
            let name = |part: &str| format!("encoder.transform.{number}.{part}");
            let weight = make(&name("weight"), "Linear", weight.clone(), linear(weight, input, zero));
            [weight, make(&name("bias"), "Linear", bias.clone(), linear(bias, input, zero))]
        };
        let [first, first_bias] = layer(0, between, hidden, false);
        let [last, last_bias] = layer(2, whole, between, zero);
        let embeddings = make("encoder.embedding.weight", "Embedding", vec![tokens, hidden], normal([tokens, hidden]));
        let transform = Some([first, first_bias, last, last_bias]);
        Ok(Self { embeddings, transform, tokens, layers, heads, passed: AtomicUsize::new(0) })
    }

    /// What is saved: `[tokens, layers · 2 · heads · head_dim]`.
    pub fn whole(&self) -> Tensor<2> {
        let embeddings = self.embeddings.get::<2>();
        let Some([first, first_bias, last, last_bias]) = &self.transform else { return embeddings };
        let inner = tx_kernels::linear(embeddings, first.get(), Some(first_bias.get()), None).tanh();
        tx_kernels::linear(inner, last.get(), Some(last_bias.get()), None)
    }

    /// Its tensors.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.embeddings).chain(self.transform.iter().flatten())
    }

    /// Whether every layer of the model has got its own.
    pub fn reached_all(&self) -> bool {
        self.passed.load(Ordering::Relaxed) == self.layers
    }
}

impl VirtualTokens for Prefix {
    fn count(&self) -> usize {
        self.tokens
    }

    fn values(&self) -> VirtualValues {
        let whole = self.whole();
        let [tokens, elements] = whole.dims();
        let dim = elements / (2 * self.layers * self.heads);
        let whole = whole.reshape([tokens, 2 * self.layers, self.heads, dim]);
        let part = |at: usize| whole.clone().narrow(1, at, 1).squeeze_dim::<3>(1);
        VirtualValues::Prefix((0..self.layers).map(|layer| [part(2 * layer), part(2 * layer + 1)]).collect())
    }

    fn first_id(&self) -> Option<usize> {
        None
    }

    fn passed(&self, layers: usize) {
        self.passed.fetch_max(layers, Ordering::Relaxed);
    }
}
