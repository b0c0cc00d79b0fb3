//! What each token stands for, in bytes: for decoding that follows a grammar.

use std::path::Path;

use tokenizers::DecoderWrapper;

use super::Tokenizer;
use super::model::MAX_TOKENS;
use crate::error::{Error, Result};

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenBytes {
    /// These bytes of a text, which need not be whole characters.
    Text(Vec<u8>),
    /// No text: a special token, by its name in the vocabulary.
    Special(String),
    /// Nothing: no token has this id.
    Unused,
}

/// How the decoder makes text of tokens, as far as it does so for each token alone.
#[derive(Debug, Default)]
struct Decoding {
    /// Every character of a token is a byte.
    byte_level: bool,
    /// Tokens like `<0x0A>` are bytes.
    byte_fallback: bool,
    /// The character that stands for a space.
    space: Option<char>,
}

impl Tokenizer {
    /// What each id from 0 to [`Tokenizer::max_id`] stands for in the middle of a text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the tokens alone do not make the text, as with WordPiece; [`Error::Tokenizer`] if ids
    /// are so large that there cannot be a list of them.
    pub fn token_bytes(&self) -> Result<Vec<TokenBytes>> {
        if self.max_id as usize >= MAX_TOKENS {
            let reason = format!("ids up to {}, expected less than {MAX_TOKENS}", self.max_id);
            return Err(Error::tokenizer(&self.path, reason));
        }
        let mut decoding = Decoding::default();
        if let Some(decoder) = self.backend.get_decoder() {
            decoding.read(&self.path, decoder)?;
        }
        if !decoding.byte_level && !decoding.byte_fallback && decoding.space.is_none() {
            return Err(unsupported(&self.path, self.kind()));
        }
        let added = self.backend.get_added_tokens_decoder();
        let bytes = |id: u32| match self.backend.id_to_token(id) {
            None => TokenBytes::Unused,
            Some(token) if added.get(&id).is_some_and(|added| added.special) => TokenBytes::Special(token),
            Some(token) => TokenBytes::Text(decoding.bytes(&token)),
        };
        Ok((0..=self.max_id).map(bytes).collect())
    }
}

impl Decoding {
    fn read(&mut self, path: &Path, decoder: &DecoderWrapper) -> Result<()> {
        match decoder {
            DecoderWrapper::ByteLevel(_) => self.byte_level = true,
            DecoderWrapper::ByteFallback(_) => self.byte_fallback = true,
            DecoderWrapper::Metaspace(metaspace) => self.space = Some(metaspace.get_replacement()),
            DecoderWrapper::Replace(replace) if replace.content == " " => {
                // The library has no other way to the pattern.
                let json = serde_json::to_value(replace).unwrap_or_default();
                let mut pattern = json["pattern"]["String"].as_str().unwrap_or_default().chars();
                if let (Some(character), None) = (pattern.next(), pattern.next()) {
                    self.space = Some(character);
                }
            }
            DecoderWrapper::Sequence(sequence) => {
                for decoder in sequence.get_decoders() {
                    self.read(path, decoder)?;
                }
            }
            DecoderWrapper::BPE(_) => return Err(unsupported(path, "BPE with ends of words")),
            DecoderWrapper::WordPiece(_) => return Err(unsupported(path, "WordPiece")),
            DecoderWrapper::CTC(_) => return Err(unsupported(path, "CTC")),
            // They join tokens, or act on the ends of a text only.
            DecoderWrapper::Replace(_) | DecoderWrapper::Fuse(_) | DecoderWrapper::Strip(_) => {}
        }
        Ok(())
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_level {
            // Added tokens are not written in the alphabet of bytes; the library takes them as they are, too.
            return token.chars().map(byte).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec());
        }
        let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if self.byte_fallback => vec![byte],
            _ => match self.space {
                Some(space) => token.replace(space, " ").into_bytes(),
                None => token.as_bytes().to_vec(),
            },
        }
    }
}

/// The byte that a character stands for in byte-level vocabularies: printable ones stand for themselves, the others are
/// numbered from 256 on.
fn byte(character: char) -> Option<u8> {
    let code = character as u32;
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

fn unsupported(path: &Path, decoder: &str) -> Error {
    Error::Unsupported {
        path: path.to_path_buf(),
        key: "decoder".into(),
        value: decoder.to_owned(),
        supported: "byte-level, byte-fallback and metaspace vocabularies".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_of_the_byte_alphabet() {
        assert_eq!(
            [byte('a'), byte('Ġ'), byte('Ċ'), byte('\u{143}')],
            [Some(b'a'), Some(b' '), Some(b'\n'), Some(0xad)]
        );
        assert_eq!([byte('\u{121}'), byte('\u{142}'), byte(' '), byte('▁')], [Some(0x7f), Some(0xa0), None, None]);
        let mut all: Vec<u8> = (0..0x144).filter_map(|code| byte(char::from_u32(code)?)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn tokens_become_bytes() {
        let level = Decoding { byte_level: true, ..Default::default() };
        assert_eq!(level.bytes("ĠÃ©"), " é".as_bytes());
        assert_eq!(level.bytes("<a b>"), b"<a b>");
        let fallback = Decoding { byte_fallback: true, space: Some('▁'), ..Default::default() };
        assert_eq!(fallback.bytes("▁the"), b" the");
        assert_eq!(fallback.bytes("<0x0A>"), b"\n");
        assert_eq!(fallback.bytes("<0x>"), b"<0x>");
        let metaspace = Decoding { space: Some('▁'), ..Default::default() };
        assert_eq!(metaspace.bytes("<0x0A>"), b"<0x0A>");
    }
}
