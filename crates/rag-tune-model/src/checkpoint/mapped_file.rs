//! A file mapped into memory, read-only.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::ModelError;

/// A file's bytes and its path, for messages.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    bytes: Mmap,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        // SAFETY: the map is read-only and lives as long as `self`, and every
        // slice of it borrows `self`. What no process can rule out is that
        // another one cuts the file short meanwhile; downloaders write to
        // a temporary name and rename, so a file with this name stays whole.
        let bytes = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives back the memory of the pages that were read; read again, they come back from the file.
    ///
    /// Otherwise the whole file counts as this program's memory once its tensors were loaded.
    pub fn release(&self) {
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and never written, so its pages hold nothing that the file does not.
            let advised = unsafe { self.bytes.unchecked_advise(DontNeed) };
            // Advice that is not taken costs memory, nothing else.
            drop(advised);
        }
    }
}
