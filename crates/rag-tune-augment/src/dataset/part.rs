//! Where the rows of one file lie: 12 bytes of memory a row, and 16 more with an id.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::check::RowProblem;
use super::columns::Needs;
use super::place::Unit;
use super::{BadRows, DataError};
use crate::AugmentError;

/// A row longer than this is a mistake, such as a quote that is never closed.
pub(super) const MAX_ROW_BYTES: usize = 128 << 20;

/// The rows of one file, or of a stretch of it, as JSON objects in a file.
#[derive(Debug)]
pub(super) struct Part {
    /// The data file, for messages.
    pub(super) path: PathBuf,
    /// Holds the rows: the data file itself, or a temporary file.
    file: File,
    unit: Unit,
    /// Of each row, the offset of its first byte in `file`.
    starts: Vec<u64>,
    /// Of each row, its bytes.
    lengths: Vec<u32>,
}

/// What finds a row that has the same id as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) hash: u64,
    /// Which part of the split; set when the parts come together.
    pub(super) part: u32,
    /// In its part, from 0.
    pub(super) row: u32,
    /// As the part's unit counts.
    pub(super) number: u32,
}

/// One row, as a format's reader found it.
#[derive(Debug)]
pub(super) struct Checked {
    /// Offset of its first byte from where its reader began.
    pub(super) start: usize,
    pub(super) length: usize,
    /// Line or row number from where its reader began.
    pub(super) number: usize,
    /// The id's hash.
    pub(super) outcome: Result<Option<u64>, RowProblem>,
}

/// Takes the rows of a part, and leaves out the bad ones if that is asked for.
#[derive(Debug)]
pub(super) struct PartBuilder<'a> {
    path: &'a Path,
    unit: Unit,
    needs: &'a Needs,
    bad_rows: BadRows,
    starts: Vec<u64>,
    lengths: Vec<u32>,
    ids: Vec<Id>,
    skipped: usize,
    first_problem: Option<DataError>,
}

/// A part and what was noticed while it was read.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) part: Part,
    pub(super) ids: Vec<Id>,
    pub(super) skipped: usize,
    pub(super) first_problem: Option<DataError>,
}

impl<'a> PartBuilder<'a> {
    pub(super) fn new(path: &'a Path, unit: Unit, needs: &'a Needs, bad_rows: BadRows) -> Self {
        Self {
            path,
            unit,
            needs,
            bad_rows,
            starts: Vec::new(),
            lengths: Vec::new(),
            ids: Vec::new(),
            skipped: 0,
            first_problem: None,
        }
    }

    pub(super) fn needs(&self) -> &'a Needs {
        self.needs
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Whether one bad row ends the reading.
    pub(super) fn stops_at_a_bad_row(&self) -> bool {
        self.bad_rows == BadRows::Error
    }

    /// Takes the next row of a reader that began at offset `base` and after `numbers` lines or rows.
    pub(super) fn take(
        &mut self,
        base: u64,
        numbers: usize,
        row: Checked,
    ) -> Result<(), DataError> {
        let number = numbers + row.number;
        let id = match row.outcome {
            Ok(id) => id,
            Err(problem) => {
                return self.refuse(problem.at(self.path, self.unit.place(number), self.needs));
            }
        };
        let (Ok(length), Ok(index)) = (u32::try_from(row.length), u32::try_from(self.starts.len()))
        else {
            return Err(self.too_long(number));
        };
        self.starts.push(base + row.start as u64);
        self.lengths.push(length);
        if let Some(hash) = id {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            self.ids.push(Id {
                hash,
                part: 0,
                row: index,
                number,
            });
        }
        Ok(())
    }

    fn refuse(&mut self, problem: DataError) -> Result<(), DataError> {
        if self.stops_at_a_bad_row() {
            return Err(problem);
        }
        self.skipped += 1;
        self.first_problem.get_or_insert(problem);
        Ok(())
    }

    pub(super) fn too_long(&self, number: usize) -> DataError {
        DataError::RowTooLong {
            path: self.path.into(),
            place: self.unit.place(number),
            limit: MAX_ROW_BYTES,
        }
    }

    pub(super) fn damaged(&self, number: usize, problem: impl Into<String>) -> DataError {
        DataError::Damaged {
            path: self.path.into(),
            place: self.unit.place(number),
            problem: problem.into(),
        }
    }

    /// The rows lie in `file`.
    pub(super) fn finish(self, file: File) -> Built {
        Built {
            part: Part {
                path: self.path.into(),
                file,
                unit: self.unit,
                starts: self.starts,
                lengths: self.lengths,
            },
            ids: self.ids,
            skipped: self.skipped,
            first_problem: self.first_problem,
        }
    }
}

impl Part {
    /// Length of a row's text.
    pub(super) fn bytes_of(&self, row: usize) -> u64 {
        u64::from(self.lengths[row])
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn unit(&self) -> Unit {
        self.unit
    }

    /// Leaves out rows, given in order.
    pub(super) fn remove(&mut self, rows: &[u32]) {
        let mut removed = rows.iter().peekable();
        let mut keep = (0..self.starts.len()).map(|row| {
            removed
                .next_if(|removed| **removed as usize == row)
                .is_none()
        });
        self.starts
            .retain(|_| keep.next().expect("one answer a row"));
        let mut removed = rows.iter().peekable();
        let mut row = 0;
        self.lengths.retain(|_| {
            row += 1;
            removed.next_if(|removed| **removed + 1 == row).is_none()
        });
    }

    /// Gives the texts of rows that follow each other to `parse`, with their numbers.
    pub(super) fn read<T: Send>(
        &self,
        rows: Range<usize>,
        parse: impl Fn(usize, &[u8]) -> Result<T, AugmentError> + Sync,
    ) -> Result<Vec<T>, AugmentError> {
        let mut parsed = Vec::with_capacity(rows.len());
        let mut first = rows.start;
        while first < rows.end {
            let last = self.last_of_run(first, rows.end);
            let begin = self.starts[first];
            let mut bytes = vec![0; (self.end(last) - begin) as usize];
            self.file
                .read_exact_at(&mut bytes, begin)
                .map_err(|error| match error.kind() {
                    ErrorKind::UnexpectedEof => self.changed().into(),
                    _ => AugmentError::read(&self.path)(error),
                })?;
            let row = |row: usize| {
                let from = (self.starts[row] - begin) as usize;
                parse(row, &bytes[from..from + self.lengths[row] as usize])
            };
            // Less than this is done before another thread has heard of it.
            const WORTH_SHARING: usize = 64 << 10;
            if bytes.len() < WORTH_SHARING {
                for index in first..=last {
                    parsed.push(row(index)?);
                }
            } else {
                let run = (first..last + 1).into_par_iter().with_min_len(16).map(row);
                parsed.extend(run.collect::<Result<Vec<_>, _>>()?);
            }
            first = last + 1;
        }
        Ok(parsed)
    }

    /// Rows are read together up to some megabytes, and across small gaps (blank lines, rows left out).
    fn last_of_run(&self, first: usize, end: usize) -> usize {
        const BYTES: u64 = 4 << 20;
        const GAP: u64 = 64 << 10;
        let joined = |row: &usize| {
            self.starts[*row] - self.end(row - 1) <= GAP
                && self.end(*row) - self.starts[first] <= BYTES
        };
        first + (first + 1..end).take_while(joined).count()
    }

    pub(super) fn changed(&self) -> DataError {
        DataError::Changed {
            path: self.path.clone(),
        }
    }

    fn end(&self, row: usize) -> u64 {
        self.starts[row] + u64::from(self.lengths[row])
    }
}
