//! Tokens to words: HF's `_combine_tokens_into_words`.

use tx_core::error::Result;
use tx_core::tokenizer::is_python_space;

use super::WhisperTokens;

/// What stands for bytes that are no whole character.
const REPLACEMENT: char = '\u{fffd}';
/// Tokens of these begin a word.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
/// Belongs to the word after it.
const PREPENDED: &str = "\"'“¡¿([{-";
/// Belongs to the word before it.
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";
/// Languages without spaces between words.
const WITHOUT_SPACES: [&str; 6] = ["chinese", "japanese", "thai", "lao", "myanmar", "cantonese"];

/// A word and the places of its first and last token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Word {
    pub text: String,
    pub first: usize,
    pub last: usize,
}

impl WhisperTokens {
    /// The words of tokens; their language is English if `None`.
    pub(super) fn words(&self, ids: &[u32], language: Option<&str>) -> Result<Vec<Word>> {
        let mut words = self.characters(ids)?;
        if !language.is_some_and(|language| WITHOUT_SPACES.contains(&language)) {
            words = join_words(words, |word| ids[word.first] >= self.eos);
        }
        merge_punctuation(&mut words);
        Ok(words)
    }

    /// The shortest runs of tokens that are whole characters.
    fn characters(&self, ids: &[u32]) -> Result<Vec<Word>> {
        let all: Vec<char> = self.decode(ids)?.chars().collect();
        let (mut words, mut first, mut before) = (Vec::new(), 0, 0);
        for last in 0..ids.len() {
            let text = self.decode(&ids[first..=last])?;
            // A replacement that stands in the whole text as well is there to stay.
            let stays = |place: usize| all.get(before + place).is_none_or(|&char| char == REPLACEMENT);
            if text.chars().position(|char| char == REPLACEMENT).is_none_or(stays) {
                before += text.chars().count();
                words.push(Word { text, first, last });
                first = last + 1;
            }
        }
        Ok(words)
    }
}

/// Joins what has no space and no punctuation before it.
fn join_words(parts: Vec<Word>, is_special: impl Fn(&Word) -> bool) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for part in parts {
        let begins = is_special(&part)
            || part.text.starts_with(' ')
            || PUNCTUATION.contains(part.text.trim_matches(is_python_space));
        match words.last_mut() {
            Some(word) if !begins => {
                word.text.push_str(&part.text);
                word.last = part.last;
            }
            _ => words.push(part),
        }
    }
    words
}

/// Gives punctuation to the word that it belongs to: HF's `_merge_punctuations`.
fn merge_punctuation(words: &mut Vec<Word>) {
    let mut next = words.len().saturating_sub(1);
    for i in (0..next).rev() {
        if words[i].text.starts_with(' ') && PREPENDED.contains(words[i].text.trim_matches(is_python_space)) {
            let text = std::mem::take(&mut words[i].text);
            words[next].text.insert_str(0, &text);
            words[next].first = words[i].first;
        } else {
            next = i;
        }
    }
    let mut previous = 0;
    for i in 1..words.len() {
        if !words[previous].text.ends_with(' ') && APPENDED.contains(words[i].text.as_str()) {
            let text = std::mem::take(&mut words[i].text);
            if !text.is_empty() {
                words[previous].text.push_str(&text);
                words[previous].last = words[i].last;
            }
        } else {
            previous = i;
        }
    }
    words.retain(|word| !word.text.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(texts: &[&str]) -> Vec<Word> {
        texts.iter().enumerate().map(|(i, text)| Word { text: (*text).to_owned(), first: i, last: i }).collect()
    }

    #[test]
    fn words_have_their_punctuation() {
        let texts = [" He", "llo", ",", " \"", "wor", "ld", ".\"", " (", "Hm", ")", "!"];
        let mut words = join_words(parts(&texts), |_| false);
        merge_punctuation(&mut words);
        let found: Vec<(&str, usize, usize)> = words.iter().map(|w| (w.text.as_str(), w.first, w.last)).collect();
        assert_eq!(found, [(" Hello,", 0, 2), (" \"world.\"", 3, 6), (" (Hm)!", 7, 10)]);
    }

    #[test]
    fn special_tokens_and_edges() {
        let words = join_words(parts(&["a", "b", "<x>", "c"]), |word| word.first == 2);
        assert_eq!(words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), ["ab", "<x>c"]);
        for texts in [&[][..], &[" ("], &["."], &[" (", " ("], &["", ""]] {
            let mut words = parts(texts);
            merge_punctuation(&mut words);
            assert!(words.iter().all(|word| !word.text.is_empty()));
        }
    }
}
