//! The size of the tables that a Vorbis stream asks for, read before a decoder builds them: a header of a few kilobytes
//! can ask for gigabytes.
//!
//! Reference: Vorbis I specification, 3.2.1 and 4.2.

/// The most memory that the codebooks of a stream may take, in bytes; those of real streams take about one megabyte.
const MAX_TABLES: u64 = 64 << 20;
/// The largest codebook that the decoder accepts.
const MAX_DIMENSIONS: u32 = 32;
const MAX_ENTRIES: u32 = 128 << 10;
/// What the decoder holds for an entry besides its vector, in bytes.
const ENTRY: u64 = 24;

/// The identification header, in bytes; the setup header comes behind it.
const IDENTIFICATION: usize = 30;
const SETUP: &[u8] = b"\x05vorbis";
const SYNC: u32 = 0x56_43_42;

/// Refuses headers whose codebooks take too much memory. What is wrong with them otherwise is left to the decoder.
pub(super) fn check(headers: &[u8]) -> Result<(), String> {
    let Some(setup) = headers.get(IDENTIFICATION..).and_then(|rest| rest.strip_prefix(SETUP)) else { return Ok(()) };
    let mut bits = Bits { bytes: setup, at: 0 };
    let count = bits.read(8).map_or(0, |count| count + 1);
    let mut total = 0;
    for _ in 0..count {
        let Some(size) = codebook(&mut bits) else { break };
        total += size;
        if total > MAX_TABLES {
            return Err(format!("its codebooks take more than {MAX_TABLES} bytes"));
        }
    }
    Ok(())
}

/// Reads a codebook and returns the memory it takes, in bytes; `None` where the decoder refuses it, too.
fn codebook(bits: &mut Bits<'_>) -> Option<u64> {
    if bits.read(24)? != SYNC {
        return None;
    }
    let (dimensions, entries) = (bits.read(16)?, bits.read(24)?);
    if dimensions == 0 || dimensions > MAX_DIMENSIONS || entries > MAX_ENTRIES {
        return None;
    }
    let ordered = bits.read(1)? == 1;
    if ordered {
        bits.read(5)?;
        let mut entry = 0;
        while entry < entries {
            entry += bits.read(u32::BITS - (entries - entry).leading_zeros())?;
        }
    } else if bits.read(1)? == 1 {
        for _ in 0..entries {
            if bits.read(1)? == 1 {
                bits.read(5)?;
            }
        }
    } else {
        bits.skip(5 * u64::from(entries))?;
    }
    let mut size = u64::from(entries) * ENTRY;
    let values = match bits.read(4)? {
        0 => return Some(size),
        // As many as fit into a cube of that many dimensions.
        1 => (entries as f32).powf(1.0 / dimensions as f32).floor() as u64,
        2 => u64::from(entries) * u64::from(dimensions),
        _ => return None,
    };
    size += u64::from(entries) * u64::from(dimensions) * size_of::<f32>() as u64;
    bits.skip(64)?;
    let width = u64::from(bits.read(4)?) + 1;
    bits.skip(1 + values * width)?;
    Some(size)
}

/// Bits, the lowest of a byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    /// The next bit.
    at: u64,
}

impl Bits<'_> {
    /// A number of at most 32 bits.
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut number = 0;
        for place in 0..count {
            let byte = *self.bytes.get((self.at / 8) as usize)?;
            number |= u32::from((byte >> (self.at % 8)) & 1) << place;
            self.at += 1;
        }
        Some(number)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|&at| at <= 8 * self.bytes.len() as u64)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers with `count` codebooks of `entries` vectors in 32 dimensions, all of one value.
    fn headers(count: u32, entries: u32) -> Vec<u8> {
        let mut bits: Vec<bool> = Vec::new();
        let mut push = |number: u64, count: u32| bits.extend((0..count).map(|place| (number >> place) & 1 == 1));
        push(u64::from(count - 1), 8);
        for _ in 0..count {
            push(u64::from(SYNC), 24);
            push(32, 16);
            push(u64::from(entries), 24);
            // Ordered, with lengths from 5 bits on, all entries of that length.
            push(1, 1);
            push(4, 5);
            push(u64::from(entries), u32::BITS - entries.leading_zeros());
            // A table of one value.
            push(1, 4);
            push(0, 64);
            push(7, 4);
            push(0, 1);
            push(0, 8);
        }
        let bytes = bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |byte, &bit| (byte << 1) | u8::from(bit)));
        let mut headers = vec![0; IDENTIFICATION];
        headers.extend(SETUP);
        headers.extend(bytes);
        headers
    }

    #[test]
    fn bombs_are_refused() {
        assert!(check(&headers(30, 512)).is_ok());
        let bomb = headers(256, 128 << 10);
        assert!(bomb.len() < 10_000);
        assert!(check(&bomb).unwrap_err().contains("codebooks"));
        // A codebook of this size takes 19 MiB.
        assert!(check(&headers(3, 128 << 10)).is_ok());
        assert!(check(&headers(4, 128 << 10)).is_err());
    }

    #[test]
    fn broken_headers_are_left_to_the_decoder() {
        let whole = headers(2, 512);
        for length in 0..whole.len() {
            assert!(check(&whole[..length]).is_ok(), "{length}");
        }
    }
}
