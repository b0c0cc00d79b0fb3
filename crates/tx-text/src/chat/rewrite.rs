//! What is done to a template before the engine reads it.
//!
//! Python's environment has a tag of its own, `{% generation %}`, which the engine lacks: it becomes a filter that
//! marks the text, around a scope as Python opens one. Values that are stored in a namespace pass a check, because a
//! namespace that holds itself would be printed for ever. Lines stay where they are.

/// The filter that marks what the assistant says.
pub(super) const GENERATION: &str = "tx_generation";
/// The filter that checks what a namespace is to hold.
pub(super) const STORED: &str = "tx_stored";

/// The longest tag, in bytes. The engine recurses over chains of operators, which parentheses do not count.
const MAX_TAG: usize = 64 << 10;

/// A template as the engine takes it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub source: String,
    /// Whether the template says which parts are the assistant's.
    pub has_generation: bool,
}

/// Why a template is refused, and where.
#[derive(Debug)]
pub(super) struct Refused {
    pub line: usize,
    pub reason: String,
}

/// Line ends as Python reads them from a file.
pub(super) fn normalize_newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Rewrites the tags that the engine does not have, or that need a check.
pub(super) fn prepare(source: &str) -> Result<Prepared, Refused> {
    let mut prepared = Prepared { source: String::with_capacity(source.len() + 64), has_generation: false };
    let mut rest = source;
    while let Some(start) = next_tag(rest) {
        let (text, from_tag) = rest.split_at(start);
        prepared.source.push_str(text);
        let end = match from_tag.as_bytes()[1] {
            b'#' => from_tag[2..].find("#}").map(|end| end + 4),
            b'{' => tag_end(from_tag, "}}"),
            _ => tag_end(from_tag, "%}"),
        };
        // A tag that does not end is the engine's to report.
        let Some(end) = end else {
            rest = from_tag;
            break;
        };
        let (tag, after) = from_tag.split_at(end);
        rest = after;
        if tag.starts_with("{#") {
            prepared.source.push_str(tag);
            continue;
        }
        if tag.len() > MAX_TAG {
            let line = source[..source.len() - from_tag.len()].matches('\n').count() + 1;
            return Err(Refused { line, reason: format!("a tag of {} bytes, expected at most {MAX_TAG}", tag.len()) });
        }
        if tag.starts_with("{%") {
            let raw = prepared.block(tag);
            if raw {
                let (raw, after) = rest.split_at(end_of_raw(rest));
                prepared.source.push_str(raw);
                rest = after;
            }
        } else {
            prepared.source.push_str(tag);
        }
    }
    prepared.source.push_str(rest);
    Ok(prepared)
}

impl Prepared {
    /// Adds one `{% … %}`; says whether it begins a raw block.
    fn block(&mut self, tag: &str) -> bool {
        let inner = &tag[2..tag.len() - 2];
        let body = inner.strip_prefix(['-', '+']).unwrap_or(inner);
        let lead = &inner[..inner.len() - body.len()];
        let trimmed = body.strip_suffix(['-', '+']).unwrap_or(body);
        let tail = &body[trimmed.len()..];
        let core = trimmed.trim();
        let lines = || trimmed.chars().filter(|&c| c == '\n').collect::<String>();
        match core {
            "generation" => {
                self.has_generation = true;
                self.source.push_str(&format!("{{%{lead}{} filter {GENERATION} %}}{{% with {tail}%}}", lines()));
            }
            "endgeneration" => {
                self.source.push_str(&format!("{{%{lead}{} endwith %}}{{% endfilter {tail}%}}", lines()));
            }
            _ => match checked_set(core) {
                Some(checked) => {
                    let before = &trimmed[..trimmed.len() - trimmed.trim_start().len()];
                    let after = &trimmed[trimmed.trim_end().len()..];
                    self.source.push_str(&format!("{{%{lead}{before}{checked}{after}{tail}%}}"));
                }
                None => self.source.push_str(tag),
            },
        }
        core == "raw"
    }
}

/// The statement with its value checked, if it is one that stores something in a namespace.
fn checked_set(statement: &str) -> Option<String> {
    let rest = statement.strip_prefix("set")?;
    if !rest.starts_with(char::is_whitespace) {
        return None;
    }
    let in_target = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.,()".contains(c);
    let (target, value) = rest.split_at(rest.find(|c| !in_target(c))?);
    if !target.contains('.') {
        return None;
    }
    match value.strip_prefix('=') {
        Some(value) if !value.trim().is_empty() && !value.starts_with('=') => {
            Some(format!("set{target}=({value})|{STORED}"))
        }
        Some(_) => None,
        None => value.starts_with('|').then(|| format!("set{target}{value}|{STORED}")),
    }
}

/// Where the next tag begins.
fn next_tag(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| pair[0] == b'{' && matches!(pair[1], b'{' | b'%' | b'#'))
}

/// Where a tag ends that is not a comment; strings and brackets may hold what looks like an end.
fn tag_end(tag: &str, end: &str) -> Option<usize> {
    let bytes = tag.as_bytes();
    let (mut at, mut depth) = (2, 0_usize);
    while at < bytes.len() {
        if depth == 0 && bytes[at..].starts_with(end.as_bytes()) {
            return Some(at + end.len());
        }
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while *bytes.get(at)? != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where a raw block ends, its last tag included; the end of the text if it does not end.
fn end_of_raw(text: &str) -> usize {
    for (at, _) in text.match_indices("{%") {
        let inner = &text[at + 2..];
        let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
        let Some(inner) = inner.strip_prefix("endraw") else { continue };
        let inner = inner.trim_start();
        let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
        if let Some(after) = inner.strip_prefix("%}") {
            return text.len() - after.len();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str) -> String {
        prepare(source).unwrap().source
    }

    #[test]
    fn other_tags_stay_as_they_are() {
        for source in [
            "",
            "text { % } {",
            "{{ '{% generation %}' }}{# {% generation %} #}{% if a %}x{% endif %}",
            "{% raw %}{% generation %}{% set a.b = 1 %}{%- endraw +%}{{ {'a': {}} }}",
            "{% set a = b.c %}{% set b %}{% endset %}{% setting a.b = 1 %}",
            "{% set a.b == 1 %}{% if a.b = 1 %}",
            "{{ open",
            "{% raw %} never ends {% generation %}",
        ] {
            let prepared = prepare(source).unwrap();
            assert_eq!(prepared.source, source);
            assert!(!prepared.has_generation);
        }
    }

    #[test]
    fn generation_becomes_a_filter_around_a_scope() {
        let prepared = prepare("a{%- generation\n-%}b{% endgeneration +%}c").unwrap();
        assert!(prepared.has_generation);
        assert_eq!(prepared.source, "a{%-\n filter tx_generation %}{% with -%}b{% endwith %}{% endfilter +%}c");
    }

    #[test]
    fn what_a_namespace_holds_is_checked() {
        assert_eq!(rewritten("{%- set ns.a = b, c -%}"), "{%- set ns.a =( b, c)|tx_stored -%}");
        assert_eq!(rewritten("{% set\n  ns . a=x == '%}' %}"), "{% set\n  ns . a=(x == '%}')|tx_stored %}");
        assert_eq!(rewritten("{% set ns.a | default(ns) %}"), "{% set ns.a | default(ns)|tx_stored %}");
        assert_eq!(rewritten("{% set (a, ns.b) = [1, ns] %}"), "{% set (a, ns.b) =( [1, ns])|tx_stored %}");
    }

    #[test]
    fn long_tags_are_refused() {
        let refused = prepare(&format!("\n\n{{{{ a{} }}}}", "|e".repeat(MAX_TAG / 2))).unwrap_err();
        assert_eq!(refused.line, 3);
        assert!(refused.reason.contains("expected at most 65536"), "{}", refused.reason);
    }

    #[test]
    fn newlines_are_those_of_python() {
        assert_eq!(normalize_newlines("a\r\nb\rc\n"), "a\nb\nc\n");
    }
}
