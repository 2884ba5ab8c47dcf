//! What can go wrong between a checkpoint on disk and the model's output.

use std::path::{Path, PathBuf};

/// An error of this crate. Messages say what failed and where;
/// [`ModelError::hint`] says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused to open or read a file.
    #[error("cannot read `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A folder holds neither safetensors nor a .gguf file.
    #[error("`{path}` holds no model weights: no model.safetensors, no index, no .gguf file")]
    NoWeights {
        /// The folder that was searched.
        path: PathBuf,
    },
    /// A folder holds several .gguf files and no safetensors.
    #[error("`{path}` holds {} .gguf files: {}", files.len(), files.join(", "))]
    SeveralGguf {
        /// The folder that was searched.
        path: PathBuf,
        /// File names, sorted.
        files: Vec<String>,
    },
    /// A pattern of ranks or alphas is of no layer that learns.
    #[error(
        "the pattern `{pattern}` of `lora.rank_pattern` or `lora.alpha_pattern` matches no layer that learns"
    )]
    PatternMatchesNothing {
        /// As it was given.
        pattern: String,
    },
    /// A file ends before the data that its header promises.
    #[error("`{path}` is truncated: {detail}")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What is missing, with byte counts where they are known.
        detail: String,
    },
    /// A file's content contradicts its format.
    #[error("`{path}` is corrupt: {detail}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A tensor that the architecture needs is absent.
    #[error("`{path}` has no tensor `{name}`")]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name, with the GGUF name where that differs.
        name: String,
    },
    /// There are tensors that a model of this configuration does not have.
    #[error(
        "`{path}` holds {} that a Llama of its configuration does not use: {}",
        counted(names),
        some_of(names)
    )]
    UnusedTensors {
        /// The checkpoint.
        path: PathBuf,
        /// All their names, as the file spells them.
        names: Vec<String>,
    },
    /// A tensor's shape contradicts the model's configuration.
    #[error("`{name}` in `{path}` is {got:?}, expected {expected:?} ({axes})")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What the axes mean, for instance `out, in`.
        axes: &'static str,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// The checkpoint is of an architecture other than Llama.
    #[error("`{path}` is a `{architecture}` model; only `llama` is supported")]
    UnknownArchitecture {
        /// The file that names the architecture.
        path: PathBuf,
        /// The name that it gives.
        architecture: String,
    },
    /// The checkpoint's own configuration is unusable.
    #[error("`{path}`: {detail}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key and what is wrong with it.
        detail: String,
    },
    /// The model uses something that this crate does not implement.
    #[error("`{path}` needs {feature}, which is not supported")]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// The feature, by its name in the file.
        feature: String,
    },
    /// The tokenizer cannot be read or built.
    #[error("tokenizer of `{path}`: {detail}")]
    Tokenizer {
        /// The file that it comes from.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A text or its ids cannot be converted.
    #[error("cannot tokenise with `{path}`: {detail}")]
    Tokenise {
        /// The file that the tokenizer comes from.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// An index, length or size given by the caller contradicts the model.
    #[error("{what} is {got}, {expected}")]
    Argument {
        /// The argument's name.
        what: &'static str,
        /// Its value.
        got: usize,
        /// What it must be, for instance `at most 8192`.
        expected: String,
    },
    /// An option of generation is out of range.
    #[error("{what} is {got}, expected {expected}")]
    Generation {
        /// The option.
        what: &'static str,
        /// Its value.
        got: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A checkpoint is quantised already, and not as `[model]` asks for.
    #[error(
        "the weights in `{path}` are quantized already: `model.{key}` is {got}, but they are stored as {stored}"
    )]
    QuantizationMismatch {
        /// The checkpoint.
        path: PathBuf,
        /// The key of `[model]`.
        key: &'static str,
        /// Its value.
        got: String,
        /// The value that the checkpoint has.
        stored: String,
    },
    /// An adapter was made for a model of another shape.
    #[error("`{path}` does not fit the base model: {detail}")]
    AdapterMismatch {
        /// The adapter's file.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// An adapter changes the head or the embedding.
    #[error("`{path}` adapts `{module}`, which is not supported")]
    AdapterOutsideBlocks {
        /// The adapter's configuration.
        path: PathBuf,
        /// `lm_head` or `model.embed_tokens`.
        module: &'static str,
    },
    /// A GGUF cannot say how a tokenizer works.
    #[error("the tokenizer of `{path}` cannot be written into a GGUF: {detail}")]
    NoGgufVocabulary {
        /// The file that it comes from.
        path: PathBuf,
        /// What has no name there.
        detail: String,
    },
    /// Weights that are to be quantised are no plain floats.
    #[error("the weights in `{path}` are quantized already")]
    AlreadyQuantized {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The operating system refused to write a file.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// Arguments of an operation contradict each other.
    #[error(transparent)]
    Kernel(#[from] rag_tune_kernels::KernelError),
    /// A computation left the finite numbers.
    #[error("{what} holds {count} values that are not finite")]
    NonFinite {
        /// The tensor or quantity.
        what: String,
        /// How many of its values are NaN or infinite.
        count: usize,
    },
    /// A weight cannot be quantised as bitsandbytes does it.
    #[error(
        "{what} holds a value of magnitude {largest}, beyond f16's 65,504, which 8-bit quantization goes through"
    )]
    BeyondF16 {
        /// The tensor.
        what: String,
        /// The largest magnitude.
        largest: f32,
    },
}

impl ModelError {
    /// Whether a device's memory is not enough for what was asked: less at once may go.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Kernel(error) if error.is_out_of_memory())
    }

    /// How the user can mend it, where that is known.
    pub fn hint(&self) -> Option<String> {
        if let Self::QuantizationMismatch { key, stored, .. } = self {
            return Some(format!(
                "set `model.{key} = {stored}`: such weights are used as they are"
            ));
        }
        let hint = match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "check `model.base`; a hub id needs a mirror (`--mirror`), a filled cache or a network"
            }
            Self::NoWeights { .. } => {
                "`model.base` must name a folder with config.json and safetensors, or a .gguf file; \
                 pytorch_model.bin is not read"
            }
            Self::SeveralGguf { .. } => {
                "name one of them: set `model.base` to the .gguf file itself"
            }
            Self::Truncated { .. } => {
                "the download did not finish: delete the file and fetch it again"
            }
            Self::Corrupt { .. } => {
                "fetch the file again; a file of a few hundred bytes is a Git LFS pointer \
                 (`git lfs pull` gets the real one)"
            }
            Self::MissingTensor { .. } => {
                "this is no complete Llama checkpoint: an adapter, or one part of several?"
            }
            Self::UnusedTensors { .. } => {
                "without them it would be another model: config.json is not these weights' own (`num_hidden_layers`, \
                 `attention_bias`, `mlp_bias`, `quantization_config`), or the architecture is another one"
            }
            Self::PatternMatchesNothing { .. } => {
                "a pattern is a regular expression for the end of a layer's name, from a dot on: `q_proj`, \
                 `layers.0.mlp.up_proj`"
            }
            Self::Shape { .. } => "config.json and the weights are of different models",
            Self::UnknownArchitecture { .. } => {
                "use a Llama-architecture model: CodeLlama, Llama 2, SmolLM2, TinyLlama"
            }
            Self::Tokenizer { .. } => {
                "put the original model's tokenizer.json beside the weights; it is used first"
            }
            Self::AdapterMismatch { .. } => {
                "evaluate the adapter on the base model that it was trained on (`model.base`)"
            }
            Self::AlreadyQuantized { .. } => {
                "name the original model: a folder with safetensors in 16 or 32 bits"
            }
            Self::BeyondF16 { .. } => {
                "hold it otherwise: `model.quantization = \"none\"` or `\"nf4\"`"
            }
            Self::AdapterOutsideBlocks { .. } => crate::lora::BLOCKS_ONLY,
            Self::NoGgufVocabulary { .. } => {
                "write safetensors (without --gguf) and convert them with llama.cpp's convert_hf_to_gguf.py, or let llama.cpp \
                 apply the adapter unmerged (`rag-tune export --format gguf`)"
            }
            Self::Kernel(error) if error.is_out_of_memory() => {
                "give up less of it to other programs, or ask for less: of training, a lower `train.max_length` and \
                 `train.activations = \"full\"`; of answers, a lower `eval.batch_size`; of the model, `model.quantization = \"int8\"`"
            }
            Self::Io { .. }
            | Self::Write { .. }
            | Self::Kernel(_)
            | Self::Config { .. }
            | Self::QuantizationMismatch { .. }
            | Self::Unsupported { .. }
            | Self::Tokenise { .. }
            | Self::Argument { .. }
            | Self::Generation { .. }
            | Self::NonFinite { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// For `map_err`: an I/O error at `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// For `map_err`: a file that cannot be written.
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }

    /// A [`ModelError::Corrupt`] at `path`.
    pub(crate) fn corrupt(path: &Path, detail: impl ToString) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// A [`ModelError::Config`] at `path`.
    pub(crate) fn config(path: &Path, detail: impl ToString) -> Self {
        Self::Config {
            path: path.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// A [`ModelError::Tokenizer`] at `path`.
    pub(crate) fn tokenizer(path: &Path, detail: impl ToString) -> Self {
        Self::Tokenizer {
            path: path.to_owned(),
            detail: detail.to_string(),
        }
    }
}

/// How many tensors.
fn counted(names: &[String]) -> String {
    match names.len() {
        1 => "a tensor".to_owned(),
        count => format!("{count} tensors"),
    }
}

/// The first few names.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    let rest = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{rest}", shown.join(", "))
}
