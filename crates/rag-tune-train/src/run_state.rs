//! Where a run stands, besides the tensors: what a resumed run must know to go on as if never stopped.

use serde::{Deserialize, Serialize};

/// Where a run stands after a step.
///
/// Row order and dropout are functions of the seed and the step, so the step is also the state of
/// the random numbers and the cursor in the data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps that are done; 0 before the first.
    pub step: usize,
}
