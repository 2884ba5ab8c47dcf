//! Writing files so that a reader never sees half of one.

use std::path::Path;

use anyhow::Context;
use rag_tune_augment::atomic_file::write_file;

/// Writes `text` to `path`, whole or not at all; its folder is made if needed.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write_atomically(path: &Path, text: &str) -> anyhow::Result<()> {
    write_file(path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))
}
