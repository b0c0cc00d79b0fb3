//! Post-processors: which special tokens stand around one text, and around two.

use serde_json::{Value, json};
use std::path::Path;

use tokenizers::PostProcessorWrapper;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;

use crate::error::{Error, Result};

/// The most special tokens that a post-processor may add to a text.
const MAX_ADDED: usize = 1024;

/// A piece of a template, with its token type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    /// The first text.
    A(u32),
    /// The second text.
    B(u32),
    /// A special token, by its name in the template.
    Token(&'a str, u32),
}

/// A template for one text and one for two; `tokens` are the special tokens in them, with their ids.
pub(super) fn template(
    path: &Path,
    single: &[Part<'_>],
    pair: &[Part<'_>],
    tokens: &[(&str, u32)],
) -> Result<PostProcessorWrapper> {
    let pieces = |parts: &[Part<'_>]| -> Value {
        let piece = |part: &Part<'_>| match *part {
            Part::A(type_id) => json!({"Sequence": {"id": "A", "type_id": type_id}}),
            Part::B(type_id) => json!({"Sequence": {"id": "B", "type_id": type_id}}),
            Part::Token(name, type_id) => json!({"SpecialToken": {"id": name, "type_id": type_id}}),
        };
        parts.iter().map(piece).collect()
    };
    let tokens: serde_json::Map<String, Value> = tokens
        .iter()
        .map(|&(name, id)| (name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]})))
        .collect();
    let template = json!({
        "type": "TemplateProcessing", "single": pieces(single), "pair": pieces(pair), "special_tokens": tokens,
    });
    let template: TemplateProcessing = serde_json::from_value(template).map_err(|e| Error::tokenizer(path, e))?;
    Ok(template.into())
}

/// `[CLS] A [SEP] B [SEP]`, the second text and its separator being of type 1.
pub(super) fn bert(path: &Path, cls: (&str, u32), sep: (&str, u32)) -> Result<PostProcessorWrapper> {
    use Part::{A, B, Token};
    let single = [Token(cls.0, 0), A(0), Token(sep.0, 0)];
    let pair = [Token(cls.0, 0), A(0), Token(sep.0, 0), B(1), Token(sep.0, 1)];
    template(path, &single, &pair, &[cls, sep])
}

/// `<s> A </s> </s> B </s>`, all of type 0.
pub(super) fn fairseq(path: &Path, bos: (&str, u32), eos: (&str, u32)) -> Result<PostProcessorWrapper> {
    use Part::{A, B, Token};
    let (bos_part, eos_part) = (Token(bos.0, 0), Token(eos.0, 0));
    let pair = [bos_part, A(0), eos_part, eos_part, B(0), eos_part];
    template(path, &[bos_part, A(0), eos_part], &pair, &[bos, eos])
}

/// The beginning and end tokens, where there are any, around each of the texts.
pub(super) fn bos_eos(path: &Path, bos: Option<(&str, u32)>, eos: Option<(&str, u32)>) -> Result<PostProcessorWrapper> {
    let around = |text, type_id: u32| {
        let part = |(name, _)| Part::Token(name, type_id);
        [bos.map(part), Some(text), eos.map(part)].into_iter().flatten().collect::<Vec<_>>()
    };
    let single = around(Part::A(0), 0);
    let pair = [single.clone(), around(Part::B(1), 1)].concat();
    let tokens: Vec<_> = bos.into_iter().chain(eos).collect();
    template(path, &single, &pair, &tokens)
}

/// Reads `post_processor` of `tokenizer.json`; null is none.
pub(super) fn read(path: &Path, value: Value) -> Result<Option<PostProcessorWrapper>> {
    serde_json::from_value(value).map_err(|e| Error::tokenizer(path, format_args!("`post_processor`: {e}")))
}

/// Checks that a post-processor refers only to what is there, and adds a bounded number of tokens.
pub(super) fn check(path: &Path, processor: &PostProcessorWrapper, has_id: &dyn Fn(u32) -> bool) -> Result<()> {
    let mut templates = 0;
    check_one(processor, has_id, &mut templates, 0)
        .map_err(|reason| Error::tokenizer(path, format_args!("`post_processor`: {reason}")))
}

fn check_one(
    processor: &PostProcessorWrapper,
    has_id: &dyn Fn(u32) -> bool,
    templates: &mut usize,
    depth: usize,
) -> Result<(), String> {
    let tokens = |tokens: [(String, u32); 2]| match tokens.into_iter().find(|&(_, id)| !has_id(id)) {
        Some((token, id)) => Err(format!("`{token}` has the id {id}, which is not in the vocabulary")),
        None => Ok(()),
    };
    match processor {
        PostProcessorWrapper::ByteLevel(_) => Ok(()),
        PostProcessorWrapper::Bert(p) => tokens([BertProcessing::get_cls_copy(p), BertProcessing::get_sep_copy(p)]),
        PostProcessorWrapper::Roberta(p) => {
            tokens([RobertaProcessing::get_cls_copy(p), RobertaProcessing::get_sep_copy(p)])
        }
        PostProcessorWrapper::Template(template) => {
            *templates += 1;
            let value = serde_json::to_value(template).map_err(|e| e.to_string())?;
            check_template(&value, has_id)
        }
        PostProcessorWrapper::Sequence(sequence) => {
            if depth > 4 || sequence.as_ref().len() > 16 {
                return Err("more than 16 parts or 4 levels".into());
            }
            sequence.as_ref().iter().try_for_each(|part| check_one(part, has_id, templates, depth + 1))
        }
    }?;
    // A second template would be applied to the pieces that the first one made.
    if *templates > 1 { Err("more than one template".into()) } else { Ok(()) }
}

/// Checks a template in the form of `tokenizer.json`.
fn check_template(template: &Value, has_id: &dyn Fn(u32) -> bool) -> Result<(), String> {
    for (key, texts) in [("single", &["A"][..]), ("pair", &["A", "B"])] {
        let mut added = 0;
        let mut found = Vec::new();
        for piece in template[key].as_array().into_iter().flatten() {
            if let Some(text) = piece["Sequence"]["id"].as_str() {
                found.push(text);
                continue;
            }
            let name = piece["SpecialToken"]["id"].as_str().unwrap_or_default();
            let Some(token) = template["special_tokens"].get(name) else {
                return Err(format!("`{name}` of `{key}` is not among the special tokens"));
            };
            let (ids, tokens) = (token["ids"].as_array(), token["tokens"].as_array());
            if ids.map(Vec::len) != tokens.map(Vec::len) {
                return Err(format!("`{name}` has not as many ids as tokens"));
            }
            for id in ids.into_iter().flatten() {
                if !id.as_u64().and_then(|id| u32::try_from(id).ok()).is_some_and(has_id) {
                    return Err(format!("`{name}` has the id {id}, which is not in the vocabulary"));
                }
                added += 1;
            }
        }
        if let Some(text) = found.iter().find(|text| !texts.contains(text)) {
            return Err(format!("`{key}` has a text {text}, of which there is none"));
        }
        if added > MAX_ADDED || found.len() > MAX_ADDED {
            return Err(format!("`{key}` adds more than {MAX_ADDED} tokens"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::PostProcessor;

    fn checked(json: Value) -> Result<()> {
        let path = Path::new("tokenizer.json");
        let processor = read(path, json)?.unwrap();
        check(path, &processor, &|id| id < 10)
    }

    fn piece(id: &str) -> Value {
        match id {
            "A" | "B" => json!({"Sequence": {"id": id, "type_id": 0}}),
            _ => json!({"SpecialToken": {"id": id, "type_id": 0}}),
        }
    }

    fn template_of(single: &[&str], pair: &[&str], id: u32) -> Value {
        let pieces = |ids: &[&str]| ids.iter().map(|id| piece(id)).collect::<Value>();
        json!({"type": "TemplateProcessing", "single": pieces(single), "pair": pieces(pair),
            "special_tokens": {"x": {"id": "x", "ids": [id], "tokens": ["x"]}}})
    }

    #[test]
    fn templates_count_their_tokens() {
        let path = Path::new("x");
        let count = |p: PostProcessorWrapper| (p.added_tokens(false), p.added_tokens(true));
        assert_eq!(count(bert(path, ("[CLS]", 1), ("[SEP]", 2)).unwrap()), (2, 3));
        assert_eq!(count(fairseq(path, ("<s>", 1), ("</s>", 2)).unwrap()), (2, 4));
        assert_eq!(count(bos_eos(path, Some(("<s>", 1)), None).unwrap()), (1, 2));
        assert_eq!(count(bos_eos(path, None, None).unwrap()), (0, 0));
    }

    #[test]
    fn what_would_panic_is_an_error() {
        let good = template_of(&["x", "A"], &["A", "x", "B"], 3);
        assert!(checked(good.clone()).is_ok());
        assert!(checked(json!({"type": "Sequence", "processors": [good]})).is_ok());
        for bad in [
            template_of(&["x", "A"], &["A", "x", "B"], 10),
            template_of(&["y", "A"], &["A", "B"], 3),
            template_of(&["A", "B"], &["A", "B"], 3),
            template_of(&vec!["x"; 2000], &["A", "B"], 3),
            json!({"type": "Sequence", "processors": [good, good]}),
            json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 77], "trim_offsets": true, "add_prefix_space": true}),
            json!({"type": "BertProcessing", "sep": ["</s>", 99], "cls": ["<s>", 1]}),
            json!({"type": "Other"}),
        ] {
            assert!(matches!(checked(bad), Err(Error::Tokenizer { .. })));
        }
    }
}
