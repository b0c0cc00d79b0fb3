//! CSV with a header (RFC 4180), as Python's readers take it. All values are texts.
//!
//! It is read here and not by a package, so that a quote that is never closed cannot make the rest of a file one row, and
//! every row knows its line, also behind blank lines and with the line ends of Windows.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tx_core::error::{Error, Result};

use super::bytes::{Bytes, MAX_ROW};
use super::dataset::RowReader;
use super::row::Row;

/// How many columns a file may have.
const MAX_COLUMNS: usize = 1 << 14;

/// Where the reader is in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before its first byte.
    Start,
    /// In one without quotes, or behind the closing quote.
    Plain,
    /// Between the quotes.
    Quoted,
    /// Behind a quote that closes the value, unless another follows.
    Closed,
}

/// The rows of a CSV file.
#[derive(Debug)]
pub(super) struct CsvReader {
    bytes: Bytes,
    delimiter: u8,
    columns: Vec<String>,
    /// The values of the row that was read, one after the other, and where each ends.
    buffer: Vec<u8>,
    ends: Vec<usize>,
}

impl CsvReader {
    pub fn open(path: &Arc<Path>, delimiter: u8) -> Result<Self> {
        let bytes = Bytes::open(path)?;
        let mut reader = Self { bytes, delimiter, columns: Vec::new(), buffer: Vec::new(), ends: Vec::new() };
        let Some(line) = reader.record()? else {
            return Err(Error::malformed(path, "no header: the file is empty"));
        };
        let name = |value| std::str::from_utf8(value).map_err(|_| reader.bytes.at(line).error("not UTF-8"));
        let columns: Vec<String> = reader.values().map(|value| Ok(name(value)?.to_owned())).collect::<Result<_>>()?;
        reader.columns = columns;
        let mut sorted: Vec<&String> = reader.columns.iter().collect();
        sorted.sort();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(reader.bytes.at(line).error(format_args!("two columns are named `{}`", pair[0])));
        }
        Ok(reader)
    }

    /// The values of the row that was read.
    fn values(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.buffer[start..end])
    }

    /// Takes a byte of a value into the buffer; the row began in `line`.
    fn take(&mut self, byte: u8, line: u64) -> Result<()> {
        if self.buffer.len() >= MAX_ROW {
            let reason = format_args!("a row of more than {MAX_ROW} bytes; is a quote not closed?");
            return Err(self.bytes.at(line).error(reason));
        }
        self.buffer.push(byte);
        self.bytes.pass(byte);
        Ok(())
    }

    /// Reads the next row that is not blank; the line that it begins in, or `None` at the end.
    fn record(&mut self) -> Result<Option<u64>> {
        self.buffer.clear();
        self.ends.clear();
        let (mut state, mut line) = (State::Start, self.bytes.line);
        loop {
            let Some(byte) = self.bytes.peek()? else {
                if state == State::Quoted {
                    return Err(self.bytes.at(line).error("a quote is not closed"));
                }
                let blank = state == State::Start && self.ends.is_empty();
                self.ends.push(self.buffer.len());
                return Ok((!blank).then_some(line));
            };
            match (state, byte) {
                (State::Start, b'"') => {
                    state = State::Quoted;
                    self.bytes.pass(byte);
                }
                (State::Quoted, b'"') => {
                    state = State::Closed;
                    self.bytes.pass(byte);
                }
                (State::Closed, b'"') => {
                    state = State::Quoted;
                    self.take(byte, line)?;
                }
                (State::Quoted, _) => self.take(byte, line)?,
                (_, b'\r' | b'\n') => {
                    self.bytes.pass(byte);
                    if byte == b'\r' {
                        match self.bytes.peek()? {
                            Some(b'\n') => self.bytes.pass(b'\n'),
                            _ => self.bytes.line += 1,
                        }
                    }
                    if state == State::Start && self.ends.is_empty() {
                        line = self.bytes.line;
                        continue;
                    }
                    self.ends.push(self.buffer.len());
                    return Ok(Some(line));
                }
                (_, byte) if byte == self.delimiter => {
                    state = State::Start;
                    self.bytes.pass(byte);
                    self.ends.push(self.buffer.len());
                    if self.ends.len() >= MAX_COLUMNS {
                        let reason = format_args!("more than {MAX_COLUMNS} columns");
                        return Err(self.bytes.at(line).error(reason));
                    }
                }
                _ => {
                    state = State::Plain;
                    self.take(byte, line)?;
                }
            }
        }
    }
}

impl RowReader for CsvReader {
    fn next(&mut self) -> Result<Option<Row>> {
        let Some(line) = self.record()? else { return Ok(None) };
        let origin = self.bytes.at(line);
        let (found, expected) = (self.ends.len(), self.columns.len());
        if found != expected {
            let plural = if found == 1 { "" } else { "s" };
            return Err(origin.error(format_args!("{found} column{plural}, expected {expected} as in the header")));
        }
        let mut values = Map::new();
        for (name, value) in self.columns.iter().zip(self.values()) {
            let text = std::str::from_utf8(value);
            let text = text.map_err(|_| origin.error(format_args!("column `{name}`: not UTF-8")))?;
            values.insert(name.clone(), Value::from(text));
        }
        Ok(Some(Row::untyped(origin, values)))
    }

    fn position(&self) -> u64 {
        self.bytes.position
    }
}
