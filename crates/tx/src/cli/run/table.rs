//! Results as a table for people: scores with bars, long texts cut.

use tx_core::error::Result;

use crate::cli::output::print_table;

/// A table whose first column names the input, if there are several.
pub struct Table<'a> {
    inputs: Option<&'a [String]>,
    header: Vec<&'a str>,
    rows: Vec<Vec<String>>,
    last: Option<usize>,
}

impl<'a> Table<'a> {
    pub fn new(inputs: &'a [String], list: bool, header: &[&'a str]) -> Self {
        let first = list.then_some("input");
        let header = first.into_iter().chain(header.iter().copied()).collect();
        Self { inputs: list.then_some(inputs), header, rows: Vec::new(), last: None }
    }

    /// Adds a row of the results for an input, which is named in the first of its rows.
    pub fn row(&mut self, input: usize, cells: impl IntoIterator<Item = String>) {
        let name = self.inputs.map(|inputs| match inputs.get(input) {
            Some(text) if self.last != Some(input) => shorten(text),
            _ => String::new(),
        });
        self.last = Some(input);
        self.rows.push(name.into_iter().chain(cells).collect());
    }

    pub fn print(self) -> Result<()> {
        print_table(&self.header, &self.rows)
    }
}

/// A text in one line of a table.
pub fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let text = printable(text);
    match text.char_indices().nth(LONGEST) {
        Some(_) => text.chars().take(LONGEST - 1).chain(['…']).collect(),
        None => text,
    }
}

/// A text without line ends and what else would disturb a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The first numbers of a vector.
pub fn components(vector: &[f32]) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<String> = vector.iter().take(SHOWN).map(|x| format!("{x:8.4}")).collect();
    shown.join(" ") + if vector.len() > SHOWN { " …" } else { "" }
}

pub fn score(score: f32) -> String {
    format!("{score:.4}")
}

/// A bar for a score from 0 to 1; nothing for others.
pub fn bar(score: f32) -> String {
    const WIDTH: f32 = 20.0;
    if (0.0..=1.0).contains(&score) { "█".repeat((score * WIDTH).round() as usize) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_one_short_line() {
        assert_eq!(shorten("a\nb\u{1b}[0m"), "a b [0m");
        assert_eq!(shorten(&"é".repeat(99)).chars().count(), 60);
        assert_eq!((bar(0.5).chars().count(), bar(-0.1), bar(f32::NAN)), (10, String::new(), String::new()));
    }
}
