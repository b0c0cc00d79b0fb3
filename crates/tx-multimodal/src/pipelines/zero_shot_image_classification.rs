//! `zero-shot-image-classification`: a picture to labels of the user's choice.
//!
//! Reference: transformers 5.23.0, `pipelines/zero_shot_image_classification.py`.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;
use tx_core::error::Result;
use tx_core::pipeline::{FunctionToApply, Pipeline, ScoredLabel};
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{ImageTextModel, Record, normalize};
use tx_core::tokenizer::Tokenizer;
use tx_vision::pipelines::ImageSource;
use tx_vision::processor::{ImageProcessor, Processed};

use super::pictures::Pictures;
use super::read_rows;
use super::texts::Texts;
use super::zero_shot::ZeroShotClassificationOptions;
use crate::models;

/// A picture to labels of the user's choice, best first.
#[derive(Debug, Clone)]
pub struct ZeroShotImageClassificationPipeline {
    parts: Arc<Parts>,
    /// `[labels, dim]`
    text_embeds: Tensor<2>,
    options: ZeroShotClassificationOptions,
}

#[derive(Debug)]
struct Parts {
    model: Auto<dyn ImageTextModel>,
    texts: Texts,
    pictures: Pictures,
}

impl ZeroShotImageClassificationPipeline {
    /// A pipeline of the model in a folder.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`], [`ImageProcessor::from_folder`], [`tx_core::registry::from_folder`] and
    /// [`ZeroShotImageClassificationPipeline::new`].
    pub fn from_folder(folder: &Path, load: &LoadOptions, options: ZeroShotClassificationOptions) -> Result<Self> {
        // The small files first: if they cannot be used, no weights have been read for nothing.
        let (tokenizer, processor) = (Tokenizer::from_folder(folder)?, ImageProcessor::from_folder(folder)?);
        let model = from_folder(models::ZERO_SHOT_IMAGE_CLASSIFICATION, &models::classes(), folder, load)?;
        Self::new(model, tokenizer, processor, options)
    }

    /// A pipeline of a model of pictures and texts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](tx_core::Error::Tokenizer) if the tokenizer is not the model's;
    /// [`Error::Input`](tx_core::Error::Input) if there are no labels, the template has no place for one, or a label is
    /// too long.
    pub fn new(
        model: Auto<dyn ImageTextModel>,
        tokenizer: Tokenizer,
        processor: ImageProcessor,
        options: ZeroShotClassificationOptions,
    ) -> Result<Self> {
        let texts = Texts::new(tokenizer, model.limits.text, model.is_pairwise())?;
        let pictures = Pictures { processor, limits: model.limits.image };
        let text_embeds = options.embed(&*model.model, &texts, &model.device)?;
        Ok(Self { parts: Arc::new(Parts { model, texts, pictures }), text_embeds, options })
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

impl Pipeline for ZeroShotImageClassificationPipeline {
    type Input = ImageSource;
    type Unit = Processed;
    type Scores = Vec<f32>;
    type Output = Vec<ScoredLabel>;

    fn preprocess(&self, source: &ImageSource) -> Result<Vec<Processed>> {
        Ok(vec![self.parts.pictures.process(source)?])
    }

    fn length(&self, unit: &Processed) -> usize {
        self.parts.pictures.cost(unit)
    }

    fn forward(&self, units: &[&Processed]) -> Result<Vec<Vec<f32>>> {
        let Parts { model, pictures, .. } = &*self.parts;
        pictures.forward(units, &model.device, |inputs| {
            let embeds = normalize(model.embed_image(inputs, &mut Record::none()).embeds);
            read_rows(model.logits_per_image(embeds, self.text_embeds.clone()), &model.device)
        })
    }

    fn postprocess(&self, _: &ImageSource, units: Vec<(Processed, Vec<f32>)>) -> Result<Vec<ScoredLabel>> {
        let logits = units.into_iter().next().map(|(_, logits)| logits).unwrap_or_default();
        let pairwise = self.parts.model.is_pairwise();
        let function = if pairwise { FunctionToApply::Sigmoid } else { FunctionToApply::Softmax };
        Ok(self.options.rank(function.scores(logits)))
    }
}
