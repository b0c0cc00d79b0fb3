//! The border to the `tokenizers` crate, which panics on some inputs.
//!
//! What is known to make it panic, loop or fill the memory is refused before it gets there; what is not known becomes an
//! error here.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::guard;

/// The most parts a pipeline may have, and the deepest nesting of sequences of parts.
const MAX_PARTS: usize = 64;
const MAX_DEPTH: usize = 8;
/// The longest regular expression, in bytes.
const MAX_REGEX: usize = 64 << 10;
/// How much longer than its input a pipeline may make a text.
const MAX_GROWTH: f64 = 1024.0;

/// Runs `f`; a panic becomes an [`Error::Tokenizer`] for `path`, and is not printed.
pub(super) fn guarded<T>(path: &Path, doing: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let failed = |reason: String| Err(Error::tokenizer(path, format_args!("{doing} failed: {reason}")));
    guard::guarded(f).unwrap_or_else(failed)
}

/// Checks a part of the pipeline of a `tokenizer.json` (`normalizer`, `pre_tokenizer`, `decoder`) before it is built.
pub(super) fn check_part(path: &Path, key: &str, part: &Value) -> Result<()> {
    let mut parts = 0;
    let growth =
        growth(part, 0, &mut parts).map_err(|reason| Error::tokenizer(path, format_args!("`{key}`: {reason}")))?;
    if growth > MAX_GROWTH {
        let reason = format!("`{key}` can make a text {growth:.0} times as long, expected at most {MAX_GROWTH}");
        return Err(Error::tokenizer(path, reason));
    }
    Ok(())
}

/// An estimate of how much longer a part makes a text: what matters is that chains of replacements multiply.
fn growth(part: &Value, depth: usize, parts: &mut usize) -> Result<f64, String> {
    *parts += 1;
    if depth > MAX_DEPTH || *parts > MAX_PARTS {
        return Err(format!("more than {MAX_PARTS} parts or {MAX_DEPTH} levels"));
    }
    let children = ["normalizers", "pretokenizers", "decoders"].iter().find_map(|key| part.get(key)?.as_array());
    if let Some(children) = children {
        let mut product = 1.0;
        for child in children {
            product *= growth(child, depth + 1, parts)?;
        }
        return Ok(product);
    }
    // The shortest text that a pattern can match, in bytes.
    let shortest = match part.get("pattern").and_then(|pattern| Some((pattern.get("Regex")?.as_str()?, true))) {
        Some((regex, _)) if regex.len() > MAX_REGEX => {
            return Err(format!("a regular expression of {} bytes, expected at most {MAX_REGEX}", regex.len()));
        }
        Some(_) => 1,
        None => part.get("pattern").and_then(|pattern| pattern.get("String")?.as_str()).map_or(1, |s| s.len().max(1)),
    };
    let length = |key| part.get(key).and_then(Value::as_str).map_or(0, str::len);
    let inserted = match part.get("type").and_then(Value::as_str) {
        // Bytes above 127 become characters of two bytes, and a space can be put before each word.
        Some("ByteLevel") => 4,
        Some("Metaspace") => 5,
        Some("Precompiled") => 8,
        _ => length("content").div_ceil(shortest).max(length("prepend")),
    };
    Ok(inserted.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        let error = guarded::<()>(Path::new("tokenizer.json"), "loading", || panic!("index {}", 3)).unwrap_err();
        assert_eq!(error.to_string(), "tokenizer.json: tokenizer: loading failed: index 3");
        assert_eq!(guarded(Path::new(""), "loading", || Ok(1)).unwrap(), 1);
    }

    #[test]
    fn bombs_are_refused_and_common_pipelines_are_not() {
        let check = |json: &str| check_part(Path::new("x"), "normalizer", &serde_json::from_str(json).unwrap());
        let double = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}"#;
        let many =
            |n: usize, part: &str| format!(r#"{{"type": "Sequence", "normalizers": [{}]}}"#, vec![part; n].join(","));
        assert!(check(&many(5, double)).is_ok());
        assert!(check(&many(11, double)).is_err());
        assert!(check(&many(65, r#"{"type": "NFC"}"#)).is_err());
        let deep = (0..20).fold(r#"{"type": "NFC"}"#.to_owned(), |inner, _| many(1, &inner));
        assert!(check(&deep).is_err());
        let long = format!(r#"{{"type": "Split", "pattern": {{"Regex": "{}"}}}}"#, "a".repeat(MAX_REGEX + 1));
        assert!(check(&long).is_err());
        assert!(
            check(
                r#"{"type": "Sequence", "normalizers": [{"type": "Precompiled"}, {"type": "NFKD"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}"#
            )
            .is_ok()
        );
        assert!(check("null").is_ok());
    }
}
