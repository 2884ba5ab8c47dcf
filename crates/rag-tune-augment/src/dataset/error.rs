//! What can be wrong with a data set's rows and files.

use std::path::{Path, PathBuf};

use crate::error::quoted;

/// An error about rows or the files that hold them; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A line of a data file is not a JSON object.
    #[error("`{path}` line {line}: not a JSON object: {problem}")]
    BadLine {
        /// The data file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A row lacks a field that the task reads.
    #[error("`{path}` line {line}: no field `{field}`")]
    MissingField {
        /// The data file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The field's name.
        field: String,
        /// The fields that the row has.
        present: Vec<String>,
    },
    /// A field that the task reads as text is something else.
    #[error("`{path}` line {line}: field `{field}` is {found}, expected a string")]
    FieldType {
        /// The data file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The field's name.
        field: String,
        /// The JSON type found.
        found: &'static str,
    },
    /// A source row already has a field that augmentation adds.
    #[error("`{path}` row {row}: field `{field}` is one that augmentation writes")]
    ReservedField {
        /// The data file.
        path: PathBuf,
        /// From 0.
        row: usize,
        /// The field's name.
        field: &'static str,
    },
    /// A data file has no rows.
    #[error("`{path}` has no rows")]
    EmptySplit {
        /// The data file.
        path: PathBuf,
    },
    /// The data source is a file, where a folder or hub id belongs.
    #[error("data source `{path}` is a file, expected a folder or a hub id")]
    SourceIsFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The data source exists but has no such split.
    #[error("`{source_name}` has no split `{split}`")]
    SplitNotFound {
        /// Folder or hub id.
        source_name: String,
        /// The split asked for.
        split: String,
        /// The splits that exist.
        available: Vec<String>,
    },
}

impl DataError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingField { present, .. } => Some(format!(
                "the row has {}; the task's columns and `retrieval.different` must be in every row",
                quoted(present)
            )),
            Self::ReservedField { .. } => Some(
                "`data.source` must name the source rows, not augmented ones; else rename the field"
                    .into(),
            ),
            Self::SourceIsFile { path } => Some(format!(
                "name the folder that holds `<split>.jsonl`: `{}`",
                path.parent().unwrap_or(Path::new(".")).display()
            )),
            Self::SplitNotFound { available, .. } if available.is_empty() => {
                Some("a split is a file `<split>.jsonl`, and there is none".into())
            }
            Self::SplitNotFound { available, .. } => {
                Some(format!("it has {}", quoted(available)))
            }
            _ => None,
        }
    }
}
