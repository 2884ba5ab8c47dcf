//! Merging: a model whose weights are `W + scaling B A`, DoRA's lengths included, without an adapter.
//!
//! The base's safetensors files are copied tensor by tensor; a header is the base's own, byte for byte, since no name, shape or
//! type changes. Memory is that of the largest tensor, about three times over in f32. Sums are f32; a result is
//! rounded once, to the nearest (ties to even), into the type that the tensor had.
//!
//! `W` is the stored weight, or what training made of it: with [`Quantization::Int8`] or [`Quantization::Nf4`] every tensor
//! that the quantised model rounds is written as it was rounded, so that the merged model is the one that was trained.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use rag_tune_kernels::{KernelError, Matrix};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, INDEX_FILE, Shard, ShardTensor};
use crate::config::{Compute, ModelConfig, Quantization};
use crate::error::ModelError;
use crate::interchange::ExportDtype;
use crate::linear::{add_update, factor, length};
use crate::llama::{EMBEDDING, HEAD};
use crate::loader::Loader;
use crate::lora::{Adapter, LoraFactors, Place, Projection};
use crate::lora_settings::module_name;
use crate::source::Source;

/// Writes the merged model's safetensors files, and their index if there are several, into `folder`, which is there.
///
/// `held` says what the base's weights are: as stored, or as that quantisation rounds them. `progress` is called with the
/// number of tensors done and in all.
///
/// # Errors
/// [`ModelError::MergeIntoGguf`] if the base is a GGUF, [`ModelError::MissingTensor`] or [`ModelError::Shape`] if it is not
/// what the adapter was loaded for, [`ModelError::NonFinite`] if a merged value does not fit its type,
/// [`ModelError::Write`].
pub fn write_merged(
    folder: &Path,
    checkpoint: &Checkpoint,
    adapter: &Adapter,
    held: &ModelConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), ModelError> {
    let shards = checkpoint.shards()?;
    let merging = Merging::new(checkpoint, adapter, held, &shards)?;
    let total = shards.iter().map(|shard| shard.tensors.len()).sum();
    let mut done = 0;
    for shard in &shards {
        merging.write_shard(folder, shard, &mut || {
            done += 1;
            progress(done, total);
        })?;
    }
    let index = checkpoint.path().join(INDEX_FILE);
    if shards.len() > 1 {
        let path = folder.join(INDEX_FILE);
        fs::copy(&index, &path).map_err(ModelError::write(&path))?;
    }
    Ok(())
}

/// What merging one tensor needs.
struct Merging<'a> {
    checkpoint: &'a Checkpoint,
    adapter: &'a Adapter,
    loader: Loader<'a>,
    /// The block linears by the names of their tensors.
    places: BTreeMap<String, Place>,
    /// Whether what is not adapted stays as it is stored.
    is_original: bool,
}

impl<'a> Merging<'a> {
    /// Notices an adapted layer that the base lacks.
    fn new(
        checkpoint: &'a Checkpoint,
        adapter: &'a Adapter,
        held: &ModelConfig,
        shards: &[Shard<'_>],
    ) -> Result<Self, ModelError> {
        let held = ModelConfig {
            compute: Compute::F32,
            ..held.clone()
        };
        let layers = 0..checkpoint.config().num_hidden_layers;
        let places = layers.flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)));
        let places: BTreeMap<String, Place> = places
            .map(|place| (format!("{}.weight", module_name(place)), place))
            .collect();
        let stored = shards.iter().flat_map(|shard| &shard.tensors);
        let mut missing: Vec<Place> = adapter.layers.keys().copied().collect();
        for tensor in stored {
            if let Some(found) = places.get(tensor.name) {
                missing.retain(|place| place != found);
            }
        }
        if let Some(place) = missing.first() {
            return Err(ModelError::MissingTensor {
                path: checkpoint.path().to_owned(),
                name: format!("{}.weight", module_name(*place)),
            });
        }
        Ok(Self {
            loader: Loader::new(Source::Checkpoint(checkpoint), &held)?,
            checkpoint,
            adapter,
            places,
            is_original: held.quantization == Quantization::None,
        })
    }

    fn write_shard(
        &self,
        folder: &Path,
        shard: &Shard<'_>,
        done: &mut dyn FnMut(),
    ) -> Result<(), ModelError> {
        let name = shard.path.file_name().unwrap_or_default();
        let path = folder.join(name);
        let file = File::create(&path).map_err(ModelError::write(&path))?;
        let mut writer = BufWriter::new(file);
        let mut write = |bytes: &[u8]| writer.write_all(bytes).map_err(ModelError::write(&path));
        write(shard.header)?;
        for tensor in &shard.tensors {
            match self.merged(tensor)? {
                Some(values) => {
                    let dtype = self.dtype(shard, tensor)?;
                    write(&dtype.bytes(tensor.name, &values)?)?;
                }
                None => write(tensor.bytes)?,
            }
            self.checkpoint.release();
            done();
        }
        let file = writer.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all())
            .map_err(ModelError::write(&path))
    }

    /// A tensor's new values; `None` where it stays as it is.
    fn merged(&self, tensor: &ShardTensor<'_>) -> Result<Option<Vec<f32>>, ModelError> {
        let config = self.checkpoint.config();
        let (matrix, update) = match self.places.get(tensor.name) {
            Some(place) => {
                let lora = self.adapter.get(*place);
                if lora.is_none() && self.is_original {
                    return Ok(None);
                }
                let shape = place.1.shape(config);
                let matrix = self.loader.linear(tensor.name, shape)?;
                (
                    matrix,
                    lora.map(|lora| (lora, self.adapter.scaling(*place))),
                )
            }
            None if !self.is_original && [EMBEDDING, HEAD].contains(&tensor.name) => {
                let shape = [config.vocab_size, config.hidden_size];
                (self.loader.wide(tensor.name, shape)?, None)
            }
            None => return Ok(None),
        };
        Ok(Some(merged_rows(&matrix, update)?))
    }

    fn dtype(
        &self,
        shard: &Shard<'_>,
        tensor: &ShardTensor<'_>,
    ) -> Result<ExportDtype, ModelError> {
        match tensor.dtype {
            Dtype::F32 => Ok(ExportDtype::F32),
            Dtype::F16 => Ok(ExportDtype::F16),
            Dtype::BF16 => Ok(ExportDtype::Bf16),
            other => Err(ModelError::Unsupported {
                path: shard.path.to_owned(),
                feature: format!("tensors of type {other:?} (`{}`)", tensor.name),
            }),
        }
    }
}

/// `W + scaling B A`, `[out, in]` row by row; with a magnitude each row has its length.
fn merged_rows(
    weight: &Matrix,
    update: Option<(&LoraFactors, f32)>,
) -> Result<Vec<f32>, KernelError> {
    let [out_features, in_features] = weight.shape();
    if let Some((lora, _)) = update {
        let got = [lora.b.rows(), lora.a.cols()];
        if got != weight.shape() {
            return Err(KernelError::Value {
                operation: "merged_rows",
                problem: format!("an update of {got:?} for a weight of {:?}", weight.shape()),
            });
        }
    }
    let mut rows = vec![0.0; out_features * in_features];
    let each = rows.par_chunks_mut(in_features.max(1)).enumerate();
    each.try_for_each(|(out, row)| {
        weight.read_row(out, row)?;
        let Some((lora, scaling)) = update else {
            return Ok(());
        };
        add_update(row, out, lora, scaling);
        if let Some(magnitude) = &lora.magnitude {
            let factor = factor(magnitude.data()[out], length(row));
            row.iter_mut().for_each(|value| *value *= factor);
        }
        Ok(())
    })?;
    Ok(rows)
}
