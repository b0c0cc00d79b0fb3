//! Which way up a picture is: the orientation that its EXIF tells, else its XMP.

/// EXIF's tag.
const ORIENTATION: u16 = 0x0112;
/// The keyword of a PNG's iTXt chunk that holds XMP, and its flags: not compressed.
const PNG_XMP: &[u8] = b"XML:com.adobe.xmp\0\0";

/// What a file says about a picture beside its pixels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Metadata<'a> {
    /// A TIFF file of its own, with or without the `Exif` marker before it.
    pub exif: Option<&'a [u8]>,
    pub xmp: Option<&'a [u8]>,
}

impl<'a> Metadata<'a> {
    /// The chunks of a PNG, which may come after the pixels. Compressed ones are not inflated.
    pub fn of_png(bytes: &'a [u8]) -> Self {
        let mut found = Self::default();
        let mut rest = bytes.get(8..).unwrap_or_default();
        while let Some((head, tail)) = rest.split_first_chunk::<8>() {
            let [a, b, c, d, kind @ ..] = *head;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some(data) = tail.get(..length) else { break };
            match &kind {
                b"eXIf" => found.exif = Some(data),
                b"iTXt" => found.xmp = data.strip_prefix(PNG_XMP).or(found.xmp),
                _ => {}
            }
            // Its checksum follows.
            rest = tail[length..].get(4..).unwrap_or_default();
        }
        found
    }

    /// The orientation, from 1 to 8; 1 is upright, and stands for whatever makes no sense.
    pub fn orientation(&self) -> u8 {
        let told = self.exif.and_then(from_exif).or_else(|| self.xmp.and_then(from_xmp));
        told.and_then(|value| u8::try_from(value).ok()).filter(|value| (2..=8).contains(value)).unwrap_or(1)
    }
}

/// The value of the tag in the first directory.
fn from_exif(exif: &[u8]) -> Option<u32> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk::<2>()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let u32_at = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk::<4>()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = u32_at(4)? as usize;
    let entries = usize::from(u16_at(directory)?);
    (0..entries).find_map(|i| {
        let entry = directory.checked_add(2 + 12 * i)?;
        if u16_at(entry)? != ORIENTATION || u32_at(entry + 4)? != 1 {
            return None;
        }
        match u16_at(entry + 2)? {
            1 => tiff.get(entry + 8).map(|&byte| u32::from(byte)),
            3 => u16_at(entry + 8).map(u32::from),
            4 => u32_at(entry + 8),
            _ => None,
        }
    })
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn from_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let places = xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let mut values = places.filter_map(|(at, _)| {
        let rest = &xmp[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or(rest.strip_prefix(b">"))?.first()?;
        value.is_ascii_digit().then(|| u32::from(value - b'0'))
    });
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of one entry; `order` is `II` or `MM`.
    fn exif(order: &[u8; 2], kind: u16, value: u32) -> Vec<u8> {
        let little = order == b"II";
        let short = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let long = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let mut bytes = b"Exif\0\0".to_vec();
        bytes.extend(order);
        bytes.extend(short(42));
        bytes.extend(long(8));
        bytes.extend(short(1));
        bytes.extend(short(ORIENTATION));
        bytes.extend(short(kind));
        bytes.extend(long(1));
        match kind {
            3 => {
                bytes.extend(short(value as u16));
                bytes.extend([0, 0]);
            }
            _ => bytes.extend(long(value)),
        }
        bytes
    }

    #[test]
    fn orientations_are_read_in_both_orders_and_cut_files_are_upright() {
        for order in [b"II", b"MM"] {
            for (kind, value) in [(3, 6), (4, 8)] {
                let bytes = exif(order, kind, value);
                let whole = Metadata { exif: Some(&bytes), xmp: None };
                assert_eq!(u32::from(whole.orientation()), value);
                for cut in 0..bytes.len() - 4 {
                    assert_eq!(Metadata { exif: Some(&bytes[..cut]), xmp: None }.orientation(), 1, "{cut}");
                }
            }
        }
        let strange = exif(b"II", 3, 9);
        let xmp: &[u8] = b"<tiff:Orientation>6</tiff:Orientation>";
        assert_eq!(Metadata { exif: Some(&strange), xmp: Some(xmp) }.orientation(), 1, "EXIF has the first word");
        assert_eq!(Metadata { exif: None, xmp: Some(xmp) }.orientation(), 6);
        assert_eq!(Metadata { exif: None, xmp: Some(b"x tiff:Orientation tiff:Orientation=\"3\"") }.orientation(), 3);
    }
}
