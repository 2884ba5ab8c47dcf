//! Query results, in a form in which equal values are equal bytes.

use rusqlite::types::ValueRef;

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
    columns: usize,
    /// Row after row, `columns` cells each.
    cells: Vec<Cell>,
}

impl Table {
    /// A table without rows. A query has at least one column.
    pub(super) fn new(columns: usize) -> Self {
        assert!(columns > 0, "a query result has at least one column");
        Self {
            columns,
            cells: Vec::new(),
        }
    }

    /// Adds the next cell, row by row from left to right.
    pub(super) fn push(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.cells.len() / self.columns
    }

    /// The cells of one column, from the first row to the last.
    pub fn column(&self, column: usize) -> impl Iterator<Item = &Cell> {
        self.cells.iter().skip(column).step_by(self.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
