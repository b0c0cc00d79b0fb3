//! Which examples share a step: an order for every epoch, cut into batches, and those into the parts of the ranks.
//!
//! The order is a function of seed and epoch, and a batch one of order and number. So the state of a run is a [`Cursor`],
//! and whoever goes on from it gets the same batches, bit for bit, whatever was read before. Ranks share a batch: so many
//! processes with a batch of `n` each learn from the same examples as one with as many times `n`.

use serde::{Deserialize, Serialize};
use tx_core::error::{Error, Result};

use super::random::{Permutation, Random};

/// The batches that are sorted together: HF's `mega_batch_mult`.
const MEGA_BATCH: u64 = 50;
/// The most examples of a batch, over all ranks.
const MAX_BATCH: u64 = 1 << 24;
/// The stream of random numbers that is for orders.
const STREAM: u64 = 0x6f_7264_6572;

/// The order of the examples of an epoch: HF's `train_sampling_strategy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Another one in every epoch.
    #[default]
    Random,
    /// That of the data set.
    Sequential,
    /// Random, but examples of like length share batches; the longest one of all comes first, so that a lack of memory
    /// shows at once.
    GroupByLength,
}

/// How examples become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplerOptions {
    /// The order.
    pub order: Order,
    /// Chooses the orders.
    pub seed: u64,
    /// The examples of a batch, for each rank.
    pub batch_size: usize,
    /// How many ranks share the batches, and which of them this is.
    pub world_size: usize,
    /// The number of this rank, from 0.
    pub rank: usize,
    /// Whether a last batch that is not full is left out.
    pub drop_last: bool,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self { order: Order::Random, seed: 42, batch_size: 8, world_size: 1, rank: 0, drop_last: false }
    }
}

/// Where a run is: all that must be kept to go on with the same batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The number of the batch that comes next in it.
    pub batch: u64,
}

/// The batches of every epoch.
#[derive(Debug, Clone)]
pub struct Sampler {
    len: u64,
    /// The number of the longest example.
    longest: u64,
    options: SamplerOptions,
    /// The order of the last epoch that was asked for.
    permutation: Option<(u64, Permutation)>,
    /// The last examples that were sorted by length, and which they are: epoch and number.
    sorted: Option<(u64, u64, Vec<u64>)>,
}

impl Sampler {
    /// Batches of `len` examples, the longest of which is `longest`.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no examples, or a size is 0 or too large.
    pub fn new(len: u64, longest: u64, options: SamplerOptions) -> Result<Self> {
        let SamplerOptions { batch_size, world_size, rank, .. } = options;
        let whole = (batch_size as u64).saturating_mul(world_size as u64);
        if batch_size == 0 || world_size == 0 || whole > MAX_BATCH {
            let found = format_args!("{batch_size} on {world_size} ranks");
            return Err(Error::input("batch size", found, format_args!("1 to {MAX_BATCH} examples together")));
        }
        if rank >= world_size {
            return Err(Error::input("rank", rank, format_args!("a number below {world_size}, the number of ranks")));
        }
        let sampler =
            Self { len, longest: longest.min(len.saturating_sub(1)), options, permutation: None, sorted: None };
        if sampler.batches() == 0 {
            let expected = format_args!("{whole}, the size of a batch, at least");
            return Err(Error::input("examples", len, expected));
        }
        Ok(sampler)
    }

    /// The examples of a batch, over all ranks.
    fn whole(&self) -> u64 {
        self.options.batch_size as u64 * self.options.world_size as u64
    }

    /// How many batches an epoch has.
    pub fn batches(&self) -> u64 {
        if self.options.drop_last { self.len / self.whole() } else { self.len.div_ceil(self.whole()) }
    }

    /// How many examples a batch has over all ranks: fewer than the others in the last one.
    pub fn batch_len(&self, batch: u64) -> u64 {
        self.whole().min(self.len.saturating_sub(batch.saturating_mul(self.whole())))
    }

    /// The numbers of this rank's examples of a batch: every `world_size`th one, from the `rank`th on. The last batch of an
    /// epoch may have none for some ranks. `length` says how long an example is.
    ///
    /// # Errors
    /// Those of `length`.
    pub fn batch(&mut self, at: Cursor, length: &dyn Fn(u64) -> Result<u32>) -> Result<Vec<u64>> {
        let start = at.batch.saturating_mul(self.whole());
        let places = start..start.saturating_add(self.batch_len(at.batch)).min(self.len);
        let SamplerOptions { order, world_size, rank, .. } = self.options;
        let mine = places.skip(rank).step_by(world_size);
        match order {
            Order::Sequential => Ok(mine.collect()),
            Order::Random => {
                let permutation = self.permutation(at.epoch);
                Ok(mine.map(|place| permutation.at(place)).collect())
            }
            Order::GroupByLength => mine.map(|place| self.grouped(at.epoch, place, length)).collect(),
        }
    }

    fn permutation(&mut self, epoch: u64) -> Permutation {
        match &self.permutation {
            Some((known, permutation)) if *known == epoch => permutation.clone(),
            _ => {
                let mut random = Random::new(&[STREAM, self.options.seed, epoch]);
                let permutation = Permutation::new(self.len, &mut random);
                self.permutation = Some((epoch, permutation.clone()));
                permutation
            }
        }
    }

    /// The examples that are sorted together.
    fn mega_batch(&self) -> u64 {
        let batches = (self.len / (self.whole() * 4)).clamp(1, MEGA_BATCH);
        batches * self.whole()
    }

    /// The example at a place of the order by length.
    fn grouped(&mut self, epoch: u64, place: u64, length: &dyn Fn(u64) -> Result<u32>) -> Result<u64> {
        let size = self.mega_batch();
        let (group, index) = (place / size, (place % size) as usize);
        if let Some((known, number, sorted)) = &self.sorted
            && (*known, *number) == (epoch, group)
        {
            return Ok(sorted[index]);
        }
        let permutation = self.permutation(epoch);
        let mut sorted = self.sort(&permutation, group, length)?;
        // The longest of all and the longest of the first group change places.
        let of_longest = permutation.place(self.longest) / size;
        if of_longest > 0 {
            if group == 0 {
                sorted[0] = self.longest;
            } else if group == of_longest {
                sorted[0] = self.sort(&permutation, 0, length)?[0];
            }
        }
        let example = sorted[index];
        self.sorted = Some((epoch, group, sorted));
        Ok(example)
    }

    /// A group of examples, the longest first.
    fn sort(&self, permutation: &Permutation, group: u64, length: &dyn Fn(u64) -> Result<u32>) -> Result<Vec<u64>> {
        let start = group * self.mega_batch();
        let mut keyed = Vec::new();
        for place in start..(start + self.mega_batch()).min(self.len) {
            let example = permutation.at(place);
            // Of examples of one length the longest of all is the first: it is the one that may change places.
            keyed.push((std::cmp::Reverse(length(example)?), example != self.longest, place, example));
        }
        keyed.sort_unstable();
        Ok(keyed.into_iter().map(|(.., example)| example).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(order: Order) -> SamplerOptions {
        SamplerOptions { order, batch_size: 4, ..SamplerOptions::default() }
    }

    /// A length for every example.
    fn length(example: u64) -> Result<u32> {
        Ok((example * 7919 % 101) as u32)
    }

    fn longest(len: u64) -> u64 {
        (0..len).rev().max_by_key(|&i| length(i).unwrap()).unwrap()
    }

    fn sampler(len: u64, options: SamplerOptions) -> Sampler {
        Sampler::new(len, longest(len), options).unwrap()
    }

    fn epoch(sampler: &mut Sampler, epoch: u64) -> Vec<Vec<u64>> {
        (0..sampler.batches()).map(|batch| sampler.batch(Cursor { epoch, batch }, &length).unwrap()).collect()
    }

    #[test]
    fn every_epoch_has_every_example_once() {
        for order in [Order::Random, Order::Sequential, Order::GroupByLength] {
            for len in [1, 4, 10, 163, 1000] {
                let mut sampler = sampler(len, options(order));
                let first = epoch(&mut sampler, 0);
                assert_eq!(first.len() as u64, len.div_ceil(4));
                let mut all = first.concat();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..len), "{order:?} {len}");
                assert_eq!(epoch(&mut sampler, 0), first);
                if len > 4 && order != Order::Sequential {
                    assert_ne!(epoch(&mut sampler, 1), first);
                    let seed = SamplerOptions { seed: 43, ..options(order) };
                    assert_ne!(epoch(&mut self::sampler(len, seed), 0), first);
                }
            }
        }
        assert_eq!(sampler(6, options(Order::Sequential)).batch(Cursor::default(), &length).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_run_can_go_on_anywhere() {
        for order in [Order::Random, Order::GroupByLength] {
            let all = epoch(&mut sampler(501, options(order)), 3);
            for batch in [125, 7, 60, 0] {
                let mut resumed = sampler(501, options(order));
                let at = Cursor { epoch: 3, batch };
                assert_eq!(resumed.batch(at, &length).unwrap(), all[batch as usize]);
            }
        }
        let cursor: Cursor = serde_json::from_str(r#"{"epoch": 3, "batch": 7}"#).unwrap();
        assert_eq!(cursor, Cursor { epoch: 3, batch: 7 });
    }

    #[test]
    fn ranks_share_the_batches_of_one_process() {
        for order in [Order::Random, Order::Sequential, Order::GroupByLength] {
            for len in [8, 85, 86, 400] {
                let one = SamplerOptions { batch_size: 6, ..options(order) };
                let alone = epoch(&mut sampler(len, one), 1);
                let of_rank = |rank| {
                    let options = SamplerOptions { batch_size: 2, world_size: 3, rank, ..one };
                    epoch(&mut sampler(len, options), 1)
                };
                let ranks: Vec<_> = (0..3).map(of_rank).collect();
                for (batch, whole) in alone.iter().enumerate() {
                    let parts: Vec<_> = ranks.iter().map(|rank| &rank[batch]).collect();
                    let joined: Vec<u64> = (0..whole.len()).map(|i| parts[i % 3][i / 3]).collect();
                    assert_eq!(&joined, whole);
                    assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), whole.len());
                }
            }
        }
    }

    #[test]
    fn examples_of_like_length_share_batches_and_the_longest_is_first() {
        let len = 1000;
        let mut grouped = sampler(len, options(Order::GroupByLength));
        let batches = epoch(&mut grouped, 2);
        assert_eq!(batches[0][0], longest(len));
        let padding = |batches: &[Vec<u64>]| -> u32 {
            let lengths = |batch: &Vec<u64>| batch.iter().map(|&i| length(i).unwrap()).collect::<Vec<_>>();
            let waste = |l: Vec<u32>| l.iter().max().unwrap() * l.len() as u32 - l.iter().sum::<u32>();
            batches.iter().map(|batch| waste(lengths(batch))).sum()
        };
        let random = epoch(&mut sampler(len, options(Order::Random)), 2);
        assert!(padding(&batches) * 5 < padding(&random), "{} {}", padding(&batches), padding(&random));
    }

    #[test]
    fn the_last_batch_may_be_left_out() {
        let dropped = SamplerOptions { drop_last: true, ..options(Order::Random) };
        let sampler = sampler(10, dropped);
        assert_eq!((sampler.batches(), sampler.batch_len(1), sampler.batch_len(2)), (2, 4, 2));
        assert!(Sampler::new(3, 0, dropped).is_err());
        for wrong in [
            SamplerOptions { batch_size: 0, ..dropped },
            SamplerOptions { world_size: 0, ..dropped },
            SamplerOptions { rank: 1, ..dropped },
            SamplerOptions { batch_size: usize::MAX, world_size: 2, ..dropped },
        ] {
            assert!(matches!(Sampler::new(10, 0, wrong), Err(Error::Input { .. })), "{wrong:?}");
        }
        assert!(Sampler::new(0, 0, options(Order::Random)).is_err());
    }
}
