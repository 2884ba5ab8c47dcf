//! Encoded rows to packed micro-batches.

use rag_tune_kernels::Sequences;
use rag_tune_model::llama::TrainBatch;
use rag_tune_model::tokenizer::EncodedRow;

use crate::config::{LossOn, TrainConfig};
use crate::error::TrainError;

/// A row ready for training.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Example {
    /// Index in the data set.
    row: usize,
    /// Prompt, answer, end of sequence.
    ids: Vec<u32>,
    /// The first token that carries loss.
    supervised_from: usize,
}

impl Example {
    fn new(row: usize, encoded: &EncodedRow, end_of_sequence: u32, config: &TrainConfig) -> Self {
        let supervised_from = match config.loss_on {
            // Position 0 has nothing before it that could predict it.
            LossOn::Completion => encoded.prompt_len.max(1),
            LossOn::All => 1,
        };
        let mut ids = encoded.ids.clone();
        ids.push(end_of_sequence);
        Self {
            row,
            ids,
            supervised_from,
        }
    }
}

/// The rows that a run trains on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainSet {
    /// One list where all epochs see the same prompts, else one an epoch, of the same rows.
    variants: Vec<Vec<Example>>,
    too_long: usize,
    batch_size: usize,
    tokens_per_micro_batch: usize,
    seed: u64,
}

/// A micro-batch and the rows that it holds.
#[derive(Debug, Clone)]
pub struct MicroBatch {
    /// What the model is given.
    pub batch: TrainBatch,
    /// For each sequence, the index of its row in the data set.
    pub rows: Vec<usize>,
}

impl TrainSet {
    /// Appends the end-of-sequence token, which is supervised, to every row, and leaves out rows
    /// that are too long.
    ///
    /// `epochs` holds the rows as each epoch sees them; the first list again where there are more
    /// epochs than lists, so that one list serves a run whose prompts stay the same. A row is left
    /// out of all epochs if it is too long in one.
    ///
    /// # Errors
    /// [`TrainError`] if a row has no answer or none is left.
    ///
    /// # Panics
    /// If the lists differ in length, or there is none.
    pub fn new(
        epochs: &[Vec<EncodedRow>],
        end_of_sequence: u32,
        config: &TrainConfig,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let given = epochs[0].len();
        assert!(
            epochs.iter().all(|rows| rows.len() == given),
            "every epoch sees the same rows"
        );
        // The end of sequence is one more token.
        let fits = |row: &EncodedRow| row.ids.len() < config.max_length;
        let kept: Vec<usize> = (0..given)
            .filter(|row| epochs.iter().all(|rows| fits(&rows[*row])))
            .collect();
        let mut variants = Vec::new();
        for rows in epochs {
            if let Some(row) = rows.iter().position(|row| row.prompt_len >= row.ids.len()) {
                return Err(TrainError::NothingSupervised { row });
            }
            let example = |row: &usize| Example::new(*row, &rows[*row], end_of_sequence, config);
            variants.push(kept.iter().map(example).collect());
        }
        let too_long = given - kept.len();
        if kept.is_empty() {
            return Err(TrainError::NoRows {
                given,
                too_long,
                max_length: config.max_length,
            });
        }
        let (batch_size, tokens_per_micro_batch) =
            (config.batch_size, config.tokens_per_micro_batch);
        Ok(Self {
            variants,
            too_long,
            batch_size,
            tokens_per_micro_batch,
            seed,
        })
    }

    /// Rows trained on.
    pub fn rows(&self) -> usize {
        self.variants[0].len()
    }

    /// Rows left out because they have more than `max_length` tokens.
    pub fn too_long(&self) -> usize {
        self.too_long
    }

    /// Tokens of all rows, as the first epoch sees them.
    pub fn tokens(&self) -> usize {
        self.lengths().iter().sum()
    }

    /// Tokens that carry loss.
    pub fn supervised_tokens(&self) -> usize {
        self.variants[0]
            .iter()
            .map(|example| example.ids.len() - example.supervised_from)
            .sum()
    }

    /// Tokens of each row, as the first epoch sees it.
    pub fn lengths(&self) -> Vec<usize> {
        self.variants[0]
            .iter()
            .map(|example| example.ids.len())
            .collect()
    }

    /// The ids of the first row and how many of them carry no loss, for people to look at.
    pub fn first(&self) -> (&[u32], usize) {
        let first = &self.variants[0][0];
        (&first.ids, first.supervised_from)
    }

    /// Feeds everything that identifies the rows to a hash.
    pub(crate) fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        for example in self.variants.iter().flatten() {
            update(&(example.row as u64).to_le_bytes());
            update(&(example.supervised_from as u64).to_le_bytes());
            update(&(example.ids.len() as u64).to_le_bytes());
            example.ids.iter().for_each(|id| update(&id.to_le_bytes()));
        }
    }

    /// The end of `step`, in passes over the rows.
    pub fn epoch(&self, step: usize) -> f64 {
        let per_epoch = self.rows().div_ceil(self.batch_size);
        let (whole, rest) = (step / per_epoch, step % per_epoch);
        whole as f64 + (rest * self.batch_size) as f64 / self.rows() as f64
    }

    /// The micro-batches of `step`, which counts from 1: a function of the seed and the step alone.
    pub fn micro_batches(&self, step: usize) -> Result<Vec<MicroBatch>, TrainError> {
        let per_epoch = self.rows().div_ceil(self.batch_size);
        let (epoch, within) = ((step - 1) / per_epoch, (step - 1) % per_epoch);
        let order = shuffled(self.rows(), self.seed, epoch as u64);
        let examples = &self.variants[epoch % self.variants.len()];
        let chosen: Vec<&Example> = order
            .chunks(self.batch_size)
            .nth(within)
            .unwrap_or_default()
            .iter()
            .map(|index| &examples[*index])
            .collect();
        self.pack(&chosen)
            .iter()
            .map(|members| micro_batch(members))
            .collect()
    }

    /// First-fit decreasing: the longest row first, each into the first micro-batch with room.
    fn pack<'a>(&self, chosen: &[&'a Example]) -> Vec<Vec<&'a Example>> {
        let mut sorted = chosen.to_vec();
        sorted.sort_by_key(|example| (std::cmp::Reverse(example.ids.len()), example.row));
        let mut bins: Vec<(usize, Vec<&Example>)> = Vec::new();
        for example in sorted {
            let length = example.ids.len();
            let fits = |(used, _): &&mut (usize, Vec<&Example>)| {
                *used + length <= self.tokens_per_micro_batch
            };
            match bins.iter_mut().find(fits) {
                Some((used, members)) => {
                    *used += length;
                    members.push(example);
                }
                None => bins.push((length, vec![example])),
            }
        }
        bins.into_iter().map(|(_, members)| members).collect()
    }
}

fn micro_batch(members: &[&Example]) -> Result<MicroBatch, TrainError> {
    let lengths: Vec<usize> = members.iter().map(|example| example.ids.len()).collect();
    let sequences = Sequences::from_lengths(&lengths)?;
    let mut ids = Vec::with_capacity(sequences.tokens());
    let mut targets = Vec::new();
    for example in members {
        for at in example.supervised_from..example.ids.len() {
            targets.push((ids.len() + at - 1, example.ids[at]));
        }
        ids.extend_from_slice(&example.ids);
    }
    let rows = members.iter().map(|example| example.row).collect();
    Ok(MicroBatch {
        batch: TrainBatch {
            ids,
            sequences,
            targets,
        },
        rows,
    })
}

/// A permutation of `0..count` (Fisher-Yates over splitmix64).
fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut state = seed ^ epoch.wrapping_mul(0xd134_2543_de82_ef95);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        order.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(lengths: &[(usize, usize)]) -> Vec<EncodedRow> {
        let row = |(index, (prompt_len, len)): (usize, &(usize, usize))| EncodedRow {
            ids: (0..*len as u32)
                .map(|at| 1000 * index as u32 + at + 10)
                .collect(),
            prompt_len: *prompt_len,
        };
        lengths.iter().enumerate().map(row).collect()
    }

    fn config(batch_size: usize, budget: usize) -> TrainConfig {
        TrainConfig {
            batch_size,
            tokens_per_micro_batch: budget,
            max_length: budget,
            ..Default::default()
        }
    }

    #[test]
    fn the_answer_and_its_end_carry_loss() {
        let set = TrainSet::new(&[rows(&[(3, 5)])], 2, &config(1, 100), 0).unwrap();
        let micro = &set.micro_batches(1).unwrap()[0];
        assert_eq!(micro.batch.ids, [10, 11, 12, 13, 14, 2]);
        assert_eq!(micro.batch.targets, [(2, 13), (3, 14), (4, 2)]);
        let all = TrainConfig {
            loss_on: LossOn::All,
            ..config(1, 100)
        };
        let set = TrainSet::new(&[rows(&[(3, 5)])], 2, &all, 0).unwrap();
        assert_eq!(set.supervised_tokens(), 5);
    }

    #[test]
    fn long_rows_are_left_out_and_counted() {
        let set = TrainSet::new(&[rows(&[(3, 5), (3, 10), (3, 9)])], 2, &config(8, 10), 0).unwrap();
        assert_eq!((set.rows(), set.too_long()), (2, 1));
        let error = TrainSet::new(&[rows(&[(3, 10)])], 2, &config(8, 10), 0).unwrap_err();
        assert!(
            error.to_string().contains("1 have more than 10 tokens"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_answer_is_refused() {
        let error = TrainSet::new(&[rows(&[(1, 2), (5, 5)])], 2, &config(8, 10), 0).unwrap_err();
        assert!(
            error.to_string().contains("training row 1 has no token"),
            "{error}"
        );
    }

    /// Row 1 is too long in the second epoch, so it is left out of both.
    #[test]
    fn each_epoch_may_see_other_prompts() {
        let epochs = [rows(&[(3, 5), (3, 6)]), rows(&[(1, 4), (3, 60)])];
        let set = TrainSet::new(&epochs, 2, &config(1, 50), 0).unwrap();
        assert_eq!((set.rows(), set.too_long()), (1, 1));
        let length = |step| set.micro_batches(step).unwrap()[0].batch.ids.len();
        assert_eq!((length(1), length(2), length(3)), (6, 5, 6));
    }

    #[test]
    fn epochs_differ_and_repeat_with_the_seed() {
        assert_ne!(shuffled(50, 1, 0), shuffled(50, 1, 1));
        assert_ne!(shuffled(50, 1, 0), shuffled(50, 2, 0));
        assert_eq!(shuffled(50, 1, 1), shuffled(50, 1, 1));
    }

    proptest! {
        #[test]
        fn an_epoch_visits_every_row_once_within_the_budget(
            lengths in prop::collection::vec(2_usize..40, 1..60),
            batch_size in 1_usize..20,
            seed in any::<u64>(),
        ) {
            let pairs: Vec<_> = lengths.iter().map(|len| (1, *len)).collect();
            let set = TrainSet::new(&[rows(&pairs)], 2, &config(batch_size, 50), seed).unwrap();
            let mut seen = Vec::new();
            for step in 1..=lengths.len().div_ceil(batch_size) {
                for micro in set.micro_batches(step).unwrap() {
                    prop_assert!(micro.batch.ids.len() <= 50);
                    seen.extend(micro.rows);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
