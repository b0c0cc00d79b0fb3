//! A conversation, whose turns begin with what was said before.

use tx_core::Result;

use crate::batch::Kept;
use crate::config::GenerationConfig;
use crate::generate::{Generated, Generator, Hooks};

/// A generator that keeps what the model has seen of its last sequence.
///
/// A call computes the prompt from the first token on that differs. Where the cache cannot go back that far (states,
/// and windows that have moved on), it computes all of it.
#[derive(Debug)]
pub struct Session<'m> {
    generator: Generator<'m>,
    kept: Option<Kept>,
}

impl<'m> Session<'m> {
    pub(crate) fn new(generator: Generator<'m>) -> Self {
        Self { generator, kept: None }
    }

    /// Continues a prompt. Several sequences for it, or beams, keep nothing for the next call.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn generate(&mut self, prompt: &[u32], config: &GenerationConfig, hooks: &mut Hooks<'_>) -> Result<Generated> {
        self.generator.generate_from(&[prompt.to_vec()], config, hooks, &mut self.kept)
    }

    /// The tokens that the model has seen and keeps.
    pub fn kept(&self) -> &[u32] {
        self.kept.as_ref().map_or(&[], |kept| kept.ids.as_slice())
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.kept = None;
    }
}
