//! Grouped bars with intervals, whatever they compare.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::bar_plot::BarPlot;
use crate::error::ReportError;
use crate::save::{save, svg_text};

/// A chart of bars: a group for each thing along the axis, in each group at most one bar a series.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarChart {
    /// Above the plot.
    pub title: String,
    /// Two lines below the title: what was measured on what, and how.
    pub subtitle: [String; 2],
    /// Whether a badge says that the data was made up.
    pub synthetic: bool,
    /// What stands below each group. Long labels are broken at spaces; a line break is kept.
    pub groups: Vec<String>,
    /// What stands in the legend.
    pub series: Vec<String>,
    /// How many of the series, from the first, are what the others are compared with; drawn in grey.
    pub baselines: usize,
    /// The bars, in any order; the place of one that is missing stays empty.
    pub bars: Vec<Bar>,
    /// Warnings below the plot, such as differences that are within noise.
    pub notes: Vec<String>,
}

/// A bar of a [`BarChart`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Index into [`BarChart::groups`].
    pub group: usize,
    /// Index into [`BarChart::series`].
    pub series: usize,
    /// Height, between 0 and 1.
    pub value: f64,
    /// Ends of the whisker; drawn between 0 and 1.
    pub ci95: [f64; 2],
    /// A figure that others published for the same cell; drawn as a mark on the bar and named in the legend.
    pub published: Option<f64>,
}

impl BarChart {
    /// Draws `name.svg` and `name.png` into `folder`, each whole or not at all.
    ///
    /// # Errors
    /// [`ReportError::Write`]; [`ReportError::Draw`], also for a bar without a place or height and for two in one place.
    pub fn save(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2], ReportError> {
        save(&self.plot()?, folder, name)
    }

    /// The chart as the text of an SVG file.
    ///
    /// # Errors
    /// [`ReportError::Draw`], as [`BarChart::save`].
    pub fn svg(&self) -> Result<String, ReportError> {
        svg_text(&self.plot()?).map_err(|reason| self.error(reason))
    }

    fn plot(&self) -> Result<BarPlot<'_>, ReportError> {
        self.check()
            .and_then(|()| BarPlot::new(self))
            .map_err(|reason| self.error(reason))
    }

    fn error(&self, reason: String) -> ReportError {
        let chart = self.title.clone();
        ReportError::Draw { chart, reason }
    }

    fn check(&self) -> Result<(), String> {
        let mut places = BTreeSet::new();
        for bar in &self.bars {
            let Bar { group, series, .. } = *bar;
            if group >= self.groups.len() || series >= self.series.len() {
                return Err(format!(
                    "a bar stands in group {group} as series {series}, of {} groups and {} series",
                    self.groups.len(),
                    self.series.len()
                ));
            }
            let place = format!("`{}` in `{}`", self.series[series], self.groups[group]);
            if !places.insert((group, series)) {
                return Err(format!("{place} has two bars"));
            }
            let is_share = |height: &f64| (0.0..=1.0).contains(height);
            let heights = [Some(bar.value), bar.published];
            if let Some(height) = heights.into_iter().flatten().find(|h| !is_share(h)) {
                return Err(format!(
                    "{place} has the value {height}, which is not between 0 and 1"
                ));
            }
            if !bar.ci95.iter().all(|end| end.is_finite()) {
                return Err(format!("{place} has an interval without ends"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> BarChart {
        let bar = |group, series, value: f64| Bar {
            group,
            series,
            value,
            ci95: [(value - 0.05).max(0.0), (value + 0.05).min(1.0)],
            published: None,
        };
        BarChart {
            title: "By selector".to_owned(),
            subtitle: ["a model on data".to_owned(), "execution".to_owned()],
            groups: vec!["semantic".to_owned(), "random & <odd>".to_owned()],
            series: vec!["untuned".to_owned(), "tuned".to_owned()],
            baselines: 1,
            bars: vec![bar(0, 0, 0.25), bar(0, 1, 0.5), bar(1, 1, 1.0)],
            ..BarChart::default()
        }
    }

    fn count(svg: &str, what: &str) -> usize {
        svg.matches(what).count()
    }

    fn height(svg: &str) -> u32 {
        let (_, rest) = svg.split_once("height=\"").unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    }

    #[test]
    fn a_missing_bar_leaves_its_place_empty() {
        let svg = chart().svg().unwrap();
        // A legend entry each, and the bars that are there.
        assert_eq!(count(&svg, "fill=\"#999999\""), 2);
        assert_eq!(count(&svg, "fill=\"#0072B2\""), 3);
        assert!(svg.contains("random &amp; &lt;odd&gt;"), "{svg}");
        assert!(svg.contains("100.0 %"), "{svg}");
    }

    #[test]
    fn published_figures_are_marked_and_named() {
        let mut chart = chart();
        assert!(!chart.svg().unwrap().contains("published"));
        chart.bars[1].published = Some(0.634);
        let svg = chart.svg().unwrap();
        assert!(svg.contains("published") && svg.contains("63.4"), "{svg}");
        // On the bar, beside its number, and in the legend.
        assert_eq!(count(&svg, "<polygon"), 3);
    }

    #[test]
    fn notes_make_the_chart_higher_and_are_never_more_than_fit() {
        let mut chart = chart();
        let without = height(&chart.svg().unwrap());
        chart.notes = vec!["zero-shot vs RAG: within noise, p = 0.47".to_owned()];
        let svg = chart.svg().unwrap();
        assert!(svg.contains("within noise, p = 0.47") && height(&svg) > without);
        chart.notes = vec!["many words ".repeat(500); 50];
        let svg = chart.svg().unwrap();
        assert!(height(&svg) < 2 * without, "{}", height(&svg));
        assert!(svg.contains("and 44 more"), "{svg}");
    }

    #[test]
    fn many_groups_turn_their_labels_and_many_bars_their_values() {
        let mut chart = chart();
        chart.groups = (0..12)
            .map(|i| format!("sentence-transformers/model-{i}"))
            .collect();
        chart.series = (0..4).map(|i| format!("{i} examples")).collect();
        let bar = chart.bars[0];
        chart.bars = (0..48)
            .map(|i| Bar {
                group: i / 4,
                series: i % 4,
                ..bar
            })
            .collect();
        let svg = chart.svg().unwrap();
        // The labels, the values, and the axis' title.
        assert_eq!(count(&svg, "rotate(270"), 12 + 48 + 1);
        assert!(
            svg.contains("sentence-transformers/model-11"),
            "whole names: {svg}"
        );
    }

    #[test]
    fn no_bars_make_an_empty_plot() {
        assert!(BarChart::default().svg().unwrap().contains("accuracy"));
    }

    #[test]
    fn bars_that_cannot_be_drawn_are_named() {
        let error = |change: fn(&mut Bar)| {
            let mut chart = chart();
            change(&mut chart.bars[1]);
            chart.svg().unwrap_err().to_string()
        };
        assert!(error(|bar| bar.group = 2).contains("group 2 as series 1, of 2 groups"));
        assert!(error(|bar| bar.series = 0).contains("`untuned` in `semantic` has two bars"));
        assert!(error(|bar| bar.value = f64::NAN).contains("NaN"));
        assert!(error(|bar| bar.published = Some(77.6)).contains("77.6, which is not between"));
    }

    #[test]
    fn both_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let [svg, png] = chart().save(folder.path(), "selectors").unwrap();
        assert_eq!(
            std::fs::read_to_string(svg).unwrap(),
            chart().svg().unwrap()
        );
        assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
        let missing = folder.path().join("missing");
        let error = chart().save(&missing, "selectors").unwrap_err();
        assert!(matches!(error, ReportError::Write { .. }), "{error}");
    }
}
