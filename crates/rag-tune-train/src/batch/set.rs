//! The rows of a run, and what each step takes of them.

use std::sync::{Arc, Mutex, PoisonError};

use rag_tune_model::tokenizer::EncodedRow;

use super::example::{Ends, Example, Fit};
use super::micro_batch::MicroBatch;
use super::plan::EpochPlan;
use super::summary::{DataSummary, Epoch};
use crate::config::{RunLength, StepSize, TrainConfig, Truncation};
use crate::error::TrainError;

/// The rows that a run trains on.
#[derive(Debug)]
pub struct TrainSet {
    /// One list where all epochs see the same prompts, else one an epoch, of the same rows.
    variants: Vec<Vec<Example>>,
    excluded: Excluded,
    max_length: usize,
    step_size: StepSize,
    run_length: RunLength,
    tokens_per_micro_batch: usize,
    seed: u64,
    plans: Mutex<Plans>,
}

/// What `train.max_length` did to the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Excluded {
    given: usize,
    truncation: Truncation,
    too_long: usize,
    cut: usize,
    answer_too_long: usize,
}

/// What is known of the epochs. A plan follows from the epoch's number, but making one takes a moment.
#[derive(Debug, Default)]
struct Plans {
    /// Steps of each epoch from the first on.
    steps: Vec<usize>,
    /// The plan used last, with its epoch.
    latest: Option<(usize, Arc<EpochPlan>)>,
}

impl TrainSet {
    /// Appends the end-of-sequence token, which is supervised, to every row, and does with rows that
    /// are too long what `train.truncation` says.
    ///
    /// `epochs` holds the rows as each epoch sees them; the first list again where there are more
    /// epochs than lists, so that one list serves a run whose prompts stay the same. A row that is
    /// left out of one epoch is left out of all.
    ///
    /// # Errors
    /// [`TrainError`] if a row has no answer, one is too long where that is an error, or none is left.
    ///
    /// # Panics
    /// If the lists differ in length, or there is none.
    pub fn new(
        epochs: &[Vec<EncodedRow>],
        ends: impl Into<Ends>,
        config: &TrainConfig,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let given = epochs[0].len();
        assert!(
            epochs.iter().all(|rows| rows.len() == given),
            "every epoch sees the same rows"
        );
        let is_silent = |row: &EncodedRow| row.prompt_len >= row.ids.len();
        if let Some(row) = epochs
            .iter()
            .find_map(|rows| rows.iter().position(is_silent))
        {
            return Err(TrainError::NothingSupervised { row });
        }
        let (kept, excluded) = kept_rows(epochs, config)?;
        let ends = ends.into();
        let variant = |rows: &Vec<EncodedRow>| {
            let example = |row: &usize| Example::new(*row, &rows[*row], ends, config);
            kept.iter().map(example).collect()
        };
        Ok(Self {
            variants: epochs.iter().map(variant).collect(),
            excluded,
            max_length: config.max_length,
            step_size: config.step_size(),
            run_length: config.run_length(),
            tokens_per_micro_batch: config.tokens_per_micro_batch,
            seed,
            plans: Mutex::default(),
        })
    }

    /// Rows trained on.
    pub fn rows(&self) -> usize {
        self.variants[0].len()
    }

    /// Numbers of rows, tokens and micro-batches.
    pub fn summary(&self) -> DataSummary {
        let Excluded {
            given,
            truncation,
            too_long,
            cut,
            answer_too_long,
        } = self.excluded;
        let plan = self.plan(0);
        DataSummary {
            rows_given: given,
            rows: self.rows(),
            truncation,
            max_length: self.max_length,
            too_long,
            cut,
            answer_too_long,
            epoch: Epoch {
                steps: plan.steps(),
                micro_batches: plan.micro_batches(),
                tokens_per_micro_batch: self.tokens_per_micro_batch,
                tokens: self.tokens(),
                supervised_tokens: self.supervised_tokens(),
            },
        }
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
        lengths(&self.variants[0])
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

    /// Steps of the whole run.
    pub fn total_steps(&self) -> usize {
        match self.run_length {
            RunLength::Steps(steps) => steps,
            RunLength::Epochs(epochs) => {
                let whole = epochs as usize;
                let steps: usize = (0..whole).map(|epoch| self.steps_in(epoch)).sum();
                let share = f64::from(epochs) - whole as f64;
                // No plan for an epoch that is not begun.
                let rest = if share > 0.0 {
                    (share * self.steps_in(whole) as f64).round() as usize
                } else {
                    0
                };
                (steps + rest).max(1)
            }
        }
    }

    /// The end of `step`, in passes over the rows.
    pub fn epoch(&self, step: usize) -> f64 {
        if step == 0 {
            return 0.0;
        }
        let (epoch, within) = self.locate(step);
        let rows = self.plan(epoch).rows_of(within + 1);
        epoch as f64 + rows as f64 / self.rows() as f64
    }

    /// The micro-batches of `step`, which counts from 1: a function of the seed and the step alone.
    pub fn micro_batches(&self, step: usize) -> Result<Vec<MicroBatch>, TrainError> {
        let (epoch, within) = self.locate(step);
        let examples = &self.variants[epoch % self.variants.len()];
        let plan = self.plan(epoch);
        let bins = plan.step(within).iter();
        bins.map(|bin| MicroBatch::of(bin, examples)).collect()
    }

    /// The epoch of `step` (from 1) and the step's index in it, both from 0.
    fn locate(&self, step: usize) -> (usize, usize) {
        let mut within = step - 1;
        let mut epoch = 0;
        loop {
            let steps = self.steps_in(epoch);
            if within < steps {
                return (epoch, within);
            }
            within -= steps;
            epoch += 1;
        }
    }

    fn steps_in(&self, epoch: usize) -> usize {
        if let StepSize::Rows(rows) = self.step_size {
            return self.rows().div_ceil(rows);
        }
        let known = |plans: &Plans| plans.steps.get(epoch).copied();
        if let Some(steps) = known(&self.lock()) {
            return steps;
        }
        self.plan(epoch).steps()
    }

    fn plan(&self, epoch: usize) -> Arc<EpochPlan> {
        let mut plans = self.lock();
        if let Some((of, plan)) = &plans.latest
            && *of == epoch
        {
            return Arc::clone(plan);
        }
        let plan = Arc::new(EpochPlan::new(
            &lengths(&self.variants[epoch % self.variants.len()]),
            self.step_size,
            self.tokens_per_micro_batch,
            self.seed,
            epoch,
        ));
        if plans.steps.len() == epoch {
            plans.steps.push(plan.steps());
        }
        plans.latest = Some((epoch, Arc::clone(&plan)));
        plan
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plans> {
        // A plan is put there whole.
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows that every epoch can use, and what became of the others.
fn kept_rows(
    epochs: &[Vec<EncodedRow>],
    config: &TrainConfig,
) -> Result<(Vec<usize>, Excluded), TrainError> {
    let mut excluded = Excluded {
        given: epochs[0].len(),
        truncation: config.truncation,
        ..Excluded::default()
    };
    let mut kept = Vec::new();
    let mut refused = Vec::new();
    for row in 0..excluded.given {
        let fits = |fit| epochs.iter().any(|rows| Fit::of(&rows[row], config) == fit);
        if fits(Fit::AnswerTooLong) {
            excluded.answer_too_long += 1;
        } else if fits(Fit::TooLong) {
            excluded.too_long += 1;
            let longest = epochs.iter().map(|rows| rows[row].ids.len() + 1).max();
            refused.push((row, longest.unwrap_or(0)));
        } else {
            excluded.cut += usize::from(fits(Fit::Cut));
            kept.push(row);
        }
    }
    if config.truncation == Truncation::Error && !refused.is_empty() {
        return Err(TrainError::TooLong {
            rows: refused,
            max_length: config.max_length,
        });
    }
    if kept.is_empty() {
        return Err(TrainError::NoRows {
            given: excluded.given,
            too_long: excluded.too_long + excluded.answer_too_long,
            max_length: config.max_length,
        });
    }
    Ok((kept, excluded))
}

fn lengths(examples: &[Example]) -> Vec<usize> {
    examples.iter().map(|example| example.ids.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LossOn;
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
            batch_size: Some(batch_size),
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
        assert_eq!((set.rows(), set.summary().too_long), (2, 1));
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
        assert_eq!((set.rows(), set.summary().too_long), (1, 1));
        let length = |step| set.micro_batches(step).unwrap()[0].batch.ids.len();
        assert_eq!((length(1), length(2), length(3)), (6, 5, 6));
    }

    #[test]
    fn long_rows_are_cut_or_an_error_where_that_is_asked_for() {
        let given = [rows(&[(3, 5), (8, 12), (2, 12)])];
        let with = |truncation| TrainConfig {
            truncation,
            ..config(8, 10)
        };
        let set = TrainSet::new(&given, 2, &with(Truncation::Left), 0).unwrap();
        let summary = set.summary();
        assert_eq!(
            (set.rows(), summary.cut, summary.answer_too_long),
            (2, 1, 1)
        );
        assert_eq!(set.lengths(), [6, 10]);
        let error = TrainSet::new(&given, 2, &with(Truncation::Error), 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 training rows have more than 10 tokens: row 1 has 13, row 2 has 13"
        );
    }

    #[test]
    fn a_run_is_as_long_as_its_epochs() {
        let steps = |step_size: &dyn Fn(&mut TrainConfig), epochs| {
            let mut config = config(1, 100);
            config.batch_size = None;
            config.epochs = Some(epochs);
            step_size(&mut config);
            let pairs: Vec<_> = (0..300).map(|row| (1, 20 + row % 17)).collect();
            let set = TrainSet::new(&[rows(&pairs)], 2, &config, 0).unwrap();
            let total = set.total_steps();
            // To the nearest step, of which there are 19 in an epoch.
            assert!((set.epoch(total) - f64::from(epochs)).abs() < 0.05);
            total
        };
        // 300 rows of 29 tokens are at least 87 micro-batches.
        assert_eq!(steps(&|config| config.batch_size = Some(16), 1.0), 19);
        assert_eq!(steps(&|config| config.batch_size = Some(16), 2.5), 48);
        let whole = steps(&|config| config.grad_accum_steps = Some(1), 2.0);
        assert!((174..200).contains(&whole), "{whole}");
        assert!(steps(&|config| config.grad_accum_steps = Some(4), 2.0).abs_diff(whole / 4) <= 2);
    }

    proptest! {
        #[test]
        fn an_epoch_visits_every_row_once_within_the_budget(
            lengths in prop::collection::vec(2_usize..40, 1..60),
            size in 1_usize..20,
            by_rows in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let pairs: Vec<_> = lengths.iter().map(|len| (1, *len)).collect();
            let config = TrainConfig {
                batch_size: by_rows.then_some(size),
                grad_accum_steps: (!by_rows).then_some(size),
                epochs: Some(1.0),
                ..config(1, 50)
            };
            let set = TrainSet::new(&[rows(&pairs)], 2, &config, seed).unwrap();
            let mut seen = Vec::new();
            for step in 1..=set.total_steps() {
                for micro in set.micro_batches(step).unwrap() {
                    prop_assert!(micro.batch.ids.len() <= 50);
                    seen.extend(micro.rows);
                }
            }
            prop_assert_eq!(set.epoch(set.total_steps()), 1.0);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
