//! The part of `config.json` that is about one tower, in messages.

use std::fmt::Display;

use tx_core::config::Check;
use tx_core::error::{Error, Result};

/// Checks of the keys of one tower, whose names in messages begin with that of their part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartCheck<'a> {
    check: Check<'a>,
    part: &'static str,
}

impl<'a> PartCheck<'a> {
    /// Checks of the keys in `part`, or of those of the file itself if it is empty.
    pub(crate) fn new(check: &Check<'a>, part: &'static str) -> Self {
        Self { check: *check, part }
    }

    fn key(&self, name: &str) -> String {
        if self.part.is_empty() { name.to_owned() } else { format!("{}.{name}", self.part) }
    }

    /// See [`Check::sizes`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn sizes<const N: usize>(&self, sizes: [(&str, usize); N]) -> Result<()> {
        sizes.into_iter().try_for_each(|(name, value)| self.check.size(&self.key(name), value))
    }

    /// See [`Check::layers`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn layers(&self, name: &str, value: usize) -> Result<()> {
        self.check.layers(&self.key(name), value)
    }

    /// See [`Check::range`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn range(&self, name: &str, value: usize, low: usize, high: usize) -> Result<()> {
        self.check.range(&self.key(name), value, low, high)
    }

    /// See [`Check::divides`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn divides(&self, name: &str, value: usize, by_name: &str, by: usize) -> Result<()> {
        self.check.divides(&self.key(name), value, by_name, by)
    }

    /// See [`Check::epsilon`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn epsilon(&self, name: &str, value: f64) -> Result<()> {
        self.check.epsilon(&self.key(name), value)
    }

    /// See [`Check::supported`].
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub(crate) fn supported(&self, name: &str, holds: bool, value: impl Display, supported: &str) -> Result<()> {
        self.check.supported(&self.key(name), holds, value, supported)
    }

    /// See [`Check::error`].
    pub(crate) fn error(&self, name: &str, reason: impl Display) -> Error {
        self.check.error(&self.key(name), reason)
    }
}
