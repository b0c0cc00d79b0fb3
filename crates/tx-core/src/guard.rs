//! The border to crates that panic on some inputs: a panic behind it becomes an error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use crate::error::{Error, Result};

/// The most characters of a panic's message that an error repeats.
const MAX_MESSAGE: usize = 300;

thread_local! {
    /// Whether a panic of this thread will become an error and need not be printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; a panic becomes its message, on one line, and is not printed.
///
/// # Errors
/// The message.
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    QUIET.set(outer);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let text: String = text.unwrap_or("no reason given").chars().take(MAX_MESSAGE).collect();
        text.escape_debug().to_string()
    })
}

/// Decodes a file with `f`; see [`guarded`].
///
/// # Errors
/// [`Error::Malformed`] for `path` if `f` panics.
pub fn decoding<T>(path: &Path, f: impl FnOnce() -> T) -> Result<T> {
    guarded(f).map_err(|reason| Error::malformed(path, format_args!("decoding failed: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(guarded::<()>(|| panic!("two\nlines")), Err("two\\nlines".to_owned()));
        let error = decoding::<()>(Path::new("a.png"), || panic!("index {}", 3)).unwrap_err();
        assert_eq!(error.to_string(), "a.png: decoding failed: index 3");
        assert_eq!(guarded(|| guarded::<()>(|| panic!("inner"))), Ok(Err("inner".to_owned())));
    }
}
