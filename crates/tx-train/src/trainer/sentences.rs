//! One vector from the states of a text, so that its gradient is known: the pooling of sentence-transformers.
//!
//! Reference: sentence-transformers 6.2.0, `sentence_transformer/modules/pooling.py`.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;
use tx_core::config::read_json;
use tx_core::error::{Error, Result};
use tx_core::task::TextArguments;
use tx_text::pipelines::{PoolingMode, SentenceModules};

/// What makes sentence embeddings of the states of an encoder.
#[derive(Debug, Clone)]
pub struct Sentences {
    /// The ways to make a vector of the states, whose results are joined.
    modes: Vec<PoolingMode>,
    /// The folder of the encoder within that of the model; the same one if it is empty.
    pub(super) encoder: PathBuf,
    /// The longest text, in tokens; the encoder's limit if `None`.
    pub(super) max_seq_length: Option<usize>,
}

impl Sentences {
    /// What a folder of sentence-transformers says, or of a plain encoder.
    ///
    /// # Errors
    /// Those of [`SentenceModules::from_folder`]; [`Error::Unsupported`] for modules with weights after the pooling,
    /// which would not be trained, and for texts that are lower-cased outside of the tokenizer.
    pub fn from_folder(folder: &Path, device: &Device) -> Result<Self> {
        let path = folder.join("modules.json");
        let modules = if path.is_file() { read_json(&path)? } else { Value::Null };
        for module in modules.as_array().into_iter().flatten() {
            let class = module.get("type").and_then(Value::as_str).unwrap_or_default();
            let class = class.rsplit('.').next().unwrap_or_default();
            if matches!(class, "Dense" | "LayerNorm") {
                return Err(Error::Unsupported {
                    path,
                    key: "type".into(),
                    value: class.to_owned(),
                    supported: "Transformer, Pooling, Dropout and Normalize in a training".into(),
                });
            }
        }
        let modules = SentenceModules::from_folder(folder, device)?;
        if modules.do_lower_case {
            return Err(Error::Unsupported {
                path: modules.encoder,
                key: "do_lower_case".into(),
                value: "true".into(),
                supported: "false in a training; a tokenizer may do it".into(),
            });
        }
        let encoder = modules.encoder.strip_prefix(folder).map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { modes: modules.pooling.modes, encoder, max_seq_length: modules.max_seq_length })
    }

    /// In f32, whatever the states are in.
    ///
    /// # Shapes
    /// - states: `[batch, seq, hidden]`
    /// - output: `[batch, modes · hidden]`
    pub(super) fn pool(&self, states: Tensor<3>, arguments: &TextArguments) -> Tensor<2> {
        let states = states.cast(DType::F32);
        let [batch, seq, hidden] = states.dims();
        let device = states.device().without_autodiff();
        let seen = |row: usize, column: usize| {
            arguments.attention_mask.as_ref().is_none_or(|mask| mask.values[row * seq + column] != 0)
        };
        let places: Vec<Vec<usize>> =
            (0..batch).map(|row| (0..seq).filter(|&column| seen(row, column)).collect()).collect();
        let pooled = self.modes.iter().map(|mode| {
            if *mode == PoolingMode::Max {
                let mut hidden_places = vec![f32::NEG_INFINITY; batch * seq];
                for (row, places) in places.iter().enumerate() {
                    places.iter().for_each(|column| hidden_places[row * seq + column] = 0.0);
                }
                let hide = TensorData::new(hidden_places, [batch, seq, 1]);
                let hide = Tensor::<3>::from_data(hide, (&device, DType::F32));
                return (states.clone() + hide).max_dim(1);
            }
            let mut weights = vec![0.0; batch * seq];
            for (row, places) in places.iter().enumerate() {
                for (column, weight) in places.iter().zip(of_tokens(*mode, places.len())) {
                    weights[row * seq + column] = weight;
                }
            }
            let weights = TensorData::new(weights, [batch, 1, seq]);
            Tensor::<3>::from_data(weights, (&device, DType::F32)).matmul(states.clone())
        });
        let pooled: Vec<Tensor<3>> = pooled.collect(); // each [batch, 1, hidden]
        let width = pooled.len() * hidden;
        Tensor::cat(pooled, 2).reshape([batch, width])
    }
}

/// How much each of so many tokens counts in the sum over them.
fn of_tokens(mode: PoolingMode, tokens: usize) -> Vec<f32> {
    let count = tokens as f32;
    let only = |token: usize| (0..tokens).map(|i| if i == token { 1.0 } else { 0.0 }).collect();
    match mode {
        PoolingMode::Cls => only(0),
        PoolingMode::LastToken => only(tokens.saturating_sub(1)),
        PoolingMode::Mean | PoolingMode::Max => vec![1.0 / count; tokens],
        PoolingMode::MeanSqrtLen => vec![1.0 / count.sqrt(); tokens],
        PoolingMode::WeightedMean => {
            let total = count * (count + 1.0) / 2.0;
            (1..=tokens).map(|place| place as f32 / total).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use tx_core::task::IntRows;

    use super::*;

    #[test]
    fn every_way_sees_the_tokens_and_not_the_padding() {
        let states = Tensor::<3>::from_floats([[[1.0, -2.0], [3.0, 4.0], [9.0, 9.0]]], &Device::default());
        let mask = IntRows { batch: 1, seq: 3, values: vec![1, 1, 0] };
        let arguments = TextArguments { attention_mask: Some(mask), ..TextArguments::default() };
        let pool = |modes: &[PoolingMode]| {
            let sentences = Sentences { modes: modes.to_vec(), encoder: PathBuf::new(), max_seq_length: None };
            sentences.pool(states.clone(), &arguments).into_data().iter::<f32>().collect::<Vec<_>>()
        };
        assert_eq!(pool(&[PoolingMode::Cls]), [1.0, -2.0]);
        assert_eq!(pool(&[PoolingMode::LastToken]), [3.0, 4.0]);
        assert_eq!(pool(&[PoolingMode::Max]), [3.0, 4.0]);
        assert_eq!(pool(&[PoolingMode::Mean]), [2.0, 1.0]);
        let close = |found: Vec<f32>, expected: [f32; 2]| found.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6);
        assert!(close(pool(&[PoolingMode::MeanSqrtLen]), [4.0 / 2f32.sqrt(), 2.0 / 2f32.sqrt()]));
        assert!(close(pool(&[PoolingMode::WeightedMean]), [7.0 / 3.0, 2.0]));
        assert_eq!(pool(&[PoolingMode::Mean, PoolingMode::Cls]), [2.0, 1.0, 1.0, -2.0]);
        // Whatever the encoder computes in.
        for dtype in [DType::BF16, DType::F16] {
            let modes = vec![PoolingMode::Mean, PoolingMode::Max];
            let sentences = Sentences { modes, encoder: PathBuf::new(), max_seq_length: None };
            let pooled = sentences.pool(states.clone().cast(dtype), &arguments);
            assert_eq!(pooled.dtype(), DType::F32);
            assert_eq!(pooled.into_data().iter::<f32>().collect::<Vec<_>>(), [2.0, 1.0, 3.0, 4.0]);
        }
    }
}
