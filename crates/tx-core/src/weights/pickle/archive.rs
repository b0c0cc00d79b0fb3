//! The zip archive around a checkpoint: its directory, and the bytes of its files.
//!
//! The directory is read here and not by the `zip` crate, which searches a whole file for its end and reserves memory
//! for as many entries as the file claims to have; that crate inflates, and checks the sums.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, Result};

/// More storages than any checkpoint has.
const MAX_ENTRIES: u64 = 1_000_000;
/// How many times larger than its compressed form a file may be.
const MAX_RATIO: u64 = 100;

const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const DIRECTORY_HEADER: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END64: &[u8] = b"PK\x06\x06";
const END_LEN: usize = 22;
const LOCAL_LEN: u64 = 30;
/// A field of this value has its real value in the 64-bit extension.
const IN_EXTENSION: u64 = u32::MAX as u64;
const STORED: u64 = 0;
const DEFLATED: u64 = 8;

/// A file of the archive, as the directory describes it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    method: u64,
    crc: u32,
    compressed: u64,
    size: u64,
    /// Where its local header begins.
    header: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    path: &'a Path,
    map: &'a Bytes,
    entries: BTreeMap<String, Entry>,
    /// Where the directory begins: no file reaches behind it.
    end: u64,
    /// How many bytes may still be inflated.
    budget: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory of the archive `map`.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn open(path: &'a Path, map: &'a Bytes) -> Result<Self> {
        let fields = Fields { path, bytes: map };
        let (count, len, start) = directory(&fields)?;
        let end = start.checked_add(len).filter(|&end| end <= map.len() as u64);
        let end = end.ok_or_else(|| fields.error(format_args!("the directory claims bytes {start} + {len}")))?;
        if count > MAX_ENTRIES {
            return Err(fields.error(format_args!("{count} entries, expected at most {MAX_ENTRIES}")));
        }
        let budget = (map.len() as u64).saturating_mul(MAX_RATIO);
        let mut archive = Self { path, map, entries: BTreeMap::new(), end: start, budget };
        let mut at = start;
        for _ in 0..count {
            if at >= end || fields.slice(at, 4)? != DIRECTORY_HEADER {
                return Err(fields
                    .error(format_args!("the directory claims {count} entries, but has {}", archive.entries.len())));
            }
            let lens = [fields.number::<2>(at + 28)?, fields.number::<2>(at + 30)?, fields.number::<2>(at + 32)?];
            let [name_len, extra_len, comment_len] = lens;
            let name = fields.slice(at + 46, name_len)?;
            let name = std::str::from_utf8(name).map_err(|_| fields.error("a file name that is not UTF-8"))?;
            if fields.number::<2>(at + 8)? & 1 != 0 {
                return Err(fields.error(format_args!("`{}` is encrypted", name.escape_debug())));
            }
            let mut entry = Entry {
                method: fields.number::<2>(at + 10)?,
                crc: fields.number::<4>(at + 16)? as u32,
                compressed: fields.number::<4>(at + 20)?,
                size: fields.number::<4>(at + 24)?,
                header: fields.number::<4>(at + 42)?,
            };
            fields.extend(&mut entry, at + 46 + name_len, extra_len)?;
            if archive.entries.insert(name.to_owned(), entry).is_some() {
                return Err(fields.error(format_args!("`{}` is there twice", name.escape_debug())));
            }
            at += 46 + name_len + extra_len + comment_len;
        }
        Ok(archive)
    }

    /// The folder in which `data.pkl` lies; Python names it after the file that it saved.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none, or more than one.
    pub(super) fn root(&self) -> Result<String> {
        let roots: Vec<_> = self.entries.keys().filter_map(|name| name.strip_suffix("/data.pkl")).collect();
        match roots.as_slice() {
            [root] => Ok((*root).to_owned()),
            [] => Err(Error::malformed(self.path, "a zip archive without `data.pkl`: not a PyTorch checkpoint")),
            _ => Err(Error::malformed(self.path, "a zip archive with more than one `data.pkl`")),
        }
    }

    /// Whether there is a file of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A file's bytes: a view of the map if it is stored, which reads no byte of it; inflated and checked if not.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn bytes(&mut self, name: &str) -> Result<Bytes> {
        let (entry, range) = self.entry(name)?;
        if entry.method == STORED { Ok(self.map.slice(range)) } else { Ok(self.unpack(name, u64::MAX)?.into()) }
    }

    /// A copy of a file of at most `limit` bytes, its sum checked.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn unpack(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (entry, range) = self.entry(name)?;
        let wrong = |reason: String| self.error(name, reason);
        if entry.size > limit {
            return Err(wrong(format!("{} bytes, expected at most {limit}", entry.size)));
        }
        if entry.size > entry.compressed.saturating_mul(MAX_RATIO) || entry.size > self.budget {
            return Err(wrong(format!(
                "{} bytes claim to inflate to {}, more than {MAX_RATIO} times as many",
                entry.compressed, entry.size
            )));
        }
        let mut out = Vec::new();
        let size = usize::try_from(entry.size).ok().filter(|&n| out.try_reserve_exact(n).is_ok());
        let size = size.ok_or_else(|| wrong(format!("{} bytes do not fit into memory", entry.size)))?;
        // The zip crate inflates behind a local header; this one says what the directory says.
        let mut header = [0; LOCAL_LEN as usize];
        header[..4].copy_from_slice(LOCAL_HEADER);
        header[8..10].copy_from_slice(&(entry.method as u16).to_le_bytes());
        header[14..18].copy_from_slice(&entry.crc.to_le_bytes());
        let mut stream = header.as_slice().chain(&self.map[range]);
        let file = zip::read::read_zipfile_from_stream_with_compressed_size(&mut stream, entry.compressed);
        let file = file.map_err(|e| wrong(e.to_string()))?.ok_or_else(|| wrong("no local header".into()))?;
        file.take(entry.size.saturating_add(1)).read_to_end(&mut out).map_err(|e| wrong(e.to_string()))?;
        if out.len() != size {
            let found = if out.len() > size { "more".to_owned() } else { out.len().to_string() };
            return Err(wrong(format!("claims to inflate to {size} bytes, but has {found}")));
        }
        self.budget -= entry.size;
        Ok(out)
    }

    /// The entry of this name, and where its bytes lie.
    fn entry(&self, name: &str) -> Result<(Entry, Range<usize>)> {
        let entry = *self.entries.get(name).ok_or_else(|| self.error(name, "not in the archive"))?;
        let fields = Fields { path: self.path, bytes: self.map };
        let wrong = |reason: &str| self.error(name, reason);
        match entry.method {
            STORED if entry.size != entry.compressed => return Err(wrong("stored, but has two different sizes")),
            STORED | DEFLATED => {}
            other => {
                return Err(self.error(name, format_args!("compression method {other}, expected stored or deflated")));
            }
        }
        if fields.slice(entry.header, 4).ok() != Some(LOCAL_HEADER) {
            return Err(wrong("the directory names a place where no file begins"));
        }
        let (name_len, extra_len) = (fields.number::<2>(entry.header + 26)?, fields.number::<2>(entry.header + 28)?);
        if fields.slice(entry.header + LOCAL_LEN, name_len)? != name.as_bytes() {
            return Err(wrong("the directory names a place where another file begins"));
        }
        let start = entry.header + LOCAL_LEN + name_len + extra_len;
        let end = start.checked_add(entry.compressed).filter(|&end| end <= self.end);
        let end = end.ok_or_else(|| {
            self.error(
                name,
                format_args!("claims bytes {start} + {}, but the files end at {}", entry.compressed, self.end),
            )
        })?;
        // Both are below the length of the map.
        Ok((entry, start as usize..end as usize))
    }

    fn error(&self, name: &str, reason: impl std::fmt::Display) -> Error {
        Error::malformed(self.path, format_args!("zip entry `{}`: {reason}", name.escape_debug()))
    }
}

/// The number of entries of the directory, its length and its offset.
fn directory(fields: &Fields<'_>) -> Result<(u64, u64, u64)> {
    let bytes = fields.bytes;
    // The record at the end may carry a comment of up to 64 kB.
    let first = bytes.len().saturating_sub(END_LEN + u16::MAX as usize);
    let last = bytes.len().checked_sub(END_LEN).unwrap_or(first);
    let found = (first..=last).rev().find(|&at| {
        bytes[at..].starts_with(END)
            && fields.number::<2>(at as u64 + 20).is_ok_and(|n| at + END_LEN + n as usize == bytes.len())
    });
    let end = found.ok_or_else(|| fields.error("no directory at the end: the file is truncated"))? as u64;
    let (mut count, mut len, mut start) =
        (fields.number::<2>(end + 10)?, fields.number::<4>(end + 12)?, fields.number::<4>(end + 16)?);
    if count == u64::from(u16::MAX) || len == IN_EXTENSION || start == IN_EXTENSION {
        let locator = end.checked_sub(20).ok_or_else(|| fields.error("no 64-bit directory"))?;
        if fields.slice(locator, 4)? != END64_LOCATOR {
            return Err(fields.error("no 64-bit directory"));
        }
        let end64 = fields.number::<8>(locator + 8)?;
        if fields.slice(end64, 4)? != END64 {
            return Err(fields.error("no 64-bit directory where its locator says"));
        }
        // `slice` has shown that four bytes lie there, so that the sums below stay far from overflow.
        (count, len, start) =
            (fields.number::<8>(end64 + 32)?, fields.number::<8>(end64 + 40)?, fields.number::<8>(end64 + 48)?);
    }
    Ok((count, len, start))
}

/// Little-endian numbers at checked places.
struct Fields<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn slice(&self, at: u64, len: u64) -> Result<&'a [u8]> {
        let range = at.checked_add(len).and_then(|end| Some(usize::try_from(at).ok()?..usize::try_from(end).ok()?));
        let slice = range.and_then(|range| self.bytes.get(range));
        slice.ok_or_else(|| {
            self.error(format_args!("bytes {at} + {len} lie outside of the file of {}", self.bytes.len()))
        })
    }

    fn number<const N: usize>(&self, at: u64) -> Result<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.slice(at, N as u64)?);
        Ok(u64::from_le_bytes(wide))
    }

    /// Replaces the sizes and the place that do not fit into 32 bits.
    fn extend(&self, entry: &mut Entry, mut at: u64, len: u64) -> Result<()> {
        let end = at + len;
        while at + 4 <= end {
            let (id, field_end) = (self.number::<2>(at)?, at + 4 + self.number::<2>(at + 2)?);
            at += 4;
            if id == 1 {
                for value in [&mut entry.size, &mut entry.compressed, &mut entry.header] {
                    if *value == IN_EXTENSION {
                        if at + 8 > field_end || field_end > end {
                            return Err(self.error("an entry lacks its 64-bit size"));
                        }
                        *value = self.number::<8>(at)?;
                        at += 8;
                    }
                }
            }
            at = field_end;
        }
        Ok(())
    }

    fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::malformed(self.path, format_args!("zip archive: {reason}"))
    }
}
