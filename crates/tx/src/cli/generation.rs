//! What `tx generate` and `tx chat` share: a language model with its parts, and the options of generation.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use clap::Args;
use tx_core::config::{read_json, read_text};
use tx_core::error::{Error, Result};
use tx_core::registry::Auto;
use tx_core::task::CausalLm;
use tx_core::tokenizer::{EncodeOptions, Text, Tokenizer};
use tx_generate::constraint::{Constraint, Grammar, Vocabulary};
use tx_generate::{EarlyStopping, Extras, Finish, GenerationConfig, Overrides, Sequence, StopHook, StopStringCriteria};
use tx_text::models::CAUSAL_LM;

use super::Common;

/// The largest grammar, in bytes.
const MAX_GRAMMAR: u64 = 16 << 20;
/// Where the options stand that keep texts from repeating themselves.
const REPETITION: &str = "Repetition";
/// Where the options stand that a text has to obey.
const CONTENT: &str = "Content of the text";

/// How tokens are chosen and when that ends. What is not given is what the model's `generation_config.json` says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArgs {
    /// The most tokens that are generated
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// The least tokens that are generated
    #[arg(long, value_name = "N")]
    pub min_new_tokens: Option<usize>,
    /// The longest sequence, with the prompt
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,
    /// The shortest sequence, with the prompt
    #[arg(long, value_name = "N")]
    pub min_length: Option<usize>,
    /// Draws tokens
    #[arg(long, overrides_with = "no_sample")]
    pub sample: bool,
    /// Takes the most probable tokens
    #[arg(long)]
    pub no_sample: bool,
    /// Above 1 evens out what is drawn from, below 1 sharpens it
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Draws from the most probable tokens, so many; 0 for all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draws from the most probable tokens that have this probability together
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Draws from tokens that have this part of the highest probability
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Draws from tokens that are as surprising as is usual, until they have this probability together
    #[arg(long, value_name = "P")]
    pub typical_p: Option<f64>,
    /// Draws from tokens of at least this probability
    #[arg(long, value_name = "P")]
    pub epsilon_cutoff: Option<f64>,
    /// The same with a cutoff that falls where many tokens are as probable
    #[arg(long, value_name = "P")]
    pub eta_cutoff: Option<f64>,
    /// How often the most probable tokens are left out (XTC)
    #[arg(long, value_name = "P")]
    pub xtc_probability: Option<f64>,
    /// Of the tokens that have this probability XTC leaves the least probable
    #[arg(long, value_name = "P")]
    pub xtc_threshold: Option<f64>,
    /// Draws the same for the same seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How many hypotheses a beam search keeps
    #[arg(long, value_name = "N")]
    pub num_beams: Option<usize>,
    /// The groups of a diverse beam search
    #[arg(long, value_name = "N")]
    pub num_beam_groups: Option<usize>,
    /// What a token loses for each group that chose it before
    #[arg(long, value_name = "P")]
    pub diversity_penalty: Option<f64>,
    /// Above 0 beams prefer long sequences, below 0 short ones
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    pub length_penalty: Option<f64>,
    /// When a beam search ends: false, true or never
    #[arg(long, value_name = "WHEN", value_parser = ["false", "true", "never"])]
    pub early_stopping: Option<String>,
    /// How many sequences each prompt gets
    #[arg(long, value_name = "N")]
    pub num_return_sequences: Option<usize>,
    /// A token that ends the text; may be given several times
    #[arg(long, value_name = "E")]
    pub eos_token_id: Vec<u32>,
    /// A text that ends the generation; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// The time after which no token is begun, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub max_time: Option<f64>,
    /// Leads away from the last token of the prompt alone, or from the negative prompt, if above 1
    #[arg(long, value_name = "G")]
    pub guidance_scale: Option<f64>,
    /// How keys and values are kept: `dynamic`, as they are, or `quantized`, in 8 bits
    #[arg(long, value_name = "NAME")]
    pub cache_implementation: Option<String>,
    /// Computes the prompt in pieces of so many tokens
    #[arg(long, value_name = "N")]
    pub prefill_chunk_size: Option<usize>,
    /// Looks this many tokens up in the prompt, which the model checks in one pass
    #[arg(long, value_name = "N")]
    pub prompt_lookup_num_tokens: Option<usize>,

    /// Above 1 makes tokens that were there less probable
    #[arg(long, help_heading = REPETITION, value_name = "R")]
    pub repetition_penalty: Option<f64>,
    /// What a token loses for each time that it was generated
    #[arg(long, help_heading = REPETITION, value_name = "P", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f64>,
    /// What a token loses if it was generated
    #[arg(long, help_heading = REPETITION, value_name = "P", allow_negative_numbers = true)]
    pub presence_penalty: Option<f64>,
    /// No sequence of so many tokens comes twice; 0 for no limit
    #[arg(long, help_heading = REPETITION, value_name = "K")]
    pub no_repeat_ngram_size: Option<usize>,
    /// What a token loses if it goes on with a repetition (DRY)
    #[arg(long, help_heading = REPETITION, value_name = "P")]
    pub dry_multiplier: Option<f64>,
    /// DRY: that grows by this factor for each repeated token more
    #[arg(long, help_heading = REPETITION, value_name = "B")]
    pub dry_base: Option<f64>,
    /// DRY: repetitions of fewer tokens cost nothing
    #[arg(long, help_heading = REPETITION, value_name = "N")]
    pub dry_allowed_length: Option<usize>,
    /// DRY: looks at the last tokens only, so many
    #[arg(long, help_heading = REPETITION, value_name = "N")]
    pub dry_penalty_last_n: Option<usize>,
    /// DRY: a token that ends a repetition; may be given several times
    #[arg(long, help_heading = REPETITION, value_name = "ID")]
    pub dry_sequence_breakers: Vec<u32>,

    /// A text whose tokens do not occur in a row; may be given several times
    #[arg(long, help_heading = CONTENT, value_name = "TEXT")]
    pub bad_words: Vec<String>,
    /// The text is JSON that is valid under the schema in this file
    #[arg(long, help_heading = CONTENT, value_name = "FILE", group = "constraint")]
    pub schema: Option<PathBuf>,
    /// The text matches this regular expression
    #[arg(long, help_heading = CONTENT, value_name = "REGEX", group = "constraint")]
    pub regex: Option<String>,
    /// The text follows the grammar in this file, in Lark's syntax
    #[arg(long, help_heading = CONTENT, value_name = "FILE", group = "constraint")]
    pub grammar: Option<PathBuf>,
}

impl GenerationArgs {
    /// The model's settings, and what these options set.
    ///
    /// # Errors
    /// Those of [`GenerationConfig::from_folder`].
    fn config(&self, folder: &Path) -> Result<GenerationConfig> {
        let mut config = GenerationConfig::from_folder(folder)?;
        let early_stopping = self.early_stopping.as_deref().map(|when| match when {
            "true" => EarlyStopping::Yes,
            "never" => EarlyStopping::Never,
            _ => EarlyStopping::No,
        });
        let ids = |list: &[u32]| (!list.is_empty()).then(|| list.to_vec());
        config.overrides(Overrides {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            max_length: self.max_length,
            min_length: self.min_length,
            do_sample: (self.sample || self.no_sample).then_some(self.sample),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            epsilon_cutoff: self.epsilon_cutoff,
            eta_cutoff: self.eta_cutoff,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            seed: self.seed,
            num_beams: self.num_beams,
            num_beam_groups: self.num_beam_groups,
            diversity_penalty: self.diversity_penalty,
            length_penalty: self.length_penalty,
            early_stopping,
            num_return_sequences: self.num_return_sequences,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_penalty_last_n: self.dry_penalty_last_n,
            dry_sequence_breakers: ids(&self.dry_sequence_breakers),
            eos_token_id: ids(&self.eos_token_id),
            stop_strings: (!self.stop.is_empty()).then(|| self.stop.clone()),
            max_time: self.max_time,
            guidance_scale: self.guidance_scale,
            cache_implementation: self.cache_implementation.clone(),
            prefill_chunk_size: self.prefill_chunk_size,
            prompt_lookup_num_tokens: self.prompt_lookup_num_tokens,
            ..Overrides::default()
        });
        Ok(config)
    }

    /// An option without an effect on what `config` says is an error. `sample` is the option that draws.
    ///
    /// # Errors
    /// [`Error::Input`] with what it would have an effect with.
    pub fn check(&self, config: &GenerationConfig, sample: &str) -> Result<()> {
        let (beams, groups) = (config.num_beams > 1, config.num_beam_groups > 1);
        let (longest, shortest) = (config.max_new_tokens.is_none(), config.min_new_tokens.is_none());
        let (draws, dry) = (config.do_sample, config.dry_multiplier > 0.0);
        let xtc = draws && config.xtc_probability > 0.0;
        // Whether it is given, whether it has an effect, and with what it has one.
        let options = [
            ("--max-length", self.max_length.is_some(), longest, "no `max_new_tokens`, which wins"),
            ("--min-length", self.min_length.is_some(), shortest, "no `min_new_tokens`, which wins"),
            ("--temperature", self.temperature.is_some(), draws, sample),
            ("--top-k", self.top_k.is_some(), draws, sample),
            ("--top-p", self.top_p.is_some(), draws, sample),
            ("--min-p", self.min_p.is_some(), draws, sample),
            ("--typical-p", self.typical_p.is_some(), draws, sample),
            ("--epsilon-cutoff", self.epsilon_cutoff.is_some(), draws, sample),
            ("--eta-cutoff", self.eta_cutoff.is_some(), draws, sample),
            ("--xtc-probability", self.xtc_probability.is_some(), draws, sample),
            ("--xtc-threshold", self.xtc_threshold.is_some(), xtc, "--xtc-probability"),
            ("--length-penalty", self.length_penalty.is_some(), beams, "--num-beams"),
            ("--early-stopping", self.early_stopping.is_some(), beams, "--num-beams"),
            ("--diversity-penalty", self.diversity_penalty.is_some(), groups, "--num-beam-groups"),
            ("--dry-base", self.dry_base.is_some(), dry, "--dry-multiplier"),
            ("--dry-allowed-length", self.dry_allowed_length.is_some(), dry, "--dry-multiplier"),
            ("--dry-penalty-last-n", self.dry_penalty_last_n.is_some(), dry, "--dry-multiplier"),
            ("--dry-sequence-breakers", !self.dry_sequence_breakers.is_empty(), dry, "--dry-multiplier"),
        ];
        let idle = options.into_iter().find(|(_, given, works, _)| *given && !works);
        idle.map_or(Ok(()), |(name, _, _, with)| Err(Error::input(name, "given", format_args!("it with {with}"))))
    }

    /// What the text has to follow, if anything.
    fn grammar(&self) -> Result<Option<Grammar>> {
        Ok(match (&self.schema, &self.regex, &self.grammar) {
            (Some(file), ..) => Some(Grammar::JsonSchema(read_json(file)?)),
            (_, Some(regex), _) => Some(Grammar::Regex(regex.clone())),
            (.., Some(file)) => Some(Grammar::Lark(read_text(file, MAX_GRAMMAR)?)),
            _ => None,
        })
    }
}

/// A language model with what belongs to it.
pub struct LanguageModel {
    /// Where it lies.
    pub folder: PathBuf,
    /// The model.
    pub model: Auto<dyn CausalLm>,
    /// Its tokenizer, if it has one.
    pub tokenizer: Option<Tokenizer>,
}

impl LanguageModel {
    /// Loads a folder, or a model of the Hub.
    ///
    /// # Errors
    /// Everything that loading can report.
    pub fn load(name: &str, common: &Common) -> Result<Self> {
        let folder = common.folder(name)?;
        let model = tx::from_folder(&[CAUSAL_LM], &folder, &common.load_options()?)?;
        // Without one, ids are all there is.
        let tokenizer = match Tokenizer::from_folder(&folder) {
            Ok(tokenizer) => Some(tokenizer),
            Err(Error::MissingFile { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { folder, model, tokenizer })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::Input`] if the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let expected = format_args!("`--input-ids`, or a tokenizer in {}", self.folder.display());
        self.tokenizer.as_ref().ok_or_else(|| Error::input("--prompt", "no tokenizer", expected))
    }

    /// The model's settings, and what `args` sets.
    ///
    /// # Errors
    /// Those of [`GenerationConfig::from_folder`]; [`Error::Input`] for words if there is no tokenizer.
    pub fn config(&self, args: &GenerationArgs) -> Result<GenerationConfig> {
        let mut config = args.config(&self.folder)?;
        if !args.bad_words.is_empty() {
            config.bad_words_ids = self.bad_words(&args.bad_words)?;
        }
        Ok(config)
    }

    /// The tokens of words, at the beginning of a text and after a space.
    fn bad_words(&self, words: &[String]) -> Result<Vec<Vec<u32>>> {
        let tokenizer = self.tokenizer()?;
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let mut all = Vec::new();
        for word in words {
            if word.trim().is_empty() {
                return Err(Error::input("--bad-words", format_args!("`{word}`"), "a text"));
            }
            for text in [word.clone(), format!(" {word}")] {
                let encodings = tokenizer.encode(&Text::from(text.as_str()), &options)?;
                let ids: Vec<u32> = encodings.into_iter().flat_map(|encoding| encoding.ids).collect();
                if !ids.is_empty() && !all.contains(&ids) {
                    all.push(ids);
                }
            }
        }
        Ok(all)
    }

    /// What the text of `args` has to follow, if anything. Such a text ends by the tokenizer's token if the model's
    /// settings have none.
    ///
    /// # Errors
    /// [`Error::Input`] for a grammar that nothing follows, or if there is no tokenizer.
    pub fn constraint(&self, args: &GenerationArgs, config: &mut GenerationConfig) -> Result<Option<Constraint>> {
        let Some(grammar) = args.grammar()? else { return Ok(None) };
        let tokenizer = self.tokenizer()?;
        if config.eos_token_id.is_empty() {
            config.eos_token_id.extend(tokenizer.special().eos.as_ref().map(|token| token.id));
        }
        let vocabulary = Vocabulary::new(tokenizer, &config.eos_token_id)?;
        Constraint::new(&grammar, &vocabulary).map(Some)
    }

    /// The text of ids; nothing without a tokenizer.
    ///
    /// # Errors
    /// Those of decoding.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.as_ref().map_or_else(|| Ok(String::new()), |tokenizer| tokenizer.decode(ids, true))
    }
}

/// Ends a sequence at one of the config's stop strings, if it has any. What fails on the way is left in `failed`.
pub fn stop<'a>(
    model: &'a LanguageModel,
    config: &GenerationConfig,
    failed: &'a RefCell<Option<Error>>,
) -> Option<StopHook<'a>> {
    let strings = StopStringCriteria::new(&config.stop_strings, |ids: &[u32]| match &model.tokenizer {
        Some(tokenizer) => tokenizer.decode(ids, false),
        None => Ok(String::new()),
    });
    (!config.stop_strings.is_empty()).then(|| -> StopHook<'a> {
        Box::new(move |_, ids| match strings.stops(ids) {
            Ok(stops) => stops,
            Err(error) => {
                failed.replace(Some(error));
                true
            }
        })
    })
}

/// What each sequence has besides the config.
pub fn extras(constraint: &Option<Constraint>) -> Option<Box<dyn FnMut(usize) -> Extras + '_>> {
    let constraint = constraint.as_ref()?;
    Some(Box::new(|row| constraint.extras(row)))
}

/// A text that was cut follows no grammar.
///
/// # Errors
/// [`Error::Input`] with what cut it and what to do.
pub fn check_whole(constraint: &Constraint, sequence: &Sequence) -> Result<()> {
    // Who asks for an end at a text gets it.
    if sequence.finish == Finish::Stop || constraint.is_whole(sequence.new_ids())? {
        return Ok(());
    }
    let (found, remedy) = match sequence.finish {
        Finish::Time => ("cut by the time", "raise `--max-time`"),
        Finish::Length => ("cut by the length", "raise `--max-new-tokens`"),
        _ => ("cut", "let it go on, or simplify the grammar"),
    };
    let found = format!("{found} after {} tokens", sequence.new_ids().len());
    Err(Error::input("constrained text", found, format_args!("one that is whole: {remedy}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        generation: GenerationArgs,
    }

    /// Of a model whose file says this, the message for a line.
    fn message(file: &str, line: &[&str]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("generation_config.json"), file).unwrap();
        let Line { generation } = Line::try_parse_from(["tx"].iter().chain(line)).unwrap();
        let config = generation.config(folder.path()).unwrap();
        generation.check(&config, "--sample").err().map(|error| error.to_string())
    }

    #[test]
    fn options_without_an_effect_are_errors() {
        let line = ["--temperature", "0.5"];
        assert_eq!(message("{}", &line).unwrap(), "--temperature: given, expected it with --sample");
        assert_eq!(message(r#"{"do_sample": true}"#, &line), None);
        assert!(message(r#"{"do_sample": true}"#, &[&line[..], &["--no-sample"]].concat()).is_some());
        let idle: [&[&str]; 7] = [
            &["--max-length", "9", "--max-new-tokens", "3"],
            &["--xtc-threshold", "0.2", "--sample"],
            &["--length-penalty", "2"],
            &["--early-stopping", "true"],
            &["--diversity-penalty", "1", "--num-beams", "2"],
            &["--dry-base", "2"],
            &["--eta-cutoff", "0.1"],
        ];
        for line in idle {
            assert!(message("{}", line).is_some_and(|message| message.starts_with(line[0])), "{line:?}");
        }
        let works: [&[&str]; 4] = [
            &["--xtc-threshold", "0.2", "--xtc-probability", "0.5", "--sample", "--seed", "1"],
            &["--length-penalty", "2", "--num-beams", "3", "--early-stopping", "never"],
            &["--dry-multiplier", "1", "--dry-base", "2", "--dry-sequence-breakers", "7"],
            // What the file says is no concern of the line.
            &["--seed", "3"],
        ];
        for line in works {
            assert_eq!(message(r#"{"temperature": 0.5, "length_penalty": 2.0}"#, line), None, "{line:?}");
        }
    }
}
