//! `sentence-similarity`: how near sentences are to one sentence, as the Hub's API answers it.

use serde::{Deserialize, Serialize};
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::tokenizer::Encoding;

use super::SentenceEmbeddingPipeline;

/// One sentence, and the sentences that it is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentenceSimilarityInput {
    /// The one sentence.
    pub source_sentence: String,
    /// The others.
    pub sentences: Vec<String>,
}

/// How near sentences are to one sentence: the cosines of the angles between their vectors.
#[derive(Debug, Clone)]
pub struct SentenceSimilarityPipeline {
    embedding: SentenceEmbeddingPipeline,
}

impl SentenceSimilarityPipeline {
    /// A pipeline that compares the vectors of another one.
    pub fn new(embedding: SentenceEmbeddingPipeline) -> Self {
        Self { embedding }
    }
}

impl Pipeline for SentenceSimilarityPipeline {
    type Input = SentenceSimilarityInput;
    type Unit = Encoding;
    type Scores = Vec<f32>;
    type Output = Vec<f32>;

    fn preprocess(&self, input: &SentenceSimilarityInput) -> Result<Vec<Encoding>> {
        if input.sentences.is_empty() {
            return Err(Error::input("sentences", "none", "at least one sentence to compare with"));
        }
        let mut units = Vec::with_capacity(1 + input.sentences.len());
        for sentence in std::iter::once(&input.source_sentence).chain(&input.sentences) {
            units.extend(self.embedding.preprocess(sentence)?);
        }
        Ok(units)
    }

    fn length(&self, unit: &Encoding) -> usize {
        self.embedding.length(unit)
    }

    fn forward(&self, units: &[&Encoding]) -> Result<Vec<Vec<f32>>> {
        self.embedding.forward(units)
    }

    fn postprocess(&self, input: &SentenceSimilarityInput, units: Vec<(Encoding, Vec<f32>)>) -> Result<Vec<f32>> {
        let vectors = units.into_iter().map(|unit| self.embedding.postprocess(&input.source_sentence, vec![unit]));
        let vectors = vectors.collect::<Result<Vec<_>>>()?;
        let (source, others) = vectors.split_first().map_or((&[][..], &[][..]), |(first, rest)| (first, rest));
        Ok(others.iter().map(|other| cosine_similarity(source, other)).collect())
    }
}

/// The cosine of the angle between two vectors; 0 if one of them has no length.
pub fn cosine_similarity(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    (dot(a, b) / (dot(a, a).sqrt().max(1e-12) * dot(b, b).sqrt().max(1e-12))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_do_not_depend_on_lengths() {
        assert!((cosine_similarity(&[1.0, 0.0], &[5.0, 5.0]) - 0.5f32.sqrt()).abs() < 1e-7);
        assert_eq!(cosine_similarity(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
    }
}
