//! Texts, pictures and sounds to vectors of one space, in which those that fit are near each other.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use tx_audio::features::{FeatureExtractor, Features};
use tx_audio::pipelines::Sound;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::registry::{Auto, Entry, LoadOptions, Task, from_folder};
use tx_core::task::{AudioEmbedder, AudioTextModel, ImageEmbedder, ImageTextModel, Record, TextEmbedder, normalize};
use tx_core::tokenizer::{Encoding, Tokenizer};
use tx_vision::pipelines::ImageSource;
use tx_vision::processor::{ImageProcessor, Processed};

use super::pictures::Pictures;
use super::read_rows;
use super::sounds::Sounds;
use super::texts::Texts;
use crate::models::{self, classes};

/// What becomes a vector.
#[derive(Debug, Clone)]
pub enum Embeddable {
    /// A text; what the model cannot read of it is cut off.
    Text(String),
    /// A picture.
    Image(ImageSource),
    /// A sound.
    Sound(Sound),
}

/// One row of a forward pass.
#[derive(Debug, Clone)]
pub enum EmbeddingUnit {
    /// Of a text.
    Text(Encoding),
    /// Of a picture.
    Image(Processed),
    /// Of a sound.
    Sound(Features),
}

/// Texts, and pictures or sounds, to vectors of length one; their products are cosines.
#[derive(Debug, Clone)]
pub struct JointEmbeddingPipeline {
    model: Arc<Model>,
}

/// A model of both modalities, or a tower with its projection.
#[derive(Debug)]
enum Model {
    ImageText { model: Auto<dyn ImageTextModel>, texts: Texts, pictures: Pictures },
    AudioText { model: Auto<dyn AudioTextModel>, texts: Texts, sounds: Sounds },
    Text { model: Auto<dyn TextEmbedder>, texts: Texts },
    Image { model: Auto<dyn ImageEmbedder>, pictures: Pictures },
    Audio { model: Auto<dyn AudioEmbedder>, sounds: Sounds },
}

/// Whether a table has the architecture, and of its classes one of these.
fn has<T: ?Sized + Task>(table: &[Entry<T>], model_type: &str, classes: &[&str]) -> bool {
    table.iter().any(|entry| entry.model_type == model_type && classes.contains(&entry.class))
}

impl JointEmbeddingPipeline {
    /// Whether a checkpoint with this config is of a model for this pipeline.
    ///
    /// # Errors
    /// [`Error::Config`] if the config names no architecture.
    pub fn fits(config: &Config) -> Result<bool> {
        let (model_type, classes) = (config.model_type()?, config.architectures());
        Ok(has(models::ZERO_SHOT_IMAGE_CLASSIFICATION, model_type, &classes)
            || has(models::ZERO_SHOT_AUDIO_CLASSIFICATION, model_type, &classes)
            || has(models::TEXT_EMBEDDING, model_type, &classes)
            || has(models::IMAGE_EMBEDDING, model_type, &classes)
            || has(models::AUDIO_EMBEDDING, model_type, &classes))
    }

    /// A pipeline of the model in a folder: of both towers, or of the one with a projection that the config names.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`], [`ImageProcessor::from_folder`] and [`FeatureExtractor::from_folder`], for those
    /// that the model needs, and [`tx_core::registry::from_folder`]; [`Error::Tokenizer`] if the tokenizer is not the
    /// model's.
    pub fn from_folder(folder: &Path, load: &LoadOptions) -> Result<Self> {
        let config = Config::from_folder(folder)?;
        let (model_type, named) = (config.model_type()?, config.architectures());
        // The small files first: if they cannot be used, no weights have been read for nothing.
        let model = if has(models::TEXT_EMBEDDING, model_type, &named) {
            let tokenizer = Tokenizer::from_folder(folder)?;
            let model = from_folder(models::TEXT_EMBEDDING, &classes(), folder, load)?;
            Model::Text { texts: Texts::new(tokenizer, model.limits, false)?, model }
        } else if has(models::IMAGE_EMBEDDING, model_type, &named) {
            let processor = ImageProcessor::from_folder(folder)?;
            let model = from_folder(models::IMAGE_EMBEDDING, &classes(), folder, load)?;
            Model::Image { pictures: Pictures { processor, limits: model.limits }, model }
        } else if has(models::AUDIO_EMBEDDING, model_type, &named) {
            let extractor = FeatureExtractor::from_folder(folder)?;
            let model = from_folder(models::AUDIO_EMBEDDING, &classes(), folder, load)?;
            Model::Audio { sounds: Sounds { extractor, limits: model.limits }, model }
        } else if models::ZERO_SHOT_AUDIO_CLASSIFICATION.iter().any(|entry| entry.model_type == model_type) {
            let (tokenizer, extractor) = (Tokenizer::from_folder(folder)?, FeatureExtractor::from_folder(folder)?);
            let model = from_folder(models::ZERO_SHOT_AUDIO_CLASSIFICATION, &classes(), folder, load)?;
            let texts = Texts::new(tokenizer, model.limits.text, false)?;
            Model::AudioText { texts, sounds: Sounds { extractor, limits: model.limits.audio }, model }
        } else {
            let (tokenizer, processor) = (Tokenizer::from_folder(folder)?, ImageProcessor::from_folder(folder)?);
            let model = from_folder(models::ZERO_SHOT_IMAGE_CLASSIFICATION, &classes(), folder, load)?;
            let texts = Texts::new(tokenizer, model.limits.text, model.is_pairwise())?;
            Model::ImageText { texts, pictures: Pictures { processor, limits: model.limits.image }, model }
        };
        Ok(Self { model: Arc::new(model) })
    }

    /// Whether texts can be embedded.
    pub fn takes_texts(&self) -> bool {
        self.model.texts().is_some()
    }

    /// Whether pictures can be embedded.
    pub fn takes_images(&self) -> bool {
        self.model.pictures().is_some()
    }

    /// Whether sounds can be embedded.
    pub fn takes_sounds(&self) -> bool {
        self.model.sounds().is_some()
    }

    /// What the model cannot embed.
    fn refuse(&self, what: &str) -> Error {
        let takes = [(self.takes_texts(), "texts"), (self.takes_images(), "pictures"), (self.takes_sounds(), "sounds")];
        let taken: Vec<&str> = takes.into_iter().filter_map(|(takes, name)| takes.then_some(name)).collect();
        Error::input("input", what, format_args!("{}, which the model embeds", taken.join(" or ")))
    }
}

impl Model {
    fn texts(&self) -> Option<(&dyn TextEmbedder, &Texts)> {
        match self {
            Self::ImageText { model, texts, .. } => Some((&*model.model, texts)),
            Self::AudioText { model, texts, .. } => Some((&*model.model, texts)),
            Self::Text { model, texts } => Some((&*model.model, texts)),
            Self::Image { .. } | Self::Audio { .. } => None,
        }
    }

    fn pictures(&self) -> Option<(&dyn ImageEmbedder, &Pictures)> {
        match self {
            Self::ImageText { model, pictures, .. } => Some((&*model.model, pictures)),
            Self::Image { model, pictures } => Some((&*model.model, pictures)),
            Self::AudioText { .. } | Self::Text { .. } | Self::Audio { .. } => None,
        }
    }

    fn sounds(&self) -> Option<(&dyn AudioEmbedder, &Sounds)> {
        match self {
            Self::AudioText { model, sounds, .. } => Some((&*model.model, sounds)),
            Self::Audio { model, sounds } => Some((&*model.model, sounds)),
            Self::ImageText { .. } | Self::Text { .. } | Self::Image { .. } => None,
        }
    }

    fn device(&self) -> &Device {
        match self {
            Self::ImageText { model, .. } => &model.device,
            Self::AudioText { model, .. } => &model.device,
            Self::Text { model, .. } => &model.device,
            Self::Image { model, .. } => &model.device,
            Self::Audio { model, .. } => &model.device,
        }
    }
}

/// The rows of one kind, and their numbers among all.
fn of_kind<'a, T>(
    units: &[&'a EmbeddingUnit],
    kind: impl Fn(&'a EmbeddingUnit) -> Option<&'a T>,
) -> (Vec<usize>, Vec<&'a T>) {
    units.iter().enumerate().filter_map(|(i, &unit)| Some((i, kind(unit)?))).unzip()
}

impl Pipeline for JointEmbeddingPipeline {
    type Input = Embeddable;
    type Unit = EmbeddingUnit;
    type Scores = Vec<f32>;
    type Output = Vec<f32>;

    fn preprocess(&self, input: &Embeddable) -> Result<Vec<EmbeddingUnit>> {
        let unit = match input {
            Embeddable::Text(text) => {
                let (_, texts) = self.model.texts().ok_or_else(|| self.refuse("a text"))?;
                EmbeddingUnit::Text(texts.encode(text, true)?)
            }
            Embeddable::Image(source) => {
                let (_, pictures) = self.model.pictures().ok_or_else(|| self.refuse("a picture"))?;
                EmbeddingUnit::Image(pictures.process(source)?)
            }
            Embeddable::Sound(sound) => {
                let (_, sounds) = self.model.sounds().ok_or_else(|| self.refuse("a sound"))?;
                EmbeddingUnit::Sound(sounds.extract(sound)?)
            }
        };
        Ok(vec![unit])
    }

    fn length(&self, unit: &EmbeddingUnit) -> usize {
        let length = match unit {
            EmbeddingUnit::Text(encoding) => self.model.texts().map(|(_, texts)| texts.cost(encoding)),
            EmbeddingUnit::Image(picture) => self.model.pictures().map(|(_, pictures)| pictures.cost(picture)),
            EmbeddingUnit::Sound(features) => self.model.sounds().map(|(_, sounds)| sounds.cost(features)),
        };
        length.unwrap_or(0)
    }

    fn forward(&self, units: &[&EmbeddingUnit]) -> Result<Vec<Vec<f32>>> {
        let device = self.model.device();
        let mut vectors: Vec<Option<Vec<f32>>> = units.iter().map(|_| None).collect();
        let mut keep = |rows: Vec<usize>, made: Vec<Vec<f32>>| {
            rows.into_iter().zip(made).for_each(|(i, vector)| vectors[i] = Some(vector));
        };
        if let Some((model, texts)) = self.model.texts() {
            let (rows, encodings) =
                of_kind(units, |unit| if let EmbeddingUnit::Text(unit) = unit { Some(unit) } else { None });
            if !rows.is_empty() {
                let embedding = model.embed_text(&texts.inputs(&encodings, device)?, &mut Record::none());
                keep(rows, read_rows(normalize(embedding.embeds), device)?);
            }
        }
        if let Some((model, pictures)) = self.model.pictures() {
            let (rows, units) =
                of_kind(units, |unit| if let EmbeddingUnit::Image(unit) = unit { Some(unit) } else { None });
            let made = pictures.forward(&units, device, |inputs| {
                read_rows(normalize(model.embed_image(inputs, &mut Record::none()).embeds), device)
            })?;
            keep(rows, made);
        }
        if let Some((model, sounds)) = self.model.sounds() {
            let (rows, units) =
                of_kind(units, |unit| if let EmbeddingUnit::Sound(unit) = unit { Some(unit) } else { None });
            let made = sounds.forward(&units, device, |inputs| {
                read_rows(normalize(model.embed_audio(inputs, &mut Record::none()).embeds), device)
            })?;
            keep(rows, made);
        }
        Ok(vectors.into_iter().flatten().collect())
    }

    fn postprocess(&self, _: &Embeddable, units: Vec<(EmbeddingUnit, Vec<f32>)>) -> Result<Vec<f32>> {
        Ok(units.into_iter().next().map(|(_, vector)| vector).unwrap_or_default())
    }
}
