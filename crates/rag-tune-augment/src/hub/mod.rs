//! Where files come from: a path that exists, else the mirror, else the hub and its cache.
//!
//! The environment is honoured as Hugging Face's own tools do: HF_HOME, HF_HUB_CACHE, HF_TOKEN,
//! HF_ENDPOINT, and HF_HUB_OFFLINE, under which the network is never touched.

mod data_files;
#[cfg(test)]
mod download_tests;
mod model_files;
mod remote;
#[cfg(test)]
mod test_hub;

use std::path::{Path, PathBuf};

use hf_hub::RepoType;

use crate::dataset::DataError;
use crate::dataset::format::Format;
use crate::{AugmentError, DataConfig};
use data_files::Wanted;
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

    /// The local files of a split, in the order of their rows.
    ///
    /// `data.source` is a folder, a data file, or a hub id; behind `:` may stand a configuration, which is a
    /// folder of the data set or the beginning of its files' names. A path that exists is meant as a path,
    /// with all its colons. Which files are the split their names tell (`train.csv`, `dev.jsonl`,
    /// `data/test-00000-of-00002.parquet`, `main/train/0.json`), unless `data.files` does. Files without a
    /// split's name are the train split, if nothing else is there.
    ///
    /// # Errors
    /// As [`Hub::model`], and [`DataError`], where no files or several could be meant.
    pub fn split_files(
        &self,
        data: &DataConfig,
        split: &str,
    ) -> Result<Vec<PathBuf>, AugmentError> {
        let source = data.source.as_str();
        let wanted = Wanted {
            source_name: source,
            configuration: None,
            split,
            train_split: &data.train_split,
            file: data.files.get(split).map(String::as_str),
        };
        let path = Path::new(source);
        if path.is_file() {
            return split_of_file(path, &wanted);
        }
        if path.is_dir() {
            return split_of_folder(path, &wanted);
        }
        let (id, configuration) = match source.rsplit_once(':') {
            Some((id, configuration)) if names_a_folder(configuration) => (id, Some(configuration)),
            _ => (source, None),
        };
        let wanted = Wanted {
            source_name: id,
            configuration,
            ..wanted
        };
        if Path::new(id).is_dir() {
            return split_of_folder(Path::new(id), &wanted);
        }
        require_hub_id(id).map_err(|_| AugmentError::PathNotFound {
            path: source.into(),
        })?;
        if let Some(folder) = self.mirrored("datasets", id) {
            return split_of_folder(&folder, &wanted);
        }
        if let Some(files) = self.cached_split(id, &wanted)? {
            return Ok(files);
        }
        self.require_network(id)?;
        self.remote.download_split(id, &wanted)
    }

    /// The files of a split, if all of them are in the cache.
    fn cached_split(
        &self,
        id: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Vec<PathBuf>>, AugmentError> {
        let Some(snapshot) = self.remote.snapshot(id, RepoType::Dataset) else {
            return Ok(None);
        };
        let chosen = match self.remote.remembered_list(id, RepoType::Dataset) {
            // The hub may have more by now, if it can be asked.
            Some(files) => match wanted.choose(&files) {
                Err(error) if self.remote.offline() => return Err(error.into()),
                chosen => chosen,
            },
            // Another program's download, perhaps of a part.
            None => wanted.choose(&files_in(&snapshot)?),
        };
        let files = chosen
            .unwrap_or_default()
            .into_iter()
            .map(|file| snapshot.join(file));
        let files: Vec<PathBuf> = files.collect();
        let complete = !files.is_empty() && files.iter().all(|file| file.is_file());
        Ok(complete.then_some(files))
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

/// What cannot name a folder in a repository is part of a path (`C:\\data`) or an address.
fn names_a_folder(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('/') && !name.contains('\\')
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

/// The split of a source that is one file.
fn split_of_file(path: &Path, wanted: &Wanted<'_>) -> Result<Vec<PathBuf>, AugmentError> {
    if wanted.file.is_some() {
        // Relative to the file that is named, as to the folder that it is in.
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        return split_of_folder(folder.unwrap_or(Path::new(".")), wanted);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if Format::of_name(&name).is_none() {
        return Err(DataError::UnknownFormat { path: path.into() }.into());
    }
    wanted.choose(&[name.into_owned()])?;
    Ok(vec![path.into()])
}

fn split_of_folder(folder: &Path, wanted: &Wanted<'_>) -> Result<Vec<PathBuf>, AugmentError> {
    if let Some(file) = wanted.file.map(|file| folder.join(file))
        && file.is_file()
    {
        return Ok(vec![file]); // however deep, or outside of the folder
    }
    let chosen = wanted.choose(&files_in(folder)?)?;
    Ok(chosen.into_iter().map(|file| folder.join(file)).collect())
}

/// The files of a folder, by their paths in it with `/`.
fn files_in(folder: &Path) -> Result<Vec<String>, AugmentError> {
    /// Deeper than any layout of splits; and an end to links that form a circle.
    const DEPTH: usize = 5;
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(AugmentError::read(&folder))?;
        for entry in entries {
            let path = entry.map_err(AugmentError::read(&folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name.filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let relative = format!("{prefix}{name}");
            if path.is_file() {
                files.push(relative);
            } else if depth < DEPTH && path.is_dir() {
                folders.push((path, format!("{relative}/"), depth + 1));
            }
        }
    }
    files.sort();
    Ok(files)
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

    fn data(source: &str) -> DataConfig {
        DataConfig {
            source: source.into(),
            ..DataConfig::default()
        }
    }

    fn train_of(hub: &Hub, source: &str) -> Result<Vec<PathBuf>, AugmentError> {
        hub.split_files(&data(source), "train")
    }

    #[test]
    fn a_configuration_is_a_subfolder_and_a_path_that_exists_wins() {
        let root = tempfile::tempdir().unwrap();
        let hub = offline_hub(root.path(), None);
        let folder = root.path().join("data");
        let source = |end: &str| format!("{}{end}", folder.display());
        write(&folder.join("main/train.jsonl"), "{}");
        write(&folder.join("other/train.jsonl"), "{}");
        let main = folder.join("main/train.jsonl");
        assert_eq!(train_of(&hub, &source(":main")).unwrap(), [main]);
        assert!(matches!(
            train_of(&hub, &source("")),
            Err(AugmentError::Data(DataError::SeveralConfigurations { .. }))
        ));
        let colon = root.path().join("data:main");
        write(&colon.join("train.csv"), "");
        let found = train_of(&hub, &source(":main")).unwrap();
        assert_eq!(found, [colon.join("train.csv")]);
        for path in [
            "C:\\data",
            "D:/data",
            "http://example.org/x",
            "no/such/folder:main",
            "x:",
        ] {
            let error = train_of(&hub, path).unwrap_err();
            assert_eq!(error.to_string(), format!("`{path}` does not exist"));
        }
    }

    #[test]
    fn a_single_file_is_the_split_that_its_name_tells() {
        let root = tempfile::tempdir().unwrap();
        let hub = offline_hub(root.path(), None);
        for name in ["my_dev.csv", "pairs.csv", "deep/x.jsonl", "notes.txt"] {
            write(&root.path().join(name), "");
        }
        let file = |name: &str| root.path().join(name);
        let split =
            |name: &str, split: &str| hub.split_files(&data(file(name).to_str().unwrap()), split);
        assert_eq!(
            split("my_dev.csv", "validation").unwrap(),
            [file("my_dev.csv")]
        );
        let error = split("my_dev.csv", "train").unwrap_err();
        assert_eq!(error.hint().unwrap(), "it has `my_dev`");
        assert_eq!(split("pairs.csv", "train").unwrap(), [file("pairs.csv")]);
        assert!(split("pairs.csv", "validation").is_err());
        let error = split("notes.txt", "train").unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("notes.txt` is of no known format")
        );

        let mut named = data(file("pairs.csv").to_str().unwrap());
        named.files.insert("test".into(), "deep/*.jsonl".into());
        assert_eq!(
            hub.split_files(&named, "test").unwrap(),
            [file("deep/x.jsonl")]
        );
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
        let of_path = train_of(&hub, folder.to_str().unwrap()).unwrap();
        assert_eq!(of_path, [folder.join("train.jsonl")]);
        let of_mirror = train_of(&hub, "owner/name").unwrap();
        assert_eq!(of_mirror, [mirror.join("datasets/owner/name/train.jsonl")]);
        let of_cache = train_of(&offline_hub(&home, None), "owner/name").unwrap();
        assert!(
            of_cache[0].ends_with("snapshots/c0ffee/train.jsonl"),
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
            .split_files(&data(source), "test")
            .unwrap_err();
        assert_eq!(error.to_string(), format!("`{source}` has no split `test`"));
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
