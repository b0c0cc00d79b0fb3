//! Windows bitmaps: palettes of 1, 4 and 8 bits with and without run lengths, and 16, 24 and 32 bits.
//!
//! Reference: Pillow 13.0.0, `BmpImagePlugin.py`.

use tx_core::error::Result;

use super::formats::unpack;
use super::{Decoded, Source};

/// The file's header, before that of the bitmap.
const FILE_HEADER: usize = 14;
/// The layouts of 16 and 32 bits that occur, by the masks of red, green and blue.
const FIELDS: &str = "masks of 5, 5, 5 or 5, 6, 5 bits of 16, and of bytes of 24 and 32";

/// How the pixels are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    Raw,
    RunLengths8,
    RunLengths4,
}

/// What the headers say.
struct Header {
    width: usize,
    height: usize,
    /// Whether the first row is the upper one.
    top_down: bool,
    bits: u16,
    packing: Packing,
    /// Where red, green and blue are in a pixel of more than 8 bits.
    masks: [u32; 3],
    palette: Vec<[u8; 3]>,
    /// Where the pixels begin in the file.
    pixels: usize,
}

/// Decodes a bitmap.
pub(super) fn decode(source: Source<'_>) -> Result<Decoded> {
    let header = Header::read(source)?;
    let Header { width, height, .. } = header;
    let cut = || source.malformed("BMP: the file ends before its picture does");
    let data = source.bytes.get(header.pixels..).ok_or_else(cut)?;
    let mut pixels = source.buffer(3 * (width * height) as u64)?;
    if header.packing == Packing::Raw {
        let stride = (width * usize::from(header.bits)).div_ceil(32) * 4;
        let rows = data.get(..stride * height).ok_or_else(cut)?.chunks_exact(stride);
        for (y, row) in rows.enumerate() {
            header.unpack(row, &mut pixels[header.row(y)]);
        }
    } else {
        let indices = header.runs(data, source.buffer((width * height) as u64)?).ok_or_else(cut)?;
        for (y, row) in indices.chunks_exact(width).enumerate() {
            header.colour(row, &mut pixels[header.row(y)]);
        }
    }
    Ok(Decoded { width, height, pixels, orientation: 1 })
}

impl Header {
    fn read(source: Source<'_>) -> Result<Self> {
        let cut = || source.malformed("BMP: the file ends in its header");
        let u16_at = |at: usize| -> Result<u16> {
            let bytes = source.bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()).ok_or_else(cut)?;
            Ok(u16::from_le_bytes(*bytes))
        };
        let u32_at = |at: usize| -> Result<u32> {
            let bytes = source.bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(cut)?;
            Ok(u32::from_le_bytes(*bytes))
        };
        let offset = u32_at(10)? as usize;
        let size = u32_at(FILE_HEADER)? as usize;
        let old = size == 12;
        if ![12, 40, 52, 56, 64, 108, 124].contains(&size) {
            return Err(source.unsupported("BMP header", size, "12, 40, 52, 56, 64, 108, 124 bytes"));
        }
        let (width, height, bits) = if old {
            (u32::from(u16_at(18)?), i32::from(u16_at(20)?), u16_at(24)?)
        } else {
            (u32_at(18)?, u32_at(22)? as i32, u16_at(28)?)
        };
        let (compression, colours) = if old { (0, 0) } else { (u32_at(30)?, u32_at(46)?) };
        let top_down = height < 0;
        let [width, height] = source.size(width, height.unsigned_abs())?;
        let packing = match (compression, bits) {
            (0, _) | (3, 16 | 24 | 32) => Packing::Raw,
            (1, 8) => Packing::RunLengths8,
            (2, 4) => Packing::RunLengths4,
            _ => {
                let found = format_args!("{compression} with {bits} bits");
                return Err(source.unsupported("BMP compression", found, "0, 1 with 8, 2 with 4, 3 with 16 to 32"));
            }
        };
        // Masks follow the first 40 bytes of a header, or are a part of a longer one.
        let masks = match (compression, bits) {
            (3, _) => [u32_at(54)?, u32_at(58)?, u32_at(62)?],
            (_, 16) => [0x7c00, 0x3e0, 0x1f],
            _ => [0xff0000, 0xff00, 0xff],
        };
        let masks = if masks == [0; 3] { [0xff0000, 0xff00, 0xff] } else { masks };
        let known = match bits {
            1 | 4 | 8 => true,
            16 => matches!(masks, [0x7c00, 0x3e0, 0x1f] | [0xf800, 0x7e0, 0x1f]),
            24 => masks == [0xff0000, 0xff00, 0xff],
            32 => masks.iter().all(|mask| matches!(mask, 0xff | 0xff00 | 0xff0000 | 0xff000000)),
            _ => return Err(source.unsupported("BMP bits", bits, "1, 4, 8, 16, 24, 32")),
        };
        if !known {
            return Err(source.unsupported("BMP masks", format_args!("{masks:x?}"), FIELDS));
        }
        let after_header = FILE_HEADER + size;
        let entry = if old { 3 } else { 4 };
        let entries = if colours == 0 { 1 << bits.min(8) } else { colours as usize };
        let (mut palette, mut pixels) = (Vec::new(), offset);
        if bits <= 8 {
            if entries > 1 << 16 {
                return Err(source.malformed(format_args!("BMP: a palette of {entries} colours")));
            }
            let table = source.bytes.get(after_header..).unwrap_or_default().chunks_exact(entry).take(entries);
            palette = table.map(|colour| [colour[2], colour[1], colour[0]]).collect();
            // Some writers give the place of the palette.
            if offset == after_header {
                pixels = offset + entry * entries;
            }
        }
        if pixels == 0 {
            pixels = after_header + entry * palette.len();
        }
        Ok(Self { width, height, top_down, bits, packing, masks, palette, pixels })
    }

    /// The bytes of the picture that the file's row `y` is.
    fn row(&self, y: usize) -> std::ops::Range<usize> {
        let y = if self.top_down { y } else { self.height - 1 - y };
        3 * y * self.width..3 * (y + 1) * self.width
    }

    /// A row that is not compressed.
    fn unpack(&self, row: &[u8], pixels: &mut [u8]) {
        match self.bits {
            8 => self.colour(row, pixels),
            bits @ (1 | 4) => self.colour(&unpack(row, self.width, bits as u8, 1), pixels),
            bits => {
                let bytes = usize::from(bits) / 8;
                for (pixel, packed) in pixels.chunks_exact_mut(3).zip(row.chunks_exact(bytes)) {
                    let packed = packed.iter().rev().fold(0, |all, &byte| (all << 8) | u32::from(byte));
                    for (value, mask) in pixel.iter_mut().zip(self.masks) {
                        let shift = mask.trailing_zeros();
                        *value = (((packed & mask) >> shift) * 255 / (mask >> shift)) as u8;
                    }
                }
            }
        }
    }

    /// A row of indices; what is not in the palette is black.
    fn colour(&self, indices: &[u8], pixels: &mut [u8]) {
        for (pixel, &index) in pixels.chunks_exact_mut(3).zip(indices) {
            pixel.copy_from_slice(&self.palette.get(usize::from(index)).copied().unwrap_or_default());
        }
    }

    /// The indices of runs, or nothing if the data end before the picture; what is skipped has index zero.
    fn runs(&self, data: &[u8], mut indices: Vec<u8>) -> Option<Vec<u8>> {
        let nibbles = self.packing == Packing::RunLengths4;
        let (mut at, mut place, mut column) = (0, 0, 0);
        while place < indices.len() {
            let [count, value] = *data.get(at..)?.first_chunk::<2>()?;
            at += 2;
            match (count, value) {
                (0, 0) => {
                    place = place.next_multiple_of(self.width);
                    column = 0;
                }
                (0, 1) => return None,
                (0, 2) => {
                    let [right, down] = *data.get(at..)?.first_chunk::<2>()?;
                    at += 2;
                    place = (place + usize::from(right) + usize::from(down) * self.width).min(indices.len());
                    column = place % self.width;
                }
                (0, count) => {
                    let length = usize::from(count).min(indices.len() - place);
                    let bytes = if nibbles { length.div_ceil(2) } else { length };
                    let literal = data.get(at..at + bytes)?;
                    for i in 0..length {
                        let value = if nibbles { nibble(literal[i / 2], i) } else { literal[i] };
                        indices[place + i] = value;
                    }
                    place += length;
                    column += length;
                    // Rows of the file are words, counted from its beginning.
                    at += bytes + (self.pixels + at + bytes) % 2;
                }
                (count, value) => {
                    let length = usize::from(count).min(self.width.saturating_sub(column)).min(indices.len() - place);
                    for (i, index) in indices[place..place + length].iter_mut().enumerate() {
                        *index = if nibbles { nibble(value, i) } else { value };
                    }
                    place += length;
                    column += length;
                }
            }
        }
        Some(indices)
    }
}

/// The upper four bits for even places.
fn nibble(byte: u8, place: usize) -> u8 {
    if place.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}
