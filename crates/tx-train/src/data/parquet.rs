//! Parquet: only the columns that are needed are read, page by page.
//!
//! The `parquet` crate panics on some files that it cannot read; such a panic becomes an error here.

use std::cell::Cell;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once};

use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, RowIter, TreeBuilder};
use parquet::record::{Field, Row as Record};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};
use tx_core::error::{Error, Result};

use super::dataset::{Columns, RowReader};
use super::row::{Origin, Place, Row, missing};

/// How many values of a column are read at a time.
const BATCH: usize = 256;

/// The rows of a Parquet file.
pub(super) struct ParquetReader {
    path: Arc<Path>,
    reader: SerializedFileReader<File>,
    schema: SchemaDescPtr,
    /// The number of the group of rows that comes next, and what is left of the one before it.
    group: usize,
    rows: Option<ReaderIter>,
    /// How many rows were read, and how many there are.
    read: u64,
    total: u64,
    bytes: u64,
}

impl ParquetReader {
    /// Opens a file. Columns that are not optional must be there; all are read if none are named.
    pub fn open(path: &Arc<Path>, columns: &Columns) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        let metadata = reader.metadata().file_metadata();
        let root = metadata.schema();
        let names = || root.get_fields().iter().map(|field| field.name());
        if let Some(column) = columns.required.iter().find(|&column| !names().any(|name| name == column)) {
            return Err(Error::malformed(path, missing(column, names())));
        }
        let schema = if columns.required.is_empty() {
            metadata.schema_descr_ptr()
        } else {
            let chosen = root.get_fields().iter().filter(|field| columns.contains(field.name()));
            let chosen: Vec<_> = chosen.cloned().collect();
            let projection = guarded(path, || Type::group_type_builder(root.name()).with_fields(chosen).build())?;
            Arc::new(SchemaDescriptor::new(Arc::new(projection)))
        };
        let total = u64::try_from(metadata.num_rows()).unwrap_or(0);
        Ok(Self { path: path.clone(), reader, schema, group: 0, rows: None, read: 0, total, bytes })
    }

    fn origin(&self) -> Origin {
        Origin { file: self.path.clone(), place: Place { row: self.read, line: 0 } }
    }

    fn record(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(rows) = &mut self.rows
                && let Some(record) = guarded(&self.path, || rows.next().transpose())?
            {
                return Ok(Some(record));
            }
            if self.group == self.reader.num_row_groups() {
                return Ok(None);
            }
            let open = || {
                let group = Checked(self.reader.get_row_group(self.group)?);
                TreeBuilder::new().with_batch_size(BATCH).as_iter(self.schema.clone(), &group)
            };
            self.rows = Some(guarded(&self.path, open)?);
            self.group += 1;
        }
    }
}

impl RowReader for ParquetReader {
    fn next(&mut self) -> Result<Option<Row>> {
        let Some(record) = self.record()? else { return Ok(None) };
        self.read += 1;
        let origin = self.origin();
        let mut values = Map::new();
        for (name, field) in record.into_columns() {
            let value = value(field)
                .map_err(|found| origin.error(format_args!("column `{name}` holds {found}, expected text")))?;
            values.insert(name, value);
        }
        Ok(Some(Row::new(origin, values)))
    }

    fn position(&self) -> u64 {
        (u128::from(self.bytes) * u128::from(self.read) / u128::from(self.total.max(1))) as u64
    }
}

/// A value as JSON has it; what it is if JSON has no such thing.
fn value(field: Field) -> Result<Value, &'static str> {
    // NaN is a number that JSON cannot write.
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => x.into(),
        Field::Byte(x) => x.into(),
        Field::Short(x) => x.into(),
        Field::Int(x) | Field::Date(x) | Field::TimeMillis(x) => x.into(),
        Field::Long(x) | Field::TimeMicros(x) | Field::TimestampMillis(x) | Field::TimestampMicros(x) => x.into(),
        Field::UByte(x) => x.into(),
        Field::UShort(x) => x.into(),
        Field::UInt(x) => x.into(),
        Field::ULong(x) => x.into(),
        Field::Float16(x) => float(x.into()),
        Field::Float(x) => float(x.into()),
        Field::Double(x) => float(x),
        Field::Decimal(_) => return Err("decimal numbers"),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_err(|_| "bytes that are not UTF-8")?.into(),
        Field::Group(record) => {
            let entries = record.into_columns().into_iter().map(|(name, field)| Ok((name, value(field)?)));
            Value::Object(entries.collect::<Result<_, &'static str>>()?)
        }
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().cloned().map(value).collect::<Result<_, &'static str>>()?)
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().map(|(key, item)| match key {
                Field::Str(key) => Ok((key.clone(), value(item.clone())?)),
                _ => Err("maps whose keys are no texts"),
            });
            Value::Object(entries.collect::<Result<_, &'static str>>()?)
        }
    })
}

/// A group of rows whose dictionaries have as many values as they say: memory is taken for that many before any is read.
struct Checked<'a>(Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for Checked<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>, ParquetError> {
        Ok(Box::new(CheckedPages(self.0.get_column_page_reader(i)?)))
    }

    fn get_column_bloom_filter(&self, i: usize) -> Option<&Sbbf> {
        self.0.get_column_bloom_filter(i)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>, ParquetError> {
        self.0.get_row_iter(projection)
    }
}

struct CheckedPages(Box<dyn PageReader>);

impl Iterator for CheckedPages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.0.get_next_page()?;
        match &page {
            Some(Page::DictionaryPage { buf, num_values, .. }) if *num_values as usize > buf.len() => {
                Err(ParquetError::General(format!(
                    "a dictionary of {} bytes claims to have {num_values} values",
                    buf.len()
                )))
            }
            _ => Ok(page),
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.0.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.0.at_record_boundary()
    }
}

thread_local! {
    /// Whether a panic of this thread will become an error and need not be printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What the library says about a file; a panic of it is an error, too, and is not printed.
fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    QUIET.set(outer);
    match result {
        Ok(result) => {
            result.map_err(|e| Error::malformed(path, format_args!("not a Parquet file that can be read: {e}")))
        }
        Err(_) => Err(Error::malformed(path, "not a Parquet file that can be read: the reader failed on it")),
    }
}

#[cfg(test)]
mod tests {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::json;

    use super::*;

    const SCHEMA: &str = "message schema {
        required binary text (UTF8);
        optional int64 label;
        optional group answers {
            optional group text (LIST) { repeated group list { optional binary element (UTF8); } }
            optional group answer_start (LIST) { repeated group list { optional int32 element; } }
        }
        required binary blob;
        required double score;
    }";

    /// Two groups of rows: one row, and two.
    fn write(path: &Path) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let texts: [&[&str]; 2] = [&["one"], &["two", "dréi"]];
        for (group, texts) in texts.into_iter().enumerate() {
            let rows = texts.len();
            let bytes: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
            let mut groups = writer.next_row_group().unwrap();
            let mut column = groups.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&bytes, None, None).unwrap();
            column.close().unwrap();
            // Only the first of the labels of a group is there.
            let mut column = groups.next_column().unwrap().unwrap();
            let levels: Vec<i16> = (0..rows).map(|row| i16::from(row == 0)).collect();
            column.typed::<Int64Type>().write_batch(&[7 + group as i64], Some(&levels), None).unwrap();
            column.close().unwrap();
            // Each row has a list of one text; the last has none.
            let mut column = groups.next_column().unwrap().unwrap();
            let levels: Vec<i16> = (0..rows).map(|row| if row == 0 { 4 } else { 2 }).collect();
            let repeats = vec![0i16; rows];
            column.typed::<ByteArrayType>().write_batch(&bytes[..1], Some(&levels), Some(&repeats)).unwrap();
            column.close().unwrap();
            let mut column = groups.next_column().unwrap().unwrap();
            column.typed::<Int32Type>().write_batch(&[5], Some(&levels), Some(&repeats)).unwrap();
            column.close().unwrap();
            let mut column = groups.next_column().unwrap().unwrap();
            let blobs = vec![ByteArray::from(vec![0xffu8, 0xfe]); rows];
            column.typed::<ByteArrayType>().write_batch(&blobs, None, None).unwrap();
            column.close().unwrap();
            let mut column = groups.next_column().unwrap().unwrap();
            column.typed::<DoubleType>().write_batch(&vec![0.5; rows], None, None).unwrap();
            column.close().unwrap();
            groups.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn columns(names: &[&str]) -> Columns {
        Columns::new(names, &["no such column"])
    }

    #[test]
    fn the_columns_that_are_needed_are_read_from_all_groups() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<Path> = folder.path().join("a.parquet").into();
        write(&path);
        let mut reader = ParquetReader::open(&path, &columns(&["score", "answers", "label", "text"])).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = reader.next().unwrap() {
            rows.push(row);
        }
        assert_eq!(rows.len(), 3);
        assert_eq!(reader.position(), std::fs::metadata(&path).unwrap().len());
        let texts: Vec<_> = rows.iter().map(|row| row.text("text").unwrap()).collect();
        assert_eq!(texts, ["one", "two", "dréi"]);
        assert_eq!((rows[0].get("label").unwrap(), rows[2].get("label").unwrap()), (&json!(7), &Value::Null));
        assert_eq!(rows[1].get("answers").unwrap(), &json!({"text": ["two"], "answer_start": [5]}));
        assert_eq!(rows[2].get("answers").unwrap(), &json!({"text": [], "answer_start": []}));
        assert_eq!((rows[0].number("score").unwrap(), rows[2].origin().place.row), (0.5, 3));
    }

    #[test]
    fn what_is_no_text_or_no_column_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<Path> = folder.path().join("a.parquet").into();
        write(&path);
        let error = ParquetReader::open(&path, &columns(&["blob"])).unwrap().next().unwrap_err().to_string();
        assert!(error.ends_with("row 1: column `blob` holds bytes that are not UTF-8, expected text"), "{error}");
        let error = ParquetReader::open(&path, &columns(&["txt"])).map(drop).unwrap_err().to_string();
        assert!(error.contains("no column `txt`; did you mean `text`?; the columns are `text`, `label`"), "{error}");
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<Path> = folder.path().join("a.parquet").into();
        write(&path);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = ParquetReader::open(&path, &Columns::default()).map(drop).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
        }
        // Whatever byte is damaged: rows or an error, never a panic, and never without end.
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, &damaged).unwrap();
            let Ok(mut reader) = ParquetReader::open(&path, &columns(&["text", "label", "answers"])) else { continue };
            for _ in 0..100 {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}
