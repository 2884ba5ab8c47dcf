//! Embeddings from an OpenAI-compatible `/v1/embeddings` endpoint.

/// An error of an endpoint; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The variable that should hold the key is not set.
    #[error("the embedding endpoint needs a key, and {variable} is not set")]
    NoKey {
        /// The environment variable.
        variable: String,
    },
}

impl EndpointError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        None
    }
}
