//! Scans: from the coded bits to coefficients, and straight on to samples where a scan has all of them.

use super::huffman::{Bits, Huffman};
use super::{BLOCK, Component, Frame, ZIGZAG, idct};

/// A component of a scan.
pub(super) struct Part<'a> {
    /// Which of the frame's.
    pub component: usize,
    /// Codes of first coefficients.
    pub first: Option<&'a Huffman>,
    /// Codes of all others.
    pub others: Option<&'a Huffman>,
}

/// Which bits of which coefficients a progressive scan has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    /// The first and the last coefficient, in the file's order.
    pub start: u8,
    pub end: u8,
    /// The lowest bit that earlier scans had, or zero for the first one; and the lowest bit of this scan.
    pub high: u8,
    pub low: u8,
}

/// What a scan carries from block to block.
#[derive(Default)]
struct State {
    /// By part: the last first coefficient.
    first: [i32; 4],
    /// Blocks that are still to come without a code of their own.
    empty: u32,
}

/// How the blocks of a scan are coded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Sequential,
    First,
    FirstAgain,
    Others,
    OthersAgain,
}

/// Reads a scan.
///
/// # Errors
/// A reason, if the data do not make sense or end early.
pub(super) fn read(
    frame: &mut Frame,
    parts: &[Part<'_>],
    band: Band,
    restart_interval: usize,
    bits: &mut Bits<'_>,
) -> Result<(), &'static str> {
    let coding = coding(frame.progressive, parts, band)?;
    // The blocks of a unit; a component alone has units of one block, and none that only fill up.
    let (units, blocks) = match parts {
        [part] => (frame.components[part.component].blocks, vec![(0, [1, 1], [0, 0])]),
        parts => {
            let blocks = parts.iter().enumerate().flat_map(|(slot, part)| {
                let [h, v] = frame.components[part.component].sampling;
                (0..v).flat_map(move |y| (0..h).map(move |x| (slot, [h, v], [x, y])))
            });
            (frame.units, blocks.collect())
        }
    };
    let mut state = State::default();
    let mut until_restart = restart_interval;
    for row in 0..units[1] {
        for column in 0..units[0] {
            if restart_interval > 0 {
                if until_restart == 0 {
                    bits.restart()?;
                    state = State::default();
                    until_restart = restart_interval;
                }
                until_restart -= 1;
            }
            for &(slot, [h, v], [x, y]) in &blocks {
                let part = &parts[slot];
                let component = &mut frame.components[part.component];
                let place = [column * h + x, row * v + y];
                if coding == Coding::Sequential {
                    sequential(component, place, part, &mut state.first[slot], bits);
                } else {
                    let block = (place[1] * component.stride + place[0]) * BLOCK;
                    let block = &mut component.coefficients[block..block + BLOCK];
                    match coding {
                        Coding::First => first(block, part, band.low, &mut state.first[slot], bits),
                        Coding::FirstAgain => block[0] |= (bits.take(1) << band.low) as i16,
                        Coding::Others => others(block, part, band, &mut state.empty, bits),
                        _ => others_again(block, part, band, &mut state.empty, bits),
                    }
                }
            }
            bits.check()?;
        }
    }
    Ok(())
}

/// How a scan is coded, if its header makes sense and its tables are there.
fn coding(progressive: bool, parts: &[Part<'_>], band: Band) -> Result<Coding, &'static str> {
    if !(1..=4).contains(&parts.len()) {
        return Err("a scan of no component");
    }
    let Band { start, end, high, low } = band;
    let coding = match (progressive, start, high) {
        (false, ..) => Coding::Sequential,
        (true, 0, 0) => Coding::First,
        (true, 0, _) => Coding::FirstAgain,
        (true, _, 0) => Coding::Others,
        (true, ..) => Coding::OthersAgain,
    };
    if progressive {
        let one_kind = if start == 0 { end == 0 } else { start <= end && end < BLOCK as u8 && parts.len() == 1 };
        if !one_kind || low > 13 || high > 0 && high != low + 1 {
            return Err("a progressive scan that makes no sense");
        }
    }
    let (first, others) = match coding {
        Coding::Sequential => (true, true),
        Coding::First => (true, false),
        Coding::FirstAgain => (false, false),
        Coding::Others | Coding::OthersAgain => (false, true),
    };
    if parts.iter().any(|part| first && part.first.is_none() || others && part.others.is_none()) {
        return Err("a scan before its table of codes");
    }
    Ok(coding)
}

/// A whole block: its coefficients, and from them its samples.
fn sequential(component: &mut Component, [x, y]: [usize; 2], part: &Part<'_>, last: &mut i32, bits: &mut Bits<'_>) {
    let (Some(codes), Some(steps)) = (part.others, &component.steps) else { return };
    let mut block = [0; BLOCK];
    block[0] = first_coefficient(part, last, bits) as i16;
    let mut k = 1;
    while k < BLOCK {
        let symbol = bits.symbol(codes);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => break,
            _ => {
                k += run;
                let Some(&place) = ZIGZAG.get(k) else {
                    bits.wrong();
                    break;
                };
                block[usize::from(place)] = bits.number(size) as i16;
                k += 1;
            }
        }
    }
    let stride = 8 * component.stride;
    idct::block(&block, steps, &mut component.plane[8 * (y * stride + x)..], stride);
}

/// The first coefficient is coded as the difference to that of the block before.
fn first_coefficient(part: &Part<'_>, last: &mut i32, bits: &mut Bits<'_>) -> i32 {
    let Some(codes) = part.first else { return 0 };
    let size = u32::from(bits.symbol(codes));
    if size > 15 {
        bits.wrong();
        return 0;
    }
    *last = last.wrapping_add(bits.number(size));
    *last
}

/// The upper bits of a first coefficient.
fn first(block: &mut [i16], part: &Part<'_>, low: u8, last: &mut i32, bits: &mut Bits<'_>) {
    block[0] = (first_coefficient(part, last, bits) << low) as i16;
}

/// The upper bits of the other coefficients.
fn others(block: &mut [i16], part: &Part<'_>, band: Band, empty: &mut u32, bits: &mut Bits<'_>) {
    let Some(codes) = part.others else { return };
    if *empty > 0 {
        *empty -= 1;
        return;
    }
    let (mut k, end) = (usize::from(band.start), usize::from(band.end));
    while k <= end {
        let symbol = bits.symbol(codes);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => {
                *empty = empty_blocks(run, bits) - 1;
                break;
            }
            _ => {
                k += run;
                let Some(&place) = ZIGZAG.get(k) else {
                    bits.wrong();
                    break;
                };
                block[usize::from(place)] = (bits.number(size) << band.low) as i16;
                k += 1;
            }
        }
    }
}

/// The number of blocks, this one included, in which nothing more is coded.
fn empty_blocks(bits_of_number: usize, bits: &mut Bits<'_>) -> u32 {
    (1 << bits_of_number) + bits.take(bits_of_number as u32) as u32
}

/// One more bit of the other coefficients: of those that are not zero, and of those that become one.
fn others_again(block: &mut [i16], part: &Part<'_>, band: Band, empty: &mut u32, bits: &mut Bits<'_>) {
    let Some(codes) = part.others else { return };
    let bit = 1i16 << band.low;
    let (mut k, end) = (usize::from(band.start), usize::from(band.end));
    while *empty == 0 && k <= end {
        let symbol = bits.symbol(codes);
        let (mut run, size) = (usize::from(symbol >> 4), symbol & 15);
        let new = match (run, size) {
            (_, 1) => Some(if bits.take(1) == 1 { bit } else { -bit }),
            (15, 0) => None,
            (_, 0) => {
                *empty = empty_blocks(run, bits);
                break;
            }
            _ => {
                bits.wrong();
                return;
            }
        };
        // The run counts coefficients that stay zero; those that are not are passed, each with its bit.
        while k <= end {
            let coefficient = &mut block[usize::from(ZIGZAG[k])];
            if *coefficient != 0 {
                refine(coefficient, bit, bits);
            } else if run == 0 {
                *coefficient = new.unwrap_or(0);
                break;
            } else {
                run -= 1;
            }
            k += 1;
        }
        k += 1;
    }
    if *empty > 0 {
        for &place in &ZIGZAG[k.min(end + 1)..=end] {
            let coefficient = &mut block[usize::from(place)];
            if *coefficient != 0 {
                refine(coefficient, bit, bits);
            }
        }
        *empty -= 1;
    }
}

/// Reads a bit of a coefficient that is not zero, which grows away from zero by it.
fn refine(coefficient: &mut i16, bit: i16, bits: &mut Bits<'_>) {
    if bits.take(1) == 1 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_scans_are_checked() {
        let codes = Huffman::new(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0]).unwrap();
        let part = || Part { component: 0, first: Some(&codes), others: Some(&codes) };
        let kind = |progressive, start, end, high, low, count: usize| {
            let parts: Vec<_> = (0..count).map(|_| part()).collect();
            coding(progressive, &parts, Band { start, end, high, low }).ok()
        };
        assert!(kind(false, 0, 63, 0, 0, 3) == Some(Coding::Sequential));
        assert!(kind(true, 0, 0, 0, 1, 3) == Some(Coding::First));
        assert!(kind(true, 0, 0, 1, 0, 3) == Some(Coding::FirstAgain));
        assert!(kind(true, 1, 5, 0, 2, 1) == Some(Coding::Others));
        assert!(kind(true, 6, 63, 2, 1, 1) == Some(Coding::OthersAgain));
        let bands = [(0, 5, 0, 0), (1, 64, 0, 0), (5, 4, 0, 0), (1, 5, 3, 1), (1, 5, 0, 14), (1, 5, 0, 0)];
        for wrong in bands.into_iter().zip([1, 1, 1, 1, 1, 2]) {
            let ((start, end, high, low), count) = wrong;
            assert!(kind(true, start, end, high, low, count).is_none(), "{wrong:?}");
        }
        assert!(kind(false, 0, 63, 0, 0, 0).is_none());
        let bare = Part { component: 0, first: Some(&codes), others: None };
        assert!(coding(false, &[bare], Band { start: 0, end: 63, high: 0, low: 0 }).is_err());
    }
}
