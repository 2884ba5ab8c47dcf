//! The steps of an epoch.

use super::order::shuffled;
use super::packing::{Bin, pack_epoch, pack_step};
use crate::config::StepSize;

/// Which rows share a micro-batch, and which micro-batches a step, in one epoch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EpochPlan {
    /// Steps of micro-batches of indices into the examples.
    steps: Vec<Vec<Bin>>,
}

impl EpochPlan {
    /// The plan of `epoch` (from 0): a function of the arguments alone.
    pub(super) fn new(
        lengths: &[usize],
        step_size: StepSize,
        tokens_per_micro_batch: usize,
        seed: u64,
        epoch: usize,
    ) -> Self {
        let order = shuffled(lengths.len(), seed, epoch as u64);
        let steps = match step_size {
            StepSize::Rows(rows) => {
                let steps = order.chunks(rows);
                steps
                    .map(|rows| pack_step(rows, lengths, tokens_per_micro_batch))
                    .collect()
            }
            StepSize::MicroBatches(count) => {
                let bins = pack_epoch(&order, lengths, tokens_per_micro_batch);
                // The last ones are packed otherwise and less full: they do not always come last.
                let mut bins: Vec<Option<Bin>> = bins.into_iter().map(Some).collect();
                let shuffled = shuffled(bins.len(), !seed, epoch as u64);
                let shuffled: Vec<Bin> =
                    shuffled.iter().filter_map(|at| bins[*at].take()).collect();
                shuffled.chunks(count).map(<[Bin]>::to_vec).collect()
            }
        };
        Self { steps }
    }

    /// Optimizer steps.
    pub(super) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The micro-batches of the step at `index`, from 0.
    pub(super) fn step(&self, index: usize) -> &[Bin] {
        &self.steps[index]
    }

    /// Micro-batches of all steps.
    pub(super) fn micro_batches(&self) -> usize {
        self.steps.iter().map(Vec::len).sum()
    }

    /// Rows of the first `steps` steps.
    pub(super) fn rows_of(&self, steps: usize) -> usize {
        self.steps[..steps].iter().flatten().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths() -> Vec<usize> {
        (0..3000).map(|row| 40 + row * 7919 % 400).collect()
    }

    fn plan(seed: u64, epoch: usize) -> EpochPlan {
        EpochPlan::new(&lengths(), StepSize::MicroBatches(4), 2048, seed, epoch)
    }

    #[test]
    fn a_plan_follows_from_seed_and_epoch() {
        assert_eq!(plan(1, 0), plan(1, 0));
        assert_ne!(plan(1, 0), plan(1, 1));
        assert_ne!(plan(1, 0), plan(2, 0));
    }

    #[test]
    fn every_step_but_the_last_has_all_its_micro_batches() {
        let plan = plan(1, 0);
        let sizes: Vec<usize> = plan.steps.iter().map(Vec::len).collect();
        let (last, others) = sizes.split_last().unwrap();
        assert!(others.iter().all(|size| *size == 4) && (1..=4).contains(last));
        assert_eq!(plan.rows_of(plan.steps()), 3000);
    }

    /// Pearson's correlation, over several epochs, of a micro-batch's position with its rows' mean length.
    #[test]
    fn an_epoch_is_not_sorted_by_length() {
        let lengths = lengths();
        let mut points = Vec::new();
        for epoch in 0..8 {
            let plan = plan(3, epoch);
            let bins = plan.steps.iter().flatten().enumerate();
            points.extend(bins.map(|(at, bin)| {
                let tokens: usize = bin.iter().map(|row| lengths[*row]).sum();
                (at as f64, tokens as f64 / bin.len() as f64)
            }));
        }
        let count = points.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
        let covariance = mean(&|p| (p.0 - x) * (p.1 - y));
        let deviations = mean(&|p| (p.0 - x).powi(2)).sqrt() * mean(&|p| (p.1 - y).powi(2)).sqrt();
        let correlation = covariance / deviations;
        // Two standard errors of a correlation that is 0.
        assert!(
            correlation.abs() < 2.0 / count.sqrt(),
            "{correlation} of {count}"
        );
    }
}
