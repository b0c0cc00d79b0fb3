//! What zero-shot classification is told, and what it tells, whatever is classified.

use burn::tensor::{Device, Tensor};
use tx_core::error::{Error, Result};
use tx_core::pipeline::{MAX_TOKENS, ScoredLabel};
use tx_core::task::{Record, TextEmbedder, normalize};
use tx_core::tokenizer::Encoding;

use super::texts::Texts;

/// The arguments of zero-shot classification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZeroShotClassificationOptions {
    /// The labels to choose from.
    pub candidate_labels: Vec<String>,
    /// What is said of the input; `{}` stands for the label.
    pub hypothesis_template: String,
}

impl ZeroShotClassificationOptions {
    /// HF's template for pictures.
    pub fn of_images<L: Into<String>>(labels: impl IntoIterator<Item = L>) -> Self {
        Self::new(labels, "This is a photo of {}.")
    }

    /// HF's template for sounds.
    pub fn of_sounds<L: Into<String>>(labels: impl IntoIterator<Item = L>) -> Self {
        Self::new(labels, "This is a sound of {}.")
    }

    fn new<L: Into<String>>(labels: impl IntoIterator<Item = L>, template: &str) -> Self {
        let candidate_labels = labels.into_iter().map(Into::into).collect();
        Self { candidate_labels, hypothesis_template: template.to_owned() }
    }

    /// What is said for each label.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no labels, or the template has no place for one.
    fn hypotheses(&self) -> Result<Vec<String>> {
        if self.candidate_labels.is_empty() {
            return Err(Error::input("candidate_labels", "none", "at least one label"));
        }
        self.candidate_labels.iter().map(|label| fill(&self.hypothesis_template, label)).collect()
    }

    /// The vectors of the hypotheses, of length one: they are the same for all inputs.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no labels, the template has no place for one, or a hypothesis is too long.
    pub(super) fn embed<M: TextEmbedder + ?Sized>(
        &self,
        model: &M,
        texts: &Texts,
        device: &Device,
    ) -> Result<Tensor<2>> {
        let encode = |hypothesis: &String| texts.encode(hypothesis, false);
        let encodings = self.hypotheses()?.iter().map(encode).collect::<Result<Vec<Encoding>>>()?;
        let encodings: Vec<&Encoding> = encodings.iter().collect();
        let longest = encodings.iter().map(|encoding| texts.cost(encoding)).max().unwrap_or(1);
        let passes = encodings.chunks((MAX_TOKENS / longest.max(1)).max(1));
        let embed = |pass: &[&Encoding]| -> Result<Tensor<2>> {
            let inputs = texts.inputs(pass, device)?;
            Ok(normalize(model.embed_text(&inputs, &mut Record::none()).embeds))
        };
        Ok(Tensor::cat(passes.map(embed).collect::<Result<Vec<_>>>()?, 0))
    }

    /// The labels with their scores, best first.
    pub(super) fn rank(&self, scores: Vec<f32>) -> Vec<ScoredLabel> {
        let label = |(score, label): (f32, &String)| ScoredLabel { score, label: label.clone() };
        let mut labels: Vec<ScoredLabel> = scores.into_iter().zip(&self.candidate_labels).map(label).collect();
        // Stable: of equal scores the first label comes first, as in the reference.
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels
    }
}

/// A template with a label in it: Python's `template.format(label)`.
fn fill(template: &str, label: &str) -> Result<String> {
    let wrong = |found: &str| {
        let found = format_args!("`{template}`, which {found}");
        Error::input("hypothesis_template", found, "`{}` where the label goes")
    };
    let (mut filled, mut places) = (String::with_capacity(template.len() + label.len()), 0);
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let braces = [("{{", "{"), ("}}", "}"), ("{}", label), ("{0}", label)];
        let Some((place, text)) = braces.into_iter().find(|(place, _)| rest.starts_with(place)) else {
            return Err(wrong("has another brace"));
        };
        places += usize::from(place.starts_with('{') && place.ends_with('}'));
        filled.push_str(text);
        rest = &rest[place.len()..];
    }
    if places == 0 {
        return Err(wrong("has no place for the label"));
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_those_of_python() {
        let fill = |template| fill(template, "a cat");
        assert_eq!(fill("This is a photo of {}.").unwrap(), "This is a photo of a cat.");
        assert_eq!(fill("{{{0}}} ü {}").unwrap(), "{a cat} ü a cat");
        for broken in ["no place", "{{}}", "{label}", "{", "a } b {}"] {
            assert!(fill(broken).unwrap_err().to_string().starts_with("hypothesis_template: `"), "{broken}");
        }
    }

    #[test]
    fn labels_are_ranked_and_serialize_as_in_python() {
        let options = ZeroShotClassificationOptions::of_images(["a", "b", "c"]);
        assert_eq!(options.hypotheses().unwrap()[1], "This is a photo of b.");
        let labels = options.rank(vec![0.25, 0.5, 0.25]);
        let json = serde_json::to_string(&labels[..2]).unwrap();
        assert_eq!(json, r#"[{"score":0.5,"label":"b"},{"score":0.25,"label":"a"}]"#);
        assert!(ZeroShotClassificationOptions::of_sounds([""; 0]).hypotheses().is_err());
    }
}
