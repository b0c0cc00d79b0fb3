//! Files that are read line by line: JSON lines and plain text.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tx_core::config::kind;
use tx_core::error::{Error, Result};

use super::bytes::{MAX_ROW, open_text};
use super::dataset::{RowReader, SampleBy};
use super::row::{Origin, Place, Row};

/// The column of plain text.
const TEXT: &str = "text";

/// The JSON parser's reason without its place, which counts within the row.
pub(super) fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    format!("not valid JSON: {reason}")
}

/// The lines of a file, each of bounded length.
#[derive(Debug)]
struct Lines {
    path: Arc<Path>,
    reader: BufReader<File>,
    /// The number of the line in the buffer.
    number: u64,
    /// How many bytes were read.
    position: u64,
    buffer: Vec<u8>,
}

impl Lines {
    fn open(path: &Arc<Path>) -> Result<Self> {
        Ok(Self { path: path.clone(), reader: open_text(path)?, number: 0, position: 0, buffer: Vec::new() })
    }

    fn origin(&self) -> Origin {
        Origin { file: self.path.clone(), place: Place { row: 0, line: self.number } }
    }

    /// The next line with its end; false if there is none.
    fn advance(&mut self) -> Result<bool> {
        self.buffer.clear();
        let read = self.reader.by_ref().take(MAX_ROW as u64).read_until(b'\n', &mut self.buffer);
        let read = read.map_err(Error::io(&self.path))?;
        self.number += 1;
        self.position += read as u64;
        if read == MAX_ROW && self.buffer.last() != Some(&b'\n') {
            return Err(self.origin().error(format_args!("longer than {MAX_ROW} bytes")));
        }
        Ok(read > 0)
    }

    fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.buffer)
            .map_err(|e| self.origin().error(format_args!("not UTF-8 at byte {} of the line", e.valid_up_to() + 1)))
    }
}

/// JSON lines: an object in each line that is not blank.
#[derive(Debug)]
pub(super) struct JsonLinesReader {
    lines: Lines,
}

impl JsonLinesReader {
    pub fn open(path: &Arc<Path>) -> Result<Self> {
        Ok(Self { lines: Lines::open(path)? })
    }
}

impl RowReader for JsonLinesReader {
    fn next(&mut self) -> Result<Option<Row>> {
        while self.lines.advance()? {
            let text = self.lines.text()?.trim();
            if text.is_empty() {
                continue;
            }
            let origin = self.lines.origin();
            return match serde_json::from_str(text) {
                Ok(Value::Object(values)) => Ok(Some(Row::new(origin, values))),
                Ok(other) => Err(origin.error(format_args!("found {}, expected a JSON object", kind(&other)))),
                Err(e) => Err(origin.error(format_args!("{} at character {}", json_reason(&e), e.column()))),
            };
        }
        Ok(None)
    }

    fn position(&self) -> u64 {
        self.lines.position
    }
}

/// Plain text: rows of one column, `text`.
#[derive(Debug)]
pub(super) struct TextReader {
    lines: Lines,
    sample_by: SampleBy,
    keep_linebreaks: bool,
    /// Whether the one document is read.
    finished: bool,
}

impl TextReader {
    pub fn open(path: &Arc<Path>, sample_by: SampleBy, keep_linebreaks: bool) -> Result<Self> {
        Ok(Self { lines: Lines::open(path)?, sample_by, keep_linebreaks, finished: false })
    }

    fn row(origin: Origin, text: String) -> Row {
        Row::new(origin, Map::from_iter([(TEXT.to_owned(), Value::String(text))]))
    }

    fn line(&mut self) -> Result<Option<Row>> {
        if !self.lines.advance()? {
            return Ok(None);
        }
        let mut text = unified(self.lines.text()?).to_owned();
        if self.keep_linebreaks && self.lines.buffer.ends_with(b"\n") {
            text.push('\n');
        }
        Ok(Some(Self::row(self.lines.origin(), text)))
    }

    /// Lines up to a blank one.
    fn paragraph(&mut self) -> Result<Option<Row>> {
        let (mut text, mut origin) = (String::new(), None);
        while self.lines.advance()? {
            let line = unified(self.lines.text()?);
            if line.is_empty() && origin.is_some() {
                break;
            }
            if !line.is_empty() {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(line);
                let origin = origin.get_or_insert_with(|| self.lines.origin());
                if text.len() > MAX_ROW {
                    return Err(origin.error(format_args!("a paragraph of more than {MAX_ROW} bytes")));
                }
            }
        }
        Ok(origin.map(|origin| Self::row(origin, text)))
    }

    fn document(&mut self) -> Result<Option<Row>> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(None);
        }
        let origin = Origin { file: self.lines.path.clone(), place: Place::default() };
        let mut text = String::new();
        while self.lines.advance()? {
            text.push_str(unified(self.lines.text()?));
            if self.lines.buffer.ends_with(b"\n") {
                text.push('\n');
            }
            if text.len() > MAX_ROW {
                let reason = format_args!("more than {MAX_ROW} bytes, which is too long for one row; use its lines");
                return Err(origin.error(reason));
            }
        }
        Ok(Some(Self::row(origin, text)))
    }
}

impl RowReader for TextReader {
    fn next(&mut self) -> Result<Option<Row>> {
        match self.sample_by {
            SampleBy::Line => self.line(),
            SampleBy::Paragraph => self.paragraph(),
            SampleBy::Document => self.document(),
        }
    }

    fn position(&self) -> u64 {
        self.lines.position
    }
}

/// A line without its end, whichever system wrote it.
fn unified(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}
