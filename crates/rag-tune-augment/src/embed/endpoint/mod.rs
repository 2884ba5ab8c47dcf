//! Embeddings from an OpenAI-compatible `/v1/embeddings` endpoint.
//!
//! - [`EndpointEmbedder`] puts texts into batches and has several under way at a time (here)
//! - `client`: one request, made again where that may help ([`RetryPolicy`])
//! - `wire`: what is sent, and the check of what comes back
//! - `address`: where it goes, and the key; `price`: what it costs

mod address;
mod client;
mod error;
mod price;
mod retry;
mod wire;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Done, Embedder, Usage, beginning};
use crate::fingerprint::hex;
use crate::{AugmentError, RetrievalConfig};
use address::{Address, ApiKey};
use client::Client;
pub use error::EndpointError;
pub use retry::RetryPolicy;

/// Part of every fingerprint: raise it when the code here comes to give other vectors.
const METHOD: &str = "OpenAI-compatible endpoint, L2-normalised, 1";

const OPENAI: &str = "https://api.openai.com/v1";

/// How much goes into a request, and how many are under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Texts in a request, at most. Lowered by itself where a server takes fewer.
    pub texts_per_request: NonZeroUsize,
    /// Bytes of text in a request, at most, except that one text always goes. OpenAI takes 300,000
    /// tokens, and a token of its models is at least a byte.
    pub bytes_per_request: usize,
    /// Requests under way at a time.
    pub requests_at_a_time: NonZeroUsize,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For a request and its answer. A server on a CPU may take minutes for a batch.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const TEXTS: NonZeroUsize = NonZeroUsize::new(128).unwrap();
        const REQUESTS: NonZeroUsize = NonZeroUsize::new(8).unwrap();
        Self {
            texts_per_request: TEXTS,
            bytes_per_request: 256 << 10,
            requests_at_a_time: REQUESTS,
            connect_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(600),
        }
    }
}

/// A model behind an HTTP endpoint.
///
/// The key is read from the environment, sent as `Authorization: Bearer`, and kept out of every message,
/// file and fingerprint. It is sent to the configured address alone: redirects are not followed.
pub struct EndpointEmbedder {
    client: Client,
    fingerprint: String,
    limits: Limits,
    /// What the server takes, as far as is known.
    texts_per_request: AtomicUsize,
    tokens: AtomicU64,
}

impl std::fmt::Debug for EndpointEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointEmbedder")
            .field("endpoint", &self.client.address.base())
            .field("model", &self.client.model)
            .finish_non_exhaustive()
    }
}

impl EndpointEmbedder {
    /// Whether the config means an endpoint: it gives the address, or the model is one of OpenAI's.
    pub fn is_named_by(config: &RetrievalConfig) -> bool {
        !config.endpoint.trim().is_empty() || price::is_openai_model(&config.embedder)
    }

    /// The embedder that the config names, with the key of the environment. No request is made.
    ///
    /// Without `endpoint`, that is OpenAI's service, or the one at `OPENAI_BASE_URL`. A service on this
    /// machine or behind plain `http://` needs no key, but gets one that is set.
    ///
    /// # Errors
    /// [`EndpointError::BadUrl`], [`EndpointError::BadKey`], [`EndpointError::Prompt`]. A missing key is
    /// an error of [`Embedder::embed`].
    pub fn open(config: &RetrievalConfig) -> Result<Self, EndpointError> {
        Self::from_variables(config, &|name| std::env::var(name).ok())
    }

    /// As [`Self::open`], with other variables than the environment's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_variables(
        config: &RetrievalConfig,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, EndpointError> {
        if !config.embedder_prompt.is_empty() {
            return Err(EndpointError::Prompt {
                prompt: config.embedder_prompt.clone(),
            });
        }
        let given = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let address = if !config.endpoint.trim().is_empty() {
            Address::parse(&config.endpoint, "`retrieval.endpoint`")?
        } else if let Some(url) = given("OPENAI_BASE_URL") {
            Address::parse(&url, "OPENAI_BASE_URL")?
        } else {
            Address::parse(OPENAI, "OpenAI's address")?
        };
        let name = config.endpoint_key.clone();
        let key = match given(&name) {
            Some(key) => Some(ApiKey::new(&key).ok_or_else(|| EndpointError::BadKey {
                variable: name.clone(),
            })?),
            None => None,
        };
        let limits = Limits::default();
        Ok(Self {
            fingerprint: fingerprint(&address, &config.embedder),
            client: Client::new(address, config.embedder.clone(), name, key),
            texts_per_request: AtomicUsize::new(limits.texts_per_request.get()),
            limits,
            tokens: AtomicU64::new(0),
        })
    }

    /// With other limits than the default.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.client.set_limits(&limits);
        self.texts_per_request = AtomicUsize::new(limits.texts_per_request.get());
        self.limits = limits;
        self
    }

    /// With another retry policy than the default.
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.client.retry = retry;
        self
    }

    /// Sends batches until there are none left.
    fn work(&self, job: &Job<'_>) -> Result<(), AugmentError> {
        while let Some(batch) = job.take(&self.texts_per_request, self.limits.bytes_per_request) {
            self.embed_batch(job, batch)?;
        }
        Ok(())
    }

    /// Sends a batch; where the server refuses it, each half alone, down to the text that is at fault.
    fn embed_batch(&self, job: &Job<'_>, batch: Range<usize>) -> Result<(), AugmentError> {
        let texts = &job.texts[batch.clone()];
        let error = match self.client.embed(texts, |wait| job.sleep(wait)) {
            Ok(answer) => {
                self.tokens.fetch_add(answer.tokens, Ordering::Relaxed);
                let positions: Vec<_> = batch.collect();
                return (job.done)(&positions, &answer.vectors);
            }
            Err(error) => error,
        };
        let (400 | 413 | 422) = status(&error) else {
            return Err(error.into());
        };
        if let [text] = texts {
            return Err(text_refused(error, text).into());
        }
        let middle = batch.start + texts.len().div_ceil(2);
        self.embed_batch(job, batch.start..middle)?;
        self.embed_batch(job, middle..batch.end)?;
        // No text was at fault: it were too many.
        let half = middle - batch.start;
        self.texts_per_request.fetch_min(half, Ordering::Relaxed);
        Ok(())
    }
}

impl Embedder for EndpointEmbedder {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
        if texts.iter().any(|text| text.is_empty()) {
            return Err(EndpointError::EmptyText {
                endpoint: self.client.address.base().into(),
            }
            .into());
        }
        if texts.is_empty() {
            return Ok(());
        }
        self.client.require_key()?;
        let job = Job {
            texts,
            done,
            next: Mutex::new(0),
            failure: Mutex::new(None),
            failed: Condvar::new(),
        };
        // Threads of their own: rayon's would do no other work while they wait for the network.
        let workers = self.limits.requests_at_a_time.get().min(texts.len());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    if let Err(error) = self.work(&job) {
                        job.fail(error);
                    }
                });
            }
        });
        match job.failure.into_inner().expect("no worker panicked") {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn usage(&self) -> Usage {
        let tokens = self.tokens.load(Ordering::Relaxed);
        Usage {
            tokens,
            dollars: price::dollars(self.client.address.host(), &self.client.model, tokens),
        }
    }
}

/// What the workers of one call share.
struct Job<'a> {
    texts: &'a [&'a str],
    done: &'a Done<'a>,
    /// The first text that is in no batch yet.
    next: Mutex<usize>,
    /// The first failure; the others stop for it.
    failure: Mutex<Option<AugmentError>>,
    failed: Condvar,
}

impl Job<'_> {
    /// The next batch; `None` if there is none, or another worker failed.
    fn take(&self, texts_per_request: &AtomicUsize, bytes: usize) -> Option<Range<usize>> {
        if self.failure.lock().expect("never panics").is_some() {
            return None;
        }
        let mut next = self.next.lock().expect("never panics");
        let start = *next;
        let rest = self.texts[start..]
            .iter()
            .take(texts_per_request.load(Ordering::Relaxed));
        let mut left = bytes;
        let fitting = rest.take_while(|text| match left.checked_sub(text.len()) {
            Some(less) => {
                left = less;
                true
            }
            None => false,
        });
        // One text goes in any case.
        let count = fitting.count().max(1);
        *next = self.texts.len().min(start + count);
        (start < *next).then_some(start..*next)
    }

    fn fail(&self, error: AugmentError) {
        let mut failure = self.failure.lock().expect("never panics");
        failure.get_or_insert(error);
        self.failed.notify_all();
    }

    /// False if another worker failed before the time was over.
    fn sleep(&self, time: Duration) -> bool {
        let failure = self.failure.lock().expect("never panics");
        let waited = self
            .failed
            .wait_timeout_while(failure, time, |failure| failure.is_none());
        waited.expect("never panics").0.is_none()
    }
}

fn fingerprint(address: &Address, model: &str) -> String {
    let identity = address.identity();
    // No part can have a line break in it, but a model's name, which is the last.
    hex(&Sha256::digest(format!("{METHOD}\n{identity}\n{model}")))
}

fn status(error: &EndpointError) -> u16 {
    match error {
        EndpointError::Status { status, .. } => *status,
        _ => 0,
    }
}

fn text_refused(error: EndpointError, text: &str) -> EndpointError {
    match error {
        EndpointError::Status {
            endpoint,
            status,
            message,
            ..
        } => EndpointError::TextRefused {
            endpoint,
            status,
            text: beginning(text),
            characters: text.chars().count(),
            message,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str, model: &str) -> RetrievalConfig {
        RetrievalConfig {
            endpoint: endpoint.into(),
            embedder: model.into(),
            ..RetrievalConfig::default()
        }
    }

    fn open(config: &RetrievalConfig, variables: &[(&str, &str)]) -> EndpointEmbedder {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        EndpointEmbedder::from_variables(config, &variable).unwrap()
    }

    #[test]
    fn openai_models_need_no_address() {
        let ada = config("", "text-embedding-ada-002");
        assert!(EndpointEmbedder::is_named_by(&ada));
        assert_eq!(open(&ada, &[]).client.address.base(), OPENAI);
        let other = [("OPENAI_BASE_URL", "https://proxy.example/v1/")];
        assert_eq!(
            open(&ada, &other).client.address.base(),
            "https://proxy.example/v1"
        );
        let local = config("http://localhost:8080/v1", "text-embedding-ada-002");
        assert_eq!(
            open(&local, &other).client.address.base(),
            "http://localhost:8080/v1"
        );
        assert!(EndpointEmbedder::is_named_by(&local));
        assert!(!EndpointEmbedder::is_named_by(&RetrievalConfig::default()));
    }

    #[test]
    fn the_fingerprint_is_of_service_and_model_and_not_of_the_key() {
        let fingerprint = |endpoint: &str, model: &str, key: &str| {
            let embedder = open(&config(endpoint, model), &[("OPENAI_API_KEY", key)]);
            embedder.fingerprint().to_owned()
        };
        let one = fingerprint("https://a.example/v1", "m", "secret");
        assert_eq!(one, fingerprint("https://A.example/v1/", "m", "other"));
        assert_ne!(one, fingerprint("https://a.example/v1", "n", "secret"));
        assert_ne!(one, fingerprint("https://b.example/v1", "m", "secret"));
        assert_ne!(one, fingerprint("https://a.example/v2", "m", "secret"));
    }

    #[test]
    fn a_missing_key_is_named_before_any_request_and_only_when_it_is_needed() {
        let mut config = config("", "text-embedding-ada-002");
        config.endpoint_key = "MY_KEY".into();
        let embedder = open(&config, &[("OPENAI_API_KEY", "not this one")]);
        embedder.embed(&[], &|_, _| Ok(())).unwrap();
        let error = embedder.embed(&["text"], &|_, _| Ok(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the embedding endpoint `https://api.openai.com/v1` needs a key, and MY_KEY is not set"
        );
        assert!(error.hint().unwrap().contains("MY_KEY"));
    }

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        let mut config = config("http://localhost", "m");
        let variables = |_: &str| Some("two\nlines of secret".to_owned());
        let error = EndpointEmbedder::from_variables(&config, &variables).unwrap_err();
        assert!(matches!(error, EndpointError::BadKey { .. }), "{error}");
        assert!(!format!("{error:?}").contains("secret"));
        config.embedder_prompt = "query".into();
        let error = EndpointEmbedder::from_variables(&config, &|_| None).unwrap_err();
        assert!(matches!(error, EndpointError::Prompt { .. }), "{error}");
    }

    #[test]
    fn a_batch_stays_within_both_limits_and_every_text_goes() {
        let texts = ["aaaa", "bb", "cccccccccc", "d", "e", "f", "g"];
        let job = Job {
            texts: &texts,
            done: &|_, _| Ok(()),
            next: Mutex::new(0),
            failure: Mutex::new(None),
            failed: Condvar::new(),
        };
        let three = AtomicUsize::new(3);
        let batches: Vec<_> = std::iter::from_fn(|| job.take(&three, 6)).collect();
        assert_eq!(batches, [0..2, 2..3, 3..6, 6..7]);
    }
}
