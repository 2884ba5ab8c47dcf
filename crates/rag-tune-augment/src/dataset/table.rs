//! CSV and TSV: a line of column names, then a row of texts a line (or several, within quotes).
//!
//! All values are texts; an empty cell is the empty text.

use std::cell::Cell;
use std::fs::File;
use std::io::{Cursor, Read};
use std::rc::Rc;

use csv::{ByteRecord, Reader, ReaderBuilder};
use flate2::read::MultiGzDecoder;
use rayon::prelude::*;

use super::check::{Found, RowProblem, utf8};
use super::columns::Needs;
use super::format::Compression;
use super::part::{Built, MAX_ROW_BYTES, PartBuilder};
use super::spool::{JsonRows, Spool};
use super::{DataError, Place};
use crate::AugmentError;

/// Read at once, and converted by all threads.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_ROWS: usize = 16 << 10;
/// Converted by one thread at once.
const PIECE_ROWS: usize = 256;

/// Appended to the file, so that an open quote is noticed: with one, this is no row of its own.
const END: &[u8] = b"\n\0end\0";

pub(super) fn read(
    file: File,
    compression: Compression,
    delimiter: u8,
    builder: PartBuilder<'_>,
) -> Result<Built, AugmentError> {
    let source: Box<dyn Read> = match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
    };
    let seen = Rc::new(Seen::default());
    let guarded = Guarded {
        source: source.chain(Cursor::new(END)),
        seen: Rc::clone(&seen),
    };
    let reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true) // the number of fields is checked here, where a row can be left out
        .has_headers(false)
        .buffer_capacity(1 << 20)
        .from_reader(guarded);
    let mut records = Records {
        reader,
        seen,
        ended: false,
    };
    let Some(header) = records.next(&builder)? else {
        return Ok(Spool::new(builder)?.finish()?);
    };
    let columns = Columns::new(&header.1, &builder)?;
    let mut spool = Spool::new(builder)?;
    while !records.ended {
        let batch = records.batch(spool.builder())?;
        let needs = spool.builder().needs();
        let pieces: Vec<JsonRows> = batch
            .par_chunks(PIECE_ROWS)
            .map(|records| {
                let mut rows = JsonRows::default();
                for (line, record) in records {
                    rows.push(*line, |text| columns.write(record, needs, text));
                }
                rows
            })
            .collect();
        for piece in pieces {
            spool.append(piece)?;
        }
    }
    Ok(spool.finish()?)
}

/// The records of a file, with the lines that they begin in.
struct Records<R> {
    reader: Reader<Guarded<R>>,
    seen: Rc<Seen>,
    ended: bool,
}

impl<R: Read> Records<R> {
    fn next(
        &mut self,
        builder: &PartBuilder<'_>,
    ) -> Result<Option<(usize, ByteRecord)>, AugmentError> {
        self.seen.bytes_since_row.set(0);
        let line = self.reader.position().line() as usize;
        let mut record = ByteRecord::new();
        let more =
            self.reader
                .read_byte_record(&mut record)
                .map_err(|error| match error.into_kind() {
                    csv::ErrorKind::Io(error)
                        if error.get_ref().is_some_and(|e| e.is::<TooLong>()) =>
                    {
                        builder.too_long(line).into()
                    }
                    csv::ErrorKind::Io(error) => AugmentError::read(builder.path())(error),
                    other => builder.damaged(line, format!("{other:?}")).into(),
                })?;
        if !more {
            return Err(builder.damaged(line, "a quote is not closed").into());
        }
        if record.len() == 1 && record[0] == END[1..] {
            self.ended = true;
            return Ok(None);
        }
        // The reader's own position of a record is before the blank lines that precede it, and before
        // the line feed of a \r\n.
        let newlines = record.as_slice().iter().filter(|byte| **byte == b'\n');
        let line = (self.reader.position().line() as usize).saturating_sub(newlines.count());
        let last = record.iter().next_back().unwrap_or_default();
        if last.ends_with(END) {
            return Err(builder.damaged(line, "a quote is not closed").into());
        }
        let behind = usize::from(!self.seen.ends_in_crlf.get().unwrap_or(false));
        Ok(Some((line.saturating_sub(behind), record)))
    }

    fn batch(
        &mut self,
        builder: &PartBuilder<'_>,
    ) -> Result<Vec<(usize, ByteRecord)>, AugmentError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_ROWS {
            let Some(record) = self.next(builder)? else {
                break;
            };
            bytes += record.1.as_slice().len();
            batch.push(record);
        }
        Ok(batch)
    }
}

/// The columns of a file.
struct Columns {
    /// What stands before each value: `{"name":`, then `,"name":`.
    prefixes: Vec<Vec<u8>>,
    /// Of each need, its column.
    needed: Vec<usize>,
}

impl Columns {
    fn new(header: &ByteRecord, builder: &PartBuilder<'_>) -> Result<Self, DataError> {
        let place = Place::Line(1);
        let names = header.iter().map(|name| Ok(utf8(name)?.trim().to_owned()));
        let names: Vec<String> = names
            .collect::<Result<_, RowProblem>>()
            .map_err(|problem| problem.at(builder.path(), place, builder.needs()))?;
        builder
            .needs()
            .check_declared(builder.path(), place, &names)?;
        let column = |source: &str| names.iter().position(|name| name == source);
        let needs = &builder.needs().0;
        let needed = needs
            .iter()
            .map(|need| column(&need.source).expect("checked above"));
        Ok(Self {
            needed: needed.collect(),
            prefixes: names
                .iter()
                .enumerate()
                .map(|(index, name)| prefix(index, name))
                .collect(),
        })
    }

    fn write(
        &self,
        record: &ByteRecord,
        needs: &Needs,
        text: &mut Vec<u8>,
    ) -> Result<Option<u64>, RowProblem> {
        let (found, expected) = (record.len(), self.prefixes.len());
        if found != expected {
            return Err(RowProblem::Unreadable(format!(
                "{found} fields, but the first line names {expected} columns"
            )));
        }
        for (prefix, field) in self.prefixes.iter().zip(record) {
            text.extend_from_slice(prefix);
            serde_json::to_writer(&mut *text, utf8(field)?).expect("memory can be written");
        }
        text.push(b'}');
        needs.met_by(|need| {
            let field = utf8(&record[self.needed[need]]).expect("checked above");
            Found::text(field, needs.0[need].is_id)
        })
    }
}

fn prefix(index: usize, name: &str) -> Vec<u8> {
    let mut prefix = vec![if index == 0 { b'{' } else { b',' }];
    serde_json::to_writer(&mut prefix, name).expect("memory can be written");
    prefix.push(b':');
    prefix
}

/// What went through a [`Guarded`].
#[derive(Debug, Default)]
struct Seen {
    bytes_since_row: Cell<usize>,
    /// Whether the first line ends in \r\n; `None` before its end.
    ends_in_crlf: Cell<Option<bool>>,
}

/// Refuses to read on within a row that is too long, which would fill the memory.
struct Guarded<R> {
    source: R,
    seen: Rc<Seen>,
}

#[derive(Debug, thiserror::Error)]
#[error("the row is too long")]
struct TooLong;

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let before = self.seen.bytes_since_row.get();
        if before > MAX_ROW_BYTES {
            return Err(std::io::Error::other(TooLong));
        }
        let read = self.source.read(buffer)?;
        self.seen.bytes_since_row.set(before + read);
        if self.seen.ends_in_crlf.get().is_none()
            && let Some(newline) = buffer[..read].iter().position(|byte| *byte == b'\n')
        {
            let crlf = newline > 0 && buffer[newline - 1] == b'\r';
            self.seen.ends_in_crlf.set(Some(crlf));
        }
        Ok(read)
    }
}
