//! SentencePiece's precompiled character map, checked before it is used.
//!
//! The map is a little-endian blob: the byte length of a double-array trie, the trie (one 32-bit unit per cell), and the
//! replacements as zero-terminated UTF-8 strings. The `tokenizers` crate walks it without a bounds check, so every step
//! that a text could make is made here once.

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use tokenizers::NormalizerWrapper;
use tokenizers::normalizers::Precompiled;

use crate::error::{Error, Result};

/// The largest map, in bytes; NFKC with case folding, the largest that SentencePiece ships, has 320 KiB.
const MAX_BYTES: usize = 4 << 20;
/// The longest replacement, in bytes; the longest of NFKC has 33.
const MAX_REPLACEMENT: usize = 256;
/// The longest sequence that is looked up, in bytes: a grapheme of fewer than six.
const MAX_KEY: usize = 5;

/// The normaliser of a character map.
pub(super) fn precompiled(path: &Path, map: &[u8]) -> Result<NormalizerWrapper> {
    check(map).map_err(|reason| Error::tokenizer(path, format_args!("the precompiled character map {reason}")))?;
    let normalizer = Precompiled::from(map).map_err(|e| Error::tokenizer(path, e))?;
    Ok(NormalizerWrapper::Precompiled(normalizer))
}

/// The bytes of a map in base64, as `tokenizer.json` has it.
pub(super) fn from_base64(path: &Path, text: &str) -> Result<Vec<u8>> {
    let wrong = || Error::tokenizer(path, "the precompiled character map is not base64");
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &c in group {
            let digit = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return Err(wrong()),
            };
            bits = bits << 6 | u32::from(digit);
        }
        let count = group.len() * 6 / 8;
        if count == 0 {
            return Err(wrong());
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..1 + count]);
    }
    Ok(bytes)
}

/// Walks every path of the trie that a text can take.
fn check(map: &[u8]) -> Result<(), String> {
    if map.len() > MAX_BYTES {
        return Err(format!("has {} bytes, expected at most {MAX_BYTES}", map.len()));
    }
    let (size, rest) = map.split_first_chunk().ok_or("is empty")?;
    let size = u32::from_le_bytes(*size) as usize;
    let trie = rest.get(..size).filter(|trie| !trie.is_empty() && trie.len().is_multiple_of(4));
    let trie = trie.ok_or_else(|| format!("announces a trie of {size} bytes in a blob of {}", map.len()))?;
    let unit = |at: usize| -> Result<usize, String> {
        let bytes = trie.get(4 * at..).and_then(<[u8]>::first_chunk);
        bytes
            .map(|unit| u32::from_le_bytes(*unit) as usize)
            .ok_or_else(|| format!("leads to cell {at}, outside of the trie"))
    };
    // The layout of a unit: label in bits 0 to 7 and 31, leaf flag in bit 8, offset in bits 10 to 30 (times 256 if bit 9).
    let offset = |unit: usize| (unit >> 10) << ((unit & 1 << 9) >> 6);
    let replacements = std::str::from_utf8(&rest[size..]).map_err(|_| "has replacements that are not UTF-8")?;

    let (mut queue, mut seen) = (VecDeque::from([(offset(unit(0)?), 0)]), HashSet::new());
    while let Some((state, depth)) = queue.pop_front() {
        if depth == MAX_KEY || !seen.insert(state) {
            continue;
        }
        for byte in 1..=255 {
            let cell = unit(state ^ byte)?;
            if cell & (1 << 31 | 0xff) != byte {
                continue;
            }
            let next = state ^ byte ^ offset(cell);
            if cell >> 8 & 1 == 1 {
                check_replacement(replacements, unit(next)? & !(1 << 31))?;
            }
            queue.push_back((next, depth + 1));
        }
    }
    Ok(())
}

/// Checks that a replacement starts inside of the replacements and is not too long.
fn check_replacement(replacements: &str, start: usize) -> Result<(), String> {
    let text = replacements.get(start..).ok_or_else(|| format!("leads to replacement {start}, which is not there"))?;
    let length = text.bytes().take(MAX_REPLACEMENT + 1).take_while(|&b| b != 0).count();
    if length > MAX_REPLACEMENT {
        return Err(format!("has a replacement of more than {MAX_REPLACEMENT} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map that replaces `a` by `replacements` from `value` on: the root at cell 0, its child for `a` at 0x61.
    fn map(value: u32, replacements: &[u8]) -> Vec<u8> {
        let mut trie = vec![0u32; 512];
        trie[0] = 0x100 << 10; // the root's children are at 0x100 ^ byte
        trie[0x100 ^ 0x61] = (0x61 ^ 1) << 10 | 1 << 8 | 0x61; // its value is at 0x100 ^ 0x61 ^ offset = 0x101
        trie[0x101] = 1 << 31 | value;
        let mut blob = (4 * trie.len() as u32).to_le_bytes().to_vec();
        blob.extend(trie.iter().flat_map(|unit| unit.to_le_bytes()));
        blob.extend(replacements);
        blob
    }

    #[test]
    fn good_maps_pass_and_replace() {
        use tokenizers::{NormalizedString, Normalizer};
        let normalizer = precompiled(Path::new("x"), &map(2, b"x\0yz\0")).unwrap();
        let mut text = NormalizedString::from("bab");
        normalizer.normalize(&mut text).unwrap();
        assert_eq!(text.get(), "byzb");
    }

    #[test]
    fn bad_maps_are_errors() {
        let mut outside = map(0, b"x\0");
        outside[4..8].copy_from_slice(&(0x7ff_u32 << 10).to_le_bytes());
        let long = map(0, &[b'x'; 300]);
        let mut size = map(0, b"x\0");
        size[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        for blob in
            [&b""[..], b"\0\0\0\0", b"garbage!", &outside, &long, &size, &map(9, b"x\0"), &map(1, "é\0".as_bytes())]
        {
            assert!(matches!(precompiled(Path::new("x"), blob), Err(Error::Tokenizer { .. })));
        }
    }

    #[test]
    fn base64() {
        let decode = |text| from_base64(Path::new("x"), text).ok();
        assert_eq!(decode("aGVsbG8gd29ybGQ=").unwrap(), b"hello world");
        assert_eq!(decode("+/8A").unwrap(), [0xfb, 0xff, 0]);
        assert_eq!(decode(""), Some(vec![]));
        assert_eq!((decode("a"), decode("a!b=")), (None, None));
    }
}
