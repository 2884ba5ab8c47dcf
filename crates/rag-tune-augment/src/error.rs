//! Everything that can go wrong between a data set's name and its augmented rows.

use std::path::PathBuf;

use crate::dataset::DataError;
use crate::embed::{EndpointError, VectorFileError};
use crate::select::SelectError;
use crate::stores::StoreError;
use crate::task::TaskError;

/// An error of this crate; [`AugmentError::hint`] says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum AugmentError {
    /// A file or folder could not be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The rows of a data set, or the files that hold them.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An eval row is a train row too.
    #[error(
        "`{path}` row {row} (split `{split}`) has question and answer of row {train_row} of the \
         split `{train_split}`, where examples come from"
    )]
    LeakedRow {
        /// The split that is evaluated.
        split: String,
        /// Its file.
        path: PathBuf,
        /// From 0.
        row: usize,
        /// The split that examples come from.
        train_split: String,
        /// From 0.
        train_row: usize,
    },
    /// The task's description or a prompt template.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// An embedding endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A file of vectors.
    #[error(transparent)]
    VectorFile(#[from] VectorFileError),
    /// A store of vectors.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The selection of examples.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// A path that was given does not exist.
    #[error("`{path}` does not exist")]
    PathNotFound {
        /// The path as given.
        path: String,
    },
    /// Not on this machine, and the network may not be used.
    #[error("`{id}` is not on this machine, and HF_HUB_OFFLINE forbids fetching it")]
    Offline {
        /// The hub id.
        id: String,
        /// The mirror that was searched, if there is one.
        mirror: Option<PathBuf>,
        /// The hub cache that was searched.
        cache: PathBuf,
    },
    /// The hub answered with an error status.
    #[error("the hub {endpoint} answered {status} for `{id}`")]
    HubStatus {
        /// The hub id.
        id: String,
        /// HTTP status.
        status: u16,
        /// The hub's address.
        endpoint: String,
        /// The repository's page.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub could not be reached, or a download broke off.
    #[error("cannot fetch `{id}` from {endpoint}: {problem}")]
    HubUnreachable {
        /// The hub id.
        id: String,
        /// The hub's address.
        endpoint: String,
        /// What the client said.
        problem: String,
    },
    /// A model repository has neither safetensors nor exactly one GGUF file.
    #[error("model `{id}` has no safetensors and {} GGUF files", gguf.len())]
    NoWeights {
        /// The hub id.
        id: String,
        /// The GGUF files it has.
        gguf: Vec<String>,
    },
    /// A JSON file of an embedder, a manifest or a record is not what it should be.
    #[error("`{path}`: {problem}")]
    BadJson {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        problem: String,
    },
    /// The embedder is of a kind that is not supported.
    #[error("embedder `{path}`: {problem}")]
    UnsupportedEmbedder {
        /// The embedder's folder.
        path: PathBuf,
        /// What is not supported.
        problem: String,
    },
    /// The embedder has no prompt of that name.
    #[error("embedder `{path}` has no prompt `{prompt}`")]
    UnknownPrompt {
        /// The embedder's folder.
        path: PathBuf,
        /// The name that was given.
        prompt: String,
        /// The names that it has.
        known: Vec<String>,
    },
    /// The embedder's weights or tokenizer could not be loaded or run.
    #[error("embedder `{path}` failed: {problem}")]
    Embedder {
        /// The embedder's folder.
        path: PathBuf,
        /// What candle or the tokenizer said.
        problem: String,
    },
    /// An embedder gave a vector with NaN or infinity in it.
    #[error("the embedder gave a vector that is not finite for the text {text:?}")]
    NotFinite {
        /// The text's beginning.
        text: String,
    },
    /// An embedder gave a vector whose length (L2 norm) is neither 1 nor 0.
    #[error("the embedder gave a vector of length {length}, not 1, for the text {text:?}")]
    NotUnit {
        /// The text's beginning.
        text: String,
        /// The vector's length.
        length: f64,
    },
    /// An embedder gave vectors of more than one dimension.
    #[error("the embedder gave vectors of {found} numbers, and before of {expected}")]
    OtherDimension {
        /// Of the vectors before, in this run or an earlier one.
        expected: usize,
        /// Of these vectors.
        found: usize,
    },
    /// The folder of remembered vectors is damaged.
    #[error("vector cache `{path}` cannot be used: {problem}")]
    VectorCache {
        /// The embedder's folder in the cache.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl AugmentError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Data(error) => error.hint(),
            Self::LeakedRow { .. } => Some(
                "remove it from one of the two; with `data.leaked_rows = \"exclude\"` such rows are \
                 nobody's example (but are still trained on)"
                    .into(),
            ),
            Self::Task(error) => error.hint(),
            Self::Endpoint(error) => error.hint(),
            Self::VectorFile(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Select(error) => error.hint(),
            Self::PathNotFound { .. } => {
                Some("give an existing path, or a hub id of the form `owner/name`".into())
            }
            Self::NoWeights { gguf, .. } if gguf.len() > 1 => Some(format!(
                "download one of {} and give the path to that file",
                quoted(gguf)
            )),
            Self::Offline { .. } | Self::HubStatus { .. } | Self::HubUnreachable { .. } => {
                Some(self.hub_hint())
            }
            Self::UnsupportedEmbedder { .. } => {
                Some("`sentence-transformers/all-MiniLM-L6-v2` works".into())
            }
            Self::OtherDimension { .. } => Some(
                "if the model behind `retrieval.embedder` has changed, delete its folder in the cache"
                    .into(),
            ),
            Self::UnknownPrompt { known, .. } => Some(unknown_prompt_hint(known)),
            Self::VectorCache { path, .. } => {
                Some(format!("delete `{}`; it is made again", path.display()))
            }
            _ => None,
        }
    }

    fn hub_hint(&self) -> String {
        const MIRROR: &str = "point `--mirror` or RAG_TUNE_MIRROR at a folder that has it";
        match self {
            Self::HubStatus {
                status: 401,
                with_token: false,
                ..
            } => "check the spelling; if the repository is private or gated, set HF_TOKEN".into(),
            Self::HubStatus { status: 401, .. } => {
                "the token (HF_TOKEN, or the file `token` in HF_HOME) is not valid; or check the spelling"
                    .into()
            }
            Self::HubStatus {
                status: 403,
                page,
                with_token,
                ..
            } => match with_token {
                true => format!(
                    "accept its licence at {page} with the account of HF_TOKEN, and let the token read it"
                ),
                false => format!("accept its licence at {page}, and set HF_TOKEN"),
            },
            Self::HubStatus { status: 404, .. } => format!("check the spelling, or {MIRROR}"),
            Self::Offline { mirror, cache, .. } => {
                let mirror = match mirror {
                    Some(mirror) => format!("the mirror `{}` and ", mirror.display()),
                    None => String::new(),
                };
                format!(
                    "looked in {mirror}the hub cache `{}`; unset HF_HUB_OFFLINE, or {MIRROR}",
                    cache.display()
                )
            }
            _ => format!("without internet, {MIRROR}"),
        }
    }

    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}

fn unknown_prompt_hint(known: &[String]) -> String {
    let known = match known {
        [] => "it has none".into(),
        known => format!("it has {}", quoted(known)),
    };
    format!("{known}; a prompt of your own must end in a space or a colon")
}

pub(crate) fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
