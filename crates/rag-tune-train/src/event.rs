//! What a run tells while it goes on.

use std::path::Path;

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
    /// A checkpoint cannot be used, so an older one is tried. It stays until the next is written.
    CheckpointRefused {
        /// Its folder.
        path: &'a Path,
        /// What is wrong with it.
        reason: &'a str,
    },
    /// A step has ended.
    Step(&'a StepRecord),
}
