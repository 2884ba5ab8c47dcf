//! Floating-point operations of a pass, counted from the model's shape.

use rag_tune_kernels::Sequences;

use crate::config::LlamaConfig;
use crate::llama::{Keep, TrainBatch};
use crate::lora::Projection;

/// Floating-point operations of a forward pass over `sequences` that ends in the logits of `logits` tokens; an addition
/// and a multiplication are two.
///
/// Counted are matrix products: `2 N` a token for the frozen linear layers; `4 d` a pair of query and key; `2 P` a token
/// for the adapter; the head only where logits are asked for. Norms, RoPE and softmax are left out, as is usual.
pub fn forward_flop(
    config: &LlamaConfig,
    lora_parameters: usize,
    sequences: &Sequences,
    logits: usize,
) -> f64 {
    Counts::new(config, lora_parameters, sequences, logits).forward()
}

/// Floating-point operations of a forward and backward pass over `batch`, those of recomputation included.
///
/// To [`forward_flop`] come `2 N` a token for the gradient of the linear layers' inputs (their weights have none), two
/// and a half times attention's products, twice the adapter's, and once the head's.
pub fn training_flop(
    config: &LlamaConfig,
    lora_parameters: usize,
    batch: &TrainBatch,
    keep: Keep,
) -> f64 {
    let counts = Counts::new(
        config,
        lora_parameters,
        &batch.sequences,
        batch.targets.len(),
    );
    let recomputed = match keep {
        Keep::All | Keep::Selective => 0.0,
        Keep::BlockInput => counts.forward() - counts.head,
    };
    counts.forward() + counts.backward() + recomputed
}

/// What the parts of a forward pass take.
struct Counts {
    linear: f64,
    lora: f64,
    attention: f64,
    head: f64,
}

impl Counts {
    fn new(
        config: &LlamaConfig,
        lora_parameters: usize,
        sequences: &Sequences,
        logits: usize,
    ) -> Self {
        let tokens = sequences.tokens() as f64;
        let layers = config.num_hidden_layers as f64;
        let of_block = Projection::ALL
            .iter()
            .map(|projection| projection.shape(config).iter().product::<usize>());
        // Each token looks at itself and what came before it in its sequence.
        let pairs: f64 = sequences
            .ranges()
            .map(|range| (range.len() * (range.len() + 1) / 2) as f64)
            .sum();
        let query = (config.num_attention_heads * config.head_dim) as f64;
        Self {
            linear: 2.0 * layers * of_block.sum::<usize>() as f64 * tokens,
            lora: 2.0 * lora_parameters as f64 * tokens,
            attention: 4.0 * layers * query * pairs,
            head: 2.0 * (config.vocab_size * config.hidden_size * logits) as f64,
        }
    }

    fn forward(&self) -> f64 {
        self.linear + self.lora + self.attention + self.head
    }

    fn backward(&self) -> f64 {
        self.linear + 2.0 * self.lora + 2.5 * self.attention + self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_llama_7b() -> LlamaConfig {
        LlamaConfig::known("codellama-7b").unwrap()
    }

    fn batch(lengths: &[usize]) -> TrainBatch {
        let sequences = Sequences::from_lengths(lengths).unwrap();
        let tokens = sequences.tokens();
        TrainBatch {
            ids: vec![0; tokens],
            sequences,
            targets: (0..tokens).map(|at| (at, 0)).collect(),
        }
    }

    /// CodeLlama-7B, LoRA of rank 16 on all layers (40 M values), loss on every token: 27.6 GFLOP a token for rows of
    /// 1,024 tokens, 30.4 for 4,096 by hand (4 N + 7 s d L + 6 P); with recomputation half as much again.
    #[test]
    fn a_7b_model_takes_what_is_known() {
        let giga_a_token = |length: usize, keep| {
            training_flop(&code_llama_7b(), 39_980_000, &batch(&[length]), keep)
                / length as f64
                / 1e9
        };
        assert!((giga_a_token(1024, Keep::Selective) - 27.6).abs() < 0.1);
        assert!((giga_a_token(4096, Keep::Selective) - 30.4).abs() < 0.1);
        assert!((giga_a_token(1024, Keep::BlockInput) - 41.2).abs() < 0.5);
    }

    /// SmolLM2-135M by hand: 106,168,320 block weights and 28,311,552 of the head, twice each a token; 30 layers of 9 heads
    /// of 64, 128 * 129 / 2 pairs a row, 4 operations each.
    #[test]
    fn a_prefill_takes_what_is_known() {
        let smollm2 = LlamaConfig::known("smollm2-135m").unwrap();
        let rows = Sequences::from_lengths(&[128; 4]).unwrap();
        let linear = 2.0 * 106_168_320.0 * 512.0;
        let head = 2.0 * 28_311_552.0 * 4.0;
        let attention = 4.0 * 30.0 * 576.0 * (4.0 * 8256.0);
        assert_eq!(
            forward_flop(&smollm2, 0, &rows, 4),
            linear + head + attention
        );
    }

    #[test]
    fn packing_rows_saves_attention_and_masking_them_the_head() {
        let flop = |batch: &TrainBatch| training_flop(&code_llama_7b(), 0, batch, Keep::Selective);
        let (long, packed) = (batch(&[1024]), batch(&[512, 512]));
        let pairs = (1024 * 1025 / 2 - 512 * 513) as f64;
        assert_eq!(
            flop(&long) - flop(&packed),
            3.5 * 4.0 * 32.0 * 4096.0 * pairs
        );
        let mut masked = packed.clone();
        masked.targets.truncate(100);
        let head = 4.0 * 32016.0 * 4096.0 * 924.0;
        assert_eq!(flop(&packed) - flop(&masked), head);
    }
}
