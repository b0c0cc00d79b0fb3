//! Diverse beam search: groups of beams, each of which avoids the tokens that the groups before it chose at this step.
//!
//! Paper: Vijayakumar et al., 2016 (arXiv:1610.02424). Reference: transformers 4.51.3, `generation/utils.py`,
//! `_group_beam_search`, and `generation/beam_search.py`: of the time when it was built in. It differs from `beam.rs`
//! in more than groups: the hypotheses of a group compete with each other only until the end, and a search ends by the
//! best continuation, whether that ends or not.

use tx_core::Result;

use crate::beam::{Beam, NEVER, Own, Search, add, candidates, is_possible, search};
use crate::config::EarlyStopping;
use crate::generate::{Call, Finish, Generated, Hooks, Sequence};
use crate::processors::{LogitsProcessorList, before_diversity};
use crate::row::{no_token, top_k};
use crate::scores::Scored;

/// Runs a diverse beam search.
pub(crate) fn generate(call: &Call<'_>, hooks: &mut Hooks<'_>) -> Result<Generated> {
    search(call, hooks, |number, processors| {
        let prompt = &call.prompts[number];
        let (groups, beams) = (call.config.num_beam_groups.max(1), call.config.num_beams);
        DiverseSearch {
            number,
            prompt: prompt.len(),
            limit: call.limits[number],
            processors,
            groups: (0..groups).map(|_| Group::new(Beam::all_of(prompt, beams / groups))).collect(),
            over: false,
        }
    })
}

/// A sequence that ended.
#[derive(Debug)]
struct Hypothesis {
    beam: Beam,
    /// The sum of the log-probabilities, divided by the power of the length.
    score: f64,
    finish: Finish,
}

/// Beams that are ranked among each other.
#[derive(Debug)]
struct Group {
    running: Vec<Beam>,
    /// In the order in which they ended, as many as beams at most.
    hypotheses: Vec<Hypothesis>,
    done: bool,
}

impl Group {
    fn new(running: Vec<Beam>) -> Self {
        Self { running, hypotheses: Vec::new(), done: false }
    }

    /// The score that a hypothesis has to exceed, if there are enough of them.
    fn worst(&self) -> Option<f64> {
        let full = self.hypotheses.len() >= self.running.len();
        full.then(|| self.hypotheses.iter().map(|h| h.score).fold(f64::INFINITY, f64::min))
    }

    /// Adds a sequence that ended, if it is among the best.
    fn add(&mut self, beam: Beam, score: f64, finish: Finish) {
        if let Some(worst) = self.worst() {
            if score <= worst {
                return;
            }
            if let Some(at) = self.hypotheses.iter().position(|h| h.score == worst) {
                self.hypotheses.remove(at);
            }
        }
        self.hypotheses.push(Hypothesis { beam, score, finish });
    }
}

/// The groups of one prompt.
struct DiverseSearch {
    /// The prompt's number.
    number: usize,
    /// Its tokens.
    prompt: usize,
    limit: usize,
    processors: LogitsProcessorList,
    groups: Vec<Group>,
    over: bool,
}

/// A sum of log-probabilities of `length` new tokens as hypotheses are compared.
fn penalised(score: f32, length: usize, call: &Call<'_>) -> f64 {
    f64::from(score) / (length as f64).powf(call.config.length_penalty)
}

impl DiverseSearch {
    /// One step of one group, whose beams have these scores, `[beams, vocab]`. `chosen` are the tokens that the groups
    /// before it chose. Returns which of its beams the new ones continue.
    ///
    /// # Errors
    /// [`Error::Input`](tx_core::Error::Input) if nothing may follow, and nothing has ended.
    fn advance_group(
        &mut self,
        group: usize,
        scores: &mut [f32],
        chosen: &[u32],
        call: &Call<'_>,
        hooks: &Hooks<'_>,
    ) -> Result<Vec<usize>> {
        let config = call.config;
        let group = &mut self.groups[group];
        let beams = group.running.len();
        let vocab = scores.len() / beams;
        let own = Own::new(scores, vocab, hooks);
        for (beam, scores) in group.running.iter().zip(scores.chunks_exact_mut(vocab.max(1))) {
            let (before, after) = self.processors.split_at_mut(before_diversity(config));
            before.iter_mut().for_each(|processor| processor.process(&beam.ids, self.prompt, scores));
            for (i, token) in chosen.iter().enumerate() {
                if !chosen[..i].contains(token) {
                    let times = chosen.iter().filter(|&other| other == token).count();
                    let penalty = (config.diversity_penalty * times as f64) as f32;
                    scores.iter_mut().skip(*token as usize).take(1).for_each(|score| *score -= penalty);
                }
            }
            after.iter_mut().for_each(|processor| processor.process(&beam.ids, self.prompt, scores));
            add(scores, beam.score);
        }
        let best = top_k(scores, candidates(beams, config.eos_token_id.len()));
        let before = group.running.first().map_or(0, |beam| beam.ids.len());
        if !best.iter().any(is_possible) {
            group.done = true;
            // Those that have ended before are the result.
            return if group.hypotheses.is_empty() { Err(no_token(before)) } else { Ok((0..beams).collect()) };
        }
        let length = before + 1 - self.prompt;

        let (mut running, mut origins) = (Vec::with_capacity(beams), Vec::with_capacity(beams));
        for (rank, &Scored { score, id }) in best.iter().enumerate() {
            let (beam, token) = (id as usize / vocab, id % vocab as u32);
            if !config.is_eos(token) {
                running.push(group.running[beam].then(token, score, own.of(beam)));
                origins.push(beam);
            } else if rank < beams && is_possible(&best[rank]) {
                // HF forgets which of several tokens ended a hypothesis, and writes the first.
                let mut ended = group.running[beam].then(token, score, own.of(beam));
                if let (Some(last), Some(&first)) = (ended.ids.last_mut(), config.eos_token_id.first()) {
                    *last = first;
                }
                group.add(ended, penalised(score, length, call), Finish::Eos);
            }
            if running.len() == beams {
                break;
            }
        }

        if let Some(worst) = group.worst() {
            let longest = if config.early_stopping == EarlyStopping::Never && config.length_penalty > 0.0 {
                self.limit - self.prompt
            } else {
                length
            };
            let attainable = penalised(best.first().map_or(NEVER, |best| best.score), longest, call);
            group.done = config.early_stopping == EarlyStopping::Yes || worst >= attainable;
        }
        group.running = running;
        Ok(origins)
    }
}

impl Search for DiverseSearch {
    fn advance(
        &mut self,
        scores: &mut [f32],
        call: &Call<'_>,
        hooks: &mut Hooks<'_>,
        ends_all: Option<Finish>,
    ) -> Result<Vec<usize>> {
        let size = scores.len() / self.groups.len().max(1);
        let (mut origins, mut chosen) = (Vec::new(), Vec::new());
        for (group, scores) in scores.chunks_exact_mut(size.max(1)).enumerate() {
            let beams = self.groups[group].running.len();
            let first = group * beams;
            if self.groups[group].done {
                // As in HF, what stands in its place counts as chosen.
                chosen.extend(std::iter::repeat_n(call.pad, beams));
                origins.extend(first..first + beams);
                continue;
            }
            let from = self.advance_group(group, scores, &chosen, call, hooks)?;
            chosen.extend(self.groups[group].running.iter().filter_map(|beam| beam.ids.last().copied()));
            origins.extend(from.into_iter().map(|beam| first + beam));
        }

        // The beams that remain are hypotheses when all of them have to end.
        let mut beams = self.groups.iter().filter(|group| !group.done).flat_map(|group| &group.running);
        let longest = beams.clone().map(|beam| beam.ids.len()).max().unwrap_or(0);
        let finish = if longest >= self.limit {
            Some(Finish::Length)
        } else if longest > 0 && beams.all(|beam| hooks.stops(self.number, &beam.ids)) {
            Some(Finish::Stop)
        } else {
            ends_all
        };
        if let Some(finish) = finish {
            for group in self.groups.iter_mut().filter(|group| !group.done) {
                for beam in group.running.clone().into_iter().filter(|beam| beam.score > f32::NEG_INFINITY) {
                    let score = penalised(beam.score, beam.ids.len() - self.prompt, call);
                    group.add(beam, score, finish);
                }
                group.done = true;
            }
        }
        self.over = self.groups.iter().all(|group| group.done);
        Ok(origins)
    }

    fn over(&self) -> bool {
        self.over
    }

    fn tokens(&self) -> Vec<u32> {
        self.groups.iter().flat_map(|group| &group.running).filter_map(|beam| beam.ids.last().copied()).collect()
    }

    fn into_sequences(self, count: usize, _: &Call<'_>) -> Vec<Sequence> {
        let mut best: Vec<Hypothesis> = self.groups.into_iter().flat_map(|group| group.hypotheses).collect();
        // Of equals, the last is the best.
        best.sort_by(|a, b| a.score.total_cmp(&b.score));
        let sequence = |Hypothesis { beam, score, finish }| Sequence {
            ids: beam.ids,
            prompt: self.prompt,
            finish,
            score: Some(score as f32),
            logprobs: beam.logprobs,
            scores: Vec::new(),
            logits: Vec::new(),
        };
        best.into_iter().rev().take(count).map(sequence).collect()
    }
}
