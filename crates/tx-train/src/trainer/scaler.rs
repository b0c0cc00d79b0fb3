//! The scale of the loss for gradients in f16, which would be rounded to zero without it: PyTorch's `GradScaler`.
//!
//! Micikevicius et al., 2017 (arXiv:1710.03740). The scale grows while all is well, and falls when a gradient is too
//! large; the update is left out then.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tx_core::error::{Error, Result};

/// The scale to begin with.
const INIT_SCALE: f64 = 65536.0;
/// What it is multiplied with after enough good updates.
const GROWTH_FACTOR: f64 = 2.0;
/// What it is multiplied with after a bad one.
const BACKOFF_FACTOR: f64 = 0.5;
/// How many good updates are enough.
const GROWTH_INTERVAL: u64 = 2000;
/// The scale below which no update can be good: gradients that are too large without it are no matter of f16.
const LEAST_SCALE: f64 = 1.0 / 65536.0;

/// The scale of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GradScaler {
    scale: f64,
    /// Good updates since the scale has changed.
    growth_tracker: u64,
}

impl Default for GradScaler {
    fn default() -> Self {
        Self { scale: INIT_SCALE, growth_tracker: 0 }
    }
}

impl GradScaler {
    /// What the loss is multiplied with.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Notes whether gradients were finite; says whether the update can be made.
    ///
    /// # Errors
    /// [`Error::Input`] if they are too large whatever the scale.
    pub fn update(&mut self, finite: bool) -> Result<bool> {
        if finite {
            self.growth_tracker += 1;
            if self.growth_tracker == GROWTH_INTERVAL {
                (self.scale, self.growth_tracker) = (self.scale * GROWTH_FACTOR, 0);
            }
            return Ok(true);
        }
        (self.scale, self.growth_tracker) = (self.scale * BACKOFF_FACTOR, 0);
        if self.scale < LEAST_SCALE {
            let found = "gradients that are too large for f16 whatever the loss is multiplied with";
            return Err(Error::input("fp16", found, "bf16, or a lower learning rate"));
        }
        Ok(false)
    }

    /// As a checkpoint keeps it.
    pub fn state(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What a checkpoint kept.
    ///
    /// # Errors
    /// [`Error::Malformed`] for something else.
    pub fn from_state(path: &Path, state: Value) -> Result<Self> {
        serde_json::from_value(state)
            .map_err(|error| Error::malformed(path, format_args!("not the state of a scale: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_falls_at_once_and_grows_slowly() {
        let mut scaler = GradScaler::default();
        assert!(!scaler.update(false).unwrap() && scaler.scale() == 32768.0);
        assert!((0..GROWTH_INTERVAL).all(|_| scaler.update(true).unwrap()) && scaler.scale() == 65536.0);
        scaler.update(true).unwrap();
        let restored = GradScaler::from_state("scaler.json".as_ref(), scaler.state()).unwrap();
        assert_eq!(restored, scaler);
        assert!(GradScaler::from_state("scaler.json".as_ref(), Value::Null).is_err());
        let error = (0..100).find_map(|_| scaler.update(false).err()).unwrap();
        assert!(error.to_string().starts_with("fp16: "), "{error}");
    }
}
