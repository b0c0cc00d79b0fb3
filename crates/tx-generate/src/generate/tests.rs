//! Ways of decoding that have to agree, on a model of one layer.

use burn::tensor::{Device, Int, Tensor};
use tx_core::Result;
use tx_core::nn::{AttentionOptions, Cache, CacheKind, attention};
use tx_core::task::{AnyTensor, CausalLm, Parameter, PretrainedModel, Record, TextInputs, TextLimits};
use tx_core::weights::StoredTensor;

use super::*;
use crate::config::EarlyStopping;
use crate::sample::{Random, argmax};

pub(crate) const VOCAB: usize = 12;
const DIM: usize = 6;

/// Looks at its past through attention without positions, or through a state.
#[derive(Debug)]
pub(crate) struct Toy {
    pub(crate) table: Tensor<2>,
    pub(crate) kind: CacheKind,
    /// Longer sequences are seen in another way.
    pub(crate) restarts_at: Option<usize>,
}

impl Toy {
    pub(crate) fn new(seed: u64, kind: CacheKind) -> Self {
        let mut random = Random::new(seed, 0);
        let values: Vec<f32> = (0..VOCAB * DIM).map(|_| (random.uniform() * 4.0 - 2.0) as f32).collect();
        let table = Tensor::<1>::from_floats(values.as_slice(), &Device::default()).reshape([VOCAB, DIM]);
        Self { table, kind, restarts_at: None }
    }

    pub(crate) fn generator(&self) -> Generator<'_> {
        Generator::new(self, limits(None), &Device::default())
    }
}

pub(crate) fn limits(max_length: Option<usize>) -> TextLimits {
    TextLimits { vocab_size: VOCAB, max_length, context: None, positions: 1000, type_vocab_size: 0 }
}

impl PretrainedModel for Toy {
    fn tensors(&self) -> Vec<(String, StoredTensor)> {
        Vec::new()
    }

    fn num_parameters(&self) -> usize {
        VOCAB * DIM
    }

    fn visit_parameters(&self, _: &mut dyn FnMut(Parameter)) {}

    fn map_parameters(&mut self, _: &mut dyn FnMut(Parameter) -> AnyTensor) {}
}

impl CausalLm for Toy {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        vec![self.kind]
    }

    fn restarts_at(&self) -> Option<usize> {
        self.restarts_at
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, seq] = input_ids.dims();
        self.table.clone().select(0, input_ids.reshape([batch * seq])).reshape([batch, seq, DIM])
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let outgrown = self.restarts_at.is_some_and(|at| cache.length() + seq > at);
        let mut mixed = x.clone();
        for layer in cache.layers() {
            mixed = match self.kind {
                CacheKind::State => {
                    let all: Tensor<2, Int> = match inputs.attention_mask.clone() {
                        Some(mask) => mask,
                        None => Tensor::ones([batch, seq], &x.device()),
                    };
                    let columns = all.dims()[1];
                    let mask = all.narrow(1, columns - seq, seq).float();
                    let mut kept = layer.states();
                    let mut state = match kept.as_ref().and_then(|states| states.recurrent.clone()) {
                        Some(state) => state,
                        None => Tensor::zeros([batch, 1, 1, DIM], &x.device()),
                    };
                    let mut outputs = Vec::new();
                    for i in 0..seq {
                        let token = mask.clone().narrow(1, i, 1).reshape([batch, 1, 1, 1]);
                        let input = x.clone().narrow(1, i, 1).reshape([batch, 1, 1, DIM]);
                        state = state * (token.clone() * -0.5 + 1.0) + input * token;
                        outputs.push(state.clone().reshape([batch, 1, DIM]));
                    }
                    if let Some(states) = &mut kept {
                        states.recurrent = Some(state);
                    }
                    Tensor::cat(outputs, 1)
                }
                CacheKind::Full | CacheKind::Sliding(_) => {
                    let window = if let CacheKind::Sliding(window) = self.kind { Some(window) } else { None };
                    let heads = x.clone().reshape([batch, seq, 1, DIM]);
                    let k = if outgrown { heads.clone() * -0.7 } else { heads.clone() };
                    let (k, v) = layer.append(k, heads.clone());
                    let mask = inputs.causal_mask(window);
                    let seen = attention(heads.neg(), k, v, AttentionOptions::new(&mask), record);
                    seen.reshape([batch, seq, DIM])
                }
            };
        }
        cache.advance(seq);
        x * 0.3 + mixed
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let scores = x.reshape([batch * seq, DIM]).matmul(self.table.clone().transpose());
        scores.reshape([batch, seq, VOCAB])
    }
}

pub(crate) const KINDS: [CacheKind; 3] = [CacheKind::Full, CacheKind::Sliding(3), CacheKind::State];

pub(crate) fn prompts() -> Vec<Vec<u32>> {
    vec![vec![1, 5, 9, 2, 7], vec![3], vec![8, 8, 4]]
}

pub(crate) fn config() -> GenerationConfig {
    GenerationConfig { max_new_tokens: Some(12), ..GenerationConfig::default() }
}

pub(crate) fn ids(generated: &Generated) -> Vec<Vec<u32>> {
    generated.sequences.iter().map(|sequence| sequence.ids.clone()).collect()
}

pub(crate) fn generate(toy: &Toy, prompts: &[Vec<u32>], config: &GenerationConfig) -> Generated {
    toy.generator().generate(prompts, config, &mut Hooks::default()).unwrap()
}

/// The scores of what follows some tokens, which see what is in a cache.
pub(crate) fn next_scores(toy: &Toy, ids: &[u32], cache: &mut Cache) -> Vec<f32> {
    let row: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let input_ids = Tensor::<1, Int>::from_data(row.as_slice(), &Device::default()).unsqueeze::<2>();
    let inputs = TextInputs { input_ids, attention_mask: None, token_type_ids: None, position_ids: None, past: 0 };
    let scores = toy.forward(&inputs, cache, &mut Record::none());
    scores.narrow(1, ids.len() - 1, 1).into_data().iter::<f32>().collect()
}

/// Greedy tokens by whole passes, without a cache.
pub(crate) fn naive(toy: &Toy, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..new {
        let scores = next_scores(toy, &ids, &mut Cache::new(&toy.cache_kinds(), 64));
        ids.push(argmax(&scores));
    }
    ids
}

#[test]
fn greedy_decoding_with_a_cache_a_batch_and_chunks_is_that_without() {
    for kind in KINDS {
        let toy = Toy::new(1, kind);
        let expected: Vec<Vec<u32>> = prompts().iter().map(|prompt| naive(&toy, prompt, 12)).collect();
        for chunk in [None, Some(1), Some(2), Some(100)] {
            let config = GenerationConfig { prefill_chunk_size: chunk, ..config() };
            assert_eq!(ids(&generate(&toy, &prompts(), &config)), expected, "{kind:?} {chunk:?}");
            for (prompt, expected) in prompts().iter().zip(&expected) {
                let alone = generate(&toy, std::slice::from_ref(prompt), &config);
                assert_eq!(&ids(&alone)[0], expected, "{kind:?} {chunk:?}");
            }
        }
    }
}

#[test]
fn rows_end_alone_and_leave_the_batch() {
    for kind in KINDS {
        let toy = Toy::new(2, kind);
        let plain = ids(&generate(&toy, &prompts(), &config()));
        // The token that a row comes to in its middle ends it; the others end where they come to it, or not at all.
        for end in plain.iter().map(|ids| ids[ids.len() - 6]) {
            let config = GenerationConfig { eos_token_id: vec![end], pad_token_id: Some(0), ..config() };
            let generated = generate(&toy, &prompts(), &config);
            for ((sequence, plain), prompt) in generated.sequences.iter().zip(&plain).zip(prompts()) {
                let new = &plain[prompt.len()..];
                let length = new.iter().position(|&id| id == end).map_or(new.len(), |at| at + 1);
                assert_eq!(sequence.ids, plain[..prompt.len() + length]);
                let finish = if new.contains(&end) { Finish::Eos } else { Finish::Length };
                assert_eq!((sequence.finish, sequence.prompt), (finish, prompt.len()));
            }
            let new: usize = generated.sequences.iter().map(|sequence| sequence.new_ids().len()).sum();
            assert_eq!((generated.stats.new_tokens, generated.stats.prompt_tokens), (new, 9));
        }
    }
}

#[test]
fn the_result_as_python_has_it() {
    let toy = Toy::new(2, CacheKind::Full);
    let generated = generate(&toy, &prompts(), &GenerationConfig { max_new_tokens: Some(2), ..config() });
    let padded = generated.padded(11);
    assert_eq!(padded[0], generated.sequences[0].ids);
    assert_eq!((&padded[1][..5], padded[1].len()), (&[11, 11, 11, 11, 3][..], 7));
}

#[test]
fn hooks_are_told_and_obeyed() {
    let toy = Toy::new(3, CacheKind::Full);
    let plain = ids(&generate(&toy, &prompts(), &config()));
    let mut told = vec![Vec::new(); 3];
    let mut hooks = Hooks {
        step: Some(Box::new(|new| {
            new.iter().for_each(|&(row, token)| told[row].push(token));
            told[0].len() < 4
        })),
        stop: Some(Box::new(|row, ids| row == 1 && ids.len() == 3)),
        ..Hooks::default()
    };
    let generated = toy.generator().generate(&prompts(), &config(), &mut hooks).unwrap();
    drop(hooks);
    let finish: Vec<Finish> = generated.sequences.iter().map(|sequence| sequence.finish).collect();
    assert_eq!(finish, [Finish::Cancelled, Finish::Stop, Finish::Cancelled]);
    for ((sequence, told), plain) in generated.sequences.iter().zip(&told).zip(&plain) {
        assert_eq!(sequence.new_ids(), told);
        assert!(plain.starts_with(&sequence.ids));
    }
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2, 4]);
}

#[test]
fn scores_are_kept_if_asked_for() {
    let toy = Toy::new(3, CacheKind::Full);
    let config = GenerationConfig { output_scores: true, output_logits: true, suppress_tokens: vec![4], ..config() };
    let mut hooks = Hooks { logprobs: Some(3), ..Hooks::default() };
    let generated = toy.generator().generate(&prompts()[..1], &config, &mut hooks).unwrap();
    let sequence = &generated.sequences[0];
    assert_eq!((sequence.scores.len(), sequence.logits.len(), sequence.logprobs.len()), (12, 12, 12));
    for (i, &token) in sequence.new_ids().iter().enumerate() {
        assert_eq!((sequence.scores[i][4], argmax(&sequence.scores[i])), (f32::NEG_INFINITY, token));
        assert!(sequence.logits[i][4].is_finite());
        let logprob = &sequence.logprobs[i];
        assert_eq!((logprob.token, logprob.top.len()), (token, 3));
        assert!(logprob.top[0].1 >= logprob.top[1].1 && logprob.top[0].1 <= 0.0);
        let total: f32 = sequence.logits[i].iter().map(|score| score.exp()).sum();
        assert!((logprob.logprob - (sequence.logits[i][token as usize].exp() / total).ln()).abs() < 1e-4);
    }
}

#[test]
fn a_seed_draws_the_same_and_every_sequence_its_own() {
    let toy = Toy::new(4, CacheKind::Full);
    let config = GenerationConfig { do_sample: true, num_return_sequences: 3, seed: Some(7), ..config() };
    let generated = generate(&toy, &prompts(), &config);
    let drawn = ids(&generated);
    assert_eq!((drawn.len(), generated.seed), (9, 7));
    assert_eq!(ids(&generate(&toy, &prompts(), &config)), drawn);
    assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2]);
    assert!(drawn.iter().zip([0, 0, 0, 1, 1, 1, 2, 2, 2]).all(|(ids, prompt)| ids.starts_with(&prompts()[prompt])));
    // The first prompt's sequences have the same numbers in both calls.
    assert_eq!(ids(&generate(&toy, &prompts()[..1], &config)), drawn[..3]);
    let other = generate(&toy, &prompts(), &GenerationConfig { seed: None, ..config.clone() });
    assert_eq!(ids(&generate(&toy, &prompts(), &GenerationConfig { seed: Some(other.seed), ..config })), ids(&other));
}

#[test]
fn guidance_of_one_changes_nothing_and_negative_prompts_count() {
    let toy = Toy::new(5, CacheKind::Full);
    let plain = ids(&generate(&toy, &prompts(), &config()));
    let guided = |scale: f64, negative: Option<Vec<Vec<u32>>>| {
        let config = GenerationConfig { guidance_scale: Some(scale), ..config() };
        let mut hooks = Hooks { negative_prompts: negative, ..Hooks::default() };
        toy.generator().generate(&prompts(), &config, &mut hooks).map(|generated| ids(&generated))
    };
    assert_eq!(guided(1.0, None).unwrap(), plain);
    // The negative prompt being the prompt itself, there is nothing to lead away from.
    assert_eq!(guided(3.0, Some(prompts())).unwrap(), plain);
    assert_ne!(guided(3.0, Some(vec![vec![6, 6]])).unwrap(), plain);
    assert!(guided(3.0, Some(vec![vec![1], vec![2]])).unwrap_err().to_string().contains("negative_prompt_ids"));
    // Beams take their negative rows along.
    let config = GenerationConfig { guidance_scale: Some(2.0), num_beams: 3, ..config() };
    let batch = ids(&generate(&toy, &prompts(), &config));
    for (prompt, expected) in prompts().iter().zip(&batch) {
        assert_eq!(&ids(&generate(&toy, std::slice::from_ref(prompt), &config))[0], expected);
    }
}

#[test]
fn a_session_gives_what_fresh_calls_give() {
    for kind in KINDS {
        let toy = Toy::new(6, kind);
        let mut session = toy.generator().session();
        let mut prompt = vec![1, 5, 9];
        for turn in 0..4 {
            let generated = session.generate(&prompt, &config(), &mut Hooks::default()).unwrap();
            let fresh = generate(&toy, std::slice::from_ref(&prompt), &config());
            assert_eq!(ids(&generated), ids(&fresh), "{kind:?}");
            if turn > 0 {
                // All of the last turn but its last token, which the model never saw.
                assert_eq!(generated.stats.reused_tokens, prompt.len() - 3);
            }
            prompt = generated.sequences[0].ids.clone();
            prompt.extend([4, 2]);
        }
        // Another beginning, and a prompt that was seen whole.
        for prompt in [vec![1, 5, 2, 2], vec![1, 5, 2, 2], vec![7]] {
            let generated = session.generate(&prompt, &config(), &mut Hooks::default()).unwrap();
            assert_eq!(ids(&generated), ids(&generate(&toy, &[prompt], &config())), "{kind:?}");
        }
        session.clear();
        assert!(session.kept().is_empty());
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let toy = Toy::new(1, CacheKind::Full);
    let generator = Generator::new(&toy, limits(Some(6)), &Device::default());
    let message = |prompts: &[Vec<u32>], config: &GenerationConfig| {
        let result: Result<Generated> = generator.generate(prompts, config, &mut Hooks::default());
        result.map(|generated| ids(&generated)).unwrap_err().to_string()
    };
    let config = GenerationConfig { max_new_tokens: Some(2), ..config() };
    assert_eq!(message(&[], &config), "input_ids: no prompts, expected at least one");
    assert_eq!(message(&[vec![1], vec![]], &config), "input_ids: no tokens, expected at least one token");
    assert_eq!(message(&[vec![1, 12]], &config), "input_ids: 12, expected 0 to 11");
    assert!(message(&[vec![1; 7]], &config).starts_with("input_ids: 7 tokens, expected at most 6, the context"));
    assert_eq!(
        message(&[vec![1; 6]], &config),
        "max_new_tokens: 2 tokens after 6, expected at most 1: the context of the model is 6"
    );
    let short = GenerationConfig { max_new_tokens: None, max_length: Some(3), ..config.clone() };
    assert!(message(&[vec![1; 3]], &short).starts_with("input_ids: 3 tokens, expected fewer than `max_length` = 3"));
    let strings = GenerationConfig { stop_strings: vec!["x".into()], ..config.clone() };
    assert!(message(&[vec![1]], &strings).starts_with("stop_strings: "));
    // HF's default of 20 new tokens ends at what the model can take.
    let default = GenerationConfig { max_new_tokens: None, ..config.clone() };
    let generated = generator.generate(&[vec![1, 2]], &default, &mut Hooks::default()).unwrap();
    assert_eq!(generated.sequences[0].ids.len(), 6);

    // A context that is no limit of a pass is one of prompts and defaults, but not of what is asked for.
    let soft = TextLimits { context: Some(6), ..limits(None) };
    let generator = Generator::new(&toy, soft, &Device::default());
    let lengths = |prompt: Vec<u32>, config: &GenerationConfig| {
        let generated = generator.generate(&[prompt], config, &mut Hooks::default())?;
        Ok::<usize, Error>(generated.sequences[0].ids.len())
    };
    let error = lengths(vec![1; 7], &config).unwrap_err().to_string();
    assert!(error.starts_with("input_ids: 7 tokens, expected at most 6, the context"), "{error}");
    assert_eq!(lengths(vec![1; 6], &config).unwrap(), 8);
    assert_eq!(lengths(vec![1, 2], &default).unwrap(), 6);
    assert_eq!((generator.room(2, 9), generator.room(2, 3), generator.room(99, 9)), (5, 3, 1));
}

#[test]
fn where_no_token_is_possible_there_is_an_error() {
    let toy = Toy::new(3, CacheKind::Full);
    let nothing = GenerationConfig { suppress_tokens: (0..VOCAB as u32).collect(), ..config() };
    let ways = [
        nothing.clone(),
        GenerationConfig { do_sample: true, ..nothing.clone() },
        GenerationConfig { num_beams: 3, ..nothing.clone() },
        GenerationConfig { num_beams: 3, do_sample: true, ..nothing.clone() },
        GenerationConfig { num_beams: 4, num_beam_groups: 2, diversity_penalty: 0.5, ..nothing.clone() },
        GenerationConfig { prompt_lookup_num_tokens: Some(3), ..nothing },
    ];
    let assisted = toy.generator().with_assistant(&toy, limits(None)).unwrap();
    for (config, generator) in ways.iter().flat_map(|config| [(config, toy.generator()), (config, assisted.clone())]) {
        let error = generator.generate(&prompts(), config, &mut Hooks::default()).err().unwrap().to_string();
        assert!(error.starts_with("generation settings: no token may follow the "), "{config:?}: {error}");
    }
}

#[test]
fn beams_never_hold_what_is_impossible() {
    let toy = Toy::new(3, CacheKind::Full);
    // A five, and then the end.
    let only = |ids: &[u32], prompt: usize, scores: &mut [f32]| {
        let allowed = if ids.len() == prompt { 5 } else { 0 };
        let others = scores.iter_mut().enumerate().filter(|(id, _)| *id != allowed);
        others.for_each(|(_, score)| *score = f32::NEG_INFINITY);
    };
    for (beams, groups) in [(2, 1), (3, 1), (4, 2)] {
        let config = GenerationConfig {
            num_beams: beams,
            num_beam_groups: groups,
            diversity_penalty: 0.5,
            num_return_sequences: 2,
            eos_token_id: vec![0],
            ..config()
        };
        let extras = |_: usize| Extras { processors: vec![Box::new(only)], ..Extras::default() };
        let mut hooks = Hooks { extras: Some(Box::new(extras)), ..Hooks::default() };
        let generated = toy.generator().generate(&prompts(), &config, &mut hooks).unwrap();
        for sequence in &generated.sequences {
            let (first, rest) = sequence.new_ids().split_first().unwrap();
            assert!(*first == 5 && rest.iter().all(|id| *id == 0), "{beams} {groups}: {sequence:?}");
            assert!(sequence.score.is_some_and(f32::is_finite));
        }
        assert_eq!(generated.sequences[0].new_ids(), [5, 0]);
    }
}

/// The most probable continuation of all, and its log-probability.
fn exhaustive(toy: &Toy, prompt: &[u32], new: usize) -> (Vec<u32>, f64) {
    let mut best = (Vec::new(), f64::NEG_INFINITY);
    for number in 0..VOCAB.pow(new as u32) {
        let digit = |i: usize| (number / VOCAB.pow(i as u32) % VOCAB) as u32;
        let ids: Vec<u32> = prompt.iter().copied().chain((0..new).map(digit)).collect();
        let row: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let input_ids = Tensor::<1, Int>::from_data(row.as_slice(), &Device::default()).unsqueeze::<2>();
        let inputs = TextInputs { input_ids, attention_mask: None, token_type_ids: None, position_ids: None, past: 0 };
        let scores = toy.forward(&inputs, &mut Cache::new(&toy.cache_kinds(), 8), &mut Record::none());
        let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
        let sum: f64 = (prompt.len()..ids.len())
            .map(|i| f64::from(TokenLogprob::new(&scores[(i - 1) * VOCAB..i * VOCAB], ids[i], 0).logprob))
            .sum();
        if sum > best.1 {
            best = (ids, sum);
        }
    }
    best
}

#[test]
fn enough_beams_find_the_best_of_all() {
    for kind in KINDS {
        let toy = Toy::new(7, kind);
        let prompt = vec![2, 6];
        let (ids, sum) = exhaustive(&toy, &prompt, 2);
        let config = GenerationConfig {
            max_new_tokens: Some(2),
            num_beams: VOCAB,
            num_return_sequences: 3,
            length_penalty: 0.0,
            ..GenerationConfig::default()
        };
        let generated = generate(&toy, &[prompt], &config);
        let best = &generated.sequences[0];
        assert_eq!((&best.ids, best.finish), (&ids, Finish::Length), "{kind:?}");
        assert!((f64::from(best.score.unwrap()) - sum).abs() < 1e-4);
        assert!(generated.sequences.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }
}

#[test]
fn beams_of_a_batch_are_those_of_its_rows() {
    for kind in KINDS {
        let toy = Toy::new(8, kind);
        for (groups, penalty) in [(1, 0.0), (2, 0.7), (4, 0.2)] {
            for early_stopping in [EarlyStopping::No, EarlyStopping::Yes, EarlyStopping::Never] {
                let config = GenerationConfig {
                    num_beams: 4,
                    num_beam_groups: groups,
                    diversity_penalty: penalty,
                    num_return_sequences: 2,
                    eos_token_id: vec![0, 3],
                    early_stopping,
                    ..config()
                };
                let generated = generate(&toy, &prompts(), &config);
                for (i, prompt) in prompts().into_iter().enumerate() {
                    let alone = generate(&toy, &[prompt], &config);
                    assert_eq!(ids(&alone), ids(&generated)[2 * i..2 * i + 2], "{kind:?} {groups} {early_stopping:?}");
                }
                for sequence in &generated.sequences {
                    let new = sequence.new_ids();
                    let ends = new.iter().position(|id| [0, 3].contains(id));
                    let finish = if ends.is_some() { Finish::Eos } else { Finish::Length };
                    assert_eq!((sequence.finish, ends.unwrap_or(11)), (finish, new.len() - 1));
                }
            }
        }
    }
}

#[test]
fn beams_obey_hooks_and_keep_log_probabilities() {
    let toy = Toy::new(8, CacheKind::Full);
    for groups in [1, 2] {
        let config = GenerationConfig {
            num_beams: 4,
            num_beam_groups: groups,
            diversity_penalty: if groups > 1 { 0.5 } else { 0.0 },
            length_penalty: 0.0,
            ..config()
        };
        let mut steps = 0;
        let mut hooks = Hooks {
            step: Some(Box::new(|_| {
                steps += 1;
                steps < 5
            })),
            logprobs: Some(0),
            ..Hooks::default()
        };
        let generated = toy.generator().generate(&prompts(), &config, &mut hooks).unwrap();
        for sequence in &generated.sequences {
            assert_eq!((sequence.finish, sequence.new_ids().len()), (Finish::Cancelled, 5));
            let tokens: Vec<u32> = sequence.logprobs.iter().map(|logprob| logprob.token).collect();
            assert_eq!(tokens, sequence.new_ids());
            if groups == 1 {
                let sum: f32 = sequence.logprobs.iter().map(|logprob| logprob.logprob).sum();
                assert!((sum - sequence.score.unwrap()).abs() < 1e-3);
            }
        }
    }
}

#[test]
fn beams_may_be_drawn() {
    let toy = Toy::new(9, CacheKind::Full);
    let config = GenerationConfig { num_beams: 3, do_sample: true, seed: Some(5), ..config() };
    let drawn = ids(&generate(&toy, &prompts(), &config));
    assert_eq!(ids(&generate(&toy, &prompts(), &config)), drawn);
    let other = |seed| GenerationConfig { seed: Some(seed), ..config.clone() };
    assert!((6..30).any(|seed| ids(&generate(&toy, &prompts(), &other(seed))) != drawn));
}

#[test]
fn drafts_change_nothing_but_the_passes() {
    for kind in KINDS {
        let toy = Toy::new(10, kind);
        let plain = generate(&toy, &prompts(), &config());
        for (assistant, name) in [(Toy::new(10, kind), "itself"), (Toy::new(11, CacheKind::Sliding(2)), "another")] {
            for schedule in [crate::config::AssistantSchedule::Constant, crate::config::AssistantSchedule::Heuristic] {
                let config = GenerationConfig {
                    num_assistant_tokens: 4,
                    num_assistant_tokens_schedule: schedule,
                    assistant_confidence_threshold: 0.0,
                    ..config()
                };
                let generator = toy.generator().with_assistant(&assistant, limits(None)).unwrap();
                let drafted = generator.generate(&prompts(), &config, &mut Hooks::default()).unwrap();
                assert_eq!(ids(&drafted), ids(&plain), "{kind:?} {name}");
                let stats = drafted.stats;
                assert!(stats.drafted_tokens > 0 && stats.accepted_tokens <= stats.drafted_tokens);
                if name == "itself" {
                    assert_eq!(stats.accepted_tokens, stats.drafted_tokens, "{kind:?}");
                    assert!(stats.passes < 24, "{stats:?}");
                }
            }
        }
        for count in [1, 3, 20] {
            let config = GenerationConfig { prompt_lookup_num_tokens: Some(count), ..config() };
            assert_eq!(ids(&generate(&toy, &prompts(), &config)), ids(&plain), "{kind:?}");
        }
    }
}

#[test]
fn drafts_end_where_plain_decoding_ends() {
    let toy = Toy::new(10, CacheKind::Full);
    let plain = generate(&toy, &prompts()[..1], &config());
    let end = plain.sequences[0].ids[9];
    let config = GenerationConfig { eos_token_id: vec![end], assistant_confidence_threshold: 0.0, ..config() };
    let expected = generate(&toy, &prompts()[..1], &config);
    let assistant = Toy::new(10, CacheKind::Full);
    // An assistant of a shorter context stays behind when the sequence has outgrown it.
    for context in [None, Some(7), Some(5), Some(1)] {
        let generator = toy.generator().with_assistant(&assistant, limits(context)).unwrap();
        let mut told = Vec::new();
        let mut hooks = Hooks {
            step: Some(Box::new(|new| {
                told.extend(new.iter().map(|&(_, token)| token));
                true
            })),
            ..Hooks::default()
        };
        let drafted = generator.generate(&prompts()[..1], &config, &mut hooks).unwrap();
        drop(hooks);
        assert_eq!(ids(&drafted), ids(&expected));
        assert_eq!((drafted.sequences[0].finish, told.as_slice()), (Finish::Eos, drafted.sequences[0].new_ids()));
    }
    let other = TextLimits { vocab_size: 13, ..limits(None) };
    assert!(toy.generator().with_assistant(&assistant, other).is_err());
}

#[test]
fn a_session_may_have_drafts() {
    for kind in KINDS {
        let toy = Toy::new(10, kind);
        let assistant = Toy::new(11, CacheKind::Full);
        let generator = toy.generator().with_assistant(&assistant, limits(None)).unwrap();
        let mut session = generator.session();
        let mut prompt = vec![1, 5, 9];
        for _ in 0..3 {
            let drafted = session.generate(&prompt, &config(), &mut Hooks::default()).unwrap();
            let fresh = generate(&toy, std::slice::from_ref(&prompt), &config());
            assert_eq!(ids(&drafted), ids(&fresh), "{kind:?}");
            prompt = [drafted.sequences[0].ids.as_slice(), &[4, 2]].concat();
        }
    }
}
