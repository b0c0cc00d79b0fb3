//! Tasks on pictures.

use std::path::{Path, PathBuf};

use clap::Args;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::registry::{Entry, Task, from_folder};
use tx_core::task::ImageLimits;
use tx_multimodal::models as multimodal;
use tx_text::pipelines::TopK;
use tx_vision::draw::{draw_objects, draw_segments};
use tx_vision::image::Image;
use tx_vision::models;
use tx_vision::pipelines::*;
use tx_vision::processor::ImageProcessor;

use super::files::{Files, PICTURES};
use super::table::{bar, components, score};
use super::{Command, RunArgs};

/// The rows of features that a table shows.
const MAX_ROWS: usize = 16;

/// The options of tasks on pictures.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// object-detection, image-segmentation: keeps what is more probable than this [default: 0.5, 0.9]
    #[arg(long, value_name = "P")]
    pub threshold: Option<f64>,
    /// image-segmentation: panoptic, instance or semantic [default: the first of them that the model can do]
    #[arg(long, value_name = "SUBTASK")]
    pub subtask: Option<Subtask>,
    /// image-segmentation: a pixel belongs to an object from this probability on [default: 0.5]
    #[arg(long, value_name = "P")]
    pub mask_threshold: Option<f64>,
    /// image-segmentation: the part of an object that no other covers must be larger than this [default: 0.5]
    #[arg(long, value_name = "PART")]
    pub overlap_mask_area_threshold: Option<f64>,
    /// image-feature-extraction: gives what the pooler makes of the features
    #[arg(long)]
    pub pool: bool,
}

impl RunArgs {
    /// `--output` for pictures: a PNG for each file.
    fn drawings(&self, files: &Files) -> Result<Option<Vec<PathBuf>>> {
        let Some(output) = &self.output else { return Ok(None) };
        let png = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        if !files.list && !output.is_dir() && !png(output) {
            let found = format_args!("`{}`", output.display());
            return Err(Error::input("--output", found, "a folder, or a file whose name ends in .png"));
        }
        files.targets(output, "png").map(Some)
    }
}

impl Command<'_> {
    /// The model and its image processor.
    fn processed<T>(&self, tables: &[&'static [Entry<T>]]) -> Result<ProcessedModel<T>>
    where
        T: ?Sized + Task<Limits = ImageLimits> + 'static,
    {
        let folder = self.common.folder(self.model)?;
        let table = tx::table(tables, &folder)?;
        // The processor first: if it cannot be used, no weights have been read for nothing.
        let processor = ImageProcessor::from_folder(&folder)?;
        let model = from_folder(table, &tx::classes(), &folder, &self.common.load_options()?)?;
        Ok(ProcessedModel { model, processor })
    }

    pub(super) fn image_classification(&self) -> Result<()> {
        let files = self.args.files(PICTURES)?;
        let options = ImageClassificationOptions {
            top_k: match self.args.top_k {
                None => ImageClassificationOptions::default().top_k,
                Some(TopK::First(count)) => count,
                Some(TopK::All | TopK::Best) => usize::MAX,
            },
            function_to_apply: self.args.function_to_apply,
        };
        let model = self.processed(&[models::IMAGE_CLASSIFICATION, multimodal::IMAGE_CLASSIFICATION])?;
        let pipeline = ImageClassificationPipeline::new(model, options)?;
        self.answer_files(&pipeline, &files, &["label", "score", ""], |table, file, labels| {
            for label in labels {
                table.row(file, [label.label.clone(), score(label.score), bar(label.score)]);
            }
            Ok(())
        })
    }

    pub(super) fn image_feature_extraction(&self) -> Result<()> {
        let files = self.args.files(PICTURES)?;
        let options = ImageFeatureExtractionOptions { pool: self.args.image.pool };
        let model = self.processed(&[models::VISION_MODEL, multimodal::VISION_MODEL])?;
        let pipeline = ImageFeatureExtractionPipeline::new(model, options);
        self.answer_files(&pipeline, &files, &["", "shape", "features"], |table, file, features| {
            let shape: Vec<String> = features.shape().iter().map(usize::to_string).collect();
            let row = features.shape().last().copied().unwrap_or(0).max(1);
            for (number, row) in features.values().chunks(row).enumerate().take(MAX_ROWS + 1) {
                let shape = if number == 0 { shape.join(" x ") } else { String::new() };
                let cells = if number < MAX_ROWS {
                    [number.to_string(), shape, components(row)]
                } else {
                    ["…".to_owned(), shape, String::new()]
                };
                table.row(file, cells);
            }
            Ok(())
        })
    }

    pub(super) fn object_detection(&self) -> Result<()> {
        let files = self.args.files(PICTURES)?;
        let drawings = self.args.drawings(&files)?;
        let threshold = self.args.image.threshold.unwrap_or(ObjectDetectionOptions::default().threshold);
        let model = self.processed(&[models::OBJECT_DETECTION])?;
        let pipeline = ObjectDetectionPipeline::new(model, ObjectDetectionOptions { threshold })?;
        let header = ["label", "score", "", "xmin", "ymin", "xmax", "ymax"];
        self.answer_files(&pipeline, &files, &header, |table, file, objects| {
            for DetectedObject { score: probability, label, bounding_box } in objects {
                let BoundingBox { xmin, ymin, xmax, ymax } = bounding_box;
                let [xmin, ymin, xmax, ymax] = [xmin, ymin, xmax, ymax].map(ToString::to_string);
                table.row(file, [label.clone(), score(*probability), bar(*probability), xmin, ymin, xmax, ymax]);
            }
            match &drawings {
                Some(targets) => draw_objects(&Image::open(&files.paths[file])?, objects)?.save_png(&targets[file]),
                None => Ok(()),
            }
        })
    }

    pub(super) fn image_segmentation(&self) -> Result<()> {
        let files = self.args.files(PICTURES)?;
        let drawings = self.args.drawings(&files)?;
        let (args, default) = (&self.args.image, ImageSegmentationOptions::default());
        let options = ImageSegmentationOptions {
            subtask: args.subtask,
            threshold: args.threshold.unwrap_or(default.threshold),
            mask_threshold: args.mask_threshold.unwrap_or(default.mask_threshold),
            overlap_mask_area_threshold: args
                .overlap_mask_area_threshold
                .unwrap_or(default.overlap_mask_area_threshold),
        };
        let config = Config::from_folder(&self.common.folder(self.model)?)?;
        let model_type = config.model_type()?;
        let model: SegmentationModel = match models::IMAGE_SEGMENTATION.iter().any(|e| e.model_type == model_type) {
            true => self.processed(&[models::IMAGE_SEGMENTATION])?.into(),
            false => self.processed(&[models::SEMANTIC_SEGMENTATION])?.into(),
        };
        let pipeline = ImageSegmentationPipeline::new(model, options)?;
        self.answer_files(&pipeline, &files, &["label", "score", "pixels", "part", ""], |table, file, segments| {
            for Segment { score: probability, label, mask } in segments {
                let area = mask.pixels().filter(|&inside| inside).count();
                let part = area as f32 / (mask.width() * mask.height()).max(1) as f32;
                let probability = probability.map(|probability| score(probability as f32)).unwrap_or_default();
                table.row(
                    file,
                    [label.clone(), probability, area.to_string(), format!("{:.1} %", 100.0 * part), bar(part)],
                );
            }
            match &drawings {
                Some(targets) => draw_segments(&Image::open(&files.paths[file])?, segments)?.save_png(&targets[file]),
                None => Ok(()),
            }
        })
    }
}
