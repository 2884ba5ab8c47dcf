//! What a run trains on, in numbers: told before training, kept beside the adapter.

use serde::{Deserialize, Serialize};

use crate::config::Truncation;

/// The rows of a run and how they are packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSummary {
    /// Rows of the training split.
    pub rows_given: usize,
    /// Rows trained on.
    pub rows: usize,
    /// What becomes of rows that are longer than `max_length`.
    pub truncation: Truncation,
    /// `train.max_length`.
    pub max_length: usize,
    /// Rows left out as too long.
    pub too_long: usize,
    /// Rows whose prompt lost its left.
    pub cut: usize,
    /// Rows left out because their answer alone is too long.
    pub answer_too_long: usize,
    /// The first epoch.
    pub epoch: Epoch,
}

/// One pass over the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Optimizer steps.
    pub steps: usize,
    /// Micro-batches of all steps.
    pub micro_batches: usize,
    /// `train.tokens_per_micro_batch`
    pub tokens_per_micro_batch: usize,
    /// Tokens of all rows; there is no padding.
    pub tokens: usize,
    /// Those of them that carry loss.
    pub supervised_tokens: usize,
}

impl Epoch {
    /// Tokens as a share of what the micro-batches could hold, in `[0, 1]`.
    pub fn fullness(&self) -> f64 {
        self.tokens as f64 / (self.micro_batches * self.tokens_per_micro_batch) as f64
    }
}
