//! Hugging Face Transformers for Rust: any checkpoint of a supported architecture, as it lies on the Hub, on any device.
//!
//! The `Auto…` types find the architecture by `config.json` and give a model for one task; the [`pipelines`] go from raw
//! text to finished results; [`AutoTokenizer`] and [`AutoConfig`] give the parts alone.
//!
//! ```no_run
//! use tx::pipelines::{FillMaskOptions, FillMaskPipeline};
//! use tx::{AutoModelForMaskedLm, AutoTokenizer, Pipeline};
//!
//! let model = AutoModelForMaskedLm::from_pretrained("google-bert/bert-base-uncased")?;
//! let tokenizer = AutoTokenizer::from_pretrained("google-bert/bert-base-uncased")?;
//! let pipeline = FillMaskPipeline::new(model, tokenizer, FillMaskOptions::default())?;
//! let proposals = pipeline.call("Paris is the [MASK] of France.")?;
//! # Ok::<(), tx::Error>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`models`] | the tables of architectures, one per task |
//! | [`pipelines`] | one pipeline per task, with the arguments and the JSON of Python's |
//! | [`generate`] | what follows a prompt: decoding, sampling, beams, constraints, streaming |
//! | [`chat`] | from messages to the text that a model was trained on |
//! | [`task`] | one trait per head: what a model of that kind computes |
//! | [`hub`], [`config`], [`weights`], [`tokenizer`] | the parts of a checkpoint, each usable alone |
//! | [`device`], [`threads`] | where tensors live and in which dtype; how many threads compute |
//! | [`error`] | what can go wrong, as data |

pub use burn;
pub use tx_core::config::Config;
pub use tx_core::device::Dtype;
pub use tx_core::hub::HubOptions;
pub use tx_core::pipeline::{Batching, Pipeline};
pub use tx_core::registry::{Auto, LoadOptions};
pub use tx_core::tokenizer::Tokenizer;
pub use tx_core::weights::Quantization;
pub use tx_core::{
    Error, Result, config, device, error, hub, nn, pipeline, progress, registry, task, threads, tokenizer, weights,
};
pub use tx_generate as generate;
pub use tx_generate::{GenerationConfig, Generator};
pub use tx_text::{chat, models, pipelines};

use hub::Wanted;
use registry::Class;
use task::{
    CausalLm, MaskedLm, MultipleChoice, NextSentencePredictor, QuestionAnswerer, SequenceClassifier, TextModel,
    TokenClassifier, TokenDiscriminator,
};

/// Every class of every table of every modality.
pub fn classes() -> Vec<&'static dyn Class> {
    models::classes()
}

/// Makes one type per table: a model by its name, with the head of the task.
macro_rules! auto_models {
    ($($(#[$meta:meta])* $name:ident: $task:ident = $table:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl $name {
            /// Loads a model: a folder, or `owner/name[@revision]` on the Hub; on the CPU, in the dtype of its file.
            ///
            /// # Errors
            /// As [`hub::resolve`] and [`registry::from_folder`].
            pub fn from_pretrained(model: &str) -> Result<Auto<dyn $task>> {
                Self::from_pretrained_with(model, &LoadOptions::default(), &HubOptions::from_env())
            }

            /// Loads a model onto a device, in a dtype, from another cache or mirror.
            ///
            /// # Errors
            /// As [`hub::resolve`] and [`registry::from_folder`].
            pub fn from_pretrained_with(
                model: &str,
                options: &LoadOptions,
                hub_options: &HubOptions,
            ) -> Result<Auto<dyn $task>> {
                let folder = hub::resolve(model, Wanted::Full, hub_options)?;
                registry::from_folder(models::$table, &classes(), &folder, options)
            }
        }
    )*};
}

auto_models! {
    /// Text to hidden states: HF's `AutoModel`.
    AutoModel: TextModel = TEXT_MODEL;
    /// HF's `AutoModelForCausalLM`.
    AutoModelForCausalLm: CausalLm = CAUSAL_LM;
    /// HF's `AutoModelForMaskedLM`.
    AutoModelForMaskedLm: MaskedLm = MASKED_LM;
    /// HF's `AutoModelForMultipleChoice`.
    AutoModelForMultipleChoice: MultipleChoice = MULTIPLE_CHOICE;
    /// HF's `AutoModelForNextSentencePrediction`.
    AutoModelForNextSentencePrediction: NextSentencePredictor = NEXT_SENTENCE_PREDICTION;
    /// HF's `AutoModelForPreTraining`, as far as it tells replaced tokens from true ones.
    AutoModelForPreTraining: TokenDiscriminator = TOKEN_DISCRIMINATION;
    /// HF's `AutoModelForQuestionAnswering`.
    AutoModelForQuestionAnswering: QuestionAnswerer = QUESTION_ANSWERING;
    /// HF's `AutoModelForSequenceClassification`.
    AutoModelForSequenceClassification: SequenceClassifier = SEQUENCE_CLASSIFICATION;
    /// HF's `AutoModelForTokenClassification`.
    AutoModelForTokenClassification: TokenClassifier = TOKEN_CLASSIFICATION;
}

/// HF's `AutoTokenizer`.
#[derive(Debug, Clone, Copy)]
pub struct AutoTokenizer;

impl AutoTokenizer {
    /// Loads the tokenizer of a model: a folder, or `owner/name[@revision]` on the Hub, without its weights.
    ///
    /// # Errors
    /// As [`hub::resolve`] and [`Tokenizer::from_folder`].
    pub fn from_pretrained(model: &str) -> Result<Tokenizer> {
        Tokenizer::from_folder(&hub::resolve(model, Wanted::Tokenizer, &HubOptions::from_env())?)
    }
}

/// HF's `AutoConfig`.
#[derive(Debug, Clone, Copy)]
pub struct AutoConfig;

impl AutoConfig {
    /// Reads the `config.json` of a model: a folder, or `owner/name[@revision]` on the Hub, and downloads nothing else.
    ///
    /// # Errors
    /// As [`hub::resolve`] and [`Config::from_folder`].
    pub fn from_pretrained(model: &str) -> Result<Config> {
        Config::from_folder(&hub::resolve(model, Wanted::ConfigOnly, &HubOptions::from_env())?)
    }
}
