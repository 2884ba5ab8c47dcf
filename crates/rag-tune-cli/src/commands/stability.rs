//! `rag-tune stability`: how steadily runs trained, and whether they differ.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_report::{
    Pairing, Quantity, RunCurves, Scatter, Stability, StabilityOptions, SteadinessDifference,
};
use serde_json::json;

use crate::error::InputError;
use crate::output::{Output, table};

/// Measure how steadily runs trained: noise, spikes, gradient norms
///
/// Reads the metrics.jsonl of each run folder. The trend is a robust line through the steps around each step; deviations have
/// 95 % intervals. Every further run is compared with the first, step by step where both saw the same rows in the same order.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rag-tune stability out/sql_zero_shot out/sql_rag1")]
pub struct StabilityArgs {
    /// Folders that `rag-tune train` wrote
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Steps that the trend at a step is fitted to; an odd number
    #[arg(long, value_name = "STEPS", default_value_t = StabilityOptions::default().window)]
    window: usize,
    /// A step is a spike from this many robust standard deviations above the trend on
    #[arg(long, value_name = "DEVIATIONS", default_value_t = StabilityOptions::default().spike)]
    spike: f64,
    /// The first step that counts: leaves out the warmup's steep fall, which is no noise
    #[arg(long, value_name = "STEP", default_value_t = StabilityOptions::default().from)]
    from: u64,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn stability(args: &StabilityArgs, out: &mut Output) -> anyhow::Result<()> {
    let options = args.options()?;
    let mut runs = Vec::new();
    for path in &args.runs {
        let curves = RunCurves::read(path, options.from).context("cannot measure the runs")?;
        runs.push(Stability::of(&curves, &options));
    }
    let first = &runs[0];
    let differences: Vec<_> = runs[1..].iter().map(|run| (run, run.less(first))).collect();
    if args.json {
        let differences: Vec<_> = differences
            .iter()
            .map(|(run, by_quantity)| {
                json!({"first": first.run, "second": run.run, "differences": by_quantity})
            })
            .collect();
        let all = json!({"options": options, "runs": runs, "comparisons": differences});
        out.data(&format!("{all:#}\n"))?;
        return Ok(());
    }
    let mut text = figures(&runs, &options);
    for (run, by_quantity) in &differences {
        text += &format!(
            "\n{}\n{}",
            heading(run, first, by_quantity),
            compared(by_quantity)
        );
    }
    out.data(&text)?;
    Ok(())
}

impl StabilityArgs {
    fn options(&self) -> anyhow::Result<StabilityOptions> {
        let &Self {
            window,
            spike,
            from,
            ..
        } = self;
        if window < 3 || window.is_multiple_of(2) {
            let message = format!("--window {window} is no window around a step");
            return Err(InputError::new(message, "give an odd number of steps, 3 or more").into());
        }
        if !(spike > 0.0 && spike.is_finite()) {
            let message = format!("--spike {spike} is no distance above the trend");
            return Err(InputError::new(message, "give a number above 0, such as 4").into());
        }
        Ok(StabilityOptions {
            window,
            spike,
            from,
        })
    }
}

/// A column a run.
fn figures(runs: &[Stability], options: &StabilityOptions) -> String {
    let mut header = vec![""];
    header.extend(runs.iter().map(|run| run.run.as_str()));
    let mut rows = Vec::new();
    let mut row = |name: &str, cell: &dyn Fn(&Stability) -> String| {
        rows.push(
            [name.to_owned()]
                .into_iter()
                .chain(runs.iter().map(cell))
                .collect(),
        );
    };
    row("steps", &|run| run.steps.to_string());
    row("skipped steps", &|run| run.skipped_steps.to_string());
    row("loss, mean of all steps", &|run| {
        format!("{:.4}", run.mean_loss)
    });
    row("loss, deviation from its trend", &|run| {
        deviation(&run.loss)
    });
    row("  robust", &|run| {
        format!("{:.4}", run.loss.robust_deviation)
    });
    row("  as a share of the trend", &|run| relative(&run.loss));
    row("  spikes", &|run| spikes(&run.loss));
    row("grad norm, mean", &|run| {
        format!("{:.3}", run.grad_norm_mean)
    });
    row("  median", &|run| format!("{:.3}", run.grad_norm_median));
    row("  95th percentile", &|run| {
        format!("{:.3}", run.grad_norm_p95)
    });
    row("  coefficient of variation", &|run| {
        format!("{:.3}", run.grad_norm_variation)
    });
    row("grad norm, deviation from its trend", &|run| {
        deviation(&run.grad_norm)
    });
    row("  as a share of the trend", &|run| relative(&run.grad_norm));
    row("  spikes", &|run| spikes(&run.grad_norm));
    format!(
        "{}\nTrend: Theil-Sen line through {} steps. Spike: {} robust deviations above it. In brackets: 95 % intervals.\n",
        table(&header, &rows),
        options.window,
        options.spike,
    )
}

fn deviation(scatter: &Scatter) -> String {
    let [low, high] = scatter.variance_ci95.map(f64::sqrt);
    format!("{:.4} ({low:.4} to {high:.4})", scatter.deviation)
}

fn relative(scatter: &Scatter) -> String {
    let [share, low, high] = [
        scatter.relative_deviation,
        scatter.relative_ci95[0],
        scatter.relative_ci95[1],
    ]
    .map(|share| format!("{:.1}", 100.0 * share));
    format!("{share} % ({low} to {high})")
}

/// How many, and the first of them.
fn spikes(scatter: &Scatter) -> String {
    const SHOWN: usize = 5;
    let spikes = &scatter.spikes;
    if spikes.is_empty() {
        return "0".to_owned();
    }
    let first: Vec<String> = spikes.iter().take(SHOWN).map(u64::to_string).collect();
    let more = if spikes.len() > SHOWN { ", ..." } else { "" };
    format!("{} (at {}{more})", spikes.len(), first.join(", "))
}

fn heading(run: &Stability, first: &Stability, differences: &[SteadinessDifference]) -> String {
    let how = match differences.first().map(|difference| difference.pairing) {
        Some(Pairing::Paired) => "the same rows in every step: compared step by step",
        _ => "other rows in the steps, or it cannot be told: compared as wholes",
    };
    format!("{} less {} ({how})", run.run, first.run)
}

fn compared(differences: &[SteadinessDifference]) -> String {
    let header = ["", "first", "second", "difference", "95 % interval", "p"];
    let rows: Vec<Vec<String>> = differences
        .iter()
        .map(|it| {
            let name = match it.quantity {
                Quantity::LossVariance => "variance of the loss",
                Quantity::RelativeLossVariance => "  as a share of the trend",
                Quantity::RelativeGradNormVariance => "variance of the grad norm, as a share",
                Quantity::LossSpikes => "spikes of the loss a step",
            };
            vec![
                name.to_owned(),
                significant(it.first),
                significant(it.second),
                significant(it.difference),
                format!("{} to {}", significant(it.ci95[0]), significant(it.ci95[1])),
                format!("{:.4}", it.p_value),
            ]
        })
        .collect();
    table(&header, &rows)
}

/// Three significant digits: variances are small.
fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = (2 - value.abs().log10().floor() as i32).clamp(0, 8) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_keep_three_digits() {
        let shown = [0.0, 0.0012345, -0.5, 12.345, 3e-12].map(significant);
        assert_eq!(shown, ["0", "0.00123", "-0.500", "12.3", "0.00000000"]);
    }
}
