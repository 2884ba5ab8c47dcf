//! What AdamW remembers of every factor, in f32 or in 8 bits, and how a checkpoint holds it.
//!
//! A file has a tensor for each factor under PEFT's name: its f32 values, or its codes as U8; the
//! scales of codes stand beside them under the name with `.absmax`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rag_tune_kernels::blockwise::{BLOCK, Blockwise};
use rag_tune_model::error::ModelError;
use rag_tune_model::lora::{Adapter, LoraFactors, Place};
use rag_tune_model::peft;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::config::OptimizerKind;

/// A running mean for every tensor of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    /// By place, in the order of [`LoraFactors::tensors`].
    pub layers: BTreeMap<Place, Vec<Moment>>,
}

/// The running mean of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moment {
    /// Name and shape in a file.
    name: String,
    shape: Vec<usize>,
    pub values: Values,
}

/// How the mean is held.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    F32(Vec<f32>),
    Bits8(Blockwise),
}

impl Moments {
    /// Zeros in the shape of `adapter`.
    pub fn zeros(kind: OptimizerKind, adapter: &Adapter) -> Self {
        let zeros = |(place, factors): (&Place, &LoraFactors)| {
            let moments = factors.tensors().map(|(factor, tensor)| {
                let len = tensor.len();
                let values = match kind.is_8bit(len) {
                    true => Values::Bits8(Blockwise::zeros(len)),
                    false => Values::F32(vec![0.0; len]),
                };
                Moment {
                    name: peft::tensor_name(*place, factor),
                    shape: peft::stored_shape(factor, tensor),
                    values,
                }
            });
            (*place, moments.collect())
        };
        Self {
            layers: adapter.layers.iter().map(zeros).collect(),
        }
    }

    /// Of those that are held in f32, in the adapter's order.
    pub fn f32_values_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let moments = self.layers.values_mut().flatten();
        moments.filter_map(|moment| match &mut moment.values {
            Values::F32(values) => Some(&mut values[..]),
            Values::Bits8(_) => None,
        })
    }

    /// The bytes of the file; the same for the same moments.
    pub fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, ModelError> {
        let mut buffers = BTreeMap::new();
        for moment in self.layers.values().flatten() {
            let (name, shape) = (moment.name.clone(), moment.shape.clone());
            match &moment.values {
                Values::F32(values) => {
                    buffers.insert(name, (Dtype::F32, shape, to_bytes(values)));
                }
                Values::Bits8(Blockwise { codes, absmax }) => {
                    let (scales, blocks) = (absmax_name(&name), vec![absmax.len()]);
                    buffers.insert(scales, (Dtype::F32, blocks, to_bytes(absmax)));
                    buffers.insert(name, (Dtype::U8, shape, codes.clone()));
                }
            }
        }
        let mut views = BTreeMap::new();
        for (name, (dtype, shape, bytes)) in &buffers {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            views.insert(name, view.map_err(|error| corrupt(path, error))?);
        }
        // PyTorch's loaders ask for this key.
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize(views, Some(metadata)).map_err(|error| corrupt(path, error))
    }

    /// Overwrites the moments with those of a file that must hold exactly these.
    pub fn read(&mut self, path: &Path) -> Result<(), ModelError> {
        let bytes = fs::read(path).map_err(|source| ModelError::Io {
            path: path.to_owned(),
            source,
        })?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(path, error))?;
        let mut expected = 0;
        for moment in self.layers.values_mut().flatten() {
            let (name, shape) = (&moment.name, &moment.shape);
            match &mut moment.values {
                Values::F32(values) => {
                    let data = data(path, &tensors, name, Dtype::F32, shape)?;
                    copy_f32(values, data);
                    expected += 1;
                }
                Values::Bits8(Blockwise { codes, absmax }) => {
                    codes.copy_from_slice(data(path, &tensors, name, Dtype::U8, shape)?);
                    let (name, shape) = (absmax_name(name), [absmax.len()]);
                    let data = data(path, &tensors, &name, Dtype::F32, &shape)?;
                    copy_f32(absmax, data);
                    expected += 2;
                }
            }
        }
        if tensors.len() != expected {
            let found = tensors.len();
            let detail = format!("it holds {found} tensors, the run asks for {expected}");
            return Err(mismatch(path, detail));
        }
        Ok(())
    }
}

/// Bytes of one 8-bit moment of `len` values.
pub(super) fn bytes_8bit(len: usize) -> usize {
    len + 4 * len.div_ceil(BLOCK)
}

fn absmax_name(name: &str) -> String {
    format!("{name}.absmax")
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// `data` has four bytes for each of `values`.
fn copy_f32(values: &mut [f32], data: &[u8]) {
    for (value, bytes) in values.iter_mut().zip(data.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// The bytes of a tensor that must be of this kind.
fn data<'a>(
    path: &Path,
    tensors: &SafeTensors<'a>,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
) -> Result<&'a [u8], ModelError> {
    let Ok(view) = tensors.tensor(name) else {
        return Err(mismatch(path, format!("it has no tensor `{name}`")));
    };
    if (view.dtype(), view.shape()) != (dtype, shape) {
        let (found, got) = (view.dtype(), view.shape());
        let detail = format!("`{name}` is {found:?} {got:?}, expected {dtype:?} {shape:?}");
        return Err(mismatch(path, detail));
    }
    Ok(view.data())
}

fn mismatch(path: &Path, detail: String) -> ModelError {
    ModelError::AdapterMismatch {
        path: path.to_owned(),
        detail,
    }
}

fn corrupt(path: &Path, error: impl ToString) -> ModelError {
    ModelError::Corrupt {
        path: path.to_owned(),
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoraConfig;
    use crate::optimizer::tests::adapter;

    fn zeros(kind: OptimizerKind, rank: usize) -> Moments {
        let lora = LoraConfig {
            rank,
            ..Default::default()
        };
        Moments::zeros(kind, &adapter(&lora))
    }

    /// Moments of both kinds with values in them.
    fn filled() -> Moments {
        let mut moments = zeros(OptimizerKind::AdamW8bit, 64);
        let mut next = 1_u8;
        for moment in moments.layers.values_mut().flatten() {
            match &mut moment.values {
                Values::F32(values) => values.iter_mut().for_each(|value| {
                    next = next.wrapping_mul(5).wrapping_add(3);
                    *value = f32::from(next) / 7.0;
                }),
                Values::Bits8(Blockwise { codes, absmax }) => {
                    codes.iter_mut().for_each(|code| {
                        next = next.wrapping_mul(5).wrapping_add(3);
                        *code = next;
                    });
                    absmax.iter_mut().for_each(|absmax| {
                        next = next.wrapping_mul(5).wrapping_add(3);
                        *absmax = f32::from(next) / 3.0;
                    });
                }
            }
        }
        moments
    }

    #[test]
    fn tensors_of_4096_values_and_more_are_held_in_8_bits() {
        let moments = filled();
        let mut kinds = [0; 2];
        for moment in moments.layers.values().flatten() {
            let len: usize = moment.shape.iter().product();
            let (is_8bit, bytes) = match &moment.values {
                Values::F32(values) => (false, 4 * values.len()),
                Values::Bits8(held) => (true, held.codes.len() + 4 * held.absmax.len()),
            };
            assert_eq!(is_8bit, len >= 4096, "{}", moment.name);
            assert_eq!(2 * bytes, OptimizerKind::AdamW8bit.state_bytes(len));
            kinds[usize::from(is_8bit)] += 1;
        }
        assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moments");
        let moments = filled();
        fs::write(&path, moments.to_bytes(&path).unwrap()).unwrap();
        let mut back = zeros(OptimizerKind::AdamW8bit, 64);
        back.read(&path).unwrap();
        assert_eq!(back, moments);
    }

    #[test]
    fn moments_of_another_run_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moments");
        fs::write(&path, filled().to_bytes(&path).unwrap()).unwrap();
        let others = [
            (OptimizerKind::AdamW, 64, "is U8 [64, 64], expected F32"),
            (OptimizerKind::AdamW8bit, 32, "expected F32 [32, 64]"),
        ];
        for (kind, rank, text) in others {
            let error = zeros(kind, rank).read(&path);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
