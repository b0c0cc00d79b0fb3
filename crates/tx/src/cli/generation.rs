//! What `tx generate` and `tx chat` share: a language model with its parts, and the options of generation.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use clap::Args;
use tx_core::config::{read_json, read_text};
use tx_core::error::{Error, Result};
use tx_core::registry::Auto;
use tx_core::task::CausalLm;
use tx_core::tokenizer::Tokenizer;
use tx_generate::constraint::{Constraint, Grammar, Vocabulary};
use tx_generate::{EarlyStopping, Extras, GenerationConfig, Overrides, StopHook, StopStringCriteria};
use tx_text::models::CAUSAL_LM;

use super::Common;

/// The largest grammar, in bytes.
const MAX_GRAMMAR: u64 = 16 << 20;

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
    /// Above 1 makes tokens that were there less probable
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f64>,
    /// What a token loses for each time that it was generated
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f64>,
    /// What a token loses if it was generated
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub presence_penalty: Option<f64>,
    /// No sequence of so many tokens comes twice; 0 for no limit
    #[arg(long, value_name = "K")]
    pub no_repeat_ngram_size: Option<usize>,
    /// A token that ends the text; may be given several times
    #[arg(long, value_name = "E")]
    pub eos_token_id: Vec<u32>,
    /// A text that ends the generation; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// The time after which no token is begun, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub max_time: Option<f64>,
    /// Leads away from the prompt without its last tokens, if above 1
    #[arg(long, value_name = "G")]
    pub guidance_scale: Option<f64>,
    /// How keys and values are kept: `dynamic`, as they are, or `quantized`, in 8 bits
    #[arg(long, value_name = "NAME")]
    pub cache_implementation: Option<String>,
    /// Looks this many tokens up in the prompt, which the model checks in one pass
    #[arg(long, value_name = "N")]
    pub prompt_lookup_num_tokens: Option<usize>,

    /// The text is JSON that is valid under the schema in this file
    #[arg(long, value_name = "FILE", group = "constraint")]
    pub schema: Option<PathBuf>,
    /// The text matches this regular expression
    #[arg(long, value_name = "REGEX", group = "constraint")]
    pub regex: Option<String>,
    /// The text follows the grammar in this file, in Lark's syntax
    #[arg(long, value_name = "FILE", group = "constraint")]
    pub grammar: Option<PathBuf>,
}

impl GenerationArgs {
    /// The model's settings, and what these options set.
    ///
    /// # Errors
    /// Those of [`GenerationConfig::from_folder`].
    pub fn config(&self, folder: &Path) -> Result<GenerationConfig> {
        let mut config = GenerationConfig::from_folder(folder)?;
        let early_stopping = self.early_stopping.as_deref().map(|when| match when {
            "true" => EarlyStopping::Yes,
            "never" => EarlyStopping::Never,
            _ => EarlyStopping::No,
        });
        let given = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        config.overrides(Overrides {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            max_length: self.max_length,
            do_sample: (self.sample || self.no_sample).then_some(self.sample),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
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
            eos_token_id: (!self.eos_token_id.is_empty()).then(|| self.eos_token_id.clone()),
            stop_strings: given(&self.stop),
            max_time: self.max_time,
            guidance_scale: self.guidance_scale,
            cache_implementation: self.cache_implementation.clone(),
            prompt_lookup_num_tokens: self.prompt_lookup_num_tokens,
            ..Overrides::default()
        });
        Ok(config)
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

    /// What the text of `args` has to follow, if anything.
    ///
    /// # Errors
    /// [`Error::Input`] for a grammar that nothing follows, or if there is no tokenizer.
    pub fn constraint(&self, args: &GenerationArgs, config: &GenerationConfig) -> Result<Option<Constraint>> {
        let Some(grammar) = args.grammar()? else { return Ok(None) };
        let vocabulary = Vocabulary::new(self.tokenizer()?, &config.eos_token_id)?;
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
