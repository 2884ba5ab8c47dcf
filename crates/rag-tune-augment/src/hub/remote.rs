//! The Hugging Face hub and its cache on this machine, through `hf-hub`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::data_files::Wanted;
use super::model_files;
use crate::AugmentError;

/// Address, credentials and cache.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    endpoint: String,
    token: Option<Token>,
    cache: PathBuf,
    offline: bool,
}

/// A credential, which `Debug` must not show.
#[derive(Clone)]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Remote {
    /// hf-hub reads only some of these variables itself, hence all of them here.
    pub(super) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let home = variable("HF_HOME")
            .map(PathBuf::from)
            .unwrap_or_else(default_home);
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from);
        let token =
            variable("HF_TOKEN").or_else(|| std::fs::read_to_string(home.join("token")).ok());
        Self {
            endpoint: variable("HF_ENDPOINT").map_or("https://huggingface.co".into(), |url| {
                url.trim_end_matches('/').into()
            }),
            token: token
                .map(|token| Token(token.trim().into()))
                .filter(|token| !token.0.is_empty()),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
        }
    }

    pub(super) fn offline(&self) -> bool {
        self.offline
    }

    pub(super) fn cache(&self) -> &Path {
        &self.cache
    }

    /// The cached folder of a repository's main branch, complete or not.
    pub(super) fn snapshot(&self, id: &str, kind: RepoType) -> Option<PathBuf> {
        let repo = Repo::new(id.into(), kind);
        let folder = self.cache.join(repo.folder_name());
        let commit = std::fs::read_to_string(folder.join("refs").join(repo.revision())).ok()?;
        let snapshot = folder.join("snapshots").join(commit.trim());
        snapshot.is_dir().then_some(snapshot)
    }

    /// The files of a repository as the hub listed them when the cached snapshot was fetched; `None` if
    /// another program fetched it.
    pub(super) fn remembered_list(&self, id: &str, kind: RepoType) -> Option<Vec<String>> {
        let commit = self.snapshot(id, kind)?.file_name()?.to_owned();
        let file = self.list_file(id, kind, commit.to_str()?);
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    /// Beside the folders of Hugging Face's own layout, which its tools leave alone.
    fn list_file(&self, id: &str, kind: RepoType, commit: &str) -> PathBuf {
        let folder = self.cache.join(Repo::new(id.into(), kind).folder_name());
        folder.join("rag_tune_files").join(format!("{commit}.json"))
    }

    /// Fetches what is needed of a model, and returns its folder in the cache.
    pub(super) fn download_model(&self, id: &str) -> Result<PathBuf, AugmentError> {
        let repository = self.repository(id, RepoType::Model)?;
        let wanted =
            model_files::wanted(&repository.names()).map_err(|gguf| AugmentError::NoWeights {
                id: id.into(),
                gguf,
            })?;
        self.download(&repository, &wanted)?;
        self.snapshot(id, RepoType::Model)
            .ok_or_else(|| self.unreachable(id, format!("nothing in `{}`", self.cache.display())))
    }

    /// Fetches the files of a data set's split.
    pub(super) fn download_split(
        &self,
        id: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<PathBuf>, AugmentError> {
        let repository = self.repository(id, RepoType::Dataset)?;
        self.download(&repository, &wanted.choose(&repository.names())?)
    }

    /// What the hub says of a repository's main branch.
    fn repository<'a>(&self, id: &'a str, kind: RepoType) -> Result<Repository<'a>, AugmentError> {
        let error = |error: ureq::Error| self.error(id, kind, ApiError::RequestError(error.into()));
        let main = self.api(id, kind)?.repo(Repo::new(id.into(), kind));
        let ask = || {
            let mut answer = main.info_request().query("blobs", "true").call()?;
            // A list of a million files still fits.
            let body = answer.body_mut().with_config().limit(256 << 20);
            body.read_to_string()
        };
        let text = patiently(ask).map_err(error)?;
        let info: Info = serde_json::from_str(&text)
            .map_err(|e| self.unreachable(id, format!("the list of its files: {e}")))?;
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(self.unreachable(id, "the list of its files names no commit"));
        }
        Ok(Repository { id, kind, info })
    }

    /// Fetches files that are not in the cache yet, and returns all their paths.
    ///
    /// They are asked for by commit, so that none is of another version than the rest, and the cache's main
    /// branch moves when all are there: what was broken off is never taken for whole. hf-hub goes on with a
    /// partial file where it ends (also after another process was ended), three times within a run.
    fn download(
        &self,
        repository: &Repository<'_>,
        files: &[String],
    ) -> Result<Vec<PathBuf>, AugmentError> {
        let Repository { id, kind, info } = repository;
        let pinned = Repo::with_revision((*id).into(), *kind, info.sha.clone());
        let cache = Cache::new(self.cache.clone());
        let branch = |repo: Repo| {
            let path = self.cache.join(repo.folder_name());
            cache
                .repo(repo)
                .create_ref(&info.sha)
                .map_err(AugmentError::write(path))
        };
        // Without this, hf-hub would not look into the snapshot that another program fetched.
        branch(pinned.clone())?;
        let api = self.api(id, *kind)?.repo(pinned);
        let known = files
            .iter()
            .map(|name| info.siblings.iter().find(|file| file.rfilename == *name));
        let paths = files
            .iter()
            .zip(known)
            .map(|(name, file)| self.fetch(repository, &api, name, file))
            .collect::<Result<_, _>>()?;
        branch(Repo::new((*id).into(), *kind))?;
        self.remember_list(repository)?;
        Ok(paths)
    }

    fn fetch(
        &self,
        repository: &Repository<'_>,
        api: &ApiRepo,
        name: &str,
        file: Option<&File>,
    ) -> Result<PathBuf, AugmentError> {
        let Repository { id, kind, .. } = repository;
        let size = file.and_then(|file| file.size);
        let blobs = self
            .cache
            .join(Repo::new((*id).into(), *kind).folder_name())
            .join("blobs");
        // A partial file that has all bytes would be asked for from its end, which the hub refuses.
        if let (Some(size), Some(blob)) = (size, file.and_then(File::blob)) {
            let part = blobs.join(blob).with_extension("part");
            if part.metadata().is_ok_and(|part| part.len() >= size) {
                std::fs::remove_file(&part).map_err(AugmentError::write(&part))?;
            }
        }
        let mut last = 0;
        for _ in 0..2 {
            let path = api
                .get(name)
                .map_err(|error| self.error(id, *kind, error))?;
            last = path.metadata().map_err(AugmentError::read(&path))?.len();
            if size.is_none_or(|size| size == last) {
                return Ok(path);
            }
            // hf-hub does not look: a file that was resumed wrongly is fetched once more, whole.
            let blob = path.canonicalize().map_err(AugmentError::read(&path))?;
            for spoilt in [&path, &blob] {
                match std::fs::remove_file(spoilt) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(AugmentError::write(spoilt)(error));
                    }
                    _ => {}
                }
            }
        }
        let size = size.unwrap_or_default();
        Err(self.unreachable(id, format!("`{name}` has {last} bytes instead of {size}")))
    }

    fn remember_list(&self, repository: &Repository<'_>) -> Result<(), AugmentError> {
        let file = self.list_file(repository.id, repository.kind, &repository.info.sha);
        let folder = file.parent().expect("it was joined");
        std::fs::create_dir_all(folder).map_err(AugmentError::write(folder))?;
        let text = serde_json::to_vec(&repository.names()).expect("texts become JSON");
        std::fs::write(&file, text).map_err(AugmentError::write(&file))
    }

    fn api(&self, id: &str, kind: RepoType) -> Result<Api, AugmentError> {
        ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.as_ref().map(|token| token.0.clone()))
            .with_retries(3)
            .with_progress(true) // on stderr, and only where that is a terminal
            .build()
            .map_err(|error| self.error(id, kind, error))
    }

    fn error(&self, id: &str, kind: RepoType, error: ApiError) -> AugmentError {
        match status(&error) {
            Some(status) => AugmentError::HubStatus {
                id: id.into(),
                status,
                endpoint: self.endpoint.clone(),
                page: format!("{}/{}", self.endpoint, Repo::new(id.into(), kind).url()),
                with_token: self.token.is_some(),
            },
            None => self.unreachable(id, error.to_string()),
        }
    }

    fn unreachable(&self, id: &str, problem: impl Into<String>) -> AugmentError {
        AugmentError::HubUnreachable {
            id: id.into(),
            endpoint: self.endpoint.clone(),
            problem: problem.into(),
        }
    }
}

/// A repository at a commit.
struct Repository<'a> {
    id: &'a str,
    kind: RepoType,
    info: Info,
}

impl Repository<'_> {
    fn names(&self) -> Vec<String> {
        self.info
            .siblings
            .iter()
            .map(|file| file.rfilename.clone())
            .collect()
    }
}

/// The hub's description of a repository, of which this much is read.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<File>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    rfilename: String,
    size: Option<u64>,
    /// What git calls the content.
    blob_id: Option<String>,
    /// Large files are kept elsewhere, under another name.
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
}

impl File {
    /// What the content is called in the cache.
    fn blob(&self) -> Option<&str> {
        let large = self.lfs.as_ref().map(|lfs| lfs.sha256.as_deref());
        large.unwrap_or(self.blob_id.as_deref())
    }
}

/// Asks again where the hub is busy (hf-hub itself repeats downloads only).
fn patiently<T>(ask: impl Fn() -> Result<T, ureq::Error>) -> Result<T, ureq::Error> {
    const PAUSES_MS: [u64; 2] = [300, 1500];
    for pause in PAUSES_MS {
        match ask() {
            Err(ureq::Error::StatusCode(429 | 500..)) => {
                std::thread::sleep(std::time::Duration::from_millis(pause));
            }
            answer => return answer,
        }
    }
    ask()
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(request) => match **request {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(last) => status(last),
        _ => None,
    }
}

fn default_home() -> PathBuf {
    std::env::home_dir()
        .unwrap_or_default()
        .join(".cache/huggingface")
}

/// The spellings that Hugging Face's tools take for true.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(variables: &'static [(&'static str, &'static str)]) -> Remote {
        Remote::from_variables(&|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_environment_is_honoured() {
        let remote = remote(&[
            ("HF_HOME", "/home/hf"),
            ("HF_TOKEN", "secret\n"),
            ("HF_ENDPOINT", "http://hub.example/"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!(remote.cache(), Path::new("/home/hf/hub"));
        assert_eq!(remote.token.as_ref().unwrap().0, "secret");
        assert_eq!(remote.endpoint, "http://hub.example");
        assert!(remote.offline());
    }

    #[test]
    fn the_cache_may_lie_elsewhere_than_the_home() {
        let remote = remote(&[("HF_HOME", "/home/hf"), ("HF_HUB_CACHE", "/big/disk")]);
        assert_eq!(remote.cache(), Path::new("/big/disk"));
        assert!(!remote.offline());
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", remote(&[("HF_TOKEN", "secret")])).contains("secret"));
    }

    #[test]
    fn statuses_have_their_own_hints() {
        let hint = |status| {
            let error = ApiError::RequestError(Box::new(ureq::Error::StatusCode(status)));
            remote(&[])
                .error(
                    "owner/name",
                    RepoType::Dataset,
                    ApiError::TooManyRetries(Box::new(error)),
                )
                .hint()
                .unwrap()
        };
        assert!(hint(401).contains("HF_TOKEN"), "{}", hint(401));
        assert!(
            hint(403).contains("huggingface.co/datasets/owner/name"),
            "{}",
            hint(403)
        );
        assert!(hint(404).contains("spelling"), "{}", hint(404));
        assert!(hint(500).contains("RAG_TUNE_MIRROR"), "{}", hint(500));
    }
}
