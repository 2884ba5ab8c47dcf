//! Query results, in a form in which equal values are equal bytes, and what people see of them.

use std::fmt::Write as _;

use rusqlite::types::ValueRef;
use serde_json::Value;

use crate::rows::ResultTable;

/// Rows and columns that a preview has at most.
const PREVIEW_ROWS: usize = 20;
const PREVIEW_COLUMNS: usize = 20;
/// Characters of a text that a preview shows; bytes of a blob.
const PREVIEW_TEXT: usize = 200;
const PREVIEW_BLOB: usize = 32;

/// One value of a result. Two cells are equal exactly when Python, in which the field's scorer is
/// written, calls the values equal: `1 == 1.0`, `NULL == NULL`, `1 != '1'`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cell {
    /// `NULL`.
    Null,
    /// An integer, or a float that is a whole number.
    Integer(i64),
    /// Bits of a float that no [`Cell::Integer`] equals.
    Real(u64),
    /// Text, as bytes: SQLite does not promise UTF-8.
    Text(Vec<u8>),
    /// A blob.
    Blob(Vec<u8>),
}

impl Cell {
    /// Memory that the cell takes, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        let heap = match self {
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
            Self::Null | Self::Integer(_) | Self::Real(_) => 0,
        };
        size_of::<Self>() + heap
    }

    /// As people look at it: bytes that are no UTF-8 are shown as U+FFFD, blobs as SQL writes them.
    fn preview(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Integer(value) => (*value).into(),
            Self::Real(bits) => real_preview(f64::from_bits(*bits)),
            Self::Text(bytes) => text_preview(bytes).into(),
            Self::Blob(bytes) => blob_preview(bytes).into(),
        }
    }
}

/// JSON knows no infinity.
fn real_preview(value: f64) -> Value {
    if value.is_finite() {
        value.into()
    } else {
        value.to_string().into()
    }
}

fn text_preview(bytes: &[u8]) -> String {
    // A character has at most four bytes: with one more than is shown, it is seen that some are left.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * (PREVIEW_TEXT + 1))]);
    let mut shown: String = text.chars().take(PREVIEW_TEXT).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn blob_preview(bytes: &[u8]) -> String {
    let mut shown = "x'".to_owned();
    for byte in &bytes[..bytes.len().min(PREVIEW_BLOB)] {
        write!(shown, "{byte:02x}").expect("writing to a string cannot fail");
    }
    if bytes.len() > PREVIEW_BLOB {
        shown.push('…');
    }
    shown + "'"
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
        let is_integer = value.trunc() == value && (-TWO_TO_63..TWO_TO_63).contains(&value);
        if is_integer {
            Self::Integer(value as i64) // exact: it is whole and in range
        } else {
            Self::Real(value.to_bits())
        }
    }
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(value) => Self::Integer(value),
            ValueRef::Real(value) => Self::from(value),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

/// The rows that a query returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    names: Vec<String>,
    /// Row after row, a cell for each name.
    cells: Vec<Cell>,
}

impl Table {
    /// A table without rows, with columns of these names. A query has at least one column.
    pub(super) fn new(names: Vec<String>) -> Self {
        assert!(!names.is_empty(), "a query result has at least one column");
        Self {
            names,
            cells: Vec::new(),
        }
    }

    /// Adds the next cell, row by row from left to right.
    pub(super) fn push(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.names.len()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.cells.len() / self.columns()
    }

    /// The cells of one column, from the first row to the last.
    pub fn column(&self, column: usize) -> impl Iterator<Item = &Cell> {
        self.cells.iter().skip(column).step_by(self.columns())
    }
}

impl Table {
    /// Memory that the cells take, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        self.cells.iter().map(Cell::size_bytes).sum()
    }

    /// The first rows as people look at them. A table of more than 20 columns ends in one that says how many are left.
    pub(super) fn preview(&self) -> ResultTable {
        let shown = self.columns().min(PREVIEW_COLUMNS);
        let left = self.columns() - shown;
        let name = |name: &String| text_preview(name.as_bytes());
        let mut columns: Vec<String> = self.names[..shown].iter().map(name).collect();
        if left > 0 {
            columns.push(format!("({left} more)"));
        }
        let row = |cells: &[Cell]| {
            let mut row: Vec<Value> = cells[..shown].iter().map(Cell::preview).collect();
            if left > 0 {
                row.push("…".into());
            }
            row
        };
        let rows = self.cells.chunks(self.columns()).take(PREVIEW_ROWS);
        ResultTable {
            columns,
            rows: rows.map(row).collect(),
            total_rows: self.rows(),
        }
    }
}

#[cfg(test)]
impl Table {
    /// A table without rows, for tests to which names do not matter.
    pub(super) fn of_columns(columns: usize) -> Self {
        Self::new((0..columns).map(|i| format!("c{i}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_preview_is_small_and_says_what_it_leaves_out() {
        let mut table = Table::of_columns(30);
        for _ in 0..30 * 1000 {
            table.push(Cell::Text("é".repeat(1_000).into_bytes()));
        }
        let preview = table.preview();
        assert_eq!((preview.rows.len(), preview.total_rows), (20, 1000));
        assert_eq!(preview.columns.len(), 21);
        assert_eq!(preview.columns[20], "(10 more)");
        for row in &preview.rows {
            assert_eq!(row.len(), 21);
            assert_eq!(row[0], json!("é".repeat(200) + "…"));
        }
    }

    #[test]
    fn a_preview_shows_every_kind_of_cell() {
        let cells = [
            Cell::Null,
            Cell::Integer(i64::MIN),
            Cell::from(1.5),
            Cell::from(f64::NEG_INFINITY),
            Cell::Text(b"a\xff".to_vec()),
            Cell::Blob(vec![0xab; 33]),
        ];
        let mut table = Table::of_columns(cells.len());
        cells.into_iter().for_each(|cell| table.push(cell));
        let blob = format!("x'{}…'", "ab".repeat(32));
        assert_eq!(
            json!(table.preview().rows),
            json!([[null, i64::MIN, 1.5, "-inf", "a\u{fffd}", blob]])
        );
    }

    #[test]
    fn whole_floats_equal_integers_and_nothing_else_does() {
        assert_eq!(Cell::from(1.0), Cell::Integer(1));
        assert_eq!(Cell::from(-0.0), Cell::Integer(0));
        assert_ne!(Cell::from(1.5), Cell::Integer(1));
        assert_eq!(
            Cell::from(f64::INFINITY),
            Cell::Real(f64::INFINITY.to_bits())
        );
        // 2^63 as a float is one more than the largest integer, and must not saturate to it.
        assert_ne!(
            Cell::from(9_223_372_036_854_775_808.0),
            Cell::Integer(i64::MAX)
        );
        assert_eq!(
            Cell::from(-9_223_372_036_854_775_808.0),
            Cell::Integer(i64::MIN)
        );
    }

    #[test]
    fn text_is_no_number() {
        assert_ne!(
            Cell::from(ValueRef::Text(b"1")),
            Cell::from(ValueRef::Integer(1))
        );
        assert_ne!(
            Cell::from(ValueRef::Text(b"a")),
            Cell::from(ValueRef::Blob(b"a"))
        );
    }
}
