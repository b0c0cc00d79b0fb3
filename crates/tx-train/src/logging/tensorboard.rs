//! Event files for TensorBoard.
//!
//! A file is a sequence of records: length, its checksum, an `Event` as a protocol buffer, its checksum. The few
//! messages of TensorFlow's `event.proto`, `summary.proto` and `tensor.proto` that matter are written out here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use serde_json::Value;
use tx_core::{Error, Result};

use super::logged_number;
use crate::callback::{Callback, Context, TrainerControl};
use crate::checkpoint::Logs;

/// The folder of event files, where it is not one of `output_dir`; as in HF.
const FOLDER_VARIABLE: &str = "TENSORBOARD_LOGGING_DIR";
/// What the first record of a file says.
const FILE_VERSION: &str = "brain.Event:2";
/// TensorFlow's number for tensors of strings.
const DT_STRING: i32 = 7;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

/// Writes records.
#[derive(Debug)]
struct EventWriter<W> {
    out: W,
}

impl<W: Write> EventWriter<W> {
    /// Begins a file at this time, in seconds since 1970.
    fn begin(out: W, wall_time: f64) -> io::Result<Self> {
        let mut writer = Self { out };
        writer.write(&Event { wall_time, file_version: Some(FILE_VERSION.to_owned()), ..Event::default() })?;
        Ok(writer)
    }

    /// Writes a number.
    fn scalar(&mut self, tag: &str, number: f64, step: u64, wall_time: f64) -> io::Result<()> {
        let simple_value = Some(number as f32);
        self.value(SummaryValue { tag: tag.to_owned(), simple_value, ..SummaryValue::default() }, step, wall_time)
    }

    /// Writes a text, which TensorBoard renders as Markdown.
    fn text(&mut self, tag: &str, text: &str, step: u64, wall_time: f64) -> io::Result<()> {
        let tensor = TensorProto {
            dtype: DT_STRING,
            tensor_shape: Some(TensorShape { dim: vec![Dim { size: 1 }] }),
            string_val: vec![text.as_bytes().to_vec()],
        };
        let metadata = SummaryMetadata { plugin_data: Some(PluginData { plugin_name: "text".to_owned() }) };
        let tag = format!("{tag}/text_summary");
        let value = SummaryValue { tag, tensor: Some(tensor), metadata: Some(metadata), ..SummaryValue::default() };
        self.value(value, step, wall_time)
    }

    fn value(&mut self, value: SummaryValue, step: u64, wall_time: f64) -> io::Result<()> {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        self.write(&Event { wall_time, step, summary: Some(Summary { value: vec![value] }), ..Event::default() })
    }

    /// Writes one record, at once.
    fn write(&mut self, event: &Event) -> io::Result<()> {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(&data);
        record.extend(masked_crc32c(&data).to_le_bytes());
        self.out.write_all(&record)
    }
}

/// The checksum as records hold it: turned and moved, because data that holds its own checksum defeats the plain one.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The checksum of Castagnoli.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ CRC32C[usize::from(crc as u8 ^ byte)])
}

/// The checksum of every byte, by the polynomial of Castagnoli with its lowest bit first.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Writes what is logged to an event file in `runs/<time>` of `output_dir`, and the arguments once.
#[derive(Debug, Default)]
pub struct TensorBoardCallback {
    writer: Option<(PathBuf, EventWriter<File>)>,
}

impl TensorBoardCallback {
    fn write(&mut self, write: impl FnOnce(&mut EventWriter<File>) -> io::Result<()>) {
        let Some((path, writer)) = &mut self.writer else { return };
        if let Err(error) = write(writer) {
            tracing::warn!("{}: {error}; the training goes on without TensorBoard", path.display());
            self.writer = None;
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The name of a log in TensorBoard, where those of training, evaluation and prediction are apart.
fn tag(name: &str) -> String {
    for split in ["eval", "test"] {
        if let Some(rest) = name.strip_prefix(split).and_then(|rest| rest.strip_prefix('_')) {
            return format!("{split}/{rest}");
        }
    }
    format!("train/{name}")
}

impl Callback for TensorBoardCallback {
    fn name(&self) -> &'static str {
        "TensorBoardCallback"
    }

    fn on_train_begin(&mut self, context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        let default = || {
            let run = chrono::Local::now().format("%b%d_%H-%M-%S").to_string();
            context.arguments.output_dir.join("runs").join(run)
        };
        let folder = std::env::var_os(FOLDER_VARIABLE).map_or_else(default, PathBuf::from);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let time = now();
        let path = folder.join(format!("events.out.tfevents.{time:.0}.tx.{}.0", std::process::id()));
        let file = File::create(&path).map_err(Error::io(&path))?;
        let writer = EventWriter::begin(file, time).map_err(Error::io(&path))?;
        self.writer = Some((path, writer));
        let arguments = serde_json::to_string_pretty(&context.arguments.to_json()).unwrap_or_default();
        self.write(|writer| writer.text("args", &arguments, 0, time));
        Ok(())
    }

    fn on_log(&mut self, context: Context<'_>, _control: &mut TrainerControl, logs: &Logs) -> Result<()> {
        let (step, time) = (context.state.global_step, now());
        for (name, value) in logs {
            let tag = tag(name);
            match (logged_number(value), value) {
                (Some(number), _) => self.write(|writer| writer.scalar(&tag, number, step, time)),
                (None, Value::String(text)) => self.write(|writer| writer.text(&tag, text, step, time)),
                _ => {}
            }
        }
        Ok(())
    }

    fn on_train_end(&mut self, _context: Context<'_>, _control: &mut TrainerControl) -> Result<()> {
        self.writer = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::logs;
    use super::*;
    use crate::arguments::TrainingArguments;
    use crate::checkpoint::TrainerState;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// What TensorBoard's own writer makes of the same; xtask/reference/goldens_train_metrics.py records it.
    #[test]
    fn a_file_is_pythons_byte_by_byte() {
        let path = Path::new("../../tests/data/train/metrics/events.tfevents");
        let mut writer = EventWriter::begin(Vec::new(), 1_700_000_000.25).unwrap();
        writer.text("args", "{\"seed\": 42}\né", 0, 1_700_000_000.5).unwrap();
        for (step, tag, value) in
            [(1u64, "train/loss", 2.5), (500, "eval/loss", f64::NAN), (1 << 40, "train/epoch", 1e-9)]
        {
            writer.scalar(tag, value, step, 1_700_000_001.0 + step as f64).unwrap();
        }
        assert_eq!(writer.out, fs::read(path).unwrap());
    }

    #[test]
    fn names_are_sorted_by_split() {
        assert_eq!(tag("loss"), "train/loss");
        assert_eq!(tag("eval_loss"), "eval/loss");
        assert_eq!(tag("test_f1"), "test/f1");
        assert_eq!(tag("evaluation"), "train/evaluation");
    }

    #[test]
    fn a_training_has_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = TrainingArguments { output_dir: folder.path().to_path_buf(), ..TrainingArguments::default() };
        let state = TrainerState { global_step: 3, ..TrainerState::default() };
        let (context, mut control) = (Context { arguments: &arguments, state: &state }, TrainerControl::default());
        let mut callback = TensorBoardCallback::default();
        callback.on_log(context, &mut control, &logs([("loss", 1.0)])).unwrap();
        callback.on_train_begin(context, &mut control).unwrap();
        let path = callback.writer.as_ref().unwrap().0.clone();
        let begun = fs::metadata(&path).unwrap().len();
        let mut both = logs([("loss", 1.0), ("eval_loss", f64::INFINITY)]);
        both.insert("note".to_owned(), "text".into());
        callback.on_log(context, &mut control, &both).unwrap();
        callback.on_train_end(context, &mut control).unwrap();
        let bytes = fs::read(&path).unwrap();
        let (mut rest, mut events) = (bytes.as_slice(), Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<8>() {
            let end = u64::from_le_bytes(*length) as usize + 4;
            events.push(Event::decode(&after[4..end]).unwrap());
            rest = &after[end + 4..];
        }
        assert!(begun < bytes.len() as u64 && events.len() == 5);
        let values: Vec<_> = events[2..].iter().map(|event| event.summary.as_ref().unwrap().value[0].clone()).collect();
        assert!(events[2..].iter().all(|event| event.step == 3));
        assert_eq!((values[0].tag.as_str(), values[0].simple_value), ("train/loss", Some(1.0)));
        assert_eq!((values[1].tag.as_str(), values[1].simple_value), ("eval/loss", Some(f32::INFINITY)));
        assert_eq!((values[2].tag.as_str(), values[2].simple_value), ("train/note/text_summary", None));
    }
}
