//! Exact match: for tasks that no other scorer knows.

use crate::error::EvalError;
use crate::rows::{RowScore, RowStatus, Share};
use crate::scorer::{Scorer, check_counts};

/// Compares texts, less the white space around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactScorer {
    task: String,
    gold: Vec<String>,
}

impl ExactScorer {
    /// A scorer of the task `task` with the gold answer of each row.
    pub fn new(task: String, gold: Vec<String>) -> Self {
        Self { task, gold }
    }
}

impl Scorer for ExactScorer {
    fn task(&self) -> &str {
        &self.task
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["exact"]
    }

    fn rows(&self) -> usize {
        self.gold.len()
    }

    fn gold(&self, row: usize) -> &str {
        &self.gold[row]
    }

    fn score(
        &self,
        predictions: &[String],
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<RowScore>, EvalError> {
        check_counts(self.rows(), predictions.len())?;
        let rows = self.gold.iter().zip(predictions).enumerate();
        Ok(rows
            .map(|(index, (gold, prediction))| {
                on_row();
                let is_equal = gold.trim() == prediction.trim();
                let status = if is_equal {
                    RowStatus::Correct
                } else {
                    RowStatus::Wrong
                };
                RowScore::new(index, status, None).with("exact", Share::of(is_equal))
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_does_not_count_and_case_does() {
        let scorer = ExactScorer::new("tickets".to_owned(), vec!["returns".to_owned(); 3]);
        let predictions = [" returns\n", "Returns", ""].map(str::to_owned);
        let rows = scorer.score(&predictions, &|| ()).unwrap();
        let correct: Vec<bool> = rows.iter().map(|row| row.correct).collect();
        assert_eq!(correct, [true, false, false]);
        assert!(scorer.score(&predictions[..1], &|| ()).is_err());
    }
}
