//! Sentence embeddings: a text to one vector, as sentence-transformers' `encode` makes it.
//!
//! Reference: sentence-transformers 6.2.0, `sentence_transformer/model.py`.

use std::path::Path;
use std::sync::Arc;

use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::registry::{Auto, LoadOptions};
use tx_core::task::{Record, TextModel};
use tx_core::tokenizer::{Encoding, Text, Tokenizer};

use super::TokenizedModel;
use super::sentence_modules::{SentenceModules, normalize};
use crate::models::TEXT_MODEL;

/// The arguments of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentenceEmbeddingOptions {
    /// A text that goes before every text.
    pub prompt: Option<String>,
    /// The name of one of the model's own prompts.
    pub prompt_name: Option<String>,
    /// Whether vectors get length one, if the model does not see to it itself.
    pub normalize_embeddings: bool,
    /// Keeps this many numbers of each vector.
    pub truncate_dim: Option<usize>,
}

/// A text to one vector.
#[derive(Debug, Clone)]
pub struct SentenceEmbeddingPipeline {
    model: Arc<TokenizedModel<dyn TextModel>>,
    modules: Arc<SentenceModules>,
    prompt: String,
    /// How many tokens of the prompt are left out of the pooling.
    prompt_tokens: usize,
    options: SentenceEmbeddingOptions,
}

impl SentenceEmbeddingPipeline {
    /// A pipeline of an encoder, and of what its folder says beside it.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no prompt of that name.
    pub fn new(
        model: Auto<dyn TextModel>,
        tokenizer: Tokenizer,
        modules: SentenceModules,
        options: SentenceEmbeddingOptions,
    ) -> Result<Self> {
        let (model, modules) = (Arc::new(TokenizedModel { model, tokenizer }), Arc::new(modules));
        let without = SentenceEmbeddingOptions::default();
        Self { model, modules, prompt: String::new(), prompt_tokens: 0, options: without }.with_options(options)
    }

    /// Loads the pipeline from a folder of sentence-transformers, or of a plain encoder.
    ///
    /// # Errors
    /// As [`SentenceModules::from_folder`], [`TokenizedModel::from_folder`] and [`SentenceEmbeddingPipeline::new`].
    pub fn from_folder(folder: &Path, load: &LoadOptions, options: SentenceEmbeddingOptions) -> Result<Self> {
        let modules = SentenceModules::from_folder(folder, &load.device)?;
        let TokenizedModel { model, tokenizer } = TokenizedModel::from_folder(TEXT_MODEL, &modules.encoder, load)?;
        Self::new(model, tokenizer, modules, options)
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no prompt of that name.
    pub fn with_options(&self, options: SentenceEmbeddingOptions) -> Result<Self> {
        if options.truncate_dim == Some(0) {
            return Err(Error::input("truncate_dim", 0, "at least 1"));
        }
        let prompts = &self.modules.prompts;
        let prompt = match (&options.prompt, &options.prompt_name) {
            (Some(prompt), _) => prompt.clone(),
            (None, Some(name)) => prompts.get(name).cloned().ok_or_else(|| {
                let names = prompts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let names = if names.is_empty() { "no name, as the model has no prompts".into() } else { names };
                Error::input("prompt_name", format_args!("`{name}`"), names)
            })?,
            (None, None) => {
                let default = self.modules.default_prompt_name.as_ref();
                default.and_then(|name| prompts.get(name)).cloned().unwrap_or_default()
            }
        };
        let mut pipeline = Self { prompt, prompt_tokens: 0, options, ..self.clone() };
        if !pipeline.modules.pooling.include_prompt && !pipeline.prompt.is_empty() {
            // With the special tokens before it, and without one after it.
            let alone = pipeline.encode("")?;
            pipeline.prompt_tokens = alone.len() - usize::from(alone.special_tokens_mask.last() == Some(&1));
        }
        Ok(pipeline)
    }

    /// The prompt and a text, cut to what the model takes.
    fn encode(&self, text: &str) -> Result<Encoding> {
        let mut text = format!("{}{text}", self.prompt);
        if self.modules.do_lower_case {
            text = text.chars().flat_map(char::to_lowercase).collect();
        }
        self.model.encode(&Text::from(text), true, self.max_seq_length())
    }

    /// The longest text, in tokens; what is longer is cut.
    pub fn max_seq_length(&self) -> Option<usize> {
        let max = self.modules.max_seq_length.or(self.model.max_length());
        max.into_iter().chain(self.model.model.limits.max_length).min()
    }
}

impl Pipeline for SentenceEmbeddingPipeline {
    type Input = String;
    type Unit = Encoding;
    type Scores = Vec<f32>;
    type Output = Vec<f32>;

    fn preprocess(&self, text: &String) -> Result<Vec<Encoding>> {
        Ok(vec![self.encode(text)?])
    }

    fn length(&self, unit: &Encoding) -> usize {
        unit.len()
    }

    fn forward(&self, units: &[&Encoding]) -> Result<Vec<Vec<f32>>> {
        let batch = self.model.batch(units.iter().copied())?;
        let states = self.model.model.forward(&batch.inputs, &mut Record::none()).last_hidden_state;
        let pool = |states: &[f32], hidden: usize| self.modules.pooling.pool(states, hidden, self.prompt_tokens);
        let mut pooled = self.model.read_tokens(states, units, &batch.starts, pool)?;
        for module in &self.modules.after {
            pooled = module.apply(pooled, &self.model.model.device, |rows| self.model.read_rows(rows))?;
        }
        Ok(pooled)
    }

    fn postprocess(&self, _: &String, units: Vec<(Encoding, Vec<f32>)>) -> Result<Vec<f32>> {
        let mut vector = units.into_iter().next().map(|(_, vector)| vector).unwrap_or_default();
        vector.truncate(self.options.truncate_dim.unwrap_or(usize::MAX));
        Ok(if self.options.normalize_embeddings { normalize(vector) } else { vector })
    }
}
