//! Data that was made up must not pass for real: the figures made from it say so.

use std::path::Path;

use crate::files::write_atomically;

/// A file of this name in a data folder says that its rows are synthetic.
const MARKER: &str = "SYNTHETIC";

/// What the marker says to those who open it.
const MARKER_TEXT: &str =
    "The rows in this folder are made up; rag-tune marks every score on them as synthetic.\n";

/// Whether a data folder is marked as synthetic. A hub id never is.
pub fn is_synthetic(data: &Path) -> bool {
    data.join(MARKER).is_file()
}

/// Marks a data folder as synthetic.
///
/// # Errors
/// When it cannot be written.
pub fn mark(data: &Path) -> anyhow::Result<()> {
    write_atomically(&data.join(MARKER), MARKER_TEXT)
}
