//! The values of a merged model's tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use rag_tune_kernels::{KernelError, Matrix};
use rayon::prelude::*;

use super::Merge;
use crate::config::{Compute, LlamaConfig, ModelConfig, Quantization};
use crate::error::ModelError;
use crate::linear::{add_update, factor, length};
use crate::llama::{EMBEDDING, HEAD};
use crate::loader::Loader;
use crate::lora::{LoraFactors, Place, Projection};
use crate::lora_settings::module_name;
use crate::source::Source;

/// Values of a tensor that are made at a time, but for the rest of a head.
const VALUES_AT_A_TIME: usize = 1 << 22;

/// Makes them.
pub(super) struct MergedWeights<'a> {
    merge: Merge<'a>,
    /// Of weights that are rounded as in training; `None` where they stay as they are stored.
    rounding: Option<Loader<'a>>,
    /// The block linears by the names of their tensors.
    places: BTreeMap<String, Place>,
}

impl<'a> MergedWeights<'a> {
    /// Notices an adapted layer that the base lacks, and one of another shape.
    pub(super) fn new(merge: Merge<'a>) -> Result<Self, ModelError> {
        let config = merge.base.config();
        let layers = 0..config.num_hidden_layers;
        let places = layers.flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)));
        let places: BTreeMap<String, Place> = places
            .map(|place| (format!("{}.weight", module_name(place)), place))
            .collect();
        for (place, lora) in &merge.adapter.layers {
            let name = format!("{}.weight", module_name(*place));
            if !places.contains_key(&name) {
                let path = merge.base.path().to_owned();
                return Err(ModelError::MissingTensor { path, name });
            }
            check_update(lora, place.1.shape(config))?;
        }
        let held = ModelConfig {
            compute: Compute::F32,
            ..merge.held.clone()
        };
        // What is stored quantised is rounded already.
        let is_stored =
            held.quantization == Quantization::None || merge.base.stored_quantization().is_some();
        let rounding = match is_stored {
            true => None,
            false => Some(Loader::new(Source::Checkpoint(merge.base), &held)?),
        };
        Ok(Self {
            merge,
            rounding,
            places,
        })
    }

    /// Whether the tensor `name` is the base's own.
    pub(super) fn is_stored(&self, name: &str) -> bool {
        match self.places.get(name) {
            Some(place) => self.rounding.is_none() && self.merge.adapter.get(*place).is_none(),
            None => self.rounding.is_none() || ![EMBEDDING, HEAD].contains(&name),
        }
    }

    /// Calls `take` with the tensor's rows, some at a time and in order; a vector is one row. What is passed holds whole heads.
    ///
    /// # Errors
    /// What reading a tensor may come to, and what `take` does.
    pub(super) fn rows(
        &self,
        name: &str,
        shape: &[usize],
        take: &mut dyn FnMut(&[f32]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let base = self.merge.base;
        let [out, inner] = *shape else {
            return take(&base.tensor(name, shape)?);
        };
        let place = self.places.get(name);
        let matrix = match (&self.rounding, place) {
            (Some(rounding), Some(_)) => rounding.linear(name, [out, inner])?,
            (Some(rounding), None) => rounding.wide(name, [out, inner])?,
            (None, _) => Matrix::f32(out, inner, base.tensor(name, shape)?)?,
        };
        let update = place.and_then(|place| {
            let lora = self.merge.adapter.get(*place)?;
            Some((lora, self.merge.adapter.scaling(*place)))
        });
        let step = rows_at_a_time(inner, base.config());
        for start in (0..out).step_by(step) {
            let rows = start..out.min(start + step);
            take(&merged_rows(&matrix, update, rows)?)?;
        }
        Ok(())
    }
}

/// The shape that the tensor `name` of a Llama has; `None` for one that is no part of it.
pub(super) fn shape_of(name: &str, config: &LlamaConfig) -> Option<Vec<usize>> {
    if [EMBEDDING, HEAD].contains(&name) {
        return Some(vec![config.vocab_size, config.hidden_size]);
    }
    let (module, kind) = name.rsplit_once('.')?;
    let projection = Projection::ALL
        .into_iter()
        .find(|projection| module.ends_with(&format!(".{}", projection.path())));
    match (projection, kind) {
        (Some(projection), "weight") => Some(projection.shape(config).to_vec()),
        (Some(projection), "bias") => Some(projection.shape(config)[..1].to_vec()),
        (None, "weight") if module.ends_with("norm") => Some(vec![config.hidden_size]),
        _ => None,
    }
}

fn rows_at_a_time(inner: usize, config: &LlamaConfig) -> usize {
    let heads = VALUES_AT_A_TIME / (inner * config.head_dim).max(1);
    heads.max(1) * config.head_dim
}

fn check_update(lora: &LoraFactors, weight: [usize; 2]) -> Result<(), KernelError> {
    let got = [lora.b.rows(), lora.a.cols()];
    if got != weight {
        return Err(KernelError::Value {
            operation: "merged_rows",
            problem: format!("an update of {got:?} for a weight of {weight:?}"),
        });
    }
    Ok(())
}

/// Some rows of `W + scaling B A`, `[rows, in]`; with a magnitude each row has its length.
fn merged_rows(
    weight: &Matrix,
    update: Option<(&LoraFactors, f32)>,
    rows: Range<usize>,
) -> Result<Vec<f32>, KernelError> {
    let [_, in_features] = weight.shape();
    let mut values = vec![0.0; rows.len() * in_features];
    let each = values.par_chunks_mut(in_features.max(1)).zip(rows);
    each.try_for_each(|(row, out)| -> Result<(), KernelError> {
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
    Ok(values)
}
