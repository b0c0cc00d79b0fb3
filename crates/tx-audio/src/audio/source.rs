//! The bytes of a file, counted: a decoder may read only so many of them before it gives sound.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use symphonia::core::io::MediaSource;

/// The size of the header of an ID3 tag, in bytes.
const ID3_HEADER: u64 = 10;
/// More ID3 tags than a file has in a row.
const MAX_ID3_TAGS: usize = 16;

/// How many bytes may still be read.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicU64>);

impl Budget {
    /// Sets the number of bytes that may be read from now on.
    pub fn refill(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A file, or bytes in memory, without the ID3 tags at its start: those may be large, and hold no sound.
pub(super) struct Source {
    inner: Box<dyn MediaSource>,
    /// Where the file begins for its reader.
    start: u64,
    /// Where it ends.
    end: u64,
    budget: Budget,
}

impl Source {
    /// `length` bytes, of which `budget` may be read.
    pub fn new(inner: Box<dyn MediaSource>, length: u64, budget: u64) -> io::Result<Self> {
        let budget = Budget(Arc::new(AtomicU64::new(budget)));
        let mut source = Self { inner, start: 0, end: length, budget };
        source.skip_id3()?;
        Ok(source)
    }

    /// What is left of the budget, shared with this source.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// The number of bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    fn skip_id3(&mut self) -> io::Result<()> {
        for _ in 0..MAX_ID3_TAGS {
            self.seek(SeekFrom::Start(0))?;
            let mut header = Vec::new();
            Read::by_ref(self).take(ID3_HEADER).read_to_end(&mut header)?;
            let [b'I', b'D', b'3', _, _, flags, size @ ..] = header.as_slice() else { break };
            if size.len() != 4 || size.iter().any(|byte| byte & 0x80 != 0) {
                break;
            }
            let size = size.iter().fold(0, |size, &byte| (size << 7) | u64::from(byte));
            let footer = if flags & 0x10 != 0 { ID3_HEADER } else { 0 };
            self.start = (self.start + ID3_HEADER + size + footer).min(self.end);
        }
        self.seek(SeekFrom::Start(0)).map(drop)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let left = self.budget.0.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("more bytes than may be read"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        self.budget.refill(left - count as u64);
        Ok(count)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => SeekFrom::Start(at.saturating_add(self.start)),
            other => other,
        };
        let at = self.inner.seek(to)?;
        at.checked_sub(self.start).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn source(bytes: &[u8], budget: u64) -> Source {
        Source::new(Box::new(Cursor::new(bytes.to_vec())), bytes.len() as u64, budget).unwrap()
    }

    #[test]
    fn tags_are_skipped() {
        let mut source = source(b"ID3\x04\0\0\0\0\0\x03abcID3\x04\0\x10\0\0\0\x010123456789.sound", 100);
        assert_eq!(source.length(), 5);
        let mut text = String::new();
        source.read_to_string(&mut text).unwrap();
        assert_eq!(text, "sound");
        assert_eq!(source.seek(SeekFrom::End(-2)).unwrap(), 3);
    }

    #[test]
    fn no_more_is_read_than_the_budget_allows() {
        let mut source = source(&[7; 100], 10 + 20);
        let budget = source.budget();
        let mut buffer = [0; 15];
        source.read_exact(&mut buffer).unwrap();
        assert!(source.read_exact(&mut buffer).is_err() && budget.is_spent());
        budget.refill(15);
        source.read_exact(&mut buffer).unwrap();
    }

    #[test]
    fn a_tag_that_is_longer_than_the_file_leaves_nothing() {
        assert_eq!(source(b"ID3\x04\0\0\x7f\x7f\x7f\x7f and no more", 100).length(), 0);
    }
}
