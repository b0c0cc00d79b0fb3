//! What commands print: JSON, tables, and numbers for people.
//!
//! Everything goes through [`print`], which ends the program in silence when nobody reads on, as in `tx models | head`.

use std::io::{self, BufWriter, ErrorKind, Write};

use serde::Serialize;
use tx_core::error::{Error, Result};
use unicode_width::UnicodeWidthStr;

/// The longest error line, in bytes, with its line end.
const MAX_ERROR_BYTES: usize = 4096;
/// Between the columns of a table.
const GAP: usize = 2;

/// Prints one JSON document and a line end.
///
/// # Errors
/// [`Error::Io`] if standard output cannot be written.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(|out| {
        serde_json::to_writer(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Prints a line as it is, for scripts.
///
/// # Errors
/// As [`print_json`].
pub fn print_line(line: &str) -> Result<()> {
    print(|out| writeln!(out, "{line}"))
}

/// Prints a part of a text at once.
///
/// # Errors
/// As [`print_json`].
pub fn print_piece(text: &str) -> Result<()> {
    if text.is_empty() { Ok(()) } else { print(|out| out.write_all(text.as_bytes())) }
}

/// Prints rows in columns, under a header unless that is empty. Control characters are escaped.
///
/// # Errors
/// As [`print_json`].
pub fn print_table(header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    print(|out| out.write_all(table(header, rows).as_bytes()))
}

/// Writes to standard output.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        // Who closed the pipe has read enough; what is still to come is for nobody.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(Error::io("standard output")),
    }
}

fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let head = (!header.is_empty()).then_some(&header);
    let lines: Vec<Vec<String>> =
        head.into_iter().chain(rows).map(|row| row.iter().map(|cell| escape_controls(cell)).collect()).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| lines.iter().filter_map(|row| row.get(i)).map(|cell| cell.width()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in &lines {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.width() + GAP));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A failure as the one line that goes to stderr.
pub fn error_line(message: &str) -> String {
    let mut line = format!("error: {}", escape_controls(message));
    if line.len() >= MAX_ERROR_BYTES {
        const CUT: &str = " …";
        line.truncate(line.floor_char_boundary(MAX_ERROR_BYTES - 1 - CUT.len()));
        line.push_str(CUT);
    }
    line
}

/// A text without what moves the cursor, breaks the line or turns the direction of writing.
fn escape_controls(text: &str) -> String {
    let disturbs = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if disturbs(c) { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// A number of bytes for people: `86.7 MiB`.
pub fn bytes(n: u64) -> String {
    scaled(n, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A count for people: `22.7 M`.
pub fn count(n: u64) -> String {
    scaled(n, 1000.0, ["", "k", "M", "G", "T"]).trim_end().to_owned()
}

fn scaled(n: u64, base: f64, units: [&str; 5]) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    // What would be rounded to the base belongs to the next unit.
    while value + 0.05 >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    if unit == 0 { format!("{n} {}", units[0]) } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_by_display_width() {
        let rows = vec![vec!["北京".to_owned(), "1".to_owned()], vec!["a\n\u{1b}[0m".to_owned(), "2".to_owned()]];
        let expected = ["city          n", "北京          1", r"a\n\u{1b}[0m  2", ""];
        assert_eq!(table(&["city", "n"], &rows), expected.join("\n"));
        assert_eq!(table(&[], &[vec!["a".to_owned(), String::new()]]), "a\n");
        assert_eq!(table(&[], &[]), "");
    }

    #[test]
    fn errors_are_one_bounded_line() {
        assert_eq!(error_line("`a\nb\u{1b}\u{202e}`"), "error: `a\\nb\\u{1b}\\u{202e}`");
        for message in ["é".repeat(5000), "\u{1}".repeat(4000), "x".repeat(4089), "x".repeat(4088)] {
            let line = error_line(&message);
            assert!(line.len() < MAX_ERROR_BYTES && line.len() > 4000, "{}", line.len());
        }
        assert!(error_line(&"x".repeat(4088)).ends_with('x'));
    }

    #[test]
    fn units_are_those_people_read() {
        assert_eq!([0, 1023, 1024, 90_868_376].map(bytes), ["0 B", "1023 B", "1.0 KiB", "86.7 MiB"]);
        assert_eq!([0, 999, 1000, 22_713_216, 999_990].map(count), ["0", "999", "1.0 k", "22.7 M", "1.0 M"]);
        assert!(bytes(u64::MAX).ends_with(" TiB"));
    }
}
