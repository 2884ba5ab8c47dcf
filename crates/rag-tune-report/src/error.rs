//! What can go wrong in reading runs and drawing them, and how to mend it.

use std::path::PathBuf;

/// A run that cannot be read, or a chart that cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No run was named.
    #[error("no run is given")]
    NoRuns,
    /// A run folder is not there.
    #[error("the run `{}` does not exist", path.display())]
    MissingRun {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A run was never evaluated.
    #[error("the run `{}` has no scores", path.display())]
    NoScores {
        /// The run folder.
        path: PathBuf,
    },
    /// A run was never trained.
    #[error("the run `{}` has no training losses", path.display())]
    NoLosses {
        /// The run folder.
        path: PathBuf,
    },
    /// A run is too short for its curves to be looked at.
    #[error("the run `{}` has {steps} training steps, fewer than {fewest}", path.display())]
    TooFewSteps {
        /// The run folder.
        path: PathBuf,
        /// Its steps.
        steps: usize,
        /// Steps that are needed.
        fewest: usize,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A `scores.json` is not what an evaluation writes.
    #[error("`{}` is no score file of a run", path.display())]
    InvalidScores {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A line of `metrics.jsonl` is not what training writes.
    #[error("`{}` line {line} is no training record", path.display())]
    InvalidMetrics {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// Scores of different metrics, which one chart cannot compare.
    #[error("`{}` is scored by `{found}`, the runs before it by `{expected}`", path.display())]
    MixedMetrics {
        /// The file.
        path: PathBuf,
        /// The metric of the runs before.
        expected: String,
        /// The metric of this one.
        found: String,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A chart has bars that cannot be drawn, or the drawing library failed.
    #[error("cannot draw `{chart}`: {reason}")]
    Draw {
        /// The chart's file or title.
        chart: String,
        /// What is wrong.
        reason: String,
    },
}

impl ReportError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRuns => Some("name one or more run folders".to_owned()),
            Self::MissingRun { .. } => Some(
                "a run is the folder that `rag-tune train` or `rag-tune eval` wrote".to_owned(),
            ),
            Self::NoScores { path } => Some(format!(
                "evaluate it first: rag-tune eval --adapter {}",
                path.display()
            )),
            Self::NoLosses { .. } => Some(
                "name a folder that `rag-tune train` wrote: its metrics.jsonl has the losses"
                    .to_owned(),
            ),
            Self::InvalidScores { .. } => {
                Some("evaluate the run again: rag-tune eval writes this file".to_owned())
            }
            Self::MixedMetrics { .. } => Some("draw one chart for each metric".to_owned()),
            Self::TooFewSteps { .. } => {
                Some("name a folder that `rag-tune train` wrote, with a longer run".to_owned())
            }
            Self::Read { .. }
            | Self::InvalidMetrics { .. }
            | Self::Write { .. }
            | Self::Draw { .. } => None,
        }
    }
}
