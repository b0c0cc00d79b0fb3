//! A picture: opened by its content, upright, RGB.
//!
//! [`Image::open`] gives what Python's `load_image` does: PIL's pixels, turned by `ImageOps.exif_transpose`, then
//! `convert("RGB")`. So alpha is dropped and not blended, 16-bit greys are cut off at 255, other 16-bit samples keep
//! their upper byte, and the inks of a CMYK JPEG are inverted. Of an animation it is the first frame.
//!
//! | format | decoded by | not supported |
//! |---|---|---|
//! | JPEG | the module `jpeg`: to the bit as libjpeg-turbo | arithmetic coding, 12 bits, lossless |
//! | PNG | `png` | |
//! | GIF | `gif` | |
//! | WebP | `image-webp` | |
//! | BMP | the module `bmp` | JPEG or PNG inside |
//! | TIFF | `tiff` | palettes, separate planes, JPEG or fax inside, floats |
//!
//! Memory is bounded: a file has at most 1 GiB ([`MAX_FILE_BYTES`]), a picture at most 178 956 970 pixels
//! ([`MAX_PIXELS`], PIL's own limit), and no single buffer takes more than 1 GiB ([`MAX_BUFFER_BYTES`]). All three are
//! checked from the headers, before anything is allocated. A file that ends early is an error, as in Python.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;
use tx_core::error::{Error, Result};
use tx_core::guard::decoding;
use tx_core::weights::save::write_atomically;

mod bmp;
mod exif;
mod formats;
mod jpeg;
mod resize;

pub use resize::Resample;

/// The largest picture, in pixels: where PIL calls a picture a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;
/// The largest buffer that decoding or resizing allocates, in bytes.
pub const MAX_BUFFER_BYTES: u64 = 1 << 30;
/// The largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// An RGB picture, 8 bits per channel, upright.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} x {})", self.width, self.height)
    }
}

impl Image {
    /// Reads a picture; its format is told by its content, not by the file's name.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] for what is no picture, ends early, or is too large, and
    /// [`Error::Unsupported`] for formats and variants that are not read.
    pub fn open(path: &Path) -> Result<Self> {
        let too_large = || Error::malformed(path, format_args!("expected at most {MAX_FILE_BYTES} bytes"));
        let file = File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() > MAX_FILE_BYTES {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        // What is no regular file has no length.
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(too_large());
        }
        Self::decode(Source { bytes: &bytes, path })
    }

    /// Decodes a picture as [`Image::open`] does; `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Unsupported`], as of [`Image::open`].
    pub fn from_bytes(bytes: &[u8], what: &str) -> Result<Self> {
        Self::decode(Source { bytes, path: Path::new(what) })
    }

    /// A picture of `pixels`, row by row, three bytes for each.
    ///
    /// # Errors
    /// [`Error::Input`] if a side is zero, or the number of bytes does not fit.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if bytes != Some(pixels.len()) || pixels.is_empty() {
            let found = format_args!("{} bytes for {width} x {height} pixels", pixels.len());
            return Err(Error::input("image", found, "three bytes for each pixel, and at least one pixel"));
        }
        Ok(Self { width, height, pixels })
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Red, green and blue of every pixel, row by row.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Writes a PNG, so that `path` has either its old content or all of the new.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let too_wide = |_| io::Error::from(io::ErrorKind::InvalidInput);
        write_atomically(path, |file| {
            let width = u32::try_from(self.width).map_err(too_wide)?;
            let height = u32::try_from(self.height).map_err(too_wide)?;
            let mut encoder = png::Encoder::new(file, width, height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            let mut writer = encoder.write_header().map_err(io::Error::from)?;
            writer.write_image_data(&self.pixels).map_err(io::Error::from)?;
            writer.finish().map_err(io::Error::from)
        })
    }

    /// The part of `height` rows and `width` columns around the middle, with black where the picture is smaller.
    ///
    /// # Errors
    /// [`Error::Input`] if a side is zero, or there are too many pixels.
    pub fn center_crop(&self, height: usize, width: usize) -> Result<Self> {
        check_size("crop", width as u64, height as u64)?;
        // The place in the picture of the part's first row, which may be above the picture; likewise its column.
        let top = (self.height as i64 - height as i64).div_euclid(2);
        let left = (self.width as i64 - width as i64).div_euclid(2);
        let start = left.max(0);
        let columns = (left + width as i64).min(self.width as i64) - start;
        let mut pixels = vec![0; 3 * width * height];
        for (y, row) in pixels.chunks_exact_mut(3 * width).enumerate() {
            let Some(source) = usize::try_from(top + y as i64).ok().filter(|&source| source < self.height) else {
                continue;
            };
            let source = 3 * (source * self.width + start as usize);
            let target = 3 * (start - left) as usize;
            let bytes = 3 * columns as usize;
            row[target..target + bytes].copy_from_slice(&self.pixels[source..source + bytes]);
        }
        Self::new(width, height, pixels)
    }

    fn decode(source: Source<'_>) -> Result<Self> {
        let decoded = decoding(source.path, || formats::decode(source))??;
        Ok(decoded.upright())
    }
}

/// The bytes of a file, and its name for messages.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    path: &'a Path,
}

impl Source<'_> {
    fn malformed(&self, reason: impl fmt::Display) -> Error {
        Error::malformed(self.path, one_line(reason))
    }

    fn unsupported(&self, key: &str, value: impl fmt::Display, supported: &str) -> Error {
        Error::Unsupported {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            value: one_line(value),
            supported: supported.to_owned(),
        }
    }

    /// Width and height as a header tells them, if a picture may have them.
    fn size(&self, width: impl Into<u64>, height: impl Into<u64>) -> Result<[usize; 2]> {
        let (width, height) = (width.into(), height.into());
        pixels(width, height).map_err(|expected| {
            self.malformed(format_args!("a picture of {width} x {height} pixels, expected {expected}"))
        })?;
        Ok([width as usize, height as usize])
    }

    /// A buffer of zeros, if it may be so large. The system gives memory only to the parts that are written.
    fn buffer(&self, bytes: u64) -> Result<Vec<u8>> {
        if bytes > MAX_BUFFER_BYTES {
            let reason = format_args!("decoding takes {bytes} bytes, expected at most {MAX_BUFFER_BYTES}");
            return Err(self.malformed(reason));
        }
        Ok(vec![0; bytes as usize])
    }
}

/// A text that may be another crate's, or have parts of the file in it.
fn one_line(text: impl fmt::Display) -> String {
    text.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// A picture as it lies in the file.
struct Decoded {
    width: usize,
    height: usize,
    /// RGB
    pixels: Vec<u8>,
    /// EXIF's, from 1 to 8.
    orientation: u8,
}

impl Decoded {
    /// The picture turned so that its top is above.
    fn upright(self) -> Image {
        let Self { width, height, pixels, orientation } = self;
        // From a place in the upright picture to the place in this one.
        let place: fn(usize, usize, usize, usize) -> [usize; 2] = match orientation {
            2 => |x, y, right, _| [right - x, y],
            3 => |x, y, right, bottom| [right - x, bottom - y],
            4 => |x, y, _, bottom| [x, bottom - y],
            5 => |x, y, _, _| [y, x],
            6 => |x, y, _, bottom| [y, bottom - x],
            7 => |x, y, right, bottom| [right - y, bottom - x],
            8 => |x, y, right, _| [right - y, x],
            _ => return Image { width, height, pixels },
        };
        let (columns, rows) = if orientation < 5 { (width, height) } else { (height, width) };
        let mut upright = vec![0; pixels.len()];
        upright.par_chunks_exact_mut(3 * columns).enumerate().for_each(|(y, row)| {
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let [x, y] = place(x, y, width - 1, height - 1);
                pixel.copy_from_slice(&pixels[3 * (y * width + x)..][..3]);
            }
        });
        Image { width: columns, height: rows, pixels: upright }
    }
}

/// The number of pixels, or what would have been right.
fn pixels(width: u64, height: u64) -> Result<u64, String> {
    match width.checked_mul(height) {
        Some(0) => Err("at least one".to_owned()),
        Some(pixels) if pixels <= MAX_PIXELS => Ok(pixels),
        _ => Err(format!("at most {MAX_PIXELS} in all")),
    }
}

/// Whether a picture may be made that large.
fn check_size(what: &str, width: u64, height: u64) -> Result<()> {
    match pixels(width, height) {
        Ok(_) => Ok(()),
        Err(expected) => Err(Error::input(what, format_args!("{width} x {height} pixels"), expected)),
    }
}

/// What is seen of inks on white paper, as PIL computes it.
fn cmyk_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * light + 128;
        // Divided by 255, rounded.
        let absorbed = ((product >> 8) + product) >> 8;
        light.saturating_sub(absorbed) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of three pixels, each with its number in every channel.
    fn numbered(orientation: u8) -> Vec<u8> {
        let pixels = (0..6).flat_map(|i| [i; 3]).collect();
        let image = Decoded { width: 3, height: 2, pixels, orientation }.upright();
        assert_eq!([image.width, image.height], if orientation < 5 { [3, 2] } else { [2, 3] });
        image.pixels.chunks(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn pictures_are_turned_upright() {
        let expected = [
            [0, 1, 2, 3, 4, 5],
            [2, 1, 0, 5, 4, 3],
            [5, 4, 3, 2, 1, 0],
            [3, 4, 5, 0, 1, 2],
            [0, 3, 1, 4, 2, 5],
            [3, 0, 4, 1, 5, 2],
            [5, 2, 4, 1, 3, 0],
            [2, 5, 1, 4, 0, 3],
        ];
        for (orientation, expected) in (1..).zip(expected) {
            assert_eq!(numbered(orientation), expected, "{orientation}");
        }
    }

    #[test]
    fn crops_are_around_the_middle() {
        let image = Image::new(3, 2, (0..6).flat_map(|i| [i + 1; 3]).collect()).unwrap();
        let crop = |height, width| {
            let crop = image.center_crop(height, width).unwrap();
            assert_eq!([crop.height(), crop.width()], [height, width]);
            crop.pixels().chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>()
        };
        assert_eq!(crop(2, 3), [1, 2, 3, 4, 5, 6]);
        assert_eq!(crop(1, 1), [2]);
        assert_eq!(crop(1, 2), [1, 2]);
        // A line of black first where it does not come out even.
        assert_eq!(crop(3, 1), [0, 2, 5]);
        assert_eq!(crop(2, 4), [0, 1, 2, 3, 0, 4, 5, 6]);
        assert_eq!(crop(1, 6), [0, 0, 1, 2, 3, 0]);
        assert!(image.center_crop(0, 1).is_err() && image.center_crop(usize::MAX, 2).is_err());
    }

    #[test]
    fn pictures_are_saved_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        let image = Image::new(5, 4, (0..60).collect()).unwrap();
        image.save_png(&path).unwrap();
        assert_eq!(Image::open(&path).unwrap(), image);
        assert!(Image::new(5, 4, vec![0; 59]).is_err() && Image::new(0, 4, Vec::new()).is_err());
        assert!(matches!(Image::open(folder.path()), Err(Error::Io { .. })));
    }

    #[test]
    fn inks_darken_paper() {
        assert_eq!(cmyk_to_rgb([0; 4]), [255; 3]);
        assert_eq!(cmyk_to_rgb([0, 0, 0, 255]), [0; 3]);
        assert_eq!(cmyk_to_rgb([255, 0, 10, 0]), [0, 255, 245]);
    }
}
