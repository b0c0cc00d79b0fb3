//! Supervised chat fine-tuning: conversations in the words of the model's template, of which the model learns what the
//! assistant says.
//!
//! Reference: TRL, `SFTTrainer` with `assistant_only_loss`.

mod mask;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tx_core::error::{Error, Result};
use tx_core::tokenizer::Tokenizer;
use tx_text::chat::{ChatOptions, ChatTemplate, Message, NaiveDateTime, Rendered};

use crate::data::{Columns, Example, IGNORED, Labels, Packing, Preparation, Row, Tokens};

/// The most tokens of a conversation, where the tokenizer allows so many.
const MAX_LENGTH: usize = 1024;

/// What is read, and what is learned of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatTuningOptions {
    /// The column of the messages: lists of `{"role": …, "content": …}`.
    pub messages_column: String,
    /// The column of the tools that a conversation may use, where it is there.
    pub tools_column: String,
    /// The most tokens of a conversation, whose end is cut off; 1024, or the tokenizer's limit if that is less, if `None`.
    pub max_length: Option<usize>,
    /// Whether only what the assistant says is learned, or all.
    pub assistant_only_loss: bool,
    /// Whether as many conversations as fit share an example: see [`Packing::Whole`].
    pub packing: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub chat_template_kwargs: Map<String, Value>,
}

impl Default for ChatTuningOptions {
    fn default() -> Self {
        Self {
            messages_column: "messages".into(),
            tools_column: "tools".into(),
            max_length: None,
            assistant_only_loss: true,
            packing: false,
            chat_template_kwargs: Map::new(),
        }
    }
}

/// Makes examples of conversations.
#[derive(Debug)]
pub struct ChatTuning<'t> {
    tokenizer: &'t Tokenizer,
    template: &'t ChatTemplate,
    options: ChatTuningOptions,
    max_length: usize,
    now: NaiveDateTime,
}

impl<'t> ChatTuning<'t> {
    /// Examples in the words of a template. `now` is the time for templates that ask for it: a run that goes on must give
    /// the one that it began with.
    ///
    /// # Errors
    /// [`Error::Input`] for a length without room for two tokens, or longer than the tokenizer allows.
    pub fn new(
        tokenizer: &'t Tokenizer,
        template: &'t ChatTemplate,
        options: ChatTuningOptions,
        now: NaiveDateTime,
    ) -> Result<Self> {
        let limit = tokenizer.model_max_length().unwrap_or(usize::MAX);
        let max_length = options.max_length.unwrap_or(limit.min(MAX_LENGTH));
        if max_length < 2 || max_length > limit {
            let expected = format_args!("2 to {limit}, the limit of the tokenizer");
            return Err(Error::input("max_length", max_length, expected));
        }
        Ok(Self { tokenizer, template, options, max_length, now })
    }

    fn chat_options(&self, row: &Row) -> Result<ChatOptions> {
        let column = self.options.tools_column.as_str();
        let tools: Option<Vec<Value>> = match row.find(column) {
            None => None,
            // Tables often hold them as text.
            Some(Value::String(text)) => {
                let tools = serde_json::from_str(text);
                Some(tools.map_err(|_| row.error(column, "a text that is no list of tools in JSON"))?)
            }
            Some(_) => Some(row.list(column)?.to_vec()),
        };
        Ok(ChatOptions {
            tools: tools.filter(|tools| !tools.is_empty()),
            return_assistant_tokens_mask: self.options.assistant_only_loss,
            variables: self.options.chat_template_kwargs.clone(),
            now: Some(self.now),
            ..ChatOptions::default()
        })
    }

    /// The text of a conversation, with the parts that the assistant says if these alone are learned.
    fn render(&self, row: &Row, messages: &[Message]) -> Result<Rendered> {
        let column = self.options.messages_column.as_str();
        let options = self.chat_options(row)?;
        let rendered = self.template.render(messages, &options).map_err(|e| row.error(column, e))?;
        if !self.options.assistant_only_loss || !rendered.assistant.is_empty() {
            return Ok(rendered);
        }
        if !messages.iter().any(|message| message.role == mask::ASSISTANT) {
            return Err(row.error(column, "no message of the assistant, expected one at least"));
        }
        let options = ChatOptions { return_assistant_tokens_mask: false, ..options };
        let render = |messages: &[Message], prompt: bool| -> Result<String> {
            let options = ChatOptions { add_generation_prompt: prompt, ..options.clone() };
            Ok(self.template.render(messages, &options)?.text)
        };
        let assistant =
            mask::assistant(messages, &rendered.text, &render).map_err(|reason| row.error(column, reason))?;
        Ok(Rendered { assistant, ..rendered })
    }
}

impl Preparation for ChatTuning<'_> {
    fn columns(&self) -> Columns {
        Columns::new(&[&self.options.messages_column], &[&self.options.tools_column])
    }

    fn examples(&self, row: &Row) -> Result<Vec<Example>> {
        let column = self.options.messages_column.as_str();
        let rendered = self.render(row, &row.messages(column)?)?;
        let encoding = rendered.encode(self.tokenizer).map_err(|e| row.error(column, e))?;
        let labels = if self.options.assistant_only_loss {
            let mask = rendered.assistant_mask(&encoding);
            let labels = encoding.ids.iter().zip(mask);
            let mut labels: Vec<i64> =
                labels.map(|(&id, learned)| if learned == 0 { IGNORED } else { i64::from(id) }).collect();
            labels.truncate(self.max_length);
            // The first token is no next one. A conversation whose answers are all cut off has nothing to learn.
            if labels.iter().skip(1).all(|&label| label == IGNORED) {
                return Ok(Vec::new());
            }
            Labels::Tokens(labels)
        } else {
            Labels::Same
        };
        let mut ids = encoding.ids;
        ids.truncate(self.max_length);
        if ids.len() < 2 {
            return Ok(Vec::new());
        }
        Ok(vec![Example::text(row.origin().clone(), Tokens { ids, ..Tokens::default() }, labels)])
    }

    fn packing(&self) -> Packing {
        if self.options.packing { Packing::Whole { size: self.max_length } } else { Packing::None }
    }
}
