//! What can go wrong when examples are chosen.

/// An error of the selection; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// Fewer train rows are allowed for a row than it should get.
    #[error(
        "split `{split}` row {row}: only {available} of {rows} train rows may be its examples, \
         `retrieval.examples` asks for {wanted}"
    )]
    TooFewExamples {
        /// The split.
        split: String,
        /// From 0.
        row: usize,
        /// Train rows that pass the constraints.
        available: usize,
        /// Train rows in the knowledge base.
        rows: usize,
        /// Examples asked for.
        wanted: usize,
    },
}

impl SelectError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooFewExamples { available, .. } => Some(format!(
                "set `retrieval.examples` to at most {available}, or drop a column from `retrieval.different`"
            )),
        }
    }
}
