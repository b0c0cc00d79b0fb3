//! Tokenizers: `tokenizer.json`, vocabularies in other forms, and the small files beside them.

use serde_json::{Value, json};

use crate::folder::{Folder, floats};
use crate::{INFO, RUN, Row};

const FILE: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
/// Any class that takes `tokenizer.json` as it is; BERT's takes only the vocabulary from it.
const GENERIC: &str = "PreTrainedTokenizerFast";

pub fn rows() -> Vec<Row> {
    let mut rows = files();
    rows.extend(pipelines());
    rows.extend(vocabularies());
    rows.extend(settings());
    rows
}

/// `tokenizer.json` that cannot be read, or whose model cannot be.
fn files() -> Vec<Row> {
    let row = |name: &str, expected: &[&str], text: &'static str| {
        Row::new(name, RUN, &[&[FILE][..], expected].concat(), move |f| f.write(FILE, text))
    };
    let edit = |name: &str, expected: &[&str], edit: fn(&mut Value)| {
        Row::new(name, RUN, &[&[FILE][..], expected].concat(), move |f| f.json(FILE, edit))
    };
    vec![
        Row::good("task", RUN, |_| ()),
        Row::new("missing", RUN, &["model", FILE, "vocab.txt"], |f| f.remove(FILE)),
        row("empty", &["EOF"], ""),
        row("not JSON", &["line 1"], "tokenizer"),
        row("a list", &[], "[]"),
        row("without a model", &["`model`"], r#"{"version": "1.0"}"#),
        Row::new("truncated", RUN, &[FILE, "EOF"], |f| f.halve(FILE)),
        Row::new("invalid UTF-8", RUN, &[FILE, "UTF-8"], |f| f.write(FILE, b"{\"version\": \"\xff\"}")),
        Row::new("more than 256 MiB", RUN, &[FILE, "268435456"], |f| f.write_zeros(FILE, (256 << 20) + 1)),
        Row::new("lists in lists", RUN, &[FILE, "recursion"], |f| {
            f.write(FILE, format!("{{\"normalizer\":{}", "[".repeat(100_000)));
        }),
        edit("version of the future", &["`version`", "`9.0`", "1.0"], |json| json["version"] = "9.0".into()),
        edit("unknown model", &["`Transformer`"], |json| json["model"]["type"] = "Transformer".into()),
        edit("model that is a number", &["`7`"], |json| json["model"] = 7.into()),
        edit("vocabulary that is a number", &["a vocabulary"], |json| json["model"]["vocab"] = 7.into()),
        edit("id beyond 32 bits", &["4294967296"], |json| json["model"]["vocab"]["new"] = 4_294_967_296u64.into()),
        edit("id near the end of 32 bits", &["4294967295"], |json| json["model"]["vocab"]["new"] = u32::MAX.into()),
        edit("negative id", &["-1"], |json| json["model"]["vocab"]["new"] = (-1).into()),
        edit("added token with a negative id", &["-1"], |json| json["added_tokens"][0]["id"] = (-1).into()),
        edit("added token without text", &["`content`"], |json| {
            drop(json["added_tokens"][0].as_object_mut().unwrap().remove("content"));
        }),
        edit("longest word of 10⁹ characters", &["max_input_chars_per_word", "1000000000"], |json| {
            json["model"]["max_input_chars_per_word"] = 1_000_000_000.into();
        })
        .generic(),
        edit("merges that lead nowhere", &["`a`", "`b`"], |json| {
            json["model"] = json!({ "type": "BPE", "vocab": { "a": 0, "b": 1 }, "merges": ["a b"] });
        })
        .generic(),
        edit("merges of three", &["a b c"], |json| {
            json["model"] = json!({ "type": "BPE", "vocab": { "a": 0, "abc": 1 }, "merges": ["a b c"] });
        })
        .generic(),
        edit("unknown token beyond the vocabulary", &[], |json| {
            json["model"] = json!({ "type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 7 });
        })
        .generic(),
    ]
}

impl Row {
    /// The same, with `tokenizer.json` taken as it is.
    fn generic(mut self) -> Self {
        let spoil = self.spoil;
        self.spoil = Box::new(move |f: &Folder| {
            f.json(SETTINGS, |json| json["tokenizer_class"] = GENERIC.into());
            spoil(f);
        });
        self
    }

    /// The same, with other words.
    fn expecting(self, expected: &[&str]) -> Self {
        Self { expected: expected.iter().map(|&text| text.to_owned()).collect(), ..self }
    }
}

/// The other parts of `tokenizer.json`.
fn pipelines() -> Vec<Row> {
    let part = |name: &str, key: &'static str, expected: &[&str], part: Value| {
        let named = format!("`{key}`");
        let expected = [&[FILE, named.as_str()][..], expected].concat();
        Row::new(name, RUN, &expected, move |f| f.json(FILE, |json| json[key] = part.clone())).generic()
    };
    fn split(regex: &str) -> Value {
        json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
    }
    let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
    let sequence = |parts: Vec<Value>| json!({ "type": "Sequence", "normalizers": parts });
    let deep = (0..20).fold(json!({ "type": "NFC" }), |inner, _| sequence(vec![inner]));
    let template = |single: Value, ids: Value| {
        json!({
            "type": "TemplateProcessing", "single": single, "pair": single,
            "special_tokens": { "[CLS]": { "id": "[CLS]", "ids": ids, "tokens": ["[CLS]"] } },
        })
    };
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let token = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    // Doubles the ways to match with every letter; the engine gives up after ten million steps.
    let bomb = split("^(a|a)*$");
    let letters = "a".repeat(60) + "!";
    vec![
        Row::good("tokenizer.json as it is", RUN, |_| ()).generic(),
        part("unknown normaliser", "normalizer", &[], json!({ "type": "Secret" })),
        part("normaliser that grows texts without end", "normalizer", &["times as long"], sequence(vec![double; 30])),
        part("normalisers in normalisers", "normalizer", &["levels"], deep),
        part(
            "character map that is not base64",
            "normalizer",
            &[],
            json!({ "type": "Precompiled", "precompiled_charsmap": "%%%%" }),
        )
        .expecting(&[FILE, "base64"]),
        part(
            "character map of garbage",
            "normalizer",
            &[],
            json!({ "type": "Precompiled", "precompiled_charsmap": "/////w==" }),
        )
        .expecting(&[FILE, "character map"]),
        part("unknown pre-tokenizer", "pre_tokenizer", &[], json!({ "type": "Secret" })),
        part("invalid regular expression", "pre_tokenizer", &[], split("(")),
        part("regular expression of 70 kB", "pre_tokenizer", &["70000 bytes"], split(&"a".repeat(70_000))),
        part(
            "regular expression of groups in groups",
            "pre_tokenizer",
            &[],
            split(&("(".repeat(20_000) + &")".repeat(20_000))),
        ),
        Row::new(
            "regular expression that never ends",
            &["run", "text-classification", "--model", "model", &letters],
            &[FILE, "encoding"],
            move |f| f.json(FILE, |json| json["pre_tokenizer"] = bomb.clone()),
        )
        .generic(),
        part("unknown decoder", "decoder", &[], json!({ "type": "Secret" })),
        part("unknown post-processor", "post_processor", &[], json!({ "type": "Secret" })),
        part(
            "post-processor with an unknown token",
            "post_processor",
            &["`[NEW]`"],
            template(json!([token("[NEW]"), text]), json!([4])),
        ),
        part(
            "post-processor with an unknown id",
            "post_processor",
            &["100000"],
            template(json!([token("[CLS]"), text]), json!([100_000])),
        ),
        part(
            "post-processor with more ids than tokens",
            "post_processor",
            &[],
            template(json!([token("[CLS]"), text]), json!([4, 4])),
        ),
        part("post-processor with a second text for one", "post_processor", &["text B"], {
            template(json!([token("[CLS]"), { "Sequence": { "id": "B", "type_id": 0 } }]), json!([4]))
        }),
        part("post-processor that adds 2000 tokens", "post_processor", &[], {
            template(vec![token("[CLS]"); 2000].into_iter().chain([text.clone()]).collect(), json!([4]))
        }),
    ]
}

/// Vocabularies that are files of their own.
fn vocabularies() -> Vec<Row> {
    // Leaves the settings of a class and nothing else.
    fn only(folder: &Folder, class: &str) {
        folder.remove(FILE);
        folder.write(SETTINGS, json!({ "tokenizer_class": class }).to_string());
    }
    fn roberta(folder: &Folder) {
        only(folder, "RobertaTokenizer");
        folder.copy("tests/data/tokenizers/roberta/vocab.json");
        folder.copy("tests/data/tokenizers/roberta/merges.txt");
    }
    fn albert(folder: &Folder) {
        only(folder, "AlbertTokenizer");
        folder.copy("tests/data/tokenizers/albert/spiece.model");
    }
    let vocab = |name: &str, expected: &[&str], bytes: &'static [u8]| {
        Row::new(name, RUN, &[&["vocab.txt"][..], expected].concat(), move |f| {
            only(f, "BertTokenizer");
            f.write("vocab.txt", bytes);
        })
    };
    let bpe = |name: &str, file: &'static str, expected: &[&str], text: &'static str| {
        Row::new(name, RUN, &[&[file][..], expected].concat(), move |f| {
            roberta(f);
            f.write(file, text);
        })
    };
    vec![
        Row::good("vocab.txt", RUN, |f| {
            only(f, "BertTokenizer");
            f.copy("tests/data/tokenizers/bert-uncased/vocab.txt");
        }),
        Row::good("vocab.json", INFO, roberta),
        Row::good("spiece.model", INFO, albert),
        vocab("vocab.txt empty", &["empty"], b""),
        vocab("vocab.txt without the unknown token", &["[UNK]"], b"[PAD]\n[CLS]\n[SEP]\nhello\n"),
        vocab("vocab.txt not UTF-8", &["UTF-8", "byte 6"], b"[PAD]\n\xff\n"),
        bpe("vocab.json empty", "vocab.json", &["EOF"], ""),
        bpe("vocab.json a list", "vocab.json", &["list"], r#"[["a", 0.5]]"#),
        bpe("vocab.json with a fraction for an id", "vocab.json", &["0.5"], r#"{"a": 0.5}"#),
        bpe("merges.txt of three", "merges.txt", &["line 2"], "#version: 0.2\na b c\n"),
        bpe("merges.txt that leads nowhere", "vocab.json", &["merge"], r#"{"<s>": 0, "</s>": 1, "a": 2, "b": 3}"#),
        Row::new("merges.txt missing", RUN, &["merges.txt"], |f| {
            roberta(f);
            f.remove("merges.txt");
        }),
        Row::new("spiece.model of garbage", RUN, &["spiece.model", "SentencePiece"], |f| {
            albert(f);
            f.write("spiece.model", "garbage");
        }),
        Row::new("spiece.model empty", RUN, &["spiece.model", "SentencePiece"], |f| {
            albert(f);
            f.write("spiece.model", "");
        }),
        Row::new("spiece.model truncated", RUN, &["spiece.model", "SentencePiece"], |f| {
            albert(f);
            f.halve("spiece.model");
        }),
        Row::new("spiece.model of more than 64 MiB", RUN, &["spiece.model", "67108864"], |f| {
            albert(f);
            f.write_zeros("spiece.model", (64 << 20) + 1);
        }),
        Row::new("class that needs tokenizer.json", RUN, &[SETTINGS, "`tokenizer_class`", "`WhisperTokenizer`"], |f| {
            only(f, "WhisperTokenizer");
        }),
        Row::new("ids beyond the model's vocabulary", RUN, &[FILE, "798", "at most 99", "vocab_size"], |f| {
            f.set("config.json", "vocab_size", "100");
            f.weights(|tensors| {
                drop(tensors.insert("bert.embeddings.word_embeddings.weight".into(), floats([100, 32])))
            });
        }),
    ]
}

/// `tokenizer_config.json` and what older folders have in its place.
fn settings() -> Vec<Row> {
    let key = |key: &'static str, expected: &[&str], value: &'static str| {
        let (name, named) = (format!("{key} {value}"), format!("`{key}`"));
        Row::new(name, RUN, &[&[SETTINGS, named.as_str()][..], expected].concat(), move |f| f.set(SETTINGS, key, value))
    };
    let file = |name: &'static str, expected: &[&str], text: &'static str| {
        Row::new(format!("{name} {text}"), RUN, &[&[name][..], expected].concat(), move |f| {
            f.write(name, text);
        })
    };
    vec![
        file(SETTINGS, &["JSON"], "{"),
        file(SETTINGS, &["a list"], "[]"),
        file("special_tokens_map.json", &["JSON"], "{"),
        file("special_tokens_map.json", &["a list"], "[]"),
        file("added_tokens.json", &["`[NEW]`"], r#"{"[NEW]": "last"}"#),
        file("added_tokens.json", &["`[NEW]`"], r#"{"[NEW]": 4294967296}"#),
        key("pad_token", &["7"], "7"),
        key("cls_token", &["null"], "null"),
        key("sep_token", &["`content`"], r#"{"special": true}"#),
        key("padding_side", &["`middle`"], r#""middle""#),
        key("model_max_length", &["-5"], "-5"),
        key("model_max_length", &["a string"], r#""long""#),
        key("do_lower_case", &["a string"], r#""yes""#),
        key("added_tokens_decoder", &["a list"], "[]"),
        key("added_tokens_decoder", &["a string"], r#"{"last": {"content": "[NEW]"}}"#),
    ]
}
