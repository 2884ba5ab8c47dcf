//! A checkpoint on disk, behind one interface: Hugging Face tensor names,
//! row-major f32, whatever the file format and precision.
//!
//! - [`Checkpoint::open`] finds the weights and reads every header, so that a
//!   truncated file is noticed before minutes of loading.
//! - `safetensors.rs` and `gguf.rs` hold one format each, memory-mapped: a
//!   tensor costs memory only while somebody holds its values.
//! - `bitsandbytes.rs` reads weights that are quantised already.
//! - `names.rs` checks that the tensors are those of the model.
//! - `read_ahead.rs` reads large models while they are quantised.
//! - `fingerprint.rs` says whether two checkpoints hold the same weights.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use rag_tune_kernels::Floats;

use crate::config::{self, LlamaConfig, StoredQuantization};
use crate::error::ModelError;
use crate::gguf_metadata::GgufMetadata;
use crate::tokenizer::{TOKENIZER_JSON, TOKENIZER_MODEL, Tokenizer};

mod bitsandbytes;
mod fingerprint;
mod gguf;
mod gguf_names;
mod mapped_file;
mod names;
mod read_ahead;
mod safetensors;
mod write;

pub(crate) use self::bitsandbytes::StoredWeight;
use self::gguf::GgufFile;
pub(crate) use self::gguf::ROPE_DIVISORS;
pub(crate) use self::gguf_names::{gguf_name, rows_to_interleaved};
use self::names::Naming;
pub(crate) use self::names::tensor_names;
pub(crate) use self::read_ahead::ReadAhead;
use self::safetensors::SafetensorsFiles;
pub(crate) use self::safetensors::{
    HEADER_LENGTH_BYTES, INDEX_FILE, SINGLE_FILE, Shard, ShardTensor,
};
pub(crate) use self::write::{PlannedTensor, header};

/// Smaller models lie in the page cache, or will from now on.
const READ_AHEAD_BYTES: u64 = 1 << 30;

/// An opened checkpoint. Cheap to open and to keep; shareable between threads.
#[derive(Debug)]
pub struct Checkpoint {
    weights: Weights,
    config: LlamaConfig,
    fingerprint: String,
}

#[derive(Debug)]
enum Weights {
    Safetensors {
        folder: PathBuf,
        files: SafetensorsFiles,
        quantization: Option<StoredQuantization>,
    },
    Gguf(GgufFile),
}

/// A tensor as it lies in a file.
struct StoredTensor<'a> {
    name: &'a str,
    dtype: String,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl Checkpoint {
    /// Opens a folder (safetensors first, else its one .gguf) or a .gguf file.
    ///
    /// # Errors
    /// No or several candidates, an unreadable, truncated or corrupt file, a
    /// configuration that is not a Llama or needs what is not supported,
    /// a tensor that is missing ([`ModelError::MissingTensor`]) or that such a
    /// model does not have ([`ModelError::UnusedTensors`]).
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let kind = fs::metadata(path).map_err(ModelError::io(path))?;
        if !kind.is_dir() {
            return Self::open_gguf(path);
        }
        match SafetensorsFiles::open(path)? {
            Some(files) => Self::open_safetensors(path, files),
            None => Self::open_gguf(&only_gguf(path)?),
        }
    }

    fn open_safetensors(folder: &Path, files: SafetensorsFiles) -> Result<Self, ModelError> {
        let config_path = folder.join("config.json");
        let text = fs::read_to_string(&config_path).map_err(ModelError::io(&config_path))?;
        let config = config::from_config_json(&config_path, &text)?;
        let quantization = StoredQuantization::from_config_json(&config_path, &text)?;
        let naming = match quantization {
            Some(_) => Naming::Bitsandbytes,
            None => Naming::HuggingFace,
        };
        names::check(folder, &config, naming, files.names())?;
        let fingerprint = fingerprint::fingerprint(&config, files.stored_tensors());
        let weights = Weights::Safetensors {
            folder: folder.to_owned(),
            files,
            quantization,
        };
        Ok(Self {
            weights,
            config,
            fingerprint,
        })
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let file = GgufFile::open(path)?;
        let config = file.config()?;
        names::check(path, &config, Naming::Gguf, file.names())?;
        let fingerprint = fingerprint::fingerprint(&config, file.stored_tensors());
        Ok(Self {
            weights: Weights::Gguf(file),
            config,
            fingerprint,
        })
    }

    /// Shape and constants of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// How the block linears are stored, where bitsandbytes has quantised them.
    pub fn stored_quantization(&self) -> Option<StoredQuantization> {
        match self.weights {
            Weights::Safetensors { quantization, .. } => quantization,
            Weights::Gguf(_) => None,
        }
    }

    /// Identity of the weights: `sha256:` over the configuration, every
    /// tensor's name, type and shape, and a sample of every tensor's bytes.
    ///
    /// The same weights give the same fingerprint wherever they lie and
    /// however they are sharded; another precision is another fingerprint. A
    /// change of single values between the samples goes unnoticed: it tells
    /// models apart, and does not detect a damaged file.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The folder or file that holds the weights.
    pub fn path(&self) -> &Path {
        match &self.weights {
            Weights::Safetensors { folder, .. } => folder,
            Weights::Gguf(file) => file.path(),
        }
    }

    /// The files that hold the weights.
    pub(crate) fn files(&self) -> Vec<&Path> {
        match &self.weights {
            Weights::Safetensors { files, .. } => files.paths().collect(),
            Weights::Gguf(file) => vec![file.path()],
        }
    }

    /// Bytes of the files that hold the weights.
    pub fn file_bytes(&self) -> u64 {
        let files = self.files().into_iter();
        let lengths = files.map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len()));
        lengths.sum()
    }

    /// A name for messages: the hub id where the path shows it (a hub cache),
    /// else the folder's or file's own name.
    pub fn name(&self) -> String {
        let path = self.path();
        let cached = path
            .ancestors()
            .filter_map(Path::file_name)
            .find_map(|part| {
                let id = part.to_str()?.strip_prefix("models--")?;
                Some(id.replacen("--", "/", 1))
            });
        let own = || match &self.weights {
            Weights::Safetensors { .. } => path.file_name(),
            Weights::Gguf(_) => path.file_stem(),
        };
        cached
            .or_else(|| own().map(|name| name.to_string_lossy().into_owned()))
            .unwrap_or_else(|| path.display().to_string())
    }

    /// The weight `hf_name` of a linear, `[out, in]`, as it is stored. [`Checkpoint::release`] gives its memory back.
    pub(crate) fn weight(
        &self,
        hf_name: &str,
        shape: [usize; 2],
    ) -> Result<StoredWeight<'_>, ModelError> {
        if let Weights::Safetensors {
            files,
            quantization: Some(_),
            ..
        } = &self.weights
            && let Some(weight) = bitsandbytes::read(files, hf_name, shape)?
        {
            return Ok(weight);
        }
        self.floats(hf_name, &shape).map(StoredWeight::Float)
    }

    /// The values of the tensor `hf_name`, row-major, widened to f32 or dequantised.
    ///
    /// `shape` is what the caller's configuration asks for: `[out, in]` for a
    /// linear, `[vocab, hidden]` for the embedding, `[hidden]` for a norm. The
    /// rows of `q_proj` and `k_proj` are in Hugging Face's order (RoPE turns a
    /// head's first half against its second), also from a GGUF.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::Shape`],
    /// [`ModelError::Unsupported`] for a type that is not a plain float, and
    /// what the file itself may be guilty of.
    pub fn tensor(&self, hf_name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let values = match *shape {
            [out, inner] => self
                .weight(hf_name, [out, inner])?
                .into_floats([out, inner])
                .into_vec(),
            _ => self.floats(hf_name, shape)?.into_vec(),
        };
        self.release();
        Ok(values)
    }

    /// A tensor that is stored in floating point.
    fn floats(&self, hf_name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        match &self.weights {
            Weights::Safetensors { files, .. } => files.floats(hf_name, shape),
            Weights::Gguf(file) => Ok(file.tensor(hf_name, shape, &self.config)?.into()),
        }
    }

    /// The safetensors files as they lie on disk, by name; `None` where there are none, or their weights are quantised.
    pub(crate) fn plain_shards(&self) -> Option<Vec<Shard<'_>>> {
        match &self.weights {
            Weights::Safetensors {
                files,
                quantization: None,
                ..
            } => Some(files.shards()),
            Weights::Safetensors { .. } | Weights::Gguf(_) => None,
        }
    }

    /// Writes the tokenizer that a GGUF carries as files for transformers into `folder`, unless there is one. Of other
    /// checkpoints it is in files already.
    ///
    /// # Errors
    /// As [`Self::tokenizer`]; [`ModelError::Write`].
    pub fn write_tokenizer(&self, folder: &Path) -> Result<(), ModelError> {
        let Weights::Gguf(file) = &self.weights else {
            return Ok(());
        };
        let mut own = [TOKENIZER_JSON, TOKENIZER_MODEL].iter();
        if own.any(|name| folder.join(name).exists()) {
            return Ok(());
        }
        let metadata = GgufMetadata {
            path: file.path(),
            values: file.metadata(),
        };
        let template = metadata.text("tokenizer.chat_template")?;
        self.tokenizer()?.save(folder, template)
    }

    /// The `tokenizer.*` metadata of a GGUF of this model.
    ///
    /// # Errors
    /// [`ModelError::NoGgufVocabulary`] if llama.cpp would tokenise otherwise.
    pub(crate) fn gguf_vocabulary(&self) -> Result<Vec<(String, Value)>, ModelError> {
        let (tokenizer, rows) = (self.tokenizer()?, self.config.vocab_size);
        match &self.weights {
            Weights::Safetensors { folder, .. } => tokenizer.to_gguf(folder, rows),
            Weights::Gguf(file) => {
                let own = file.metadata().iter();
                let own = own.filter(|(key, _)| key.starts_with("tokenizer."));
                let mut own: Vec<_> = own.map(|(k, v)| (k.clone(), v.clone())).collect();
                own.sort_by(|a, b| a.0.cmp(&b.0));
                Ok(own)
            }
        }
    }

    /// Begins to read the tensors `names`, in this order, past the page cache; `None` where mapping the files is as good: they are small,
    /// or what takes the time is something else.
    pub(crate) fn read_ahead(&self, names: &[String]) -> Option<ReadAhead> {
        let Weights::Safetensors {
            files,
            quantization: None,
            ..
        } = &self.weights
        else {
            return None;
        };
        if self.file_bytes() < READ_AHEAD_BYTES {
            return None;
        }
        let tensors = names.iter().map(|name| files.stored_floats(name));
        ReadAhead::start(tensors.collect::<Option<_>>()?).ok()
    }

    /// Gives back the memory of what was read of the weights' files.
    pub(crate) fn release(&self) {
        match &self.weights {
            Weights::Safetensors { files, .. } => files.release(),
            Weights::Gguf(file) => file.release(),
        }
    }

    /// The tokenizer: from a tokenizer.json beside the weights, else from
    /// SentencePiece's tokenizer.model, else from the GGUF's metadata.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let (folder, gguf) = match &self.weights {
            Weights::Safetensors { folder, .. } => (Some(folder.as_path()), None),
            Weights::Gguf(file) => (file.path().parent(), Some(file)),
        };
        let beside = |name: &str| {
            let file = folder.map(|folder| folder.join(name));
            file.filter(|file| file.exists())
        };
        let tokenizer = if let Some(file) = beside(TOKENIZER_JSON) {
            Tokenizer::from_file(&file)?
        } else if let Some(file) = beside(TOKENIZER_MODEL) {
            Tokenizer::from_sentencepiece(&file)?
        } else if let Some(gguf) = gguf {
            Tokenizer::from_gguf_metadata(gguf.path(), gguf.metadata())?
        } else {
            let detail = "neither tokenizer.json nor tokenizer.model in the folder";
            return Err(ModelError::tokenizer(self.path(), detail));
        };
        self.release();
        // Added tokens are left out: CodeLlama-7b-Python's tokenizer has four
        // more of them than its embedding has rows.
        if tokenizer.base_vocab_size() > self.config.vocab_size {
            let detail = format!(
                "{} tokens, but the model's embedding has {} rows",
                tokenizer.base_vocab_size(),
                self.config.vocab_size
            );
            return Err(ModelError::tokenizer(self.path(), detail));
        }
        Ok(tokenizer)
    }
}

/// The one .gguf file of `folder`.
fn only_gguf(folder: &Path) -> Result<PathBuf, ModelError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(ModelError::io(folder))? {
        let path = entry.map_err(ModelError::io(folder))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        {
            files.push(path);
        }
    }
    files.sort();
    match files.len() {
        0 => Err(ModelError::NoWeights {
            path: folder.to_owned(),
        }),
        1 => Ok(files.remove(0)),
        _ => Err(ModelError::SeveralGguf {
            path: folder.to_owned(),
            files: files
                .iter()
                .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
                .collect(),
        }),
    }
}

/// Refuses a tensor whose shape is not the one that the configuration implies.
fn check_shape(
    path: &Path,
    name: &str,
    expected: &[usize],
    got: &[usize],
) -> Result<(), ModelError> {
    if expected == got {
        return Ok(());
    }
    let axes = match expected.len() {
        1 if name.contains(".bias") => "out",
        1 => "hidden",
        _ if name.contains("embed") || name.contains("lm_head") => "vocab, hidden",
        _ => "out, in",
    };
    Err(ModelError::Shape {
        path: path.to_owned(),
        name: name.to_owned(),
        axes,
        expected: expected.to_vec(),
        got: got.to_vec(),
    })
}

#[cfg(test)]
mod tests;
