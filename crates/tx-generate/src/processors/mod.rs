//! What changes the scores of the next token before it is chosen: penalties, bans, and the filters of sampling.
//!
//! Reference: transformers 5.23.0, `generation/logits_process.py`, and `_get_logits_processor` in `generation/utils.py`
//! for the order, which can be observed. Some come from elsewhere and say so. Guidance, which needs a second forward
//! pass, is not here.
//!
//! A processor keeps buffers and no state: what it does depends on its arguments alone. So one list serves any number
//! of beams, and a step can be computed again.

mod repetition;
mod synthid;
mod tokens;
mod twister;
mod warpers;
mod watermark;

use std::sync::Arc;

pub use watermark::{Detection, WatermarkDetector};

use crate::config::{BaseWatermarkingConfig, GenerationConfig};
use crate::sample::random_seed;

/// Changes the scores of the next token.
///
/// A function of the same arguments is one too.
pub trait LogitsProcessor: Send {
    /// Changes the scores of the token that follows `ids`.
    ///
    /// `ids` is one row without padding, of which the first `prompt` tokens were given; for a decoder that has an
    /// encoder they are the decoder's own. A token is impossible when its score is negative infinity.
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]);

    /// Says how many sequences it is asked about in turn, for a processor that keeps something of each.
    fn remember(&mut self, _sequences: usize) {}
}

impl<F: FnMut(&[u32], usize, &mut [f32]) + Send> LogitsProcessor for F {
    fn process(&mut self, ids: &[u32], prompt: usize, scores: &mut [f32]) {
        self(ids, prompt, scores);
    }
}

/// Processors in the order in which they are applied.
pub type LogitsProcessorList = Vec<Box<dyn LogitsProcessor>>;

/// The tokens that may follow a sequence; HF's `prefix_allowed_tokens_fn` for one row.
///
/// None at all makes every token impossible.
pub type PrefixAllowedTokens = Box<dyn FnMut(&[u32]) -> Vec<u32> + Send>;

/// What a call adds to its config.
#[derive(Default)]
pub struct Extras {
    /// The number of the row, on which XTC's random numbers depend.
    pub row: usize,
    /// The encoder's tokens. If `None`, the prompt is taken for them, as HF does for models without an encoder.
    pub encoder_input_ids: Option<Vec<u32>>,
    /// Limits the next token by the sequence.
    pub prefix_allowed_tokens: Option<PrefixAllowedTokens>,
    /// They come after all others but the filters of sampling.
    pub processors: LogitsProcessorList,
}

/// The processors of a config, in HF's order.
///
/// The filters that only sampling has are among them if `sampling`.
pub fn processors(config: &GenerationConfig, sampling: bool) -> LogitsProcessorList {
    processors_with(config, sampling, Extras::default())
}

/// The processors of a config and a call, in HF's order.
pub fn processors_with(config: &GenerationConfig, sampling: bool, extras: Extras) -> LogitsProcessorList {
    let mut list = List(Vec::new());
    let eos = &config.eos_token_id;
    let source: Option<Arc<[u32]>> = extras.encoder_input_ids.map(Arc::from);

    if !config.sequence_bias.is_empty() {
        let biases = config.sequence_bias.iter().map(|(ids, bias)| (ids.clone(), *bias as f32));
        list.add(tokens::SequenceBias::new(biases));
    }
    if config.encoder_repetition_penalty != 1.0 {
        list.add(repetition::EncoderRepetitionPenalty::new(config.encoder_repetition_penalty, source.clone()));
    }
    if config.repetition_penalty != 1.0 {
        list.add(repetition::RepetitionPenalty::new(config.repetition_penalty));
    }
    if config.frequency_penalty != 0.0 || config.presence_penalty != 0.0 {
        list.add(repetition::CountPenalty::new(config.frequency_penalty, config.presence_penalty));
    }
    if config.dry_multiplier > 0.0 && config.dry_penalty_last_n != Some(0) {
        list.add(repetition::Dry::new(config));
    }
    if config.no_repeat_ngram_size > 0 {
        list.add(repetition::NoRepeatNgram::new(config.no_repeat_ngram_size));
    }
    if config.encoder_no_repeat_ngram_size > 0 {
        list.add(repetition::EncoderNoRepeatNgram::new(config.encoder_no_repeat_ngram_size, source));
    }
    if !config.bad_words_ids.is_empty() {
        // A bad word that is the end token alone does not count.
        let words = config.bad_words_ids.iter().filter(|ids| !matches!(ids.as_slice(), [id] if eos.contains(id)));
        list.add(tokens::SequenceBias::new(words.map(|ids| (ids.clone(), f32::NEG_INFINITY))));
    }
    if !eos.is_empty() {
        match config.min_new_tokens {
            Some(least) => list.add(tokens::MinNewTokens::new(least, eos)),
            None if config.min_length > 0 => list.add(tokens::MinLength::new(config.min_length, eos)),
            None => {}
        }
    }
    if let Some(allowed) = extras.prefix_allowed_tokens {
        list.add(tokens::PrefixConstrained::new(allowed, config.num_beams > 1));
    }
    if let Some(bos) = config.forced_bos_token_id {
        list.add(tokens::ForcedBos::new(bos));
    }
    if !config.forced_eos_token_id.is_empty() {
        list.add(tokens::ForcedEos::new(config));
    }
    if config.remove_invalid_values {
        list.add(tokens::InfNanRemove);
    }
    if let Some((start, factor)) = config.exponential_decay_length_penalty {
        list.add(tokens::ExponentialDecay::new(start, factor, eos));
    }
    if !config.suppress_tokens.is_empty() {
        list.add(tokens::Suppress::new(&config.suppress_tokens));
    }
    if !config.begin_suppress_tokens.is_empty() {
        let after_bos = config.forced_bos_token_id.is_some();
        list.add(tokens::BeginSuppress::new(&config.begin_suppress_tokens, after_bos));
    }
    list.0.extend(extras.processors);
    if sampling {
        list.add_warpers(config, extras.row);
    }
    match &config.watermarking_config {
        Some(BaseWatermarkingConfig::GreenList(watermark)) => list.add(watermark::Watermark::new(*watermark)),
        Some(BaseWatermarkingConfig::SynthIdText(watermark)) => list.add(synthid::SynthIdText::new(watermark.clone())),
        None => {}
    }
    if config.renormalize_logits {
        list.add(warpers::Normalize);
    }
    list.0
}

/// How many of the processors of a config come before the penalty that a diverse beam search has.
pub(crate) fn before_diversity(config: &GenerationConfig) -> usize {
    usize::from(!config.sequence_bias.is_empty())
}

/// A list that boxes what is added.
struct List(LogitsProcessorList);

impl List {
    fn add(&mut self, processor: impl LogitsProcessor + 'static) {
        self.0.push(Box::new(processor));
    }

    fn add_warpers(&mut self, config: &GenerationConfig, row: usize) {
        let keep = config.min_tokens_to_keep();
        if config.temperature != 1.0 && config.temperature > 0.0 {
            self.add(warpers::Temperature::new(config.temperature));
        }
        if let Some(share) = config.top_h {
            self.add(warpers::TopH::new(share));
        }
        if config.top_k > 0 {
            self.add(warpers::TopK::new(config.top_k.max(keep)));
        }
        if config.top_p < 1.0 {
            self.add(warpers::TopP::new(config.top_p, keep));
        }
        if let Some(share) = config.min_p {
            self.add(warpers::MinP::new(share, keep));
        }
        if config.typical_p < 1.0 {
            self.add(warpers::Typical::new(config.typical_p, keep));
        }
        if config.epsilon_cutoff > 0.0 && config.epsilon_cutoff < 1.0 {
            self.add(warpers::Epsilon::new(config.epsilon_cutoff, keep));
        }
        if config.eta_cutoff > 0.0 && config.eta_cutoff < 1.0 {
            self.add(warpers::Eta::new(config.eta_cutoff, keep));
        }
        if config.xtc_probability > 0.0 {
            let seed = config.seed.unwrap_or_else(random_seed);
            self.add(warpers::Xtc::new(config.xtc_probability, config.xtc_threshold, keep, seed, row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SeedingScheme, SynthIdTextWatermarkingConfig, WatermarkingConfig};
    use crate::sample::Sampler;

    const NONE: f32 = f32::NEG_INFINITY;

    fn apply(config: &GenerationConfig, ids: &[u32], prompt: usize, scores: &[f32]) -> Vec<f32> {
        let mut scores = scores.to_vec();
        for processor in &mut processors(config, config.do_sample) {
            processor.process(ids, prompt, &mut scores);
        }
        scores
    }

    #[test]
    fn the_default_config_changes_nothing() {
        assert!(processors(&GenerationConfig::default(), false).is_empty());
        // HF's default of 50 for `top_k`.
        assert_eq!(processors(&GenerationConfig::default(), true).len(), 1);
    }

    #[test]
    fn penalties_come_before_filters() {
        let config =
            GenerationConfig { do_sample: true, repetition_penalty: 2.0, top_k: 1, ..GenerationConfig::default() };
        // 4 becomes 2, which is less than 3.
        assert_eq!(apply(&config, &[0], 1, &[4.0, 3.0]), [NONE, 3.0]);
    }

    #[test]
    fn own_processors_come_before_temperature() {
        let config = GenerationConfig { temperature: 0.5, top_k: 0, ..GenerationConfig::default() };
        let add = |_: &[u32], _: usize, scores: &mut [f32]| scores.iter_mut().for_each(|score| *score += 1.0);
        let extras = Extras { processors: vec![Box::new(add)], ..Extras::default() };
        let mut scores = [1.0, 2.0];
        for processor in &mut processors_with(&config, true, extras) {
            processor.process(&[], 0, &mut scores);
        }
        assert_eq!(scores, [4.0, 6.0]);
    }

    #[test]
    fn min_new_tokens_wins_over_min_length() {
        let config = GenerationConfig {
            min_length: 9,
            min_new_tokens: Some(1),
            eos_token_id: vec![1, 2],
            ..GenerationConfig::default()
        };
        assert_eq!(apply(&config, &[0, 0], 2, &[0.0; 4]), [0.0, NONE, NONE, 0.0]);
        assert_eq!(apply(&config, &[0, 0, 0], 2, &[0.0; 4]), [0.0; 4]);
        let config = GenerationConfig { min_new_tokens: None, ..config };
        assert_eq!(apply(&config, &[0; 8], 2, &[0.0; 4]), [0.0, NONE, NONE, 0.0]);
    }

    /// Every processor at once.
    fn everything() -> GenerationConfig {
        GenerationConfig {
            do_sample: true,
            temperature: 0.7,
            top_h: Some(0.9),
            top_k: 20,
            top_p: 0.95,
            min_p: Some(0.01),
            typical_p: 0.95,
            epsilon_cutoff: 1e-4,
            eta_cutoff: 1e-4,
            xtc_probability: 0.5,
            xtc_threshold: 0.1,
            sequence_bias: vec![(vec![4], 1.5), (vec![5, 6], -2.0)],
            bad_words_ids: vec![vec![7], vec![8, 9]],
            repetition_penalty: 1.3,
            encoder_repetition_penalty: 1.1,
            frequency_penalty: 0.2,
            presence_penalty: 0.1,
            dry_multiplier: 0.8,
            no_repeat_ngram_size: 3,
            encoder_no_repeat_ngram_size: 3,
            min_new_tokens: Some(2),
            eos_token_id: vec![1],
            exponential_decay_length_penalty: Some((3, 1.2)),
            suppress_tokens: vec![10],
            begin_suppress_tokens: vec![11],
            watermarking_config: Some(WatermarkingConfig::default().into()),
            renormalize_logits: true,
            seed: Some(0),
            ..GenerationConfig::default()
        }
    }

    #[test]
    fn some_token_is_always_possible_and_calls_are_independent() {
        let config = everything();
        config.validate().unwrap();
        let mut list = processors(&config, true);
        let mut sampler = Sampler::new(3, 0);
        let mut ids = vec![5u32, 6, 8, 9, 5, 6];
        for step in 0..200u32 {
            let logits: Vec<f32> = (0..60u32).map(|i| ((i * 37 + step * 101) % 97) as f32 * 0.05).collect();
            let mut scores = logits.clone();
            list.iter_mut().for_each(|processor| processor.process(&ids, 6, &mut scores));
            assert!(scores.iter().any(|score| score.is_finite()), "{step}");
            assert_eq!(scores, apply(&config, &ids, 6, &logits));
            ids.push(sampler.draw(&scores));
        }
        assert!(!ids[6..].iter().any(|id| [7, 10].contains(id)) && ids[6] != 11);
        assert!(!ids[6..8].contains(&1));
    }

    #[test]
    fn no_input_makes_them_panic() {
        let config = GenerationConfig { remove_invalid_values: false, ..everything() };
        let strange = [f32::NAN, f32::INFINITY, NONE, 0.0, -0.0, f32::MAX, f32::MIN, 1e-40];
        let rows: [Vec<f32>; 6] = [
            vec![],
            vec![f32::NAN; 5],
            vec![NONE; 5],
            vec![f32::INFINITY; 5],
            strange.to_vec(),
            (0..300).map(|i| strange[i * i % 8]).collect(),
        ];
        for num_beams in [1, 3] {
            let config = GenerationConfig { num_beams, ..config.clone() };
            let green = |seeding_scheme| {
                BaseWatermarkingConfig::from(WatermarkingConfig { seeding_scheme, ..WatermarkingConfig::default() })
            };
            let synthid = SynthIdTextWatermarkingConfig::new(3, vec![i64::MAX, i64::MIN, 0]).into();
            for watermark in [green(SeedingScheme::LeftHash), green(SeedingScheme::SelfHash), synthid] {
                let config = GenerationConfig { watermarking_config: Some(watermark), ..config.clone() };
                for row in &rows {
                    for (ids, prompt) in [(vec![], 0), (vec![u32::MAX, 3, 3], 9), (vec![1, 2, 1, 2, 1, 2, 1], 2)] {
                        assert_eq!(apply(&config, &ids, prompt, row).len(), row.len());
                    }
                }
            }
        }
    }
}
