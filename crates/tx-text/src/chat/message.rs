//! Messages, and what templates are given of them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tx_core::error::{Error, Result};

use super::python;

/// The names that a message's reasoning has had; templates read the first, and those of gpt-oss the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Stands for the end of a message that is to go on.
const END: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A message of a conversation, in the form of Python's and of OpenAI's API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or whatever else the template knows.
    pub role: String,
    /// What is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The calls that the assistant makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// All other keys, in their order: `name`, `tool_call_id`, `reasoning_content` …
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// A text.
    Text(String),
    /// Texts, images and more: `[{"type": "text", "text": "…"}, {"type": "image", …}]`.
    Parts(Vec<Map<String, Value>>),
    /// Anything else that the template can take, such as what a tool gives back.
    Data(Value),
}

impl Message {
    /// A message that is a text.
    pub fn new(role: impl Into<String>, content: impl Into<Content>) -> Self {
        Self { role: role.into(), content: Some(content.into()), tool_calls: None, other: Map::new() }
    }

    /// A message of the system.
    pub fn system(content: impl Into<Content>) -> Self {
        Self::new("system", content)
    }

    /// A message of the user.
    pub fn user(content: impl Into<Content>) -> Self {
        Self::new("user", content)
    }

    /// A message of the assistant.
    pub fn assistant(content: impl Into<Content>) -> Self {
        Self::new("assistant", content)
    }

    /// What a tool gave back.
    pub fn tool(content: impl Into<Content>) -> Self {
        Self::new("tool", content)
    }

    /// The text of the message: all of it, or of its text parts. Empty if there is none.
    pub fn text(&self) -> String {
        match &self.content {
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
            Some(Content::Data(_)) | None => String::new(),
        }
    }

    /// The message as templates see it: without nulls, and with the reasoning under every name.
    pub(super) fn keys(&self) -> Map<String, Value> {
        let mut keys = Map::new();
        keys.insert("role".to_owned(), Value::from(self.role.as_str()));
        if let Some(content) = &self.content {
            keys.insert("content".to_owned(), content.value());
        }
        if let Some(calls) = &self.tool_calls {
            keys.insert("tool_calls".to_owned(), Value::Array(calls.clone()));
        }
        keys.extend(self.other.iter().map(|(key, value)| (key.clone(), value.clone())));
        keys.retain(|_, value| !value.is_null());
        let Some(reasoning) = REASONING.iter().find_map(|&name| keys.get(name)).cloned() else { return keys };
        let mut aliased = Map::new();
        aliased.insert("thinking".to_owned(), reasoning.clone());
        aliased.extend(keys);
        aliased.insert("reasoning_content".to_owned(), reasoning);
        aliased
    }
}

impl Content {
    fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Parts(parts) => Value::Array(parts.iter().cloned().map(Value::Object).collect()),
            Self::Data(value) => value.clone(),
        }
    }
}

impl<T: Into<String>> From<T> for Content {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// Whether the last message is left open, so that the model goes on with it: Python's `continue_final_message`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ContinueFinalMessage {
    /// Whether its content is.
    Content(bool),
    /// A key of the message, such as `reasoning_content`.
    Key(String),
}

impl Default for ContinueFinalMessage {
    fn default() -> Self {
        Self::Content(false)
    }
}

impl From<bool> for ContinueFinalMessage {
    fn from(content: bool) -> Self {
        Self::Content(content)
    }
}

impl ContinueFinalMessage {
    /// The key that goes on, if one does.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Content(false) => None,
            Self::Content(true) => Some("content"),
            Self::Key(key) => Some(key.as_str()).filter(|key| !key.is_empty()),
        }
    }
}

/// Marks the end of `key` in the last message of `chat`; gives the text before the mark.
pub(super) fn leave_open(chat: &mut [Map<String, Value>], key: &str, template: &str) -> Result<String> {
    let refused = |found: String, expected: &str| Error::input("continue_final_message", found, expected);
    let lacking =
        || refused(format!("a last message without `{key}`"), "a last message that has something to go on with");
    let last = chat.last_mut().ok_or_else(lacking)?;
    let content = last.get(key).cloned().ok_or_else(lacking)?;
    // Reasoning stands under several names, and the template may read any.
    let keys: Vec<&str> = if REASONING.contains(&key) {
        REASONING.into_iter().filter(|&name| last.get(name) == Some(&content)).collect()
    } else {
        vec![key]
    };
    if !keys.iter().any(|&key| template.contains(key)) {
        return Err(refused(format!("`{key}`, which the chat template does not read"), "a key that it reads"));
    }
    match content {
        Value::String(text) => {
            for key in keys {
                last.insert(key.to_owned(), Value::String(format!("{text}{END}")));
            }
            Ok(text)
        }
        Value::Array(_) => {
            let parts = last.get_mut(key).and_then(Value::as_array_mut);
            let part = parts.and_then(|parts| parts.iter_mut().rev().find_map(|part| part.get_mut("text")));
            match part {
                Some(Value::String(text)) => {
                    let before = text.clone();
                    text.push_str(END);
                    Ok(before)
                }
                _ => Err(refused("a last message without a text".to_owned(), "a text to go on with")),
            }
        }
        _ => Err(lacking()),
    }
}

/// Cuts a text at the mark of [`leave_open`]; `before` is what stands before the mark.
pub(super) fn cut_at_end(mut text: String, before: &str) -> Result<String> {
    let mark = python::strip(END);
    let at = text.rfind(mark).filter(|_| text.contains(python::strip(before))).ok_or_else(|| {
        let found = "a chat template that leaves out parts of the last message";
        Error::input("continue_final_message", found, "one that writes all of it")
    })?;
    // If the template keeps the space of the mark, it keeps the space of the message, too.
    let keeps_space = text[at..].starts_with(END);
    text.truncate(at);
    if !keeps_space {
        text.truncate(python::rstrip(&text).len());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(json: Value) -> Message {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn messages_keep_their_keys() {
        let json = json!({"role": "tool", "content": "4", "tool_call_id": "a1", "name": "add"});
        let tool = message(json.clone());
        assert_eq!(tool.content, Some(Content::Text("4".into())));
        assert_eq!(serde_json::to_value(&tool).unwrap(), json);
        let parts = message(json!({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}));
        assert_eq!(parts.text(), "What?");
        let data = message(json!({"role": "tool", "content": {"sum": 4}}));
        assert_eq!(data.content, Some(Content::Data(json!({"sum": 4}))));
        assert!(serde_json::from_value::<Message>(json!({"content": "no role"})).is_err());
        assert_eq!(message(json!({"role": "assistant", "content": null})).content, None);
    }

    #[test]
    fn templates_see_no_nulls_and_all_names_of_reasoning() {
        let keys = |json| Value::Object(message(json).keys());
        assert_eq!(keys(json!({"role": "a", "content": "x", "b": null})), json!({"role": "a", "content": "x"}));
        assert_eq!(
            keys(json!({"role": "a", "reasoning": "r"})),
            json!({"thinking": "r", "role": "a", "reasoning": "r", "reasoning_content": "r"})
        );
        assert_eq!(
            keys(json!({"role": "a", "thinking": "t", "reasoning_content": "r"})),
            json!({"thinking": "t", "role": "a", "reasoning_content": "r"})
        );
    }

    #[test]
    fn the_last_message_can_be_left_open() {
        let mut chat = vec![Message::assistant("Sure, ").keys()];
        let before = leave_open(&mut chat, "content", "message.content").unwrap();
        assert_eq!(
            cut_at_end(format!("<a>{}</a>", chat[0]["content"].as_str().unwrap()), &before).unwrap(),
            "<a>Sure, "
        );
        let trimmed = chat[0]["content"].as_str().unwrap().trim();
        assert_eq!(cut_at_end(format!("<a>{trimmed}</a>"), &before).unwrap(), "<a>Sure,");
        assert!(cut_at_end("<a></a>".into(), &before).is_err());
        assert!(leave_open(&mut chat, "content", "no such key").is_err());
        assert!(leave_open(&mut [], "content", "content").is_err());
        let mut parts = vec![message(json!({"role": "a", "content": [{"text": "x"}, {"image": 1}]})).keys()];
        assert_eq!(leave_open(&mut parts, "content", "content").unwrap(), "x");
        assert_eq!(parts[0]["content"][0]["text"], format!("x{END}"));
    }
}
