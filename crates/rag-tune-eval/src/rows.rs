//! The score of one row, whatever the task.

use serde::{Deserialize, Serialize};

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowStatus {
    /// The prediction is right.
    Correct,
    /// The prediction ran and is not right.
    Wrong,
    /// The prediction cannot be run.
    PredictionError,
    /// The prediction ran out of its budget of steps or time.
    Timeout,
    /// The gold answer cannot be run, so that no prediction can be right.
    GoldError,
}

/// The score of one row; a line of the file that `score --rows` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowScore {
    /// The row, from 0.
    pub index: usize,
    /// By the lenient metric, which is the field's default.
    pub correct: bool,
    /// By the strict metric.
    pub correct_strict: bool,
    /// By the lenient metric, with failures told apart.
    pub status: RowStatus,
    /// Why a query failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}
