//! Files that are written in blocks of the size of a large page.

use std::fs::File;
use std::io::{self, Seek, Write};

/// Bytes of a large page of most processors.
const BLOCK: usize = 2 << 20;

/// Writes a file in blocks of 2 MiB.
///
/// Linux keeps in memory what was written, in pieces as large as the writes were, and maps a whole block as one page: the
/// processor then finds the weights of a model without walking through half a thousand entries for each block. What is left
/// is written when the writer is dropped, or by `flush`, which tells whether that went well. What could not be written is
/// not tried again: after an error the file holds the first bytes, and nothing else.
pub(crate) struct BlockWriter<'a> {
    file: &'a mut File,
    /// What comes next in the file, up to the end of its block.
    block: Vec<u8>,
    /// Where in its block the file ended when it was last written to.
    start: usize,
}

impl<'a> BlockWriter<'a> {
    /// Goes on behind the first `length` bytes, which is where the file stands.
    pub fn new(file: &'a mut File, length: u64) -> Self {
        Self { file, block: Vec::new(), start: (length % BLOCK as u64) as usize }
    }

    /// Starts again with an empty file.
    pub fn restart(&mut self) -> io::Result<()> {
        self.block.clear();
        self.start = 0;
        self.file.set_len(0)?;
        self.file.rewind()
    }
}

impl Write for BlockWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK - self.start - self.block.len();
        let count = bytes.len().min(room);
        if self.block.is_empty() && count == room {
            self.file.write_all(&bytes[..count])?;
            self.start = 0;
            return Ok(count);
        }
        self.block.extend_from_slice(&bytes[..count]);
        if count == room {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.block);
        self.start = (self.start + self.block.len()) % BLOCK;
        self.block.clear();
        written
    }
}

impl Drop for BlockWriter<'_> {
    fn drop(&mut self) {
        // As of other buffers, what went wrong is known to those alone who have flushed before.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_was_written_is_there_wherever_it_was_cut() {
        let bytes: Vec<u8> = (0..2 * BLOCK + 12_345).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = BlockWriter::new(&mut file, 0);
        writer.write_all(b"not this").unwrap();
        writer.restart().unwrap();
        let (first, rest) = bytes.split_at(BLOCK + 99);
        first.chunks(1 << 17).for_each(|part| writer.write_all(part).unwrap());
        assert_eq!(writer.block.len(), 99);
        drop(writer);
        let mut writer = BlockWriter::new(&mut file, first.len() as u64);
        let (block, end) = rest.split_at(BLOCK - 99);
        writer.write_all(block).unwrap();
        assert!(writer.block.is_empty(), "a whole block waits for nothing");
        writer.write_all(end).unwrap();
        writer.flush().unwrap();
        drop(writer);
        file.rewind().unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == bytes);
    }

    #[test]
    fn what_could_not_be_written_is_not_written_twice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut read_only = File::open(file.path()).unwrap();
        let mut writer = BlockWriter::new(&mut read_only, 0);
        writer.write_all(b"the start of a block").unwrap();
        writer.flush().unwrap_err();
        assert!(writer.block.is_empty(), "dropped, it would write a part a second time");
        writer.write_all(&[0; BLOCK]).unwrap_err();
    }
}
