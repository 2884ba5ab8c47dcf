//! A Llama with frozen weights: loading, and the passes for training.

use std::path::{Path, PathBuf};

use rag_tune_kernels::attention::{Cache, Heads};
use rag_tune_kernels::cuda::{self, Device, Vector};
use rag_tune_kernels::rope::RopeTable;
use rag_tune_kernels::sequences::Positions;
use rag_tune_kernels::{Compute, Matrix, Sequences, Tensor, cross_entropy, rms_norm};

pub use crate::block::Keep;
use crate::block::{Block, BlockContext};
use crate::checkpoint::Checkpoint;
use crate::config::{LlamaConfig, ModelConfig, Quantization};
use crate::error::ModelError;
use crate::linear::{AppliedAdapter, row_norms};
use crate::loader::{ATTENTION_NORM, Loader, MLP_NORM, block_bias, block_tensor, resolve_compute};
use crate::lora::{Adapter, AdapterGradient, LoraDropout, Place, Projection};
use crate::lora_settings::LoraSettings;
use crate::memory::Footprint;
use crate::source::Source;
use crate::weight_cache::{CacheFile, Parts};

/// The embedding's name in a checkpoint.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The last norm's.
const FINAL_NORM: &str = "model.norm.weight";
/// The head's, where it is not the embedding.
pub(crate) const HEAD: &str = "lm_head.weight";

/// A Llama whose weights are frozen; block linears are 8-bit unless the config says otherwise.
pub struct Llama {
    pub(crate) config: LlamaConfig,
    pub(crate) compute: Compute,
    quantization: Quantization,
    double_quantization: bool,
    /// `[vocab, hidden]`
    pub(crate) embedding: Matrix,
    pub(crate) blocks: Vec<Block>,
    /// `[hidden]`
    final_norm: Vector,
    /// `[vocab, hidden]`; `None` where it is the embedding.
    head: Option<Matrix>,
    pub(crate) rope: RopeTable,
    /// Where the weights are; `None` is host memory.
    device: Option<Device>,
    path: PathBuf,
    fingerprint: String,
}

/// What [`Llama::load_cached`] is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStage {
    /// Reading and quantising: blocks done and in all.
    Loading,
    /// Writing the quantised weights: tensors done and in all.
    Writing,
}

/// What became of the file of quantised weights.
#[derive(Debug)]
pub enum WeightCache {
    /// They were there.
    Mapped(PathBuf),
    /// The next start will find them.
    Written {
        /// Where.
        path: PathBuf,
        /// Of the file.
        bytes: u64,
    },
    /// They could not be left there.
    NotWritten {
        /// Where they would be.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Weights that are held like this have no such file.
    Unused,
}

/// Packed token ids with the places that carry loss.
#[derive(Debug, Clone)]
pub struct TrainBatch {
    /// `[tokens]`
    pub ids: Vec<u32>,
    /// Where its rows begin and end.
    pub sequences: Sequences,
    /// `(position, label)`: the token that `position` must predict.
    pub targets: Vec<(usize, u32)>,
}

/// How one training pass runs.
#[derive(Debug, Clone, Copy)]
pub struct PassOptions {
    /// What is kept for the backward pass.
    pub keep: Keep,
    /// Dropout of the adapters' inputs.
    pub dropout: Option<LoraDropout>,
    /// Factor of the gradient: 1 / (supervised tokens of the whole step).
    pub gradient_scale: f32,
}

impl Llama {
    /// Loads and quantises a checkpoint, tensor by tensor.
    ///
    /// `progress` is called with the number of blocks done and in all.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor that is missing, mis-shaped or not finite, or the compute
    /// that this machine cannot do.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        Self::assemble(Source::Checkpoint(checkpoint), config, progress)
    }

    /// As [`Llama::load`], but 8-bit weights that an earlier call left in `folder` are mapped, and otherwise left there.
    ///
    /// A file there belongs to the very files that it was made from: their tensors, names, lengths and times of change. That it cannot be
    /// read or written costs time, not the model; what came of it is told.
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub fn load_cached(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        folder: &Path,
        progress: &mut dyn FnMut(LoadStage, usize, usize),
    ) -> Result<(Self, WeightCache), ModelError> {
        let source = Source::Checkpoint(checkpoint);
        let compute = resolve_compute(config.compute);
        let file = match config.quantization {
            Quantization::Int8 => CacheFile::new(folder, checkpoint, compute)?,
            Quantization::Nf4 | Quantization::None => None,
        };
        let Some(file) = file else {
            let model = Self::assemble(source, config, &mut |done, all| {
                progress(LoadStage::Loading, done, all);
            })?;
            return Ok((model, WeightCache::Unused));
        };
        if let Ok(Some(mapped)) = file.open() {
            let loader = Loader::new(source, config)?.of_mapped(mapped);
            // A file that lacks something is written anew.
            if let Ok(model) = Self::assemble_with(&loader, source, config, &mut |_, _| ()) {
                return Ok((model, WeightCache::Mapped(file.path().to_owned())));
            }
        }
        let model = Self::assemble(source, config, &mut |done, all| {
            progress(LoadStage::Loading, done, all);
        })?;
        let written = file.write(&model.parts(), &mut |done, all| {
            progress(LoadStage::Writing, done, all);
        });
        let path = file.path().to_owned();
        let cache = match written {
            Ok(bytes) => WeightCache::Written { path, bytes },
            Err(error) => WeightCache::NotWritten { path, error },
        };
        Ok((model, cache))
    }

    /// A model of `shape` whose weights are noise: as fast and as large as a real one, and of no other use.
    ///
    /// # Errors
    /// [`ModelError`] if `shape` has sizes that contradict each other.
    pub fn synthetic(shape: &LlamaConfig, config: &ModelConfig) -> Result<Self, ModelError> {
        Self::assemble(Source::Synthetic(shape), config, &mut |_, _| ())
    }

    fn assemble(
        source: Source<'_>,
        config: &ModelConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        let loader = Loader::new(source, config)?.reading_ahead();
        Self::assemble_with(&loader, source, config, progress)
    }

    fn assemble_with(
        loader: &Loader<'_>,
        source: Source<'_>,
        config: &ModelConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        let mut model = Self::without_blocks(source, config, loader)?;
        let layers = model.config.num_hidden_layers;
        model.blocks.reserve_exact(layers);
        for layer in 0..layers {
            progress(layer, layers);
            model.blocks.push(loader.block(layer, &model.config)?);
        }
        progress(layers, layers);
        Ok(model)
    }

    /// The model with its weights on `device`, where passes then run, in bf16. Block after block: host memory is given up on the way.
    ///
    /// # Errors
    /// [`ModelError`] if the device's memory is not enough, or the weights are NF4.
    pub fn into_device(self, device: &Device) -> Result<Self, ModelError> {
        let blocks = self.blocks.into_iter();
        Ok(Self {
            compute: Compute::Bf16,
            embedding: self.embedding.to_device(device)?,
            blocks: blocks
                .map(|block| block.into_device(device))
                .collect::<Result<_, _>>()?,
            final_norm: self.final_norm.to_device(device)?,
            head: self.head.map(|head| head.to_device(device)).transpose()?,
            device: Some(device.clone()),
            ..self
        })
    }

    /// Where the weights are; `None` is host memory.
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// Operations a second that products reach at most where this model runs, in its compute.
    ///
    /// # Errors
    /// [`ModelError`] if a device fails.
    pub fn peak_op_per_s(&self) -> Result<f64, ModelError> {
        Ok(match &self.device {
            None => rag_tune_kernels::peak::peak_op_per_s(self.compute),
            Some(device) => cuda::peak_op_per_s(device)?,
        })
    }

    /// The weights by name, as [`Loader`] asks for them.
    fn parts(&self) -> Parts<'_> {
        let mut parts = Parts {
            matrices: vec![(EMBEDDING.to_owned(), &self.embedding)],
            vectors: vec![(FINAL_NORM.to_owned(), &self.final_norm)],
        };
        parts
            .matrices
            .extend(self.head.iter().map(|head| (HEAD.to_owned(), head)));
        for block in &self.blocks {
            let name = |module: &str| block_tensor(block.layer, module);
            for (projection, bias) in Projection::ALL.into_iter().zip(&block.biases) {
                let bias = bias
                    .iter()
                    .map(|bias| (block_bias(block.layer, projection), &**bias));
                parts.vectors.extend(bias);
            }
            let weights = Projection::ALL.iter().zip(&block.weights);
            let matrices = weights.map(|(projection, weight)| (name(&projection.path()), weight));
            parts.matrices.extend(matrices);
            parts
                .vectors
                .push((name(ATTENTION_NORM), &block.attention_norm));
            parts.vectors.push((name(MLP_NORM), &block.mlp_norm));
        }
        parts
    }

    /// What stands before and after the blocks.
    pub(crate) fn without_blocks(
        source: Source<'_>,
        config: &ModelConfig,
        loader: &Loader<'_>,
    ) -> Result<Self, ModelError> {
        let llama = source.config().clone();
        let vocab_shape = [llama.vocab_size, llama.hidden_size];
        let embedding = loader.wide(EMBEDDING, vocab_shape)?;
        let head = match llama.tie_word_embeddings {
            true => None,
            false => Some(loader.wide(HEAD, vocab_shape)?),
        };
        Ok(Self {
            compute: loader.compute(),
            quantization: config.quantization,
            double_quantization: config.double_quantization,
            embedding,
            blocks: Vec::new(),
            final_norm: loader.values(FINAL_NORM, &[llama.hidden_size])?.into(),
            device: None,
            head,
            rope: RopeTable::new(llama.max_position_embeddings, &llama.rope_frequencies()),
            config: llama,
            path: source.path().to_owned(),
            fingerprint: source.fingerprint().to_owned(),
        })
    }

    /// Shape and constants.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// What block products are computed in.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the weights of the blocks are held.
    pub fn quantization(&self) -> Quantization {
        self.quantization
    }

    /// Whether the scales of NF4 weights are quantised too.
    pub fn double_quantization(&self) -> bool {
        self.double_quantization
    }

    /// Identity of the checkpoint.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What a training run's memory depends on; `dropout` is that of the adapter's inputs.
    pub fn footprint(&self, lora: LoraSettings, dropout: f32) -> Footprint {
        Footprint {
            model: self.config.clone(),
            quantization: self.quantization,
            double_quantization: self.double_quantization,
            compute: self.compute,
            lora,
            has_dropout: dropout > 0.0,
        }
    }

    /// Bytes that the weights take, biases, norms and the RoPE table included.
    pub fn weight_bytes(&self) -> usize {
        let blocks: usize = self
            .blocks
            .iter()
            .flat_map(|block| &block.weights)
            .map(Matrix::bytes)
            .sum();
        let biases = self.blocks.iter().flat_map(|block| &block.biases);
        let biases: usize = biases.flatten().map(|bias| bias.len()).sum();
        let norms = self.config.hidden_size * (2 * self.blocks.len() + 1);
        let rope = self.rope.positions() * self.config.head_dim;
        let f32s = (biases + norms + rope) * size_of::<f32>();
        blocks + self.embedding.bytes() + self.head.as_ref().map_or(0, Matrix::bytes) + f32s
    }

    /// Bytes of the weights that every pass reads, however few its tokens: the blocks' linear layers and the head.
    pub fn bytes_per_pass(&self) -> usize {
        let blocks = self.blocks.iter().flat_map(|block| &block.weights);
        blocks.map(Matrix::bytes).sum::<usize>() + self.head().bytes()
    }

    /// An adapter that changes nothing yet: [`Adapter::new`], with DoRA's magnitudes from this base.
    ///
    /// # Errors
    /// [`ModelError`] if a weight cannot be read.
    pub fn fresh_adapter(&self, settings: LoraSettings, seed: u64) -> Result<Adapter, ModelError> {
        let mut adapter = Adapter::new(&self.config, settings, seed);
        for (place, lora) in &mut adapter.layers {
            if let Some(magnitude) = &mut lora.magnitude {
                let norms = row_norms(self.weight(*place), None)?;
                magnitude.data_mut().copy_from_slice(&norms);
            }
        }
        Ok(adapter)
    }

    /// The frozen weight of a block's linear layer.
    pub(crate) fn weight(&self, (layer, projection): Place) -> &Matrix {
        &self.blocks[layer].weights[projection as usize]
    }

    /// What passes with `adapter` share until it is updated.
    pub(crate) fn applied<'a>(
        &self,
        adapter: &'a Adapter,
    ) -> Result<AppliedAdapter<'a>, ModelError> {
        let device = self.device.as_ref();
        Ok(AppliedAdapter::new(adapter, device, |place| {
            self.weight(place)
        })?)
    }

    pub(crate) fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.config.num_attention_heads,
            key_value: self.config.num_key_value_heads,
            dim: self.config.head_dim,
        }
    }

    pub(crate) fn context<'a>(
        &'a self,
        positions: &'a Positions,
        adapter: Option<&'a AppliedAdapter<'a>>,
        dropout: Option<LoraDropout>,
    ) -> BlockContext<'a> {
        BlockContext {
            heads: self.heads(),
            eps: self.config.rms_norm_eps,
            compute: self.compute,
            rope: &self.rope,
            positions,
            adapter,
            dropout,
        }
    }

    /// The final norm.
    pub(crate) fn final_norm(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(rms_norm::forward(
            x,
            &self.final_norm,
            self.config.rms_norm_eps,
        )?)
    }

    /// For the keys and values of a sequence in one layer.
    pub(crate) fn empty_cache(&self, heads: Heads) -> Cache {
        match &self.device {
            None => Cache::new(heads, self.compute),
            Some(device) => Cache::on_device(heads, device),
        }
    }

    /// Logits `[indices.len(), vocab]` of some rows of the last block's output.
    pub(crate) fn logits(&self, x: &Tensor, indices: &[usize]) -> Result<Tensor, ModelError> {
        let logits = self.logits_of(&x.gather_rows(indices)?)?;
        Ok(logits.to_host()?.into_owned())
    }

    /// The same of all rows, where they are.
    pub(crate) fn logits_of(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let normed = self.final_norm(x)?;
        let input = rag_tune_kernels::linear::Input::new(&normed, self.compute);
        Ok(rag_tune_kernels::linear::forward(&input, self.head())?)
    }

    /// Logits `[positions.len(), vocab]` at some positions of packed sequences, without a cache.
    ///
    /// # Errors
    /// [`ModelError`] if an id is not in the vocabulary or a sequence is too long.
    pub fn logits_at(
        &self,
        adapter: Option<&Adapter>,
        ids: &[u32],
        sequences: &Sequences,
        positions: &[usize],
    ) -> Result<Tensor, ModelError> {
        let token_positions = sequences.positions();
        let applied = adapter.map(|adapter| self.applied(adapter)).transpose()?;
        let context = self.context(&token_positions, applied.as_ref(), None);
        let mut x = self.embedding.gather_rows(ids)?;
        for block in &self.blocks {
            x = block.output(x, sequences, context)?;
        }
        self.logits(&x, positions)
    }

    /// One forward and backward pass. Returns the summed loss in nats; adds to `gradient`.
    ///
    /// Adapter and gradient lie in host memory or where the weights are; in host memory each pass brings them over and back.
    ///
    /// # Errors
    /// [`ModelError`] if the batch does not fit the model.
    pub fn forward_backward(
        &self,
        adapter: &Adapter,
        batch: &TrainBatch,
        options: &PassOptions,
        gradient: &mut AdapterGradient,
    ) -> Result<f64, ModelError> {
        // On a thread of the pool: from outside, every operation would wait for a thread of it to wake up.
        rayon::scope(|_| self.forward_backward_here(adapter, batch, options, gradient))
    }

    fn forward_backward_here(
        &self,
        adapter: &Adapter,
        batch: &TrainBatch,
        options: &PassOptions,
        gradient: &mut AdapterGradient,
    ) -> Result<f64, ModelError> {
        let applied = self.applied(adapter)?;
        let Some(device) = self.device().filter(|_| gradient.device().is_none()) else {
            return self.passes(&applied, batch, options, gradient);
        };
        let mut there = adapter.zero_gradient_on(Some(device))?;
        let loss = self.passes(&applied, batch, options, &mut there)?;
        gradient.add(&there)?;
        Ok(loss)
    }

    /// Forward and backward; the gradient lies where the weights are.
    fn passes(
        &self,
        applied: &AppliedAdapter<'_>,
        batch: &TrainBatch,
        options: &PassOptions,
        gradient: &mut AdapterGradient,
    ) -> Result<f64, ModelError> {
        let positions = batch.sequences.positions();
        let context = self.context(&positions, Some(applied), options.dropout);
        let mut x = self.embedding.gather_rows(&batch.ids)?;
        let mut kept = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, of_block) = block.forward(x, &batch.sequences, context, options.keep)?;
            kept.push(of_block);
            x = y;
        }
        let (loss, mut d_x) = self.loss(&x, batch, options.gradient_scale)?;
        drop(x);
        for (block, kept) in self.blocks.iter().zip(kept).rev() {
            d_x = block.backward(d_x, kept, &batch.sequences, context, gradient)?;
        }
        Ok(loss)
    }

    /// The summed loss in nats of [`Llama::forward_backward`] without dropout; only the forward pass.
    ///
    /// # Errors
    /// [`ModelError`] if the batch does not fit the model.
    pub fn loss_sum(
        &self,
        adapter: Option<&Adapter>,
        batch: &TrainBatch,
    ) -> Result<f64, ModelError> {
        let positions = batch.sequences.positions();
        let applied = adapter.map(|adapter| self.applied(adapter)).transpose()?;
        let context = self.context(&positions, applied.as_ref(), None);
        let mut x = self.embedding.gather_rows(&batch.ids)?;
        for block in &self.blocks {
            x = block.output(x, &batch.sequences, context)?;
        }
        let (rows, labels): (Vec<usize>, Vec<u32>) = batch.targets.iter().copied().unzip();
        let normed = self.final_norm(&x.gather_rows(&rows)?)?;
        Ok(cross_entropy::cross_entropy_sum(
            &normed,
            self.head(),
            &labels,
            self.compute,
        )?)
    }

    /// Summed loss, and the gradient of the last block's output.
    pub(crate) fn loss(
        &self,
        x: &Tensor,
        batch: &TrainBatch,
        scale: f32,
    ) -> Result<(f64, Tensor), ModelError> {
        let (rows, labels): (Vec<usize>, Vec<u32>) = batch.targets.iter().copied().unzip();
        let supervised = x.gather_rows(&rows)?;
        let normed = self.final_norm(&supervised)?;
        let loss =
            cross_entropy::cross_entropy(&normed, self.head(), &labels, scale, self.compute)?;
        let mut d_supervised = supervised.zeros_beside(rows.len(), x.cols())?;
        let eps = self.config.rms_norm_eps;
        rms_norm::backward(
            &loss.d_hidden,
            &supervised,
            &self.final_norm,
            eps,
            &mut d_supervised,
        )?;
        let d_x = d_supervised.scatter_rows(&rows, x.rows())?;
        Ok((loss.sum, d_x))
    }
}
