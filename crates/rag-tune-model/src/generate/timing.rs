//! Generation of a fixed length, timed: whatever the model says, every row goes on to the end.

use std::time::{Duration, Instant};

use rag_tune_kernels::{Tensor, attention};

use super::engine::{Engine, Sequence};
use super::sampling::Sampling;
use super::{admit, check_prompts};
use crate::error::ModelError;
use crate::llama::Llama;

/// How long a generation took, and what its decoding read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationTimes {
    /// Of all prompts, the first new token of each included.
    pub prefill: Duration,
    /// Of every further token.
    pub decode: Duration,
    /// Passes that decoding took, each with one token a row.
    pub decode_passes: usize,
    /// Bytes of cached keys and values that these passes read.
    pub cache_bytes: usize,
}

/// Generates `new_tokens` tokens after each prompt, all rows at a time, and times it.
///
/// # Errors
/// [`ModelError`] if `new_tokens` is 0, or a prompt is empty, has ids outside the vocabulary or leaves too little room.
pub fn time_generation(
    model: &Llama,
    prompts: &[Vec<u32>],
    new_tokens: usize,
) -> Result<GenerationTimes, ModelError> {
    check_prompts(model, prompts)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let limit = model.config().max_position_embeddings;
    if new_tokens == 0 || longest + new_tokens > limit {
        return Err(ModelError::Argument {
            what: "the number of new tokens",
            got: new_tokens,
            expected: format!("1 to {} behind this prompt", limit.saturating_sub(longest)),
        });
    }
    let mut engine = Engine::new(model, None);
    let start = Instant::now();
    let mut waiting = (0..prompts.len()).peekable();
    let mut sequences = vec![Sequence::default(); prompts.len()];
    let mut last = Vec::with_capacity(prompts.len());
    let next = |logits: &Tensor, rows: usize| {
        // Greedy: whichever they are.
        Sampling::Greedy.choose(logits, &vec![(0, 0); rows])
    };
    while waiting.peek().is_some() {
        let admitted = admit(&mut waiting, |row| prompts[row].len(), prompts.len());
        let rows = admitted[0]..admitted[0] + admitted.len();
        let ids: Vec<&[u32]> = prompts[rows.clone()].iter().map(Vec::as_slice).collect();
        let mut sequences: Vec<_> = sequences[rows].iter_mut().collect();
        last.extend(next(&engine.prefill(&ids, &mut sequences)?, ids.len())?);
    }
    let prefill = start.elapsed();
    if model.device().is_some() {
        // There the second step of a shape is recorded, and so slower than all that follow: they are not timed.
        let mut copies = sequences.clone();
        for _ in 0..2 {
            let mut rows: Vec<_> = copies.iter_mut().collect();
            next(&engine.decode(&last, &mut rows)?, rows.len())?;
        }
    }
    let start = Instant::now();
    let mut cache_bytes = 0;
    for _ in 1..new_tokens {
        let mut rows: Vec<_> = sequences.iter_mut().collect();
        let logits = engine.decode(&last, &mut rows)?;
        last = next(&logits, last.len())?;
        let caches = sequences.iter().flat_map(|row| &row.caches);
        cache_bytes += caches.map(attention::Cache::bytes).sum::<usize>();
    }
    Ok(GenerationTimes {
        prefill,
        decode: start.elapsed(),
        decode_passes: new_tokens - 1,
        cache_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rag_tune_kernels::Compute;

    use crate::config::{LlamaConfig, ModelConfig};
    use crate::generate::tests::shape;

    fn model() -> Llama {
        let shape = LlamaConfig {
            max_position_embeddings: 16,
            ..shape()
        };
        Llama::synthetic(&shape, &ModelConfig::default()).unwrap()
    }

    #[test]
    fn every_row_goes_on_to_the_end() {
        let prompts = [vec![1, 2, 3], vec![4, 5, 6]];
        let times = time_generation(&model(), &prompts, 4).unwrap();
        assert_eq!(times.decode_passes, 3);
        // Caches of 4, 5 and 6 tokens; 2 rows, 2 layers, keys and values of 32 numbers each.
        let number = if model().compute() == Compute::F32 {
            4
        } else {
            2
        };
        assert_eq!(times.cache_bytes, (4 + 5 + 6) * 2 * 2 * 2 * 32 * number);
        assert!(times.prefill > Duration::ZERO && times.decode > Duration::ZERO);
    }

    #[test]
    fn steps_that_a_device_records_first_are_not_counted() {
        let device = rag_tune_kernels::cuda::Device::emulated(0).unwrap();
        let model = model().into_device(&device).unwrap();
        let times = time_generation(&model, &[vec![1, 2, 3]], 4).unwrap();
        assert_eq!(times.decode_passes, 3);
        assert_eq!(times.cache_bytes, (4 + 5 + 6) * 2 * 2 * 32 * 2);
    }

    #[test]
    fn a_generation_that_does_not_fit_is_refused() {
        let prompts = [vec![1; 10]];
        assert!(time_generation(&model(), &prompts, 6).is_ok());
        let error = time_generation(&model(), &prompts, 7).unwrap_err();
        assert!(error.to_string().contains("1 to 6"), "{error}");
        assert!(time_generation(&model(), &prompts, 0).is_err());
    }
}
