//! Tokenizers against Python's: every folder of `data/tokenizers`, which `xtask reference` records.
//!
//! A folder holds the files as old repositories on the Hub have them, or as Python saves them, and `golden.json` with
//! what Python makes of the texts in `sample.json`. Everything is compared exactly.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value};
use tx_core::tokenizer::{EncodeOptions, Encoding, PadTo, Padding, Side, SpecialToken, Text, Tokenizer, Truncation};

/// `golden.json`, as far as it is compared.
#[derive(Deserialize)]
struct Golden {
    length: usize,
    special_tokens: Map<String, Value>,
    added_tokens: Map<String, Value>,
    padding_side: String,
    truncation_side: String,
    model_max_length: Option<usize>,
    model_input_names: Vec<String>,
    texts: Vec<Row>,
    pairs: Vec<Row>,
    bare: Vec<Row>,
    words: Vec<Row>,
    batches: Vec<Batch>,
    long: Long,
}

/// One text or pair. Texts are places in the sample, but for `words`.
#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    text: usize,
    pair: Option<usize>,
    #[serde(default)]
    words: Vec<String>,
    /// What Python says where it refuses.
    error: Option<String>,
    #[serde(default)]
    input_ids: Vec<u32>,
    /// Start and end of every token in turn.
    #[serde(default)]
    offsets: Vec<usize>,
    #[serde(default)]
    token_type_ids: Vec<u32>,
    #[serde(default)]
    special_tokens_mask: Vec<u32>,
    word_ids: Option<Vec<Option<u32>>>,
    decoded: Option<String>,
    decoded_skip: Option<String>,
}

#[derive(Deserialize)]
struct Batch {
    /// Those of the tokenizer's call in Python.
    arguments: Map<String, Value>,
    texts: Vec<usize>,
    pairs: Option<Vec<usize>>,
    output: Option<BatchOutput>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct BatchOutput {
    input_ids: Vec<Vec<u32>>,
    token_type_ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<u32>>,
    special_tokens_mask: Vec<Vec<u32>>,
    offsets: Vec<Vec<usize>>,
    overflow_to_sample_mapping: Option<Vec<usize>>,
}

/// A long text, by hashes.
#[derive(Deserialize)]
struct Long {
    characters: usize,
    count: usize,
    ids: String,
    offsets: String,
}

fn data() -> PathBuf {
    PathBuf::from("data/tokenizers")
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn sample() -> Vec<String> {
    read(&data().join("sample.json"))
}

/// Every folder with its tokenizer and what Python makes of it.
fn each(mut check: impl FnMut(&str, &Tokenizer, &Golden)) {
    let mut folders: Vec<PathBuf> = fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("golden.json").is_file());
    folders.sort();
    assert!(!folders.is_empty(), "no tokenizers in {}", data().display());
    // The first difference of every folder is printed, not only that of the first folder.
    folders.retain(|folder| {
        let check = || {
            let golden = read(&folder.join("golden.json"));
            let tokenizer = Tokenizer::from_folder(folder).unwrap_or_else(|e| panic!("{e}"));
            check(folder.file_name().unwrap().to_str().unwrap(), &tokenizer, &golden);
        };
        catch_unwind(AssertUnwindSafe(check)).is_err()
    });
    assert!(folders.is_empty(), "not as in Python: {folders:?}");
}

fn flat(offsets: &[(usize, usize)]) -> Vec<usize> {
    offsets.iter().flat_map(|&(start, end)| [start, end]).collect()
}

/// FNV-1a, 64 bits, over the numbers as little-endian `u32`, in hexadecimal.
fn fnv(numbers: impl IntoIterator<Item = u32>) -> String {
    let bytes = numbers.into_iter().flat_map(u32::to_le_bytes);
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

fn compare(what: &str, row: &Row, encoding: &Encoding, tokenizer: &Tokenizer) {
    assert_eq!(encoding.ids, row.input_ids, "{what}: ids");
    assert_eq!(flat(&encoding.offsets), row.offsets, "{what}: offsets");
    assert_eq!(encoding.type_ids, row.token_type_ids, "{what}: type ids");
    assert_eq!(encoding.special_tokens_mask, row.special_tokens_mask, "{what}: special tokens mask");
    assert_eq!(encoding.attention_mask, vec![1; encoding.len()], "{what}: attention mask");
    if let Some(word_ids) = &row.word_ids {
        assert_eq!(&encoding.word_ids, word_ids, "{what}: word ids");
    }
    for (decoded, skip) in [(&row.decoded, false), (&row.decoded_skip, true)] {
        if let Some(decoded) = decoded {
            assert_eq!(&tokenizer.decode(&encoding.ids, skip).unwrap(), decoded, "{what}: decoded, skip {skip}");
        }
    }
}

#[test]
fn properties() {
    each(|name, tokenizer, golden| {
        assert_eq!(tokenizer.vocab_size(), golden.length, "{name}: length");
        assert_eq!(tokenizer.model_max_length(), golden.model_max_length, "{name}: model_max_length");
        let side = |side| if side == Side::Left { "left" } else { "right" };
        assert_eq!(side(tokenizer.padding_side()), golden.padding_side, "{name}: padding_side");
        assert_eq!(side(tokenizer.truncation_side()), golden.truncation_side, "{name}: truncation_side");
        let types = golden.model_input_names.iter().any(|name| name == "token_type_ids");
        assert_eq!(tokenizer.has_token_type_ids(), types, "{name}: model_input_names");
        let special = tokenizer.special();
        for (key, found) in [
            ("unk", &special.unk),
            ("bos", &special.bos),
            ("eos", &special.eos),
            ("sep", &special.sep),
            ("cls", &special.cls),
            ("pad", &special.pad),
            ("mask", &special.mask),
        ] {
            let expected = golden.special_tokens.get(key).map(|token| SpecialToken {
                text: token["token"].as_str().unwrap().to_owned(),
                id: token["id"].as_u64().unwrap() as u32,
            });
            assert_eq!(found, &expected, "{name}: {key}_token");
        }
        for (id, token) in &golden.added_tokens {
            let (id, content) = (id.parse().unwrap(), token["content"].as_str().unwrap());
            assert_eq!(tokenizer.token_to_id(content), Some(id), "{name}: {content}");
            assert!(id <= tokenizer.max_id(), "{name}: {content}");
        }
        for id in 0..=tokenizer.max_id() {
            assert!(tokenizer.id_to_token(id).is_some(), "{name}: no token {id}");
        }
    });
}

#[test]
fn texts_and_pairs() {
    let sample = sample();
    each(|name, tokenizer, golden| {
        let encode = |text: &Text, add_special_tokens| {
            let options = EncodeOptions { add_special_tokens, ..Default::default() };
            let mut encodings = tokenizer.encode(text, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(encodings.len(), 1);
            encodings.remove(0)
        };
        assert_eq!(golden.texts.len(), sample.len());
        for (place, row) in golden.texts.iter().enumerate() {
            let encoding = encode(&Text::from(sample[place].as_str()), true);
            compare(&format!("{name}: text {place}"), row, &encoding, tokenizer);
        }
        for row in &golden.pairs {
            let (first, second) = (row.text, row.pair.unwrap());
            let encoding = encode(&Text::pair(&sample[first], &sample[second]), true);
            compare(&format!("{name}: pair {first}, {second}"), row, &encoding, tokenizer);
        }
        for row in &golden.bare {
            let encoding = encode(&Text::from(sample[row.text].as_str()), false);
            compare(&format!("{name}: bare text {}", row.text), row, &encoding, tokenizer);
        }
        for (place, row) in golden.words.iter().enumerate() {
            // Python's wrapper refuses words for some byte-level tokenizers; the library underneath does not.
            if row.error.is_none() {
                let encoding = encode(&Text::words(&row.words), true);
                compare(&format!("{name}: words {place}"), row, &encoding, tokenizer);
            }
        }
    });
}

/// The options, and the padding, of a call in Python.
fn arguments(arguments: &Map<String, Value>) -> (EncodeOptions, Option<Padding>) {
    let (mut options, mut to, mut multiple_of, mut padding_side) = (EncodeOptions::default(), None, None, None);
    let side = |value: &Value| Some(if value == "left" { Side::Left } else { Side::Right });
    let number = |value: &Value| value.as_u64().map(|n| n as usize);
    options.max_length = arguments.get("max_length").and_then(number);
    // The recorder sets the attribute for every call.
    options.truncation_side = Some(Side::Right);
    for (key, value) in arguments {
        match (key.as_str(), value) {
            ("max_length", _) => {}
            ("add_special_tokens", Value::Bool(add)) => options.add_special_tokens = *add,
            ("stride", _) => options.stride = number(value).unwrap(),
            ("return_overflowing_tokens", Value::Bool(overflowing)) => options.return_overflowing = *overflowing,
            ("truncation_side", _) => options.truncation_side = side(value),
            ("padding_side", _) => padding_side = side(value),
            ("pad_to_multiple_of", _) => multiple_of = number(value),
            ("padding", Value::Bool(true)) => to = Some(PadTo::Longest),
            ("padding", Value::String(text)) if text == "max_length" => {
                to = Some(options.max_length.map_or(PadTo::ModelMaxLength, PadTo::Length));
            }
            ("truncation", Value::Bool(true)) => options.truncation = Truncation::LongestFirst,
            ("truncation", Value::String(text)) => {
                options.truncation = match text.as_str() {
                    "longest_first" => Truncation::LongestFirst,
                    "only_first" => Truncation::OnlyFirst,
                    "only_second" => Truncation::OnlySecond,
                    other => panic!("truncation `{other}`"),
                }
            }
            other => panic!("argument {other:?}"),
        }
    }
    (options, to.map(|to| Padding { to, multiple_of, side: padding_side }))
}

#[test]
fn batches() {
    let sample = sample();
    each(|name, tokenizer, golden| {
        for (place, batch) in golden.batches.iter().enumerate() {
            let what = format!("{name}: batch {place} {:?}", batch.arguments);
            let (options, padding) = arguments(&batch.arguments);
            // The one contradiction that is between two steps here.
            let multiple =
                padding.and_then(|p| p.multiple_of).filter(|_| options.truncation != Truncation::DoNotTruncate);
            if multiple.zip(options.max_length).is_some_and(|(multiple, length)| length % multiple != 0) {
                assert!(batch.error.is_some(), "{what}");
                continue;
            }
            let texts: Vec<Text> = match &batch.pairs {
                None => batch.texts.iter().map(|&text| Text::from(sample[text].as_str())).collect(),
                Some(pairs) => {
                    let pair = |(&a, &b): (&usize, &usize)| Text::pair(&sample[a], &sample[b]);
                    batch.texts.iter().zip(pairs).map(pair).collect()
                }
            };
            let encoded = tokenizer.encode_batch(&texts, &options).and_then(|mut encodings| {
                padding.map_or(Ok(()), |padding| tokenizer.pad(&mut encodings, &padding))?;
                Ok(encodings)
            });
            let Some(output) = &batch.output else {
                let error = encoded.err().unwrap_or_else(|| panic!("{what}: Python says {:?}", batch.error));
                assert!(matches!(error, tx_core::Error::Input { .. }), "{what}: {error}");
                continue;
            };
            let encodings = encoded.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(encodings.len(), output.input_ids.len(), "{what}: rows");
            for (row, encoding) in encodings.iter().enumerate() {
                let what = format!("{what}: row {row}");
                assert_eq!(encoding.ids, output.input_ids[row], "{what}: ids");
                assert_eq!(encoding.type_ids, output.token_type_ids[row], "{what}: type ids");
                assert_eq!(encoding.attention_mask, output.attention_mask[row], "{what}: attention mask");
                assert_eq!(
                    encoding.special_tokens_mask, output.special_tokens_mask[row],
                    "{what}: special tokens mask"
                );
                assert_eq!(flat(&encoding.offsets), output.offsets[row], "{what}: offsets");
            }
            if let Some(samples) = &output.overflow_to_sample_mapping {
                assert_eq!(&encodings.iter().map(|e| e.sample).collect::<Vec<_>>(), samples, "{what}: samples");
            }
        }
    });
}

#[test]
fn long_text() {
    let joined = sample().join(" ");
    each(|name, tokenizer, golden| {
        let long = &golden.long;
        let text: String =
            [joined.as_str()].iter().cycle().flat_map(|text| text.chars().chain([' '])).take(long.characters).collect();
        let encoding = tokenizer.encode(&Text::from(text.as_str()), &EncodeOptions::default()).unwrap().remove(0);
        assert_eq!(encoding.len(), long.count, "{name}: count");
        assert_eq!(fnv(encoding.ids), long.ids, "{name}: ids");
        assert_eq!(fnv(flat(&encoding.offsets).into_iter().map(|at| at as u32)), long.offsets, "{name}: offsets");
    });
}

/// One folder of each family.
const FAMILIES: [&str; 8] =
    ["albert", "bert-uncased", "deberta-v2-lower", "gpt2-json", "llama", "roberta", "t5", "xlm-roberta-json"];

/// The promise is a second for a megabyte, which holds for these; the bound leaves room for a busy machine, and is far
/// below what anything would take that grows with the square of the text.
#[test]
fn a_megabyte_is_no_burden() {
    let joined = sample().join(" ");
    let text = joined.repeat(1_000_000 / joined.len() + 1);
    let one_word: String = joined.chars().filter(|c| c.is_alphabetic()).cycle().take(300_000).collect();
    for name in FAMILIES {
        let tokenizer = Tokenizer::from_folder(&data().join(name)).unwrap();
        for text in [text.as_str(), one_word.as_str(), &" ".repeat(300_000), &"<mask> ".repeat(50_000)] {
            let start = Instant::now();
            tokenizer.encode(&Text::from(text), &EncodeOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let took = start.elapsed();
            let head: String = text.chars().take(20).collect();
            assert!(took < Duration::from_secs(10), "{name}: {} bytes of `{head}…` took {took:?}", text.len());
        }
    }
}

/// Random numbers (xorshift64), the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    /// Breaks a file in one place.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let some = at..(at + 1 + self.below(30)).min(bytes.len());
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => bytes[at] = self.below(256) as u8,
            2 => drop(bytes.drain(some)),
            3 => {
                let copy = bytes[some].to_vec();
                let to = self.below(bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            // Numbers are where the lies are.
            4 => match bytes[at..].iter().position(u8::is_ascii_digit) {
                Some(digit) => drop(bytes.splice(at + digit..=at + digit, *b"4294967295")),
                None => bytes[at] ^= 0x80,
            },
            _ => bytes[at] ^= 1 << self.below(8),
        }
    }
}

/// Every file, broken in many ways: an error or a tokenizer that works, never a panic.
#[test]
fn broken_files_are_errors_or_harmless() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut loaded, mut refused) = (0, 0);
    for name in FAMILIES {
        let original = data().join(name);
        let files: Vec<PathBuf> = fs::read_dir(&original).unwrap().map(|entry| entry.unwrap().path()).collect();
        let is_input = |file: &&PathBuf| !file.file_name().unwrap().to_str().unwrap().starts_with("golden");
        let files: Vec<&PathBuf> = files.iter().filter(is_input).collect();
        for spoiled in &files {
            for round in 0..40 {
                let folder = tempfile::tempdir().unwrap();
                for file in &files {
                    let mut bytes = fs::read(file).unwrap();
                    if file == spoiled {
                        random.spoil(&mut bytes);
                    }
                    fs::write(folder.path().join(file.file_name().unwrap()), bytes).unwrap();
                }
                let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) else {
                    refused += 1;
                    continue;
                };
                loaded += 1;
                let text = Text::pair("Héllo <mask>[MASK]  wörld\u{fdfa} ①ﬁ", "你好 \u{1f600} 1,25\n");
                if let Ok(encodings) = tokenizer.encode(&text, &EncodeOptions::default()) {
                    let what = format!("{}, round {round}", spoiled.display());
                    for encoding in encodings {
                        assert!(encoding.ids.iter().all(|&id| id <= tokenizer.max_id()), "{what}");
                        let _ = tokenizer.decode(&encoding.ids, true);
                    }
                }
            }
        }
    }
    assert!(loaded > 100 && refused > 100, "{loaded} loaded, {refused} refused");
}
