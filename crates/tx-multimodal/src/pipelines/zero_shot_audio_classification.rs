//! `zero-shot-audio-classification`: a sound to labels of the user's choice.
//!
//! Reference: transformers 5.23.0, `pipelines/zero_shot_audio_classification.py`.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;
use tx_audio::features::{FeatureExtractor, Features};
use tx_audio::pipelines::Sound;
use tx_core::error::Result;
use tx_core::pipeline::{Pipeline, ScoredLabel, softmax};
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{AudioTextModel, Record, normalize};
use tx_core::tokenizer::Tokenizer;

use super::read_rows;
use super::sounds::Sounds;
use super::texts::Texts;
use super::zero_shot::ZeroShotClassificationOptions;
use crate::models;

/// A sound to labels of the user's choice, best first.
#[derive(Debug, Clone)]
pub struct ZeroShotAudioClassificationPipeline {
    parts: Arc<Parts>,
    /// `[labels, dim]`
    text_embeds: Tensor<2>,
    options: ZeroShotClassificationOptions,
}

#[derive(Debug)]
struct Parts {
    model: Auto<dyn AudioTextModel>,
    texts: Texts,
    sounds: Sounds,
}

impl ZeroShotAudioClassificationPipeline {
    /// A pipeline of the model in a folder.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`], [`FeatureExtractor::from_folder`], [`tx_core::registry::from_folder`] and
    /// [`ZeroShotAudioClassificationPipeline::new`].
    pub fn from_folder(folder: &Path, load: &LoadOptions, options: ZeroShotClassificationOptions) -> Result<Self> {
        // The small files first: if they cannot be used, no weights have been read for nothing.
        let (tokenizer, extractor) = (Tokenizer::from_folder(folder)?, FeatureExtractor::from_folder(folder)?);
        let model = from_folder(models::ZERO_SHOT_AUDIO_CLASSIFICATION, &models::classes(), folder, load)?;
        Self::new(model, tokenizer, extractor, options)
    }

    /// A pipeline of a model of sounds and texts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](tx_core::Error::Tokenizer) if the tokenizer is not the model's;
    /// [`Error::Input`](tx_core::Error::Input) if there are no labels, the template has no place for one, or a label is
    /// too long.
    pub fn new(
        model: Auto<dyn AudioTextModel>,
        tokenizer: Tokenizer,
        extractor: FeatureExtractor,
        options: ZeroShotClassificationOptions,
    ) -> Result<Self> {
        let texts = Texts::new(tokenizer, model.limits.text, false)?;
        let sounds = Sounds { extractor, limits: model.limits.audio };
        let text_embeds = options.embed(&*model.model, &texts, &model.device)?;
        Ok(Self { parts: Arc::new(Parts { model, texts, sounds }), text_embeds, options })
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`](tx_core::Error::Input) if there are no labels, the template has no place for one, or a label is
    /// too long.
    pub fn with_options(&self, options: ZeroShotClassificationOptions) -> Result<Self> {
        let Parts { model, texts, .. } = &*self.parts;
        let text_embeds = options.embed(&*model.model, texts, &model.device)?;
        Ok(Self { parts: self.parts.clone(), text_embeds, options })
    }
}

impl Pipeline for ZeroShotAudioClassificationPipeline {
    type Input = Sound;
    type Unit = Features;
    type Scores = Vec<f32>;
    type Output = Vec<ScoredLabel>;

    fn preprocess(&self, sound: &Sound) -> Result<Vec<Features>> {
        Ok(vec![self.parts.sounds.extract(sound)?])
    }

    fn length(&self, unit: &Features) -> usize {
        self.parts.sounds.cost(unit)
    }

    fn forward(&self, units: &[&Features]) -> Result<Vec<Vec<f32>>> {
        let Parts { model, sounds, .. } = &*self.parts;
        sounds.forward(units, &model.device, |inputs| {
            let embeds = normalize(model.embed_audio(inputs, &mut Record::none()).embeds);
            read_rows(model.logits_per_audio(embeds, self.text_embeds.clone()), &model.device)
        })
    }

    fn postprocess(&self, _: &Sound, units: Vec<(Features, Vec<f32>)>) -> Result<Vec<ScoredLabel>> {
        let logits = units.into_iter().next().map(|(_, logits)| logits).unwrap_or_default();
        Ok(self.options.rank(softmax(&logits)))
    }
}
