//! Which part of a conversation the assistant says, where the template does not mark it.
//!
//! A template is a program, so its text cannot be taken apart. It is written again instead: without what comes after a
//! message, and without the message itself but with the beginning of an answer. What one has more than the other is the
//! message. Templates that write earlier messages in another way once later ones follow, as those do that leave out
//! earlier thoughts, are given the message between two marks. Either way the places are taken only if the texts agree to
//! the letter.

use std::ops::Range;

use tx_core::error::Result;
use tx_text::chat::{Content, Message};

/// The role of the model.
pub(super) const ASSISTANT: &str = "assistant";

/// The text of messages, and with `true` the beginning of an answer behind them.
pub(super) type Render<'a> = &'a dyn Fn(&[Message], bool) -> Result<String>;

/// The parts of `full`, the text of all messages, that the assistant says, with the token that ends them; in characters.
pub(super) fn assistant(messages: &[Message], full: &str, render: Render<'_>) -> Result<Vec<Range<usize>>, String> {
    let mut parts = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.role == ASSISTANT) {
        let part = by_prefixes(messages, i, full, render).or_else(|| by_marks(messages, i, full, render));
        let Some(part) = part.filter(|part| part.start < part.end) else {
            return Err(format!(
                "the chat template does not tell which part of its text message {i} is; use one with {{% generation %}}, \
                 or set `assistant_only_loss` to false"
            ));
        };
        let part = part.start..end_of_turn(message, full, part);
        parts.push(part);
    }
    let characters = |bytes: Range<usize>| {
        let start = full[..bytes.start].chars().count();
        start..start + full[bytes].chars().count()
    };
    Ok(parts.into_iter().map(characters).collect())
}

/// What the text up to message `i` has more than the text before it, in bytes.
fn by_prefixes(messages: &[Message], i: usize, full: &str, render: Render<'_>) -> Option<Range<usize>> {
    if i == 0 {
        return None;
    }
    let before = render(&messages[..i], true).ok()?;
    let after = render(&messages[..=i], false).ok()?;
    (full.starts_with(&before) && full.starts_with(&after)).then_some(before.len()..after.len())
}

/// Where marks around the content of message `i` come to stand in the text of all messages; from the beginning of the
/// answer, where that is known, to what ends it, which the text without later messages tells.
fn by_marks(messages: &[Message], i: usize, full: &str, render: Render<'_>) -> Option<Range<usize>> {
    let Some(Content::Text(content)) = &messages[i].content else { return None };
    // Unicode sets these aside for use inside of programs.
    let mut unused = ('\u{fdd0}'..='\u{fdef}').filter(|&c| !full.contains(c) && !content.contains(c));
    let (start, end) = (unused.next()?, unused.next()?);
    // Templates take off the space around a message, but not around a mark.
    let core = content.trim();
    let (lead, rest) = content.split_at(content.len() - content.trim_start().len());
    let mut marked = messages.to_vec();
    marked[i].content = Some(Content::Text(format!("{lead}{start}{core}{end}{}", &rest[core.len()..])));
    let place = |text: &str, plain: &str| {
        let (from, to) = (text.find(start)?, text.find(end)?);
        let taken = [text.get(..from)?, text.get(from + start.len_utf8()..to)?, text.get(to + end.len_utf8()..)?];
        (taken.concat() == plain).then(|| from..to - start.len_utf8())
    };
    let content = place(&render(&marked, false).ok()?, full)?;
    let ended = render(&messages[..=i], false).ok()?;
    let in_ended = place(&render(&marked[..=i], false).ok()?, &ended)?;
    let ending = ended[in_ended.end..].trim_end();
    let end = full[content.end..].starts_with(ending).then_some(content.end + ending.len())?;
    let before = if i == 0 { None } else { render(&messages[..i], true).ok() };
    let before = before.filter(|before| full.starts_with(before.as_str()) && before.len() <= content.start);
    Some(before.map_or(content.start, |before| before.len())..end)
}

/// The end of a part without the space that only stands between the token that ends it and the next message.
fn end_of_turn(message: &Message, full: &str, part: Range<usize>) -> usize {
    let kept = full[part.clone()].trim_end();
    let text = message.text();
    if !text.trim().is_empty() && kept.ends_with(text.trim_end()) { part.end } else { part.start + kept.len() }
}

#[cfg(test)]
mod tests {
    use tx_core::tokenizer::SpecialTokens;
    use tx_text::chat::{ChatOptions, ChatTemplate, NaiveDateTime};

    use super::*;

    fn conversation() -> Vec<Message> {
        vec![
            Message::user("Hi"),
            Message::assistant("Hé!"),
            Message::user("What is 2 + 2?"),
            Message::assistant(" 4\n"),
        ]
    }

    fn parts_of(source: &str, messages: &[Message]) -> Result<Vec<String>, String> {
        let template = ChatTemplate::new("chat_template.jinja", source, &SpecialTokens::default()).unwrap();
        let render = |messages: &[Message], prompt: bool| -> Result<String> {
            let now = Some(NaiveDateTime::default());
            let options = ChatOptions { add_generation_prompt: prompt, now, ..ChatOptions::default() };
            Ok(template.render(messages, &options)?.text)
        };
        let full = render(messages, false).unwrap();
        let parts = assistant(messages, &full, &render)?;
        let text: Vec<char> = full.chars().collect();
        Ok(parts.into_iter().map(|part| text[part].iter().collect()).collect())
    }

    fn parts(source: &str) -> Result<Vec<String>, String> {
        parts_of(source, &conversation())
    }

    /// A template that writes a message so, and before an answer what `prompt` is.
    fn source(message: &str, prompt: &str) -> String {
        format!("{{% for m in messages %}}{message}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}")
    }

    #[test]
    fn what_later_messages_leave_as_it_is() {
        let source = source("<{{ m.role }}>\n{{ m.content }}<end>\n", "<assistant>\n");
        assert_eq!(parts(&source).unwrap(), ["Hé!<end>", " 4\n<end>"]);
        let trimmed = source.replace("{{ m.content }}", "{{ m.content | trim }}");
        assert_eq!(parts(&trimmed).unwrap(), ["Hé!<end>", "4<end>"]);
        // Nothing ends an answer but the next message.
        let bare = self::source("{{ m.role }}: {{ m.content }}\n", "assistant:");
        assert_eq!(parts(&bare).unwrap(), [" Hé!\n", "  4\n\n"]);
        let opening = [Message::assistant("Welcome"), Message::user("Hi")];
        assert_eq!(parts_of(&source, &opening).unwrap(), ["Welcome<end>"]);
    }

    #[test]
    fn what_later_messages_change() {
        // Only the last answer has its thoughts.
        let thinks = "{% if m.role == 'assistant' and loop.last %}(thinks){% endif %}";
        let source = source(&format!("<{{{{ m.role }}}}>{thinks}{{{{ m.content }}}}<end>\n"), "<assistant>");
        assert_eq!(parts(&source).unwrap(), ["Hé!<end>", "(thinks) 4\n<end>"]);
        let trimmed = source.replace("{{ m.content }}", "{{ m.content | trim }}");
        assert_eq!(parts(&trimmed).unwrap(), ["Hé!<end>", "(thinks)4<end>"]);
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        let reversed = "{% for m in messages %}{{ loop.length }}{{ m.content | reverse }}{% endfor %}";
        let error = parts(reversed).unwrap_err();
        assert!(error.starts_with("the chat template does not tell which part of its text message 1 is"), "{error}");
        let silent = "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}";
        assert!(parts(silent).is_err());
    }

    #[test]
    fn templates_that_mark_the_parts_agree() {
        let folder = std::path::Path::new("../../tests/data/chat/smollm3");
        let source = std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
        let template = ChatTemplate::new("chat_template.jinja", &source, &SpecialTokens::default()).unwrap();
        let now = Some(NaiveDateTime::default());
        let options = ChatOptions { return_assistant_tokens_mask: true, now, ..ChatOptions::default() };
        let marked = template.render(&conversation(), &options).unwrap();
        let text: Vec<char> = marked.text.chars().collect();
        let said = |part: &Range<usize>| text[part.clone()].iter().collect::<String>();
        let marked: Vec<String> = marked.assistant.iter().map(said).collect();
        let found = parts(&source).unwrap();
        assert_eq!(found.len(), marked.len());
        // The template's own marks hold the name of the role, too, which is given before an answer begins.
        for (found, marked) in found.iter().zip(&marked) {
            assert!(marked.trim_end().ends_with(found.as_str()), "{found:?} {marked:?}");
        }
    }
}
