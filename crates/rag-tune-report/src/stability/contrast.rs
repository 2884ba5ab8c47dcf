//! Whether one run trained more steadily than another.

use serde::Serialize;

use super::resample::{block_length, deal_test, difference_interval, mean_interval, swap_test};
use super::{Stability, StepValues, mean};

/// What is compared. Each is a mean over steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Variance of the loss around its trend.
    LossVariance,
    /// Variance of the loss around its trend as a share of the trend: a lower loss also jumps by less.
    RelativeLossVariance,
    /// Variance of the gradient norm around its trend as a share of the trend.
    RelativeGradNormVariance,
    /// Spikes of the loss a step.
    LossSpikes,
}

/// Whether the runs' steps hold the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// They do: every step has as many supervised tokens in both, so the steps are compared one by one.
    Paired,
    /// They do not, or it cannot be told.
    Unpaired,
}

/// The second run's figure less the first's. A run is one draw of adapter and row order: this says whether these two
/// runs differ, not yet whether their recipes do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SteadinessDifference {
    /// Of what.
    pub quantity: Quantity,
    /// The first run's figure.
    pub first: f64,
    /// The second run's figure.
    pub second: f64,
    /// `second - first`
    pub difference: f64,
    /// 95 % interval of the difference, by block bootstrap.
    pub ci95: [f64; 2],
    /// Two-sided, by permutation of blocks of steps.
    pub p_value: f64,
    /// How the steps were compared.
    pub pairing: Pairing,
}

pub(super) fn differences(first: &Stability, second: &Stability) -> Vec<SteadinessDifference> {
    let pairing = pairing(&first.values, &second.values);
    let of = |quantity, values: fn(&StepValues) -> &[f64]| {
        let (first, second) = (values(&first.values), values(&second.values));
        difference(quantity, first, second, pairing)
    };
    vec![
        of(Quantity::LossVariance, |values| &values.loss),
        of(Quantity::RelativeLossVariance, |values| {
            &values.relative_loss
        }),
        of(Quantity::RelativeGradNormVariance, |values| {
            &values.relative_grad_norm
        }),
        of(Quantity::LossSpikes, |values| &values.loss_spikes),
    ]
}

/// The rows of a step are not written down, but their answers' tokens are counted: equal counts in every step of two
/// runs mean the same rows in the same order.
fn pairing(first: &StepValues, second: &StepValues) -> Pairing {
    let counts = &first.supervised_tokens;
    // Runs whose counts are all alike, or were not written, could hold any rows.
    let tell = counts.iter().any(|count| *count != counts[0]);
    if tell && first.steps == second.steps && *counts == second.supervised_tokens {
        Pairing::Paired
    } else {
        Pairing::Unpaired
    }
}

fn difference(
    quantity: Quantity,
    first: &[f64],
    second: &[f64],
    pairing: Pairing,
) -> SteadinessDifference {
    let block = block_length(first.len().min(second.len()));
    let (ci95, p_value) = match pairing {
        Pairing::Paired => {
            let by_step: Vec<f64> = second.iter().zip(first).map(|(b, a)| b - a).collect();
            (mean_interval(&by_step, block), swap_test(&by_step, block))
        }
        Pairing::Unpaired => (
            difference_interval(first, second, block),
            deal_test(first, second, block),
        ),
    };
    let (first, second) = (mean(first), mean(second));
    SteadinessDifference {
        quantity,
        first,
        second,
        difference: second - first,
        ci95,
        p_value,
        pairing,
    }
}
