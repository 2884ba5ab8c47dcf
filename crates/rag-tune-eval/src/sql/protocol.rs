//! What the judge and its workers say to each other: JSON lines, one request at a time.
//!
//! The worker first says [`Reply::Ready`]. To each [`Request`] it answers with any number of [`Reply::Running`] and
//! then one [`Reply::Judged`] or [`Reply::Unusable`]. The judge gives each of these lines a time; when it has to kill
//! the worker, or the worker dies, the last [`Reply::Running`] tells whose query it was.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::execute::QueryLimits;
use crate::rows::{ResultTable, RowStatus};

/// A row to be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Absolute paths of the SQLite files, at least one.
    pub databases: Vec<PathBuf>,
    /// The query whose result is right.
    pub gold: String,
    /// The query to be judged.
    pub prediction: String,
    /// What each query may use.
    pub limits: QueryLimits,
}

/// A query whose result is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Absolute path of the SQLite file.
    pub database: PathBuf,
    /// The query.
    pub sql: String,
    /// What it may use.
    pub limits: QueryLimits,
}

/// A line to the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Work {
    /// A row is to be judged.
    Judge(Request),
    /// A query is to be run.
    Query(Query),
}

/// Whose query runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The query whose result is right.
    Gold,
    /// The query to be judged, and the comparison of its result.
    Prediction,
}

/// A line from the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The worker is confined and waits.
    Ready,
    /// The system did not let the worker confine itself, and it ends.
    Unconfined {
        /// The system's reason.
        reason: String,
    },
    /// A query is about to run.
    Running(Side),
    /// The row is done.
    Judged(Verdict),
    /// What a [`Query`] returned, or why it returned nothing.
    Returned(Result<ResultTable, String>),
    /// A database cannot be opened.
    Unusable {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        reason: String,
    },
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// With every `DISTINCT` taken out.
    pub status: RowStatus,
    /// Why the prediction is no answer, or on which of several databases it is wrong.
    pub detail: Option<String>,
    /// Whether it is right as it stands, `DISTINCT` and all.
    pub is_strictly_correct: bool,
    /// What gold returned, on the first database where they differ, else the first of all.
    pub gold_result: Option<ResultTable>,
    /// What the prediction returned there.
    pub result: Option<ResultTable>,
}

impl Verdict {
    /// The verdict on a row without results.
    pub fn failed(status: RowStatus, detail: String) -> Self {
        Self {
            status,
            detail: Some(detail),
            is_strictly_correct: false,
            gold_result: None,
            result: None,
        }
    }
}
