//! What templates expect of Python: methods of strings, `json.dumps`, `strftime`, and the meaning of tests and filters.
//!
//! `minijinja-contrib` has the common methods; here are those that it lacks or that differ. Whatever could make a large
//! string of a small argument takes the engine's fuel first.

use std::fmt::Write;

use chrono::NaiveDateTime;
use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use tx_core::tokenizer::is_python_space;

/// The deepest nesting of a value that becomes JSON.
const MAX_DEPTH: usize = 128;
/// The longest JSON of one value, in bytes.
const MAX_JSON: usize = 16 << 20;
/// Bytes of JSON that take one unit of fuel.
const JSON_PER_FUEL: usize = 16;
/// The longest format of a date, in bytes.
const MAX_FORMAT: usize = 1024;

/// `str.strip()`
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

/// `str.rstrip()`
pub(super) fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_python_space)
}

fn failed(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// The methods of Python's strings, lists and dictionaries that do not change them.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => match value.as_str() {
            Some(text) => string_method(state, text, name, args)?,
            None => None,
        },
        // Nothing can change the original.
        ValueKind::Map | ValueKind::Seq if name == "copy" => Some(value.clone()),
        ValueKind::Seq if name == "index" => Some(position(value, args)?),
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => unknown_method_callback(state, value, name, args),
    }
}

fn string_method(state: &State, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match name {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            let stripped = |c: char| set.map_or_else(|| is_python_space(c), |set| set.contains(c));
            Value::from(match name {
                "strip" => text.trim_matches(stripped),
                "lstrip" => text.trim_start_matches(stripped),
                _ => text.trim_end_matches(stripped),
            })
        }
        "split" | "rsplit" => {
            let (separator, most, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = if separator.is_some() { separator } else { kwargs.get::<Option<&str>>("sep")? };
            let most = if most.is_some() { most } else { kwargs.get::<Option<i64>>("maxsplit")? };
            kwargs.assert_all_used()?;
            if separator == Some("") {
                return Err(failed("empty separator"));
            }
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            let pieces = if name == "split" { split(text, separator, most) } else { rsplit(text, separator, most) };
            pieces.into_iter().collect()
        }
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = if keep_ends.is_some() { keep_ends } else { kwargs.get::<Option<bool>>("keepends")? };
            kwargs.assert_all_used()?;
            lines(text, keep_ends.unwrap_or(false)).into_iter().collect()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(failed("empty separator"));
            }
            let parts = match name {
                "partition" => text.split_once(separator).map(|(before, after)| (before, separator, after)),
                _ => text.rsplit_once(separator).map(|(before, after)| (before, separator, after)),
            };
            Value::from(parts.unwrap_or(if name == "partition" { (text, "", "") } else { ("", "", text) }))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect::<String>() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(is_python_space))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            Value::from(justified(state, text, name, width, fill.unwrap_or(' '))?)
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let digits = justified(state, digits, "rjust", width.saturating_sub(sign.len() as i64), '0')?;
            Value::from(format!("{sign}{digits}"))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| failed("substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// `list.index`
fn position(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (item,): (&Value,) = from_args(args)?;
    for (place, other) in list.try_iter()?.checked().enumerate() {
        if other? == *item {
            return Ok(Value::from(place));
        }
    }
    Err(failed("the item is not in the list"))
}

/// `str.split`: without a separator, runs of white space separate and pieces are not empty.
fn split<'t>(text: &'t str, separator: Option<&str>, most: usize) -> Vec<&'t str> {
    if let Some(separator) = separator {
        return text.splitn(most.saturating_add(1), separator).collect();
    }
    let mut pieces = Vec::new();
    let mut rest = text.trim_start_matches(is_python_space);
    while !rest.is_empty() {
        let end = if pieces.len() < most { rest.find(is_python_space) } else { None };
        let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
        pieces.push(piece);
        rest = after.trim_start_matches(is_python_space);
    }
    pieces
}

/// `str.rsplit`: as [`split`], from the end.
fn rsplit<'t>(text: &'t str, separator: Option<&str>, most: usize) -> Vec<&'t str> {
    let mut pieces: Vec<&str> = Vec::new();
    if let Some(separator) = separator {
        pieces.extend(text.rsplitn(most.saturating_add(1), separator));
    } else {
        let mut rest = text.trim_end_matches(is_python_space);
        while !rest.is_empty() {
            let space =
                if pieces.len() < most { rest.char_indices().rfind(|&(_, c)| is_python_space(c)) } else { None };
            let start = space.map_or(0, |(at, c)| at + c.len_utf8());
            pieces.push(&rest[start..]);
            rest = rest[..start].trim_end_matches(is_python_space);
        }
    }
    pieces.reverse();
    pieces
}

/// `str.splitlines`
fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((at, end)) = rest.char_indices().find(|&(_, c)| is_end(c)) {
        let length = if rest[at..].starts_with("\r\n") { 2 } else { end.len_utf8() };
        lines.push(&rest[..if keep_ends { at + length } else { at }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `str.title`: a letter is large if the character before it is none.
fn title(text: &str) -> String {
    let mut title = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            title.extend(c.to_lowercase())
        } else {
            title.extend(c.to_uppercase())
        }
        in_word = c.is_lowercase() || c.is_uppercase();
    }
    title
}

/// `str.ljust`, `str.rjust` and `str.center`
fn justified(state: &State, text: &str, name: &str, width: i64, fill: char) -> Result<String, Error> {
    let (length, width) = (text.chars().count(), usize::try_from(width).unwrap_or(0));
    let Some(missing) = width.checked_sub(length) else { return Ok(text.to_owned()) };
    state.consume_fuel(missing as u64 / 16)?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // Where the halves differ, Python lets the parity of the width decide.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count| std::iter::repeat_n(fill, count);
    Ok(fill(left).chain(text.chars()).chain(fill(missing - left)).collect())
}

/// Jinja's filter `default`, whose arguments may be named.
pub(super) fn default(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        match args.get(place) {
            Some(value) => Ok(Some(value.clone())),
            // `Option<Value>` would lose a null.
            None if kwargs.has(name) => kwargs.get::<Value>(name).map(Some),
            None => Ok(None),
        }
    };
    let other = argument(0, "default_value")?.unwrap_or_else(|| Value::from(""));
    let falsy_too = argument(1, "boolean")?.is_some_and(|flag| flag.is_true());
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (falsy_too && !value.is_true()) { other } else { value.clone() })
}

/// Jinja's filter `indent`, which keeps the line end at the end.
pub(super) fn indent(state: &State, text: &str, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        if let Some(value) = args.get(place) { Ok(Some(value.clone())) } else { kwargs.get::<Option<Value>>(name) }
    };
    let indention = match argument(0, "width")? {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = usize::try_from(width)?;
                state.consume_fuel(width as u64 / 16)?;
                " ".repeat(width)
            }
        },
    };
    let flag = |value: Option<Value>| value.is_some_and(|flag| flag.is_true());
    let (first, blank) = (flag(argument(1, "first")?), flag(argument(2, "blank")?));
    kwargs.assert_all_used()?;
    let text = format!("{text}\n");
    let lines = lines(&text, false);
    state.consume_fuel((lines.len() * indention.len()) as u64 / 16)?;
    let mut indented = String::with_capacity(text.len() + lines.len() * indention.len());
    for (i, line) in lines.iter().enumerate() {
        let whether = if i == 0 { first } else { blank || !line.is_empty() };
        indented.push_str(if i == 0 { "" } else { "\n" });
        indented.push_str(if whether { &indention } else { "" });
        indented.push_str(line);
    }
    Ok(indented)
}

/// Jinja's test `sequence`: whatever has a length and items.
pub(super) fn is_sequence(value: &Value) -> bool {
    let kind = value.kind();
    matches!(kind, ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

/// Jinja's test `iterable`.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// `datetime.strftime`, in the C locale and without a time zone.
pub(super) fn strftime(time: NaiveDateTime, format: &str) -> Result<String, Error> {
    if format.len() > MAX_FORMAT {
        return Err(failed(format!("a format of {} bytes, expected at most {MAX_FORMAT}", format.len())));
    }
    let mut adapted = String::with_capacity(format.len());
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        match (c, if c == '%' { characters.next() } else { None }) {
            // A time that knows no zone has none to show.
            ('%', Some('z' | 'Z')) => {}
            // Python means microseconds, the library nanoseconds.
            ('%', Some('f')) => adapted.push_str("%6f"),
            (c, next) => adapted.extend([Some(c), next].into_iter().flatten()),
        }
    }
    let items: Vec<Item<'_>> = StrftimeItems::new(&adapted).collect();
    let unknown = || failed(format!("unknown format of a date `{}`", format.escape_debug()));
    if items.iter().any(|item| matches!(item, Item::Error)) {
        return Err(unknown());
    }
    let mut text = String::new();
    write!(text, "{}", time.format_with_items(items.iter())).map_err(|_| unknown())?;
    Ok(text)
}

/// Python's `json.dumps` with the arguments that templates may give: `ensure_ascii`, `indent`, `separators`, `sort_keys`.
pub(super) fn tojson(state: &State, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        match args.get(place) {
            Some(value) => Ok(Some(value.clone()).filter(|value| !value.is_none())),
            None => kwargs.get::<Option<Value>>(name),
        }
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|flag| flag.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = i64::try_from(indent)?.clamp(0, MAX_JSON as i64);
                state.consume_fuel(width as u64 / JSON_PER_FUEL as u64)?;
                " ".repeat(width as usize)
            }
        }),
    };
    let (item, key) = match argument(2, "separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(separators) => {
            let mut pair = separators.try_iter()?.map(|separator| separator.as_str().map(str::to_owned));
            match (pair.next().flatten(), pair.next().flatten(), pair.next()) {
                (Some(item), Some(key), None) => (item, key),
                _ => return Err(failed("`separators` are two strings")),
            }
        }
    };
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|flag| flag.is_true());
    if args.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    kwargs.assert_all_used()?;
    let mut json = Json { text: String::new(), ensure_ascii, indent, item, key, sort_keys };
    json.value(value, 0)?;
    state.consume_fuel((json.text.len() / JSON_PER_FUEL) as u64)?;
    Ok(json.text)
}

struct Json {
    text: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Json {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(failed(format!("JSON of more than {MAX_DEPTH} levels")));
        }
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.text.push('[');
                let mut empty = true;
                for item in value.try_iter()?.checked() {
                    self.begin_item(&mut empty, depth + 1)?;
                    self.value(&item?, depth + 1)?;
                }
                self.close(empty, depth, ']')?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for (key, value) in value.as_object().and_then(|object| object.try_iter_pairs()).into_iter().flatten() {
                    pairs.push((key_text(&key)?, value));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.text.push('{');
                let mut empty = true;
                for (key, value) in pairs {
                    self.begin_item(&mut empty, depth + 1)?;
                    self.string(&key);
                    self.text.push_str(&self.key);
                    self.value(&value, depth + 1)?;
                }
                self.close(empty, depth, '}')?;
            }
            other => return Err(failed(format!("a value of type {other} is not JSON serializable"))),
        }
        self.check(0)
    }

    /// What stands before an item.
    fn begin_item(&mut self, empty: &mut bool, depth: usize) -> Result<(), Error> {
        if !std::mem::take(empty) {
            self.text.push_str(&self.item);
        }
        self.line(depth)
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) -> Result<(), Error> {
        if !empty {
            self.line(depth)?;
        }
        self.text.push(bracket);
        Ok(())
    }

    /// Begins a line, if there are lines.
    fn line(&mut self, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        self.check(indent.len().saturating_mul(depth))?;
        self.text.push('\n');
        for _ in 0..depth {
            self.text.push_str(indent);
        }
        Ok(())
    }

    /// Whether there is room for more.
    fn check(&self, more: usize) -> Result<(), Error> {
        if self.text.len().saturating_add(more) > MAX_JSON {
            return Err(failed(format!("JSON of more than {MAX_JSON} bytes")));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\x08' => self.text.push_str("\\b"),
                '\x0c' => self.text.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

/// The text of a key, which Python makes of numbers and constants, too.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Number => number(key),
        other => Err(failed(format!("a value of type {other} cannot be a key in JSON"))),
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() { Ok(value.to_string()) } else { f64::try_from(value.clone()).map(float) }
}

/// Python's shortest form of a float: with a point, or with an exponent of at least two digits.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let text = value.to_string();
        return if text.contains('.') { text } else { text + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an expression gives.
    fn eval(expression: &str) -> String {
        let mut environment = minijinja::Environment::new();
        environment.set_unknown_method_callback(method);
        environment.add_filter("tojson", tojson);
        environment.add_filter("default", default);
        environment.render_str(&format!("{{{{ {expression} }}}}"), Value::from(())).unwrap_or_else(|e| format!("{e}"))
    }

    #[test]
    fn strings_split_as_in_python() {
        assert_eq!(split(" a  b c ", None, usize::MAX), ["a", "b", "c"]);
        assert_eq!(split(" a  b c ", None, 1), ["a", "b c "]);
        assert_eq!(rsplit(" a  b c ", None, 1), [" a  b", "c"]);
        assert_eq!(split("a,b,c", Some(","), 1), ["a", "b,c"]);
        assert_eq!(rsplit("a,b,c", Some(","), 1), ["a,b", "c"]);
        assert_eq!(split("", Some(","), 9), [""]);
        assert!(split("  ", None, 9).is_empty() && rsplit("", None, 9).is_empty());
        assert_eq!(lines("a\r\nb\n\nc", false), ["a", "b", "", "c"]);
        assert_eq!(lines("a\r\nb\n", true), ["a\r\n", "b\n"]);
    }

    #[test]
    fn methods_of_strings() {
        assert_eq!(eval("'they\\'re x-ray'.title()"), "They'Re X-Ray");
        assert_eq!(eval("'  a '.strip() ~ '|' ~ 'xaxx'.rstrip('x') ~ '|' ~ 'xax'.lstrip('x')"), "a|xa|ax");
        assert_eq!(eval("'a=b=c'.partition('=')[2] ~ 'a=b=c'.rpartition('=')[0]"), "b=ca=b");
        assert_eq!(eval("'ab'.center(5, '*') ~ 'ab'.ljust(4) ~ '-7'.zfill(4)"), "**ab*ab  -007");
        assert_eq!(eval("'prefix'.removeprefix('pre') ~ 'prefix'.removesuffix('fix')"), "fixpre");
        assert_eq!(eval("'a b'.split(maxsplit=1)[1] ~ 'Ab'.swapcase() ~ 'abc'.index('c')"), "baB2");
        assert_eq!(eval("{'a': 1}.get('b', 2) ~ [1, 2].index(2) ~ 'x'.upper()"), "21X");
        assert!(eval("'a'.split('')").contains("empty separator"));
        assert!(eval("'a'.unheard_of()").contains("unheard_of"));
    }

    #[test]
    fn json_is_that_of_python() {
        let plain = eval("{'a': [1, 2.0, none, true], 'b': 'é\\n'}|tojson");
        assert_eq!(plain, r#"{"a": [1, 2.0, null, true], "b": "é\n"}"#);
        assert_eq!(eval("['é😀']|tojson(ensure_ascii=true)"), r#"["\u00e9\ud83d\ude00"]"#);
        let lines = eval("{'b': [], 'a': [1, {}]}|tojson(indent=2, sort_keys=true)");
        assert_eq!(lines, "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}");
        assert_eq!(eval("[1, {'a': 2}]|tojson(separators=(',', ':'))"), "[1,{\"a\":2}]");
        assert_eq!(eval("'<a href=\"x\">&</a>'|tojson"), r#""<a href=\"x\">&</a>""#);
        assert!(eval("[missing]|tojson").contains("not JSON serializable"));
        assert!(eval("[1]|tojson(nonsense=1)").contains("nonsense"));
    }

    #[test]
    fn floats_are_those_of_python() {
        let texts = [0.1, 1.0, -0.0, 1e15, 1e16, 1.5e-5, 0.0001, 123456.789, 1e300, f64::INFINITY].map(float);
        assert_eq!(texts.join(" "), "0.1 1.0 -0.0 1000000000000000.0 1e+16 1.5e-05 0.0001 123456.789 1e+300 Infinity");
    }

    #[test]
    fn default_takes_named_arguments() {
        assert_eq!(eval("''|default('a', true) ~ ''|default('b', boolean=true) ~ none|default('c')"), "abNone");
        assert_eq!(eval("missing|default(default_value='d') ~ missing|default"), "d");
    }

    #[test]
    fn dates() {
        let time = chrono::NaiveDate::from_ymd_opt(2026, 3, 4).unwrap().and_hms_micro_opt(5, 6, 7, 89).unwrap();
        assert_eq!(strftime(time, "%d %b %Y %H:%M:%S.%f%z|%Z|%%z %-d").unwrap(), "04 Mar 2026 05:06:07.000089||%z 4");
        assert_eq!(strftime(time, "Today is %A, %B %e.").unwrap(), "Today is Wednesday, March  4.");
        assert!(strftime(time, "%!").is_err());
        assert!(strftime(time, &"a".repeat(2000)).is_err());
    }
}
