//! Folders of images: a sub-folder for each class. Only their paths are read here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tx_core::error::{Error, Result};

use super::dataset::RowReader;
use super::row::{Origin, Place, Row};

/// The extensions of images.
const EXTENSIONS: [&str; 12] = ["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"];
/// The most sub-folders, and the most images of one.
const MAX_CLASSES: usize = 100_000;
const MAX_IMAGES: usize = 10_000_000;

/// The names of the columns.
pub(super) const IMAGE: &str = "image";
pub(super) const LABEL: &str = "label";

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !is_hidden(path) && EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::malformed(path, "a name that is not UTF-8; rename it"))
}

/// The names of the classes: the sub-folders that hold images, sorted.
pub(super) fn classes(root: &Path) -> Result<Vec<String>> {
    let mut classes = Vec::new();
    for entry in fs::read_dir(root).map_err(Error::io(root))? {
        let folder = entry.map_err(Error::io(root))?.path();
        if is_hidden(&folder) || !folder.is_dir() {
            continue;
        }
        let mut entries = fs::read_dir(&folder).map_err(Error::io(&folder))?;
        if entries.any(|entry| entry.is_ok_and(|entry| is_image(&entry.path()))) {
            let name = folder.file_name().map(Path::new).unwrap_or(&folder);
            classes.push(text(name)?.to_owned());
        }
        if classes.len() > MAX_CLASSES {
            return Err(Error::malformed(root, format_args!("more than {MAX_CLASSES} sub-folders with images")));
        }
    }
    classes.sort();
    Ok(classes)
}

/// The images of one class, sorted.
fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if is_image(&path) {
            images.push(path);
        }
        if images.len() > MAX_IMAGES {
            return Err(Error::malformed(folder, format_args!("more than {MAX_IMAGES} images")));
        }
    }
    images.sort();
    Ok(images)
}

/// The images of a folder, class by class: rows of `image`, a path, and `label`, the name of the class.
#[derive(Debug)]
pub(super) struct ImageReader {
    root: Arc<Path>,
    classes: std::vec::IntoIter<String>,
    class: String,
    images: std::vec::IntoIter<PathBuf>,
    /// How many images were read.
    read: u64,
}

impl ImageReader {
    pub fn open(root: &Arc<Path>) -> Result<Self> {
        let classes = classes(root)?.into_iter();
        Ok(Self { root: root.clone(), classes, class: String::new(), images: Vec::new().into_iter(), read: 0 })
    }
}

impl RowReader for ImageReader {
    fn next(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some(path) = self.images.next() {
                let values = [(IMAGE, text(&path)?), (LABEL, self.class.as_str())];
                let values = values.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
                let values: Map<String, Value> = values.collect();
                self.read += 1;
                let place = Place { row: self.read, line: 0 };
                return Ok(Some(Row::new(Origin { file: self.root.clone(), place }, values)));
            }
            let Some(class) = self.classes.next() else { return Ok(None) };
            self.images = images(&self.root.join(&class))?.into_iter();
            self.class = class;
        }
    }

    fn position(&self) -> u64 {
        0
    }
}
