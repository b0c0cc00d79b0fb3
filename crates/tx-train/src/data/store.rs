//! Examples on disk: a data set is read once, row by row, and what a task makes of each row is kept in a file that has no
//! name and vanishes with the process. From then on any example can be read in no time, whatever the format of the data
//! was, and all lengths are known; memory holds only what is small.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::{SpooledTempFile, spooled_tempfile_in};
use tx_core::error::{Error, Result};
use tx_core::progress::Progress;

use super::dataset::{Columns, Dataset, Rows};
use super::example::{Example, Reader, Writer};
use super::packing::{Packer, Packing};
use super::row::Row;

/// How many rows are worked on at a time, and how many bytes they may have together.
const CHUNK_ROWS: usize = 1000;
const CHUNK_BYTES: usize = 16 << 20;
/// What is kept in memory before it goes to disk, in bytes.
const MEMORY: usize = 32 << 20;
/// The bytes of an entry of the index: where an example begins, how many bytes it has, and how many tokens.
const ENTRY: usize = 16;

/// What makes examples of rows.
pub trait Preparation: Sync {
    /// The columns that it reads.
    fn columns(&self) -> Columns;

    /// Whether a row is one of those that are asked for. Others are passed over, and do not count.
    fn takes(&self, _row: &Row) -> bool {
        true
    }

    /// How many rows are taken, the first ones; all of them if `None`.
    fn max_rows(&self) -> Option<u64> {
        None
    }

    /// The examples of a row: one, several windows of it, or none.
    ///
    /// # Errors
    /// [`Error::Malformed`], which names file, place and column, for a row that is not as it should be.
    fn examples(&self, row: &Row) -> Result<Vec<Example>>;

    /// How the examples of several rows become one.
    fn packing(&self) -> Packing {
        Packing::None
    }
}

/// Where examples are kept, and whether a bar is shown while they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareOptions {
    /// The folder for the file of examples; its disk needs about as much room as the data set has.
    pub folder: PathBuf,
    /// Whether to show a bar on a terminal.
    pub progress: bool,
}

/// The examples of a data set, by number.
pub struct Examples {
    data: Mutex<SpooledTempFile>,
    index: Mutex<SpooledTempFile>,
    /// For messages.
    folder: PathBuf,
    /// The files that the examples are from.
    files: Vec<Arc<Path>>,
    statistics: Statistics,
}

/// What there is to know of all examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// How many rows were taken.
    pub rows: u64,
    /// How many of them gave no example: blank lines, or conversations of which nothing is left to learn.
    pub skipped: u64,
    /// How many examples there are.
    pub examples: u64,
    /// How many tokens they have together, the longest text of each.
    pub tokens: u64,
    /// The number of the longest example, the first of several.
    pub longest: u64,
    /// How many tokens that has.
    pub max_length: u32,
    /// The SHA-256 of all of them, wherever the files are.
    pub digest: [u8; 32],
}

impl Statistics {
    /// The digest as text: the same data, prepared in the same way, have the same.
    pub fn data(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Examples {
    /// Reads a data set and keeps what a task makes of it.
    ///
    /// # Errors
    /// The first error of a row, by their order; [`Error::Malformed`] if there is not a single example; [`Error::Io`] if the
    /// folder takes no more.
    pub fn prepare(dataset: &Dataset, task: &dyn Preparation, options: &PrepareOptions) -> Result<Self> {
        let mut rows = dataset.rows(&task.columns());
        let progress = Progress::bytes("preparing examples", dataset.size(), options.progress && dataset.size() > 0);
        let mut builder = Builder::new(&options.folder);
        let mut packer = Packer::new(task.packing());
        let mut wanted = Wanted { task, left: task.max_rows().unwrap_or(u64::MAX), passed: 0 };
        loop {
            let (chunk, broken) = wanted.chunk(&mut rows);
            if chunk.is_empty() && broken.is_none() {
                break;
            }
            let made: Vec<Result<Vec<Example>>> = chunk.par_iter().map(|row| task.examples(row)).collect();
            for examples in made {
                let examples = examples?;
                builder.statistics.rows += 1;
                builder.statistics.skipped += u64::from(examples.is_empty());
                packer.add(examples, &mut |example| builder.push(&example))?;
            }
            if let Some(error) = broken {
                return Err(error);
            }
            progress.set(rows.position());
        }
        packer.finish(&mut |example| builder.push(&example))?;
        let Statistics { rows, skipped, examples, .. } = builder.statistics;
        if examples == 0 {
            let file = dataset.files().first().map_or_else(|| Path::new(""), |file| &**file);
            let reason = match task.packing() {
                _ if rows == 0 && wanted.passed > 0 => {
                    format!("none of {} rows is in this part; split the data in another way", wanted.passed)
                }
                _ if rows == 0 => "no rows".to_owned(),
                _ if skipped == rows => format!("none of {rows} rows has anything to learn"),
                packing => format!("{rows} rows have fewer tokens than {packing}; shorten the blocks"),
            };
            return Err(Error::malformed(file, reason));
        }
        builder.finish()
    }

    /// How many examples there are.
    pub fn len(&self) -> u64 {
        self.statistics.examples
    }

    /// Whether there are none; there always are some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What there is to know of all examples.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// An example by its number.
    ///
    /// # Errors
    /// [`Error::Input`] if there are not so many; [`Error::Io`] and [`Error::Malformed`] if the file cannot be read any more.
    pub fn get(&self, number: u64) -> Result<Example> {
        let entry = self.entry(number)?;
        let mut bytes = vec![0; entry.bytes as usize];
        self.read(&self.data, entry.start, &mut bytes)?;
        Reader::example(&bytes, &self.files)
            .ok_or_else(|| Error::malformed(&self.folder, format_args!("example {number} is damaged")))
    }

    /// How many tokens an example has.
    ///
    /// # Errors
    /// Those of [`Examples::get`].
    pub fn length(&self, number: u64) -> Result<u32> {
        Ok(self.entry(number)?.tokens)
    }

    fn entry(&self, number: u64) -> Result<Entry> {
        if number >= self.len() {
            return Err(Error::input("example", number, format_args!("a number below {}", self.len())));
        }
        let mut bytes = [0; ENTRY];
        self.read(&self.index, number * ENTRY as u64, &mut bytes)?;
        Ok(Entry::from_bytes(bytes))
    }

    fn read(&self, file: &Mutex<SpooledTempFile>, start: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(bytes));
        read.map_err(Error::io(&self.folder))
    }
}

impl fmt::Debug for Examples {
    /// Without the examples.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examples").field("statistics", &self.statistics).finish_non_exhaustive()
    }
}

/// Which rows are still to come.
struct Wanted<'t> {
    task: &'t dyn Preparation,
    /// How many more are taken.
    left: u64,
    /// How many were passed over.
    passed: u64,
}

impl Wanted<'_> {
    /// Some rows of bounded size, none at the end; and why there are no more, if one cannot be read.
    fn chunk(&mut self, rows: &mut Rows<'_>) -> (Vec<Row>, Option<Error>) {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while self.left > 0 && chunk.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            match rows.next() {
                Some(Ok(row)) if !self.task.takes(&row) => self.passed += 1,
                Some(Ok(row)) => {
                    self.left -= 1;
                    bytes += row.size();
                    chunk.push(row);
                }
                Some(Err(error)) => return (chunk, Some(error)),
                None => break,
            }
        }
        (chunk, None)
    }
}

/// An entry of the index.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    bytes: u32,
    tokens: u32,
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY] {
        let (bytes, tokens) = (u128::from(self.bytes) << 64, u128::from(self.tokens) << 96);
        (u128::from(self.start) | bytes | tokens).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; ENTRY]) -> Self {
        let entry = u128::from_le_bytes(bytes);
        Self { start: entry as u64, bytes: (entry >> 64) as u32, tokens: (entry >> 96) as u32 }
    }
}

/// Examples that are being written.
struct Builder {
    data: BufWriter<SpooledTempFile>,
    index: BufWriter<SpooledTempFile>,
    folder: PathBuf,
    files: Vec<Arc<Path>>,
    /// The numbers of the files.
    numbers: HashMap<Arc<Path>, usize>,
    /// Where the next example begins.
    position: u64,
    /// The bytes of one example.
    buffer: Vec<u8>,
    /// Of all examples so far.
    digest: Sha256,
    statistics: Statistics,
}

impl Builder {
    fn new(folder: &Path) -> Self {
        let file = || BufWriter::new(spooled_tempfile_in(MEMORY, folder));
        Self {
            data: file(),
            index: file(),
            folder: folder.to_path_buf(),
            files: Vec::new(),
            numbers: HashMap::new(),
            position: 0,
            buffer: Vec::new(),
            digest: Sha256::new(),
            statistics: Statistics::default(),
        }
    }

    fn push(&mut self, example: &Example) -> Result<()> {
        let file = match self.numbers.get(&example.origin.file) {
            Some(&number) => number,
            None => {
                let number = self.files.len();
                self.files.push(example.origin.file.clone());
                self.numbers.insert(example.origin.file.clone(), number);
                number
            }
        };
        self.buffer.clear();
        Writer::example(&mut self.buffer, example, file as u64);
        let too_long = |_| example.origin.error("an example of more than 4 GiB");
        let bytes = u32::try_from(self.buffer.len()).map_err(too_long)?;
        let tokens = u32::try_from(example.len()).map_err(too_long)?;
        let entry = Entry { start: self.position, bytes, tokens };
        let written = self.data.write_all(&self.buffer).and_then(|()| self.index.write_all(&entry.to_bytes()));
        written.map_err(Error::io(&self.folder))?;
        if let Some(image) = &example.image {
            // A folder of pictures may have moved, also on another machine.
            let image = Some(within(&example.origin.file, image).to_path_buf());
            self.buffer.clear();
            Writer::example(&mut self.buffer, &Example { image, ..example.clone() }, file as u64);
        }
        self.digest.update(&self.buffer);
        self.position += u64::from(bytes);
        let statistics = &mut self.statistics;
        if tokens > statistics.max_length {
            (statistics.longest, statistics.max_length) = (statistics.examples, tokens);
        }
        statistics.examples += 1;
        statistics.tokens += u64::from(tokens);
        Ok(())
    }

    fn finish(self) -> Result<Examples> {
        let Self { data, index, folder, files, digest, statistics, .. } = self;
        let statistics = Statistics { digest: digest.finalize().into(), ..statistics };
        let file = |writer: BufWriter<SpooledTempFile>| {
            let file = writer.into_inner().map_err(|e| e.into_error());
            file.map(Mutex::new).map_err(Error::io(&folder))
        };
        let (data, index) = (file(data)?, file(index)?);
        Ok(Examples { data, index, folder, files, statistics })
    }
}

/// Where a picture is in the folder that is the data set, or that its file of rows is in.
fn within<'p>(data: &Path, image: &'p Path) -> &'p Path {
    let mut folders = [Some(data), data.parent()].into_iter().flatten();
    folders.find_map(|folder| image.strip_prefix(folder).ok()).unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dataset::DatasetOptions;
    use super::super::example::{Labels, Tokens};
    use super::*;

    /// As many tokens as the row says; none for 0.
    struct Counted(Packing);

    impl Preparation for Counted {
        fn columns(&self) -> Columns {
            Columns::new(&["n"], &[])
        }

        fn examples(&self, row: &Row) -> Result<Vec<Example>> {
            let n = row.number("n")? as usize;
            let tokens = Tokens { ids: vec![n as u32; n], ..Tokens::default() };
            let example = Example::text(row.origin().clone(), tokens, Labels::Same);
            Ok((n > 0).then_some(example).into_iter().collect())
        }

        fn packing(&self) -> Packing {
            self.0
        }
    }

    fn prepare(numbers: &[usize], packing: Packing) -> Result<Examples> {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<String> = numbers.iter().map(|n| json!({ "n": n }).to_string() + "\n").collect();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, lines.concat()).unwrap();
        let dataset = Dataset::open(path.to_str().unwrap(), &DatasetOptions::default())?;
        let options = PrepareOptions { folder: folder.path().to_path_buf(), progress: true };
        Examples::prepare(&dataset, &Counted(packing), &options)
    }

    #[test]
    fn examples_can_be_read_by_number_after_their_file_is_gone() {
        let numbers: Vec<usize> = (0..2500).map(|i| i * 7 % 11).collect();
        let examples = prepare(&numbers, Packing::None).unwrap();
        let expected: Vec<usize> = numbers.iter().copied().filter(|&n| n > 0).collect();
        assert_eq!(examples.len(), expected.len() as u64);
        for (i, &n) in expected.iter().enumerate().rev() {
            assert_eq!(examples.length(i as u64).unwrap() as usize, n);
            assert_eq!(examples.get(i as u64).unwrap().texts[0].ids, vec![n as u32; n]);
        }
        let statistics = examples.statistics();
        assert_eq!((statistics.rows, statistics.skipped), (2500, 2500 - expected.len() as u64));
        assert_eq!(statistics.tokens, expected.iter().sum::<usize>() as u64);
        assert_eq!((statistics.max_length, expected[statistics.longest as usize]), (10, 10));
        assert_eq!(expected.iter().position(|&n| n == 10).unwrap() as u64, statistics.longest);
        assert_eq!(examples.get(0).unwrap().origin.place.line, 2);
        assert!(matches!(examples.get(examples.len()), Err(Error::Input { .. })));
    }

    #[test]
    fn other_data_have_another_digest() {
        let digest = |numbers: &[usize]| prepare(numbers, Packing::None).unwrap().statistics().data();
        let numbers = [3, 1, 2];
        assert_eq!((digest(&numbers), digest(&numbers).len()), (digest(&numbers), 64));
        assert_ne!(digest(&numbers), digest(&[3, 2, 1]), "another order");
        assert_ne!(digest(&numbers), digest(&[3, 1, 4]), "another row");
        let picture = |file: &str, image: &str| {
            let folder = tempfile::tempdir().unwrap();
            let origin = super::super::row::Origin { file: Path::new(file).into(), place: Default::default() };
            let labels = Labels::Class(1);
            let example = Example { origin, texts: Vec::new(), labels, image: Some(image.into()), reference: None };
            let mut builder = Builder::new(folder.path());
            builder.push(&example).unwrap();
            let examples = builder.finish().unwrap();
            assert_eq!(examples.get(0).unwrap().image, Some(image.into()));
            examples.statistics().data()
        };
        assert_eq!(picture("a/pets", "a/pets/cat/1.png"), picture("b/pets", "b/pets/cat/1.png"));
        assert_eq!(picture("a/rows.csv", "a/1.png"), picture("rows.csv", "1.png"));
        assert_ne!(picture("a/pets", "a/pets/cat/1.png"), picture("a/pets", "a/pets/dog/1.png"));
    }

    /// Every other row, and of those some.
    struct Part(u64);

    impl Preparation for Part {
        fn columns(&self) -> Columns {
            Counted(Packing::None).columns()
        }

        fn takes(&self, row: &Row) -> bool {
            row.origin().place.line.is_multiple_of(2)
        }

        fn max_rows(&self) -> Option<u64> {
            Some(self.0)
        }

        fn examples(&self, row: &Row) -> Result<Vec<Example>> {
            Counted(Packing::None).examples(row)
        }
    }

    #[test]
    fn rows_of_another_part_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let prepare = |numbers: std::ops::Range<usize>, most| {
            let lines: Vec<String> = numbers.map(|n| json!({ "n": n }).to_string() + "\n").collect();
            std::fs::write(&path, lines.concat()).unwrap();
            let dataset = Dataset::open(path.to_str().unwrap(), &DatasetOptions::default()).unwrap();
            let options = PrepareOptions { folder: folder.path().to_path_buf(), progress: false };
            Examples::prepare(&dataset, &Part(most), &options)
        };
        let examples = prepare(1..2500, 1100).unwrap();
        assert_eq!((examples.len(), examples.statistics().rows), (1100, 1100));
        assert_eq!((examples.get(0).unwrap().len(), examples.get(1099).unwrap().len()), (2, 2200));
        assert_eq!(prepare(1..7, 9).unwrap().len(), 3);
        let error = prepare(1..2, 9).unwrap_err().to_string();
        assert!(error.ends_with("a.jsonl: none of 1 rows is in this part; split the data in another way"), "{error}");
    }

    #[test]
    fn the_first_broken_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "{\"n\": 1}\n{\"n\": \"x\"}\n{\"n\": }\n").unwrap();
        let dataset = Dataset::open(path.to_str().unwrap(), &DatasetOptions::default()).unwrap();
        let options = PrepareOptions { folder: folder.path().to_path_buf(), progress: false };
        let error = Examples::prepare(&dataset, &Counted(Packing::None), &options).unwrap_err().to_string();
        assert!(error.ends_with("line 2: column `n`: found \"x\", expected a number"), "{error}");
    }

    #[test]
    fn many_examples_go_to_disk() {
        let examples = prepare(&[3_000_000; 4], Packing::None).unwrap();
        assert!(examples.data.lock().unwrap().is_rolled());
        assert_eq!(examples.get(3).unwrap().len(), 3_000_000);
    }

    #[test]
    fn nothing_to_learn_is_an_error() {
        let message = |numbers: &[usize], packing| {
            let text = prepare(numbers, packing).unwrap_err().to_string();
            text[text.find("a.jsonl").unwrap()..].to_owned()
        };
        assert_eq!(message(&[], Packing::None), "a.jsonl: no rows");
        assert_eq!(message(&[0, 0], Packing::None), "a.jsonl: none of 2 rows has anything to learn");
        let blocks = message(&[1, 3], Packing::Blocks { size: 5 });
        assert_eq!(blocks, "a.jsonl: 2 rows have fewer tokens than a block of 5; shorten the blocks");
    }

    #[test]
    fn a_folder_that_takes_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(&folder.path().join("missing"));
        let tokens = Tokens { ids: vec![1; MEMORY], ..Tokens::default() };
        let origin = super::super::row::Origin { file: Path::new("a").into(), place: Default::default() };
        let example = Example::text(origin, tokens, Labels::None);
        let error = (0..2).map(|_| builder.push(&example)).find_map(Result::err);
        assert!(matches!(error, Some(Error::Io { .. })), "{error:?}");
    }
}
