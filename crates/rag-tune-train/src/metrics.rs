//! `metrics.jsonl`: a line a step.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rag_tune_augment::atomic_file::write_file;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// File with a line a step.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One line of `metrics.jsonl`: an optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counts from 1.
    pub step: usize,
    /// Passes over the rows at the end of the step.
    pub epoch: f64,
    /// Nats per supervised token.
    pub loss: f64,
    /// Euclidean norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f32,
    /// Tokens of the step; there is no padding.
    pub tokens: usize,
    /// Tokens of the step that carry loss.
    pub supervised_tokens: usize,
    /// Duration of the step.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_s: f64,
    /// `supervised_tokens / seconds`.
    #[serde(default)]
    pub supervised_tokens_per_s: f64,
    /// Passes through the model.
    #[serde(default)]
    pub micro_batches: usize,
    /// The step's [`training_flop`](rag_tune_model::flop::training_flop) a second, as a share of what the machine's
    /// multiply-and-add instructions reach ([`peak_op_per_s`](rag_tune_kernels::peak::peak_op_per_s)); on a GPU, over those of its
    /// largest products.
    #[serde(default)]
    pub peak_share: f64,
    /// The most memory that the program has held so far, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
}

/// A file of a run with lines in the order of its steps.
#[derive(Debug)]
pub(crate) struct StepLines {
    path: PathBuf,
}

/// What every line has.
#[derive(Deserialize)]
struct Line {
    step: usize,
}

impl StepLines {
    /// Opens the file `name` of the run in `folder` and drops the lines of steps from `first` on,
    /// which a resumed run does again.
    pub(crate) fn open(folder: &Path, name: &str, first: usize) -> Result<Self, TrainError> {
        let path = folder.join(name);
        let mut kept = String::new();
        if first > 1 && path.exists() {
            // A crash may leave anything at the end, even what is no text; such a line is dropped.
            let bytes = fs::read(&path).map_err(TrainError::read(&path))?;
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.lines().filter(|line| {
                serde_json::from_str::<Line>(line).is_ok_and(|line| line.step < first)
            });
            lines.for_each(|line| kept.extend([line, "\n"]));
        }
        write_file(&path, kept.as_bytes()).map_err(TrainError::write(&path))?;
        Ok(Self { path })
    }

    /// Waits until the lines are on the disk: a checkpoint must not know more steps than they tell.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        let sync = || OpenOptions::new().append(true).open(&self.path)?.sync_all();
        sync().map_err(TrainError::write(&self.path))
    }

    pub(crate) fn append(&self, record: &impl Serialize) -> Result<(), TrainError> {
        let line = serde_json::to_string(record).expect("numbers are JSON") + "\n";
        let append = || {
            let mut file = OpenOptions::new().append(true).open(&self.path)?;
            file.write_all(line.as_bytes())
        };
        append().map_err(TrainError::write(&self.path))
    }
}
