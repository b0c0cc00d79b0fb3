//! Data sets: files of one format, read row by row.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tx_core::error::{Error, Result};

use super::bytes::open_text;
use super::csv::CsvReader;
use super::images::{ImageReader, classes};
use super::json::JsonReader;
use super::lines::{JsonLinesReader, TextReader};
use super::parquet::ParquetReader;
use super::row::Row;

/// The most files of a data set.
const MAX_FILES: usize = 100_000;
/// The key of the list of rows in a JSON file that is an object.
const FIELD: &str = "data";
/// Files of the `datasets` package that hold no rows.
const NOT_DATA: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// What files of rows look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object per line: `jsonl`, `ndjson`.
    JsonLines,
    /// A list of JSON objects, an object with such a list under a key, or objects one after the other: `json`.
    Json,
    /// Values between commas, or tabs, with a header: `csv`, `tsv`.
    Csv,
    /// Apache Parquet: `parquet`.
    Parquet,
    /// Plain text: `txt`.
    Text,
    /// A folder with a sub-folder of images for each class.
    ImageFolder,
}

/// What is a row of plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleBy {
    /// A line, also a blank one.
    #[default]
    Line,
    /// Lines between blank ones.
    Paragraph,
    /// A file.
    Document,
}

/// How a data set is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetOptions {
    /// The format; by the names of the files, or what is in them, if `None`.
    pub format: Option<Format>,
    /// What is a row of plain text.
    pub sample_by: SampleBy,
    /// Whether lines of plain text keep their ends.
    pub keep_linebreaks: bool,
    /// What stands between the values of CSV; a tab for `tsv`, a comma otherwise, if `None`.
    pub delimiter: Option<char>,
    /// The key of the list of rows in a JSON file that is an object; `data` if `None`.
    pub field: Option<String>,
    /// Only so many rows are read: the first ones, and of a folder of images some of all classes.
    pub max_samples: Option<u64>,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            format: None,
            sample_by: SampleBy::Line,
            keep_linebreaks: true,
            delimiter: None,
            field: None,
            max_samples: None,
        }
    }
}

/// The columns that somebody needs: formats that can leave the others out do so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// Those that must be there; all columns are wanted if none is named.
    pub required: Vec<String>,
    /// Those that are taken where they are.
    pub optional: Vec<String>,
}

impl Columns {
    /// Columns by name.
    pub fn new(required: &[&str], optional: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self { required: owned(required), optional: owned(optional) }
    }

    /// Whether a column is one of them.
    pub(super) fn contains(&self, column: &str) -> bool {
        self.required.iter().chain(&self.optional).any(|name| name == column)
    }
}

/// The rows of one file, one after the other.
pub(super) trait RowReader {
    /// The next row; `None` after the last.
    fn next(&mut self) -> Result<Option<Row>>;

    /// How many bytes of the file were read, about.
    fn position(&self) -> u64;
}

/// Files of one format, in a fixed order.
#[derive(Debug, Clone)]
pub struct Dataset {
    format: Format,
    files: Vec<Arc<Path>>,
    options: DatasetOptions,
    /// Bytes of all files; 0 for folders of images.
    size: u64,
    /// What the order of a folder of images depends on; class by class if `None`.
    shuffle: Option<u64>,
}

impl Dataset {
    /// A file, the files that a pattern such as `data/train-*.parquet` matches, or those of a folder. A folder that has
    /// no files of rows, but sub-folders of images, is one of these.
    ///
    /// # Errors
    /// [`Error::Io`] for what is not there or cannot be read; [`Error::Malformed`] for a folder without files that could be
    /// meant, or with different ones, and for a file of no known format; [`Error::Input`] for options that cannot be.
    pub fn open(path: &str, options: &DatasetOptions) -> Result<Self> {
        if let Some(delimiter) = options.delimiter.filter(|c| !c.is_ascii() || matches!(c, '"' | '\r' | '\n')) {
            let found = format_args!("`{}`", delimiter.escape_debug());
            return Err(Error::input("delimiter", found, "one ASCII character that is no quote or line end"));
        }
        let given = Path::new(path);
        let files = if !given.exists() && path.contains(['*', '?', '[']) {
            matching(path)?
        } else if given.is_dir() {
            let files = in_folder(given, options.format)?;
            if options.format == Some(Format::ImageFolder) || (files.is_empty() && options.format.is_none()) {
                return Self::images(given, options);
            }
            files
        } else {
            vec![given.to_path_buf()]
        };
        if files.is_empty() {
            return Err(Error::malformed(given, "no files of this format here"));
        }
        let mut size = 0;
        for file in &files {
            size += fs::metadata(file).map_err(Error::io(file))?.len();
        }
        let format = match options.format {
            Some(Format::ImageFolder) => return Err(Error::malformed(given, "not a folder, expected one of images")),
            Some(format) => format,
            None => common_format(given, &files)?,
        };
        let files = files.into_iter().map(Arc::from).collect();
        Ok(Self { format, files, options: options.clone(), size, shuffle: None })
    }

    /// A folder of images.
    fn images(folder: &Path, options: &DatasetOptions) -> Result<Self> {
        if classes(folder)?.is_empty() {
            let reason = "no files of rows (.jsonl, .json, .csv, .tsv, .parquet, .txt) and no sub-folders with images";
            return Err(Error::malformed(folder, reason));
        }
        let shuffle = options.max_samples.map(|_| 0);
        let options = options.clone();
        Ok(Self { format: Format::ImageFolder, files: vec![folder.into()], options, size: 0, shuffle })
    }

    /// The same with the images of a folder in a mixed order, so that the first ones are of all classes. Other formats
    /// stay in their order.
    #[must_use]
    pub fn shuffled(self, seed: u64) -> Self {
        Self { shuffle: Some(seed), ..self }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The files, in the order in which they are read; the folder for images.
    pub fn files(&self) -> &[Arc<Path>] {
        &self.files
    }

    /// The size of all files, in bytes; 0 for images, of which only names are read.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The names of the classes of a folder of images, sorted; `None` for other formats.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Malformed`].
    pub fn classes(&self) -> Result<Option<Vec<String>>> {
        match (self.format, self.files.first()) {
            (Format::ImageFolder, Some(folder)) => classes(folder).map(Some),
            _ => Ok(None),
        }
    }

    /// The rows, in the order of the files.
    pub fn rows(&self, columns: &Columns) -> Rows<'_> {
        Rows {
            dataset: self,
            columns: columns.clone(),
            file: 0,
            reader: None,
            finished: 0,
            left: self.options.max_samples.unwrap_or(u64::MAX),
        }
    }

    fn reader(&self, path: &Arc<Path>, columns: &Columns) -> Result<Box<dyn RowReader>> {
        let options = &self.options;
        Ok(match self.format {
            Format::JsonLines => Box::new(JsonLinesReader::open(path)?),
            Format::Json => Box::new(JsonReader::open(path, options.field.as_deref().unwrap_or(FIELD))?),
            Format::Csv => {
                let tabs = extension(path).eq_ignore_ascii_case("tsv");
                let delimiter = options.delimiter.unwrap_or(if tabs { '\t' } else { ',' });
                Box::new(CsvReader::open(path, delimiter as u8)?)
            }
            Format::Parquet => Box::new(ParquetReader::open(path, columns)?),
            Format::Text => Box::new(TextReader::open(path, options.sample_by, options.keep_linebreaks)?),
            Format::ImageFolder => Box::new(ImageReader::open(path, self.shuffle)?),
        })
    }
}

/// The rows of a data set. After an error there are no more.
pub struct Rows<'d> {
    dataset: &'d Dataset,
    columns: Columns,
    /// The number of the file that comes next, and the reader of the one before it.
    file: usize,
    reader: Option<Box<dyn RowReader>>,
    /// The size of the files that are read, in bytes.
    finished: u64,
    left: u64,
}

impl Rows<'_> {
    /// How many bytes were read, about: see [`Dataset::size`].
    pub fn position(&self) -> u64 {
        self.finished + self.reader.as_ref().map_or(0, |reader| reader.position())
    }

    fn advance(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some(reader) = &mut self.reader {
                if let Some(row) = reader.next()? {
                    return Ok(Some(row));
                }
                self.finished += reader.position();
                self.reader = None;
            }
            let Some(path) = self.dataset.files.get(self.file) else { return Ok(None) };
            self.reader = Some(self.dataset.reader(path, &self.columns)?);
            self.file += 1;
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let row = self.advance().transpose();
        match row {
            Some(Ok(_)) => self.left -= 1,
            _ => self.left = 0,
        }
        row
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// The format that a file's name promises.
fn by_extension(path: &Path) -> Option<Format> {
    Some(match extension(path).to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => Format::JsonLines,
        "json" => Format::Json,
        "csv" | "tsv" => Format::Csv,
        "parquet" | "pq" => Format::Parquet,
        "txt" | "text" => Format::Text,
        _ => return None,
    })
}

/// The format that a file begins like.
fn by_content(path: &Path) -> Result<Format> {
    let mut head = Vec::new();
    open_text(path)?.take(1 << 12).read_to_end(&mut head).map_err(Error::io(path))?;
    match head.trim_ascii_start() {
        bytes if bytes.starts_with(b"PAR1") => Ok(Format::Parquet),
        [b'{', ..] | [b'[', ..] => Ok(Format::Json),
        _ => Err(Error::malformed(
            path,
            "neither its name nor its content says what it is; set `format` to jsonlines, json, csv, parquet or text",
        )),
    }
}

/// The one format that all files have.
fn common_format(given: &Path, files: &[PathBuf]) -> Result<Format> {
    let mut common: Option<(&Path, Format)> = None;
    for file in files.iter().map(PathBuf::as_path) {
        let format = match by_extension(file) {
            Some(format) => format,
            None => by_content(file)?,
        };
        match common {
            Some((first, other)) if other != format => {
                let names = [first, file].map(|path| path.file_name().unwrap_or_default().display().to_string());
                let [first, second] = names;
                let reason = format_args!("`{first}` and `{second}` have different formats; name those that are meant");
                return Err(Error::malformed(given, reason));
            }
            _ => common = Some((file, format)),
        }
    }
    common.map(|(_, format)| format).ok_or_else(|| Error::malformed(given, "no files of rows"))
}

/// The files that a pattern matches, sorted.
fn matching(pattern: &str) -> Result<Vec<PathBuf>> {
    let paths =
        glob::glob(pattern).map_err(|e| Error::input("pattern", format_args!("`{pattern}` ({e})"), "a valid one"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|e| Error::Io { path: e.path().to_path_buf(), source: e.into() })?;
        if path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::malformed(pattern, format_args!("matches more than {MAX_FILES} files")));
        }
    }
    if files.is_empty() {
        return Err(Error::malformed(pattern, "no file matches"));
    }
    files.sort();
    Ok(files)
}

/// The files of rows in a folder, sorted; only those of a format if one is given.
fn in_folder(folder: &Path, format: Option<Format>) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') || NOT_DATA.contains(&name.as_str());
        let fits = by_extension(&path).is_some_and(|found| format.is_none_or(|format| format == found));
        if fits && !hidden && path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::malformed(folder, format_args!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
