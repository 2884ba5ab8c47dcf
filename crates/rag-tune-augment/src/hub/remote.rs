//! The Hugging Face hub and its cache on this machine, through `hf-hub`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::{model_files, split_not_found};
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

    /// Fetches what is needed of a model, and returns its folder in the cache.
    pub(super) fn download_model(&self, id: &str) -> Result<PathBuf, AugmentError> {
        let repo = self.repository(id, RepoType::Model)?;
        let files = self.list(id, &repo)?;
        let wanted = model_files::wanted(&files).map_err(|gguf| AugmentError::NoWeights {
            id: id.into(),
            gguf,
        })?;
        for file in &wanted {
            repo.get(file).map_err(|error| self.error(id, error))?;
        }
        self.snapshot(id, RepoType::Model)
            .ok_or_else(|| AugmentError::HubUnreachable {
                id: id.into(),
                endpoint: self.endpoint.clone(),
                problem: format!("the download left nothing in `{}`", self.cache.display()),
            })
    }

    /// Fetches `<split>.jsonl` of a data set.
    pub(super) fn download_split(&self, id: &str, split: &str) -> Result<PathBuf, AugmentError> {
        let repo = self.repository(id, RepoType::Dataset)?;
        let files = self.list(id, &repo)?;
        let wanted = format!("{split}.jsonl");
        if !files.contains(&wanted) {
            return Err(split_not_found(id, split, files.into_iter()));
        }
        repo.get(&wanted).map_err(|error| self.error(id, error))
    }

    fn repository(&self, id: &str, kind: RepoType) -> Result<ApiRepo, AugmentError> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.as_ref().map(|token| token.0.clone()))
            .with_retries(3)
            .with_progress(true) // on stderr, and only where that is a terminal
            .build()
            .map_err(|error| self.error(id, error))?;
        Ok(api.repo(Repo::new(id.into(), kind)))
    }

    fn list(&self, id: &str, repo: &ApiRepo) -> Result<Vec<String>, AugmentError> {
        let info = repo.info().map_err(|error| self.error(id, error))?;
        Ok(info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect())
    }

    fn error(&self, id: &str, error: ApiError) -> AugmentError {
        let (id, endpoint) = (id.into(), self.endpoint.clone());
        match status(&error) {
            Some(status) => AugmentError::HubStatus {
                id,
                status,
                endpoint,
            },
            None => AugmentError::HubUnreachable {
                id,
                endpoint,
                problem: error.to_string(),
            },
        }
    }
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
                .error("owner/name", ApiError::TooManyRetries(Box::new(error)))
                .hint()
                .unwrap()
        };
        assert!(hint(401).contains("HF_TOKEN"), "{}", hint(401));
        assert!(hint(403).contains("licence"), "{}", hint(403));
        assert!(hint(404).contains("spelling"), "{}", hint(404));
        assert!(hint(500).contains("RAG_TUNE_MIRROR"), "{}", hint(500));
    }
}
