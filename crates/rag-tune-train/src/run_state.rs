//! Where a run stands, besides the tensors: what a resumed run must know to go on as if never stopped.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Where a run stands after a step.
///
/// Row order, dropout and learning rate are functions of the seed, the settings and the step, so the
/// step is also the state of the random numbers, the cursor in the data and that of the schedule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps that are done; 0 before the first.
    pub step: usize,
}

impl RunState {
    /// Steps whose checkpoints must stay, however old.
    pub(crate) fn protected_steps(&self) -> BTreeSet<usize> {
        BTreeSet::new()
    }
}
