//! How steadily a run trained, from its `metrics.jsonl`: pure arithmetic, the same everywhere.
//!
//! - `trend`: the trend that a curve is taken against, and medians
//! - `resample`: intervals and tests for means of values that depend on their neighbours
//! - `contrast`: whether two runs differ
//!
//! A curve's residuals are its distances from its trend. Their variance says how much the curve jumps from step to step
//! once learning itself is taken away; a spike is a step that lies above the trend by more than
//! [`StabilityOptions::spike`] robust standard deviations.

mod contrast;
mod resample;
mod trend;

use std::path::Path;

use serde::Serialize;

pub use self::contrast::{Pairing, Quantity, SteadinessDifference};
use self::resample::{block_length, mean_interval};
use self::trend::{median, robust_deviation, trend};
use crate::error::ReportError;
use crate::runs::{StepRecord, read_metrics, read_skipped_steps};

/// Steps below which nothing can be said about a curve's noise.
const FEWEST_STEPS: usize = 8;

/// How curves are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StabilityOptions {
    /// Steps that a trend's point is fitted to: an odd number.
    pub window: usize,
    /// Robust standard deviations above the trend from which on a step is a spike.
    pub spike: f64,
    /// The first step that counts: the steep fall of the warmup bends more than a line can follow.
    pub from: u64,
}

impl Default for StabilityOptions {
    /// 25 steps are few enough to follow the fall after the warmup and ten times as many as a line needs. Of normal
    /// noise one step in 3,000 lies 4 such deviations above (measured on 60 curves of 300 steps): the trend follows the
    /// noise a little, so what is left of it is about a tenth too small.
    fn default() -> Self {
        Self {
            window: 25,
            spike: 4.0,
            from: 1,
        }
    }
}

/// A run's curves, step by step.
#[derive(Debug, Clone, PartialEq)]
pub struct RunCurves {
    /// The folder's name.
    pub name: String,
    /// Step numbers, ascending.
    pub steps: Vec<u64>,
    /// Nats per supervised token.
    pub losses: Vec<f64>,
    /// Euclidean norms before clipping.
    pub grad_norms: Vec<f64>,
    /// Tokens that carried loss: the same in two runs whose steps hold the same rows.
    pub supervised_tokens: Vec<u64>,
    /// Steps that are missing because loss or gradient were not finite.
    pub skipped_steps: usize,
}

impl RunCurves {
    /// Reads the steps from `from` on in `metrics.jsonl` and, where there is one, `non_finite.jsonl`.
    ///
    /// # Errors
    /// If the folder holds too few such steps, or they cannot be read.
    pub fn read(run: &Path, from: u64) -> Result<Self, ReportError> {
        let missing = |_| ReportError::MissingRun {
            path: run.to_owned(),
        };
        let canonical = run.canonicalize().map_err(missing)?;
        let metrics = canonical.join("metrics.jsonl");
        let records = if metrics.exists() {
            read_metrics(&metrics)?
        } else {
            Default::default()
        };
        let name = canonical.file_name().unwrap_or(canonical.as_os_str());
        let mut skipped = read_skipped_steps(&canonical)?;
        skipped.retain(|step| *step >= from);
        let mut curves = Self {
            name: name.to_string_lossy().into_owned(),
            steps: Vec::new(),
            losses: Vec::new(),
            grad_norms: Vec::new(),
            supervised_tokens: Vec::new(),
            skipped_steps: skipped.len(),
        };
        for (step, record) in records.into_iter().filter(|(step, _)| *step >= from) {
            if let StepRecord {
                loss: Some(loss),
                grad_norm: Some(grad_norm),
                supervised_tokens,
                ..
            } = record
            {
                curves.steps.push(step);
                curves.losses.push(loss);
                curves.grad_norms.push(grad_norm);
                curves
                    .supervised_tokens
                    .push(supervised_tokens.unwrap_or_default());
            }
        }
        if curves.steps.len() < FEWEST_STEPS {
            return Err(ReportError::TooFewSteps {
                path: run.to_owned(),
                steps: curves.steps.len(),
                fewest: FEWEST_STEPS,
            });
        }
        Ok(curves)
    }
}

/// How far a curve scatters around its trend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scatter {
    /// Variance of the residuals (divisor `n - 1`).
    pub variance: f64,
    /// 95 % interval of the variance (circular block bootstrap, the trend held fixed).
    pub variance_ci95: [f64; 2],
    /// Its root, in the curve's unit.
    pub deviation: f64,
    /// Standard deviation as estimated by the median absolute deviation, which spikes do not move.
    pub robust_deviation: f64,
    /// Standard deviation of residual / trend: for curves of different height.
    pub relative_deviation: f64,
    /// 95 % interval of the relative deviation.
    pub relative_ci95: [f64; 2],
    /// Steps that are spikes.
    pub spikes: Vec<u64>,
}

/// How steadily one run trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stability {
    /// The run's folder.
    pub run: String,
    /// Steps with a loss.
    pub steps: usize,
    /// Steps skipped as not finite.
    pub skipped_steps: usize,
    /// Mean of the loss over all steps, in nats per supervised token.
    pub mean_loss: f64,
    /// The loss around its trend.
    pub loss: Scatter,
    /// The gradient norm around its trend.
    pub grad_norm: Scatter,
    /// Mean of the gradient norm.
    pub grad_norm_mean: f64,
    /// Its median.
    pub grad_norm_median: f64,
    /// Its 95th percentile.
    pub grad_norm_p95: f64,
    /// Its standard deviation over its mean, trend included.
    pub grad_norm_variation: f64,
    /// What comparisons are made of.
    #[serde(skip)]
    values: StepValues,
}

/// By step, values whose means are the figures that are compared.
#[derive(Debug, Clone, PartialEq)]
struct StepValues {
    steps: Vec<u64>,
    supervised_tokens: Vec<u64>,
    /// Squared residual of the loss, times `n / (n - 1)`.
    loss: Vec<f64>,
    /// Squared relative residual of the loss, likewise.
    relative_loss: Vec<f64>,
    /// Squared relative residual of the gradient norm, likewise.
    relative_grad_norm: Vec<f64>,
    /// 1 at a spike of the loss.
    loss_spikes: Vec<f64>,
}

impl Stability {
    /// Figures of a run.
    pub fn of(curves: &RunCurves, options: &StabilityOptions) -> Self {
        let (loss, loss_squares) = scatter(&curves.steps, &curves.losses, options);
        let (grad_norm, grad_squares) = scatter(&curves.steps, &curves.grad_norms, options);
        let norms = &curves.grad_norms;
        let grad_norm_mean = mean(norms);
        let is_spike = |step: &u64| f64::from(u8::from(loss.spikes.contains(step)));
        Self {
            run: curves.name.clone(),
            steps: curves.steps.len(),
            skipped_steps: curves.skipped_steps,
            mean_loss: mean(&curves.losses),
            grad_norm_mean,
            grad_norm_median: median(norms),
            grad_norm_p95: quantile(norms, 0.95),
            grad_norm_variation: mean(&squares(norms)).sqrt() / grad_norm_mean,
            values: StepValues {
                loss_spikes: curves.steps.iter().map(is_spike).collect(),
                steps: curves.steps.clone(),
                supervised_tokens: curves.supervised_tokens.clone(),
                loss: loss_squares.absolute,
                relative_loss: loss_squares.relative,
                relative_grad_norm: grad_squares.relative,
            },
            loss,
            grad_norm,
        }
    }

    /// How much `self` differs from `first`, by quantity.
    pub fn less(&self, first: &Self) -> Vec<SteadinessDifference> {
        contrast::differences(first, self)
    }
}

/// Squared residuals by step; their mean is the variance.
struct Squares {
    absolute: Vec<f64>,
    relative: Vec<f64>,
}

fn scatter(steps: &[u64], curve: &[f64], options: &StabilityOptions) -> (Scatter, Squares) {
    let trend = trend(steps, curve, options.window);
    let residuals: Vec<f64> = curve.iter().zip(&trend).map(|(y, t)| y - t).collect();
    // A line may dip below zero beside a spike; there no share of it can be told.
    let relative: Vec<f64> = residuals
        .iter()
        .zip(&trend)
        .map(|(r, t)| if *t > 0.0 { r / t } else { 0.0 })
        .collect();
    let robust_deviation = robust_deviation(&residuals);
    let is_spike =
        |residual: f64| robust_deviation > 0.0 && residual > options.spike * robust_deviation;
    let spikes = steps.iter().zip(&residuals);
    let squares = Squares {
        absolute: squares(&residuals),
        relative: squares(&relative),
    };
    let block = block_length(curve.len());
    let variance = mean(&squares.absolute);
    let scatter = Scatter {
        variance,
        variance_ci95: mean_interval(&squares.absolute, block),
        deviation: variance.sqrt(),
        robust_deviation,
        relative_deviation: mean(&squares.relative).sqrt(),
        relative_ci95: mean_interval(&squares.relative, block).map(f64::sqrt),
        spikes: spikes
            .filter_map(|(step, residual)| is_spike(*residual).then_some(*step))
            .collect(),
    };
    (scatter, squares)
}

/// Squared distances from the mean, times `n / (n - 1)`: their mean is the variance.
fn squares(values: &[f64]) -> Vec<f64> {
    let (mean, n) = (mean(values), values.len() as f64);
    values
        .iter()
        .map(|value| (value - mean).powi(2) * n / (n - 1.0))
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// With linear interpolation between values, numpy's default.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests;
