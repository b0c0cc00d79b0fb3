//! Reproducible random numbers, and permutations that take no memory.
//!
//! Nothing here has a state that a checkpoint must keep: a stream begins anew for every list of numbers, such as a seed,
//! an epoch and an example's number, and a permutation answers for one place at a time.

/// What the counter of SplitMix64 grows by: 2⁶⁴ divided by the golden ratio.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
/// Rounds of a permutation. Four make it hard to tell from a random one; short halves need more.
const ROUNDS: usize = 8;
/// The least bits of a half: fewer leave the rounds too few functions to choose from.
const MIN_HALF: u32 = 4;

/// SplitMix64: Steele, Lea and Flood, 2014 (doi:10.1145/2660193.2660195). A counter and a hash of it.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// A stream of its own for every list of numbers.
    pub fn new(numbers: &[u64]) -> Self {
        Self { state: numbers.iter().fold(0, |state, &n| mix(state ^ mix(n.wrapping_add(GAMMA))).wrapping_add(GAMMA)) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number from 0 to 1 without 1, of which there are 2⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `end`, all equally likely; 0 if `end` is 0.
    ///
    /// Lemire, 2019 (arXiv:1805.10941): the upper half of a product, drawn again where the lower half would favour some.
    pub fn below(&mut self, end: u64) -> u64 {
        let end = end.max(1);
        let unfair = end.wrapping_neg() % end;
        loop {
            let product = u128::from(self.bits()) * u128::from(end);
            if product as u64 >= unfair {
                return (product >> 64) as u64;
            }
        }
    }
}

/// An order of the numbers below `len`, which is computed place by place: a Feistel network over the next larger power
/// of four, walked until it gives a number that is small enough (Black and Rogaway, 2002, doi:10.1007/3-540-45760-7_9).
#[derive(Debug, Clone)]
pub struct Permutation {
    len: u64,
    /// Bits of a half.
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// An order that the random numbers choose.
    pub fn new(len: u64, random: &mut Random) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half: bits.div_ceil(2).max(MIN_HALF), keys: std::array::from_fn(|_| random.bits()) }
    }

    /// The number at a place, which must be below the length.
    pub fn at(&self, place: u64) -> u64 {
        self.walk(place, |x| self.keys.iter().fold(x, |x, &key| self.round(x, key)))
    }

    /// The place of a number, which must be below the length.
    pub fn place(&self, number: u64) -> u64 {
        // A network that is run backwards is one whose halves are swapped.
        let backwards = |x| self.swap(self.keys.iter().rev().fold(self.swap(x), |x, &key| self.round(x, key)));
        self.walk(number, backwards)
    }

    /// Steps until the number is below the length, as it is for the number that the walk began with at the latest.
    fn walk(&self, start: u64, step: impl Fn(u64) -> u64) -> u64 {
        if start >= self.len {
            return start;
        }
        let mut x = step(start);
        while x >= self.len {
            x = step(x);
        }
        x
    }

    fn round(&self, x: u64, key: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (left, right) = (x >> self.half, x & mask);
        (right << self.half) | ((left ^ mix(right.wrapping_add(key))) & mask)
    }

    fn swap(&self, x: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        ((x & mask) << self.half) | (x >> self.half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_is_the_published_one() {
        // The first outputs of the reference implementation for the state 1234567.
        let mut random = Random { state: 1_234_567 };
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn streams_differ_by_every_number_and_by_their_order() {
        let first = |numbers: &[u64]| Random::new(numbers).bits();
        let all = [first(&[]), first(&[0]), first(&[0, 0]), first(&[1, 2]), first(&[2, 1]), first(&[1, 2, 0])];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(a), "{i}");
        }
        assert_eq!(first(&[7, 3]), first(&[7, 3]));
    }

    #[test]
    fn numbers_are_in_range_and_evenly_spread() {
        let mut random = Random::new(&[1]);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[random.below(7) as usize] += 1;
            assert!((0.0..1.0).contains(&random.uniform()));
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!((random.below(0), random.below(1)), (0, 0));
        assert!(random.below(u64::MAX) < u64::MAX);
    }

    #[test]
    fn permutations_have_every_number_once_and_can_be_reversed() {
        for len in [1, 2, 3, 5, 16, 17, 255, 256, 257, 5000] {
            let permutation = Permutation::new(len, &mut Random::new(&[42, len]));
            let mut all: Vec<u64> = (0..len).map(|i| permutation.at(i)).collect();
            assert!((0..len).all(|i| permutation.place(permutation.at(i)) == i), "{len}");
            all.sort_unstable();
            assert!(all.into_iter().eq(0..len), "{len}");
        }
        let large = Permutation::new(u64::MAX, &mut Random::new(&[1]));
        assert_eq!(large.place(large.at(12_345)), 12_345);
    }

    #[test]
    fn all_orders_of_a_few_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::<Vec<u64>, u32>::new();
        for epoch in 0..24_000 {
            let permutation = Permutation::new(4, &mut Random::new(&[9, epoch]));
            *counts.entry((0..4).map(|i| permutation.at(i)).collect()).or_default() += 1;
        }
        assert_eq!(counts.len(), 24);
        let chi_square: f64 = counts.values().map(|&count| (f64::from(count) - 1000.0).powi(2) / 1000.0).sum();
        // p = 0.001 for 23 degrees of freedom.
        assert!(chi_square < 49.7, "{chi_square}");
    }
}
