//! How much memory a run will take, told before it starts.

use std::fs;

use rag_tune_model::config::LlamaConfig;
use rag_tune_model::llama::{Keep, Llama};

use crate::config::{Activations, TrainConfig};

/// Predicted bytes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What is kept of each block.
    pub keep: Keep,
    /// Frozen weights.
    pub weight_bytes: usize,
    /// Activations kept for the backward pass of a full micro-batch.
    pub activation_bytes: usize,
    /// Temporary tensors of one block and of the loss.
    pub transient_bytes: usize,
}

impl MemoryPlan {
    /// The plan for `train.activations`: `auto` keeps all it may if that fits into four fifths of
    /// the memory that is free now.
    pub fn new(model: &Llama, config: &TrainConfig, tokens: usize) -> Self {
        let plan = |keep| Self {
            keep,
            weight_bytes: model.weight_bytes(),
            activation_bytes: tokens * model.activation_bytes_per_token(keep),
            transient_bytes: transient_bytes(model.config(), tokens),
        };
        match config.activations {
            Activations::All => plan(Keep::All),
            Activations::Selective => plan(Keep::Selective),
            Activations::Full => plan(Keep::BlockInput),
            Activations::Auto => {
                let selective = plan(Keep::Selective);
                let free = available_bytes().unwrap_or(usize::MAX);
                let needed = selective.activation_bytes + selective.transient_bytes;
                if needed <= free / 5 * 4 {
                    selective
                } else {
                    plan(Keep::BlockInput)
                }
            }
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> usize {
        self.weight_bytes + self.activation_bytes + self.transient_bytes
    }
}

/// At the widest point: the MLP's backward pass holds the product, its gradient, those of gate and
/// up, and some of hidden width; the loss holds a chunk of 256 rows of logits, in f32 and bf16.
fn transient_bytes(config: &LlamaConfig, tokens: usize) -> usize {
    let block = 4 * tokens * (5 * config.intermediate_size + 8 * config.hidden_size);
    let loss = 6 * 256 * config.vocab_size;
    block.max(loss)
}

/// The most memory that this program has held so far, where the system tells.
pub fn peak_rss_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Memory that a new program could use without swapping, where the system tells.
pub fn available_bytes() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
