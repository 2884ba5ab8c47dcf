//! How much memory a run will take, told before it starts.

use std::fs;

use rag_tune_model::llama::Keep;
use rag_tune_model::memory::{BatchSize, Footprint};
use serde::{Serialize, Serializer};

use crate::config::{Activations, TrainConfig};

/// Predicted bytes of a run, besides what the process takes before the weights are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// What is kept of each block.
    #[serde(rename = "activations", serialize_with = "as_in_config")]
    pub keep: Keep,
    /// Frozen weights.
    pub weight_bytes: usize,
    /// Activations kept for the backward pass of the largest micro-batch.
    pub activation_bytes: usize,
    /// Temporary tensors of one block.
    pub block_bytes: usize,
    /// Logits and what else the loss needs. A block or the loss: never both at a time.
    pub loss_bytes: usize,
    /// The adapter's factors.
    pub adapter_bytes: usize,
    /// Their gradient: the sum over a step, and that of one micro-batch.
    pub gradient_bytes: usize,
    /// The optimizer's state.
    pub optimizer_bytes: usize,
    /// A checkpoint's files before they are written.
    pub checkpoint_bytes: usize,
    /// The most that loading takes.
    pub loading_bytes: usize,
}

impl MemoryPlan {
    /// The plan for `config.activations`; `auto` is `selective` where the run then fits into `room` bytes, else `full`.
    pub fn new(
        footprint: &Footprint,
        config: &TrainConfig,
        largest: BatchSize,
        room: usize,
    ) -> Self {
        let tensors = footprint.adapter_tensors();
        let factors = size_of::<f32>() * tensors.iter().sum::<usize>();
        let state = tensors.iter();
        let state: usize = state
            .map(|values| config.optimizer.state_bytes(*values))
            .sum();
        let plan = |keep| Self {
            keep,
            weight_bytes: footprint.weight_bytes(),
            activation_bytes: footprint.activation_bytes(keep, largest.tokens),
            block_bytes: footprint.block_bytes(keep, largest),
            loss_bytes: footprint.loss_bytes(largest),
            adapter_bytes: factors,
            gradient_bytes: 2 * factors,
            optimizer_bytes: state,
            // The adapter's file, the first of the optimizer's two, and the second in two copies.
            checkpoint_bytes: factors + state / 2 * 3,
            loading_bytes: footprint.loading_bytes(),
        };
        match config.activations {
            Activations::All => plan(Keep::All),
            Activations::Selective => plan(Keep::Selective),
            Activations::Full => plan(Keep::BlockInput),
            Activations::Auto => {
                let selective = plan(Keep::Selective);
                match selective.peak_bytes() <= room {
                    true => selective,
                    false => plan(Keep::BlockInput),
                }
            }
        }
    }

    /// At the widest point of the run.
    pub fn peak_bytes(&self) -> usize {
        // Activations are kept from step to step, so a checkpoint comes on top.
        let training = self.weight_bytes
            + self.activation_bytes
            + self.block_bytes.max(self.loss_bytes)
            + self.adapter_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.checkpoint_bytes;
        training.max(self.loading_bytes)
    }
}

fn as_in_config<S: Serializer>(keep: &Keep, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name(*keep))
}

/// The setting that always gives this policy.
pub fn setting(keep: Keep) -> Activations {
    match keep {
        Keep::All => Activations::All,
        Keep::Selective => Activations::Selective,
        Keep::BlockInput => Activations::Full,
    }
}

/// The policy as `train.activations` spells it.
pub fn name(keep: Keep) -> &'static str {
    match keep {
        Keep::All => "all",
        Keep::Selective => "selective",
        Keep::BlockInput => "full",
    }
}

/// The part of the free memory that `auto` lets a run take: the rest is for what else the machine does.
pub fn room(available_bytes: usize) -> usize {
    available_bytes / 5 * 4
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
    kib_after("/proc/meminfo", "MemAvailable:")
}

/// Memory that this process takes now, where the system tells.
pub fn resident_bytes() -> Option<usize> {
    kib_after("/proc/self/status", "VmRSS:")
}

/// The value of a line of `/proc`, which is in KiB, as bytes.
fn kib_after(path: &str, label: &str) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(label))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rag_tune_model::config::{LlamaConfig, ModelConfig};
    use rag_tune_model::lora::Projection;
    use rag_tune_model::lora_settings::LoraSettings;

    fn footprint() -> Footprint {
        let model = LlamaConfig::known("smollm2-135m").unwrap();
        let attention = [Projection::Q, Projection::K, Projection::V, Projection::O];
        let lora = LoraSettings::uniform(16, 16.0, attention);
        Footprint::new(&model, &ModelConfig::default(), lora, 0.05)
    }

    fn plan(activations: Activations, room: usize) -> MemoryPlan {
        let config = TrainConfig {
            activations,
            ..Default::default()
        };
        let largest = BatchSize {
            tokens: 2048,
            supervised_tokens: 400,
            longest_row: 1000,
        };
        MemoryPlan::new(&footprint(), &config, largest, room)
    }

    #[test]
    fn auto_takes_what_fits() {
        let selective = plan(Activations::Selective, 0);
        let full = plan(Activations::Full, 0);
        assert!(full.peak_bytes() < selective.peak_bytes());
        assert!(selective.peak_bytes() < plan(Activations::All, 0).peak_bytes());
        let enough = selective.peak_bytes();
        assert_eq!(plan(Activations::Auto, enough), selective);
        assert_eq!(plan(Activations::Auto, enough - 1), full);
    }

    #[test]
    fn the_system_tells_what_is_free_and_what_we_take() {
        if let (Some(available), Some(resident)) = (available_bytes(), resident_bytes()) {
            assert!(available > 1 << 20 && resident > 1 << 20);
        }
    }
}
