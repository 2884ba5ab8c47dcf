//! Writing files so that a reader never sees half of one, and reading them.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::Context;
use rag_tune_augment::atomic_file::write_file;
use serde::de::DeserializeOwned;

/// Opens a file that stands for the right to work in its folder, which is made if needed; `None` if
/// another process has it. The right ends with the process, however that ends.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(path: &Path) -> anyhow::Result<Option<File>> {
    let open = || -> std::io::Result<File> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        File::options().create(true).append(true).open(path)
    };
    let file = open().with_context(|| format!("cannot write `{}`", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        // Some network file systems have no locks: then it is on the user.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// Writes `text` to `path`, whole or not at all; its folder is made if needed.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write_atomically(path: &Path, text: &str) -> anyhow::Result<()> {
    write_file(path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))
}

/// A JSON file.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is damaged", path.display()))
}
