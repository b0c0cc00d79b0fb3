//! The pixels of a segment.

use std::fmt;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};

/// The segment of each pixel of a picture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SegmentMap {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Row by row.
    pub(super) segments: Vec<i32>,
}

/// The pixels of a segment: all segments of a picture share one map.
///
/// In Python it is a grey picture; serialized, it is that picture as a PNG, in base64: 255 for the segment's pixels and 0
/// for the others.
#[derive(Clone)]
pub struct SegmentMask {
    map: Arc<SegmentMap>,
    segment: i32,
}

impl SegmentMask {
    pub(super) fn new(map: Arc<SegmentMap>, segment: i32) -> Self {
        Self { map, segment }
    }

    /// The number of columns: the picture's.
    pub fn width(&self) -> usize {
        self.map.width
    }

    /// The number of rows: the picture's.
    pub fn height(&self) -> usize {
        self.map.height
    }

    /// Whether each pixel belongs to the segment, row by row.
    pub fn pixels(&self) -> impl Iterator<Item = bool> + '_ {
        self.map.segments.iter().map(|&segment| segment == self.segment)
    }

    /// A grey PNG: 255 for the segment's pixels and 0 for the others.
    ///
    /// # Errors
    /// If the picture is wider or higher than a PNG can be.
    pub fn to_png(&self) -> io::Result<Vec<u8>> {
        let side = |side: usize| u32::try_from(side).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width())?, side(self.height())?);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(io::Error::from)?;
        let pixels: Vec<u8> = self.pixels().map(|inside| if inside { u8::MAX } else { 0 }).collect();
        writer.write_image_data(&pixels).map_err(io::Error::from)?;
        writer.finish().map_err(io::Error::from)?;
        Ok(bytes)
    }
}

impl PartialEq for SegmentMask {
    fn eq(&self, other: &Self) -> bool {
        self.width() == other.width() && self.height() == other.height() && self.pixels().eq(other.pixels())
    }
}

impl fmt::Debug for SegmentMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let area = self.pixels().filter(|&inside| inside).count();
        write!(f, "SegmentMask({area} of {} x {})", self.width(), self.height())
    }
}

impl Serialize for SegmentMask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.to_png().map_err(S::Error::custom)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    #[test]
    fn a_mask_is_a_grey_picture() {
        let map = Arc::new(SegmentMap { width: 3, height: 2, segments: vec![1, 2, 2, 0, 2, 1] });
        let mask = SegmentMask::new(map.clone(), 2);
        assert_eq!(mask.pixels().collect::<Vec<_>>(), [false, true, true, false, true, false]);
        assert_eq!(format!("{mask:?}"), "SegmentMask(3 of 3 x 2)");
        assert_ne!(mask, SegmentMask::new(map, 1));
        let json = serde_json::to_value(&mask).unwrap();
        let png = STANDARD.decode(json.as_str().unwrap()).unwrap();
        let picture = Image::from_bytes(&png, "mask").unwrap();
        assert_eq!((picture.width(), picture.height()), (3, 2));
        let grey: Vec<u8> = picture.pixels().chunks_exact(3).map(|pixel| pixel[0]).collect();
        assert_eq!(grey, [0, 255, 255, 0, 255, 0]);
    }
}
