//! What a training pass takes in memory, counted from shapes alone: before any weight is read.
//!
//! The counts follow `block.rs` and `llama.rs` tensor by tensor; tests hold them against what a pass really keeps and
//! against the loaded weights.

use rag_tune_kernels::cross_entropy::CHUNK;
use rag_tune_kernels::nf4::Scales;
use rag_tune_kernels::{Compute, Matrix};

use crate::config::{LlamaConfig, ModelConfig, Quantization};
use crate::llama::{Keep, TrainBatch};
use crate::loader::resolve_compute;
use crate::lora::Projection;
use crate::lora_settings::LoraSettings;

const F32: usize = size_of::<f32>();
const BF16: usize = 2;

/// What the memory of a training run depends on, besides its micro-batches.
#[derive(Debug, Clone)]
pub struct Footprint {
    pub(crate) model: LlamaConfig,
    pub(crate) quantization: Quantization,
    pub(crate) double_quantization: bool,
    pub(crate) compute: Compute,
    pub(crate) lora: LoraSettings,
    pub(crate) has_dropout: bool,
}

/// The sizes of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchSize {
    /// Tokens of all its rows.
    pub tokens: usize,
    /// Those that carry loss.
    pub supervised_tokens: usize,
    /// Tokens of its longest row.
    pub longest_row: usize,
}

impl BatchSize {
    /// Of `batch`.
    pub fn of(batch: &TrainBatch) -> Self {
        let lengths = batch.sequences.ranges().map(|range| range.len());
        Self {
            tokens: batch.ids.len(),
            supervised_tokens: batch.targets.len(),
            longest_row: lengths.max().unwrap_or(0),
        }
    }

    /// The larger of each size.
    pub fn max(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            supervised_tokens: self.supervised_tokens.max(other.supervised_tokens),
            longest_row: self.longest_row.max(other.longest_row),
        }
    }
}

impl Footprint {
    /// Of a run that holds `model` as `config` says; `dropout` is that of the adapter's inputs.
    pub fn new(
        model: &LlamaConfig,
        config: &ModelConfig,
        lora: LoraSettings,
        dropout: f32,
    ) -> Self {
        Self {
            model: model.clone(),
            quantization: config.quantization,
            double_quantization: config.double_quantization,
            compute: resolve_compute(config.compute),
            lora,
            has_dropout: dropout > 0.0,
        }
    }

    /// What products are computed in.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Bytes of the frozen weights, with biases, norms and the RoPE table.
    pub fn weight_bytes(&self) -> usize {
        let c = &self.model;
        let projections = Projection::ALL.map(|projection| projection.shape(c));
        let linears: usize = projections
            .iter()
            .map(|shape| self.linear_bytes(*shape))
            .sum();
        let biased = Projection::ALL.into_iter().filter(|of| c.has_bias(*of));
        let biases = F32 * biased.map(|of| of.shape(c)[0]).sum::<usize>();
        let norms = F32 * c.hidden_size * (2 * c.num_hidden_layers + 1);
        let rope = F32 * c.max_position_embeddings * c.head_dim;
        (linears + biases) * c.num_hidden_layers + self.tables() * self.wide_bytes() + norms + rope
    }

    /// Bytes at the widest point of loading at most: from a GGUF one tensor is held as f32 twice (dequantised, and in its rows' order).
    pub fn loading_bytes(&self) -> usize {
        let c = &self.model;
        let table = 2 * F32 * c.vocab_size * c.hidden_size;
        let linear = 2 * F32 * self.widest_linear();
        // Embedding and head come first.
        (self.tables() * self.wide_bytes() + table).max(self.weight_bytes() + linear)
    }

    /// Embedding and head, or both in one.
    fn tables(&self) -> usize {
        match self.model.tie_word_embeddings {
            true => 1,
            false => 2,
        }
    }

    /// Values of each tensor that is trained: `A`, `B`, and DoRA's magnitude.
    pub fn adapter_tensors(&self) -> Vec<usize> {
        let of_place = |(rank, [out, inner]): (usize, [usize; 2])| {
            let magnitude = self.lora.use_dora.then_some(out);
            [rank * inner, out * rank].into_iter().chain(magnitude)
        };
        self.places().flat_map(of_place).collect()
    }

    /// Bytes of activations that all blocks keep of a micro-batch for the backward pass.
    pub fn activation_bytes(&self, keep: Keep, tokens: usize) -> usize {
        let c = &self.model;
        let of_block = match keep {
            Keep::BlockInput => F32 * c.hidden_size,
            Keep::Selective | Keep::All => self.saved_f32(keep) + self.saved_narrow(),
        };
        let downs = match keep {
            Keep::BlockInput => 0,
            Keep::Selective | Keep::All => F32 * self.ranks(),
        };
        tokens * (of_block * c.num_hidden_layers + downs)
    }

    /// Bytes besides [`Footprint::activation_bytes`] where the forward pass meets the backward pass: the last block's output and its gradient, the rows of both that
    /// carry loss, and a chunk of logits, once more as bf16 on the way into the product.
    pub fn loss_bytes(&self, batch: BatchSize) -> usize {
        let c = &self.model;
        let rows = 2 * batch.tokens + 4 * batch.supervised_tokens;
        let logits = CHUNK.min(batch.supervised_tokens) * c.vocab_size;
        F32 * rows * c.hidden_size + (F32 + self.narrow()) * logits + self.attention_bytes(batch)
    }

    /// Bytes besides [`Footprint::activation_bytes`] in a block, at the widest point of its way forth and back.
    pub fn block_bytes(&self, keep: Keep, batch: BatchSize) -> usize {
        let tokens = batch.tokens;
        let c = &self.model;
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let (query, key_value) = (self.query(), self.key_value());
        let adapted = |projection: Projection| self.lora.targets.contains(&projection);
        let dropped =
            |projection: Projection, width: usize| match self.has_dropout && adapted(projection) {
                true => width,
                false => 0,
            };
        // DoRA computes the base's output again, and rescales the output's gradient.
        let dora = |projection: Projection| match self.lora.use_dora && adapted(projection) {
            true => 2 * projection.shape(c)[0],
            false => 0,
        };
        let again = |width: usize| match keep {
            Keep::All => 0,
            Keep::Selective | Keep::BlockInput => width,
        };
        // Values a token. Of down: the output's gradient, the product, its gradient.
        let down = hidden
            + again(inner)
            + inner
            + dropped(Projection::Down, inner)
            + dora(Projection::Down);
        // Of gate and up: their gradients; the output's; the norm, its gradient.
        let gate_up = 2 * inner
            + 2 * hidden
            + again(hidden)
            + dropped(Projection::Gate, hidden).max(dropped(Projection::Up, hidden))
            + dora(Projection::Gate);
        // Of attention: h's gradient; those of its output and its inputs.
        let attention = hidden + 2 * query + 2 * key_value;
        let qkv = 3 * hidden + again(hidden) + query + 2 * key_value + dora(Projection::Q);
        // Forward: gate and up before they are stored, the norm, the residual stream.
        let forward = 2 * inner + 3 * hidden;
        let mut values = down.max(gate_up).max(attention).max(qkv).max(forward);
        // Gradients on their way into products; where those of gate and up go, what was stored of them is free again.
        let mut bytes = self.narrow() * tokens * hidden.max(query);
        if keep == Keep::BlockInput {
            // One block's activations are there again, but for its input, which counts as kept.
            values += hidden;
            bytes +=
                tokens * (self.saved_f32(Keep::Selective) - F32 * hidden + self.saved_narrow());
            let downs = self.ranks() / c.num_hidden_layers.max(1);
            bytes += F32 * tokens * downs;
        }
        bytes += F32 * tokens * values;
        bytes + self.attention_bytes(batch) + self.dequantised_bytes()
    }

    /// What the threads hold for attention's tiles from the first pass on: for each query head that shares a key/value head, a
    /// block's result and four packed operands; some tiles; sums for keys and values of the longest row.
    fn attention_bytes(&self, batch: BatchSize) -> usize {
        const BLOCK: usize = 64;
        let c = &self.model;
        let packed = BLOCK * c.head_dim.next_multiple_of(BLOCK);
        let shared = c.num_attention_heads / c.num_key_value_heads.max(1);
        let element = if self.compute == Compute::F32 {
            F32
        } else {
            BF16
        };
        let heads = shared * packed * (F32 + 4 * element);
        let tiles = 2 * packed * element + BLOCK * BLOCK * (2 * F32 + 3 * element);
        let sums = 2 * F32 * batch.longest_row * c.head_dim;
        (heads + tiles + sums) * rayon::current_num_threads()
    }

    /// Bytes of a value that products read as bf16 or as an 8-bit code.
    fn narrow(&self) -> usize {
        match self.compute {
            Compute::F32 => 0,
            Compute::Bf16 => BF16,
            Compute::Int8 => 1,
            // Rounded to f16 in f32, and its codes.
            Compute::LlmInt8 => F32 + 1,
        }
    }

    /// f32 products of NF4 weights make a dense copy of one matrix.
    fn dequantised_bytes(&self) -> usize {
        match (self.compute, self.quantization) {
            (Compute::F32, Quantization::Nf4) => F32 * self.widest_linear(),
            _ => 0,
        }
    }

    /// Bytes a token that one block keeps as f32.
    fn saved_f32(&self, keep: Keep) -> usize {
        let c = &self.model;
        // x, h, log-sum-exp.
        let selective = 2 * c.hidden_size + c.num_attention_heads;
        // Both norms, and the product.
        let all = match keep {
            Keep::All => 2 * c.hidden_size + c.intermediate_size,
            Keep::Selective | Keep::BlockInput => 0,
        };
        F32 * (selective + all)
    }

    /// Bytes a token that one block keeps as bf16 where compute is not f32: q, attended, k, v, gate, up.
    fn saved_narrow(&self) -> usize {
        let width = match self.compute {
            Compute::F32 => F32,
            Compute::Bf16 | Compute::Int8 | Compute::LlmInt8 => BF16,
        };
        width * 2 * (self.query() + self.key_value() + self.model.intermediate_size)
    }

    /// As [`Matrix::bytes`] of a block linear.
    fn linear_bytes(&self, [out, inner]: [usize; 2]) -> usize {
        match (self.quantization, self.compute) {
            (Quantization::Int8, _) => Matrix::packed_codes(out, inner) + F32 * out,
            (Quantization::Nf4, _) => {
                let scales = Scales::bytes_of(out * inner, self.double_quantization);
                Matrix::packed_values(out, inner) / 2 + scales
            }
            (Quantization::None, Compute::F32) => F32 * out * inner,
            (Quantization::None, _) => BF16 * Matrix::packed_values(out, inner),
        }
    }

    /// As [`Matrix::bytes`] of embedding or head.
    fn wide_bytes(&self) -> usize {
        let (out, inner) = (self.model.vocab_size, self.model.hidden_size);
        match self.compute {
            Compute::F32 => F32 * out * inner,
            Compute::Bf16 | Compute::Int8 | Compute::LlmInt8 => {
                BF16 * Matrix::packed_values(out, inner)
            }
        }
    }

    /// Values of the largest block linear.
    fn widest_linear(&self) -> usize {
        let sizes = Projection::ALL.map(|projection| {
            let [out, inner] = projection.shape(&self.model);
            out * inner
        });
        sizes.into_iter().max().unwrap_or(0)
    }

    fn query(&self) -> usize {
        self.model.num_attention_heads * self.model.head_dim
    }

    fn key_value(&self) -> usize {
        self.model.num_key_value_heads * self.model.head_dim
    }

    /// Ranks of all adapted layers.
    fn ranks(&self) -> usize {
        self.places().map(|(rank, _)| rank).sum()
    }

    /// Rank and shape `[out, in]` of every adapted layer.
    fn places(&self) -> impl Iterator<Item = (usize, [usize; 2])> {
        let layers = 0..self.model.num_hidden_layers;
        let places = layers.flat_map(|layer| self.lora.targets.iter().map(move |p| (layer, *p)));
        places.map(|place| (self.lora.rank_at(place), place.1.shape(&self.model)))
    }
}

#[cfg(test)]
mod tests;
