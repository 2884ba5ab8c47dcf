//! What can be wrong with a data set's rows and files.

use std::path::{Path, PathBuf};

use super::Place;
use super::columns::Need;
use super::place::shortened;
use crate::error::quoted;

/// An error about rows or the files that hold them; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A row cannot be read.
    #[error("`{path}` {place}: {problem}")]
    BadRow {
        /// The data file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong with the row.
        problem: String,
    },
    /// A row, or a file that declares its columns, lacks a column that is read.
    #[error("`{path}` {place}: no field `{field}`{}", mapped_note(mapped_to.as_deref()))]
    MissingField {
        /// The data file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The column's name in the file.
        field: String,
        /// The task column that `data.columns` takes from it.
        mapped_to: Option<String>,
        /// The columns that there are.
        present: Vec<String>,
    },
    /// A field that is read as text is something else.
    #[error("`{path}` {place}: field `{field}` is {found}, expected a string")]
    FieldType {
        /// The data file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The column's name in the file.
        field: String,
        /// The JSON type found.
        found: &'static str,
    },
    /// A field that must say something is empty or white space.
    #[error("`{path}` {place}: field `{field}` is empty")]
    BlankField {
        /// The data file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The column's name in the file.
        field: String,
    },
    /// Two rows of a split have one id.
    #[error("`{path}` {place}: `{field}` is {id:?}, as in {first}")]
    DuplicateId {
        /// The data file of the later row.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// Data file and place of the earlier row.
        first: String,
        /// The id column.
        field: String,
        /// The value, shortened.
        id: String,
    },
    /// A file declares a column twice.
    #[error("`{path}` has two columns `{column}`")]
    DuplicateColumn {
        /// The data file.
        path: PathBuf,
        /// The column's name in the file.
        column: String,
    },
    /// A file as a whole is damaged, so that its rows cannot be told apart.
    #[error("`{path}` {place}: {problem}")]
    Damaged {
        /// The data file.
        path: PathBuf,
        /// The first place that is affected.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// A row is so long that it must be a mistake.
    #[error("`{path}` {place}: longer than {} MiB", limit >> 20)]
    RowTooLong {
        /// The data file.
        path: PathBuf,
        /// Where the row begins.
        place: Place,
        /// The most bytes that a row may have.
        limit: usize,
    },
    /// A file's name does not say in which format it is.
    #[error("`{path}` is of no known format")]
    UnknownFormat {
        /// The data file.
        path: PathBuf,
    },
    /// A file was changed between its check and its use.
    #[error("`{path}` was changed while it was in use")]
    Changed {
        /// The data file.
        path: PathBuf,
    },
    /// The rows of a compressed or columnar file could not be laid out on disk.
    #[error("cannot write a temporary file in `{folder}`")]
    Temporary {
        /// Where temporary files go.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
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
    /// A split has no rows.
    #[error("`{path}` has no rows")]
    EmptySplit {
        /// The first data file.
        path: PathBuf,
    },
    /// All rows of a split were left out.
    #[error("`{path}`: all {skipped} rows were left out; the first: {first}")]
    NoUsableRows {
        /// The first data file.
        path: PathBuf,
        /// Number of rows.
        skipped: usize,
        /// What was wrong with the first.
        first: Box<DataError>,
    },
    /// The data source exists but has no such split.
    #[error("`{source_name}` has no split `{split}`")]
    SplitNotFound {
        /// Folder, file or hub id.
        source_name: String,
        /// The split asked for.
        split: String,
        /// The splits that exist.
        available: Vec<String>,
    },
    /// Several files could be the split.
    #[error(
        "`{source_name}`: it is not clear which file is the split `{split}`: {}",
        quoted(candidates)
    )]
    AmbiguousSplit {
        /// Folder, file or hub id.
        source_name: String,
        /// The split asked for.
        split: String,
        /// The files that it could be.
        candidates: Vec<String>,
    },
    /// A data set of several configurations was named without one.
    #[error("`{source_name}` has several configurations: {}", quoted(available))]
    SeveralConfigurations {
        /// Folder or hub id.
        source_name: String,
        /// The configurations.
        available: Vec<String>,
    },
    /// A data set has no such configuration.
    #[error("`{source_name}` has no configuration `{configuration}`")]
    NoConfiguration {
        /// Folder or hub id.
        source_name: String,
        /// The one asked for.
        configuration: String,
        /// The configurations that exist.
        available: Vec<String>,
    },
    /// Of the shards that a file name counts, some are missing.
    #[error("`{source_name}` has {found} of the {expected} files of the split `{split}`")]
    MissingShards {
        /// Folder or hub id.
        source_name: String,
        /// The split asked for.
        split: String,
        /// Files that are there.
        found: usize,
        /// Files that their names promise.
        expected: usize,
    },
    /// `data.files` names a file that is not there.
    #[error(
        "`{source_name}` has no file `{file}`, which `data.files` names for the split `{split}`"
    )]
    NoSuchFile {
        /// Folder or hub id.
        source_name: String,
        /// The split asked for.
        split: String,
        /// The file or pattern.
        file: String,
        /// Data files that are there.
        available: Vec<String>,
    },
}

fn mapped_note(mapped_to: Option<&str>) -> String {
    mapped_to.map_or(String::new(), |column| {
        format!(", which `data.columns` names for `{column}`")
    })
}

impl DataError {
    pub(super) fn missing(path: &Path, place: Place, need: &Need, present: Vec<String>) -> Self {
        Self::MissingField {
            path: path.into(),
            place,
            field: need.source.clone(),
            mapped_to: need.mapped_to.clone(),
            present,
        }
    }

    pub(super) fn temporary(source: std::io::Error) -> Self {
        Self::Temporary {
            folder: std::env::temp_dir(),
            source,
        }
    }

    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BadRow { .. } | Self::BlankField { .. } | Self::FieldType { .. } => Some(
                "mend the row; in a data set, `data.bad_rows = \"skip\"` leaves such rows out".into(),
            ),
            Self::MissingField {
                field,
                mapped_to,
                present,
                place,
                ..
            } => Some(missing_hint(field, mapped_to.as_deref(), present, *place)),
            Self::DuplicateId { .. } => Some(
                "name another column as `data.id`, or keep the first of each with `data.bad_rows = \"skip\"`"
                    .into(),
            ),
            Self::DuplicateColumn { .. } => {
                Some("the first line must name the columns, each differently".into())
            }
            Self::RowTooLong { .. } => Some("is a quote or a bracket not closed?".into()),
            Self::UnknownFormat { .. } => Some(format!("known are {}", super::format::known())),
            Self::Temporary { .. } => {
                Some("set TMPDIR to a folder with room for the unpacked rows".into())
            }
            Self::ReservedField { .. } => Some(
                "`data.source` must name the source rows, not augmented ones; else rename the field"
                    .into(),
            ),
            Self::NoUsableRows { first, .. } => first.hint(),
            Self::SplitNotFound { available, .. } if available.is_empty() => Some(format!(
                "a split is a file such as `<split>.jsonl` ({}), and there is none; \
                 or name the file in `data.files`",
                super::format::known()
            )),
            Self::SplitNotFound { available, .. } => {
                Some(format!("it has {}", quoted(available)))
            }
            Self::AmbiguousSplit { split, .. } => {
                Some(format!("name it: `data.files = {{ {split} = \"...\" }}`"))
            }
            Self::SeveralConfigurations {
                source_name,
                available,
            } => Some(format!(
                "name one, such as `data.source = \"{source_name}:{}\"`",
                available[0]
            )),
            Self::NoConfiguration { available, .. } if available.is_empty() => {
                Some("it has none; leave out the part after `:`".into())
            }
            Self::NoConfiguration { available, .. } => {
                Some(format!("it has {}", quoted(available)))
            }
            Self::MissingShards { .. } => {
                Some("fetch the rest, or name the files in `data.files`".into())
            }
            Self::NoSuchFile { available, .. } => Some(format!("it has {}", listed(available))),
            _ => None,
        }
    }
}

fn missing_hint(field: &str, mapped_to: Option<&str>, present: &[String], place: Place) -> String {
    let holder = match place {
        Place::Schema => "the file",
        _ => "the row",
    };
    let has = format!("{holder} has {}", listed(present));
    let column = mapped_to.unwrap_or(field);
    let similar = present
        .iter()
        .map(|name| {
            (
                strsim::jaro_winkler(&name.to_lowercase(), &field.to_lowercase()),
                name,
            )
        })
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match similar {
        Some((_, name)) => {
            format!("{has}; if `{name}` is meant, say `data.columns = {{ {column} = \"{name}\" }}`")
        }
        None => format!(
            "{has}; where a column has another name than the task's, say `data.columns = {{ {column} = \"...\" }}`"
        ),
    }
}

/// As many names as a message can bear.
fn listed(names: &[String]) -> String {
    const MOST: usize = 24;
    let short: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| shortened(name))
        .collect();
    match names.len() {
        0 => "none".into(),
        n if n > MOST => format!("{} and {} more", quoted(&short), n - MOST),
        _ => quoted(&short),
    }
}
