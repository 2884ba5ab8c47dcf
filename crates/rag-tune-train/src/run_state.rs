//! Where a run stands, besides the tensors: what a resumed run must know to go on as if never stopped.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::early_stopping::EarlyStopping;
use crate::skipped::SkippedStep;

/// Where a run stands after a step.
///
/// Row order, dropout and learning rate are functions of the seed, the settings and the step, so the
/// step is also the state of the random numbers, the cursor in the data and that of the schedule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps that are done; 0 before the first.
    pub step: usize,
    /// What the validations have shown.
    #[serde(default)]
    pub validation: EarlyStopping,
    /// Steps that were skipped so far; the others each made one update.
    #[serde(default)]
    pub skipped_steps: usize,
    /// Those skipped since the last update.
    #[serde(default)]
    pub skipped_in_a_row: Vec<SkippedStep>,
}

impl RunState {
    /// Updates that adapter and optimizer have had.
    pub(crate) fn updates(&self) -> usize {
        self.step - self.skipped_steps
    }

    /// Steps whose checkpoints must stay, however old: that of the best validation.
    pub(crate) fn protected_steps(&self) -> BTreeSet<usize> {
        self.validation
            .best
            .map(|best| best.step)
            .into_iter()
            .collect()
    }
}
