//! What decides how tokens are chosen and when that ends: HF's `GenerationConfig`.
//!
//! Reference: transformers 5.23.0, `generation/configuration_utils.py`. Names and defaults are HF's. The order of
//! precedence is: defaults, then the model's `generation_config.json` ([`GenerationConfig::from_folder`]), then what a
//! call sets ([`GenerationConfig::overrides`]).

mod setting;
mod watermarking;

use std::path::Path;

use serde_json::Value;
use tx_core::config::Config;
use tx_core::nn::KvPrecision;
use tx_core::{Error, Result};

use setting::{AMOUNT, ANY, COUNT, FINITE, PART, POSITIVE, ROWS, SHARE, SIZE, Setting, UNIT};
pub use setting::{AssistantSchedule, EarlyStopping};
pub use watermarking::{BaseWatermarkingConfig, SeedingScheme, SynthIdTextWatermarkingConfig, WatermarkingConfig};

/// What HF generates where nothing sets a length, in tokens.
const DEFAULT_NEW_TOKENS: usize = 20;

/// The caches that HF knows by name.
const CACHES: [&str; 11] = [
    "dynamic",
    "static",
    "offloaded",
    "offloaded_static",
    "quantized",
    "paged",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
    "offloaded_hybrid",
    "offloaded_hybrid_chunked",
];

/// That of them which rounds keys and values.
const QUANTIZED: &str = "quantized";

/// The bits that it may round them to.
const BITS: &str = "8";

/// Logits divided by less than this may be no numbers any more.
const LEAST_TEMPERATURE: f64 = 1e-30;

/// One row per option: its name, its type, the type that sets it, its default, and the numbers that it may have.
macro_rules! options {
    (
        files { $($(#[$doc:meta])* $name:ident: $type:ty as $set:ty = $default:expr, $range:expr;)* }
        calls { $($(#[$own_doc:meta])* $own:ident: $own_type:ty as $own_set:ty = $own_default:expr, $own_range:expr;)* }
    ) => {
        /// How tokens are chosen and when that ends.
        #[derive(Debug, Clone, PartialEq)]
        pub struct GenerationConfig {
            $($(#[$doc])* pub $name: $type,)*
            $($(#[$own_doc])* pub $own: $own_type,)*
        }

        impl Default for GenerationConfig {
            fn default() -> Self {
                Self { $($name: $default,)* $($own: $own_default,)* }
            }
        }

        /// What a call sets. It wins over the model's own settings, also where it sets the neutral value.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Overrides {
            $(#[doc = concat!("See [`GenerationConfig::", stringify!($name), "`].")] pub $name: Option<$set>,)*
            $(#[doc = concat!("See [`GenerationConfig::", stringify!($own), "`].")] pub $own: Option<$own_set>,)*
        }

        impl GenerationConfig {
            /// Sets what `overrides` holds.
            pub fn overrides(&mut self, overrides: Overrides) {
                $(if let Some(value) = overrides.$name { self.$name = value.into(); })*
                $(if let Some(value) = overrides.$own { self.$own = value.into(); })*
            }

            /// Sets the options that are among the keys of a file.
            fn read<'a>(
                &mut self,
                path: &Path,
                prefix: &str,
                get: impl Fn(&str) -> Option<&'a Value>,
            ) -> Result<()> {
                $(if let Some(value) = get(stringify!($name)) {
                    setting::read(value, $range, &mut self.$name)
                        .map_err(|reason| Error::config(path, format!("{prefix}{}", stringify!($name)), reason))?;
                })*
                Ok(())
            }

            /// Checks every number, wherever it came from.
            fn check_numbers(&self) -> Result<()> {
                let wrong = |name: &str, number: Option<f64>, range: setting::Range| match number {
                    Some(number) => Err(Error::input(name, number, range.text())),
                    None => Ok(()),
                };
                $(wrong(stringify!($name), self.$name.outside($range), $range)?;)*
                $(wrong(stringify!($own), self.$own.outside($own_range), $own_range)?;)*
                Ok(())
            }
        }
    };
}

options! {
    files {
        /// The longest sequence, with the prompt, in tokens; 20 tokens more than the prompt if nothing sets a length.
        max_length: Option<usize> as usize = None, SIZE;
        /// The most tokens that are generated; it wins over `max_length`.
        max_new_tokens: Option<usize> as usize = None, SIZE;
        /// The shortest sequence, with the prompt, in tokens.
        min_length: usize as usize = 0, COUNT;
        /// The least tokens that are generated; it wins over `min_length`.
        min_new_tokens: Option<usize> as usize = None, COUNT;
        /// When a beam search ends.
        early_stopping: EarlyStopping as EarlyStopping = EarlyStopping::No, ANY;
        /// The time after which no step begins, in seconds.
        max_time: Option<f64> as f64 = None, AMOUNT;
        /// Texts that end the generation.
        stop_strings: Vec<String> as Vec<String> = Vec::new(), ANY;

        /// Draws tokens instead of taking the most probable ones.
        do_sample: bool as bool = false, ANY;
        /// The hypotheses of a beam search; 1 for none.
        num_beams: usize as usize = 1, ROWS;
        /// The groups of a diverse beam search; 1 for none.
        num_beam_groups: usize as usize = 1, ROWS;
        /// What a token loses for each earlier group that chose it at this step.
        diversity_penalty: f64 as f64 = 0.0, FINITE;
        /// Drafts with the model's own heads for later tokens, which no model has here: refused.
        use_mtp: bool as bool = false, ANY;

        /// Keeps keys and values of the tokens so far.
        use_cache: bool as bool = true, ANY;
        /// HF's name of a cache. `quantized` keeps keys and values in 8 bits; all others are one here.
        cache_implementation: Option<String> as String = None, ANY;
        /// Arguments of that cache. Of the quantized one these are `nbits`, which is 8 if nothing else is said; the others
        /// say how Python's libraries go about it.
        cache_config: Option<Value> as Value = None, ANY;
        /// The room that Python's static cache has at least, in tokens; without effect on one that grows.
        max_cache_len: Option<usize> as usize = None, SIZE;
        /// The prompt is computed in pieces of so many tokens.
        prefill_chunk_size: Option<usize> as usize = None, SIZE;

        /// Divides the logits.
        temperature: f64 as f64 = 1.0, AMOUNT;
        /// Keeps the most probable tokens, so many; 0 for all.
        top_k: usize as usize = 50, COUNT;
        /// Keeps the most probable tokens that together have this probability.
        top_p: f64 as f64 = 1.0, UNIT;
        /// Keeps tokens that have this share of the most probable one's probability.
        min_p: Option<f64> as f64 = None, UNIT;
        /// Keeps the most probable tokens that together have this share of the entropy.
        top_h: Option<f64> as f64 = None, SHARE;
        /// Keeps the tokens nearest to the entropy that together have this probability.
        typical_p: f64 as f64 = 1.0, SHARE;
        /// Keeps tokens of at least this probability; 0 for all.
        epsilon_cutoff: f64 as f64 = 0.0, UNIT;
        /// The same with a cutoff that falls with the entropy; 0 for all.
        eta_cutoff: f64 as f64 = 0.0, UNIT;
        /// Divides positive logits of tokens that are in the sequence, and multiplies negative ones.
        repetition_penalty: f64 as f64 = 1.0, POSITIVE;
        /// The opposite for tokens that are in the encoder's input, or in the prompt.
        encoder_repetition_penalty: f64 as f64 = 1.0, POSITIVE;
        /// The power of a hypothesis' length that its score is divided by.
        length_penalty: f64 as f64 = 1.0, FINITE;
        /// N-grams of this size occur only once; 0 for no limit.
        no_repeat_ngram_size: usize as usize = 0, COUNT;
        /// N-grams of this size that are in the encoder's input, or in the prompt, do not occur; 0 for no limit.
        encoder_no_repeat_ngram_size: usize as usize = 0, COUNT;
        /// Sequences of tokens that do not occur.
        bad_words_ids: Vec<Vec<u32>> as Vec<Vec<u32>> = Vec::new(), ANY;
        /// What is added to the logit of the token that completes a sequence.
        sequence_bias: Vec<(Vec<u32>, f64)> as Vec<(Vec<u32>, f64)> = Vec::new(), FINITE;
        /// Tokens that do not occur.
        suppress_tokens: Vec<u32> as Vec<u32> = Vec::new(), ANY;
        /// Tokens that are not the first one.
        begin_suppress_tokens: Vec<u32> as Vec<u32> = Vec::new(), ANY;
        /// The token after the first one of a sequence.
        forced_bos_token_id: Option<u32> as u32 = None, ANY;
        /// The last token of a sequence that reaches its longest length.
        forced_eos_token_id: Vec<u32> as Vec<u32> = Vec::new(), ANY;
        /// After so many new tokens, the logit of the end rises by this factor's power.
        exponential_decay_length_penalty: Option<(usize, f64)> as (usize, f64) = None, POSITIVE;
        /// Replaces NaN by 0 and infinities by the largest numbers.
        remove_invalid_values: bool as bool = false, ANY;
        /// Makes logits log-probabilities again after all that changed them.
        renormalize_logits: bool as bool = false, ANY;
        /// Replaces the prompt's last token by one that begins with its text, which is not here: refused.
        token_healing: bool as bool = false, ANY;
        /// How much further than without a prompt the prompt moves the logits; 1 for no guidance.
        guidance_scale: Option<f64> as f64 = None, FINITE;
        /// Marks the text for those who know the key.
        watermarking_config: Option<BaseWatermarkingConfig> as BaseWatermarkingConfig = None, ANY;

        /// Results per prompt.
        num_return_sequences: usize as usize = 1, ROWS;
        /// Keeps attention maps. Generation keeps none: refused where a call asks for them, without effect in a file.
        output_attentions: bool as bool = false, ANY;
        /// Keeps hidden states: as `output_attentions`.
        output_hidden_states: bool as bool = false, ANY;
        /// Keeps the scores that tokens were chosen by.
        output_scores: bool as bool = false, ANY;
        /// Keeps the logits as they were.
        output_logits: bool as bool = false, ANY;
        /// Python returns an object; here there always is one.
        return_dict_in_generate: bool as bool = false, ANY;

        /// The token that fills rows that ended; the first end token if `None`.
        pad_token_id: Option<u32> as u32 = None, ANY;
        /// The token at the beginning.
        bos_token_id: Option<u32> as u32 = None, ANY;
        /// The tokens that end a sequence.
        eos_token_id: Vec<u32> as Vec<u32> = Vec::new(), ANY;
        /// The first token of a decoder that has an encoder.
        decoder_start_token_id: Option<u32> as u32 = None, ANY;

        /// Python marks the settings of a draft by it; without effect here.
        is_assistant: bool as bool = false, ANY;
        /// Tokens that are drafted at once.
        num_assistant_tokens: usize as usize = 20, SIZE;
        /// How that number changes.
        num_assistant_tokens_schedule: AssistantSchedule as AssistantSchedule = AssistantSchedule::Constant, ANY;
        /// A draft ends with a token that its model gives less than this probability, until what the model accepted shows
        /// a better one; 0 for drafts that end by their number of tokens alone.
        assistant_confidence_threshold: f64 as f64 = 0.4, UNIT;
        /// Tokens that are drafted from an earlier occurrence of the last ones.
        prompt_lookup_num_tokens: Option<usize> as usize = None, SIZE;
        /// How many of the last ones are looked for at most; 2 if `None`.
        max_matching_ngram_size: Option<usize> as usize = None, SIZE;
        /// Drafts with the model's first layers, so many, which is not here: refused.
        assistant_early_exit: Option<usize> as usize = None, SIZE;
        /// The draft's tokens that are aligned again where tokenizers differ; here they never do.
        assistant_lookbehind: usize as usize = 10, COUNT;
        /// The model's tokens that are aligned again where tokenizers differ; here they never do.
        target_lookbehind: usize as usize = 10, COUNT;
        /// Accepts drafts against a mixture with this share of the model's distribution.
        assistant_ensemble_weight: Option<f64> as f64 = None, PART;
        /// HF's name of a kind of drafting, of which none is here: refused.
        speculation_type: Option<String> as String = None, ANY;

        /// Arguments of Python's compiler, which have no effect here.
        compile_config: Option<Value> as Value = None, ANY;
        /// No compilation, of which there is none here.
        disable_compile: bool as bool = false, ANY;
    }
    // HF has none of these and ignores them in files, and so do files here.
    calls {
        /// What a token loses for each time that it was generated.
        frequency_penalty: f64 as f64 = 0.0, FINITE;
        /// What a token loses if it was generated.
        presence_penalty: f64 as f64 = 0.0, FINITE;
        /// What a token loses if it continues a repetition (DRY); 0 for nothing.
        dry_multiplier: f64 as f64 = 0.0, AMOUNT;
        /// That grows by this factor for each repeated token more.
        dry_base: f64 as f64 = 1.75, POSITIVE;
        /// The longest repetition that costs nothing is one token shorter.
        dry_allowed_length: usize as usize = 2, COUNT;
        /// The last tokens that are looked at, so many; all if `None`.
        dry_penalty_last_n: Option<usize> as usize = None, COUNT;
        /// Tokens that end a repetition.
        dry_sequence_breakers: Vec<u32> as Vec<u32> = Vec::new(), ANY;
        /// How often the most probable tokens are left out (XTC); 0 for never.
        xtc_probability: f64 as f64 = 0.0, UNIT;
        /// Of the tokens that have this probability all but the least probable are.
        xtc_threshold: f64 as f64 = 0.1, UNIT;
        /// What random numbers depend on; another one each time if `None`.
        seed: Option<u64> as u64 = None, ANY;
    }
}

impl GenerationConfig {
    /// Reads `generation_config.json` in a model's folder, or where it is missing the same keys of `config.json`.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if the folder has neither; [`Error::Io`], [`Error::Malformed`]; [`Error::Config`] for a
    /// value of the wrong type or out of range, [`Error::Unsupported`] for a way of decoding that is not implemented.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("generation_config.json");
        if path.is_file() { Self::from_file(&path) } else { Self::from_model_config(&Config::from_folder(folder)?) }
    }

    /// Reads a file of the form of `generation_config.json`. Unknown keys are ignored.
    ///
    /// # Errors
    /// As [`GenerationConfig::from_folder`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let keys = Config::from_file(path)?;
        let mut config = Self::default();
        config.read(path, "", |key| keys.get(key))?;
        config.of_file(&keys)
    }

    /// The options among the keys of a model's `config.json`, as models had them before there was a file for them.
    ///
    /// What the model's own keys do not say, those of its `decoder`, `generator` or `text_config` do.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Unsupported`].
    pub fn from_model_config(model: &Config) -> Result<Self> {
        let mut config = Self::default();
        let mut parts = ["decoder", "generator", "text_config"].into_iter();
        if let Some((part, keys)) = parts.find_map(|part| Some((part, model.get(part)?.as_object()?))) {
            config.read(model.path(), &format!("{part}."), |key| keys.get(key).filter(|value| !value.is_null()))?;
        }
        config.read(model.path(), "", |key| model.get(key))?;
        if model.get("force_bos_token_to_be_generated") == Some(&Value::Bool(true)) {
            config.forced_bos_token_id = config.bos_token_id;
        }
        config.of_file(model)
    }

    /// What was read of a file, if it is supported.
    fn of_file(mut self, keys: &Config) -> Result<Self> {
        self.check_supported(keys)?;
        // Configs of models say this about their forward passes.
        (self.output_attentions, self.output_hidden_states) = (false, false);
        Ok(self)
    }

    /// The first option that asks for what is not here, its value, and what it could be.
    fn not_here(&self) -> Option<(&'static str, String, &'static str)> {
        let asked = |asked: bool| asked.then(|| "true".to_owned());
        let early_exit = self.assistant_early_exit.map(|layers| layers.to_string());
        let speculation = self.speculation_type.as_deref().map(|name| name.escape_debug().take(60).collect());
        let options = [
            ("use_mtp", asked(self.use_mtp), "false; drafts come from an assistant or `prompt_lookup_num_tokens`"),
            ("token_healing", asked(self.token_healing), "false"),
            ("assistant_early_exit", early_exit, "null; an assistant is a model of its own"),
            ("speculation_type", speculation, "null; drafts come from an assistant or `prompt_lookup_num_tokens`"),
        ];
        options.into_iter().find_map(|(name, value, expected)| Some((name, value?, expected)))
    }

    /// Rejects ways of decoding that HF moved out of the library and that are not here either.
    fn check_supported(&self, keys: &Config) -> Result<()> {
        let unsupported = |key: &str, value: &str, supported: &str| Error::Unsupported {
            path: keys.path().to_path_buf(),
            key: key.to_owned(),
            value: value.to_owned(),
            supported: supported.to_owned(),
        };
        if let Some(name) = self.cache_implementation.as_deref().filter(|name| !CACHES.contains(name)) {
            return Err(unsupported("cache_implementation", name, &CACHES.join(", ")));
        }
        if let Some(bits) = self.unsupported_bits() {
            return Err(unsupported("cache_config.nbits", &bits, BITS));
        }
        if let Some((key, value, supported)) = self.not_here() {
            return Err(unsupported(key, &value, supported));
        }
        let searches = "greedy search, sampling, beam search, diverse beam search, assisted generation";
        if let Some(alpha) = keys.get("penalty_alpha").filter(|alpha| alpha.as_f64() != Some(0.0) && !self.do_sample) {
            return Err(unsupported("penalty_alpha", &alpha.to_string(), searches));
        }
        for key in ["dola_layers", "constraints", "force_words_ids"] {
            if let Some(value) = keys.get(key) {
                return Err(unsupported(key, &value.to_string().chars().take(60).collect::<String>(), searches));
            }
        }
        Ok(())
    }

    /// Rejects numbers that are out of range and options that contradict each other.
    ///
    /// # Errors
    /// [`Error::Input`] that names the option, what it is and what it could be.
    pub fn validate(&self) -> Result<()> {
        self.check_numbers()?;
        let wrong = |what: &str, found: String, expected: String| Err(Error::input(what, found, expected));
        let (beams, groups, results) = (self.num_beams, self.num_beam_groups, self.num_return_sequences);
        if results > 1 && beams == 1 && !self.do_sample {
            let expected = "1 for greedy search; set `do_sample` or `num_beams`";
            return wrong("num_return_sequences", results.to_string(), expected.into());
        }
        if beams > 1 && results > beams {
            return wrong(
                "num_return_sequences",
                results.to_string(),
                format!("at most `num_beams`, which is {beams}"),
            );
        }
        if groups > 1 && !beams.is_multiple_of(groups) {
            return wrong("num_beam_groups", groups.to_string(), format!("a divisor of `num_beams`, which is {beams}"));
        }
        if groups > 1 && self.do_sample {
            return wrong("num_beam_groups", groups.to_string(), "1 with `do_sample`".into());
        }
        if groups > 1 && self.diversity_penalty <= 0.0 {
            let expected = "a number above 0 with `num_beam_groups`: all groups would find the same".to_owned();
            return wrong("diversity_penalty", self.diversity_penalty.to_string(), expected);
        }
        if let (Some(least), Some(most)) = (self.min_new_tokens, self.max_new_tokens)
            && least > most
        {
            return wrong("min_new_tokens", least.to_string(), format!("at most `max_new_tokens`, which is {most}"));
        }
        if let (None, None, Some(most)) = (self.min_new_tokens, self.max_new_tokens, self.max_length)
            && self.min_length > most
        {
            return wrong("min_length", self.min_length.to_string(), format!("at most `max_length`, which is {most}"));
        }
        if self.do_sample && self.temperature < LEAST_TEMPERATURE {
            let expected = format!("at least {LEAST_TEMPERATURE:?}; for greedy search turn `do_sample` off");
            return wrong("temperature", format!("{:?}", self.temperature), expected);
        }
        if let Some((option, value, expected)) = self.not_here() {
            return wrong(option, value, expected.into());
        }
        for (option, asked) in
            [("output_attentions", self.output_attentions), ("output_hidden_states", self.output_hidden_states)]
        {
            if asked {
                return wrong(option, "true".into(), "false; a forward pass with a `Record` keeps them".into());
            }
        }
        let (bos, eos) = (self.forced_bos_token_id.as_slice(), self.forced_eos_token_id.as_slice());
        for (name, forced) in [("forced_bos_token_id", bos), ("forced_eos_token_id", eos)] {
            if !forced.is_empty() && forced.iter().all(|id| self.suppress_tokens.contains(id)) {
                return wrong(name, format!("{forced:?}"), "a token that is not among `suppress_tokens`".into());
            }
        }
        if self.exponential_decay_length_penalty.is_some() && self.eos_token_id.is_empty() {
            let expected = "an `eos_token_id` with it".to_owned();
            return wrong("exponential_decay_length_penalty", "no end token".into(), expected);
        }
        if self.prompt_lookup_num_tokens.is_some() && (beams > 1 || results > 1) {
            let found = format!("{beams} beams and {results} results per prompt");
            return wrong("prompt_lookup_num_tokens", found, "one of each".into());
        }
        if let Some(name) = self.cache_implementation.as_deref().filter(|name| !CACHES.contains(name)) {
            return wrong("cache_implementation", format!("`{}`", name.escape_debug()), CACHES.join(", "));
        }
        if let Some(bits) = self.unsupported_bits() {
            return wrong("cache_config", format!("`nbits` of {bits}"), BITS.into());
        }
        match self.watermarking_config.as_ref().and_then(BaseWatermarkingConfig::problem) {
            Some(expected) => wrong("watermarking_config", "another value".into(), expected.into()),
            None => Ok(()),
        }
    }

    /// Rejects token ids that have to be in the vocabulary and are not.
    ///
    /// # Errors
    /// [`Error::Input`] that names the option and the id.
    pub fn validate_ids(&self, vocab_size: usize) -> Result<()> {
        let check = |what: &str, ids: &[u32]| match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(id) => Err(Error::input(what, format_args!("token id {id}"), format_args!("ids below {vocab_size}"))),
            None => Ok(()),
        };
        check("forced_bos_token_id", self.forced_bos_token_id.as_slice())?;
        check("forced_eos_token_id", &self.forced_eos_token_id)?;
        self.bad_words_ids.iter().try_for_each(|ids| check("bad_words_ids", ids))?;
        self.sequence_bias.iter().try_for_each(|(ids, _)| check("sequence_bias", ids))
    }

    /// The length at which a sequence with so long a prompt ends. A model's own limit is not part of it.
    pub fn max_length_for(&self, prompt: usize) -> usize {
        match (self.max_new_tokens, self.max_length) {
            (Some(new), _) => prompt.saturating_add(new),
            (None, Some(length)) => length,
            (None, None) => prompt.saturating_add(DEFAULT_NEW_TOKENS),
        }
    }

    /// Whether something sets how long sequences may become.
    pub fn has_length(&self) -> bool {
        self.max_new_tokens.is_some() || self.max_length.is_some()
    }

    /// Allows so many new tokens if nothing sets a length, or more if more are asked for.
    pub fn or_new_tokens(&mut self, most: usize) {
        if !self.has_length() {
            self.max_new_tokens = Some(most.max(self.min_new_tokens.unwrap_or(1)));
        }
    }

    /// Whether a token ends a sequence.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_token_id.contains(&id)
    }

    /// The token that fills rows that ended, as HF chooses it.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_token_id.or_else(|| self.eos_token_id.first().copied())
    }

    fn has_quantized_cache(&self) -> bool {
        self.cache_implementation.as_deref() == Some(QUANTIZED)
    }

    /// How the cache keeps keys and values.
    pub(crate) fn kv_precision(&self) -> KvPrecision {
        if self.has_quantized_cache() { KvPrecision::Int8 } else { KvPrecision::Float }
    }

    /// What the cache should have 8 of and has not.
    fn unsupported_bits(&self) -> Option<String> {
        let bits = self.cache_config.as_ref().filter(|_| self.has_quantized_cache())?.get("nbits")?;
        (!bits.is_null() && bits.as_f64() != Some(8.0)).then(|| bits.to_string().chars().take(60).collect())
    }

    /// The tokens that a warper keeps at least: beams need one that does not end the sequence.
    pub(crate) fn min_tokens_to_keep(&self) -> usize {
        if self.num_beams > 1 { (self.eos_token_id.len() + 1).max(2) } else { 1 }
    }
}

#[cfg(test)]
mod tests;
