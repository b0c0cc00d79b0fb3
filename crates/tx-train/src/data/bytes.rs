//! Files byte by byte: what the readers of JSON and CSV share.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use tx_core::error::{Error, Result};

use super::row::{Origin, Place};

/// The longest row, in bytes.
pub(super) const MAX_ROW: usize = 64 << 20;
/// How much is read at a time, in bytes.
const BUFFER: usize = 1 << 16;

/// Opens a file of text, behind its byte order mark; one that is compressed, or a pointer of Git LFS, is refused with the
/// remedy.
pub(super) fn open_text(path: &Path) -> Result<BufReader<File>> {
    const MAGIC: [(&[u8], &str); 5] = [
        (&[0x1f, 0x8b], "compressed with gzip; decompress it first"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd; decompress it first"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "compressed with xz; decompress it first"),
        (b"PK\x03\x04", "a zip archive; unpack it first"),
        (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; download it"),
    ];
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut head = Vec::new();
    file.by_ref().take(32).read_to_end(&mut head).map_err(Error::io(path))?;
    if let Some((_, reason)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Error::malformed(path, reason));
    }
    let start = if head.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
    file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
    Ok(BufReader::with_capacity(BUFFER, file))
}

/// The bytes of a file, and where they are.
#[derive(Debug)]
pub(super) struct Bytes {
    pub path: Arc<Path>,
    reader: BufReader<File>,
    /// The number of the line that the next byte is in.
    pub line: u64,
    /// How many bytes were read.
    pub position: u64,
}

impl Bytes {
    pub fn open(path: &Arc<Path>) -> Result<Self> {
        Ok(Self { path: path.clone(), reader: open_text(path)?, line: 1, position: 0 })
    }

    /// The byte that comes next; `None` at the end.
    pub fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.reader.fill_buf().map_err(Error::io(&self.path))?.first().copied())
    }

    /// Goes on behind the byte that came next.
    pub fn pass(&mut self, byte: u8) {
        self.reader.consume(1);
        self.position += 1;
        self.line += u64::from(byte == b'\n');
    }

    /// A line of the file, for messages.
    pub fn at(&self, line: u64) -> Origin {
        Origin { file: self.path.clone(), place: Place { row: 0, line } }
    }

    /// An error in the line that comes next.
    pub fn error(&self, reason: impl std::fmt::Display) -> Error {
        self.at(self.line).error(reason)
    }

    /// The error that something else comes next than should.
    pub fn unexpected(&self, found: Option<u8>, expected: &str) -> Error {
        match found {
            Some(byte) => {
                self.error(format_args!("found `{}`, expected {expected}", char::from(byte).escape_default()))
            }
            None => self.error(format_args!("the file ends, expected {expected}")),
        }
    }
}
