//! `tx generate`: what follows a prompt.

use std::cell::RefCell;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tx::built_in;
use tx_core::error::{Error, Result};
use tx_core::tokenizer::{EncodeOptions, Text};
use tx_generate::constraint::STRUCTURED_TOKENS;
use tx_generate::{Generated, GenerationConfig, Generator, Hooks, Sequence, TextStreamer, TokenLogprob};

use super::Common;
use super::generation::{GenerationArgs, LanguageModel, check_whole, extras, stop};
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
    /// How many tokens the smaller model proposes at once [default: 20]
    #[arg(long, value_name = "N")]
    pub num_assistant_tokens: Option<usize>,
    /// A text that --guidance-scale leads away from; one for all prompts, or one for each
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Vec<String>,
    /// With --json: the log-probability of each new token, and of so many of the most probable ones
    #[arg(long, value_name = "N")]
    pub logprobs: Option<usize>,
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
    if args.stream && common.json {
        return Err(Error::input("--stream", "given with --json", "one of them"));
    }
    if args.logprobs.is_some() && !common.json {
        return Err(Error::input("--logprobs", "given", "it with --json"));
    }
    let model = LanguageModel::load(&args.model, common)?;
    let prompts = match &args.input_ids {
        Some(ids) => vec![parse_ids(ids)?],
        None => encode(&model, &args.prompt)?,
    };
    let mut config = model.config(&args.generation)?;
    args.check(&config)?;
    config.num_assistant_tokens = args.num_assistant_tokens.unwrap_or(config.num_assistant_tokens);
    let plain = common.without_adapters();
    let assistant = args.assistant_model.as_ref().map(|name| LanguageModel::load(name, &plain)).transpose()?;
    let negative = &args.negative_prompt;
    let call = Call {
        assistant: assistant.as_ref(),
        negative_prompts: if negative.is_empty() { None } else { Some(encode(&model, negative)?) },
        logprobs: args.logprobs,
        stream: args.stream,
        new_tokens: None,
    };
    let generated = generate(&model, &prompts, &args.generation, config, call)?;
    if common.json {
        return print_json(&document(&model, &generated)?);
    }
    if !args.stream {
        for sequence in &generated.sequences {
            match &model.tokenizer {
                Some(tokenizer) => print_line(&tokenizer.decode(&sequence.ids, true)?)?,
                None => print_line(&sequence.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))?,
            }
        }
    }
    Ok(())
}

impl GenerateArgs {
    /// An option without an effect is an error.
    fn check(&self, config: &GenerationConfig) -> Result<()> {
        self.generation.check(config, "--sample")?;
        let assisted = self.assistant_model.is_some();
        let guided = config.guidance_scale.is_some_and(|scale| scale != 1.0);
        let lookup = self.generation.prompt_lookup_num_tokens.is_some();
        // Whether it is given, whether it has an effect, and where it has one.
        let options = [
            ("--assistant-model", assisted, config.num_beams <= 1, "it without beams"),
            ("--num-assistant-tokens", self.num_assistant_tokens.is_some(), assisted, "it with --assistant-model"),
            ("--prompt-lookup-num-tokens", lookup, !assisted, "it without --assistant-model"),
            ("--negative-prompt", !self.negative_prompt.is_empty(), guided, "it with --guidance-scale"),
        ];
        let idle = options.into_iter().find(|(_, given, works, _)| *given && !works);
        idle.map_or(Ok(()), |(name, _, _, expected)| Err(Error::input(name, "given", expected)))
    }
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

/// What a call of [`generate`] has besides prompts and settings.
#[derive(Default)]
pub struct Call<'a> {
    /// What proposes tokens.
    pub assistant: Option<&'a LanguageModel>,
    /// See [`Hooks::negative_prompts`].
    pub negative_prompts: Option<Vec<Vec<u32>>>,
    /// See [`Hooks::logprobs`].
    pub logprobs: Option<usize>,
    /// Shows the text of the first prompt meanwhile.
    pub stream: bool,
    /// The most new tokens where nothing sets a length; as few as HF's if `None`.
    pub new_tokens: Option<usize>,
}

/// Continues prompts.
pub fn generate(
    model: &LanguageModel,
    prompts: &[Vec<u32>],
    args: &GenerationArgs,
    mut config: GenerationConfig,
    call: Call<'_>,
) -> Result<Generated> {
    let Call { assistant, negative_prompts, logprobs, stream, new_tokens } = call;
    let constraint = model.constraint(args, &mut config)?;
    if stream && (prompts.len() > 1 || config.num_return_sequences > 1 || config.num_beams > 1) {
        let expected = "one prompt, one sequence and no beams: only these grow at their end alone";
        return Err(Error::input("--stream", "several sequences", expected));
    }
    let mut generator = Generator::from_auto(&model.model);
    if let Some(assistant) = assistant {
        generator = generator.with_assistant(assistant.model.model.as_ref(), assistant.model.limits)?;
    }
    // What a grammar asks for is whole or useless.
    if let Some(most) = constraint.as_ref().map(|_| STRUCTURED_TOKENS).or(new_tokens) {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        config.or_new_tokens(generator.room(longest, most));
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
            negative_prompts,
            logprobs,
        };
        generator.generate(prompts, &config, &mut hooks)?
    };
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    if stream {
        print_piece(&(streamer.end()? + "\n"))?;
    }
    if let Some(constraint) = &constraint {
        generated.sequences.iter().try_for_each(|sequence| check_whole(constraint, sequence))?;
    }
    Ok(generated)
}

/// `{"sequences": [[ids …]], "finish": […], "text": […]}`, the prompt's ids first, and what it cost.
fn document(model: &LanguageModel, generated: &Generated) -> Result<Value> {
    let sequences: Vec<&[u32]> = generated.sequences.iter().map(|sequence| sequence.ids.as_slice()).collect();
    let finish: Vec<&str> = generated.sequences.iter().map(|sequence| sequence.finish.name()).collect();
    let mut document = json!({ "sequences": sequences, "finish": finish, "stats": stats(generated) });
    if model.tokenizer.is_some() {
        let texts: Vec<String> = sequences.iter().map(|ids| model.decode(ids)).collect::<Result<_>>()?;
        document["text"] = texts.into();
    }
    let scores: Option<Vec<f32>> = generated.sequences.iter().map(|sequence| sequence.score).collect();
    if let Some(scores) = scores {
        document["sequences_scores"] = scores.into();
    }
    if generated.sequences.iter().any(|sequence| !sequence.logprobs.is_empty()) {
        document["logprobs"] = generated.sequences.iter().map(logprobs).collect();
    }
    Ok(document)
}

/// `[{"token": id, "logprob": number, "top": [[id, number] …]} …]`, one for each new token.
fn logprobs(sequence: &Sequence) -> Value {
    let token = |token: &TokenLogprob| json!({ "token": token.token, "logprob": token.logprob, "top": token.top });
    sequence.logprobs.iter().map(token).collect()
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
