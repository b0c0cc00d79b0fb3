//! Beam search: several sequences of one prompt grow side by side, and the best of those that ended are the result.
//!
//! Reference: transformers 5.23.0, `generation/utils.py`, `_beam_search`. Every pass ranks the continuations of all
//! beams by the sum of their log-probabilities, which processors may have changed. Those that end among the first
//! `num_beams` are hypotheses, with the sum divided by a power of their length; the best that do not end are the next
//! beams.

use tx_core::{Error, Result};

use crate::batch::{Scorer, take_rows};
use crate::config::EarlyStopping;
use crate::generate::{Call, Finish, Generated, Hooks, Sequence, Stats, TokenLogprob};
use crate::processors::LogitsProcessorList;
use crate::row::{no_token, top_k};
use crate::sample::{Sampler, log_softmax};
use crate::scores::Scored;

/// What is added to the score of what must not be chosen: finite, so that sums stay numbers, and below every sum of
/// logarithms.
pub(crate) const NEVER: f32 = -1e9;

/// The search for one prompt.
pub(crate) trait Search {
    /// Takes the log-probabilities of what follows each beam, `[beams, vocab]`. Returns which of the beams each of the
    /// new ones continues.
    ///
    /// # Errors
    /// [`Error::Input`] if nothing may follow, and nothing has ended.
    fn advance(
        &mut self,
        scores: &mut [f32],
        call: &Call<'_>,
        hooks: &mut Hooks<'_>,
        ends_all: Option<Finish>,
    ) -> Result<Vec<usize>>;

    /// Whether nothing better can be found, or nothing more may be looked for.
    fn over(&self) -> bool;

    /// The last token of each beam.
    fn tokens(&self) -> Vec<u32>;

    /// The best sequences, so many, the best first; fewer if no others are possible.
    fn into_sequences(self, count: usize, call: &Call<'_>) -> Vec<Sequence>;
}

/// Runs a search for each prompt, all of them in one batch.
pub(crate) fn search<S: Search>(
    call: &Call<'_>,
    hooks: &mut Hooks<'_>,
    start: impl Fn(usize, LogitsProcessorList) -> S,
) -> Result<Generated> {
    let beams = call.config.num_beams;
    let ends = call.config.eos_token_id.len();
    if call.vocab_size < candidates(1, ends) {
        return Err(Error::input("eos_token_id", format_args!("{ends} tokens"), "fewer than the vocabulary has"));
    }
    let count = call.prompts.len();
    let mut searches: Vec<S> = (0..count).map(|prompt| start(prompt, call.processors(prompt, prompt, hooks))).collect();
    let (mut scorer, first, _) = Scorer::start(call, hooks, None)?;
    let mut stats = Stats { passes: 1, prefill: call.start.elapsed(), ..Stats::default() };

    // All beams of a prompt begin with the scores, and the only row, of the prompt.
    let mut width = 1;
    let repeated: Vec<usize> = (0..count).flat_map(|prompt| std::iter::repeat_n(prompt, beams)).collect();
    let mut scores = take_rows(&first, count, &repeated);
    let mut live: Vec<usize> = (0..count).collect();
    loop {
        let size = scores.len() / live.len();
        if !scorer.guided() {
            scores.chunks_exact_mut((size / beams).max(1)).for_each(log_softmax);
        }
        let ends_all = hooks.ends_all(call, &[]);
        let (mut next, mut rows, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (&prompt, scores)) in live.iter().zip(scores.chunks_exact_mut(size.max(1))).enumerate() {
            let search = &mut searches[prompt];
            let origins = search.advance(scores, call, hooks, ends_all)?;
            if !search.over() {
                next.push(prompt);
                rows.extend(origins.into_iter().map(|beam| place * width + beam.min(width - 1)));
                tokens.extend(search.tokens());
            }
        }
        if next.is_empty() {
            break;
        }
        scorer.take(&rows);
        (live, width) = (next, beams);
        scores = scorer.next(&tokens)?;
        stats.passes += 1;
    }
    let each = call.config.num_return_sequences.max(1);
    let mut sequences = Vec::with_capacity(count * each);
    for search in searches {
        let best = search.into_sequences(each, call);
        if best.len() < each {
            let expected = format!("at most {}: processors and constraints make all others impossible", best.len());
            return Err(Error::input("num_return_sequences", each, expected));
        }
        sequences.extend(best);
    }
    Ok(call.generated(sequences, stats))
}

/// How many continuations of `beams` beams are looked at: so many that enough of them do not end.
pub(crate) fn candidates(beams: usize, ends: usize) -> usize {
    beams * (1 + ends).max(2)
}

/// A sequence that grows.
#[derive(Debug, Clone)]
pub(crate) struct Beam {
    pub(crate) ids: Vec<u32>,
    /// The sum of the log-probabilities of its new tokens.
    pub(crate) score: f32,
    pub(crate) logprobs: Vec<TokenLogprob>,
}

impl Beam {
    /// The beams that a prompt begins with. The first alone counts, or all would find the same.
    pub(crate) fn all_of(prompt: &[u32], beams: usize) -> Vec<Self> {
        let beam = |i| Self { ids: prompt.to_vec(), score: if i == 0 { 0.0 } else { NEVER }, logprobs: Vec::new() };
        (0..beams).map(beam).collect()
    }

    /// With one more token, whose log-probability is kept if `own` are the model's own scores.
    pub(crate) fn then(&self, token: u32, score: f32, own: Option<(&[f32], usize)>) -> Self {
        let mut beam = Self { score, ..self.clone() };
        beam.ids.push(token);
        beam.logprobs.extend(own.map(|(own, top)| TokenLogprob::new(own, token, top)));
        beam
    }
}

/// The model's own scores, if somebody asks for log-probabilities.
pub(crate) struct Own {
    scores: Option<(Vec<f32>, usize)>,
    vocab: usize,
}

impl Own {
    /// Of scores `[beams, vocab]`, before processors.
    pub(crate) fn new(scores: &[f32], vocab: usize, hooks: &Hooks<'_>) -> Self {
        Self { scores: hooks.logprobs.map(|top| (scores.to_vec(), top)), vocab }
    }

    /// Those of one beam, and how many of the best are asked for.
    pub(crate) fn of(&self, beam: usize) -> Option<(&[f32], usize)> {
        self.scores.as_ref().map(|(scores, top)| (&scores[beam * self.vocab..][..self.vocab], *top))
    }
}

/// Runs a beam search.
pub(crate) fn generate(call: &Call<'_>, hooks: &mut Hooks<'_>) -> Result<Generated> {
    search(call, hooks, |number, processors| {
        let prompt = &call.prompts[number];
        BeamSearch {
            number,
            prompt: prompt.len(),
            limit: call.limits[number],
            processors,
            sampler: Sampler::new(call.seed, number),
            running: Beam::all_of(prompt, call.config.num_beams),
            finished: Vec::new(),
            over: false,
        }
    })
}

/// A sequence that ended.
#[derive(Debug)]
struct Hypothesis {
    beam: Beam,
    /// The sum of the log-probabilities, divided by the power of the length.
    score: f32,
    finish: Finish,
}

/// The beams of one prompt.
struct BeamSearch {
    /// The prompt's number.
    number: usize,
    /// Its tokens.
    prompt: usize,
    limit: usize,
    processors: LogitsProcessorList,
    sampler: Sampler,
    /// The best first.
    running: Vec<Beam>,
    /// The best first, `num_beams` at most.
    finished: Vec<Hypothesis>,
    over: bool,
}

impl Search for BeamSearch {
    fn advance(
        &mut self,
        scores: &mut [f32],
        call: &Call<'_>,
        hooks: &mut Hooks<'_>,
        ends_all: Option<Finish>,
    ) -> Result<Vec<usize>> {
        let config = call.config;
        let beams = self.running.len();
        let vocab = scores.len() / beams;
        let own = Own::new(scores, vocab, hooks);
        for (beam, scores) in self.running.iter().zip(scores.chunks_exact_mut(vocab.max(1))) {
            for processor in &mut self.processors {
                processor.process(&beam.ids, self.prompt, scores);
            }
            add(scores, beam.score);
        }
        let keep = candidates(beams, config.eos_token_id.len());
        let best = if config.do_sample { draw_distinct(&mut self.sampler, scores, keep) } else { top_k(scores, keep) };

        if !best.iter().any(is_possible) {
            let length = self.running.first().map_or(self.prompt, |beam| beam.ids.len());
            self.over = true;
            // Those that have ended before are the result.
            return if self.finished.is_empty() { Err(no_token(length)) } else { Ok(Vec::new()) };
        }

        // Why each of them ends, if it does.
        let mut ids = Vec::new();
        let mut ends = Vec::with_capacity(best.len());
        let parts = |rank: usize| (best[rank].id as usize / vocab, best[rank].id % vocab as u32);
        for rank in 0..best.len() {
            let (beam, token) = parts(rank);
            ids.clone_from(&self.running[beam].ids);
            ids.push(token);
            ends.push(call.finish(self.number, &ids, self.limit, hooks).or(ends_all));
        }
        let continued = |rank: usize, score: f32| {
            let (beam, token) = parts(rank);
            self.running[beam].then(token, score, own.of(beam))
        };

        // The best that do not end go on.
        let open = |rank: usize| best[rank].score + if ends[rank].is_some() { NEVER } else { 0.0 };
        let mut ranks: Vec<usize> = (0..best.len()).collect();
        ranks.sort_by(|&a, &b| open(b).total_cmp(&open(a)));
        ranks.truncate(beams);
        let running: Vec<Beam> = ranks.iter().map(|&rank| continued(rank, open(rank))).collect();
        let origins = ranks.iter().map(|&rank| parts(rank).0).collect();

        // Those that end are hypotheses, if they are among the first; the others are there to go on.
        let length = ids.len() - self.prompt;
        let penalised = |score: f32, length: usize| score / (length as f64).powf(config.length_penalty) as f32;
        for (rank, end) in ends.iter().enumerate().take(beams) {
            if let Some(finish) = end.filter(|_| is_possible(&best[rank])) {
                let score = penalised(best[rank].score, length);
                self.finished.push(Hypothesis { beam: continued(rank, score), score, finish });
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(beams);

        // Whether a beam can still become better than the worst hypothesis. Where longer sequences gain, only "never"
        // takes into account that they may become longer; otherwise HF's is a guess.
        let longest = if config.early_stopping == EarlyStopping::Never && config.length_penalty > 0.0 {
            self.limit - self.prompt
        } else {
            length
        };
        let attainable = running.first().map_or(NEVER, |beam| penalised(beam.score, longest));
        let full = self.finished.len() == beams;
        let worst = if full { self.finished.last().map_or(NEVER, |worst| worst.score) } else { NEVER };
        self.over = attainable <= worst
            || full && config.early_stopping == EarlyStopping::Yes
            || ends.iter().all(Option::is_some);
        self.running = running;
        Ok(origins)
    }

    fn over(&self) -> bool {
        self.over
    }

    fn tokens(&self) -> Vec<u32> {
        self.running.iter().filter_map(|beam| beam.ids.last().copied()).collect()
    }

    fn into_sequences(self, count: usize, _: &Call<'_>) -> Vec<Sequence> {
        // Too few have ended only if little could be chosen any more.
        let running = self.running.into_iter().filter(|beam| beam.score > f32::NEG_INFINITY);
        let rest = running.map(|beam| Hypothesis { score: beam.score, beam, finish: Finish::Length });
        let best = self.finished.into_iter().chain(rest).take(count);
        let sequence = |Hypothesis { beam, score, finish }| Sequence {
            ids: beam.ids,
            prompt: self.prompt,
            finish,
            score: Some(score),
            logprobs: beam.logprobs,
            scores: Vec::new(),
            logits: Vec::new(),
        };
        best.map(sequence).collect()
    }
}

/// Whether a continuation may be chosen at all.
pub(crate) fn is_possible(continuation: &Scored) -> bool {
    continuation.score > f32::NEG_INFINITY
}

/// Adds to every score; NaN becomes impossible.
pub(crate) fn add(scores: &mut [f32], amount: f32) {
    for score in scores {
        *score = if score.is_nan() { f32::NEG_INFINITY } else { *score + amount };
    }
}

/// Draws `count` different places in turn, each with the probability that it has among those that are left.
fn draw_distinct(sampler: &mut Sampler, scores: &[f32], count: usize) -> Vec<Scored> {
    let mut drawn = sampler.draw_distinct(scores, count);
    // Where too few have a probability, others fill the places.
    let missing = count.saturating_sub(drawn.len());
    let others: Vec<u32> = (0..scores.len() as u32).filter(|id| !drawn.contains(id)).take(missing).collect();
    drawn.extend(others);
    drawn.into_iter().map(|id| Scored { score: scores[id as usize], id }).collect()
}
