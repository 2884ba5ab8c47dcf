//! What a run will go through: counted before it starts.

use rag_tune_model::memory::BatchSize;
use serde::Serialize;

use crate::batch::TrainSet;
use crate::error::TrainError;

/// Sums over all steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Optimizer steps.
    pub steps: usize,
    /// Passes.
    pub micro_batches: usize,
    /// Real tokens: rows are packed without padding.
    pub tokens: usize,
    /// Those of them that carry loss.
    pub supervised_tokens: usize,
    /// The most tokens, supervised tokens and row length of any micro-batch.
    #[serde(skip)]
    pub largest: BatchSize,
}

impl Work {
    /// Goes through the run's micro-batches as training will.
    ///
    /// # Errors
    /// [`TrainError`] if a micro-batch cannot be made.
    pub fn count(set: &TrainSet) -> Result<Self, TrainError> {
        let steps = set.total_steps();
        let mut work = Self {
            steps,
            micro_batches: 0,
            tokens: 0,
            supervised_tokens: 0,
            largest: BatchSize::default(),
        };
        for step in 1..=steps {
            for micro in set.micro_batches(step)? {
                let size = BatchSize::of(&micro.batch);
                work.micro_batches += 1;
                work.tokens += size.tokens;
                work.supervised_tokens += size.supervised_tokens;
                work.largest = work.largest.max(size);
            }
        }
        Ok(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use rag_tune_model::tokenizer::EncodedRow;

    /// Rows of 6, 6 and 11 tokens with their ends; 16 fit into a micro-batch, so a step of two rows has one or two.
    #[test]
    fn work_is_that_of_the_micro_batches() {
        let row = |len: u32| EncodedRow {
            ids: (0..len).collect(),
            prompt_len: 3,
        };
        let config = TrainConfig {
            batch_size: Some(3),
            max_steps: Some(4),
            tokens_per_micro_batch: 16,
            max_length: 16,
            ..Default::default()
        };
        let rows = vec![row(5), row(5), row(10)];
        let set = TrainSet::new(&[rows], 2, &config, 0).unwrap();
        let work = Work::count(&set).unwrap();
        assert_eq!((work.steps, work.micro_batches), (4, 8));
        assert_eq!((work.tokens, work.supervised_tokens), (4 * 23, 4 * 14));
        // The row of 11 is alone, or the two of 6 are together.
        assert_eq!(work.largest.longest_row, 11);
        assert_eq!(work.largest.tokens, 12);
    }
}
