//! Progress bars for downloads and long loops.
//!
//! Bars are drawn on stderr, only if it is a terminal, and vanish when they are finished: output that is piped or
//! recorded never sees one.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that vanishes when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over `total` bytes; nothing is drawn unless `shown`.
    pub fn bytes(label: &str, total: u64, shown: bool) -> Self {
        Self::new(label, total, shown, "{msg} [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left")
    }

    /// A bar over `total` items of a loop; nothing is drawn unless `shown`.
    pub fn items(label: &str, total: u64, shown: bool) -> Self {
        Self::new(label, total, shown, "{msg} [{bar:30}] {pos}/{len}, {per_sec}, {eta} left")
    }

    fn new(label: &str, total: u64, shown: bool, template: &str) -> Self {
        let bar = if shown { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.to_owned());
        Self { bar }
    }

    /// Adds `n` to what is done.
    pub fn advance(&self, n: u64) {
        self.bar.inc(n);
    }

    /// Says something else beside the bar.
    pub fn message(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Says how much is done in all.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
