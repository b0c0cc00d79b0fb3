//! How one value is read from JSON or from the text of a flag, which numbers it may have, and how it is written.

use std::path::PathBuf;

use serde_json::{Map, Number, Value};
use tx_core::config::kind;

/// The numbers that a value may have.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    text: &'static str,
    holds: fn(f64) -> bool,
}

/// For values without numbers.
pub(crate) const ANY: Range = Range { text: "anything", holds: |_| true };
/// A number of things that may be none.
pub(crate) const COUNT: Range = Range { text: "0 to 2147483648", holds: |v| (0.0..=2_147_483_648.0).contains(&v) };
/// A number of things of which there is one at least.
pub(crate) const SIZE: Range = Range { text: "1 to 2147483648", holds: |v| (1.0..=2_147_483_648.0).contains(&v) };
/// A number of steps; -1 where it is counted in another way.
pub(crate) const STEPS: Range = Range {
    text: "-1, or 1 to 9007199254740992",
    holds: |v| v == -1.0 || (1.0..=9_007_199_254_740_992.0).contains(&v),
};
/// An amount that may be none.
pub(crate) const AMOUNT: Range = Range { text: "0 or a finite number above", holds: |v| v.is_finite() && v >= 0.0 };
/// A factor or a divisor.
pub(crate) const POSITIVE: Range = Range { text: "a finite number above 0", holds: |v| v.is_finite() && v > 0.0 };
/// A weight of either sign.
pub(crate) const FINITE: Range = Range { text: "a finite number", holds: f64::is_finite };
/// A share.
pub(crate) const UNIT: Range = Range { text: "0 to 1", holds: |v| (0.0..=1.0).contains(&v) };
/// A share that is not all of it.
pub(crate) const PART: Range = Range { text: "0 to below 1", holds: |v| (0.0..1.0).contains(&v) };
/// A factor that leaves less of it, and something.
pub(crate) const FACTOR: Range = Range { text: "a number above 0 and below 1", holds: |v| v > 0.0 && v < 1.0 };

/// What is wrong with a value: what was found, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub key: String,
    pub found: String,
    pub expected: String,
}

impl Problem {
    pub fn new(key: &str, found: impl ToString, expected: impl ToString) -> Self {
        Self { key: key.to_owned(), found: found.to_string(), expected: expected.to_string() }
    }
}

/// The type of a value.
pub(crate) trait Setting: Sized {
    /// The value in JSON; the error says what was expected.
    fn read(value: &Value) -> Result<Self, String>;

    /// The value of `null`, for those that have one; it means the default for all others.
    fn null() -> Option<Self> {
        None
    }

    /// The JSON that the text of a flag stands for.
    fn from_text(text: &str) -> Value {
        Value::from(text)
    }

    /// The value as JSON.
    fn write(&self) -> Value;

    /// The first of its numbers that is not in `range`.
    fn outside(&self, _range: Range) -> Option<f64> {
        None
    }
}

/// Reads the value of `key`.
pub(crate) fn read<T: Setting>(key: &str, value: &Value, range: Range, field: &mut T) -> Result<(), Problem> {
    if value.is_null() {
        if let Some(null) = T::null() {
            *field = null;
        }
        return Ok(());
    }
    let read = T::read(value).map_err(|expected| Problem::new(key, found(value), expected))?;
    check(key, &read, range)?;
    *field = read;
    Ok(())
}

/// Checks the numbers of the value of `key`.
pub(crate) fn check<T: Setting>(key: &str, value: &T, range: Range) -> Result<(), Problem> {
    match value.outside(range) {
        Some(number) => Err(Problem::new(key, number, range.text)),
        None => Ok(()),
    }
}

/// A value as it reads in a message.
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("`{}`", text.chars().take(60).collect::<String>().escape_debug()),
        other => kind(other).to_owned(),
    }
}

/// A number as JSON: without a fraction where there is none, and as text where JSON has no such number.
pub(crate) fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Value::from(value as i64);
    }
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => Value::from("NaN"),
        None if value > 0.0 => Value::from("Infinity"),
        None => Value::from("-Infinity"),
    }
}

/// The truth value that a word stands for.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "t" | "on" | "1" => Some(true),
        "false" | "no" | "n" | "f" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn number_from_text(text: &str) -> Value {
    if let Ok(integer) = text.parse::<u64>() {
        return integer.into();
    }
    if let Ok(integer) = text.parse::<i64>() {
        return integer.into();
    }
    text.parse().ok().and_then(Number::from_f64).map_or_else(|| Value::from(text), Value::Number)
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "true or false".into())
    }

    fn from_text(text: &str) -> Value {
        truth(text).map_or_else(|| Value::from(text), Value::Bool)
    }

    fn write(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Setting for usize {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_u64().and_then(|n| Self::try_from(n).ok()).ok_or_else(|| "an integer of at least 0".into())
    }

    fn from_text(text: &str) -> Value {
        number_from_text(text)
    }

    fn write(&self) -> Value {
        Value::from(*self)
    }

    fn outside(&self, range: Range) -> Option<f64> {
        let number = *self as f64;
        (!(range.holds)(number)).then_some(number)
    }
}

impl Setting for u64 {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_u64().ok_or_else(|| "an integer of at least 0".into())
    }

    fn from_text(text: &str) -> Value {
        number_from_text(text)
    }

    fn write(&self) -> Value {
        Value::from(*self)
    }

    fn outside(&self, range: Range) -> Option<f64> {
        let number = *self as f64;
        (!(range.holds)(number)).then_some(number)
    }
}

impl Setting for i64 {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_i64().ok_or_else(|| "an integer".into())
    }

    fn from_text(text: &str) -> Value {
        number_from_text(text)
    }

    fn write(&self) -> Value {
        Value::from(*self)
    }

    fn outside(&self, range: Range) -> Option<f64> {
        let number = *self as f64;
        (!(range.holds)(number)).then_some(number)
    }
}

impl Setting for f64 {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_f64().ok_or_else(|| "a number".into())
    }

    fn from_text(text: &str) -> Value {
        number_from_text(text)
    }

    fn write(&self) -> Value {
        number(*self)
    }

    fn outside(&self, range: Range) -> Option<f64> {
        (!(range.holds)(*self)).then_some(*self)
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| "a string".into())
    }

    fn write(&self) -> Value {
        Value::from(self.as_str())
    }
}

impl Setting for PathBuf {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().filter(|text| !text.is_empty()).map(Self::from).ok_or_else(|| "a path".into())
    }

    fn write(&self) -> Value {
        Value::from(self.to_string_lossy())
    }
}

impl Setting for Map<String, Value> {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_object().cloned().ok_or_else(|| "a map".into())
    }

    fn from_text(text: &str) -> Value {
        serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
    }

    fn write(&self) -> Value {
        Value::Object(self.clone())
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn null() -> Option<Self> {
        Some(None)
    }

    fn from_text(text: &str) -> Value {
        if matches!(text, "none" | "None" | "null") { Value::Null } else { T::from_text(text) }
    }

    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::write)
    }

    fn outside(&self, range: Range) -> Option<f64> {
        self.as_ref().and_then(|value| value.outside(range))
    }
}

/// An enumeration of words, in files and on the command line the same.
macro_rules! choices {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $type {
            /// Every word, in the order of the documentation.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The word for it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What a word stands for.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl $crate::arguments::setting::Setting for $type {
            fn read(value: &::serde_json::Value) -> Result<Self, String> {
                let named = value.as_str().and_then(Self::from_name);
                named.ok_or_else(|| format!("one of {}", Self::NAMES.join(", ")))
            }

            fn write(&self) -> ::serde_json::Value {
                self.name().into()
            }
        }
    };
}

pub(crate) use choices;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_the_default_where_it_has_no_value() {
        let (mut size, mut limit) = (8usize, Some(3usize));
        read("size", &Value::Null, SIZE, &mut size).unwrap();
        read("limit", &Value::Null, SIZE, &mut limit).unwrap();
        assert_eq!((size, limit), (8, None));
    }

    #[test]
    fn errors_say_what_was_found() {
        let mut share = 0.5f64;
        let problem = read("share", &json!(1.5), UNIT, &mut share).unwrap_err();
        assert_eq!((problem.found.as_str(), problem.expected.as_str()), ("1.5", "0 to 1"));
        let problem = read("share", &json!([1]), UNIT, &mut share).unwrap_err();
        assert_eq!((problem.found.as_str(), problem.expected.as_str()), ("a list", "a number"));
        let mut count = 1usize;
        assert!(read("count", &json!(2.0), COUNT, &mut count).is_err());
        assert!(read("count", &json!(-1), COUNT, &mut count).is_err());
        assert_eq!((share, count), (0.5, 1));
    }

    #[test]
    fn flags_are_read_by_the_type_of_the_value() {
        assert_eq!(f64::from_text("1e-5"), json!(1e-5));
        assert_eq!(f64::from_text(".5"), json!(0.5));
        assert_eq!(i64::from_text("-1"), json!(-1));
        assert_eq!(f64::from_text("nan"), json!("nan"));
        assert_eq!(bool::from_text("True"), json!(true));
        assert_eq!(bool::from_text("maybe"), json!("maybe"));
        assert_eq!(String::from_text("123"), json!("123"));
        assert_eq!(Option::<u64>::from_text("none"), Value::Null);
        assert_eq!(Map::<String, Value>::from_text("{\"a\": 1}"), json!({"a": 1}));
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        assert_eq!(number(500.0), json!(500));
        assert_eq!(number(0.1), json!(0.1));
        assert_eq!(number(f64::NAN), json!("NaN"));
        assert_eq!(number(f64::NEG_INFINITY), json!("-Infinity"));
    }
}
