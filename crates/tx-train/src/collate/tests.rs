use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::data::Place;

fn collator(side: Side) -> Collator {
    Collator { pad: Some(9), side, has_token_type_ids: false, ..Collator::images() }
}

fn example(line: u64, ids: &[u32], labels: Labels) -> (u64, Example) {
    let file: Arc<Path> = Path::new("a.jsonl").into();
    let tokens = Tokens { ids: ids.to_vec(), ..Tokens::default() };
    (line * 10, Example::text(Origin { file, place: Place { row: 0, line } }, tokens, labels))
}

fn rows(batch: usize, seq: usize, values: &[i64]) -> IntRows {
    IntRows { batch, seq, values: values.to_vec() }
}

#[test]
fn texts_are_padded_to_the_longest() {
    let examples = vec![example(1, &[1, 2, 3], Labels::Class(0)), example(2, &[4], Labels::Class(2))];
    let right = collator(Side::Right).collate(examples.clone(), 0).unwrap();
    assert_eq!(right.texts[0].input_ids, rows(2, 3, &[1, 2, 3, 4, 9, 9]));
    assert_eq!(right.texts[0].attention_mask, Some(rows(2, 3, &[1, 1, 1, 1, 0, 0])));
    assert!(right.texts[0].token_type_ids.is_none() && right.texts[0].position_ids.is_none());
    assert_eq!(right.labels, BatchLabels::Classes(vec![0, 2]));
    assert_eq!((right.numbers.as_slice(), right.tokens, right.len()), (&[10, 20][..], 4, 2));
    assert_eq!(right.origins[1].to_string(), "a.jsonl: line 2");
    let left = collator(Side::Left).collate(examples.clone(), 0).unwrap();
    assert_eq!(left.texts[0].input_ids, rows(2, 3, &[1, 2, 3, 9, 9, 4]));
    let types = Collator { has_token_type_ids: true, ..collator(Side::Right) };
    let mut paired = examples.clone();
    paired[0].1.texts[0].type_ids = vec![0, 1, 1];
    assert_eq!(types.collate(paired, 0).unwrap().texts[0].token_type_ids, Some(rows(2, 3, &[0, 1, 1, 0, 0, 0])));
    let equal = collator(Side::Right).collate(examples[..1].to_vec(), 0).unwrap();
    assert!(equal.texts[0].attention_mask.is_none(), "no mask where nothing is padded");
    let options = CollatorOptions { pad_to_multiple_of: Some(4), ..CollatorOptions::default() };
    let multiple = Collator { options, ..collator(Side::Right) };
    assert_eq!(multiple.collate(examples.clone(), 0).unwrap().texts[0].input_ids.seq, 4);
    let options = CollatorOptions { max_length: Some(7), ..CollatorOptions::default() };
    let fixed = Collator { options, ..collator(Side::Right) };
    assert_eq!(fixed.collate(examples, 0).unwrap().texts[0].input_ids.seq, 7);
}

#[test]
fn labels_of_tokens_and_spans_move_with_the_padding() {
    let examples =
        vec![example(1, &[1, 2, 3], Labels::Tokens(vec![-100, 5, 6])), example(2, &[4, 5], Labels::Tokens(vec![7, 8]))];
    let labels = |side| collator(side).collate(examples.clone(), 0).unwrap().labels;
    assert_eq!(labels(Side::Right), BatchLabels::Tokens(rows(2, 3, &[-100, 5, 6, 7, 8, -100])));
    assert_eq!(labels(Side::Left), BatchLabels::Tokens(rows(2, 3, &[-100, 5, 6, -100, 7, 8])));
    // The padding is no label, though it is the end of text, and ends of text are.
    let same = vec![example(1, &[1, 9], Labels::Same), example(2, &[4], Labels::Same)];
    let batch = collator(Side::Right).collate(same, 0).unwrap();
    assert_eq!(batch.labels, BatchLabels::Tokens(rows(2, 2, &[1, 9, 4, -100])));
    let span = Labels::Span { start: 0, end: 1 };
    let spans = vec![example(1, &[1, 2, 3, 4], span.clone()), example(2, &[5, 6], span)];
    let labels = |side| collator(side).collate(spans.clone(), 0).unwrap().labels;
    assert_eq!(labels(Side::Right), BatchLabels::Spans { starts: vec![0, 0], ends: vec![1, 1] });
    assert_eq!(labels(Side::Left), BatchLabels::Spans { starts: vec![0, 2], ends: vec![1, 3] });
    let values = |values: &[f32]| Labels::Values(values.to_vec());
    let examples = vec![example(1, &[1], values(&[1.0, 0.0])), example(2, &[2], values(&[0.5, 2.0]))];
    let batch = collator(Side::Right).collate(examples, 0).unwrap();
    assert_eq!(batch.labels, BatchLabels::Values { columns: 2, values: vec![1.0, 0.0, 0.5, 2.0] });
}

#[test]
fn texts_that_are_compared_have_lengths_of_their_own() {
    let pair = |line, first: &[u32], second: &[u32]| {
        let (number, mut example) = example(line, first, Labels::None);
        example.texts.push(Tokens { ids: second.to_vec(), ..Tokens::default() });
        (number, example)
    };
    let batch = collator(Side::Right).collate(vec![pair(1, &[1], &[2, 3]), pair(2, &[4], &[5])], 0).unwrap();
    assert_eq!(batch.texts[0].input_ids, rows(2, 1, &[1, 4]));
    assert_eq!(batch.texts[1].input_ids, rows(2, 2, &[2, 3, 5, 9]));
    assert_eq!((batch.tokens, batch.labels), (5, BatchLabels::None));
    let uneven = vec![pair(1, &[1], &[2]), example(2, &[1], Labels::None)];
    let error = collator(Side::Right).collate(uneven, 0).unwrap_err().to_string();
    assert_eq!(error, "a.jsonl: line 2: 1 texts, where the others have 2");
}

#[test]
fn batches_that_cannot_be_are_errors() {
    let unpadded = Collator { pad: None, ..collator(Side::Right) };
    let uneven = vec![example(1, &[1, 2], Labels::None), example(2, &[1], Labels::None)];
    assert!(unpadded.collate(uneven[..1].to_vec(), 0).is_ok());
    assert!(matches!(unpadded.collate(uneven, 0), Err(Error::Input { .. })));
    let huge = CollatorOptions { max_length: Some(MAX_TOKENS + 1), ..CollatorOptions::default() };
    let huge = Collator { options: huge, ..collator(Side::Right) };
    assert!(matches!(huge.collate(vec![example(1, &[1], Labels::None)], 0), Err(Error::Input { .. })));
    let mixed = vec![example(1, &[1], Labels::Class(1)), example(2, &[1], Labels::None)];
    let error = collator(Side::Right).collate(mixed, 0).unwrap_err().to_string();
    assert_eq!(error, "a.jsonl: line 2: labels of another kind than the others");
    let short = vec![example(1, &[1, 2], Labels::Tokens(vec![1]))];
    assert!(collator(Side::Right).collate(short, 0).is_err());
}

#[test]
fn images_and_nothing() {
    let (number, image) = example(1, &[], Labels::Class(3));
    let image = Example { texts: Vec::new(), image: Some("a.png".into()), ..image };
    let batch = Collator::images().collate(vec![(number, image)], 0).unwrap();
    assert_eq!((batch.images, batch.texts.len()), (vec![PathBuf::from("a.png")], 0));
    assert_eq!(batch.labels, BatchLabels::Classes(vec![3]));
    let empty = Collator::images().collate(Vec::new(), 0).unwrap();
    assert!(empty.is_empty() && empty.labels == BatchLabels::None);
}
