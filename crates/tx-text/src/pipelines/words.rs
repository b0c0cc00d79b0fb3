//! Tokens back to words: Python's `convert_tokens_to_string`.
//!
//! Unlike decoding of ids it also takes texts that are no tokens, which is what aggregated words are made of.

use std::collections::HashMap;
use std::sync::LazyLock;

use tx_core::tokenizer::Tokenizer;

/// How the tokens of a vocabulary join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joining {
    /// Words are separate unless they begin with `##`.
    WordPiece,
    /// Each character stands for a byte.
    ByteLevel,
    /// `▁` stands for a space.
    Metaspace,
    /// All words are separate.
    Spaces,
}

impl Joining {
    /// How the tokens of a tokenizer join.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        match tokenizer.kind() {
            "WordPiece" => Self::WordPiece,
            // The character for a space is in every vocabulary of bytes.
            "BPE" if tokenizer.token_to_id("Ġ").is_some() => Self::ByteLevel,
            "BPE" | "Unigram" => Self::Metaspace,
            _ => Self::Spaces,
        }
    }

    /// The text of tokens.
    pub fn join<'a>(self, tokens: impl IntoIterator<Item = &'a str>) -> String {
        let tokens = tokens.into_iter();
        if matches!(self, Self::ByteLevel) {
            let bytes: Vec<u8> = tokens.flat_map(bytes).collect();
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        let tokens = tokens.enumerate();
        match self {
            Self::WordPiece => tokens.map(|(i, token)| clean_up(&word_piece(i, token))).collect(),
            // The first token loses its spaces.
            Self::Metaspace => tokens.map(|(i, token)| token.replace('▁', if i == 0 { "" } else { " " })).collect(),
            Self::Spaces | Self::ByteLevel => {
                tokens.map(|(i, token)| if i == 0 { token.to_owned() } else { format!(" {token}") }).collect()
            }
        }
    }
}

/// A token with the space before it.
fn word_piece(index: usize, token: &str) -> String {
    match token.strip_prefix("##") {
        _ if index == 0 => token.to_owned(),
        Some(rest) => rest.to_owned(),
        None => format!(" {token}"),
    }
}

/// Takes out the spaces before punctuation and English contractions, as the WordPiece decoder does for each token.
fn clean_up(token: &str) -> String {
    const REPLACED: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(token.to_owned(), |token, (from, to)| token.replace(from, to))
}

/// The bytes that the characters of a token stand for; its own if one of them stands for none.
fn bytes(token: &str) -> Vec<u8> {
    let known: Option<Vec<u8>> = token.chars().map(|c| BYTES.get(&c).copied()).collect();
    known.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's characters for bytes: printable ones stand for themselves, the others for characters from U+0100 on.
static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=u8::MAX).filter(printable).map(|byte| (char::from(byte), byte));
    let others = (0..=u8::MAX).filter(|byte| !printable(byte));
    own.chain(('\u{100}'..).zip(others)).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_join_as_in_python() {
        use Joining::*;
        let table: [(Joining, &[&str], &str); 9] = [
            (WordPiece, &["new", "york", "##er", ".", "s"], "new yorker. s"),
            (WordPiece, &["##er", "##s", "'"], "##ers '"),
            (WordPiece, &["don", "'s"], "don's"),
            (ByteLevel, &["Mont", "r", "Ã©", "al", "ĠRome"], "Montréal Rome"),
            (ByteLevel, &[" Montréal"], " Montréal"),
            // The reference loses the letter too: it stands for a byte that is no text by itself.
            (ByteLevel, &["Montréal"], "Montr\u{fffd}al"),
            (Metaspace, &["▁New", "▁York", "er"], "New Yorker"),
            (Metaspace, &["New", "York"], "NewYork"),
            (Spaces, &["a", "b"], "a b"),
        ];
        for (joining, tokens, expected) in table {
            assert_eq!(joining.join(tokens.iter().copied()), expected, "{tokens:?}");
        }
    }

    #[test]
    fn every_byte_has_a_character() {
        assert_eq!(BYTES.len(), 256);
        assert_eq!((BYTES[&'Ġ'], BYTES[&'Ċ'], BYTES[&'A']), (b' ', b'\n', b'A'));
    }
}
