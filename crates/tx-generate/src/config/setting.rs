//! How one option is read from JSON, and which values it may have.

use serde_json::Value;
use tx_core::config::kind;

/// The numbers that an option may have.
#[derive(Clone, Copy)]
pub(super) struct Range {
    text: &'static str,
    holds: fn(f64) -> bool,
}

/// For options without numbers, and for token ids, which a vocabulary limits.
pub(super) const ANY: Range = Range { text: "anything", holds: |_| true };
/// A number of tokens, which may be none.
pub(super) const COUNT: Range = Range { text: "0 to 2147483648", holds: |v| (0.0..=2_147_483_648.0).contains(&v) };
/// A number of tokens of which there is one at least.
pub(super) const SIZE: Range = Range { text: "1 to 2147483648", holds: |v| (1.0..=2_147_483_648.0).contains(&v) };
/// A number of sequences that are in memory at once.
pub(super) const ROWS: Range = Range { text: "1 to 4096", holds: |v| (1.0..=4096.0).contains(&v) };
/// A weight of either sign.
pub(super) const FINITE: Range = Range { text: "a finite number", holds: f64::is_finite };
/// A factor or a divisor.
pub(super) const POSITIVE: Range = Range { text: "a number above 0", holds: |v| v.is_finite() && v > 0.0 };
/// An amount that may be none.
pub(super) const AMOUNT: Range = Range { text: "0 or a number above", holds: |v| v.is_finite() && v >= 0.0 };
/// A probability.
pub(super) const UNIT: Range = Range { text: "0 to 1", holds: |v| (0.0..=1.0).contains(&v) };
/// A share of which there is something.
pub(super) const SHARE: Range = Range { text: "a number above 0 and at most 1", holds: |v| v > 0.0 && v <= 1.0 };
/// A share of which there is something and not everything.
pub(super) const PART: Range = Range { text: "a number above 0 and below 1", holds: |v| v > 0.0 && v < 1.0 };

impl Range {
    /// Whether a number is in it.
    pub(super) fn holds(self, number: f64) -> bool {
        (self.holds)(number)
    }

    /// The numbers in it, in words.
    pub(super) fn text(self) -> &'static str {
        self.text
    }
}

/// The type of an option.
pub(super) trait Setting: Sized {
    /// The value in JSON; `None` where it means that there is none, as a token id of -1 does. The error says what was
    /// expected.
    fn read(value: &Value) -> Result<Option<Self>, &'static str>;

    /// The first of its numbers that is not in `range`.
    fn outside(&self, _range: Range) -> Option<f64> {
        None
    }
}

/// Reads an option; the error says what was found and what was expected.
pub(super) fn read<T: Setting>(value: &Value, range: Range, field: &mut T) -> Result<(), String> {
    match T::read(value) {
        Err(expected) => Err(format!("expected {expected}, found {}", found(value))),
        Ok(None) => Ok(()),
        Ok(Some(read)) => match read.outside(range) {
            Some(number) => Err(format!("{number} is out of range, expected {}", range.text())),
            None => {
                *field = read;
                Ok(())
            }
        },
    }
}

/// A whole number, also where it is written with a point, as `50.0` is by some programs.
pub(super) fn whole(value: &Value) -> Option<i64> {
    /// Up to here every whole number is one of an f64.
    const EXACT: f64 = (1u64 << 53) as f64;
    let pointed = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT);
    value.as_i64().or_else(|| pointed().map(|number| number as i64))
}

/// A whole number that is not negative.
pub(super) fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| whole(value).and_then(|number| u64::try_from(number).ok()))
}

/// A value as it reads in a message.
fn found(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("`{}`", text.chars().take(60).collect::<String>().escape_debug()),
        other => kind(other).to_owned(),
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        value.as_bool().map(Some).ok_or("true or false")
    }
}

impl Setting for usize {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        let number = unsigned(value).and_then(|n| Self::try_from(n).ok());
        number.map(Some).ok_or("an integer of at least 0")
    }

    fn outside(&self, range: Range) -> Option<f64> {
        let number = *self as f64;
        (!range.holds(number)).then_some(number)
    }
}

impl Setting for u64 {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        unsigned(value).map(Some).ok_or("an integer of at least 0")
    }
}

impl Setting for f64 {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        value.as_f64().map(Some).ok_or("a number")
    }

    fn outside(&self, range: Range) -> Option<f64> {
        (!range.holds(*self)).then_some(*self)
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        value.as_str().map(|text| Some(text.to_owned())).ok_or("a string")
    }
}

impl Setting for Value {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        Ok(Some(value.clone()))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        T::read(value).map(|read| read.map(Some))
    }

    fn outside(&self, range: Range) -> Option<f64> {
        self.as_ref().and_then(|value| value.outside(range))
    }
}

/// A token id; `None` for a negative one, with which configs say that there is none.
impl Setting for u32 {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        const EXPECTED: &str = "a token id";
        match value {
            Value::Array(list) if list.len() == 1 => list.first().map_or(Ok(None), Self::read),
            _ => match whole(value).ok_or(EXPECTED)? {
                id if id < 0 => Ok(None),
                id => Self::try_from(id).map(Some).map_err(|_| EXPECTED),
            },
        }
    }
}

/// One token id or several; negative ones, which nothing equals, are left out.
impl Setting for Vec<u32> {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        let one = std::slice::from_ref(value);
        let ids = value.as_array().map_or(one, Vec::as_slice).iter().map(u32::read).collect::<Result<Vec<_>, _>>();
        Ok(Some(ids.map_err(|_| "a token id or a list of token ids")?.into_iter().flatten().collect()))
    }
}

/// One string or several.
impl Setting for Vec<String> {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        let one = std::slice::from_ref(value);
        let texts = value.as_array().map_or(one, Vec::as_slice).iter().map(|v| v.as_str().map(str::to_owned));
        texts.collect::<Option<_>>().map(Some).ok_or("a string or a list of strings")
    }
}

/// The ids of a sequence, none of which is negative.
fn sequence(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| unsigned(id).and_then(|id| u32::try_from(id).ok())).collect()
}

/// Several sequences of token ids.
impl Setting for Vec<Vec<u32>> {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        let sequences = value.as_array().and_then(|list| list.iter().map(sequence).collect());
        sequences.map(Some).ok_or("a list of lists of token ids")
    }
}

/// Several sequences of token ids, each with a number: `[[[10, 45], -2.0], [[64], 7.5]]`.
impl Setting for Vec<(Vec<u32>, f64)> {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        let pair = |pair: &Value| match pair.as_array()?.as_slice() {
            [ids, number] => Some((sequence(ids)?, number.as_f64()?)),
            _ => None,
        };
        let pairs = value.as_array().and_then(|list| list.iter().map(pair).collect());
        pairs.map(Some).ok_or("a list of pairs, each a list of token ids and a number")
    }

    fn outside(&self, range: Range) -> Option<f64> {
        self.iter().find_map(|(_, number)| number.outside(range))
    }
}

/// A number of tokens and a factor: `[15, 1.6]`.
impl Setting for (usize, f64) {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        const EXPECTED: &str = "a pair of an integer and a number";
        match value.as_array().map(Vec::as_slice) {
            Some([start, factor]) => match (usize::read(start), f64::read(factor)) {
                (Ok(Some(start)), Ok(Some(factor))) => Ok(Some((start, factor))),
                _ => Err(EXPECTED),
            },
            _ => Err(EXPECTED),
        }
    }

    fn outside(&self, range: Range) -> Option<f64> {
        self.1.outside(range)
    }
}

/// When a beam search ends that has as many finished hypotheses as beams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// `false`: when a better one is unlikely.
    #[default]
    No,
    /// `true`: at once.
    Yes,
    /// `"never"`: when there can be no better one.
    Never,
}

impl Setting for EarlyStopping {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        match value {
            Value::Bool(false) => Ok(Some(Self::No)),
            Value::Bool(true) => Ok(Some(Self::Yes)),
            Value::String(text) if text == "never" => Ok(Some(Self::Never)),
            _ => Err("true, false or \"never\""),
        }
    }
}

/// How the number of drafted tokens changes while assisted decoding goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssistantSchedule {
    /// It stays.
    #[default]
    Constant,
    /// Two more when all were accepted, else one less; kept for the next call.
    Heuristic,
    /// The same, and every call starts anew.
    HeuristicTransient,
}

impl Setting for AssistantSchedule {
    fn read(value: &Value) -> Result<Option<Self>, &'static str> {
        match value.as_str() {
            Some("constant") => Ok(Some(Self::Constant)),
            Some("heuristic") => Ok(Some(Self::Heuristic)),
            Some("heuristic_transient") => Ok(Some(Self::HeuristicTransient)),
            _ => Err("\"constant\", \"heuristic\" or \"heuristic_transient\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value<T: Setting>(json: Value) -> Option<T> {
        T::read(&json).unwrap()
    }

    #[test]
    fn one_or_several_and_none() {
        assert_eq!(value::<Vec<u32>>(json!(2)), Some(vec![2]));
        assert_eq!(value::<Vec<u32>>(json!([2, -1, 3])), Some(vec![2, 3]));
        assert_eq!(value::<u32>(json!(-1)), None);
        assert_eq!(value::<u32>(json!([7])), Some(7));
        assert_eq!(value::<Vec<String>>(json!("stop")), Some(vec!["stop".to_owned()]));
        assert_eq!(value::<Option<usize>>(json!(5)), Some(Some(5)));
        assert_eq!((value::<usize>(json!(50.0)), value::<u64>(json!(3.0))), (Some(50), Some(3)));
        assert_eq!((value::<u32>(json!(2.0)), value::<Vec<u32>>(json!([2.0, -1.0]))), (Some(2), Some(vec![2])));
        assert!(usize::read(&json!(50.5)).is_err() && usize::read(&json!(-1.0)).is_err());
        assert!(usize::read(&json!(1e300)).is_err() && u32::read(&json!(4_294_967_296.0)).is_err());
        assert!(u32::read(&json!([1, 2])).is_err() && u32::read(&json!(4_294_967_296u64)).is_err());
    }

    #[test]
    fn pairs() {
        let biases = value::<Vec<(Vec<u32>, f64)>>(json!([[[10, 45], -2.0], [[64], 7]]));
        assert_eq!(biases, Some(vec![(vec![10, 45], -2.0), (vec![64], 7.0)]));
        assert_eq!(value::<(usize, f64)>(json!([15, 1.6])), Some((15, 1.6)));
        assert!(<Vec<(Vec<u32>, f64)>>::read(&json!([[[10], "x"]])).is_err());
        assert!(<(usize, f64)>::read(&json!([15])).is_err());
    }

    #[test]
    fn errors_say_what_was_found() {
        let mut field = 1.0f64;
        assert_eq!(read(&json!(1.5), UNIT, &mut field).unwrap_err(), "1.5 is out of range, expected 0 to 1");
        assert_eq!(read(&json!("NaN"), UNIT, &mut field).unwrap_err(), "expected a number, found `NaN`");
        let mut count = 3usize;
        assert_eq!(read(&json!(-1), COUNT, &mut count).unwrap_err(), "expected an integer of at least 0, found -1");
        assert_eq!((field, count), (1.0, 3));
    }
}
