//! Several rows in one example, so that little is padded.

use std::fmt;

use tx_core::error::Result;

use super::example::{Example, IGNORED, Labels, Tokens};
use super::row::Origin;

/// The rows that are packed together; what is left of them is not carried over. It is the `batch_size` with which HF's
/// example scripts map their `group_texts`.
const ROWS: usize = 1000;

/// How the examples of several rows become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// They do not.
    None,
    /// As `group_texts` of HF's scripts for language models: all tokens of a thousand rows, one after the other, are cut
    /// into blocks, and the rest is dropped.
    Blocks {
        /// The tokens of a block.
        size: usize,
    },
    /// Whole examples are put together as long as they fit, the longest first, each where it leaves the least room
    /// (best-fit decreasing, over a thousand rows). No token learns from the end of another example.
    Whole {
        /// The most tokens together.
        size: usize,
    },
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("an example"),
            Self::Blocks { size } => write!(f, "a block of {size}"),
            Self::Whole { size } => write!(f, "a sequence of {size}"),
        }
    }
}

/// Packs examples as they come.
pub(super) enum Packer {
    None,
    Blocks { size: usize, rows: usize, block: Option<Example> },
    Whole { size: usize, rows: usize, examples: Vec<Example> },
}

impl Packer {
    pub fn new(packing: Packing) -> Self {
        match packing {
            Packing::None => Self::None,
            Packing::Blocks { size } => Self::Blocks { size: size.max(1), rows: 0, block: None },
            Packing::Whole { size } => Self::Whole { size, rows: 0, examples: Vec::new() },
        }
    }

    /// Takes the examples of a row; what is complete goes to `give`.
    pub fn add(&mut self, examples: Vec<Example>, give: &mut dyn FnMut(Example) -> Result<()>) -> Result<()> {
        match self {
            Self::None => examples.into_iter().try_for_each(give),
            Self::Blocks { size, rows, block } => {
                examples.into_iter().try_for_each(|example| cut(example, *size, block, give))?;
                *rows += 1;
                if *rows == ROWS {
                    (*rows, *block) = (0, None);
                }
                Ok(())
            }
            Self::Whole { size, rows, examples: waiting } => {
                waiting.extend(examples);
                *rows += 1;
                if *rows == ROWS {
                    *rows = 0;
                    pack(std::mem::take(waiting), *size).into_iter().try_for_each(give)?;
                }
                Ok(())
            }
        }
    }

    /// Gives what is complete now that there are no more rows.
    pub fn finish(self, give: &mut dyn FnMut(Example) -> Result<()>) -> Result<()> {
        match self {
            Self::None | Self::Blocks { .. } => Ok(()),
            Self::Whole { size, examples, .. } => pack(examples, size).into_iter().try_for_each(give),
        }
    }
}

/// Adds an example's tokens to the block that is begun, and gives each block that is full.
fn cut(
    example: Example,
    size: usize,
    block: &mut Option<Example>,
    give: &mut dyn FnMut(Example) -> Result<()>,
) -> Result<()> {
    let Example { origin, texts, labels, .. } = example;
    for tokens in texts {
        let mut start = 0;
        while start < tokens.len() {
            let new = || Example::text(origin.clone(), Tokens::default(), labels.clone());
            let mut begun = block.take().unwrap_or_else(new);
            let into = &mut begun.texts[0];
            let end = tokens.len().min(start + size - into.len());
            into.ids.extend(&tokens.ids[start..end]);
            into.marks.extend(tokens.marks.get(start..end).unwrap_or_default());
            start = end;
            if into.len() < size {
                *block = Some(begun);
            } else {
                give(begun)?;
            }
        }
    }
    Ok(())
}

/// Puts whole examples together, each with the label of every token.
fn pack(mut examples: Vec<Example>, size: usize) -> Vec<Example> {
    // A sort that keeps the order of equals, so that the result is always the same.
    examples.sort_by_key(|example| std::cmp::Reverse(example.len()));
    let mut packs: Vec<(Origin, Tokens, Vec<i64>)> = Vec::new();
    for example in examples {
        let labels = token_labels(&example);
        let Example { origin, texts, .. } = example;
        let Some(tokens) = texts.into_iter().next() else { continue };
        let fits = packs.iter_mut().filter(|(_, pack, _)| pack.len() + tokens.len() <= size);
        match fits.max_by_key(|(_, pack, _)| pack.len()) {
            Some((_, pack, known)) => {
                pack.ids.extend(tokens.ids);
                known.push(IGNORED);
                known.extend(labels.into_iter().skip(1));
            }
            None => packs.push((origin, Tokens { ids: tokens.ids, ..Tokens::default() }, labels)),
        }
    }
    packs.into_iter().map(|(origin, tokens, labels)| Example::text(origin, tokens, Labels::Tokens(labels))).collect()
}

/// The label of every token of an example's first text.
fn token_labels(example: &Example) -> Vec<i64> {
    let ids = example.texts.first().map_or(&[][..], |tokens| tokens.ids.as_slice());
    match &example.labels {
        Labels::Tokens(labels) => labels.clone(),
        Labels::Same => ids.iter().map(|&id| i64::from(id)).collect(),
        _ => vec![IGNORED; ids.len()],
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::row::Place;
    use super::*;

    fn example(line: u64, ids: std::ops::Range<u32>) -> Example {
        let origin = Origin { file: Path::new("a").into(), place: Place { row: 0, line } };
        let marks = ids.clone().map(|id| id as u8).collect();
        Example::text(origin, Tokens { ids: ids.collect(), marks, ..Tokens::default() }, Labels::Same)
    }

    fn packed(packing: Packing, rows: Vec<Vec<Example>>) -> Vec<Example> {
        let (mut packer, mut given) = (Packer::new(packing), Vec::new());
        let mut give = |example| {
            given.push(example);
            Ok(())
        };
        rows.into_iter().for_each(|row| packer.add(row, &mut give).unwrap());
        packer.finish(&mut give).unwrap();
        given
    }

    #[test]
    fn blocks_go_over_the_ends_of_rows_and_the_rest_is_dropped() {
        let rows = vec![vec![example(1, 0..3)], vec![], vec![example(3, 3..12)], vec![example(4, 12..14)]];
        let blocks = packed(Packing::Blocks { size: 4 }, rows);
        let shown: Vec<_> = blocks.iter().map(|block| (block.origin.place.line, block.texts[0].ids.clone())).collect();
        assert_eq!(shown, [(1, vec![0, 1, 2, 3]), (3, vec![4, 5, 6, 7]), (3, vec![8, 9, 10, 11])]);
        assert!(blocks.iter().all(|block| block.labels == Labels::Same));
        assert_eq!(blocks[2].texts[0].marks, [8, 9, 10, 11]);
    }

    #[test]
    fn a_thousand_rows_are_cut_together() {
        let rows: Vec<_> = (0..2500u32).map(|i| vec![example(u64::from(i), i..i + 1)]).collect();
        let blocks = packed(Packing::Blocks { size: 300 }, rows);
        let starts: Vec<u32> = blocks.iter().map(|block| block.texts[0].ids[0]).collect();
        assert_eq!(starts, [0, 300, 600, 1000, 1300, 1600, 2000]);
    }

    #[test]
    fn whole_examples_fit_together_and_do_not_learn_from_each_other() {
        let rows = [0..3, 10..16, 20..25, 30..32, 40..42].into_iter().zip(1..);
        let rows = rows.map(|(ids, line)| vec![example(line, ids)]).collect();
        let packs = packed(Packing::Whole { size: 8 }, rows);
        let shown: Vec<_> = packs.iter().map(|pack| (pack.origin.place.line, pack.texts[0].ids.clone())).collect();
        let (a, b): (Vec<u32>, Vec<u32>) = ((10..16).chain(30..32).collect(), (20..25).chain(0..3).collect());
        assert_eq!(shown, [(2, a), (3, b), (5, vec![40, 41])]);
        let labels = vec![20, 21, 22, 23, 24, IGNORED, 1, 2];
        assert_eq!(packs[1].labels, Labels::Tokens(labels));
        // One that is too long stays alone.
        assert_eq!(packed(Packing::Whole { size: 2 }, vec![vec![example(1, 0..5)]]).len(), 1);
    }
}
