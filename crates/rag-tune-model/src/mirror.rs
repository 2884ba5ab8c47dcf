//! Real models and data for tests, from the mirror that RAG_TUNE_MIRROR names.

use std::path::PathBuf;

/// The mirror, if it has `path` (`models/<owner>/<name>/...`, `datasets/...`); says so where not.
#[allow(clippy::print_stderr)] // a skipped test must say that it was skipped
pub(crate) fn mirror_with(path: &str) -> Option<PathBuf> {
    let mirror = std::env::var_os("RAG_TUNE_MIRROR").map(PathBuf::from);
    let mirror = mirror.filter(|mirror| mirror.join(path).exists());
    if mirror.is_none() {
        eprintln!("skipped: no mirror with {path} (RAG_TUNE_MIRROR)");
    }
    mirror
}
