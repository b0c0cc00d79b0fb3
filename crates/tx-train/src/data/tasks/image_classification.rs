//! Image classification: the file of an image, and its class. The image itself is read when its turn has come.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tx_core::error::Result;

use crate::data::images::{IMAGE, LABEL};
use crate::data::row::shorten;
use crate::data::{ClassLabels, Columns, Example, Labels, Preparation, Row};

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageClassificationOptions {
    /// The column of the image's path, which counts from the folder of the file that names it.
    pub image_column: String,
    /// The column of the class.
    pub label_column: String,
}

impl Default for ImageClassificationOptions {
    fn default() -> Self {
        Self { image_column: IMAGE.into(), label_column: LABEL.into() }
    }
}

/// Makes examples of images.
#[derive(Debug)]
pub struct ImageClassification {
    options: ImageClassificationOptions,
    classes: ClassLabels,
}

impl ImageClassification {
    /// Examples for a model with such classes.
    pub fn new(options: ImageClassificationOptions, classes: ClassLabels) -> Self {
        Self { options, classes }
    }
}

impl Preparation for ImageClassification {
    fn columns(&self) -> Columns {
        Columns::new(&[&self.options.image_column, &self.options.label_column], &[])
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let ImageClassificationOptions { image_column, label_column } = &self.options;
        let given = Path::new(row.text(image_column)?);
        // A folder of images gives paths that begin with it; a file gives paths that count from its own folder.
        let file: &Path = &row.origin().file;
        let path = match file.parent() {
            Some(folder) if !given.starts_with(file) => folder.join(given),
            _ => given.to_path_buf(),
        };
        if !path.is_file() {
            let reason = format_args!("there is no file `{}`", shorten(&path.to_string_lossy()));
            return Err(row.error(image_column, reason));
        }
        let class = self.classes.read(row, label_column, row.get(label_column)?)?;
        let (origin, labels) = (row.origin().clone(), Labels::Class(class as i64));
        Ok(vec![Example { origin, texts: Vec::new(), labels, image: Some(path), reference: None }])
    }
}
