//! The border to the crates that decode pictures, which may panic on some inputs.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use tx_core::error::{Error, Result};

thread_local! {
    /// Whether a panic of this thread will become an error and need not be printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; a panic becomes an [`Error::Malformed`] for `path`, and is not printed.
pub(super) fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T>) -> Result<T> {
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
    result.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let text: String = text.unwrap_or("no reason given").chars().take(300).collect();
        Err(Error::malformed(path, format_args!("decoding failed: {}", text.escape_debug())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        let error = guarded::<()>(Path::new("a.png"), || panic!("index {}", 3)).unwrap_err();
        assert_eq!(error.to_string(), "a.png: decoding failed: index 3");
        assert_eq!(guarded(Path::new(""), || Ok(1)).unwrap(), 1);
    }
}
