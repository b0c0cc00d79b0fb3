//! Examples: rows as a model takes them, and how they are kept on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tx_core::tokenizer::Encoding;

use super::row::{Origin, Place};

/// The label of a token that the loss leaves out: PyTorch's `ignore_index`.
pub const IGNORED: i64 = -100;

/// A text as a model takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Ids in the vocabulary.
    pub ids: Vec<u32>,
    /// Which text of a pair each token belongs to; empty if all belong to the first.
    pub type_ids: Vec<u32>,
    /// What masking must know of each token, [`Tokens::SPECIAL`] and [`Tokens::WORD`]; empty where nothing is masked.
    pub marks: Vec<u8>,
}

impl Tokens {
    /// The mark of a token that is not from the text.
    pub const SPECIAL: u8 = 1;
    /// The mark of the first token of a word.
    pub const WORD: u8 = 2;

    /// The ids and types of an encoding.
    pub fn new(encoding: &Encoding) -> Self {
        let paired = encoding.type_ids.iter().any(|&id| id != 0);
        let type_ids = if paired { encoding.type_ids.clone() } else { Vec::new() };
        Self { ids: encoding.ids.clone(), type_ids, marks: Vec::new() }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// What a model should say about an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// Nothing, or what follows from the texts.
    None,
    /// The number of a class.
    Class(i64),
    /// Real numbers: those to be learned, or 1 and 0 for classes that hold and do not.
    Values(Vec<f32>),
    /// A number per token, [`IGNORED`] where there is none.
    Tokens(Vec<i64>),
    /// The tokens themselves.
    Same,
    /// The first and the last token of an answer.
    Span {
        /// The first.
        start: usize,
        /// The last.
        end: usize,
    },
}

/// What judging an answer takes beside the scores, for a window of its context: HF's `example_id` and `offset_mapping`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// Which question it is.
    pub id: String,
    /// The text that answers it.
    pub context: String,
    /// The answers that are right; none if there is none in the context.
    pub answers: Vec<String>,
    /// Where each token is in the context, in characters; `None` for tokens of the question, and special ones.
    pub offsets: Vec<Option<(usize, usize)>>,
}

/// A row as a model takes it, or a part of one, or of several.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The row that it is of, or begins with.
    pub origin: Origin,
    /// The texts: one, or those that are compared with each other.
    pub texts: Vec<Tokens>,
    /// What the model should say.
    pub labels: Labels,
    /// The file of an image.
    pub image: Option<PathBuf>,
    /// What judging an answer takes.
    pub reference: Option<Box<Reference>>,
}

impl Example {
    /// An example of one text.
    pub fn text(origin: Origin, tokens: Tokens, labels: Labels) -> Self {
        Self { origin, texts: vec![tokens], labels, image: None, reference: None }
    }

    /// How many tokens the longest text has.
    pub fn len(&self) -> usize {
        self.texts.iter().map(Tokens::len).max().unwrap_or(0)
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Writes examples as bytes: numbers in groups of seven bits, lists with their length before them.
#[derive(Debug)]
pub(super) struct Writer<'b> {
    bytes: &'b mut Vec<u8>,
}

impl<'b> Writer<'b> {
    /// Adds an example to `bytes`; `file` is the number of the file that it is from.
    pub fn example(bytes: &'b mut Vec<u8>, example: &Example, file: u64) {
        let mut writer = Self { bytes };
        let Place { row, line } = example.origin.place;
        [file, row, line].into_iter().for_each(|number| writer.number(number));
        writer.list(&example.texts, |writer, tokens| {
            writer.list(&tokens.ids, |writer, &id| writer.number(u64::from(id)));
            writer.list(&tokens.type_ids, |writer, &id| writer.number(u64::from(id)));
            writer.list(&tokens.marks, |writer, &mark| writer.bytes.push(mark));
        });
        match &example.labels {
            Labels::None => writer.number(0),
            Labels::Class(class) => {
                writer.number(1);
                writer.signed(*class);
            }
            Labels::Values(values) => {
                writer.number(2);
                writer.list(values, |writer, value| writer.bytes.extend(value.to_le_bytes()));
            }
            Labels::Tokens(labels) => {
                writer.number(3);
                writer.list(labels, |writer, &label| writer.signed(label));
            }
            Labels::Same => writer.number(4),
            Labels::Span { start, end } => {
                writer.number(5);
                writer.number(*start as u64);
                writer.number(*end as u64);
            }
        }
        match example.image.as_ref().map(|path| path.to_string_lossy()) {
            None => writer.number(0),
            Some(path) => {
                writer.number(1);
                writer.text(&path);
            }
        }
        match &example.reference {
            None => writer.number(0),
            Some(reference) => {
                writer.number(1);
                writer.text(&reference.id);
                writer.text(&reference.context);
                writer.list(&reference.answers, |writer, answer| writer.text(answer));
                // An end before its start is no place.
                writer.list(&reference.offsets, |writer, offset| {
                    let (start, end) = offset.unwrap_or((1, 0));
                    writer.number(start as u64);
                    writer.number(end as u64);
                });
            }
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// A small number, whichever sign it has.
    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| write(self, item));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend(text.as_bytes());
    }
}

/// Reads what [`Writer`] wrote; `None` is bytes that it did not write.
#[derive(Debug)]
pub(super) struct Reader<'b> {
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    /// The example that `bytes` are, from one of `files`.
    pub fn example(bytes: &'b [u8], files: &[Arc<Path>]) -> Option<Example> {
        let mut reader = Self { bytes };
        let file = files.get(reader.size()?)?.clone();
        let place = Place { row: reader.number()?, line: reader.number()? };
        let texts = reader.list(|reader| {
            Some(Tokens {
                ids: reader.list(Self::id)?,
                type_ids: reader.list(Self::id)?,
                marks: reader.list(|reader| reader.take(1).map(|bytes| bytes[0]))?,
            })
        })?;
        let labels = match reader.number()? {
            0 => Labels::None,
            1 => Labels::Class(reader.signed()?),
            2 => Labels::Values(reader.list(|reader| Some(f32::from_le_bytes(reader.take(4)?.try_into().ok()?)))?),
            3 => Labels::Tokens(reader.list(Self::signed)?),
            4 => Labels::Same,
            5 => Labels::Span { start: reader.size()?, end: reader.size()? },
            _ => return None,
        };
        let image = if reader.number()? == 0 { None } else { Some(PathBuf::from(reader.text()?)) };
        let reference = if reader.number()? == 0 { None } else { Some(Box::new(reader.reference()?)) };
        let complete = reader.bytes.is_empty();
        complete.then_some(Example { origin: Origin { file, place }, texts, labels, image, reference })
    }

    fn reference(&mut self) -> Option<Reference> {
        Some(Reference {
            id: self.text()?,
            context: self.text()?,
            answers: self.list(Self::text)?,
            offsets: self.list(|reader| {
                let (start, end) = (reader.size()?, reader.size()?);
                Some((start <= end).then_some((start, end)))
            })?,
        })
    }

    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn id(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // Each item has a byte at least.
        let count = self.size().filter(|&count| count <= self.bytes.len())?;
        (0..count).map(|_| read(self)).collect()
    }

    fn text(&mut self) -> Option<String> {
        let count = self.size()?;
        String::from_utf8(self.take(count)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { file: Path::new("b").into(), place: Place { row: 3, line: 1 << 40 } }
    }

    #[test]
    fn examples_are_read_as_they_were_written() {
        let files: Vec<Arc<Path>> = vec![Path::new("a").into(), Path::new("b").into()];
        let tokens = Tokens { ids: vec![0, 127, 128, u32::MAX], type_ids: vec![0, 0, 1, 1], marks: vec![1, 2, 0, 3] };
        let all = [
            Labels::None,
            Labels::Class(-1),
            Labels::Values(vec![0.5, -0.0, f32::MIN_POSITIVE]),
            Labels::Tokens(vec![IGNORED, 0, i64::MAX, i64::MIN]),
            Labels::Same,
            Labels::Span { start: 3, end: 300 },
        ];
        let reference = Reference {
            id: "é".into(),
            context: "context".into(),
            answers: vec![String::new(), "x".into()],
            offsets: vec![None, Some((0, 0)), Some((5, 1000))],
        };
        for labels in all {
            let text = Example::text(origin(), tokens.clone(), labels.clone());
            let image = Example { texts: Vec::new(), image: Some("dir/ü.png".into()), ..text.clone() };
            let answer = Example {
                texts: vec![tokens.clone(), Tokens::default()],
                reference: Some(Box::new(reference.clone())),
                ..text.clone()
            };
            for example in [text, image, answer] {
                let mut bytes = Vec::new();
                Writer::example(&mut bytes, &example, 1);
                assert_eq!(Reader::example(&bytes, &files).unwrap(), example);
                assert!((0..bytes.len()).all(|end| Reader::example(&bytes[..end], &files).is_none()));
                assert!(Reader::example(&bytes, &files[..1]).is_none());
                bytes.push(0);
                assert!(Reader::example(&bytes, &files).is_none());
            }
        }
    }

    #[test]
    fn lengths() {
        let tokens = |n| Tokens { ids: vec![1; n], ..Tokens::default() };
        let pair = Example { texts: vec![tokens(2), tokens(5)], ..Example::text(origin(), tokens(1), Labels::None) };
        assert_eq!((pair.len(), pair.texts[0].len()), (5, 2));
        assert!(Example { texts: Vec::new(), ..pair }.is_empty());
    }
}
