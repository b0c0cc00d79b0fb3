use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn open_with(folder: &TempDir, name: &str, options: &DatasetOptions) -> Result<Dataset> {
    Dataset::open(folder.path().join(name).to_str().unwrap(), options)
}

fn open(folder: &TempDir, name: &str) -> Result<Dataset> {
    open_with(folder, name, &DatasetOptions::default())
}

/// The rows as JSON, and where they are.
fn read(dataset: &Dataset) -> Result<Vec<(Value, u64)>> {
    let rows = dataset.rows(&Columns::default());
    rows.map(|row| {
        let row = row?;
        let values = row.columns().map(|name| (name.to_owned(), row.get(name).unwrap().clone()));
        let place = row.origin().place;
        Ok((Value::Object(values.collect()), place.row.max(place.line)))
    })
    .collect()
}

fn one(name: &str, text: &str) -> Result<Vec<(Value, u64)>> {
    let folder = folder(&[(name, text)]);
    read(&open(&folder, name)?)
}

fn values(name: &str, text: &str) -> Vec<Value> {
    one(name, text).unwrap().into_iter().map(|(value, _)| value).collect()
}

/// The message of a file that cannot be read, from its name on.
fn message(name: &str, text: &str) -> String {
    let message = one(name, text).unwrap_err().to_string();
    message[message.find(name).unwrap()..].to_owned()
}

#[test]
fn json_lines() {
    let text = "\u{feff}{\"text\": \"a\", \"label\": 1}\n\n  {\"text\": \"b\"}\r\n{\"text\": \"ü\"}";
    let rows = one("a.jsonl", text).unwrap();
    assert_eq!(rows, [(json!({"text": "a", "label": 1}), 1), (json!({"text": "b"}), 3), (json!({"text": "ü"}), 4)]);
    assert!(values("a.jsonl", "").is_empty());
}

#[test]
fn broken_lines_are_named() {
    let table = [
        ("{}\n{\"a\": 1,}\n", "a.jsonl: line 2: not valid JSON: trailing comma at character 9"),
        ("{}\n\n[1]\n", "a.jsonl: line 3: found a list, expected a JSON object"),
        ("{\"a\": \"b", "a.jsonl: line 1: not valid JSON: EOF while parsing a string at character 8"),
    ];
    for (text, expected) in table {
        assert_eq!(message("a.jsonl", text), expected);
    }
    let folder = folder(&[]);
    fs::write(folder.path().join("a.jsonl"), b"{}\n{\"a\": \"\xff\"}").unwrap();
    let error = read(&open(&folder, "a.jsonl").unwrap()).unwrap_err().to_string();
    assert!(error.ends_with("a.jsonl: line 2: not UTF-8 at byte 8 of the line"), "{error}");
    fs::write(folder.path().join("b.jsonl"), [0x1f, 0x8b, 8, 0]).unwrap();
    let error = read(&open(&folder, "b.jsonl").unwrap()).unwrap_err().to_string();
    assert!(error.ends_with("b.jsonl: compressed with gzip; decompress it first"), "{error}");
}

#[test]
fn json_of_all_forms() {
    let expected = [json!({"a": [1, {"b": "]}\\\""}]}), json!({"a": null, "data": ["x"]})];
    let first = r#"{"a": [1, {"b": "]}\\\""}]}"#;
    let second = r#"{"a" : null , "data": ["x"] }"#;
    let forms = [
        format!("[{first}, {second}]"),
        format!("\u{feff}[\n {first}\n ,\n {second}\n]\n"),
        format!("{first}\n{second}\n"),
        format!("{first}{second}"),
        format!(r#"{{"version": "1", "data": [{first},{second}], "more": [{{"x": "}}"}}], "n": 1}}"#),
        format!(r#"{{"data":[{first},{second}]}}"#),
    ];
    for text in forms {
        assert_eq!(values("a.json", &text), expected, "{text}");
    }
    assert!(values("a.json", " [ ] ").is_empty() && values("a.json", "").is_empty());
    assert_eq!(values("a.json", "{}[{}]"), [json!({}), json!({})]);
    assert_eq!(values("a.json", r#"{"data": []}"#), [json!({"data": []})]);
    let rows = one("a.json", "[\n{},\n\n{}]").unwrap();
    assert_eq!(rows.iter().map(|(_, place)| *place).collect::<Vec<_>>(), [2, 4]);
    let options = DatasetOptions { field: Some("rows".into()), ..DatasetOptions::default() };
    let folder = folder(&[("a.json", r#"{"rows": [{"a": 1}]}"#)]);
    assert_eq!(read(&open_with(&folder, "a.json", &options).unwrap()).unwrap()[0].0, json!({"a": 1}));
}

#[test]
fn broken_json_is_named() {
    let table = [
        ("[{\"a\": 1},\n {\"a\": 1,}]", "a.json: row 2 (line 2): not valid JSON: trailing comma"),
        ("[{\n\"a\": 1,\n}]", "a.json: row 1 (line 3): not valid JSON: trailing comma"),
        ("[{}\n{}]", "a.json: line 2: found `{`, expected `,` or `]`"),
        ("[{},]", "a.json: line 1: found `]`, expected a JSON object"),
        ("[{}", "a.json: line 1: the file ends, expected `,` or `]`"),
        ("[{\"a\": \"}]", "a.json: line 1: the file ends, expected the rest of a value"),
        ("[1]", "a.json: row 1 (line 1): found a number, expected a JSON object"),
        ("{\"a\"\n 1}", "a.json: line 2: found `1`, expected `:`"),
        ("{\"a\": 1\n\"b\": 2}", "a.json: line 2: found `\\\"`, expected `,` or `}`"),
        ("{\"a\": }", "a.json: line 1: found `}`, expected a value"),
        ("{\"data\": [{}] x}", "a.json: line 1: found `x`, expected `}` or `,`"),
        ("{\"a\": 1}\nnull", "a.json: line 2: found `n`, expected a JSON object or a list of them"),
        ("{\n\n\"a\": nul}", "a.json: row 1 (line 3): not valid JSON: expected ident"),
    ];
    for (text, expected) in table {
        assert_eq!(message("a.json", text), expected, "{text}");
    }
    assert!(one("a.json", &format!("[{}", "[".repeat(100_000))).is_err());
}

#[test]
fn articles_become_questions() {
    let text = r#"{"version": "v2.0", "data": [{"title": "T", "paragraphs": [
        {"context": "C", "qas": [
            {"id": "1", "question": "Q", "answers": [{"text": "C", "answer_start": 0}], "is_impossible": false},
            {"id": "2", "question": "R", "answers": []}]},
        {"context": "D", "qas": []}]}]}"#;
    let rows = values("squad.json", text);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1], json!({"title": "T", "context": "C", "id": "2", "question": "R", "answers": []}));
}

#[test]
fn csv_and_tabs() {
    let text = "text,label\n\"a, \"\"b\"\"\nc\",1\n\nü,\n";
    let rows = one("a.csv", text).unwrap();
    assert_eq!(rows, [(json!({"text": "a, \"b\"\nc", "label": "1"}), 2), (json!({"text": "ü", "label": ""}), 5)]);
    assert_eq!(values("a.tsv", "a\tb\n1,5\t2\n"), [json!({"a": "1,5", "b": "2"})]);
    assert_eq!(
        values("a.csv", "a,b\r\n\"1\"x,\"\"\r2,\"y\""),
        [json!({"a": "1x", "b": ""}), json!({"a": "2", "b": "y"})]
    );
    let options = DatasetOptions { delimiter: Some(';'), ..DatasetOptions::default() };
    let folder = folder(&[("a.csv", "\u{feff}a;b\n1;2\n")]);
    assert_eq!(read(&open_with(&folder, "a.csv", &options).unwrap()).unwrap()[0].0, json!({"a": "1", "b": "2"}));
    let wrong = DatasetOptions { delimiter: Some('→'), ..DatasetOptions::default() };
    assert!(matches!(open_with(&folder, "a.csv", &wrong), Err(Error::Input { .. })));
}

#[test]
fn broken_csv_is_named() {
    let table = [
        ("a,b\n1,2\n1,2,3\n", "a.csv: line 3: 3 columns, expected 2 as in the header"),
        ("a,b,a\n", "a.csv: line 1: two columns are named `a`"),
        ("", "a.csv: no header: the file is empty"),
        ("a,b\r\n\r\n\"1\",2\r\n1\r\n", "a.csv: line 4: 1 column, expected 2 as in the header"),
        ("a\n1\n\"x\ny\n", "a.csv: line 3: a quote is not closed"),
    ];
    for (text, expected) in table {
        assert_eq!(message("a.csv", text), expected);
    }
    // A quote that is not closed takes the rest of a file, which may be too much.
    let open_quote = format!("a\n1\n\"{}", "x".repeat(super::super::bytes::MAX_ROW + 1));
    let expected = "a.csv: line 3: a row of more than 67108864 bytes; is a quote not closed?";
    assert_eq!(message("a.csv", &open_quote), expected);
    let folder = folder(&[]);
    fs::write(folder.path().join("a.csv"), b"a,b\n1,x\xff\n").unwrap();
    let error = read(&open(&folder, "a.csv").unwrap()).unwrap_err().to_string();
    assert!(error.ends_with("a.csv: line 2: column `b`: not UTF-8"), "{error}");
}

#[test]
fn plain_text() {
    let text = "one\r\ntwo\n\n\nthree";
    let read_by = |sample_by: SampleBy, keep_linebreaks: bool| {
        let folder = folder(&[("a.txt", text), ("b.txt", "four\n")]);
        let options = DatasetOptions { sample_by, keep_linebreaks, ..DatasetOptions::default() };
        let rows = read(&open_with(&folder, "", &options).unwrap()).unwrap();
        rows.into_iter().map(|(value, _)| value["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(read_by(SampleBy::Line, true), ["one\n", "two\n", "\n", "\n", "three", "four\n"]);
    assert_eq!(read_by(SampleBy::Line, false), ["one", "two", "", "", "three", "four"]);
    assert_eq!(read_by(SampleBy::Paragraph, true), ["one\ntwo", "three", "four"]);
    assert_eq!(read_by(SampleBy::Document, true), ["one\ntwo\n\n\nthree", "four\n"]);
    assert_eq!(one("a.txt", "a\nb").unwrap()[1].1, 2);
}

#[test]
fn files_by_pattern_and_folder() {
    let folder = folder(&[
        ("train-1.jsonl", "{\"a\": 2}"),
        ("train-0.jsonl", "{\"a\": 1}\n"),
        ("test.jsonl", "{\"a\": 3}"),
        ("other/x.csv", "a\n1\n"),
        ("other/x.txt", "a"),
        ("other/.hidden.jsonl", "{}"),
        ("empty/readme.md", ""),
        ("noname", "[{\"a\": 9}]"),
        ("unknown", "hello"),
    ]);
    let all = |name: &str| read(&open(&folder, name).unwrap()).unwrap().into_iter().map(|(v, _)| v["a"].clone());
    assert_eq!(all("train-*.jsonl").collect::<Vec<_>>(), [json!(1), json!(2)]);
    assert_eq!(all("").collect::<Vec<_>>(), [json!(3), json!(1), json!(2)]);
    assert_eq!(all("noname").collect::<Vec<_>>(), [json!(9)]);
    let error = |name: &str| open(&folder, name).map(drop).unwrap_err().to_string();
    assert!(error("valid-*.jsonl").ends_with("no file matches"));
    assert!(error("missing.jsonl").contains("missing.jsonl: No such file"), "{}", error("missing.jsonl"));
    assert!(error("other").ends_with("`x.csv` and `x.txt` have different formats; name those that are meant"));
    assert!(error("empty").contains("no files of rows"));
    assert!(error("unknown").contains("set `format` to"));
    let text = DatasetOptions { format: Some(Format::Text), ..DatasetOptions::default() };
    assert_eq!(open_with(&folder, "other", &text).unwrap().files().len(), 1);
    assert!(open_with(&folder, "empty", &text).is_err());
    let two = DatasetOptions { max_samples: Some(2), ..DatasetOptions::default() };
    assert_eq!(read(&open_with(&folder, "", &two).unwrap()).unwrap().len(), 2);
}

#[test]
fn folders_of_images() {
    let folder =
        folder(&[("dog/2.PNG", ""), ("dog/1.jpg", ""), ("cat/a.webp", ""), ("cat/notes.md", ""), ("x/y.md", "")]);
    let dataset = open(&folder, "").unwrap();
    assert_eq!((dataset.format(), dataset.size()), (Format::ImageFolder, 0));
    assert_eq!(dataset.classes().unwrap().unwrap(), ["cat", "dog"]);
    let rows: Vec<Row> = dataset.rows(&Columns::default()).collect::<Result<_>>().unwrap();
    let shown: Vec<String> = rows
        .iter()
        .map(|row| {
            let path = Path::new(row.text("image").unwrap()).strip_prefix(folder.path()).unwrap();
            format!("{} {}", path.display(), row.text("label").unwrap())
        })
        .collect();
    assert_eq!(shown, ["cat/a.webp cat", "dog/1.jpg dog", "dog/2.PNG dog"]);
}

#[test]
fn the_first_images_of_a_mixed_folder_are_of_all_classes() {
    let names: Vec<String> = (0..40).map(|i| format!("{}/{i:02}.png", ["cat", "dog"][i / 20])).collect();
    let folder = folder(&names.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
    let rows = |options: &DatasetOptions, seed: Option<u64>| -> Vec<(u64, String)> {
        let dataset = open_with(&folder, "", options).unwrap();
        let dataset = seed.map_or(dataset.clone(), |seed| dataset.shuffled(seed));
        let rows = dataset.rows(&Columns::default()).map(|row| row.unwrap());
        rows.map(|row| (row.origin().place.row, row.text("image").unwrap().to_owned())).collect()
    };
    let sorted = rows(&DatasetOptions::default(), None);
    assert!(sorted.iter().map(|(row, _)| *row).eq(1..=40));
    let some = DatasetOptions { max_samples: Some(10), ..DatasetOptions::default() };
    let [default, seeded] = [None, Some(7)].map(|seed| rows(&some, seed));
    for found in [&default, &seeded] {
        assert_eq!(found.len(), 10);
        assert!(found.iter().any(|(row, _)| *row <= 20) && found.iter().any(|(row, _)| *row > 20), "{found:?}");
        assert!(found.iter().all(|row| sorted.contains(row)), "a row keeps its number");
    }
    assert_ne!(default, seeded);
    assert_eq!(seeded, rows(&some, Some(7)));
    let mut all = rows(&DatasetOptions::default(), Some(7));
    all.sort_unstable();
    assert_eq!(all, sorted);
}

#[test]
fn rows_say_how_much_was_read_and_end_with_an_error() {
    let folder = folder(&[("a.jsonl", "{}\n{}\n"), ("b.jsonl", "{}\nx\n{}\n")]);
    let dataset = open(&folder, "").unwrap();
    let mut rows = dataset.rows(&Columns::default());
    assert_eq!((rows.position(), dataset.size()), (0, 14));
    assert!(rows.by_ref().take(2).all(|row| row.is_ok()));
    assert_eq!(rows.position(), 6);
    assert!(rows.next().unwrap().is_ok());
    assert!(rows.next().unwrap().is_err() && rows.next().is_none());
}
