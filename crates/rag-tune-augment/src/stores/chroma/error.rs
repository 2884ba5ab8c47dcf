//! What can go wrong with a Chroma server.

use crate::AugmentError;
use crate::stores::StoreError;

/// An error of the Chroma store; part of [`StoreError`].
#[derive(Debug, thiserror::Error)]
pub enum ChromaError {
    /// No exchange with the server.
    #[error("cannot talk to the Chroma server at {url:?}: {problem}")]
    Unreachable {
        /// `retrieval.chroma_url`.
        url: String,
        /// What the client said.
        problem: String,
    },
    /// The server refused a call.
    #[error("the Chroma server answered {status} to {address}: {message}")]
    Status {
        /// The call.
        address: String,
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The server's answer is not what its interface promises.
    #[error("the Chroma server's answer to {address} cannot be used: {problem}")]
    Answer {
        /// The call.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The collection was made from something else: another embedder, other texts.
    #[error(
        "the Chroma collection `{collection}` was made from something else: \
         its `{field}` is {found}, expected {expected}"
    )]
    OtherSource {
        /// The collection's name.
        collection: String,
        /// What differs, as its metadata calls it.
        field: &'static str,
        /// As it would be made now.
        expected: String,
        /// As it is.
        found: String,
    },
    /// The collection has another number of vectors than its metadata say.
    #[error("the Chroma collection `{collection}` holds {found} vectors, expected {expected}")]
    WrongCount {
        /// The collection's name.
        collection: String,
        /// Rows of the train split.
        expected: usize,
        /// Vectors there.
        found: usize,
    },
}

impl ChromaError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => Some(
                "start one with `pip install chromadb` and \
                 `chroma run --path DIR --host 127.0.0.1 --port 8000`, set `retrieval.chroma_url` to its \
                 address, or set `retrieval.store` to \"exact\""
                    .into(),
            ),
            Self::Status {
                status: 401 | 403, ..
            } => Some("a server that wants a key is not supported; use one of your own".into()),
            Self::Status { status: 404, .. } | Self::Answer { .. } => Some(
                "`retrieval.chroma_url` must be a Chroma server of version 1.0 or newer".into(),
            ),
            Self::Status { .. } => None,
            Self::OtherSource { collection, .. } | Self::WrongCount { collection, .. } => {
                Some(format!(
                    "delete the collection with Chroma's `delete_collection(\"{collection}\")`; it is made again"
                ))
            }
        }
    }
}

/// Both steps at once, for `?`.
impl From<ChromaError> for AugmentError {
    fn from(error: ChromaError) -> Self {
        StoreError::from(error).into()
    }
}
