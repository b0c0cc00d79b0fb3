//! `tx chat`: a conversation with a model that has a chat template.
//!
//! What is said is kept as long as it fits the model's context; what does not is refused, and the conversation goes on.

use std::cell::RefCell;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tx_core::error::{Error, Result};
use tx_generate::{Finish, Generator, Hooks, Session, TextStreamer};
use tx_text::chat::{ChatOptions, ChatTemplate, Message};

use super::Common;
use super::generation::{GenerationArgs, LanguageModel, extras, stop};
use super::output::print_piece;

/// The most tokens of an answer, if neither the command nor the model says so.
const MAX_NEW_TOKENS: usize = 1024;

/// The arguments of `tx chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// A folder, or a model on the Hub: `owner/name[@revision]`
    #[arg(long, short)]
    pub model: String,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub generation: GenerationArgs,
}

/// Set by Ctrl-C: the answer ends, the program goes on.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

const HELP: &str =
    "/reset forgets the conversation, /system TEXT sets what the model is told, /exit ends; Ctrl-C stops an answer";

/// Runs the command.
///
/// # Errors
/// [`Error::MissingFile`] if the model has no chat template; everything that loading and running it can report.
pub fn run(args: &ChatArgs, common: &Common) -> Result<()> {
    let model = LanguageModel::load(&args.model, common)?;
    let template = ChatTemplate::from_folder(&model.folder, model.tokenizer()?.special())?;
    let interrupt = ctrlc::set_handler(|| {
        // Twice in a row, without an answer to stop, is meant for the program.
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(error) = interrupt {
        tracing::warn!("Ctrl-C ends the program: {error}");
    }
    let generator = Generator::from_auto(&model.model);
    let mut session = generator.session();
    let mut messages: Vec<Message> = args.system.iter().map(|text| Message::system(text.as_str())).collect();
    let terminal = io::stdin().is_terminal();
    if terminal {
        eprintln!("{HELP}");
    }
    let mut lines = io::stdin().lock().lines();
    loop {
        if terminal {
            eprint!("> ");
            let _ = io::stderr().flush();
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(Error::io("standard input"))?;
        INTERRUPTED.store(false, Ordering::Relaxed);
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/help" => eprintln!("{HELP}"),
            "/reset" => {
                messages.retain(|message| message.role == "system");
                session.clear();
            }
            command if command == "/system" || command.starts_with("/system ") => {
                messages.retain(|message| message.role != "system");
                let text = command.trim_start_matches("/system").trim();
                if !text.is_empty() {
                    messages.insert(0, Message::system(text));
                }
            }
            command if command.starts_with('/') => eprintln!("`{command}` is no command. {HELP}"),
            text => {
                messages.push(Message::user(text));
                match answer(&model, &template, &mut session, &messages, &args.generation, terminal) {
                    Ok(answer) => messages.push(Message::assistant(answer)),
                    // The conversation is as it was before, so that a shorter text may follow, or `/reset`.
                    Err(error) if does_not_fit(&error) => {
                        eprintln!("{error}; say it shorter, or begin anew with /reset");
                        messages.pop();
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Whether a conversation is too long for the model, or for what was asked of it.
fn does_not_fit(error: &Error) -> bool {
    let lengths = ["input_ids", "max_length", "max_new_tokens"];
    matches!(error, Error::Input { what, .. } if lengths.contains(&what.as_str()))
}

/// One answer, shown while it is generated.
fn answer(
    model: &LanguageModel,
    template: &ChatTemplate,
    session: &mut Session<'_>,
    messages: &[Message],
    args: &GenerationArgs,
    statistics: bool,
) -> Result<String> {
    let mut config = args.config(&model.folder)?;
    let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let prompt = template.render(messages, &options)?.encode(model.tokenizer()?)?.ids;
    if config.max_new_tokens.is_none() && config.max_length.is_none() {
        // The last token is not sent through the model.
        let room = model.model.limits.max_length.map_or(MAX_NEW_TOKENS, |max| (max + 1).saturating_sub(prompt.len()));
        config.max_new_tokens = Some(room.clamp(1, MAX_NEW_TOKENS));
    }
    let constraint = model.constraint(args, &config)?;
    let failed = RefCell::new(None);
    let mut streamer = TextStreamer::new(|ids: &[u32]| model.decode(ids));
    let generated = {
        let mut hooks = Hooks {
            step: Some(Box::new(|new| {
                let ids: Vec<u32> = new.iter().map(|&(_, id)| id).collect();
                match streamer.put(&ids).and_then(|text| print_piece(&text)) {
                    Ok(()) => !INTERRUPTED.load(Ordering::Relaxed),
                    Err(error) => {
                        failed.replace(Some(error));
                        false
                    }
                }
            })),
            stop: stop(model, &config, &failed),
            extras: extras(&constraint),
            ..Hooks::default()
        };
        session.generate(&prompt, &config, &mut hooks)?
    };
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    print_piece(&(streamer.end()? + "\n"))?;
    let Some(sequence) = generated.sequences.first() else { return Ok(String::new()) };
    if statistics {
        let stats = &generated.stats;
        let rate = stats.new_tokens as f64 / stats.decode.as_secs_f64().max(f64::EPSILON);
        let stopped = if sequence.finish == Finish::Cancelled { ", stopped" } else { "" };
        eprintln!("[{} tokens, {rate:.1} tokens/s{stopped}]", stats.new_tokens);
    }
    INTERRUPTED.store(false, Ordering::Relaxed);
    model.decode(sequence.new_ids())
}
