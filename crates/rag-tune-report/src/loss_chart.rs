//! Training loss of each run: what was measured as a thin line, its trend as a thick one.

use plotters::prelude::*;

use crate::axes::{Axes, ticks};
use crate::canvas::{Align, Canvas, DrawResult, Font, SIZE, SOFT_INK, palette};
use crate::heading::{Heading, Legend, Swatch};
use crate::runs::{AdapterKind, Run};
use crate::save::Drawing;

/// The trend is a mean over this share of all steps.
const WINDOW_SHARE: f64 = 0.05;

/// The chart of the runs that were trained.
#[derive(Debug)]
pub(crate) struct LossChart<'a> {
    /// Zero-shot adapters first, as in the accuracy chart, so that colours agree.
    runs: Vec<&'a Run>,
    synthetic: bool,
}

impl<'a> LossChart<'a> {
    /// The chart, or nothing if no run has losses. `synthetic` where the data is known to be made up, whatever the
    /// runs' evaluations say.
    pub(crate) fn new(runs: &'a [Run], synthetic: bool) -> Option<Self> {
        let mut runs: Vec<&Run> = runs.iter().filter(|run| !run.losses.is_empty()).collect();
        runs.sort_by_key(|run| run.adapter_kind());
        (!runs.is_empty()).then_some(Self { runs, synthetic })
    }

    fn heading(&self) -> Heading {
        let window = self
            .runs
            .iter()
            .map(|run| window(run.losses.len()))
            .max()
            .unwrap_or(1);
        let mut trend = if window > 1 {
            format!("thin: each step; thick: mean of {window} steps around it")
        } else {
            "each step".to_owned()
        };
        if self
            .runs
            .iter()
            .any(|run| !run.validation_losses.is_empty())
        {
            trend += "; diamonds: validation";
        }
        if self.runs.iter().any(|run| !run.skipped_steps.is_empty()) {
            trend += "; crosses: skipped steps";
        }
        Heading {
            title: "Training loss".to_owned(),
            subtitle: ["nats per supervised token".to_owned(), trend],
            is_synthetic: self.synthetic || self.runs.iter().any(|run| run.is_synthetic()),
        }
    }

    fn axes(&self, legend: &Legend) -> Axes {
        let losses = self
            .runs
            .iter()
            .flat_map(|run| run.losses.values().chain(run.validation_losses.values()))
            .copied();
        let steps = self.runs.iter().flat_map(|run| run.losses.keys().copied());
        let last_step = steps.max().unwrap_or(1).max(2);
        Axes {
            left: 96.0,
            right: f64::from(SIZE.0) - 32.0,
            top: 120.0,
            bottom: f64::from(SIZE.1) - 64.0 - legend.height(),
            x: 0.0..last_step as f64,
            y: 0.0..losses.fold(0.0, f64::max).max(0.01) * 1.03,
        }
    }

    /// The kind of adapter as far as it is known, and the run's name.
    fn label(run: &Run) -> String {
        match run.adapter_kind() {
            AdapterKind::None => run.name.clone(),
            kind => format!("{}, {}", kind.label(), run.name),
        }
    }
}

impl Drawing for LossChart<'_> {
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult {
        self.heading().draw(canvas)?;
        let labels: Vec<String> = self.runs.iter().map(|run| Self::label(run)).collect();
        let entries: Vec<_> = labels
            .iter()
            .enumerate()
            .map(|(i, label)| (label.as_str(), Swatch::Color(palette(i))))
            .collect();
        let legend = Legend::new(&entries)?;
        legend.draw(canvas, f64::from(SIZE.1))?;

        let axes = self.axes(&legend);
        let y_ticks = ticks(axes.y.end, 5);
        axes.draw_y(canvas, "loss", &y_ticks, |tick| {
            short_number(tick, &y_ticks)
        })?;
        draw_steps(canvas, &axes)?;

        let curves: Vec<Vec<(f64, f64)>> = self.runs.iter().map(|run| curve(run)).collect();
        for (i, points) in curves.iter().enumerate() {
            draw_curve(canvas, &axes, points, palette(i).mix(0.35), 1.0)?;
        }
        for (i, points) in curves.iter().enumerate() {
            draw_curve(canvas, &axes, &smoothed(points), palette(i).into(), 2.5)?;
        }
        for (i, run) in self.runs.iter().enumerate() {
            for (&step, &loss) in &run.validation_losses {
                let (x, y) = axes.point(step as f64, loss);
                let corners = [(x - 6.0, y), (x, y - 6.0), (x + 6.0, y), (x, y + 6.0)];
                canvas.polygon(&corners, palette(i), WHITE)?;
            }
            for &step in &run.skipped_steps {
                draw_cross(canvas, axes.point(step as f64, 0.0), palette(i))?;
            }
        }
        Ok(())
    }
}

fn draw_steps<DB: DrawingBackend>(canvas: &Canvas<DB>, axes: &Axes) -> DrawResult {
    let font = Font {
        size: 17,
        color: SOFT_INK,
        align: Align::Center,
    };
    for tick in ticks(axes.x.end, 6) {
        let (x, y) = axes.point(tick, 0.0);
        canvas.line(&[(x, y), (x, y + 5.0)], SOFT_INK.into(), 1.0)?;
        canvas.text(&format!("{tick}"), font, (x, y + 18.0))?;
    }
    canvas.text(
        "step",
        font,
        ((axes.left + axes.right) / 2.0, axes.bottom + 44.0),
    )
}

fn draw_curve<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    axes: &Axes,
    points: &[(f64, f64)],
    color: RGBAColor,
    width: f64,
) -> DrawResult {
    let points: Vec<_> = points
        .iter()
        .map(|&(step, loss)| axes.point(step, loss))
        .collect();
    canvas.line(&points, color, width)
}

/// A cross on the axis, below all curves.
fn draw_cross<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    (x, y): (f64, f64),
    color: RGBColor,
) -> DrawResult {
    for slope in [-1.0, 1.0] {
        let ends = [(x - 6.0, y - 6.0 * slope), (x + 6.0, y + 6.0 * slope)];
        canvas.line(&ends, color.into(), 2.0)?;
    }
    Ok(())
}

/// Steps and losses.
fn curve(run: &Run) -> Vec<(f64, f64)> {
    run.losses
        .iter()
        .map(|(&step, &loss)| (step as f64, loss))
        .collect()
}

/// Each point's mean with its neighbours.
///
/// Near the start, where the loss falls steeply, the window shrinks on both sides alike, so that
/// the slope stays; near the end it only loses what is missing, so that the noise of the last step
/// does not end the trend with a kink.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = window(points.len()) / 2;
    let mean_around = |i: usize| {
        let reach = reach.min(i);
        let around = &points[i - reach..(i + reach + 1).min(points.len())];
        around.iter().map(|(_, loss)| loss).sum::<f64>() / around.len() as f64
    };
    (0..points.len())
        .map(|i| (points[i].0, mean_around(i)))
        .collect()
}

/// Points that the trend averages: an odd number.
fn window(points: usize) -> usize {
    (points as f64 * WINDOW_SHARE) as usize / 2 * 2 + 1
}

/// With as many decimals as the step between ticks needs.
fn short_number(value: f64, ticks: &[f64]) -> String {
    let step = ticks.get(1).copied().unwrap_or(1.0);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::read_runs;
    use crate::samples::write_experiment;
    use crate::save::save;

    #[test]
    fn each_run_has_a_thin_and_a_thick_line() {
        let folder = tempfile::tempdir().unwrap();
        let runs = read_runs(&write_experiment(folder.path(), false)).unwrap();
        let chart = LossChart::new(&runs, false).unwrap();
        let [svg, _] = save(&chart, folder.path(), "loss").unwrap();
        let svg = std::fs::read_to_string(svg).unwrap();
        for color in ["#0072B2", "#D55E00"] {
            assert_eq!(
                svg.matches(&format!("stroke=\"{color}\"")).count(),
                2,
                "{color}"
            );
        }
        assert!(svg.contains("zero-shot adapter, zero_shot") && svg.contains("RAG adapter, rag1"));
        assert!(svg.contains("mean of 13 steps"), "{svg}");
    }

    #[test]
    fn validations_are_diamonds_and_skipped_steps_crosses() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write_experiment(folder.path(), false);
        let svg = |name| {
            let runs = read_runs(&paths).unwrap();
            let chart = LossChart::new(&runs, false).unwrap();
            let [svg, _] = save(&chart, folder.path(), name).unwrap();
            std::fs::read_to_string(svg).unwrap()
        };
        let before = svg("before");
        let validation = "{\"step\":20,\"metric\":\"loss\",\"value\":0.9}\n\
                          {\"step\":40,\"metric\":\"execution_accuracy\",\"value\":0.3}\n";
        std::fs::write(paths[0].join("validation.jsonl"), validation).unwrap();
        std::fs::write(paths[0].join("non_finite.jsonl"), "{\"step\":30}\n").unwrap();
        let after = svg("after");
        let more = |what: &str| after.matches(what).count() - before.matches(what).count();
        assert_eq!(more("<polygon"), 1, "a diamond");
        assert_eq!(more("<polyline"), 3, "its edge, and the lines of a cross");
        assert!(after.contains("; diamonds: validation; crosses: skipped steps"));
        assert!(!before.contains("diamonds") && !before.contains("crosses"));
    }

    #[test]
    fn runs_without_losses_have_no_chart() {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = read_runs(&write_experiment(folder.path(), false)).unwrap();
        runs.iter_mut().for_each(|run| run.losses.clear());
        assert!(LossChart::new(&runs, false).is_none());
    }

    #[test]
    fn smoothing_keeps_slopes_and_flattens_ripples() {
        let line: Vec<_> = (0..100)
            .map(|i| (f64::from(i), 2.0 * f64::from(i)))
            .collect();
        // At the very end the window has only the points before.
        for (smooth, exact) in smoothed(&line).iter().zip(&line).take(98) {
            assert!((smooth.1 - exact.1).abs() < 1e-9, "{smooth:?} {exact:?}");
        }
        let ripple: Vec<_> = (0..100).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(
            smoothed(&ripple)[40..97]
                .iter()
                .all(|(_, loss)| (loss - 0.5).abs() < 0.11)
        );
        assert_eq!(smoothed(&[(1.0, 3.0)]), [(1.0, 3.0)]);
    }

    #[test]
    fn numbers_have_the_decimals_that_their_step_needs() {
        assert_eq!(short_number(0.5, &[0.0, 0.5]), "0.5");
        assert_eq!(short_number(0.25, &[0.0, 0.05]), "0.25");
        assert_eq!(short_number(4.0, &[0.0, 2.0]), "4");
    }
}
