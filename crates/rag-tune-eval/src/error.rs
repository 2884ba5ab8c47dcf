//! What can go wrong in scoring, and how to mend it.

use std::path::{Path, PathBuf};

use crate::sql::ContextError;

/// An input that cannot be scored, or a result that cannot be saved.
///
/// A *query* that fails is no error here: it is a row that is not correct (see
/// [`RowStatus`](crate::RowStatus)).
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// Nobody said where the databases are.
    #[error("no folder of SQLite databases is given")]
    DatabasesNotSet,
    /// The folder of databases is not there.
    #[error("the database folder `{}` does not exist", path.display())]
    MissingDatabaseFolder {
        /// The folder as it was given.
        path: PathBuf,
    },
    /// A row names a database that the folder lacks.
    #[error("row {row} needs the database `{db_id}`, but `{}` does not exist", path.display())]
    MissingDatabase {
        /// The first row that needs it, from 0.
        row: usize,
        /// Name of the database.
        db_id: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A row names a database in a way that would leave the folder.
    #[error("row {row}: `db_id` is {db_id:?}, which is no database name")]
    InvalidDatabaseId {
        /// The row, from 0.
        row: usize,
        /// The value that was found.
        db_id: String,
    },
    /// The file is there and is not a readable SQLite database.
    #[error("cannot open the database `{}`", path.display())]
    OpenDatabase {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A query that a user wants to see the result of has none.
    #[error("the query does not run: {problem}")]
    Query {
        /// SQLite's reason, or what it was stopped by.
        problem: String,
    },
    /// The process that runs queries does not start.
    #[error("cannot start `{}` to run queries in", program.display())]
    StartWorker {
        /// The program.
        program: PathBuf,
        /// The system's reason, or what the program did instead.
        source: std::io::Error,
    },
    /// A row's schema is of no use for making databases.
    #[error("row {row}: no databases can be made from `context`: {source}")]
    Context {
        /// The row, from 0.
        row: usize,
        /// What is wrong with it.
        source: ContextError,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of results is not what this version writes.
    #[error("`{}` is no score file", path.display())]
    InvalidScores {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A line of a file of answers is not what this version writes.
    #[error("`{}` line {line} is no scored answer", path.display())]
    InvalidAnswer {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A line of a JSON-lines prediction file does not parse.
    #[error("`{}` line {line} is no JSON object", path.display())]
    PredictionJson {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A line of a JSON-lines prediction file has no usable `prediction`.
    #[error("`{}` line {line}: the field `prediction` is {found}, expected a string", path.display())]
    PredictionField {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there instead: "missing", "null", "a number"...
        found: &'static str,
    },
    /// Predictions and rows do not correspond.
    #[error("there are {predictions} predictions for {rows} rows")]
    PredictionCount {
        /// Predictions given.
        predictions: usize,
        /// Rows to be scored.
        rows: usize,
    },
    /// There is nothing to score.
    #[error("there are no rows to score")]
    NoRows,
}

impl EvalError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DatabasesNotSet => Some(
                "name the folder that holds `<db_id>/<db_id>.sqlite` with --databases, \
                 RAG_TUNE_DATABASES or `eval.databases`; \
                 --databases synthetic makes databases from each row's `context`"
                    .to_owned(),
            ),
            Self::MissingDatabaseFolder { .. } => Some(
                "point --databases, RAG_TUNE_DATABASES or `eval.databases` at the folder that \
                 holds `<db_id>/<db_id>.sqlite`; \
                 --databases synthetic makes databases from each row's `context`"
                    .to_owned(),
            ),
            Self::MissingDatabase { path, .. } => Some(format!(
                "`{}` does not belong to this data set or is not complete; \
                 --databases or RAG_TUNE_DATABASES chooses another folder, and \
                 --databases synthetic makes databases from each row's `context`",
                database_folder(path).display()
            )),
            Self::Context { .. } => Some(
                "`context` must hold the row's CREATE TABLE statements, `CREATE TABLE singer (name VARCHAR, age \
                 INTEGER)`; or name a folder of databases"
                    .to_owned(),
            ),
            Self::OpenDatabase { .. } => {
                Some("fetch the database again: the file is damaged or not SQLite".to_owned())
            }
            Self::StartWorker { .. } => Some(
                "queries run in processes of their own, so that bad ones can do no harm: check that this program may \
                 start itself, and that memory is left"
                    .to_owned(),
            ),
            Self::PredictionJson { .. } => Some(
                "a prediction file is JSON lines when its first line begins with `{`, \
                 else plain text with one prediction a line"
                    .to_owned(),
            ),
            Self::PredictionField { .. } => {
                Some("each line must look like {\"prediction\": \"SELECT ...\"}".to_owned())
            }
            Self::PredictionCount { .. } => Some(
                "rows and predictions correspond by order: give one prediction a row, \
                 an empty line where there is none, and the same rows that were predicted; \
                 predictions of several lines must be JSON lines"
                    .to_owned(),
            ),
            Self::NoRows => Some("check `eval.split` and `eval.limit`".to_owned()),
            Self::InvalidScores { .. } | Self::InvalidAnswer { .. } => Some(
                "score the run again, with `rag-tune eval` or `rag-tune score --rows`".to_owned(),
            ),
            Self::InvalidDatabaseId { .. }
            | Self::Query { .. }
            | Self::Read { .. }
            | Self::Write { .. } => None,
        }
    }
}

/// The folder above `<db_id>/<db_id>.sqlite`.
fn database_folder(file: &Path) -> &Path {
    file.ancestors().nth(2).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_database_is_named_with_its_folder() {
        let error = EvalError::MissingDatabase {
            row: 7,
            db_id: "pets".to_owned(),
            path: PathBuf::from("spider/pets/pets.sqlite"),
        };
        let message = error.to_string();
        assert!(
            message.contains("row 7") && message.contains("`pets`"),
            "{message}"
        );
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.starts_with("`spider` "))
        );
    }
}
