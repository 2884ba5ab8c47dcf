//! Tensors in the form in which the model holds them.

use half::bf16;
use rag_tune_kernels::nf4::Nf4;
use rag_tune_kernels::{Compute, Matrix};

use crate::block::Block;
use crate::checkpoint::StoredWeight;
use crate::config::{self, LlamaConfig, ModelConfig, Quantization};
use crate::error::ModelError;
use crate::lora::Projection;
use crate::source::Source;

/// Reads and quantises one tensor at a time.
pub(crate) struct Loader<'a> {
    source: Source<'a>,
    quantization: Quantization,
    double_quantization: bool,
    compute: Compute,
}

impl<'a> Loader<'a> {
    /// Refuses a compute that this machine cannot do, and a quantisation that is not the checkpoint's own.
    pub(crate) fn new(source: Source<'a>, config: &ModelConfig) -> Result<Self, ModelError> {
        if let Some(stored) = source.stored_quantization() {
            stored.check(source.path(), config)?;
        }
        Ok(Self {
            source,
            quantization: config.quantization,
            double_quantization: config.double_quantization,
            compute: resolve_compute(config.compute),
        })
    }

    /// What `compute` came to.
    pub(crate) fn compute(&self) -> Compute {
        self.compute
    }

    /// A tensor of finite f32 values.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.finite(name, self.source.tensor(name, shape)?)
    }

    fn finite(&self, name: &str, values: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        let count = values.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            let what = format!("`{name}` in `{}`", self.source.path().display());
            return Err(ModelError::NonFinite { what, count });
        }
        Ok(values)
    }

    /// A block linear.
    pub(crate) fn linear(
        &self,
        name: &str,
        [out, inner]: [usize; 2],
    ) -> Result<Matrix, ModelError> {
        let values = match self.source.weight(name, [out, inner])? {
            StoredWeight::Int8 { codes, absmax } => {
                return Ok(Matrix::from_int8(out, inner, &codes, &absmax)?);
            }
            StoredWeight::Nf4(weights) => return Ok(Matrix::from_nf4(out, inner, &weights)?),
            StoredWeight::Float(values) => self.finite(name, values)?,
        };
        // Whoever quantised the others left this one out on purpose.
        let quantization = match self.source.stored_quantization() {
            Some(_) => Quantization::None,
            None => self.quantization,
        };
        Ok(match (quantization, self.compute) {
            (Quantization::Int8, _) => Matrix::int8(out, inner, &values)?,
            (Quantization::Nf4, _) => {
                let weights = match self.double_quantization {
                    true => Nf4::quantize_double(&values),
                    false => Nf4::quantize(&values),
                };
                drop(values);
                Matrix::from_nf4(out, inner, &weights)?
            }
            (Quantization::None, Compute::F32) => Matrix::f32(out, inner, values)?,
            (Quantization::None, _) => Matrix::bf16(out, inner, &values)?,
        })
    }

    /// Embedding or head: 16-bit beside quantised block linears.
    pub(crate) fn wide(&self, name: &str, [out, inner]: [usize; 2]) -> Result<Matrix, ModelError> {
        let mut values = self.values(name, &[out, inner])?;
        if self.compute != Compute::F32 {
            return Ok(Matrix::bf16(out, inner, &values)?);
        }
        if self.quantization != Quantization::None {
            values
                .iter_mut()
                .for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
        Ok(Matrix::f32(out, inner, values)?)
    }

    /// All weights of one block.
    pub(crate) fn block(&self, layer: usize, config: &LlamaConfig) -> Result<Block, ModelError> {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
        let hidden = [config.hidden_size];
        let mut weights = Vec::with_capacity(Projection::ALL.len());
        for projection in Projection::ALL {
            weights.push(self.linear(&name(&projection.path()), projection.shape(config))?);
        }
        let Ok(weights) = weights.try_into() else {
            unreachable!("one weight a projection")
        };
        Ok(Block {
            layer,
            attention_norm: self.values(&name("input_layernorm"), &hidden)?,
            mlp_norm: self.values(&name("post_attention_layernorm"), &hidden)?,
            weights,
        })
    }
}

/// The compute that `auto` stands for.
pub(crate) fn resolve_compute(wanted: config::Compute) -> Compute {
    match wanted {
        config::Compute::F32 => Compute::F32,
        config::Compute::Bf16 => Compute::Bf16,
        config::Compute::Int8 => Compute::Int8,
        config::Compute::Auto => Compute::auto(),
    }
}
