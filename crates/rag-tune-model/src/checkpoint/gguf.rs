//! GGUF: metadata and tensors of one file, read by candle, checked by us.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};

use super::gguf_names::{gguf_name, rows_to_half_split};
use super::mapped_file::MappedFile;
use super::{StoredTensor, check_shape};
use crate::config::{GgufTensors, LlamaConfig, from_gguf_metadata};
use crate::error::ModelError;
use crate::gguf_metadata::GgufMetadata;
use crate::lora::Projection;

/// What the frequencies of RoPE are divided by, `[head_dim / 2]`.
pub(crate) const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// An opened GGUF file. Every tensor lies inside the file: `open` checks it.
#[derive(Debug)]
pub(super) struct GgufFile {
    file: MappedFile,
    content: Content,
}

impl GgufFile {
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = MappedFile::open(path)?;
        if !file.bytes().starts_with(b"GGUF") {
            return Err(ModelError::corrupt(
                path,
                "it does not begin with the letters GGUF",
            ));
        }
        refuse_zero_alignment(path, file.bytes())?;
        let content = Content::read(&mut Cursor::new(file.bytes()))
            .map_err(|error| header_error(path, &error))?;
        let opened = Self { file, content };
        opened.check_extents()?;
        Ok(opened)
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub fn metadata(&self) -> &HashMap<String, Value> {
        &self.content.metadata
    }

    /// The model's shape, from the metadata and the embedding's.
    pub fn config(&self) -> Result<LlamaConfig, ModelError> {
        let tensors = GgufTensors {
            vocab_size: self
                .info("token_embd.weight")?
                .shape
                .dims()
                .first()
                .map_or(0, |n| *n),
            has_output: self.content.tensor_infos.contains_key("output.weight"),
            attention_bias: self.has_bias("attn_"),
            mlp_bias: self.has_bias("ffn_"),
            rope_divisors: match self.content.tensor_infos.get(ROPE_DIVISORS) {
                Some(info) => Some(self.dequantized(ROPE_DIVISORS, info)?),
                None => None,
            },
        };
        let metadata = GgufMetadata {
            path: self.path(),
            values: self.metadata(),
        };
        from_gguf_metadata(&metadata, &tensors)
    }

    /// Whether a linear layer of the first block whose name begins so has a bias.
    fn has_bias(&self, prefix: &str) -> bool {
        let biases = Projection::ALL.into_iter().filter_map(|projection| {
            gguf_name(&format!("model.layers.0.{}.bias", projection.path()))
        });
        let prefix = format!("blk.0.{prefix}");
        biases
            .filter(|name| name.starts_with(&prefix))
            .any(|name| self.content.tensor_infos.contains_key(&name))
    }

    /// See [`super::Checkpoint::tensor`].
    pub fn tensor(
        &self,
        hf_name: &str,
        shape: &[usize],
        config: &LlamaConfig,
    ) -> Result<Vec<f32>, ModelError> {
        let name = gguf_name(hf_name).ok_or_else(|| ModelError::MissingTensor {
            path: self.path().to_owned(),
            name: hf_name.to_owned(),
        })?;
        let info = self.info(&name)?;
        check_shape(
            self.path(),
            &format!("{name} ({hf_name})"),
            shape,
            info.shape.dims(),
        )?;
        let values = self.dequantized(&name, info)?;
        // Biases too.
        let half_split = hf_name.contains(".q_proj.") || hf_name.contains(".k_proj.");
        match *shape {
            [rows, ref inner @ ..] if half_split && rows.is_multiple_of(config.head_dim) => {
                let in_features = inner.iter().product();
                Ok(rows_to_half_split(&values, config.head_dim, in_features))
            }
            _ => Ok(values),
        }
    }

    fn dequantized(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, ModelError> {
        let mut reader = Cursor::new(self.file.bytes());
        info.read(&mut reader, self.content.tensor_data_offset, &Device::Cpu)
            .and_then(|quantized| quantized.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1())
            .map_err(|error| {
                ModelError::corrupt(
                    self.path(),
                    format!("tensor `{name}`: {}", first_line(&error)),
                )
            })
    }

    /// See [`MappedFile::release`].
    pub fn release(&self) {
        self.file.release();
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sorted_infos().into_iter().map(|(name, _)| name)
    }

    fn sorted_infos(&self) -> Vec<(&str, &TensorInfo)> {
        let infos = self.content.tensor_infos.iter();
        let mut infos: Vec<_> = infos.map(|(name, info)| (name.as_str(), info)).collect();
        infos.sort_by_key(|(name, _)| *name);
        infos
    }

    /// Every tensor, ordered by name.
    pub fn stored_tensors(&self) -> impl Iterator<Item = StoredTensor<'_>> {
        self.sorted_infos().into_iter().map(|(name, info)| {
            // `check_extents` has seen that this lies inside the file.
            let start = (self.content.tensor_data_offset + info.offset) as usize;
            let end = start + stored_bytes(info).unwrap_or(0);
            StoredTensor {
                name,
                dtype: format!("{:?}", info.ggml_dtype),
                shape: info.shape.dims().to_vec(),
                bytes: &self.file.bytes()[start..end],
            }
        })
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.content
            .tensor_infos
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor {
                path: self.path().to_owned(),
                name: name.to_owned(),
            })
    }

    /// Notices a truncated file now, not at its last tensor.
    fn check_extents(&self) -> Result<(), ModelError> {
        let file_bytes = self.file.bytes().len() as u64;
        for (name, info) in &self.content.tensor_infos {
            let Some(bytes) = stored_bytes(info) else {
                let (shape, dtype) = (info.shape.dims(), info.ggml_dtype);
                let detail = format!("tensor `{name}` cannot be {shape:?} of type {dtype:?}");
                return Err(ModelError::corrupt(self.path(), detail));
            };
            let end = self.content.tensor_data_offset.checked_add(info.offset);
            let end = end.and_then(|start| start.checked_add(bytes as u64));
            if end.is_none_or(|end| end > file_bytes) {
                return Err(ModelError::Truncated {
                    path: self.path().to_owned(),
                    detail: match end {
                        Some(end) => format!(
                            "tensor `{name}` ends at byte {end}, the file at byte {file_bytes}"
                        ),
                        None => format!("tensor `{name}` begins beyond any file"),
                    },
                });
            }
        }
        Ok(())
    }
}

/// How many bytes a tensor takes; `None` where shape and type do not fit.
fn stored_bytes(info: &TensorInfo) -> Option<usize> {
    let values = info
        .shape
        .dims()
        .iter()
        .try_fold(1, |n: usize, dim| n.checked_mul(*dim))?;
    let block = info.ggml_dtype.block_size();
    let last = info.shape.dims().last()?;
    if !last.is_multiple_of(block) {
        return None;
    }
    (values / block).checked_mul(info.ggml_dtype.type_size())
}

/// candle divides by `general.alignment` without looking, so a zero must not
/// reach it. The key is among the first of a file; the vocabulary comes later.
fn refuse_zero_alignment(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    const KEY: &[u8] = b"general.alignment";
    const VALUE_TYPE_BYTES: usize = 4;
    let head = &bytes[..bytes.len().min(1 << 20)];
    let Some(key) = head.windows(KEY.len()).position(|window| window == KEY) else {
        return Ok(());
    };
    let value_type = head[key + KEY.len()..].first();
    let value_bytes = match value_type {
        Some(0 | 1) => 1,
        Some(2 | 3) => 2,
        _ => 4,
    };
    let start = key + KEY.len() + VALUE_TYPE_BYTES;
    match head.get(start..start + value_bytes) {
        Some(value) if value.iter().all(|byte| *byte == 0) => {
            Err(ModelError::corrupt(path, "its `general.alignment` is zero"))
        }
        _ => Ok(()),
    }
}

fn header_error(path: &Path, error: &candle_core::Error) -> ModelError {
    let message = first_line(error);
    // A type that is newer than candle is no damage.
    if message.contains("unknown dtype") {
        let feature = format!(
            "a tensor type beyond F32, F16, BF16, Q4_0 to Q8_1 and Q2_K to Q8_K ({message})"
        );
        return ModelError::Unsupported {
            path: path.to_owned(),
            feature,
        };
    }
    if message.contains("remaining") || message.contains("fill whole buffer") {
        let detail = format!("it ends inside its header ({message})");
        return ModelError::Truncated {
            path: path.to_owned(),
            detail,
        };
    }
    ModelError::corrupt(path, format!("its header cannot be read ({message})"))
}

/// candle appends a backtrace to its messages where one is asked for.
fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
