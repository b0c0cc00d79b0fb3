//! Texts that end a generation, wherever the borders of tokens are in them.
//!
//! [`StopStrings`] reads the text of one sequence as it grows, and says how much of it may be shown.
//! [`StopStringCriteria`] looks at token ids, for [`Hooks::stop`](crate::Hooks::stop).

use tx_core::Result;

/// Stop strings over a text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    /// What has not been shown: the beginning of a stop string, or the one that was found and what came with it.
    held: String,
    /// The number of the one that was found.
    found: Option<usize>,
}

/// What [`StopStrings::push`] says about a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What may be shown now.
    pub text: String,
    /// Whether a stop string has been found. It is not part of what is shown.
    pub stopped: bool,
}

impl StopStrings {
    /// Texts to look for; empty ones are left out.
    pub fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|string| !string.is_empty()).cloned().collect();
        Self { strings, held: String::new(), found: None }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.strings.is_empty()
    }

    /// Takes the next piece of the text.
    ///
    /// What could be the beginning of a stop string is held back. Of several, the one that ends first is found, and of
    /// those the longest, so that it does not matter where a piece ends. Nothing is shown after it.
    pub fn push(&mut self, piece: &str) -> Shown {
        self.held.push_str(piece);
        if self.found.is_some() {
            return Shown { text: String::new(), stopped: true };
        }
        let matches = self.strings.iter().enumerate().filter_map(|(number, string)| {
            let start = self.held.find(string.as_str())?;
            Some((start + string.len(), start, number))
        });
        if let Some((_, start, number)) = matches.min() {
            self.found = Some(number);
            return Shown { text: self.held.drain(..start).collect(), stopped: true };
        }
        let begun = self.strings.iter().map(|string| begun(&self.held, string)).max().unwrap_or(0);
        let shown = self.held.len() - begun;
        Shown { text: self.held.drain(..shown).collect(), stopped: false }
    }

    /// What was held back, at the end of the text; nothing if a stop string was found.
    pub fn end(&mut self) -> String {
        if self.found.is_some() { String::new() } else { std::mem::take(&mut self.held) }
    }

    /// The stop string that was found.
    pub fn found(&self) -> Option<&str> {
        self.strings.get(self.found?).map(String::as_str)
    }
}

/// How many bytes of the end of a text are the beginning of a longer string.
fn begun(text: &str, string: &str) -> usize {
    let ends = string.char_indices().map(|(end, _)| end).rev();
    ends.filter(|&end| end <= text.len()).find(|&end| text.as_bytes().ends_with(&string.as_bytes()[..end])).unwrap_or(0)
}

/// HF's `StopStringCriteria`: whether the last token completes a stop string.
///
/// It keeps nothing of a sequence, so that it serves beams as well as rows.
#[derive(Debug, Clone)]
pub struct StopStringCriteria<F> {
    strings: Vec<String>,
    /// The tokens that a stop string can reach back, so many at most.
    window: usize,
    decode: F,
}

/// Tokens before those of a stop string that are decoded with them, because the first ones of a text may lose a space
/// and may be a part of a character.
const MARGIN: usize = 4;

impl<F: Fn(&[u32]) -> Result<String>> StopStringCriteria<F> {
    /// Texts to look for, and what turns ids into text, with special tokens as their text.
    pub fn new(strings: &[String], decode: F) -> Self {
        let strings: Vec<String> = strings.iter().filter(|string| !string.is_empty()).cloned().collect();
        // A token has at least one byte.
        let window = strings.iter().map(String::len).max().unwrap_or(0) + MARGIN;
        Self { strings, window, decode }
    }

    /// Whether the text of `ids` has a stop string to which the last token contributes.
    ///
    /// # Errors
    /// Those of decoding.
    pub fn stops(&self, ids: &[u32]) -> Result<bool> {
        if self.strings.is_empty() || ids.is_empty() {
            return Ok(false);
        }
        let ids = &ids[ids.len().saturating_sub(self.window)..];
        let text = (self.decode)(ids)?;
        let ends: Vec<usize> =
            self.strings.iter().filter_map(|string| Some(text.rfind(string.as_str())? + string.len())).collect();
        let Some(last) = ends.into_iter().max() else { return Ok(false) };
        // A character that was incomplete reads differently without the last token.
        let before = (self.decode)(&ids[..ids.len() - 1])?;
        let common = text.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        Ok(last > common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(strings: &[&str]) -> Vec<String> {
        strings.iter().map(|&string| string.to_owned()).collect()
    }

    /// What is shown of a text in these pieces, and what was found.
    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut stops = StopStrings::new(&strings(stops));
        let mut texts: Vec<String> = pieces.iter().map(|piece| stops.push(piece).text).collect();
        texts.push(stops.end());
        (texts, stops.found().map(str::to_owned))
    }

    #[test]
    fn the_beginning_of_a_stop_string_is_held_back() {
        assert_eq!(shown(&["stop"], &["a s", "to", "p b"]), (strings(&["a ", "", "", ""]), Some("stop".into())));
        assert_eq!(shown(&["stop"], &["a s", "to", "ast"]), (strings(&["a ", "", "stoa", "st"]), None));
        assert_eq!(shown(&["aab"], &["a", "a", "a", "b"]), (strings(&["", "", "a", "", ""]), Some("aab".into())));
        assert_eq!(shown(&[""], &["a"]), (strings(&["a", ""]), None));
    }

    #[test]
    fn characters_stay_whole() {
        // Both begin with the byte C3.
        assert_eq!(shown(&["é!"], &["è", "é", "?"]), (strings(&["è", "", "é?", ""]), None));
    }

    #[test]
    fn pieces_do_not_matter() {
        let text = "xabcdx";
        for stops in [&["bc", "abcd"][..], &["cd", "bcd"], &["x", "b"], &["dx", "q"]] {
            let whole = shown(stops, &[text]);
            let letters: Vec<&str> = text.split("").filter(|letter| !letter.is_empty()).collect();
            let by_letters = shown(stops, &letters);
            assert_eq!((whole.0.concat(), whole.1), (by_letters.0.concat(), by_letters.1));
        }
    }

    #[test]
    fn the_last_token_completes_it() {
        // HF's own examples: tokens that hang over on both sides.
        let tokens = ["st", "op", "stop", "opera", "sto", "pper", "las", "topper", "s", "to", "pped", "at", "tion"];
        let decode = |ids: &[u32]| Ok(ids.iter().map(|&id| tokens[id as usize]).collect::<String>());
        let criteria = StopStringCriteria::new(&strings(&["stop"]), decode);
        let stops = |texts: &[&str]| {
            let id = |text: &&str| tokens.iter().position(|token| token == text).unwrap() as u32;
            criteria.stops(&texts.iter().map(id).collect::<Vec<_>>()).unwrap()
        };
        for texts in [&["st", "op"][..], &["stop"], &["st", "opera"], &["sto", "pper"], &["las", "topper"]] {
            assert!(stops(texts), "{texts:?}");
        }
        assert!(stops(&["s", "to", "pped"]));
        for texts in [&["stop", "at"][..], &["st", "op", "at"], &["st", "opera", "tion"], &["to", "pped"], &[]] {
            assert!(!stops(texts), "{texts:?}");
        }
    }

    #[test]
    fn a_character_of_several_tokens() {
        let bytes = "né".as_bytes();
        let decode = |ids: &[u32]| {
            let text: Vec<u8> = ids.iter().map(|&id| bytes[id as usize]).collect();
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let criteria = StopStringCriteria::new(&strings(&["é"]), decode);
        assert!(!criteria.stops(&[0, 1]).unwrap());
        assert!(criteria.stops(&[0, 1, 2]).unwrap());
        assert!(!criteria.stops(&[0, 1, 2, 0]).unwrap());
    }
}
