//! The weights as safetensors: headers that lie, an index that leads astray, tensors that do not fit the model.

use std::fs;

use serde_json::{Map, Value, json};

use crate::folder::{Folder, floats, integers};
use crate::{EMBED, FORWARD, INFO, RUN, Row};

const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00001-of-00001.safetensors";
/// Tensors of the model, by their names in the file.
const WORDS: &str = "bert.embeddings.word_embeddings.weight";
const NORM: &str = "bert.embeddings.LayerNorm.weight";

pub fn rows() -> Vec<Row> {
    let mut rows = files();
    rows.extend(headers());
    rows.extend(indices());
    rows.extend(models());
    rows
}

/// A file with this header and as many zeros of data.
fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}

/// Files whose frame is broken.
fn files() -> Vec<Row> {
    let row = |name: &str, expected: &[&str], bytes: Vec<u8>| {
        Row::new(name, INFO, &[&[FILE][..], expected].concat(), move |f| f.write(FILE, &bytes))
    };
    let claim = |len: u64| [&len.to_le_bytes()[..], b"{}"].concat();
    let deep = "[".repeat(100_000);
    vec![
        Row::good("file", INFO, |_| ()),
        row("empty file", &["empty"], vec![]),
        row("7 bytes", &["7 bytes"], vec![0; 7]),
        row("header of 2⁶⁴ − 1 bytes", &["header", "100 MB"], claim(u64::MAX)),
        row("header of 2⁶³ bytes", &["header", "100 MB"], claim(1 << 63)),
        row("header of more than 100 MB", &["header", "100 MB"], claim(100_000_001)),
        row("header beyond the file", &["header", "10 bytes"], claim(5000)),
        row("header that is not UTF-8", &["header", "UTF-8"], file(b"{\"\xff\":1}", 0)),
        row("header that is not JSON", &["header"], file("{'a': 1}", 0)),
        row("header that is a list", &["header"], file("[]", 0)),
        row("header of lists in lists", &["header"], file(&deep, 0)),
        row("header of lists in a tensor", &["header"], file(format!("{{\"w\":{deep}"), 0)),
        row("text file", &["header"], b"<!DOCTYPE html><html><head><title>Not found</title></head></html>".to_vec()),
        row(
            "pointer of Git LFS",
            &["Git LFS"],
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec(),
        ),
        Row::new("truncated data", INFO, &[FILE, "truncated"], |f| {
            let bytes = fs::read(f.path(FILE)).unwrap();
            f.write(FILE, &bytes[..bytes.len() - 10]);
        }),
        Row::new("truncated header", INFO, &[FILE, "header"], |f| {
            let bytes = fs::read(f.path(FILE)).unwrap();
            f.write(FILE, &bytes[..500]);
        }),
        Row::new("trailing bytes", INFO, &[FILE, "header lies"], |f| {
            let bytes = fs::read(f.path(FILE)).unwrap();
            f.write(FILE, [bytes, vec![0; 8]].concat());
        }),
        Row::new("zeros", INFO, &[FILE, "header"], |f| f.write_zeros(FILE, 1 << 30)),
        Row::new("no weights", FORWARD, &["model", FILE, "pytorch_model.bin"], |f| f.remove(FILE)),
    ]
}

/// Headers that are JSON but not true.
fn headers() -> Vec<Row> {
    let row = |name: &str, expected: &[&str], header: String, data: usize| {
        Row::new(name, INFO, &[&[FILE][..], expected].concat(), move |f| f.write(FILE, file(&header, data)))
    };
    // One tensor `w`: its dtype, shape and offsets.
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    // Two tensors `v` and `w` of four numbers each.
    let two = |v: &str, w: &str| {
        let entry = |offsets: &str| format!(r#"{{"dtype":"F32","shape":[4],"data_offsets":{offsets}}}"#);
        format!(r#"{{"v":{},"w":{}}}"#, entry(v), entry(w))
    };
    let twice = |first: &str, second: &str| {
        let (first, second) = (one("F32", first, "[0,16]"), one("F32", second, "[0,16]"));
        format!("{},{}", first.trim_end_matches('}').to_owned() + "}", &second[1..])
    };
    let many: String =
        (0..150_000).map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"#)).collect();
    let w = "`w`";
    vec![
        Row::good("header", INFO, move |f| f.write(FILE, file(one("F32", "[4]", "[0,16]"), 16))),
        Row::good("floats of eight bits", INFO, move |f| f.write(FILE, file(one("F8_E4M3", "[4]", "[0,4]"), 4))),
        row("unknown dtype", &[w, "F7"], one("F7", "[4]", "[0,16]"), 16),
        row("dtype that is a number", &[w], r#"{"w":{"dtype":7,"shape":[4],"data_offsets":[0,16]}}"#.into(), 16),
        row("dtype that cannot be held", &[w, "F8_E4M3FNUZ"], one("F8_E4M3FNUZ", "[4]", "[0,4]"), 4),
        row("pairs in an odd axis", &[w, "odd"], one("F4", "[2,3]", "[0,3]"), 3),
        row("shape that does not fit the offsets", &[w], one("F32", "[5]", "[0,16]"), 16),
        row("shape that overflows", &[w], one("F32", "[4294967296,4294967296]", "[0,16]"), 16),
        row("shape that overflows in bytes", &[w], one("F32", "[4611686018427387904]", "[0,0]"), 0),
        row("negative size", &[w, "-4"], one("F32", "[-4]", "[0,16]"), 16),
        row("size that is not an integer", &[w, "4.5"], one("F32", "[4.5]", "[0,16]"), 16),
        row("size beyond 64 bits", &[w], one("F32", "[18446744073709551616]", "[0,16]"), 16),
        row("shape that is a number", &[w], one("F32", "4", "[0,16]"), 16),
        row("nine axes", &[w, "9 axes"], one("F32", "[1,1,1,1,1,1,1,1,4]", "[0,16]"), 16),
        row("end before start", &[w], one("F32", "[4]", "[16,0]"), 16),
        row("negative offset", &[w], one("F32", "[4]", "[-16,0]"), 16),
        row("one offset", &[w], one("F32", "[4]", "[16]"), 16),
        row("three offsets", &[w], one("F32", "[4]", "[0,16,16]"), 16),
        row("no offsets", &[w, "data_offsets"], r#"{"w":{"dtype":"F32","shape":[4]}}"#.into(), 16),
        row("offsets past the end", &["truncated"], one("F32", "[1048576]", "[0,4194304]"), 16),
        row("offsets far past the end", &["truncated"], one("F32", "[1099511627776]", "[0,4398046511104]"), 16),
        row("overlap", &[w], two("[0,16]", "[8,24]"), 24),
        row("two tensors in one place", &[], two("[0,16]", "[0,16]"), 16),
        row("gap before the first", &["`v`"], two("[8,24]", "[24,40]"), 40),
        row("gap between", &[w], two("[0,16]", "[24,40]"), 40),
        row(
            "name of 5000 bytes",
            &["5000 bytes"],
            one("F32", "[4]", "[0,16]").replace("\"w\"", &format!("{:?}", "n".repeat(5000))),
            16,
        ),
        row("one name twice", &[w], twice("[4]", "[2,2]"), 16),
        row("metadata that is a list", &["__metadata__"], r#"{"__metadata__":[]}"#.into(), 0),
        row("tensor that is a list", &[w], r#"{"w":[]}"#.into(), 0),
        row("150000 tensors", &["tensors"], format!("{{{}}}", many.trim_end_matches(',')), 0),
    ]
}

/// Moves the weights into one shard and gives it an index, changed by `edit`.
fn sharded(folder: &Folder, edit: impl FnOnce(&mut Map<String, Value>)) {
    let names = tx_core::weights::safetensors::read(&folder.path(FILE)).unwrap().into_keys();
    let mut map = names.map(|name| (name, SHARD.into())).collect();
    edit(&mut map);
    folder.rename(FILE, SHARD);
    folder.write(INDEX, json!({ "metadata": {}, "weight_map": map }).to_string());
}

/// Indices that lead astray.
fn indices() -> Vec<Row> {
    let row = |name: &str, expected: &[&str], edit: fn(&mut Map<String, Value>)| {
        Row::new(name, INFO, &[&[INDEX][..], expected].concat(), move |f| sharded(f, edit))
    };
    // Every tensor is in this file.
    let all_in = |name: &str, shard: &'static str| {
        Row::new(name, INFO, &[INDEX, &format!("`{shard}`")], move |f| {
            fs::copy(f.path(FILE), f.root().join("outside.safetensors")).unwrap();
            sharded(f, |map| map.values_mut().for_each(|file| *file = shard.into()));
        })
    };
    let raw = |name: &str, expected: &[&str], text: &'static str| {
        Row::new(name, INFO, &[&[INDEX][..], expected].concat(), move |f| {
            f.remove(FILE);
            f.write(INDEX, text);
        })
    };
    vec![
        Row::good("index", INFO, |f| sharded(f, |_| ())),
        raw("index that is empty", &["JSON"], ""),
        raw("index that is not JSON", &["JSON"], "{"),
        raw("index that is a list", &["weight_map"], "[]"),
        raw("index without a map", &["weight_map"], r#"{"metadata": {}}"#),
        raw("index with a list for a map", &["weight_map"], r#"{"weight_map": ["a"]}"#),
        Row::new("index of more than 16 MiB", INFO, &[INDEX, "16777216"], |f| {
            f.remove(FILE);
            f.write_zeros(INDEX, (16 << 20) + 1);
        }),
        row("shard that is a number", &["`weight_map.bert.embeddings.LayerNorm.weight`"], |map| map[NORM] = 3.into()),
        row("missing shard", &["`model-00002-of-00002.safetensors`"], |map| {
            map[NORM] = "model-00002-of-00002.safetensors".into();
        }),
        row("shard without a name", &["``"], |map| map[NORM] = "".into()),
        row("20000 shards", &["20001 shards"], |map| {
            map.extend((0..20_000).map(|i| (format!("t{i}"), format!("s{i}.safetensors").into())));
        }),
        all_in("shard outside of the folder", "../outside.safetensors"),
        Row::new("shard with an absolute path", INFO, &[INDEX, "outside.safetensors", "not the name"], |f| {
            let outside = f.root().join("outside.safetensors");
            fs::copy(f.path(FILE), &outside).unwrap();
            sharded(f, |map| map.values_mut().for_each(|file| *file = outside.to_string_lossy().into()));
        }),
        all_in("index that names itself", INDEX),
        all_in("index that names another index", "pytorch_model.bin.index.json"),
        all_in("shard that is a folder", "."),
        Row::new("shard of an unknown kind", INFO, &["model/weights.txt", ".safetensors"], |f| {
            f.write("weights.txt", "0.1 0.2");
            sharded(f, |map| map[NORM] = "weights.txt".into());
        }),
        Row::new("tensor that is not in its shard", INFO, &[SHARD, "`no.such.weight`", INDEX], |f| {
            sharded(f, |map| drop(map.insert("no.such.weight".into(), SHARD.into())));
        }),
        Row::new("shard that is truncated", INFO, &[SHARD, "truncated"], |f| {
            sharded(f, |_| ());
            f.halve(SHARD);
        }),
        #[cfg(unix)]
        Row::new("shard that links to itself", INFO, &[INDEX, SHARD], |f| {
            sharded(f, |_| ());
            f.remove(SHARD);
            std::os::unix::fs::symlink(SHARD, f.path(SHARD)).unwrap();
        }),
    ]
}

/// Good files that do not fit the model.
fn models() -> Vec<Row> {
    vec![
        Row::good("forward pass", FORWARD, |_| ()),
        Row::good("embedding", EMBED, |_| ()),
        Row::new(
            "missing, unexpected and mis-shaped",
            FORWARD,
            &[
                FILE,
                "BertForSequenceClassification",
                "1 missing: `classifier.bias`",
                "1 unexpected: `bert.encoder.layer.0.extra.weight`",
                "1 mismatched: `bert.embeddings.LayerNorm.weight` is f32 [31], expected [32]",
            ],
            |f| {
                f.weights(|tensors| {
                    tensors.remove("classifier.bias").unwrap();
                    tensors.insert("bert.encoder.layer.0.extra.weight".into(), floats([2]));
                    tensors.insert(NORM.into(), floats([31]));
                });
            },
        ),
        Row::new("integers for floats", RUN, &[FILE, NORM, "i64"], |f| {
            f.weights(|tensors| drop(tensors.insert(NORM.into(), integers(&[1; 32], [32]))));
        }),
        Row::new("one axis too many", RUN, &[FILE, NORM, "[1, 32]"], |f| {
            f.weights(|tensors| drop(tensors.insert(NORM.into(), floats([1, 32]))));
        }),
        Row::new("one axis too few", EMBED, &[FILE, WORDS, "[25568]"], |f| {
            f.weights(|tensors| drop(tensors.insert(WORDS.into(), floats([25568]))));
        }),
        Row::new("empty tensor", EMBED, &[FILE, WORDS, "[0, 32]"], |f| {
            f.weights(|tensors| drop(tensors.insert(WORDS.into(), floats([0, 32]))));
        }),
        Row::new("no tensors", FORWARD, &[FILE, "missing", "embeddings.word_embeddings.weight"], |f| {
            f.write(FILE, file("{}", 0))
        }),
        Row::new(
            "weights of another architecture",
            FORWARD,
            &[FILE, "DistilBertForSequenceClassification", "missing"],
            |f| {
                f.json("config.json", |config| {
                    *config =
                        json!({ "model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"] });
                });
            },
        ),
        Row::new(
            "head that the checkpoint lacks",
            &["run", "fill-mask", "--model", "model", "I am [MASK]"],
            &[FILE, "BertForMaskedLM", "cls.predictions"],
            |_| (),
        ),
    ]
}
