//! One request and its answer, with as many attempts as it takes.

use std::io::Read;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use ureq::Agent;
use ureq::http::HeaderMap;

use super::address::{Address, ApiKey};
use super::retry::{Again, RetryPolicy, retry_after};
use super::wire::{Answer, Request, Response, message};
use super::{EndpointError, Limits};

/// The largest answer that is read: 2048 vectors of 4096 numbers of 20 characters.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// The part of an error's answer that is read.
const MAX_MESSAGE_BYTES: u64 = 64 << 10;

/// Sends texts to one endpoint.
pub(super) struct Client {
    agent: Agent,
    pub(super) address: Address,
    pub(super) model: String,
    /// The environment variable of the key.
    pub(super) variable: String,
    pub(super) key: Option<ApiKey>,
    pub(super) retry: RetryPolicy,
    /// Of all vectors; set by the first.
    dimension: OnceLock<usize>,
}

/// Why an attempt failed, and whether another may succeed.
struct Failure {
    error: EndpointError,
    again: Again,
}

impl Client {
    pub(super) fn new(
        address: Address,
        model: String,
        variable: String,
        key: Option<ApiKey>,
    ) -> Self {
        Self {
            agent: agent(&address, &Limits::default()),
            address,
            model,
            variable,
            key,
            retry: RetryPolicy::default(),
            dimension: OnceLock::new(),
        }
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.agent = agent(&self.address, limits);
    }

    /// A missing key is an error only here, where one is needed: a run whose vectors are all known
    /// needs none.
    pub(super) fn require_key(&self) -> Result<(), EndpointError> {
        if self.key.is_none() && self.address.needs_key() {
            return Err(EndpointError::NoKey {
                endpoint: self.endpoint(),
                variable: self.variable.clone(),
            });
        }
        Ok(())
    }

    /// Vectors of `texts`. Between attempts `sleep` waits, and returns false if the work has ended
    /// meanwhile.
    pub(super) fn embed(
        &self,
        texts: &[&str],
        sleep: impl Fn(Duration) -> bool,
    ) -> Result<Answer, EndpointError> {
        let request = Request {
            model: &self.model,
            input: texts,
            encoding_format: "float",
        };
        let body = serde_json::to_vec(&request).expect("texts are JSON");
        let mut waited = Duration::ZERO;
        for attempt in 1.. {
            let failure = match self.attempt(&body, texts) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match self.retry.wait(attempt, waited, failure.again) {
                Some(wait) if sleep(wait) => waited += wait,
                _ => return Err(failure.error.after(attempt)),
            }
        }
        unreachable!("attempts are limited")
    }

    fn attempt(&self, body: &[u8], texts: &[&str]) -> Result<Answer, Failure> {
        let mut request = self
            .agent
            .post(self.address.embeddings())
            .header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", key.authorization());
        }
        let mut response = request
            .send(body)
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        if !response.status().is_success() {
            let mut said = Vec::new();
            let mut reader = response.body_mut().as_reader().take(MAX_MESSAGE_BYTES);
            // Where that breaks off, the status says enough.
            reader.read_to_end(&mut said).ok();
            return Err(self.refused(status, response.headers(), &said));
        }
        let answer = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .read_to_vec()
            .map_err(|error| self.unreachable(&error))?;
        let response: Response = serde_json::from_slice(&answer).map_err(|error| Failure {
            // Without its end, it was cut off on its way.
            again: match error.is_eof() {
                true => Again::After(Duration::ZERO),
                false => Again::No,
            },
            error: EndpointError::BadResponse {
                endpoint: self.endpoint(),
                problem: format!("{error}, in {:?}", self.message(&answer)),
            },
        })?;
        response
            .answer(self.address.base(), texts, &self.dimension)
            .map_err(|error| Failure {
                error,
                again: Again::No,
            })
    }

    /// What an error status means.
    fn refused(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
        let message = self.message(body);
        let is_passing = match status {
            // OpenAI answers so too when the account has no money left.
            429 => !String::from_utf8_lossy(body).contains("insufficient_quota"),
            408 | 500.. => status != 501,
            _ => false,
        };
        let again = match is_passing {
            true => Again::After(named_wait(headers).unwrap_or_default()),
            false => Again::No,
        };
        let error = match status {
            401 | 403 => EndpointError::NotAllowed {
                endpoint: self.endpoint(),
                status,
                variable: self.variable.clone(),
                key_sent: self.key.is_some(),
                message: if status == 401 {
                    String::new()
                } else {
                    message
                },
            },
            _ => EndpointError::Status {
                endpoint: self.endpoint(),
                status,
                attempts: 1,
                message,
            },
        };
        Failure { error, again }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        use std::io::ErrorKind;
        let again = match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Again::Connecting,
            ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
                Again::Connecting
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Again::Connecting
            }
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => {
                Again::After(Duration::ZERO)
            }
            // Certificates, proxies, settings.
            _ => Again::No,
        };
        let error = EndpointError::Unreachable {
            endpoint: self.endpoint(),
            attempts: 1,
            problem: self.without_key(&error.to_string()),
        };
        Failure { error, again }
    }

    fn endpoint(&self) -> String {
        self.address.base().into()
    }

    /// What a server said, with nothing in it that is not for eyes.
    fn message(&self, body: &[u8]) -> String {
        // Before it is cut: a half of the key would not be found.
        let body = self.without_key(&String::from_utf8_lossy(body));
        message(body.as_bytes())
    }

    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(key) => key.hide_in(text),
            None => text.into(),
        }
    }
}

fn agent(address: &Address, limits: &Limits) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        // A redirect would turn the request into another one, or take the texts elsewhere.
        .max_redirects(0)
        .user_agent(concat!("rag-tune/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(limits.connect_timeout))
        .timeout_global(Some(limits.request_timeout))
        .max_idle_connections_per_host(limits.requests_at_a_time.get());
    if address.is_loopback() {
        config = config.proxy(None);
    }
    config.build().into()
}

/// How long the server asks to wait.
fn named_wait(headers: &HeaderMap) -> Option<Duration> {
    let value = |name: &str| headers.get(name)?.to_str().ok();
    // OpenAI's own, which its client prefers as it is finer.
    let milliseconds = value("retry-after-ms").and_then(|text| text.trim().parse().ok());
    milliseconds
        .map(Duration::from_millis)
        .or_else(|| retry_after(value("retry-after")?, SystemTime::now()))
}
