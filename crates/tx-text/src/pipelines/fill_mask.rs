//! `fill-mask`: the likely tokens for the masked places of a text.
//!
//! Reference: transformers 5.23.0, `pipelines/fill_mask.py`.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Pipeline, softmax};
use tx_core::registry::Auto;
use tx_core::task::{MaskedLm, Record};
use tx_core::tokenizer::{EncodeOptions, Encoding, Text, Tokenizer};

use super::TokenizedModel;

/// The arguments of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillMaskOptions {
    /// How many tokens to propose for each masked place.
    pub top_k: usize,
    /// Proposes these only. Of one that is not in the vocabulary, the first token stands for it.
    pub targets: Option<Vec<String>>,
    /// Whether to cut texts that are too long for the model.
    pub truncation: bool,
    /// Cuts texts to this many tokens.
    pub max_length: Option<usize>,
}

impl Default for FillMaskOptions {
    fn default() -> Self {
        Self { top_k: 5, targets: None, truncation: false, max_length: None }
    }
}

/// A token for a masked place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FilledMask {
    /// Its probability.
    pub score: f32,
    /// Its id.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The whole text with the token in place.
    pub sequence: String,
}

/// The tokens for all masked places of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FillMask {
    /// Of one masked place, best first.
    One(Vec<FilledMask>),
    /// Of several, each filled by itself while the others stay masked.
    Several(Vec<Vec<FilledMask>>),
}

impl FillMask {
    /// The proposals for each masked place.
    pub fn masks(&self) -> &[Vec<FilledMask>] {
        match self {
            Self::One(mask) => std::slice::from_ref(mask),
            Self::Several(masks) => masks,
        }
    }
}

/// The likely tokens for the masked places of a text.
#[derive(Debug, Clone)]
pub struct FillMaskPipeline {
    model: Arc<TokenizedModel<dyn MaskedLm>>,
    mask: u32,
    target_ids: Option<Vec<u32>>,
    options: FillMaskOptions,
}

impl FillMaskPipeline {
    /// A pipeline of a masked language model.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer has no mask token, or nothing is left of the targets.
    pub fn new(model: Auto<dyn MaskedLm>, tokenizer: Tokenizer, options: FillMaskOptions) -> Result<Self> {
        let Some(mask) = tokenizer.special().mask.as_ref().map(|mask| mask.id) else {
            return Err(Error::input("tokenizer", "no mask token", "that of a masked language model"));
        };
        let model = Arc::new(TokenizedModel { model, tokenizer });
        Self { model, mask, target_ids: None, options: FillMaskOptions::default() }.with_options(options)
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`] if nothing is left of the targets.
    pub fn with_options(&self, options: FillMaskOptions) -> Result<Self> {
        let target_ids = options.targets.as_deref().map(|targets| self.target_ids(targets)).transpose()?;
        Ok(Self { target_ids, options, ..self.clone() })
    }

    /// The ids of targets, each once.
    fn target_ids(&self, targets: &[String]) -> Result<Vec<u32>> {
        let tokenizer = &self.model.tokenizer;
        let mut ids = Vec::with_capacity(targets.len());
        for target in targets {
            let id = match tokenizer.token_to_id(target) {
                Some(id) => Some(id),
                None => {
                    let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
                    let encodings = tokenizer.encode(&target.as_str().into(), &options)?;
                    encodings.first().and_then(|encoding| encoding.ids.first().copied())
                }
            };
            ids.extend(id);
        }
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Err(Error::input("targets", "none that has a token", "at least one word"));
        }
        let rows = self.model.model.limits.vocab_size;
        match ids.iter().find(|&&id| id as usize >= rows) {
            Some(id) => {
                Err(Error::input("targets", format_args!("a token of id {id}"), format_args!("ids below {rows}")))
            }
            None => Ok(ids),
        }
    }

    /// The best tokens for one masked place, with their probabilities.
    fn best(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let scores = softmax(logits);
        let mut best: Vec<(u32, f32)> = match &self.target_ids {
            Some(ids) => ids.iter().filter_map(|&id| Some((id, *scores.get(id as usize)?))).collect(),
            None => (0..).zip(scores).collect(),
        };
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let count = self.options.top_k.min(best.len());
        if count < best.len() {
            best.select_nth_unstable_by(count, order);
            best.truncate(count);
        }
        best.sort_unstable_by(order);
        best
    }
}

/// A text and where its masked tokens are.
#[derive(Debug, Clone)]
pub struct MaskedText {
    encoding: Encoding,
    masks: Vec<usize>,
}

impl Pipeline for FillMaskPipeline {
    type Input = Text;
    type Unit = MaskedText;
    /// The logits of each masked place.
    type Scores = Vec<Vec<f32>>;
    type Output = FillMask;

    fn preprocess(&self, text: &Text) -> Result<Vec<MaskedText>> {
        let encoding = self.model.encode(text, self.options.truncation, self.options.max_length)?;
        let masks: Vec<usize> = (0..encoding.len()).filter(|&i| encoding.ids[i] == self.mask).collect();
        if masks.is_empty() {
            let token = self.model.tokenizer.special().mask.as_ref().map(|mask| mask.text.as_str()).unwrap_or_default();
            return Err(Error::input("text", "no masked place", format_args!("`{token}` at least once")));
        }
        Ok(vec![MaskedText { encoding, masks }])
    }

    fn length(&self, unit: &MaskedText) -> usize {
        unit.encoding.len()
    }

    fn forward(&self, units: &[&MaskedText]) -> Result<Vec<Vec<Vec<f32>>>> {
        let batch = self.model.batch(units.iter().map(|unit| &unit.encoding))?;
        let logits = self.model.model.forward(&batch.inputs, &mut Record::none());
        let [rows, seq, vocab] = logits.dims();
        // Only the masked places leave the device: all others would be many times as much.
        let places = units.iter().zip(&batch.starts).enumerate();
        let places =
            places.flat_map(|(row, (unit, start))| unit.masks.iter().map(move |&mask| row * seq + start + mask));
        let places: Vec<i64> = places.map(|place| place as i64).collect();
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &self.model.model.device);
        let logits = logits.reshape([rows * seq, vocab]).select(0, places);
        let mut logits = self.model.read_rows(logits)?.into_iter();
        Ok(units.iter().map(|unit| logits.by_ref().take(unit.masks.len()).collect()).collect())
    }

    fn postprocess(&self, _: &Text, units: Vec<(MaskedText, Vec<Vec<f32>>)>) -> Result<FillMask> {
        let pad = self.model.tokenizer.special().pad.as_ref().map(|token| token.id);
        let mut masks = Vec::new();
        for (MaskedText { encoding, masks: places }, logits) in units {
            // With several masks, the special tokens stay: the other masks are among them.
            let skip_special_tokens = places.len() == 1;
            for (place, logits) in places.into_iter().zip(logits) {
                let mut filled = Vec::new();
                for (token, score) in self.best(&logits) {
                    let mut ids = encoding.ids.clone();
                    ids[place] = token;
                    ids.retain(|&id| Some(id) != pad);
                    filled.push(FilledMask {
                        score,
                        token,
                        token_str: self.model.decode(&[token], false)?,
                        sequence: self.model.decode(&ids, skip_special_tokens)?,
                    });
                }
                masks.push(filled);
            }
        }
        Ok(match <[_; 1]>::try_from(masks) {
            Ok([mask]) => FillMask::One(mask),
            Err(masks) => FillMask::Several(masks),
        })
    }
}
