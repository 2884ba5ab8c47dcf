//! What every scorer does, whatever the task.

use crate::error::EvalError;
use crate::rows::RowScore;

/// Knows the gold answers of some rows, and scores predictions of them.
pub trait Scorer: Send + Sync {
    /// Name of the scorer, `sql`, for tables and files.
    fn task(&self) -> &str;

    /// Names of its metrics, the main one first.
    fn metrics(&self) -> &'static [&'static str];

    /// Number of rows.
    fn rows(&self) -> usize;

    /// The gold answer of a row.
    fn gold(&self, row: usize) -> &str;

    /// What a reader of the figures must know, a sentence each: that databases were made up, for instance.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Finds now what would be missing after minutes of generating answers.
    ///
    /// # Errors
    /// If the gold answers cannot be used, for example for want of a database.
    fn prepare(&self) -> Result<(), EvalError> {
        Ok(())
    }

    /// The score of each prediction, in the order of the rows; every row has all metrics. `on_row` is called as rows
    /// are done, from any thread.
    ///
    /// # Errors
    /// If there are no rows, or not as many predictions. A prediction that is no answer is a score and no error.
    fn score(
        &self,
        predictions: &[String],
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<RowScore>, EvalError>;
}

/// That there are rows, and as many predictions.
///
/// # Errors
/// [`EvalError::NoRows`], [`EvalError::PredictionCount`].
pub(crate) fn check_counts(rows: usize, predictions: usize) -> Result<(), EvalError> {
    if predictions != rows {
        return Err(EvalError::PredictionCount { predictions, rows });
    }
    if rows == 0 {
        return Err(EvalError::NoRows);
    }
    Ok(())
}
