//! The coded bits of a scan, and the codes in them.

/// Codes of at most so many bits are looked up at once.
const FAST: u32 = 9;

/// A table of Huffman codes.
pub(super) struct Huffman {
    /// By the next [`FAST`] bits: the code's length and its symbol, or zero for a longer code.
    fast: Vec<u16>,
    /// By length: one more than the largest code, with zeros up to 16 bits.
    ends: [u32; 17],
    /// By length: from a code to its symbol's place.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// From the number of codes of each length from 1 to 16, and their symbols; nothing if there are too many codes.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let (mut ends, mut offsets, mut fast) = ([0; 17], [0; 17], vec![0; 1 << FAST]);
        let (mut code, mut place) = (0u32, 0usize);
        if symbols.len() > 256 {
            return None;
        }
        for (length, &count) in (1..=16u32).zip(counts) {
            offsets[length as usize] = place as i32 - code as i32;
            for &symbol in &symbols[place..place + usize::from(count)] {
                if length <= FAST {
                    let shift = FAST - length;
                    fast.get_mut((code << shift) as usize..((code + 1) << shift) as usize)?
                        .fill(((length as u16) << 8) | u16::from(symbol));
                }
                code += 1;
            }
            if code > 1 << length {
                return None;
            }
            place += usize::from(count);
            ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { fast, ends, offsets, symbols: symbols.to_vec() })
    }
}

/// The bits of a scan, up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next `count` bits, the first in the highest place.
    buffer: u64,
    count: u32,
    /// How many bits were made up at the end.
    padding: u32,
    /// Whether a code was met that is in no table.
    wrong: bool,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0, padding: 0, wrong: false }
    }

    /// Where the first byte is that has not been read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Whether all bits so far were there and made sense.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.wrong, self.padding > self.count) {
            (true, _) => Err("a code that is in no table"),
            (_, true) => Err("the data end before the picture does"),
            _ => Ok(()),
        }
    }

    /// Leaves the rest of a byte and goes on after a restart marker.
    pub fn restart(&mut self) -> Result<(), &'static str> {
        (self.buffer, self.count, self.padding) = (0, 0, 0);
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        // Bytes that belong to nothing may precede it.
        let marker = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff));
        match marker.map(|place| (place, rest[place + 1])) {
            Some((place, 0xd0..=0xd7)) => {
                self.at += place + 2;
                Ok(())
            }
            _ => Err("a restart marker is missing"),
        }
    }

    #[inline(never)]
    fn refill(&mut self) {
        while self.count <= 56 {
            let byte = match self.bytes.get(self.at) {
                Some(0xff) => {
                    let fill = self.bytes[self.at..].iter().take_while(|&&byte| byte == 0xff).count();
                    if self.bytes.get(self.at + fill) == Some(&0) {
                        // A zero says that it is no marker.
                        self.at += fill + 1;
                        0xff
                    } else {
                        self.padding += 8;
                        0
                    }
                }
                Some(&byte) => {
                    self.at += 1;
                    byte
                }
                None => {
                    self.padding += 8;
                    0
                }
            };
            self.buffer = (self.buffer << 8) | u64::from(byte);
            self.count += 8;
        }
    }

    /// The next 1 to 16 bits, which stay.
    #[inline]
    fn peek(&mut self, bits: u32) -> u32 {
        if self.count < bits {
            self.refill();
        }
        let next = (self.buffer >> (self.count - bits)) as u32;
        next & ((1 << bits) - 1)
    }

    /// The next 0 to 16 bits.
    #[inline]
    pub fn take(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        let value = self.peek(bits);
        self.count -= bits;
        value as i32
    }

    /// A signed number of 0 to 16 bits: those that begin with a zero are negative.
    #[inline]
    pub fn number(&mut self, bits: u32) -> i32 {
        let value = self.take(bits);
        if bits > 0 && value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value }
    }

    /// The next code's symbol; zero if it is in no table.
    #[inline]
    pub fn symbol(&mut self, codes: &Huffman) -> u8 {
        let next = self.peek(16);
        let entry = codes.fast[(next >> (16 - FAST)) as usize];
        if entry != 0 {
            self.count -= u32::from(entry >> 8);
            return entry as u8;
        }
        let length = (FAST + 1..=16).find(|&length| next < codes.ends[length as usize]);
        let symbol = length.and_then(|length| {
            self.count -= length;
            let place = (next >> (16 - length)) as i32 + codes.offsets[length as usize];
            codes.symbols.get(usize::try_from(place).ok()?).copied()
        });
        self.wrong |= symbol.is_none();
        symbol.unwrap_or(0)
    }

    /// Notes that what was read makes no sense.
    pub fn wrong(&mut self) {
        self.wrong = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0, 10, 110 and one of twelve bits.
    fn codes() -> Huffman {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2], counts[11]) = (1, 1, 1, 1);
        Huffman::new(&counts, &[7, 8, 9, 10]).unwrap()
    }

    #[test]
    fn codes_are_read_until_a_marker() {
        // 0 10 110 111000000000 011 11 1, and a byte that is not the beginning of a marker before one that is.
        let bytes = [0b0101_1011, 0b1000_0000, 0b0001_1111, 0xff, 0, 0xff, 0xd9];
        let mut bits = Bits::new(&bytes, 0);
        let codes = codes();
        assert_eq!([0; 4].map(|_: i32| bits.symbol(&codes)), [7, 8, 9, 10]);
        assert_eq!(bits.take(3), 0b011);
        assert_eq!((bits.number(2), bits.number(1)), (3, 1));
        assert_eq!((bits.take(8), bits.check()), (0xff, Ok(())));
        assert_eq!(bits.at(), 5);
        bits.take(1);
        assert!(bits.check().is_err());
    }

    #[test]
    fn tables_of_too_many_codes_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Huffman::new(&counts, &[1, 2, 3]).is_none());
        counts[0] = 0;
        (counts[1], counts[2]) = (4, 1);
        assert!(Huffman::new(&counts, &[1, 2, 3, 4, 5]).is_none());
        let mut bits = Bits::new(&[0xff, 0, 0xff, 0], 0);
        bits.symbol(&codes());
        assert!(bits.check().is_err(), "sixteen ones are in no table");
    }
}
