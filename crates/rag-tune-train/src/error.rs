//! What stops a training run.

use std::path::{Path, PathBuf};

use rag_tune_model::error::ModelError;

use crate::ranks::RankError;
use crate::skipped::SkippedStep;

/// Why training did not start or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// No row can be trained on.
    #[error(
        "no training row is left: {given} were given, {too_long} have more than {max_length} tokens"
    )]
    NoRows {
        /// Rows given.
        given: usize,
        /// Rows that are too long.
        too_long: usize,
        /// `train.max_length`.
        max_length: usize,
    },
    /// Rows are too long, and `train.truncation` is `error`.
    #[error("{} training rows have more than {max_length} tokens: {}", rows.len(), some_lengths(rows))]
    TooLong {
        /// Index of each, from 0, and its tokens.
        rows: Vec<(usize, usize)>,
        /// `train.max_length`.
        max_length: usize,
    },
    /// A row has no token that carries loss.
    #[error("training row {row} has no token that carries loss: its answer is empty")]
    NothingSupervised {
        /// Index of the row, from 0.
        row: usize,
    },
    /// The model has no token that ends an answer.
    #[error("the tokenizer names no end-of-sequence token, so answers could never end")]
    NoEndOfSequence,
    /// Loss or gradient left the finite numbers in more steps in a row than `train.max_non_finite_steps`.
    #[error("loss or gradient were not finite in {}:{}", in_a_row(steps.len()), each(steps))]
    NonFinite {
        /// The steps.
        steps: Vec<SkippedStep>,
    },
    /// The adapter could not be judged.
    #[error("the validation after step {step} failed")]
    Validation {
        /// The optimizer step before it.
        step: usize,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A validation's value is not a finite number.
    #[error("the validation after step {step} gave a {metric} of {value}")]
    ValidationNotFinite {
        /// The optimizer step before it.
        step: usize,
        /// What was measured.
        metric: String,
        /// Its value.
        value: f64,
    },
    /// A checkpoint was made by a run with other rows, another base model or other settings.
    #[error("checkpoint `{path}` belongs to another run: {difference}")]
    OtherRun {
        /// Its folder.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// Every checkpoint is torn or altered.
    #[error("no checkpoint is whole:{}", listed(refused))]
    NoWholeCheckpoint {
        /// Folder and reason of each, the newest first.
        refused: Vec<(PathBuf, String)>,
    },
    /// There is nothing to resume from.
    #[error("`{path}` holds no checkpoint to resume from")]
    NothingToResume {
        /// The run's folder.
        path: PathBuf,
    },
    /// The model refused a batch, or the adapter's files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The ranks of the run did not find each other, or do not belong together, or one has failed.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// On rank 0: as [`TrainError::Ranks`], after a step whose checkpoint is there.
    #[error("training has stopped after step {step}, whose checkpoint is in `{path}`")]
    RankLost {
        /// The last step.
        step: usize,
        /// The checkpoint's folder.
        path: PathBuf,
        /// What has happened.
        source: RankError,
    },
    /// An optimizer update was called wrongly.
    #[error(transparent)]
    Kernel(#[from] rag_tune_kernels::KernelError),
}

fn in_a_row(steps: usize) -> String {
    match steps {
        1 => "a step".to_owned(),
        steps => format!("{steps} steps in a row"),
    }
}

fn each(steps: &[SkippedStep]) -> String {
    steps.iter().map(|step| format!("\n{step}")).collect()
}

fn listed(refused: &[(PathBuf, String)]) -> String {
    let line = |(path, reason): &(PathBuf, String)| format!("\n`{}`: {reason}", path.display());
    refused.iter().map(line).collect()
}

/// Whether the disk, a quota or the largest allowed size of a file was reached.
fn is_no_room(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), FileTooLarge | QuotaExceeded | StorageFull)
}

impl TrainError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoRows { .. } => {
                "raise `train.max_length` (and `train.tokens_per_micro_batch` with it)"
            }
            Self::TooLong { .. } => {
                "raise `train.max_length`, or let `train.truncation` be `drop` or `left`"
            }
            Self::NothingSupervised { .. } => "remove the row, or fill in its answer column",
            Self::NonFinite { .. } => {
                "non_finite.jsonl tells how large values were before: lower `train.learning_rate`, try \
                 `model.compute = \"f32\"`, or look at the rows named; the last checkpoint is from before"
            }
            Self::ValidationNotFinite { .. } => {
                "lower `train.learning_rate` or try `model.compute = \"f32\"`; \
                 `--resume` continues from the last checkpoint"
            }
            Self::OtherRun { .. } => {
                "put the settings back, or train into another folder without `--resume`"
            }
            Self::NoWholeCheckpoint { .. } => {
                "put a whole copy of one back if there is any, or begin again with `--force`"
            }
            Self::Io { source, .. } if is_no_room(source) => {
                "make room on that disk and go on with `--resume`; the last checkpoint is whole"
            }
            Self::NothingToResume { .. } => "start the run without `--resume`",
            Self::Model(error) => return error.hint(),
            Self::Ranks(error) | Self::RankLost { source: error, .. } => error.hint(),
            Self::Io { .. } | Self::Validation { .. } | Self::NoEndOfSequence | Self::Kernel(_) => {
                return None;
            }
        };
        Some(hint.to_owned())
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io {
            action: "read",
            path,
            source,
        }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io {
            action: "write",
            path,
            source,
        }
    }
}

/// The first of them in words.
fn some_lengths(rows: &[(usize, usize)]) -> String {
    const SHOWN: usize = 5;
    let some = rows.iter().take(SHOWN);
    let some: Vec<String> = some
        .map(|(row, tokens)| format!("row {row} has {tokens}"))
        .collect();
    let more = if rows.len() > SHOWN { ", ..." } else { "" };
    some.join(", ") + more
}
