//! `zero-shot-classification`: a text to labels of the user's choice, through a model of natural language inference.
//!
//! Each label is put into a hypothesis; its score is how much the text entails it.
//! Reference: transformers 5.23.0, `pipelines/zero_shot_classification.py`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Pipeline, softmax};
use tx_core::registry::Auto;
use tx_core::task::{Record, SequenceClassifier};
use tx_core::tokenizer::{EncodeOptions, Encoding, Text, Tokenizer, Truncation};

use super::TokenizedModel;

/// The arguments of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZeroShotClassificationOptions {
    /// The labels to choose from.
    pub candidate_labels: Vec<String>,
    /// The hypothesis; `{}` stands for the label.
    pub hypothesis_template: String,
    /// Whether several labels can hold: each is then scored by itself, and the scores do not sum to one.
    pub multi_label: bool,
}

impl Default for ZeroShotClassificationOptions {
    fn default() -> Self {
        let hypothesis_template = "This example is {}.".to_owned();
        Self { candidate_labels: Vec::new(), hypothesis_template, multi_label: false }
    }
}

/// The labels of a text, best first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZeroShotClassification {
    /// The text.
    pub sequence: String,
    /// The labels, best first.
    pub labels: Vec<String>,
    /// Their scores.
    pub scores: Vec<f32>,
}

/// A text to labels of the user's choice.
#[derive(Debug, Clone)]
pub struct ZeroShotClassificationPipeline {
    model: Arc<TokenizedModel<dyn SequenceClassifier>>,
    labels: Arc<[String]>,
    entailment: Option<usize>,
    hypotheses: Vec<String>,
    options: ZeroShotClassificationOptions,
}

impl ZeroShotClassificationPipeline {
    /// A pipeline of a sequence classifier that was trained on natural language inference.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no labels, or the template has no place for one; [`Error::Config`] if the model's
    /// labels cannot be used.
    pub fn new(
        model: Auto<dyn SequenceClassifier>,
        tokenizer: Tokenizer,
        options: ZeroShotClassificationOptions,
    ) -> Result<Self> {
        let labels: Arc<[String]> = model.config.labels()?.into();
        let entailment = entailment_id(&model.config, &labels)?;
        let model = Arc::new(TokenizedModel { model, tokenizer });
        let (hypotheses, without) = (Vec::new(), ZeroShotClassificationOptions::default());
        Self { model, labels, entailment, hypotheses, options: without }.with_options(options)
    }

    /// A pipeline with other options that shares the model.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no labels, or the template has no place for one.
    pub fn with_options(&self, options: ZeroShotClassificationOptions) -> Result<Self> {
        if options.candidate_labels.is_empty() {
            return Err(Error::input("candidate_labels", "none", "at least one label"));
        }
        let template = &options.hypothesis_template;
        let hypotheses =
            options.candidate_labels.iter().map(|label| fill_template(template, label)).collect::<Result<_>>()?;
        Ok(Self { hypotheses, options, ..self.clone() })
    }

    /// The output for entailment; `None` if no label says so, and the last one is then taken, as in the reference.
    pub fn entailment_id(&self) -> Option<usize> {
        self.entailment
    }
}

/// The output whose label starts with "entail".
fn entailment_id(config: &Config, labels: &[String]) -> Result<Option<usize>> {
    let is_entailment = |label: &str| label.to_lowercase().starts_with("entail");
    let Some(label2id) = config.get("label2id").and_then(Value::as_object) else {
        return Ok(labels.iter().position(|label| is_entailment(label)));
    };
    let Some((label, id)) = label2id.iter().find(|(label, _)| is_entailment(label)) else { return Ok(None) };
    match id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < labels.len()) {
        Some(id) => Ok(Some(id)),
        None => {
            let reason = format_args!("found {id}, expected the number of one of {} labels", labels.len());
            Err(Error::config(config.path(), format!("label2id.{label}"), reason))
        }
    }
}

/// The hypothesis for a label: Python's `template.format(label)`.
fn fill_template(template: &str, label: &str) -> Result<String> {
    let wrong = |found: &str| {
        Error::input("hypothesis_template", format_args!("`{template}`, which {found}"), "`{}` where the label goes")
    };
    let mut hypothesis = String::with_capacity(template.len() + label.len());
    let (mut rest, mut filled) = (template, false);
    while let Some(at) = rest.find(['{', '}']) {
        hypothesis.push_str(&rest[..at]);
        rest = &rest[at..];
        let (text, length) = match rest {
            _ if rest.starts_with("{{") => ("{", 2),
            _ if rest.starts_with("}}") => ("}", 2),
            _ if rest.starts_with("{}") => (label, 2),
            _ if rest.starts_with("{0}") => (label, 3),
            _ => return Err(wrong("has another brace")),
        };
        filled |= length == 3 || rest.starts_with("{}");
        hypothesis.push_str(text);
        rest = &rest[length..];
    }
    if !filled {
        return Err(wrong("has no place for the label"));
    }
    hypothesis.push_str(rest);
    Ok(hypothesis)
}

impl Pipeline for ZeroShotClassificationPipeline {
    type Input = String;
    /// The text with one of the hypotheses.
    type Unit = Encoding;
    type Scores = Vec<f32>;
    type Output = ZeroShotClassification;

    fn preprocess(&self, text: &String) -> Result<Vec<Encoding>> {
        if text.is_empty() {
            return Err(Error::input("text", "an empty text", "at least one character"));
        }
        let encode = |hypothesis: &String| {
            let pair = Text::pair(text.as_str(), hypothesis.as_str());
            let options = EncodeOptions {
                truncation: Truncation::OnlyFirst,
                max_length: self.model.max_length(),
                ..EncodeOptions::default()
            };
            let encodings = match self.model.tokenizer.encode(&pair, &options) {
                // The text is too short to make room for the hypothesis: as in the reference, nothing is cut then.
                Err(Error::Input { .. }) => self.model.tokenizer.encode(&pair, &EncodeOptions::default())?,
                other => other?,
            };
            let encoding = encodings.into_iter().next().unwrap_or_default();
            self.model.check(&encoding, "shorten the label or the hypothesis template")?;
            Ok(encoding)
        };
        self.hypotheses.iter().map(encode).collect()
    }

    fn length(&self, unit: &Encoding) -> usize {
        unit.len()
    }

    fn forward(&self, units: &[&Encoding]) -> Result<Vec<Vec<f32>>> {
        let batch = self.model.batch(units.iter().copied())?;
        self.model.read_rows(self.model.model.forward(&batch.inputs, &mut Record::none()))
    }

    fn postprocess(&self, text: &String, units: Vec<(Encoding, Vec<f32>)>) -> Result<ZeroShotClassification> {
        let logits: Vec<Vec<f32>> = units.into_iter().map(|(_, logits)| logits).collect();
        logits.iter().try_for_each(|logits| self.model.check_labels(&self.labels, logits.len()))?;
        let last = self.labels.len() - 1;
        let entailment = self.entailment.unwrap_or(last);
        let contradiction = if entailment == 0 { last } else { 0 };
        let scores: Vec<f32> = if self.options.multi_label || logits.len() == 1 {
            logits.iter().map(|logits| softmax(&[logits[contradiction], logits[entailment]])[1]).collect()
        } else {
            softmax(&logits.iter().map(|logits| logits[entailment]).collect::<Vec<_>>())
        };
        // Ascending and then reversed, as in the reference: of equal scores the later label comes first.
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        order.reverse();
        Ok(ZeroShotClassification {
            sequence: text.clone(),
            labels: order.iter().map(|&i| self.options.candidate_labels[i].clone()).collect(),
            scores: order.iter().map(|&i| scores[i]).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_those_of_python() {
        let fill = |template| fill_template(template, "news");
        assert_eq!(fill("This example is {}.").unwrap(), "This example is news.");
        assert_eq!(fill("{{{0}}} ü {}").unwrap(), "{news} ü news");
        for broken in ["no place", "{{}}", "{label}", "{", "a } b {}"] {
            assert!(fill(broken).unwrap_err().to_string().starts_with("hypothesis_template: `"), "{broken}");
        }
    }
}
