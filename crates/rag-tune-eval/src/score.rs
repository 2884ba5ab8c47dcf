//! From rows to `scores.json`: totals with intervals, and which run they belong to.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::rows::{RowScore, RowStatus, Share};
use crate::run_info::RunInfo;
use crate::save::save_atomically;
use crate::scorer::Scorer;
use crate::sql::structure::Hardness;
use crate::statistics::{Interval, accuracy_interval, ratio_interval};

/// How many rows of a class are right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Rows that are right by the main metric.
    pub correct: usize,
    /// All rows of the class.
    pub total: usize,
    /// `correct / total`.
    pub accuracy: f64,
    /// 95 % interval of the accuracy.
    pub ci95: Interval,
}

/// `scores.json`, and what `rag-tune score --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreReport {
    /// The task, such as `sql`.
    pub task: String,
    /// The main metric: the one that `correct`, `accuracy` and `ci95` are of.
    pub metric: String,
    /// Rows that are right.
    pub correct: usize,
    /// All rows.
    pub total: usize,
    /// `correct / total`.
    pub accuracy: f64,
    /// 95 % interval of the accuracy.
    pub ci95: Interval,
    /// All metrics by name, between 0 and 1; null where no row says anything about it.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Their 95 % intervals.
    pub intervals: BTreeMap<String, Interval>,
    /// The main metric by class of row, such as the hardness of the query, from easy to hard where that has a meaning;
    /// empty if rows have no classes.
    #[serde(skip_serializing_if = "IndexMap::is_empty", default)]
    pub classes: IndexMap<String, ClassScore>,
    /// Rows whose gold answer is unusable; they count as not correct.
    pub gold_errors: usize,
    /// Rows whose prediction is no answer.
    pub prediction_errors: usize,
    /// Rows whose prediction ran out of its budget.
    pub timeouts: usize,
    /// What a reader of the figures must know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
    /// Whether the data was made up for tests and demonstrations.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub synthetic: bool,
    /// The run, if the predictions came from one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<RunInfo>,
}

impl ScoreReport {
    /// Adds up the rows that `scorer` scored.
    ///
    /// # Panics
    /// If a row lacks a metric of the scorer.
    pub fn new(scorer: &dyn Scorer, rows: &[RowScore], run: Option<RunInfo>) -> Self {
        Self {
            notes: scorer.notes(),
            ..Self::of_rows(scorer.task(), scorer.metrics(), rows, run)
        }
    }

    /// Adds up rows that have these metrics, the main one first, where the scorer is not at hand.
    ///
    /// # Panics
    /// If there is no metric, or a row lacks one.
    pub fn of_rows(task: &str, names: &[&str], rows: &[RowScore], run: Option<RunInfo>) -> Self {
        let main = totals(rows.iter());
        let with_status = |status| rows.iter().filter(|row| row.status == status).count();
        let mut metrics = BTreeMap::new();
        let mut intervals = BTreeMap::new();
        for &name in names {
            let shares: Vec<Share> = rows.iter().map(|row| row.metrics[name]).collect();
            metrics.insert(name.to_owned(), ratio(&shares));
            intervals.insert(name.to_owned(), ratio_interval(&shares));
        }
        let mut by_class: BTreeMap<(usize, &String), Vec<&RowScore>> = BTreeMap::new();
        for row in rows {
            if let Some(class) = &row.class {
                let key = (place_of_class(class), class);
                by_class.entry(key).or_default().push(row);
            }
        }
        Self {
            task: task.to_owned(),
            metric: names[0].to_owned(),
            correct: main.correct,
            total: main.total,
            accuracy: main.accuracy,
            ci95: main.ci95,
            metrics,
            intervals,
            classes: by_class
                .into_iter()
                .map(|((_, class), rows)| (class.clone(), totals(rows.into_iter())))
                .collect(),
            gold_errors: with_status(RowStatus::GoldError),
            prediction_errors: with_status(RowStatus::PredictionError),
            timeouts: with_status(RowStatus::Timeout),
            notes: Vec::new(),
            synthetic: run.as_ref().is_some_and(|run| run.synthetic),
            run,
        }
    }

    /// Writes the report to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`EvalError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), EvalError> {
        save_atomically(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            writeln!(file)
        })
    }

    /// Reads what [`ScoreReport::save`] wrote.
    ///
    /// # Errors
    /// [`EvalError::Read`], or [`EvalError::InvalidScores`] if the file is something else.
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        let text = std::fs::read(path).map_err(|source| EvalError::Read {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|source| EvalError::InvalidScores {
            path: path.to_owned(),
            source,
        })
    }
}

/// Where people expect a class: the classes of hardness from easy to extra, then all others by name.
fn place_of_class(class: &str) -> usize {
    let mut known = Hardness::ALL.iter();
    known
        .position(|hardness| hardness.name() == class)
        .unwrap_or(Hardness::ALL.len())
}

fn totals<'a>(rows: impl Iterator<Item = &'a RowScore>) -> ClassScore {
    let (mut correct, mut total) = (0, 0);
    for row in rows {
        correct += usize::from(row.correct);
        total += 1;
    }
    ClassScore {
        correct,
        total,
        accuracy: correct as f64 / total.max(1) as f64,
        ci95: accuracy_interval(correct, total),
    }
}

/// The metric over rows with these shares.
fn ratio(shares: &[Share]) -> Option<f64> {
    let part: f64 = shares.iter().map(|share| share.part).sum();
    let whole: f64 = shares.iter().map(|share| share.whole).sum();
    (whole > 0.0).then(|| part / whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_info::Arm;
    use crate::text_scorer::TextScorer;

    fn report() -> ScoreReport {
        let statuses = [
            RowStatus::Correct,
            RowStatus::Correct,
            RowStatus::Wrong,
            RowStatus::Timeout,
            RowStatus::PredictionError,
            RowStatus::GoldError,
        ];
        let mut rows: Vec<RowScore> = statuses
            .into_iter()
            .enumerate()
            .map(|(index, status)| {
                RowScore::new(index, status, None)
                    .with("exact", Share::of(status == RowStatus::Correct))
            })
            .collect();
        for row in &mut rows[..4] {
            row.class = Some("easy".to_owned());
        }
        let run = RunInfo {
            name: "sql_rag1".to_owned(),
            arm: Arm::from_examples(Some(1), 0),
            adapter: Some("out/sql_rag1".into()),
            base: "tiny".to_owned(),
            examples: 0,
            selector: "semantic".to_owned(),
            data: "synthetic".to_owned(),
            split: "validation".to_owned(),
            seed: 42,
            synthetic: true,
            rag_tune_version: "0.1.0".to_owned(),
        };
        let scorer = TextScorer::exact("sql".to_owned(), vec![String::new(); 6]);
        ScoreReport::new(&scorer, &rows, Some(run))
    }

    #[test]
    fn scores_json_is_pinned() {
        let mut report = report();
        let interval = Interval { lo: 0.1, hi: 0.5 };
        report.ci95 = interval;
        report.intervals.values_mut().for_each(|i| *i = interval);
        report
            .classes
            .values_mut()
            .for_each(|class| class.ci95 = interval);
        report.accuracy = 0.33; // floats in full would pin their last digit
        report.metrics.insert("exact".to_owned(), Some(0.33));
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
    }

    #[test]
    fn classes_of_hardness_come_from_easy_to_extra_also_in_files() {
        let classes = ["unknown", "extra", "hard", "easy", "medium", "easy"];
        let rows: Vec<RowScore> = classes
            .iter()
            .enumerate()
            .map(|(index, class)| {
                let mut row = RowScore::new(index, RowStatus::Wrong, None);
                row.class = Some((*class).to_owned());
                row.with("execution", Share::of(false))
            })
            .collect();
        let report = ScoreReport::of_rows("sql", &["execution"], &rows, None);
        let text = serde_json::to_string(&report).unwrap();
        let loaded: ScoreReport = serde_json::from_str(&text).unwrap();
        let expected = ["easy", "medium", "hard", "extra", "unknown"];
        assert!(loaded.classes.keys().eq(expected));
        assert_eq!(loaded.classes["easy"].total, 2);
    }

    #[test]
    fn a_saved_report_loads_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.json");
        report().save(&path).unwrap();
        assert_eq!(ScoreReport::load(&path).unwrap(), report());
        std::fs::write(&path, "{}").unwrap();
        let error = ScoreReport::load(&path).unwrap_err();
        assert!(error.to_string().contains("scores.json"), "{error}");
    }

    #[test]
    fn a_metric_is_the_ratio_of_sums_and_unknown_without_anything_to_count() {
        assert_eq!(ratio(&[Share::count(1, 2), Share::count(2, 4)]), Some(0.5));
        assert_eq!(ratio(&[Share::count(0, 0)]), None);
    }
}
