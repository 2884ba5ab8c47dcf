//! Tensors in the form in which the model holds them.

use std::path::{Path, PathBuf};

use half::bf16;
use rag_tune_kernels::nf4::Nf4;
use rag_tune_kernels::{Compute, Floats, KernelError, Matrix};

use crate::block::Block;
use crate::checkpoint::{ReadAhead, StoredWeight};
use crate::config::{self, LlamaConfig, ModelConfig, Quantization};
use crate::error::ModelError;
use crate::llama::{EMBEDDING, HEAD};
use crate::lora::Projection;
use crate::source::Source;
use crate::weight_cache::MappedWeights;

/// What the names of all blocks' tensors begin with.
const BLOCKS: &str = "model.layers.";

/// The norms of a block, as checkpoints name them.
pub(crate) const ATTENTION_NORM: &str = "input_layernorm";
pub(crate) const MLP_NORM: &str = "post_attention_layernorm";

/// The weight of module `module` of block `layer`, as checkpoints name it.
pub(crate) fn block_tensor(layer: usize, module: &str) -> String {
    format!("{BLOCKS}{layer}.{module}.weight")
}

/// The bias of a projection of block `layer`.
pub(crate) fn block_bias(layer: usize, projection: Projection) -> String {
    format!("{BLOCKS}{layer}.{}.bias", projection.path())
}

/// The weights of a model in the order in which [`Llama`](crate::llama::Llama) loads them.
fn weight_names(config: &LlamaConfig) -> Vec<String> {
    let mut names = vec![EMBEDDING.to_owned()];
    if !config.tie_word_embeddings {
        names.push(HEAD.to_owned());
    }
    for layer in 0..config.num_hidden_layers {
        let weight = |projection: Projection| block_tensor(layer, &projection.path());
        names.extend(Projection::ALL.map(weight));
    }
    names
}

/// Reads and quantises one tensor at a time.
pub(crate) struct Loader<'a> {
    source: Source<'a>,
    quantization: Quantization,
    double_quantization: bool,
    compute: Compute,
    /// What an earlier start has left of the same weights.
    mapped: Option<MappedWeights>,
    /// The weights of the whole model, in the order of [`weight_names`].
    ahead: Option<ReadAhead>,
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
            mapped: None,
            ahead: None,
        })
    }

    /// One that is asked for the whole model, and in its order.
    pub(crate) fn reading_ahead(self) -> Self {
        let ahead = self.source.read_ahead(&weight_names(self.source.config()));
        Self { ahead, ..self }
    }

    /// One that takes everything from `mapped`.
    pub(crate) fn of_mapped(self, mapped: MappedWeights) -> Self {
        Self {
            mapped: Some(mapped),
            ..self
        }
    }

    /// `part` of the mapped weights, if that is where everything comes from.
    fn mapped_part<T>(
        &self,
        name: &str,
        part: impl FnOnce(&MappedWeights) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let missing = || ModelError::MissingTensor {
            path: PathBuf::from("the weight cache"),
            name: name.to_owned(),
        };
        let mapped = self.mapped.as_ref();
        mapped
            .map(|mapped| part(mapped).ok_or_else(missing))
            .transpose()
    }

    /// What `compute` came to.
    pub(crate) fn compute(&self) -> Compute {
        self.compute
    }

    /// A tensor of finite f32 values.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let len = shape.iter().product();
        if let Some(values) = self.mapped_part(name, |mapped| mapped.vector(name, len))? {
            return Ok(values);
        }
        let values = self.source.tensor(name, shape)?;
        self.check_finite(name, &Floats::from(&values))?;
        Ok(values)
    }

    fn check_finite(&self, name: &str, values: &Floats<'_>) -> Result<(), ModelError> {
        match values.extent().1 {
            0 => Ok(()),
            count => Err(self.named(name, KernelError::NotFinite { count })),
        }
    }

    fn named(&self, name: &str, error: KernelError) -> ModelError {
        named_weight_error(name, self.source.path(), error)
    }

    /// A block linear.
    pub(crate) fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Matrix, ModelError> {
        if let Some(matrix) = self.mapped_part(name, |mapped| mapped.matrix(name, shape))? {
            return Ok(matrix);
        }
        self.with_weight(name, shape, |weight| self.quantized(name, shape, weight))
    }

    /// What `work` makes of the stored weight `name`.
    fn with_weight(
        &self,
        name: &str,
        shape: [usize; 2],
        work: impl FnOnce(StoredWeight<'_>) -> Result<Matrix, ModelError>,
    ) -> Result<Matrix, ModelError> {
        // Nothing is read yet if it lies in a mapped file.
        let weight = self.source.weight(name, shape)?;
        if let Some(ahead) = &self.ahead
            && let Some(piece) = ahead.next(name)?
        {
            let matrix = work(StoredWeight::Float(piece.floats()));
            ahead.give_back(piece);
            return matrix;
        }
        let matrix = work(weight);
        self.source.release();
        matrix
    }

    fn quantized(
        &self,
        name: &str,
        [out, inner]: [usize; 2],
        weight: StoredWeight<'_>,
    ) -> Result<Matrix, ModelError> {
        let values = match weight {
            StoredWeight::Int8 { codes, absmax } => {
                return Ok(Matrix::from_int8(out, inner, codes, &absmax)?);
            }
            StoredWeight::Nf4(weights) => return Ok(Matrix::from_nf4(out, inner, &weights)?),
            StoredWeight::Float(values) => values,
        };
        // Whoever quantised the others left this one out on purpose.
        let quantization = match self.source.stored_quantization() {
            Some(_) => Quantization::None,
            None => self.quantization,
        };
        if quantization == Quantization::Int8 {
            // It sees what is not finite on its way.
            return Matrix::int8(out, inner, values).map_err(|error| self.named(name, error));
        }
        self.check_finite(name, &values)?;
        Ok(match (quantization, self.compute) {
            (Quantization::Nf4, _) => {
                let values = values.into_vec();
                let weights = match self.double_quantization {
                    true => Nf4::quantize_double(&values),
                    false => Nf4::quantize(&values),
                };
                drop(values);
                Matrix::from_nf4(out, inner, &weights)?
            }
            (_, Compute::F32) => Matrix::f32(out, inner, values.into_vec())?,
            _ => Matrix::bf16(out, inner, values)?,
        })
    }

    /// Embedding or head: 16-bit beside quantised block linears.
    pub(crate) fn wide(&self, name: &str, [out, inner]: [usize; 2]) -> Result<Matrix, ModelError> {
        if let Some(matrix) = self.mapped_part(name, |mapped| mapped.matrix(name, [out, inner]))? {
            return Ok(matrix);
        }
        self.with_weight(name, [out, inner], |weight| {
            self.widened(name, [out, inner], weight)
        })
    }

    fn widened(
        &self,
        name: &str,
        [out, inner]: [usize; 2],
        weight: StoredWeight<'_>,
    ) -> Result<Matrix, ModelError> {
        let values = weight.into_floats([out, inner]);
        self.check_finite(name, &values)?;
        Ok(match self.compute {
            Compute::F32 => {
                let mut values = values.into_vec();
                if self.quantization != Quantization::None {
                    let rounded = |value: &mut f32| *value = bf16::from_f32(*value).to_f32();
                    values.iter_mut().for_each(rounded);
                }
                Matrix::f32(out, inner, values)?
            }
            Compute::Bf16 | Compute::Int8 | Compute::LlmInt8 => Matrix::bf16(out, inner, values)?,
        })
    }

    /// All weights of one block.
    pub(crate) fn block(&self, layer: usize, config: &LlamaConfig) -> Result<Block, ModelError> {
        let name = |rest: &str| block_tensor(layer, rest);
        let hidden = [config.hidden_size];
        let mut weights = Vec::with_capacity(Projection::ALL.len());
        let mut biases = [const { None }; Projection::ALL.len()];
        for projection in Projection::ALL {
            let shape = projection.shape(config);
            weights.push(self.linear(&name(&projection.path()), shape)?);
            if config.has_bias(projection) {
                let bias = block_bias(layer, projection);
                biases[projection as usize] = Some(self.values(&bias, &shape[..1])?.into());
            }
        }
        let Ok(weights) = weights.try_into() else {
            unreachable!("one weight a projection")
        };
        Ok(Block {
            layer,
            attention_norm: self.values(&name(ATTENTION_NORM), &hidden)?.into(),
            mlp_norm: self.values(&name(MLP_NORM), &hidden)?.into(),
            weights,
            biases,
        })
    }
}

/// What is wrong with the values of tensor `name` in the checkpoint at `path`.
pub(crate) fn named_weight_error(name: &str, path: &Path, error: KernelError) -> ModelError {
    let what = || format!("`{name}` in `{}`", path.display());
    match error {
        KernelError::NotFinite { count } => ModelError::NonFinite {
            what: what(),
            count,
        },
        KernelError::BeyondF16 { largest } => ModelError::BeyondF16 {
            what: what(),
            largest,
        },
        other => other.into(),
    }
}

/// The compute that `auto` stands for.
pub(crate) fn resolve_compute(wanted: config::Compute) -> Compute {
    match wanted {
        config::Compute::F32 => Compute::F32,
        config::Compute::Bf16 => Compute::Bf16,
        config::Compute::Int8 => Compute::Int8,
        config::Compute::LlmInt8 => Compute::LlmInt8,
        config::Compute::Auto => Compute::auto(),
    }
}
