//! Where in a file something was found, and texts short enough for a message.

use std::fmt;

/// A position in a data file, as its format counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of a text file (JSON lines, CSV, TSV), from 1.
    Line(usize),
    /// A row of a JSON array or a Parquet file, from 0.
    Row(usize),
    /// The columns that a Parquet file declares.
    Schema,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
            Self::Schema => f.write_str("schema"),
        }
    }
}

/// What a file's rows are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// [`Place::Line`].
    Line,
    /// [`Place::Row`].
    Row,
}

impl Unit {
    pub(super) fn place(self, number: usize) -> Place {
        match self {
            Self::Line => Place::Line(number),
            Self::Row => Place::Row(number),
        }
    }
}

/// The beginning of a text, for messages: parsers quote what they read, and a row may hold a megabyte.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 160;
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_megabyte_does_not_flood_a_message() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(&"é".repeat(1 << 19));
        assert!(
            long.len() < 400 && long.ends_with("é... (1048576 bytes)"),
            "{long}"
        );
    }
}
