//! `config.json`, and the files beside it that say how sentences become vectors.

use serde_json::{Value, json};

use crate::folder::{Folder, floats};
use crate::{EMBED, FORWARD, INFO, RUN, Row};

const FILE: &str = "config.json";

pub fn rows() -> Vec<Row> {
    let mut rows = files();
    rows.extend(keys());
    rows.extend(architectures());
    rows.extend(sentence_modules());
    rows
}

/// Files that are not a config at all.
fn files() -> Vec<Row> {
    let row = |name: &str, expected: &[&str], bytes: Vec<u8>| {
        Row::new(name, INFO, &[&[FILE][..], expected].concat(), move |f| f.write(FILE, &bytes))
    };
    let deep = 100_000;
    vec![
        Row::new("missing", INFO, &["model", FILE], |f| f.remove(FILE)),
        Row::new("folder of this name", INFO, &["model", FILE], |f| {
            f.remove(FILE);
            std::fs::create_dir(f.path(FILE)).unwrap();
        }),
        row("empty", &["JSON"], vec![]),
        row("not JSON", &["JSON", "line 1"], b"model_type: bert\n".to_vec()),
        row("truncated", &["JSON"], b"{\"model_type\": \"bert\", \"hidden_si".to_vec()),
        row("a list", &["a list"], b"[]".to_vec()),
        row("a string", &["a string"], b"\"bert\"".to_vec()),
        row("invalid UTF-8", &["UTF-8", "byte 16"], b"{\"model_type\": \"\xff\"}".to_vec()),
        row("UTF-16", &["UTF-8"], b"\xff\xfe{\0}\0".to_vec()),
        row("lists in lists", &["JSON", "recursion"], b"[".repeat(deep)),
        row("maps in maps", &["JSON", "recursion"], b"{\"a\":".repeat(deep)),
        row("two values", &["JSON"], b"{} {}".to_vec()),
        Row::new("more than 16 MiB", INFO, &[FILE, "16777216"], |f| f.write_zeros(FILE, (16 << 20) + 1)),
        Row::new("far more than 16 MiB", INFO, &[FILE, "16777216"], |f| f.write_zeros(FILE, 1 << 40)),
    ]
}

/// Keys with values that cannot be. Each message names the key, and what else is listed.
fn keys() -> Vec<Row> {
    let table: &[(&str, &str, &str, &[&str])] = &[
        ("hidden_size 0", "hidden_size", "0", &["0 is out of range"]),
        ("hidden_size negative", "hidden_size", "-32", &["-32"]),
        ("hidden_size a string", "hidden_size", r#""32""#, &["32"]),
        ("hidden_size a fraction", "hidden_size", "32.5", &["32.5"]),
        ("hidden_size 1e30", "hidden_size", "1e30", &["1e+30"]),
        ("hidden_size beyond 64 bits", "hidden_size", "18446744073709551616", &["1.8446744073709552e+19"]),
        ("hidden_size 2⁶⁴ − 1", "hidden_size", "18446744073709551615", &["18446744073709551615"]),
        ("hidden_size NaN", "hidden_size", "NaN", &["NaN"]),
        ("hidden_size a list", "hidden_size", "[32]", &[]),
        ("hidden_size not divisible", "hidden_size", "30", &["30 is not a multiple of `num_attention_heads` = 4"]),
        ("hidden_size without heads for it", "num_attention_heads", "5", &["hidden_size"]),
        ("num_attention_heads 0", "num_attention_heads", "0", &["0 is out of range"]),
        ("num_attention_heads negative", "num_attention_heads", "-4", &["-4"]),
        ("num_hidden_layers 10⁹", "num_hidden_layers", "1000000000", &["1000000000"]),
        ("num_hidden_layers negative", "num_hidden_layers", "-1", &["-1"]),
        ("intermediate_size 0", "intermediate_size", "0", &["0 is out of range"]),
        ("vocab_size 0", "vocab_size", "0", &["0 is out of range"]),
        ("vocab_size 10¹²", "vocab_size", "1000000000000", &["1000000000000"]),
        ("max_position_embeddings 0", "max_position_embeddings", "0", &["0 is out of range"]),
        ("type_vocab_size 0", "type_vocab_size", "0", &["0 is out of range"]),
        ("layer_norm_eps NaN", "layer_norm_eps", "NaN", &["NaN"]),
        ("layer_norm_eps infinite", "layer_norm_eps", "Infinity", &["Infinity"]),
        ("layer_norm_eps negative", "layer_norm_eps", "-1e-12", &["-0.000000000001"]),
        ("layer_norm_eps a string", "layer_norm_eps", r#""1e-12""#, &["1e-12"]),
        ("hidden_act unknown", "hidden_act", r#""gelo""#, &["`gelo`", "gelu"]),
        ("hidden_act a number", "hidden_act", "3", &["3"]),
        ("position_embedding_type", "position_embedding_type", r#""relative_key""#, &["`relative_key`", "absolute"]),
        ("is_decoder", "is_decoder", "true", &["`true`", "false"]),
        ("id2label a list", "id2label", r#"["a", "b", "c", "d"]"#, &["a list"]),
        ("id2label with a gap", "id2label", r#"{"0": "a", "2": "b", "3": "c", "4": "d"}"#, &["class 1"]),
        ("id2label empty", "id2label", "{}", &["at least one"]),
        ("id2label with a name for a number", "id2label", r#"{"first": "a"}"#, &["`first`"]),
        ("id2label with a negative number", "id2label", r#"{"-1": "a"}"#, &["`-1`"]),
        ("model_type a number", "model_type", "7", &["a number"]),
        ("model_type a list", "model_type", r#"["bert"]"#, &["a list"]),
        ("model_type with a near name", "model_type", r#""brt""#, &["`brt`", "did you mean `bert`"]),
        ("model_type far from any name", "model_type", r#""stable-diffusion""#, &["`stable-diffusion`"]),
        (
            "architectures unknown",
            "architectures",
            r#"["BertForSequenceClasification"]"#,
            &["did you mean `BertForSequenceClassification`"],
        ),
        ("architectures a string", "architectures", r#""BertForSequenceClassification""#, &[]),
        ("architectures of another type", "architectures", r#"["RobertaModel"]"#, &["`RobertaModel`"]),
    ];
    let mut rows: Vec<Row> = table
        .iter()
        .map(|&(name, key, value, expected)| {
            let named = format!("`{key}`");
            let expected = [&[FILE, named.as_str()][..], expected].concat();
            Row::new(name, FORWARD, &expected, move |f| f.set(FILE, key, value))
        })
        .collect();
    rows.extend([
        Row::new("problem_type unknown", RUN, &[FILE, "`problem_type`", "`ranking`", "regression"], |f| {
            f.set(FILE, "problem_type", r#""ranking""#);
        }),
        Row::new(
            "quantization that is not supported",
            FORWARD,
            &[FILE, "`quantization_config.quant_method`", "`gptq`", "mxfp4, fp8"],
            |f| f.set(FILE, "quantization_config", r#"{"quant_method": "gptq", "bits": 4}"#),
        ),
        Row::new(
            "quantization in blocks without a size",
            FORWARD,
            &[FILE, "`quantization_config.weight_block_size`", "from 1"],
            |f| f.set(FILE, "quantization_config", r#"{"quant_method": "fp8", "weight_block_size": [0, 128]}"#),
        ),
        Row::new("num_labels negative", RUN, &[FILE, "`num_labels`", "-2"], |f| {
            f.unset(FILE, "id2label");
            f.set(FILE, "num_labels", "-2");
        }),
        Row::new("model_type missing", FORWARD, &[FILE, "`model_type`", "missing"], |f| f.unset(FILE, "model_type")),
        Row::new("model_type missing for a task", RUN, &[FILE, "`model_type`", "missing"], |f| {
            f.unset(FILE, "model_type")
        }),
        Row::new("model_type unknown for a task", RUN, &[FILE, "`model_type`", "did you mean `bert`"], |f| {
            f.set(FILE, "model_type", r#""berd""#);
        }),
        Row::new("model_type of 100 kB with line ends", FORWARD, &[FILE, "`model_type`"], |f| {
            f.json(FILE, |config| config["model_type"] = "bert\n\u{1b}[2J\u{202e}".repeat(10_000).into());
        }),
        Row::new("architectures missing", FORWARD, &[FILE, "`architectures`", "missing"], |f| {
            f.unset(FILE, "architectures")
        }),
    ]);
    rows
}

/// Configs that are possible, but not those of the weights.
fn architectures() -> Vec<Row> {
    let row = |name: &str, key: &'static str, value: &'static str, expected: &[&str]| {
        Row::new(name, FORWARD, &[&["model.safetensors"][..], expected].concat(), move |f| f.set(FILE, key, value))
    };
    let word = "`bert.embeddings.word_embeddings.weight` is f32 [799, 32]";
    let large = |name: &str, source: &'static str, spoil: fn(&Folder)| {
        Row::new(name, FORWARD, &["model", "hidden_size"], spoil).of(source)
    };
    vec![
        row("vocab_size below the file's", "vocab_size", "100", &[word, "[100, 32]"]),
        row("vocab_size above the file's", "vocab_size", "800", &[word, "[800, 32]"]),
        row("hidden_size far above the file's", "hidden_size", "2147483648", &[word, "[799, 2147483648]"]),
        row("intermediate_size far above the file's", "intermediate_size", "2147483648", &["[2147483648, 32]"]),
        row("fewer layers than the file", "num_hidden_layers", "1", &["unexpected", "`bert.encoder.layer.1."]),
        row("more layers than the file", "num_hidden_layers", "3", &["16 missing", "`bert.encoder.layer.2."]),
        row("many more layers than the file", "num_hidden_layers", "4096", &["missing", "`bert.encoder.layer.2."]),
        row(
            "fewer labels than the file",
            "id2label",
            r#"{"0": "no", "1": "yes"}"#,
            &["`classifier.weight` is f32 [4, 32], expected [2, 32]"],
        ),
        Row::good("rotary model", FORWARD, |_| ()).of("models/modernbert/sequence-classification"),
        // Rotations have one number for every two elements of a head, which must not be made before the sizes are known
        // to be those of the weights.
        large("rotary model with a large head", "models/modernbert/sequence-classification", |f| {
            f.set(FILE, "hidden_size", "2147483648");
            f.set(FILE, "num_attention_heads", "1");
        }),
    ]
}

/// The files of sentence-transformers.
fn sentence_modules() -> Vec<Row> {
    const MODULES: &str = "modules.json";
    const POOLING: &str = "1_Pooling/config.json";
    fn modules(folder: &Folder, more: &[&str]) {
        let line =
            |path: &str, class: &str| json!({ "path": path, "type": format!("sentence_transformers.models.{class}") });
        let mut lines = vec![line("", "Transformer"), line("1_Pooling", "Pooling")];
        lines.extend(more.iter().map(|class| line(&format!("1_{class}"), class)));
        folder.write(MODULES, Value::from(lines).to_string());
        folder.write(POOLING, r#"{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}"#);
    }
    fn dense(folder: &Folder, input: usize) {
        modules(folder, &["Dense"]);
        folder.write("1_Dense/config.json", r#"{"in_features": 32, "out_features": 2}"#);
        let path = folder.path("1_Dense/model.safetensors");
        tx_core::weights::save::write_file(&path, [("linear.weight".to_owned(), floats([2, input]))].into()).unwrap();
    }
    let list = |name: &str, expected: &[&str], text: &'static str| {
        Row::new(name, EMBED, &[&[MODULES][..], expected].concat(), move |f| f.write(MODULES, text))
    };
    let pooling = |name: &str, expected: &[&str], text: &'static str| {
        Row::new(name, EMBED, &[&[POOLING][..], expected].concat(), move |f| {
            modules(f, &[]);
            f.write(POOLING, text);
        })
    };
    vec![
        Row::good("sentence modules", EMBED, |f| modules(f, &["Normalize"])),
        Row::good("projection", EMBED, |f| dense(f, 32)),
        list("modules not JSON", &["JSON"], "[{"),
        list("modules without a type", &["`type`"], r#"[{"path": ""}]"#),
        list("module outside of the folder", &["`../x`"], r#"[{"path": "../x", "type": "a.Transformer"}]"#),
        list("module with an absolute path", &["`/etc`"], r#"[{"path": "/etc", "type": "a.Transformer"}]"#),
        list(
            "module of an unknown class first",
            &["`type`", "`CLIPModel`"],
            r#"[{"path": "", "type": "a.CLIPModel"}]"#,
        ),
        Row::new("module of an unknown class", EMBED, &[MODULES, "`type`", "`Secret`"], |f| modules(f, &["Secret"])),
        Row::new("pooling without its config", EMBED, &[POOLING], |f| {
            modules(f, &[]);
            f.remove(POOLING);
        }),
        pooling("pooling not JSON", &["JSON"], "{"),
        pooling("pooling a list", &["a list"], "[]"),
        pooling("pooling mode unknown", &["`pooling_mode`", "`median`", "mean"], r#"{"pooling_mode": "median"}"#),
        pooling("pooling mode a number", &["`pooling_mode`", "a number"], r#"{"pooling_mode": 1}"#),
        pooling(
            "pooling flag a string",
            &["`pooling_mode_max_tokens`", "a string"],
            r#"{"pooling_mode_max_tokens": "yes"}"#,
        ),
        Row::new("max_seq_length negative", EMBED, &["sentence_bert_config.json", "-1"], |f| {
            modules(f, &[]);
            f.write("sentence_bert_config.json", r#"{"max_seq_length": -1}"#);
        }),
        Row::new("projection without weights", EMBED, &["1_Dense", "model.safetensors"], |f| {
            dense(f, 32);
            f.remove("1_Dense/model.safetensors");
        }),
        Row::new("projection of another size", EMBED, &["1_Dense/config.json", "takes 7 numbers", "32"], |f| {
            dense(f, 7)
        }),
        Row::new(
            "projection with an unknown activation",
            EMBED,
            &["1_Dense/config.json", "`activation_function`", "`a.Secret`"],
            |f| {
                dense(f, 32);
                f.write("1_Dense/config.json", r#"{"activation_function": "a.Secret"}"#);
            },
        ),
        Row::new("prompts a list", EMBED, &["config_sentence_transformers.json"], |f| {
            modules(f, &[]);
            f.write("config_sentence_transformers.json", r#"{"prompts": ["query: "]}"#);
        }),
    ]
}
