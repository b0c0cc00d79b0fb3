//! `tx generate`: what follows a prompt.

use std::cell::RefCell;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tx::built_in;
use tx_core::error::{Error, Result};
use tx_core::tokenizer::{EncodeOptions, Text};
use tx_generate::{Generated, Generator, Hooks, TextStreamer};

use super::Common;
use super::generation::{GenerationArgs, LanguageModel, extras, stop};
use super::output::{print_json, print_line, print_piece};

/// The arguments of `tx generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// A folder, or a model on the Hub: `owner/name[@revision]`
    #[arg(long, short, default_value = built_in::STORIES)]
    pub model: String,
    /// A text to continue; may be given several times
    #[arg(long, short, value_name = "TEXT", required_unless_present = "input_ids")]
    pub prompt: Vec<String>,
    /// Token ids to continue, with commas between them
    #[arg(long, value_name = "IDS", conflicts_with = "prompt")]
    pub input_ids: Option<String>,
    /// A smaller model with the same vocabulary, which proposes tokens
    #[arg(long, value_name = "M")]
    pub assistant_model: Option<String>,
    /// Shows the text while it is generated
    #[arg(long)]
    pub stream: bool,
    #[command(flatten)]
    pub generation: GenerationArgs,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Input`] for prompts and options that do not fit the model; everything that loading it can report.
pub fn run(args: &GenerateArgs, common: &Common) -> Result<()> {
    let model = LanguageModel::load(&args.model, common)?;
    let prompts = match &args.input_ids {
        Some(ids) => vec![parse_ids(ids)?],
        None => encode(&model, &args.prompt)?,
    };
    let plain = common.without_adapters();
    let assistant = args.assistant_model.as_ref().map(|name| LanguageModel::load(name, &plain)).transpose()?;
    let stream = args.stream && !common.json;
    let generated = generate(&model, assistant.as_ref(), &prompts, &args.generation, stream)?;
    if common.json {
        return print_json(&document(&model, &generated)?);
    }
    if !stream {
        for sequence in &generated.sequences {
            match &model.tokenizer {
                Some(tokenizer) => print_line(&tokenizer.decode(&sequence.ids, true)?)?,
                None => print_line(&sequence.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))?,
            }
        }
    }
    Ok(())
}

/// The tokens of texts.
pub fn encode(model: &LanguageModel, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let tokenizer = model.tokenizer()?;
    let encode = |text: &String| -> Result<Vec<u32>> {
        let encodings = tokenizer.encode(&Text::from(text.as_str()), &EncodeOptions::default())?;
        Ok(encodings.into_iter().flat_map(|encoding| encoding.ids).collect())
    };
    texts.iter().map(encode).collect()
}

/// Continues prompts, and shows the text of the first one meanwhile if `stream`.
pub fn generate(
    model: &LanguageModel,
    assistant: Option<&LanguageModel>,
    prompts: &[Vec<u32>],
    args: &GenerationArgs,
    stream: bool,
) -> Result<Generated> {
    let config = args.config(&model.folder)?;
    let constraint = model.constraint(args, &config)?;
    if stream && (prompts.len() > 1 || config.num_return_sequences > 1 || config.num_beams > 1) {
        let expected = "one prompt, one sequence and no beams: only these grow at their end alone";
        return Err(Error::input("--stream", "several sequences", expected));
    }
    let mut generator = Generator::from_auto(&model.model);
    if let Some(assistant) = assistant {
        generator = generator.with_assistant(assistant.model.model.as_ref(), assistant.model.limits)?;
    }
    let failed = RefCell::new(None);
    let mut streamer = TextStreamer::new(|ids: &[u32]| model.decode(ids));
    if let Some(prompt) = prompts.first().filter(|_| stream) {
        // Through the streamer, because what the first token reads as can depend on what stands before it.
        print_piece(&streamer.put(prompt)?)?;
    }
    let show = |streamer: &mut TextStreamer<_>, new: &[(usize, u32)]| -> Result<()> {
        let ids: Vec<u32> = new.iter().map(|&(_, id)| id).collect();
        print_piece(&streamer.put(&ids)?)
    };
    let generated = {
        let mut hooks = Hooks {
            step: stream.then(|| -> tx_generate::StepHook<'_> {
                Box::new(|new| match show(&mut streamer, new) {
                    Ok(()) => true,
                    Err(error) => {
                        failed.replace(Some(error));
                        false
                    }
                })
            }),
            stop: stop(model, &config, &failed),
            extras: extras(&constraint),
            ..Hooks::default()
        };
        generator.generate(prompts, &config, &mut hooks)?
    };
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    if stream {
        print_piece(&(streamer.end()? + "\n"))?;
    }
    Ok(generated)
}

/// `{"sequences": [[ids …]], "text": […]}`, the prompt's ids first, and what it cost.
fn document(model: &LanguageModel, generated: &Generated) -> Result<Value> {
    let sequences: Vec<&[u32]> = generated.sequences.iter().map(|sequence| sequence.ids.as_slice()).collect();
    let mut document = json!({ "sequences": sequences, "stats": stats(generated) });
    if model.tokenizer.is_some() {
        let texts: Vec<String> = sequences.iter().map(|ids| model.decode(ids)).collect::<Result<_>>()?;
        document["text"] = texts.into();
    }
    let scores: Option<Vec<f32>> = generated.sequences.iter().map(|sequence| sequence.score).collect();
    if let Some(scores) = scores {
        document["sequences_scores"] = scores.into();
    }
    Ok(document)
}

/// What a generation cost.
pub fn stats(generated: &Generated) -> Value {
    let stats = &generated.stats;
    let seconds = |time: Duration| time.as_secs_f64();
    json!({
        "prompt_tokens": stats.prompt_tokens,
        "new_tokens": stats.new_tokens,
        "prefill_seconds": seconds(stats.prefill),
        "decode_seconds": seconds(stats.decode),
        "seed": generated.seed,
    })
}

fn parse_ids(text: &str) -> Result<Vec<u32>> {
    let id = |word: &str| {
        let word = word.trim();
        word.parse().map_err(|_| Error::input("--input-ids", format_args!("`{word}`"), "token ids, such as 1,5,7"))
    };
    text.split(',').map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_with_commas() {
        assert_eq!(parse_ids("1, 5,7").unwrap(), [1, 5, 7]);
        for broken in ["", "1,,2", "-1", "a", "4294967296"] {
            assert!(parse_ids(broken).is_err(), "{broken}");
        }
    }
}
