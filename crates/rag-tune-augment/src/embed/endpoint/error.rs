//! What can go wrong with an embedding endpoint. No message holds the key.

/// An error of an endpoint; part of [`crate::AugmentError`].
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is none that texts can be sent to.
    #[error("{origin} {problem}")]
    BadUrl {
        /// The setting or variable that holds it. What it holds is not shown: there may be a key in it.
        origin: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The variable that should hold the key is not set.
    #[error("the embedding endpoint `{endpoint}` needs a key, and {variable} is not set")]
    NoKey {
        /// The endpoint's address.
        endpoint: String,
        /// The environment variable.
        variable: String,
    },
    /// The key has characters that no HTTP header can have.
    #[error("the key in {variable} has line breaks or characters beyond ASCII in it")]
    BadKey {
        /// The environment variable.
        variable: String,
    },
    /// `retrieval.embedder_prompt` is set, which needs a model's own files.
    #[error("`retrieval.embedder_prompt` is `{prompt}`, and an endpoint has no named prompts")]
    Prompt {
        /// The prompt's name.
        prompt: String,
    },
    /// A text is empty; services refuse such a text.
    #[error("an empty text cannot be embedded by the endpoint `{endpoint}`")]
    EmptyText {
        /// The endpoint's address.
        endpoint: String,
    },
    /// 401 or 403.
    #[error("`{endpoint}` answered {status}{}", colon(message))]
    NotAllowed {
        /// The endpoint's address.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// The environment variable of the key.
        variable: String,
        /// Whether a key was sent.
        key_sent: bool,
        /// What the server said; empty for 401, where servers repeat parts of the key.
        message: String,
    },
    /// The server refused a text, however few texts it was sent with.
    #[error(
        "`{endpoint}` answered {status} for the text {text:?} of {characters} characters{}",
        colon(message)
    )]
    TextRefused {
        /// The endpoint's address.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// The text's beginning.
        text: String,
        /// The text's length.
        characters: usize,
        /// What the server said.
        message: String,
    },
    /// Any other status than success, after all attempts.
    #[error("`{endpoint}` answered {status}{}{}", after(*attempts), colon(message))]
    Status {
        /// The endpoint's address.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// Requests made.
        attempts: u32,
        /// What the server said.
        message: String,
    },
    /// No connection, or it broke off, in all attempts.
    #[error("cannot reach `{endpoint}`{}: {problem}", after(*attempts))]
    Unreachable {
        /// The endpoint's address.
        endpoint: String,
        /// Requests made.
        attempts: u32,
        /// What the client said.
        problem: String,
    },
    /// The answer is not what OpenAI's embeddings API says.
    #[error("`{endpoint}` gave an answer that cannot be used: {problem}")]
    BadResponse {
        /// The endpoint's address.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The answer has too few or too many vectors.
    #[error("`{endpoint}` gave {found} vectors for {expected} texts")]
    Count {
        /// The endpoint's address.
        endpoint: String,
        /// Texts sent.
        expected: usize,
        /// Vectors in the answer.
        found: usize,
    },
    /// A vector has another dimension than those before.
    #[error(
        "`{endpoint}` gave a vector of {found} numbers for the text {text:?}, and before of {expected}"
    )]
    Dimension {
        /// The endpoint's address.
        endpoint: String,
        /// Of the first vector.
        expected: usize,
        /// Of this vector.
        found: usize,
        /// The text's beginning.
        text: String,
    },
    /// A vector without direction.
    #[error("`{endpoint}` gave a vector {problem} for the text {text:?}")]
    BadVector {
        /// The endpoint's address.
        endpoint: String,
        /// `of zeros` or `that is not finite`.
        problem: &'static str,
        /// The text's beginning.
        text: String,
    },
}

const KEPT: &str = "what was embedded so far is kept in the cache";

impl EndpointError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::BadUrl { .. } => "an address looks like `https://api.openai.com/v1`; \
                 the key goes into the variable that `retrieval.endpoint_key` names"
                .into(),
            Self::NoKey { variable, .. }
            | Self::NotAllowed {
                variable,
                key_sent: false,
                ..
            } => format!(
                "put the service's key into {variable}, or name its variable in `retrieval.endpoint_key`"
            ),
            Self::BadKey { variable } => format!("set {variable} again, to the key alone"),
            Self::NotAllowed { variable, .. } => format!(
                "check that the key in {variable} is this service's and may use this model; \
                 `retrieval.endpoint_key` can name another variable"
            ),
            Self::Prompt { .. } => "leave it empty, or put the words into the rows".into(),
            Self::EmptyText { .. } => {
                "fill in or leave out the rows whose query column is empty".into()
            }
            Self::TextRefused { message, .. } if is_about_length(message) => {
                format!("shorten the text or leave its row out; {KEPT}")
            }
            Self::TextRefused { .. } => {
                "if that is not about the text, check `retrieval.embedder` and `retrieval.endpoint`"
                    .into()
            }
            Self::Status {
                status, message, ..
            } => return status_hint(*status, message),
            Self::Unreachable { .. } => format!(
                "check `retrieval.endpoint` and that the server runs, and start again: {KEPT}"
            ),
            Self::BadResponse { .. } | Self::Count { .. } | Self::Dimension { .. } => {
                "it must answer as OpenAI's `/v1/embeddings` does; check `retrieval.endpoint`"
                    .into()
            }
            Self::BadVector { .. } => return None,
        };
        Some(hint)
    }

    /// The same, with the number of requests that it took.
    pub(super) fn after(mut self, made: u32) -> Self {
        if let Self::Status { attempts, .. } | Self::Unreachable { attempts, .. } = &mut self {
            *attempts = made;
        }
        self
    }
}

fn status_hint(status: u16, message: &str) -> Option<String> {
    let hint = match status {
        300..400 => "give the address that it has moved to".into(),
        404 => "check the model's name in `retrieval.embedder`, and `retrieval.endpoint`, \
                to which `/embeddings` is added"
            .into(),
        429 if message.contains("quota") => {
            format!("check the account's plan and billing; {KEPT}")
        }
        429 | 500.. => format!("start again later: {KEPT}"),
        _ => return None,
    };
    Some(hint)
}

/// By the words that OpenAI, llama.cpp, vLLM and text-embeddings-inference use for it.
fn is_about_length(message: &str) -> bool {
    let message = message.to_lowercase();
    ["context", "token", "too long", "too large", "maximum"]
        .iter()
        .any(|word| message.contains(word))
}

fn after(attempts: u32) -> String {
    match attempts {
        0 | 1 => String::new(),
        _ => format!(" after {attempts} attempts"),
    }
}

fn colon(message: &str) -> String {
    match message {
        "" => String::new(),
        _ => format!(": {message}"),
    }
}
