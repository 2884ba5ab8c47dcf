//! The rows of one split, on disk: read in order or by index, a few bytes of memory a row.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::check::parse_fields;
use super::columns::{Needs, Reading, Renaming};
use super::format::{Compression, Format};
use super::part::{Built, Id, Part, PartBuilder};
use super::place::{Unit, shortened};
use super::{BadRows, DataError, Row, array, lines, parquet, spool, table};
use crate::AugmentError;

/// A split whose rows were checked once and stay on disk.
///
/// JSON lines and arrays are read where they are; other formats, and all that is gzipped, are laid out
/// as JSON lines in a temporary file (in TMPDIR) that has no name and goes with the split.
#[derive(Debug)]
pub struct Split {
    parts: Vec<Part>,
    /// Of each part, the number of rows before it; at the end, of all rows.
    first_rows: Vec<usize>,
    needs: Needs,
    renaming: Renaming,
    skipped: usize,
}

impl Split {
    /// Reads and checks every row of `files`, which follow each other.
    ///
    /// The ending of a name tells its format: `.jsonl`, `.ndjson` (an object a line), `.json` (an array of
    /// objects, or an object a line), `.csv`, `.tsv` (a line of names, then rows of texts), `.parquet`;
    /// all but Parquet also with `.gz`.
    ///
    /// # Errors
    /// [`AugmentError::Read`], and [`AugmentError::Data`] with the line (of text) or row (of an array or a
    /// Parquet file): a row that cannot be read, that lacks a column, whose id another has. With
    /// [`BadRows::Skip`] such rows are left out and counted; a file that is damaged as a whole (an open
    /// bracket or quote, a truncated Parquet file), or whose header lacks a column, still is an error, and so
    /// are no rows at all.
    pub fn open(files: &[PathBuf], reading: &Reading<'_>) -> Result<Self, AugmentError> {
        let needs = Needs::new(reading);
        let mut split = Self {
            parts: Vec::new(),
            first_rows: vec![0],
            needs: Needs::new(reading),
            renaming: Renaming::new(reading),
            skipped: 0,
        };
        let (mut ids, mut first_problem) = (Vec::new(), None);
        for path in files {
            for built in read_file(path, &needs, reading.bad_rows)? {
                let part = split.parts.len() as u32;
                let of_part = built.ids.into_iter().map(|id| Id { part, ..id });
                ids.extend(of_part);
                split.skipped += built.skipped;
                first_problem = first_problem.or(built.first_problem);
                split.parts.push(built.part);
            }
        }
        split.count_rows();
        if let Some(id) = reading.id {
            split.check_ids(ids, id, reading.bad_rows)?;
        }
        match split.len() {
            0 => Err(split.without_rows(files, first_problem).into()),
            _ => Ok(split),
        }
    }

    /// Number of rows.
    #[expect(clippy::len_without_is_empty, reason = "a split is never empty")]
    pub fn len(&self) -> usize {
        self.first_rows[self.parts.len()]
    }

    /// Number of rows that were left out, as [`BadRows::Skip`] asks for.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The first file, for messages.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// One row.
    ///
    /// # Errors
    /// [`DataError::Changed`], if the file was changed since it was opened, and [`AugmentError::Read`].
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> Result<Row, AugmentError> {
        let mut rows = self.rows(index..index + 1)?;
        Ok(rows.pop().expect("one row was asked for"))
    }

    /// Rows that follow each other.
    ///
    /// # Errors
    /// As [`Split::row`].
    ///
    /// # Panics
    /// If `range` reaches beyond the last row.
    pub fn rows(&self, range: Range<usize>) -> Result<Vec<Row>, AugmentError> {
        assert!(range.end <= self.len(), "rows {range:?} of {}", self.len());
        let mut rows = Vec::with_capacity(range.len());
        while range.start + rows.len() < range.end {
            let next = range.start + rows.len();
            let part = self.part_of(next);
            let before = self.first_rows[part];
            let end = range.end.min(self.first_rows[part + 1]);
            let part = &self.parts[part];
            rows.extend(part.read(next - before..end - before, |row, text| {
                // What was checked when the split was opened can only fail if the file was changed.
                let fields = parse_fields(text).map_err(|_| part.changed())?;
                self.needs
                    .met_by_fields(&fields)
                    .map_err(|_| part.changed())?;
                Ok(Row {
                    index: before + row,
                    fields: self.renaming.apply(fields),
                })
            })?);
        }
        Ok(rows)
    }

    /// All rows in stretches that fit into memory: each of at most `rows` rows, and of no more than 16 MiB
    /// of text unless it is a single row.
    pub fn chunks(&self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        const BYTES: u64 = 16 << 20;
        let mut start = 0;
        std::iter::from_fn(move || {
            let (mut end, mut bytes) = (start, 0);
            while end < self.len() && end - start < rows {
                bytes += self.bytes_of(end);
                if bytes > BYTES && end > start {
                    break;
                }
                end += 1;
            }
            let chunk = start..end;
            start = end;
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    fn bytes_of(&self, row: usize) -> u64 {
        let part = self.part_of(row);
        self.parts[part].bytes_of(row - self.first_rows[part])
    }

    fn part_of(&self, row: usize) -> usize {
        self.first_rows.partition_point(|first| *first <= row) - 1
    }

    fn count_rows(&mut self) {
        let mut rows = 0;
        self.first_rows = vec![0];
        for part in &self.parts {
            rows += part.len();
            self.first_rows.push(rows);
        }
    }

    fn without_rows(&self, files: &[PathBuf], first: Option<DataError>) -> DataError {
        let path = files.first().cloned().unwrap_or_default();
        match first {
            None => DataError::EmptySplit { path },
            Some(first) => DataError::NoUsableRows {
                path,
                skipped: self.skipped,
                first: Box::new(first),
            },
        }
    }

    /// Finds rows with the id of an earlier row; leaves them out, or names the first.
    fn check_ids(
        &mut self,
        ids: Vec<Id>,
        column: &str,
        bad_rows: BadRows,
    ) -> Result<(), AugmentError> {
        let mut removed = vec![Vec::new(); self.parts.len()];
        for (first, later) in repeated_ids(ids) {
            let id = self.id(later, column)?;
            if id != self.id(first, column)? {
                continue; // two texts of one hash
            }
            let part = later.part as usize;
            if bad_rows == BadRows::Error {
                let (part, first_part) = (&self.parts[part], &self.parts[first.part as usize]);
                return Err(DataError::DuplicateId {
                    path: part.path.clone(),
                    place: part.unit().place(later.number as usize),
                    first: format!(
                        "`{}` {}",
                        first_part.path.display(),
                        first_part.unit().place(first.number as usize)
                    ),
                    field: column.into(),
                    id: shortened(&id),
                }
                .into());
            }
            removed[part].push(later.row);
        }
        for (part, rows) in self.parts.iter_mut().zip(&removed) {
            part.remove(rows);
            self.skipped += rows.len();
        }
        self.count_rows();
        Ok(())
    }

    fn id(&self, id: Id, column: &str) -> Result<String, AugmentError> {
        let row = self.row(self.first_rows[id.part as usize] + id.row as usize)?;
        Ok(row.text(column).into_owned())
    }
}

/// Pairs of rows whose ids have one hash, the first of each hash and every later one, by the later.
fn repeated_ids(mut ids: Vec<Id>) -> Vec<(Id, Id)> {
    ids.sort_unstable();
    let groups = ids.chunk_by(|a, b| a.hash == b.hash);
    let mut pairs: Vec<(Id, Id)> = groups
        .flat_map(|group| group[1..].iter().map(|later| (group[0], *later)))
        .collect();
    pairs.sort_unstable_by_key(|(_, later)| (later.part, later.row));
    pairs
}

fn read_file(path: &Path, needs: &Needs, bad_rows: BadRows) -> Result<Vec<Built>, AugmentError> {
    let (format, compression) = Format::of_path(path)?;
    let mut file = File::open(path).map_err(AugmentError::read(path))?;
    let builder = |unit| PartBuilder::new(path, unit, needs, bad_rows);
    let unpacked =
        compression == Compression::Gzip && matches!(format, Format::JsonLines | Format::Json);
    if unpacked {
        file = spool::unpacked(path, file)?;
    }
    match format {
        Format::JsonLines => Ok(vec![lines::read(file, builder(Unit::Line))?]),
        Format::Json => match array::is_array(&mut file).map_err(AugmentError::read(path))? {
            true => Ok(vec![array::read(file, builder(Unit::Row))?]),
            false => Ok(vec![lines::read(file, builder(Unit::Line))?]),
        },
        Format::Csv => Ok(vec![table::read(
            file,
            compression,
            b',',
            builder(Unit::Line),
        )?]),
        Format::Tsv => Ok(vec![table::read(
            file,
            compression,
            b'\t',
            builder(Unit::Line),
        )?]),
        Format::Parquet => parquet::read(path, needs, bad_rows),
    }
}
