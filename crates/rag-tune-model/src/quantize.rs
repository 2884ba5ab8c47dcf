//! Quantising on disk: a checkpoint whose block linears are in 8 bits, as bitsandbytes and transformers store LLM.int8.
//!
//! | written | is |
//! | --- | --- |
//! | `X.weight` | i8 `[out, in]`, row by row (see [`rag_tune_kernels::quantize_rows`]) |
//! | `X.SCB` | f32 `[out]`, the rows' absolute maxima |
//! | `X.weight_format` | 0: row by row |
//!
//! Everything else is copied byte for byte. Files keep their names; memory is that of the largest tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use rag_tune_kernels::quantize_rows::{QuantizedRows, quantize_rows};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::checkpoint::{
    Checkpoint, INDEX_FILE, PlannedTensor, Shard, ShardTensor, StoredWeight, header,
};
use crate::error::ModelError;
use crate::loader::named_weight_error;
use crate::lora::Projection;
use crate::lora_settings::module_name;

/// Writes the quantised model's safetensors files, their index if there are several, and config.json into `folder`, which is there;
/// returns the bytes of the weights.
///
/// `progress` is called with the number of tensors done and in all.
///
/// # Errors
/// [`ModelError::AlreadyQuantized`]; the tensor that is missing, mis-shaped, not finite or beyond f16; [`ModelError::Write`].
pub fn write_int8(
    folder: &Path,
    checkpoint: &Checkpoint,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<u64, ModelError> {
    let shards = checkpoint.plain_shards();
    let shards = shards.ok_or_else(|| ModelError::AlreadyQuantized {
        path: checkpoint.path().to_owned(),
    })?;
    let writing = Writing::new(checkpoint);
    writing.find_all(&shards)?;
    let total = shards.iter().map(|shard| shard.tensors.len()).sum();
    let (mut done, mut bytes, mut weight_map) = (0, 0, BTreeMap::new());
    for shard in &shards {
        let planned: Vec<_> = shard
            .tensors
            .iter()
            .flat_map(|tensor| writing.planned(tensor))
            .collect();
        let name = shard.path.file_name().unwrap_or_default().to_string_lossy();
        bytes += planned
            .iter()
            .map(|tensor| tensor.bytes() as u64)
            .sum::<u64>();
        weight_map.extend(
            planned
                .iter()
                .map(|tensor| (tensor.name.clone(), name.to_string())),
        );
        writing.write_shard(&folder.join(&*name), shard, &planned, &mut || {
            done += 1;
            progress(done, total);
        })?;
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": bytes}, "weight_map": weight_map});
        write_json(&folder.join(INDEX_FILE), &index)?;
    }
    write_config(folder, checkpoint)?;
    Ok(bytes)
}

struct Writing<'a> {
    checkpoint: &'a Checkpoint,
    /// Shapes of the block linears by the names of their weights.
    linears: BTreeMap<String, [usize; 2]>,
}

impl<'a> Writing<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Self {
        let config = checkpoint.config();
        let layers = 0..config.num_hidden_layers;
        let places = layers.flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)));
        let linears = places.map(|place| {
            let name = format!("{}.weight", module_name(place));
            (name, place.1.shape(config))
        });
        Self {
            checkpoint,
            linears: linears.collect(),
        }
    }

    /// Notices a missing weight before anything is written.
    fn find_all(&self, shards: &[Shard<'_>]) -> Result<(), ModelError> {
        let tensors = shards.iter().flat_map(|shard| &shard.tensors);
        let stored: BTreeSet<&str> = tensors.map(|tensor| tensor.name).collect();
        match self
            .linears
            .keys()
            .find(|name| !stored.contains(name.as_str()))
        {
            None => Ok(()),
            Some(name) => Err(ModelError::MissingTensor {
                path: self.checkpoint.path().to_owned(),
                name: name.clone(),
            }),
        }
    }

    /// What `tensor` becomes.
    fn planned(&self, tensor: &ShardTensor<'_>) -> Vec<PlannedTensor> {
        let planned = |name: String, dtype, shape: &[usize]| PlannedTensor {
            name,
            dtype,
            shape: shape.to_vec(),
        };
        let Some(shape) = self.linears.get(tensor.name) else {
            return vec![planned(tensor.name.to_owned(), tensor.dtype, tensor.shape)];
        };
        let module = tensor.name.trim_end_matches(".weight");
        vec![
            planned(tensor.name.to_owned(), Dtype::I8, shape),
            planned(format!("{module}.SCB"), Dtype::F32, &shape[..1]),
            planned(format!("{module}.weight_format"), Dtype::U8, &[]),
        ]
    }

    fn write_shard(
        &self,
        path: &Path,
        shard: &Shard<'_>,
        planned: &[PlannedTensor],
        done: &mut dyn FnMut(),
    ) -> Result<(), ModelError> {
        let header = header(planned, ("format", "pt"))
            .map_err(|error| ModelError::corrupt(shard.path, error))?;
        let file = File::create(path).map_err(ModelError::write(path))?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        let mut write = |bytes: &[u8]| writer.write_all(bytes).map_err(ModelError::write(path));
        write(&header)?;
        for tensor in &shard.tensors {
            match self.linears.get(tensor.name) {
                None => write(tensor.bytes)?,
                Some(shape) => {
                    let QuantizedRows { codes, absmax } = self.quantized(tensor.name, *shape)?;
                    write(bytemuck::cast_slice(&codes))?;
                    absmax
                        .iter()
                        .try_for_each(|absmax| write(&absmax.to_le_bytes()))?;
                    write(&[0])?;
                }
            }
            self.checkpoint.release();
            done();
        }
        let file = writer.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all())
            .map_err(ModelError::write(path))
    }

    fn quantized(&self, name: &str, [out, inner]: [usize; 2]) -> Result<QuantizedRows, ModelError> {
        let StoredWeight::Float(values) = self.checkpoint.weight(name, [out, inner])? else {
            unreachable!("nobody has quantised these weights");
        };
        quantize_rows(out, inner, values)
            .map_err(|error| named_weight_error(name, self.checkpoint.path(), error))
    }
}

/// The model's own config.json, which says besides how its weights are stored.
fn write_config(folder: &Path, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    let source = checkpoint.path().join(CONFIG_FILE);
    let text = fs::read_to_string(&source).map_err(ModelError::io(&source))?;
    let mut config: Value =
        serde_json::from_str(&text).map_err(|error| ModelError::config(&source, error))?;
    // The defaults of transformers' `BitsAndBytesConfig(load_in_8bit=True)`.
    config["quantization_config"] = json!({
        "quant_method": "bitsandbytes",
        "load_in_8bit": true,
        "load_in_4bit": false,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_skip_modules": null,
    });
    write_json(&folder.join(CONFIG_FILE), &config)
}

const CONFIG_FILE: &str = "config.json";

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let text = format!("{value:#}\n");
    fs::write(path, text).map_err(ModelError::write(path))
}
