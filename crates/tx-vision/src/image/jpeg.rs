//! JPEG to the bit as libjpeg-turbo decodes it, which PIL uses: baseline, extended and progressive Huffman coding with
//! 8 bits, of grey, YCbCr, RGB, CMYK and YCCK pictures, with any sampling of whole factors.
//!
//! The standard leaves open how the transform is rounded and how colours are interpolated, and decoders in Rust differ
//! from libjpeg-turbo there by some levels, which is more than a model's input may be off. The accurate integer
//! transform, the triangle filter ("fancy upsampling") and the fixed-point colours are those of its default settings.
//!
//! | module | holds |
//! |---|---|
//! | [`huffman`] | bits and codes |
//! | [`scan`] | coefficients from the coded bits |
//! | [`idct`] | from coefficients to samples |
//! | [`planes`] | from samples of each component to pixels |
//!
//! Stricter than libjpeg-turbo: data that end early and wrong codes are errors, where it would fill in grey. One case
//! differs: it smooths progressive pictures whose file lacks the fine scans, which complete files never need.
//!
//! Standard: ITU-T T.81. Reference: libjpeg-turbo 3.2.0, `jdhuff.c`, `jdphuff.c`, `jidctint.c`, `jdsample.c`,
//! `jdcolor.c`.

mod huffman;
mod idct;
mod planes;
mod scan;

use rayon::prelude::*;
use tx_core::error::Result;

use self::huffman::{Bits, Huffman};
use self::planes::Colours;
use super::exif::Metadata;
use super::{Decoded, MAX_BUFFER_BYTES, Source};

/// Samples of a block.
const BLOCK: usize = 64;
/// Progressive files have some ten scans, and no sensible one has so many: each one costs time.
const MAX_SCANS: usize = 256;

/// The order of a block's coefficients in the file, as places in rows.
const ZIGZAG: [u8; BLOCK] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Steps of quantization, in rows.
type Steps = [i32; BLOCK];

/// A component of the picture: brightness, a colour, an ink.
struct Component {
    id: u8,
    /// Samples across and down in a unit of the picture.
    sampling: [usize; 2],
    /// Its table of steps, of four, and that table as it was when the component's first scan came.
    table: usize,
    steps: Option<Steps>,
    /// Samples across and down.
    size: [usize; 2],
    /// Blocks across and down that hold samples of the picture.
    blocks: [usize; 2],
    /// Blocks across with those that fill up the units.
    stride: usize,
    /// The coefficients of a progressive picture, block by block; else empty.
    coefficients: Vec<i16>,
    /// Samples, `8 * stride` a row.
    plane: Vec<u8>,
}

/// The picture's layout.
struct Frame {
    progressive: bool,
    size: [usize; 2],
    /// Units (MCUs) across and down.
    units: [usize; 2],
    /// The largest sampling of a component.
    sampling: [usize; 2],
    components: Vec<Component>,
}

/// What the segments have said so far.
struct Decoder<'a> {
    source: Source<'a>,
    at: usize,
    steps: [Option<Steps>; 4],
    /// Codes for first coefficients, and for the others.
    codes: [[Option<Huffman>; 4]; 2],
    restart_interval: usize,
    frame: Option<Frame>,
    scans: usize,
    jfif: bool,
    /// The transform that Adobe's segment names.
    adobe: Option<u8>,
    metadata: Metadata<'a>,
}

/// Decodes a picture.
pub(super) fn decode(source: Source<'_>) -> Result<Decoded> {
    let mut decoder = Decoder {
        source,
        at: 2,
        steps: [None; 4],
        codes: Default::default(),
        restart_interval: 0,
        frame: None,
        scans: 0,
        jfif: false,
        adobe: None,
        metadata: Metadata::default(),
    };
    loop {
        match decoder.marker()? {
            0xd9 => break,
            // Markers without a segment; those between restarts are left over from a scan.
            0x01 | 0xd0..=0xd8 => {}
            marker => decoder.segment(marker)?,
        }
    }
    decoder.finish()
}

impl<'a> Decoder<'a> {
    fn malformed(&self, reason: impl std::fmt::Display) -> tx_core::error::Error {
        self.source.malformed(format_args!("JPEG: {reason}"))
    }

    fn cut(&self) -> tx_core::error::Error {
        self.malformed("the file ends before its picture does")
    }

    /// The next marker, after whatever is none.
    fn marker(&mut self) -> Result<u8> {
        loop {
            let rest = self.source.bytes.get(self.at..).unwrap_or_default();
            let start = rest.iter().position(|&byte| byte == 0xff).ok_or_else(|| self.cut())?;
            let fill = rest[start..].iter().take_while(|&&byte| byte == 0xff).count();
            let &marker = rest.get(start + fill).ok_or_else(|| self.cut())?;
            self.at += start + fill + 1;
            if marker != 0 {
                return Ok(marker);
            }
        }
    }

    fn segment(&mut self, marker: u8) -> Result<()> {
        let rest = self.source.bytes.get(self.at..).unwrap_or_default();
        let length = rest.first_chunk::<2>().map(|bytes| usize::from(u16::from_be_bytes(*bytes)));
        let segment = length.and_then(|length| rest.get(2..length)).ok_or_else(|| self.cut())?;
        self.at += 2 + segment.len();
        match marker {
            0xc0..=0xc2 => self.frame(segment, marker == 0xc2),
            0xc4 => self.codes(segment),
            0xc3 | 0xc5..=0xcf => {
                let found = format_args!("SOF{}", marker - 0xc0);
                Err(self.source.unsupported("JPEG coding", found, "SOF0, SOF1, SOF2: Huffman coding of 8 bits"))
            }
            0xda => self.scan(segment),
            0xdb => self.steps(segment),
            0xdd => {
                let interval = segment.first_chunk::<2>().ok_or_else(|| self.cut())?;
                self.restart_interval = usize::from(u16::from_be_bytes(*interval));
                Ok(())
            }
            0xe0 => {
                self.jfif |= segment.starts_with(b"JFIF\0");
                Ok(())
            }
            0xe1 => {
                if segment.starts_with(b"Exif\0\0") {
                    self.metadata.exif = self.metadata.exif.or(Some(segment));
                } else if let Some(xmp) = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                    self.metadata.xmp = Some(xmp);
                }
                Ok(())
            }
            0xee => {
                if segment.starts_with(b"Adobe") && segment.len() >= 12 {
                    self.adobe = Some(segment[11]);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tables of steps.
    fn steps(&mut self, mut segment: &[u8]) -> Result<()> {
        while let [kind, rest @ ..] = segment {
            let (wide, number) = (kind >> 4 != 0, usize::from(kind & 15));
            let bytes = if wide { 2 * BLOCK } else { BLOCK };
            let Some((values, rest)) = rest.split_at_checked(bytes) else { return Err(self.cut()) };
            let mut steps = [0; BLOCK];
            for (value, place) in values.chunks_exact(bytes / BLOCK).zip(ZIGZAG) {
                steps[usize::from(place)] = value.iter().fold(0, |all, &byte| (all << 8) | i32::from(byte));
            }
            let Some(table) = self.steps.get_mut(number) else {
                return Err(self.malformed(format_args!("table of steps {number}, expected 0 to 3")));
            };
            *table = Some(steps);
            segment = rest;
        }
        Ok(())
    }

    /// Tables of codes.
    fn codes(&mut self, mut segment: &[u8]) -> Result<()> {
        while let [kind, rest @ ..] = segment {
            let Some((counts, rest)) = rest.split_first_chunk::<16>() else { return Err(self.cut()) };
            let symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let Some((symbols, rest)) = rest.split_at_checked(symbols) else { return Err(self.cut()) };
            let Some(codes) = Huffman::new(counts, symbols) else {
                return Err(self.malformed("a table of too many codes"));
            };
            let (class, number) = (usize::from(kind >> 4), usize::from(kind & 15));
            let Some(table) = self.codes.get_mut(class).and_then(|tables| tables.get_mut(number)) else {
                return Err(self.malformed(format_args!("table of codes {class}.{number}, expected 0.0 to 1.3")));
            };
            *table = Some(codes);
            segment = rest;
        }
        Ok(())
    }

    fn frame(&mut self, segment: &[u8], progressive: bool) -> Result<()> {
        let [precision, h1, h0, w1, w0, count, rest @ ..] = segment else { return Err(self.cut()) };
        if *precision != 8 {
            return Err(self.source.unsupported("JPEG precision", precision, "8 bits"));
        }
        if self.frame.is_some() {
            return Err(self.malformed("two frames"));
        }
        let [width, height] = [[*w1, *w0], [*h1, *h0]].map(u16::from_be_bytes);
        let [width, height] = self.source.size(width, height)?;
        if !matches!(count, 1 | 3 | 4) {
            return Err(self.source.unsupported("JPEG components", count, "1, 3, 4"));
        }
        let specifications = rest.as_chunks::<3>().0.get(..usize::from(*count)).ok_or_else(|| self.cut())?;
        let samplings = specifications.iter().map(|&[_, factors, _]| [factors >> 4, factors & 15].map(usize::from));
        let sampling = samplings.fold([1; 2], |most, factors| [most[0].max(factors[0]), most[1].max(factors[1])]);
        let units = [width.div_ceil(8 * sampling[0]), height.div_ceil(8 * sampling[1])];
        let mut components: Vec<Component> = Vec::new();
        let mut blocks = 0;
        for &[id, factors, table] in specifications {
            let [h, v] = [factors >> 4, factors & 15].map(usize::from);
            let whole = |most: usize, factor: usize| (1..=4).contains(&factor) && most.is_multiple_of(factor);
            if !whole(sampling[0], h) || !whole(sampling[1], v) {
                let found = format_args!("{h} x {v}");
                return Err(self.source.unsupported("JPEG sampling", found, "whole factors up to 4"));
            }
            if table > 3 || components.iter().any(|other| other.id == id) {
                return Err(self.malformed(format_args!("component {id} makes no sense")));
            }
            blocks += (units[0] * h * units[1] * v) as u64;
            components.push(Component {
                id,
                sampling: [h, v],
                table: usize::from(table),
                steps: None,
                size: [(width * h).div_ceil(sampling[0]), (height * v).div_ceil(sampling[1])],
                blocks: [(width * h).div_ceil(8 * sampling[0]), (height * v).div_ceil(8 * sampling[1])],
                stride: units[0] * h,
                coefficients: Vec::new(),
                plane: Vec::new(),
            });
        }
        // Every block takes a bit at least.
        if blocks > 8 * self.source.bytes.len() as u64 {
            let bytes = self.source.bytes.len();
            return Err(self.malformed(format_args!("{bytes} bytes for {width} x {height} pixels; the file is cut")));
        }
        if 2 * blocks * BLOCK as u64 > MAX_BUFFER_BYTES {
            return Err(self.malformed(format_args!("{blocks} blocks take more than {MAX_BUFFER_BYTES} bytes")));
        }
        for component in &mut components {
            let samples = component.stride * units[1] * component.sampling[1] * BLOCK;
            component.plane = vec![0; samples];
            if progressive {
                component.coefficients = vec![0; samples];
            }
        }
        self.frame = Some(Frame { progressive, size: [width, height], units, sampling, components });
        Ok(())
    }

    /// A scan: its header, and the coded bits after it.
    fn scan(&mut self, segment: &[u8]) -> Result<()> {
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(self.malformed(format_args!("more than {MAX_SCANS} scans")));
        }
        let Self { source, codes, frame, .. } = self;
        let malformed = |reason: &str| source.malformed(format_args!("JPEG: {reason}"));
        let Some(frame) = frame else { return Err(malformed("a scan before the frame")) };
        let [count, rest @ ..] = segment else { return Err(malformed("a scan without components")) };
        let count = usize::from(*count);
        let parts = rest.as_chunks::<2>().0.get(..count).unwrap_or_default();
        let Some(&[start, end, approximation, ..]) = rest.get(2 * count..) else {
            return Err(malformed("a scan's header is cut"));
        };
        let mut components = Vec::new();
        for &[id, tables] in parts {
            let index = frame.components.iter().position(|component| component.id == id);
            let index = index.filter(|&index| components.iter().all(|part: &scan::Part<'_>| part.component != index));
            let Some(index) = index else { return Err(malformed("a scan names a wrong component")) };
            let component = &mut frame.components[index];
            component.steps = component.steps.or(self.steps[component.table]);
            if component.steps.is_none() {
                return Err(malformed("a scan before its table of steps"));
            }
            let table = |class: usize, number: u8| codes[class].get(usize::from(number)).and_then(Option::as_ref);
            let (first, others) = (table(0, tables >> 4), table(1, tables & 15));
            components.push(scan::Part { component: index, first, others });
        }
        let band = scan::Band { start, end, high: approximation >> 4, low: approximation & 15 };
        let mut bits = Bits::new(source.bytes, self.at);
        scan::read(frame, &components, band, self.restart_interval, &mut bits).map_err(malformed)?;
        self.at = bits.at();
        Ok(())
    }

    /// The pixels, when all scans are read.
    fn finish(self) -> Result<Decoded> {
        let orientation = self.metadata.orientation();
        let (jfif, adobe) = (self.jfif, self.adobe);
        let malformed = |reason: &str| self.source.malformed(format_args!("JPEG: {reason}"));
        let mut frame = self.frame.ok_or_else(|| malformed("no picture in it"))?;
        for component in &mut frame.components {
            let Some(steps) = &component.steps else { return Err(malformed("a component has no scan")) };
            if frame.progressive {
                let stride = 8 * component.stride;
                let rows = component.plane.par_chunks_exact_mut(8 * stride);
                rows.zip(component.coefficients.par_chunks_exact(8 * stride)).for_each(|(samples, coefficients)| {
                    for (x, block) in coefficients.as_chunks::<BLOCK>().0.iter().enumerate() {
                        idct::block(block, steps, &mut samples[8 * x..], stride);
                    }
                });
                component.coefficients = Vec::new();
            }
        }
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        let colours = match (frame.components.len(), adobe) {
            (1, _) => Colours::Grey,
            (3, _) if jfif => Colours::YCbCr,
            (3, Some(0)) => Colours::Rgb,
            (3, None) if ids == *b"RGB" => Colours::Rgb,
            (3, _) => Colours::YCbCr,
            (_, None | Some(0)) => Colours::Cmyk,
            (_, Some(_)) => Colours::Ycck,
        };
        let [width, height] = frame.size;
        Ok(Decoded { width, height, pixels: planes::pixels(&frame, colours), orientation })
    }
}
