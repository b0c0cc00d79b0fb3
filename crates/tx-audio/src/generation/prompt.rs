//! The tokens before the text: where it starts, the language, the task, and what was said before.

use tx_core::error::{Error, Result};

use super::config::{PromptConditionType, WhisperGenerationConfig, WhisperOptions, WhisperTask};
use super::languages::language_code;

/// The start, the language, the task, and whether there are times: HF's `_retrieve_init_tokens`.
///
/// `detect` chooses the language among the ids of all of them, if nothing says it.
pub(super) fn init_tokens(
    config: &WhisperGenerationConfig,
    options: &WhisperOptions,
    return_timestamps: bool,
    detect: impl FnOnce(Vec<u32>) -> Result<u32>,
) -> Result<Vec<u32>> {
    let keys = &config.keys;
    if keys.is_multilingual == Some(false) && (options.language.is_some() || options.task.is_some()) {
        let what = if options.language.is_some() { "language" } else { "task" };
        return Err(Error::input(what, "a choice", "none: the model knows English alone"));
    }
    let language = options.language.as_deref().or(keys.language.as_deref());
    let task = options.task.or(keys.task);
    let mut tokens = vec![Some(config.decoder_start_token_id)];
    if language.is_none() && task.is_none() {
        tokens.extend(forced_tokens(config)?);
    }
    let undefined = tokens.get(1).copied().flatten().is_none();
    let language_id = match (language, &keys.lang_to_id) {
        (Some(language), _) => Some(language_id(config, language)?),
        (None, Some(ids)) if undefined && !ids.is_empty() => Some(detect(ids.values().copied().collect())?),
        _ => None,
    };
    if let Some(id) = language_id {
        match tokens.get_mut(1) {
            Some(token) => *token = Some(id),
            None => tokens.push(Some(id)),
        }
    }
    let task_id = |task: WhisperTask| {
        let ids = keys.task_to_id.as_ref().ok_or_else(|| config.missing("task_to_id", "`task`"))?;
        ids.get(task.name()).copied().ok_or_else(|| config.missing("task_to_id", task.name()))
    };
    if let Some(task) = task {
        tokens.push(Some(task_id(task)?));
    } else if let (Some(_), Some(ids)) = (language, &keys.task_to_id)
        && !ids.values().any(|&id| tokens.contains(&Some(id)))
    {
        tokens.push(Some(task_id(WhisperTask::Transcribe)?));
    }
    if let Some(id) = keys.no_timestamps_token_id {
        let there = tokens.last() == Some(&Some(id));
        if return_timestamps && there {
            tokens.pop();
        } else if !return_timestamps && !there {
            tokens.push(Some(id));
        }
    }
    Ok(tokens.into_iter().flatten().collect())
}

/// What older models have in place of language and task: tokens for the places from 1 on; `None` stands for a language
/// that is to be detected.
fn forced_tokens(config: &WhisperGenerationConfig) -> Result<Vec<Option<u32>>> {
    let forced = config.keys.forced_decoder_ids.as_deref().unwrap_or_default();
    if forced.first().is_none_or(|&(place, _)| place != 1) {
        return Ok(Vec::new());
    }
    match forced.iter().zip(1..).find(|((place, _), expected)| place != expected) {
        Some((&(place, _), expected)) => {
            let reason = format_args!("place {place} after {}, expected {expected}", expected - 1);
            Err(Error::config(&config.path, "forced_decoder_ids", reason))
        }
        None => Ok(forced.iter().map(|&(_, token)| token).collect()),
    }
}

/// The token of a language, by its name, its code or the token itself.
fn language_id(config: &WhisperGenerationConfig, language: &str) -> Result<u32> {
    let ids = config.keys.lang_to_id.as_ref().ok_or_else(|| config.missing("lang_to_id", "`language`"))?;
    let language = language.to_lowercase();
    if let Some(&id) = ids.get(&language) {
        return Ok(id);
    }
    let token = format!("<|{}|>", language_code(&language)?);
    ids.get(&token).copied().ok_or_else(|| {
        Error::input("language", format_args!("`{token}`"), "a token of `lang_to_id` in `generation_config.json`")
    })
}

/// What was said before: the tokens of a prompt, and those of the segments so far.
#[derive(Debug, Default)]
pub(super) struct History {
    parts: Vec<Vec<u32>>,
}

impl History {
    /// Begins with the prompt, if that is for the first segment.
    pub(super) fn new(config: &WhisperGenerationConfig, options: &WhisperOptions) -> Self {
        let prompt = options.prompt_ids.as_deref();
        let prompt = prompt.filter(|_| options.prompt_condition_type == PromptConditionType::FirstSegment);
        let without_start = |ids: &[u32]| match ids.split_first() {
            Some((first, rest)) if Some(*first) == config.keys.prev_sot_token_id => rest.to_vec(),
            _ => ids.to_vec(),
        };
        Self { parts: prompt.map(without_start).into_iter().collect() }
    }

    /// Adds the tokens of a segment.
    pub(super) fn push(&mut self, tokens: &[u32]) {
        self.parts.push(tokens.to_vec());
    }

    /// The tokens before the text of the next part: HF's `_prepare_decoder_input_ids`.
    ///
    /// `suppressed` are the tokens that do not occur, `conditioned` says whether the part knows what was said before,
    /// and `positions` are those of the decoder.
    pub(super) fn prompt(
        &self,
        config: &WhisperGenerationConfig,
        options: &WhisperOptions,
        suppressed: &[u32],
        init: &[u32],
        conditioned: bool,
        positions: usize,
    ) -> Vec<u32> {
        let prompt_ids = options.prompt_ids.as_deref();
        if !conditioned || self.parts.is_empty() {
            return [prompt_ids.unwrap_or_default(), init].concat();
        }
        // Older models do not name the token, but forbid it.
        let unnamed = || suppressed.len().checked_sub(2).map(|i| suppressed[i]);
        let for_all = prompt_ids.filter(|_| options.prompt_condition_type == PromptConditionType::AllSegments);
        let start: Vec<u32> = match for_all {
            Some(ids) => ids.to_vec(),
            None => config.keys.prev_sot_token_id.or_else(unnamed).into_iter().collect(),
        };
        let begin = config.timestamp_begin().unwrap_or(u32::MAX);
        let said: Vec<u32> = self.parts.iter().flat_map(|part| without_second_time(part, begin)).copied().collect();
        // Half of the positions are for what is said now.
        let kept = (positions / 2).saturating_sub(1);
        [start.as_slice(), &said[said.len().saturating_sub(kept)..], init].concat()
    }
}

/// The tokens of a segment without the second of two times at its end.
fn without_second_time(tokens: &[u32], timestamp_begin: u32) -> &[u32] {
    match tokens {
        [first @ .., time, _] if !first.is_empty() && *time >= timestamp_begin => &tokens[..tokens.len() - 1],
        _ => tokens,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::config::{self, WhisperKeys};
    use super::*;

    fn config() -> WhisperGenerationConfig {
        let ids = |names: &[(&str, u32)]| Some(names.iter().map(|&(name, id)| (name.to_owned(), id)).collect());
        let lang_to_id: Option<BTreeMap<String, u32>> = ids(&[("<|en|>", 11), ("<|de|>", 12)]);
        let keys = WhisperKeys {
            is_multilingual: Some(true),
            lang_to_id,
            task_to_id: ids(&[("transcribe", 21), ("translate", 22)]),
            no_timestamps_token_id: Some(30),
            prev_sot_token_id: Some(9),
            forced_decoder_ids: Some(vec![(1, None), (2, Some(21))]),
            ..WhisperKeys::default()
        };
        config::tests::config(keys)
    }

    fn init(config: &WhisperGenerationConfig, options: &WhisperOptions, times: bool) -> Result<Vec<u32>> {
        init_tokens(config, options, times, |ids| Ok(ids[0]))
    }

    #[test]
    fn language_and_task_come_from_the_call_the_file_and_the_sound() {
        let options = WhisperOptions::default();
        assert_eq!(init(&config(), &options, false).unwrap(), [10, 12, 21, 30]);
        assert_eq!(init(&config(), &options, true).unwrap(), [10, 12, 21]);
        let english = WhisperOptions { language: Some("English".into()), ..options.clone() };
        assert_eq!(init(&config(), &english, false).unwrap(), [10, 11, 21, 30]);
        let token = WhisperOptions { language: Some("<|de|>".into()), ..options.clone() };
        assert_eq!(init(&config(), &token, true).unwrap(), [10, 12, 21]);
        let translate = WhisperOptions { task: Some(WhisperTask::Translate), ..english.clone() };
        assert_eq!(init(&config(), &translate, false).unwrap(), [10, 11, 22, 30]);
        let detected = WhisperOptions { task: Some(WhisperTask::Translate), ..options.clone() };
        assert_eq!(init(&config(), &detected, false).unwrap(), [10, 12, 22, 30]);
        let french = WhisperOptions { language: Some("fr".into()), ..options };
        assert!(init(&config(), &french, false).unwrap_err().to_string().contains("`<|fr|>`"));
        let alone = WhisperGenerationConfig {
            keys: WhisperKeys { is_multilingual: Some(false), ..WhisperKeys::default() },
            ..config()
        };
        assert_eq!(init(&alone, &WhisperOptions::default(), true).unwrap(), [10]);
        assert!(init(&alone, &english, true).is_err());
    }

    #[test]
    fn forced_tokens_have_places_in_a_row() {
        let with = |forced: Vec<(usize, Option<u32>)>| {
            let mut config = config();
            config.keys.forced_decoder_ids = Some(forced);
            init(&config, &WhisperOptions::default(), false)
        };
        assert_eq!(with(vec![(1, Some(11)), (2, Some(22)), (3, Some(30))]).unwrap(), [10, 11, 22, 30]);
        assert_eq!(with(vec![(2, Some(22))]).unwrap(), [10, 12, 30]);
        assert!(with(vec![(1, Some(11)), (3, Some(30))]).unwrap_err().to_string().contains("forced_decoder_ids"));
    }

    #[test]
    fn what_was_said_stands_before_the_text() {
        let (config, init) = (config(), [10, 11]);
        let options = WhisperOptions { prompt_ids: Some(vec![9, 1, 2]), ..WhisperOptions::default() };
        let mut history = History::new(&config, &options);
        assert_eq!(history.prompt(&config, &options, &[], &init, true, 40), [9, 1, 2, 10, 11]);
        assert_eq!(history.prompt(&config, &options, &[], &init, false, 40), [9, 1, 2, 10, 11]);
        history.push(&[31, 5, 33, 33]);
        assert_eq!(history.prompt(&config, &options, &[], &init, true, 40), [9, 1, 2, 31, 5, 33, 10, 11]);
        assert_eq!(history.prompt(&config, &options, &[], &init, true, 8), [9, 31, 5, 33, 10, 11]);
        let all = WhisperOptions { prompt_condition_type: PromptConditionType::AllSegments, ..options };
        let mut history = History::new(&config, &all);
        assert_eq!(history.prompt(&config, &all, &[], &init, true, 40), [9, 1, 2, 10, 11]);
        history.push(&[31, 5, 33]);
        assert_eq!(history.prompt(&config, &all, &[], &init, true, 40), [9, 1, 2, 31, 5, 33, 10, 11]);
        let plain = WhisperOptions::default();
        assert_eq!(History::new(&config, &plain).prompt(&config, &plain, &[], &init, true, 40), [10, 11]);
    }
}
