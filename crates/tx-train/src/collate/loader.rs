//! The batches of a data set, one after the other, from any place on.

use std::sync::Arc;

use tx_core::error::{Error, Result};

use super::{Batch, Collator};
use crate::data::{Cursor, Examples, Sampler, SamplerOptions};

/// The batches of a data set, epoch after epoch.
#[derive(Debug, Clone)]
pub struct DataLoader {
    examples: Arc<Examples>,
    sampler: Sampler,
    collator: Collator,
    cursor: Cursor,
}

impl DataLoader {
    /// The batches of all examples, from the first on.
    ///
    /// # Errors
    /// Those of [`Sampler::new`].
    pub fn new(examples: Arc<Examples>, collator: Collator, options: SamplerOptions) -> Result<Self> {
        let sampler = Sampler::new(examples.len(), examples.statistics().longest, options)?;
        Ok(Self { examples, sampler, collator, cursor: Cursor::default() })
    }

    /// The examples.
    pub fn examples(&self) -> &Arc<Examples> {
        &self.examples
    }

    /// How many batches an epoch has.
    pub fn batches(&self) -> u64 {
        self.sampler.batches()
    }

    /// How many examples a batch has over all ranks.
    pub fn batch_len(&self, batch: u64) -> u64 {
        self.sampler.batch_len(batch)
    }

    /// Where the next batch is: what a checkpoint must keep.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes on from a place. The end of an epoch is the beginning of the next one.
    ///
    /// # Errors
    /// [`Error::Input`] if epochs have fewer batches.
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        let batches = self.batches();
        if cursor.batch > batches {
            let expected =
                format_args!("at most {batches}, the batches of an epoch; the data or the batch size changed");
            return Err(Error::input("batch", cursor.batch, expected));
        }
        self.cursor = cursor;
        self.wrap();
        Ok(())
    }

    fn wrap(&mut self) {
        if self.cursor.batch == self.batches() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, batch: 0 };
        }
    }

    /// The next batch, and where it is; after the last of an epoch comes the first of the next.
    ///
    /// # Errors
    /// Those of [`Examples::get`] and [`Collator::collate`].
    pub fn next_batch(&mut self) -> Result<(Cursor, Batch)> {
        let at = self.cursor;
        let numbers = self.sampler.batch(at, &|number| self.examples.length(number))?;
        let examples = numbers.into_iter().map(|number| Ok((number, self.examples.get(number)?)));
        let batch = self.collator.collate(examples.collect::<Result<_>>()?, at.epoch)?;
        self.cursor.batch += 1;
        self.wrap();
        Ok((at, batch))
    }
}

#[cfg(test)]
mod tests {
    use tx_core::tokenizer::{EncodeOptions, Side};

    use super::super::{BatchLabels, CollatorOptions};
    use super::*;
    use crate::data::{
        Columns, Dataset, DatasetOptions, Example, Labels, Order, Preparation, PrepareOptions, Row, Tokens,
    };

    /// As many tokens as a line has characters.
    struct Characters;

    impl Preparation for Characters {
        fn columns(&self) -> Columns {
            Columns::new(&["text"], &[])
        }

        fn examples(&self, row: &Row) -> Result<Vec<Example>> {
            let ids = row.text("text")?.bytes().map(u32::from).collect();
            let tokens = Tokens { ids, ..Tokens::default() };
            Ok(vec![Example::text(row.origin().clone(), tokens, Labels::Same)])
        }
    }

    fn examples(lines: usize) -> Arc<Examples> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let text: Vec<String> = (0..lines).map(|i| "x".repeat(1 + i * 7 % 13) + "\n").collect();
        std::fs::write(&path, text.concat()).unwrap();
        let dataset = Dataset::open(path.to_str().unwrap(), &DatasetOptions::default()).unwrap();
        let options = PrepareOptions { folder: folder.path().to_path_buf(), progress: false };
        Arc::new(Examples::prepare(&dataset, &Characters, &options).unwrap())
    }

    fn loader(examples: &Arc<Examples>, order: Order) -> DataLoader {
        let collator = Collator { pad: Some(0), side: Side::Right, ..Collator::images() };
        let options = SamplerOptions { order, batch_size: 4, ..SamplerOptions::default() };
        DataLoader::new(examples.clone(), collator, options).unwrap()
    }

    #[test]
    fn a_loader_goes_on_from_where_another_was() {
        let examples = examples(30);
        for order in [Order::Random, Order::Sequential, Order::GroupByLength] {
            let mut whole = loader(&examples, order);
            assert_eq!((whole.batches(), whole.batch_len(7), whole.cursor()), (8, 2, Cursor::default()));
            let mut seen = Vec::new();
            let mut resumed: Option<DataLoader> = None;
            for step in 0..20 {
                if step == 11 {
                    let mut other = loader(&examples, order);
                    other.seek(whole.cursor()).unwrap();
                    resumed = Some(other);
                }
                let (at, batch) = whole.next_batch().unwrap();
                assert_eq!(at, Cursor { epoch: step / 8, batch: step % 8 });
                if let Some(resumed) = &mut resumed {
                    let (same, other) = resumed.next_batch().unwrap();
                    assert_eq!((same, &other.numbers, &other.labels), (at, &batch.numbers, &batch.labels));
                }
                let BatchLabels::Tokens(labels) = &batch.labels else { panic!("labels of tokens") };
                assert_eq!((labels.batch, labels.seq), (batch.len(), batch.texts[0].input_ids.seq));
                seen.extend(batch.numbers);
            }
            seen.truncate(30);
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..30), "{order:?}");
        }
        let mut end = loader(&examples, Order::Random);
        end.seek(Cursor { epoch: 2, batch: 8 }).unwrap();
        assert_eq!(end.cursor(), Cursor { epoch: 3, batch: 0 });
        assert!(matches!(end.seek(Cursor { epoch: 0, batch: 9 }), Err(Error::Input { .. })));
    }

    #[test]
    fn a_tokenizer_says_how_rows_are_filled() {
        let folder = std::path::Path::new("../../tests/data/tokenizers/bert-uncased");
        let tokenizer = tx_core::tokenizer::Tokenizer::from_folder(folder).unwrap();
        let collator = Collator::new(&tokenizer, CollatorOptions::default()).unwrap();
        let rows = ["hello world", "hello"].map(|text| {
            let encodings = tokenizer.encode(&text.into(), &EncodeOptions::default()).unwrap();
            let origin = crate::data::Origin { file: folder.into(), place: crate::data::Place::default() };
            (0, Example::text(origin, Tokens::new(&encodings[0]), Labels::None))
        });
        let texts = collator.collate(rows.to_vec(), 0).unwrap().texts.remove(0);
        let pad = i64::from(tokenizer.special().pad.as_ref().unwrap().id);
        assert_eq!(texts.input_ids.values.last(), Some(&pad));
        assert_eq!(texts.attention_mask.unwrap().values.last(), Some(&0));
        assert!(texts.token_type_ids.unwrap().values.iter().all(|&id| id == 0));
        let other = CollatorOptions { pad_token_id: Some(7), ..CollatorOptions::default() };
        let texts = Collator::new(&tokenizer, other).unwrap().collate(rows.to_vec(), 0).unwrap().texts.remove(0);
        assert_eq!(texts.input_ids.values.last(), Some(&7));
        let zero = CollatorOptions { pad_to_multiple_of: Some(0), ..CollatorOptions::default() };
        assert!(Collator::new(&tokenizer, zero).is_err());
    }
}
