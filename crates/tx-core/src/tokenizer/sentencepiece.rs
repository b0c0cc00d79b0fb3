//! SentencePiece model files (`spiece.model`, `tokenizer.model` …) as a source of vocabularies.
//!
//! The file is a protocol buffer; the few messages of `sentencepiece_model.proto` that matter are written out here.
//! SentencePiece's own BPE files hold no merges: they are found again by splitting every piece into two known ones.

use std::path::Path;

use prost::Message;

use super::model::{Ids, MAX_TOKENS, Vocabulary};
use super::settings::Added;
use crate::error::{Error, Result};

/// The largest model file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// The longest piece of a BPE model, in bytes: all its splits are tried.
const MAX_PIECE: usize = 512;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

/// [`Piece::kind`]: marks the start or end of a text and the like; never found in a text.
const CONTROL: i32 = 3;
/// [`Piece::kind`]: always one token where it is found in a text.
const USER_DEFINED: i32 = 4;

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40", default = "0")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41", default = "1")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42", default = "2")]
    eos_id: Option<i32>,
    #[prost(string, optional, tag = "45", default = "<unk>")]
    unk_piece: Option<String>,
    #[prost(string, optional, tag = "46", default = "<s>")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    eos_piece: Option<String>,
}

/// [`TrainerSpec::model_type`] of a Unigram model.
const UNIGRAM: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
}

/// A SentencePiece model: its pieces in order of their ids, and what else a tokenizer needs to know.
#[derive(Debug)]
pub(super) struct SentencePiece {
    /// Pieces with their scores (log probabilities).
    pub pieces: Vec<(String, f64)>,
    /// The pieces that are tokens wherever they are found, of which the control ones are special.
    pub added: Vec<Added>,
    /// The character map of the normaliser, if there is one.
    pub charsmap: Option<Vec<u8>>,
    spec: TrainerSpec,
}

impl SentencePiece {
    /// Reads a model file.
    pub fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if size > MAX_BYTES {
            return Err(Error::tokenizer(path, format_args!("{size} bytes, expected at most {MAX_BYTES}")));
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        match count_pieces(&bytes) {
            Some(1..=MAX_TOKENS) => {}
            Some(0) | None => return Err(Error::tokenizer(path, "not a SentencePiece model: no pieces found")),
            Some(count) => {
                return Err(Error::tokenizer(path, format_args!("{count} pieces, expected at most {MAX_TOKENS}")));
            }
        }
        let proto = ModelProto::decode(bytes.as_slice())
            .map_err(|e| Error::tokenizer(path, format_args!("not a SentencePiece model: {e}")))?;
        let mut added = Vec::new();
        for piece in proto.pieces.iter().filter(|piece| matches!(piece.kind(), CONTROL | USER_DEFINED)) {
            let token = Added::special(piece.piece());
            added.push(Added { special: piece.kind() == CONTROL, ..token });
        }
        let charsmap = proto.normalizer_spec.and_then(|spec| spec.precompiled_charsmap);
        Ok(Self {
            pieces: proto
                .pieces
                .into_iter()
                .map(|p| (p.piece.unwrap_or_default(), p.score.unwrap_or(0.0).into()))
                .collect(),
            added,
            charsmap: charsmap.filter(|map| !map.is_empty()),
            spec: proto.trainer_spec.unwrap_or_default(),
        })
    }

    /// Whether this is a Unigram model; if not it is taken for BPE.
    pub fn is_unigram(&self) -> bool {
        self.spec.model_type() == UNIGRAM
    }

    /// Whether bytes of characters that no piece covers become pieces of their own.
    pub fn byte_fallback(&self) -> bool {
        self.spec.byte_fallback()
    }

    /// The id of the unknown piece.
    pub fn unk_id(&self) -> Option<usize> {
        usize::try_from(self.spec.unk_id()).ok()
    }

    /// The text of the unknown piece.
    pub fn unk_piece(&self) -> &str {
        self.spec.unk_piece()
    }

    /// The texts of the pieces for beginning, end and unknown, where the model has them.
    pub fn special(&self) -> [(&'static str, Option<&str>); 3] {
        let text = |id: i32, piece| (id >= 0).then_some(piece);
        [
            ("bos_token", text(self.spec.bos_id(), self.spec.bos_piece())),
            ("eos_token", text(self.spec.eos_id(), self.spec.eos_piece())),
            ("unk_token", text(self.spec.unk_id(), self.spec.unk_piece())),
        ]
    }

    /// The vocabulary of a BPE model, and its merges, best first.
    pub fn bpe(&self, path: &Path) -> Result<(Vocabulary, Vec<(String, String)>)> {
        let ids: Ids = self.pieces.iter().enumerate().map(|(id, (piece, _))| (piece.clone(), id as u32)).collect();
        let merges = recover_merges(path, &self.pieces, &ids)?;
        Ok((Vocabulary::Ids(ids), merges))
    }
}

/// All ways to make a piece from two others, in the order in which BPE learned the pieces, which is that of the ids.
/// Among the splits of one piece the one with the shorter first half goes first.
fn recover_merges(path: &Path, pieces: &[(String, f64)], ids: &Ids) -> Result<Vec<(String, String)>> {
    let mut merges = Vec::new();
    for (id, (piece, _)) in pieces.iter().enumerate() {
        if piece.len() > MAX_PIECE {
            let reason = format!("piece {id} has {} bytes, expected at most {MAX_PIECE}", piece.len());
            return Err(Error::tokenizer(path, reason));
        }
        // Of equal pieces only the last one has an id.
        if ids.get(piece) != Some(&(id as u32)) {
            continue;
        }
        let splits = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let known = splits.filter(|&(a, b)| ids.contains_key(a) && ids.contains_key(b));
        merges.extend(known.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
    Ok(merges)
}

/// How many pieces the file says it has, found without allocating; `None` if it is not a protocol buffer.
fn count_pieces(mut bytes: &[u8]) -> Option<usize> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    let mut count = 0;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let length = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        bytes = bytes.get(length..)?;
        count += usize::from(key == (1 << 3 | 2));
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, kind: i32) -> Piece {
        Piece { piece: Some(text.into()), score: Some(-0.5), kind: Some(kind) }
    }

    fn read(bytes: &[u8]) -> Result<SentencePiece> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        SentencePiece::read(file.path())
    }

    #[test]
    fn pieces_added_tokens_and_merges() {
        let pieces = [
            ("<unk>", 2),
            ("<s>", CONTROL),
            ("[X]", USER_DEFINED),
            ("abc", 1),
            ("ab", 1),
            ("a", 1),
            ("b", 1),
            ("c", 1),
            ("bc", 1),
        ];
        let proto = ModelProto {
            pieces: pieces.iter().map(|&(text, kind)| piece(text, kind)).collect(),
            trainer_spec: Some(TrainerSpec { model_type: Some(2), ..Default::default() }),
            normalizer_spec: None,
        };
        let model = read(&proto.encode_to_vec()).unwrap();
        assert!(!model.is_unigram() && model.charsmap.is_none() && model.pieces[3] == ("abc".into(), -0.5));
        let added: Vec<_> = model.added.iter().map(|t| (t.content.as_str(), t.special)).collect();
        assert_eq!(added, [("<s>", true), ("[X]", false)]);
        let (_, merges) = model.bpe(Path::new("tokenizer.model")).unwrap();
        let merges: Vec<_> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(merges, [("a", "bc"), ("ab", "c"), ("a", "b"), ("b", "c")]);
    }

    #[test]
    fn what_is_no_model_is_a_typed_error() {
        let good = ModelProto { pieces: vec![piece("a", 1); 20], ..Default::default() }.encode_to_vec();
        for bytes in
            [b"".as_slice(), b"\xff\xff", b"IQ== 0\nIg== 1\n", &good[..good.len() - 1], b"\x0a\xff\xff\xff\xff\x0f"]
        {
            assert!(matches!(read(bytes), Err(Error::Tokenizer { .. })));
        }
        let deep = [0x0b; 10_000];
        assert!(read(&deep).is_err());
        assert!(read(&good).is_ok());
    }
}
