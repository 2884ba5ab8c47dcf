//! Where an endpoint is, and the key that it wants.

use std::net::IpAddr;

use ureq::http::Uri;

use super::EndpointError;

/// A service's base address, such as `https://api.openai.com/v1`.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// Without a slash at the end.
    base: String,
    /// Lower case.
    host: String,
    /// Host, port and path.
    identity: String,
    is_encrypted: bool,
}

impl Address {
    /// Reads an address that stands in `origin`.
    pub(super) fn parse(text: &str, origin: &'static str) -> Result<Self, EndpointError> {
        let refuse = |problem: &str| EndpointError::BadUrl {
            origin,
            problem: problem.into(),
        };
        // `http::Uri` takes a fragment and drops it.
        if text.contains(['?', '#']) {
            return Err(refuse("must be an address without `?` and `#`"));
        }
        let text = text.trim().trim_end_matches('/');
        let base = text.strip_suffix("/embeddings").unwrap_or(text);
        let uri: Uri = base
            .parse()
            .map_err(|error| refuse(&format!("is no address: {error}")))?;
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refuse("must begin with `https://` or `http://`")),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(refuse("must not hold a user name or key"));
        }
        let host = uri.host().unwrap_or("").to_lowercase();
        if host.is_empty() {
            return Err(refuse("has no host"));
        }
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            base: base.into(),
            host,
            identity: format!("{}{path}", authority.to_lowercase()),
            is_encrypted,
        })
    }

    /// As errors show it.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Where texts are sent.
    pub(super) fn embeddings(&self) -> String {
        format!("{}/embeddings", self.base)
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// What tells one service from another.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether it is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost"
            || host.ends_with(".localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether it is public enough that it surely wants a key.
    pub(super) fn needs_key(&self) -> bool {
        self.is_encrypted && !self.is_loopback()
    }
}

/// A key, which `Debug` must not show.
#[derive(Clone)]
pub(super) struct ApiKey(String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl ApiKey {
    /// `None` for characters that no header can have.
    pub(super) fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        key.bytes().all(is_plain).then(|| Self(key.into()))
    }

    /// The header `Authorization`.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` without the key, which some servers repeat.
    pub(super) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, "(the key)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text, "`retrieval.endpoint`").unwrap()
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for text in [
            "https://api.openai.com/v1",
            " https://api.openai.com/v1/ ",
            "https://API.openai.com/v1/embeddings",
        ] {
            let address = address(text);
            assert_eq!(address.identity(), "api.openai.com/v1");
            assert_eq!(address.host(), "api.openai.com");
            assert!(address.embeddings().ends_with("/v1/embeddings"));
        }
        assert_eq!(address("http://gpu:8000").identity(), "gpu:8000");
    }

    #[test]
    fn a_key_is_needed_beyond_this_machine_and_plain_http() {
        for text in [
            "http://localhost:8080/v1",
            "https://127.0.0.1:8443/v1",
            "http://[::1]:8080",
            "http://models.localhost/v1",
            "http://gpu.example/v1",
        ] {
            assert!(!address(text).needs_key(), "{text}");
        }
        assert!(address("https://api.openai.com/v1").needs_key());
        assert!(address("https://127.0.0.1.example/v1").needs_key());
    }

    #[test]
    fn bad_addresses_are_refused_without_being_shown() {
        for text in [
            "",
            "api.openai.com/v1",
            "ftp://host/v1",
            "https://",
            "https://secret@host/v1",
            "https://host/v1?key=secret",
            "https://host/v1#secret",
            "https://ho st/secret",
        ] {
            let error = Address::parse(text, "`retrieval.endpoint`").unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("secret"), "{shown}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn a_key_is_not_shown_and_must_fit_into_a_header() {
        let key = ApiKey::new(" sk-secret\n").unwrap();
        assert_eq!(key.authorization(), "Bearer sk-secret");
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
        assert_eq!(key.hide_in("no sk-secret here"), "no (the key) here");
        assert!(ApiKey::new("two\nlines").is_none());
        assert!(ApiKey::new("schlüssel").is_none());
    }
}
