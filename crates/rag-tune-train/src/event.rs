//! What a run tells while it goes on.

use std::path::Path;

use crate::early_stopping::Best;
use crate::metrics::StepRecord;
use crate::skipped::SkippedStep;
use crate::validation::ValidationRecord;

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
    /// Ranks were given one device, and take turns on it.
    SharedDevice {
        /// Which.
        ranks: &'a [usize],
        /// The device's name.
        device: &'a str,
    },
    /// Ranks run on devices, and their gradients go through host memory and over the ranks' connections.
    SumsThroughHost {
        /// Why not from device to device.
        why: &'a str,
    },
    /// A step has ended.
    Step(&'a StepRecord),
    /// A step's loss or gradient is not finite: it has changed nothing, and the run goes on.
    Skipped(&'a SkippedStep),
    /// A device's memory is not enough for whole micro-batches: they go through it in parts, and a step is made of the same rows.
    Divided {
        /// The step in which it was noticed.
        step: usize,
        /// Of a part at most.
        tokens: usize,
    },
    /// A validation begins, which may take longer than a step.
    Validating {
        /// The optimizer step before it.
        step: usize,
    },
    /// A validation has ended.
    Validated(&'a ValidationRecord),
    /// The patience of `[validation]` is at its end: there are no further steps.
    StoppedEarly {
        /// The last step.
        step: usize,
        /// The best validation.
        best: Best,
    },
}
