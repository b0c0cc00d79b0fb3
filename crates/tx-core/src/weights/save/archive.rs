//! A zip archive of stored files, each at a multiple of 64 bytes so that it can be used from a memory map.
//!
//! Written here and not by the `zip` crate, whose version 7 describes files behind the fourth gigabyte in a way that
//! PyTorch does not read.

use std::fs::File;
use std::io::{self, Write};

/// Every file begins at a multiple of this.
const ALIGNMENT: u64 = 64;
/// A field of this value has its real value in the 64-bit extension.
const IN_EXTENSION: u64 = u32::MAX as u64;
/// The version of the format that has the 64-bit extension.
const VERSION: u16 = 45;
/// Names are UTF-8.
const FLAGS: u16 = 1 << 11;
/// The extra field with which PyTorch fills up to a multiple, "FB".
const PADDING: u16 = 0x4246;
/// 1980-01-01, the first day that the format knows.
const DATE: u16 = 1 << 5 | 1;

/// An archive that is being written.
pub(super) struct Archive<'a> {
    file: &'a mut File,
    at: u64,
    directory: Vec<u8>,
    count: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn new(file: &'a mut File) -> Self {
        Self { file, at: 0, directory: Vec::new(), count: 0 }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// What writing gives.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (crc, len, start) = (crc32(bytes), bytes.len() as u64, self.at);
        let large = len >= IN_EXTENSION;
        let mut extra = Vec::new();
        if large {
            put(&mut extra, &[(2, 1), (2, 16), (8, len), (8, len)]);
        }
        // The padding is an extra field, whose own head takes four bytes.
        let unpadded = start + 30 + name.len() as u64 + extra.len() as u64 + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        put(&mut extra, &[(2, PADDING.into()), (2, padding)]);
        extra.resize(extra.len() + padding as usize, b'Z');

        let sizes = [(4, crc.into()), (4, len.min(IN_EXTENSION)), (4, len.min(IN_EXTENSION)), (2, name.len() as u64)];
        let common = [&[(2, VERSION.into()), (2, FLAGS.into()), (2, 0), (2, 0), (2, DATE.into())], &sizes[..]].concat();
        let mut header = b"PK\x03\x04".to_vec();
        put(&mut header, &common);
        put(&mut header, &[(2, extra.len() as u64)]);
        header.extend(name.as_bytes());
        header.extend(extra);
        self.file.write_all(&header)?;
        self.file.write_all(bytes)?;
        self.at += header.len() as u64 + len;

        let mut extra = Vec::new();
        if large {
            put(&mut extra, &[(8, len), (8, len)]);
        }
        if start >= IN_EXTENSION {
            put(&mut extra, &[(8, start)]);
        }
        let extra_len = if extra.is_empty() { 0 } else { extra.len() as u64 + 4 };
        self.directory.extend(b"PK\x01\x02");
        put(&mut self.directory, &[(2, VERSION.into())]);
        put(&mut self.directory, &common);
        // No comment, first disk, no attributes.
        put(&mut self.directory, &[(2, extra_len), (2, 0), (2, 0), (2, 0), (4, 0), (4, start.min(IN_EXTENSION))]);
        self.directory.extend(name.as_bytes());
        if !extra.is_empty() {
            put(&mut self.directory, &[(2, 1), (2, extra.len() as u64)]);
            self.directory.extend(extra);
        }
        self.count += 1;
        Ok(())
    }

    /// Writes the directory.
    ///
    /// # Errors
    /// What writing gives.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let (start, len, count) = (self.at, self.directory.len() as u64, self.count);
        let mut end = std::mem::take(&mut self.directory);
        end.extend(b"PK\x06\x06");
        // The length of the rest of this record, two versions, two disks.
        put(&mut end, &[(8, 44), (2, VERSION.into()), (2, VERSION.into()), (4, 0), (4, 0)]);
        put(&mut end, &[(8, count), (8, count), (8, len), (8, start)]);
        end.extend(b"PK\x06\x07");
        put(&mut end, &[(4, 0), (8, start + len), (4, 1)]);
        end.extend(b"PK\x05\x06");
        let short = count.min(u16::MAX.into());
        put(
            &mut end,
            &[(2, 0), (2, 0), (2, short), (2, short), (4, len.min(IN_EXTENSION)), (4, start.min(IN_EXTENSION)), (2, 0)],
        );
        self.file.write_all(&end)
    }
}

/// Appends numbers of so many bytes, little-endian.
fn put(out: &mut Vec<u8>, fields: &[(usize, u64)]) {
    fields.iter().for_each(|&(len, value)| out.extend(&value.to_le_bytes()[..len]));
}

/// Entry `[k][b]`: the sum of the byte `b` with `k` zero bytes behind it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let (mut sum, mut bit) = (i as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        tables[0][i] = sum;
        i += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[k - 1][i];
            tables[k][i] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            i += 1;
        }
        k += 1;
    }
    tables
}

/// CRC-32 as zip has it, eight bytes at a time.
fn crc32(bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let sum = eights.iter().fold(!0u32, |sum, eight| {
        let word = u64::from_le_bytes(*eight) ^ u64::from(sum);
        word.to_le_bytes().iter().rev().zip(&TABLES).fold(0, |sum, (&byte, table)| sum ^ table[byte as usize])
    });
    !rest.iter().fold(sum, |sum, &byte| sum >> 8 ^ TABLES[0][(sum as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn sums_are_those_of_zip() {
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"The quick brown fox jumps over the lazy dog"), 0x414f_a339);
    }

    #[test]
    fn other_programs_read_it() {
        let mut file = tempfile::tempfile().unwrap();
        let mut archive = Archive::new(&mut file);
        let files: Vec<_> = (0..70_000usize).map(|i| (format!("a/{i}"), vec![i as u8; i % 100])).collect();
        files.iter().for_each(|(name, bytes)| archive.add(name, bytes).unwrap());
        archive.finish().unwrap();
        let mut zip = zip::ZipArchive::new(file).unwrap();
        assert_eq!(zip.len(), files.len());
        for (name, bytes) in files.iter().step_by(997) {
            let mut file = zip.by_name(name).unwrap();
            assert_eq!(file.data_start().unwrap() % ALIGNMENT, 0);
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert_eq!(&found, bytes);
        }
    }
}
