//! Run files in, charts and tables out; never runs a model.
//!
//! - `runs`: reading `scores.json` and `metrics.jsonl`
//! - `arms`: the evaluations, arranged as the experiment is
//! - `bar_chart`: what bars say, whatever they compare; `bar_plot`: how they are laid out and drawn
//! - `accuracy_chart`: the bars of arms; `loss_chart`: curves; `line_chart`: lines over doubling quantities; `heading`: what all charts share
//! - `comparison`: evaluations of the same rows; `page`, `page_tables`, `page_data`: their HTML file, with `assets/`
//! - `stability`: how steadily runs trained
//! - `canvas`, `axes`: drawing onto SVG and PNG alike; `save`: the files
//! - `table`: the same numbers as text

mod accuracy_chart;
mod arms;
mod axes;
mod bar_chart;
mod bar_plot;
mod canvas;
mod comparison;
mod error;
mod heading;
mod line_chart;
mod loss_chart;
mod page;
mod page_data;
mod page_tables;
mod runs;
#[cfg(test)]
mod samples;
mod save;
mod stability;
mod table;

use std::path::{Path, PathBuf};

use accuracy_chart::accuracy_chart;
use arms::Arms;
pub use bar_chart::{Bar, BarChart};
pub use comparison::{ComparedAnswer, ComparedRow, ComparedRun, Comparison, MetricValue, PairTest};
pub use error::ReportError;
pub use line_chart::LineChart;
use loss_chart::LossChart;
pub use stability::{
    Pairing, Quantity, RunCurves, Scatter, Stability, StabilityOptions, SteadinessDifference,
};

/// The files that [`chart`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartFiles {
    /// Accuracy by arm, as SVG and PNG.
    pub accuracy: [PathBuf; 2],
    /// Training loss, as SVG and PNG; none if no run was trained.
    pub loss: Option<[PathBuf; 2]>,
}

impl ChartFiles {
    /// All files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.accuracy
            .iter()
            .chain(self.loss.iter().flatten())
            .map(PathBuf::as_path)
    }
}

/// Draws the accuracy of all evaluations of `runs`, and their training losses, into `out`.
///
/// `notes` are warnings that stand below the accuracies, such as differences that are within noise.
///
/// A run is a folder with `eval/*/scores.json` and perhaps `metrics.jsonl`, or a folder that holds
/// a `scores.json` itself.
///
/// # Errors
/// If a run is missing, was never evaluated or cannot be read, if the runs are scored by different
/// metrics, or if a chart cannot be written.
pub fn chart(runs: &[PathBuf], notes: &[String], out: &Path) -> Result<ChartFiles, ReportError> {
    let runs = runs::read_runs(runs)?;
    std::fs::create_dir_all(out).map_err(|source| ReportError::Write {
        path: out.to_owned(),
        source,
    })?;
    let accuracy = accuracy_chart(&Arms::of(&runs), notes).save(out, "accuracy")?;
    let loss = match LossChart::new(&runs, false) {
        Some(chart) => Some(save::save(&chart, out, "loss")?),
        None => None,
    };
    Ok(ChartFiles { accuracy, loss })
}

/// Draws the training losses of `runs` alone as `name.svg` and `name.png` into `folder`.
///
/// A run is a folder with `metrics.jsonl`; it need not have been evaluated. Losses do not say what they are of:
/// `synthetic` puts the badge on the chart, as does an evaluation of made-up data in one of the runs.
///
/// # Errors
/// If a run is missing, was never trained or cannot be read, or if a file cannot be written.
pub fn loss_chart(
    runs: &[PathBuf],
    synthetic: bool,
    folder: &Path,
    name: &str,
) -> Result<[PathBuf; 2], ReportError> {
    let trained = runs::read_trained_runs(runs)?;
    let chart = LossChart::new(&trained, synthetic).ok_or(ReportError::NoRuns)?;
    save::save(&chart, folder, name)
}

/// The numbers of the accuracy chart as a Markdown table.
///
/// # Errors
/// As [`chart`], less writing.
pub fn accuracy_table(runs: &[PathBuf]) -> Result<String, ReportError> {
    Ok(table::accuracy_table(&runs::read_runs(runs)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{Sample, write_experiment};

    #[test]
    fn both_charts_are_written_in_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        let runs = write_experiment(folder.path(), false);
        let out = folder.path().join("new/charts");
        let files = chart(&runs, &[], &out).unwrap();
        let names: Vec<_> = files
            .paths()
            .map(|path| path.strip_prefix(&out).unwrap())
            .collect();
        let expected = ["accuracy.svg", "accuracy.png", "loss.svg", "loss.png"].map(Path::new);
        assert_eq!(names, expected);
        assert_eq!(
            std::fs::read_dir(&out).unwrap().count(),
            4,
            "nothing else is left"
        );
    }

    #[test]
    fn a_run_that_was_not_evaluated_draws_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let out = folder.path().join("charts");
        assert!(matches!(
            chart(&[run], &[], &out),
            Err(ReportError::NoScores { .. })
        ));
        assert!(!out.exists());
    }

    #[test]
    fn scores_alone_have_no_loss_chart() {
        let folder = tempfile::tempdir().unwrap();
        Sample::new("none", 0, 0).write(folder.path());
        let files = chart(
            &[folder.path().to_owned()],
            &[],
            &folder.path().join("charts"),
        )
        .unwrap();
        assert_eq!(files.loss, None);
    }

    #[test]
    fn losses_are_drawn_without_evaluations() {
        let folder = tempfile::tempdir().unwrap();
        let runs = write_experiment(folder.path(), false);
        for run in &runs {
            std::fs::remove_dir_all(run.join("eval")).unwrap();
        }
        let svg = |synthetic| {
            let [svg, _] = loss_chart(&runs, synthetic, folder.path(), "e").unwrap();
            std::fs::read_to_string(svg).unwrap()
        };
        assert!(svg(false).contains("rag1") && !svg(false).contains("synthetic data"));
        assert!(svg(true).contains("synthetic data"));

        std::fs::write(runs[1].join("metrics.jsonl"), "").unwrap();
        let error = loss_chart(&runs, false, folder.path(), "e").unwrap_err();
        assert!(
            error.to_string().contains("rag1` has no training losses"),
            "{error}"
        );
    }
}
