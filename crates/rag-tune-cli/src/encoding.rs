//! Augmented rows as token ids: what the model is asked, and what it learns to answer.
//!
//! Training and evaluation share the boundary: the newline after the prompt is the prompt's last
//! character, and the answer begins behind it.

use anyhow::Context;
use rag_tune_augment::{AugmentedRow, Hub};
use rag_tune_model::tokenizer::{EncodedRow, Tokenizer};
use rag_tune_train::TrainError;
use rag_tune_train::batch::{Ends, TrainSet};
use rag_tune_train::config::TrainConfig;
use rayon::prelude::*;

use crate::augmentation::Augmentation;
use crate::config::RunConfig;
use crate::output::Output;

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

/// The rows of the training split as each epoch sees them, augmented first if needed, and ready for training.
///
/// # Errors
/// What augmenting reports; when the tokenizer fails, an answer is empty, or every row is too long.
pub fn training_rows(
    augmentation: &Augmentation<'_>,
    tokenizer: &Tokenizer,
    hub: &Hub,
    out: &Output,
) -> anyhow::Result<(Vec<Vec<AugmentedRow>>, TrainSet)> {
    let RunConfig { train, seed, .. } = augmentation.config;
    // Rows of later passes are taken to be about as long as those of the first.
    let passes = |rows: &[AugmentedRow]| {
        let set = training_set(&[rows.to_vec()], tokenizer, train, *seed)?;
        Ok(set.epoch(set.total_steps()).ceil() as usize)
    };
    let epochs = augmentation.training_rows(hub, out, passes)?;
    let set = training_set(&epochs, tokenizer, train, *seed)?;
    Ok((epochs, set))
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

/// The tokens around a training row. The one that ends it is the tokenizer's own, which comes first.
pub fn ends(tokenizer: &Tokenizer) -> Ends {
    Ends {
        bos: tokenizer.bos_id(),
        eos: tokenizer.eos_ids()[0],
    }
}
