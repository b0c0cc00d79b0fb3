//! The least time that the machine allows for a workload: operations over its matrix peak, or bytes over its bandwidth.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tx_core::config::read_json;

/// What the machine can do at most, with the threads of the measurement.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Ceilings {
    /// Operations on f32 per second; a fused multiplication and addition counts as two.
    pub matrix_peak: f64,
    /// Operations on int8 per second.
    pub int8_peak: f64,
    /// Bytes per second from main memory.
    pub stream_bandwidth: f64,
}

/// What an encoder has to do.
pub struct Cost {
    /// Operations of the layers' linear maps; a multiplication and an addition count as two.
    linear: f64,
    /// Operations of the two products of attention, which are in f32 whatever the weights are.
    attention: f64,
    /// The size of the linear maps' weights, which are read at least once.
    bytes: f64,
    /// Whether the weights are int8, and not f32.
    int8: bool,
}

/// The least time.
#[derive(Serialize)]
pub struct Bound {
    pub seconds: f64,
    /// What it comes from: operations or bytes.
    pub by: &'static str,
    pub operations: f64,
    pub bytes: f64,
}

impl Cost {
    /// The cost of one pass over sequences of these lengths, in tokens, without any padding. Embeddings, norms and the
    /// pooler are left out.
    pub fn new(model: &Path, lengths: &[usize], int8: bool) -> Result<Self> {
        let path = model.join("config.json");
        let config = read_json(&path)?;
        let size = |key: &str| {
            let value = config[key].as_f64();
            value.with_context(|| format!("{}: `{key}` is not a number", path.display()))
        };
        let (hidden, intermediate) = (size("hidden_size")?, size("intermediate_size")?);
        let layers = size("num_hidden_layers")?;
        // Queries, keys, values and output; up and down.
        let weights = layers * (4.0 * hidden * hidden + 2.0 * hidden * intermediate);
        let tokens: f64 = lengths.iter().map(|&length| length as f64).sum();
        let pairs: f64 = lengths.iter().map(|&length| (length as f64).powi(2)).sum();
        Ok(Self {
            linear: 2.0 * weights * tokens,
            attention: 2.0 * 2.0 * pairs * hidden * layers,
            bytes: weights * if int8 { 1.0 } else { 4.0 },
            int8,
        })
    }

    pub fn bound(&self, ceilings: &Ceilings) -> Bound {
        let linear_peak = if self.int8 { ceilings.int8_peak } else { ceilings.matrix_peak };
        let compute = self.linear / linear_peak + self.attention / ceilings.matrix_peak;
        let stream = self.bytes / ceilings.stream_bandwidth;
        let (seconds, by) = if compute >= stream { (compute, "operations") } else { (stream, "bytes") };
        Bound { seconds, by, operations: self.linear + self.attention, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_both_bounds_counts() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"hidden_size": 2, "intermediate_size": 8, "num_hidden_layers": 3}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let cost = Cost::new(folder.path(), &[5, 1], true).unwrap();
        // 3 · (4·4 + 2·16) weights, 6 tokens, 26 pairs.
        assert_eq!((cost.linear, cost.attention, cost.bytes), (1728.0, 624.0, 144.0));
        let ceilings = Ceilings { matrix_peak: 624.0, int8_peak: 1728.0, stream_bandwidth: 100.0 };
        let bound = cost.bound(&ceilings);
        assert_eq!((bound.seconds, bound.by), (2.0, "operations"));
        let bound = cost.bound(&Ceilings { stream_bandwidth: 48.0, ..ceilings });
        assert_eq!((bound.seconds, bound.by), (3.0, "bytes"));
        assert!(Cost::new(Path::new("nowhere"), &[1], false).is_err());
    }
}
