//! `retrieval.json` beside an adapter: how the prompts that it was trained on came about, so that
//! evaluation retrieves in the same way.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::AugmentError;
use crate::atomic_file::write_json;
use crate::manifest::{AugmentSettings, Manifest};

/// The file's name.
pub const FILE_NAME: &str = "retrieval.json";

/// What has to be known to make an adapter's prompts again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalRecord {
    /// The task with its templates, data, `[retrieval]`, and the fingerprints of embedder, knowledge
    /// base and templates.
    pub settings: AugmentSettings,
}

impl RetrievalRecord {
    /// The record of augmented files.
    pub fn new(manifest: &Manifest) -> Self {
        Self {
            settings: manifest.settings.clone(),
        }
    }

    /// Writes `retrieval.json` into `folder`.
    ///
    /// # Errors
    /// [`AugmentError::Write`].
    pub fn save(&self, folder: &Path) -> Result<(), AugmentError> {
        write_json(&folder.join(FILE_NAME), self)
    }

    /// Reads `retrieval.json` in `folder`.
    ///
    /// # Errors
    /// [`AugmentError::Read`], [`AugmentError::BadJson`].
    pub fn load(folder: &Path) -> Result<Self, AugmentError> {
        let path = folder.join(FILE_NAME);
        let bytes = std::fs::read(&path).map_err(AugmentError::read(&path))?;
        serde_json::from_slice(&bytes).map_err(|error| AugmentError::BadJson {
            path,
            problem: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataConfig, RetrievalConfig, Task};

    #[test]
    fn a_record_survives_being_saved() {
        let settings = AugmentSettings {
            rag_tune_version: "0.1.0".into(),
            task: Task::sql(),
            data: DataConfig::default(),
            retrieval: RetrievalConfig::default(),
            seed: None,
            template_sha256: Task::sql().template_sha256(),
            embedder_sha256: Some("e".into()),
            knowledge_base_sha256: Some("k".into()),
            drafts_sha256: None,
        };
        let record = RetrievalRecord::new(&Manifest {
            settings,
            splits: Default::default(),
        });

        let folder = tempfile::tempdir().unwrap();
        record.save(folder.path()).unwrap();
        assert_eq!(RetrievalRecord::load(folder.path()).unwrap(), record);
    }

    #[test]
    fn a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "{}").unwrap();
        let error = RetrievalRecord::load(folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("retrieval.json`: missing field"), "{error}");
    }
}
