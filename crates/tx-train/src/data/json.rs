//! JSON files that are not lines: a list of objects, an object that holds such a list under a key (as SQuAD's `data`),
//! or objects one after the other. They are read object by object, so that a file may be larger than the memory.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tx_core::config::kind;
use tx_core::error::Result;

use super::bytes::{Bytes, MAX_ROW};
use super::dataset::RowReader;
use super::lines::json_reason;
use super::row::{Origin, Place, Row};

/// Where the reader is between two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Outside of everything.
    Top,
    /// In a list of rows, which may be a part of an object.
    List { in_object: bool, first: bool },
}

/// The rows of a JSON file.
#[derive(Debug)]
pub(super) struct JsonReader {
    bytes: Bytes,
    /// The key whose list holds the rows, where the file is an object.
    field: String,
    state: State,
    /// How many rows were read.
    rows: u64,
    /// The text of the value that is being read.
    buffer: Vec<u8>,
    /// Rows that one value gave.
    ready: VecDeque<Row>,
}

impl JsonReader {
    pub fn open(path: &Arc<Path>, field: &str) -> Result<Self> {
        Ok(Self {
            bytes: Bytes::open(path)?,
            field: field.to_owned(),
            state: State::Top,
            rows: 0,
            buffer: Vec::new(),
            ready: VecDeque::new(),
        })
    }

    /// Takes a byte into the buffer.
    fn keep(&mut self, byte: u8) -> Result<()> {
        if self.buffer.len() >= MAX_ROW {
            return Err(self.bytes.error(format_args!("a row of more than {MAX_ROW} bytes; is a quote not closed?")));
        }
        self.buffer.push(byte);
        self.bytes.pass(byte);
        Ok(())
    }

    /// Goes to the next byte that is no white space.
    fn space(&mut self) -> Result<Option<u8>> {
        self.skip(false)
    }

    /// Goes to the next byte that is no white space, and takes that into the buffer if it is part of a row: the parser
    /// counts its lines.
    fn skip(&mut self, of_row: bool) -> Result<Option<u8>> {
        loop {
            match self.bytes.peek()? {
                Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) if of_row => self.keep(byte)?,
                Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) => self.bytes.pass(byte),
                other => return Ok(other),
            }
        }
    }

    /// Takes one byte that must come next.
    fn expect(&mut self, expected: u8, or: &str) -> Result<()> {
        match self.space()? {
            Some(byte) if byte == expected => {
                self.bytes.pass(byte);
                Ok(())
            }
            found => Err(self.bytes.unexpected(found, &format!("`{}`{or}", char::from(expected)))),
        }
    }

    /// Takes the rest of a value into the buffer: all of it, or what is left of one in which `depth` brackets are open.
    fn value(&mut self, mut depth: usize) -> Result<()> {
        let (mut in_string, mut escaped) = (false, false);
        loop {
            let Some(byte) = self.bytes.peek()? else {
                if depth > 0 || in_string {
                    return Err(self.bytes.unexpected(None, "the rest of a value"));
                }
                return Ok(());
            };
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
                self.keep(byte)?;
                if !in_string && depth == 0 {
                    return Ok(());
                }
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => return Ok(()),
                b'}' | b']' => {
                    self.keep(byte)?;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                    continue;
                }
                // A number or a word ends before these.
                b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return Ok(()),
                _ => {}
            }
            self.keep(byte)?;
        }
    }

    /// The value that comes next as a row.
    fn row(&mut self) -> Result<()> {
        self.buffer.clear();
        let line = self.bytes.line;
        self.value(0)?;
        self.parse(line)
    }

    /// Parses the buffer, which began in `line`.
    fn parse(&mut self, line: u64) -> Result<()> {
        self.rows += 1;
        let origin = Origin { file: self.bytes.path.clone(), place: Place { row: self.rows, line } };
        if self.buffer.is_empty() {
            let found = self.bytes.peek()?;
            return Err(self.bytes.unexpected(found, "a JSON object"));
        }
        match serde_json::from_slice(&self.buffer) {
            Ok(Value::Object(values)) => self.ready.extend(expand(origin, values)),
            Ok(other) => return Err(origin.error(format_args!("found {}, expected a JSON object", kind(&other)))),
            Err(e) => {
                let place = Place { line: line + (e.line() as u64).saturating_sub(1), ..origin.place };
                return Err(Origin { place, ..origin }.error(json_reason(&e)));
            }
        }
        Ok(())
    }

    /// A key of an object, with its colon.
    fn key(&mut self) -> Result<String> {
        if self.skip(true)? != Some(b'"') {
            let found = self.bytes.peek()?;
            return Err(self.bytes.unexpected(found, "a key in quotes"));
        }
        let start = self.buffer.len();
        self.value(0)?;
        let key = serde_json::from_slice(&self.buffer[start..]).map_err(|e| self.bytes.error(json_reason(&e)))?;
        self.expect(b':', "")?;
        Ok(key)
    }

    /// An object at the top: a row, unless it holds a list of rows, at whose first one the reader then is.
    fn object(&mut self) -> Result<()> {
        let line = self.bytes.line;
        self.buffer.clear();
        self.keep(b'{')?;
        let mut first = true;
        loop {
            if first && self.skip(true)? == Some(b'}') {
                self.keep(b'}')?;
                return self.parse(line);
            }
            first = false;
            let key = self.key()?;
            self.buffer.push(b':');
            if self.skip(true)? == Some(b'[') {
                self.keep(b'[')?;
                if key == self.field && self.skip(true)? == Some(b'{') {
                    self.state = State::List { in_object: true, first: true };
                    return Ok(());
                }
                self.value(1)?;
            } else {
                let start = self.buffer.len();
                self.value(0)?;
                if self.buffer.len() == start {
                    let found = self.bytes.peek()?;
                    return Err(self.bytes.unexpected(found, "a value"));
                }
            }
            match self.skip(true)? {
                Some(b',') => self.keep(b',')?,
                Some(b'}') => {
                    self.keep(b'}')?;
                    return self.parse(line);
                }
                found => return Err(self.bytes.unexpected(found, "`,` or `}`")),
            }
        }
    }

    /// What follows the list of rows in its object.
    fn rest_of_object(&mut self) -> Result<()> {
        while self.space()? == Some(b',') {
            self.bytes.pass(b',');
            self.buffer.clear();
            self.key()?;
            self.space()?;
            self.value(0)?;
        }
        self.expect(b'}', " or `,`")
    }
}

impl RowReader for JsonReader {
    fn next(&mut self) -> Result<Option<Row>> {
        while self.ready.is_empty() {
            let next = self.space()?;
            match (self.state, next) {
                (State::Top, None) => break,
                (State::Top, Some(b'[')) => {
                    self.bytes.pass(b'[');
                    self.state = State::List { in_object: false, first: true };
                }
                (State::Top, Some(b'{')) => self.object()?,
                (State::Top, found) => return Err(self.bytes.unexpected(found, "a JSON object or a list of them")),
                (State::List { in_object, .. }, Some(b']')) => {
                    self.bytes.pass(b']');
                    if in_object {
                        self.rest_of_object()?;
                    }
                    self.state = State::Top;
                }
                (State::List { in_object, first: true }, _) => {
                    self.row()?;
                    self.state = State::List { in_object, first: false };
                }
                (State::List { .. }, Some(b',')) => {
                    self.bytes.pass(b',');
                    self.space()?;
                    self.row()?;
                }
                (State::List { .. }, found) => return Err(self.bytes.unexpected(found, "`,` or `]`")),
            }
        }
        Ok(self.ready.pop_front())
    }

    fn position(&self) -> u64 {
        self.bytes.position
    }
}

/// The rows of an object: itself, or the questions of an article as SQuAD's own files have them.
fn expand(origin: Origin, values: Map<String, Value>) -> Vec<Row> {
    let Some(paragraphs) = values.get("paragraphs").and_then(Value::as_array) else {
        return vec![Row::new(origin, values)];
    };
    let mut rows = Vec::new();
    for paragraph in paragraphs {
        for question in paragraph.get("qas").and_then(Value::as_array).into_iter().flatten() {
            let mut row = Map::new();
            row.extend(values.get("title").map(|title| ("title".to_owned(), title.clone())));
            row.extend(paragraph.get("context").map(|context| ("context".to_owned(), context.clone())));
            row.extend(question.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
            rows.push(Row::new(origin.clone(), row));
        }
    }
    rows
}
