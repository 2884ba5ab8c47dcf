//! Text to SQL as a [`Scorer`].

use super::judge::{SqlCase, SqlJudge};
use crate::error::EvalError;
use crate::rows::RowScore;
use crate::scorer::Scorer;

/// Scores queries by what they return.
#[derive(Debug)]
pub struct SqlScorer {
    judge: SqlJudge,
    cases: Vec<SqlCase>,
}

impl SqlScorer {
    /// A scorer of these rows.
    pub fn new(judge: SqlJudge, cases: Vec<SqlCase>) -> Self {
        Self { judge, cases }
    }
}

impl Scorer for SqlScorer {
    fn task(&self) -> &str {
        "sql"
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["execution", "execution_strict"]
    }

    fn rows(&self) -> usize {
        self.cases.len()
    }

    fn gold(&self, row: usize) -> &str {
        &self.cases[row].gold
    }

    fn prepare(&self) -> Result<(), EvalError> {
        // Finds a damaged database, and a worker that does not start.
        let gold: Vec<String> = self.cases.iter().map(|case| case.gold.clone()).collect();
        self.judge.judge(&self.cases, &gold, &|| ())?;
        Ok(())
    }

    fn score(
        &self,
        predictions: &[String],
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<RowScore>, EvalError> {
        self.judge.judge(&self.cases, predictions, on_row)
    }
}
