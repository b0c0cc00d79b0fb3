//! `tx chat`: a conversation with a model that has a chat template.
//!
//! What is said is kept as long as it fits the model's context; what does not, or what the template refuses, is reported,
//! and the conversation goes on.

use std::cell::RefCell;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tx_core::error::{Error, Result};
use tx_generate::constraint::Constraint;
use tx_generate::{Finish, GenerationConfig, Generator, Hooks, Session, TextStreamer};
use tx_text::chat::{ChatOptions, ChatTemplate, Message};

use super::Common;
use super::generation::{GenerationArgs, LanguageModel, check_whole, extras, stop};
use super::output::{error_line, print_piece};

/// The most tokens of an answer, if neither the command nor the model says so.
const MAX_NEW_TOKENS: usize = 1024;
/// The longest line, in bytes.
const MAX_LINE: u64 = 4 << 20;

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
/// [`Error::MissingFile`] if the model has no chat template; [`Error::Input`] for options that contradict each other;
/// everything that loading and running it can report.
pub fn run(args: &ChatArgs, common: &Common) -> Result<()> {
    if common.json {
        return Err(Error::input("--json", "given", "it with another command: a conversation is text"));
    }
    if let Some(count) = args.generation.num_return_sequences.filter(|&count| count != 1) {
        return Err(Error::input("--num-return-sequences", count, "1: an answer is one text"));
    }
    let model = LanguageModel::load(&args.model, common)?;
    let mut chat = Chat::new(&model, &args.generation)?;
    let interrupt = ctrlc::set_handler(|| {
        // Twice in a row, without an answer to stop, is meant for the program.
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(error) = interrupt {
        tracing::warn!("Ctrl-C ends the program: {error}");
    }
    let mut messages: Vec<Message> = args.system.iter().map(|text| Message::system(text.as_str())).collect();
    if chat.terminal {
        eprintln!("{HELP}");
    }
    let mut input = io::stdin().lock();
    loop {
        if chat.terminal {
            eprint!("> ");
            let _ = io::stderr().flush();
        }
        let line = match next_line(&mut input) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error @ Error::Input { .. }) => {
                report(&error, "");
                continue;
            }
            Err(error) => return Err(error),
        };
        INTERRUPTED.store(false, Ordering::Relaxed);
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/help" => eprintln!("{HELP}"),
            "/reset" => {
                messages.retain(|message| message.role == "system");
                chat.session.clear();
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
                match chat.answer(&messages) {
                    Ok(answer) => messages.push(Message::assistant(answer)),
                    // The conversation is as it was before, so that a shorter text may follow, or `/reset`.
                    Err(error) if does_not_fit(&error) => {
                        report(&error, "; say it shorter, or begin anew with /reset");
                        messages.pop();
                    }
                    Err(error @ Error::Template { .. }) => {
                        report(&error, "; a `/system` without a text takes back what the model is told");
                        messages.pop();
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// The next line, whatever its bytes are; `None` at the end.
///
/// # Errors
/// [`Error::Input`] for a line that is too long, which is passed over; [`Error::Io`].
fn next_line(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(Error::io("standard input"))?;
    if read as u64 == MAX_LINE && line.last() != Some(&b'\n') {
        input.skip_until(b'\n').map_err(Error::io("standard input"))?;
        return Err(Error::input("line", format_args!("more than {MAX_LINE} bytes"), "a shorter one"));
    }
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}

/// Says what is wrong, and what helps, and goes on.
fn report(error: &Error, remedy: &str) {
    eprintln!("{}", error_line(&format!("{error}{remedy}")));
}

/// Whether a conversation is too long for the model, or for what was asked of it.
fn does_not_fit(error: &Error) -> bool {
    let lengths = ["input_ids", "max_length", "max_new_tokens"];
    matches!(error, Error::Input { what, .. } if lengths.contains(&what.as_str()))
}

/// What answers.
struct Chat<'m> {
    model: &'m LanguageModel,
    template: ChatTemplate,
    generator: Generator<'m>,
    session: Session<'m>,
    config: GenerationConfig,
    constraint: Option<Constraint>,
    /// Whether somebody types what is said.
    terminal: bool,
}

impl<'m> Chat<'m> {
    fn new(model: &'m LanguageModel, args: &GenerationArgs) -> Result<Self> {
        let template = ChatTemplate::from_folder(&model.folder, model.tokenizer()?.special())?;
        let mut config = model.config(args)?;
        // An answer is one text, whatever the model's file says.
        config.num_return_sequences = 1;
        args.check(&config, "--sample")?;
        config.validate()?;
        let constraint = model.constraint(args, &mut config)?;
        let generator = Generator::from_auto(&model.model);
        let session = generator.session();
        Ok(Self { model, template, generator, session, config, constraint, terminal: io::stdin().is_terminal() })
    }

    /// One answer, shown while it is generated; that of beams, which may still change, at its end.
    fn answer(&mut self, messages: &[Message]) -> Result<String> {
        let model = self.model;
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let prompt = self.template.render(messages, &options)?.encode(model.tokenizer()?)?.ids;
        let mut config = self.config.clone();
        config.or_new_tokens(self.generator.room(prompt.len(), MAX_NEW_TOKENS));
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
                extras: extras(&self.constraint),
                ..Hooks::default()
            };
            self.session.generate(&prompt, &config, &mut hooks)?
        };
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        let Some(sequence) = generated.sequences.first() else { return Ok(String::new()) };
        if config.num_beams > 1 {
            print_piece(&streamer.put(sequence.new_ids())?)?;
        }
        print_piece(&(streamer.end()? + "\n"))?;
        if self.terminal {
            let stats = &generated.stats;
            let rate = stats.new_tokens as f64 / stats.decode.as_secs_f64().max(f64::EPSILON);
            let stopped = if sequence.finish == Finish::Cancelled { ", stopped" } else { "" };
            eprintln!("[{} tokens, {rate:.1} tokens/s{stopped}]", stats.new_tokens);
        }
        if let Some(constraint) = self.constraint.as_ref().filter(|_| sequence.finish != Finish::Cancelled)
            && let Err(error) = check_whole(constraint, sequence)
        {
            report(&error, "");
        }
        INTERRUPTED.store(false, Ordering::Relaxed);
        model.decode(sequence.new_ids())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_have_any_bytes_and_are_bounded() {
        let long = vec![b'x'; MAX_LINE as usize + 7];
        let input = [b"one\n\xff\xfe two\n".as_slice(), &long, b"\nthree"].concat();
        let mut input = input.as_slice();
        assert_eq!(next_line(&mut input).unwrap().unwrap(), "one\n");
        assert_eq!(next_line(&mut input).unwrap().unwrap(), "\u{fffd}\u{fffd} two\n");
        let error = next_line(&mut input).unwrap_err().to_string();
        assert_eq!(error, "line: more than 4194304 bytes, expected a shorter one");
        assert_eq!(next_line(&mut input).unwrap().unwrap(), "three");
        assert_eq!(next_line(&mut input).unwrap(), None);
    }
}
