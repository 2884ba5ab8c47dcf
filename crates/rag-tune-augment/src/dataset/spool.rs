//! Temporary files that hold rows as JSON lines, for formats that cannot be read in place.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::DataError;
use super::part::{Built, Checked, PartBuilder};
use crate::AugmentError;

/// A temporary file that has no name and goes when it is closed.
fn unnamed() -> Result<File, DataError> {
    tempfile::tempfile().map_err(DataError::temporary)
}

/// Unpacks a gzip file.
pub(super) fn unpacked(path: &Path, file: File) -> Result<File, AugmentError> {
    let mut source = MultiGzDecoder::new(file);
    let mut target = unnamed()?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        // Not io::copy: whose fault it was would be lost.
        match source.read(&mut buffer).map_err(AugmentError::read(path))? {
            0 => break,
            n => target
                .write_all(&buffer[..n])
                .map_err(DataError::temporary)?,
        }
    }
    target.rewind().map_err(DataError::temporary)?;
    Ok(target)
}

/// Rows as JSON text, in the order of their file.
#[derive(Debug, Default)]
pub(super) struct JsonRows {
    text: Vec<u8>,
    rows: Vec<Checked>,
}

impl JsonRows {
    /// Adds a row: `write` appends its JSON to the text and gives the hash of its id.
    pub(super) fn push(
        &mut self,
        number: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Option<u64>, super::check::RowProblem>,
    ) {
        let start = self.text.len();
        let outcome = write(&mut self.text);
        if outcome.is_err() {
            self.text.truncate(start);
        }
        let length = self.text.len() - start;
        if length > 0 {
            self.text.push(b'\n');
        }
        self.rows.push(Checked {
            start,
            length,
            number,
            outcome,
        });
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// Writes rows to a temporary file and gives them to a builder.
pub(super) struct Spool<'a> {
    builder: PartBuilder<'a>,
    file: BufWriter<File>,
    written: u64,
}

impl<'a> Spool<'a> {
    pub(super) fn new(builder: PartBuilder<'a>) -> Result<Self, DataError> {
        Ok(Self {
            builder,
            file: BufWriter::new(unnamed()?),
            written: 0,
        })
    }

    pub(super) fn builder(&self) -> &PartBuilder<'a> {
        &self.builder
    }

    pub(super) fn append(&mut self, rows: JsonRows) -> Result<(), DataError> {
        self.file
            .write_all(&rows.text)
            .map_err(DataError::temporary)?;
        for row in rows.rows {
            self.builder.take(self.written, 0, row)?;
        }
        self.written += rows.text.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Built, DataError> {
        let file = self
            .file
            .into_inner()
            .map_err(|error| DataError::temporary(error.into_error()))?;
        Ok(self.builder.finish(file))
    }
}
