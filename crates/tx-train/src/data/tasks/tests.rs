use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tx_text::chat::{ChatTemplate, NaiveDateTime};

use super::*;
use crate::data::{
    ClassLabels, Dataset, DatasetOptions, Example, Examples, IGNORED, Labels, Origin, Packing, Place, Preparation,
    PrepareOptions, Targets, Tokens,
};

fn data() -> PathBuf {
    PathBuf::from("../../tests/data")
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_folder(&data().join("tokenizers").join(name)).unwrap()
}

/// What Python made of small data sets: see `record.py` beside it.
fn goldens<T: DeserializeOwned>(section: &str) -> Vec<T> {
    let text = std::fs::read_to_string(data().join("train/data/goldens.json")).unwrap();
    let mut goldens: Map<String, Value> = serde_json::from_str(&text).unwrap();
    serde_json::from_value(goldens.remove(section).unwrap()).unwrap()
}

fn row(values: Value) -> Row {
    let Value::Object(values) = values else { panic!("an object") };
    Row::new(Origin { file: Path::new("a.jsonl").into(), place: Place { row: 0, line: 1 } }, values)
}

fn named(names: &[&str]) -> ClassLabels {
    ClassLabels::new(names.iter().map(|&name| name.to_owned()).collect()).unwrap()
}

fn message(task: &dyn Preparation, values: Value) -> String {
    task.examples(&row(values)).unwrap_err().to_string()
}

/// The examples of a file of rows.
fn prepare(task: &dyn Preparation, name: &str, text: &str) -> Vec<Example> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let dataset = Dataset::open(path.to_str().unwrap(), &DatasetOptions::default()).unwrap();
    let options = PrepareOptions { folder: folder.path().to_path_buf(), progress: false };
    let examples = Examples::prepare(&dataset, task, &options).unwrap();
    (0..examples.len()).map(|number| examples.get(number).unwrap()).collect()
}

#[test]
fn token_labels_are_those_of_python() {
    #[derive(Deserialize)]
    struct Golden {
        tokenizer: String,
        label_all_tokens: bool,
        max_length: usize,
        rows: Vec<Value>,
        names: Vec<String>,
        input_ids: Vec<Vec<u32>>,
        labels: Vec<Vec<i64>>,
    }
    for golden in goldens::<Golden>("token_classification") {
        let tokenizer = tokenizer(&golden.tokenizer);
        let (max_length, label_all_tokens) = (Some(golden.max_length), golden.label_all_tokens);
        let options = TokenClassificationOptions { max_length, label_all_tokens, ..Default::default() };
        let task = TokenClassification::new(&tokenizer, options, ClassLabels::new(golden.names).unwrap());
        for (values, (ids, labels)) in golden.rows.into_iter().zip(golden.input_ids.into_iter().zip(golden.labels)) {
            let example = task.examples(&row(values)).unwrap().remove(0);
            assert_eq!(example.texts[0].ids, ids, "{}", golden.tokenizer);
            assert_eq!(example.labels, Labels::Tokens(labels), "{}", golden.tokenizer);
        }
    }
}

#[test]
fn tags_that_do_not_fit_are_named() {
    let tokenizer = tokenizer("bert-cased");
    let options = TokenClassificationOptions::default();
    let task = TokenClassification::new(&tokenizer, options, named(&["O", "B-PER"]));
    assert_eq!(
        message(&task, json!({"tokens": ["a", "b"], "ner_tags": ["O"]})),
        "a.jsonl: line 1: column `ner_tags`: 1 labels, expected 2, one for each word"
    );
    assert_eq!(
        message(&task, json!({"tokens": ["a", "b"], "ner_tags": [0, 2]})),
        "a.jsonl: line 1: column `ner_tags[1]`: found 2, expected a label from 0 to 1"
    );
    let unknown = message(&task, json!({"tokens": ["a"], "ner_tags": ["B-PR"]}));
    assert!(unknown.ends_with("expected one of `O`, `B-PER`; did you mean `B-PER`?"), "{unknown}");
    assert!(message(&task, json!({"words": ["a"], "ner_tags": [0]})).contains("no column `tokens`"));
}

#[test]
fn answers_are_found_where_python_finds_them() {
    #[derive(Deserialize)]
    struct Golden {
        tokenizer: String,
        max_seq_length: usize,
        doc_stride: usize,
        rows: Vec<Value>,
        features: Vec<Feature>,
    }
    #[derive(Deserialize)]
    struct Feature {
        id: String,
        input_ids: Vec<u32>,
        start: usize,
        end: usize,
        offset_mapping: Vec<Option<(usize, usize)>>,
    }
    for golden in goldens::<Golden>("question_answering") {
        let tokenizer = tokenizer(&golden.tokenizer);
        let options = QuestionAnsweringOptions {
            max_seq_length: golden.max_seq_length,
            doc_stride: golden.doc_stride,
            ..Default::default()
        };
        let task = QuestionAnswering::new(&tokenizer, options, true).unwrap();
        let found = golden.rows.iter().flat_map(|values| task.examples(&row(values.clone())).unwrap());
        let found: Vec<Example> = found.collect();
        assert_eq!(found.len(), golden.features.len());
        for (example, feature) in found.iter().zip(&golden.features) {
            let what = format!("{}: {}", golden.tokenizer, feature.id);
            assert_eq!(example.texts[0].ids, feature.input_ids, "{what}");
            assert_eq!(example.labels, Labels::Span { start: feature.start, end: feature.end }, "{what}");
            let reference = example.reference.as_ref().unwrap();
            assert_eq!((&reference.id, &reference.offsets), (&feature.id, &feature.offset_mapping), "{what}");
        }
        assert_eq!(found[0].reference.as_ref().unwrap().answers, ["324 metres"]);
        // Answers in the other form, from a file.
        let values =
            json!({"question": "Who?", "context": "Ça, it was Él.", "answers": [{"text": "Él", "answer_start": 11}]});
        let examples = prepare(&task, "a.jsonl", &values.to_string());
        let Labels::Span { start, end } = examples[0].labels else { panic!("a span") };
        let offsets = &examples[0].reference.as_ref().unwrap().offsets;
        assert_eq!((offsets[start].unwrap().0, offsets[end].unwrap().1), (11, 13));
        let plain = QuestionAnswering::new(&tokenizer, QuestionAnsweringOptions::default(), false).unwrap();
        assert!(plain.examples(&row(values)).unwrap()[0].reference.is_none());
    }
}

#[test]
fn an_answer_in_the_last_token_is_learned_there() {
    let tokenizer = tokenizer("bert-uncased");
    let task = QuestionAnswering::new(&tokenizer, QuestionAnsweringOptions::default(), true).unwrap();
    let values = json!({"question": "?", "context": "it is .", "answers": {"text": ["."], "answer_start": [6]}});
    let example = task.examples(&row(values)).unwrap().remove(0);
    let last = example.texts[0].len() - 2;
    assert_eq!(example.labels, Labels::Span { start: last, end: last });
}

#[test]
fn answers_that_are_not_there_are_named() {
    let tokenizer = tokenizer("bert-uncased");
    let task = QuestionAnswering::new(&tokenizer, QuestionAnsweringOptions::default(), false).unwrap();
    let with = |answers: Value| json!({"question": "Who?", "context": "It was me.", "answers": answers});
    let at = "a.jsonl: line 1: column `answers`: ";
    assert_eq!(
        message(&task, with(json!({"text": ["me"], "answer_start": [6]}))),
        format!("{at}answer \"me\" is not at character 6 of the context, where \" m\" is")
    );
    for (text, start) in [("me.x", 7), ("me", 1000), ("", 0)] {
        assert!(message(&task, with(json!({"text": [text], "answer_start": [start]}))).contains("is not at character"));
    }
    assert_eq!(
        message(&task, with(json!([{"text": "me"}]))),
        format!("{at}an answer without a `text` or an `answer_start`")
    );
    assert!(message(&task, with(json!({"text": ["me"], "answer_start": []}))).contains("lists of one length"));
    assert!(message(&task, with(json!("me"))).contains("found \"me\", expected `text` and `answer_start`"));
    for (max_seq_length, doc_stride) in [(1000, 10), (100, 100)] {
        let options = QuestionAnsweringOptions { max_seq_length, doc_stride, ..Default::default() };
        assert!(QuestionAnswering::new(&tokenizer, options, false).is_err());
    }
    let options = QuestionAnsweringOptions { max_seq_length: 8, doc_stride: 2, ..Default::default() };
    let narrow = QuestionAnswering::new(&tokenizer, options, false).unwrap();
    let long = json!({"question": "who is it that it was, you or me?", "context": "me", "answers": []});
    assert!(message(&narrow, long).starts_with("a.jsonl: line 1: column `context`: "));
}

#[derive(Deserialize)]
struct Blocks {
    tokenizer: String,
    block_size: usize,
    lines: Vec<String>,
    blocks: Vec<Vec<u32>>,
    #[serde(default)]
    special_tokens_mask: Vec<Vec<u8>>,
}

fn language_options(block_size: usize, grouping: Grouping) -> LanguageModelingOptions {
    LanguageModelingOptions { block_size: Some(block_size), grouping, ..Default::default() }
}

#[test]
fn blocks_are_those_of_python() {
    for golden in goldens::<Blocks>("causal") {
        let tokenizer = tokenizer(&golden.tokenizer);
        let task = LanguageModeling::causal(&tokenizer, language_options(golden.block_size, Grouping::Blocks)).unwrap();
        let blocks = prepare(&task, "a.txt", &golden.lines.concat());
        let ids: Vec<_> = blocks.iter().map(|block| block.texts[0].ids.clone()).collect();
        assert_eq!(ids, golden.blocks, "{}", golden.tokenizer);
        assert!(blocks.iter().all(|block| block.labels == Labels::Same && block.texts[0].marks.is_empty()));
    }
    for golden in goldens::<Blocks>("masked") {
        let tokenizer = tokenizer(&golden.tokenizer);
        let task = LanguageModeling::masked(&tokenizer, language_options(golden.block_size, Grouping::Blocks)).unwrap();
        let blocks = prepare(&task, "a.txt", &golden.lines.concat());
        let ids: Vec<_> = blocks.iter().map(|block| block.texts[0].ids.clone()).collect();
        assert_eq!(ids, golden.blocks, "{}", golden.tokenizer);
        let special =
            blocks.iter().map(|block| block.texts[0].marks.iter().map(|mark| mark & Tokens::SPECIAL).collect());
        assert_eq!(special.collect::<Vec<Vec<u8>>>(), golden.special_tokens_mask, "{}", golden.tokenizer);
    }
}

#[test]
fn words_begin_where_python_says() {
    #[derive(Deserialize)]
    struct Golden {
        tokenizer: String,
        max_length: usize,
        lines: Vec<String>,
        input_ids: Vec<Vec<u32>>,
        starts: Vec<Vec<u8>>,
    }
    for golden in goldens::<Golden>("whole_words") {
        let tokenizer = tokenizer(&golden.tokenizer);
        let task = LanguageModeling::masked(&tokenizer, language_options(golden.max_length, Grouping::Lines)).unwrap();
        let lines = prepare(&task, "a.txt", &golden.lines.concat());
        let ids: Vec<_> = lines.iter().map(|line| line.texts[0].ids.clone()).collect();
        assert_eq!(ids, golden.input_ids, "{}", golden.tokenizer);
        let starts = lines.iter().map(|line| line.texts[0].marks.iter().map(|&mark| mark / Tokens::WORD).collect());
        assert_eq!(starts.collect::<Vec<Vec<u8>>>(), golden.starts, "{}", golden.tokenizer);
    }
}

#[test]
fn texts_end_and_lines_stay_whole() {
    let tokenizer = tokenizer("gpt2");
    let eos = tokenizer.special().eos.as_ref().unwrap().id;
    let options = |grouping| LanguageModelingOptions { add_eos: true, ..language_options(12, grouping) };
    let lines =
        prepare(&LanguageModeling::causal(&tokenizer, options(Grouping::Lines)).unwrap(), "a.txt", "one\n\ntwo\n");
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.texts[0].ids.ends_with(&[eos]) && line.labels == Labels::Same));
    let whole = LanguageModeling::causal(&tokenizer, options(Grouping::Whole)).unwrap();
    assert_eq!(whole.packing(), Packing::Whole { size: 12 });
    let packed = prepare(&whole, "a.txt", "one\n\ntwo\n");
    let (total, longest) = (lines.iter().map(Example::len).sum::<usize>(), lines.iter().map(Example::len).max());
    assert_eq!(packed.iter().map(Example::len).sum::<usize>(), total);
    let examples = if total <= 12 { 1 } else { 2 };
    assert!(packed.len() == examples && longest.unwrap() <= 12);
    let long = LanguageModeling::causal(&tokenizer, options(Grouping::Lines)).unwrap();
    assert_eq!(long.examples(&row(json!({"text": "many ".repeat(30)}))).unwrap()[0].len(), 12);
    for wrong in [language_options(1, Grouping::Blocks), language_options(2000, Grouping::Blocks)] {
        assert!(LanguageModeling::causal(&tokenizer, wrong).is_err());
    }
    assert!(LanguageModeling::masked(&tokenizer, options(Grouping::Whole)).is_err());
    assert_eq!(message(&long, json!({"text": 1})), "a.jsonl: line 1: column `text`: found 1, expected a text");
}

#[test]
fn texts_with_classes_and_numbers() {
    let tokenizer = tokenizer("bert-uncased");
    let labels = |targets: Targets, label: Value| {
        let task = SequenceClassification::new(&tokenizer, SequenceClassificationOptions::default(), targets);
        let mut examples = task.examples(&row(json!({"text": "hello", "label": label})))?;
        Ok::<Labels, tx_core::Error>(examples.remove(0).labels)
    };
    let classes = || named(&["no", "yes"]);
    assert_eq!(labels(Targets::Classes(classes()), json!("yes")).unwrap(), Labels::Class(1));
    assert_eq!(labels(Targets::Regression(1), json!(2.5)).unwrap(), Labels::Values(vec![2.5]));
    assert_eq!(labels(Targets::Regression(2), json!([1, 2])).unwrap(), Labels::Values(vec![1.0, 2.0]));
    for (label, values) in [(json!(["yes"]), [0.0, 1.0]), (json!([]), [0.0; 2]), (json!([1, 0]), [1.0; 2])] {
        assert_eq!(labels(Targets::MultiLabel(classes()), label).unwrap(), Labels::Values(values.to_vec()));
    }
    let vector = labels(Targets::MultiLabel(classes()), json!([0.0, 1.0])).unwrap();
    assert_eq!(vector, Labels::Values(vec![0.0, 1.0]));
    for (targets, label) in [
        (Targets::Classes(classes()), json!(2)),
        (Targets::Classes(classes()), json!(null)),
        (Targets::Regression(1), json!("x")),
        (Targets::Regression(1), json!(1e300)),
        (Targets::Regression(2), json!([1])),
        (Targets::MultiLabel(classes()), json!("yes")),
        (Targets::MultiLabel(classes()), json!([0.5, 2.0])),
        (Targets::MultiLabel(classes()), json!([1.0])),
        (Targets::MultiLabel(classes()), json!([0, 1, 0])),
        (Targets::MultiLabel(classes()), json!(["yes", "yes"])),
    ] {
        let error = labels(targets, label.clone()).unwrap_err().to_string();
        assert!(error.starts_with("a.jsonl: line 1: column `label"), "{label}: {error}");
    }
    let text_pair_column = Some("hypothesis".to_owned());
    let options = SequenceClassificationOptions { text_pair_column, max_length: Some(6), ..Default::default() };
    let task = SequenceClassification::new(&tokenizer, options, Targets::Regression(1));
    let pair = task.examples(&row(json!({"text": "a b c d", "hypothesis": "e f", "label": 1}))).unwrap().remove(0);
    assert_eq!((pair.len(), pair.texts[0].type_ids.as_slice()), (6, &[0, 0, 0, 0, 1, 1][..]));
}

#[test]
fn masks_of_conversations_are_those_of_python() {
    #[derive(Deserialize)]
    struct Golden {
        tokenizer: String,
        template: String,
        messages: Value,
        input_ids: Vec<u32>,
        assistant_masks: Vec<u32>,
    }
    for golden in goldens::<Golden>("chat") {
        let tokenizer = tokenizer(&golden.tokenizer);
        let new = |source: &str| ChatTemplate::new("chat_template.jinja", source, tokenizer.special()).unwrap();
        let marked = new(&golden.template);
        // Without its marks the template gives the same parts.
        let plain = golden.template.replace("{% generation %}", "").replace("{% endgeneration %}\n", "");
        let plain = new(&plain);
        let values = json!({"messages": golden.messages});
        let masks = golden.input_ids.iter().zip(&golden.assistant_masks);
        let labels: Vec<i64> = masks.map(|(&id, &mask)| if mask == 0 { IGNORED } else { i64::from(id) }).collect();
        for template in [&marked, &plain] {
            let options = ChatTuningOptions { max_length: Some(1000), ..Default::default() };
            let task = ChatTuning::new(&tokenizer, template, options, NaiveDateTime::default()).unwrap();
            let example = task.examples(&row(values.clone())).unwrap().remove(0);
            assert_eq!(example.texts[0].ids, golden.input_ids, "{}", golden.tokenizer);
            assert_eq!(example.labels, Labels::Tokens(labels.clone()), "{}", golden.tokenizer);
        }
        let first = labels.iter().position(|&label| label != IGNORED).unwrap();
        let cut = |max_length| {
            let options = ChatTuningOptions { max_length: Some(max_length), packing: true, ..Default::default() };
            let task = ChatTuning::new(&tokenizer, &marked, options, NaiveDateTime::default()).unwrap();
            assert_eq!(task.packing(), Packing::Whole { size: max_length });
            task.examples(&row(values.clone())).unwrap()
        };
        assert_eq!(cut(first + 1)[0].labels, Labels::Tokens(labels[..=first].to_vec()));
        assert!(cut(first).is_empty(), "nothing of the answers is left");
        let options = ChatTuningOptions { assistant_only_loss: false, ..Default::default() };
        let all = ChatTuning::new(&tokenizer, &plain, options, NaiveDateTime::default()).unwrap();
        assert_eq!(all.examples(&row(values)).unwrap()[0].labels, Labels::Same);
    }
}

#[test]
fn conversations_that_teach_nothing_are_named() {
    let tokenizer = tokenizer("gpt2");
    let source =
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ raise_exception('No tools') if tools }}";
    let template = ChatTemplate::new("chat_template.jinja", source, tokenizer.special()).unwrap();
    let options = ChatTuningOptions::default();
    let task = ChatTuning::new(&tokenizer, &template, options, NaiveDateTime::default()).unwrap();
    let at = "a.jsonl: line 1: column `messages`: ";
    let user = json!({"role": "user", "content": "Hi"});
    assert_eq!(
        message(&task, json!({"messages": [user]})),
        format!("{at}no message of the assistant, expected one at least")
    );
    assert!(message(&task, json!({"messages": []})).starts_with(&format!("{at}messages: an empty conversation")));
    let tools = json!({"messages": [user, {"role": "assistant", "content": "Ho"}], "tools": "[{\"name\": \"f\"}]"});
    assert_eq!(message(&task, tools), format!("{at}chat_template.jinja: chat template, line 2: No tools"));
    assert!(
        message(&task, json!({"messages": [user], "tools": "f"})).contains("column `tools`: a text that is no list")
    );
}

#[test]
fn texts_that_belong_together() {
    let tokenizer = tokenizer("bert-uncased");
    let options = ContrastiveOptions {
        text_columns: vec!["anchor".into(), "positive".into(), "negative".into()],
        score_column: Some("score".into()),
        max_length: Some(8),
    };
    let task = Contrastive::new(&tokenizer, options).unwrap();
    let values = json!({"anchor": "a", "positive": "b c", "negative": "d ".repeat(20), "score": 0.5});
    let example = task.examples(&row(values)).unwrap().remove(0);
    assert_eq!(example.texts.iter().map(Tokens::len).collect::<Vec<_>>(), [3, 4, 8]);
    assert_eq!(example.labels, Labels::Values(vec![0.5]));
    assert!(message(&task, json!({"anchor": "a", "positiv": "b"})).contains("did you mean `positiv`?"));
    let one = ContrastiveOptions { text_columns: vec!["text".into()], ..Default::default() };
    assert!(Contrastive::new(&tokenizer, one).is_err());
}

#[test]
fn images_by_folder_and_by_list() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cat/a.png", "dog/b.png"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let lines = "{\"image\": \"cat/a.png\", \"label\": \"cat\"}\n{\"image\": \"cat/c.png\", \"label\": \"cat\"}\n";
    std::fs::write(folder.path().join("list.jsonl"), lines).unwrap();
    let task = ImageClassification::new(ImageClassificationOptions::default(), named(&["cat", "dog"]));
    let options = PrepareOptions { folder: folder.path().to_path_buf(), progress: false };
    let by_folder = DatasetOptions { format: Some(crate::data::Format::ImageFolder), ..DatasetOptions::default() };
    let dataset = Dataset::open(folder.path().to_str().unwrap(), &by_folder).unwrap();
    let examples = Examples::prepare(&dataset, &task, &options).unwrap();
    let dog = examples.get(1).unwrap();
    assert_eq!((dog.image, dog.labels), (Some(folder.path().join("dog/b.png")), Labels::Class(1)));
    let list = folder.path().join("list.jsonl");
    let dataset = Dataset::open(list.to_str().unwrap(), &DatasetOptions::default()).unwrap();
    let error = Examples::prepare(&dataset, &task, &options).unwrap_err().to_string();
    let expected = format!("line 2: column `image`: there is no file `{}", folder.path().display());
    assert!(error.contains(&expected[..50]), "{error}");
}
