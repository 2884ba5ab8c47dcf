//! Scorers that need nothing but the two texts of a row.

use crate::error::EvalError;
use crate::rows::{RowScore, RowStatus, Share};
use crate::scorer::{Scorer, check_counts};
use crate::{functional, gsm8k};

/// Compares each prediction with its gold answer.
#[derive(Debug, Clone)]
pub struct TextScorer {
    task: String,
    gold: Vec<String>,
    metrics: &'static [&'static str],
    /// The score of the row with this index, gold answer and prediction.
    score_row: fn(usize, &str, &str) -> RowScore,
}

impl TextScorer {
    /// The same text, less the white space around it: for tasks that no other scorer knows. Metric: `exact`.
    pub fn exact(task: String, gold: Vec<String>) -> Self {
        Self {
            task,
            gold,
            metrics: &["exact"],
            score_row: exact_row,
        }
    }

    /// Grade-school mathematics: the number that an answer gives, and its calculations. A gold answer is worked steps
    /// and `#### number`, or the number alone.
    ///
    /// Metrics: `strict`, the number behind `#### `; `flexible`, the last number; `calculator`, the share of
    /// calculations `<<...>>` that are right, over all of them; `lm_eval_strict`, lm-evaluation-harness's
    /// `strict-match`, verdict for verdict.
    pub fn gsm8k(gold: Vec<String>) -> Self {
        Self {
            task: "gsm8k".to_owned(),
            gold,
            metrics: &gsm8k::METRICS,
            score_row: gsm8k::score_row,
        }
    }

    /// Functions with attributes.
    ///
    /// Metrics: `exact_order_free`, the same function, attributes and values in any order; `exact_line`, the same text;
    /// `function`; `attribute_precision`, `attribute_recall` and `attribute_f1` over all pairs of attribute and value;
    /// `character`, the original experiment's character accuracy.
    ///
    /// A malformed prediction is not right, and still counts for what is complete before the fault: its function, and
    /// its attributes.
    pub fn functional(gold: Vec<String>) -> Self {
        Self {
            task: "functional".to_owned(),
            gold,
            metrics: &functional::METRICS,
            score_row: functional::score_row,
        }
    }
}

impl Scorer for TextScorer {
    fn task(&self) -> &str {
        &self.task
    }

    fn metrics(&self) -> &'static [&'static str] {
        self.metrics
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
                (self.score_row)(index, gold, prediction)
            })
            .collect())
    }
}

fn exact_row(index: usize, gold: &str, prediction: &str) -> RowScore {
    let is_equal = gold.trim() == prediction.trim();
    let status = if is_equal {
        RowStatus::Correct
    } else {
        RowStatus::Wrong
    };
    RowScore::new(index, status, None).with("exact", Share::of(is_equal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_does_not_count_and_case_does() {
        let scorer = TextScorer::exact("tickets".to_owned(), vec!["returns".to_owned(); 3]);
        let predictions = [" returns\n", "Returns", ""].map(str::to_owned);
        let rows = scorer.score(&predictions, &|| ()).unwrap();
        let correct: Vec<bool> = rows.iter().map(|row| row.correct).collect();
        assert_eq!(correct, [true, false, false]);
        assert!(scorer.score(&predictions[..1], &|| ()).is_err());
    }

    #[test]
    fn every_row_has_every_metric_of_its_scorer() {
        let gold = || vec!["inform(name[x])\n#### 1".to_owned()];
        for scorer in [
            TextScorer::exact("any".to_owned(), gold()),
            TextScorer::gsm8k(gold()),
            TextScorer::functional(gold()),
        ] {
            for prediction in gold().into_iter().chain([String::new()]) {
                let row = scorer.score(&[prediction], &|| ()).unwrap().remove(0);
                let mut names = scorer.metrics().to_vec();
                names.sort_unstable();
                assert_eq!(row.metrics.keys().collect::<Vec<_>>(), names);
            }
        }
    }
}
