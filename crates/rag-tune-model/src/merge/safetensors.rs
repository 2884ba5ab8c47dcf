//! A merged model as safetensors files.
//!
//! Where the base has such files its own are followed, name by name and tensor by tensor; a file whose tensors all keep their type has the
//! base's header, byte for byte. Of another base (GGUF, bitsandbytes) the tensors are spread over files of up to 5 GB.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::Merge;
use super::weights::{MergedWeights, shape_of};
use crate::checkpoint::{
    Checkpoint, INDEX_FILE, PlannedTensor, SINGLE_FILE, Shard, header, tensor_names,
};
use crate::error::ModelError;
use crate::interchange::ExportDtype;

/// Bytes of a file, unless one tensor has more.
const FILE_BYTES: usize = 5_000_000_000;

/// The type of a base's weights that are stored otherwise than in floating point.
const OF_QUANTIZED: ExportDtype = ExportDtype::Bf16;

/// Writes the merged model's safetensors files, their index if there are several, and config.json where it is not the base's
/// own into `folder`, which is there.
///
/// Tensors keep their type unless `dtype` names another; of a base that is stored quantised they are bf16 then. A tensor that does not change
/// is copied; others are rounded to the nearest, ties to even. `progress` is called with the number of tensors done and in all.
///
/// # Errors
/// [`ModelError::MissingTensor`] or [`ModelError::Shape`] if the base is not what the adapter was loaded for,
/// [`ModelError::NonFinite`] if a merged value does not fit its type, [`ModelError::Unsupported`] for a model that config.json
/// cannot describe, [`ModelError::Write`].
pub fn write_merged(
    folder: &Path,
    merge: Merge<'_>,
    dtype: Option<ExportDtype>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), ModelError> {
    let weights = MergedWeights::new(merge)?;
    let (files, dtype) = match merge.base.plain_shards() {
        Some(shards) => (files_like(&shards, merge.base, dtype), dtype),
        None => {
            let dtype = dtype.unwrap_or(OF_QUANTIZED);
            (files_of(merge.base, dtype), Some(dtype))
        }
    };
    if let Some(dtype) = dtype {
        write_config(folder, merge.base, dtype)?;
    }
    let total = files.iter().map(|file| file.tensors.len()).sum();
    let mut done = 0;
    for file in &files {
        write_file(folder, file, merge.base, &weights, &mut || {
            done += 1;
            progress(done, total);
        })?;
    }
    match files.len() {
        1 => Ok(()),
        _ => write_index(folder, &files, merge.base),
    }
}

/// A file that is to be written.
struct PlannedFile<'a> {
    name: String,
    tensors: Vec<(PlannedTensor, Option<&'a [u8]>)>,
    /// What precedes the tensors in the base's file, if it fits.
    header: Option<&'a [u8]>,
}

/// The base's files. With each tensor its stored bytes, if they are of the type that is wanted.
fn files_like<'a>(
    shards: &[Shard<'a>],
    base: &Checkpoint,
    dtype: Option<ExportDtype>,
) -> Vec<PlannedFile<'a>> {
    let file = |shard: &Shard<'a>| {
        let tensors = shard.tensors.iter().map(|tensor| {
            // What is no part of a Llama, RoPE's frequencies for one, stays as it is.
            let is_own = shape_of(tensor.name, base.config()).is_some();
            let dtype = match dtype {
                Some(dtype) if is_own => dtype.in_safetensors(),
                _ => tensor.dtype,
            };
            let planned = PlannedTensor {
                name: tensor.name.to_owned(),
                dtype,
                shape: tensor.shape.to_vec(),
            };
            (planned, (dtype == tensor.dtype).then_some(tensor.bytes))
        });
        let tensors: Vec<_> = tensors.collect();
        let is_same = tensors.iter().all(|(_, stored)| stored.is_some());
        let name = shard.path.file_name().unwrap_or_default();
        PlannedFile {
            name: name.to_string_lossy().into_owned(),
            tensors,
            header: is_same.then_some(shard.header),
        }
    };
    shards.iter().map(file).collect()
}

/// Files of a base that has none of the kind.
fn files_of(base: &Checkpoint, dtype: ExportDtype) -> Vec<PlannedFile<'static>> {
    let mut files = vec![Vec::new()];
    let mut bytes = 0;
    for name in tensor_names(base.config()) {
        let shape = shape_of(&name, base.config()).expect("a Llama's tensor has a shape");
        let tensor = PlannedTensor {
            name,
            dtype: dtype.in_safetensors(),
            shape,
        };
        bytes += tensor.bytes();
        if bytes > FILE_BYTES && !files.last().is_some_and(Vec::is_empty) {
            files.push(Vec::new());
            bytes = tensor.bytes();
        }
        let last = files.last_mut().expect("there is one from the start");
        last.push((tensor, None));
    }
    let count = files.len();
    let named = files.into_iter().enumerate().map(|(index, tensors)| {
        let name = match count {
            1 => SINGLE_FILE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        PlannedFile {
            name,
            tensors,
            header: None,
        }
    });
    named.collect()
}

fn write_file(
    folder: &Path,
    file: &PlannedFile<'_>,
    base: &Checkpoint,
    weights: &MergedWeights<'_>,
    done: &mut dyn FnMut(),
) -> Result<(), ModelError> {
    let path = folder.join(&file.name);
    let created = File::create(&path).map_err(ModelError::write(&path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, created);
    let mut write = |bytes: &[u8]| writer.write_all(bytes).map_err(ModelError::write(&path));
    match file.header {
        Some(header) => write(header)?,
        None => {
            let planned: Vec<_> = file
                .tensors
                .iter()
                .map(|(tensor, _)| tensor.clone())
                .collect();
            let header = header(&planned, ("format", "pt"));
            write(&header.map_err(|error| ModelError::corrupt(&path, error))?)?;
        }
    }
    for (tensor, stored) in &file.tensors {
        let name = &tensor.name;
        match stored {
            Some(bytes) if weights.is_stored(name) => write(bytes)?,
            _ => {
                let dtype = ExportDtype::of_safetensors(tensor.dtype);
                let dtype = dtype.ok_or_else(|| ModelError::Unsupported {
                    path: base.path().to_owned(),
                    feature: format!("tensors of type {:?} (`{name}`)", tensor.dtype),
                })?;
                weights.rows(name, &tensor.shape, &mut |rows| {
                    write(&dtype.bytes(name, rows)?)
                })?;
            }
        }
        base.release();
        done();
    }
    let file = writer.into_inner().map_err(|error| error.into_error());
    file.and_then(|file| file.sync_all())
        .map_err(ModelError::write(&path))
}

/// The base's own index where no tensor changes its type or place.
fn write_index(
    folder: &Path,
    files: &[PlannedFile<'_>],
    base: &Checkpoint,
) -> Result<(), ModelError> {
    let path = folder.join(INDEX_FILE);
    if files.iter().all(|file| file.header.is_some()) {
        let own = base.path().join(INDEX_FILE);
        return fs::copy(&own, &path)
            .map(|_| ())
            .map_err(ModelError::write(&path));
    }
    let placed = files.iter().flat_map(|file| {
        let tensors = file.tensors.iter();
        tensors.map(|(tensor, _)| (&tensor.name, &file.name, tensor.bytes()))
    });
    let bytes: usize = placed.clone().map(|(_, _, bytes)| bytes).sum();
    let weight_map: BTreeMap<_, _> = placed.map(|(tensor, file, _)| (tensor, file)).collect();
    let index = json!({"metadata": {"total_size": bytes}, "weight_map": weight_map});
    write_json(&path, &index)
}

/// config.json of weights in `dtype`: the base's own but for what it says of types.
fn write_config(folder: &Path, base: &Checkpoint, dtype: ExportDtype) -> Result<(), ModelError> {
    let own = base.path().join(CONFIG_FILE);
    let mut config: Value = match base.path().is_dir() && own.is_file() {
        true => {
            let text = fs::read_to_string(&own).map_err(ModelError::io(&own))?;
            serde_json::from_str(&text).map_err(|error| ModelError::config(&own, error))?
        }
        false => base.config().to_config_json(base.path())?,
    };
    if let Some(keys) = config.as_object_mut() {
        keys.remove("quantization_config");
        // Since transformers 4.56; older releases know the other name.
        let key = match keys.contains_key("dtype") {
            true => "dtype",
            false => "torch_dtype",
        };
        keys.insert(key.to_owned(), json!(dtype.name_in_torch()));
    }
    write_json(&folder.join(CONFIG_FILE), &config)
}

const CONFIG_FILE: &str = "config.json";

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    fs::write(path, format!("{value:#}\n")).map_err(ModelError::write(path))
}
