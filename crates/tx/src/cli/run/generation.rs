//! `tx run text-generation`: what HF's pipeline gives, by the way of `tx generate`.
//!
//! It differs where neither the call nor the model says how tokens are chosen: HF's pipeline draws them at a temperature
//! of 0.7, and here the most probable ones are taken, which is the same each time.

use clap::{ArgAction, Args};
use serde_json::{Value, json};
use tx_core::error::Result;
use tx_text::pipelines::TopK;

use super::Command;
use crate::cli::generate::{Call, encode, generate};
use crate::cli::generation::{GenerationArgs, LanguageModel};
use crate::cli::output::{print_json, print_line};

/// What HF's pipeline generates at most where nothing sets a length, in tokens.
const MAX_NEW_TOKENS: usize = 256;

/// The options of `tx run text-generation`; `tx generate` has many more.
#[derive(Debug, Args)]
pub struct TextGenerationArgs {
    /// text-generation, automatic-speech-recognition: the most tokens that are generated [default: 256, or what the
    /// model says]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// text-generation: draws tokens, or takes the most probable ones [default: what the model says, or else false,
    /// where Python's pipeline draws at a temperature of 0.7]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub do_sample: Option<bool>,
    /// text-generation, automatic-speech-recognition: above 1 evens out what is drawn from, below 1 sharpens it
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// text-generation: draws from the most probable tokens that have this probability together
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// text-generation, automatic-speech-recognition: draws the same for the same seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// text-generation, automatic-speech-recognition: how many hypotheses a beam search keeps
    #[arg(long, value_name = "N")]
    pub num_beams: Option<usize>,
    /// text-generation: how many sequences each prompt gets
    #[arg(long, value_name = "N")]
    pub num_return_sequences: Option<usize>,
    /// text-generation: whether the prompt is part of the text [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub return_full_text: Option<bool>,
}

impl Command<'_> {
    pub(super) fn text_generation(&self) -> Result<()> {
        let args = self.args;
        let (texts, list) = args.inputs()?;
        let top_k = match args.top_k {
            Some(TopK::First(count)) => Some(count),
            Some(_) => Some(0),
            None => None,
        };
        let options = GenerationArgs {
            max_new_tokens: args.generation.max_new_tokens,
            sample: args.generation.do_sample == Some(true),
            no_sample: args.generation.do_sample == Some(false),
            temperature: args.generation.temperature,
            top_k,
            top_p: args.generation.top_p,
            seed: args.generation.seed,
            num_beams: args.generation.num_beams,
            num_return_sequences: args.generation.num_return_sequences,
            ..GenerationArgs::default()
        };
        let model = LanguageModel::load(self.model, self.common)?;
        let config = model.config(&options)?;
        options.check(&config, "--do-sample true")?;
        if texts.is_empty() {
            return if self.common.json { print_json(&json!([])) } else { Ok(()) };
        }
        let call = Call { new_tokens: Some(MAX_NEW_TOKENS), ..Call::default() };
        let generated = generate(&model, &encode(&model, &texts)?, &options, config, call)?;
        let each = generated.sequences.len() / texts.len();
        let mut results = Vec::new();
        for (prompt, sequences) in texts.iter().zip(generated.sequences.chunks(each.max(1))) {
            let mut of_prompt: Vec<Value> = Vec::new();
            for sequence in sequences {
                // The prompt as it was given, and what the rest adds to its text. (Decoded alone, as transformers 5.23
                // does it, the rest loses the space before its first word.)
                let (all, before) = (model.decode(&sequence.ids)?, model.decode(&sequence.ids[..sequence.prompt])?);
                let new = all.get(before.len()..).unwrap_or(&all);
                let text = if args.generation.return_full_text == Some(false) {
                    new.to_owned()
                } else {
                    format!("{prompt}{new}")
                };
                of_prompt.push(json!({ "generated_text": text }));
            }
            results.push(of_prompt);
        }
        if self.common.json {
            return if list { print_json(&results) } else { print_json(&results[0]) };
        }
        let texts = results.iter().flatten().filter_map(|result| result["generated_text"].as_str());
        texts.into_iter().try_for_each(print_line)
    }
}
