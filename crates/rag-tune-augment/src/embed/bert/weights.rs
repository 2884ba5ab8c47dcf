//! An encoder's tensors, as f32, whatever the checkpoint holds them in.

use std::path::{Path, PathBuf};

use candle_core::safetensors::BufferedSafetensors;
use candle_core::{DType, Device};

use rag_tune_kernels::layer_norm::LayerNorm;
use rag_tune_kernels::linear::Input;
use rag_tune_kernels::{Compute, KernelError, Matrix, Tensor, linear};

use crate::AugmentError;
use crate::embed::candle_message;

/// A linear layer `y = x W^T + b`.
pub(super) struct Linear {
    /// `W`: `[out, in]`.
    weight: Matrix,
    /// `b`: `[out]`. [`Self::forward`] leaves it to what follows, which reads the result anyway.
    pub(super) bias: Vec<f32>,
    compute: Compute,
}

impl Linear {
    /// From `weight` `[out, in]` and `bias` `[out]`.
    pub(super) fn new(
        weight: Vec<f32>,
        bias: Vec<f32>,
        inputs: usize,
        compute: Compute,
    ) -> Result<Self, KernelError> {
        let weight = match compute {
            Compute::F32 => Matrix::f32(bias.len(), inputs, weight),
            Compute::Bf16 => Matrix::bf16(bias.len(), inputs, &weight),
            Compute::Int8 | Compute::LlmInt8 => Matrix::int8(bias.len(), inputs, &weight),
        };
        Ok(Self {
            weight: weight?,
            bias,
            compute,
        })
    }

    /// `x W^T`: `[rows, in]` to `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, KernelError> {
        linear::forward(&Input::new(x, self.compute), &self.weight)
    }
}

/// An opened `.safetensors` file.
pub(super) struct Weights {
    path: PathBuf,
    tensors: BufferedSafetensors,
    /// What stands before every name: `bert.` or the like, or nothing.
    prefix: String,
}

impl Weights {
    /// Opens a file; `first` is a tensor that it must have, from which the prefix is learnt.
    pub(super) fn open(path: &Path, first: &str) -> Result<Self, AugmentError> {
        let bytes = std::fs::read(path).map_err(AugmentError::read(path))?;
        let failed = |problem| AugmentError::Embedder {
            path: path.to_owned(),
            problem,
        };
        let tensors =
            BufferedSafetensors::new(bytes).map_err(|error| failed(candle_message(&error)))?;
        let names = tensors.tensors().into_iter().map(|(name, _)| name);
        let prefix = names
            .filter_map(|name| name.strip_suffix(first).map(str::to_owned))
            .min_by_key(String::len)
            .ok_or_else(|| failed(format!("it has no tensor `{first}`")))?;
        Ok(Self {
            path: path.to_owned(),
            tensors,
            prefix,
        })
    }

    /// The values of a tensor, row by row.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, AugmentError> {
        self.any_of(&[name], shape)
    }

    /// A matrix `[rows, columns]` of any number of rows.
    pub(super) fn table(&self, name: &str, columns: usize) -> Result<Vec<f32>, AugmentError> {
        let full = format!("{}{name}", self.prefix);
        let rows = self
            .tensors
            .get(&full)
            .map(|view| view.shape().first().copied());
        self.tensor(name, &[rows.ok().flatten().unwrap_or(0), columns])
    }

    /// A linear layer's `weight` `[out, in]` and `bias` `[out]`.
    ///
    /// Several layers of `names` become one, their outputs side by side.
    pub(super) fn linear(
        &self,
        names: &[&str],
        inputs: usize,
        outputs: usize,
        compute: Compute,
    ) -> Result<Linear, AugmentError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.extend(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        Linear::new(weight, bias, inputs, compute).map_err(|error| self.failed(error.to_string()))
    }

    /// `weight` and `bias` of a layer norm; old checkpoints call them `gamma` and `beta`.
    pub(super) fn norm(
        &self,
        name: &str,
        size: usize,
        eps: f32,
    ) -> Result<LayerNorm, AugmentError> {
        let either = |new: &str, old: &str| {
            self.any_of(
                &[&format!("{name}.{new}"), &format!("{name}.{old}")],
                &[size],
            )
        };
        Ok(LayerNorm {
            weight: either("weight", "gamma")?,
            bias: either("bias", "beta")?,
            eps,
        })
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.get(&format!("{}{name}", self.prefix)).is_ok()
    }

    fn failed(&self, problem: String) -> AugmentError {
        let path = self.path.clone();
        AugmentError::Embedder { path, problem }
    }

    fn any_of(&self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>, AugmentError> {
        let failed = |problem| self.failed(problem);
        let name = names
            .iter()
            .find(|name| self.has(name))
            .ok_or_else(|| failed(format!("it has no tensor `{}{}`", self.prefix, names[0])))?;
        let name = format!("{}{name}", self.prefix);
        let tensor = self.tensors.load(&name, &Device::Cpu);
        let tensor = tensor.map_err(|error| failed(candle_message(&error)))?;
        if tensor.dims() != shape {
            return Err(failed(format!(
                "`{name}` is {:?}, expected {shape:?}",
                tensor.dims()
            )));
        }
        let values = tensor
            .to_dtype(DType::F32)
            .and_then(|tensor| tensor.flatten_all()?.to_vec1());
        values.map_err(|error| failed(candle_message(&error)))
    }
}
