//! From rows to `scores.json`: totals with intervals, and which run they belong to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::rows::{RowScore, RowStatus};
use crate::save::save_atomically;
use crate::sql::{SqlCase, SqlJudge};
use crate::statistics::{Interval, accuracy_interval};

/// One metric over all rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MetricScore {
    /// Rows that are right.
    pub correct: usize,
    /// All rows.
    pub total: usize,
    /// `correct / total`.
    pub accuracy: f64,
    /// 95 % interval of the accuracy.
    pub ci95: Interval,
}

impl MetricScore {
    fn new(correct: usize, total: usize) -> Self {
        let accuracy = if total == 0 {
            0.0
        } else {
            correct as f64 / total as f64
        };
        Self {
            correct,
            total,
            accuracy,
            ci95: accuracy_interval(correct, total),
        }
    }
}

/// The metrics of text-to-SQL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SqlMetrics {
    /// Equal results, `DISTINCT` taken out of both queries: the field's default.
    pub execution: MetricScore,
    /// Equal results of the queries as they are.
    pub execution_strict: MetricScore,
}

/// What an adapter was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// No adapter: the untrained model.
    None,
    /// Prompts without examples.
    ZeroShot,
    /// Prompts with retrieved examples.
    Rag,
}

/// What the model is asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// No examples.
    ZeroShot,
    /// Retrieved examples.
    Rag,
}

/// A cell of the experiment: which adapter answers which prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// What the adapter was trained on.
    pub adapter: AdapterKind,
    /// What the model is asked with.
    pub prompt: PromptKind,
}

impl Arm {
    /// The arm of an adapter trained with `adapter` examples a prompt (none for the untrained
    /// model) that is asked with `prompt` examples.
    pub fn from_examples(adapter: Option<usize>, prompt: usize) -> Self {
        let adapter = match adapter {
            None => AdapterKind::None,
            Some(0) => AdapterKind::ZeroShot,
            Some(_) => AdapterKind::Rag,
        };
        let prompt = if prompt == 0 {
            PromptKind::ZeroShot
        } else {
            PromptKind::Rag
        };
        Self { adapter, prompt }
    }
}

/// Which run a score belongs to; what charts are labelled with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Name of the run.
    pub name: String,
    /// Its cell of the experiment.
    pub arm: Arm,
    /// The adapter's folder; none for the untrained model.
    pub adapter: Option<PathBuf>,
    /// The base model.
    pub base: String,
    /// Retrieved examples in each prompt.
    pub examples: usize,
    /// How they were selected.
    pub selector: String,
    /// The data set.
    pub data: String,
    /// Its split.
    pub split: String,
    /// Whether the data was made up for tests and demonstrations.
    pub synthetic: bool,
    /// Version that made the predictions.
    pub rag_tune_version: String,
}

/// `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreReport {
    /// The task, `sql`.
    pub task: String,
    /// The metric that `correct`, `accuracy` and `ci95` are of.
    pub metric: String,
    /// Rows that are right.
    pub correct: usize,
    /// All rows.
    pub total: usize,
    /// `correct / total`.
    pub accuracy: f64,
    /// 95 % interval of the accuracy.
    pub ci95: Interval,
    /// All metrics.
    pub metrics: SqlMetrics,
    /// Rows whose gold query failed; they count as not correct.
    pub gold_errors: usize,
    /// Rows whose prediction failed.
    pub prediction_errors: usize,
    /// Rows whose prediction ran out of its budget.
    pub timeouts: usize,
    /// The run, if the predictions came from one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<RunInfo>,
}

impl ScoreReport {
    /// Totals of text-to-SQL rows.
    pub fn of_sql(rows: &[RowScore], run: Option<RunInfo>) -> Self {
        let count = |test: &dyn Fn(&RowScore) -> bool| rows.iter().filter(|row| test(row)).count();
        let with_status = |status| count(&|row| row.status == status);
        let execution = MetricScore::new(count(&|row| row.correct), rows.len());
        let execution_strict = MetricScore::new(count(&|row| row.correct_strict), rows.len());
        Self {
            task: "sql".to_owned(),
            metric: "execution".to_owned(),
            correct: execution.correct,
            total: execution.total,
            accuracy: execution.accuracy,
            ci95: execution.ci95,
            metrics: SqlMetrics {
                execution,
                execution_strict,
            },
            gold_errors: with_status(RowStatus::GoldError),
            prediction_errors: with_status(RowStatus::PredictionError),
            timeouts: with_status(RowStatus::Timeout),
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

/// Judges text-to-SQL predictions and adds them up. `on_row` is called as rows are done.
///
/// # Errors
/// See [`SqlJudge::judge`].
pub fn score(
    judge: &SqlJudge,
    cases: &[SqlCase],
    predictions: &[String],
    run: Option<RunInfo>,
    on_row: &(dyn Fn() + Sync),
) -> Result<(ScoreReport, Vec<RowScore>), EvalError> {
    let rows = judge.judge(cases, predictions, on_row)?;
    Ok((ScoreReport::of_sql(&rows, run), rows))
}

/// Writes one JSON line a row, the whole file or nothing.
///
/// # Errors
/// [`EvalError::Write`].
pub fn save_rows(path: &Path, rows: &[RowScore]) -> Result<(), EvalError> {
    save_atomically(path, |file| {
        for row in rows {
            serde_json::to_writer(&mut *file, row)?;
            writeln!(file)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: usize, status: RowStatus, correct_strict: bool) -> RowScore {
        let correct = status == RowStatus::Correct;
        RowScore {
            index,
            correct,
            correct_strict,
            status,
            detail: None,
        }
    }

    fn report() -> ScoreReport {
        let rows = [
            row(0, RowStatus::Correct, true),
            row(1, RowStatus::Correct, false),
            row(2, RowStatus::Wrong, false),
            row(3, RowStatus::Timeout, false),
            row(4, RowStatus::PredictionError, false),
            row(5, RowStatus::GoldError, false),
        ];
        let run = RunInfo {
            name: "sql_rag1".to_owned(),
            arm: Arm::from_examples(Some(1), 0),
            adapter: Some("out/sql_rag1".into()),
            base: "tiny".to_owned(),
            examples: 0,
            selector: "semantic".to_owned(),
            data: "synthetic".to_owned(),
            split: "validation".to_owned(),
            synthetic: true,
            rag_tune_version: "0.1.0".to_owned(),
        };
        ScoreReport::of_sql(&rows, Some(run))
    }

    #[test]
    fn scores_json_is_pinned() {
        let mut report = report();
        for interval in [
            &mut report.ci95,
            &mut report.metrics.execution.ci95,
            &mut report.metrics.execution_strict.ci95,
        ] {
            *interval = Interval { lo: 0.1, hi: 0.5 };
        }
        report.accuracy = 0.33; // floats in full would pin their last digit
        report.metrics.execution.accuracy = 0.33;
        report.metrics.execution_strict.accuracy = 0.17;
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
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
    fn rows_are_json_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut failed = row(1, RowStatus::Timeout, false);
        failed.detail = Some("too long".to_owned());
        save_rows(&path, &[row(0, RowStatus::Correct, true), failed]).unwrap();
        insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
        {"index":0,"correct":true,"correct_strict":true,"status":"correct"}
        {"index":1,"correct":false,"correct_strict":false,"status":"timeout","detail":"too long"}
        "#);
    }
}
