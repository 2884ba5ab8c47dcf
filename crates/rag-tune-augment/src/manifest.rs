//! `manifest.json` beside augmented files: what they were made from, to tell whether they still
//! are what the settings ask for.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic_file::write_json;
use crate::{AugmentError, DataConfig, RetrievalConfig, Task};

/// The file's name.
pub const FILE_NAME: &str = "manifest.json";

/// What a folder of augmented files was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Equal settings and equal input give equal output.
    pub settings: AugmentSettings,
    /// The splits that were augmented, by name.
    pub splits: BTreeMap<String, SplitRecord>,
}

/// What all splits of a folder have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AugmentSettings {
    /// The version of this crate.
    pub rag_tune_version: String,
    /// The task, with its templates.
    pub task: Task,
    /// The `[data]` section.
    pub data: DataConfig,
    /// The `[retrieval]` section.
    pub retrieval: RetrievalConfig,
    /// The seed, where something is drawn by it.
    pub seed: Option<u64>,
    /// The prompt template.
    pub template_sha256: String,
    /// The embedder's files, where it was used.
    pub embedder_sha256: Option<String>,
    /// The train split's files, where examples were taken from them.
    pub knowledge_base_sha256: Option<String>,
    /// The draft answers, where the selector went by them.
    pub drafts_sha256: Option<String>,
}

/// One augmented file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// Rows in the file.
    pub rows: usize,
    /// Rows of the source that were left out because they could not be used.
    pub skipped: usize,
    /// The source's files.
    pub input_sha256: String,
    /// The augmented files: one, or one an epoch where each sees other prompts.
    pub output_sha256: Vec<String>,
}

impl Manifest {
    /// Reads the manifest in `folder`; `None` if there is none, or none that this version can
    /// read: either way the files are made again.
    ///
    /// # Errors
    /// [`AugmentError::Read`].
    pub fn load(folder: &Path) -> Result<Option<Self>, AugmentError> {
        let path = folder.join(FILE_NAME);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(AugmentError::read(path))?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), AugmentError> {
        write_json(&folder.join(FILE_NAME), self)
    }
}
