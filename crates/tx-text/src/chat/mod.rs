//! Chat templates: from messages to the text that a model was trained on, as Python's `apply_chat_template` does it.
//!
//! Reference: transformers 5.23, `utils/chat_template_utils.py` and `PreTrainedTokenizerBase.apply_chat_template`.
//! A template is a program in Jinja that comes with the tokenizer; how it is kept within bounds, and what it may expect
//! of Python, is in `engine.rs` and `python.rs`.
//!
//! ```no_run
//! use tx_core::tokenizer::Tokenizer;
//! use tx_text::chat::{ChatOptions, ChatTemplate, Message};
//!
//! let tokenizer = Tokenizer::from_folder("Qwen2.5-0.5B-Instruct".as_ref())?;
//! let template = ChatTemplate::from_folder("Qwen2.5-0.5B-Instruct".as_ref(), tokenizer.special())?;
//! let options = ChatOptions { add_generation_prompt: true, ..Default::default() };
//! let prompt = template.render(&[Message::user("Hello!")], &options)?;
//! let encoding = prompt.encode(&tokenizer)?;
//! # Ok::<(), tx_core::Error>(())
//! ```

mod engine;
mod files;
mod message;
mod python;
mod rewrite;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use minijinja::Value as Variable;
use serde::Deserialize;
use serde_json::{Map, Value};
use tx_core::error::{Error, Result};
use tx_core::tokenizer::{EncodeOptions, Encoding, SpecialTokens, Text, Tokenizer};

pub use chrono::NaiveDateTime;
pub use message::{Content, ContinueFinalMessage, Message};

use engine::Engine;

/// What a template is given besides messages: the arguments of Python's `apply_chat_template`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChatOptions {
    /// The tools that the model may call, as JSON schemas.
    pub tools: Option<Vec<Value>>,
    /// The documents that the model may read, with keys like `title` and `text`.
    pub documents: Option<Vec<Value>>,
    /// The name of a template, where there are several; `None` is `tool_use` if there are tools, else `default`.
    pub chat_template: Option<String>,
    /// Whether the text ends with what stands before an answer.
    pub add_generation_prompt: bool,
    /// Whether the last message is left open.
    pub continue_final_message: ContinueFinalMessage,
    /// Whether [`Rendered::assistant`] is wanted: Python's `return_assistant_tokens_mask`.
    pub return_assistant_tokens_mask: bool,
    /// Further variables of the template, such as `enable_thinking`. They overrule special tokens.
    #[serde(flatten)]
    pub variables: Map<String, Value>,
    /// The time that the template sees, in the local time zone; `None` is now.
    #[serde(skip)]
    pub now: Option<NaiveDateTime>,
}

/// What a template makes of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, with special tokens in it.
    pub text: String,
    /// The parts that the assistant says, in characters; empty if they were not asked for or the template does not say.
    pub assistant: Vec<Range<usize>>,
}

/// The chat templates of a model.
pub struct ChatTemplate {
    /// By name; a single one is the `default`.
    templates: BTreeMap<String, Template>,
    /// `bos_token` and so on.
    special: Vec<(&'static str, String)>,
}

struct Template {
    path: PathBuf,
    source: String,
    /// Compiled when it is first needed: one that is broken does not stand in the way of the others.
    engine: OnceLock<Engine>,
}

impl ChatTemplate {
    /// Finds the templates of a folder: in `chat_template.jinja` and `additional_chat_templates`, else in
    /// `tokenizer_config.json`, else in `chat_template.json`. `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] and [`Error::Config`] for files that cannot be used.
    pub fn find(folder: &Path, special: &SpecialTokens) -> Result<Option<Self>> {
        let found = files::find(folder)?;
        if found.is_empty() {
            return Ok(None);
        }
        let templates = found.into_iter().map(|(name, path, source)| (name, Template::new(path, &source))).collect();
        Ok(Some(Self { templates, special: variables(special) }))
    }

    /// The templates of a folder.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::find`], and [`Error::MissingFile`] if the folder has none.
    pub fn from_folder(folder: &Path, special: &SpecialTokens) -> Result<Self> {
        Self::find(folder, special)?.ok_or_else(|| Error::MissingFile {
            folder: folder.to_path_buf(),
            expected: "chat template (`chat_template.jinja`, or `chat_template` in `tokenizer_config.json`)".to_owned(),
            remedy: "use a model that was trained for chats, or give it plain text".to_owned(),
        })
    }

    /// A template by its source; messages name `path`.
    ///
    /// # Errors
    /// [`Error::Template`] if it is too long or not valid.
    pub fn new(path: impl Into<PathBuf>, source: &str, special: &SpecialTokens) -> Result<Self> {
        let template = Template::new(path.into(), source);
        template.engine()?;
        Ok(Self { templates: BTreeMap::from([(files::DEFAULT.to_owned(), template)]), special: variables(special) })
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The source of the template that options like these choose.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no template of that name, or no default.
    pub fn source(&self, options: &ChatOptions) -> Result<&str> {
        Ok(&self.choose(options)?.source)
    }

    fn choose(&self, options: &ChatOptions) -> Result<&Template> {
        let name = match &options.chat_template {
            Some(name) => name.as_str(),
            None if options.tools.is_some() && self.templates.contains_key("tool_use") => "tool_use",
            None => files::DEFAULT,
        };
        self.templates.get(name).ok_or_else(|| {
            let known = self.names().collect::<Vec<_>>().join("`, `");
            Error::input("chat_template", format_args!("`{name}`"), format_args!("`{known}`"))
        })
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`Error::Input`] for a conversation or options that cannot be; [`Error::Template`] if the template refuses the
    /// conversation, fails on it, or takes too much time or memory.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<Rendered> {
        check(messages, options)?;
        let template = self.choose(options)?;
        let engine = template.engine()?;
        let mut chat: Vec<Map<String, Value>> = messages.iter().map(Message::keys).collect();
        let open = match options.continue_final_message.key() {
            Some(key) => Some(message::leave_open(&mut chat, key, &template.source)?),
            None => None,
        };
        let chat = Value::Array(chat.into_iter().map(Value::Object).collect());
        let marks = if options.return_assistant_tokens_mask && engine.has_generation {
            Some(unused_characters(&template.source, &chat, options)?)
        } else {
            None
        };
        let text = engine.render(|| self.variables(&chat, options, marks))?;
        let (text, assistant) = match marks {
            Some((start, end)) => take_marks(&text, start, end),
            None => (text, Vec::new()),
        };
        let text = match open {
            Some(before) => message::cut_at_end(text, &before)?,
            None => text,
        };
        Ok(Rendered { text, assistant })
    }

    /// Everything that the template can name.
    fn variables(&self, chat: &Value, options: &ChatOptions, marks: Option<(char, char)>) -> Vec<(String, Variable)> {
        let list = |items: &Option<Vec<Value>>| items.iter().flatten().map(variable).collect::<Variable>();
        let optional = |items: &Option<Vec<Value>>| if items.is_some() { list(items) } else { Variable::from(()) };
        let now = options.now;
        let strftime_now =
            move |format: String| python::strftime(now.unwrap_or_else(|| chrono::Local::now().naive_local()), &format);
        // The last of two that have one name counts.
        let mut variables: Vec<(String, Variable)> =
            self.special.iter().map(|(name, text)| ((*name).to_owned(), Variable::from(text.as_str()))).collect();
        variables.extend(options.variables.iter().map(|(name, value)| (name.clone(), variable(value))));
        variables.push(("messages".to_owned(), variable(chat)));
        variables.push(("tools".to_owned(), optional(&options.tools)));
        variables.push(("documents".to_owned(), optional(&options.documents)));
        variables.push(("add_generation_prompt".to_owned(), Variable::from(options.add_generation_prompt)));
        variables.push(("strftime_now".to_owned(), Variable::from_function(strftime_now)));
        if let Some((start, end)) = marks {
            variables.push((engine::MARKS.to_owned(), Variable::from(format!("{start}{end}"))));
        }
        variables
    }
}

impl fmt::Debug for ChatTemplate {
    /// Without the sources.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: BTreeMap<&str, &Path> = self.templates.iter().map(|(name, t)| (name.as_str(), &*t.path)).collect();
        f.debug_struct("ChatTemplate").field("templates", &paths).field("special", &self.special).finish()
    }
}

impl Template {
    fn new(path: PathBuf, source: &str) -> Self {
        Self { path, source: rewrite::normalize_newlines(source), engine: OnceLock::new() }
    }

    fn engine(&self) -> Result<&Engine> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::compile(&self.path, &self.source)?;
        Ok(self.engine.get_or_init(|| engine))
    }
}

impl Rendered {
    /// The tokens of the text; special ones are in the text already.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoding> {
        let options = EncodeOptions { add_special_tokens: false, ..Default::default() };
        Ok(tokenizer.encode(&Text::from(self.text.as_str()), &options)?.into_iter().next().unwrap_or_default())
    }

    /// 1 for each token of the encoded text that the assistant says, else 0: Python's `assistant_masks`.
    pub fn assistant_mask(&self, encoding: &Encoding) -> Vec<u32> {
        let token_at = |at: usize| encoding.offsets.iter().position(|&(start, end)| start <= at && at < end);
        let mut mask = vec![0; encoding.len()];
        for part in &self.assistant {
            // The text may have been cut.
            let Some(start) = token_at(part.start) else { break };
            let end = part.end.checked_sub(1).and_then(token_at).map_or(mask.len(), |end| end + 1);
            if start < end {
                mask[start..end].fill(1);
            }
        }
        mask
    }
}

/// The named special tokens, by the names that templates know.
fn variables(special: &SpecialTokens) -> Vec<(&'static str, String)> {
    let tokens = [
        ("bos_token", &special.bos),
        ("eos_token", &special.eos),
        ("unk_token", &special.unk),
        ("sep_token", &special.sep),
        ("pad_token", &special.pad),
        ("cls_token", &special.cls),
        ("mask_token", &special.mask),
    ];
    tokens.into_iter().filter_map(|(name, token)| Some((name, token.as_ref()?.text.clone()))).collect()
}

/// Refuses what Python refuses before it asks the template.
fn check(messages: &[Message], options: &ChatOptions) -> Result<()> {
    if messages.is_empty() {
        return Err(Error::input("messages", "an empty conversation", "at least one message"));
    }
    let continues = options.continue_final_message.key().is_some();
    if continues && options.add_generation_prompt {
        let found = "both it and `add_generation_prompt`";
        return Err(Error::input("continue_final_message", found, "one: the answer is either begun or not"));
    }
    if continues && options.return_assistant_tokens_mask {
        let found = "both it and `return_assistant_tokens_mask`";
        return Err(Error::input("continue_final_message", found, "one of them"));
    }
    for (what, items) in [("tools", &options.tools), ("documents", &options.documents)] {
        if let Some(place) = items.iter().flatten().position(|item| !item.is_object()) {
            return Err(Error::input(format!("{what}[{place}]"), "no JSON object", "an object"));
        }
    }
    Ok(())
}

/// A JSON value as the engine's.
fn variable(value: &Value) -> Variable {
    match value {
        Value::Null => Variable::from(()),
        Value::Bool(flag) => Variable::from(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Variable::from(number),
            (None, Some(number)) => Variable::from(number),
            (None, None) => Variable::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Variable::from(text.as_str()),
        Value::Array(items) => items.iter().map(variable).collect(),
        Value::Object(map) => Variable::from_pairs(map.iter().map(|(key, value)| (key.as_str(), variable(value)))),
    }
}

/// Two characters that neither the template nor its variables use, to mark places in the text.
fn unused_characters(source: &str, chat: &Value, options: &ChatOptions) -> Result<(char, char)> {
    let variables = Value::Object(options.variables.clone());
    let lists = [&options.tools, &options.documents].map(|items| Value::Array(items.clone().unwrap_or_default()));
    let [tools, documents] = lists.map(|list| list.to_string());
    let texts = [source.to_owned(), chat.to_string(), variables.to_string(), tools, documents];
    // Unicode sets these aside for use inside of programs.
    let mut unused = ('\u{fdd0}'..='\u{fdef}').filter(|&c| !texts.iter().any(|text| text.contains(c)));
    match (unused.next(), unused.next()) {
        (Some(start), Some(end)) => Ok((start, end)),
        _ => Err(Error::input("messages", "all of the characters U+FDD0 to U+FDEF", "two that are not used")),
    }
}

/// Takes the marks out of a text; what stands between them, in characters.
fn take_marks(text: &str, start: char, end: char) -> (String, Vec<Range<usize>>) {
    let (mut clean, mut ranges) = (String::with_capacity(text.len()), Vec::new());
    let (mut count, mut open) = (0, Vec::new());
    for c in text.chars() {
        if c == start {
            open.push(count);
        } else if c == end {
            ranges.extend(open.pop().map(|start| start..count));
        } else {
            clean.push(c);
            count += 1;
        }
    }
    (clean, ranges)
}

#[cfg(test)]
mod tests;
