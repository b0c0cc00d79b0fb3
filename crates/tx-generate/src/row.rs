//! A sequence that grows token by token, and what is kept of its scores.

use tx_core::{Error, Result};

use crate::generate::{Call, Finish, Hooks, Sequence, TokenLogprob};
use crate::processors::LogitsProcessorList;
use crate::sample::{Sampler, argmax};
use crate::scores::{self, Scored};

/// The error for a sequence that nothing may follow: whatever was chosen there would break the rules that say so.
pub(crate) fn no_token(length: usize) -> Error {
    let expected = "scores that are numbers, and processors and constraints that leave a token possible";
    Error::input("generation settings", format_args!("no token may follow the {length} so far"), expected)
}

/// A sequence that grows token by token.
pub(crate) struct Row {
    /// The prompt, and what was chosen so far.
    pub(crate) ids: Vec<u32>,
    pub(crate) limit: usize,
    pub(crate) finish: Option<Finish>,
    processors: LogitsProcessorList,
    pub(crate) sampler: Sampler,
    prompt: usize,
    logprobs: Vec<TokenLogprob>,
    scores: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
}

impl Row {
    /// Sequence `sequence` of the call, which continues prompt `prompt`.
    pub(crate) fn new(call: &Call<'_>, prompt: usize, sequence: usize, hooks: &mut Hooks<'_>) -> Self {
        let ids = &call.prompts[prompt];
        Self {
            ids: ids.clone(),
            limit: call.limits[prompt],
            finish: None,
            processors: call.processors(prompt, sequence, hooks),
            sampler: Sampler::new(call.seed, sequence),
            prompt: ids.len(),
            logprobs: Vec::new(),
            scores: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// What the processors make of the scores of the next token.
    pub(crate) fn process(&mut self, scores: &mut [f32]) {
        for processor in &mut self.processors {
            processor.process(&self.ids, self.prompt, scores);
        }
    }

    /// Adds the token that `choose` takes from the processed scores.
    ///
    /// # Errors
    /// [`Error::Input`] if they leave none.
    pub(crate) fn push(
        &mut self,
        call: &Call<'_>,
        hooks: &Hooks<'_>,
        scores: &mut [f32],
        choose: impl FnOnce(&mut Self, &mut [f32]) -> u32,
    ) -> Result<u32> {
        // Scores are copied only where somebody asks for them.
        let own = (hooks.logprobs.is_some() || call.config.output_logits).then(|| scores.to_vec());
        self.process(scores);
        if scores::max(scores) == f32::NEG_INFINITY {
            return Err(no_token(self.ids.len()));
        }
        let token = choose(self, scores);
        if call.config.output_scores {
            self.scores.push(scores.to_vec());
        }
        if let Some(own) = own {
            self.logprobs.extend(hooks.logprobs.map(|top| TokenLogprob::new(&own, token, top)));
            self.logits.extend(call.config.output_logits.then_some(own));
        }
        self.ids.push(token);
        Ok(token)
    }

    /// The token that the config's way of choosing takes.
    pub(crate) fn choose(&mut self, call: &Call<'_>, scores: &[f32]) -> u32 {
        if call.config.do_sample { self.sampler.draw(scores) } else { argmax(scores) }
    }

    pub(crate) fn into_sequence(self) -> Sequence {
        Sequence {
            ids: self.ids,
            prompt: self.prompt,
            finish: self.finish.unwrap_or(Finish::Length),
            score: None,
            logprobs: self.logprobs,
            scores: self.scores,
            logits: self.logits,
        }
    }
}

impl TokenLogprob {
    /// From scores of any offset.
    pub(crate) fn new(all: &[f32], token: u32, top: usize) -> Self {
        let max = scores::max(all);
        let offset = f64::from(max) + scores::total(all, max).ln();
        let logprob = |score: f32| (f64::from(score) - offset) as f32;
        let top = top_k(all, top);
        Self {
            token,
            logprob: all.get(token as usize).map_or(f32::NEG_INFINITY, |&score| logprob(score)),
            top: top.into_iter().map(|token| (token.id, logprob(token.score))).collect(),
        }
    }
}

/// The `k` largest scores, the best first, and of equals the first.
pub(crate) fn top_k(all: &[f32], k: usize) -> Vec<Scored> {
    let mut top = Vec::new();
    scores::largest(all, k, &mut top);
    top.sort_unstable_by(Scored::order);
    top
}
