//! What a comparison of several evaluations on the same rows says: the document behind the HTML report.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::bar_chart::BarChart;
use crate::error::ReportError;

/// Evaluations of the same rows, side by side.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Comparison {
    /// Above everything.
    pub title: String,
    /// What a reader of the figures must know, a sentence each: within noise, made-up data, made-up databases.
    pub notes: Vec<String>,
    /// Whether the data was made up.
    pub synthetic: bool,
    /// Name of the main metric.
    pub metric: String,
    /// The evaluations, in the order in which they were named.
    pub runs: Vec<ComparedRun>,
    /// A test for each pair of evaluations.
    pub tests: Vec<PairTest>,
    /// The rows, in order.
    pub rows: Vec<ComparedRow>,
    /// Charts to show above the tables.
    #[serde(skip)]
    pub charts: Vec<BarChart>,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ComparedRun {
    /// What it is called in tables.
    pub label: String,
    /// Model, adapter, prompt, selector, seed: name and value, to be shown.
    pub facts: Vec<(String, String)>,
    /// Rows that are right by the main metric.
    pub correct: usize,
    /// All rows.
    pub total: usize,
    /// All metrics, the main one first.
    pub metrics: Vec<MetricValue>,
    /// The main metric by class of row, if rows have classes.
    pub classes: Vec<MetricValue>,
}

/// A figure with its interval.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct MetricValue {
    /// What it is of.
    pub name: String,
    /// Between 0 and 1; none where no row says anything about it.
    pub value: Option<f64>,
    /// Ends of its 95 % interval.
    pub ci95: [f64; 2],
}

/// Two evaluations of the same rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PairTest {
    /// Index of the first run.
    pub first: usize,
    /// Index of the second run.
    pub second: usize,
    /// Rows that only the first has right.
    pub only_first: usize,
    /// Rows that only the second has right.
    pub only_second: usize,
    /// Accuracy of the second less that of the first.
    pub difference: f64,
    /// Ends of its 95 % interval.
    pub difference_ci95: [f64; 2],
    /// Two-sided, by McNemar's exact test.
    pub p_value: f64,
    /// A sentence that says what follows from it.
    pub verdict: String,
}

/// A row with everybody's answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ComparedRow {
    /// The row, from 0.
    pub index: usize,
    /// The right answer.
    pub gold: String,
    /// What it returned, `{"columns": [..], "rows": [[..]], "total_rows": n}`, or null.
    pub gold_result: Value,
    /// The row's class, if rows have classes.
    pub class: Option<String>,
    /// Each run's answer, in the order of [`Comparison::runs`].
    pub answers: Vec<ComparedAnswer>,
}

/// One run's answer to a row.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ComparedAnswer {
    /// What the model was asked; none if unknown.
    pub prompt: Option<String>,
    /// The train rows in the prompt: `{"row": index, "score": number}`.
    pub examples: Vec<Value>,
    /// What the model wrote.
    pub prediction: String,
    /// Right by the main metric.
    pub correct: bool,
    /// `correct`, `wrong`, `prediction_error`, `timeout` or `gold_error`.
    pub status: String,
    /// Why it is no answer, or where it goes wrong.
    pub detail: Option<String>,
    /// What the predicted query returned, in the form of [`ComparedRow::gold_result`], or null.
    pub result: Value,
    /// What the row has of each metric: name and value, the main one first.
    pub metrics: Vec<(String, Value)>,
}

impl Comparison {
    /// Writes one HTML file that needs nothing else, whole or not at all.
    ///
    /// # Errors
    /// [`ReportError::Write`], [`ReportError::Draw`].
    pub fn save_html(&self, path: &Path) -> Result<(), ReportError> {
        let _ = path;
        unimplemented!("written by the next commit")
    }
}
