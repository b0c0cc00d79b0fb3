use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn load(files: &[(&str, &str)]) -> Result<Tokenizer> {
    Tokenizer::from_folder(folder(files).path())
}

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nwor\n##ld\n,\ncafe\n你\na\nb\nc\nd\ne\n";

fn bert() -> Tokenizer {
    load(&[("vocab.txt", VOCAB), ("config.json", r#"{"model_type": "bert"}"#)]).unwrap()
}

fn cut(truncation: Truncation, max_length: usize, stride: usize) -> EncodeOptions {
    EncodeOptions { truncation, max_length: Some(max_length), stride, return_overflowing: true, ..Default::default() }
}

fn ids(encodings: Result<Vec<Encoding>>) -> Vec<Vec<u32>> {
    encodings.unwrap().into_iter().map(|encoding| encoding.ids).collect()
}

#[test]
fn bert_from_its_vocabulary() {
    let tokenizer = bert();
    assert_eq!((tokenizer.kind(), tokenizer.vocab_size(), tokenizer.max_id()), ("WordPiece", 16, 15));
    assert!(tokenizer.has_token_type_ids() && tokenizer.model_max_length().is_none());
    assert_eq!(tokenizer.special().mask, Some(SpecialToken { text: "[MASK]".into(), id: 4 }));
    assert_eq!(tokenizer.special().bos, None);

    let encoding =
        &tokenizer.encode(&Text::pair("Hello, WORLD 你", "Café x[MASK]"), &EncodeOptions::default()).unwrap()[0];
    assert_eq!(encoding.ids, [2, 5, 8, 6, 7, 10, 3, 9, 1, 4, 3]);
    assert_eq!(encoding.type_ids, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(encoding.special_tokens_mask, [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    let offsets = [(0, 0), (0, 5), (5, 6), (7, 10), (10, 12), (13, 14), (0, 0), (0, 4), (5, 6), (6, 12), (0, 0)];
    assert_eq!(encoding.offsets, offsets);
    assert_eq!(encoding.sequence_ids[6..8], [None, Some(1)]);
    assert_eq!(encoding.word_ids[..7], [None, Some(0), Some(1), Some(2), Some(2), Some(3), None]);
    assert_eq!(tokenizer.decode(&encoding.ids, true).unwrap(), "hello, world 你 cafe");
}

#[test]
fn words_count_their_own_offsets() {
    let encoding = &bert().encode(&Text::words(["Hello", "world"]), &EncodeOptions::default()).unwrap()[0];
    assert_eq!(encoding.ids, [2, 5, 6, 7, 3]);
    assert_eq!(encoding.offsets, [(0, 0), (0, 5), (0, 3), (3, 5), (0, 0)]);
    assert_eq!(encoding.word_ids, [None, Some(0), Some(1), Some(1), None]);
}

#[test]
fn long_texts_are_cut_into_windows() {
    let tokenizer = bert();
    let text = Text::from("a b c d e");
    let windows = ids(tokenizer.encode(&text, &cut(Truncation::LongestFirst, 5, 1)));
    assert_eq!(windows, [vec![2, 11, 12, 13, 3], vec![2, 13, 14, 15, 3]]);
    let pair = Text::pair("hello", "a b c d e");
    let windows = ids(tokenizer.encode(&pair, &cut(Truncation::OnlySecond, 6, 0)));
    assert_eq!(windows, [vec![2, 5, 3, 11, 12, 3], vec![2, 5, 3, 13, 14, 3], vec![2, 5, 3, 15, 3]]);
    let batch = tokenizer.encode_batch(&[Text::from("a"), text.clone()], &cut(Truncation::LongestFirst, 4, 0)).unwrap();
    assert_eq!(batch.iter().map(|e| e.sample).collect::<Vec<_>>(), [0, 1, 1, 1]);
    let none = EncodeOptions { return_overflowing: false, ..cut(Truncation::LongestFirst, 4, 0) };
    assert_eq!(ids(tokenizer.encode(&text, &none)), [vec![2, 11, 12, 3]]);
    assert_eq!(
        ids(tokenizer.encode(&Text::pair("a b c", "d e"), &EncodeOptions { max_length: Some(7), ..none })),
        [vec![2, 11, 12, 3, 14, 15, 3]]
    );
}

#[test]
fn impossible_cuts_are_errors() {
    let tokenizer = bert();
    let (single, pair) = (Text::from("a b c d e"), Text::pair("a b c d e", "a b c d e"));
    for (text, options) in [
        (&single, cut(Truncation::LongestFirst, 1, 0)),
        (&single, cut(Truncation::LongestFirst, 5, 3)),
        (&single, cut(Truncation::LongestFirst, 5, usize::MAX)),
        (&single, cut(Truncation::OnlySecond, 5, 0)),
        (&pair, cut(Truncation::OnlyFirst, 7, 0)),
        (&pair, cut(Truncation::OnlySecond, 7, 0)),
        (&pair, cut(Truncation::LongestFirst, 7, 3)),
    ] {
        let error = tokenizer.encode(text, &options).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
    }
    // No room at all, and no need for it.
    assert_eq!(ids(tokenizer.encode(&single, &cut(Truncation::LongestFirst, 2, 0)))[0], [2, 3]);
    assert!(tokenizer.encode(&single, &cut(Truncation::OnlySecond, 7, 0)).is_ok());
}

#[test]
fn windows_are_bounded() {
    let text = Text::from("a ".repeat(20_000));
    let error = bert().encode(&text, &cut(Truncation::LongestFirst, 5002, 4999)).unwrap_err();
    assert!(matches!(error, Error::Input { .. }), "{error}");
}

#[test]
fn padding_on_both_sides() {
    let tokenizer = bert();
    let mut batch = tokenizer.encode_batch(&[Text::from("a"), Text::from("a b")], &EncodeOptions::default()).unwrap();
    let padding = Padding { multiple_of: Some(3), ..Default::default() };
    tokenizer.pad(&mut batch, &padding).unwrap();
    assert_eq!(batch[0].ids, [2, 11, 3, 0, 0, 0]);
    assert_eq!(batch[0].attention_mask, [1, 1, 1, 0, 0, 0]);
    assert_eq!(batch[0].special_tokens_mask, [1, 0, 1, 1, 1, 1]);
    let left = Padding { to: PadTo::Length(7), multiple_of: None, side: Some(Side::Left) };
    tokenizer.pad(&mut batch, &left).unwrap();
    assert_eq!(batch[1].ids, [0, 2, 11, 12, 3, 0, 0]);
    assert_eq!(batch[1].word_ids[..3], [None, None, Some(0)]);
    assert!(tokenizer.pad(&mut batch, &Padding { multiple_of: Some(0), ..padding }).is_err());
    assert!(tokenizer.pad(&mut batch, &Padding { to: PadTo::Length(usize::MAX), ..padding }).is_err());
    assert!(tokenizer.pad(&mut batch, &Padding { to: PadTo::ModelMaxLength, ..padding }).is_ok());
}

#[test]
fn unknown_ids_are_named() {
    let error = bert().decode(&[2, 99], false).unwrap_err();
    assert!(matches!(&error, Error::Input { found, .. } if found.contains("99 at position 1")), "{error}");
}

#[test]
fn the_config_overrules_tokenizer_json_for_a_family() {
    let json = |lowercase: bool| {
        format!(
            r###"{{"version": "1.0", "added_tokens": [], "normalizer": {{"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": {lowercase}}}, "pre_tokenizer": {{"type": "BertPreTokenizer"}},
            "post_processor": null, "decoder": null, "model": {{"type": "WordPiece", "unk_token": "[UNK]",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {{"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "A": 6}}}}}}"###
        )
    };
    let encode = |json: &str, config: &str| {
        let tokenizer = load(&[("tokenizer.json", json), ("tokenizer_config.json", config)]).unwrap();
        tokenizer.encode(&Text::from("A"), &EncodeOptions::default()).unwrap().remove(0).ids
    };
    assert_eq!(encode(&json(true), r#"{"tokenizer_class": "BertTokenizerFast", "do_lower_case": false}"#), [2, 6, 3]);
    assert_eq!(encode(&json(false), r#"{"tokenizer_class": "BertTokenizer"}"#), [2, 5, 3]);
    assert_eq!(encode(&json(false), r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#), [6]);
}

#[test]
fn options_of_the_config() {
    let config = r#"{"tokenizer_class": "BertTokenizer", "padding_side": "left", "truncation_side": "left",
        "model_max_length": 4, "pad_token": null, "model_input_names": ["input_ids"], "image_token": "<image>",
        "added_tokens_decoder": {"11": {"content": "a", "lstrip": true, "special": false}}}"#;
    let tokenizer = load(&[("vocab.txt", VOCAB), ("tokenizer_config.json", config)]).unwrap();
    assert_eq!((tokenizer.padding_side(), tokenizer.truncation_side()), (Side::Left, Side::Left));
    assert!(!tokenizer.has_token_type_ids() && tokenizer.special().pad.is_none());
    assert_eq!((tokenizer.model_max_length(), tokenizer.vocab_size()), (Some(4), 17));
    let options = EncodeOptions { truncation: Truncation::LongestFirst, ..Default::default() };
    let encoding = &tokenizer.encode(&Text::from("b  a<image>"), &options).unwrap()[0];
    assert_eq!((encoding.ids.as_slice(), encoding.offsets[1]), (&[2, 11, 16, 3][..], (1, 4)));
    let mut encodings = tokenizer.encode(&Text::from("b"), &options).unwrap();
    assert!(tokenizer.pad(&mut encodings, &Padding::default()).is_err());
    let unlimited = r#"{"tokenizer_class": "BertTokenizer", "model_max_length": 1000000000000000019884624838656}"#;
    let tokenizer = load(&[("vocab.txt", VOCAB), ("tokenizer_config.json", unlimited)]).unwrap();
    assert_eq!(tokenizer.model_max_length(), None);
}

#[test]
fn folders_that_cannot_be_loaded() {
    let class = |name: &str| format!(r#"{{"tokenizer_class": "{name}"}}"#);
    let bert = |config: &str| load(&[("vocab.txt", VOCAB), ("tokenizer_config.json", config)]).unwrap_err();
    assert!(matches!(load(&[]).unwrap_err(), Error::MissingFile { .. }));
    assert!(matches!(
        load(&[("tokenizer_config.json", &class("BertTokenizer"))]).unwrap_err(),
        Error::MissingFile { .. }
    ));
    assert!(matches!(
        load(&[("tokenizer_config.json", &class("OtherTokenizer"))]).unwrap_err(),
        Error::Unsupported { .. }
    ));
    for config in [
        r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": 3}"#,
        r#"{"tokenizer_class": "BertTokenizer", "cls_token": null}"#,
        r#"{"tokenizer_class": "BertTokenizer", "cls_token": 7}"#,
        r#"{"tokenizer_class": "BertTokenizer", "padding_side": "top"}"#,
        r#"{"tokenizer_class": "BertTokenizer", "model_max_length": "long"}"#,
        r#"{"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {"x": {"content": "y"}}}"#,
        r#"{"tokenizer_class": "BertTokenizer", "added_tokens_decoder": [1]}"#,
    ] {
        let error = bert(config);
        assert!(matches!(error, Error::Config { .. }), "{config}: {error}");
    }
    let garbage = [("tokenizer.model", "garbage"), ("config.json", r#"{"model_type": "mistral"}"#)];
    assert!(matches!(load(&garbage).unwrap_err(), Error::Tokenizer { .. }));
}

#[test]
fn byte_level_bpe_from_its_files() {
    let files = [
        (
            "vocab.json",
            r#"{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "Ġ": 6, "Ġa": 7, "ab": 8, "Ã": 9, "©": 10, "<mask>": 11}"#,
        ),
        ("merges.txt", "#version: 0.2\nĠ a\na b\n"),
        ("tokenizer_config.json", r#"{"tokenizer_class": "RobertaTokenizer"}"#),
    ];
    let tokenizer = load(&files).unwrap();
    let encoding = &tokenizer.encode(&Text::pair("ab aé", "b"), &EncodeOptions::default()).unwrap()[0];
    assert_eq!(encoding.ids, [0, 8, 7, 9, 10, 2, 2, 5, 2]);
    assert_eq!(encoding.offsets[1..5], [(0, 2), (3, 4), (4, 5), (4, 5)]);
    assert_eq!(tokenizer.decode(&encoding.ids, true).unwrap(), "ab aéb");
}

#[test]
fn a_panicking_library_is_an_error() {
    let json = r#"{"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
        "pre_tokenizer": {"type": "FixedLength", "length": 0}}"#;
    let loaded = load(&[("tokenizer.json", json)]);
    let error = loaded.and_then(|t| t.encode(&Text::from("a b"), &EncodeOptions::default())).unwrap_err();
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    assert!(!Path::new("/nowhere").exists() && Tokenizer::from_folder(Path::new("/nowhere")).is_err());
}
