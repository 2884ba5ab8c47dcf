//! Floating-point operations of a training pass, counted from the model's shape.

use crate::config::LlamaConfig;
use crate::llama::{Keep, TrainBatch};
use crate::lora::Projection;

/// Floating-point operations of a forward and backward pass over `batch`, those of recomputation included; an
/// addition and a multiplication are two.
///
/// Counted are matrix products: `2 N` a token for the frozen linear layers forward, as many for the gradient of their
/// inputs (their weights have none); `4 d` a pair of query and key forward, two and a half times that backward; `6 P` a
/// token for the adapter; the head only where a token carries loss. Norms, RoPE and softmax are left out, as is usual.
pub fn training_flop(
    config: &LlamaConfig,
    lora_parameters: usize,
    batch: &TrainBatch,
    keep: Keep,
) -> f64 {
    let tokens = batch.ids.len() as f64;
    let layers = config.num_hidden_layers as f64;
    let of_block = Projection::ALL
        .iter()
        .map(|projection| projection.shape(config).iter().product::<usize>());
    let linear = 2.0 * layers * of_block.sum::<usize>() as f64 * tokens;
    let lora = 2.0 * lora_parameters as f64 * tokens;
    // Each token looks at itself and what came before it in its sequence.
    let pairs: f64 = batch
        .sequences
        .ranges()
        .map(|range| (range.len() * (range.len() + 1) / 2) as f64)
        .sum();
    let query = (config.num_attention_heads * config.head_dim) as f64;
    let attention = 4.0 * layers * query * pairs;
    let head = 2.0 * (config.vocab_size * config.hidden_size * batch.targets.len()) as f64;

    let forward = linear + lora + attention;
    let backward = linear + 2.0 * lora + 2.5 * attention;
    let recomputed = match keep {
        Keep::All | Keep::Selective => 0.0,
        Keep::BlockInput => forward,
    };
    forward + backward + recomputed + 2.0 * head
}

#[cfg(test)]
mod tests {
    use rag_tune_kernels::Sequences;

    use super::*;

    fn code_llama_7b() -> LlamaConfig {
        LlamaConfig {
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            vocab_size: 32016,
            rms_norm_eps: 1e-5,
            rope_theta: 1e6,
            max_position_embeddings: 16384,
            tie_word_embeddings: false,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        }
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
