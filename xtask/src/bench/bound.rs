//! The least time that the machine allows for a workload: operations over its matrix peak, or bytes over its bandwidth.

mod media;

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tx_core::config::read_json;

/// What the machine can do at most, with the threads of the measurement.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Ceilings {
    /// Operations on f32 per second; a fused multiplication and addition counts as two.
    pub matrix_peak: f64,
    /// Operations on bf16 per second.
    pub bf16_peak: f64,
    /// Operations on int8 per second.
    pub int8_peak: f64,
    /// Bytes per second from main memory.
    pub stream_bandwidth: f64,
}

/// What weights are, and with that what they are multiplied in.
#[derive(Clone, Copy, Default)]
pub enum Weights {
    #[default]
    F32,
    Bf16,
    Int8,
}

impl Weights {
    fn bytes(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Int8 => 1.0,
        }
    }
}

/// What a model has to do.
#[derive(Default)]
pub struct Cost {
    /// Operations of the linear maps and convolutions; a multiplication and an addition count as two.
    linear: f64,
    /// Operations of the two products of attention, which are in f32 whatever the weights are.
    attention: f64,
    /// What is read at least: the weights of these, and keys and values that were kept.
    bytes: f64,
    weights: Weights,
    /// How many tokens go through the model, if what it takes is tokens.
    pub tokens: Option<usize>,
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
    /// The cost of one pass of BERT over sequences of these lengths, in tokens, without any padding. Embeddings, norms
    /// and the pooler are left out.
    pub fn encoder(model: &Path, lengths: &[usize], of: Weights) -> Result<Self> {
        let [hidden, intermediate, layers] = sizes(model, ["hidden_size", "intermediate_size", "num_hidden_layers"])?;
        // Queries, keys, values and output; up and down.
        let weights = layers * (4.0 * hidden * hidden + 2.0 * hidden * intermediate);
        let tokens: usize = lengths.iter().sum();
        let pairs: f64 = lengths.iter().map(|&length| (length as f64).powi(2)).sum();
        Ok(Self {
            linear: 2.0 * weights * tokens as f64,
            attention: 2.0 * 2.0 * pairs * hidden * layers,
            bytes: weights * of.bytes(),
            weights: of,
            tokens: Some(tokens),
        })
    }

    /// The cost of passes of LLaMA over some sequences at once: for each pass, how many tokens of a sequence are in the
    /// cache, which keeps f32, and how many are new, of which the last one gets scores. The embedding, whose rows are
    /// looked up, counts as the head that shares it.
    pub fn decoder(model: &Path, batch: usize, passes: &[(usize, usize)], of: Weights) -> Result<Self> {
        let [hidden, intermediate, layers, vocab] =
            sizes(model, ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"])?;
        let [heads, kv_heads] = sizes(model, ["num_attention_heads", "num_key_value_heads"])?;
        let kv = hidden / heads * kv_heads;
        // Queries and output, keys and values; gate, up and down.
        let weights = layers * (2.0 * hidden * hidden + 2.0 * hidden * kv + 3.0 * hidden * intermediate);
        let head = vocab * hidden;
        let tokens = passes.iter().map(|&(_, new)| batch * new).sum();
        let (mut cost, rows) = (Self { weights: of, tokens: Some(tokens), ..Self::default() }, batch as f64);
        for &(seen, new) in passes {
            let (seen, new) = (seen as f64, new as f64);
            // A token sees those before it and itself.
            let pairs = new * seen + new * (new + 1.0) / 2.0;
            cost.linear += 2.0 * rows * (weights * new + head);
            cost.attention += 2.0 * 2.0 * rows * pairs * hidden * layers;
            cost.bytes += (weights + head) * of.bytes() + rows * seen * 2.0 * kv * layers * 4.0;
        }
        Ok(cost)
    }

    /// With what gradients cost: each product has two more of its size, one for either factor.
    pub fn with_gradients(self) -> Self {
        Self { linear: 3.0 * self.linear, attention: 3.0 * self.attention, ..self }
    }

    /// The cost of an update of adapters on LLaMA: scores for every token, and gradients of what layers get, but of no
    /// weight. The adapters themselves are left out.
    pub fn decoder_with_adapters(model: &Path, batch: usize, seq: usize, of: Weights) -> Result<Self> {
        let [hidden, vocab] = sizes(model, ["hidden_size", "vocab_size"])?;
        let cost = Self::decoder(model, batch, &[(0, seq)], of)?;
        let linear = cost.linear + 2.0 * (batch * (seq - 1)) as f64 * hidden * vocab;
        Ok(Self { linear: 2.0 * linear, attention: 3.0 * cost.attention, ..cost })
    }

    pub fn bound(&self, ceilings: &Ceilings) -> Bound {
        let linear_peak = match self.weights {
            Weights::F32 => ceilings.matrix_peak,
            Weights::Bf16 => ceilings.bf16_peak,
            Weights::Int8 => ceilings.int8_peak,
        };
        let compute = self.linear / linear_peak + self.attention / ceilings.matrix_peak;
        let stream = self.bytes / ceilings.stream_bandwidth;
        let (seconds, by) = if compute >= stream { (compute, "operations") } else { (stream, "bytes") };
        Bound { seconds, by, operations: self.linear + self.attention, bytes: self.bytes }
    }
}

/// Numbers of a `config.json`.
fn sizes<const N: usize>(model: &Path, keys: [&str; N]) -> Result<[f64; N]> {
    let path = model.join("config.json");
    let config = read_json(&path)?;
    let mut sizes = [0.0; N];
    for (size, key) in sizes.iter_mut().zip(keys) {
        let number = config[key].as_f64();
        *size = number.with_context(|| format!("{}: `{key}` is not a number", path.display()))?;
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_both_bounds_counts() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"hidden_size": 2, "intermediate_size": 8, "num_hidden_layers": 3}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let cost = Cost::encoder(folder.path(), &[5, 1], Weights::Int8).unwrap();
        // 3 · (4·4 + 2·16) weights, 6 tokens, 26 pairs.
        assert_eq!((cost.linear, cost.attention, cost.bytes, cost.tokens), (1728.0, 624.0, 144.0, Some(6)));
        let ceilings = Ceilings { matrix_peak: 624.0, bf16_peak: 1e9, int8_peak: 1728.0, stream_bandwidth: 100.0 };
        let bound = cost.bound(&ceilings);
        assert_eq!((bound.seconds, bound.by), (2.0, "operations"));
        let bound = cost.bound(&Ceilings { stream_bandwidth: 48.0, ..ceilings });
        assert_eq!((bound.seconds, bound.by), (3.0, "bytes"));
        assert!(Cost::encoder(Path::new("nowhere"), &[1], Weights::F32).is_err());
        let error = Cost::decoder(folder.path(), 1, &[(0, 1)], Weights::F32).err().unwrap().to_string();
        assert!(error.contains("`vocab_size` is not a number"), "{error}");
    }

    #[test]
    fn a_decoder_reads_its_weights_and_its_cache_in_every_pass() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 3, "vocab_size": 10,
            "num_attention_heads": 2, "num_key_value_heads": 1}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        // 3 · (2·16 + 2·8 + 3·32) = 432 weights and 40 of the head; a token in the cache has 2·2·3 numbers.
        let prompt = Cost::decoder(folder.path(), 1, &[(0, 5)], Weights::Bf16).unwrap();
        assert_eq!((prompt.linear, prompt.attention, prompt.bytes), (4400.0, 720.0, 944.0));
        let steps = Cost::decoder(folder.path(), 8, &[(5, 1), (6, 1)], Weights::Bf16).unwrap();
        assert_eq!((steps.linear, steps.attention, steps.bytes), (15104.0, 4992.0, 6112.0));
        assert_eq!((prompt.tokens, steps.tokens), (Some(5), Some(16)));
    }
}
