//! Assisted decoding: some tokens are proposed cheaply, and one pass of the model checks all of them.
//!
//! Paper: Leviathan et al., 2023 (arXiv:2211.17192), algorithm 1, for drafts of a smaller model. Reference:
//! transformers 5.23.0, `generation/utils.py`, `_assisted_decoding`, and `generation/candidate_generator.py`, also for
//! drafts that are looked up in the prompt. What comes out is what plain decoding gives: the same tokens if it is
//! greedy, and the same distribution if it draws. Prompts are computed one by one: they accept different numbers.
//!
//! What was rejected leaves the cache again. States cannot go back, and so a cache with states is copied before a pass,
//! and the accepted tokens are computed anew.
//!
//! Drafts become longer while the model takes them and shorter while it does not, if the schedule says so; and they end
//! at a token that their model is not sure of, where "sure" is measured by which of the tokens before were taken.

use std::sync::{Mutex, PoisonError};

use tx_core::nn::Cache;
use tx_core::{Error, Result};

use crate::batch::{Batch, Kept, drops_last, forgets};
use crate::config::AssistantSchedule;
use crate::generate::{Assistant, Call, Generated, Hooks, Stats};
use crate::row::Row;
use crate::sample::{argmax, softmax};
use crate::scores;

/// HF's default of `max_matching_ngram_size`.
const NGRAM: usize = 2;

/// Tokens that may follow, and the probabilities from which they were drawn, if they were.
#[derive(Debug, Default)]
struct Draft {
    tokens: Vec<u32>,
    /// One list over the vocabulary for each token; none for tokens that were not drawn.
    probabilities: Vec<Vec<f32>>,
}

/// How many tokens are drafted at once, as the last call left it.
#[derive(Debug, Default)]
pub(crate) struct DraftLength(Mutex<Option<Left>>);

#[derive(Debug, Clone, Copy)]
struct Left {
    /// What the call began with: another number is a new beginning.
    first: usize,
    last: usize,
}

impl DraftLength {
    /// The length of a first draft, which is `first` if there was no call before.
    fn start(&self, call: &Call<'_>) -> usize {
        let first = call.config.num_assistant_tokens;
        let left = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = call.config.num_assistant_tokens_schedule == AssistantSchedule::Heuristic;
        left.filter(|left| kept && left.first == first).map_or(first, |left| left.last)
    }

    /// Leaves a length to the next call.
    fn leave(&self, call: &Call<'_>, last: usize) {
        if call.config.num_assistant_tokens_schedule == AssistantSchedule::Heuristic {
            let left = Left { first: call.config.num_assistant_tokens, last };
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
        }
    }
}

/// Where drafts come from.
enum Drafter<'m> {
    Model(Box<ModelDrafter<'m>>),
    /// So many tokens that followed an earlier occurrence of the last few.
    Lookup {
        tokens: usize,
        ngram: usize,
    },
}

/// Runs assisted decoding for each prompt.
pub(crate) fn generate(
    call: &Call<'_>,
    hooks: &mut Hooks<'_>,
    assistant: Option<&Assistant<'_>>,
    kept: &mut Option<Kept>,
) -> Result<Generated> {
    if call.config.guidance_scale.is_some_and(|scale| scale != 1.0) {
        return Err(Error::input("guidance_scale", "guidance", "1 with an assistant or prompt lookup"));
    }
    let each = call.config.num_return_sequences.max(1);
    let mut stats = Stats::default();
    let mut sequences = Vec::with_capacity(call.prompts.len() * each);
    for number in 0..call.prompts.len() * each {
        let mut row = Row::new(call, number / each, number, hooks);
        let last = decode(call, hooks, assistant, number, &mut row, kept.take(), &mut stats)?;
        *kept = Some(last);
        sequences.push(row.into_sequence());
    }
    if sequences.len() != 1 {
        *kept = None;
    }
    Ok(call.generated(sequences, stats))
}

/// One sequence.
fn decode(
    call: &Call<'_>,
    hooks: &mut Hooks<'_>,
    assistant: Option<&Assistant<'_>>,
    number: usize,
    row: &mut Row,
    kept: Option<Kept>,
    stats: &mut Stats,
) -> Result<Kept> {
    let config = call.config;
    let start = std::time::Instant::now();
    let mut batch = match kept.and_then(|kept| kept.resume(call, &row.ids)) {
        Some(batch) => batch,
        None => Batch::new(call, call.model, vec![0]),
    };
    stats.reused_tokens += batch.length();
    let mut drafter = match (assistant, config.prompt_lookup_num_tokens) {
        (Some(assistant), _) => Drafter::Model(Box::new(ModelDrafter::new(call, assistant))),
        (None, tokens) => {
            Drafter::Lookup { tokens: tokens.unwrap_or(0), ngram: config.max_matching_ngram_size.unwrap_or(NGRAM) }
        }
    };
    let returns = drops_last(call.model);
    let mut first = true;
    while row.finish.is_none() {
        let seen = batch.length();
        let pending = row.ids.len() - seen;
        // A pass gives one token more than the draft has.
        let room = row.limit - row.ids.len() - 1;
        // A draft that outgrows what the cache is good for would let tokens before it be computed otherwise than without.
        let room = match call.model.restarts_at() {
            Some(at) if row.ids.len() <= at => room.min(at - row.ids.len()),
            _ => room,
        };
        let draft = match &mut drafter {
            // Where the cache cannot go back, what it has not kept of accepted tokens comes first.
            _ if room == 0 || !returns && pending > 1 => Draft::default(),
            Drafter::Model(model) => model.draft(call, row, room)?,
            Drafter::Lookup { tokens, ngram } => {
                Draft { tokens: look_up(call, &row.ids, *ngram, room.min(*tokens)), probabilities: Vec::new() }
            }
        };
        let saved = (!returns && !draft.tokens.is_empty()).then(|| batch.cache().clone());
        let ids = [&row.ids[seen..], draft.tokens.as_slice()].concat();
        let mut scores = batch.forward(&ids, draft.tokens.len() + 1)?;
        stats.passes += 1;
        stats.drafted_tokens += draft.tokens.len();

        let old = row.ids.len();
        check(call, hooks, number, row, &draft, &mut scores)?;
        let accepted = row.ids[old..].iter().zip(&draft.tokens).take_while(|(token, draft)| token == draft).count();
        stats.accepted_tokens += accepted;

        // The last token has not been through the model, or is taken to be.
        let length = row.ids.len() - 1;
        if batch.length() > length && !batch.truncate(length) {
            // Such a cache was copied; without a copy there were no drafts to take back.
            match saved {
                Some(cache) => batch.restore(cache),
                None => batch = Batch::new(call, call.model, vec![0]),
            }
        }
        if let Drafter::Model(model) = &mut drafter {
            model.learn(call, row.ids.len(), draft.tokens.len(), accepted);
        }
        if std::mem::take(&mut first) {
            stats.prefill += start.elapsed();
        }
        let new: Vec<(usize, u32)> = row.ids[old..].iter().map(|&token| (number, token)).collect();
        row.finish = row.finish.or(hooks.ends_all(call, &new));
    }
    if let Drafter::Model(model) = drafter {
        model.assistant.draft_length.leave(call, model.tokens);
    }
    let seen = batch.length();
    Ok(Kept { cache: batch.into_cache(), ids: row.ids[..seen].to_vec() })
}

/// Adds the tokens of a draft that the model agrees with, and one of its own where it does not or the draft ends.
///
/// `scores` are the model's after the last token and after each of the draft, `[draft + 1, vocab]`.
fn check(
    call: &Call<'_>,
    hooks: &mut Hooks<'_>,
    number: usize,
    row: &mut Row,
    draft: &Draft,
    scores: &mut [f32],
) -> Result<()> {
    let vocab = scores.len() / (draft.tokens.len() + 1);
    for (place, scores) in scores.chunks_exact_mut(vocab.max(1)).enumerate() {
        let proposed = draft.tokens.get(place).copied();
        let token = match (proposed, draft.probabilities.get(place)) {
            (Some(proposed), Some(q)) => {
                row.push(call, hooks, scores, |row, scores| accept_or_draw(call, row, proposed, q, scores))?
            }
            // A token that was not drawn has all the probability of its draft: what the model chooses for itself, and
            // then compares, has the right distribution.
            _ => row.push(call, hooks, scores, |row, scores| row.choose(call, scores))?,
        };
        row.finish = call.finish(number, &row.ids, row.limit, hooks);
        if row.finish.is_some() || proposed != Some(token) {
            break;
        }
    }
    Ok(())
}

/// The proposed token, which was drawn from `q`, or another one: so that it is distributed as the model's scores say.
///
/// With `assistant_ensemble_weight` w it is distributed as a mixture `w·p + (1 − w)·q`, which agrees more often.
fn accept_or_draw(call: &Call<'_>, row: &mut Row, proposed: u32, q: &[f32], scores: &[f32]) -> u32 {
    let weight = call.config.assistant_ensemble_weight.map_or(1.0, |weight| weight as f32);
    let mut p = scores.to_vec();
    softmax(&mut p);
    if !call.config.do_sample {
        let mixture: Vec<f32> = p.iter().zip(q).map(|(p, q)| weight * p + (1.0 - weight) * q).collect();
        return argmax(&mixture);
    }
    let at = |probabilities: &[f32]| probabilities.get(proposed as usize).map_or(0.0, |&p| f64::from(p));
    let weight = f64::from(weight);
    if row.sampler.uniform() * at(q) < (1.0 - weight) * at(q) + weight * at(&p) {
        return proposed;
    }
    // Whatever the draft gives too rarely.
    let rest: Vec<f32> = p.iter().zip(q).map(|(p, q)| (p - q).max(0.0)).collect();
    // Where rounding leaves nothing, the two are the same.
    if rest.iter().any(|&rest| rest > 0.0) { row.sampler.draw_weights(&rest) } else { row.sampler.draw(scores) }
}

/// What followed the first earlier occurrence of the last `ngram` tokens, or of fewer where those do not occur; up to
/// `count` tokens, and none that ends the sequence.
fn look_up(call: &Call<'_>, ids: &[u32], ngram: usize, count: usize) -> Vec<u32> {
    for size in (1..=ngram.min(ids.len().saturating_sub(1))).rev() {
        let last = &ids[ids.len() - size..];
        // The last occurrence is the tokens themselves, which nothing follows.
        let found = ids[..ids.len() - 1].windows(size).position(|window| window == last);
        if let Some(found) = found {
            let after = ids[found + size..].iter().take(count).copied();
            return after.take_while(|&token| !call.config.is_eos(token)).collect();
        }
    }
    Vec::new()
}

/// A smaller model that goes ahead.
struct ModelDrafter<'m> {
    batch: Batch<'m>,
    assistant: Assistant<'m>,
    /// How many tokens it proposes at most.
    tokens: usize,
    /// A draft ends at a token that is less probable than this.
    threshold: f64,
    /// How probable the tokens of the last draft were.
    confidences: Vec<f64>,
    /// The same of those before that the model looked at, and whether it took them.
    judged: Vec<(f64, bool)>,
    /// What it kept after the accepted tokens, where its cache cannot go back to that.
    saved: Option<Cache>,
}

impl<'m> ModelDrafter<'m> {
    fn new(call: &Call<'m>, assistant: &Assistant<'m>) -> Self {
        Self {
            batch: Self::start(call, assistant),
            assistant: assistant.clone(),
            tokens: assistant.draft_length.start(call),
            threshold: call.config.assistant_confidence_threshold,
            confidences: Vec::new(),
            judged: Vec::new(),
            saved: None,
        }
    }

    fn start(call: &Call<'m>, assistant: &Assistant<'m>) -> Batch<'m> {
        Batch::new(call, assistant.model, vec![0])
    }

    /// Proposes up to `room` tokens after those of a row, chosen as the model itself would choose.
    fn draft(&mut self, call: &Call<'m>, row: &mut Row, room: usize) -> Result<Draft> {
        let config = call.config;
        let length = row.ids.len();
        // What the assistant can take: its last token is not sent through it.
        let fits = self.assistant.max_length.map_or(usize::MAX, |max| (max + 1).saturating_sub(length));
        let count = room.min(self.tokens).min(fits);
        let mut draft = Draft::default();
        self.confidences.clear();
        if count == 0 {
            return Ok(draft);
        }
        let mut pending = row.ids[self.batch.length()..].to_vec();
        while draft.tokens.len() < count {
            let mut scores = self.batch.forward(&pending, 1)?;
            if draft.tokens.is_empty() && forgets(self.assistant.model) {
                self.saved = Some(self.batch.cache().clone());
            }
            // One of them may have rows beyond the vocabulary.
            scores.resize(call.vocab_size, f32::NEG_INFINITY);
            row.process(&mut scores);
            // The model says what becomes of that.
            if scores::max(&scores) == f32::NEG_INFINITY {
                break;
            }
            let token = row.choose(call, &scores);
            softmax(&mut scores);
            let confidence = scores.get(token as usize).map_or(0.0, |&probability| f64::from(probability));
            self.confidences.push(confidence);
            if config.do_sample || config.assistant_ensemble_weight.is_some() {
                draft.probabilities.push(scores);
            }
            draft.tokens.push(token);
            row.ids.push(token);
            pending = vec![token];
            if config.is_eos(token) || confidence < self.threshold {
                break;
            }
        }
        row.ids.truncate(length);
        Ok(draft)
    }

    /// Goes back to what the model agreed with: a sequence of `length` tokens, the last of which is new.
    fn learn(&mut self, call: &Call<'m>, length: usize, drafted: usize, accepted: usize) {
        let saved = self.saved.take();
        if drafted == 0 {
            return;
        }
        if self.batch.length() > length - 1 && !self.batch.truncate(length - 1) {
            match saved {
                Some(cache) => self.batch.restore(cache),
                None => self.batch = Self::start(call, &self.assistant),
            }
        }
        if call.config.num_assistant_tokens_schedule != AssistantSchedule::Constant {
            self.tokens = if accepted == drafted { self.tokens + 2 } else { self.tokens.saturating_sub(1).max(1) };
        }
        // Of what follows the first token that was not taken, nothing is known.
        let judged = self.confidences.drain(..).take(accepted + 1).enumerate();
        self.judged.extend(judged.map(|(place, confidence)| (confidence, place < accepted)));
        if call.config.assistant_confidence_threshold > 0.0 {
            self.threshold = best_threshold(&self.judged).unwrap_or(self.threshold);
        }
    }
}

/// The confidence from which on tokens are worth to be proposed, by what became of others: `None` as long as too little
/// is known.
///
/// It is the one that would have cost the least, where the share of the rejected tokens that it would have let through
/// counts once and the share of the accepted ones that it would have held back three times, as in the reference.
fn best_threshold(judged: &[(f64, bool)]) -> Option<f64> {
    const LEAST: usize = 6;
    let accepted = judged.iter().filter(|(_, accepted)| *accepted).count();
    let rejected = judged.len() - accepted;
    if judged.len() < LEAST || accepted == 0 || rejected == 0 {
        return None;
    }
    let mut judged = judged.to_vec();
    judged.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut proposed, mut through) = (0, 0);
    let mut best = (f64::INFINITY, None);
    for alike in judged.chunk_by(|a, b| a.0 == b.0) {
        let taken = alike.iter().filter(|(_, accepted)| *accepted).count();
        (proposed, through) = (proposed + alike.len(), through + taken);
        let let_through = (proposed - through) as f64 / rejected as f64;
        let held_back = 1.0 - through as f64 / accepted as f64;
        let cost = let_through + 3.0 * held_back;
        if cost < best.0 {
            best = (cost, alike.first().map(|&(confidence, _)| confidence));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use tx_core::nn::CacheKind;

    use super::*;
    use crate::config::GenerationConfig;
    use crate::generate::tests::{Toy, config, limits};
    use crate::sample::Sampler;

    /// What is made of proposals that were drawn from `q`: how often each token came out.
    fn counts(config: &GenerationConfig, scores: &[f32], q: &[f32], draws: usize) -> Vec<f64> {
        let toy = Toy::new(0, CacheKind::Full);
        let (generator, prompts) = (toy.generator(), [vec![1]]);
        let mut hooks = Hooks::default();
        let call = Call::new(&generator, &prompts, config, &hooks).unwrap();
        let mut row = Row::new(&call, 0, 0, &mut hooks);
        let mut drafter = Sampler::new(99, 0);
        let mut counts = vec![0.0; q.len()];
        for _ in 0..draws {
            let proposed = drafter.draw_weights(q);
            counts[accept_or_draw(&call, &mut row, proposed, q, scores) as usize] += 1.0;
        }
        counts
    }

    fn chi_square(counts: &[f64], probabilities: &[f32], draws: usize) -> f64 {
        let term = |(&count, &p): (&f64, &f32)| {
            let expected = f64::from(p) * draws as f64;
            if expected > 0.0 { (count - expected).powi(2) / expected } else { count * 1e9 }
        };
        counts.iter().zip(probabilities).map(term).sum()
    }

    #[test]
    fn whatever_is_proposed_the_models_distribution_comes_out() {
        const DRAWS: usize = 100_000;
        let config = GenerationConfig { do_sample: true, seed: Some(3), ..config() };
        let p = [0.5, 0.1, 0.0, 0.25, 0.15];
        let scores = p.map(|p: f32| p.ln());
        for q in [[0.2; 5], p, [0.0, 0.0, 0.9, 0.05, 0.05], [0.01, 0.97, 0.0, 0.01, 0.01]] {
            let counts = counts(&config, &scores, &q, DRAWS);
            // p = 0.001 for three degrees of freedom.
            assert!(chi_square(&counts, &p, DRAWS) < 16.27, "{q:?}: {counts:?}");
        }
        // With a weight, a mixture comes out.
        let weighted = GenerationConfig { assistant_ensemble_weight: Some(0.25), ..config };
        let q: [f32; 5] = [0.1, 0.4, 0.2, 0.1, 0.2];
        let mixture: Vec<f32> = p.iter().zip(q).map(|(p, q)| 0.25 * p + 0.75 * q).collect();
        let counts = counts(&weighted, &scores, &q, DRAWS);
        // For four degrees of freedom.
        assert!(chi_square(&counts, &mixture, DRAWS) < 18.47, "{counts:?}");
    }

    #[test]
    fn the_threshold_is_the_one_that_would_have_cost_the_least() {
        // What Python's roc_curve and argmin say of the same.
        let of = |judged: &[(f64, u8)]| {
            let judged: Vec<(f64, bool)> = judged.iter().map(|&(confidence, taken)| (confidence, taken == 1)).collect();
            best_threshold(&judged)
        };
        let mixed = [(0.9, 1), (0.8, 1), (0.7, 0), (0.6, 1), (0.5, 0), (0.4, 1), (0.3, 0), (0.2, 0)];
        assert_eq!(of(&mixed), Some(0.4));
        assert_eq!(of(&[(0.9, 0), (0.9, 1), (0.5, 1), (0.5, 0), (0.1, 0), (0.1, 1)]), Some(0.1));
        assert_eq!(of(&[(0.2, 1), (0.9, 0), (0.8, 0), (0.7, 0), (0.6, 0), (0.5, 1), (0.1, 0)]), Some(0.2));
        // Too few, and all of one kind.
        assert_eq!(of(&mixed[..5]), None);
        assert_eq!(of(&[(0.5, 1); 9]), None);
        assert_eq!(of(&[(0.5, 0); 9]), None);
    }

    #[test]
    fn tokens_are_looked_up_by_the_longest_ending() {
        let toy = Toy::new(0, CacheKind::Full);
        let (generator, prompts) = (toy.generator(), [vec![1]]);
        let config = GenerationConfig { eos_token_id: vec![9], ..config() };
        let call = Call::new(&generator, &prompts, &config, &Hooks::default()).unwrap();
        assert_eq!(limits(None).vocab_size, call.vocab_size);
        let ids = [4, 2, 5, 1, 2, 7, 8, 1, 2];
        assert_eq!(look_up(&call, &ids, 2, 3), [7, 8, 1]);
        assert_eq!(look_up(&call, &ids, 2, 20), [7, 8, 1, 2]);
        assert_eq!(look_up(&call, &ids, 1, 2), [5, 1]);
        // The three last do not occur before.
        assert_eq!(look_up(&call, &ids, 3, 1), [7]);
        assert_eq!(look_up(&call, &[1, 2, 3], 2, 5), [0u32; 0]);
        assert_eq!(look_up(&call, &[1], 2, 5), [0u32; 0]);
        // Nothing that ends is proposed.
        assert_eq!(look_up(&call, &[6, 3, 9, 4, 6], 2, 5), [3]);
        assert_eq!(look_up(&call, &[6, 6, 6], 2, 5), [6]);
    }
}
