//! `[log]`: what a run writes for other programs to watch.

use serde::{Deserialize, Serialize};

/// `[log]`: what a run writes for other programs to watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Whether the run's curves are also written as event files of TensorBoard, into `tensorboard` in the run's folder.
    pub tensorboard: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { tensorboard: true }
    }
}
