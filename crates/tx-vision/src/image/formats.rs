//! From a file's bytes to RGB: which format it is, and the formats that other crates decode.
//!
//! Reference for what becomes of greys, palettes, alpha and inks: Pillow 13.0.0, the plugins and `Image.convert`.

use std::io::Cursor;
use std::num::NonZeroU64;

use tiff::ColorType;
use tiff::decoder::DecodingResult;
use tiff::tags::Tag;
use tx_core::error::Result;

use super::exif::Metadata;
use super::{Decoded, MAX_BUFFER_BYTES, Source, bmp, cmyk_to_rgb, jpeg};

/// What messages offer in place of another format.
const FORMATS: &str = "JPEG, PNG, GIF, WebP, BMP, TIFF";
/// What messages offer in place of another kind of TIFF.
const TIFF_COLOURS: &str = "1 to 16 bits of grey, 8 and 16 bits of RGB with or without alpha, 8 bits of CMYK";
/// The largest value of a tag of TIFF, in bytes: the places of all strips.
const MAX_TIFF_TAG_BYTES: usize = 64 << 20;
/// TIFF's tag for XMP.
const TIFF_XMP: Tag = Tag::Unknown(700);

/// Decodes a file of any format.
pub(super) fn decode(source: Source<'_>) -> Result<Decoded> {
    match source.bytes {
        [] => Err(source.malformed("an empty file, expected a picture")),
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(source),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png(source),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif(source),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(source),
        [b'B', b'M', ..] => bmp::decode(source),
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => tiff(source),
        _ => Err(source.unsupported("format", "unknown", FORMATS)),
    }
}

fn png(source: Source<'_>) -> Result<Decoded> {
    let malformed = |e| source.malformed(format_args!("PNG: {e}"));
    let limits = png::Limits { bytes: MAX_BUFFER_BYTES as usize };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(source.bytes), limits);
    decoder.set_transformations(png::Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(malformed)?;
    let [width, height] = source.size(header.width, header.height)?;
    let wide_grey = header.color_type == png::ColorType::Grayscale && header.bit_depth == png::BitDepth::Sixteen;
    let mut reader = decoder.read_info().map_err(malformed)?;
    let bytes = reader.output_buffer_size().map_or(u64::MAX, |bytes| bytes as u64);
    let mut samples = source.buffer(bytes)?;
    let frame = reader.next_frame(&mut samples).map_err(malformed)?;
    if [frame.width as usize, frame.height as usize] != [width, height] {
        let found = format_args!("PNG: a first frame of {} x {} pixels", frame.width, frame.height);
        return Err(source.malformed(format_args!("{found}, expected {width} x {height}")));
    }
    let wide = frame.bit_depth == png::BitDepth::Sixteen;
    // Samples of 16 bits begin with the upper byte.
    let pixels = match (frame.color_type, wide) {
        (png::ColorType::Grayscale, false) => rgb(&samples, |&[grey]| [grey; 3]),
        (png::ColorType::GrayscaleAlpha, false) => rgb(&samples, |&[grey, _]| [grey; 3]),
        (png::ColorType::Grayscale, true) => rgb(&samples, |&[high, low]| [cut_off(high, low); 3]),
        (png::ColorType::GrayscaleAlpha, true) if wide_grey => {
            rgb(&samples, |&[high, low, _, _]| [cut_off(high, low); 3])
        }
        (png::ColorType::GrayscaleAlpha, true) => rgb(&samples, |&[high, _, _, _]| [high; 3]),
        (png::ColorType::Rgb, false) => samples,
        (png::ColorType::Rgba, false) => rgb(&samples, |&[r, g, b, _]| [r, g, b]),
        (png::ColorType::Rgb, true) => rgb(&samples, |&[r, _, g, _, b, _]| [r, g, b]),
        (png::ColorType::Rgba, true) => rgb(&samples, |&[r, _, g, _, b, _, _, _]| [r, g, b]),
        (png::ColorType::Indexed, _) => return Err(source.malformed("PNG: a palette that cannot be expanded")),
    };
    Ok(Decoded { width, height, pixels, orientation: Metadata::of_png(source.bytes).orientation() })
}

/// Greys of 16 bits are not divided in PIL.
fn cut_off(high: u8, low: u8) -> u8 {
    if high == 0 { low } else { 255 }
}

/// Three bytes for every `N` bytes.
fn rgb<const N: usize>(samples: &[u8], pixel: impl Fn(&[u8; N]) -> [u8; 3]) -> Vec<u8> {
    let (samples, _) = samples.as_chunks::<N>();
    let mut pixels = vec![0; 3 * samples.len()];
    for (rgb, sample) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(samples) {
        *rgb = pixel(sample);
    }
    pixels
}

fn webp(source: Source<'_>) -> Result<Decoded> {
    let malformed = |e| source.malformed(format_args!("WebP: {e}"));
    let length = source.bytes[4..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    if source.bytes.len() - 8 < length {
        return Err(source.malformed("WebP: the file ends before its picture does"));
    }
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(source.bytes)).map_err(malformed)?;
    decoder.set_memory_limit(MAX_BUFFER_BYTES as usize);
    let (width, height) = decoder.dimensions();
    let [width, height] = source.size(width, height)?;
    let bytes = decoder.output_buffer_size().map_or(u64::MAX, |bytes| bytes as u64);
    let mut samples = source.buffer(bytes)?;
    decoder.read_image(&mut samples).map_err(malformed)?;
    let pixels = if decoder.has_alpha() { rgb(&samples, |&[r, g, b, _]| [r, g, b]) } else { samples };
    let (exif, xmp) = (decoder.exif_metadata().map_err(malformed)?, decoder.xmp_metadata().map_err(malformed)?);
    let orientation = Metadata { exif: exif.as_deref(), xmp: xmp.as_deref() }.orientation();
    Ok(Decoded { width, height, pixels, orientation })
}

/// The first frame on a screen that is as large as it needs to be.
fn gif(source: Source<'_>) -> Result<Decoded> {
    let malformed = |e| source.malformed(format_args!("GIF: {e}"));
    let mut options = gif::DecodeOptions::new();
    options.set_memory_limit(gif::MemoryLimit::Bytes(NonZeroU64::MIN.saturating_add(MAX_BUFFER_BYTES)));
    let mut decoder = options.read_info(Cursor::new(source.bytes)).map_err(malformed)?;
    let screen = [decoder.width(), decoder.height()].map(u64::from);
    let Some(frame) = decoder.next_frame_info().map_err(malformed)? else {
        return Err(source.malformed("GIF: no picture in it"));
    };
    let [left, top, columns, rows] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    // Where the frame does not reach, the screen has its transparent colour.
    let background = frame.transparent.unwrap_or(0);
    let [width, height] = source.size(screen[0].max((left + columns) as u64), screen[1].max((top + rows) as u64))?;
    source.size(columns as u64, rows as u64)?;
    let mut frame = source.buffer((columns * rows) as u64)?;
    decoder.read_into_buffer(&mut frame).map_err(malformed)?;
    let palette = decoder.palette().map_err(malformed)?.as_chunks::<3>().0;
    let colour = |index: u8| palette.get(usize::from(index)).copied().unwrap_or_default();
    let mut pixels = colour(background).repeat(width * height);
    for (y, row) in frame.chunks_exact(columns).enumerate() {
        let (screen, _) = pixels[3 * ((top + y) * width + left)..].as_chunks_mut::<3>();
        for (pixel, &index) in screen.iter_mut().zip(row) {
            *pixel = colour(index);
        }
    }
    Ok(Decoded { width, height, pixels, orientation: 1 })
}

fn tiff(source: Source<'_>) -> Result<Decoded> {
    let failed = |e| match e {
        tiff::TiffError::UnsupportedError(e) => source.unsupported("TIFF", e, TIFF_COLOURS),
        e => source.malformed(format_args!("TIFF: {e}")),
    };
    let mut limits = tiff::decoder::Limits::unlimited();
    limits.decoding_buffer_size = MAX_BUFFER_BYTES as usize;
    limits.intermediate_buffer_size = MAX_BUFFER_BYTES as usize;
    limits.ifd_value_size = MAX_TIFF_TAG_BYTES;
    let mut decoder = tiff::decoder::Decoder::new(Cursor::new(source.bytes)).map_err(failed)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(failed)?;
    let [width, height] = source.size(width, height)?;
    let colours = decoder.colortype().map_err(failed)?;
    let planes = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).map_err(failed)?;
    if planes == Some(2) && colours.num_samples() > 1 {
        return Err(source.unsupported("TIFF", "separate planes", "pixels whose samples are side by side"));
    }
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(failed)?.unwrap_or_default();
    let premultiplied = extra.first() == Some(&1);
    let upper = |sample: u16| (sample >> 8) as u8;
    let pixels = match (colours, decoder.read_image().map_err(failed)?) {
        (ColorType::Gray(bits @ (1 | 2 | 4)), DecodingResult::U8(samples)) => {
            let greys = unpack(&samples, width, bits, 255 / ((1 << bits) - 1));
            rgb(&greys, |&[grey]| [grey; 3])
        }
        (ColorType::Gray(8), DecodingResult::U8(samples)) => rgb(&samples, |&[grey]| [grey; 3]),
        (ColorType::Gray(16), DecodingResult::U16(samples)) => {
            samples.iter().flat_map(|&grey| [grey.min(255) as u8; 3]).collect()
        }
        (ColorType::Multiband { bit_depth: 8, num_samples: 2 }, DecodingResult::U8(samples)) if !premultiplied => {
            rgb(&samples, |&[grey, _]| [grey; 3])
        }
        (ColorType::RGB(8), DecodingResult::U8(samples)) => samples,
        (ColorType::RGBA(8), DecodingResult::U8(samples)) if premultiplied => rgb(&samples, divide_by_alpha),
        (ColorType::RGBA(8), DecodingResult::U8(samples)) => rgb(&samples, |&[r, g, b, _]| [r, g, b]),
        (ColorType::RGB(16), DecodingResult::U16(samples)) => samples.iter().map(|&sample| upper(sample)).collect(),
        (ColorType::RGBA(16), DecodingResult::U16(samples)) => {
            let samples: Vec<u8> = samples.iter().map(|&sample| upper(sample)).collect();
            if premultiplied { rgb(&samples, divide_by_alpha) } else { rgb(&samples, |&[r, g, b, _]| [r, g, b]) }
        }
        (ColorType::CMYK(8), DecodingResult::U8(samples)) => rgb(&samples, |&inks| cmyk_to_rgb(inks)),
        (colours, _) => return Err(source.unsupported("TIFF", format_args!("{colours:?}"), TIFF_COLOURS)),
    };
    if pixels.len() != 3 * width * height {
        let found = format_args!("samples for {} pixels", pixels.len() / 3);
        return Err(source.malformed(format_args!("TIFF: {found}, expected {width} x {height}")));
    }
    let turned = decoder.find_tag_unsigned::<u16>(Tag::Orientation).map_err(failed)?;
    let xmp = decoder.find_tag(TIFF_XMP).map_err(failed)?.and_then(|value| value.into_u8_vec().ok());
    let orientation = match turned {
        Some(turned) => u8::try_from(turned).ok().filter(|turned| (1..=8).contains(turned)).unwrap_or(1),
        None => Metadata { exif: None, xmp: xmp.as_deref() }.orientation(),
    };
    Ok(Decoded { width, height, pixels, orientation })
}

/// Samples of fewer than eight bits, the first in the upper bits; each row begins with a byte of its own.
pub(super) fn unpack(packed: &[u8], width: usize, bits: u8, factor: u8) -> Vec<u8> {
    let per_byte = 8 / usize::from(bits);
    let mut samples = Vec::with_capacity(packed.len() * per_byte);
    for row in packed.chunks_exact(width.div_ceil(per_byte)) {
        samples.extend((0..width).map(|x| {
            let shift = 8 - bits * (x % per_byte + 1) as u8;
            ((row[x / per_byte] >> shift) & ((1 << bits) - 1)) * factor
        }));
    }
    samples
}

/// The colour before it was multiplied by alpha.
fn divide_by_alpha(&[r, g, b, alpha]: &[u8; 4]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    [r, g, b].map(|sample| (u32::from(sample) * 255).checked_div(alpha).unwrap_or(0).min(255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_unpacked() {
        assert_eq!(unpack(&[0b1010_0000, 0b0110_0000], 3, 1, 255), [255, 0, 255, 0, 255, 255]);
        assert_eq!(unpack(&[0x1f, 0x20], 3, 4, 17), [17, 255, 34]);
        assert_eq!(unpack(&[0b0001_1011], 4, 2, 85), [0, 85, 170, 255]);
    }

    #[test]
    fn alpha_is_divided_out() {
        assert_eq!(divide_by_alpha(&[10, 20, 200, 100]), [25, 51, 255]);
        assert_eq!(divide_by_alpha(&[10, 20, 200, 0]), [0; 3]);
        assert_eq!(divide_by_alpha(&[10, 20, 200, 255]), [10, 20, 200]);
    }
}
