//! Accuracy by arm: grouped bars with 95 % intervals.

use plotters::prelude::*;

use crate::arms::{Arms, percent, prompt_label, short_name};
use crate::axes::{Axes, ticks};
use crate::canvas::{Align, Canvas, DrawResult, Font, INK, NEUTRAL, SIZE, palette};
use crate::heading::{Heading, Legend};
use crate::runs::{AdapterKind, Evaluation, Scores};
use crate::save::Drawing;

/// Share of a group's width that its bars take; the rest keeps groups apart.
const BARS_SHARE: f64 = 0.8;

/// Bars narrower than this have no room for a percent sign, in units.
const NARROW_BAR: f64 = 56.0;

/// The chart of some arms.
#[derive(Debug)]
pub(crate) struct AccuracyChart<'a> {
    arms: Arms<'a>,
}

impl<'a> AccuracyChart<'a> {
    pub(crate) fn new(arms: Arms<'a>) -> Self {
        Self { arms }
    }

    /// Grey for the model without adapter, then the palette.
    fn colors(&self) -> Vec<RGBColor> {
        let mut adapters = 0;
        let color = |kind| {
            if kind == AdapterKind::None {
                return NEUTRAL;
            }
            adapters += 1;
            palette(adapters - 1)
        };
        self.arms
            .series
            .iter()
            .map(|series| series.kind)
            .map(color)
            .collect()
    }

    fn heading(&self) -> Heading {
        let scores = || self.arms.evaluations().map(|evaluation| &evaluation.scores);
        let metric = scores().next().map_or("", |scores| scores.metric.as_str());
        let data = format!(
            "{} on {}, {} split, n = {}",
            enumerate(scores().map(|scores| short_name(&scores.run.base))),
            enumerate(scores().map(|scores| short_name(&scores.run.data))),
            enumerate(scores().map(|scores| scores.run.split.as_str())),
            row_counts(scores()),
        );
        let metric = format!("{}; whiskers: 95 % intervals", metric_description(metric));
        Heading {
            title: "Accuracy by adapter and prompt".to_owned(),
            subtitle: [data, metric],
            is_synthetic: scores().any(|scores| scores.run.synthetic),
        }
    }

    fn axes(&self, legend: &Legend) -> Axes {
        let highest = self
            .arms
            .evaluations()
            .map(|evaluation| evaluation.scores.ci95[1].max(evaluation.scores.accuracy))
            .fold(0.0, f64::max);
        Axes {
            left: 96.0,
            right: f64::from(SIZE.0) - 24.0,
            top: 120.0,
            bottom: f64::from(SIZE.1) - 68.0 - legend.height(),
            x: 0.0..self.arms.prompts.len() as f64,
            // Room for the number above the highest whisker.
            y: 0.0..(highest * 1.12).max(0.1),
        }
    }

    fn draw_group<DB: DrawingBackend>(
        &self,
        canvas: &Canvas<DB>,
        axes: &Axes,
        group: usize,
        colors: &[RGBColor],
    ) -> DrawResult {
        let examples = self.arms.prompts[group];
        let bar = BARS_SHARE / self.arms.series.len() as f64;
        for (i, (series, &color)) in self.arms.series.iter().zip(colors).enumerate() {
            if let Some(evaluation) = series.with_examples(examples) {
                let left = group as f64 + (1.0 - BARS_SHARE) / 2.0 + bar * i as f64;
                draw_bar(canvas, axes, left..left + bar, color, evaluation)?;
            }
        }
        let (x, _) = axes.point(group as f64 + 0.5, 0.0);
        let font = Font {
            size: 19,
            color: INK,
            align: Align::Center,
        };
        let room = (axes.right - axes.left) / self.arms.prompts.len() as f64;
        for (line, y) in prompt_label(examples).split(", ").zip([20.0, 42.0]) {
            canvas.text(&canvas.fit(line, font, room)?, font, (x, axes.bottom + y))?;
        }
        Ok(())
    }
}

impl Drawing for AccuracyChart<'_> {
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult {
        self.heading().draw(canvas)?;
        let colors = self.colors();
        let labels = self.arms.series.iter().map(|series| series.label.as_str());
        let legend = Legend::new(
            canvas,
            &labels.zip(colors.iter().copied()).collect::<Vec<_>>(),
        )?;
        legend.draw(canvas)?;

        let axes = self.axes(&legend);
        let ticks = ticks(axes.y.end.min(1.0), 5);
        axes.draw_y(canvas, "accuracy", &ticks, |tick| {
            format!("{:.0} %", 100.0 * tick)
        })?;
        for group in 0..self.arms.prompts.len() {
            self.draw_group(canvas, &axes, group, &colors)?;
        }
        Ok(())
    }
}

/// A bar, its whisker, and its value above both.
fn draw_bar<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    axes: &Axes,
    place: std::ops::Range<f64>,
    color: RGBColor,
    evaluation: &Evaluation,
) -> DrawResult {
    let Scores {
        accuracy,
        ci95: [lo, hi],
        ..
    } = evaluation.scores;
    let (left, top) = axes.point(place.start, accuracy);
    let (right, bottom) = axes.point(place.end, 0.0);
    let (width, center) = (right - left, (left + right) / 2.0);
    canvas.rectangle(
        [(left + 0.06 * width, top), (right - 0.06 * width, bottom)],
        color,
    )?;

    let (_, low) = axes.point(place.start, lo);
    let (_, high) = axes.point(place.start, hi);
    let cap = (0.12 * width).min(8.0);
    canvas.line(&[(center, low), (center, high)], INK.into(), 1.5)?;
    for y in [low, high] {
        canvas.line(&[(center - cap, y), (center + cap, y)], INK.into(), 1.5)?;
    }

    let is_narrow = width < NARROW_BAR;
    let value = if is_narrow {
        format!("{:.1}", 100.0 * accuracy)
    } else {
        percent(accuracy)
    };
    let size = if is_narrow { 14 } else { 19 };
    let font = Font {
        size,
        color: INK,
        align: Align::Center,
    };
    canvas.text_on_white(&value, font, (center, high.min(top) - 14.0))
}

/// The metric in words.
fn metric_description(metric: &str) -> &str {
    match metric {
        "execution" => "execution accuracy, lenient: DISTINCT is ignored, as is usual in the field",
        other => other,
    }
}

/// Different names, once each.
fn enumerate<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut different: Vec<&str> = Vec::new();
    for name in names {
        if !different.contains(&name) {
            different.push(name);
        }
    }
    different.join(" and ")
}

/// `568`, or `40 to 568` where evaluations have different numbers of rows.
fn row_counts<'a>(scores: impl Iterator<Item = &'a Scores>) -> String {
    let counts: Vec<usize> = scores.map(|scores| scores.total).collect();
    let (fewest, most) = (counts.iter().min(), counts.iter().max());
    match (fewest, most) {
        (Some(fewest), Some(most)) if fewest != most => format!("{fewest} to {most}"),
        _ => most.map_or_else(String::new, usize::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::read_runs;
    use crate::samples::{Sample, write_experiment};
    use crate::save::save;

    /// The texts of an SVG, in drawing order.
    fn texts(svg: &str) -> Vec<String> {
        svg.split("<text").skip(1).filter_map(text_of).collect()
    }

    fn text_of(element: &str) -> Option<String> {
        let (_, text) = element.split_once('>')?;
        let (text, _) = text.split_once("</text")?;
        Some(text.trim().to_owned())
    }

    fn svg(synthetic: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        let runs = read_runs(&write_experiment(folder.path(), synthetic)).unwrap();
        let chart = AccuracyChart::new(Arms::of(&runs));
        let [svg, png] = save(&chart, folder.path(), "accuracy").unwrap();
        let png = std::fs::read(png).unwrap();
        assert!(png.starts_with(b"\x89PNG"));
        std::fs::read_to_string(svg).unwrap()
    }

    #[test]
    fn every_value_is_written_on_the_chart() {
        insta::assert_snapshot!(texts(&svg(false)).join("\n"));
    }

    #[test]
    fn synthetic_data_is_labelled() {
        assert!(svg(true).contains("synthetic data"));
        assert!(!svg(false).contains("synthetic data"));
    }

    #[test]
    fn a_bar_and_a_whisker_stand_for_each_evaluation() {
        let svg = svg(false);
        let in_color = |color: &str| svg.matches(&format!("fill=\"{color}\"")).count();
        // Two bars and a legend entry each.
        for color in ["#999999", "#0072B2", "#D55E00"] {
            assert_eq!(in_color(color), 3, "{color}");
        }
    }

    #[test]
    fn different_numbers_of_rows_are_told() {
        let folder = tempfile::tempdir().unwrap();
        Sample::new("rag", 1, 9).write(folder.path());
        let runs = read_runs(&[folder.path().to_owned()]).unwrap();
        let scores = &runs[0].evaluations[0].scores;
        let fewer = Scores {
            total: 40,
            ..scores.clone()
        };
        assert_eq!(row_counts([scores, scores].into_iter()), "568");
        assert_eq!(row_counts([scores, &fewer].into_iter()), "40 to 568");
    }
}
