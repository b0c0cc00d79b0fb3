//! The edit lists of MP4 files, which say which part of a track is heard: an AAC encoder puts some silence before it.
//!
//! Reference: ISO/IEC 14496-12, 8.6.6. The decoder ignores these lists; ffmpeg, and so Python, heeds them.

use std::io::{self, Read, Seek, SeekFrom};

/// More boxes than a file has in one place, unless it is in fragments, whose tracks have no edits.
const MAX_BOXES: usize = 1024;

/// The part of a track that is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    /// The track's number in the file.
    pub track: u32,
    /// Ticks of `timescale` before the part.
    pub start: u64,
    /// Ticks of `timescale` of the part; `None` for all that is left.
    pub length: Option<u64>,
    /// Ticks in a second.
    pub timescale: u32,
}

/// Where the content of a box begins and ends, in bytes.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

/// The edits of the tracks of an MP4 file of `length` bytes; of any other file, and of a broken one, there are none.
pub(super) fn edits<R: Read + Seek>(file: &mut R, length: u64) -> Vec<Edit> {
    read_edits(file, length).unwrap_or_default()
}

fn read_edits<R: Read + Seek>(file: &mut R, length: u64) -> io::Result<Vec<Edit>> {
    let mut edits = Vec::new();
    let whole = Span { start: 0, end: length };
    let mut kind = [0; 8];
    if length < 8 {
        return Ok(edits);
    }
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut kind)?;
    if &kind[4..] != b"ftyp" {
        return Ok(edits);
    }
    let Some(movie) = find(file, whole, b"moov")? else { return Ok(edits) };
    let Some(header) = find(file, movie, b"mvhd")? else { return Ok(edits) };
    let movie_timescale = timescale(file, header)?;
    for (_, track) in children(file, movie)?.into_iter().filter(|(name, _)| name == b"trak") {
        edits.extend(track_edit(file, track, movie_timescale)?);
    }
    Ok(edits)
}

/// The edit of one track; `None` if it has none, or more than one, which sound does not need.
fn track_edit<R: Read + Seek>(file: &mut R, track: Span, movie_timescale: u32) -> io::Result<Option<Edit>> {
    let (Some(header), Some(list)) = (find(file, track, b"tkhd")?, find(file, track, b"edts")?) else {
        return Ok(None);
    };
    let (Some(list), Some(media)) = (find(file, list, b"elst")?, find(file, track, b"mdia")?) else {
        return Ok(None);
    };
    let Some(media_header) = find(file, media, b"mdhd")? else { return Ok(None) };
    let timescale = timescale(file, media_header)?;
    // The time of creation and that of modification stand before the number, in 4 or 8 bytes each.
    let track = Fields::open(file, header)?.skip(|version| if version == 1 { 16 } else { 8 })?.u32()?;
    let mut fields = Fields::open(file, list)?;
    let mut heard = None;
    for _ in 0..fields.u32()?.min(MAX_BOXES as u32) {
        let (duration, start) = if fields.version == 1 {
            (fields.u64()?, fields.u64()? as i64)
        } else {
            (u64::from(fields.u32()?), i64::from(fields.u32()? as i32))
        };
        fields.u32()?;
        // A start of -1 is silence before the track, which decoders leave out.
        let Ok(start) = u64::try_from(start) else { continue };
        if heard.is_some() {
            return Ok(None);
        }
        heard = Some((start, duration));
    }
    let Some((start, duration)) = heard else { return Ok(None) };
    let ticks = u128::from(duration) * u128::from(timescale);
    let length = (ticks + u128::from(movie_timescale) / 2).checked_div(u128::from(movie_timescale));
    // No duration stands for all that fragments will add.
    let length = length.and_then(|length| u64::try_from(length).ok()).filter(|&length| length > 0);
    Ok(Some(Edit { track, start, length, timescale }))
}

/// The ticks in a second that `mvhd` or `mdhd` states.
fn timescale<R: Read + Seek>(file: &mut R, header: Span) -> io::Result<u32> {
    Fields::open(file, header)?.skip(|version| if version == 1 { 16 } else { 8 })?.u32()
}

/// The first box of a name in a box.
fn find<R: Read + Seek>(file: &mut R, parent: Span, name: &[u8; 4]) -> io::Result<Option<Span>> {
    Ok(children(file, parent)?.into_iter().find(|(found, _)| found == name).map(|(_, span)| span))
}

/// The boxes in a box.
fn children<R: Read + Seek>(file: &mut R, parent: Span) -> io::Result<Vec<([u8; 4], Span)>> {
    let (mut boxes, mut at) = (Vec::new(), parent.start);
    while boxes.len() < MAX_BOXES && parent.end.saturating_sub(at) >= 8 {
        file.seek(SeekFrom::Start(at))?;
        let mut header = [0; 8];
        file.read_exact(&mut header)?;
        let [a, b, c, d, name @ ..] = header;
        let (size, start) = match u32::from_be_bytes([a, b, c, d]) {
            // The last box of a file may reach to its end.
            0 => (parent.end - at, at + 8),
            1 => {
                let mut size = [0; 8];
                file.read_exact(&mut size)?;
                (u64::from_be_bytes(size), at + 16)
            }
            size => (u64::from(size), at + 8),
        };
        let Some(end) = at.checked_add(size).filter(|&end| end >= start && end <= parent.end) else { break };
        boxes.push((name, Span { start, end }));
        at = end;
    }
    Ok(boxes)
}

/// The numbers of a box that begins with a version.
struct Fields<'a, R> {
    file: &'a mut R,
    version: u8,
    left: u64,
}

impl<'a, R: Read + Seek> Fields<'a, R> {
    fn open(file: &'a mut R, span: Span) -> io::Result<Self> {
        file.seek(SeekFrom::Start(span.start))?;
        let mut fields = Self { file, version: 0, left: span.end - span.start };
        let [version, ..] = fields.take::<4>()?;
        fields.version = version;
        Ok(fields)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.left = self.left.checked_sub(N as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(mut self, count: impl Fn(u8) -> usize) -> io::Result<Self> {
        for _ in 0..count(self.version) {
            self.take::<1>()?;
        }
        Ok(self)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn atom(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut bytes = (content.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend(name);
        bytes.extend(content);
        bytes
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    fn file(list: &[u32]) -> Vec<u8> {
        let header = atom(b"mvhd", &numbers(&[0, 0, 0, 1000, 0]));
        let media = atom(b"mdia", &atom(b"mdhd", &numbers(&[0, 0, 0, 44100, 0])));
        let edits = atom(b"edts", &atom(b"elst", &numbers(list)));
        let track = atom(b"trak", &[atom(b"tkhd", &numbers(&[0, 0, 0, 7, 0])), edits, media].concat());
        [atom(b"ftyp", b"M4A "), atom(b"mdat", &[0; 20]), atom(b"moov", &[header, track].concat())].concat()
    }

    fn edits_of(bytes: Vec<u8>) -> Vec<Edit> {
        let length = bytes.len() as u64;
        edits(&mut Cursor::new(bytes), length)
    }

    #[test]
    fn the_part_that_is_heard() {
        let edit = Edit { track: 7, start: 1024, length: Some(26460), timescale: 44100 };
        assert_eq!(edits_of(file(&[0, 1, 600, 1024, 0x10000])), [edit]);
        let silence_first = [0, 2, 50, u32::MAX, 0x10000, 600, 1024, 0x10000];
        assert_eq!(edits_of(file(&silence_first)), [edit]);
        assert_eq!(edits_of(file(&[0, 1, 0, 1024, 0x10000])), [Edit { length: None, ..edit }]);
        assert!(edits_of(file(&[0, 2, 600, 0, 0x10000, 600, 1024, 0x10000])).is_empty());
    }

    #[test]
    fn broken_files_have_no_edits() {
        let whole = file(&[0, 1, 600, 1024, 0x10000]);
        for length in 0..whole.len() {
            assert!(edits_of(whole[..length].to_vec()).is_empty(), "{length}");
        }
        assert!(edits_of(file(&[0, 1000, 600, 1024])).is_empty());
        assert!(edits_of(b"RIFF    WAVEfmt ".to_vec()).is_empty());
    }
}
