//! What a run tells while it goes on.

use crate::metrics::StepRecord;

/// Something that happened in a run, told as it happens.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run goes on after this step.
    Resumed {
        /// The last step of the checkpoint.
        step: usize,
    },
    /// A step has ended.
    Step(&'a StepRecord),
}
