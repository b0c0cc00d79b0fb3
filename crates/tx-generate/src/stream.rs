//! Text while it is generated.
//!
//! Reference: transformers 5.23.0, `generation/streamers.py`. The cost of a token does not depend on how much came
//! before: Python decodes everything since the last line again.

use tx_core::Result;

/// Tokens without an end of a character after which the text is shown as it is.
const MAX_PENDING: usize = 64;

/// Turns ids that come one after another into text, of which the pieces together are the text of all ids.
///
/// A token is decoded together with those before it, because what it reads as can depend on them. Text that ends with
/// U+FFFD is held back: the rest of the character is to come.
#[derive(Debug, Clone)]
pub struct Detokenizer<F> {
    decode: F,
    /// Tokens whose text was given, for what follows them, and then those that are held back.
    ids: Vec<u32>,
    /// How many of them have been given.
    given: usize,
}

impl<F: Fn(&[u32]) -> Result<String>> Detokenizer<F> {
    /// What turns ids into text.
    pub fn new(decode: F) -> Self {
        Self { decode, ids: Vec::new(), given: 0 }
    }

    /// Takes ids, and gives the text that is complete with them.
    ///
    /// # Errors
    /// Those of decoding; the ids stay, and their text comes with the next ones.
    pub fn put(&mut self, ids: &[u32]) -> Result<String> {
        self.ids.extend_from_slice(ids);
        let text = self.pending()?;
        let waits = text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER);
        if waits && self.ids.len() - self.given < MAX_PENDING {
            return Ok(String::new());
        }
        if text.is_empty() {
            // Tokens that have no text, such as special ones that are skipped, are no context either.
            self.ids.truncate(self.given);
        } else {
            self.ids.drain(..self.given);
            self.given = self.ids.len();
        }
        Ok(text)
    }

    /// The text that was held back, after the last id.
    ///
    /// # Errors
    /// Those of decoding.
    pub fn end(&mut self) -> Result<String> {
        let text = self.pending();
        self.ids.clear();
        self.given = 0;
        text
    }

    /// The text of the tokens that were not given.
    fn pending(&self) -> Result<String> {
        if self.given == self.ids.len() {
            return Ok(String::new());
        }
        let before = (self.decode)(&self.ids[..self.given])?;
        let mut all = (self.decode)(&self.ids)?;
        // Cleaning up may change what was given; that is out of reach.
        let mut start = before.len().min(all.len());
        while !all.is_char_boundary(start) {
            start += 1;
        }
        Ok(all.split_off(start))
    }
}

/// HF's `TextStreamer`: text in whole words.
///
/// What was put comes back up to the last space; everything, where it ends with a line end or a Chinese character.
/// Python's `skip_prompt` is not to put the prompt.
#[derive(Debug, Clone)]
pub struct TextStreamer<F> {
    detokenizer: Detokenizer<F>,
    held: String,
}

impl<F: Fn(&[u32]) -> Result<String>> TextStreamer<F> {
    /// What turns ids into text: `|ids| tokenizer.decode(ids, true)`.
    pub fn new(decode: F) -> Self {
        Self { detokenizer: Detokenizer::new(decode), held: String::new() }
    }

    /// Takes ids, and gives the text that will not change any more.
    ///
    /// # Errors
    /// Those of decoding; the ids stay, and their text comes with the next ones.
    pub fn put(&mut self, ids: &[u32]) -> Result<String> {
        self.held.push_str(&self.detokenizer.put(ids)?);
        let whole = self.held.chars().next_back().is_some_and(|last| last == '\n' || is_chinese(last));
        let shown = if whole { self.held.len() } else { self.held.rfind(' ').map_or(0, |space| space + 1) };
        Ok(self.held.drain(..shown).collect())
    }

    /// The rest of the text; the streamer is as new.
    ///
    /// # Errors
    /// Those of decoding.
    pub fn end(&mut self) -> Result<String> {
        let rest = self.detokenizer.end();
        let held = std::mem::take(&mut self.held);
        Ok(held + &rest?)
    }
}

/// Whether a character is in a block of CJK ideographs. Hangul, Hiragana and Katakana, which have words, are not.
fn is_chinese(c: char) -> bool {
    matches!(
        c,
        '\u{4E00}'..='\u{9FFF}'
            | '\u{3400}'..='\u{4DBF}'
            | '\u{20000}'..='\u{2A6DF}'
            | '\u{2A700}'..='\u{2B73F}'
            | '\u{2B740}'..='\u{2B81F}'
            | '\u{2B820}'..='\u{2CEAF}'
            | '\u{F900}'..='\u{FAFF}'
            | '\u{2F800}'..='\u{2FA1F}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sampler;

    /// Each id is a byte.
    fn bytes(ids: &[u32]) -> Result<String> {
        let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The pieces that a streamer gives for the bytes of a text, one by one, without the empty ones.
    fn streamed(text: &str) -> Vec<String> {
        let mut streamer = TextStreamer::new(bytes);
        let mut pieces: Vec<String> = text.bytes().map(|byte| streamer.put(&[u32::from(byte)]).unwrap()).collect();
        pieces.retain(|piece| !piece.is_empty());
        pieces.push(streamer.end().unwrap());
        pieces
    }

    #[test]
    fn words_lines_and_ideographs() {
        assert_eq!(streamed("one two\nthree"), ["one ", "two\n", "three"]);
        assert_eq!(streamed("né 你好"), ["né ", "你", "好", ""]);
        assert_eq!(streamed("naïve 안녕"), ["naïve ", "안녕"]);
        assert_eq!(streamed(""), [""]);
    }

    #[test]
    fn characters_come_whole() {
        let mut detokenizer = Detokenizer::new(bytes);
        let pieces: Vec<String> = "aé🙂".bytes().map(|byte| detokenizer.put(&[u32::from(byte)]).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "", "🙂"]);
        // A character that never ends.
        assert_eq!(detokenizer.put(&[0xE4]).unwrap(), "");
        assert_eq!(detokenizer.end().unwrap(), "\u{FFFD}");
        assert_eq!(detokenizer.put(&[0x61]).unwrap(), "a");
    }

    #[test]
    fn pieces_together_are_the_text() {
        let mut sampler = Sampler::new(4, 0);
        let values: Vec<u32> = (0x20..0x60).chain([0xC3, 0xA9, 0xE4, 0xBD, 0xA0, 0xFF, 0x0A, 0xF0, 0x9F]).collect();
        for _ in 0..300 {
            let ids: Vec<u32> = (0..80).map(|_| values[(sampler.uniform() * values.len() as f64) as usize]).collect();
            let mut streamer = TextStreamer::new(bytes);
            let mut text: String = ids.chunks(3).map(|ids| streamer.put(ids).unwrap()).collect();
            text += &streamer.end().unwrap();
            assert_eq!(text, bytes(&ids).unwrap());
        }
    }

    #[test]
    fn context_keeps_spaces_and_skipped_tokens_do_not() {
        // As SentencePiece decodes: the first space of a text is left out. 0 is skipped.
        let words = ["", " a", " b", "\n"];
        let decode = |ids: &[u32]| {
            let text: String = ids.iter().map(|&id| words[id as usize]).collect();
            Ok(text.strip_prefix(' ').map(str::to_owned).unwrap_or(text))
        };
        let mut detokenizer = Detokenizer::new(decode);
        let ids = [1, 2, 0, 0, 2, 3, 0, 1];
        let text: String = ids.iter().map(|&id| detokenizer.put(&[id]).unwrap()).collect();
        assert_eq!(text, "a b b\n a");
        let many: String = (0..200).map(|_| detokenizer.put(&[0]).unwrap()).collect();
        assert_eq!((many.as_str(), detokenizer.put(&[2]).unwrap().as_str()), ("", " b"));
        assert!(detokenizer.ids.len() < 2 * MAX_PENDING);
    }
}
