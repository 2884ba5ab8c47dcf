//! The rows of one split, on disk: read in order or by index, a few bytes of memory a row.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{BadRows, DataError, Row, parse_line, require_text};
use crate::AugmentError;

/// How the rows of a split are read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Task column to source column, where they differ.
    pub columns: &'a BTreeMap<String, String>,
    /// The task columns that every row must have, as text.
    pub required: &'a [&'a str],
    /// The column that identifies a row, if there is one.
    pub id: Option<&'a str>,
    /// What happens to rows that lack a column.
    pub bad_rows: BadRows,
}

/// A split whose rows were checked once and stay on disk.
#[derive(Debug)]
pub struct Split {
    path: PathBuf,
    file: File,
    columns: BTreeMap<String, String>,
    /// Where each row begins; one more than there are rows.
    starts: Vec<u64>,
}

impl Split {
    /// Reads and checks every row of `files`, which follow each other.
    ///
    /// # Errors
    /// [`AugmentError::Data`], [`AugmentError::Read`].
    pub fn open(files: &[PathBuf], reading: &Reading<'_>) -> Result<Self, AugmentError> {
        let path = &files[0];
        let file = File::open(path).map_err(AugmentError::read(path))?;
        let mut split = Self {
            path: path.clone(),
            file: file.try_clone().map_err(AugmentError::read(path))?,
            columns: reading.columns.clone(),
            starts: Vec::new(),
        };
        let (mut start, mut line) = (0, 0);
        let mut reader = BufReader::new(file);
        let mut text = Vec::new();
        loop {
            text.clear();
            let read = reader
                .read_until(b'\n', &mut text)
                .map_err(AugmentError::read(path))?;
            if read == 0 {
                break;
            }
            line += 1;
            if !text.trim_ascii().is_empty() {
                let fields = split.parse(line, &text)?;
                require_text(path, line, &fields, reading.required)?;
                split.starts.push(start);
            }
            start += read as u64;
        }
        if split.starts.is_empty() {
            return Err(DataError::EmptySplit { path: path.clone() }.into());
        }
        split.starts.push(start);
        Ok(split)
    }

    /// Number of rows.
    #[expect(clippy::len_without_is_empty, reason = "a split is never empty")]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One row.
    ///
    /// # Errors
    /// [`AugmentError::Read`], if the file was changed since it was opened.
    pub fn row(&self, index: usize) -> Result<Row, AugmentError> {
        let mut rows = self.rows(index..index + 1)?;
        Ok(rows.pop().expect("one row was asked for"))
    }

    /// Rows that follow each other.
    ///
    /// # Errors
    /// As [`Split::row`].
    pub fn rows(&self, range: Range<usize>) -> Result<Vec<Row>, AugmentError> {
        let (start, end) = (self.starts[range.start], self.starts[range.end]);
        let mut bytes = vec![0; (end - start) as usize];
        self.file
            .read_exact_at(&mut bytes, start)
            .map_err(AugmentError::read(&self.path))?;
        let row = |index: usize| {
            let from = (self.starts[index] - start) as usize;
            let to = (self.starts[index + 1] - start) as usize;
            // Blank lines may follow a row.
            let text = bytes[from..to].split(|byte| *byte == b'\n').next();
            let fields = self.parse(index + 1, text.unwrap_or_default())?;
            Ok(Row { index, fields })
        };
        range.map(row).collect()
    }

    fn parse(&self, line: usize, text: &[u8]) -> Result<Map<String, Value>, AugmentError> {
        let fields = parse_line(&self.path, line, text)?;
        if self.columns.is_empty() {
            return Ok(fields);
        }
        let renamed = fields.into_iter().map(|(name, value)| {
            let task_column = self.columns.iter().find(|(_, source)| **source == name);
            (
                task_column.map_or(name, |(column, _)| column.clone()),
                value,
            )
        });
        Ok(renamed.collect())
    }
}
