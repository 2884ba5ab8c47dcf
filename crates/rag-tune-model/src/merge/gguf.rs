//! A merged model as a GGUF for llama.cpp: what its `convert_hf_to_gguf.py --outtype q8_0` makes of one.
//!
//! Matrices are Q8_0 (f16 where a row is no multiple of 32 values), norms and biases f32. Rows of `q_proj` and `k_proj` are in
//! llama.cpp's order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::Merge;
use super::weights::{MergedWeights, shape_of};
use crate::checkpoint::{ROPE_DIVISORS, gguf_name, rows_to_interleaved, tensor_names};
use crate::error::ModelError;
use crate::gguf_writer::{GgmlType, GgufTensor, header};
use crate::q8_0;

/// `LLAMA_FTYPE_MOSTLY_Q8_0` of llama.h.
const MOSTLY_Q8_0: u32 = 7;
/// `GGML_QNT_VERSION` of ggml.h.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes the merged model into the file `path`, with its tokenizer, under the name `name`. Returns the file's bytes.
///
/// `progress` is called with the number of tensors done and in all.
///
/// # Errors
/// [`ModelError::NoGgufVocabulary`] if llama.cpp would not tokenise as the base does, [`ModelError::MissingTensor`] or
/// [`ModelError::Shape`] if the base is not what the adapter was loaded for, [`ModelError::NonFinite`] if a merged value does not fit,
/// [`ModelError::Write`].
pub fn write_gguf(
    path: &Path,
    merge: Merge<'_>,
    name: &str,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<u64, ModelError> {
    let config = merge.base.config();
    let metadata = metadata(merge, name)?;
    let weights = MergedWeights::new(merge)?;
    let divisors = config.rope_divisors();
    let names: Vec<String> = tensor_names(config).collect();
    let mut tensors = Vec::with_capacity(names.len() + 1);
    tensors.extend(divisors.iter().map(|divisors| GgufTensor {
        name: ROPE_DIVISORS.to_owned(),
        shape: vec![divisors.len()],
        kind: GgmlType::F32,
    }));
    let extra = tensors.len();
    tensors.extend(names.iter().map(|name| {
        let shape = shape_of(name, config).expect("a Llama's tensor has a shape");
        GgufTensor {
            name: gguf_name(name).expect("a Llama's tensor has a GGUF name"),
            kind: kind(&shape),
            shape,
        }
    }));

    let file = File::create(path).map_err(ModelError::write(path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let mut written = 0;
    let mut write = |bytes: &[u8]| {
        written += bytes.len() as u64;
        writer.write_all(bytes).map_err(ModelError::write(path))
    };
    write(&header(&metadata, &tensors))?;
    if let Some(divisors) = &divisors {
        write(&GgmlType::F32.bytes(ROPE_DIVISORS, divisors)?)?;
        write(&tensors[0].padding())?;
    }
    for (index, (name, tensor)) in names.iter().zip(&tensors[extra..]).enumerate() {
        progress(index, names.len());
        let is_turned = name.contains(".q_proj.") || name.contains(".k_proj.");
        let inner = tensor.shape[1..].iter().product();
        weights.rows(name, &tensor.shape, &mut |rows| {
            let bytes = match is_turned {
                true => {
                    let rows = rows_to_interleaved(rows, config.head_dim, inner);
                    tensor.kind.bytes(&tensor.name, &rows)?
                }
                false => tensor.kind.bytes(&tensor.name, rows)?,
            };
            write(&bytes)
        })?;
        write(&tensor.padding())?;
        merge.base.release();
    }
    progress(names.len(), names.len());
    let file = writer.into_inner().map_err(|error| error.into_error());
    file.and_then(|file| file.sync_all())
        .map_err(ModelError::write(path))?;
    Ok(written)
}

/// In the converter's order.
fn metadata(merge: Merge<'_>, name: &str) -> Result<Vec<(String, Value)>, ModelError> {
    let text = |text: &str| Value::String(text.to_owned());
    let named = [
        ("general.architecture", text("llama")),
        ("general.type", text("model")),
        ("general.name", text(name)),
        ("general.file_type", Value::U32(MOSTLY_Q8_0)),
        (
            "general.quantization_version",
            Value::U32(QUANTIZATION_VERSION),
        ),
    ];
    let mut metadata: Vec<_> = named
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    metadata.extend(merge.base.config().to_gguf());
    metadata.extend(merge.base.gguf_vocabulary()?);
    Ok(metadata)
}

fn kind(shape: &[usize]) -> GgmlType {
    match shape {
        [_, inner] if inner.is_multiple_of(q8_0::BLOCK) => GgmlType::Q8_0,
        [_, _] => GgmlType::F16,
        _ => GgmlType::F32,
    }
}
