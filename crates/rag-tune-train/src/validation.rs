//! Judging an adapter while it is trained.
//!
//! [`Validate`] is what a run asks every `validation.every` steps; [`ValidationLoss`] is the one
//! for `metric = "loss"`. Whoever can score answers implements the other.

use std::error::Error;

use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_model::tokenizer::EncodedRow;
use serde::{Deserialize, Serialize};

use crate::batch::{DataSummary, Ends, MicroBatch, TrainSet};
use crate::config::{TrainConfig, ValidationConfig};
use crate::error::TrainError;

/// File with a line a validation.
pub const VALIDATION_FILE: &str = "validation.jsonl";

/// One line of `validation.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// The optimizer step before it, from 1.
    pub step: usize,
    /// `loss`, or the name of the task's metric.
    pub metric: String,
    /// Nats per supervised token, or a share of the rows.
    pub value: f32,
    /// 95 % interval of a share.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ci95: Option<[f64; 2]>,
    /// Rows looked at.
    pub rows: usize,
    /// Whether it is the best so far.
    pub best: bool,
    /// Duration; no part of the step's.
    pub seconds: f64,
}

/// What a validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Nats per supervised token, or a share of the rows.
    pub value: f64,
    /// 95 % interval of a share.
    pub ci95: Option<[f64; 2]>,
}

/// Judges adapters, always on the same rows.
pub trait Validate {
    /// `loss`, or the name of the task's metric.
    fn metric(&self) -> &str;

    /// Rows that are looked at.
    fn rows(&self) -> usize;

    /// Measures `adapter`. What it finds may depend on nothing else: a resumed run measures again.
    ///
    /// # Errors
    /// Whatever keeps it from measuring; the run stops.
    fn validate(&mut self, adapter: &Adapter) -> Result<Measured, Box<dyn Error + Send + Sync>>;

    /// Feeds everything that the values depend on, besides the model and the adapter, to a hash: a
    /// run is resumed only with the validation that it began with.
    fn hash_into(&self, update: &mut dyn FnMut(&[u8]));
}

/// A run's validation.
pub struct Validation<'a> {
    /// `[validation]`
    pub config: &'a ValidationConfig,
    /// Who is asked.
    pub judge: &'a mut dyn Validate,
}

/// Loss on rows that are not trained on, without dropout.
pub struct ValidationLoss<'a> {
    model: &'a Llama,
    set: TrainSet,
    /// All rows, packed once.
    micro_batches: Vec<MicroBatch>,
}

impl<'a> ValidationLoss<'a> {
    /// Prepares the rows as training does it; see [`TrainSet::new`].
    ///
    /// # Errors
    /// [`TrainError`] if a row has no answer or none is short enough.
    pub fn new(
        model: &'a Llama,
        rows: &[EncodedRow],
        ends: impl Into<Ends>,
        config: &TrainConfig,
    ) -> Result<Self, TrainError> {
        // One step holds them all.
        let whole = TrainConfig {
            batch_size: Some(rows.len().max(1)),
            grad_accum_steps: None,
            ..config.clone()
        };
        let set = TrainSet::new(&[rows.to_vec()], ends, &whole, 0)?;
        Ok(Self {
            model,
            micro_batches: set.micro_batches(1)?,
            set,
        })
    }

    /// How many rows there are, and what became of those that are too long.
    pub fn summary(&self) -> DataSummary {
        self.set.summary()
    }
}

impl Validate for ValidationLoss<'_> {
    fn metric(&self) -> &str {
        "loss"
    }

    fn rows(&self) -> usize {
        self.set.rows()
    }

    fn validate(&mut self, adapter: &Adapter) -> Result<Measured, Box<dyn Error + Send + Sync>> {
        let (mut sum, mut tokens) = (0.0, 0);
        for micro in &self.micro_batches {
            sum += self.model.loss_sum(Some(adapter), &micro.batch)?;
            tokens += micro.batch.targets.len();
        }
        Ok(Measured {
            value: sum / tokens as f64,
            ci95: None,
        })
    }

    fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        self.set.hash_into(update);
    }
}

/// Indices of `wanted` of `rows` rows, ascending: one drawn by `seed` from each of `wanted` equal
/// stretches, so that they are spread over the whole split; all of them where there are no more.
pub fn spread_rows(rows: usize, wanted: usize, seed: u64) -> Vec<usize> {
    let count = wanted.min(rows);
    (0..count)
        .map(|index| {
            let (start, end) = (index * rows / count, (index + 1) * rows / count);
            start + (mixed(seed, index as u64) % (end - start) as u64) as usize
        })
        .collect()
}

/// The `index`-th number of splitmix64 (Steele et al. 2014).
fn mixed(seed: u64, index: u64) -> u64 {
    let mut mixed = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seed_chooses_the_rows() {
        assert_eq!(spread_rows(1000, 50, 1), spread_rows(1000, 50, 1));
        assert_ne!(spread_rows(1000, 50, 1), spread_rows(1000, 50, 2));
    }

    proptest! {
        #[test]
        fn chosen_rows_are_distinct_and_spread(rows in 0_usize..500, wanted in 1_usize..200, seed in any::<u64>()) {
            let chosen = spread_rows(rows, wanted, seed);
            prop_assert_eq!(chosen.len(), wanted.min(rows));
            for (index, row) in chosen.iter().enumerate() {
                prop_assert!((index * rows / chosen.len()..(index + 1) * rows / chosen.len()).contains(row));
            }
        }
    }
}
