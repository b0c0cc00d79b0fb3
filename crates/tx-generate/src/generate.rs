//! The decoding loop: prompts in, continuations out, one token of each sequence a pass.
//!
//! [`Generator`] checks a call once, and then runs one of the ways to decode: tokens one by one (here), beams
//! (`beam.rs`, `diverse.rs`), or with drafts that a pass checks (`speculative.rs`). All of them send only what is new
//! through the model, look at the scores of last positions alone, and bring these to the host once a pass.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device};
use tx_core::nn::KvPrecision;
use tx_core::registry::Auto;
use tx_core::task::{CausalLm, TextLimits};
use tx_core::{Error, Result, device};

use crate::batch::{Kept, Scorer, take_rows};
use crate::config::GenerationConfig;
use crate::processors::{Extras, LogitsProcessorList, processors_with};
use crate::row::Row;
use crate::sample::random_seed;
use crate::session::Session;
use crate::speculative::DraftLength;
use crate::{beam, diverse, speculative};

/// New tokens that the cache has room for from the start; it grows when there are more.
const ROOM: usize = 1024;

/// A language model that continues prompts: HF's `generate`.
#[derive(Debug, Clone)]
pub struct Generator<'m> {
    model: &'m dyn CausalLm,
    limits: TextLimits,
    device: Device,
    assistant: Option<Assistant<'m>>,
}

/// A model that proposes tokens to another one.
#[derive(Debug, Clone)]
pub(crate) struct Assistant<'m> {
    pub(crate) model: &'m dyn CausalLm,
    /// The longest sequence that it can take.
    pub(crate) max_length: Option<usize>,
    /// How many it proposes at once, where a call leaves that to the next one.
    pub(crate) draft_length: Arc<DraftLength>,
}

/// See [`Hooks::step`].
pub type StepHook<'a> = Box<dyn FnMut(&[(usize, u32)]) -> bool + 'a>;

/// See [`Hooks::stop`].
pub type StopHook<'a> = Box<dyn FnMut(usize, &[u32]) -> bool + 'a>;

/// What a call brings besides prompts and config; all of it is optional.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Called after each pass with the new tokens and the numbers of their sequences; whether to go on. For a beam
    /// search, where no token is final, there are none.
    pub step: Option<StepHook<'a>>,
    /// Whether a sequence ends here, besides the reasons that the config gives. It gets the number of the sequence, or
    /// of the prompt for beams, and the ids, the prompt's included.
    pub stop: Option<StopHook<'a>>,
    /// What a sequence has besides the processors of the config: those of a prompt serve all of its beams in turn. The
    /// number is as for `stop`.
    pub extras: Option<Box<dyn FnMut(usize) -> Extras + 'a>>,
    /// What guidance leads away from: one for each prompt, or one for all. The last token of each prompt, if `None`.
    pub negative_prompts: Option<Vec<Vec<u32>>>,
    /// Keeps the log-probability of each new token by the model's own scores, and this many of the best others.
    pub logprobs: Option<usize>,
}

impl Hooks<'_> {
    pub(crate) fn stops(&mut self, sequence: usize, ids: &[u32]) -> bool {
        self.stop.as_mut().is_some_and(|stop| stop(sequence, ids))
    }

    /// Tells of new tokens; why all sequences end now, if they do.
    pub(crate) fn ends_all(&mut self, call: &Call<'_>, new: &[(usize, u32)]) -> Option<Finish> {
        if self.step.as_mut().is_some_and(|step| !step(new)) {
            return Some(Finish::Cancelled);
        }
        let over = |seconds: f64| call.start.elapsed().as_secs_f64() > seconds;
        call.config.max_time.is_some_and(over).then_some(Finish::Time)
    }
}

impl fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("step", &self.step.is_some())
            .field("stop", &self.stop.is_some())
            .field("extras", &self.extras.is_some())
            .field("negative_prompts", &self.negative_prompts)
            .field("logprobs", &self.logprobs)
            .finish()
    }
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// By a token of `eos_token_id`, which is part of it.
    Eos,
    /// It is as long as the config allows.
    Length,
    /// [`Hooks::stop`] said so.
    Stop,
    /// `max_time` is over.
    Time,
    /// [`Hooks::step`] said so.
    Cancelled,
}

impl Finish {
    /// The reason in one word, as it stands in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length => "length",
            Self::Stop => "stop",
            Self::Time => "time",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub token: u32,
    /// By the model's own scores, before any processor; with guidance, by those that it gives.
    pub logprob: f32,
    /// The most probable tokens, the best first.
    pub top: Vec<(u32, f32)>,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// The prompt and what follows, without padding.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Why it ended.
    pub finish: Finish,
    /// Of beams: the sum of the log-probabilities, divided by the length to the power of `length_penalty`.
    pub score: Option<f32>,
    /// One for each new token, if [`Hooks::logprobs`] asks for them.
    pub logprobs: Vec<TokenLogprob>,
    /// The processed scores of every new token, if `output_scores` asks for them; not of beams.
    pub scores: Vec<Vec<f32>>,
    /// The model's own scores, if `output_logits` asks for them; not of beams.
    pub logits: Vec<Vec<f32>>,
}

impl Sequence {
    /// What follows the prompt.
    pub fn new_ids(&self) -> &[u32] {
        &self.ids[self.prompt.min(self.ids.len())..]
    }
}

/// What a call cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Those of them that a session had seen before.
    pub reused_tokens: usize,
    /// Tokens of all continuations.
    pub new_tokens: usize,
    /// Passes through the model.
    pub passes: usize,
    /// Tokens that were proposed by an assistant or looked up in the prompt.
    pub drafted_tokens: usize,
    /// Those of them that the model took.
    pub accepted_tokens: usize,
    /// Time for the prompts.
    pub prefill: Duration,
    /// Time for everything else.
    pub decode: Duration,
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// `num_return_sequences` for each prompt, one after another.
    pub sequences: Vec<Sequence>,
    /// What was drawn from; the same call with this seed draws the same.
    pub seed: u64,
    /// What it cost.
    pub stats: Stats,
}

impl Generated {
    /// The sequences as HF's `generate` returns them: prompts padded on the left, continuations on the right.
    pub fn padded(&self, pad: u32) -> Vec<Vec<u32>> {
        let prompt = self.sequences.iter().map(|sequence| sequence.prompt).max().unwrap_or(0);
        let new = self.sequences.iter().map(|sequence| sequence.new_ids().len()).max().unwrap_or(0);
        let row = |sequence: &Sequence| {
            let mut ids = vec![pad; prompt - sequence.prompt];
            ids.extend(&sequence.ids);
            ids.resize(prompt + new, pad);
            ids
        };
        self.sequences.iter().map(row).collect()
    }
}

impl<'m> Generator<'m> {
    /// A generator for a model on a device.
    pub fn new(model: &'m dyn CausalLm, limits: TextLimits, device: &Device) -> Self {
        Self { model, limits, device: device.clone(), assistant: None }
    }

    /// A generator for a loaded model.
    pub fn from_auto(model: &'m Auto<dyn CausalLm>) -> Self {
        Self::new(model.model.as_ref(), model.limits, &model.device)
    }

    /// Lets a smaller model on the same device propose tokens, which the model checks several at a time. Both have to
    /// have the same vocabulary.
    ///
    /// # Errors
    /// [`Error::Input`] if the sizes of the vocabularies differ.
    pub fn with_assistant(mut self, assistant: &'m dyn CausalLm, limits: TextLimits) -> Result<Self> {
        if limits.vocab_size != self.limits.vocab_size {
            return Err(Error::input(
                "assistant",
                format_args!("a vocabulary of {} tokens", limits.vocab_size),
                format_args!("{}, as the model has", self.limits.vocab_size),
            ));
        }
        let draft_length = Arc::default();
        self.assistant = Some(Assistant { model: assistant, max_length: limits.max_length, draft_length });
        Ok(self)
    }

    /// How many tokens may follow a prompt of so many where nobody says how many should: `most`, or fewer if the model
    /// was made for no more; one at least.
    pub fn room(&self, prompt: usize, most: usize) -> usize {
        // The last token is not sent through the model.
        let room = self.limits.longest_prompt().map_or(most, |max| max.saturating_add(1).saturating_sub(prompt));
        room.clamp(1, most.max(1))
    }

    /// A conversation: what the next prompt shares with the last sequence is not computed again.
    pub fn session(&self) -> Session<'m> {
        Session::new(self.clone())
    }

    /// Continues prompts. Those of different length are one batch, and each gets the tokens that it gets alone.
    ///
    /// # Errors
    /// [`Error::Input`] for prompts that are empty, too long or not of the vocabulary, and for settings that contradict
    /// each other or the model; [`Error::Device`] if the device fails, or cannot hold the cache that is asked for.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        config: &GenerationConfig,
        hooks: &mut Hooks<'_>,
    ) -> Result<Generated> {
        self.generate_from(prompts, config, hooks, &mut None)
    }

    /// The same, from what was kept of another call, and keeping what the next may need.
    pub(crate) fn generate_from(
        &self,
        prompts: &[Vec<u32>],
        config: &GenerationConfig,
        hooks: &mut Hooks<'_>,
        kept: &mut Option<Kept>,
    ) -> Result<Generated> {
        config.validate()?;
        config.validate_ids(self.limits.vocab_size)?;
        let call = Call::new(self, prompts, config, hooks)?;
        let assisted = self.assistant.is_some() || config.prompt_lookup_num_tokens.is_some();
        if config.num_beams > 1 {
            *kept = None;
            // As in HF, beams have no drafts.
            if config.num_beam_groups > 1 {
                return diverse::generate(&call, hooks);
            }
            return beam::generate(&call, hooks);
        }
        if assisted {
            return speculative::generate(&call, hooks, self.assistant.as_ref(), kept);
        }
        generate(&call, hooks, kept)
    }
}

/// A call whose arguments fit the model and each other.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) model: &'a dyn CausalLm,
    pub(crate) device: &'a Device,
    pub(crate) prompts: &'a [Vec<u32>],
    pub(crate) config: &'a GenerationConfig,
    /// How the cache keeps keys and values.
    pub(crate) precision: KvPrecision,
    /// How long the sequence of each prompt may become, the prompt included.
    pub(crate) limits: Vec<usize>,
    pub(crate) vocab_size: usize,
    /// How many sequences each list of processors is asked about in turn.
    sequences: usize,
    context: Option<usize>,
    /// What stands where there is no token: any id that the model can embed.
    pub(crate) pad: u32,
    pub(crate) seed: u64,
    pub(crate) start: Instant,
}

impl<'a> Call<'a> {
    /// Checks the arguments of a call.
    pub(crate) fn new(
        generator: &'a Generator<'_>,
        prompts: &'a [Vec<u32>],
        config: &'a GenerationConfig,
        hooks: &Hooks<'_>,
    ) -> Result<Self> {
        if prompts.is_empty() {
            return Err(Error::input("input_ids", "no prompts", "at least one"));
        }
        let limits = &generator.limits;
        prompts.iter().try_for_each(|prompt| check_prompt("input_ids", prompt, limits))?;
        hooks.negative_prompts.iter().flatten().try_for_each(|p| check_prompt("negative_prompt_ids", p, limits))?;
        if !config.stop_strings.is_empty() && hooks.stop.is_none() {
            return Err(Error::input("stop_strings", "no tokenizer", "`Hooks::stop`, which looks for them"));
        }
        let precision = config.kv_precision();
        if precision == KvPrecision::Int8 && !generator.device.supports_dtype(DType::I8) {
            return Err(Error::Device {
                device: format!("{:?}", generator.device),
                reason: "it has no 8-bit integers, of which the quantized cache consists".into(),
                available: device::available().join(", "),
            });
        }
        let most = prompts.iter().map(|prompt| limit(prompt.len(), config, limits)).collect::<Result<Vec<_>>>()?;
        warn_beyond(&most, limits);
        let sequences = match (config.num_beams, &generator.assistant) {
            (1, None) => 1,
            // Those of a draft, and the one before it.
            (1, Some(_)) => config.num_assistant_tokens.saturating_add(1),
            // Those of this step and of the one before.
            (beams, _) => beams.saturating_mul(2),
        };
        Ok(Self {
            model: generator.model,
            device: &generator.device,
            prompts,
            config,
            precision,
            limits: most,
            vocab_size: limits.vocab_size,
            sequences,
            context: limits.max_length,
            pad: config.pad_id().filter(|&pad| (pad as usize) < limits.vocab_size).unwrap_or(0),
            seed: config.seed.unwrap_or_else(random_seed),
            start: Instant::now(),
        })
    }

    /// Positions that the cache should have room for.
    pub(crate) fn capacity(&self) -> usize {
        let width = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let new = self.limits.iter().zip(self.prompts).map(|(limit, prompt)| limit - prompt.len()).max().unwrap_or(0);
        width + new.min(ROOM)
    }

    /// What guidance leads away from, a row for each prompt.
    pub(crate) fn negative_prompts<'b>(&'b self, hooks: &'b Hooks<'_>) -> Result<Vec<&'b [u32]>> {
        let what = "negative_prompt_ids";
        let rows: Vec<&[u32]> = match hooks.negative_prompts.as_deref() {
            None => self.prompts.iter().map(|prompt| &prompt[prompt.len() - 1..]).collect(),
            Some([shared]) => self.prompts.iter().map(|_| shared.as_slice()).collect(),
            Some(all) if all.len() == self.prompts.len() => all.iter().map(Vec::as_slice).collect(),
            Some(all) => {
                let expected = format!("{}, as there are prompts, or 1", self.prompts.len());
                return Err(Error::input(what, format_args!("{} prompts", all.len()), expected));
            }
        };
        for (row, (limit, prompt)) in rows.iter().zip(self.limits.iter().zip(self.prompts)) {
            let new = limit - prompt.len();
            if let Some(max) = self.context.filter(|&max| row.len() + new - 1 > max) {
                let found = format!("{} tokens and {new} new ones", row.len());
                return Err(Error::input(what, found, format_args!("at most {max}, the context of the model")));
            }
        }
        Ok(rows)
    }

    /// What becomes of the scores of a sequence of a prompt.
    pub(crate) fn processors(&self, prompt: usize, sequence: usize, hooks: &mut Hooks<'_>) -> LogitsProcessorList {
        // One length and one seed for all who ask for them.
        let mut config = self.config.clone();
        config.max_new_tokens = Some(self.limits[prompt] - self.prompts[prompt].len());
        config.seed = Some(self.seed);
        let extras = hooks.extras.as_mut().map(|extras| extras(sequence)).unwrap_or_default();
        let mut processors = processors_with(&config, config.do_sample, Extras { row: sequence, ..extras });
        processors.iter_mut().for_each(|processor| processor.remember(self.sequences));
        processors
    }

    /// Why a sequence ends with its last token, if it does.
    pub(crate) fn finish(&self, sequence: usize, ids: &[u32], limit: usize, hooks: &mut Hooks<'_>) -> Option<Finish> {
        if ids.last().is_some_and(|&token| self.config.is_eos(token)) {
            Some(Finish::Eos)
        } else if hooks.stops(sequence, ids) {
            Some(Finish::Stop)
        } else {
            (ids.len() >= limit).then_some(Finish::Length)
        }
    }

    /// The result of sequences that have ended.
    pub(crate) fn generated(&self, sequences: Vec<Sequence>, mut stats: Stats) -> Generated {
        stats.prompt_tokens = self.prompts.iter().map(Vec::len).sum();
        stats.new_tokens = sequences.iter().map(|sequence| sequence.new_ids().len()).sum();
        stats.decode = self.start.elapsed().saturating_sub(stats.prefill);
        Generated { sequences, seed: self.seed, stats }
    }
}

/// A prompt has tokens, all of the vocabulary, and no more than the model can take or was made for.
fn check_prompt(what: &str, prompt: &[u32], limits: &TextLimits) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::input(what, "no tokens", "at least one token"));
    }
    if let Some(max) = limits.longest_prompt().filter(|&max| prompt.len() > max) {
        return Err(Error::input(
            what,
            format_args!("{} tokens", prompt.len()),
            format_args!("at most {max}, the context of the model; shorten the text or turn truncation on"),
        ));
    }
    match prompt.iter().find(|&&id| id as usize >= limits.vocab_size) {
        Some(id) => Err(Error::input(what, id, format_args!("0 to {}", limits.vocab_size.saturating_sub(1)))),
        None => Ok(()),
    }
}

/// How long the sequence of a prompt of `prompt` tokens may become.
fn limit(prompt: usize, config: &GenerationConfig, limits: &TextLimits) -> Result<usize> {
    let mut limit = config.max_length_for(prompt);
    // HF shortens its own default to what the model can take, and nothing else.
    if let (None, None, Some(max)) = (config.max_new_tokens, config.max_length, limits.longest_prompt()) {
        limit = limit.min(max);
    }
    if limit <= prompt {
        return Err(Error::input(
            "input_ids",
            format_args!("{prompt} tokens"),
            format_args!("fewer than `max_length` = {limit}; raise it, or set `max_new_tokens`"),
        ));
    }
    // The last token is not sent through the model.
    match limits.max_length {
        Some(max) if limit - 1 > max => Err(Error::input(
            if config.max_new_tokens.is_some() { "max_new_tokens" } else { "max_length" },
            format_args!("{} tokens after {prompt}", limit - prompt),
            format_args!("at most {}: the context of the model is {max}", max + 1 - prompt),
        )),
        _ => Ok(limit),
    }
}

/// Says once that sequences may become longer than what the model was made for.
fn warn_beyond(lengths: &[usize], limits: &TextLimits) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let context = limits.context.filter(|_| limits.max_length.is_none());
    // The last token is not sent through the model.
    let beyond = lengths.iter().copied().max().zip(context).filter(|&(longest, context)| longest - 1 > context);
    if let Some((longest, context)) = beyond
        && !SAID.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            "{longest} tokens may be generated, but the model was made for {context}: what comes after may be bad"
        );
    }
}

/// Tokens one by one: greedy, or drawn.
fn generate(call: &Call<'_>, hooks: &mut Hooks<'_>, kept: &mut Option<Kept>) -> Result<Generated> {
    let each = call.config.num_return_sequences.max(1);
    let count = call.prompts.len() * each;
    let mut rows: Vec<Row> = (0..count).map(|row| Row::new(call, row / each, row, hooks)).collect();
    let (mut scorer, mut scores, reused_tokens) = Scorer::start(call, hooks, kept.take())?;
    let mut stats = Stats { reused_tokens, passes: 1, prefill: call.start.elapsed(), ..Stats::default() };
    // Which sequence each row of the batch belongs to.
    let mut places: Vec<usize> = (0..count).collect();
    if each > 1 {
        let prompts: Vec<usize> = places.iter().map(|row| row / each).collect();
        scorer.take(&prompts);
        scores = take_rows(&scores, call.prompts.len(), &prompts);
    }
    loop {
        let vocab = scores.len() / places.len();
        let mut new = Vec::with_capacity(places.len());
        for (&place, scores) in places.iter().zip(scores.chunks_exact_mut(vocab.max(1))) {
            let row = &mut rows[place];
            if row.finish.is_none() {
                let token = row.push(call, hooks, scores, |row, scores| row.choose(call, scores))?;
                row.finish = call.finish(place, &row.ids, row.limit, hooks);
                new.push((place, token));
            }
        }
        let ends_all = hooks.ends_all(call, &new);
        for row in &mut rows {
            row.finish = row.finish.or(ends_all);
        }
        let live: Vec<usize> = (0..places.len()).filter(|&i| rows[places[i]].finish.is_none()).collect();
        if live.is_empty() {
            break;
        }
        // Rows that have ended go along until half of them have: what remains is copied then.
        if 2 * live.len() <= places.len() {
            scorer.take(&live);
            places = live.into_iter().map(|i| places[i]).collect();
        }
        let last = |row: &Row| if row.finish.is_none() { row.ids.last().copied() } else { None };
        let tokens: Vec<u32> = places.iter().map(|&place| last(&rows[place]).unwrap_or(call.pad)).collect();
        scores = scorer.next(&tokens)?;
        stats.passes += 1;
    }
    if let [row] = rows.as_slice() {
        *kept = Some(scorer.into_kept(&row.ids));
    }
    Ok(call.generated(rows.into_iter().map(Row::into_sequence).collect(), stats))
}

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
pub(crate) mod tests;
