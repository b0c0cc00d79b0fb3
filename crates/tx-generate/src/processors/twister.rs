//! PyTorch's random numbers, by which watermarks choose tokens.

/// Words of the twister's state.
const WORDS: usize = 624;
/// From each of them to the one that it is mixed with.
const SHIFT: usize = 397;

/// The Mersenne Twister MT19937: Matsumoto and Nishimura, 1998 (doi:10.1145/272991.272995).
pub(super) struct Mt19937 {
    state: [u32; WORDS],
    next: usize,
}

impl Mt19937 {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        let mut previous = seed;
        for (i, word) in state.iter_mut().enumerate().skip(1) {
            previous = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
            *word = previous;
        }
        Self { state, next: WORDS }
    }

    pub(super) fn next(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7FFF_FFFF);
                let twist = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
                self.state[i] = self.state[(i + SHIFT) % WORDS] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_is_the_published_one() {
        // The C++ standard gives the ten thousandth number of the default seed.
        let mut random = Mt19937::new(5489);
        assert_eq!(random.next(), 3_499_211_612);
        for _ in 0..9998 {
            random.next();
        }
        assert_eq!(random.next(), 4_123_659_995);
    }
}
