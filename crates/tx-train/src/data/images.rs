//! Folders of images: a sub-folder for each class. Only their paths are read here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tx_core::error::{Error, Result};

use super::dataset::RowReader;
use super::random::{Permutation, Random};
use super::row::{Origin, Place, Row};

/// The extensions of images.
const EXTENSIONS: [&str; 12] = ["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"];
/// The stream of random numbers that is for the order of images.
const STREAM: u64 = 0x696d_6167_6573;
/// The most sub-folders, and the most images of one, or of all where they are mixed.
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

/// The images of a folder, class by class or mixed: rows of `image`, a path, and `label`, the name of the class.
#[derive(Debug)]
pub(super) struct ImageReader {
    root: Arc<Path>,
    classes: Vec<String>,
    /// How many classes, and how many of their images, were found.
    found: (usize, u64),
    images: std::vec::IntoIter<Found>,
}

/// An image.
#[derive(Debug)]
struct Found {
    /// Its number, from 1, class by class.
    row: u64,
    class: usize,
    path: PathBuf,
}

impl ImageReader {
    /// The images of a folder; mixed in an order that the seed chooses, if there is one.
    pub fn open(root: &Arc<Path>, shuffle: Option<u64>) -> Result<Self> {
        let (classes, images) = (classes(root)?, Vec::new().into_iter());
        let mut reader = Self { root: root.clone(), classes, found: (0, 0), images };
        if let Some(seed) = shuffle {
            let mut all = Vec::new();
            while let Some(images) = reader.class()? {
                all.extend(images);
                if all.len() > MAX_IMAGES {
                    return Err(Error::malformed(root, format_args!("more than {MAX_IMAGES} images")));
                }
            }
            let order = Permutation::new(all.len() as u64, &mut Random::new(&[STREAM, seed]));
            all.sort_unstable_by_key(|image| order.place(image.row - 1));
            reader.images = all.into_iter();
        }
        Ok(reader)
    }

    /// The images of the next class.
    fn class(&mut self) -> Result<Option<Vec<Found>>> {
        let (class, before) = self.found;
        let Some(name) = self.classes.get(class) else { return Ok(None) };
        let images = images(&self.root.join(name))?;
        self.found = (class + 1, before + images.len() as u64);
        Ok(Some((before + 1..).zip(images).map(|(row, path)| Found { row, class, path }).collect()))
    }
}

impl RowReader for ImageReader {
    fn next(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some(Found { row, class, path }) = self.images.next() {
                let values = [(IMAGE, text(&path)?), (LABEL, self.classes[class].as_str())];
                let values = values.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
                let values: Map<String, Value> = values.collect();
                let place = Place { row, line: 0 };
                return Ok(Some(Row::new(Origin { file: self.root.clone(), place }, values)));
            }
            let Some(images) = self.class()? else { return Ok(None) };
            self.images = images.into_iter();
        }
    }

    fn position(&self) -> u64 {
        0
    }
}
