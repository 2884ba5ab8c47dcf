//! An adapter folder as it lies on disk, before anybody decides what it means.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::peft::{CONFIG_FILE, WEIGHTS_FILE};

/// `adapter_config.json` and `adapter_model.safetensors` of a folder, whoever wrote them.
#[derive(Debug)]
pub struct AdapterFiles {
    folder: PathBuf,
    config: Map<String, Value>,
    /// The bytes of the weights' file; they are known to parse.
    pub(super) weights: Vec<u8>,
}

/// A tensor of the weights' file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFactor {
    /// Its name in the file.
    pub name: String,
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl AdapterFiles {
    /// Reads both files of `folder`.
    ///
    /// # Errors
    /// [`ModelError::Io`] if one is missing, [`ModelError::Corrupt`] if one is damaged.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).map_err(ModelError::io(&path))?;
        let config =
            serde_json::from_str(&text).map_err(|error| ModelError::corrupt(&path, error))?;
        let path = folder.join(WEIGHTS_FILE);
        let weights = fs::read(&path).map_err(ModelError::io(&path))?;
        SafeTensors::deserialize(&weights).map_err(|error| ModelError::corrupt(&path, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            config,
            weights,
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `adapter_config.json`, keys in the file's order.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The tensors with their values.
    pub fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.weights).expect("`open` has parsed it")
    }

    /// The tensors without their values, by name.
    pub fn stored(&self) -> Vec<StoredFactor> {
        let mut stored: Vec<StoredFactor> = self
            .tensors()
            .iter()
            .map(|(name, view)| StoredFactor {
                name: name.to_owned(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
            })
            .collect();
        stored.sort_by(|a, b| a.name.cmp(&b.name));
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let problem = || AdapterFiles::open(folder.path()).unwrap_err().to_string();
        assert!(problem().contains("adapter_config.json"), "{}", problem());
        fs::write(folder.path().join(CONFIG_FILE), "[]").unwrap();
        assert!(problem().contains("is corrupt"), "{}", problem());
        fs::write(folder.path().join(CONFIG_FILE), "{}").unwrap();
        assert!(
            problem().contains("adapter_model.safetensors"),
            "{}",
            problem()
        );
        fs::write(folder.path().join(WEIGHTS_FILE), "{}").unwrap();
        assert!(problem().contains("is corrupt"), "{}", problem());
    }
}
