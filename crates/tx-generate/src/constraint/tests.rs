use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

/// A tokenizer of 256 bytes, a longer token, and two special ones.
fn tokenizer(decoder: Value) -> Tokenizer {
    let byte_level = decoder["type"] == "ByteLevel";
    let token = |byte: u8| match byte {
        // As in GPT-2: printable characters stand for themselves, the others are numbered from 256 on.
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff if byte_level => char::from(byte).to_string(),
        0..=0x20 if byte_level => char::from_u32(0x100 + u32::from(byte)).unwrap().to_string(),
        0x7f..=0xa0 if byte_level => char::from_u32(0x121 + u32::from(byte) - 0x7f).unwrap().to_string(),
        _ if byte_level => "\u{143}".to_owned(),
        _ => format!("<0x{byte:02X}>"),
    };
    let mut vocab: Map<String, Value> = (0..=255).map(|byte| (token(byte), Value::from(byte))).collect();
    vocab.insert(if byte_level { "Ġyes" } else { "▁yes" }.to_owned(), Value::from(256));
    vocab.insert("<s>".to_owned(), Value::from(257));
    vocab.insert("</s>".to_owned(), Value::from(258));
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let json = json!({
        "version": "1.0", "added_tokens": [added(257, "<s>"), added(258, "</s>")], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": !byte_level}
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn byte_level() -> Tokenizer {
    tokenizer(json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}))
}

fn constraint(grammar: Grammar) -> Result<Constraint> {
    Constraint::new(&grammar, &Vocabulary::new(&byte_level(), &[])?)
}

const EOS: u32 = 258;
/// A model may have more rows than the tokenizer has tokens.
const ROWS: usize = 264;

fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let mut scores = vec![1.0; ROWS];
    constraint.mask(&mut scores);
    assert!(scores.iter().all(|&score| score == 1.0 || score == f32::NEG_INFINITY));
    (0..ROWS as u32).filter(|&id| scores[id as usize] == 1.0).collect()
}

/// Goes through a text byte by byte; whether it is allowed, and whole.
fn follows(grammar: &Grammar, text: &str) -> bool {
    let mut constraint = constraint(grammar.clone()).unwrap();
    for byte in text.bytes() {
        if !allowed(&mut constraint).contains(&u32::from(byte)) {
            return false;
        }
        constraint.accept(u32::from(byte)).unwrap();
    }
    constraint.complete()
}

fn refused(grammar: Grammar) -> String {
    let error = constraint(grammar).err().unwrap();
    assert!(matches!(error, Error::Input { .. }), "{error}");
    error.to_string()
}

#[test]
fn choices() {
    let grammar = Grammar::Choice(vec!["yes".into(), " yes".into(), "no/\n.*é".into()]);
    let mut constraint = constraint(grammar.clone()).unwrap();
    assert_eq!(allowed(&mut constraint), [u32::from(b' '), u32::from(b'n'), u32::from(b'y'), 256]);
    assert_eq!(allowed(&mut constraint), allowed(&mut constraint));
    let mut other = constraint.clone();
    constraint.accept(256).unwrap();
    assert!(constraint.finished() && constraint.complete());
    assert_eq!(allowed(&mut constraint), [EOS]);
    constraint.accept(EOS).unwrap();
    assert!(constraint.accept(u32::from(b'y')).is_err());

    other.accept(u32::from(b'y')).unwrap();
    assert!(!other.finished() && !other.complete());
    assert_eq!(allowed(&mut other), [u32::from(b'e')]);
    let error = other.accept(u32::from(b'x')).unwrap_err();
    assert!(error.to_string().starts_with("constraint: token 120: "), "{error}");
    assert!(other.finished() && !other.complete() && other.accept(u32::from(b'e')).is_err());
    assert_eq!(allowed(&mut other), [EOS]);

    assert!(follows(&grammar, "no/\n.*é") && !follows(&grammar, "no") && !follows(&grammar, "no/\n.a"));
    assert!(refused(Grammar::Choice(Vec::new())).contains("no text to choose"));
}

#[test]
fn regular_expressions() {
    let number = Grammar::Regex(r"[0-9]{1,3}(/[0-9]+)?".into());
    assert!(follows(&number, "12") && follows(&number, "123/4"));
    assert!(!follows(&number, "1234") && !follows(&number, "12/") && !follows(&number, ""));
    let mut constraint = constraint(number).unwrap();
    constraint.accept(u32::from(b'1')).unwrap();
    assert!(constraint.complete() && !constraint.finished());
    // The slash is the character before the digits.
    assert_eq!(allowed(&mut constraint), (u32::from(b'/')..=u32::from(b'9')).chain([EOS]).collect::<Vec<_>>());

    assert!(refused(Grammar::Regex("(".into())).starts_with("regular expression: "));
    refused(Grammar::Regex(r"[^\s\S]".into()));
    assert!(refused(Grammar::Regex("a".repeat(MAX_GRAMMAR + 1))).contains("expected at most"));
}

#[test]
fn json_schemas() {
    let schema = Grammar::JsonSchema(json!({
        "type": "object", "additionalProperties": false, "required": ["name", "tags"],
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}}
    }));
    for text in [
        r#"{"name":"é\n","age":7,"tags":[]}"#,
        r#"{"name": "", "tags": ["a", "b"]}"#,
        "{\n    \"name\": \"x\",\n    \"tags\": [\n        \"a\"\n    ]\n}",
    ] {
        assert!(follows(&schema, text), "{text}");
    }
    for text in [
        r#"{"tags": []}"#,
        r#"{"name": "x", "age": 151, "tags": []}"#,
        r#"{"name": "x", "tags": ["c"]}"#,
        r#"{"name": "x", "tags": ["a", "a", "a"]}"#,
        r#"{"name": "x", "tags": [], "more": 1}"#,
        r#" {"name": "x", "tags": []}"#,
        r#"{  "name": "x", "tags": []}"#,
        r#"{"name": "x", "tags": []"#,
    ] {
        assert!(!follows(&schema, text), "{text}");
    }
    assert!(follows(&Grammar::JsonSchema(Value::Bool(true)), "[1, {\"a\": null}]"));
    for schema in [
        json!(false),
        json!("string"),
        json!({"type": "unheard of"}),
        json!({"type": "integer", "minimum": 2, "maximum": 1}),
        json!({"type": "string", "pattern": "("}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"enum": []}),
    ] {
        assert!(refused(Grammar::JsonSchema(schema.clone())).starts_with("JSON schema: "), "{schema}");
    }
}

#[test]
fn grammars() {
    let sums = Grammar::Lark("start: number (\"+\" number)*\nnumber: /[0-9]+/\n".into());
    assert!(follows(&sums, "1") && follows(&sums, "1+22+3") && !follows(&sums, "1+") && !follows(&sums, "+1"));
    assert!(refused(Grammar::Lark("start: missing\n".into())).starts_with("Lark grammar: "));
    assert!(refused(Grammar::Lark(String::new())).starts_with("Lark grammar: "));
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Shape {
    Circle { radius: f32 },
    Square { side: u8 },
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
struct Drawing {
    name: String,
    shapes: Vec<Shape>,
    #[serde(default)]
    notes: Option<BTreeMap<String, bool>>,
}

#[test]
fn types() {
    let grammar = Grammar::of::<Drawing>();
    let text = r#"{"name": "two", "shapes": [{"kind": "circle", "radius": 1.5}, {"kind": "square", "side": 255}], "notes": {"x": true}}"#;
    assert!(follows(&grammar, text));
    let drawing: Drawing = parse(text).unwrap();
    assert_eq!(drawing.shapes, [Shape::Circle { radius: 1.5 }, Shape::Square { side: 255 }]);
    assert!(follows(&grammar, r#"{"name": "none", "shapes": []}"#));
    for text in [
        r#"{"name": "x", "shapes": [{"kind": "circle", "side": 1}]}"#,
        r#"{"name": "x", "shapes": [{"kind": "square", "side": 256}]}"#,
        r#"{"name": "x", "shapes": [], "more": 1}"#,
    ] {
        assert!(!follows(&grammar, text), "{text}");
    }
    let error = parse::<Drawing>(r#"{"name": "cut"#).unwrap_err().to_string();
    assert!(error.starts_with("generated text: EOF") && error.contains("Drawing"), "{error}");
}

#[test]
fn objects_are_closed_unless_they_are_joined() {
    let mut schema = json!({
        "properties": {"a": {"properties": {}}}, "$defs": {"D": {"properties": {}, "additionalProperties": true}},
        "anyOf": [{"properties": {"b": {"items": {"properties": {}}}}}, {"$ref": "#/$defs/D"}]
    });
    close(&mut schema, false);
    let closed = json!({
        "properties": {"a": {"properties": {}, "additionalProperties": false}},
        "$defs": {"D": {"properties": {}, "additionalProperties": true}},
        "anyOf": [{"properties": {"b": {"items": {"properties": {}, "additionalProperties": false}}}}, {"$ref": "#/$defs/D"}]
    });
    assert_eq!(schema, closed);
}

#[test]
fn vocabularies() {
    let fallback = tokenizer(json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}
    ]}));
    let grammar = Grammar::Choice(vec![" yes".into(), "é".into()]);
    let mut constraint = Constraint::new(&grammar, &Vocabulary::new(&fallback, &[]).unwrap()).unwrap();
    assert_eq!(allowed(&mut constraint), [u32::from(b' '), 0xc3, 256]);

    // Special tokens are no text, but a grammar can name them; other ids can end a text.
    let tokenizer = byte_level();
    let vocabulary = Vocabulary::new(&tokenizer, &[EOS, 65]).unwrap();
    let any = Grammar::Regex("(.|\n)*".into());
    let mut constraint = Constraint::new(&any, &vocabulary).unwrap();
    let ids = allowed(&mut constraint);
    assert!(ids.contains(&EOS) && ids.contains(&65) && ids.contains(&66) && !ids.contains(&257) && !ids.contains(&259));
    constraint.accept(65).unwrap();
    assert!(constraint.finished() && constraint.complete());
    let named = Grammar::Lark("start: \"a\" <s>\n".into());
    let mut constraint = Constraint::new(&named, &vocabulary).unwrap();
    constraint.accept(u32::from(b'a')).unwrap();
    assert_eq!(allowed(&mut constraint), [257]);

    assert!(matches!(Vocabulary::new(&tokenizer, &[1000]).err(), Some(Error::Input { .. })));
    let word_piece = tests::tokenizer(json!({"type": "WordPiece", "prefix": "##", "cleanup": true}));
    assert!(matches!(Vocabulary::new(&word_piece, &[]).err(), Some(Error::Unsupported { .. })));
}

#[test]
fn sequences_in_any_order() {
    let grammar = Grammar::Choice(vec!["ab".into(), "ac".into(), "b".into()]);
    let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
    for sequences in [0, 1, 3, 9] {
        let mut processor = ConstraintProcessor::new(constraint(grammar.clone()).unwrap());
        processor.remember(sequences);
        let mut step = |ids: &[u32]| {
            let mut scores = vec![1.0; ROWS];
            processor.process(ids, 2, &mut scores);
            assert!(processor.places.len() <= sequences.max(1));
            (0..ROWS as u32).filter(|&id| scores[id as usize] == 1.0).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            assert_eq!(step(&[7, 8]), [a, b]);
            assert_eq!(step(&[7, 8, a]), [b, c]);
            assert_eq!(step(&[7, 8, b]), [EOS]);
            assert_eq!(step(&[7, 8, a, c]), [EOS]);
            assert_eq!(step(&[7, 8, c]), [EOS]);
            assert_eq!(step(&[7]), [a, b]);
        }
    }
}

#[test]
fn texts_are_whole_or_cut() {
    let constraint = constraint(Grammar::Regex("a+b?".into())).unwrap();
    let [a, b] = [b'a', b'b'].map(u32::from);
    assert!(!constraint.is_whole(&[]).unwrap());
    for whole in [vec![a], vec![a, a, b], vec![a, b, EOS], vec![a, EOS]] {
        assert!(constraint.is_whole(&whole).unwrap(), "{whole:?}");
    }
    assert!(constraint.is_whole(&[b]).is_err() && constraint.is_whole(&[a, b, a]).is_err());
}
