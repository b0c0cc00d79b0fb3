//! What comes with the command: tensors, texts, options, names of models.

use std::fs;

use burn::tensor::TensorData;

use crate::folder::{floats, integers};
use crate::{EMBED, FORWARD, INFO, RUN, Row};

pub fn rows() -> Vec<Row> {
    let mut rows = tensors();
    rows.extend(texts());
    rows.extend(options());
    rows.extend(models());
    rows
}

/// Arguments of a forward pass.
fn tensors() -> Vec<Row> {
    type Tensors = Vec<(&'static str, TensorData)>;
    fn ids(ids: [i64; 4]) -> (&'static str, TensorData) {
        ("input_ids", integers(&ids, [1, 4]))
    }
    // Ids that are good, and another argument.
    fn with<const D: usize>(name: &'static str, values: &[i64], shape: [usize; D]) -> Tensors {
        vec![ids([4, 50, 51, 5]), (name, integers(values, shape))]
    }
    let row = |name: &str, expected: &[&str], tensors: fn() -> Tensors| {
        Row::new(name, FORWARD, expected, move |f| f.inputs(&tensors()))
    };
    // The model has 799 tokens, 96 positions and 2 types.
    vec![
        Row::good("types", FORWARD, |f| f.inputs(&with("token_type_ids", &[0, 0, 1, 1], [1, 4]))),
        Row::good("positions", FORWARD, |f| f.inputs(&with("position_ids", &[0, 1, 2, 95], [1, 4]))),
        row("id behind the last", &["input_ids", "799", "798"], || vec![ids([4, 50, 799, 5])]),
        row("largest id of all", &["input_ids", "9223372036854775807", "798"], || vec![ids([4, 50, i64::MAX, 5])]),
        row("negative id", &["input_ids", "-1"], || vec![ids([4, -1, 51, 5])]),
        row("too many ids", &["input_ids", "97", "96"], || vec![("input_ids", integers(&[50; 97], [1, 97]))]),
        row("no ids", &["input_ids", "no tokens"], || vec![("input_ids", integers(&[], [1, 0]))]),
        row("no rows", &["input_ids", "no tokens"], || vec![("input_ids", integers(&[], [0, 4]))]),
        row("one axis", &["input_ids", "1 axes", "[batch, seq]"], || vec![("input_ids", integers(&[50; 4], [4]))]),
        row("three axes", &["input_ids", "3 axes"], || vec![("input_ids", integers(&[50; 4], [1, 2, 2]))]),
        row("no axes", &["input_ids", "0 axes"], || vec![("input_ids", integers(&[50], []))]),
        row("floats for ids", &["input_ids", "f32", "i64"], || vec![("input_ids", floats([1, 4]))]),
        row("booleans for ids", &["input_ids", "bool"], || vec![("input_ids", TensorData::new(vec![true; 4], [1, 4]))]),
        row("no input_ids", &["input_ids", "nothing"], || vec![("attention_mask", integers(&[1; 4], [1, 4]))]),
        row("no tensors", &["input_ids", "nothing"], Vec::new),
        row("argument that is not known", &["input_idz", "input_ids"], || with("input_idz", &[1; 4], [1, 4])),
        row("mask of another length", &["attention_mask", "[1, 3]", "[1, 4]"], || {
            with("attention_mask", &[1; 3], [1, 3])
        }),
        row("mask of more rows", &["attention_mask", "[2, 4]"], || with("attention_mask", &[1; 8], [2, 4])),
        row("mask of one axis", &["attention_mask", "1 axes"], || with("attention_mask", &[1; 4], [4])),
        row("mask of floats", &["attention_mask", "f32"], || {
            vec![ids([4, 50, 51, 5]), ("attention_mask", floats([1, 4]))]
        }),
        row("mask with a two", &["attention_mask", "2", "0 to 1"], || with("attention_mask", &[1, 2, 1, 1], [1, 4])),
        row("type behind the last", &["token_type_ids", "2", "0 to 1"], || {
            with("token_type_ids", &[0, 0, 2, 2], [1, 4])
        }),
        row("position behind the last", &["position_ids", "96", "0 to 95"], || {
            with("position_ids", &[0, 1, 2, 96], [1, 4])
        }),
        row("negative position", &["position_ids", "-1"], || with("position_ids", &[0, 1, 2, -1], [1, 4])),
        Row::new("file of tensors that is missing", FORWARD, &["inputs.safetensors"], |f| {
            fs::remove_file(f.root().join("inputs.safetensors")).unwrap();
        }),
        Row::new("file of tensors that is truncated", FORWARD, &["inputs.safetensors", "truncated"], |f| {
            let path = f.root().join("inputs.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
    ]
}

/// Texts from the command line, from standard input, from a file.
fn texts() -> Vec<Row> {
    let long = "happy ".repeat(1000);
    let row = |name: &str, task: &[&str], expected: &[&str], stdin: &'static [u8]| {
        let command = [task, &["--model", "model"]].concat();
        Row::new(name, &command, expected, move |f| fs::write(f.root().join("stdin"), stdin).unwrap())
    };
    vec![
        Row::good("long text for an embedding", &["embed", "--model", "model", &long], |_| ()),
        Row::new(
            "long text without truncation",
            &["run", "text-classification", "--model", "model", &long],
            &["text", "96", "truncation"],
            |_| (),
        ),
        Row::new(
            "long line without truncation",
            &["run", "text-classification", "--model", "model", "-"],
            &["input 2", "96", "truncation"],
            {
                let lines = format!("fine\n{long}\n");
                move |f| fs::write(f.root().join("stdin"), &lines).unwrap()
            },
        ),
        row(
            "invalid UTF-8 on standard input",
            &["run", "text-classification", "-"],
            &["standard input", "UTF-8"],
            b"fine\n\xff\n",
        ),
        row("invalid UTF-8 for an embedding", &["embed", "-"], &["standard input", "UTF-8"], b"\xc3"),
        row("no text", &["run", "text-classification"], &["INPUT", "nothing"], b""),
        row("no text for an embedding", &["embed"], &["TEXT", "nothing"], b""),
        row("file of texts that is missing", &["embed", "--file", "texts.txt"], &["texts.txt"], b""),
        Row::new(
            "file of texts that is not UTF-8",
            &["embed", "--model", "model", "--file", "texts.txt"],
            &["texts.txt", "byte 5"],
            |f| {
                fs::write(f.root().join("texts.txt"), b"fine\n\xff\n").unwrap();
            },
        ),
    ]
}

/// Options that cannot be.
fn options() -> Vec<Row> {
    let row = |name: &str, command: &[&str], more: &[&str], expected: &[&str]| {
        Row::new(name, &[command, more].concat(), expected, |_| ())
    };
    vec![
        row("unknown device", RUN, &["--device", "tpu"], &["`tpu`", "available: "]),
        row("device that is not built in", RUN, &["--device", "rocm"], &["`rocm`", "--features rocm"]),
        row("device that is not there", EMBED, &["--device", "cpu:7"], &["`cpu:7`", "1 of this kind"]),
        row("device without a number", FORWARD, &["--device", "cpu:first"], &["`cpu:first`", "`first`"]),
        row("unknown dtype", RUN, &["--dtype", "f8"], &["--dtype", "f8", "bf16"]).code(2),
        row("unknown option", RUN, &["--modle", "model"], &["--modle"]).code(2),
        row("unknown command", &["rum"], &[], &["rum"]).code(2),
        row("batch that is not a number", EMBED, &["--batch-size", "many"], &["--batch-size", "many"]).code(2),
        row("forward pass without a model", &["forward"], &["--inputs", "a", "--outputs", "b"], &["--model"]).code(2),
        row(
            "unknown task",
            &["run", "text-clasification", "--model", "model"],
            &["a"],
            &["task", "did you mean `text-classification`"],
        ),
        row("option of another task", RUN, &["--stride", "4"], &["--stride", "token-classification"]),
        row("length below the special tokens", RUN, &["--max-length", "1"], &["max_length", "1", "at least 2"]),
        row("vector of length 0", EMBED, &["--truncate-dim", "0"], &["truncate_dim", "0"]),
        row("unknown prompt", EMBED, &["--prompt-name", "query"], &["prompt_name", "`query`"]),
        row("unknown class", FORWARD, &["--class", "BertForNothing"], &["class", "`BertForNothing`"]),
        row("class of another architecture", FORWARD, &["--class", "RobertaModel"], &["class", "`RobertaModel`"]),
        Row::new(
            "outputs that are a folder",
            &[&FORWARD[..5], &["--outputs", "model"]].concat(),
            &["--outputs", "`model`"],
            |_| (),
        ),
        Row::new(
            "outputs in a folder that is missing",
            &[&FORWARD[..5], &["--outputs", "no/where"]].concat(),
            &["no/where"],
            |_| (),
        ),
    ]
}

/// Names of models that lead nowhere: there is no network, and the cache is empty.
fn models() -> Vec<Row> {
    let row = |model: &str, expected: &[&str]| Row::new(format!("model {model}"), &["info", model], expected, |_| ());
    vec![
        row("owner/name", &["owner/name", "offline", "cache", "tx download"]),
        row("owner/name@v1", &["owner/name", "offline", "`v1`"]),
        row("name", &["name", "offline"]),
        row("owner/name/extra", &["model", "`owner/name/extra`", "owner/name[@revision]"]),
        row("../../no-such-folder", &["model", "`../../no-such-folder`", "no such folder"]),
        row("./no-such-folder", &["model", "no such folder"]),
        row("/no/such/folder", &["model", "no such folder"]),
        row("owner/..", &["model", "`owner/..`"]),
        row("owner/name@../../x", &["model", "`../../x`", "revision"]),
        row("no such folder!", &["model", "`no such folder!`"]),
        row("", &["model", "``"]),
        row("model/config.json", &["model", "`model/config.json`", "is a file"]),
        Row::new("model with line ends", &["info", "a\nb\u{1b}[2J"], &["model"], |_| ()),
        Row::new(
            "task without a model",
            &["run", "text-classification", "I am happy"],
            &["--model", "tx download"],
            |_| (),
        ),
        Row::new("download without a network", &["download", "owner/name"], &["owner/name", "offline"], |_| ()),
        Row::new("empty folder", INFO, &["model", "config.json"], |f| {
            fs::remove_dir_all(f.model()).unwrap();
            fs::create_dir(f.model()).unwrap();
        }),
    ]
}
