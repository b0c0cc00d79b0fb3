//! What caches of every kind have to give, on the model of `tests.rs`.

use tx_core::nn::{Cache, CacheKind, KvPrecision};

use super::tests::{KINDS, Toy, config, generate, ids, limits, naive, next_scores, prompts};
use super::*;
use crate::config::AssistantSchedule;

fn quantized() -> GenerationConfig {
    GenerationConfig { cache_implementation: Some("quantized".into()), ..config() }
}

/// Fails unless each token of the sequences has the log-probability that whole passes give it.
#[track_caller]
fn as_whole_passes(toy: &Toy, generated: &Generated) {
    for sequence in &generated.sequences {
        for (i, logprob) in (sequence.prompt..sequence.ids.len()).zip(&sequence.logprobs) {
            let scores = next_scores(toy, &sequence.ids[..i], &mut Cache::new(&toy.cache_kinds(), 64));
            let expected = TokenLogprob::new(&scores, sequence.ids[i], 0);
            assert_eq!(logprob.token, expected.token);
            assert!((logprob.logprob - expected.logprob).abs() < 1e-3, "{logprob:?} {expected:?}");
        }
        assert_eq!(sequence.logprobs.len(), sequence.new_ids().len());
    }
}

#[test]
fn every_beam_sees_its_own_past() {
    for kind in KINDS {
        for seed in 20..24 {
            let toy = Toy::new(seed, kind);
            for groups in [1, 2] {
                let config = GenerationConfig {
                    max_new_tokens: Some(20),
                    num_beams: 6,
                    num_beam_groups: groups,
                    diversity_penalty: if groups > 1 { 0.5 } else { 0.0 },
                    num_return_sequences: 6,
                    ..config()
                };
                let mut hooks = Hooks { logprobs: Some(0), ..Hooks::default() };
                as_whole_passes(&toy, &toy.generator().generate(&prompts(), &config, &mut hooks).unwrap());
            }
        }
    }
}

#[test]
fn bytes_are_close_to_floats() {
    for kind in [CacheKind::Full, CacheKind::Sliding(3)] {
        for seed in 0..8 {
            let toy = Toy::new(seed, kind);
            let tokens = naive(&toy, &prompts()[0], 20);
            let [mut floats, mut bytes] = [KvPrecision::Float, KvPrecision::Int8]
                .map(|precision| Cache::with_precision(&toy.cache_kinds(), 4, precision));
            let (mut difference, mut length) = (0.0, 0.0);
            for token in tokens.chunks(1) {
                let (x, y) = (next_scores(&toy, token, &mut floats), next_scores(&toy, token, &mut bytes));
                difference += x.iter().zip(&y).map(|(x, y)| (x - y) * (x - y)).sum::<f32>();
                length += x.iter().map(|x| x * x).sum::<f32>();
            }
            assert!(difference > 0.0 && difference.sqrt() < 3e-2 * length.sqrt(), "{kind:?} {difference} of {length}");
        }
    }
}

#[test]
fn ways_of_decoding_agree_on_bytes_too() {
    for kind in KINDS {
        let toy = Toy::new(1, kind);
        let plain = ids(&generate(&toy, &prompts(), &quantized()));
        for chunk in [Some(1), Some(2), Some(100)] {
            let config = GenerationConfig { prefill_chunk_size: chunk, ..quantized() };
            assert_eq!(ids(&generate(&toy, &prompts(), &config)), plain, "{kind:?} {chunk:?}");
        }
        let assistant = Toy::new(1, kind);
        let generator = toy.generator().with_assistant(&assistant, limits(None)).unwrap();
        let config = GenerationConfig { num_assistant_tokens: 3, ..quantized() };
        assert_eq!(ids(&generator.generate(&prompts(), &config, &mut Hooks::default()).unwrap()), plain, "{kind:?}");
        let lookup = GenerationConfig { prompt_lookup_num_tokens: Some(3), ..quantized() };
        assert_eq!(ids(&generate(&toy, &prompts(), &lookup)), plain, "{kind:?}");
        let beams = GenerationConfig { num_beams: 4, num_return_sequences: 2, ..quantized() };
        let batch = ids(&generate(&toy, &prompts(), &beams));
        for (i, prompt) in prompts().into_iter().enumerate() {
            assert_eq!(ids(&generate(&toy, &[prompt], &beams)), batch[2 * i..2 * i + 2], "{kind:?}");
        }
        // A session begins anew where a call asks for another cache.
        let mut session = toy.generator().session();
        for config in [quantized(), config, tests::config(), quantized()] {
            let prompt = &prompts()[..1];
            let generated = session.generate(&prompt[0], &config, &mut Hooks::default()).unwrap();
            assert_eq!(ids(&generated), ids(&generate(&toy, prompt, &config)), "{kind:?}");
        }
    }
}

#[test]
fn sequences_that_outgrow_a_length_are_computed_anew() {
    for kind in [CacheKind::Full, CacheKind::Sliding(3)] {
        for at in [1, 3, 4, 5, 9, 14, 15, 16, 30] {
            let toy = Toy { restarts_at: Some(at), ..Toy::new(12, kind) };
            // Of one length: padding counts.
            let rows = vec![vec![1, 5, 9, 2], vec![3, 3, 0, 7]];
            let expected: Vec<Vec<u32>> = rows.iter().map(|row| naive(&toy, row, 12)).collect();
            for chunk in [None, Some(1), Some(3)] {
                let config = GenerationConfig { prefill_chunk_size: chunk, ..config() };
                assert_eq!(ids(&generate(&toy, &rows, &config)), expected, "{kind:?} {at} {chunk:?}");
            }
            for assistant in [Toy { restarts_at: Some(at), ..Toy::new(12, kind) }, Toy::new(11, CacheKind::Full)] {
                let generator = toy.generator().with_assistant(&assistant, limits(None)).unwrap();
                for tokens in [1, 4, 9] {
                    let config = GenerationConfig {
                        num_assistant_tokens: tokens,
                        assistant_confidence_threshold: 0.0,
                        ..config()
                    };
                    let drafted = generator.generate(&rows, &config, &mut Hooks::default()).unwrap();
                    assert_eq!(ids(&drafted), expected, "{kind:?} {at} {tokens}");
                }
            }
            let config = GenerationConfig { num_beams: 3, num_return_sequences: 3, ..config() };
            let mut hooks = Hooks { logprobs: Some(0), ..Hooks::default() };
            as_whole_passes(&toy, &toy.generator().generate(&rows, &config, &mut hooks).unwrap());
            // A session goes on, across the length, and back to a prompt before it.
            let mut session = toy.generator().session();
            let config = GenerationConfig { max_new_tokens: Some(3), ..tests::config() };
            let mut prompt = rows[0].clone();
            for turn in 0..8 {
                let generated = session.generate(&prompt, &config, &mut Hooks::default()).unwrap();
                assert_eq!(ids(&generated)[0], naive(&toy, &prompt, 3), "{kind:?} {at} {turn}");
                prompt = if turn % 3 == 2 { prompt[..3].to_vec() } else { ids(&generated)[0].clone() };
                prompt.push(8);
            }
        }
    }
}

#[test]
fn drafts_adapt_and_change_nothing() {
    let toy = Toy::new(10, CacheKind::Full);
    let plain = ids(&generate(&toy, &prompts(), &config()));
    for (assistant, longer) in [(Toy::new(10, CacheKind::Full), true), (Toy::new(3, CacheKind::Full), false)] {
        for threshold in [0.0, 0.4, 0.9] {
            for schedule in
                [AssistantSchedule::Constant, AssistantSchedule::Heuristic, AssistantSchedule::HeuristicTransient]
            {
                let config = GenerationConfig {
                    num_assistant_tokens: 2,
                    num_assistant_tokens_schedule: schedule,
                    assistant_confidence_threshold: threshold,
                    ..config()
                };
                let generator = toy.generator().with_assistant(&assistant, limits(None)).unwrap();
                let call = || generator.generate(&prompts(), &config, &mut Hooks::default()).unwrap();
                let (first, second) = (call(), call());
                assert_eq!((ids(&first), ids(&second)), (plain.clone(), plain.clone()), "{schedule:?} {threshold}");
                // What the first call learnt about the length, the second knows from the start.
                let passes = (first.stats.passes, second.stats.passes);
                match schedule {
                    AssistantSchedule::Heuristic if longer && threshold == 0.0 => {
                        assert!(passes.1 < passes.0, "{passes:?}")
                    }
                    AssistantSchedule::Heuristic => {}
                    _ => assert_eq!(passes.0, passes.1),
                }
            }
        }
    }
}
