//! Files that appear whole or not at all.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::AugmentError;

/// How the names of temporary files begin.
const TEMPORARY: &str = ".rag-tune-";

/// A file written under a temporary name; it gets its own name by [`PendingFile::commit`], and is
/// removed if that never happens.
pub(crate) struct PendingFile {
    path: PathBuf,
    writer: BufWriter<NamedTempFile>,
}

impl PendingFile {
    /// Begins `path`, making its folder if needed.
    pub(crate) fn create(path: &Path) -> Result<Self, AugmentError> {
        let file = temporary_beside(path).map_err(AugmentError::write(path))?;
        Ok(Self {
            path: path.to_owned(),
            writer: BufWriter::new(file),
        })
    }

    /// Appends `value` as one JSON line.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), AugmentError> {
        let written = serde_json::to_writer(&mut self.writer, value).map_err(Into::into);
        written
            .and_then(|()| self.writer.write_all(b"\n"))
            .map_err(AugmentError::write(&self.path))
    }

    /// Gives the file its name, replacing what had it.
    pub(crate) fn commit(self) -> Result<(), AugmentError> {
        let Self { path, writer } = self;
        let file = writer
            .into_inner()
            .map_err(|e| AugmentError::write(&path)(e.into_error()))?;
        file.as_file()
            .sync_all()
            .map_err(AugmentError::write(&path))?;
        file.persist(&path)
            .map_err(|e| AugmentError::write(&path)(e.error))?;
        Ok(())
    }
}

/// Writes `bytes` to `path` through a temporary file in the same folder, which is made if needed.
///
/// # Errors
/// When the folder cannot be made or written; what `path` held before stays.
pub fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = temporary_beside(path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Removes the temporary files that killed processes have left in `folder`, which nobody else may be
/// writing to.
///
/// # Errors
/// When the folder cannot be read or a file not removed.
pub fn remove_leftovers(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_temporary = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
        if is_temporary && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes `value` as indented JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), AugmentError> {
    let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
    let written = text.and_then(|mut text| {
        text.push(b'\n');
        write_file(path, &text)
    });
    written.map_err(AugmentError::write(path))
}

/// A temporary file in the folder of `path`.
fn temporary_beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    with_usual_permissions(&mut tempfile::Builder::new())
        .prefix(TEMPORARY)
        .tempfile_in(folder)
}

/// Temporary files are readable by their owner only; these become results, which others may read.
#[cfg(unix)]
fn with_usual_permissions<'a, 'b>(
    builder: &'a mut tempfile::Builder<'b, 'b>,
) -> &'a mut tempfile::Builder<'b, 'b> {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666)) // less the umask
}

#[cfg(not(unix))]
fn with_usual_permissions<'a, 'b>(
    builder: &'a mut tempfile::Builder<'b, 'b>,
) -> &'a mut tempfile::Builder<'b, 'b> {
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncommitted_file_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "old").unwrap();

        let mut pending = PendingFile::create(&path).unwrap();
        pending.json_line(&"half").unwrap();
        drop(pending);

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".rag-tune-aB3", "rows.jsonl", ".other"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        remove_leftovers(folder.path()).unwrap();
        assert!(!folder.path().join(".rag-tune-aB3").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_committed_file_replaces_the_old_one_and_makes_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/record.json");
        write_json(&path, &[1]).unwrap();
        write_json(&path, &[2]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[\n  2\n]\n");
    }
}
