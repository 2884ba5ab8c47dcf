//! Everything that can go wrong between a data set's name and its augmented rows.

use std::path::{Path, PathBuf};

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
    /// A line of a data file is not a JSON object.
    #[error("`{path}` line {line}: not a JSON object: {problem}")]
    BadLine {
        /// The data file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A row lacks a field that the task reads.
    #[error("`{path}` line {line}: no field `{field}`")]
    MissingField {
        /// The data file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The field's name.
        field: String,
        /// The fields that the row has.
        present: Vec<String>,
    },
    /// A field that the task reads as text is something else.
    #[error("`{path}` line {line}: field `{field}` is {found}, expected a string")]
    FieldType {
        /// The data file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The field's name.
        field: String,
        /// The JSON type found.
        found: &'static str,
    },
    /// A source row already has a field that augmentation adds.
    #[error("`{path}` row {row}: field `{field}` is one that augmentation writes")]
    ReservedField {
        /// The data file.
        path: PathBuf,
        /// From 0.
        row: usize,
        /// The field's name.
        field: &'static str,
    },
    /// A data file has no rows.
    #[error("`{path}` has no rows")]
    EmptySplit {
        /// The data file.
        path: PathBuf,
    },
    /// A path that was given does not exist.
    #[error("`{path}` does not exist")]
    PathNotFound {
        /// The path as given.
        path: String,
    },
    /// The data source is a file, where a folder or hub id belongs.
    #[error("data source `{path}` is a file, expected a folder or a hub id")]
    SourceIsFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The data source exists but has no such split.
    #[error("`{source_name}` has no split `{split}`")]
    SplitNotFound {
        /// Folder or hub id.
        source_name: String,
        /// The split asked for.
        split: String,
        /// The splits that exist.
        available: Vec<String>,
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
        /// The text.
        text: String,
    },
    /// The file of remembered vectors is damaged.
    #[error("vector cache `{path}` cannot be used: {problem}")]
    VectorCache {
        /// The cache file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Fewer train rows are allowed for a row than it should get.
    #[error(
        "split `{split}` row {row}: only {available} of {rows} train rows may be its examples, \
         `retrieval.examples` asks for {wanted}"
    )]
    TooFewExamples {
        /// The split.
        split: String,
        /// From 0.
        row: usize,
        /// Train rows that pass the constraints.
        available: usize,
        /// Train rows in the knowledge base.
        rows: usize,
        /// Examples asked for.
        wanted: usize,
    },
    /// The prompt template could not be rendered.
    #[error("cannot render the prompt: {problem}")]
    Template {
        /// What the template engine said.
        problem: String,
    },
}

impl AugmentError {
    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingField { present, .. } => Some(format!(
                "the row has {}; the task's columns and `retrieval.different` must be in every row",
                quoted(present)
            )),
            Self::ReservedField { .. } => Some(
                "`data.source` must name the source rows, not augmented ones; else rename the field"
                    .into(),
            ),
            Self::PathNotFound { .. } => {
                Some("give an existing path, or a hub id of the form `owner/name`".into())
            }
            Self::SourceIsFile { path } => Some(format!(
                "name the folder that holds `<split>.jsonl`: `{}`",
                path.parent().unwrap_or(Path::new(".")).display()
            )),
            Self::SplitNotFound { available, .. } if available.is_empty() => {
                Some("a split is a file `<split>.jsonl`, and there is none".into())
            }
            Self::SplitNotFound { available, .. } => {
                Some(format!("it has {}", quoted(available)))
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
            Self::VectorCache { path, .. } => {
                Some(format!("delete `{}`; it is made again", path.display()))
            }
            Self::TooFewExamples { available, .. } => Some(format!(
                "set `retrieval.examples` to at most {available}, or drop a column from `retrieval.different`"
            )),
            _ => None,
        }
    }

    fn hub_hint(&self) -> String {
        const MIRROR: &str = "point `--mirror` or RAG_TUNE_MIRROR at a folder that has it";
        match self {
            Self::HubStatus { status: 401, .. } => {
                "check the spelling; if the repository is private or gated, set HF_TOKEN".into()
            }
            Self::HubStatus {
                status: 403,
                id,
                endpoint,
            } => {
                format!("accept its licence at {endpoint}/{id} with the account of HF_TOKEN")
            }
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

fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
