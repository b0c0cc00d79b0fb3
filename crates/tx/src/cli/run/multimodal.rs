//! Tasks on pictures and sounds, with texts beside them.

use std::path::PathBuf;

use tx_audio::features::FeatureExtractor;
use tx_core::error::Result;
use tx_core::pipeline::Pipeline;
use tx_core::registry::from_folder;
use tx_core::tokenizer::Tokenizer;
use tx_multimodal::models;
use tx_multimodal::pipelines::*;
use tx_vision::processor::ImageProcessor;

use super::Command;
use super::files::{Files, PICTURES, SOUNDS};
use super::table::{bar, score};

impl Command<'_> {
    pub(super) fn zero_shot_image_classification(&self) -> Result<()> {
        let files = self.args.files(PICTURES)?;
        let options = self.hypotheses(ZeroShotClassificationOptions::of_images(self.args.labels()?));
        let folder = self.common.folder(self.model)?;
        let table = tx::table(&[models::ZERO_SHOT_IMAGE_CLASSIFICATION], &folder)?;
        // The small files first: if they cannot be used, no weights have been read for nothing.
        let (tokenizer, processor) = (Tokenizer::from_folder(&folder)?, ImageProcessor::from_folder(&folder)?);
        let model = from_folder(table, &tx::classes(), &folder, &self.common.load_options()?)?;
        self.ranked(&ZeroShotImageClassificationPipeline::new(model, tokenizer, processor, options)?, &files)
    }

    pub(super) fn zero_shot_audio_classification(&self) -> Result<()> {
        let files = self.args.files(SOUNDS)?;
        let options = self.hypotheses(ZeroShotClassificationOptions::of_sounds(self.args.labels()?));
        let folder = self.common.folder(self.model)?;
        let table = tx::table(&[models::ZERO_SHOT_AUDIO_CLASSIFICATION], &folder)?;
        let (tokenizer, extractor) = (Tokenizer::from_folder(&folder)?, FeatureExtractor::from_folder(&folder)?);
        let model = from_folder(table, &tx::classes(), &folder, &self.common.load_options()?)?;
        self.ranked(&ZeroShotAudioClassificationPipeline::new(model, tokenizer, extractor, options)?, &files)
    }

    /// The options with `--hypothesis-template`.
    fn hypotheses(&self, options: ZeroShotClassificationOptions) -> ZeroShotClassificationOptions {
        match &self.args.hypothesis_template {
            Some(template) => ZeroShotClassificationOptions { hypothesis_template: template.clone(), ..options },
            None => options,
        }
    }

    fn ranked<P: Pipeline<Output = Vec<ScoredLabel>>>(&self, pipeline: &P, files: &Files) -> Result<()>
    where
        PathBuf: Into<P::Input>,
    {
        self.answer_files(pipeline, files, &["label", "score", ""], |table, file, labels| {
            for label in labels {
                table.row(file, [label.label.clone(), score(label.score), bar(label.score)]);
            }
            Ok(())
        })
    }
}
