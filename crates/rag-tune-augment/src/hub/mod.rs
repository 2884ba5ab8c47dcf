//! Where files come from: a path that exists, else the mirror, else the hub and its cache.
//!
//! The environment is honoured as Hugging Face's own tools do: HF_HOME, HF_HUB_CACHE, HF_TOKEN,
//! HF_ENDPOINT, and HF_HUB_OFFLINE, under which the network is never touched.

mod model_files;
mod remote;

use std::path::{Path, PathBuf};

use hf_hub::RepoType;

use crate::dataset::DataError;
use crate::{AugmentError, DataConfig};
use remote::Remote;

/// Resolves hub ids and paths to local files.
#[derive(Debug, Clone)]
pub struct Hub {
    mirror: Option<PathBuf>,
    remote: Remote,
}

impl Hub {
    /// From `mirror` (a command-line flag), else RAG_TUNE_MIRROR, and the HF_* variables.
    ///
    /// A mirror is a folder of `datasets/<owner>/<name>/...` and `models/<owner>/<name>/...`.
    pub fn from_env(mirror: Option<PathBuf>) -> Self {
        Self::from_variables(mirror, &|name| std::env::var(name).ok())
    }

    fn from_variables(mirror: Option<PathBuf>, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mirror = mirror.or_else(|| variable("RAG_TUNE_MIRROR").map(PathBuf::from));
        Self {
            mirror,
            remote: Remote::from_variables(&variable),
        }
    }

    /// The local folder (or `.gguf` file) of a model: `id` is a path or a hub id.
    ///
    /// From the hub come the configuration, the tokenizer's files, and the safetensors, or where
    /// there are none the one GGUF file.
    ///
    /// # Errors
    /// [`AugmentError::PathNotFound`], [`AugmentError::Offline`], [`AugmentError::HubStatus`],
    /// [`AugmentError::HubUnreachable`], [`AugmentError::NoWeights`].
    pub fn model(&self, id: &str) -> Result<PathBuf, AugmentError> {
        if Path::new(id).exists() {
            return Ok(id.into());
        }
        require_hub_id(id)?;
        if let Some(folder) = self.mirrored("models", id) {
            return Ok(folder);
        }
        if let Some(snapshot) = self.remote.snapshot(id, RepoType::Model)
            && model_files::is_complete(&snapshot)
        {
            return Ok(snapshot);
        }
        self.require_network(id)?;
        self.remote.download_model(id)
    }

    /// The local `.jsonl` file of a split: `source` is a folder that holds `<split>.jsonl`, or a
    /// hub id.
    ///
    /// # Errors
    /// As [`Hub::model`], and [`DataError::SplitNotFound`], [`DataError::SourceIsFile`].
    pub fn dataset(&self, source: &str, split: &str) -> Result<PathBuf, AugmentError> {
        let path = Path::new(source);
        if path.is_file() {
            return Err(DataError::SourceIsFile { path: path.into() }.into());
        }
        if path.is_dir() {
            return split_in_folder(source, path, split);
        }
        require_hub_id(source)?;
        if let Some(folder) = self.mirrored("datasets", source) {
            return split_in_folder(source, &folder, split);
        }
        if let Some(snapshot) = self.remote.snapshot(source, RepoType::Dataset)
            && let Ok(file) = split_in_folder(source, &snapshot, split)
        {
            return Ok(file);
        }
        self.require_network(source)?;
        self.remote.download_split(source, split)
    }

    /// The local files of a split, in the order of their rows.
    ///
    /// # Errors
    /// As [`Hub::dataset`].
    pub fn split_files(
        &self,
        data: &DataConfig,
        split: &str,
    ) -> Result<Vec<PathBuf>, AugmentError> {
        Ok(vec![self.dataset(&data.source, split)?])
    }

    fn mirrored(&self, kind: &str, id: &str) -> Option<PathBuf> {
        let folder = self.mirror.as_ref()?.join(kind).join(id);
        folder.is_dir().then_some(folder)
    }

    fn require_network(&self, id: &str) -> Result<(), AugmentError> {
        if !self.remote.offline() {
            return Ok(());
        }
        Err(AugmentError::Offline {
            id: id.into(),
            mirror: self.mirror.clone(),
            cache: self.remote.cache().to_owned(),
        })
    }
}

/// What is no hub id was meant as a path, and it does not exist.
fn require_hub_id(id: &str) -> Result<(), AugmentError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut parts = id.split('/');
    let well_formed = (1..=2).contains(&parts.clone().count())
        && parts.all(|part| part.chars().all(allowed) && !part.trim_matches('.').is_empty());
    if well_formed && !id.ends_with(".gguf") {
        return Ok(());
    }
    Err(AugmentError::PathNotFound { path: id.into() })
}

/// `<folder>/<split>.jsonl`, or an error that names the splits there are.
fn split_in_folder(source: &str, folder: &Path, split: &str) -> Result<PathBuf, AugmentError> {
    let file = folder.join(format!("{split}.jsonl"));
    if file.is_file() {
        return Ok(file);
    }
    let entries = std::fs::read_dir(folder).map_err(AugmentError::read(folder))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Err(split_not_found(source, split, names))
}

fn split_not_found(source: &str, split: &str, files: impl Iterator<Item = String>) -> AugmentError {
    let mut available: Vec<String> = files
        .filter_map(|name| name.strip_suffix(".jsonl").map(str::to_owned))
        .collect();
    available.sort();
    DataError::SplitNotFound {
        source_name: source.into(),
        split: split.into(),
        available,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A hub that may not touch the network and whose home is `home`.
    fn offline_hub(home: &Path, mirror: Option<&Path>) -> Hub {
        let home = home.to_str().unwrap().to_owned();
        Hub::from_variables(mirror.map(Path::to_owned), &move |name| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_HUB_OFFLINE" => Some("1".into()),
            _ => None,
        })
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What the hub's client leaves in its cache.
    fn cache_file(home: &Path, repository: &str, file: &str) {
        let folder = home.join("hub").join(repository);
        write(&folder.join("refs/main"), "c0ffee");
        write(&folder.join("snapshots/c0ffee").join(file), "{}");
    }

    #[test]
    fn a_path_comes_before_the_mirror_and_the_mirror_before_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let (home, mirror) = (root.path().join("home"), root.path().join("mirror"));
        let folder = root.path().join("folder");
        write(&folder.join("train.jsonl"), "{}");
        write(&mirror.join("datasets/owner/name/train.jsonl"), "{}");
        cache_file(&home, "datasets--owner--name", "train.jsonl");

        let hub = offline_hub(&home, Some(&mirror));
        let of_path = hub.dataset(folder.to_str().unwrap(), "train").unwrap();
        assert_eq!(of_path, folder.join("train.jsonl"));
        let of_mirror = hub.dataset("owner/name", "train").unwrap();
        assert_eq!(of_mirror, mirror.join("datasets/owner/name/train.jsonl"));
        let of_cache = offline_hub(&home, None)
            .dataset("owner/name", "train")
            .unwrap();
        assert!(
            of_cache.ends_with("snapshots/c0ffee/train.jsonl"),
            "{of_cache:?}"
        );
    }

    #[test]
    fn a_missing_split_names_the_ones_there_are() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("train.jsonl"), "{}");
        write(&root.path().join("dev.jsonl"), "{}");
        let source = root.path().to_str().unwrap();
        let error = offline_hub(root.path(), None)
            .dataset(source, "validation")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`{source}` has no split `validation`")
        );
        assert_eq!(error.hint().unwrap(), "it has `dev`, `train`");
    }

    #[test]
    fn offline_says_where_it_looked() {
        let root = tempfile::tempdir().unwrap();
        let hub = offline_hub(root.path(), Some(Path::new("some/mirror")));
        let error = hub.model("owner/name").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`owner/name` is not on this machine"),
            "{error}"
        );
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("some/mirror") && hint.contains("hub"),
            "{hint}"
        );
    }

    #[test]
    fn a_partly_downloaded_model_is_not_taken_from_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let hub = offline_hub(root.path(), None);
        cache_file(root.path(), "models--owner--name", "config.json");
        cache_file(root.path(), "models--owner--name", "tokenizer.json");
        assert!(matches!(
            hub.model("owner/name"),
            Err(AugmentError::Offline { .. })
        ));
        cache_file(root.path(), "models--owner--name", "model.safetensors");
        assert!(
            hub.model("owner/name")
                .unwrap()
                .ends_with("snapshots/c0ffee")
        );
    }

    #[test]
    fn what_cannot_be_a_hub_id_is_a_missing_path() {
        let hub = offline_hub(Path::new("nowhere"), None);
        for path in [
            "./base",
            "a/b/c",
            "/base",
            "base/model.gguf",
            "../base",
            "~/x",
            "",
        ] {
            let error = hub.model(path).unwrap_err();
            assert!(
                matches!(error, AugmentError::PathNotFound { .. }),
                "{path}: {error}"
            );
        }
    }

    /// Nothing listens on port 9 (discard) of this machine, so the client fails at once.
    #[test]
    fn an_unreachable_hub_is_an_error_with_a_hint() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().to_str().unwrap().to_owned();
        let hub = Hub::from_variables(None, &move |name| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_ENDPOINT" => Some("http://127.0.0.1:9".into()),
            _ => None,
        });
        let error = hub.model("owner/name").unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("cannot fetch `owner/name` from http://127.0.0.1:9"),
            "{message}"
        );
        assert!(error.hint().unwrap().contains("RAG_TUNE_MIRROR"));
    }
}
