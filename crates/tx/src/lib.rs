//! Hugging Face Transformers for Rust: any checkpoint of a supported architecture, as it lies on the Hub, on any device.
//!
//! The `Auto…` types find the architecture by `config.json` and give a model for one task; the pipelines go from raw text,
//! pictures and sounds to finished results; [`AutoTokenizer`], [`AutoImageProcessor`], [`AutoFeatureExtractor`] and
//! [`AutoConfig`] give the parts alone.
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
//! | [`models`] | text: the tables of architectures, one per task |
//! | [`pipelines`] | text: one pipeline per task, with the arguments and the JSON of Python's |
//! | [`vision`] | pictures: opened, processed, their models and pipelines, results drawn on them |
//! | [`audio`] | sounds: decoded, resampled, their features, models and pipelines |
//! | [`multimodal`] | pictures or sounds with texts: models and pipelines |
//! | [`generate`] | what follows a prompt: decoding, sampling, beams, constraints, streaming |
//! | [`chat`] | from messages to the text that a model was trained on |
//! | [`task`] | one trait per head: what a model of that kind computes |
//! | [`built_in`] | the models that ship with tx |
//! | [`hub`], [`config`], [`weights`], [`tokenizer`] | the parts of a checkpoint, each usable alone |
//! | [`device`], [`threads`] | where tensors live and in which dtype; how many threads compute |
//! | [`error`] | what can go wrong, as data |

pub mod built_in;

pub use burn;
pub use tx_audio as audio;
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
pub use tx_multimodal as multimodal;
pub use tx_text::{chat, models, pipelines};
pub use tx_vision as vision;

use std::path::Path;

use audio::features::FeatureExtractor;
use hub::Wanted;
use registry::{Class, Entry, Task};
use task::{
    AudioClassifier, AudioFrameClassifier, AudioModel, AudioTextModel, AudioXVector, CausalLm, CtcModel,
    ImageClassifier, ImageSegmenter, ImageTextModel, MaskedImageModel, MaskedLm, MultipleChoice, NextSentencePredictor,
    ObjectDetector, QuestionAnswerer, SemanticSegmenter, SequenceClassifier, SpeechDecoder, SpeechToText, TextModel,
    TokenClassifier, TokenDiscriminator, VisionModel,
};
use vision::processor::ImageProcessor;

/// Every class of every table of every modality.
pub fn classes() -> Vec<&'static dyn Class> {
    [models::classes(), vision::models::classes(), audio::models::classes(), multimodal::models::classes()].concat()
}

/// Of the tables of one task, which may be in several crates, the one that has the architecture of a folder.
///
/// # Errors
/// As [`registry::from_folder`], where none has it.
pub fn table<T>(tables: &[&'static [Entry<T>]], folder: &Path) -> Result<&'static [Entry<T>]>
where
    T: ?Sized + Task + 'static,
{
    let config = Config::from_folder(folder)?;
    let model_type = config.model_type()?;
    match tables.iter().find(|table| table.iter().any(|entry| entry.model_type == model_type)) {
        Some(table) => Ok(*table),
        None => {
            let none: &'static [Entry<T>] = &[];
            // Without a line for it, this is the error that says which there are.
            registry::from_folder(none, &classes(), folder, &LoadOptions::default()).map(|_| none)
        }
    }
}

/// Loads the model of a folder for one task, whose tables may be in several crates.
///
/// # Errors
/// As [`registry::from_folder`].
pub fn from_folder<T>(tables: &[&'static [Entry<T>]], folder: &Path, options: &LoadOptions) -> Result<Auto<T>>
where
    T: ?Sized + Task + 'static,
{
    registry::from_folder(table(tables, folder)?, &classes(), folder, options)
}

/// Makes one type per task: a model by its name, with the head of the task.
macro_rules! auto_models {
    ($($(#[$meta:meta])* $name:ident: $task:ident = $($table:path)|+;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl $name {
            /// Loads a model: a folder, or `owner/name[@revision]` on the Hub; on the CPU, in the dtype of its file.
            ///
            /// # Errors
            /// As [`built_in::resolve`] and [`registry::from_folder`].
            pub fn from_pretrained(model: &str) -> Result<Auto<dyn $task>> {
                Self::from_pretrained_with(model, &LoadOptions::default(), &HubOptions::from_env())
            }

            /// Loads a model onto a device, in a dtype, from another cache or mirror.
            ///
            /// # Errors
            /// As [`built_in::resolve`] and [`registry::from_folder`].
            pub fn from_pretrained_with(
                model: &str,
                options: &LoadOptions,
                hub_options: &HubOptions,
            ) -> Result<Auto<dyn $task>> {
                let folder = built_in::resolve(model, Wanted::Full, hub_options)?;
                from_folder(&[$($table),+], &folder, options)
            }
        }
    )*};
}

auto_models! {
    /// Sounds to hidden states: HF's `AutoModel` for sounds.
    AutoAudioModel: AudioModel = audio::models::AUDIO_MODEL;
    /// Text to hidden states: HF's `AutoModel`.
    AutoModel: TextModel = models::TEXT_MODEL | multimodal::models::TEXT_MODEL;
    /// HF's `AutoModelForAudioClassification`.
    AutoModelForAudioClassification: AudioClassifier = audio::models::AUDIO_CLASSIFICATION;
    /// HF's `AutoModelForAudioFrameClassification`.
    AutoModelForAudioFrameClassification: AudioFrameClassifier = audio::models::AUDIO_FRAME_CLASSIFICATION;
    /// HF's `AutoModelForAudioXVector`.
    AutoModelForAudioXVector: AudioXVector = audio::models::AUDIO_XVECTOR;
    /// HF's `AutoModelForCausalLM`.
    AutoModelForCausalLm: CausalLm = models::CAUSAL_LM;
    /// HF's `AutoModelForCTC`.
    AutoModelForCtc: CtcModel = audio::models::CTC;
    /// HF's `AutoModelForImageClassification`.
    AutoModelForImageClassification: ImageClassifier =
        vision::models::IMAGE_CLASSIFICATION | multimodal::models::IMAGE_CLASSIFICATION;
    /// HF's `AutoModelForImageSegmentation`.
    AutoModelForImageSegmentation: ImageSegmenter = vision::models::IMAGE_SEGMENTATION;
    /// HF's `AutoModelForMaskedImageModeling`.
    AutoModelForMaskedImageModeling: MaskedImageModel = vision::models::MASKED_IMAGE_MODELING;
    /// HF's `AutoModelForMaskedLM`.
    AutoModelForMaskedLm: MaskedLm = models::MASKED_LM;
    /// HF's `AutoModelForMultipleChoice`.
    AutoModelForMultipleChoice: MultipleChoice = models::MULTIPLE_CHOICE;
    /// HF's `AutoModelForNextSentencePrediction`.
    AutoModelForNextSentencePrediction: NextSentencePredictor = models::NEXT_SENTENCE_PREDICTION;
    /// HF's `AutoModelForObjectDetection`.
    AutoModelForObjectDetection: ObjectDetector = vision::models::OBJECT_DETECTION;
    /// HF's `AutoModelForPreTraining`, as far as it tells replaced tokens from true ones.
    AutoModelForPreTraining: TokenDiscriminator = models::TOKEN_DISCRIMINATION;
    /// HF's `AutoModelForQuestionAnswering`.
    AutoModelForQuestionAnswering: QuestionAnswerer = models::QUESTION_ANSWERING;
    /// HF's `AutoModelForSemanticSegmentation`.
    AutoModelForSemanticSegmentation: SemanticSegmenter = vision::models::SEMANTIC_SEGMENTATION;
    /// HF's `AutoModelForSequenceClassification`.
    AutoModelForSequenceClassification: SequenceClassifier = models::SEQUENCE_CLASSIFICATION;
    /// HF's `AutoModelForSpeechSeq2Seq`.
    AutoModelForSpeechSeq2Seq: SpeechToText = audio::models::SPEECH_TO_TEXT;
    /// HF's `AutoModelForTokenClassification`.
    AutoModelForTokenClassification: TokenClassifier = models::TOKEN_CLASSIFICATION;
    /// Sounds and texts, which HF's `AutoModel` gives.
    AutoModelForZeroShotAudioClassification: AudioTextModel = multimodal::models::ZERO_SHOT_AUDIO_CLASSIFICATION;
    /// HF's `AutoModelForZeroShotImageClassification`.
    AutoModelForZeroShotImageClassification: ImageTextModel = multimodal::models::ZERO_SHOT_IMAGE_CLASSIFICATION;
    /// Decoders that look at what another model's encoder heard, which HF's `AutoModelForCausalLM` gives.
    AutoSpeechDecoder: SpeechDecoder = audio::models::SPEECH_DECODER;
    /// Pictures to hidden states: HF's `AutoModel` for pictures.
    AutoVisionModel: VisionModel = vision::models::VISION_MODEL | multimodal::models::VISION_MODEL;
}

/// HF's `AutoImageProcessor`.
#[derive(Debug, Clone, Copy)]
pub struct AutoImageProcessor;

impl AutoImageProcessor {
    /// Loads the image processor of a model: a folder, or `owner/name[@revision]` on the Hub.
    ///
    /// # Errors
    /// As [`built_in::resolve`] and [`ImageProcessor::from_folder`].
    pub fn from_pretrained(model: &str) -> Result<ImageProcessor> {
        ImageProcessor::from_folder(&built_in::resolve(model, Wanted::Processor, &HubOptions::from_env())?)
    }
}

/// HF's `AutoFeatureExtractor`, for sounds.
#[derive(Debug, Clone, Copy)]
pub struct AutoFeatureExtractor;

impl AutoFeatureExtractor {
    /// Loads the feature extractor of a model: a folder, or `owner/name[@revision]` on the Hub.
    ///
    /// # Errors
    /// As [`built_in::resolve`] and [`FeatureExtractor::from_folder`].
    pub fn from_pretrained(model: &str) -> Result<FeatureExtractor> {
        FeatureExtractor::from_folder(&built_in::resolve(model, Wanted::Processor, &HubOptions::from_env())?)
    }
}

/// HF's `AutoTokenizer`.
#[derive(Debug, Clone, Copy)]
pub struct AutoTokenizer;

impl AutoTokenizer {
    /// Loads the tokenizer of a model: a folder, or `owner/name[@revision]` on the Hub, without its weights.
    ///
    /// # Errors
    /// As [`built_in::resolve`] and [`Tokenizer::from_folder`].
    pub fn from_pretrained(model: &str) -> Result<Tokenizer> {
        Tokenizer::from_folder(&built_in::resolve(model, Wanted::Tokenizer, &HubOptions::from_env())?)
    }
}

/// HF's `AutoConfig`.
#[derive(Debug, Clone, Copy)]
pub struct AutoConfig;

impl AutoConfig {
    /// Reads the `config.json` of a model: a folder, or `owner/name[@revision]` on the Hub, and downloads nothing else.
    ///
    /// # Errors
    /// As [`built_in::resolve`] and [`Config::from_folder`].
    pub fn from_pretrained(model: &str) -> Result<Config> {
        Config::from_folder(&built_in::resolve(model, Wanted::ConfigOnly, &HubOptions::from_env())?)
    }
}
