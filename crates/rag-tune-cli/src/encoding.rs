//! Augmented rows as token ids: what the model is asked, and what it learns to answer.
//!
//! Training and evaluation share the boundary: the newline after the prompt is the prompt's last
//! character, and the answer begins behind it.

use anyhow::Context;
use rag_tune_augment::AugmentedRow;
use rag_tune_model::tokenizer::{EncodedRow, Tokenizer};
use rag_tune_train::TrainError;
use rag_tune_train::batch::{Ends, TrainSet};
use rag_tune_train::config::TrainConfig;
use rayon::prelude::*;

/// The text that the model is asked with.
pub fn question(row: &AugmentedRow) -> String {
    format!("{}\n", row.inference_prompt)
}

/// Question and answer; the ids begin with those of the question. [`TrainSet`] appends the end of sequence.
///
/// # Errors
/// When the tokenizer fails.
pub fn encode(row: &AugmentedRow, tokenizer: &Tokenizer) -> anyhow::Result<EncodedRow> {
    let encoded = tokenizer.encode_pair(&question(row), &row.full_prompt);
    encoded.context("cannot tokenise a training row")
}

/// All rows as each epoch sees them, ready for training.
///
/// # Errors
/// When the tokenizer fails, an answer is empty, or every row is too long.
pub fn training_set(
    epochs: &[Vec<AugmentedRow>],
    tokenizer: &Tokenizer,
    config: &TrainConfig,
    seed: u64,
) -> anyhow::Result<TrainSet> {
    let encoded = epochs
        .iter()
        .map(|rows| rows.par_iter().map(|row| encode(row, tokenizer)).collect())
        .collect::<anyhow::Result<Vec<Vec<_>>>>()?;
    let set = TrainSet::new(&encoded, ends(tokenizer), config, seed);
    set.map_err(|error| match error {
        TrainError::NothingSupervised { row } => {
            let prompt = &epochs[0][row].inference_prompt;
            let context = format!("cannot train on the row with this prompt:\n{prompt}\n");
            anyhow::Error::new(error).context(context)
        }
        error => anyhow::Error::new(error).context("cannot train on these rows"),
    })
}

/// Passes over `rows` that a run begins, if those of later passes are about as long.
///
/// # Errors
/// As [`training_set`].
pub fn passes(
    rows: &[AugmentedRow],
    tokenizer: &Tokenizer,
    config: &TrainConfig,
    seed: u64,
) -> anyhow::Result<usize> {
    let set = training_set(&[rows.to_vec()], tokenizer, config, seed)?;
    Ok(set.epoch(set.total_steps()).ceil() as usize)
}

/// The tokens around a training row. The one that ends it is the tokenizer's own, which comes first.
pub fn ends(tokenizer: &Tokenizer) -> Ends {
    Ends {
        bos: tokenizer.bos_id(),
        eos: tokenizer.eos_ids()[0],
    }
}
