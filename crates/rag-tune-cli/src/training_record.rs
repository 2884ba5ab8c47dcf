//! `training.json` beside an adapter: what the config does not say of its training.

use anyhow::Context;
use rag_tune_train::batch::DataSummary;
use serde::{Deserialize, Serialize};

use crate::files::{read_json, write_atomically};
use crate::run_folder::RunFolder;

/// What a run was trained with, and by which program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// The version of rag-tune.
    pub rag_tune_version: String,
    /// Rows that were learnt from, what became of those that are too long, how they are packed.
    pub data: DataSummary,
    /// Whether the data was made up.
    pub synthetic: bool,
}

impl TrainingRecord {
    /// Of a run that begins now.
    pub fn new(data: DataSummary, synthetic: bool) -> Self {
        Self {
            rag_tune_version: env!("CARGO_PKG_VERSION").to_owned(),
            data,
            synthetic,
        }
    }

    /// Writes it into a run's folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, run: &RunFolder) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write the run's record")?;
        write_atomically(&run.training_record(), &(text + "\n"))
    }

    /// That of a run's folder; `None` where an earlier version did not write one.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn load(run: &RunFolder) -> anyhow::Result<Option<Self>> {
        let path = run.training_record();
        if !path.is_file() {
            return Ok(None);
        }
        read_json(&path).map(Some)
    }
}
